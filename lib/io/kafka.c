/* kafka: one librdkafka instance wired to the loop: wake-ups, draining under a budget, probing, and an end that blocks nobody.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "kafka"
#include "io/kafka_priv.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

enum {
    CORE_TAG = CHECK_TAG('k', 'f', 'k', 'c'),
    BUDGET_US = 3000, /* of one turn */
    TICK_MS = 1000,
    PROBE_TIMEOUT_MS = 5000,
    PROBE_CHUNK_MS = 1000, /* a worker looks up this often whether anybody still waits for it */
    PROBE_EVERY_UP_MS = 3000,
    AGAIN_MS = 100,
    QUIET_MS = 20,
    LEAVE_LIMIT_MS = 5000,
    DESTROY_LIMIT_MS =
        10000 /* what the library has not given back by then is left to the process's end */
};

/* The instance is at work or being destroyed; is gone; was given up by the loop. */
enum end { END_PENDING, END_DESTROYED, END_GIVEN_UP };

struct kafka_core {
    uint32_t tag;
    struct loop *loop;
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    uv_async_t async;
    uv_thread_t destroyer;
    struct loop_defer again;
    struct loop_timer tick;
    uint64_t tick_ms, probed_ms;
    kafka_event_fn *on_event;
    kafka_state_fn *on_state;
    loop_fn *on_tick;
    void *ctx;
    unsigned holds;
    bool consumer, probing, up, told, closing, leaving;
    /* the library has said that all brokers are down, and no probe has found one since */
    bool brokerless;
    atomic_bool stopped;
    atomic_int end; /* enum end */
};

static void drain(void *ctx);
static void on_core_tick(void *ctx);

/* ---- errors ---- */
int kafka_code(int err)
{
    switch (err) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
        return 0;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE:
        return ERR_TOO_LARGE;
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
        return ERR_NOT_FOUND;
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        return ERR_DENIED;
    case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
        return ERR_TIMEOUT;
    case RD_KAFKA_RESP_ERR__QUEUE_FULL:
        return ERR_BUSY;
    case RD_KAFKA_RESP_ERR__FATAL:
    case RD_KAFKA_RESP_ERR__FENCED:
    case RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID:
        return ERR_FATAL;
    case RD_KAFKA_RESP_ERR__DESTROY:
        return ERR_CLOSED;
    case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS:
        return ERR_EXISTS;
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
        return ERR_UNSUPPORTED;
    case RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID:
    case RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST:
    case RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS:
        return ERR_CONFLICT;
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
    case RD_KAFKA_RESP_ERR__BAD_MSG:
        return ERR_BAD_DATA;
    case RD_KAFKA_RESP_ERR__INVALID_ARG:
    case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
    case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
    case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
    case RD_KAFKA_RESP_ERR_INVALID_REQUEST:
    case RD_KAFKA_RESP_ERR__STATE:
    case RD_KAFKA_RESP_ERR__CONFLICT:
        return ERR_INTERNAL;
    default: /* the network, leaders and coordinators on the move */
        return ERR_UNAVAILABLE;
    }
}

/* ---- lists ---- */
rd_kafka_topic_partition_list_t *kafka_list_new(const struct kafka_partition *parts, size_t n)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++) {
        rd_kafka_topic_partition_t *t =
            rd_kafka_topic_partition_list_add(list, parts[i].topic, parts[i].partition);
        t->offset = parts[i].offset;
        if (!parts[i].metadata)
            continue;
        /* The library frees it with the list, so it must come from there. */
        t->metadata_size = strlen(parts[i].metadata);
        t->metadata = rd_kafka_mem_malloc(NULL, t->metadata_size + 1);
        memcpy(t->metadata, parts[i].metadata, t->metadata_size + 1);
    }
    return list;
}

struct kafka_partition *kafka_parts_from(const rd_kafka_topic_partition_list_t *list, int *ret_rc)
{
    struct kafka_partition *parts = MEM_ARRAY(struct kafka_partition, (size_t)list->cnt + 1);
    int rc = 0;
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *t = &list->elems[i];
        parts[i] = (struct kafka_partition){.topic = mem_strdup(t->topic),
                                            .partition = t->partition,
                                            .offset = t->offset < 0 ? -1 : t->offset};
        if (t->metadata && t->metadata_size)
            parts[i].metadata = mem_strndup(t->metadata, t->metadata_size);
        if (t->err && !rc)
            rc = kafka_code(t->err);
    }
    *ret_rc = rc;
    return parts;
}

