/* cleaner: the partitions' life, what is read and what is sent. See cleaner.h for the map.
 *
 * Memory: spans and dead letters on their way are counted in bytes; above inflight.max every partition pauses, below half of it they
 * go on. A full queue of the Kafka client sends messages to the backlog, which keeps their order.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/mem.h"
#include <inttypes.h>
#include <string.h>

#define RESEND_MS 10
/* What Kafka adds to a record that a producer's limit counts: key, headers, framing. */
#define RECORD_OVERHEAD ((size_t)64 << 10)

/* A message that the producer's queue had no room for. */
struct letter {
    struct list node;
    struct chain_span *span;
    const char *topic;
    int32_t partition;
    struct buf bytes; /* key, value, then header values */
    struct str key, value;
    struct kafka_header headers[4];
    size_t headers_n;
};

static void on_linger(void *ctx);
static void on_beat(void *ctx);
static void hide_gauges(struct part *p);
static void drain_step(struct cleaner *c);

/* ---------------------------------------------------------------- sending */

static void pause_all(struct cleaner *c, bool pause)
{
    if (c->paused == pause)
        return;
    c->paused = pause;
    metric_set(app_metrics(c->app), M_PAUSED, 0, pause);
    if (pause)
        metric_add(app_metrics(c->app), M_PAUSES, 0, 1);
    LOG(DEBUG, pause ? "sources_paused" : "sources_resumed", KV_INT("bytes", c->inflight_bytes));
    LIST_EACH (it, tmp, &c->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (!p->taken || p->paused == pause)
            continue;
        p->paused = pause;
        if (pause)
            kafka_consumer_pause(c->consumer, p->topic, p->partition);
        else
            kafka_consumer_resume(c->consumer, p->topic, p->partition);
    }
}

static void account(struct cleaner *c, int64_t bytes)
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

static void fail(struct cleaner *c, const char *event, const char *text)
{
    if (c->failed)
        return;
    c->failed = true;
    LOG(ERROR, event, KV_STR("detail", text ? text : ""));
    app_fail(c->app, APP_EXIT_INTERNAL, event);
}

/* 0, or ERR_BUSY: try again later. Anything else ends the process: a span that cannot be stored would be a hole.
 * A partition that the producer does not know is there all the same (it was asked for before the chain began): it is new, and the
 * producer's view of the topic is older. */
static int produce(struct cleaner *c, const struct letter *l)
{
    const struct kafka_record rec = {.topic = l->topic,
                                     .partition = l->partition,
                                     .key = l->key,
                                     .value = l->value,
                                     .headers = l->headers,
                                     .headers_n = l->headers_n};
    int rc = kafka_produce(c->producer, &rec, l->span);
    if (rc == ERR_NOT_FOUND)
        rc = ERR_BUSY;
    if (rc && rc != ERR_BUSY)
        fail(c, "span_refused", err_name(rc));
    return rc;
}

static void letter_free(struct letter *l)
{
    list_remove(&l->node);
    buf_deinit(&l->bytes);
    mem_free(l);
}

static void on_resend(void *ctx)
{
    struct cleaner *c = ctx;
    while (!list_empty(&c->backlog) && !c->failed) {
        struct letter *l = LIST_ENTRY(c->backlog.next, struct letter, node);
        if (produce(c, l)) {
            loop_timer_start(c->loop, &c->resend, RESEND_MS, on_resend, c);
            return;
        }
        letter_free(l);
    }
}

static struct str keep(struct buf *b, struct str s)
{
    if (!s.p)
        return s;
    size_t at = b->len;
    buf_str(b, s);
    return str_make(b->data + at, s.n);
}

