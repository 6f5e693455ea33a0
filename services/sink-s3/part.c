/* part: one clean partition: where it begins, the spans that come, the holes that they leave. See sink.h for its states.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "sink"
#include "sink-s3/sink.h"

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include <inttypes.h>

struct recheck {
    int64_t wanted; /* of the table's log */
};

static void ask_committed(void *ctx);

static void part_set_state(struct part *p, enum part_state state)
{
    static const char *const names[] = {"ASKING",  "REFRESHING", "FIRST",
                                        "READING", "WAITING",    "STOPPED"};
    if (p->state == state)
        return;
    LOG(DEBUG, "partition_state", KV_STR("topic", p->m.topic), KV_INT("partition", p->m.partition),
        KV_STR("from", names[p->state]), KV_STR("to", names[state]));
    p->state = state;
    sink_say_ready(p->sink);
}

static void hole_free(struct hole *h)
{
    list_remove(&h->node);
    mem_free(h->source);
    mem_free(h);
}

static void drop_holes(struct part *p)
{
    LIST_EACH (it, tmp, &p->holes) {
        metric_add(app_metrics(p->sink->app), M_HOLES, 0, -1);
        hole_free(LIST_ENTRY(it, struct hole, node));
    }
}

static void part_forget_rechecks(struct part *p)
{
    size_t i = 0;
    struct str key;
    void *value;
    while (map_next(p->rechecked, &i, &key, &value))
        mem_free(value);
    map_free(&p->rechecked);
    p->rechecked = map_new();
}

void part_free(struct member_part *mp)
{
    struct part *p = PART(mp);
    struct metrics *m = app_metrics(p->sink->app);
    char number[16];
    snprintf(number, sizeof(number), "%d", mp->partition);
    metric_hide(m, M_NEXT, metric_series(m, M_NEXT, mp->topic, number));
    metric_hide(m, M_LAG, metric_series(m, M_LAG, mp->topic, number));
    table_drop_partition(p->table, mp->partition);
    drop_holes(p);
    part_forget_rechecks(p);
    map_free(&p->rechecked);
    member_part_deinit(mp);
    mem_free(p);
}

void part_new(void *ctx, const char *topic, int32_t partition)
{
    struct sink *s = ctx;
    const struct dataset *d = dataset_of_clean_topic(app_common(s->app)->user, topic);
    CHECK(d); /* only clean topics are subscribed to */
    struct part *p = MEM_NEW(struct part);
    member_part_init(s->member, &p->m, topic, partition);
    p->sink = s;
    p->table = s->tables[d->id];
    p->stored = p->hold = -1;
    p->rechecked = map_new();
    list_init(&p->holes);
    ask_committed(p);
}

/* ---------------------------------------------------------------- where to begin */

static void ask_later(struct part *p, int rc, const char *step)
{
    part_set_state(p, PART_WAITING);
    member_retry(&p->m, rc, step, ask_committed);
}

static void on_committed(void *ask, int rc, const struct kafka_partition *parts, size_t n);
static void on_refreshed(void *ask, int rc);
static void on_first(void *ask, int rc, const struct kafka_partition *parts, size_t n);

static void ask_committed(void *ctx)
{
    struct part *p = ctx;
    part_set_state(p, PART_ASKING);
    member_ask_committed(&p->m, on_committed);
}

static void part_refresh(struct part *p)
{
    part_set_state(p, PART_REFRESHING);
    table_refresh(p->table, on_refreshed, member_ask(&p->m));
}

static void on_committed(void *ask, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = PART(member_answer(ask));
    if (!p)
        return;
    if (rc || n != 1) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "committed");
        return;
    }
    p->m.committed = p->m.commit_sent = parts[0].offset >= 0 ? parts[0].offset : -1;
    part_refresh(p);
}

