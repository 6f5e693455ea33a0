/* sink: partitions, holes, offsets. See sink.h for the map.
 *
 * Memory: spans that wait are counted in bytes over all tables. Above flush.bytes every table is flushed; above twice that every partition
 * pauses, below it they go on.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "sink"
#include "sink-s3/sink.h"

#include "announce.pb-c.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/mem.h"
#include <inttypes.h>

#define ASK_TIMEOUT_MS 5000
#define ASK_BACKOFF_MS 50
#define ASK_BACKOFF_CAP_MS 2000
/* The largest span: four times the largest raw record, as the clean topics allow. */
#define MESSAGE_MAX ((size_t)68 << 20)

/* A question to Kafka or the tables that outlives its partition harmlessly. */
struct ask {
    struct list node;
    struct part *part;
};
struct recheck {
    int64_t wanted; /* of the table's log */
};

static void part_ask(struct part *p);
static void drain_step(struct sink *s);
static void say_ready(struct sink *s);
static void commit_offsets(struct sink *s, struct part *only, kafka_offsets_fn *done);

/* ---------------------------------------------------------------- pausing */

static void pause_all(struct sink *s, bool pause)
{
    if (s->paused == pause)
        return;
    s->paused = pause;
    metric_set(app_metrics(s->app), M_PAUSED, 0, pause);
    metric_add(app_metrics(s->app), M_PAUSES, 0, pause);
    LOG(DEBUG, pause ? "partitions_paused" : "partitions_resumed", KV_INT("bytes", s->buffered));
    LIST_EACH (it, tmp, &s->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (!p->taken || p->paused == pause)
            continue;
        p->paused = pause;
        if (pause)
            kafka_consumer_pause(s->consumer, p->topic, p->partition);
        else
            kafka_consumer_resume(s->consumer, p->topic, p->partition);
    }
}

static void on_bytes(void *ctx, int64_t more)
{
    struct sink *s = ctx;
    s->buffered = (size_t)((int64_t)s->buffered + more);
    if (more >= 0)
        app_memory_add(app_memory(s->app), (uint64_t)more);
    else
        app_memory_sub(app_memory(s->app), (uint64_t)-more);
    if (s->buffered > s->config->flush_bytes) {
        for (int i = 0; i < DATASETS && more > 0; i++)
            table_flush(s->tables[i]);
    }
    if (s->buffered > 2 * s->config->flush_bytes)
        pause_all(s, true);
    else if (s->buffered <= s->config->flush_bytes && !s->draining)
        pause_all(s, false);
    if (more < 0 && s->draining)
        drain_step(s); /* what was dropped, or had nobody to report to, is waited for no more */
}

/* ---------------------------------------------------------------- partitions */

static void part_set_state(struct part *p, enum part_state state)
{
    static const char *const names[] = {"ASKING",  "REFRESHING", "FIRST",
                                        "READING", "WAITING",    "STOPPED"};
    if (p->state == state)
        return;
    LOG(DEBUG, "partition_state", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_STR("from", names[p->state]), KV_STR("to", names[state]));
    p->state = state;
    say_ready(p->sink);
}

static struct part *part_find(struct sink *s, const char *topic, int32_t partition)
{
    LIST_EACH (it, tmp, &s->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (p->partition == partition && !strcmp(p->topic, topic))
            return p;
    }
    return NULL;
}

static struct ask *ask_new(struct part *p)
{
    struct ask *a = MEM_NEW(struct ask);
    if (p->ask)
        p->ask->part = NULL;
    a->part = p;
    p->ask = a;
    list_push(&p->sink->asks, &a->node);
    return a;
}

