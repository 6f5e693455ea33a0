/* sim_kafka: io/kafka.h over the world's logs: any node may hold any partition at any time, messages of a dead producer land late
 * or not at all, offsets go lost, topics are deleted and made anew.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/check.h"
#include "base/mem.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- producer */

struct flight { /* one message of a producer; in the order of its partition */
    struct list node;
    struct app *app; /* NULL: nobody waits for its report */
    char *topic;
    int32_t partition;
    struct str value;
    void *record;
    bool landed;
};

struct kafka_producer {
    struct app *app;
    struct kafka_producer_opts opts;
};

int kafka_producer_open(struct loop *loop, const struct kafka_producer_opts *o,
                        struct kafka_producer **ret, struct err *e)
{
    (void)e;
    struct kafka_producer *p = MEM_NEW(struct kafka_producer);
    p->app = sim_loop_app(loop);
    p->app->producer = p;
    p->opts = *o;
    *ret = p;
    return 0;
}

int kafka_produce(struct kafka_producer *p, const struct kafka_record *rec, void *record)
{
    if (!W->calm && chance(0.02))
        return ERR_BUSY;
    struct flight *f = MEM_NEW(struct flight);
    f->app = p->app;
    f->topic = mem_strdup(rec->topic);
    f->partition = rec->partition;
    if (rec->value.p)
        f->value = str_make(mem_strndup(rec->value.p, rec->value.n), rec->value.n);
    if (rec->give)
        mem_free((char *)(uintptr_t)rec->value.p);
    f->record = record;
    list_push(&W->flights, &f->node);
    return 0;
}

size_t kafka_producer_queued(const struct kafka_producer *p)
{
    (void)p;
    return 0;
}

void kafka_producer_close(struct kafka_producer **pp)
{
    if (!*pp)
        return;
    (*pp)->app->producer = NULL;
    mem_free(*pp);
    *pp = NULL;
}

static void flight_free(struct flight *f)
{
    list_remove(&f->node);
    mem_free(f->topic);
    mem_free((char *)f->value.p);
    mem_free(f);
}

void sim_flights_free(void)
{
    LIST_EACH (it, tmp, &W->flights)
        flight_free(LIST_ENTRY(it, struct flight, node));
}

/* The oldest message that has not landed, of a partition chosen at random: the same partition's messages keep their order. */
bool sim_kafka_land(void)
{
    struct flight *choice = NULL;
    unsigned seen = 0;
    LIST_EACH (it, tmp, &W->flights) {
        struct flight *f = LIST_ENTRY(it, struct flight, node);
        bool first = !f->landed;
        LIST_EACH (jt, jtmp, &W->flights) {
            struct flight *g = LIST_ENTRY(jt, struct flight, node);
            if (g == f)
                break;
            if (!g->landed && g->app == f->app && g->partition == f->partition &&
                !strcmp(g->topic, f->topic))
                first = false;
        }
        if (first && below(++seen) == 0)
            choice = f;
    }
    if (!choice)
        return false;
    struct flight *f = choice;
    bool clean;
    int t = topic_index(f->topic, &clean);
    f->landed = true;
    if (t >= 0 && clean) {
        struct log_ *l = world_log(f->topic, f->partition);
        say("  span lands at %s/%d %lld", f->topic, f->partition, (long long)l->n);
        audit_landed(f->value);
        log_append(l, (struct message){.value = f->value});
        f->value = (struct str){NULL, 0};
    }
    if (!f->app)
        flight_free(f);
    return true;
}

bool sim_kafka_ack(struct app *app)
{
    LIST_EACH (it, tmp, &W->flights) {
        struct flight *f = LIST_ENTRY(it, struct flight, node);
        if (f->app != app || !f->landed)
            continue;
        void *record = f->record;
        flight_free(f);
        const struct kafka_delivery d = {.outcome = KAFKA_STORED};
        app->producer->opts.on_delivery(app->producer->opts.ctx, record, &d);
        return true;
    }
    return false;
}

