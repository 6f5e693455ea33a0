/* member: see member.h.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "member"
#include "app/member.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include <string.h>

enum {
    COMMITTED_TIMEOUT_MS = 5000,
    QUESTION_TIMEOUT_MS = 3000,
    ASK_BACKOFF_MS = 50,
    ASK_BACKOFF_CAP_MS = 2000,
    JOIN_BACKOFF_MS = 500,
    JOIN_BACKOFF_CAP_MS = 30000,
    JOIN_FORGET_MS =
        60000 /* a membership that held for so long makes the next loss the first one */
};

struct member {
    struct loop *loop;
    struct member_opts opts;
    struct kafka_consumer *consumer;
    struct kafka_admin *admin;
    struct list parts, asks;
    bool paused, committing;
    unsigned joins;
    uint64_t joined_ms;
    struct loop_timer commit, join;
};

/* A question that outlives its partition harmlessly. */
struct member_ask {
    struct list node;
    struct member_part *part; /* NULL: nobody waits for it */
    bool of_consumer;         /* ends with the consumer, unanswered */
};

/* ---------------------------------------------------------------- partitions */

struct kafka_consumer *member_consumer(struct member *m)
{
    return m->consumer;
}

struct kafka_admin *member_admin(struct member *m)
{
    return m->admin;
}

struct list *member_parts(struct member *m)
{
    return &m->parts;
}

struct member_part *member_find(struct member *m, const char *topic, int32_t partition)
{
    LIST_EACH (it, tmp, &m->parts) {
        struct member_part *p = LIST_ENTRY(it, struct member_part, node);
        if (p->partition == partition && !strcmp(p->topic, topic))
            return p;
    }
    return NULL;
}

void member_part_init(struct member *m, struct member_part *p, const char *topic, int32_t partition)
{
    *p = (struct member_part){.member = m,
                              .topic = mem_strdup(topic),
                              .partition = partition,
                              .committed = -1,
                              .commit_sent = -1};
    list_push(&m->parts, &p->node);
}

void member_part_deinit(struct member_part *p)
{
    member_forget(p);
    loop_timer_stop(&p->retry);
    list_remove(&p->node);
    mem_free(p->topic);
}

void member_drop_parts(struct member *m)
{
    LIST_EACH (it, tmp, &m->parts)
        m->opts.cb->part_free(LIST_ENTRY(it, struct member_part, node));
}

static void set_paused(struct member_part *p)
{
    bool pause = p->member->paused || p->held;
    if (!p->taken || p->paused == pause)
        return;
    p->paused = pause;
    if (pause)
        kafka_consumer_pause(p->member->consumer, p->topic, p->partition);
    else
        kafka_consumer_resume(p->member->consumer, p->topic, p->partition);
}

void member_begin(struct member_part *p, int64_t offset)
{
    struct member *m = p->member;
    const struct kafka_partition kp = {
        .topic = p->topic, .partition = p->partition, .offset = offset};
    if (p->taken)
        kafka_consumer_seek(m->consumer, p->topic, p->partition, offset);
    else
        kafka_consumer_take(m->consumer, &kp, 1);
    p->taken = true;
    p->held = false;
    set_paused(p);
}

void member_hold(struct member_part *p)
{
    p->held = true;
    set_paused(p);
}

bool member_pause(struct member *m, bool pause)
{
    if (m->paused == pause)
        return false;
    m->paused = pause;
    LIST_EACH (it, tmp, &m->parts)
        set_paused(LIST_ENTRY(it, struct member_part, node));
    return true;
}

bool member_paused(const struct member *m)
{
    return m->paused;
}

/* ---------------------------------------------------------------- committed offsets */

static void on_committed(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct member *m = ctx;
    m->committing = false;
    if (rc)
        LOG(WARN, "commit_failed", KV_ERR(rc));
    for (size_t i = 0; i < n; i++) {
        struct member_part *p = member_find(m, parts[i].topic, parts[i].partition);
        if (!p)
            continue;
        if (rc && p->commit_sent != INT64_MAX)
            p->commit_sent = p->committed;
        else if (!rc && parts[i].offset > p->committed)
            p->committed = parts[i].offset;
    }
    m->opts.cb->on_committed(m->opts.ctx, rc);
}