/* Sends now, or keeps a copy: at the end of the backlog, or with the partition whose topic is not known for sure yet. */
static void send_letter(struct part *p, const struct letter *l)
{
    struct cleaner *c = p->cleaner;
    bool hold = p->state != PART_RUNNING;
    if (!hold && list_empty(&c->backlog) && produce(c, l) != ERR_BUSY)
        return;
    struct letter *kept = MEM_NEW(struct letter);
    *kept = *l;
    size_t bytes = l->key.n + l->value.n + 1;
    for (size_t i = 0; i < l->headers_n; i++)
        bytes += l->headers[i].value.n;
    buf_init(&kept->bytes, bytes);
    buf_reserve(&kept->bytes, bytes - 1); /* all at once: slices into it stay */
    kept->key = keep(&kept->bytes, l->key);
    kept->value = keep(&kept->bytes, l->value);
    for (size_t i = 0; i < l->headers_n; i++)
        kept->headers[i].value = keep(&kept->bytes, l->headers[i].value);
    list_push(hold ? &p->held : &c->backlog, &kept->node);
    if (!hold && !loop_timer_active(&c->resend))
        loop_timer_start(c->loop, &c->resend, RESEND_MS, on_resend, c);
}

static void on_span(void *ctx, struct chain_span *span, struct str message)
{
    struct part *p = ctx;
    struct cleaner *c = p->cleaner;
    CRASH_POINT("cleaner_before_span");
    const struct letter l = {
        .span = span, .topic = p->clean_topic, .partition = p->partition, .value = message};
    send_letter(p, &l);
    metric_add(app_metrics(c->app), M_SPANS, p->dataset->id, 1);
    account(c, (int64_t)span->bytes);
    CRASH_POINT("cleaner_after_span");
}

static void on_reject(void *ctx, struct chain_span *span, const struct reject *r)
{
    struct part *p = ctx;
    struct cleaner *c = p->cleaner;
    char position[24], item[16];
    snprintf(position, sizeof(position), "%" PRId64, r->position);
    snprintf(item, sizeof(item), "%" PRId32, r->item);
    const struct letter l = {.span = span,
                             .topic = c->dead_topic,
                             .partition = -1,
                             .key = r->key,
                             .value = r->value,
                             .headers = {{STR("sluice-reason"), str_of(reject_names[r->reason])},
                                         {STR("sluice-source"), str_of(chain_source(span->chain))},
                                         {STR("sluice-position"), str_of(position)},
                                         {STR("sluice-item"), str_of(item)}},
                             .headers_n = 4};
    size_t bytes = r->key.n + r->value.n;
    span->bytes += bytes;
    send_letter(p, &l);
    account(c, (int64_t)bytes);
    metric_add(app_metrics(c->app), M_REJECTS, p->dataset->id * REJECT_REASONS + r->reason, 1);
    CRASH_POINT("cleaner_after_dead_letter");
}

static void on_fault(void *ctx, int column, enum wash_fault fault)
{
    struct part *p = ctx;
    struct metrics *m = app_metrics(p->cleaner->app);
    unsigned *known =
        &p->cleaner->fault_series[p->dataset->id][column < 0 ? DATASET_MAX_COLUMNS : column][fault];
    if (!*known) {
        char name[96];
        snprintf(name, sizeof(name), "%s.%s", p->dataset->name,
                 column < 0 ? "other" : p->dataset->columns[column].name);
        *known = 1 + metric_series(m, M_FAULTS, name, wash_fault_names[fault]);
    }
    metric_add(m, M_FAULTS, *known - 1, 1);
}

static void on_delivery(void *ctx, void *record, const struct kafka_delivery *d)
{
    struct cleaner *c = ctx;
    struct chain_span *span = record;
    if (d->outcome != KAFKA_STORED) {
        fail(c, "span_not_stored", d->text);
        return;
    }
    CRASH_POINT("cleaner_span_stored");
    int64_t bytes = span->left == 1 ? (int64_t)span->bytes : 0;
    chain_stored(span);
    account(c, -bytes);
    if (c->draining)
        drain_step(c);
}

static void on_producer_fatal(void *ctx, const char *text)
{
    fail(ctx, "producer_failed", text);
}

/* ---------------------------------------------------------------- partitions */

void part_set_state(struct part *p, enum part_state state)
{
    static const char *const names[] = {"ASKING", "WAITING", "VERIFYING", "RUNNING"};
    if (p->state == state)
        return;
    LOG(DEBUG, "partition_state", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_STR("from", names[p->state]), KV_STR("to", names[state]));
    p->state = state;
}