static struct part *ask_end(struct ask *a)
{
    struct part *p = a->part;
    if (p)
        p->ask = NULL;
    list_remove(&a->node);
    mem_free(a);
    return p;
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

static void forget_rechecks(struct part *p)
{
    size_t i = 0;
    struct str key;
    void *value;
    while (map_next(p->rechecked, &i, &key, &value))
        mem_free(value);
    map_free(&p->rechecked);
    p->rechecked = map_new();
}

static void part_free(struct part *p)
{
    struct metrics *m = app_metrics(p->sink->app);
    char number[16];
    snprintf(number, sizeof(number), "%d", p->partition);
    metric_hide(m, M_NEXT, metric_series(m, M_NEXT, p->topic, number));
    metric_hide(m, M_LAG, metric_series(m, M_LAG, p->topic, number));
    if (p->ask)
        p->ask->part = NULL;
    loop_timer_stop(&p->retry);
    table_drop_partition(p->table, p->partition);
    drop_holes(p);
    forget_rechecks(p);
    map_free(&p->rechecked);
    list_remove(&p->node);
    mem_free(p->topic);
    mem_free(p);
}

static void part_new(struct sink *s, const char *topic, int32_t partition)
{
    const struct dataset *d = dataset_of_clean_topic(app_common(s->app)->user, topic);
    CHECK(d); /* only clean topics are subscribed to */
    struct part *p = MEM_NEW(struct part);
    p->sink = s;
    p->table = s->tables[d->id];
    p->topic = mem_strdup(topic);
    p->partition = partition;
    p->committed = p->commit_sent = p->stored = p->hold = -1;
    p->rechecked = map_new();
    list_init(&p->holes);
    list_push(&s->parts, &p->node);
    part_ask(p);
}

/* ---------------------------------------------------------------- where to begin */

static void on_again(void *ctx)
{
    part_ask(ctx);
}

static void ask_later(struct part *p, int rc, const char *what)
{
    LOG(WARN, "partition_not_begun", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_STR("step", what), KV_ERR(rc));
    part_set_state(p, PART_WAITING);
    loop_timer_start(p->sink->loop, &p->retry,
                     loop_backoff_ms(p->tries++, ASK_BACKOFF_MS, ASK_BACKOFF_CAP_MS), on_again, p);
}

static void on_committed_asked(void *ctx, int rc, const struct kafka_partition *parts, size_t n);
static void on_refreshed(void *ctx, int rc);
static void on_first(void *ctx, int rc, const struct kafka_partition *parts, size_t n);

static void part_ask(struct part *p)
{
    const struct kafka_partition kp = {.topic = p->topic, .partition = p->partition, .offset = -1};
    part_set_state(p, PART_ASKING);
    kafka_consumer_committed(p->sink->consumer, &kp, 1, ASK_TIMEOUT_MS, on_committed_asked,
                             ask_new(p));
}

static void part_refresh(struct part *p)
{
    part_set_state(p, PART_REFRESHING);
    table_refresh(p->table, on_refreshed, ask_new(p));
}

static void on_committed_asked(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = ask_end(ctx);
    if (!p)
        return;
    if (rc || n != 1) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "committed");
        return;
    }
    p->committed = p->commit_sent = parts[0].offset >= 0 ? parts[0].offset : -1;
    part_refresh(p);
}

/* Reads on from `offset`; everything that waits of this partition is judged anew. */
static void part_read(struct part *p, int64_t offset)
{
    struct sink *s = p->sink;
    const struct kafka_partition kp = {
        .topic = p->topic, .partition = p->partition, .offset = offset};
    table_drop_partition(p->table, p->partition);
    p->tries = 0;
    p->from_beginning = false;
    p->next = offset;
    p->stored = -1;
    p->hold = -1;
    drop_holes(p);
    if (p->taken) {
        kafka_consumer_seek(s->consumer, p->topic, p->partition, offset);
    } else {
        kafka_consumer_take(s->consumer, &kp, 1);
        p->taken = true;
        p->paused = false;
    }
    LOG(INFO, "partition_begun", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_INT("offset", offset));
    part_set_state(p, PART_READING);
    if (s->paused && !p->paused) {
        p->paused = true;
        kafka_consumer_pause(s->consumer, p->topic, p->partition);
    }
}

static void on_refreshed(void *ctx, int rc)
{
    struct part *p = ask_end(ctx);
    if (!p)
        return;
    if (rc) { /* another table: what it holds decides, from the beginning */
        forget_rechecks(p);
        p->from_beginning = true;
        part_refresh(p);
        return;
    }
    if (p->committed >= 0 && !p->from_beginning) {
        part_read(p, p->committed);
        return;
    }
    const struct kafka_partition kp = {.topic = p->topic, .partition = p->partition};
    part_set_state(p, PART_FIRST);
    kafka_admin_offsets(p->sink->admin, &kp, 1, true, on_first, ask_new(p));
}