/* Of one partition that leaves, whose answer nobody hears, or of all. */
static void commit(struct member *m, const struct member_part *only)
{
    size_t n = 0, max = 1;
    LIST_EACH (it, tmp, &m->parts)
        max++;
    struct kafka_partition *parts = MEM_ARRAY(struct kafka_partition, max);
    LIST_EACH (it, tmp, &m->parts) {
        struct member_part *p = LIST_ENTRY(it, struct member_part, node);
        char *metadata = NULL;
        if (only && p != only)
            continue;
        int64_t due = m->opts.cb->due(p, &metadata);
        if (due <= p->commit_sent)
            continue;
        p->commit_sent = due;
        parts[n++] = (struct kafka_partition){
            .topic = p->topic, .partition = p->partition, .offset = due, .metadata = metadata};
    }
    if (n) {
        m->opts.cb->on_commit(m->opts.ctx);
        m->committing = m->committing || !only;
        kafka_consumer_commit(m->consumer, parts, n, only ? NULL : on_committed, m);
    }
    mem_free(parts);
}

bool member_commit(struct member *m)
{
    if (!m->committing && m->consumer)
        commit(m, NULL);
    return m->committing;
}

static void on_commit_due(void *ctx)
{
    struct member *m = ctx;
    member_commit(m);
    loop_timer_start(m->loop, &m->commit, m->opts.commit_interval_ms, on_commit_due, m);
}

/* ---------------------------------------------------------------- the consumer's words */

static void on_message(void *ctx, const struct kafka_message *msg)
{
    struct member *m = ctx;
    struct member_part *p = member_find(m, msg->topic, msg->partition);
    if (p)
        m->opts.cb->on_message(p, msg);
}

static void on_end(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct member *m = ctx;
    struct member_part *p = member_find(m, topic, partition);
    if (p)
        m->opts.cb->on_end(p, offset);
}

static void on_out_of_range(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct member *m = ctx;
    struct member_part *p = member_find(m, topic, partition);
    if (p)
        m->opts.cb->on_out_of_range(p, offset);
}

static void on_assign(void *ctx, enum kafka_assign_kind kind, const struct kafka_partition *parts,
                      size_t n)
{
    struct member *m = ctx;
    const struct member_callbacks *cb = m->opts.cb;
    for (size_t i = 0; i < n; i++) {
        struct member_part *p = member_find(m, parts[i].topic, parts[i].partition);
        LOG(INFO, kind == KAFKA_ASSIGNED ? "partition_assigned" : "partition_revoked",
            KV_STR("topic", parts[i].topic), KV_INT("partition", parts[i].partition));
        if (p) { /* also one that is given twice without a word in between: it begins afresh */
            if (kind == KAFKA_REVOKED)
                commit(m, p);
            cb->part_free(p);
        }
        if (kind == KAFKA_ASSIGNED)
            cb->part_new(m->opts.ctx, parts[i].topic, parts[i].partition);
    }
    if (kind != KAFKA_ASSIGNED)
        kafka_consumer_release(m->consumer, parts, n);
    cb->on_rebalance(m->opts.ctx);
}

static void on_state(void *ctx, bool up, const char *detail)
{
    struct member *m = ctx;
    (void)detail;
    m->opts.cb->on_state(m->opts.ctx, up);
}

/* ---------------------------------------------------------------- thrown out, and back */

static void join(void *ctx)
{
    struct member *m = ctx;
    struct err e;
    if (kafka_consumer_open(m->loop, &m->opts.consumer, &m->consumer, &e)) {
        m->opts.cb->on_fatal(m->opts.ctx, e.text);
        return;
    }
    m->joined_ms = clock_ms();
}

static void leave(void *ctx)
{
    struct member *m = ctx;
    member_drop_parts(m);
    kafka_consumer_close(&m->consumer);
    LIST_EACH (it, tmp, &m->asks) {
        struct member_ask *a = LIST_ENTRY(it, struct member_ask, node);
        if (a->of_consumer)
            member_answer(a);
    }
    m->committing = false;
    if (clock_ms() - m->joined_ms > JOIN_FORGET_MS)
        m->joins = 0;
    loop_timer_start(m->loop, &m->join,
                     loop_backoff_ms(m->joins++, JOIN_BACKOFF_MS, JOIN_BACKOFF_CAP_MS), join, m);
    m->opts.cb->on_lost(m->opts.ctx);
}