static struct part *part_find(struct cleaner *c, const char *topic, int32_t partition)
{
    LIST_EACH (it, tmp, &c->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (p->partition == partition && !strcmp(p->topic, topic))
            return p;
    }
    return NULL;
}

static void part_end_chain(struct part *p)
{
    struct cleaner *c = p->cleaner;
    loop_timer_stop(&p->linger);
    loop_timer_stop(&p->beat);
    chain_free(&p->chain, &c->orphans);
    int64_t bytes = 0;
    LIST_EACH (it, tmp, &p->held) {
        struct letter *l = LIST_ENTRY(it, struct letter, node);
        bytes += l->span->left == 1 ? (int64_t)l->span->bytes : 0;
        chain_stored(l->span); /* nobody waits for it any more */
        letter_free(l);
    }
    account(c, -bytes);
}

static void part_free(struct part *p)
{
    ask_drop(p);
    loop_timer_stop(&p->retry);
    part_end_chain(p);
    hide_gauges(p);
    list_remove(&p->node);
    mem_free(p->topic);
    mem_free(p);
}

static void part_new(struct cleaner *c, const struct kafka_partition *kp)
{
    const char *user = app_common(c->app)->user;
    const struct dataset *d = dataset_of_raw_topic(user, kp->topic);
    CHECK(d); /* only raw topics are subscribed to */
    struct part *p = MEM_NEW(struct part);
    p->cleaner = c;
    p->dataset = d;
    p->topic = mem_strdup(kp->topic);
    p->clean_topic = c->clean_topics[d->id];
    p->partition = kp->partition;
    p->begin = p->committed = p->commit_sent = -1;
    list_init(&p->held);
    list_push(&c->parts, &p->node);
    ask_start(p);
}

void part_restart(struct part *p, const char *why)
{
    LOG(WARN, "partition_begun_anew", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_STR("why", why));
    metric_add(app_metrics(p->cleaner->app), M_RESTARTS, 0, 1);
    part_end_chain(p);
    loop_timer_stop(&p->retry);
    ask_start(p);
    cleaner_say_ready(p->cleaner);
}

void part_begin(struct part *p)
{
    struct cleaner *c = p->cleaner;
    const struct cleaner_config *o = c->config;
    char source[SPAN_SOURCE_MAX + 1];
    const struct chain_limits limits = {.max_rows = (uint32_t)o->span_max_rows,
                                        .max_bytes = o->span_max_bytes,
                                        .linger_ms = o->span_linger};
    const struct chain_callbacks cb = {
        .on_span = on_span, .on_reject = on_reject, .on_fault = on_fault, .ctx = p};
    int64_t begin = p->begin >= 0 ? p->begin : 0;
    int64_t at = begin > p->low ? begin : p->low;
    const struct kafka_partition kp = {.topic = p->topic, .partition = p->partition, .offset = at};
    part_end_chain(p);
    if (p->taken) {
        kafka_consumer_seek(c->consumer, p->topic, p->partition, at);
    } else {
        kafka_consumer_take(c->consumer, &kp, 1);
        p->taken = true;
        p->paused = false;
    }
    span_source_kafka(source, p->topic, p->partition, p->id);
    p->commit_sent = p->begin;
    ask_verify(p);
    p->chain = chain_new(source, p->dataset, &limits, c->wash, &cb, begin, p->low);
    if (c->paused && !p->paused) {
        p->paused = true;
        kafka_consumer_pause(c->consumer, p->topic, p->partition);
    }
}

