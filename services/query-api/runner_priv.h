/* runner: what runner.c (on the loop), runner_ask.c (in the threads) and runner_spill.c share.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/clock.h"
#include "io/work.h"
#include "query-api/query-api.h"

/* A connection, for one thread at a time. */
struct slot {
    struct duck_conn *conn;
    bool taken, footers, viewed[ASKED_TABLES]; /* footers: those of the files are remembered */
    struct snapshot *shown[ASKED_TABLES];      /* what the variable names */
    uint64_t losers[ASKED_TABLES];             /* what the view leaves out; 0: nothing */
    bool named[ASKED_TABLES];                  /* the variable is set (shown NULL: to no table) */
};
struct runner {
    struct app *app;
    struct metrics *metrics;
    const struct query_config *config;
    struct store *store;
    struct duck *duck;
    struct trash *trash;
    struct work *work;
    struct slot *slots;
    unsigned slots_n;
    pthread_mutex_t lock; /* of the slots' `taken` */
    struct list runs;
    struct duck_conn *lent[2];
    unsigned lent_n;
    char *folder, *schemas[ASKED_TABLES];
    atomic_size_t duck_bytes;
    atomic_ullong metered_ms; /* when that was */
};
struct run {
    struct list node;
    struct runner *runner;
    struct ask ask;
    struct snapshot *snapshots[ASKED_TABLES];
    uint64_t data_age_ms;
    run_done_fn *done; /* NULL: nobody waits any more */
    void *ctx;
    struct work_job *job;
    struct loop_timer timer;
    pthread_mutex_t lock;
    struct duck_conn *conn; /* under the lock: what may be interrupted */
    atomic_int stop;        /* an enum run_end; RUN_OK: go on */
    struct buf out;
    int64_t rows, left_out;
    int rc, failed_table;
    struct err e;
    uint64_t started_us, elapsed_us;
};

/* ---- runner_ask.c ---- */
/* The job of a run: takes a slot, asks, and leaves the answer or the error in the run. */
void runner_ask_mt(void *run);

/* ---- runner_spill.c ---- */
/* Makes a folder in `base` ("": the system's for temporary files) and removes those of processes that were killed. Blocks, at the
 * start. *ret_folder: the caller frees. */
int runner_spill_make(const char *base, char **ret_folder, struct err *e);
void runner_spill_remove(const char *folder);
