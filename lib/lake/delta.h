/* delta: one Delta table: its log read, followed, committed to and checkpointed (protocol reader 1, writer 2; appends only).
 *
 * Everything here blocks, for work jobs; one `struct delta` is used by one job at a time. Contract: delta.md sections 1, 3, 4.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "data/dataset.h"
#include "io/duck.h"
#include "lake/store.h"

struct delta;
/* `path` is the table's folder in the store, e.g. "delta/demo_pin_table". Reads nothing yet. */
struct delta *delta_new(struct store *s, const char *path);
void delta_free(struct delta **d);

/* Reads the log to its end (from checkpoint and commits the first time, then only what is new: a look at the latest commit's size, one get per new commit and one that finds nothing).
 * ERR_NOT_FOUND: no such table (yet). ERR_UNSUPPORTED by name. ERR_CORRUPT: a gap. ERR_CONFLICT: the table was made anew (another id): the state is empty, call again.
 * `c` reads checkpoints; it may be NULL when none can be there (then ERR_UNSUPPORTED if one is). */
int delta_refresh(struct delta *d, struct duck_conn *c, struct err *e);
/* As of `version`, from nothing, into an empty struct delta. ERR_NOT_FOUND: above the latest, or not to be had any more. */
int delta_load_at(struct delta *d, struct duck_conn *c, int64_t version, struct err *e);
int64_t delta_version(const struct delta *d); /* -1: nothing read yet */
const char *delta_path(const struct delta *d);
const char *delta_id(const struct delta *d);     /* metaData.id */
const char *delta_schema(const struct delta *d); /* schemaString */
/* commitInfo.timestamp of the latest commit read; 0 if unknown */
int64_t delta_commit_time_ms(const struct delta *d);
/* objects fetched since delta_new: a new version costs one */
uint64_t delta_reads(const struct delta *d);

/* The version of an application id in the state; false: the table does not know it. */
bool delta_txn(const struct delta *d, struct str app_id, int64_t *ret_version);
/* for (size_t i = 0; delta_next_txn(d, &i, &app, &v);) */
bool delta_next_txn(const struct delta *d, size_t *i, struct str *ret_app_id, int64_t *ret_version);

struct delta_file {
    char *path; /* relative to the table, decoded */
    uint64_t bytes;
    int64_t rows; /* -1: no statistics */
    int64_t modified_ms;
    char *stats; /* may be NULL */
};
size_t delta_files(const struct delta *d);
/* in the order they were added */
bool delta_next_file(const struct delta *d, size_t *i, const struct delta_file **ret);
int64_t delta_rows(const struct delta *d); /* sum over the files; -1: some file has no count */

struct delta_txn_action {
    const char *app_id;
    int64_t version;
};
struct delta_commit {
    int64_t version;               /* the version to take: the state's + 1 */
    const char *txn_id;            /* UUID of this logical commit, the same over all its tries */
    const struct delta_file *adds; /* path, bytes, rows, modified_ms, stats */
    size_t adds_n;
    const struct delta_txn_action *txns;
    size_t txns_n;
    uint64_t copies;      /* rows left out as copies; commitInfo "sluice.copies" */
    struct str lost_json; /* JSON array of lost ranges for commitInfo, or p NULL */
    int64_t timestamp_ms;
};
/* The bytes of the commit (NDJSON): made once, kept for every try. */
void delta_commit_encode(const struct delta_commit *c, struct buf *out);
/* One try to put `body` at `version`. 0: landed (by this or an earlier try; known by txn_id). ERR_CONFLICT: another commit has that version.
 * ERR_UNKNOWN, ERR_IO, ERR_NOSPACE: try again with the same version and bytes. The state does not change: delta_refresh reads it. */
int delta_put(struct delta *d, int64_t version, struct str body, const char *txn_id, struct err *e);
/* Version 0 with schema and configuration. 0: made or there already. */
int delta_create(struct delta *d, const char *schema_string, struct err *e);
/* Refuses by name what this writer cannot write to (contract 1.11), and a schema other than `schema_string`'s columns. */
int delta_check_writable(const struct delta *d, const char *schema_string, struct err *e);
/* Writes the checkpoint of exactly the state's version, then _last_checkpoint (never a smaller one). ERR_EXISTS counts as done.
 * While it runs c's database may take 96 MiB, whatever its memory_limit. */
int delta_checkpoint(struct delta *d, struct duck_conn *c, struct err *e);