void part_run(struct part *p)
{
    struct cleaner *c = p->cleaner;
    const char *source = chain_source(p->chain);
    int64_t begin = p->begin >= 0 ? p->begin : 0;
    part_set_state(p, PART_RUNNING);
    LOG(INFO, "partition_begun", KV_STR("source", source), KV_INT("committed", p->begin),
        KV_INT("first", p->low), KV_INT("end", p->end));
    /* A chain that begins at 0 only says where it begins; what was promised to be read and is gone is an alarm. */
    if (begin < p->low && begin > 0) {
        LOG(ERROR, "records_lost", KV_STR("source", source), KV_INT("from", begin),
            KV_INT("to", p->low));
        metric_add(app_metrics(c->app), M_LOST, p->dataset->id, (double)(p->low - begin));
    } else if (begin < p->low) {
        LOG(INFO, "source_begins_at", KV_STR("source", source), KV_INT("position", p->low));
    }
    list_splice(&c->backlog, &p->held);
    on_resend(c);
    loop_timer_start(c->loop, &p->beat, c->config->span_heartbeat, on_beat, p);
    cleaner_say_ready(c);
}

static void on_beat(void *ctx)
{
    struct part *p = ctx;
    if (p->chain && p->cleaner->inflight_bytes <= p->cleaner->config->inflight_max)
        chain_heartbeat(p->chain);
    loop_timer_start(p->cleaner->loop, &p->beat, p->cleaner->config->span_heartbeat, on_beat, p);
}

static void on_linger(void *ctx)
{
    struct part *p = ctx;
    uint64_t again = chain_tick(p->chain, clock_ms());
    if (again != UINT64_MAX)
        loop_timer_start(p->cleaner->loop, &p->linger, again, on_linger, p);
}

/* ---------------------------------------------------------------- the consumer's words */

static int64_t ingested_at(const struct kafka_message *m)
{
    struct str text;
    int64_t ms;
    if (kafka_message_header(m, "sluice-ingested-at", &text) && text.p && !str_i64(text, &ms) &&
        ms >= 0)
        return ms;
    return m->timestamp_ms > 0 ? m->timestamp_ms : 0;
}

static void on_message(void *ctx, const struct kafka_message *m)
{
    struct cleaner *c = ctx;
    struct part *p = part_find(c, m->topic, m->partition);
    if (!p || c->failed)
        return;
    if (!p->chain)
        return; /* where to begin is being asked for: the seek that follows brings it again */
    const struct wash_input in = {
        .position = m->offset, .ingested_at_ms = ingested_at(m), .key = m->key, .value = m->value};
    struct metrics *mm = app_metrics(c->app);
    uint64_t rows = chain_counts(p->chain)->rows;
    if (!chain_record(p->chain, &in, loop_now_ms(c->loop)))
        return;
    metric_add(mm, M_RECORDS, p->dataset->id, 1);
    metric_add(mm, M_ROWS, p->dataset->id, (double)(chain_counts(p->chain)->rows - rows));
    if (m->offset >= p->end)
        p->end = m->offset + 1;
    if (!loop_timer_active(&p->linger))
        loop_timer_start(c->loop, &p->linger, c->config->span_linger, on_linger, p);
}

static void on_end(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct cleaner *c = ctx;
    struct part *p = part_find(c, topic, partition);
    if (!p || c->failed)
        return;
    if (!p->chain)
        return;
    p->end = offset;
    chain_end_of_log(p->chain, offset);
}

static void on_out_of_range(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct cleaner *c = ctx;
    struct part *p = part_find(c, topic, partition);
    (void)offset;
    if (p && p->chain)
        part_restart(p, "offset_out_of_range");
}

static void commit_parts(struct cleaner *c, struct part *only, kafka_offsets_fn *done, void *ctx);

static void on_assign(void *ctx, enum kafka_assign_kind kind, const struct kafka_partition *parts,
                      size_t n)
{
    struct cleaner *c = ctx;
    metric_add(app_metrics(c->app), M_REBALANCES, 0, 1);
    for (size_t i = 0; i < n; i++) {
        struct part *p = part_find(c, parts[i].topic, parts[i].partition);
        LOG(INFO, kind == KAFKA_ASSIGNED ? "partition_assigned" : "partition_revoked",
            KV_STR("topic", parts[i].topic), KV_INT("partition", parts[i].partition));
        if (kind == KAFKA_ASSIGNED) {
            if (p)
                part_free(p); /* given twice without a word in between: begin afresh */
            part_new(c, &parts[i]);
        } else if (p) {
            if (kind == KAFKA_REVOKED)
                commit_parts(c, p, NULL, NULL);
            part_free(p);
        }
    }
    if (kind != KAFKA_ASSIGNED)
        kafka_consumer_release(c->consumer, parts, n);
    cleaner_say_ready(c);
    if (c->draining)
        drain_step(c);
}

