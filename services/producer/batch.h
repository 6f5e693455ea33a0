/* batch: one message of a gateway, from its arrival to its answer.
 *
 * It waits until each of its records has its report and each question its answer, or until the shortest time of its requests is
 * over: then it is answered with what is known, the rest as unsure, and lives on as an orphan until the last report came.
 *
 * batch.c      messages in, answers out
 * records.c    what may be taken, which client it goes to, what became of it
 * questions.c  answers out of the cache, or from Kafka
 * reply.c      the bytes of the answer
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/check.h"
#include "producer/producer.h"

enum { BATCH_TAG = CHECK_TAG('p', 'b', 'a', 't'), MESSAGE_MAX = 64 << 20 };

/* Values of the protocol. */
enum { REFUSED_BUSY = 1, REFUSED_TOPIC = 2, REFUSED_PARTITION = 3, REFUSED_INVALID = 4 };
enum { OUTCOME_REFUSED = 1, OUTCOME_UNSURE = 2, OUTCOME_DENIED = 3 };
enum { ASK_CLUSTER = 1, ASK_TOPIC = 2, ASK_OFFSETS = 3 };
enum { ANSWER_OK = 1, ANSWER_NO_TOPIC = 2, ANSWER_NO_PARTITION = 3, ANSWER_UNAVAILABLE = 4 };

struct request;
struct slot { /* one record */
    struct request *r;
    int64_t offset; /* -1: not known */
    int32_t partition;
    uint32_t bytes;
    uint8_t outcome; /* 0: stored, or no report yet */
    const char *text;
};

struct batch;
struct request {
    struct batch *b;
    struct topic *topic;
    struct wire_request wire; /* good while the message is, or while the request is held */
    unsigned refused;         /* 0: its records are on their way */
    const char *text;
    struct slot *slots;
    size_t n, pending;
    struct list held; /* in topic->held, with a copy of its bytes in held_bytes */
    char *held_bytes; /* NULL: not held */
};

struct question {
    struct batch *b;
    unsigned kind, result;
    char *topic;
    int32_t partition;
    struct buf body; /* of the answer, without the result */
    bool open;
};

struct batch {
    uint32_t tag;
    struct list node;
    struct producer *p;
    struct bus_call *call; /* NULL: answered */
    uint64_t begun_us;
    struct request *requests;
    size_t requests_n;
    struct question *questions;
    size_t questions_n;
    size_t pending; /* records and questions */
    struct loop_timer timer;
};

/* ---- batch.c ---- */
void producer_on_message(void *ctx, struct bus_call *call, struct str msg);
void producer_batch_done(struct batch *b); /* answers and frees it when nothing is pending */
void producer_batch_free(struct batch *b);

/* ---- records.c ---- */
/* Takes a request, with its records handed on or held, or refuses it whole. The bytes are looked at before the return only. */
void records_take(struct producer *p, struct request *r, struct str body);
bool records_refuse(struct request *r, unsigned reason, unsigned series, const char *text);
/* nothing of them was handed on: certainly not written */
void records_refuse_held(struct batch *b);
void records_free(struct request *r);
void records_release(void *ctx); /* of a topic: what was held goes on */
void records_on_delivery(void *ctx, void *record, const struct kafka_delivery *d);

/* ---- questions.c ---- */
bool questions_read(struct question *q, struct str body);
void questions_ask(struct producer *p, struct question *q);
void questions_free(struct question *q);

/* ---- reply.c ---- */
void reply_write(const struct batch *b, struct buf *out);
