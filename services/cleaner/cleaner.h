/* cleaner: raw topics in, spans of clean rows and dead letters out.
 *
 * cleaner.c owns the consumer, the span producer and the partitions; cleaner_ask.c finds out where a partition begins; chain.c makes the
 * spans; cleaner_orders.c takes the operator's orders; metrics.c says what is counted. Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "cleaner/chain.h"
#include "io/kafka.h"

struct cleaner_config {
    const char *brokers, *group;
    int64_t replica;
    uint64_t session_timeout, topics_check, record_max;
    int64_t span_max_rows;
    uint64_t span_max_bytes, span_linger, span_heartbeat, commit_interval, inflight_max;
};

enum cleaner_metric {
    M_RECORDS,
    M_ROWS,
    M_REJECTS,
    M_FAULTS,
    M_SPANS,
    M_LOST,
    M_INFLIGHT,
    M_INFLIGHT_MAX,
    M_PAUSED,
    M_PAUSES,
    M_CONFIRMED,
    M_LAG,
    M_COMMITS,
    M_COMMIT_FAILURES,
    M_PARTITIONS,
    M_RESTARTS,
    M_REBALANCES,
    M_ORDERS
};
extern const struct metric_def cleaner_metrics[];

/* state      waits for                    moves on in        then             timeout
 * ASKING     answers of Kafka             on_ask_*           VERIFYING        the question's, then WAITING
 * WAITING    backoff                      on_ask_again       ASKING           backoff to 2 s
 * VERIFYING  the topic's id once more     on_ask_verified    RUNNING, ASKING  the question's, then WAITING
 * RUNNING    records                      on_message         ASKING           -                                              */
enum part_state { PART_ASKING, PART_WAITING, PART_VERIFYING, PART_RUNNING };

struct cleaner;
struct ask;
struct part {
    struct list node; /* of the cleaner */
    struct cleaner *cleaner;
    const struct dataset *dataset;
    char *topic;
    const char *clean_topic; /* the cleaner's */
    int32_t partition;
    enum part_state state;
    char id[32];     /* the raw topic's id that this life of the partition goes by */
    struct ask *ask; /* the question on its way, or NULL */
    unsigned tries;
    int64_t begin;     /* what Kafka held for this id when this life began; -1: nothing */
    int64_t committed; /* what it holds now, as last heard */
    int64_t low, end;  /* of the log, as last asked */
    int64_t commit_sent;
    bool taken; /* the consumer reads it */
    bool paused;
    bool short_log; /* the log ends below the committed offset */
    struct chain *chain;
    struct list held; /* what the chain wrote before the id was known for sure */
    struct loop_timer retry, linger, beat;
};

/* A question to Kafka that outlives its partition harmlessly. */
struct ask {
    struct list node;
    struct part *part;
};

struct cleaner {
    struct app *app;
    struct loop *loop;
    const struct cleaner_config *config;
    char *group, *instance, *dead_topic, *raw_topics, *clean_topics[DATASETS];
    struct kafka_consumer *consumer;
    struct kafka_producer *producer;
    struct kafka_admin *admin;
    struct wash *wash;
    /* Series of M_FAULTS plus 1, as far as they were looked up; the last column is "other". */
    unsigned fault_series[DATASETS][DATASET_MAX_COLUMNS + 1][WASH_FAULTS];
    struct list parts, asks, orphans;
    struct list backlog; /* messages that the producer's full queue sent back, in order */
    size_t inflight_bytes;
    bool paused, draining, drained, failed, kafka_up[2];
    bool checking, committing;
    struct loop_timer check, commit, resend;
};

int cleaner_start(struct app *app, void *config, struct err *e);
void cleaner_drain(struct app *app);
void cleaner_stop(struct app *app);
void cleaner_dump(struct app *app, struct buf *out);

/* cleaner.c, for its other halves */
void part_set_state(struct part *p, enum part_state state);
/* Throws the chain away and asks anew where to begin: after a change of the topic, an offset out of range, an order. */
void part_restart(struct part *p, const char *why);
/* Where to begin is known: makes the chain and reads; what the chain writes is held back. */
void part_begin(struct part *p);
/* The id is the same after the partition was taken in: what was held back goes out. */
void part_run(struct part *p);
void cleaner_say_ready(struct cleaner *c);
/* cleaner_ask.c */
void ask_start(struct part *p);
void ask_verify(struct part *p);
void ask_drop(struct part *p);
/* cleaner_orders.c */
void cleaner_orders_open(struct cleaner *c);
