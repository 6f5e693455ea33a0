/* parquet, private: statistics of the rows that pass, and a write that its caller can abandon.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "lake/parquet.h"
#include <pthread.h>

struct parquet_stats_column {
    int64_t nulls;
    bool seen;      /* lo and hi hold something */
    int64_t lo, hi; /* LONG, INT, TIMESTAMP (milliseconds) */
    struct buf lo_s, hi_s;
    uint64_t lo_head, hi_head; /* their first eight bytes, big-endian */
    struct str last;           /* the slice seen last: the same again changes nothing */
};
struct parquet_stats {
    const struct column_def *columns;
    unsigned columns_n;
    int64_t rows;
    struct parquet_stats_column *column;
};
void parquet_stats_init(struct parquet_stats *s, const struct column_def *columns, unsigned n);
void parquet_stats_deinit(struct parquet_stats *s);
void parquet_stats_row(struct parquet_stats *s, const struct value *values);
char *parquet_stats_json(const struct parquet_stats *s); /* contract 1.6; the caller frees */

/* Held while the source is called and its slices are used; after `shut` was set under the lock neither happens again,
 * and the write ends with ERR_CANCELLED. */
struct parquet_gate {
    pthread_mutex_t lock;
    bool shut;
};
/* parquet_feed.c: what DuckDB reads of a source while one write runs. At most PARQUET_MAX_COLUMNS columns. */
#define PARQUET_MAX_COLUMNS 64
struct parquet_feed;
struct parquet_feed *parquet_feed_open(struct duck_conn *c, const struct parquet_source *src,
                                       struct parquet_gate *gate); /* gate: may be NULL */
void parquet_feed_close(struct parquet_feed **f);
void parquet_feed_name(const struct parquet_feed *f, struct buf *sql); /* as a table in SQL */
const struct parquet_stats *parquet_feed_stats(const struct parquet_feed *f);
/* What made the source fail, 0: nothing did. */
int parquet_feed_error(const struct parquet_feed *f, const char **ret_why);

int parquet_write_gated(struct duck_conn *c, const char *path, const struct parquet_source *src,
                        struct parquet_gate *gate, struct parquet_file *ret, struct err *e);