/* The process has died. What was on its way may land yet, a beginning of each partition's messages. */
void sim_kafka_owner_gone(struct app *app)
{
    bool cut = false;
    LIST_EACH (it, tmp, &W->flights) {
        struct flight *f = LIST_ENTRY(it, struct flight, node);
        if (f->app != app)
            continue;
        /* from here on nothing was sent: order over all partitions is stricter than needed */
        cut |= chance(0.15);
        f->app = NULL;
        if (cut || f->landed)
            flight_free(f);
    }
}

/* ---------------------------------------------------------------- consumer */

struct taken {
    struct list node;
    char *topic;
    int32_t partition;
    char id[32]; /* of the log that its position counts in */
    int64_t pos;
    bool reading, paused, end_said, stalled;
};

struct kafka_consumer {
    struct app *app;
    struct kafka_consumer_callbacks cb;
    void *ctx;
    struct list member; /* what was assigned; reading once it was taken */
    bool fenced;
};

int kafka_consumer_open(struct loop *loop, const struct kafka_consumer_opts *o,
                        struct kafka_consumer **ret, struct err *e)
{
    (void)e;
    struct kafka_consumer *c = MEM_NEW(struct kafka_consumer);
    c->app = sim_loop_app(loop);
    c->app->consumer = c;
    c->cb = *o->cb;
    c->ctx = o->ctx;
    list_init(&c->member);
    *ret = c;
    return 0;
}

static void taken_free(struct taken *t)
{
    list_remove(&t->node);
    mem_free(t->topic);
    mem_free(t);
}

static void drop_questions(struct kafka_consumer *c);

void kafka_consumer_close(struct kafka_consumer **pc)
{
    struct kafka_consumer *c = *pc;
    if (!c)
        return;
    drop_questions(c);
    LIST_EACH (it, tmp, &c->member)
        taken_free(LIST_ENTRY(it, struct taken, node));
    c->app->consumer = NULL;
    mem_free(c);
    *pc = NULL;
}

static struct taken *taken_find(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    LIST_EACH (it, tmp, &c->member) {
        struct taken *t = LIST_ENTRY(it, struct taken, node);
        if (t->partition == partition && !strcmp(t->topic, topic))
            return t;
    }
    return NULL;
}

static void place(struct taken *t, int64_t offset)
{
    memcpy(t->id, world_log(t->topic, t->partition)->id, sizeof(t->id));
    t->pos = offset;
    t->reading = true;
    t->end_said = t->stalled = false;
}

void kafka_consumer_take(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct taken *t = taken_find(c, parts[i].topic, parts[i].partition);
        if (t)
            place(t, parts[i].offset);
    }
}

void kafka_consumer_release(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct taken *t = taken_find(c, parts[i].topic, parts[i].partition);
        if (t)
            taken_free(t);
    }
}

void kafka_consumer_seek(struct kafka_consumer *c, const char *topic, int32_t partition,
                         int64_t offset)
{
    struct taken *t = taken_find(c, topic, partition);
    CHECK(t && t->reading);
    place(t, offset);
}

void kafka_consumer_pause(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    struct taken *t = taken_find(c, topic, partition);
    if (t)
        t->paused = true;
}

void kafka_consumer_resume(struct kafka_consumer *c, const char *topic, int32_t partition)
{
    struct taken *t = taken_find(c, topic, partition);
    if (t)
        t->paused = false;
}

bool kafka_message_header(const struct kafka_message *m, const char *name, struct str *ret_value)
{
    (void)m, (void)name, (void)ret_value;
    return false;
}

