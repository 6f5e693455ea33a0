/* chain: see chain.h.
 * SPDX-License-Identifier: Apache-2.0  */
#include "cleaner/chain.h"

#include "base/check.h"
#include "base/mem.h"

/* More than any span can take: a record alone may exceed max_bytes, by what its rows add to its own bytes. */
#define CHAIN_BUFFER_MAX ((size_t)64 << 20)

struct chain {
    char source[SPAN_SOURCE_MAX + 1];
    const struct dataset *dataset;
    struct chain_limits limits;
    struct chain_callbacks cb;
    struct wash *wash;
    int64_t from;      /* where the open span begins */
    int64_t next;      /* first position not taken in */
    int64_t confirmed; /* all below is stored */
    uint64_t opened_ms;
    struct span_writer open; /* the open span */
    struct span_writer one;  /* the record at hand */
    struct buf message;
    struct list spans; /* on their way, in order */
    struct chain_counts counts;
};

static void emit(struct chain *c, int64_t from, int64_t to, bool lost, const struct span_writer *w);

struct chain *chain_new(const char *source, const struct dataset *d,
                        const struct chain_limits *limits, struct wash *wash,
                        const struct chain_callbacks *cb, int64_t begin, int64_t first)
{
    struct chain *c = MEM_NEW(struct chain);
    struct str s = str_of(source);
    CHECK(s.n <= SPAN_SOURCE_MAX);
    memcpy(c->source, s.p, s.n);
    c->dataset = d;
    c->limits = *limits;
    c->cb = *cb;
    c->wash = wash;
    c->from = c->next = c->confirmed = begin;
    list_init(&c->spans);
    span_writer_init(&c->open, d, CHAIN_BUFFER_MAX);
    span_writer_init(&c->one, d, CHAIN_BUFFER_MAX);
    buf_init(&c->message, CHAIN_BUFFER_MAX + (1 << 10));
    chain_heartbeat(c);
    if (begin < first) {
        emit(c, begin, first, true, &c->open);
        c->from = c->next = first;
        c->counts.lost += (uint64_t)(first - begin);
    }
    return c;
}

void chain_free(struct chain **pc, struct list *orphans)
{
    struct chain *c = *pc;
    if (!c)
        return;
    LIST_EACH (it, tmp, &c->spans) {
        struct chain_span *s = LIST_ENTRY(it, struct chain_span, node);
        list_remove(&s->node);
        s->chain = NULL;
        if (s->left)
            list_push(orphans, &s->node);
        else
            mem_free(s);
    }
    span_writer_deinit(&c->open);
    span_writer_deinit(&c->one);
    buf_deinit(&c->message);
    mem_free(c);
    *pc = NULL;
}

void chain_free_orphans(struct list *orphans)
{
    struct list *node;
    while ((node = list_pop(orphans)))
        mem_free(LIST_ENTRY(node, struct chain_span, node));
}

/* Hands one span and its dead letters out, under a chain_span that waits for all their reports. */
static void emit(struct chain *c, int64_t from, int64_t to, bool lost, const struct span_writer *w)
{
    buf_reset(&c->message);
    span_writer_finish(w, str_of(c->source), from, to, lost, &c->message);
    CHECK(!c->message.overflow);
    struct chain_span *s = MEM_NEW(struct chain_span);
    s->chain = c;
    s->to = to;
    s->left = 1 + w->rejects_n;
    s->bytes = c->message.len;
    list_push(&c->spans, &s->node);
    c->counts.spans++;
    struct str message = buf_as_str(&c->message);
    c->cb.on_span(c->cb.ctx, s, message);
    if (!w->rejects_n)
        return;
    struct span span;
    CHECK(span_parse(message, &span, NULL) == 0);
    struct span_iter it;
    span_iter_init(&it, &span);
    struct span_item item;
    while (span_iter_next(&it, &item)) {
        struct reject reject;
        if (item.kind != SPAN_REJECT)
            continue;
        CHECK(span_item_reject(&item, &reject) == 0);
        c->cb.on_reject(c->cb.ctx, s, &reject);
    }
}

static void close_open(struct chain *c, int64_t to)
{
    if (to <= c->from)
        return;
    int64_t from = c->from;
    c->from = to;
    c->opened_ms = 0;
    emit(c, from, to, false, &c->open);
    span_writer_reset(&c->open);
}