void kafka_parts_free(struct kafka_partition *parts, size_t n)
{
    for (size_t i = 0; parts && i < n; i++) {
        mem_free(parts[i].topic);
        mem_free(parts[i].metadata);
    }
    mem_free(parts);
}

rd_kafka_AdminOptions_t *kafka_admin_options(rd_kafka_t *rk, int for_api, uint64_t timeout_ms,
                                             void *opaque)
{
    char text[256];
    rd_kafka_AdminOptions_t *o = rd_kafka_AdminOptions_new(rk, (rd_kafka_admin_op_t)for_api);
    int ms = (int)(timeout_ms ? timeout_ms : 10000);
    CHECK(!rd_kafka_AdminOptions_set_request_timeout(o, ms, text, sizeof(text)));
    rd_kafka_AdminOptions_set_opaque(o, opaque);
    return o;
}

/* ---- probing: is the cluster there? ---- */
/* A worker asks for the metadata of what the instance knows; for every instance, also where nobody hears of it: a failure mends the
 * library's list of brokers (add_brokers). Not DescribeCluster: librdkafka 2.15 aborts the process when a broker answers that with no
 * broker at all, as one does that its controller has fenced. */
struct probing {
    uv_work_t req;
    struct kafka_core *core;
    rd_kafka_resp_err_t err;
};

static void probe_mt(uv_work_t *req)
{
    struct probing *p = req->data;
    const struct rd_kafka_metadata *m = NULL;
    uint64_t end = clock_ms() + PROBE_TIMEOUT_MS;
    do {
        p->err = rd_kafka_metadata(p->core->rk, 0, NULL, &m, PROBE_CHUNK_MS);
    } while (p->err && kafka_core_again_mt(p->core, end));
    if (m)
        rd_kafka_metadata_destroy(m);
}

bool kafka_core_again_mt(const struct kafka_core *core, uint64_t end_ms)
{
    if (atomic_load(&core->stopped) || clock_ms() + AGAIN_MS >= end_ms)
        return false;
    uv_sleep(AGAIN_MS); /* without a broker the library fails at once */
    return true;
}

static void on_probed(uv_work_t *req, int status);

static void probe(struct kafka_core *core)
{
    if (core->probing)
        return;
    struct probing *p = MEM_NEW(struct probing);
    core->probing = true;
    core->probed_ms = clock_ms();
    p->core = core;
    p->req.data = p;
    kafka_core_hold(core);
    CHECK(!uv_queue_work(loop_uv(core->loop), &p->req, probe_mt, on_probed));
}

static void set_up(struct kafka_core *core, bool up, const char *detail)
{
    if (core->told && core->up == up)
        return;
    if (up)
        LOG(INFO, "kafka_connected", KV_STR("client", rd_kafka_name(core->rk)));
    else
        LOG(WARN, "kafka_disconnected", KV_STR("client", rd_kafka_name(core->rk)),
            KV_STR("reason", detail));
    core->up = up, core->told = true;
    if (core->on_state)
        core->on_state(core->ctx, up, detail);
}

/* librdkafka 2.15 forgets a broker that a metadata answer does not name, also when the answer names none at all, as that of a broker
 * which its controller has fenced; the configured address had been given up for the learned one before, and nobody is left to ask. */
static void add_brokers(rd_kafka_t *rk)
{
    char brokers[4096];
    size_t n = sizeof(brokers);
    if (rd_kafka_conf_get(rd_kafka_conf(rk), "bootstrap.servers", brokers, &n) == RD_KAFKA_CONF_OK)
        (void)rd_kafka_brokers_add(rk, brokers); /* those that are there are not added twice */
}

static void on_probed(uv_work_t *req, int status)
{
    struct probing *p = req->data;
    struct kafka_core *core = p->core;
    rd_kafka_resp_err_t err = p->err;
    (void)status;
    mem_free(p);
    core->probing = false;
    core->brokerless = core->brokerless && err;
    if (!core->closing && err)
        add_brokers(core->rk);
    if (!core->closing)
        set_up(core, !err, err ? rd_kafka_err2str(err) : "connected");
    kafka_core_unhold(core);
}

void kafka_core_seen(struct kafka_core *core)
{
    if (!core->up)
        set_up(core, true, "connected");
}

