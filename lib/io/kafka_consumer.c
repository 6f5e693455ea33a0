/* kafka_consumer: records in, partition by partition.
 *
 * What the library thinks it reads (the assignment) and what the owner wants to hear are two things; this table is the second:
 *
 * state     the partition                                    messages pass   moves on in
 * OFFERED   is ours by the group; the owner has not begun    no              kafka_consumer_take
 * TAKEN     is read                                          yes             revocation, kafka_consumer_release
 * LEAVING   was revoked; the owner has not let go yet        no              kafka_consumer_release (of all that were revoked)
 *
 * The group's assignment is answered at once with nothing to read, and partitions are added one by one when they are taken, so
 * that an owner who still asks the table where to begin holds up nobody's rebalance. A revocation is answered when all of its partitions
 * were released.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "kafka"
#include "io/kafka_priv.h"

#include "base/log.h"
#include "base/mem.h"

/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

enum { LEAVE_TICK_MS = 20 };

enum part_state { OFFERED, TAKEN, LEAVING };

struct part {
    char *topic;
    int32_t partition;
    enum part_state state;
    bool assigned; /* the library reads it */
    bool paused;
    int64_t next;    /* nothing below it passes */
    const void *rkt; /* the library's handle, once seen: spares the comparison of names */
};

struct kafka_consumer {
    struct kafka_core *core;
    struct kafka_consumer_callbacks cb;
    void *ctx;
    struct part *parts;
    size_t parts_n, parts_cap, last;
    size_t leaving; /* partitions of the revocation that is not answered yet */
    bool revoking, subscribed, left, leaving_group, fatal;
    struct kafka_offsets offsets;
};

/* ---- the table ---- */
static struct part *find(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    for (size_t i = 0; i < c->parts_n; i++)
        if (c->parts[i].partition == partition && !strcmp(c->parts[i].topic, topic))
            return &c->parts[i];
    return NULL;
}

static struct part *find_message(struct kafka_consumer *c, const rd_kafka_message_t *m)
{
    if (c->last < c->parts_n && c->parts[c->last].rkt == m->rkt &&
        c->parts[c->last].partition == m->partition)
        return &c->parts[c->last];
    struct part *part = find(c, rd_kafka_topic_name(m->rkt), m->partition);
    if (part) {
        part->rkt = m->rkt;
        c->last = (size_t)(part - c->parts);
    }
    return part;
}

static struct part *add(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    struct part *part = find(c, topic, partition);
    if (part)
        return part;
    if (c->parts_n == c->parts_cap) {
        size_t cap = c->parts_cap ? 2 * c->parts_cap : 8;
        c->parts = mem_realloc(c->parts, c->parts_cap * sizeof(*c->parts), cap * sizeof(*c->parts));
        c->parts_cap = cap;
    }
    part = &c->parts[c->parts_n++];
    *part = (struct part){.topic = mem_strdup(topic), .partition = partition};
    return part;
}

static void drop(struct kafka_consumer *c, struct part *part)
{
    mem_free(part->topic);
    *part = c->parts[--c->parts_n];
    c->last = 0;
}

/* ---- the library's assignment ---- */
static void log_failure(const char *what, rd_kafka_error_t *error)
{
    if (!error)
        return;
    LOG(WARN, "assignment_failed", KV_STR("call", what),
        KV_STR("error", rd_kafka_error_string(error)));
    rd_kafka_error_destroy(error);
}

static void library_add(struct kafka_consumer *c, struct part *part)
{
    struct kafka_partition p = {
        .topic = part->topic, .partition = part->partition, .offset = part->next};
    rd_kafka_topic_partition_list_t *list = kafka_list_new(&p, 1);
    rd_kafka_error_t *error = rd_kafka_incremental_assign(kafka_core_rk(c->core), list);
    part->assigned = !error;
    log_failure("incremental_assign", error);
    if (part->assigned && part->paused)
        rd_kafka_pause_partitions(kafka_core_rk(c->core), list);
    rd_kafka_topic_partition_list_destroy(list);
}

static void library_remove(struct kafka_consumer *c, struct part *part)
{
    if (!part->assigned)
        return;
    struct kafka_partition p = {.topic = part->topic, .partition = part->partition};
    rd_kafka_topic_partition_list_t *list = kafka_list_new(&p, 1);
    log_failure("incremental_unassign",
                rd_kafka_incremental_unassign(kafka_core_rk(c->core), list));
    part->assigned = false;
    rd_kafka_topic_partition_list_destroy(list);
}