static bool deliver_one(struct kafka_consumer *c, struct taken *t)
{
    struct log_ *l = world_log(t->topic, t->partition);
    if (t->stalled)
        return false;
    bool made_anew = strcmp(l->id, t->id);
    /* A client that asks by the topic's name reads on in the new one, if that is long enough; one that asks by its id does not. */
    if (made_anew && t->pos >= l->low && t->pos <= l->n && chance(0.7))
        memcpy(t->id, l->id, sizeof(t->id)), made_anew = false;
    if (made_anew || t->pos < l->low || t->pos > l->n) {
        t->stalled = true;
        c->cb.on_out_of_range(c->ctx, t->topic, t->partition, t->pos);
        return true;
    }
    while (t->pos < l->n && !l->messages[t->pos].value.p && !l->messages[t->pos].items_n)
        t->pos++;
    if (t->pos == l->n) {
        if (t->end_said)
            return false;
        t->end_said = true;
        c->cb.on_end(c->ctx, t->topic, t->partition, t->pos);
        return true;
    }
    const struct message *m = &l->messages[t->pos];
    char *padded = mem_alloc(m->value.n + 64);
    memcpy(padded, m->value.p, m->value.n);
    const struct kafka_message km = {.topic = t->topic,
                                     .partition = t->partition,
                                     .offset = t->pos,
                                     .timestamp_ms = 1000,
                                     .value = str_make(padded, m->value.n)};
    t->pos++;
    t->end_said = false;
    c->cb.on_message(c->ctx, &km);
    mem_free(padded);
    return true;
}

bool sim_kafka_deliver(struct app *app)
{
    struct kafka_consumer *c = app->consumer;
    struct taken *choice = NULL;
    unsigned seen = 0;
    if (!c)
        return false;
    LIST_EACH (it, tmp, &c->member) {
        struct taken *t = LIST_ENTRY(it, struct taken, node);
        const struct log_ *l = world_log(t->topic, t->partition);
        bool something = t->pos != l->n || !t->end_said || strcmp(l->id, t->id);
        if (t->reading && !t->paused && !t->stalled && something && below(++seen) == 0)
            choice = t;
    }
    if (!choice)
        return false;
    char *topic = mem_strdup(choice->topic);
    int32_t partition = choice->partition;
    bool any = false;
    for (unsigned n = 1 + below(6); n > 0; n--) {
        struct taken *t = app->consumer ? taken_find(app->consumer, topic, partition) : NULL;
        if (!t || !t->reading || t->paused || !deliver_one(app->consumer, t))
            break;
        any = true;
    }
    mem_free(topic);
    return any;
}

static const char *topic_name(enum node_kind kind, int topic)
{
    static const char *const names[2][MODEL_TOPICS] = {{"demo.geo", "demo.user"},
                                                       {"demo.clean.geo", "demo.clean.user"}};
    return names[kind == NODE_SINK][topic];
}

bool sim_kafka_has(struct app *app, int topic, int partition)
{
    return app->consumer && taken_find(app->consumer, topic_name(app->kind, topic), partition);
}

void sim_kafka_assign(struct app *app, int topic, int partition)
{
    struct kafka_consumer *c = app->consumer;
    if (!c || c->fenced || sim_kafka_has(app, topic, partition))
        return;
    struct taken *t = MEM_NEW(struct taken);
    t->topic = mem_strdup(topic_name(app->kind, topic));
    t->partition = partition;
    list_push(&c->member, &t->node);
    const struct kafka_partition kp = {.topic = t->topic, .partition = partition, .offset = -1};
    c->cb.on_assign(c->ctx, KAFKA_ASSIGNED, &kp, 1);
}

bool sim_kafka_unassign(struct app *app, bool lost)
{
    struct kafka_consumer *c = app->consumer;
    struct taken *choice = NULL;
    unsigned seen = 0;
    if (!c)
        return false;
    LIST_EACH (it, tmp, &c->member) {
        if (below(++seen) == 0)
            choice = LIST_ENTRY(it, struct taken, node);
    }
    if (!choice)
        return false;
    char *topic = mem_strdup(choice->topic);
    const struct kafka_partition kp = {
        .topic = topic, .partition = choice->partition, .offset = -1};
    c->cb.on_assign(c->ctx, lost ? KAFKA_LOST : KAFKA_REVOKED, &kp, 1);
    CHECK(!taken_find(c, topic, kp.partition)); /* it was released */
    mem_free(topic);
    return true;
}

