/* outbox: gathers the produce requests of one loop turn into one message to a producer, and deals its answers out.
 *
 * While two messages are unanswered, requests are gathered for up to 3 ms more, and for 3 ms more with each further one (at most
 * 48): a busy gateway sends fewer, larger messages, whatever Kafka's answers take. An answer shortens the wait again.
 * Nothing is sent twice: what was sent and has no answer ends as ERR_UNKNOWN, what was never sent as ERR_UNAVAILABLE.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/list.h"
#include "io/bus.h"
#include "io/loop.h"
#include "produce.pb-c.h"

struct outbox;
/* One request; part of the caller's object, which lives until done ran. */
struct outbox_item {
    struct list node;
    unsigned records;
    size_t bytes; /* in the message */
    /* Runs once, later. rc 0: `a` has an entry for each record or `refused`; valid during the call. */
    void (*done)(struct outbox_item *item, int rc, const Sluice__ProduceAnswer *a);
};
struct outbox_opts {
    struct loop *loop;
    struct bus_client *bus;
    size_t message_bytes; /* a message of this size waits for no more */
    uint64_t timeout_ms;  /* of a message */
    uint64_t gather_ms;   /* with each message that is unanswered; 0: 3 ms */
    void (*on_message)(void *ctx, unsigned requests, size_t bytes); /* may be NULL */
    void *ctx;
};
struct outbox *outbox_open(const struct outbox_opts *o);
void outbox_close(struct outbox **ob); /* no callback after it */
/* May end requests of before (their done runs) when the message is full and nobody takes it. Begins a request; the caller appends its records to the buf that it gets, and then calls outbox_commit or outbox_abort. */
struct buf *outbox_begin(struct outbox *ob, struct str topic, int32_t partition /* -1: none */);
/* records and done are set; sets bytes */
void outbox_commit(struct outbox *ob, struct outbox_item *item);
void outbox_abort(struct outbox *ob);
size_t outbox_bytes(const struct outbox *ob);      /* not yet sent */
unsigned outbox_messages(const struct outbox *ob); /* sent, without an answer */

/* A question to the producer, in a message of its own. rc 0: `a` is its answer, whatever it says; valid during the call. */
struct outbox_question;
typedef void outbox_answer_fn(void *ctx, int rc, const Sluice__QuestionAnswer *a);
/* 0, or ERR_UNAVAILABLE and done never runs. */
int outbox_ask(struct outbox *ob, Sluice__Question__Kind kind, struct str topic, int32_t partition,
               uint64_t timeout_ms, outbox_answer_fn *done, void *ctx,
               struct outbox_question **ret);
void outbox_cancel(struct outbox_question **q); /* done will not run; NULL is fine */
