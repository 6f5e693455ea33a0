/* raw_part: one raw partition: where it begins, its chain, the records that come. See cleaner.h for its states.
 *
 * The order of the questions at the beginning matters: the topic's id first (so that a committed offset of another topic is not
 * believed), then the committed offset, then what the log holds. A topic that is made anew at any time after the first question is found
 * by looks.c before anything goes out under the old source.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <inttypes.h>
#include <string.h>

static void on_linger(void *ctx);
static void on_beat(void *ctx);
static void ask_topics(void *ctx);

static void set_state(struct part *p, enum part_state state)
{
    static const char *const names[] = {"ASKING", "WAITING", "RUNNING"};
    if (p->state == state)
        return;
    LOG(DEBUG, "partition_state", KV_STR("topic", p->m.topic), KV_INT("partition", p->m.partition),
        KV_STR("from", names[p->state]), KV_STR("to", names[state]));
    p->state = state;
}

/* ---------------------------------------------------------------- life */

static void end_chain(struct part *p)
{
    loop_timer_stop(&p->linger);
    loop_timer_stop(&p->beat);
    chain_free(&p->chain, &p->cleaner->orphans);
    letters_drop(p);
}

void raw_part_new(void *ctx, const char *topic, int32_t partition)
{
    struct cleaner *c = ctx;
    const struct dataset *d = dataset_of_raw_topic(app_common(c->app)->user, topic);
    CHECK(d); /* only raw topics are subscribed to */
    struct part *p = MEM_NEW(struct part);
    member_part_init(c->member, &p->m, topic, partition);
    p->cleaner = c;
    p->dataset = d;
    p->clean_topic = c->clean_topics[d->id];
    p->begin = -1;
    list_init(&p->held);
    ask_topics(p);
}

void raw_part_free(struct member_part *mp)
{
    struct part *p = PART(mp);
    struct metrics *m = app_metrics(p->cleaner->app);
    char number[16];
    snprintf(number, sizeof(number), "%d", mp->partition);
    end_chain(p);
    /* The partition is another's now: its gauges would only grow old here. */
    metric_hide(m, M_CONFIRMED, metric_series(m, M_CONFIRMED, mp->topic, number));
    metric_hide(m, M_LAG, metric_series(m, M_LAG, mp->topic, number));
    member_part_deinit(mp);
    mem_free(p);
}

void raw_part_restart(struct part *p, const char *why)
{
    LOG(WARN, "partition_begun_anew", KV_STR("topic", p->m.topic),
        KV_INT("partition", p->m.partition), KV_STR("why", why));
    metric_add(app_metrics(p->cleaner->app), M_RESTARTS, 0, 1);
    end_chain(p);
    loop_timer_stop(&p->m.retry);
    ask_topics(p);
    cleaner_say_ready(p->cleaner);
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

/* Every chain begins at 0: without a committed offset the first span covers what Kafka deleted before. */
static int64_t chain_begin(const struct part *p)
{
    return p->begin >= 0 ? p->begin : 0;
}

/* ---------------------------------------------------------------- where to begin */

static void ask_later(struct part *p, int rc, const char *step)
{
    set_state(p, PART_WAITING);
    member_retry(&p->m, rc, step, ask_topics);
    cleaner_say_ready(p->cleaner);
}

static const struct kafka_topic_info *find_topic(const struct kafka_topics_info *info,
                                                 const char *name)
{
    for (size_t i = 0; info && i < info->topics_n; i++) {
        if (!strcmp(info->topics[i].name, name))
            return info->topics[i].code ? NULL : &info->topics[i];
    }
    return NULL;
}

static void on_topics(void *ask, int rc, const struct kafka_topics_info *info);
static void on_committed(void *ask, int rc, const struct kafka_partition *parts, size_t n);
static void on_first(void *ask, int rc, const struct kafka_partition *parts, size_t n);
static void on_end(void *ask, int rc, const struct kafka_partition *parts, size_t n);

static void ask_topics(void *ctx)
{
    struct part *p = ctx;
    const char *names[] = {p->m.topic, p->clean_topic};
    set_state(p, PART_ASKING);
    member_ask_topics(&p->m, names, 2, on_topics);
}

static void on_topics(void *ask, int rc, const struct kafka_topics_info *info)
{
    struct part *p = PART(member_answer(ask));
    if (!p)
        return;
    const struct kafka_topic_info *raw = find_topic(info, p->m.topic);
    const struct kafka_topic_info *clean = find_topic(info, p->clean_topic);
    if (rc || !raw || !clean) {
        ask_later(p, rc ? rc : ERR_NOT_FOUND, "describe");
        return;
    }
    if ((size_t)p->m.partition >= clean->partitions_n) {
        ask_later(p, ERR_NOT_FOUND, "clean_partition");
        return;
    }
    memcpy(p->id, raw->id, sizeof(p->id));
    member_ask_committed(&p->m, on_committed);
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
    /* An offset that carries another topic's id belongs to a topic that is no more. */
    bool ours = parts[0].offset >= 0 && parts[0].metadata && !strcmp(parts[0].metadata, p->id);
    p->begin = p->m.committed = ours ? parts[0].offset : -1;
    member_ask_first(&p->m, on_first);
}

static void on_first(void *ask, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = PART(member_answer(ask));
    if (!p)
        return;
    if (rc || n != 1) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "first_offset");
        return;
    }
    p->low = parts[0].offset;
    member_ask_end(&p->m, on_end);
}