static void on_consumer_state(void *ctx, bool up, const char *detail)
{
    struct cleaner *c = ctx;
    (void)detail;
    c->kafka_up[0] = up;
    cleaner_say_ready(c);
}

static void on_producer_state(void *ctx, bool up, const char *detail)
{
    struct cleaner *c = ctx;
    (void)detail;
    c->kafka_up[1] = up;
    cleaner_say_ready(c);
}

static void on_consumer_fatal(void *ctx, const char *text)
{
    fail(ctx, "consumer_failed", text);
}

void cleaner_say_ready(struct cleaner *c)
{
    unsigned running = 0, all = 0;
    const struct part *stuck = NULL;
    LIST_EACH (it, tmp, &c->parts) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        all++;
        running += p->state == PART_RUNNING;
        if (p->state == PART_WAITING || p->short_log)
            stuck = p;
    }
    char detail[400];
    snprintf(detail, sizeof(detail), "%u of %u partitions read", running, all);
    if (stuck)
        snprintf(detail, sizeof(detail), "%s/%d cannot be begun%s", stuck->topic, stuck->partition,
                 stuck->short_log ? ": its log ends below the committed offset" : "");
    app_ready_set(c->app, "kafka", c->kafka_up[0] && c->kafka_up[1],
                  c->kafka_up[0] && c->kafka_up[1] ? "connected" : "not connected");
    app_ready_set(c->app, "partitions", !stuck, detail);
    metric_set(app_metrics(c->app), M_PARTITIONS, 0, running);
}

/* ---------------------------------------------------------------- committed offsets */

/* Commits what is confirmed and was not committed yet, of one partition or of all. `done` may be NULL. */
static void commit_parts(struct cleaner *c, struct part *only, kafka_offsets_fn *done, void *ctx)
{
    size_t n = 0, max = 0;
    LIST_EACH (it, tmp, &c->parts)
        max++;
    struct kafka_partition *parts = MEM_ARRAY(struct kafka_partition, max ? max : 1);
    LIST_EACH (it, tmp, &c->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if ((only && p != only) || p->state != PART_RUNNING || !p->chain)
            continue;
        int64_t confirmed = chain_confirmed(p->chain);
        if (confirmed <= p->commit_sent)
            continue;
        p->commit_sent = confirmed;
        parts[n++] = (struct kafka_partition){
            .topic = p->topic, .partition = p->partition, .offset = confirmed, .metadata = p->id};
    }
    if (n) {
        CRASH_POINT("cleaner_before_commit");
        c->committing = c->committing || done;
        kafka_consumer_commit(c->consumer, parts, n, done, ctx);
        metric_add(app_metrics(c->app), M_COMMITS, 0, 1);
    }
    mem_free(parts);
}

static void on_committed(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct cleaner *c = ctx;
    c->committing = false;
    if (rc) {
        metric_add(app_metrics(c->app), M_COMMIT_FAILURES, 0, 1);
        LOG(WARN, "commit_failed", KV_ERR(rc));
    }
    for (size_t i = 0; i < n; i++) {
        struct part *p = part_find(c, parts[i].topic, parts[i].partition);
        if (!p)
            continue;
        if (rc && p->commit_sent != INT64_MAX) /* an order holds commits back */
            p->commit_sent = p->committed;
        else if (!rc && parts[i].offset > p->committed)
            p->committed = parts[i].offset;
    }
    CRASH_POINT("cleaner_after_commit");
    if (c->draining)
        drain_step(c);
}

