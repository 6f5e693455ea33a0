/* cleaner: start, stop, how it is. See cleaner.h for the map.
 *
 * Memory: spans and dead letters on their way are counted in bytes; above inflight.max every partition pauses, below half of it they
 * go on. A full queue of the Kafka client sends messages to the backlog, which keeps their order.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/crash.h"
#include "base/log.h"
#include "base/mem.h"
#include <inttypes.h>
#include <string.h>

/* ---------------------------------------------------------------- memory and failure */

static void pause_all(struct cleaner *c, bool pause)
{
    if (!member_pause(c->member, pause))
        return;
    metric_set(app_metrics(c->app), M_PAUSED, 0, pause);
    metric_add(app_metrics(c->app), M_PAUSES, 0, pause);
    LOG(DEBUG, pause ? "sources_paused" : "sources_resumed", KV_INT("bytes", c->inflight_bytes));
}

void cleaner_account(struct cleaner *c, int64_t bytes)
{
    c->inflight_bytes = (size_t)((int64_t)c->inflight_bytes + bytes);
    if (bytes >= 0)
        app_memory_add(app_memory(c->app), (uint64_t)bytes);
    else
        app_memory_sub(app_memory(c->app), (uint64_t)-bytes);
    if (c->inflight_bytes > c->config->inflight_max)
        pause_all(c, true);
    else if (c->inflight_bytes <= c->config->inflight_max / 2 && !c->draining)
        pause_all(c, false);
}

void cleaner_fail(struct cleaner *c, const char *event, const char *text)
{
    if (c->failed)
        return;
    c->failed = true;
    LOG(ERROR, event, KV_STR("detail", text ? text : ""));
    app_fail(c->app, APP_EXIT_INTERNAL, event);
}

/* ---------------------------------------------------------------- the member's words */

static void on_commit(void *ctx)
{
    struct cleaner *c = ctx;
    CRASH_POINT("cleaner_before_commit");
    metric_add(app_metrics(c->app), M_COMMITS, 0, 1);
}

static void on_committed(void *ctx, int rc)
{
    struct cleaner *c = ctx;
    if (rc)
        metric_add(app_metrics(c->app), M_COMMIT_FAILURES, 0, 1);
    CRASH_POINT("cleaner_after_commit");
    cleaner_drain_step(c);
}

static void on_rebalance(void *ctx)
{
    struct cleaner *c = ctx;
    metric_add(app_metrics(c->app), M_REBALANCES, 0, 1);
    cleaner_say_ready(c);
    cleaner_drain_step(c);
}

static void on_lost(void *ctx)
{
    struct cleaner *c = ctx;
    metric_add(app_metrics(c->app), M_LOST_MEMBERSHIPS, 0, 1);
    orders_lost(c);
    cleaner_say_ready(c);
    cleaner_drain_step(c);
}

static void on_state(void *ctx, bool up)
{
    struct cleaner *c = ctx;
    c->kafka_up[0] = up;
    cleaner_say_ready(c);
}

static void on_fatal(void *ctx, const char *text)
{
    cleaner_fail(ctx, "consumer_failed", text);
}

void cleaner_say_ready(struct cleaner *c)
{
    const struct list *parts = member_parts(c->member);
    unsigned running = 0, all = 0;
    const struct part *stuck = NULL;
    for (struct list *it = parts->next; it != parts; it = it->next) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        all++;
        running += p->state == PART_RUNNING;
        if (p->state == PART_WAITING || p->short_log)
            stuck = p;
    }
    char detail[400];
    snprintf(detail, sizeof(detail), "%u of %u partitions read", running, all);
    if (stuck)
        snprintf(detail, sizeof(detail), "%s/%d cannot be begun%s", stuck->m.topic,
                 stuck->m.partition,
                 stuck->short_log ? ": its log ends below the committed offset" : "");
    app_ready_set(c->app, "kafka", c->kafka_up[0] && c->kafka_up[1],
                  c->kafka_up[0] && c->kafka_up[1] ? "connected" : "not connected");
    app_ready_set(c->app, "partitions", !stuck, detail);
    metric_set(app_metrics(c->app), M_PARTITIONS, 0, running);
}

/* ---------------------------------------------------------------- start and stop */

/* Gauges that are cheaper to ask for than to keep. */
static void on_collect(void *ctx)
{
    struct cleaner *c = ctx;
    struct metrics *m = app_metrics(c->app);
    metric_set(m, M_INFLIGHT, 0, (double)c->inflight_bytes);
    LIST_EACH (it, tmp, member_parts(c->member)) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (!p->chain)
            continue;
        char number[16];
        snprintf(number, sizeof(number), "%d", p->m.partition);
        int64_t confirmed = chain_confirmed(p->chain);
        metric_set(m, M_CONFIRMED, metric_series(m, M_CONFIRMED, p->m.topic, number),
                   (double)confirmed);
        metric_set(m, M_LAG, metric_series(m, M_LAG, p->m.topic, number),
                   (double)(p->end > confirmed ? p->end - confirmed : 0));
    }
}