/* Answers a revocation: one call with all of its partitions that the library reads, and the rebalance goes on. */
static void answer_revocation(struct kafka_consumer *c)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    for (size_t i = c->parts_n; i-- > 0;) {
        struct part *part = &c->parts[i];
        if (part->state != LEAVING)
            continue;
        if (part->assigned)
            rd_kafka_topic_partition_list_add(list, part->topic, part->partition);
        drop(c, part);
    }
    c->revoking = false;
    log_failure("incremental_unassign",
                rd_kafka_incremental_unassign(kafka_core_rk(c->core), list));
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- calls of the owner ---- */
void kafka_consumer_take(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct part *part = find(c, parts[i].topic, parts[i].partition);
        if (!part && !c->subscribed)
            part = add(c, parts[i].topic, parts[i].partition);
        if (!part || part->state != OFFERED)
            continue; /* it was revoked meanwhile, or is read already */
        part->state = TAKEN;
        part->next = parts[i].offset < 0 ? 0 : parts[i].offset;
        library_add(c, part);
    }
}

void kafka_consumer_release(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct part *part = find(c, parts[i].topic, parts[i].partition);
        if (!part)
            continue;
        if (part->state == LEAVING) {
            if (part->next >= 0) { /* not counted twice */
                part->next = -1;
                c->leaving--;
            }
        } else if (c->subscribed) { /* by the owner's own wish: stays offered */
            library_remove(c, part);
            part->state = OFFERED;
        } else {
            library_remove(c, part);
            drop(c, part);
        }
    }
    if (c->revoking && !c->leaving)
        answer_revocation(c);
}

void kafka_consumer_seek(struct kafka_consumer *c, const char *topic, int32_t partition,
                         int64_t offset)
{
    struct part *part = find(c, topic, partition);
    if (!part || part->state != TAKEN)
        return;
    /* Taking it out and in again raises the library's version of the partition: what is queued of the old one is thrown away there.
     * rd_kafka_seek_partitions would wait for a broker. */
    library_remove(c, part);
    part->next = offset < 0 ? 0 : offset;
    library_add(c, part);
}

static void set_paused(struct kafka_consumer *c, const char *topic, int32_t partition, bool paused)
{
    struct part *part = find(c, topic, partition);
    if (!part || part->paused == paused)
        return;
    part->paused = paused;
    if (!part->assigned)
        return;
    struct kafka_partition p = {.topic = part->topic, .partition = partition};
    rd_kafka_topic_partition_list_t *list = kafka_list_new(&p, 1);
    if (paused)
        rd_kafka_pause_partitions(kafka_core_rk(c->core), list);
    else
        rd_kafka_resume_partitions(kafka_core_rk(c->core), list);
    rd_kafka_topic_partition_list_destroy(list);
}

void kafka_consumer_pause(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    set_paused(c, topic, partition, true);
}

void kafka_consumer_resume(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    set_paused(c, topic, partition, false);
}

void kafka_consumer_committed(struct kafka_consumer *c, const struct kafka_partition *parts,
                              size_t n, uint64_t timeout_ms, kafka_offsets_fn *done, void *ctx)
{
    kafka_offsets_ask(&c->offsets, parts, n, timeout_ms, done, ctx);
}

void kafka_consumer_commit(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n,
                           kafka_offsets_fn *done, void *ctx)
{
    kafka_offsets_commit(&c->offsets, parts, n, done, ctx);
}

/* ---- events ---- */
static struct str opt(const void *p, size_t n)
{
    return p ? str_make(p, n) : (struct str){0};
}

static void on_message(struct kafka_consumer *c, const rd_kafka_message_t *m)
{
    struct part *part = find_message(c, m);
    if (!part || part->state != TAKEN || m->offset < part->next)
        return;
    part->next = m->offset + 1;
    rd_kafka_timestamp_type_t type;
    int64_t ts = rd_kafka_message_timestamp(m, &type);
    const struct kafka_message msg = {
        .topic = part->topic,
        .partition = m->partition,
        .offset = m->offset,
        .timestamp_ms = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : ts,
        .key = opt(m->key, m->key_len),
        .value = opt(m->payload, m->len),
        .native = (void *)(uintptr_t)m,
    };
    c->cb.on_message(c->ctx, &msg);
}

