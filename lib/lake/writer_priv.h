/* writer, private: what a writer is, and the part of it that runs in work jobs.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/check.h"
#include "base/map.h"
#include "lake/parquet_priv.h"
#include "lake/writer.h"

#define WRITER_TAG CHECK_TAG('w', 'r', 't', 'r')

enum writer_op { OP_NONE, OP_REFRESH, OP_WRITE, OP_COMMIT, OP_CHECKPOINT };

/* What the loop sees of the state. */
struct writer_view {
    int64_t version;
    char *id;
    struct map *txns; /* int64_t */
};

struct writer {
    uint32_t tag;
    struct loop *loop;
    struct work *work;
    struct store *store;
    struct duck *duck;
    char *path, *schema;
    unsigned checkpoint_interval;
    bool dead; /* the table of rejects; names its crash points */

    enum writer_op op;
    bool closed;
    writer_done_fn *done;
    writer_file_fn *file_done;
    void *ctx;
    struct loop_defer defer; /* a call whose job could not be started */

    struct writer_view view;
    struct delta_file file; /* of the last write; path NULL: none */
    char txn_id[64];        /* of the commit that is tried; empty: none */
    struct buf body;
    int64_t commit_version, checkpoint_version; /* checkpoint_version -1: none wanted */

    /* The job's: */
    struct parquet_gate gate; /* and conn's appearance is under its lock */
    struct duck_conn *conn;
    struct delta *delta;
    bool swept;
    struct parquet_source src;
    struct delta_file new_file;
    struct writer_view new_view; /* txns NULL: nothing new */
    int rc;
    struct err e;
};

/* writer_job.c */
void writer_view_deinit(struct writer_view *v);
/* carries out w->op; the result is in rc, e, new_file and new_view */
void writer_run_mt(struct writer *w);
