/* kafka_admin: questions and orders to the cluster. Each is an op in one list, found again by the opaque of its event.
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
#include <stdlib.h>

enum {
    OP_TAG = CHECK_TAG('k', 'f', 'k', 'a'),
    LIST_CHUNK_MS = 1000, /* a worker looks up this often whether anybody still waits for it */
    MAX_TOPICS = 10000
};

struct kafka_admin {
    struct kafka_core *core;
    struct loop *loop;
    uint64_t timeout_ms;
    struct list ops;
};

/* Lists the topics in a worker thread: the library has no asynchronous call for all of them. Outlives its op when that is dropped. */
struct listing {
    uv_work_t req;
    struct kafka_core *core;
    struct op *op; /* NULL: orphaned */
    uint64_t timeout_ms;
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t err;
};

struct op {
    uint32_t tag;
    struct list node;
    struct kafka_admin *a;
    struct loop_defer defer;
    struct listing *listing;
    kafka_topics_fn *topics;
    kafka_admin_fn *order;
    kafka_offsets_fn *offsets;
    kafka_configs_fn *configs;
    void *ctx;
    int32_t *brokers;
    size_t brokers_n;
    int rc;
};

static struct op *op_new(struct kafka_admin *a, void *ctx)
{
    struct op *op = MEM_NEW(struct op);
    op->tag = OP_TAG, op->a = a, op->ctx = ctx;
    list_push(&a->ops, &op->node);
    return op;
}

static void op_free(struct op *op)
{
    if (op->listing)
        op->listing->op = NULL;
    loop_defer_cancel(&op->defer);
    list_remove(&op->node);
    mem_free(op->brokers);
    mem_free(op);
}

/* Ends an op without a result of its kind. */
static void op_fail(struct op *op, int rc, const char *text)
{
    struct op copy = *op;
    op_free(op);
    if (copy.topics)
        copy.topics(copy.ctx, rc, &(struct kafka_topics_info){0});
    else if (copy.order)
        copy.order(copy.ctx, rc, text);
    else if (copy.offsets)
        copy.offsets(copy.ctx, rc, NULL, 0);
    else if (copy.configs)
        copy.configs(copy.ctx, rc, NULL, 0);
}

static void on_op_deferred(void *ctx)
{
    struct op *op = ctx;
    op_fail(op, op->rc, op->rc == ERR_UNAVAILABLE ? "no broker is there" : "nothing to do");
}

static void op_end_later(struct op *op, int rc)
{
    op->rc = rc;
    loop_defer(op->a->loop, &op->defer, on_op_deferred, op);
}

/* While an admin request waits for a broker, librdkafka 2.15 turns without end in several threads. So none is put to it when it has said
 * that there is no broker. */
static bool refused(struct op *op)
{
    if (!kafka_core_brokerless(op->a->core))
        return false;
    op_end_later(op, ERR_UNAVAILABLE);
    return true;
}

static rd_kafka_AdminOptions_t *options(struct op *op, rd_kafka_admin_op_t api)
{
    return kafka_admin_options(kafka_core_rk(op->a->core), (int)api, op->a->timeout_ms, op);
}

