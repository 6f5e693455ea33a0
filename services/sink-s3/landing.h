/* landing: the way of batches into one Delta table: refresh, rebase, copies, data file, commit, again until it has landed.
 *
 * Operations queue up and run one after the other. A commit of unknown outcome is tried with the same version and bytes until its fate is
 * known; one whose first try is older than commit_max_age_ms ends the process. What fails for want of disk or sight of the lake is
 * tried again, with backoff, and said in the readiness check named after the table.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "lake/writer.h"
#include "sink-s3/batch.h"
#include "sink-s3/copies.h"

struct landing;
/* What one landing did. */
struct landing_counts {
    uint64_t rows, copies, unasked, rejects, bytes, lost, conflicts, rebased;
    int64_t newest_ingested_ms; /* of the batch; 0: no rows */
};
struct landing_opts {
    struct writer_opts writer;
    const char *name;      /* "pin" … or "dead": for checks and logs; constant */
    bool dead;             /* takes the rejects of batches instead of their rows */
    struct copies *copies; /* NULL: every row is kept */
    uint64_t commit_max_age_ms;
    /* a commit landed: the table has a new version */
    void (*on_version)(void *ctx, struct landing *l);
    /* a step failed and will be tried again */
    void (*on_retry)(void *ctx, struct landing *l);
    /* at each landing, before done */
    void (*on_counts)(void *ctx, struct landing *l, const struct landing_counts *counts);
    void *ctx;
};
struct landing *landing_open(struct app *app, const struct landing_opts *o);
void landing_close(struct landing **l); /* no callback after it */

/* rc 0; or ERR_CONFLICT: the table is another one now (its state is read afresh): whatever was built on the old one must be dropped. */
typedef void landing_done_fn(void *ctx, int rc);
/* Reads the table's log to its end. */
void landing_refresh(struct landing *l, landing_done_fn *done, void *ctx);
/* Puts the batch in. It is the caller's, and must not change or end before done ran. It may be empty when done runs: others had written all of it. */
void landing_put(struct landing *l, struct batch *b, landing_done_fn *done, void *ctx);

/* BATCH_UNKNOWN, or the position that the table wants next from this source, as last read. */
int64_t landing_wanted(const struct landing *l, struct str source);
int64_t landing_version(const struct landing *l);
const char *landing_table_id(const struct landing *l);
bool landing_idle(const struct landing *l);
/* "name":{"table":…,"version":…,"sources":{…}} */
void landing_dump(const struct landing *l, struct buf *out);