void sim_kafka_fence(struct app *app)
{
    struct kafka_consumer *c = app->consumer;
    if (c && !c->fenced) {
        c->fenced = true;
        c->cb.on_fatal(c->ctx, ERR_CONFLICT, "fenced");
    }
}

/* ---------------------------------------------------------------- questions */

struct question {
    struct kafka_consumer *consumer; /* that was asked; NULL: the admin was */
    enum { ASK_COMMITTED, ASK_COMMIT, ASK_FIRST, ASK_LAST, ASK_DESCRIBE } kind;
    char *topics[2];
    size_t topics_n;
    int32_t partition;
    int64_t offset;
    char *metadata;
    /* the truth was looked up when the question was asked, not when the answer comes */
    bool answered;
    int64_t truth;
    char *truth_metadata;
    char truth_ids[2][32];
    kafka_offsets_fn *offsets_done;
    kafka_topics_fn *topics_done;
    void *ctx;
};

static void question_free(struct question *q)
{
    for (size_t i = 0; i < q->topics_n; i++)
        mem_free(q->topics[i]);
    mem_free(q->metadata);
    mem_free(q->truth_metadata);
    mem_free(q);
}

static void look_up(struct question *q)
{
    bool clean;
    int t = topic_index(q->topics[0], &clean);
    const struct log_ *l = world_log(q->topics[0], q->partition);
    if (q->kind == ASK_COMMITTED) {
        q->truth = clean ? W->clean_committed[t][q->partition].offset
                         : W->raw_committed[t][q->partition].offset;
        const char *m = clean ? W->clean_committed[t][q->partition].metadata
                              : W->raw_committed[t][q->partition].metadata;
        q->truth_metadata = m ? mem_strdup(m) : NULL;
    } else if (q->kind == ASK_FIRST || q->kind == ASK_LAST) {
        q->truth = q->kind == ASK_FIRST ? l->low : l->n;
    } else if (q->kind == ASK_DESCRIBE) {
        for (size_t i = 0; i < q->topics_n; i++)
            memcpy(q->truth_ids[i], world_log(q->topics[i], 0)->id, sizeof(q->truth_ids[i]));
    }
    q->answered = true;
}

/* A commit of offsets counts for the topic that is there now: the broker forgets those of a deleted one. */
static void commit_now(const struct question *q)
{
    bool clean;
    int t = topic_index(q->topics[0], &clean);
    int64_t *offset = clean ? &W->clean_committed[t][q->partition].offset
                            : &W->raw_committed[t][q->partition].offset;
    char **metadata = clean ? &W->clean_committed[t][q->partition].metadata
                            : &W->raw_committed[t][q->partition].metadata;
    if (clean)
        audit_clean_offset(t, q->partition, q->offset);
    *offset = q->offset;
    mem_free(*metadata);
    *metadata = q->metadata ? mem_strdup(q->metadata) : NULL;
    say("  committed %s/%d = %lld", q->topics[0], q->partition, (long long)q->offset);
}

static void question_run(void *ctx)
{
    struct question *q = ctx;
    bool fails = !W->calm && chance(0.03);
    if (q->kind == ASK_COMMIT) {
        if (!fails || chance(0.5))
            commit_now(q);
        const struct kafka_partition kp = {.topic = q->topics[0],
                                           .partition = q->partition,
                                           .offset = q->offset,
                                           .metadata = q->metadata};
        if (q->offsets_done)
            q->offsets_done(q->ctx, fails ? ERR_TIMEOUT : 0, &kp, 1);
        question_free(q);
        return;
    }
    if (!q->answered)
        look_up(q);
    if (q->kind == ASK_DESCRIBE) {
        struct kafka_topic_info topics[2] = {{.name = NULL}};
        for (size_t i = 0; i < q->topics_n; i++) {
            topics[i].name = q->topics[i];
            topics[i].partitions_n = MODEL_PARTITIONS;
            memcpy(topics[i].id, q->truth_ids[i], sizeof(topics[i].id));
        }
        const struct kafka_topics_info info = {.topics = topics, .topics_n = q->topics_n};
        q->topics_done(q->ctx, fails ? ERR_TIMEOUT : 0, fails ? NULL : &info);
    } else {
        const struct kafka_partition kp = {.topic = q->topics[0],
                                           .partition = q->partition,
                                           .offset = q->truth,
                                           .metadata = q->truth_metadata};
        q->offsets_done(q->ctx, fails ? ERR_TIMEOUT : 0, fails ? NULL : &kp, fails ? 0 : 1);
    }
    question_free(q);
}

