/* producer: batches of requests in, records to Kafka, answers when all is known.
 *
 * A batch is one message of a gateway. It waits until each of its records has its report and each question its answer, or until the
 * shortest time of its requests is over: then it is answered with what is known, the rest as unsure, and lives on as an orphan
 * until the last report came.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "producer"
#include "producer/producer.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    BATCH_TAG = CHECK_TAG('p', 'b', 'a', 't'),
    RECORD_COST = 160, /* bytes that a waiting record costs beside its own */
    LONELY = 4,        /* so many records of a message still count as lonely */
    CALM = 40,         /* so many records in two windows: 2 000 a second */
    WINDOW_MS = 10,
    MESSAGE_MAX = 64 << 20,
    QUESTION_MS = 5000,
    DRAIN_LOOK_MS = 5
};

/* Values of the protocol. */
enum { REFUSED_BUSY = 1, REFUSED_TOPIC = 2, REFUSED_PARTITION = 3, REFUSED_INVALID = 4 };
enum { OUTCOME_REFUSED = 1, OUTCOME_UNSURE = 2, OUTCOME_DENIED = 3 };
enum { ASK_CLUSTER = 1, ASK_TOPIC = 2, ASK_OFFSETS = 3 };
enum { ANSWER_OK = 1, ANSWER_NO_TOPIC = 2, ANSWER_NO_PARTITION = 3, ANSWER_UNAVAILABLE = 4 };

struct request;
struct slot { /* one record */
    struct request *r;
    int64_t offset; /* -1: not known */
    int32_t partition;
    uint32_t bytes;
    uint8_t outcome; /* 0: stored, or no report yet */
    const char *text;
};

struct batch;
struct request {
    struct batch *b;
    struct topic *topic;
    struct wire_request wire; /* good while the message is */
    unsigned refused;         /* 0: its records are on their way */
    const char *text;
    struct slot *slots;
    size_t n, pending;
};

struct question {
    struct batch *b;
    unsigned kind, result;
    char *topic;
    int32_t partition;
    struct buf body; /* of the answer, without the result */
    bool open;
};

struct batch {
    uint32_t tag;
    struct list node;
    struct producer *p;
    struct bus_call *call; /* NULL: answered */
    uint64_t begun_us;
    struct request *requests;
    size_t requests_n;
    struct question *questions;
    size_t questions_n;
    size_t pending; /* records and questions */
    struct loop_timer timer;
};

static const char *const result_values[] = {"stored", "refused", "unsure", NULL};
static const char *const request_values[] = {"taken",    "busy",         "draining", "no_metadata",
                                             "no_topic", "no_partition", "invalid",  NULL};
static const char *const client_values[] = {"quick", "bulk", NULL};
static const char *const kind_values[] = {"cluster", "topic", "offsets", NULL};
enum { R_STORED, R_REFUSED, R_UNSURE };
enum { Q_TAKEN, Q_BUSY, Q_DRAINING, Q_NO_METADATA, Q_NO_TOPIC, Q_NO_PARTITION, Q_INVALID };

const struct metric_def producer_metrics[] = {
    [M_RECORDS] = {"sluice_producer_records_total",
                   METRIC_COUNTER,
                   "Records, by what became of them",
                   {"result"},
                   {result_values}},
    [M_REQUESTS] = {"sluice_producer_requests_total",
                    METRIC_COUNTER,
                    "Produce requests, taken or refused whole",
                    {"result"},
                    {request_values}},
    [M_BATCH] = {"sluice_producer_batch_requests", METRIC_HISTOGRAM,
                 "Produce requests in a message", .buckets = metric_counts},
    [M_DELIVERY] = {"sluice_producer_delivery_seconds", METRIC_HISTOGRAM,
                    "Time from a message to its answer", .buckets = metric_latency},
    [M_CLIENT] = {"sluice_producer_sent_records_total",
                  METRIC_COUNTER,
                  "Records handed to the client that sends at once, or to the one that gathers",
                  {"client"},
                  {client_values}},
    [M_QUEUED_BYTES] = {"sluice_producer_queued_bytes", METRIC_GAUGE,
                        "Bytes of records that wait for Kafka"},
    [M_QUEUED_RECORDS] = {"sluice_producer_queued_records", METRIC_GAUGE,
                          "Records that wait for Kafka"},
    [M_UP] = {"sluice_producer_kafka_up", METRIC_GAUGE, "Whether a broker answers"},
    [M_AGE] = {"sluice_producer_metadata_age_seconds", METRIC_GAUGE,
               "Age of what is known of topics"},
    [M_TOPICS] = {"sluice_producer_topics", METRIC_GAUGE, "Topics that are known"},
    [M_QUESTIONS] = {"sluice_producer_questions_total",
                     METRIC_COUNTER,
                     "Questions of gateways",
                     {"kind"},
                     {kind_values}},
    {0}};

