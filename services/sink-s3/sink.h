/* sink: clean topics in, Delta tables out.
 *
 * sink.c owns the consumer and the offsets; part.c a clean partition with its holes; table.c and landing.c bring batches into tables; batch.c holds the rules;
 * copies.c the marks in Redis; metrics.c says what is counted. Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "app/member.h"
#include "base/map.h"
#include "io/bus.h"
#include "io/kafka.h"
#include "sink-s3/table.h"

struct sink_config {
    const char *brokers, *group, *partitions, *lake_url, *redis_url, *copies, *announce_listen;
    int64_t replica, flush_rows, checkpoint_interval, parquet_threads;
    uint64_t session_timeout, copies_window, flush_interval, flush_bytes, commit_max_age,
        commit_interval, parquet_memory;
};

enum sink_metric {
    M_SPANS,
    M_NOT_SPANS,
    M_BROKEN_SPANS,
    M_DROPPED,
    M_ROWS,
    M_COPIES,
    M_UNASKED,
    M_REJECTS,
    M_BYTES,
    M_LOST,
    M_COMMITS,
    M_CONFLICTS,
    M_REBASED,
    M_RETRIES,
    M_VERSION,
    M_BUFFERED,
    M_BUFFERED_MAX,
    M_PAUSED,
    M_PAUSES,
    M_HOLES,
    M_HOLES_TOTAL,
    M_RECHECKS,
    M_NEXT,
    M_LAG,
    M_OFFSET_COMMITS,
    M_OFFSET_COMMIT_FAILURES,
    M_REBALANCES,
    M_LOST_MEMBERSHIPS,
    M_REDIS_UP,
    M_MARKS_FAILED,
    M_FRESHNESS,
    M_LAST_COMMIT
};
extern const struct metric_def sink_metrics[];

/* state       waits for                        moves on in         then                                        on failure
 * ASKING      the committed offset             on_committed        REFRESHING                                  WAITING
 * REFRESHING  both tables' logs                on_refreshed        FIRST (no offset, or from the beginning)    -
 *                                                                  READING
 * FIRST       the log's first offset           on_first            READING                                     WAITING
 * READING     spans                            part_message        RECHECK (a hole), ASKING (made anew)        -
 * WAITING     backoff                          ask_committed       ASKING                                      -
 * STOPPED     the operator                     -                   - (a span that breaks its own rules)        -
 * The committed offset is asked for before the tables are read: the other order would make holes that are none. A recheck of a hole is
 * REFRESHING and FIRST once more.                                                                              */
enum part_state {
    PART_ASKING,
    PART_REFRESHING,
    PART_FIRST,
    PART_READING,
    PART_WAITING,
    PART_STOPPED
};

struct sink;
struct hole {
    struct list node; /* of its partition */
    char *source;
    int64_t wanted, from;
};
struct part {
    struct member_part m; /* first */
    struct sink *sink;
    struct table *table;
    enum part_state state;
    bool from_beginning;
    int64_t next;   /* next offset to read */
    int64_t stored; /* everything below is in the tables; -1: not known yet */
    int64_t hold;   /* first span past an open hole: no offset above it is committed; -1: none */
    int64_t end;    /* of the log, as last heard */
    struct list holes;
    /* source -> struct recheck: for which wanted position a hole was looked at twice */
    struct map *rechecked;
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

struct sink {
    struct app *app;
    struct loop *loop;
    const struct sink_config *config;
    char *group, *instance, *topics;
    struct member *member;
    struct work *work;
    struct store *store;
    struct duck *duck;
    struct copies *copies;
    struct bus_pub *pub;
    struct table *tables[DATASETS];
    struct landing *dead;
    size_t buffered; /* bytes of spans that wait for their commit */
    /* The columns of every table, the dead one last. */
    struct column_def columns[DATASETS + 1]
                             [DATASET_MAX_COLUMNS + PROVENANCE_COLUMNS + DEAD_COLUMNS];
    bool draining, drained, kafka_up, stopped;
};

int sink_start(struct app *app, void *config, struct err *e);
void sink_drain(struct app *app);
void sink_stop(struct app *app);
void sink_free(struct app *app);
void sink_dump(struct app *app, struct buf *out);

/* sink.c, for part.c */
void sink_say_ready(struct sink *s);
/* part.c: the member's words */
void part_new(void *ctx, const char *topic, int32_t partition);
void part_free(struct member_part *m);
void part_message(struct member_part *m, const struct kafka_message *msg);
void part_end_of_log(struct member_part *m, int64_t end);
void part_out_of_range(struct member_part *m, int64_t offset);
int64_t part_due(const struct member_part *m, char **ret_metadata);
/* The table is another one: what it holds decides, from the beginning of the clean partition. */
void part_table_reset(struct part *p);