/* ---- topics ---- */
static void ask_topics(struct op *op, const char **names, size_t n)
{
    if (refused(op))
        return;
    rd_kafka_TopicCollection_t *topics = rd_kafka_TopicCollection_of_topic_names(names, n);
    rd_kafka_AdminOptions_t *o = options(op, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
    rd_kafka_DescribeTopics(kafka_core_rk(op->a->core), topics, o, kafka_core_queue(op->a->core));
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_TopicCollection_destroy(topics);
}

static void list_mt(uv_work_t *req)
{
    struct listing *l = req->data;
    uint64_t end = clock_ms() + l->timeout_ms;
    do {
        l->err = rd_kafka_metadata(kafka_core_rk(l->core), 1, NULL, &l->metadata, LIST_CHUNK_MS);
    } while (l->err && kafka_core_again_mt(l->core, end));
}

static void on_names(struct op *op, const struct rd_kafka_metadata *m)
{
    size_t n = (size_t)(m->topic_cnt < MAX_TOPICS ? m->topic_cnt : MAX_TOPICS), used = 0;
    op->brokers_n = (size_t)m->broker_cnt;
    op->brokers = MEM_ARRAY(int32_t, op->brokers_n + 1);
    for (size_t i = 0; i < op->brokers_n; i++)
        op->brokers[i] = m->brokers[i].id;
    const char **names = MEM_ARRAY(const char *, n + 1);
    for (size_t i = 0; i < n; i++)
        names[used++] = m->topics[i].topic;
    if (used) {
        ask_topics(op, names, used);
        mem_free(names);
        return;
    }
    mem_free(names);
    struct kafka_topics_info none = {.brokers = op->brokers, .brokers_n = op->brokers_n};
    kafka_topics_fn *done = op->topics;
    void *ctx = op->ctx;
    op->brokers = NULL;
    op_free(op);
    done(ctx, 0, &none);
    mem_free(none.brokers);
}

static void on_listed(uv_work_t *req, int status)
{
    (void)status;
    struct listing *l = req->data;
    struct op *op = l->op;
    struct kafka_core *core = l->core;
    const struct rd_kafka_metadata *m = l->metadata;
    rd_kafka_resp_err_t err = l->err;
    mem_free(l);
    if (op) {
        op->listing = NULL;
        if (err)
            op_fail(op, kafka_code(err), rd_kafka_err2str(err));
        else
            on_names(op, m);
    }
    if (m)
        rd_kafka_metadata_destroy(m);
    kafka_core_unhold(core);
}

void kafka_admin_describe(struct kafka_admin *a, const char *const *names, size_t n,
                          kafka_topics_fn *done, void *ctx)
{
    struct op *op = op_new(a, ctx);
    op->topics = done;
    if (names && !n) {
        op_end_later(op, 0);
        return;
    }
    if (names) {
        const char **copy = mem_dup(names, n * sizeof(*names));
        ask_topics(op, copy, n);
        mem_free(copy);
        return;
    }
    struct listing *l = MEM_NEW(struct listing);
    l->core = a->core, l->op = op, l->timeout_ms = a->timeout_ms, l->req.data = l;
    op->listing = l;
    kafka_core_hold(a->core);
    CHECK(!uv_queue_work(loop_uv(a->loop), &l->req, list_mt, on_listed));
}

static void copy_nodes(const rd_kafka_Node_t **nodes, size_t n, int32_t **ret, size_t *ret_n)
{
    *ret = MEM_ARRAY(int32_t, n + 1);
    *ret_n = n;
    for (size_t i = 0; i < n; i++)
        (*ret)[i] = nodes[i] ? rd_kafka_Node_id(nodes[i]) : -1;
}

static int by_partition(const void *a, const void *b)
{
    const struct kafka_topic_partition_info *x = a, *y = b;
    return (x->partition > y->partition) - (x->partition < y->partition);
}

static void copy_id(const rd_kafka_Uuid_t *id, char out[32])
{
    const char *text = id ? rd_kafka_Uuid_base64str(id) : NULL;
    size_t n = 0;
    /* The library writes the standard alphabet in some versions; ours is the one for names and URLs. */
    for (; text && text[n] && text[n] != '=' && n < 31; n++)
        out[n] = text[n] == '+' ? '-' : text[n] == '/' ? '_' : text[n];
    out[n] = 0;
}

static void copy_topic(const rd_kafka_TopicDescription_t *d, struct kafka_topic_info *t)
{
    t->name = mem_strdup(rd_kafka_TopicDescription_name(d));
    const rd_kafka_error_t *error = rd_kafka_TopicDescription_error(d);
    t->code = error ? kafka_code(rd_kafka_error_code(error)) : 0;
    if (t->code)
        return;
    copy_id(rd_kafka_TopicDescription_topic_id(d), t->id);
    size_t n, m;
    const rd_kafka_TopicPartitionInfo_t **parts = rd_kafka_TopicDescription_partitions(d, &n);
    t->partitions = MEM_ARRAY(struct kafka_topic_partition_info, n + 1);
    t->partitions_n = n;
    for (size_t i = 0; i < n; i++) {
        struct kafka_topic_partition_info *p = &t->partitions[i];
        const rd_kafka_Node_t *leader = rd_kafka_TopicPartitionInfo_leader(parts[i]);
        p->partition = rd_kafka_TopicPartitionInfo_partition(parts[i]);
        p->leader = leader ? rd_kafka_Node_id(leader) : -1;
        const rd_kafka_Node_t **nodes = rd_kafka_TopicPartitionInfo_replicas(parts[i], &m);
        copy_nodes(nodes, m, &p->replicas, &p->replicas_n);
        nodes = rd_kafka_TopicPartitionInfo_isr(parts[i], &m);
        copy_nodes(nodes, m, &p->isr, &p->isr_n);
    }
    qsort(t->partitions, n, sizeof(*t->partitions), by_partition);
}

static void free_info(struct kafka_topics_info *info)
{
    for (size_t i = 0; i < info->topics_n; i++) {
        struct kafka_topic_info *t = &info->topics[i];
        for (size_t k = 0; k < t->partitions_n; k++) {
            mem_free(t->partitions[k].replicas);
            mem_free(t->partitions[k].isr);
        }
        mem_free(t->partitions);
        mem_free(t->name);
    }
    mem_free(info->topics);
    mem_free(info->brokers);
}

static void on_described(struct op *op, rd_kafka_event_t *ev)
{
    const rd_kafka_DescribeTopics_result_t *result = rd_kafka_event_DescribeTopics_result(ev);
    size_t n;
    const rd_kafka_TopicDescription_t **topics = rd_kafka_DescribeTopics_result_topics(result, &n);
    struct kafka_topics_info info = {.topics = MEM_ARRAY(struct kafka_topic_info, n + 1),
                                     .topics_n = n,
                                     .brokers = op->brokers,
                                     .brokers_n = op->brokers_n};
    for (size_t i = 0; i < n; i++)
        copy_topic(topics[i], &info.topics[i]);
    kafka_topics_fn *done = op->topics;
    void *ctx = op->ctx;
    op->brokers = NULL;
    op_free(op);
    done(ctx, 0, &info);
    free_info(&info);
}

/* ---- orders ---- */
void kafka_admin_create(struct kafka_admin *a, const struct kafka_new_topic *topics, size_t n,
                        kafka_admin_fn *done, void *ctx)
{
    struct op *op = op_new(a, ctx);
    op->order = done;
    if (refused(op))
        return;
    rd_kafka_NewTopic_t **list = MEM_ARRAY(rd_kafka_NewTopic_t *, n + 1);
    size_t used = 0;
    char text[256];
    for (size_t i = 0; i < n; i++) {
        list[used] = rd_kafka_NewTopic_new(topics[i].name, topics[i].partitions,
                                           topics[i].replication, text, sizeof(text));
        if (!list[used])
            continue; /* a name or count that Kafka does not allow: counted below */
        for (size_t k = 0; k < 4 && topics[i].configs[k].key; k++)
            rd_kafka_NewTopic_set_config(list[used], topics[i].configs[k].key,
                                         topics[i].configs[k].value);
        used++;
    }
    if (used == n && n) {
        rd_kafka_AdminOptions_t *o = options(op, RD_KAFKA_ADMIN_OP_CREATETOPICS);
        /* The answer waits until the topics are there, so that the next describe finds them. */
        (void)rd_kafka_AdminOptions_set_operation_timeout(o, (int)a->timeout_ms, text,
                                                          sizeof(text));
        rd_kafka_CreateTopics(kafka_core_rk(a->core), list, n, o, kafka_core_queue(a->core));
        rd_kafka_AdminOptions_destroy(o);
    } else {
        op_end_later(op, n ? ERR_CONFIG : 0);
    }
    rd_kafka_NewTopic_destroy_array(list, used);
    mem_free(list);
}

void kafka_admin_grow(struct kafka_admin *a, const char *topic, int partitions,
                      kafka_admin_fn *done, void *ctx)
{
    struct op *op = op_new(a, ctx);
    op->order = done;
    if (refused(op))
        return;
    char text[256];
    rd_kafka_NewPartitions_t *np =
        rd_kafka_NewPartitions_new(topic, (size_t)partitions, text, sizeof(text));
    if (!np) {
        op_end_later(op, ERR_CONFIG);
        return;
    }
    rd_kafka_AdminOptions_t *o = options(op, RD_KAFKA_ADMIN_OP_CREATEPARTITIONS);
    rd_kafka_CreatePartitions(kafka_core_rk(a->core), &np, 1, o, kafka_core_queue(a->core));
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_NewPartitions_destroy(np);
}

/* The first topic that failed decides; what is there already is what was asked for. */
static void on_ordered(struct op *op, const rd_kafka_topic_result_t **results, size_t n)
{
    int rc = 0;
    char *text = NULL;
    for (size_t i = 0; i < n && !rc; i++) {
        rd_kafka_resp_err_t err = rd_kafka_topic_result_error(results[i]);
        if (!err || err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS ||
            err == RD_KAFKA_RESP_ERR_INVALID_PARTITIONS)
            continue;
        const char *why = rd_kafka_topic_result_error_string(results[i]);
        rc = kafka_code(err);
        text = mem_printf("%s: %s", rd_kafka_topic_result_name(results[i]),
                          why ? why : rd_kafka_err2str(err));
    }
    kafka_admin_fn *done = op->order;
    void *ctx = op->ctx;
    op_free(op);
    done(ctx, rc, text ? text : "");
    mem_free(text);
}

static void on_created(struct op *op, rd_kafka_event_t *ev)
{
    size_t n;
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &n);
    on_ordered(op, results, n);
}