static int join_group(struct cleaner *c, struct err *e)
{
    static const struct member_callbacks cb = {.part_new = raw_part_new,
                                               .part_free = raw_part_free,
                                               .on_message = raw_part_message,
                                               .on_end = raw_part_end_of_log,
                                               .on_out_of_range = raw_part_out_of_range,
                                               .due = raw_part_due,
                                               .on_commit = on_commit,
                                               .on_committed = on_committed,
                                               .on_rebalance = on_rebalance,
                                               .on_lost = on_lost,
                                               .on_state = on_state,
                                               .on_fatal = on_fatal};
    const struct cleaner_config *o = c->config;
    const struct member_opts mo = {
        .consumer = {.brokers = o->brokers,
                     .client_id = CLEANER_CLIENT,
                     .group = c->group,
                     .instance = c->instance,
                     .session_timeout_ms = o->session_timeout,
                     .topics = c->raw_topics,
                     .fetch_bytes = o->inflight_max,
                     .max_message_bytes = o->record_max + RECORD_OVERHEAD,
                     .metadata_refresh_ms = o->topics_check},
        .commit_interval_ms = o->commit_interval,
        .cb = &cb,
        .ctx = c};
    return member_open(c->loop, &mo, &c->member, e);
}

int cleaner_start(struct app *app, void *config, struct err *e)
{
    struct cleaner *c = MEM_NEW(struct cleaner);
    const char *user = app_common(app)->user;
    c->app = app;
    c->loop = app_loop(app);
    c->config = config;
    c->group = *c->config->group ? mem_strdup(c->config->group) : mem_printf("%s-cleaner", user);
    c->instance = mem_printf("cleaner-%" PRId64, c->config->replica);
    c->dead_topic = mem_printf("%s.dead", user);
    c->raw_topics = mem_printf("%s.pin,%s.geo,%s.user", user, user, user);
    for (int i = 0; i < DATASETS; i++)
        c->clean_topics[i] = mem_printf("%s.clean.%s", user, datasets[i].name);
    c->wash = wash_new(c->config->record_max);
    list_init(&c->orphans);
    app_state_set(app, c);
    metric_set(app_metrics(app), M_INFLIGHT_MAX, 0, (double)c->config->inflight_max);
    orders_open(c);
    int rc = letters_open(c, e);
    if (!rc)
        rc = join_group(c, e);
    if (rc)
        return rc;
    metrics_on_collect(app_metrics(app), on_collect, c);
    cleaner_say_ready(c);
    looks_open(c);
    return 0;
}

/* Goes on with the drain: when all spans are stored their offsets are committed, and that is all. */
void cleaner_drain_step(struct cleaner *c)
{
    if (!c->draining || c->drained || c->failed)
        return;
    LIST_EACH (it, tmp, member_parts(c->member)) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (p->chain && !chain_idle(p->chain))
            return;
    }
    if (member_commit(c->member))
        return;
    c->drained = true;
    app_drained(c->app);
}

void cleaner_drain(struct app *app)
{
    struct cleaner *c = app_state(app);
    if (!c || !c->member) {
        app_drained(app);
        return;
    }
    c->draining = true;
    pause_all(c, true);
    LIST_EACH (it, tmp, member_parts(c->member)) {
        struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (p->state == PART_RUNNING)
            chain_flush(p->chain);
    }
    cleaner_drain_step(c);
}

void cleaner_stop(struct app *app)
{
    struct cleaner *c = app_state(app);
    if (!c)
        return;
    app_state_set(app, NULL);
    looks_close(c);
    member_close(&c->member);
    letters_close(c);
    orders_close(c);
    chain_free_orphans(&c->orphans);
    wash_free(&c->wash);
    mem_free(c->group);
    mem_free(c->instance);
    mem_free(c->dead_topic);
    mem_free(c->raw_topics);
    for (int i = 0; i < DATASETS; i++)
        mem_free(c->clean_topics[i]);
    mem_free(c);
}

void cleaner_dump(struct app *app, struct buf *out)
{
    const struct cleaner *c = app_state(app);
    buf_z(out, "\"cleaner\":{\"sources\":[");
    const struct list *parts = c && c->member ? member_parts(c->member) : NULL;
    bool first = true;
    for (struct list *it = parts ? parts->next : NULL; it != parts; it = it->next) {
        const struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (!p->chain)
            continue;
        buf_z(out, first ? "{\"source\":" : ",{\"source\":");
        first = false;
        buf_json(out, str_of(chain_source(p->chain)));
        buf_z(out, ",\"topic\":");
        buf_json(out, str_of(p->m.topic));
        buf_printf(out,
                   ",\"partition\":%d,\"position\":%" PRId64 ",\"confirmed\":%" PRId64
                   ",\"committed\":%" PRId64 ",\"low\":%" PRId64 ",\"end\":%" PRId64 "}",
                   p->m.partition, chain_next(p->chain), chain_confirmed(p->chain), p->m.committed,
                   p->low, p->end);
    }
    buf_printf(out, "],\"inflight_bytes\":%zu,\"paused\":%s}", c ? c->inflight_bytes : 0,
               c && c->member && member_paused(c->member) ? "true" : "false");
}
