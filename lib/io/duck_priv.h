/* duck: what duck.c (databases, connections, statements) and duck_rows.c (their rows) share.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/duck.h"
#include <duckdb.h>

struct duck_stmt {
    duckdb_prepared_statement ps;
};
/* The one mapping of DuckDB's errors. */
int duck_fail(struct err *e, duckdb_error_type type, const char *text);
