/* writer: the asynchronous face of a Delta table for one who appends to it: state, data files, commits, checkpoints.
 *
 * Jobs run in io/work, one at a time per writer; `done` runs once, later, on the loop. Whoever drives it keeps one operation going at a time.
 * The randomised model stands in for this header.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/err.h"
#include "data/dataset.h"
#include "io/loop.h"
#include "io/work.h"
#include "lake/delta.h"
#include "lake/parquet.h"
#include "lake/store.h"

struct writer;
struct writer_opts {
    struct work *work;
    struct store *store; /* shared; outlives the writer */
    struct duck *duck;   /* shared; the writer has a connection of its own */
    const char *path;    /* "delta/demo_pin_table" */
    const struct column_def *columns;
    unsigned columns_n;
    unsigned checkpoint_interval; /* commits */
};
typedef void writer_done_fn(void *ctx, int rc, const struct err *e);

struct writer *writer_open(struct loop *loop, const struct writer_opts *o);
/* No callback after it; a running job is orphaned, and frees what it holds when it ends. */
void writer_close(struct writer **w);
bool writer_busy(const struct writer *w);

/* Reads the log to its end; makes the table if there is none; refuses what it cannot write to. */
void writer_refresh(struct writer *w, writer_done_fn *done, void *ctx);
/* Of the state last read: */
int64_t writer_version(const struct writer *w);
const char *writer_id(const struct writer *w);
bool writer_txn(const struct writer *w, struct str app_id, int64_t *ret_version);
bool writer_next_txn(const struct writer *w, size_t *i, struct str *ret_app_id,
                     int64_t *ret_version);

/* Writes one data file of the rows that src gives (in the job's thread), durable but in no commit. The writer owns the result until it is
 * handed to writer_commit or dropped by writer_drop_file. No rows: no file, rows 0, path NULL. */
struct writer_file {
    struct delta_file file;
};
typedef void writer_file_fn(void *ctx, int rc, const struct writer_file *file, const struct err *e);
void writer_write(struct writer *w, const struct parquet_source *src, writer_file_fn *done,
                  void *ctx);
/* The file of the last writer_write will be in no commit (its fate is known): removes it, in the background. */
void writer_drop_file(struct writer *w);

/* One try of a commit at state version + 1 with the file of the last writer_write (if any). The first call with a new txn_id encodes; calls with
 * the same txn_id repeat the same version and the same bytes. rc 0: landed, and the state is read to its end (also when it landed earlier);
 * ERR_CONFLICT: certainly not in, the version is another's (the caller refreshes and rebases); others: not known, call again with the same. */
void writer_commit(struct writer *w, const struct delta_commit *c, writer_done_fn *done, void *ctx);
/* Whether the last commit's version asks for a checkpoint; then write it when idle. A failure is logged by the caller, and harmless. */
bool writer_wants_checkpoint(const struct writer *w);
void writer_checkpoint(struct writer *w, writer_done_fn *done, void *ctx);
