/* sink: the tables' words, the member's, start and stop. See sink.h for the map.
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

/* The largest span: four times the largest raw record, as the clean topics allow. */
#define MESSAGE_MAX ((size_t)68 << 20)

static void drain_step(struct sink *s);

/* ---------------------------------------------------------------- pausing */

static void pause_all(struct sink *s, bool pause)
{
    if (!member_pause(s->member, pause))
        return;
    metric_set(app_metrics(s->app), M_PAUSED, 0, pause);
    metric_add(app_metrics(s->app), M_PAUSES, 0, pause);
    LOG(DEBUG, pause ? "partitions_paused" : "partitions_resumed", KV_INT("bytes", s->buffered));
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
    if (more < 0)
        drain_step(s); /* what was dropped, or had nobody to report to, is waited for no more */
}

/* ---------------------------------------------------------------- the tables' words */

static void on_stored(void *ctx, struct table *t, int32_t partition, int64_t upto)
{
    struct sink *s = ctx;
    LIST_EACH (it, tmp, member_parts(s->member)) {
        struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (p->table == t && p->m.partition == partition && upto > p->stored)
            p->stored = upto;
    }
    drain_step(s);
}

static void on_reset(void *ctx, struct table *t)
{
    struct sink *s = ctx;
    LIST_EACH (it, tmp, member_parts(s->member)) {
        struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (p->table == t)
            part_table_reset(p);
    }
}

/* The dataset of a table, or DATASETS for the dead one. */
static unsigned kind_of(const struct sink *s, const struct landing *l)
{
    unsigned kind = 0;
    while (kind < DATASETS && !(s->tables[kind] && table_landing(s->tables[kind]) == l))
        kind++;
    return kind;
}

static void on_retry(void *ctx, struct landing *l)
{
    struct sink *s = ctx;
    metric_add(app_metrics(s->app), M_RETRIES, kind_of(s, l), 1);
}

