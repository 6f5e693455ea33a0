/* world: what the model puts around the very objects of cleaner and sink: Kafka, Redis, the lake, the clock, crashes.
 *
 * One schedule at a time, all in one thread: a node is one process (a cleaner or a sink), its loop runs when the schedule lets it.
 * sim_loop.c, sim_app.c, sim_kafka.c, sim_redis.c and sim_lake.c stand in for io/loop.h, app/app.h, io/kafka.h, io/redis.h and lake/writer.h
 * (with the store, DuckDB and the bus, which the sink only opens). audit.c judges what came of it.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "base/list.h"
#include "base/map.h"
#include "base/rnd.h"
#include "data/dataset.h"
#include "io/kafka.h"
#include "io/loop.h"

#define MODEL_PARTITIONS 2
#define MODEL_TOPICS 2 /* geo and user: two clean tables and the dead one */
#define MODEL_ITEMS 3
#define MODEL_NODES 4

/* ---------------------------------------------------------------- logs */
struct item { /* what one element of a raw record is */
    bool reject;
    int content; /* its ind: equal content, equal rows */
};
struct message { /* one offset of a log; value p NULL and no items: an offset without a record */
    struct str value;
    int items_n;
    struct item items[MODEL_ITEMS];
};
struct log_ {
    char *topic;
    int32_t partition;
    char id[32];
    int generation;
    struct message *messages;
    int64_t n, low, cap;
};
/* A raw record that once was, for the audit. */
struct history {
    int topic, partition, generation;
    int64_t offset;
    struct message m;
};

/* ---------------------------------------------------------------- tables */
struct table_row {
    char *source;
    int64_t position;
    int item, content; /* content -1: a reject */
};
struct table_commit {
    char txn_id[37];
    struct table_row *rows;
    size_t rows_n;
    struct {
        char *source;
        int64_t wanted;
    } txns[8];
    size_t txns_n;
    uint64_t copies;
    char *lost_json; /* or NULL */
};
struct sim_table {
    char *path;
    struct table_commit *commits;
    size_t n, cap;
};
struct late_put { /* a request whose sender knows nothing of it any more */
    struct list node;
    struct sim_table *table;
    int64_t version;
    struct table_commit commit;
};

/* ---------------------------------------------------------------- nodes and events */
enum node_kind { NODE_CLEANER, NODE_SINK };
struct app {
    enum node_kind kind;
    int index;
    bool alive, failed, draining;
    int sleep;
    struct loop *loop;
    struct metrics *metrics;
    struct app_common common;
    struct app_memory memory;
    void *state;
    struct kafka_consumer *consumer;
    struct kafka_producer *producer;
    struct redis *redis;
};
/* Something that happens at this node later: an answer. */
struct event {
    struct list node;
    struct app *app;
    void (*run)(void *ctx);  /* takes ctx over */
    void (*drop)(void *ctx); /* the node has gone: frees ctx */
    void *ctx;
};
void event_post(struct app *app, void (*run)(void *), void (*drop)(void *), void *ctx);
bool event_run_one(struct app *app);
void event_drop_of(struct app *app);

struct world {
    struct rnd rnd;
    bool calm, trace, redis_up, clean_deleted;
    const char *broken_rule; /* the last one that was broken on the way, or NULL */
    struct map *chain_ends;  /* source -> int64_t: how far its spans in the clean log go */
    double crash, retention, recreate, clean_retention, bad_put;
    int contents;
    struct log_ raw[MODEL_TOPICS][MODEL_PARTITIONS], clean[MODEL_TOPICS][MODEL_PARTITIONS];
    struct history *history;
    size_t history_n, history_cap;
    struct {
        int64_t offset;
        char *metadata;
    } raw_committed[MODEL_TOPICS][MODEL_PARTITIONS],
        clean_committed[MODEL_TOPICS][MODEL_PARTITIONS];
    struct sim_table tables[DATASETS + 1];
    struct list events, flights, late_puts;
    struct map *redis;
    struct app *nodes[MODEL_NODES];
    uint64_t mono_us;
    /* What happened, over all schedules. */
    uint64_t conflicts, unsure, healed, crashes, false_alarm;
};
extern struct world *W;
bool chance(double p);
unsigned below(unsigned n);
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void world_advance(uint64_t ms);
int topic_index(const char *topic, bool *ret_clean);
struct log_ *world_log(const char *topic, int32_t partition);
void log_append(struct log_ *l, struct message m);
void log_free(struct log_ *l);

/* node_cleaner.c, node_sink.c: the real modules, started in a node */
int node_cleaner_start(struct app *app, struct err *e);
void node_cleaner_stop(struct app *app);
int node_sink_start(struct app *app, struct err *e);
void node_sink_stop(struct app *app);
unsigned node_sink_holes(const struct app *app);

/* sim_loop.c */
struct loop *sim_loop_new(struct app *app);
void sim_loop_free(struct loop *l);
struct app *sim_loop_app(struct loop *l);
bool sim_loop_defers(struct loop *l);       /* runs all deferred calls; whether any ran */
bool sim_loop_timer(struct loop *l);        /* runs one timer that is due; whether any ran */
uint64_t sim_loop_next_due(struct loop *l); /* UINT64_MAX: none */
/* sim_kafka.c */
bool sim_kafka_deliver(struct app *app); /* something of the consumer; whether anything was there */
bool sim_kafka_ack(struct app *app);     /* one delivery report */
bool sim_kafka_land(void); /* one message of any producer, dead or alive, lands in its log */
void sim_kafka_owner_gone(struct app *app);
void sim_kafka_assign(struct app *app, int topic, int partition);
bool sim_kafka_unassign(struct app *app, bool lost); /* one partition, at random */
void sim_kafka_fence(struct app *app);               /* the group throws its member out */
bool sim_kafka_has(struct app *app, int topic, int partition);
void sim_flights_free(void);
/* sim_redis.c */
bool sim_redis_answer(struct app *app);
/* sim_lake.c */
/* takes c over when it lands */
bool table_put(struct sim_table *t, int64_t version, struct table_commit *c);
void commit_free(struct table_commit *c);
bool sim_late_put(void);
int64_t table_wanted_by_log(const struct sim_table *t, const char *source); /* -1: unknown */
/* audit.c: NULL, or what is wrong; "hole" alone may be legal */
const char *audit(bool healed);
void audit_free_map(struct map *m); /* with its values */
/* A span has landed in the clean log: every chain begins at 0 and has no hole. */
void audit_landed(struct str message);
/* A clean offset is being committed: the clean table must hold everything below it. */
void audit_clean_offset(int topic, int partition, int64_t offset);