/* ---- answers ---- */
static void put_refused(struct buf *b, unsigned reason, const char *text)
{
    struct buf r;
    buf_init(&r, 4096);
    wire_put_u64(&r, 1, reason);
    wire_put_bytes(&r, 2, str_of(text));
    wire_put_bytes(b, 1, buf_as_str(&r));
    buf_deinit(&r);
}

static void put_error(struct buf *b, size_t index, unsigned outcome, const char *text)
{
    struct buf r;
    buf_init(&r, 4096);
    wire_put_u64(&r, 1, index);
    wire_put_u64(&r, 2, outcome);
    wire_put_bytes(&r, 3, str_of(text));
    wire_put_bytes(b, 4, buf_as_str(&r));
    buf_deinit(&r);
}

static uint64_t slot_partition(const struct slot *s)
{
    return (uint64_t)(int64_t)s->partition;
}

static void put_results(struct buf *b, const struct request *r)
{
    size_t parts = 0, offsets = 0;
    for (size_t i = 0; i < r->n; i++) {
        parts += wire_varint_size(slot_partition(&r->slots[i]));
        offsets += wire_varint_size((uint64_t)r->slots[i].offset);
    }
    if (r->n) {
        wire_put_varint(b, 2 << 3 | 2);
        wire_put_varint(b, parts);
        for (size_t i = 0; i < r->n; i++)
            wire_put_varint(b, slot_partition(&r->slots[i]));
        wire_put_varint(b, 3 << 3 | 2);
        wire_put_varint(b, offsets);
        for (size_t i = 0; i < r->n; i++)
            wire_put_varint(b, (uint64_t)r->slots[i].offset);
    }
    for (size_t i = 0; i < r->n; i++) {
        const struct slot *s = &r->slots[i];
        if (s->outcome)
            put_error(b, i, s->outcome, s->text);
        else if (s->offset < 0)
            put_error(b, i, OUTCOME_UNSURE, "no confirmation in time");
    }
}

static void put_question(struct buf *b, struct question *q)
{
    struct buf one;
    buf_init(&one, MESSAGE_MAX);
    wire_put_u64(&one, 1, q->open ? ANSWER_UNAVAILABLE : q->result);
    if (!q->open)
        buf_str(&one, buf_as_str(&q->body));
    wire_put_bytes(b, 3, buf_as_str(&one));
    buf_deinit(&one);
}

static void count_unsure(struct batch *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->requests_n; i++)
        n += b->requests[i].pending;
    metric_add(b->p->metrics, M_RECORDS, R_UNSURE, (double)n);
}

static void reply(struct batch *b)
{
    struct buf msg, one;
    buf_init(&msg, MESSAGE_MAX);
    buf_init(&one, MESSAGE_MAX);
    wire_put_u64(&msg, 1, PRODUCER_VERSION);
    for (size_t i = 0; i < b->requests_n; i++) {
        const struct request *r = &b->requests[i];
        buf_reset(&one);
        if (r->refused)
            put_refused(&one, r->refused, r->text);
        else
            put_results(&one, r);
        wire_put_bytes(&msg, 2, buf_as_str(&one));
    }
    for (size_t i = 0; i < b->questions_n; i++)
        put_question(&msg, &b->questions[i]);
    CRASH_POINT("before_answer");
    bus_reply(b->call, buf_as_str(&msg));
    CRASH_POINT("after_answer");
    b->call = NULL;
    if (b->requests_n)
        metric_observe(b->p->metrics, M_DELIVERY, 0, (double)(clock_us() - b->begun_us) / 1e6);
    buf_deinit(&msg);
    buf_deinit(&one);
    loop_timer_stop(&b->timer);
}

