/* world: schedules: who runs when, what breaks, and the calm at the end. See world.h.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/span.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct world *W;

static const char *const raw_names[MODEL_TOPICS] = {"demo.geo", "demo.user"};
static const char *const clean_names[MODEL_TOPICS] = {"demo.clean.geo", "demo.clean.user"};

/* ---------------------------------------------------------------- small things */

bool chance(double p)
{
    return rnd_double(&W->rnd) < p;
}

unsigned below(unsigned n)
{
    return (unsigned)rnd_below(&W->rnd, n);
}

void say(const char *fmt, ...)
{
    if (!W || !W->trace)
        return;
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

void world_advance(uint64_t ms)
{
    W->mono_us += ms * 1000;
    clock_fake(W->mono_us, 1700000000000 + W->mono_us / 1000);
}

int topic_index(const char *topic, bool *ret_clean)
{
    for (int i = 0; i < MODEL_TOPICS; i++) {
        *ret_clean = !strcmp(topic, clean_names[i]);
        if (*ret_clean || !strcmp(topic, raw_names[i]))
            return i;
    }
    *ret_clean = false;
    return -1;
}

struct log_ *world_log(const char *topic, int32_t partition)
{
    bool clean;
    int t = topic_index(topic, &clean);
    CHECK(t >= 0 && partition >= 0 && partition < MODEL_PARTITIONS);
    return clean ? &W->clean[t][partition] : &W->raw[t][partition];
}

void log_append(struct log_ *l, struct message m)
{
    if (l->n == l->cap) {
        int64_t cap = l->cap ? l->cap * 2 : 16;
        l->messages = mem_realloc(l->messages, (size_t)l->cap * sizeof(*l->messages),
                                  (size_t)cap * sizeof(*l->messages));
        l->cap = cap;
    }
    l->messages[l->n++] = m;
}

void log_free(struct log_ *l)
{
    for (int64_t i = 0; i < l->n; i++)
        mem_free((char *)l->messages[i].value.p);
    mem_free(l->messages);
    mem_free(l->topic);
    *l = (struct log_){.n = 0};
}

static void log_new(struct log_ *l, const char *topic, int partition, int generation)
{
    *l =
        (struct log_){.topic = mem_strdup(topic), .partition = partition, .generation = generation};
    snprintf(l->id, sizeof(l->id), "id-of-generation-%05d", generation);
}

void event_post(struct app *app, void (*run)(void *), void (*drop)(void *), void *ctx)
{
    struct event *e = MEM_NEW(struct event);
    *e = (struct event){.app = app, .run = run, .drop = drop, .ctx = ctx};
    list_push(&W->events, &e->node);
}

bool event_run_one(struct app *app)
{
    struct event *choice = NULL;
    unsigned seen = 0;
    LIST_EACH (it, tmp, &W->events) {
        struct event *e = LIST_ENTRY(it, struct event, node);
        if (e->app == app && below(++seen) == 0)
            choice = e;
    }
    if (!choice)
        return false;
    list_remove(&choice->node);
    choice->run(choice->ctx);
    mem_free(choice);
    return true;
}

void event_drop_of(struct app *app)
{
    LIST_EACH (it, tmp, &W->events) {
        struct event *e = LIST_ENTRY(it, struct event, node);
        if (app && e->app != app)
            continue;
        list_remove(&e->node);
        e->drop(e->ctx);
        mem_free(e);
    }
}

/* ---------------------------------------------------------------- nodes */

static struct app *node_start(enum node_kind kind, int index)
{
    struct app *a = MEM_NEW(struct app);
    struct err e;
    a->kind = kind;
    a->index = index;
    a->alive = true;
    a->common.user = "demo";
    a->loop = sim_loop_new(a);
    say("node %d starts", index);
    CHECK((kind == NODE_CLEANER ? node_cleaner_start(a, &e) : node_sink_start(a, &e)) == 0);
    return a;
}

/* Like kill -9 for the world: nothing is said to anybody; only this program's memory is given back. */
static void node_kill(struct app **pa)
{
    struct app *a = *pa;
    if (!a)
        return;
    *pa = NULL;
    say("node %d dies", a->index);
    sim_kafka_owner_gone(a);
    /* Half of what was asked of Kafka arrives all the same. */
    event_drop_of(a);
    if (a->kind == NODE_CLEANER)
        node_cleaner_stop(a);
    else
        node_sink_stop(a);
    event_drop_of(a);
    sim_loop_free(a->loop);
    metrics_free(&a->metrics);
    mem_free(a);
}

static bool node_turn(struct app *a)
{
    bool any = sim_loop_defers(a->loop);
    switch (below(5)) {
    case 0:
    case 1:
        any |= sim_kafka_deliver(a);
        break;
    case 2:
        any |= event_run_one(a);
        break;
    case 3:
        any |= a->kind == NODE_CLEANER ? sim_kafka_ack(a) : sim_redis_answer(a);
        break;
    default:
        any |= sim_loop_timer(a->loop);
        break;
    }
    any |= sim_loop_defers(a->loop);
    return any;
}

static void node_step(int i)
{
    struct app *a = W->nodes[i];
    if (!a) {
        if (chance(0.3))
            W->nodes[i] = node_start(i < MODEL_NODES / 2 ? NODE_CLEANER : NODE_SINK, i);
        return;
    }
    if (a->sleep > 0) {
        a->sleep--;
        return;
    }
    if (a->failed || chance(W->crash)) {
        W->crashes++;
        node_kill(&W->nodes[i]);
    } else if (chance(0.01)) {
        a->sleep = (int)below(80);
        say("node %d sleeps %d", i, a->sleep);
    } else if (chance(0.003)) {
        say("node %d is thrown out of its group", i);
        sim_kafka_fence(a);
    } else if (chance(0.03)) {
        int t = (int)below(MODEL_TOPICS), p = (int)below(MODEL_PARTITIONS);
        if (!sim_kafka_has(a, t, p))
            sim_kafka_assign(a, t, p);
        else if (chance(0.3))
            sim_kafka_unassign(a, chance(0.5));
    } else {
        for (unsigned n = 1 + below(6); n > 0 && !a->failed; n--)
            node_turn(a);
    }
}

/* ---------------------------------------------------------------- the world outside */

static struct str text_of(int topic, struct message *m)
{
    struct buf b;
    size_t n;
    buf_init(&b, 4096);
    m->items_n = 1 + (chance(0.2) ? (int)below(MODEL_ITEMS) : 0);
    bool array = m->items_n > 1;
    if (array)
        buf_char(&b, '[');
    for (int i = 0; i < m->items_n; i++) {
        m->items[i].reject = chance(0.1);
        m->items[i].content = (int)below((unsigned)W->contents);
        if (i)
            buf_char(&b, ',');
        if (m->items[i].reject)
            buf_z(&b, "{\"ind\":true}");
        else if (topic == 0)
            buf_printf(&b, "{\"ind\":%d,\"country\":\"c%d\"}", m->items[i].content,
                       m->items[i].content);
        else
            buf_printf(&b, "{\"ind\":%d,\"age\":33}", m->items[i].content);
    }
    if (array)
        buf_char(&b, ']');
    char *p = buf_steal(&b, &n);
    buf_deinit(&b);
    return str_make(p, n);
}

static void append(int t, int p)
{
    struct log_ *l = &W->raw[t][p];
    struct message m = {.items_n = 0};
    if (!chance(0.12)) {
        m.value = text_of(t, &m);
        if (W->history_n == W->history_cap) {
            size_t cap = W->history_cap ? W->history_cap * 2 : 64;
            W->history = mem_realloc(W->history, W->history_cap * sizeof(*W->history),
                                     cap * sizeof(*W->history));
            W->history_cap = cap;
        }
        W->history[W->history_n++] = (struct history){
            .topic = t, .partition = p, .generation = l->generation, .offset = l->n, .m = m};
    }
    log_append(l, m);
}

static void retention(struct log_ *l)
{
    l->low += (int64_t)below((unsigned)(l->n - l->low) + 1);
}

static void recreate(void)
{
    int t = (int)below(MODEL_TOPICS);
    /* A topic is deleted whole: all its partitions are new, and the group's offsets of it are gone. */
    for (int p = 0; p < MODEL_PARTITIONS; p++) {
        struct log_ *l = &W->raw[t][p];
        int generation = l->generation + 1;
        int64_t n = l->n;
        log_free(l);
        log_new(l, raw_names[t], p, generation);
        W->raw_committed[t][p].offset = -1;
        mem_free(W->raw_committed[t][p].metadata);
        W->raw_committed[t][p].metadata = NULL;
        if (chance(0.5)) /* and is filled again at once, beyond where the old one ended */
            for (n += below(5); l->n < n;)
                append(t, p);
    }
    say("RECREATED %s", raw_names[t]);
}

static void faults(void)
{
    int t = (int)below(MODEL_TOPICS), p = (int)below(MODEL_PARTITIONS);
    if (chance(W->retention))
        retention(&W->raw[t][p]);
    if (chance(W->recreate))
        recreate();
    if (chance(W->clean_retention)) {
        retention(&W->clean[t][p]);
        W->clean_deleted = true;
        say("CLEAN RETENTION %s/%d %lld", clean_names[t], p, (long long)W->clean[t][p].low);
    }
    if (chance(0.01)) {
        map_free(&W->redis);
        W->redis = map_new();
    }
    if (chance(0.01))
        W->redis_up = !W->redis_up;
    if (chance(0.1))
        sim_late_put();
}

static void world_new(uint64_t seed, bool trace)
{
    static const double crashes[] = {0.002, 0.008, 0.02}, retentions[] = {0, 0, 0.003, 0.01},
                        recreates[] = {0, 0, 0.002}, clean_retentions[] = {0, 0, 0.004, 0.012},
                        bad_puts[] = {0.1, 0.5};
    static const int contents[] = {3, 8, 40};
    struct world *w = MEM_NEW(struct world);
    rnd_seed(&w->rnd, seed);
    W = w;
    w->trace = trace;
    w->redis_up = true;
    w->redis = map_new();
    w->chain_ends = map_new();
    w->crash = crashes[below(3)];
    w->retention = retentions[below(4)];
    w->recreate = recreates[below(3)];
    w->clean_retention = clean_retentions[below(4)];
    w->bad_put = bad_puts[below(2)];
    w->contents = contents[below(3)];
    list_init(&w->events);
    list_init(&w->flights);
    list_init(&w->late_puts);
    for (int t = 0; t < MODEL_TOPICS; t++) {
        for (int p = 0; p < MODEL_PARTITIONS; p++) {
            log_new(&w->raw[t][p], raw_names[t], p, 0);
            log_new(&w->clean[t][p], clean_names[t], p, 0);
            w->raw_committed[t][p].offset = w->clean_committed[t][p].offset = -1;
        }
    }
    for (int i = 0; i <= DATASETS; i++)
        w->tables[i].path =
            mem_printf("delta/demo_%s_table", i < DATASETS ? datasets[i].name : "dead");
    world_advance(1000);
}

static void world_free(void)
{
    for (int i = 0; i < MODEL_NODES; i++)
        node_kill(&W->nodes[i]);
    event_drop_of(NULL);
    sim_flights_free();
    while (sim_late_put())
        ;
    for (int t = 0; t < MODEL_TOPICS; t++) {
        for (int p = 0; p < MODEL_PARTITIONS; p++) {
            log_free(&W->raw[t][p]);
            log_free(&W->clean[t][p]);
            mem_free(W->raw_committed[t][p].metadata);
            mem_free(W->clean_committed[t][p].metadata);
        }
    }
    for (int i = 0; i <= DATASETS; i++) {
        for (size_t v = 0; v < W->tables[i].n; v++)
            commit_free(&W->tables[i].commits[v]);
        mem_free(W->tables[i].commits);
        mem_free(W->tables[i].path);
    }
    map_free(&W->redis);
    audit_free_map(W->chain_ends);
    mem_free(W->history);
    mem_free(W);
    W = NULL;
}

/* Whether every table wants what the raw logs end with. */
static bool all_there(void)
{
    for (int t = 0; t < MODEL_TOPICS; t++) {
        for (int p = 0; p < MODEL_PARTITIONS; p++) {
            char source[SPAN_SOURCE_MAX + 1];
            span_source_kafka(source, raw_names[t], p, W->raw[t][p].id);
            int64_t wanted = table_wanted_by_log(&W->tables[DATASET_GEO + t], source);
            if ((wanted < 0 ? 0 : wanted) < W->raw[t][p].n)
                return false;
        }
    }
    return true;
}

/* The faults have ended: one cleaner and one sink, given everything, until nothing moves any more. */
static void drain(void)
{
    for (int i = 0; i < MODEL_NODES; i++)
        node_kill(&W->nodes[i]);
    while (sim_kafka_land())
        ;
    sim_flights_free();
    while (sim_late_put())
        ;
    W->nodes[0] = node_start(NODE_CLEANER, 0);
    W->nodes[MODEL_NODES - 1] = node_start(NODE_SINK, MODEL_NODES - 1);
    int quiet = 0;
    for (int round = 0; round < 3000 && quiet < 12; round++) {
        bool any = false;
        for (int i = 0; i < MODEL_NODES; i += MODEL_NODES - 1) {
            if (W->nodes[i]->failed) {
                node_kill(&W->nodes[i]);
                W->nodes[i] = node_start(i ? NODE_SINK : NODE_CLEANER, i);
            }
            for (int t = 0; t < MODEL_TOPICS; t++) {
                for (int p = 0; p < MODEL_PARTITIONS; p++)
                    sim_kafka_assign(W->nodes[i], t, p);
            }
            for (int n = 0; n < 40; n++)
                any |= node_turn(W->nodes[i]);
            while (sim_kafka_land())
                any = true;
        }
        quiet = all_there() || !any ? quiet + 1 : 0;
        world_advance(500);
    }
}

/* The operator's cure of a hole: the cleaner goes back to what the clean tables want. */
static void heal(void)
{
    for (int t = 0; t < MODEL_TOPICS; t++) {
        for (int p = 0; p < MODEL_PARTITIONS; p++) {
            char source[SPAN_SOURCE_MAX + 1];
            span_source_kafka(source, raw_names[t], p, W->raw[t][p].id);
            int64_t wanted = table_wanted_by_log(&W->tables[DATASET_GEO + t], source);
            W->raw_committed[t][p].offset = wanted < 0 ? 0 : wanted;
            mem_free(W->raw_committed[t][p].metadata);
            W->raw_committed[t][p].metadata = mem_strdup(W->raw[t][p].id);
        }
    }
}

/* NULL, or what went wrong. */
static const char *run(uint64_t seed, bool trace, struct world *totals)
{
    static const int lengths[] = {300, 800, 1800};
    world_new(seed, trace);
    int steps = lengths[below(3)];
    double last = below(2) ? 1 : 0.5; /* some runs fall silent before they end */
    for (int n = 0; n < steps; n++) {
        if (n < steps * last && chance(0.3))
            append((int)below(MODEL_TOPICS), (int)below(MODEL_PARTITIONS));
        faults();
        for (unsigned k = below(3); k > 0; k--)
            sim_kafka_land();
        node_step((int)below(MODEL_NODES));
        node_step((int)below(MODEL_NODES));
        world_advance(below(8) ? below(30) : below(1500));
    }
    W->calm = W->redis_up = true;
    drain();
    const char *bad = audit(false);
    if (bad &&
        !strcmp(
            bad,
            "hole")) { /* reported, and nothing taken past it: legal only if unread spans were deleted */
        if (!W->clean_deleted) {
            bad = "hole without cause";
        } else {
            W->healed++;
            heal();
            drain();
            bad = audit(true);
        }
    }
    if (!bad && W->false_alarm)
        bad = "false alarm";
    if (!bad)
        bad = W->broken_rule;
    totals->conflicts += W->conflicts, totals->unsure += W->unsure, totals->healed += W->healed,
        totals->crashes += W->crashes;
    world_free();
    return bad;
}

int main(int argc, char **argv)
{
    uint64_t schedules = 1000, seed = 1;
    bool trace = false, until_failed = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--trace"))
            trace = true;
        else if (!strcmp(argv[i], "--until-failed"))
            until_failed = true;
        else if (!strcmp(argv[i], "--schedules") && i + 1 < argc)
            schedules = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            return fprintf(
                       stderr,
                       "usage: model [--schedules N] [--seed FIRST] [--until-failed] [--trace]\n"),
                   64;
    }
    log_init("model");
    log_set_levels(trace ? STR("info") : STR("error,cleaner=error,sink=error"));
    if (!trace && !!getenv("MODEL_STDERR") &&
        !freopen("/dev/null", "w", stderr)) /* the services' words about each fault of the model */
        return 71;
    struct world totals = {.calm = false};
    uint64_t failed = 0;
    for (uint64_t i = 0; i < schedules; i++) {
        const char *bad = run(seed + i, trace, &totals);
        if (bad && failed++ < 20)
            printf("schedule %" PRIu64 ": %s\n", seed + i, bad), fflush(stdout);
        if (bad && until_failed)
            break;
    }
    printf("model: %" PRIu64 " schedules, %" PRIu64 " failed (%" PRIu64 " crashes, %" PRIu64
           " conflicts, %" PRIu64 " unknown outcomes, %" PRIu64 " healed)\n%" PRIu64
           " passed, %" PRIu64 " failed\n",
           schedules, failed, totals.crashes, totals.conflicts, totals.unsure, totals.healed,
           schedules - failed, failed);
    return failed ? 1 : 0;
}
