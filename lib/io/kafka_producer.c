/* kafka_producer: records out, one report for each.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "kafka"
#include "io/kafka_priv.h"

#include "base/check.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

struct kafka_producer {
    struct kafka_core *core;
    kafka_delivery_fn *on_delivery;
    kafka_fatal_fn *on_fatal;
    void (*on_state)(void *ctx, bool up, const char *detail);
    void *ctx;
    struct map *topics;    /* name to rd_kafka_topic_t */
    const char *last_name; /* of the topic used last: records come in runs */
    rd_kafka_topic_t *last;
    size_t queued, queued_bytes;
    bool fatal;
};

static void on_up(void *ctx, bool up, const char *detail)
{
    struct kafka_producer *p = ctx;
    if (p->on_state)
        p->on_state(p->ctx, up, detail);
}

/* Not persisted is the library's word that no broker has it. A record whose time was over is unsure all the same: that word
 * covers what this client knows, and nobody gains by a bet on it. */
static enum kafka_outcome outcome_of(const rd_kafka_message_t *m)
{
    if (!m->err)
        return KAFKA_STORED;
    if (rd_kafka_message_status(m) != RD_KAFKA_MSG_STATUS_NOT_PERSISTED)
        return KAFKA_UNSURE;
    switch (kafka_code(m->err)) {
    case ERR_TOO_LARGE:
    case ERR_NOT_FOUND:
    case ERR_DENIED:
    case ERR_BAD_DATA:
    case ERR_UNSUPPORTED:
        return KAFKA_REFUSED;
    default:
        return KAFKA_UNSURE;
    }
}

static void deliver(struct kafka_producer *p, const rd_kafka_message_t *m)
{
    int64_t ts = m->err ? -1 : rd_kafka_message_timestamp(m, NULL);
    struct kafka_delivery d = {.outcome = outcome_of(m),
                               .partition = m->partition,
                               .offset = m->err ? -1 : m->offset,
                               .timestamp_ms = ts,
                               .code = kafka_code(m->err),
                               .text = m->err ? rd_kafka_err2str(m->err) : ""};
    p->queued--;
    p->queued_bytes -= m->len + m->key_len;
    p->on_delivery(p->ctx, m->_private, &d);
}

static void on_reports(struct kafka_producer *p, rd_kafka_event_t *ev)
{
    struct kafka_core *core = p->core;
    const rd_kafka_message_t *m;
    while (!kafka_core_closing(core) && (m = rd_kafka_event_message_next(ev))) {
        if (!m->err && !kafka_core_up(core)) {
            kafka_core_seen(core);
            if (kafka_core_closing(core))
                return;
        }
        deliver(p, m);
    }
}

static void on_error(struct kafka_producer *p, rd_kafka_event_t *ev)
{
    char text[512];
    if (!rd_kafka_event_error_is_fatal(ev)) {
        LOG(DEBUG, "error_told", KV_STR("text", rd_kafka_event_error_string(ev)));
        return;
    }
    if (p->fatal)
        return;
    p->fatal = true;
    rd_kafka_fatal_error(kafka_core_rk(p->core), text, sizeof(text));
    if (p->on_fatal)
        p->on_fatal(p->ctx, text);
}

static void on_event(void *ctx, rd_kafka_event_t *ev)
{
    struct kafka_producer *p = ctx;
    switch (rd_kafka_event_type(ev)) {
    case RD_KAFKA_EVENT_DR:
        on_reports(p, ev);
        break;
    case RD_KAFKA_EVENT_ERROR:
        on_error(p, ev);
        break;
    default:
        break;
    }
}

int kafka_producer_open(struct loop *loop, const struct kafka_producer_opts *o,
                        struct kafka_producer **ret, struct err *e)
{
    struct err local = {0};
    e = e ? e : &local;
    rd_kafka_conf_t *conf = kafka_conf_producer(o, e);
    if (!conf)
        return e->code;
    struct kafka_producer *p = MEM_NEW(struct kafka_producer);
    p->on_delivery = o->on_delivery, p->on_fatal = o->on_fatal, p->on_state = o->on_state;
    p->ctx = o->ctx;
    const struct kafka_core_opts co = {
        .conf = conf, .on_event = on_event, .on_state = on_up, .ctx = p};
    p->core = kafka_core_open(loop, &co, e);
    if (!p->core) {
        mem_free(p);
        return e->code;
    }
    p->topics = map_new();
    *ret = p;
    return 0;
}