static void batch_free(struct batch *b)
{
    loop_timer_stop(&b->timer);
    list_remove(&b->node);
    for (size_t i = 0; i < b->requests_n; i++)
        mem_free(b->requests[i].slots);
    for (size_t i = 0; i < b->questions_n; i++) {
        buf_deinit(&b->questions[i].body);
        mem_free(b->questions[i].topic);
    }
    mem_free(b->requests);
    mem_free(b->questions);
    mem_free(b);
}

static void batch_done(struct batch *b)
{
    if (b->pending)
        return;
    if (b->call)
        reply(b);
    batch_free(b);
}

static void on_batch_late(void *ctx)
{
    struct batch *b = CHECK_FROM(ctx, struct batch, BATCH_TAG);
    count_unsure(b);
    reply(b);
}

/* ---- records ---- */
static void slot_end(struct slot *s)
{
    struct request *r = s->r;
    struct producer *p = r->b->p;
    p->queued_bytes -= s->bytes;
    p->queued_records--;
    app_memory_sub(app_memory(p->app), s->bytes);
    r->topic->in_flight--;
    r->pending--;
    r->b->pending--;
}

static void on_delivery(void *ctx, void *record, const struct kafka_delivery *d)
{
    struct producer *p = ctx;
    struct slot *s = record;
    struct batch *b = s->r->b;
    static const unsigned series[] = {
        [KAFKA_STORED] = R_STORED, [KAFKA_REFUSED] = R_REFUSED, [KAFKA_UNSURE] = R_UNSURE};
    if (d->outcome == KAFKA_STORED) {
        s->offset = d->offset;
        s->partition = d->partition;
    } else {
        s->outcome = d->outcome == KAFKA_UNSURE ? OUTCOME_UNSURE
                     : d->code == ERR_DENIED    ? OUTCOME_DENIED
                                                : OUTCOME_REFUSED;
        s->text = d->text;
    }
    if (b->call) /* else it was counted as unsure */
        metric_add(p->metrics, M_RECORDS, series[d->outcome], 1);
    slot_end(s);
    batch_done(b);
}

static struct kafka_record record_of(const struct request *r, const struct wire_record *w)
{
    return (struct kafka_record){.topic = r->topic->name,
                                 .partition = w->partition >= 0 ? w->partition : r->wire.partition,
                                 .key = w->key,
                                 .value = w->value,
                                 .timestamp_ms = w->timestamp_ms,
                                 .headers = w->headers,
                                 .headers_n = w->headers_n};
}

static void send_one(struct producer *p, struct slot *s, const struct kafka_record *rec)
{
    struct request *r = s->r;
    int rc = kafka_produce(r->topic->client, rec, s);
    if (!rc)
        return;
    /* Nothing of it left the house. */
    s->outcome = rc == ERR_DENIED ? OUTCOME_DENIED : OUTCOME_REFUSED;
    s->text = rc == ERR_TOO_LARGE ? "the record is larger than Kafka takes"
              : rc == ERR_BUSY    ? "the queue is full"
                                  : err_name(rc);
    metric_add(p->metrics, M_RECORDS, R_REFUSED, 1);
    slot_end(s);
}

/* A topic's records change clients only while none is on its way: their order stays. */
static struct kafka_producer *client_for(struct producer *p, const struct request *r)
{
    if (r->topic->in_flight)
        return r->topic->client;
    bool lonely = r->n <= LONELY && p->recent + p->before <= CALM;
    return lonely ? p->quick : p->bulk;
}

static void note_load(struct producer *p, size_t records)
{
    uint64_t now = clock_ms();
    if (now - p->window_ms >= WINDOW_MS) {
        p->before = now - p->window_ms < 2 * WINDOW_MS ? p->recent : 0;
        p->recent = 0;
        p->window_ms = now;
    }
    p->recent += records;
}

