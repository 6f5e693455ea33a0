/* cleaner: raw topics in, spans of clean rows and dead letters out.
 *
 * cleaner.c starts, stops and says how it is; raw_part.c is the life of a raw partition; chain.c makes the spans; letters.c sends them,
 * when looks.c has seen that the topic is still the same; orders.c takes the operator's orders; metrics.c says what is counted. Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "app/member.h"
#include "cleaner/chain.h"
#include "io/kafka.h"

#define CLEANER_CLIENT "sluice-cleaner"
/* What Kafka adds to a record that a producer's limit counts: key, headers, framing. */
#define RECORD_OVERHEAD ((size_t)64 << 10)

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
    M_LOST_MEMBERSHIPS,
    M_ORDERS
};
extern const struct metric_def cleaner_metrics[];

/* state    waits for                    moves on in            then     on failure
 * ASKING   answers of Kafka             on_topics … on_end     RUNNING  WAITING
 * WAITING  backoff                      ask_topics             ASKING   -
 * RUNNING  records                      raw_part_restart       ASKING   -                                                        */
enum part_state { PART_ASKING, PART_WAITING, PART_RUNNING };

struct cleaner;
struct part {
    struct member_part m; /* first */
    struct cleaner *cleaner;
    const struct dataset *dataset;
    const char *clean_topic; /* the cleaner's */
    enum part_state state;
    char id[32];      /* the raw topic's id that this life of the partition goes by */
    int64_t begin;    /* what Kafka held for this id when this life began; -1: nothing */
    int64_t low, end; /* of the log, as last asked or heard */
    bool short_log;   /* the log ends below the committed offset */
    struct chain *chain;
    struct list held; /* letters whose records may yet turn out to be of another topic */
    struct loop_timer linger, beat;
};
_Static_assert(offsetof(struct part, m) == 0, "NULL stays NULL");
static inline struct part *PART(struct member_part *m)
{
    return (struct part *)m;
}
static inline const struct part *CONST_PART(const struct member_part *m)
{
    return (const struct part *)m;
}

struct cleaner {
    struct app *app;
    struct loop *loop;
    const struct cleaner_config *config;
    char *group, *instance, *dead_topic, *raw_topics, *clean_topics[DATASETS];
    struct member *member;
    struct kafka_producer *producer;
    struct wash *wash;
    /* Series of M_FAULTS plus 1, as far as they were looked up; the last column is "other". */
    unsigned fault_series[DATASETS][DATASET_MAX_COLUMNS + 1][WASH_FAULTS];
    struct list orphans; /* spans on their way whose chains have ended */
    struct list backlog; /* letters that the producer's full queue sent back, in order */
    struct list orders;
    size_t inflight_bytes; /* of spans and dead letters on their way */
    bool draining, drained, failed, kafka_up[2];
    uint64_t looks; /* that have begun */
    bool looking;   /* the last of them has no answer yet */
    uint64_t looked_ms;
    unsigned looks_failed; /* one after the other */
    struct loop_timer look, resend;
};

int cleaner_start(struct app *app, void *config, struct err *e);
void cleaner_drain(struct app *app);
void cleaner_stop(struct app *app);
void cleaner_dump(struct app *app, struct buf *out);

/* cleaner.c, for the others */
void cleaner_say_ready(struct cleaner *c);
void cleaner_account(struct cleaner *c, int64_t bytes); /* more or less on its way */
void cleaner_fail(struct cleaner *c, const char *event, const char *text);
void cleaner_drain_step(struct cleaner *c); /* nothing without a drain */

/* raw_part.c: the member's words, and: begins the partition anew, from its committed offset */
void raw_part_new(void *ctx, const char *topic, int32_t partition);
void raw_part_free(struct member_part *m);
void raw_part_message(struct member_part *m, const struct kafka_message *msg);
void raw_part_end_of_log(struct member_part *m, int64_t offset);
void raw_part_out_of_range(struct member_part *m, int64_t offset);
int64_t raw_part_due(const struct member_part *m, char **ret_metadata);
void raw_part_restart(struct part *p, const char *why);

/* letters.c */
int letters_open(struct cleaner *c, struct err *e);
void letters_close(struct cleaner *c);
void letters_span(void *part, struct chain_span *span, struct str message);
void letters_reject(void *part, struct chain_span *span, const struct reject *r);
/* what was written before that look began goes out */
void letters_release(struct part *p, uint64_t look);
void letters_drop(struct part *p); /* what was held is forgotten */

/* looks.c */
void looks_want(struct cleaner *c); /* letters are held: look soon */
void looks_open(struct cleaner *c);
void looks_close(struct cleaner *c);

/* orders.c */
void orders_open(struct cleaner *c);
void orders_close(struct cleaner *c);
/* The consumer has gone: orders that wait for its answer are answered 503. */
void orders_lost(struct cleaner *c);