/* ---- events ---- */
static void on_log(rd_kafka_event_t *ev)
{
    const char *fac, *text;
    int level;
    if (rd_kafka_event_log(ev, &fac, &text, &level))
        return;
    /* Connections that fail are told by the change of state; here they would repeat twice a second. */
    bool quiet =
        level > 4 || !strcmp(fac, "FAIL") || !strcmp(fac, "ERROR") || !strcmp(fac, "CONFWARN");
    if (quiet)
        LOG(DEBUG, "library_said", KV_STR("facility", fac), KV_STR("text", text));
    else
        LOG(WARN, "library_said", KV_STR("facility", fac), KV_STR("text", text));
}

static void dispatch(struct kafka_core *core, rd_kafka_event_t *ev)
{
    switch (rd_kafka_event_type(ev)) {
    case RD_KAFKA_EVENT_LOG:
        on_log(ev);
        break;
    case RD_KAFKA_EVENT_ERROR:
        if (rd_kafka_event_error(ev) == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
            core->brokerless = true;
            probe(core);
        }
        core->on_event(core->ctx, ev);
        break;
    default:
        core->on_event(core->ctx, ev);
    }
}

static void drain(void *ctx)
{
    struct kafka_core *core = ctx;
    uint64_t until = clock_us() + BUDGET_US;
    for (unsigned i = 1; !core->closing; i++) {
        rd_kafka_event_t *ev = rd_kafka_queue_poll(core->queue, 0);
        if (!ev)
            return;
        dispatch(core, ev);
        rd_kafka_event_destroy(ev);
        if (i % 16 == 0 && clock_us() >= until)
            break;
    }
    /* The library wakes only a queue that was empty: what is left is ours to come back for. */
    if (!core->closing)
        loop_defer(core->loop, &core->again, drain, core);
}

static void on_core_closed(uv_handle_t *h)
{
    mem_free(h->data);
}

static void on_async(uv_async_t *async)
{
    struct kafka_core *core = CHECK_FROM(async->data, struct kafka_core, CORE_TAG);
    if (!core->closing) {
        loop_defer_cancel(&core->again);
        drain(core);
        return;
    }
    if (atomic_load(&core->end) != END_DESTROYED || uv_is_closing((uv_handle_t *)async))
        return;
    loop_timer_stop(&core->tick);
    uv_thread_join(&core->destroyer);
    uv_close((uv_handle_t *)async, on_core_closed);
}

/* Runs in the library's threads under its lock: nothing but the wake-up. */
static void on_queue_mt(rd_kafka_t *rk, void *opaque)
{
    (void)rk;
    struct kafka_core *core = opaque;
    uv_async_send(&core->async);
}

static void on_core_tick(void *ctx)
{
    struct kafka_core *core = ctx;
    loop_timer_start(core->loop, &core->tick, core->tick_ms, on_core_tick, core);
    if (!core->up || clock_ms() - core->probed_ms >= PROBE_EVERY_UP_MS)
        probe(core);
    /* A consumer that has nothing to say is still polled, or the library takes it for dead. */
    loop_defer(core->loop, &core->again, drain, core);
    if (core->on_tick)
        core->on_tick(core->ctx);
}

void kafka_core_set_tick(struct kafka_core *core, uint64_t every_ms)
{
    core->tick_ms = every_ms;
    loop_timer_start(core->loop, &core->tick, every_ms, on_core_tick, core);
}

/* ---- life ---- */
struct kafka_core *kafka_core_open(struct loop *loop, const struct kafka_core_opts *o,
                                   struct err *e)
{
    char text[256];
    rd_kafka_type_t type = o->consumer ? RD_KAFKA_CONSUMER : RD_KAFKA_PRODUCER;
    rd_kafka_t *rk = rd_kafka_new(type, o->conf, text, sizeof(text));
    if (!rk) {
        rd_kafka_conf_destroy(o->conf);
        err_set(e, ERR_CONFIG, "kafka: %s", text);
        return NULL;
    }
    struct kafka_core *core = MEM_NEW(struct kafka_core);
    core->tag = CORE_TAG, core->loop = loop, core->rk = rk, core->consumer = o->consumer;
    core->on_event = o->on_event, core->on_state = o->on_state, core->on_tick = o->on_tick;
    core->ctx = o->ctx, core->tick_ms = TICK_MS;
    if (o->consumer)
        rd_kafka_poll_set_consumer(rk);
    core->queue = o->consumer ? rd_kafka_queue_get_consumer(rk) : rd_kafka_queue_get_main(rk);
    CHECK(!rd_kafka_set_log_queue(rk, core->queue));
    CHECK(!uv_async_init(loop_uv(loop), &core->async, on_async));
    core->async.data = core;
    rd_kafka_queue_cb_event_enable(core->queue, on_queue_mt, core);
    probe(core);
    loop_timer_start(loop, &core->tick, core->tick_ms, on_core_tick, core);
    loop_defer(loop, &core->again, drain, core); /* what came before the wake-up was set */
    return core;
}

