/* cleaner_ask: finds out where a partition begins.
 *
 * The order of the questions matters: the topic's id first (so that a committed offset of another topic is not believed), then the
 * committed offset, then what the log holds, and when the partition was taken in, the id once more: a topic that was made
 * anew in between would be read under the old source.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/log.h"
#include "base/mem.h"
#include <string.h>

#define ASK_TIMEOUT_MS 5000
#define ASK_BACKOFF_MS 50
#define ASK_BACKOFF_CAP_MS 2000

static void on_ask_again(void *ctx)
{
    struct part *p = ctx;
    ask_start(p);
}

/* The way of every failure: once more, later. */
static void ask_later(struct part *p, int rc, const char *what)
{
    LOG(WARN, "partition_not_begun", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_STR("step", what), KV_ERR(rc));
    part_set_state(p, PART_WAITING);
    loop_timer_start(p->cleaner->loop, &p->retry,
                     loop_backoff_ms(p->tries++, ASK_BACKOFF_MS, ASK_BACKOFF_CAP_MS), on_ask_again,
                     p);
    cleaner_say_ready(p->cleaner);
}

static struct ask *ask_new(struct part *p)
{
    ask_drop(p);
    struct ask *a = MEM_NEW(struct ask);
    a->part = p;
    list_push(&p->cleaner->asks, &a->node);
    p->ask = a;
    return a;
}

/* Takes an answer's partition and ends the question; NULL: the partition has gone, or asks something else by now. */
static struct part *ask_end(struct ask *a)
{
    struct part *p = a->part;
    if (p)
        p->ask = NULL;
    list_remove(&a->node);
    mem_free(a);
    return p;
}

void ask_drop(struct part *p)
{
    if (p->ask)
        p->ask->part = NULL;
    p->ask = NULL;
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

static struct kafka_partition partition_of(const struct part *p)
{
    return (struct kafka_partition){.topic = p->topic, .partition = p->partition, .offset = -1};
}

static void on_ask_described(void *ctx, int rc, const struct kafka_topics_info *info);
static void on_ask_committed(void *ctx, int rc, const struct kafka_partition *parts, size_t n);
static void on_ask_first(void *ctx, int rc, const struct kafka_partition *parts, size_t n);
static void on_ask_end(void *ctx, int rc, const struct kafka_partition *parts, size_t n);
static void on_ask_verified(void *ctx, int rc, const struct kafka_topics_info *info);

void ask_start(struct part *p)
{
    part_set_state(p, PART_ASKING);
    const char *names[] = {p->topic, p->clean_topic};
    kafka_admin_describe(p->cleaner->admin, names, 2, on_ask_described, ask_new(p));
}

static void on_ask_described(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct part *p = ask_end(ctx);
    if (!p)
        return;
    const struct kafka_topic_info *raw = find_topic(info, p->topic);
    const struct kafka_topic_info *clean = find_topic(info, p->clean_topic);
    if (rc || !raw || !clean) {
        ask_later(p, rc ? rc : ERR_NOT_FOUND, "describe");
        return;
    }
    if ((size_t)p->partition >= clean->partitions_n) {
        ask_later(p, ERR_NOT_FOUND, "clean_partition");
        return;
    }
    memcpy(p->id, raw->id, sizeof(p->id));
    const struct kafka_partition kp = partition_of(p);
    kafka_consumer_committed(p->cleaner->consumer, &kp, 1, ASK_TIMEOUT_MS, on_ask_committed,
                             ask_new(p));
}

static void on_ask_committed(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = ask_end(ctx);
    if (!p)
        return;
    if (rc || n != 1) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "committed");
        return;
    }
    /* An offset that carries another topic's id belongs to a topic that is no more. */
    bool ours = parts[0].offset >= 0 && parts[0].metadata && !strcmp(parts[0].metadata, p->id);
    p->begin = p->committed = ours ? parts[0].offset : -1;
    const struct kafka_partition kp = partition_of(p);
    kafka_admin_offsets(p->cleaner->admin, &kp, 1, true, on_ask_first, ask_new(p));
}

static void on_ask_first(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = ask_end(ctx);
    if (!p)
        return;
    if (rc || n != 1) {
        ask_later(p, rc ? rc : ERR_PROTOCOL, "first_offset");
        return;
    }
    p->low = parts[0].offset;
    const struct kafka_partition kp = partition_of(p);
    kafka_admin_offsets(p->cleaner->admin, &kp, 1, false, on_ask_end, ask_new(p));
}

static void on_ask_end(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct part *p = ask_end(ctx);
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
        LOG(ERROR, "raw_log_short", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
            KV_INT("committed", p->begin), KV_INT("end", p->end));
        ask_later(p, ERR_CORRUPT, "short_log");
        return;
    }
    p->tries = 0;
    part_begin(p);
}

void ask_verify(struct part *p)
{
    part_set_state(p, PART_VERIFYING);
    const char *names[] = {p->topic};
    kafka_admin_describe(p->cleaner->admin, names, 1, on_ask_verified, ask_new(p));
}

static void on_ask_verified(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct part *p = ask_end(ctx);
    if (!p)
        return;
    const struct kafka_topic_info *raw = find_topic(info, p->topic);
    if (rc || !raw) {
        ask_later(p, rc ? rc : ERR_NOT_FOUND, "verify");
        return;
    }
    if (strcmp(raw->id, p->id)) {
        part_restart(p, "topic_made_anew");
        return;
    }
    part_run(p);
}