/* Reads on from `offset`; everything that waits of this partition is judged anew. */
static void part_read(struct part *p, int64_t offset)
{
    table_drop_partition(p->table, p->m.partition);
    p->m.tries = 0;
    p->from_beginning = false;
    p->next = offset;
    p->stored = -1;
    p->hold = -1;
    drop_holes(p);
    member_begin(&p->m, offset);
    LOG(INFO, "partition_begun", KV_STR("topic", p->m.topic), KV_INT("partition", p->m.partition),
        KV_INT("offset", offset));
    part_set_state(p, PART_READING);
}

static void on_refreshed(void *ask, int rc)
{
    struct part *p = PART(member_answer(ask));
    if (!p)
        return;
    if (rc) { /* another table: what it holds decides, from the beginning */
        part_forget_rechecks(p);
        p->from_beginning = true;
        part_refresh(p);
        return;
    }
    if (p->m.committed >= 0 && !p->from_beginning) {
        part_read(p, p->m.committed);
        return;
    }
    part_set_state(p, PART_FIRST);
    member_ask_first(&p->m, on_first);
}

static void on_first(void *ask, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = PART(member_answer(ask));
    if (!p)
        return;
    if (rc || n != 1 || parts[0].offset < 0) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "first_offset");
        return;
    }
    part_read(p, parts[0].offset);
}

/* Reads the tables' logs to their ends, and the clean partition once more from its beginning. */
static void part_from_beginning(struct part *p)
{
    table_drop_partition(p->table, p->m.partition);
    p->from_beginning = true;
    part_refresh(p);
}

/* ---------------------------------------------------------------- holes */

static void hole_open(struct part *p, const struct span *span, int64_t wanted, int64_t offset)
{
    struct metrics *m = app_metrics(p->sink->app);
    if (p->hold < 0)
        p->hold = offset;
    LIST_EACH (it, tmp, &p->holes) {
        struct hole *h = LIST_ENTRY(it, struct hole, node);
        if (str_is(span->source, h->source))
            return;
    }
    struct hole *h = MEM_NEW(struct hole);
    h->source = mem_strndup(span->source.p, span->source.n);
    h->wanted = wanted;
    h->from = span->from;
    list_push(&p->holes, &h->node);
    metric_add(m, M_HOLES_TOTAL, 0, 1);
    metric_add(m, M_HOLES, 0, 1);
    LOG(ERROR, "hole_found", KV_STR("source", h->source), KV_INT("wanted", wanted),
        KV_INT("from", span->from));
    sink_say_ready(p->sink);
}

static void hole_close(struct part *p, struct str source)
{
    LIST_EACH (it, tmp, &p->holes) {
        struct hole *h = LIST_ENTRY(it, struct hole, node);
        if (!str_is(source, h->source))
            continue;
        LOG(INFO, "hole_closed", KV_STR("source", h->source), KV_INT("wanted", h->wanted));
        metric_add(app_metrics(p->sink->app), M_HOLES, 0, -1);
        hole_free(h);
    }
    if (list_empty(&p->holes))
        p->hold = -1;
    sink_say_ready(p->sink);
}

/* Whether this hole is to be looked at once more: once per wanted position of the table. */
static bool wants_recheck(struct part *p, struct str source)
{
    int64_t stored = table_wanted_stored(p->table, source);
    struct recheck *r = map_get(p->rechecked, source);
    if (r && r->wanted == stored)
        return false;
    if (!r) {
        r = MEM_NEW(struct recheck);
        map_put(p->rechecked, source, r);
    }
    r->wanted = stored;
    return true;
}

/* ---------------------------------------------------------------- spans */

static void stop_part(struct part *p, int64_t offset, const struct err *e)
{
    LOG(ERROR, "span_broken", KV_STR("topic", p->m.topic), KV_INT("partition", p->m.partition),
        KV_INT("offset", offset), KV_STR("detail", e->text));
    metric_add(app_metrics(p->sink->app), M_BROKEN_SPANS, 0, 1);
    p->hold = p->hold < 0 ? offset : p->hold;
    member_hold(&p->m);
    part_set_state(p, PART_STOPPED);
}

