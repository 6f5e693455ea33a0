/* table: one clean table: the batch that fills, the batch that is on its way in, and when the one becomes the other.
 *
 * Order of a flush: dead table (only with rejects), clean table, marks of copies, then the sink hears how far each clean partition is stored.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "sink-s3/landing.h"

struct table;
struct table_opts {
    const struct dataset *dataset;
    struct landing_opts landing; /* of the clean table; its callbacks too */
    struct landing *dead;        /* shared by all tables */
    struct copies *copies;       /* NULL: copies are kept */
    uint64_t flush_interval_ms, flush_rows;
    /* Everything of this clean partition below `upto` is stored in both tables. */
    void (*on_stored)(void *ctx, struct table *t, int32_t partition, int64_t upto);
    /* A table was made anew: nothing of what was built on the old one holds; read the clean partitions again from their beginning. */
    void (*on_reset)(void *ctx, struct table *t);
    /* accounting: bytes that wait, more or (negative) fewer */
    void (*on_bytes)(void *ctx, int64_t more);
    void (*on_marks_failed)(void *ctx, uint64_t n);
    void *ctx;
};

struct table *table_open(struct app *app, const struct table_opts *o);
void table_close(struct table **t);

/* What the table wants next from a source, everything that waits included. BATCH_UNKNOWN: nothing known. */
int64_t table_wanted(const struct table *t, struct str source);
/* The same by the table's log alone, as last read. */
int64_t table_wanted_stored(const struct table *t, struct str source);
/* Takes a span that was judged TAKE. */
void table_take(struct table *t, const struct span *span, int32_t partition);
/* The clean partition was read up to `upto`; reports at once when nothing waits before it. */
void table_pass(struct table *t, int32_t partition, int64_t upto);
/* What waits of a clean partition and is not on its way in is dropped. */
void table_drop_partition(struct table *t, int32_t partition);
/* Reads the logs of both tables to their ends, when what is on its way in has landed. */
void table_refresh(struct table *t, landing_done_fn *done, void *ctx);
/* done of table_refresh will not run. */
void table_forget(struct table *t, void *ctx);
/* Sends what waits on its way, now or as soon as the batch before it has landed. */
void table_flush(struct table *t);
bool table_idle(const struct table *t); /* nothing waits, nothing is on its way */
size_t table_bytes(const struct table *t);
struct landing *table_landing(const struct table *t);
