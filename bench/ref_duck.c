/* ref_duck: DuckDB by itself: runs the SQL statements that come on stdin, one a line, and says what each took.
 *
 * One answer a line: {"wall_s", "cpu_s", "rows"}, or {"error"}. Every row of a result is read.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lines.h"
#include <duckdb.h>

static void print_error(const char *text)
{
    printf("{\"error\":\"");
    for (; text && *text; text++)
        putchar(*text == '"' || *text == '\\' || (unsigned char)*text < ' ' ? ' ' : *text);
    printf("\"}\n");
}

static void run(duckdb_connection con, const char *sql)
{
    duckdb_result result;
    unsigned long long rows = 0;
    double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID), wall = seconds_of(CLOCK_MONOTONIC);
    if (duckdb_query(con, sql, &result) == DuckDBSuccess) {
        duckdb_data_chunk chunk;
        while ((chunk = duckdb_fetch_chunk(result))) {
            rows += duckdb_data_chunk_get_size(chunk);
            duckdb_destroy_data_chunk(&chunk);
        }
        printf("{\"wall_s\":%.6f,\"cpu_s\":%.6f,\"rows\":%llu}\n",
               seconds_of(CLOCK_MONOTONIC) - wall, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu,
               rows);
    } else {
        print_error(duckdb_result_error(&result));
    }
    duckdb_destroy_result(&result);
    fflush(stdout);
}

int main(void)
{
    duckdb_database db;
    duckdb_connection con;
    char *line = NULL;
    size_t room = 0;
    if (duckdb_open(NULL, &db) != DuckDBSuccess || duckdb_connect(db, &con) != DuckDBSuccess) {
        fputs("ref_duck: DuckDB does not open\n", stderr);
        return 70;
    }
    while (getline(&line, &room, stdin) > 0)
        run(con, line);
    free(line);
    duckdb_disconnect(&con);
    duckdb_close(&db);
    return 0;
}