static void on_row(void *ctx, const struct row *row)
{
    struct chain *c = ctx;
    span_writer_row(&c->one, row);
    c->counts.rows++;
}

static void on_reject(void *ctx, const struct reject *reject)
{
    struct chain *c = ctx;
    span_writer_reject(&c->one, reject);
    c->counts.rejects[reject->reason]++;
}

static void on_fault(void *ctx, int column, enum wash_fault fault)
{
    struct chain *c = ctx;
    if (c->cb.on_fault)
        c->cb.on_fault(c->cb.ctx, column, fault);
}

/* Whether the record at hand still fits into the open span; a record alone always does. */
static bool fits(const struct chain *c)
{
    const struct span_writer *o = &c->open, *r = &c->one;
    if (o->rows_n + o->rejects_n == 0)
        return true;
    return o->rows_n + o->rejects_n + r->rows_n + r->rejects_n <= c->limits.max_rows &&
           span_writer_bytes(o) + span_writer_bytes(r) <= c->limits.max_bytes;
}

bool chain_record(struct chain *c, const struct wash_input *in, uint64_t now_ms)
{
    if (in->position < c->next)
        return false;
    const struct wash_callbacks cb = {
        .on_row = on_row, .on_reject = on_reject, .on_fault = on_fault, .ctx = c};
    span_writer_reset(&c->one);
    c->counts.shapes[wash_record(c->wash, c->dataset, in, &cb)]++;
    c->counts.records++;
    if (!fits(c))
        close_open(
            c, in->position); /* offsets without a record in between belong to the span before */
    if (c->from == c->next || !c->opened_ms)
        c->opened_ms = now_ms ? now_ms : 1;
    buf_str(&c->open.body, buf_as_str(&c->one.body));
    c->open.rows_n += c->one.rows_n;
    c->open.rejects_n += c->one.rejects_n;
    c->open.last_position = in->position;
    CHECK(!c->open.body.overflow && !c->one.body.overflow);
    c->next = in->position + 1;
    if (c->open.rows_n + c->open.rejects_n >= c->limits.max_rows ||
        span_writer_bytes(&c->open) >= c->limits.max_bytes)
        close_open(c, c->next);
    return true;
}

void chain_end_of_log(struct chain *c, int64_t end)
{
    if (end > c->next)
        c->next = end;
    close_open(c, c->next);
}

uint64_t chain_tick(struct chain *c, uint64_t now_ms)
{
    if (c->from == c->next)
        return UINT64_MAX;
    uint64_t age = now_ms > c->opened_ms ? now_ms - c->opened_ms : 0;
    if (age < c->limits.linger_ms)
        return c->limits.linger_ms - age;
    close_open(c, c->next);
    return UINT64_MAX;
}

void chain_flush(struct chain *c)
{
    close_open(c, c->next);
}

void chain_heartbeat(struct chain *c)
{
    struct span_writer empty;
    span_writer_init(&empty, c->dataset, 1 << 10);
    emit(c, c->confirmed, c->confirmed, false, &empty);
    span_writer_deinit(&empty);
}

void chain_stored(struct chain_span *span)
{
    CHECK(span->left > 0);
    span->left--;
    struct chain *c = span->chain;
    if (!c) {
        if (!span->left) {
            list_remove(&span->node);
            mem_free(span);
        }
        return;
    }
    /* Only an unbroken run of stored spans moves the confirmed position. */
    while (!list_empty(&c->spans)) {
        struct chain_span *first = LIST_ENTRY(c->spans.next, struct chain_span, node);
        if (first->left)
            break;
        if (first->to > c->confirmed)
            c->confirmed = first->to;
        list_remove(&first->node);
        mem_free(first);
    }
}

int64_t chain_next(const struct chain *c)
{
    return c->next;
}

int64_t chain_confirmed(const struct chain *c)
{
    return c->confirmed;
}

bool chain_idle(const struct chain *c)
{
    return c->from == c->next && list_empty(&c->spans);
}

const char *chain_source(const struct chain *c)
{
    return c->source;
}

const struct chain_counts *chain_counts(const struct chain *c)
{
    return &c->counts;
}
