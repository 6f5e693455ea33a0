/* write_table: makes or continues a Delta table of every column type with the real code, for readers that are not ours.
 *
 * write_table FOLDER FIRST ROWS COMMITS: rows FIRST … FIRST+ROWS-1 in each of COMMITS commits, a checkpoint every 5 versions.
 * Row i is what tests/service/test_delta_readers.py says it is. Prints the version.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/delta.h"
#include "lake/parquet.h"
#include <stdio.h>

#define TABLE "delta/types_table"

static const struct column_def columns[] = {
    {"id", COLUMN_LONG},          {"small", COLUMN_INT},   {"text", COLUMN_STR},
    {"moment", COLUMN_TIMESTAMP}, {"place", COLUMN_POINT}, {"raw", COLUMN_BINARY},
};
enum { COLUMNS = sizeof columns / sizeof *columns };

struct rows {
    int64_t next, end;
    struct buf text; /* all texts of one file, so that slices stay valid; reserved before */
};

static int next_row(void *ctx, struct value *v)
{
    struct rows *r = ctx;
    if (r->next == r->end)
        return 0;
    int64_t i = r->next++;
    for (int c = 0; c < COLUMNS; c++)
        v[c] = (struct value){.null = c > 0 && (i + c) % 7 == 0};
    v[0].i = i;
    v[1].i = i * 7919 % 2001 - 1000;
    size_t at = r->text.len;
    buf_printf(
        &r->text,
        "row %lld \xC3\xB6\xF0\x9F\x98\x80 of a text that is longer than thirty-two characters",
        (long long)i);
    v[2].s = str_make(r->text.data + at, r->text.len - at);
    v[3].i = (i - 500) * 86400123;
    v[4].d[0] = (double)(i % 180) - 90.5, v[4].d[1] = (double)(i % 360) - 180.25;
    v[5].s = str_make(r->text.data + at, 4);
    return 1;
}

static int write_file(struct store *s, struct duck_conn *c, int64_t first, int64_t rows,
                      struct delta_file *ret, struct err *e)
{
    char uuid[37];
    rnd_uuid(uuid);
    char *name = mem_printf("part-00000-%s-c000.zstd.parquet", uuid),
         *key = mem_printf(TABLE "/%s", name);
    struct rows r = {.next = first, .end = first + rows};
    buf_init(&r.text, (size_t)rows * 128 + 1);
    (void)buf_reserve(&r.text, (size_t)rows * 128);
    struct parquet_source src = {
        .columns = columns, .columns_n = COLUMNS, .next = next_row, .ctx = &r};
    struct parquet_file f = {0};
    char *staged = store_stage(s, key, e);
    int rc = staged ? parquet_write(c, staged, &src, &f, e) : ERR_IO;
    if (!rc)
        rc = store_publish(s, staged, key, e);
    if (!rc)
        *ret = (struct delta_file){.path = name,
                                   .bytes = f.bytes,
                                   .rows = f.rows,
                                   .modified_ms = (int64_t)clock_wall_ms(),
                                   .stats = f.stats};
    buf_deinit(&r.text);
    mem_free(staged);
    mem_free(key);
    if (rc)
        mem_free(name);
    return rc;
}

static int commit(struct delta *d, struct duck_conn *c, const struct delta_file *f,
                  int64_t position, struct err *e)
{
    char id[37];
    rnd_uuid(id);
    struct delta_txn_action t = {"sluice:kafka:demo.types:0:G", position};
    struct buf body;
    buf_init(&body, 1 << 20);
    int rc;
    do {
        struct delta_commit k = {.version = delta_version(d) + 1,
                                 .txn_id = id,
                                 .adds = f,
                                 .adds_n = 1,
                                 .txns = &t,
                                 .txns_n = 1,
                                 .timestamp_ms = (int64_t)clock_wall_ms()};
        buf_reset(&body);
        delta_commit_encode(&k, &body);
        rc = delta_put(d, k.version, buf_as_str(&body), id, e);
        int again = rc == 0 || rc == ERR_CONFLICT ? delta_refresh(d, c, e) : rc;
        if (again)
            rc = again;
    } while (rc == ERR_CONFLICT);
    buf_deinit(&body);
    return rc;
}

static int run(const char *folder, int64_t first, int64_t rows, int64_t commits, struct err *e)
{
    struct store *s = NULL;
    struct duck *db = NULL;
    struct duck_conn *c = NULL;
    struct delta *d = NULL;
    char *url = mem_printf("file://%s", folder), *schema = parquet_delta_schema(columns, COLUMNS);
    int rc = store_open(url, &s, e);
    if (!rc)
        rc = duck_open(NULL, &db, e);
    if (!rc)
        rc = duck_connect(db, &c, e);
    if (!rc) {
        d = delta_new(s, TABLE);
        rc = delta_refresh(d, c, e);
    }
    if (rc == ERR_NOT_FOUND) {
        rc = delta_create(d, schema, e);
        if (!rc)
            rc = delta_refresh(d, c, e);
    }
    if (!rc)
        rc = delta_check_writable(d, schema, e);
    for (int64_t n = 0; n < commits && !rc; n++, first += rows) {
        struct delta_file f = {0};
        rc = write_file(s, c, first, rows, &f, e);
        if (!rc)
            rc = commit(d, c, &f, first + rows, e);
        if (!rc && delta_version(d) % 5 == 0)
            rc = delta_checkpoint(d, c, e);
        mem_free(f.path);
        mem_free(f.stats);
    }
    if (!rc)
        printf("%lld\n", (long long)delta_version(d));
    delta_free(&d);
    duck_disconnect(&c);
    duck_close(&db);
    store_close(&s);
    mem_free(schema);
    mem_free(url);
    return rc;
}

int main(int argc, char **argv)
{
    int64_t first, rows, commits;
    if (argc != 5 || str_i64(str_of(argv[2]), &first) || str_i64(str_of(argv[3]), &rows) ||
        str_i64(str_of(argv[4]), &commits)) {
        fprintf(stderr, "write_table FOLDER FIRST ROWS COMMITS\n");
        return 64;
    }
    struct err e = {0};
    if (run(argv[1], first, rows, commits, &e)) {
        fprintf(stderr, "%s: %s\n", err_name(e.code), e.text);
        return 1;
    }
    return 0;
}