static rd_kafka_topic_t *topic_of(struct kafka_producer *p, const char *name)
{
    if (p->last && !strcmp(p->last_name, name))
        return p->last;
    rd_kafka_topic_t *t = map_get(p->topics, str_of(name));
    if (!t) {
        t = rd_kafka_topic_new(kafka_core_rk(p->core), name, NULL);
        if (!t)
            return NULL;
        map_put(p->topics, str_of(name), t);
    }
    p->last = t;
    p->last_name = rd_kafka_topic_name(t);
    return t;
}

static rd_kafka_headers_t *headers_of(const struct kafka_record *rec)
{
    rd_kafka_headers_t *h = rd_kafka_headers_new(rec->headers_n);
    for (size_t i = 0; i < rec->headers_n; i++) {
        const struct kafka_header *x = &rec->headers[i];
        if (rd_kafka_header_add(h, x->name.p, (ssize_t)x->name.n, x->value.p,
                                (ssize_t)x->value.n)) {
            rd_kafka_headers_destroy(h);
            return NULL;
        }
    }
    return h;
}

static int code_of_produce(struct kafka_producer *p, rd_kafka_error_t *error)
{
    char text[8];
    bool fatal = rd_kafka_fatal_error(kafka_core_rk(p->core), text, sizeof(text));
    int rc = kafka_code(rd_kafka_error_code(error));
    rd_kafka_error_destroy(error);
    return fatal ? ERR_FATAL : rc;
}

int kafka_produce(struct kafka_producer *p, const struct kafka_record *rec, void *record)
{
    rd_kafka_topic_t *topic = topic_of(p, rec->topic);
    if (!topic)
        return ERR_NOT_FOUND; /* a name that Kafka does not allow */
    rd_kafka_vu_t v[8];
    size_t n = 0;
    v[n].vtype = RD_KAFKA_VTYPE_RKT, v[n++].u.rkt = topic;
    v[n].vtype = RD_KAFKA_VTYPE_PARTITION;
    v[n++].u.i32 = rec->partition < 0 ? RD_KAFKA_PARTITION_UA : rec->partition;
    v[n].vtype = RD_KAFKA_VTYPE_MSGFLAGS,
    v[n++].u.i = rec->give ? RD_KAFKA_MSG_F_FREE : RD_KAFKA_MSG_F_COPY;
    v[n].vtype = RD_KAFKA_VTYPE_OPAQUE, v[n++].u.ptr = record;
    v[n].vtype = RD_KAFKA_VTYPE_VALUE;
    v[n].u.mem.ptr = (void *)(uintptr_t)rec->value.p, v[n++].u.mem.size = rec->value.n;
    if (rec->key.p) {
        v[n].vtype = RD_KAFKA_VTYPE_KEY;
        v[n].u.mem.ptr = (void *)(uintptr_t)rec->key.p, v[n++].u.mem.size = rec->key.n;
    }
    if (rec->timestamp_ms)
        v[n].vtype = RD_KAFKA_VTYPE_TIMESTAMP, v[n++].u.i64 = rec->timestamp_ms;
    rd_kafka_headers_t *headers = NULL;
    if (rec->headers_n) {
        headers = headers_of(rec);
        if (!headers)
            return ERR_BAD_DATA;
        v[n].vtype = RD_KAFKA_VTYPE_HEADERS, v[n++].u.headers = headers;
    }
    rd_kafka_error_t *error = rd_kafka_produceva(kafka_core_rk(p->core), v, n);
    if (error) {
        if (headers)
            rd_kafka_headers_destroy(headers); /* taken on success only */
        return code_of_produce(p, error);
    }
    p->queued++;
    p->queued_bytes += rec->key.n + rec->value.n;
    return 0;
}

size_t kafka_producer_queued(const struct kafka_producer *p)
{
    return p->queued;
}

size_t kafka_producer_queued_bytes(const struct kafka_producer *p)
{
    return p->queued_bytes;
}

void kafka_producer_close(struct kafka_producer **ret)
{
    struct kafka_producer *p = *ret;
    if (!p)
        return;
    *ret = NULL;
    struct str name;
    void *topic;
    for (size_t i = 0; map_next(p->topics, &i, &name, &topic);)
        rd_kafka_topic_destroy(topic);
    map_free(&p->topics);
    rd_kafka_purge(kafka_core_rk(p->core), RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                                               RD_KAFKA_PURGE_F_NON_BLOCKING);
    kafka_core_close(&p->core);
    mem_free(p);
}
