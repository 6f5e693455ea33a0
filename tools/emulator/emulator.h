/* emulator: the parts of sluice-emulator: options, where rows come from, the load, the ledger, the report.
 *
 * A post is three records (pin, geo, user), sent in this order as requests of their own; a request carries `batch` records of
 * one dataset. Requests are numbered through; lanes (one for each connection) take the next one as they become free, so that with
 * one lane everything is sent one after the other. With a rate, request k is planned for a moment fixed beforehand, and
 * its latency counts from that moment whether or not a lane was free.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "data/dataset.h"
#include "io/loop.h"
#include <stdio.h>

struct emulator_opts {
    const char *gateway, *user, *stage; /* stage: "" or "/dev" */
    const char *posts;                  /* folder of files; NULL: generated */
    const char *ledger;                 /* file; NULL: none */
    uint64_t rows, seed;
    uint64_t draws;    /* posts drawn with replacement; UINT64_MAX: until it is stopped */
    bool draw;         /* draw, instead of sending each row once */
    uint64_t pause_ms; /* between draws: nothing or this, by the toss of a coin */
    double rate;       /* records a second; 0: as fast as answers come */
    unsigned connections, batch, tries;
    uint64_t timeout_ms;
    bool http2, progress_json, report_json;
    int print; /* a dataset, or -1 */
};
/* 0; ERR_USAGE with a text; 1: help was printed. */
int emulator_options(int argc, char **argv, struct emulator_opts *ret, struct err *e);

/* ---- rows ---- */
struct source;
int source_open(const struct emulator_opts *o, struct source **ret, struct err *e);
void source_close(struct source **s);
uint64_t source_rows(const struct source *s);
uint64_t source_records(const struct source *s); /* of all datasets; files may differ in length */
/* Appends the JSON of one record; false: this row has none in this dataset. */
bool source_json(const struct source *s, enum dataset_id id, uint64_t row, struct buf *out);
/* The key in a record's text, or -1. */
int64_t source_key(enum dataset_id id, struct str json);

/* ---- outcomes ---- */
enum outcome { OUTCOME_OK, OUTCOME_REFUSED, OUTCOME_UNKNOWN, OUTCOMES };
extern const char *const outcome_names[OUTCOMES];
struct result {
    enum outcome outcome;
    int error_code;            /* 0: none */
    int64_t partition, offset; /* -1: none */
};
/* What an answer says of n records (contract of the gateway, "refused or unknown"). rc: of the call; sent: its bytes may have gone. */
void outcome_read(int rc, bool sent, int status, struct str body, struct result *ret, size_t n);

/* ---- ledger ---- */
struct ledger;
struct ledger_line {
    uint64_t id, sent_at_ms, answered_at_ms;
    unsigned try_no; /* from 1 */
    enum dataset_id dataset;
    int64_t key;
    const char *target, *topic;
    int status;
    struct str value;
    struct result result;
};
int ledger_open(const char *path, struct ledger **ret, struct err *e);
void ledger_close(struct ledger **l);
/* One write. A failure is said on stderr, and the ledger takes nothing any more: 0, or ERR_IO from then on. */
int ledger_write(struct ledger *l, const struct ledger_line *line);
bool ledger_failed(const struct ledger *l); /* NULL: no */

/* ---- report ---- */
#define HISTOGRAM_STEPS 64 /* between two powers of two: 1.6 % */
struct report {
    uint64_t planned;                  /* records; UINT64_MAX: no end */
    uint64_t sent, outcomes[OUTCOMES]; /* records, by their last try */
    uint64_t tries;                    /* of records */
    /* requests; with an HTTP answer; without one, but perhaps received */
    uint64_t requests, answers, lost;
    uint64_t begin_us, end_us;
    uint64_t max_us, count;
    uint64_t histogram[64 * HISTOGRAM_STEPS]; /* of latencies in us */
    bool interrupted;
};
void report_latency(struct report *r, uint64_t us);
uint64_t report_quantile_us(const struct report *r, double q);
void report_print(const struct report *r, bool json, FILE *out);
void report_progress(const struct report *r, bool json, bool last, FILE *out);

/* ---- load ---- */
struct load;
typedef void load_done_fn(void *ctx);
/* Sends everything; `done` runs once at the end, or after load_stop. All pointers stay the caller's. */
int load_open(struct loop *loop, const struct emulator_opts *o, const struct source *s,
              struct ledger *ledger, struct report *report, load_done_fn *done, void *ctx,
              struct load **ret, struct err *e);
/* nothing new; what is in flight is waited for. A second call drops that, too. */
void load_stop(struct load *l);
void load_close(struct load **l);
