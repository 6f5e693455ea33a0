/* kafka: producers, consumers and questions to a Kafka cluster, on librdkafka 2.15, without ever blocking the loop.
 *
 * Every setting that decides safety or memory is explicit (kafka_config.c lists them with their reasons). The library's threads
 * wake the loop through its event queues; callbacks run on the loop thread, at most a budget a turn.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"
#include "io/loop.h"

struct kafka_header {
    struct str name;
    struct str value; /* p NULL: a null value */
};

/* ---------------------------------------------------------------- producer */
struct kafka_producer;
enum kafka_outcome {
    KAFKA_STORED,  /* on all in-sync replicas */
    KAFKA_REFUSED, /* certainly not written (NOT_PERSISTED and not retriable, too large, unknown topic or partition, denied) */
    KAFKA_UNSURE   /* may have been written */
};
struct kafka_delivery {
    enum kafka_outcome outcome;
    int32_t partition;
    int64_t offset; /* STORED only */
    int64_t timestamp_ms;
    int code; /* 0 or an ERR_* (TOO_LARGE, NOT_FOUND, DENIED, TIMEOUT, UNAVAILABLE, INTERNAL …) */
    const char *text; /* librdkafka's words, static */
};
/* Once for each accepted record, in any order. `record` is the pointer given with it. */
typedef void kafka_delivery_fn(void *ctx, void *record, const struct kafka_delivery *d);
/* A fatal error: the producer is of no use any more; the process must end and start afresh. */
typedef void kafka_fatal_fn(void *ctx, const char *text);

struct kafka_producer_opts {
    const char *brokers, *client_id;
    uint64_t linger_ms;
    uint64_t delivery_timeout_ms; /* message.timeout.ms; 0 = never (the span producer) */
    size_t queue_bytes;           /* queue.buffering.max.kbytes */
    size_t max_message_bytes;     /* message.max.bytes */
    bool gapless;            /* enable.gapless.guarantee: a record that fails for good is fatal */
    const char *compression; /* NULL or "none", "lz4", "zstd" */
    kafka_delivery_fn *on_delivery;
    kafka_fatal_fn *on_fatal;
    void (*on_state)(void *ctx, bool up, const char *detail); /* broker connection; may be NULL */
    void *ctx;
};
struct kafka_record {
    const char *topic;
    int32_t partition; /* -1: by key (murmur2, as Java's default), without a key sticky at random */
    struct str key;    /* p NULL: none */
    struct str value;  /* p NULL: null (tombstone) */
    /* value.p is of mem_alloc or mem_alloc_raw, and the producer's when it takes the record */
    bool give;
    int64_t timestamp_ms; /* 0: now */
    const struct kafka_header *headers;
    size_t headers_n;
};
int kafka_producer_open(struct loop *loop, const struct kafka_producer_opts *o,
                        struct kafka_producer **ret, struct err *e);
/* Copies everything but a value that is given. 0: on_delivery will run for `record`. ERR_BUSY: the queue is full (on_delivery does not run); others: refused at once. */
int kafka_produce(struct kafka_producer *p, const struct kafka_record *rec, void *record);
size_t kafka_producer_queued(const struct kafka_producer *p); /* records without a report */
size_t kafka_producer_queued_bytes(const struct kafka_producer *p);
/* Closes; records without a report are purged; no callback after it. The library is destroyed off the loop. */
void kafka_producer_close(struct kafka_producer **p);

/* ---------------------------------------------------------------- consumer */
struct kafka_consumer;
struct kafka_message {
    const char *topic;
    int32_t partition;
    int64_t offset;
    int64_t timestamp_ms;  /* -1: none */
    struct str key, value; /* p NULL: null */
    void *native;          /* for kafka_message_header */
};
/* The last header of that name; false if there is none. */
bool kafka_message_header(const struct kafka_message *m, const char *name, struct str *ret_value);

struct kafka_partition {
    char *topic;
    int32_t partition;
    int64_t offset; /* where to begin / the offset to commit / what was committed (-1: none) */
    char *metadata; /* of a committed offset; may be NULL */
};
enum kafka_assign_kind { KAFKA_ASSIGNED, KAFKA_REVOKED, KAFKA_LOST };
struct kafka_consumer_callbacks {
    void (*on_message)(void *ctx, const struct kafka_message *m); /* valid during the call */
    /* end of the partition reached, at this offset */
    void (*on_end)(void *ctx, const char *topic, int32_t partition, int64_t offset);
    /* Partitions come or go (cooperative: the difference only). ASSIGNED: the callee begins them by kafka_consumer_take, when it knows where.
     * REVOKED, LOST: it hands back by kafka_consumer_release, when done (LOST: at once); no message of them follows this call. */
    void (*on_assign)(void *ctx, enum kafka_assign_kind kind, const struct kafka_partition *parts,
                      size_t n);
    /* the offset is not in the log (any more) */
    void (*on_out_of_range)(void *ctx, const char *topic, int32_t partition, int64_t offset);
    void (*on_state)(void *ctx, bool up, const char *detail);
    /* The consumer is of no use any more. ERR_CONFLICT: another process has joined the group under this one's instance (or the
     * group believes so); ERR_FATAL: anything else. */
    void (*on_fatal)(void *ctx, int code, const char *text);
    void (*on_closed)(void *ctx); /* kafka_consumer_leave has ended */
};
struct kafka_consumer_opts {
    const char *brokers, *client_id, *group;
    const char *instance; /* group.instance.id; NULL: dynamic */
    uint64_t session_timeout_ms;
    /* comma list to subscribe to; NULL: no group membership, partitions are taken by hand (offsets still go to `group`) */
    const char *topics;
    size_t fetch_bytes; /* queued.max.messages.kbytes and fetch sizes: memory bound */
    size_t max_message_bytes;
    uint64_t metadata_refresh_ms;
    const struct kafka_consumer_callbacks *cb;
    void *ctx;
};
int kafka_consumer_open(struct loop *loop, const struct kafka_consumer_opts *o,
                        struct kafka_consumer **ret, struct err *e);