static void on_fatal(void *ctx, int code, const char *text)
{
    struct member *m = ctx;
    if (code != ERR_CONFLICT) {
        m->opts.cb->on_fatal(m->opts.ctx, text);
        return;
    }
    LOG(WARN, "membership_lost", KV_STR("group", m->opts.consumer.group),
        KV_STR("instance", m->opts.consumer.instance ? m->opts.consumer.instance : ""),
        KV_STR("detail", text));
    loop_timer_start(m->loop, &m->join, 0, leave, m); /* not inside the consumer's own call */
}

/* ---------------------------------------------------------------- questions */

struct member_ask *member_ask(struct member_part *p)
{
    member_forget(p);
    struct member_ask *a = MEM_NEW(struct member_ask);
    a->part = p;
    list_push(&p->member->asks, &a->node);
    p->ask = a;
    return a;
}

struct member_part *member_answer(struct member_ask *a)
{
    struct member_part *p = a->part;
    if (p)
        p->ask = NULL;
    list_remove(&a->node);
    mem_free(a);
    return p;
}

void member_forget(struct member_part *p)
{
    if (p->ask)
        p->ask->part = NULL;
    p->ask = NULL;
}

static struct kafka_partition partition_of(const struct member_part *p)
{
    return (struct kafka_partition){.topic = p->topic, .partition = p->partition, .offset = -1};
}

void member_ask_committed(struct member_part *p, kafka_offsets_fn *done)
{
    const struct kafka_partition kp = partition_of(p);
    struct member_ask *a = member_ask(p);
    a->of_consumer = true;
    kafka_consumer_committed(p->member->consumer, &kp, 1, COMMITTED_TIMEOUT_MS, done, a);
}

void member_ask_first(struct member_part *p, kafka_offsets_fn *done)
{
    const struct kafka_partition kp = partition_of(p);
    kafka_admin_offsets(p->member->admin, &kp, 1, true, done, member_ask(p));
}

void member_ask_end(struct member_part *p, kafka_offsets_fn *done)
{
    const struct kafka_partition kp = partition_of(p);
    kafka_admin_offsets(p->member->admin, &kp, 1, false, done, member_ask(p));
}

void member_ask_topics(struct member_part *p, const char *const *names, size_t n,
                       kafka_topics_fn *done)
{
    kafka_admin_describe(p->member->admin, names, n, done, member_ask(p));
}

void member_retry(struct member_part *p, int rc, const char *step, loop_fn *again)
{
    LOG(WARN, "partition_not_begun", KV_STR("topic", p->topic), KV_INT("partition", p->partition),
        KV_STR("step", step), KV_ERR(rc));
    loop_timer_start(p->member->loop, &p->retry,
                     loop_backoff_ms(p->tries++, ASK_BACKOFF_MS, ASK_BACKOFF_CAP_MS), again, p);
}

/* ---------------------------------------------------------------- life */

int member_open(struct loop *loop, const struct member_opts *o, struct member **ret, struct err *e)
{
    static const struct kafka_consumer_callbacks cb = {.on_message = on_message,
                                                       .on_end = on_end,
                                                       .on_assign = on_assign,
                                                       .on_out_of_range = on_out_of_range,
                                                       .on_state = on_state,
                                                       .on_fatal = on_fatal};
    const struct kafka_admin_opts ao = {.brokers = o->consumer.brokers,
                                        .client_id = o->consumer.client_id,
                                        .timeout_ms = QUESTION_TIMEOUT_MS};
    struct member *m = MEM_NEW(struct member);
    m->loop = loop;
    m->opts = *o;
    m->opts.consumer.cb = &cb;
    m->opts.consumer.ctx = m;
    m->joined_ms = clock_ms();
    list_init(&m->parts);
    list_init(&m->asks);
    int rc = kafka_admin_open(loop, &ao, &m->admin, e);
    if (!rc)
        rc = kafka_consumer_open(loop, &m->opts.consumer, &m->consumer, e);
    if (rc) {
        member_close(&m);
        return rc;
    }
    loop_timer_start(loop, &m->commit, o->commit_interval_ms, on_commit_due, m);
    *ret = m;
    return 0;
}

void member_close(struct member **ret)
{
    struct member *m = *ret;
    if (!m)
        return;
    loop_timer_stop(&m->commit);
    loop_timer_stop(&m->join);
    member_drop_parts(m);
    *ret = NULL; /* not before: what frees a partition may still speak to the member */
    kafka_consumer_close(&m->consumer);
    kafka_admin_close(&m->admin);
    LIST_EACH (it, tmp, &m->asks)
        member_answer(LIST_ENTRY(it, struct member_ask, node));
    mem_free(m);
}