static void on_first(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = ask_end(ctx);
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
    table_drop_partition(p->table, p->partition);
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
    say_ready(p->sink);
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
    say_ready(p->sink);
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
    LOG(ERROR, "span_broken", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_INT("offset", offset), KV_STR("detail", e->text));
    metric_add(app_metrics(p->sink->app), M_BROKEN_SPANS, 0, 1);
    p->hold = p->hold < 0 ? offset : p->hold;
    if (!p->paused)
        kafka_consumer_pause(p->sink->consumer, p->topic, p->partition);
    p->paused = true;
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
        table_take(p->table, span, p->partition);
        return true;
    }
    return true;
}

static void on_message(void *ctx, const struct kafka_message *m)
{
    struct sink *s = ctx;
    struct part *p = part_find(s, m->topic, m->partition);
    if (!p || p->state != PART_READING || m->offset < p->next || s->draining)
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
        LOG(WARN, "message_skipped", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
            KV_INT("offset", m->offset));
    } else {
        metric_add(app_metrics(s->app), M_SPANS, span.dataset->id, 1);
        if (!take_span(p, &span, m->offset))
            return;
    }
    p->next = m->offset + 1;
    table_pass(p->table, p->partition, p->next);
}

static void on_end(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct sink *s = ctx;
    struct part *p = part_find(s, topic, partition);
    if (p && p->state == PART_READING) {
        p->end = offset;
        if (offset > p->next) { /* offsets without a message */
            p->next = offset;
            table_pass(p->table, p->partition, p->next);
        }
    }
}

static void on_out_of_range(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct sink *s = ctx;
    struct part *p = part_find(s, topic, partition);
    if (!p || p->state != PART_READING)
        return;
    /* The spans from the beginning on say what is missing. */
    LOG(WARN, "offset_out_of_range", KV_STR("topic", topic), KV_INT("partition", partition),
        KV_INT("offset", offset));
    part_from_beginning(p);
}

/* ---------------------------------------------------------------- the tables' words */

static void on_stored(void *ctx, struct table *t, int32_t partition, int64_t upto)
{
    struct sink *s = ctx;
    LIST_EACH (it, tmp, &s->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (p->table == t && p->partition == partition && upto > p->stored)
            p->stored = upto;
    }
    if (s->draining)
        drain_step(s);
}

static void on_reset(void *ctx, struct table *t)
{
    struct sink *s = ctx;
    LIST_EACH (it, tmp, &s->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (p->table != t || p->state == PART_STOPPED)
            continue;
        forget_rechecks(p);
        if (p->state == PART_READING)
            part_from_beginning(p);
        else
            p->from_beginning = true;
    }
}

static void on_version(void *ctx, struct landing *l)
{
    struct sink *s = ctx;
    unsigned kind = DATASETS;
    for (unsigned i = 0; i < DATASETS; i++)
        kind = s->tables[i] && table_landing(s->tables[i]) == l ? i : kind;
    metric_set(app_metrics(s->app), M_VERSION, kind, (double)landing_version(l));
    metric_set(app_metrics(s->app), M_LAST_COMMIT, kind, (double)clock_wall_ms() / 1000);
    char name[300];
    snprintf(name, sizeof(name), "%s_%s_table", app_common(s->app)->user,
             kind < DATASETS ? datasets[kind].name : "dead");
    Sluice__TableVersion said = SLUICE__TABLE_VERSION__INIT;
    said.version = 1;
    said.table = name;
    said.table_version = landing_version(l);
    uint8_t bytes[400];
    if (s->pub)
        bus_pub_send(s->pub,
                     str_make((const char *)bytes, sluice__table_version__pack(&said, bytes)));
}

static void on_counts(void *ctx, struct landing *l, const struct landing_counts *c)
{
    struct sink *s = ctx;
    struct metrics *m = app_metrics(s->app);
    unsigned kind = DATASETS;
    for (unsigned i = 0; i < DATASETS; i++)
        kind = s->tables[i] && table_landing(s->tables[i]) == l ? i : kind;
    metric_add(m, M_COMMITS, kind, 1);
    metric_add(m, M_BYTES, kind, (double)c->bytes);
    metric_add(m, M_CONFLICTS, kind, (double)c->conflicts);
    metric_add(m, M_REBASED, kind, (double)c->rebased);
    metric_add(m, M_RETRIES, kind, (double)c->retries);
    metric_add(m, M_ROWS, kind, (double)(c->rows + c->rejects));
    metric_add(m, M_REJECTS, 0, (double)c->rejects);
    metric_add(m, M_COPIES, 0, (double)c->copies);
    metric_add(m, M_UNASKED, 0, (double)c->unasked);
    metric_add(m, M_LOST, 0, (double)c->lost);
    if (c->lost)
        LOG(ERROR, "records_declared_lost", KV_STR("table", datasets[kind].name),
            KV_INT("positions", c->lost));
    uint64_t now = clock_wall_ms();
    if (kind < DATASETS && c->rows && c->newest_ingested_ms && now >= c->newest_ingested_ms)
        metric_observe(m, M_FRESHNESS, kind, (double)(now - c->newest_ingested_ms) / 1000);
}