static void say_begin(const struct part *p)
{
    const char *source = chain_source(p->chain);
    int64_t begin = chain_begin(p);
    LOG(INFO, "partition_begun", KV_STR("source", source), KV_INT("committed", p->begin),
        KV_INT("first", p->low), KV_INT("end", p->end));
    /* A chain that begins at 0 only says where it begins; what was promised to be read and is gone is an alarm. */
    if (begin < p->low && begin > 0) {
        LOG(ERROR, "records_lost", KV_STR("source", source), KV_INT("from", begin),
            KV_INT("to", p->low));
        metric_add(app_metrics(p->cleaner->app), M_LOST, p->dataset->id, (double)(p->low - begin));
    } else if (begin < p->low) {
        LOG(INFO, "source_begins_at", KV_STR("source", source), KV_INT("position", p->low));
    }
}

static void begin(struct part *p)
{
    struct cleaner *c = p->cleaner;
    const struct cleaner_config *o = c->config;
    char source[SPAN_SOURCE_MAX + 1];
    const struct chain_limits limits = {.max_rows = (uint32_t)o->span_max_rows,
                                        .max_bytes = o->span_max_bytes,
                                        .linger_ms = o->span_linger};
    const struct chain_callbacks cb = {
        .on_span = letters_span, .on_reject = letters_reject, .on_fault = on_fault, .ctx = p};
    int64_t begin = chain_begin(p);
    end_chain(p);
    member_begin(&p->m, begin > p->low ? begin : p->low);
    span_source_kafka(source, p->m.topic, p->m.partition, p->id);
    p->m.commit_sent = p->begin;
    p->m.tries = 0;
    set_state(p, PART_RUNNING);
    p->chain = chain_new(source, p->dataset, &limits, c->wash, &cb, begin, p->low);
    say_begin(p);
    loop_timer_start(c->loop, &p->beat, o->span_heartbeat, on_beat, p);
    cleaner_say_ready(c);
}

static void on_end(void *ask, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = PART(member_answer(ask));
    if (!p)
        return;
    if (rc || n != 1) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "end_offset");
        return;
    }
    p->end = parts[0].offset;
    p->short_log = p->begin > p->end;
    if (p->short_log) {
        /* Kafka lost records that it had confirmed. Reading on would give new records old positions. */
        LOG(ERROR, "raw_log_short", KV_STR("topic", p->m.topic),
            KV_INT("partition", p->m.partition), KV_INT("committed", p->begin),
            KV_INT("end", p->end));
        ask_later(p, ERR_CORRUPT, "short_log");
        return;
    }
    begin(p);
}

/* ---------------------------------------------------------------- records */

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

/* A client of Kafka's may have written any number: what no table can hold does not count. */
static int64_t ingested_at(const struct kafka_message *m)
{
    struct str text;
    int64_t ms;
    if (kafka_message_header(m, "sluice-ingested-at", &text) && text.p && !str_i64(text, &ms) &&
        ms >= 0 && ms < TIMESTAMP_END_MS)
        return ms;
    return m->timestamp_ms > 0 && m->timestamp_ms < TIMESTAMP_END_MS ? m->timestamp_ms : 0;
}

void raw_part_message(struct member_part *mp, const struct kafka_message *m)
{
    struct part *p = PART(mp);
    struct cleaner *c = p->cleaner;
    if (c->failed || !p->chain)
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

void raw_part_end_of_log(struct member_part *mp, int64_t offset)
{
    struct part *p = PART(mp);
    if (p->cleaner->failed || !p->chain)
        return;
    p->end = offset;
    chain_end_of_log(p->chain, offset);
}

void raw_part_out_of_range(struct member_part *mp, int64_t offset)
{
    struct part *p = PART(mp);
    (void)offset;
    if (p->chain)
        raw_part_restart(p, "offset_out_of_range");
}

int64_t raw_part_due(const struct member_part *mp, char **ret_metadata)
{
    const struct part *p = CONST_PART(mp);
    if (p->state != PART_RUNNING || !p->chain)
        return -1;
    int64_t confirmed = chain_confirmed(p->chain);
    *ret_metadata = (char *)p->id;
    return confirmed;
}