static void on_fetched(struct kafka_consumer *c, rd_kafka_event_t *ev)
{
    struct kafka_core *core = c->core;
    const rd_kafka_message_t *m;
    kafka_core_seen(core);
    while (!kafka_core_closing(core) && (m = rd_kafka_event_message_next(ev)))
        if (!m->err)
            on_message(c, m);
}

bool kafka_message_header(const struct kafka_message *m, const char *name, struct str *ret_value)
{
    rd_kafka_headers_t *headers;
    const void *value;
    size_t n;
    if (rd_kafka_message_headers(m->native, &headers) ||
        rd_kafka_header_get_last(headers, name, &value, &n))
        return false;
    *ret_value = opt(value, n);
    return true;
}

static void on_partition_error(struct kafka_consumer *c, rd_kafka_resp_err_t err, const char *topic,
                               int32_t partition, int64_t offset)
{
    struct part *part = find(c, topic, partition);
    if (!part || part->state != TAKEN)
        return;
    if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        if (offset >= part->next && c->cb.on_end)
            c->cb.on_end(c->ctx, part->topic, partition, offset);
        return;
    }
    if (err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
        err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) {
        LOG(DEBUG, "offset_out_of_range", KV_STR("topic", topic), KV_INT("partition", partition),
            KV_INT("offset", part->next));
        if (c->cb.on_out_of_range)
            c->cb.on_out_of_range(c->ctx, part->topic, partition, part->next);
        return;
    }
    LOG(DEBUG, "partition_error_told", KV_STR("topic", topic), KV_INT("partition", partition),
        KV_STR("error", rd_kafka_err2name(err)));
}

static void on_fatal(struct kafka_consumer *c)
{
    char text[512];
    if (c->fatal)
        return;
    c->fatal = true;
    rd_kafka_resp_err_t err = rd_kafka_fatal_error(kafka_core_rk(c->core), text, sizeof(text));
    bool fenced = err == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID;
    if (c->cb.on_fatal)
        c->cb.on_fatal(c->ctx, fenced ? ERR_CONFLICT : ERR_FATAL, text);
}

static void on_error(struct kafka_consumer *c, rd_kafka_event_t *ev)
{
    rd_kafka_resp_err_t err = rd_kafka_event_error(ev);
    if (rd_kafka_event_error_is_fatal(ev) || err == RD_KAFKA_RESP_ERR__FATAL) {
        on_fatal(c);
        return;
    }
    rd_kafka_topic_partition_t *t = rd_kafka_event_topic_partition(ev);
    if (!t) {
        LOG(DEBUG, "error_told", KV_STR("text", rd_kafka_event_error_string(ev)));
        return;
    }
    char *topic = mem_strdup(t->topic); /* the callback may end everything */
    int32_t partition = t->partition;
    int64_t offset = t->offset;
    rd_kafka_topic_partition_destroy(t);
    on_partition_error(c, err, topic, partition, offset);
    mem_free(topic);
}

/* ---- rebalances ---- */
static void tell(struct kafka_consumer *c, enum kafka_assign_kind kind,
                 const rd_kafka_topic_partition_list_t *list)
{
    int rc;
    size_t n = (size_t)list->cnt;
    struct kafka_partition *parts = kafka_parts_from(list, &rc);
    for (size_t i = 0; i < n; i++)
        parts[i].offset = -1;
    if (c->cb.on_assign)
        c->cb.on_assign(c->ctx, kind, parts, n);
    kafka_parts_free(parts, n);
}

static void on_assigned(struct kafka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_topic_partition_list_t *none = rd_kafka_topic_partition_list_new(1);
    log_failure("incremental_assign", rd_kafka_incremental_assign(kafka_core_rk(c->core), none));
    rd_kafka_topic_partition_list_destroy(none);
    for (int i = 0; i < list->cnt; i++)
        add(c, list->elems[i].topic, list->elems[i].partition);
    if (list->cnt)
        tell(c, KAFKA_ASSIGNED, list);
}

static void on_revoked(struct kafka_consumer *c, const rd_kafka_topic_partition_list_t *list)
{
    bool lost = rd_kafka_assignment_lost(kafka_core_rk(c->core));
    c->revoking = true;
    c->leaving = 0;
    for (int i = 0; i < list->cnt; i++) {
        struct part *part = find(c, list->elems[i].topic, list->elems[i].partition);
        if (!part)
            continue;
        part->state = LEAVING;
        part->next = 0;
        c->leaving++;
    }
    if (lost || !c->leaving || !c->cb.on_assign)
        answer_revocation(c);
    if (list->cnt)
        tell(c, lost ? KAFKA_LOST : KAFKA_REVOKED, list);
}