/* The process dies with a question under way: offsets may be committed all the same. */
static void question_drop(void *ctx)
{
    struct question *q = ctx;
    if (q->kind == ASK_COMMIT && chance(0.5))
        commit_now(q);
    question_free(q);
}

/* The consumer is closed: nobody hears its answers. */
static void drop_questions(struct kafka_consumer *c)
{
    LIST_EACH (it, tmp, &W->events) {
        struct event *e = LIST_ENTRY(it, struct event, node);
        if (e->run != question_run || ((struct question *)e->ctx)->consumer != c)
            continue;
        list_remove(&e->node);
        question_drop(e->ctx);
        mem_free(e);
    }
}

static void ask(struct app *app, struct question q)
{
    struct question *posted = mem_dup(&q, sizeof(q));
    if (!W->calm && q.kind != ASK_COMMIT && chance(0.5))
        look_up(posted);
    event_post(app, question_run, question_drop, posted);
}

void kafka_consumer_committed(struct kafka_consumer *c, const struct kafka_partition *parts,
                              size_t n, uint64_t timeout_ms, kafka_offsets_fn *done, void *ctx)
{
    (void)timeout_ms;
    CHECK(n == 1);
    ask(c->app, (struct question){.consumer = c,
                                  .kind = ASK_COMMITTED,
                                  .topics = {mem_strdup(parts->topic)},
                                  .topics_n = 1,
                                  .partition = parts->partition,
                                  .offsets_done = done,
                                  .ctx = ctx});
}

void kafka_consumer_commit(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n,
                           kafka_offsets_fn *done, void *ctx)
{
    for (size_t i = 0; i < n; i++)
        ask(c->app,
            (struct question){.consumer = c,
                              .kind = ASK_COMMIT,
                              .topics = {mem_strdup(parts[i].topic)},
                              .topics_n = 1,
                              .partition = parts[i].partition,
                              .offset = parts[i].offset,
                              .metadata = parts[i].metadata ? mem_strdup(parts[i].metadata) : NULL,
                              .offsets_done = done,
                              .ctx = ctx});
}

struct kafka_admin {
    struct app *app;
};

int kafka_admin_open(struct loop *loop, const struct kafka_admin_opts *o, struct kafka_admin **ret,
                     struct err *e)
{
    (void)o, (void)e;
    *ret = MEM_NEW(struct kafka_admin);
    (*ret)->app = sim_loop_app(loop);
    return 0;
}

void kafka_admin_close(struct kafka_admin **a)
{
    mem_free(*a);
    *a = NULL;
}

void kafka_admin_describe(struct kafka_admin *a, const char *const *names, size_t n,
                          kafka_topics_fn *done, void *ctx)
{
    struct question q = {.kind = ASK_DESCRIBE, .topics_n = n, .topics_done = done, .ctx = ctx};
    CHECK(n <= 2);
    for (size_t i = 0; i < n; i++)
        q.topics[i] = mem_strdup(names[i]);
    ask(a->app, q);
}

void kafka_admin_offsets(struct kafka_admin *a, const struct kafka_partition *parts, size_t n,
                         bool earliest, kafka_offsets_fn *done, void *ctx)
{
    CHECK(n == 1);
    ask(a->app, (struct question){.kind = earliest ? ASK_FIRST : ASK_LAST,
                                  .topics = {mem_strdup(parts->topic)},
                                  .topics_n = 1,
                                  .partition = parts->partition,
                                  .offsets_done = done,
                                  .ctx = ctx});
}