static void on_grown(struct op *op, rd_kafka_event_t *ev)
{
    size_t n;
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(ev), &n);
    on_ordered(op, results, n);
}

/* ---- offsets ---- */
void kafka_admin_offsets(struct kafka_admin *a, const struct kafka_partition *parts, size_t n,
                         bool earliest, kafka_offsets_fn *done, void *ctx)
{
    struct op *op = op_new(a, ctx);
    op->offsets = done;
    if (!n) {
        op_end_later(op, 0);
        return;
    }
    if (refused(op))
        return;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, parts[i].topic, parts[i].partition)->offset =
            earliest ? RD_KAFKA_OFFSET_SPEC_EARLIEST : RD_KAFKA_OFFSET_SPEC_LATEST;
    rd_kafka_AdminOptions_t *o = options(op, RD_KAFKA_ADMIN_OP_LISTOFFSETS);
    /* The same end that a consumer reads up to. */
    rd_kafka_error_t *error =
        rd_kafka_AdminOptions_set_isolation_level(o, RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED);
    if (error)
        rd_kafka_error_destroy(error);
    rd_kafka_ListOffsets(kafka_core_rk(a->core), list, o, kafka_core_queue(a->core));
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_topic_partition_list_destroy(list);
}

static void on_listed_offsets(struct op *op, rd_kafka_event_t *ev)
{
    size_t n;
    const rd_kafka_ListOffsetsResultInfo_t **infos =
        rd_kafka_ListOffsets_result_infos(rd_kafka_event_ListOffsets_result(ev), &n);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++) {
        const rd_kafka_topic_partition_t *t =
            rd_kafka_ListOffsetsResultInfo_topic_partition(infos[i]);
        rd_kafka_topic_partition_t *copy =
            rd_kafka_topic_partition_list_add(list, t->topic, t->partition);
        copy->offset = t->offset;
        copy->err = t->err;
    }
    int rc;
    struct kafka_partition *parts = kafka_parts_from(list, &rc);
    rd_kafka_topic_partition_list_destroy(list);
    kafka_offsets_fn *done = op->offsets;
    void *ctx = op->ctx;
    op_free(op);
    done(ctx, rc, parts, n);
    kafka_parts_free(parts, n);
}