static void on_rebalance(struct kafka_consumer *c, rd_kafka_event_t *ev)
{
    rd_kafka_resp_err_t err = rd_kafka_event_error(ev);
    rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(ev);
    LOG(DEBUG, "rebalanced", KV_STR("what", rd_kafka_err2name(err)),
        KV_INT("partitions", list->cnt));
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        on_assigned(c, list);
    else
        on_revoked(c, list);
}

static void on_event(void *ctx, rd_kafka_event_t *ev)
{
    struct kafka_consumer *c = ctx;
    switch (rd_kafka_event_type(ev)) {
    case RD_KAFKA_EVENT_FETCH:
        on_fetched(c, ev);
        break;
    case RD_KAFKA_EVENT_ERROR:
        on_error(c, ev);
        break;
    case RD_KAFKA_EVENT_REBALANCE:
        on_rebalance(c, ev);
        break;
    case RD_KAFKA_EVENT_OFFSET_COMMIT:
        kafka_offsets_on_commit(ev);
        break;
    default:
        break;
    }
}

static void on_up(void *ctx, bool up, const char *detail)
{
    struct kafka_consumer *c = ctx;
    if (c->cb.on_state)
        c->cb.on_state(c->ctx, up, detail);
}

static void on_tick(void *ctx)
{
    struct kafka_consumer *c = ctx;
    if (!c->leaving_group || c->left || !rd_kafka_consumer_closed(kafka_core_rk(c->core)))
        return;
    c->left = true;
    kafka_core_set_tick(c->core, 1000);
    if (c->cb.on_closed)
        c->cb.on_closed(c->ctx);
}

/* ---- life ---- */
static int subscribe(struct kafka_consumer *c, const char *topics, struct err *e)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
    struct str rest = str_of(topics), part;
    while (str_next(&rest, ',', &part)) {
        part = str_trim(part);
        char *name = mem_strndup(part.p, part.n);
        if (part.n)
            rd_kafka_topic_partition_list_add(list, name, RD_KAFKA_PARTITION_UA);
        mem_free(name);
    }
    rd_kafka_resp_err_t err = rd_kafka_subscribe(kafka_core_rk(c->core), list);
    rd_kafka_topic_partition_list_destroy(list);
    if (err)
        return err_set(e, ERR_CONFIG, "kafka subscription: %s", rd_kafka_err2str(err));
    c->subscribed = true;
    return 0;
}

int kafka_consumer_open(struct loop *loop, const struct kafka_consumer_opts *o,
                        struct kafka_consumer **ret, struct err *e)
{
    struct err local = {0};
    e = e ? e : &local;
    rd_kafka_conf_t *conf = kafka_conf_consumer(o, e);
    if (!conf)
        return e->code;
    struct kafka_consumer *c = MEM_NEW(struct kafka_consumer);
    c->cb = *o->cb, c->ctx = o->ctx;
    const struct kafka_core_opts co = {.conf = conf,
                                       .consumer = true,
                                       .on_event = on_event,
                                       .on_state = on_up,
                                       .on_tick = on_tick,
                                       .ctx = c};
    c->core = kafka_core_open(loop, &co, e);
    kafka_offsets_open(&c->offsets, loop, c->core);
    if (!c->core || (o->topics && subscribe(c, o->topics, e))) {
        kafka_consumer_close(&c);
        return e->code;
    }
    *ret = c;
    return 0;
}

void kafka_consumer_leave(struct kafka_consumer *c)
{
    if (c->leaving_group)
        return;
    c->leaving_group = true;
    kafka_core_set_leaving(c->core);
    rd_kafka_error_t *error =
        rd_kafka_consumer_close_queue(kafka_core_rk(c->core), kafka_core_queue(c->core));
    if (error)
        rd_kafka_error_destroy(error); /* closed already: the tick finds it so */
    kafka_core_set_tick(c->core, LEAVE_TICK_MS);
}

void kafka_consumer_close(struct kafka_consumer **ret)
{
    struct kafka_consumer *c = *ret;
    if (!c)
        return;
    *ret = NULL;
    kafka_core_close(&c->core);
    kafka_offsets_close(&c->offsets);
    for (size_t i = 0; i < c->parts_n; i++)
        mem_free(c->parts[i].topic);
    mem_free(c->parts);
    mem_free(c);
}