/* Ends the consumer's part in its group, as static members do: they send no LeaveGroup. NO_CONSUMER_CLOSE alone is not enough:
 * librdkafka 2.15 then waits for good, its main thread turning without end, for an answer to partitions that it had offered and
 * nobody took. A close through the queue revokes them, and whoever serves the queue answers.
 * An answer that comes when the group is just ended never returns (librdkafka's issue 4884). So one is given only when the queue
 * has been quiet, which is when the library waits: the first for what the owner had not answered, others for what came since. */
static void end_membership_mt(struct kafka_core *core)
{
    bool owed = true;
    rd_kafka_error_t *error =
        core->leaving ? NULL : rd_kafka_consumer_close_queue(core->rk, core->queue);
    if (error) {
        /* Closed before, or a fatal error: that makes every answer a hand-back, and the group does not end before it. */
        if (rd_kafka_error_is_fatal(error))
            rd_kafka_assign(core->rk, NULL);
        rd_kafka_error_destroy(error);
        return;
    }
    for (uint64_t end = uv_hrtime() + LEAVE_LIMIT_MS * 1000000ULL;
         !rd_kafka_consumer_closed(core->rk) && uv_hrtime() < end;) {
        rd_kafka_event_t *ev = rd_kafka_queue_poll(core->queue, QUIET_MS);
        if (ev) {
            owed |= rd_kafka_event_type(ev) == RD_KAFKA_EVENT_REBALANCE;
            rd_kafka_event_destroy(ev);
            continue;
        }
        if (owed)
            rd_kafka_assign(core->rk, NULL);
        owed = false;
    }
}

static void destroy_mt(void *arg)
{
    struct kafka_core *core = arg;
    if (core->consumer)
        end_membership_mt(core);
    rd_kafka_queue_destroy(core->queue);
    rd_kafka_destroy_flags(core->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    int pending = END_PENDING;
    if (atomic_compare_exchange_strong(&core->end, &pending, END_DESTROYED))
        uv_async_send(&core->async);
}

/* The last resort. The handle is closed, and the instance with the core stays until the process ends. */
static void on_destroy_late(void *ctx)
{
    struct kafka_core *core = ctx;
    int pending = END_PENDING;
    if (!atomic_compare_exchange_strong(&core->end, &pending, END_GIVEN_UP))
        return;
    LOG(WARN, "library_not_closed", KV_INT("after_ms", DESTROY_LIMIT_MS));
    pthread_detach(core->destroyer);
    uv_close((uv_handle_t *)&core->async, NULL);
}

static void start_destroyer(struct kafka_core *core)
{
    loop_timer_start(core->loop, &core->tick, DESTROY_LIMIT_MS, on_destroy_late, core);
    CHECK(!uv_thread_create(&core->destroyer, destroy_mt, core));
}

void kafka_core_close(struct kafka_core **ret)
{
    struct kafka_core *core = *ret;
    if (!core)
        return;
    *ret = NULL;
    core->closing = true;
    atomic_store(&core->stopped, true);
    loop_defer_cancel(&core->again);
    loop_timer_stop(&core->tick);
    rd_kafka_queue_cb_event_enable(core->queue, NULL, NULL);
    if (!core->holds)
        start_destroyer(core);
}

void kafka_core_set_leaving(struct kafka_core *core)
{
    core->leaving = true;
}

void kafka_core_hold(struct kafka_core *core)
{
    core->holds++;
}

void kafka_core_unhold(struct kafka_core *core)
{
    CHECK(core->holds > 0);
    if (--core->holds == 0 && core->closing)
        start_destroyer(core);
}

bool kafka_core_closing(const struct kafka_core *core)
{
    return core->closing;
}

bool kafka_core_up(const struct kafka_core *core)
{
    return core->up;
}

bool kafka_core_brokerless(const struct kafka_core *core)
{
    return core->brokerless;
}

rd_kafka_t *kafka_core_rk(const struct kafka_core *core)
{
    return core->rk;
}

rd_kafka_queue_t *kafka_core_queue(const struct kafka_core *core)
{
    return core->queue;
}