static void send_all(struct producer *p, struct request *r)
{
    struct wire w = wire_of(r->wire.body);
    struct wire_record rec;
    r->topic->client = client_for(p, r);
    metric_add(p->metrics, M_CLIENT, r->topic->client == p->bulk, (double)r->n);
    r->topic->in_flight += r->n;
    for (size_t i = 0; i < r->n && wire_record(&w, &rec); i++) {
        const struct kafka_record kr = record_of(r, &rec);
        send_one(p, &r->slots[i], &kr);
    }
}

static bool refuse(struct request *r, unsigned reason, unsigned series, const char *text)
{
    r->refused = reason;
    r->text = text;
    metric_add(r->b->p->metrics, M_REQUESTS, series, 1);
    metric_add(r->b->p->metrics, M_RECORDS, R_REFUSED, (double)r->wire.records);
    return false;
}

/* Whether a request can be taken; else it is refused whole. */
static bool admit(struct producer *p, struct request *r, struct str body)
{
    if (wire_request(body, &r->wire))
        return refuse(r, REFUSED_INVALID, Q_INVALID, "the request is not to be understood");
    if (p->draining)
        return refuse(r, REFUSED_BUSY, Q_DRAINING, "the producer is shutting down");
    if (!p->refreshed_ms)
        return refuse(r, REFUSED_BUSY, Q_NO_METADATA, "Kafka was not reached yet");
    r->topic = topics_find(p, r->wire.topic);
    if (!r->topic)
        return refuse(r, REFUSED_TOPIC, Q_NO_TOPIC, "no such topic");
    if (r->wire.highest >= 0 && (size_t)r->wire.highest >= r->topic->partitions)
        return refuse(r, REFUSED_PARTITION, Q_NO_PARTITION, "no such partition");
    size_t cost = r->wire.bytes + r->wire.records * RECORD_COST;
    if (p->queued_bytes + cost > p->config->queue_max || !app_memory_fits(app_memory(p->app), cost))
        return refuse(r, REFUSED_BUSY, Q_BUSY, "the queue is full");
    metric_add(p->metrics, M_REQUESTS, Q_TAKEN, 1);
    return true;
}

static void make_slots(struct producer *p, struct request *r)
{
    struct wire w = wire_of(r->wire.body);
    struct wire_record rec;
    r->n = r->pending = r->wire.records;
    r->slots = MEM_ARRAY(struct slot, r->n + 1);
    for (size_t i = 0; i < r->n && wire_record(&w, &rec); i++) {
        size_t bytes = rec.key.n + rec.value.n + RECORD_COST;
        for (size_t k = 0; k < rec.headers_n; k++)
            bytes += rec.headers[k].name.n + rec.headers[k].value.n;
        r->slots[i] = (struct slot){
            .r = r, .offset = -1, .partition = -1, .text = "", .bytes = (uint32_t)bytes};
        p->queued_bytes += bytes;
        app_memory_add(app_memory(p->app), bytes);
    }
    p->queued_records += r->n;
    r->b->pending += r->n;
}

/* ---- questions ---- */
static void question_end(struct question *q, unsigned result)
{
    struct batch *b = q->b;
    q->result = result;
    q->open = false;
    b->pending--;
    batch_done(b);
}

static unsigned result_of(int rc)
{
    return rc == 0 ? ANSWER_OK : rc == ERR_NOT_FOUND ? ANSWER_NO_TOPIC : ANSWER_UNAVAILABLE;
}

static void on_configs(void *ctx, int rc, const struct kafka_header *configs, size_t n)
{
    struct question *q = ctx;
    struct buf topic, one;
    if (rc &&
        rc !=
            ERR_UNSUPPORTED) { /* a cluster that does not tell its configuration still has topics */
        buf_reset(&q->body);
        question_end(q, result_of(rc));
        return;
    }
    buf_init(&topic, MESSAGE_MAX);
    buf_init(&one, 1 << 20);
    buf_str(&topic, buf_as_str(&q->body));
    for (size_t i = 0; i < n; i++) {
        buf_reset(&one);
        wire_put_bytes(&one, 1, configs[i].name);
        if (configs[i].value.p)
            wire_put_bytes(&one, 2, configs[i].value);
        wire_put_bytes(&topic, 4, buf_as_str(&one));
    }
    buf_reset(&q->body);
    wire_put_bytes(&q->body, 2, buf_as_str(&topic));
    buf_deinit(&topic);
    buf_deinit(&one);
    question_end(q, ANSWER_OK);
}