static void on_commit_due(void *ctx)
{
    struct cleaner *c = ctx;
    if (!c->committing)
        commit_parts(c, NULL, on_committed, c);
    loop_timer_start(c->loop, &c->commit, c->config->commit_interval, on_commit_due, c);
}

/* ---------------------------------------------------------------- topics that were made anew */

static void on_checked(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct cleaner *c = ctx;
    c->checking = false;
    for (size_t i = 0; !rc && i < info->topics_n; i++) {
        const struct kafka_topic_info *t = &info->topics[i];
        if (t->code)
            continue;
        LIST_EACH (it, tmp, &c->parts) {
            struct part *p = LIST_ENTRY(it, struct part, node);
            if (p->state == PART_RUNNING && !strcmp(p->topic, t->name) && strcmp(p->id, t->id))
                part_restart(p, "topic_made_anew");
        }
    }
}

static void on_check_due(void *ctx)
{
    struct cleaner *c = ctx;
    const char *names[DATASETS];
    size_t n = 0;
    LIST_EACH (it, tmp, &c->parts) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        bool known = false;
        for (size_t i = 0; i < n; i++)
            known |= !strcmp(names[i], p->topic);
        if (!known && n < DATASETS)
            names[n++] = p->topic;
    }
    if (n && !c->checking) {
        c->checking = true;
        kafka_admin_describe(c->admin, names, n, on_checked, c);
    }
    loop_timer_start(c->loop, &c->check, c->config->topics_check, on_check_due, c);
}

/* ---------------------------------------------------------------- start and stop */

static int open_clients(struct cleaner *c, struct err *e)
{
    const struct cleaner_config *o = c->config;
    const struct kafka_producer_opts po = {.brokers = o->brokers,
                                           .client_id = "sluice-cleaner",
                                           .linger_ms = 1,
                                           .delivery_timeout_ms = 0,
                                           .queue_bytes = o->inflight_max * 2,
                                           .max_message_bytes =
                                               4 * (o->record_max + RECORD_OVERHEAD),
                                           .gapless = true,
                                           .compression = "lz4",
                                           .on_delivery = on_delivery,
                                           .on_fatal = on_producer_fatal,
                                           .on_state = on_producer_state,
                                           .ctx = c};
    int rc = kafka_producer_open(c->loop, &po, &c->producer, e);
    if (rc)
        return rc;
    const struct kafka_admin_opts ao = {.brokers = o->brokers, .client_id = "sluice-cleaner"};
    rc = kafka_admin_open(c->loop, &ao, &c->admin, e);
    if (rc)
        return rc;
    static const struct kafka_consumer_callbacks cb = {.on_message = on_message,
                                                       .on_end = on_end,
                                                       .on_assign = on_assign,
                                                       .on_out_of_range = on_out_of_range,
                                                       .on_state = on_consumer_state,
                                                       .on_fatal = on_consumer_fatal};
    const struct kafka_consumer_opts co = {.brokers = o->brokers,
                                           .client_id = "sluice-cleaner",
                                           .group = c->group,
                                           .instance = c->instance,
                                           .session_timeout_ms = o->session_timeout,
                                           .topics = c->raw_topics,
                                           .fetch_bytes = o->inflight_max,
                                           .max_message_bytes = o->record_max + RECORD_OVERHEAD,
                                           .metadata_refresh_ms = o->topics_check,
                                           .cb = &cb,
                                           .ctx = c};
    return kafka_consumer_open(c->loop, &co, &c->consumer, e);
}

/* Gauges that are cheaper to ask for than to keep. */
static void on_collect(void *ctx)
{
    struct cleaner *c = ctx;
    struct metrics *m = app_metrics(c->app);
    metric_set(m, M_INFLIGHT, 0, (double)c->inflight_bytes);
    LIST_EACH (it, tmp, &c->parts) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        if (!p->chain)
            continue;
        char number[16];
        snprintf(number, sizeof(number), "%d", p->partition);
        int64_t confirmed = chain_confirmed(p->chain);
        metric_set(m, M_CONFIRMED, metric_series(m, M_CONFIRMED, p->topic, number),
                   (double)confirmed);
        metric_set(m, M_LAG, metric_series(m, M_LAG, p->topic, number),
                   (double)(p->end > confirmed ? p->end - confirmed : 0));
    }
}

