/* member: a service as a member of a consumer group: the partitions that are its own, what was committed of them, and whom they ask.
 *
 * The owner's partition begins with a struct member_part. Its life:
 *
 *   the group gives it          part_new; the owner finds out where to begin (member_ask_…) and calls member_begin
 *   it is read                  on_message, on_end, on_out_of_range; every commit.interval what `due` says is committed
 *   the group takes it away     a last commit of what is due, then part_free
 *   the group throws us out     part_free of all; the member joins anew
 *
 * A static member is thrown out when another process joins under its name, or when Kafka stood still beyond the session time-out and
 * heard of it twice afterwards. librdkafka ends a consumer for good then; this one is opened anew, with backoff.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/kafka.h"

struct member;

struct member_part {
    struct list node; /* of the member */
    struct member *member;
    char *topic;
    int32_t partition;
    bool taken, paused;
    bool held;         /* paused for itself, whatever the others do */
    int64_t committed; /* what Kafka holds, as last heard; -1: nothing */
    /* nothing up to it is sent again; INT64_MAX: the owner holds commits back */
    int64_t commit_sent;
    struct member_ask *ask; /* the question on its way, or NULL */
    unsigned tries;         /* member_retry counts, the owner sets to 0 */
    struct loop_timer retry;
};

struct member_callbacks {
    /* Allocates a partition and calls member_part_init. */
    void (*part_new)(void *ctx, const char *topic, int32_t partition);
    /* Calls member_part_deinit and frees it. */
    void (*part_free)(struct member_part *p);
    /* Not before member_begin, and nothing of before the last one. */
    void (*on_message)(struct member_part *p, const struct kafka_message *m);
    void (*on_end)(struct member_part *p, int64_t offset);
    void (*on_out_of_range)(struct member_part *p, int64_t offset);
    /* The offset to commit, below which everything is dealt with; -1: none. *ret_metadata is NULL, or set to what lives with p. */
    int64_t (*due)(const struct member_part *p, char **ret_metadata);
    void (*on_commit)(void *ctx); /* offsets are about to be sent */
    /* their answer, but for the last ones of a partition that leaves */
    void (*on_committed)(void *ctx, int rc);
    void (*on_rebalance)(void *ctx); /* partitions came or went */
    /* Thrown out: the partitions are gone, and so is the consumer with the questions that the owner asked it. */
    void (*on_lost)(void *ctx);
    void (*on_state)(void *ctx, bool up);          /* of the connection to Kafka */
    void (*on_fatal)(void *ctx, const char *text); /* of no use any more */
};

struct member_opts {
    /* cb and ctx are the member's business; topics NULL: no group, the owner makes its partitions by hand. What it points to outlives the member. */
    struct kafka_consumer_opts consumer;
    uint64_t commit_interval_ms;
    const struct member_callbacks *cb;
    void *ctx;
};
int member_open(struct loop *loop, const struct member_opts *o, struct member **ret, struct err *e);
/* Frees the partitions through part_free, without a commit. */
void member_drop_parts(struct member *m);
/* Does that first. No callback after it, answers included; questions of the owner's own must have ended. */
void member_close(struct member **m);
struct kafka_consumer *member_consumer(struct member *m); /* NULL while thrown out */
struct kafka_admin *member_admin(struct member *m);
struct list *member_parts(struct member *m); /* of struct member_part, by `node` */
struct member_part *member_find(struct member *m, const char *topic, int32_t partition);

void member_part_init(struct member *m, struct member_part *p, const char *topic,
                      int32_t partition);
void member_part_deinit(struct member_part *p);
/* Reads on from `offset`; messages of before do not come any more. */
void member_begin(struct member_part *p, int64_t offset);
/* No more messages of this one until member_begin. */
void member_hold(struct member_part *p);
/* All partitions, those that begin later included. True: it was otherwise before. */
bool member_pause(struct member *m, bool pause);
bool member_paused(const struct member *m);
/* Commits what is due. True: a commit is on its way, and on_committed will follow. */
bool member_commit(struct member *m);

/* ---------------------------------------------------------------- questions
 * One at a time for each partition; a newer one makes the older one forgotten. `done` gets an ask as its ctx, which it must hand to
 * member_answer at once: the partition, or NULL when that has gone or asks something else by now. */
/* the ctx for a question of the owner's own */
struct member_ask *member_ask(struct member_part *p);
struct member_part *member_answer(struct member_ask *ask);
void member_forget(struct member_part *p);
void member_ask_committed(struct member_part *p, kafka_offsets_fn *done);
void member_ask_first(struct member_part *p, kafka_offsets_fn *done);
void member_ask_end(struct member_part *p, kafka_offsets_fn *done);
void member_ask_topics(struct member_part *p, const char *const *names, size_t n,
                       kafka_topics_fn *done);
/* The way of every failure: `again` with p as its ctx, later. `step`: for the log. */
void member_retry(struct member_part *p, int rc, const char *step, loop_fn *again);