static void on_marks_failed(void *ctx, uint64_t n)
{
    struct sink *s = ctx;
    metric_add(app_metrics(s->app), M_MARKS_FAILED, 0, (double)n);
}

static void on_redis_state(void *ctx, bool connected, const char *detail)
{
    struct sink *s = ctx;
    (void)detail;
    metric_set(app_metrics(s->app), M_REDIS_UP, 0, connected);
    app_ready_set(s->app, "redis", true, connected ? "connected" : "not connected: copies pass");
}

/* ---------------------------------------------------------------- the consumer's words */

static void on_assign(void *ctx, enum kafka_assign_kind kind, const struct kafka_partition *parts,
                      size_t n)
{
    struct sink *s = ctx;
    metric_add(app_metrics(s->app), M_REBALANCES, 0, 1);
    for (size_t i = 0; i < n; i++) {
        struct part *p = part_find(s, parts[i].topic, parts[i].partition);
        LOG(INFO, kind == KAFKA_ASSIGNED ? "partition_assigned" : "partition_revoked",
            KV_STR("topic", parts[i].topic), KV_INT("partition", parts[i].partition));
        if (p) {
            if (kind == KAFKA_REVOKED)
                commit_offsets(s, p, NULL);
            part_free(p);
        }
        if (kind == KAFKA_ASSIGNED)
            part_new(s, parts[i].topic, parts[i].partition);
    }
    if (kind != KAFKA_ASSIGNED)
        kafka_consumer_release(s->consumer, parts, n);
    say_ready(s);
    if (s->draining)
        drain_step(s);
}

static void on_consumer_state(void *ctx, bool up, const char *detail)
{
    struct sink *s = ctx;
    (void)detail;
    s->kafka_up = up;
    say_ready(s);
}

static void on_consumer_fatal(void *ctx, const char *text)
{
    struct sink *s = ctx;
    LOG(ERROR, "consumer_failed", KV_STR("detail", text));
    app_fail(s->app, APP_EXIT_INTERNAL, "consumer_failed");
}

static void say_ready(struct sink *s)
{
    char detail[SPAN_SOURCE_MAX + 160] = "none";
    bool holes = false;
    const struct part *stuck = NULL;
    unsigned reading = 0, all = 0;
    LIST_EACH (it, tmp, &s->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        all++;
        reading += p->state == PART_READING;
        if (p->state == PART_STOPPED || (p->state == PART_WAITING && !stuck))
            stuck = p;
        if (holes || list_empty(&p->holes))
            continue;
        const struct hole *h = LIST_ENTRY(p->holes.next, struct hole, node);
        holes = true;
        snprintf(detail, sizeof(detail), "%s: positions %" PRId64 " to %" PRId64 " are missing",
                 h->source, h->wanted, h->from);
    }
    app_ready_set(s->app, "holes", !holes, detail);
    snprintf(detail, sizeof(detail), "%u of %u partitions read", reading, all);
    if (stuck)
        snprintf(detail, sizeof(detail), "%s/%d %s at offset %" PRId64, stuck->topic,
                 stuck->partition,
                 stuck->state == PART_STOPPED ? "stopped: a broken span" : "cannot be begun",
                 stuck->next);
    app_ready_set(s->app, "partitions", !stuck, detail);
    app_ready_set(s->app, "kafka", s->kafka_up, s->kafka_up ? "connected" : "not connected");
}

/* ---------------------------------------------------------------- committed offsets */