static void on_topic(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct question *q = ctx;
    if (!rc && info->topics_n != 1)
        rc = ERR_NOT_FOUND;
    if (!rc)
        rc = info->topics[0].code;
    if (rc) {
        question_end(q, result_of(rc));
        return;
    }
    topic_encode(&info->topics[0], &q->body);
    kafka_admin_configs(q->b->p->admin, q->topic, on_configs, q);
}

static void on_end(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct question *q = ctx;
    if (!rc && n)
        wire_put_u64(&q->body, 5, (uint64_t)parts[0].offset);
    question_end(q, result_of(rc));
}

static void on_beginning(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct question *q = ctx;
    if (rc || !n) {
        question_end(q, rc ? result_of(rc) : ANSWER_UNAVAILABLE);
        return;
    }
    wire_put_u64(&q->body, 4, (uint64_t)parts[0].offset);
    const struct kafka_partition part = {.topic = q->topic, .partition = q->partition};
    kafka_admin_offsets(q->b->p->admin, &part, 1, false, on_end, q);
}

static void put_cluster(struct producer *p, struct buf *b)
{
    struct str key;
    void *value;
    for (size_t i = 0; map_next(p->topics, &i, &key, &value);)
        if (((struct topic *)value)->present)
            wire_put_bytes(b, 2, buf_as_str(&((struct topic *)value)->wire));
    for (size_t i = 0; i < p->brokers_n; i++)
        wire_put_u64(b, 3, (uint64_t)(int64_t)p->brokers[i]);
}

/* Answers from the cache, or starts asking Kafka. Nothing is told before the whole message was looked at. */
static void ask(struct producer *p, struct question *q)
{
    struct topic *t = topics_find(p, str_of(q->topic));
    metric_add(p->metrics, M_QUESTIONS, q->kind - 1, 1);
    if (q->kind == ASK_CLUSTER) {
        put_cluster(p, &q->body);
        q->result = p->refreshed_ms ? ANSWER_OK : ANSWER_UNAVAILABLE;
        return;
    }
    bool no_partition =
        q->kind == ASK_OFFSETS && t && (q->partition < 0 || (size_t)q->partition >= t->partitions);
    if (no_partition || (q->kind == ASK_OFFSETS && !t)) {
        q->result = no_partition      ? ANSWER_NO_PARTITION
                    : p->refreshed_ms ? ANSWER_NO_TOPIC
                                      : ANSWER_UNAVAILABLE;
        return;
    }
    q->open = true;
    q->b->pending++;
    const struct kafka_partition part = {.topic = q->topic, .partition = q->partition};
    const char *name = q->topic;
    if (q->kind == ASK_OFFSETS)
        kafka_admin_offsets(p->admin, &part, 1, true, on_beginning, q);
    else if (!t)
        kafka_admin_describe(p->admin, &name, 1, on_topic, q);
    else {
        buf_str(&q->body, buf_as_str(&t->wire));
        kafka_admin_configs(p->admin, q->topic, on_configs, q);
    }
}

static bool read_question(struct question *q, struct str body)
{
    struct wire w = wire_of(body);
    struct wire_field f;
    struct str topic = {0};
    q->partition = -1;
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 0)
            q->kind = (unsigned)f.value;
        else if (f.number == 2 && f.type == 2)
            topic = f.bytes;
        else if (f.number == 3 && f.type == 0)
            q->partition = (int32_t)f.value;
    }
    q->topic = mem_strndup(topic.p ? topic.p : "", topic.n);
    buf_init(&q->body, MESSAGE_MAX);
    q->result = ANSWER_UNAVAILABLE;
    return !w.bad && q->kind >= ASK_CLUSTER && q->kind <= ASK_OFFSETS;
}

