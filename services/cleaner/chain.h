/* chain: turns the records of one source into an unbroken chain of spans; no I/O.
 *
 * Records go in with growing offsets; finished spans come out by `emit`, in order: each begins where the one before it ended.
 * The owner reports what was stored (chain_stored), in any order; chain_confirmed is the position up to which everything is stored:
 * what may be committed. DESIGN: docs/guarantees.md, "spans". Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/list.h"
#include "data/span.h"
#include "data/wash.h"

struct chain;
/* One finished span on its way, with the dead letters of its rejects. */
struct chain_span {
    struct list node;    /* of the chain, in order; or of the orphans */
    struct chain *chain; /* NULL: the chain has ended; the last report frees the span */
    int64_t to;
    unsigned left; /* messages without a report: the span itself and its dead letters */
    size_t bytes;  /* accounted while it is on its way */
};

struct chain_limits {
    uint32_t max_rows;
    size_t max_bytes;
    uint64_t linger_ms;
};

struct chain_callbacks {
    /* A finished span: `message` is to be stored in the clean topic under `span` (one report each by chain_stored). */
    void (*on_span)(void *ctx, struct chain_span *span, struct str message);
    /* A reject of that span, for the dead topic; comes after its span; one report each. */
    void (*on_reject)(void *ctx, struct chain_span *span, const struct reject *reject);
    void (*on_fault)(void *ctx, int column, enum wash_fault fault);
    void *ctx;
};

struct chain_counts {
    uint64_t records, rows, rejects[REJECT_REASONS], shapes[WASH_SHAPES], spans, lost;
};

/* Begins at `begin` (the committed position, or 0): positions from there up to `first`, the first record that can still be read, are lost and
 * said so by a `lost` span. A heartbeat at the beginning is always written. `wash` is shared by the chains of one thread. */
struct chain *chain_new(const char *source, const struct dataset *d,
                        const struct chain_limits *limits, struct wash *wash,
                        const struct chain_callbacks *cb, int64_t begin, int64_t first);
/* Spans on their way move to `orphans` until their last report; the owner frees what is still there when no report can come any more
 * (chain_free_orphans). */
void chain_free(struct chain **c, struct list *orphans);
void chain_free_orphans(struct list *orphans);

/* One record. `in->position` below the next expected one is ignored (false). */
bool chain_record(struct chain *c, const struct wash_input *in, uint64_t now_ms);
/* Nothing is left to read below `end` now: offsets without a record are covered, and the open span is closed. */
void chain_end_of_log(struct chain *c, int64_t end);
/* Closes the open span if it is older than the linger; returns ms until the next call is due (UINT64_MAX: nothing is open). */
uint64_t chain_tick(struct chain *c, uint64_t now_ms);
void chain_flush(struct chain *c);
/* Writes an empty span at the confirmed position, so that a lost tail shows although no record follows. */
void chain_heartbeat(struct chain *c);
/* One message of `span` is stored. The last report of a span whose chain has ended frees it. */
void chain_stored(struct chain_span *span);

int64_t chain_next(const struct chain *c);      /* first position that was not taken in yet */
int64_t chain_confirmed(const struct chain *c); /* everything below is stored */
bool chain_idle(const struct chain *c);         /* nothing open, nothing on its way */
const char *chain_source(const struct chain *c);
const struct chain_counts *chain_counts(const struct chain *c);