static void commit_offsets(struct sink *s, struct part *only, kafka_offsets_fn *done)
{
    size_t n = 0, max = 1;
    LIST_EACH (it, tmp, &s->parts)
        max++;
    struct kafka_partition *parts = MEM_ARRAY(struct kafka_partition, max);
    LIST_EACH (it, tmp, &s->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        int64_t upto = p->hold >= 0 && p->hold < p->stored ? p->hold : p->stored;
        if ((only && p != only) || upto < 0 || upto <= p->commit_sent)
            continue;
        p->commit_sent = upto;
        parts[n++] =
            (struct kafka_partition){.topic = p->topic, .partition = p->partition, .offset = upto};
    }
    if (n) {
        CRASH_POINT("sink_before_offsets");
        s->committing = s->committing || done;
        metric_add(app_metrics(s->app), M_OFFSET_COMMITS, 0, 1);
        kafka_consumer_commit(s->consumer, parts, n, done, s);
    }
    mem_free(parts);
}

static void on_offsets_committed(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct sink *s = ctx;
    s->committing = false;
    if (rc) {
        metric_add(app_metrics(s->app), M_OFFSET_COMMIT_FAILURES, 0, 1);
        LOG(WARN, "commit_failed", KV_ERR(rc));
    }
    for (size_t i = 0; i < n; i++) {
        struct part *p = part_find(s, parts[i].topic, parts[i].partition);
        if (!p)
            continue;
        if (rc)
            p->commit_sent = p->committed;
        else if (parts[i].offset > p->committed)
            p->committed = parts[i].offset;
    }
    CRASH_POINT("sink_after_offsets");
    if (s->draining)
        drain_step(s);
}

static void on_commit_due(void *ctx)
{
    struct sink *s = ctx;
    if (!s->committing)
        commit_offsets(s, NULL, on_offsets_committed);
    loop_timer_start(s->loop, &s->commit, s->config->commit_interval, on_commit_due, s);
}

/* ---------------------------------------------------------------- start and stop */

static void on_collect(void *ctx)
{
    struct sink *s = ctx;
    struct metrics *m = app_metrics(s->app);
    metric_set(m, M_BUFFERED, 0, (double)s->buffered);
    LIST_EACH (it, tmp, &s->parts) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        char number[16];
        snprintf(number, sizeof(number), "%d", p->partition);
        int64_t stored = p->stored < 0 ? p->committed : p->stored;
        metric_set(m, M_NEXT, metric_series(m, M_NEXT, p->topic, number), (double)p->next);
        metric_set(m, M_LAG, metric_series(m, M_LAG, p->topic, number),
                   (double)(p->end > stored ? p->end - stored : 0));
    }
}

static int open_lake(struct sink *s, struct err *e)
{
    const struct sink_config *o = s->config;
    char threads[24], memory[32];
    snprintf(threads, sizeof(threads), "%" PRId64, o->parquet_threads);
    snprintf(memory, sizeof(memory), "%" PRIu64 "B", o->parquet_memory);
    const struct duck_setting settings[] = {
        {"threads", threads}, {"memory_limit", memory}, {NULL, NULL}};
    int rc = store_open(o->lake_url, &s->store, e);
    if (rc)
        return rc;
    rc = duck_open(settings, &s->duck, e);
    if (rc)
        return rc;
    /* Two data files at a time: more would only hold more memory. */
    s->work = work_open(s->loop, 2, 64);
    return 0;
}

static void open_tables(struct sink *s)
{
    const struct sink_config *o = s->config;
    const char *user = app_common(s->app)->user;
    struct landing_opts lo = {.writer = {.work = s->work,
                                         .store = s->store,
                                         .duck = s->duck,
                                         .checkpoint_interval = (unsigned)o->checkpoint_interval},
                              .commit_max_age_ms = o->commit_max_age,
                              .on_version = on_version,
                              .on_counts = on_counts,
                              .ctx = s};
    char *path = mem_printf("delta/%s_dead_table", user);
    memcpy(s->columns[DATASETS], provenance_columns,
           sizeof(provenance_columns[0]) * PROVENANCE_COLUMNS);
    memcpy(s->columns[DATASETS] + PROVENANCE_COLUMNS, dead_columns,
           sizeof(dead_columns[0]) * DEAD_COLUMNS);
    lo.writer.path = path;
    lo.writer.columns = s->columns[DATASETS];
    lo.writer.columns_n = PROVENANCE_COLUMNS + DEAD_COLUMNS;
    lo.name = "dead";
    lo.dead = true;
    s->dead = landing_open(s->app, &lo);
    mem_free(path);
    for (int i = 0; i < DATASETS; i++) {
        const struct dataset *d = &datasets[i];
        memcpy(s->columns[i], d->columns, sizeof(*d->columns) * d->columns_n);
        memcpy(s->columns[i] + d->columns_n, provenance_columns,
               sizeof(provenance_columns[0]) * PROVENANCE_COLUMNS);
        path = mem_printf("delta/%s_%s_table", user, d->name);
        lo.writer.path = path;
        lo.writer.columns = s->columns[i];
        lo.writer.columns_n = d->columns_n + PROVENANCE_COLUMNS;
        lo.name = d->name;
        lo.dead = false;
        lo.copies = s->copies;
        const struct table_opts to = {.dataset = d,
                                      .landing = lo,
                                      .dead = s->dead,
                                      .copies = s->copies,
                                      .flush_interval_ms = o->flush_interval,
                                      .flush_rows = (uint64_t)o->flush_rows,
                                      .on_stored = on_stored,
                                      .on_reset = on_reset,
                                      .on_bytes = on_bytes,
                                      .on_marks_failed = on_marks_failed,
                                      .ctx = s};
        s->tables[i] = table_open(s->app, &to);
        mem_free(path);
    }
}

