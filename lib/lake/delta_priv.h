/* delta, private: the state that the log adds up to, and the steps that lead to it.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/map.h"
#include "lake/delta.h"
#include <jansson.h>

#define DELTA_COMMIT_MAX_BYTES ((size_t)256 << 20) /* of one commit; foreign ones can be large */
#define DELTA_VERIFY_MS (5 * 60 * 1000)
#define DELTA_VERSION_MAX ((int64_t)1 << 53) /* what a number of JSON holds for every reader */

struct delta_entry { /* a live file */
    struct delta_file file;
    json_t *partition_values, *tags; /* NULL: empty */
    bool deletion_vector, outside;   /* outside: its path leads out of the table */
};
struct delta_application {
    int64_t version, updated_ms; /* updated_ms -1: not given */
};
struct delta_state {
    int64_t version; /* -1: nothing */
    char *id, *schema;
    json_t *protocol, *metadata; /* the actions' objects; NULL: none yet */
    struct map *files;           /* delta_entry by key: path, and the deletion vector if any */
    struct map *removes;         /* json_t, the remove's object, by the same key */
    struct map *applications;    /* delta_application by appId */
    uint64_t rows, uncounted;    /* sum of the counted files, modulo 2^64; files without a count */
    uint64_t vectors, outside;   /* live files with deletion vectors; with paths that lead out */
    int64_t commit_time_ms;
    bool commit_read;                   /* false: what is known comes from a checkpoint alone */
    uint64_t commit_bytes, commit_hash; /* of the latest commit's text */
};
struct delta {
    struct store *store;
    char *path;
    uint64_t reads, verified_ms;
    struct delta_state st;
};

/* delta_state.c */
void delta_state_init(struct delta_state *st);
void delta_state_deinit(struct delta_state *st);
/* The rows of a checkpoint, one at a time. */
int delta_state_apply_row(struct delta_state *st, json_t *row, struct err *e);
/* A whole commit: nothing changes when it returns an error. ERR_CORRUPT; ERR_CONFLICT where `same_table` is asked for: metaData of another
 * table. A log that is read from its beginning may hold one (CREATE OR REPLACE). */
int delta_state_apply_commit(struct delta_state *st, int64_t version, struct str body,
                             bool same_table, struct err *e);
/* The state as NDJSON actions for a checkpoint, and how many; unexpired removes only. */
bool delta_state_write(const struct delta_state *st, int64_t now_ms, struct buf *line,
                       bool (*put)(void *ctx, struct str line), void *ctx, int64_t *ret_rows);

/* delta_action.c */
int delta_action_check(const json_t *row, struct err *e); /* what is needed is there, in its type */
struct delta_entry *delta_action_entry(const json_t *add);
void delta_entry_free(struct delta_entry *en);
/* Key of an add or remove; the caller frees. */
char *delta_action_key(const json_t *action, size_t *ret_n);
void delta_put_path(struct buf *b, struct str path); /* percent-encoded, without quotes */
void delta_put_add(struct buf *b, const struct delta_file *f, const json_t *partition_values,
                   const json_t *tags, bool data_change);
void delta_put_json(struct buf *b, const json_t *v); /* compact */
/* commitInfo.txnId of a commit's text; the caller frees; NULL: none. */
char *delta_commit_txn_id(struct str body);

/* delta_log.c */
/* version -1: the latest */
int delta_log_load(struct delta *d, struct duck_conn *c, int64_t version, struct err *e);
int delta_log_get(struct delta *d, int64_t version, struct buf *out, struct err *e);
/* version that a listing shows; -1: none; or an error below -1 */
int64_t delta_log_newest(struct delta *d, struct err *e);
char *delta_log_key(const struct delta *d, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* of an object in _delta_log; the caller frees */

/* delta_checkpoint.c */
int delta_checkpoint_read(struct delta *d, struct duck_conn *c, char **names, size_t n,
                          struct err *e);

/* delta_support.c */
int delta_check_readable(const struct delta *d, struct err *e);
