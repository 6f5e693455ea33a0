/* lake: a lake in a temporary folder and the logs of its tables, for unit tests; what cannot be made fails the test at hand.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "lake/delta.h"

struct lake {
    char *dir;
    struct store *store;
    struct duck *duck;
    struct duck_conn *conn;
};
struct lake *lake_new(void);
void lake_free(struct lake **l);

/* Files of a table's _delta_log, written in place and not synced, as a foreign hand may do it. */
void lake_put(struct lake *l, const char *table, const char *name, struct str bytes);
void lake_put_version(struct lake *l, const char *table, int64_t version, const char *text);
void lake_delete(struct lake *l, const char *table, const char *name);
void lake_delete_version(struct lake *l, const char *table, int64_t version);

/* One try of a commit with a file "part-<name>.parquet" of `rows` rows and one position. */
int lake_commit(struct delta *d, int64_t version, const char *name, int64_t rows, const char *app,
                int64_t at, const char *txn_id);
/* A new table with the versions 0 to `last`, each with a file of one row and the position of "app". */
void lake_make_history(struct lake *l, const char *table, const char *schema, int64_t last);
void lake_refreshed(struct lake *l, struct delta *d, int want); /* asserts the code */
void lake_checkpointed(struct lake *l, struct delta *d);
/* The state in one text, its lines sorted, so that two ways to it can be compared. The caller frees. */
char *lake_state(const struct delta *d);
char *lake_state_at(struct lake *l, const char *table, int64_t version);
