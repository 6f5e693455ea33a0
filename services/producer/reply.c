/* reply: the bytes of an answer (FromProducer of proto/produce.proto).
 * SPDX-License-Identifier: Apache-2.0  */
#include "producer/batch.h"

static void put_refused(struct buf *b, unsigned reason, const char *text)
{
    struct buf r;
    buf_init(&r, 4096);
    wire_put_u64(&r, 1, reason);
    wire_put_bytes(&r, 2, str_of(text));
    wire_put_bytes(b, 1, buf_as_str(&r));
    buf_deinit(&r);
}

static void put_error(struct buf *b, size_t index, unsigned outcome, const char *text)
{
    struct buf r;
    buf_init(&r, 4096);
    wire_put_u64(&r, 1, index);
    wire_put_u64(&r, 2, outcome);
    wire_put_bytes(&r, 3, str_of(text));
    wire_put_bytes(b, 4, buf_as_str(&r));
    buf_deinit(&r);
}

static uint64_t slot_partition(const struct slot *s)
{
    return (uint64_t)(int64_t)s->partition;
}

static void put_results(struct buf *b, const struct request *r)
{
    size_t parts = 0, offsets = 0;
    for (size_t i = 0; i < r->n; i++) {
        parts += wire_varint_size(slot_partition(&r->slots[i]));
        offsets += wire_varint_size((uint64_t)r->slots[i].offset);
    }
    if (r->n) {
        wire_put_varint(b, 2 << 3 | 2);
        wire_put_varint(b, parts);
        for (size_t i = 0; i < r->n; i++)
            wire_put_varint(b, slot_partition(&r->slots[i]));
        wire_put_varint(b, 3 << 3 | 2);
        wire_put_varint(b, offsets);
        for (size_t i = 0; i < r->n; i++)
            wire_put_varint(b, (uint64_t)r->slots[i].offset);
    }
    for (size_t i = 0; i < r->n; i++) {
        const struct slot *s = &r->slots[i];
        if (s->outcome)
            put_error(b, i, s->outcome, s->text);
        else if (s->offset < 0)
            put_error(b, i, OUTCOME_UNSURE, "no confirmation in time");
    }
}

static void put_question(struct buf *b, const struct question *q)
{
    struct buf one;
    buf_init(&one, MESSAGE_MAX);
    wire_put_u64(&one, 1, q->open ? ANSWER_UNAVAILABLE : q->result);
    if (!q->open)
        buf_str(&one, buf_as_str(&q->body));
    wire_put_bytes(b, 3, buf_as_str(&one));
    buf_deinit(&one);
}

void reply_write(const struct batch *b, struct buf *out)
{
    struct buf one;
    buf_init(&one, MESSAGE_MAX);
    wire_put_u64(out, 1, PRODUCER_VERSION);
    for (size_t i = 0; i < b->requests_n; i++) {
        const struct request *r = &b->requests[i];
        buf_reset(&one);
        if (r->refused)
            put_refused(&one, r->refused, r->text);
        else
            put_results(&one, r);
        wire_put_bytes(out, 2, buf_as_str(&one));
    }
    for (size_t i = 0; i < b->questions_n; i++)
        put_question(out, &b->questions[i]);
    buf_deinit(&one);
}