static void on_version(void *ctx, struct landing *l)
{
    struct sink *s = ctx;
    unsigned kind = kind_of(s, l);
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
    unsigned kind = kind_of(s, l);
    metric_add(m, M_COMMITS, kind, 1);
    metric_add(m, M_BYTES, kind, (double)c->bytes);
    metric_add(m, M_CONFLICTS, kind, (double)c->conflicts);
    metric_add(m, M_REBASED, kind, (double)c->rebased);
    metric_add(m, M_ROWS, kind, (double)(c->rows + c->rejects));
    metric_add(m, M_REJECTS, 0, (double)c->rejects);
    metric_add(m, M_COPIES, 0, (double)c->copies);
    metric_add(m, M_UNASKED, 0, (double)c->unasked);
    metric_add(m, M_LOST, 0, (double)c->lost);
    if (c->lost)
        LOG(ERROR, "records_declared_lost", KV_STR("table", datasets[kind].name),
            KV_INT("positions", c->lost));
    int64_t now = (int64_t)clock_wall_ms();
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

/* ---------------------------------------------------------------- the member's words */

static void on_commit(void *ctx)
{
    struct sink *s = ctx;
    CRASH_POINT("sink_before_offsets");
    metric_add(app_metrics(s->app), M_OFFSET_COMMITS, 0, 1);
}

static void on_committed(void *ctx, int rc)
{
    struct sink *s = ctx;
    if (rc)
        metric_add(app_metrics(s->app), M_OFFSET_COMMIT_FAILURES, 0, 1);
    CRASH_POINT("sink_after_offsets");
    drain_step(s);
}

static void on_rebalance(void *ctx)
{
    struct sink *s = ctx;
    metric_add(app_metrics(s->app), M_REBALANCES, 0, 1);
    sink_say_ready(s);
    drain_step(s);
}

static void on_lost(void *ctx)
{
    struct sink *s = ctx;
    metric_add(app_metrics(s->app), M_LOST_MEMBERSHIPS, 0, 1);
    sink_say_ready(s);
    drain_step(s);
}

static void on_state(void *ctx, bool up)
{
    struct sink *s = ctx;
    s->kafka_up = up;
    sink_say_ready(s);
}

static void on_fatal(void *ctx, const char *text)
{
    struct sink *s = ctx;
    LOG(ERROR, "consumer_failed", KV_STR("detail", text));
    app_fail(s->app, APP_EXIT_INTERNAL, "consumer_failed");
}

void sink_say_ready(struct sink *s)
{
    char detail[SPAN_SOURCE_MAX + 160] = "none";
    bool holes = false;
    const struct part *stuck = NULL;
    unsigned reading = 0, all = 0;
    LIST_EACH (it, tmp, member_parts(s->member)) {
        struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
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
        snprintf(detail, sizeof(detail), "%s/%d %s at offset %" PRId64, stuck->m.topic,
                 stuck->m.partition,
                 stuck->state == PART_STOPPED ? "stopped: a broken span" : "cannot be begun",
                 stuck->next);
    app_ready_set(s->app, "partitions", !stuck, detail);
    app_ready_set(s->app, "kafka", s->kafka_up, s->kafka_up ? "connected" : "not connected");
}

/* ---------------------------------------------------------------- start and stop */

static void on_collect(void *ctx)
{
    struct sink *s = ctx;
    struct metrics *m = app_metrics(s->app);
    metric_set(m, M_BUFFERED, 0, (double)s->buffered);
    LIST_EACH (it, tmp, member_parts(s->member)) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        char number[16];
        snprintf(number, sizeof(number), "%d", p->m.partition);
        int64_t stored = p->stored < 0 ? p->m.committed : p->stored;
        metric_set(m, M_NEXT, metric_series(m, M_NEXT, p->m.topic, number), (double)p->next);
        metric_set(m, M_LAG, metric_series(m, M_LAG, p->m.topic, number),
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
                              .on_retry = on_retry,
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

static int join_group(struct sink *s, struct err *e)
{
    static const struct member_callbacks cb = {.part_new = part_new,
                                               .part_free = part_free,
                                               .on_message = part_message,
                                               .on_end = part_end_of_log,
                                               .on_out_of_range = part_out_of_range,
                                               .due = part_due,
                                               .on_commit = on_commit,
                                               .on_committed = on_committed,
                                               .on_rebalance = on_rebalance,
                                               .on_lost = on_lost,
                                               .on_state = on_state,
                                               .on_fatal = on_fatal};
    const struct sink_config *o = s->config;
    bool forced = *o->partitions;
    const struct member_opts mo = {.consumer = {.brokers = o->brokers,
                                                .client_id = "sluice-sink-s3",
                                                .group = s->group,
                                                .instance = forced ? NULL : s->instance,
                                                .session_timeout_ms = o->session_timeout,
                                                .topics = forced ? NULL : s->topics,
                                                .fetch_bytes = o->flush_bytes / 2,
                                                .max_message_bytes = MESSAGE_MAX,
                                                .metadata_refresh_ms = 2000},
                                   .commit_interval_ms = o->commit_interval,
                                   .cb = &cb,
                                   .ctx = s};
    return member_open(s->loop, &mo, &s->member, e);
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
    rc = join_group(s, e);
    return rc || !*o->partitions ? rc : take_forced(s, e);
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
    app_state_set(app, s);
    metric_set(app_metrics(app), M_BUFFERED_MAX, 0, 2 * (double)s->config->flush_bytes);
    int rc = open_lake(s, e);
    if (!rc)
        rc = open_clients(s, e);
    if (rc)
        return rc;
    metrics_on_collect(app_metrics(app), on_collect, s);
    sink_say_ready(s);
    return 0;
}

/* Goes on with the drain: when nothing waits any more the offsets are committed, and that is all. */
static void drain_step(struct sink *s)
{
    if (!s->draining || s->drained)
        return;
    for (int i = 0; i < DATASETS; i++) {
        if (!table_idle(s->tables[i]))
            return;
    }
    if (member_commit(s->member))
        return;
    s->drained = true;
    app_drained(s->app);
}

void sink_drain(struct app *app)
{
    struct sink *s = app_state(app);
    if (!s || !s->member) {
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
    if (s->member)
        member_drop_parts(s->member);
    for (int i = 0; i < DATASETS; i++)
        table_close(&s->tables[i]);
    landing_close(&s->dead);
    copies_close(&s->copies);
    bus_pub_close(&s->pub);
    work_close(&s->work);
    member_close(&s->member); /* after the tables, which were asked too */
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
    struct list *parts = s && s->member ? member_parts(s->member) : NULL;
    buf_z(out, "\"sink\":{\"tables\":{");
    for (int i = 0; s && i < DATASETS; i++) {
        landing_dump(table_landing(s->tables[i]), out);
        buf_char(out, ',');
    }
    if (s)
        landing_dump(s->dead, out);
    buf_z(out, "},\"holes\":[");
    bool first = true;
    for (struct list *it = parts ? parts->next : NULL; it != parts; it = it->next) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
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
    for (struct list *it = parts ? parts->next : NULL; it != parts; it = it->next) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        buf_z(out, first ? "{\"topic\":" : ",{\"topic\":");
        first = false;
        buf_json(out, str_of(p->m.topic));
        buf_printf(out,
                   ",\"partition\":%d,\"next\":%" PRId64 ",\"stored\":%" PRId64
                   ",\"committed\":%" PRId64 "}",
                   p->m.partition, p->next, p->stored, p->m.committed);
    }
    buf_printf(out, "],\"buffered_bytes\":%zu}", s ? s->buffered : 0);
}