/* Forced partitions: no group decides, so that two sinks can be made to fight over the same ones. */
static int take_forced(struct sink *s, struct err *e)
{
    struct str rest = str_of(s->config->partitions), part;
    while (str_next(&rest, ',', &part)) {
        uint64_t number;
        if (str_u64(part, &number) || number > INT32_MAX)
            return err_set(e, ERR_CONFIG, "kafka.partitions: '" STR_FMT "' is no partition",
                           STR_ARG(part));
        for (int i = 0; i < DATASETS; i++) {
            char *topic = mem_printf("%s.clean.%s", app_common(s->app)->user, datasets[i].name);
            part_new(s, topic, (int32_t)number);
            mem_free(topic);
        }
    }
    return 0;
}

static int open_clients(struct sink *s, struct err *e)
{
    const struct sink_config *o = s->config;
    bool forced = *o->partitions;
    if (!strcmp(o->copies, "drop")) {
        const struct copies_opts co = {.redis_url = o->redis_url,
                                       .user = app_common(s->app)->user,
                                       .window_ms = o->copies_window,
                                       .on_state = on_redis_state,
                                       .ctx = s};
        int rc = copies_open(s->loop, &co, &s->copies, e);
        if (rc)
            return rc;
        on_redis_state(s, false, NULL);
    }
    open_tables(s);
    int rc = bus_pub_open(s->loop, o->announce_listen, &s->pub, e);
    if (rc)
        return rc;
    char host[256];
    unsigned port;
    if (!option_address(str_of(o->announce_listen), host, &port))
        app_listening("announce", host, bus_pub_port(s->pub));
    const struct kafka_admin_opts ao = {.brokers = o->brokers, .client_id = "sluice-sink-s3"};
    rc = kafka_admin_open(s->loop, &ao, &s->admin, e);
    if (rc)
        return rc;
    static const struct kafka_consumer_callbacks cb = {.on_message = on_message,
                                                       .on_end = on_end,
                                                       .on_assign = on_assign,
                                                       .on_out_of_range = on_out_of_range,
                                                       .on_state = on_consumer_state,
                                                       .on_fatal = on_consumer_fatal};
    const struct kafka_consumer_opts co = {.brokers = o->brokers,
                                           .client_id = "sluice-sink-s3",
                                           .group = s->group,
                                           .instance = forced ? NULL : s->instance,
                                           .session_timeout_ms = o->session_timeout,
                                           .topics = forced ? NULL : s->topics,
                                           .fetch_bytes = o->flush_bytes / 2,
                                           .max_message_bytes = MESSAGE_MAX,
                                           .metadata_refresh_ms = 2000,
                                           .cb = &cb,
                                           .ctx = s};
    rc = kafka_consumer_open(s->loop, &co, &s->consumer, e);
    return rc || !forced ? rc : take_forced(s, e);
}