/* Begins to read these partitions at their offsets (incremental_assign, or assign without a group). */
void kafka_consumer_take(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n);
/* Ends reading them (incremental_unassign; answers a revocation). */
void kafka_consumer_release(struct kafka_consumer *c, const struct kafka_partition *parts,
                            size_t n);
/* Reads on from another offset; messages of before do not arrive any more. */
void kafka_consumer_seek(struct kafka_consumer *c, const char *topic, int32_t partition,
                         int64_t offset);
void kafka_consumer_pause(struct kafka_consumer *c, const char *topic, int32_t partition);
void kafka_consumer_resume(struct kafka_consumer *c, const char *topic, int32_t partition);
/* valid during the call */
typedef void kafka_offsets_fn(void *ctx, int rc, const struct kafka_partition *parts, size_t n);
/* The group's committed offsets with metadata (offset -1: none). done runs once, later; ERR_TIMEOUT etc. in rc. */
void kafka_consumer_committed(struct kafka_consumer *c, const struct kafka_partition *parts,
                              size_t n, uint64_t timeout_ms, kafka_offsets_fn *done, void *ctx);
/* Commits offset + metadata. done (may be NULL) runs once, later; each part's failure makes rc that of the first. */
void kafka_consumer_commit(struct kafka_consumer *c, const struct kafka_partition *parts, size_t n,
                           kafka_offsets_fn *done, void *ctx);
/* Leaves the group unless static, hands back partitions by on_assign(REVOKED), then on_closed. Optional before close. */
void kafka_consumer_leave(struct kafka_consumer *c);
/* No callback after it, pending done callbacks included. What was not handed back counts as handed back; leaves the group unless static. */
void kafka_consumer_close(struct kafka_consumer **c);

/* ---------------------------------------------------------------- questions and orders */
struct kafka_admin;
struct kafka_topic_partition_info {
    int32_t partition, leader; /* leader -1: none */
    int32_t *replicas, *isr;
    size_t replicas_n, isr_n;
};
struct kafka_topic_info {
    char *name;
    char id[32]; /* the topic's id, URL-safe base64 without padding (22 characters) */
    int code;    /* 0, ERR_NOT_FOUND, ERR_DENIED, … */
    struct kafka_topic_partition_info *partitions;
    size_t partitions_n;
};
struct kafka_topics_info {
    struct kafka_topic_info *topics;
    size_t topics_n;
    int32_t *brokers;
    size_t brokers_n;
};
struct kafka_admin_opts {
    const char *brokers, *client_id;
    uint64_t timeout_ms; /* of each question; 0: 10 s */
};
int kafka_admin_open(struct loop *loop, const struct kafka_admin_opts *o, struct kafka_admin **ret,
                     struct err *e);
void kafka_admin_close(struct kafka_admin **a); /* no callback after it */
/* valid during the call */
typedef void kafka_topics_fn(void *ctx, int rc, const struct kafka_topics_info *info);
/* names NULL: all topics (by ListTopics through the metadata call in a worker thread) with brokers. */
void kafka_admin_describe(struct kafka_admin *a, const char *const *names, size_t n,
                          kafka_topics_fn *done, void *ctx);
struct kafka_new_topic {
    const char *name;
    int partitions, replication;
    struct {
        const char *key;
        char value[32];
    } configs[4]; /* ends at a NULL key */
};
/* rc of the first failure; "already exists" is none */
typedef void kafka_admin_fn(void *ctx, int rc, const char *text);
void kafka_admin_create(struct kafka_admin *a, const struct kafka_new_topic *topics, size_t n,
                        kafka_admin_fn *done, void *ctx);
/* Adds partitions up to `partitions` where there are fewer. */
void kafka_admin_grow(struct kafka_admin *a, const char *topic, int partitions,
                      kafka_admin_fn *done, void *ctx);
/* The first (or next) offset of each partition, in kafka_partition.offset. */
void kafka_admin_offsets(struct kafka_admin *a, const struct kafka_partition *parts, size_t n,
                         bool earliest, kafka_offsets_fn *done, void *ctx);
/* Configuration entries of a topic, as name and value. */
typedef void kafka_configs_fn(void *ctx, int rc, const struct kafka_header *configs, size_t n);
void kafka_admin_configs(struct kafka_admin *a, const char *topic, kafka_configs_fn *done,
                         void *ctx);