/* ---- configuration ---- */
void kafka_admin_configs(struct kafka_admin *a, const char *topic, kafka_configs_fn *done,
                         void *ctx)
{
    struct op *op = op_new(a, ctx);
    op->configs = done;
    if (refused(op))
        return;
    rd_kafka_ConfigResource_t *r = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    if (!r) {
        op_end_later(op, ERR_NOT_FOUND);
        return;
    }
    rd_kafka_AdminOptions_t *o = options(op, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_DescribeConfigs(kafka_core_rk(a->core), &r, 1, o, kafka_core_queue(a->core));
    rd_kafka_AdminOptions_destroy(o);
    rd_kafka_ConfigResource_destroy(r);
}

static void on_configs(struct op *op, rd_kafka_event_t *ev)
{
    size_t n, m;
    const rd_kafka_ConfigResource_t **r =
        rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(ev), &n);
    rd_kafka_resp_err_t err = n ? rd_kafka_ConfigResource_error(r[0]) : RD_KAFKA_RESP_ERR__FAIL;
    if (err) {
        op_fail(op, kafka_code(err), rd_kafka_err2str(err));
        return;
    }
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(r[0], &m);
    struct kafka_header *configs = MEM_ARRAY(struct kafka_header, m + 1);
    for (size_t i = 0; i < m; i++)
        configs[i] = (struct kafka_header){str_of(rd_kafka_ConfigEntry_name(entries[i])),
                                           str_of(rd_kafka_ConfigEntry_value(entries[i]))};
    kafka_configs_fn *done = op->configs;
    void *ctx = op->ctx;
    op_free(op);
    done(ctx, 0, configs, m);
    mem_free(configs);
}

