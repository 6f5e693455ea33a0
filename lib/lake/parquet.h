/* parquet: rows from a C callback into one Parquet file (zstd, V1 pages), with the statistics that a Delta `add` carries.
 *
 * DuckDB writes; its table function pulls rows from `next`. 64 MiB of memory_limit carry what a flush holds, as row groups end at 8 MiB; for that
 * the database's preserve_insertion_order is switched off (the order of the rows stays). Blocks: for work jobs. Threads: one write per connection
 * at a time.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "data/dataset.h"
#include "io/duck.h"

struct parquet_source {
    const struct column_def *columns; /* all columns of the table, in order */
    unsigned columns_n;
    /* Fills values[0..columns_n) of the next row: 1, 0 at the end, or an error. Slices stay valid until the write has ended. */
    int (*next)(void *ctx, struct value *values);
    void *ctx;
    /* all that next gives as COLUMN_STR is valid UTF-8, and not looked at once more */
    bool texts_checked;
};
struct parquet_file {
    int64_t rows;
    uint64_t bytes;
    char *stats; /* JSON text as in delta contract 1.6; free with mem_free */
};
int parquet_write(struct duck_conn *c, const char *path, const struct parquet_source *src,
                  struct parquet_file *ret, struct err *e);
/* Delta's schemaString for these columns. The caller frees. */
char *parquet_delta_schema(const struct column_def *columns, unsigned n);
/* An empty file of that schema at `path` (readers union it in so that columns are always typed). */
int parquet_write_empty(struct duck_conn *c, const char *path, const struct column_def *columns,
                        unsigned n, struct err *e);
