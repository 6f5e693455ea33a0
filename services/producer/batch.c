/* batch: messages in, answers out.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "producer"
#include "producer/batch.h"

#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/mem.h"

enum { QUESTION_MS = 5000 };

/* ---- the answer and the end ---- */
static void count_unsure(struct batch *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->requests_n; i++)
        n += b->requests[i].pending;
    metric_add(b->p->metrics, M_RECORDS, R_UNSURE, (double)n);
}

static void reply(struct batch *b)
{
    struct buf msg;
    buf_init(&msg, MESSAGE_MAX);
    reply_write(b, &msg);
    CRASH_POINT("before_answer");
    bus_reply(b->call, buf_as_str(&msg));
    CRASH_POINT("after_answer");
    b->call = NULL;
    if (b->requests_n)
        metric_observe(b->p->metrics, M_DELIVERY, 0, (double)(clock_us() - b->begun_us) / 1e6);
    buf_deinit(&msg);
    loop_timer_stop(&b->timer);
}

void producer_batch_free(struct batch *b)
{
    loop_timer_stop(&b->timer);
    list_remove(&b->node);
    for (size_t i = 0; i < b->requests_n; i++)
        records_free(&b->requests[i]);
    for (size_t i = 0; i < b->questions_n; i++)
        questions_free(&b->questions[i]);
    mem_free(b->requests);
    mem_free(b->questions);
    mem_free(b);
}

void producer_batch_done(struct batch *b)
{
    if (b->pending)
        return;
    if (b->call)
        reply(b);
    producer_batch_free(b);
}

static void on_batch_late(void *ctx)
{
    struct batch *b = CHECK_FROM(ctx, struct batch, BATCH_TAG);
    records_refuse_held(b);
    count_unsure(b);
    reply(b);
    producer_batch_done(b); /* an orphan from now on, unless all of it was held */
}

/* ---- messages ---- */
struct head {
    uint64_t version;
    size_t requests, questions;
};

static bool read_head(struct str msg, struct head *h)
{
    struct wire w = wire_of(msg);
    struct wire_field f;
    *h = (struct head){0};
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 0)
            h->version = f.value;
        h->requests += f.number == 2 && f.type == 2;
        h->questions += f.number == 3 && f.type == 2;
    }
    return !w.bad;
}

static uint64_t deadline_ms(const struct batch *b)
{
    uint64_t ms = b->p->config->delivery_timeout + 1000; /* Kafka's own report comes before */
    for (size_t i = 0; i < b->requests_n; i++) {
        const struct request *r = &b->requests[i];
        if (!r->refused && r->wire.timeout_ms && r->wire.timeout_ms < ms)
            ms = r->wire.timeout_ms;
    }
    return b->questions_n && ms > QUESTION_MS ? QUESTION_MS : ms;
}

/* Takes each request or refuses it, in the order of the message: the wire's slices point into it, so all is handed on before the return. */
static void take_message(struct batch *b, struct str msg, bool version_ok)
{
    struct producer *p = b->p;
    struct wire w = wire_of(msg);
    struct wire_field f;
    size_t r = 0, q = 0;
    while (wire_next(&w, &f)) {
        if (f.type == 2 && f.number == 2) {
            struct request *req = &b->requests[r++];
            req->b = b;
            if (!version_ok)
                records_refuse(req, REFUSED_INVALID, Q_INVALID,
                               "a version that this producer does not know");
            else
                records_take(p, req, f.bytes);
        } else if (f.type == 2 && f.number == 3) {
            struct question *ques = &b->questions[q++];
            ques->b = b;
            if (questions_read(ques, f.bytes) && version_ok)
                questions_ask(p, ques);
        }
    }
}

void producer_on_message(void *ctx, struct bus_call *call, struct str msg)
{
    struct producer *p = ctx;
    struct head h;
    bool ok = read_head(msg, &h);
    struct batch *b = MEM_NEW(struct batch);
    b->tag = BATCH_TAG, b->p = p, b->call = call, b->begun_us = clock_us();
    list_push(&p->batches, &b->node);
    if (!ok) { /* nobody knows what was asked: an answer without answers says so */
        LOG(WARN, "message_refused", KV_INT("bytes", msg.n));
        producer_batch_done(b);
        return;
    }
    b->requests = MEM_ARRAY(struct request, h.requests + 1);
    b->questions = MEM_ARRAY(struct question, h.questions + 1);
    b->requests_n = h.requests, b->questions_n = h.questions;
    b->pending = 1; /* held while the message is looked through */
    if (h.requests)
        metric_observe(p->metrics, M_BATCH, 0, (double)h.requests);
    CRASH_POINT("before_produce");
    take_message(b, msg, h.version == PRODUCER_VERSION);
    CRASH_POINT("after_produce");
    b->pending--;
    if (b->pending)
        loop_timer_start(p->loop, &b->timer, deadline_ms(b), on_batch_late, b);
    producer_batch_done(b);
}