int sink_start(struct app *app, void *config, struct err *e)
{
    struct sink *s = MEM_NEW(struct sink);
    const char *user = app_common(app)->user;
    s->app = app;
    s->loop = app_loop(app);
    s->config = config;
    s->group = *s->config->group ? mem_strdup(s->config->group) : mem_printf("%s-sink-s3", user);
    s->instance = mem_printf("sink-s3-%" PRId64, s->config->replica);
    s->topics = mem_printf("%s.clean.pin,%s.clean.geo,%s.clean.user", user, user, user);
    list_init(&s->parts);
    list_init(&s->asks);
    app_state_set(app, s);
    metrics_on_collect(app_metrics(app), on_collect, s);
    metric_set(app_metrics(app), M_BUFFERED_MAX, 0, 2 * (double)s->config->flush_bytes);
    say_ready(s);
    int rc = open_lake(s, e);
    if (!rc)
        rc = open_clients(s, e);
    if (rc)
        return rc;
    loop_timer_start(s->loop, &s->commit, s->config->commit_interval, on_commit_due, s);
    return 0;
}

/* Goes on with the drain: when nothing waits any more the offsets are committed, and that is all. */
static void drain_step(struct sink *s)
{
    if (s->drained || s->committing)
        return;
    for (int i = 0; i < DATASETS; i++) {
        if (!table_idle(s->tables[i]))
            return;
    }
    commit_offsets(s, NULL, on_offsets_committed);
    if (s->committing)
        return;
    s->drained = true;
    app_drained(s->app);
}

void sink_drain(struct app *app)
{
    struct sink *s = app_state(app);
    if (!s || !s->tables[0]) {
        app_drained(app);
        return;
    }
    s->draining = true;
    pause_all(s, true);
    for (int i = 0; i < DATASETS; i++)
        table_flush(s->tables[i]);
    drain_step(s);
}

void sink_stop(struct app *app)
{
    struct sink *s = app_state(app);
    if (!s)
        return;
    loop_timer_stop(&s->commit);
    LIST_EACH (it, tmp, &s->parts)
        part_free(LIST_ENTRY(it, struct part, node));
    kafka_consumer_close(&s->consumer);
    kafka_admin_close(&s->admin);
    for (int i = 0; i < DATASETS; i++)
        table_close(&s->tables[i]);
    landing_close(&s->dead);
    copies_close(&s->copies);
    bus_pub_close(&s->pub);
    work_close(&s->work);
    struct list *node;
    while ((node = list_pop(&s->asks)))
        mem_free(LIST_ENTRY(node, struct ask, node));
    s->stopped = true;
}

/* The last job has come back: nobody holds the store and DuckDB any more. */
void sink_free(struct app *app)
{
    struct sink *s = app_state(app);
    if (!s)
        return;
    app_state_set(app, NULL);
    duck_close(&s->duck);
    store_close(&s->store);
    mem_free(s->group);
    mem_free(s->instance);
    mem_free(s->topics);
    mem_free(s);
}

void sink_dump(struct app *app, struct buf *out)
{
    const struct sink *s = app_state(app);
    if (s && s->stopped)
        s = NULL;
    buf_z(out, "\"sink\":{\"tables\":{");
    for (int i = 0; s && i < DATASETS; i++) {
        landing_dump(table_landing(s->tables[i]), out);
        buf_char(out, ',');
    }
    if (s)
        landing_dump(s->dead, out);
    buf_z(out, "},\"holes\":[");
    bool first = true;
    for (const struct list *it = s ? s->parts.next : NULL; s && it != &s->parts; it = it->next) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        for (const struct list *h = p->holes.next; h != &p->holes; h = h->next) {
            const struct hole *hole = LIST_ENTRY(h, struct hole, node);
            buf_z(out, first ? "{\"source\":" : ",{\"source\":");
            first = false;
            buf_json(out, str_of(hole->source));
            buf_printf(out, ",\"wanted\":%" PRId64 ",\"from\":%" PRId64 "}", hole->wanted,
                       hole->from);
        }
    }
    buf_z(out, "],\"partitions\":[");
    first = true;
    for (const struct list *it = s ? s->parts.next : NULL; s && it != &s->parts; it = it->next) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        buf_z(out, first ? "{\"topic\":" : ",{\"topic\":");
        first = false;
        buf_json(out, str_of(p->topic));
        buf_printf(out,
                   ",\"partition\":%d,\"next\":%" PRId64 ",\"stored\":%" PRId64
                   ",\"committed\":%" PRId64 "}",
                   p->partition, p->next, p->stored, p->committed);
    }
    buf_printf(out, "],\"buffered_bytes\":%zu}", s ? s->buffered : 0);
}
