/* duck: DuckDB in the process: databases, connections, prepared statements and rows, for jobs of io/work.
 *
 * Everything here blocks, and runs inside a work job (or a test), never on the loop, but for duck_interrupt_mt.
 * A connection serves one job at a time. Names of types are DuckDB's. Threads: one at a time per connection.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct duck; /* a database */
struct duck_conn;
struct duck_stmt;
struct duck_rows; /* a result, read row by row */

struct duck_setting {
    const char *name, *value;
};
/* In memory; no extension is loaded or installed from outside; TimeZone UTC on every connection; spills nowhere unless
 * temp_directory is set; settings end at a NULL name. */
int duck_open(const struct duck_setting *settings, struct duck **ret, struct err *e);
void duck_close(struct duck **d); /* after its connections */
int duck_connect(struct duck *d, struct duck_conn **ret, struct err *e);
void duck_disconnect(struct duck_conn **c);
/* any thread: the running statement ends with ERR_CANCELLED */
void duck_interrupt_mt(struct duck_conn *c);
void *duck_native(struct duck_conn *c); /* duckdb_connection, for lake/parquet.c */

/* Appends text as SQL has it between ' (a string) or " (a name). */
void duck_quote(struct buf *b, char quote, const char *text);
/* Runs one or several statements; their rows are dropped. */
int duck_exec(struct duck_conn *c, const char *sql, struct err *e);
int duck_prepare(struct duck_conn *c, const char *sql, struct duck_stmt **ret, struct err *e);
void duck_finish(struct duck_stmt **s);
unsigned duck_params(const struct duck_stmt *s);
/* Index of $name, 1-based; 0: none such. */
unsigned duck_param_index(struct duck_stmt *s, const char *name);
int duck_bind_null(struct duck_stmt *s, unsigned i);
int duck_bind_i64(struct duck_stmt *s, unsigned i, int64_t v);
int duck_bind_bool(struct duck_stmt *s, unsigned i, bool v);
int duck_bind_str(struct duck_stmt *s, unsigned i, struct str v);
/* A list of strings, for read_parquet($files). */
int duck_bind_strs(struct duck_stmt *s, unsigned i, const struct str *v, size_t n);

enum duck_type {
    DUCK_BOOL,
    DUCK_I32,
    DUCK_I64,
    DUCK_DOUBLE,
    DUCK_STR,
    DUCK_BLOB,
    DUCK_TIMESTAMP,
    DUCK_DATE,
    DUCK_LIST_DOUBLE,
    DUCK_OTHER
};
/* ERR_CANCELLED after an interrupt, ERR_LIMIT out of memory, ERR_NOSPACE spill folder or disk full, ERR_NOT_FOUND file missing, ERR_BAD_DATA the
 * statement or a value in it is wrong (duck_prepare too), ERR_CORRUPT a file is no Parquet, ERR_IO, else ERR_INTERNAL. */
int duck_query(struct duck_stmt *s, struct duck_rows **ret, struct err *e);
int duck_query_sql(struct duck_conn *c, const char *sql, struct duck_rows **ret, struct err *e);
void duck_rows_free(struct duck_rows **r);
unsigned duck_columns(const struct duck_rows *r);
const char *duck_column_name(const struct duck_rows *r, unsigned col);
enum duck_type duck_column_type(const struct duck_rows *r, unsigned col);
const char *duck_column_type_name(const struct duck_rows *r, unsigned col); /* "BIGINT", static */
/* Steps to the next row: 1, 0 at the end, or an error. Values are valid until the next step. */
int duck_next(struct duck_rows *r, struct err *e);
bool duck_is_null(const struct duck_rows *r, unsigned col);
bool duck_bool(const struct duck_rows *r, unsigned col);
/* I32, I64, HUGEINT in range; TIMESTAMP: microseconds since 1970; DATE: days */
int64_t duck_i64(const struct duck_rows *r, unsigned col);
double duck_double(const struct duck_rows *r, unsigned col);
struct str duck_str(const struct duck_rows *r, unsigned col); /* STR and BLOB */
/* A LIST_DOUBLE: number of elements; element i, false if it is null. */
size_t duck_list_size(const struct duck_rows *r, unsigned col);
bool duck_list_double(const struct duck_rows *r, unsigned col, size_t i, double *ret);
/* Memory that DuckDB holds now, bytes. */
size_t duck_memory_bytes(struct duck *d);
/* DuckDB's allocator keeps what a statement has freed, for the next one, without a bound of its own. When the process has grown by more than
 * `above_bytes` since duck_open, this gives all of it back to the system; it takes some milliseconds then. For databases with a memory_limit. */
void duck_trim(struct duck *d, size_t above_bytes);
