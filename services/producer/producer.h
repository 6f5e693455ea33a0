/* producer: produce batches from the bus into Kafka, one answer for each when everything in it is confirmed, refused or unsure.
 *
 * wire.c      the two messages of proto/produce.proto, read in place and written by hand (a unit test holds them to protobuf-c)
 * batch.c     one message of a gateway, from its arrival to its answer; with records.c, questions.c and reply.c (batch.h)
 * topics.c    the cache of topics, their creation and growth
 * producer.c  start and stop; metrics.c  what is counted
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "base/buf.h"
#include "base/list.h"
#include "base/map.h"
#include "io/bus.h"
#include "io/kafka.h"

enum { PRODUCER_VERSION = 1, PRODUCER_HEADERS_MAX = 1001 };

struct producer_config {
    const char *bus_listen, *brokers;
    bool topics_create;
    int64_t topics_partitions, topics_replication;
    uint64_t retention_raw, retention_clean, retention_dead; /* ms */
    uint64_t record_max, queue_max;                          /* bytes */
    uint64_t linger, delivery_timeout, metadata_refresh;     /* ms */
};

/* ---- wire.c ---- */
struct wire {
    const char *p, *end;
    bool bad;
};
struct wire_field {
    unsigned number;
    unsigned type; /* 0 varint, 2 bytes */
    uint64_t value;
    struct str bytes;
};
static inline struct wire wire_of(struct str s)
{
    return (struct wire){.p = s.p, .end = s.p ? s.p + s.n : NULL};
}
/* The next field; false at the end or at a broken one (then w->bad). */
bool wire_next(struct wire *w, struct wire_field *ret);

struct wire_request {
    struct str topic;
    int32_t partition; /* -1: none */
    uint32_t timeout_ms;
    size_t records, headers, bytes; /* bytes: keys, values and headers */
    int32_t highest;                /* partition that a record or the path names; -1: none */
    struct str body;                /* for wire_record */
};
struct wire_record {
    struct str key, value;
    int32_t partition; /* -1: none */
    int64_t timestamp_ms;
    struct kafka_header headers[PRODUCER_HEADERS_MAX];
    size_t headers_n;
};
/* Reads a ProduceRequest and checks all of its records: afterwards wire_record cannot fail. 0 or ERR_BAD_DATA. */
int wire_request(struct str body, struct wire_request *ret);
/* The next record of a request that wire_request took; false at the end. */
bool wire_record(struct wire *w, struct wire_record *ret);

void wire_put_varint(struct buf *b, uint64_t v);
void wire_put_u64(struct buf *b, unsigned field, uint64_t v);
void wire_put_bytes(struct buf *b, unsigned field, struct str s);
size_t wire_varint_size(uint64_t v);

/* ---- topics.c ---- */
struct producer;
struct topic {
    char *name;
    char id[32];
    bool present;
    size_t partitions;
    struct buf wire;               /* a Topic message without its configuration */
    size_t in_flight;              /* records */
    struct kafka_producer *client; /* of what is in flight */
    struct list held;              /* struct request: they wait for in_flight to be 0 (records.c) */
    struct loop_defer release;
};
/* A Topic message. */
void topic_encode(const struct kafka_topic_info *info, struct buf *out);
void topics_start(struct producer *p);
void topics_stop(struct producer *p);
struct topic *topics_find(struct producer *p, struct str name); /* NULL: not known to the cluster */

/* ---- metrics.c ---- */
enum {
    M_RECORDS,
    M_REQUESTS,
    M_BATCH,
    M_DELIVERY,
    M_CLIENT,
    M_QUEUED_BYTES,
    M_QUEUED_RECORDS,
    M_UP,
    M_AGE,
    M_TOPICS,
    M_QUESTIONS
};
extern const struct metric_def producer_metrics[];
/* The closed sets of labels, in their order. */
enum { R_STORED, R_REFUSED, R_UNSURE };
enum { Q_TAKEN, Q_BUSY, Q_DRAINING, Q_NO_METADATA, Q_NO_TOPIC, Q_NO_PARTITION, Q_INVALID };

/* ---- producer.c ---- */
struct producer {
    struct app *app;
    struct loop *loop;
    const struct producer_config *config;
    struct metrics *metrics;
    struct bus_server *bus;
    struct kafka_admin *admin;
    struct kafka_producer *quick, *bulk;
    struct list batches;
    size_t queued_bytes, queued_records;
    uint64_t window_ms;    /* begin of the window in which `recent` counts records */
    size_t recent, before; /* records in this window and in the one before */
    bool draining;
    struct loop_timer drain_timer;
    /* topics.c */
    struct map *topics;
    int32_t *brokers;
    size_t brokers_n;
    uint64_t refreshed_ms; /* 0: never */
    unsigned tries;
    bool asking, complete;
    struct loop_timer refresh_timer;
};
int producer_check(const void *config, const struct app_common *common, struct err *e);
int producer_start(struct app *app, void *config, struct err *e);
void producer_drain(struct app *app);
void producer_stop(struct app *app);
void producer_dump(struct app *app, struct buf *out);