/* ---- messages ---- */
struct head {
    uint64_t version;
    size_t requests, questions;
};

static bool read_head(struct str msg, struct head *h)
{
    struct wire w = wire_of(msg);
    struct wire_field f;
    *h = (struct head){0};
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 0)
            h->version = f.value;
        h->requests += f.number == 2 && f.type == 2;
        h->questions += f.number == 3 && f.type == 2;
    }
    return !w.bad;
}

static uint64_t deadline_ms(const struct batch *b)
{
    uint64_t ms = b->p->config->delivery_timeout + 1000; /* Kafka's own report comes before */
    for (size_t i = 0; i < b->requests_n; i++) {
        const struct request *r = &b->requests[i];
        if (!r->refused && r->wire.timeout_ms && r->wire.timeout_ms < ms)
            ms = r->wire.timeout_ms;
    }
    return b->questions_n && ms > QUESTION_MS ? QUESTION_MS : ms;
}

/* Takes each request or refuses it, in the order of the message: the wire's slices point into it, so all is handed on before the return. */
static void take_message(struct batch *b, struct str msg, bool version_ok)
{
    struct producer *p = b->p;
    struct wire w = wire_of(msg);
    struct wire_field f;
    size_t r = 0, q = 0;
    while (wire_next(&w, &f)) {
        if (f.type == 2 && f.number == 2) {
            struct request *req = &b->requests[r++];
            req->b = b;
            if (!version_ok)
                refuse(req, REFUSED_INVALID, Q_INVALID,
                       "a version that this producer does not know");
            else if (admit(p, req, f.bytes)) {
                note_load(p, req->wire.records);
                make_slots(p, req);
                send_all(p, req);
            }
        } else if (f.type == 2 && f.number == 3) {
            struct question *ques = &b->questions[q++];
            ques->b = b;
            if (read_question(ques, f.bytes) && version_ok)
                ask(p, ques);
        }
    }
}

static void on_request(void *ctx, struct bus_call *call, struct str msg)
{
    struct producer *p = ctx;
    struct head h;
    bool ok = read_head(msg, &h);
    struct batch *b = MEM_NEW(struct batch);
    b->tag = BATCH_TAG, b->p = p, b->call = call, b->begun_us = clock_us();
    list_push(&p->batches, &b->node);
    if (!ok) { /* nobody knows what was asked: an answer without answers says so */
        LOG(WARN, "message_refused", KV_INT("bytes", msg.n));
        batch_done(b);
        return;
    }
    b->requests = MEM_ARRAY(struct request, h.requests + 1);
    b->questions = MEM_ARRAY(struct question, h.questions + 1);
    b->requests_n = h.requests, b->questions_n = h.questions;
    b->pending = 1; /* held while the message is looked through */
    if (h.requests)
        metric_observe(p->metrics, M_BATCH, 0, (double)h.requests);
    CRASH_POINT("before_produce");
    take_message(b, msg, h.version == PRODUCER_VERSION);
    CRASH_POINT("after_produce");
    b->pending--;
    if (b->pending)
        loop_timer_start(p->loop, &b->timer, deadline_ms(b), on_batch_late, b);
    batch_done(b);
}

/* ---- life ---- */
static void on_state(void *ctx, bool up, const char *detail)
{
    struct producer *p = ctx;
    metric_set(p->metrics, M_UP, 0, up);
    app_ready_set(p->app, "kafka", up, detail);
}

static void on_fatal(void *ctx, const char *text)
{
    struct producer *p = ctx;
    LOG(ERROR, "kafka_client_failed", KV_STR("text", text));
    app_fail(p->app, APP_EXIT_UNAVAILABLE, "kafka_fatal");
}

static void on_collect(void *ctx)
{
    struct producer *p = ctx;
    metric_set(p->metrics, M_QUEUED_BYTES, 0, (double)p->queued_bytes);
    metric_set(p->metrics, M_QUEUED_RECORDS, 0, (double)p->queued_records);
    metric_set(p->metrics, M_AGE, 0,
               p->refreshed_ms ? (double)(clock_ms() - p->refreshed_ms) / 1e3 : 0);
}