/* The partition is another's now: its gauges would only grow old here. */
static void hide_gauges(struct part *p)
{
    struct metrics *m = app_metrics(p->cleaner->app);
    char number[16];
    snprintf(number, sizeof(number), "%d", p->partition);
    metric_hide(m, M_CONFIRMED, metric_series(m, M_CONFIRMED, p->topic, number));
    metric_hide(m, M_LAG, metric_series(m, M_LAG, p->topic, number));
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
    list_init(&c->parts);
    list_init(&c->asks);
    list_init(&c->orphans);
    list_init(&c->backlog);
    app_state_set(app, c);
    metric_set(app_metrics(app), M_INFLIGHT_MAX, 0, (double)c->config->inflight_max);
    metrics_on_collect(app_metrics(app), on_collect, c);
    cleaner_say_ready(c);
    int rc = open_clients(c, e);
    if (rc)
        return rc;
    cleaner_orders_open(c);
    loop_timer_start(c->loop, &c->commit, c->config->commit_interval, on_commit_due, c);
    loop_timer_start(c->loop, &c->check, c->config->topics_check, on_check_due, c);
    return 0;
}

/* Goes on with the drain: when all spans are stored their offsets are committed, and that is all. */
static void drain_step(struct cleaner *c)
{
    if (c->drained || c->committing || c->failed)
        return;
    LIST_EACH (it, tmp, &c->parts) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        if (p->chain && !chain_idle(p->chain))
            return;
    }
    commit_parts(c, NULL, on_committed, c);
    if (c->committing)
        return;
    c->drained = true;
    app_drained(c->app);
}

void cleaner_drain(struct app *app)
{
    struct cleaner *c = app_state(app);
    if (!c) {
        app_drained(app);
        return;
    }
    c->draining = true;
    pause_all(c, true);
    LIST_EACH (it, tmp, &c->parts) {
        struct part *p = LIST_ENTRY(it, struct part, node);
        if (p->state == PART_RUNNING)
            chain_flush(p->chain);
    }
    drain_step(c);
}

void cleaner_stop(struct app *app)
{
    struct cleaner *c = app_state(app);
    if (!c)
        return;
    app_state_set(app, NULL);
    loop_timer_stop(&c->check);
    loop_timer_stop(&c->commit);
    loop_timer_stop(&c->resend);
    LIST_EACH (it, tmp, &c->parts)
        part_free(LIST_ENTRY(it, struct part, node));
    kafka_consumer_close(&c->consumer);
    kafka_producer_close(&c->producer);
    kafka_admin_close(&c->admin);
    struct list *node;
    while ((node = list_pop(&c->asks)))
        mem_free(LIST_ENTRY(node, struct ask, node));
    LIST_EACH (it, tmp, &c->backlog)
        letter_free(LIST_ENTRY(it, struct letter, node));
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
    bool first = true;
    for (const struct list *it = c ? c->parts.next : NULL; c && it != &c->parts; it = it->next) {
        const struct part *p = LIST_ENTRY(it, struct part, node);
        if (!p->chain)
            continue;
        if (!first)
            buf_char(out, ',');
        first = false;
        buf_z(out, "{\"source\":");
        buf_json(out, str_of(chain_source(p->chain)));
        buf_z(out, ",\"topic\":");
        buf_json(out, str_of(p->topic));
        buf_printf(out,
                   ",\"partition\":%d,\"position\":%" PRId64 ",\"confirmed\":%" PRId64
                   ",\"committed\":%" PRId64 ",\"low\":%" PRId64 ",\"end\":%" PRId64 "}",
                   p->partition, chain_next(p->chain), chain_confirmed(p->chain), p->committed,
                   p->low, p->end);
    }
    buf_printf(out, "],\"inflight_bytes\":%zu,\"paused\":%s}", c ? c->inflight_bytes : 0,
               c && c->paused ? "true" : "false");
}