/* False: the partition is read from elsewhere now. */
static bool take_span(struct part *p, const struct span *span, int64_t offset)
{
    int64_t known = table_wanted(p->table, span->source);
    int64_t wanted = known == BATCH_UNKNOWN ? 0 : known;
    switch (batch_judge(wanted, span)) {
    case BATCH_DROP:
        metric_add(app_metrics(p->sink->app), M_DROPPED, span->dataset->id, 1);
        return true;
    case BATCH_HOLE:
        if (wants_recheck(p, span->source)) {
            LOG(WARN, "hole_rechecked", KV_SLICE("source", span->source), KV_INT("wanted", wanted),
                KV_INT("from", span->from));
            metric_add(app_metrics(p->sink->app), M_RECHECKS, 0, 1);
            part_from_beginning(p);
            return false;
        }
        hole_open(p, span, wanted, offset);
        return true;
    case BATCH_TAKE:
        if (!list_empty(&p->holes))
            hole_close(p, span->source);
        if (span->lost && span->from == 0)
            LOG(INFO, "source_begins_at", KV_SLICE("source", span->source),
                KV_INT("position", span->to));
        table_take(p->table, span, p->m.partition);
        return true;
    }
    return true;
}

void part_message(struct member_part *mp, const struct kafka_message *m)
{
    struct part *p = PART(mp);
    struct sink *s = p->sink;
    if (s->draining || p->state != PART_READING || m->offset < p->next)
        return;
    struct span span;
    struct err e = {.code = 0};
    int rc = m->value.p ? span_parse(m->value, &span, &e) : ERR_BAD_DATA;
    if (m->offset >= p->end)
        p->end = m->offset + 1;
    if (rc == ERR_CORRUPT ||
        (!rc && dataset_of_clean_topic(app_common(s->app)->user, m->topic) != span.dataset)) {
        if (!rc)
            err_set(&e, ERR_CORRUPT, "a span of dataset %s", span.dataset->name);
        stop_part(p, m->offset, &e);
        return;
    }
    if (rc) {
        metric_add(app_metrics(s->app), M_NOT_SPANS, 0, 1);
        LOG(WARN, "message_skipped", KV_STR("topic", p->m.topic),
            KV_INT("partition", p->m.partition), KV_INT("offset", m->offset));
    } else {
        metric_add(app_metrics(s->app), M_SPANS, span.dataset->id, 1);
        if (!take_span(p, &span, m->offset))
            return;
    }
    p->next = m->offset + 1;
    table_pass(p->table, p->m.partition, p->next);
}

void part_end_of_log(struct member_part *mp, int64_t end)
{
    struct part *p = PART(mp);
    if (p->state != PART_READING)
        return;
    p->end = end;
    if (end <= p->next)
        return;
    p->next = end; /* offsets without a message */
    table_pass(p->table, p->m.partition, p->next);
}

void part_out_of_range(struct member_part *mp, int64_t offset)
{
    struct part *p = PART(mp);
    if (p->state != PART_READING)
        return;
    /* The spans from the beginning on say what is missing. */
    LOG(WARN, "offset_out_of_range", KV_STR("topic", p->m.topic),
        KV_INT("partition", p->m.partition), KV_INT("offset", offset));
    part_from_beginning(p);
}

int64_t part_due(const struct member_part *mp, char **ret_metadata)
{
    const struct part *p = CONST_PART(mp);
    (void)ret_metadata;
    return p->hold >= 0 && p->hold < p->stored ? p->hold : p->stored;
}

void part_table_reset(struct part *p)
{
    if (p->state == PART_STOPPED)
        return;
    part_forget_rechecks(p);
    if (p->state == PART_READING)
        part_from_beginning(p);
    else
        p->from_beginning = true;
}