int producer_check(const void *config, const struct app_common *common, struct err *e)
{
    const struct producer_config *c = config;
    if (c->retention_raw < c->retention_clean)
        return err_set(e, ERR_CONFIG,
                       "topics.retention.raw: must not be shorter than topics.retention.clean");
    if (c->queue_max + (c->queue_max >> 1) > common->memory_max)
        return err_set(e, ERR_CONFIG, "queue.max: must not pass two thirds of memory.max");
    return 0;
}

static int open_clients(struct producer *p, struct err *e)
{
    const struct producer_config *c = p->config;
    struct kafka_producer_opts o = {.brokers = c->brokers,
                                    .client_id = "sluice-producer-quick",
                                    .delivery_timeout_ms = c->delivery_timeout,
                                    .queue_bytes = c->queue_max,
                                    .max_message_bytes = c->record_max + (64 << 10),
                                    .on_delivery = on_delivery,
                                    .on_fatal = on_fatal,
                                    .ctx = p};
    int rc = kafka_producer_open(p->loop, &o, &p->quick, e);
    if (rc)
        return rc;
    o.client_id = "sluice-producer-bulk";
    o.linger_ms = c->linger;
    o.on_state = on_state;
    rc = kafka_producer_open(p->loop, &o, &p->bulk, e);
    if (rc)
        return rc;
    const struct kafka_admin_opts ao = {.brokers = c->brokers,
                                        .client_id = "sluice-producer-admin"};
    return kafka_admin_open(p->loop, &ao, &p->admin, e);
}

int producer_start(struct app *app, void *config, struct err *e)
{
    struct producer *p = MEM_NEW(struct producer);
    p->app = app, p->loop = app_loop(app), p->config = config, p->metrics = app_metrics(app);
    list_init(&p->batches);
    app_state_set(app, p);
    app_ready_set(app, "kafka", false, "not connected yet");
    int rc = open_clients(p, e);
    if (rc)
        return rc;
    topics_start(p);
    metrics_on_collect(p->metrics, on_collect, p);
    const struct bus_server_opts o = {
        .listen = p->config->bus_listen, .on_request = on_request, .ctx = p};
    rc = bus_server_open(p->loop, &o, &p->bus, e);
    if (rc)
        return rc;
    app_listening("bus", "127.0.0.1", bus_server_port(p->bus));
    return 0;
}

static void on_drain_look(void *ctx)
{
    struct producer *p = ctx;
    if (list_empty(&p->batches) && !bus_server_write_bytes(p->bus)) {
        app_drained(p->app);
        return;
    }
    loop_timer_start(p->loop, &p->drain_timer, DRAIN_LOOK_MS, on_drain_look, p);
}

void producer_drain(struct app *app)
{
    struct producer *p = app_state(app);
    p->draining = true; /* gateways are still read and told so at once */
    on_drain_look(p);
}

void producer_stop(struct app *app)
{
    struct producer *p = app_state(app);
    if (!p)
        return;
    app_state_set(app, NULL);
    loop_timer_stop(&p->drain_timer);
    bus_server_close(&p->bus);
    kafka_admin_close(&p->admin);
    kafka_producer_close(&p->quick);
    kafka_producer_close(&p->bulk);
    LIST_EACH (it, tmp, &p->batches)
        batch_free(LIST_ENTRY(it, struct batch, node));
    topics_stop(p);
    mem_free(p);
}

void producer_dump(struct app *app, struct buf *out)
{
    const struct producer *p = app_state(app);
    if (!p)
        return;
    struct str key;
    void *value;
    bool first = true;
    buf_printf(out, "\"producer\":{\"queued_bytes\":%zu,\"queued_records\":%zu,\"topics\":{",
               p->queued_bytes, p->queued_records);
    for (size_t i = 0; p->topics && map_next(p->topics, &i, &key, &value);) {
        const struct topic *t = value;
        buf_str(out, first ? STR("") : STR(","));
        first = false;
        buf_json(out, key);
        buf_printf(out, ":{\"id\":\"%s\",\"partitions\":%zu,\"in_flight\":%zu}", t->id,
                   t->partitions, t->in_flight);
    }
    buf_z(out, "}}");
}