/* ---- events ---- */
static void on_event(void *ctx, rd_kafka_event_t *ev)
{
    (void)ctx;
    rd_kafka_event_type_t type = rd_kafka_event_type(ev);
    if (type == RD_KAFKA_EVENT_ERROR) {
        LOG(DEBUG, "error_told", KV_STR("text", rd_kafka_event_error_string(ev)));
        return;
    }
    void *opaque = rd_kafka_event_opaque(ev);
    if (!opaque)
        return;
    struct op *op = CHECK_FROM(opaque, struct op, OP_TAG);
    rd_kafka_resp_err_t err = rd_kafka_event_error(ev);
    if (err) {
        op_fail(op, kafka_code(err), rd_kafka_event_error_string(ev));
        return;
    }
    if (type == RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT)
        on_described(op, ev);
    else if (type == RD_KAFKA_EVENT_LISTOFFSETS_RESULT)
        on_listed_offsets(op, ev);
    else if (type == RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT)
        on_configs(op, ev);
    else if (type == RD_KAFKA_EVENT_CREATETOPICS_RESULT)
        on_created(op, ev);
    else if (type == RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT)
        on_grown(op, ev);
}

int kafka_admin_open(struct loop *loop, const struct kafka_admin_opts *o, struct kafka_admin **ret,
                     struct err *e)
{
    struct err local = {0};
    e = e ? e : &local;
    rd_kafka_conf_t *conf = kafka_conf_admin(o, e);
    if (!conf)
        return e->code;
    struct kafka_admin *a = MEM_NEW(struct kafka_admin);
    a->loop = loop;
    a->timeout_ms = o->timeout_ms ? o->timeout_ms : 10000;
    list_init(&a->ops);
    const struct kafka_core_opts co = {.conf = conf, .on_event = on_event, .ctx = a};
    a->core = kafka_core_open(loop, &co, e);
    if (!a->core) {
        mem_free(a);
        return e->code;
    }
    *ret = a;
    return 0;
}

void kafka_admin_close(struct kafka_admin **ret)
{
    struct kafka_admin *a = *ret;
    if (!a)
        return;
    *ret = NULL;
    LIST_EACH (it, tmp, &a->ops)
        op_free(LIST_ENTRY(it, struct op, node));
    kafka_core_close(&a->core);
    mem_free(a);
}
