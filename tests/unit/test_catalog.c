/* Unit tests of query-api's snapshots and of what is worked out once per snapshot: real logs, real files, a real DuckDB.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include "base/mem.h"
#include "support/tmpdir.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

static char *dir;
static struct store *store;
static struct duck *duck;
static struct duck_conn *conn;
static struct trash *trash;

static int set_up(void **state)
{
    (void)state;
    struct err e;
    dir = tmpdir_new();
    char *url = mem_printf("file://%s", dir);
    int rc = store_open(url, &store, &e);
    mem_free(url);
    static const struct duck_setting settings[] = {{"threads", "1"}, {NULL, NULL}};
    trash = trash_new_mt();
    return rc || duck_open(settings, &duck, &e) || duck_connect(duck, &conn, &e);
}

static int tear_down(void **state)
{
    (void)state;
    duck_disconnect(&conn);
    duck_close(&duck);
    store_close(&store);
    trash_free_mt(&trash);
    tmpdir_remove(&dir);
    return 0;
}

#define SCHEMA                                                                                     \
    "{\"type\":\"struct\",\"fields\":[{\"name\":\"ind\",\"type\":\"long\",\"nullable\":true,"      \
    "\"metadata\":{}}]}"

/* Puts a commit that adds one file of that name. What the follower says of it. */
static int add_any(struct delta *d, const char *path, int64_t rows)
{
    struct err e = {0};
    struct delta_file f = {.path = (char *)path, .bytes = 100, .rows = rows};
    struct delta_commit c = {.version = delta_version(d) + 1,
                             .txn_id = "id",
                             .adds = &f,
                             .adds_n = 1,
                             .timestamp_ms = 1700000000123};
    char stats[64];
    if (rows >= 0) {
        snprintf(stats, sizeof stats, "{\"numRecords\":%lld}", (long long)rows);
        f.stats = stats;
    }
    struct buf b;
    buf_init(&b, 1 << 16);
    delta_commit_encode(&c, &b);
    assert_int_equal(delta_put(d, c.version, buf_as_str(&b), "id", &e), 0);
    buf_deinit(&b);
    return delta_refresh(d, NULL, &e);
}

static void add(struct delta *d, const char *path, int64_t rows)
{
    assert_int_equal(add_any(d, path, rows), 0);
}

static struct delta *table(const char *path)
{
    struct err e = {0};
    struct delta *d = delta_new(store, path);
    assert_int_equal(delta_create(d, SCHEMA, &e), 0);
    assert_int_equal(delta_refresh(d, NULL, &e), 0);
    return d;
}

static void test_snapshot(void **state)
{
    (void)state;
    struct delta *d = table("delta/a");
    struct snapshot *s = snapshot_make_mt(store, d, TABLE_GEO, trash);
    assert_non_null(s);
    assert_true(s->version == 0 && s->files_n == 0 && s->rows == 0 && s->table == TABLE_GEO);
    snapshot_unref_mt(&s);
    assert_null(s);
    snapshot_unref_mt(&s);
    add(d, "part-0.parquet", 3);
    add(d, "k=v/part 1.parquet", 4);
    s = snapshot_make_mt(store, d, TABLE_GEO, trash);
    assert_true(s->version == 2 && s->rows == 7 && s->bytes == 200 && s->files_n == 2);
    assert_true(s->commit_time_ms == 1700000000123);
    assert_string_equal(s->id, delta_id(d));
    char *want = mem_printf("%s/delta/a/k=v/part 1.parquet", dir);
    assert_string_equal(s->files[1], want);
    mem_free(want);
    struct snapshot *other = snapshot_ref_mt(s);
    snapshot_unref_mt(&s);
    assert_string_equal(other->schema, SCHEMA);
    add(d, "part-2.parquet", 5);
    assert_true(other->files_n == 2); /* what was handed out does not change */
    snapshot_unref_mt(&other);
    delta_free(&d);
}

static void test_files_outside_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "../x.parquet", "a/../../x.parquet", "/etc/passwd", "file:///etc/passwd", "a//b", ".."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *path = mem_printf("delta/bad%zu", i);
        struct delta *d = table(path);
        if (!add_any(d, bad[i], 1)) /* the log's reader refuses most of them already */
            assert_null(snapshot_make_mt(store, d, TABLE_PIN, trash));
        delta_free(&d);
        mem_free(path);
    }
    struct delta *d = table("delta/dots");
    add(d, "..a/b..c/...parquet", 1);
    struct snapshot *s = snapshot_make_mt(store, d, TABLE_PIN, trash);
    assert_non_null(s);
    snapshot_unref_mt(&s);
    delta_free(&d);
}

/* A snapshot of two files with these rows, and the variable that names them. */
static struct snapshot *with_rows(const char *path, const char *first, const char *second)
{
    struct err e = {0};
    struct delta *d = table(path);
    add(d, "0.parquet", 1);
    add(d, "1.parquet", 1);
    const char *rows[] = {first, second};
    for (unsigned i = 0; i < 2; i++) {
        char *sql = mem_printf("COPY (SELECT ind::BIGINT AS ind, v::BIGINT AS v, "
                               "make_timestamptz(us::BIGINT) AS _ingested_at, s AS _source, "
                               "p::BIGINT AS _position, i::INTEGER AS _item FROM (VALUES %s) "
                               "t(ind, v, us, s, p, i)) TO '%s/%s/%u.parquet' (FORMAT parquet)",
                               rows[i], dir, path, i);
        if (duck_exec(conn, sql, &e))
            fail_msg("%s", e.text);
        mem_free(sql);
    }
    struct snapshot *s = snapshot_make_mt(store, d, TABLE_PIN, trash);
    char *sql = mem_printf("SET VARIABLE pin_files = ['%s', '%s']", s->files[0], s->files[1]);
    assert_int_equal(duck_exec(conn, sql, &e), 0);
    mem_free(sql);
    delta_free(&d);
    return s;
}

/* The `v` that are left, joined by commas. */
static void left(const struct snapshot *s, const char *want)
{
    struct err e = {0};
    struct duck_rows *rows = NULL;
    char *sql = mem_printf("SELECT string_agg(v::VARCHAR, ',' ORDER BY v) FROM "
                           "read_parquet(getvariable('pin_files')) r "
                           "ANTI JOIN memory.main.losers_%llu l ON r.file_index = l.file AND "
                           "r.file_row_number = l.place",
                           (unsigned long long)s->losers);
    assert_int_equal(duck_query_sql(conn, sql, &rows, &e), 0);
    assert_int_equal(duck_next(rows, &e), 1);
    struct str got = duck_str(rows, 0);
    assert_true(str_is(got, want));
    duck_rows_free(&rows);
    mem_free(sql);
}

static bool losers_exist(uint64_t number)
{
    struct err e = {0};
    char *sql = mem_printf("SELECT 1 FROM memory.main.losers_%llu", (unsigned long long)number);
    int rc = duck_exec(conn, sql, &e);
    mem_free(sql);
    return rc == 0;
}

static void test_newest(void **state)
{
    (void)state;
    struct err e = {0};
    struct snapshot *none = with_rows("delta/none", "(1, 1, 5, 'a', 0, 0), (2, 2, 5, 'a', 1, 0)",
                                      "(3, 3, 5, 'a', 2, 0)");
    assert_int_equal(newest_find_mt(none, "pin", conn, &e), 0);
    assert_int_equal(none->newest, NEWEST_ALL);
    snapshot_unref_mt(&none);

    struct snapshot *s =
        with_rows("delta/some",
                  "(1, 1, 5, 'b', 0, 0), (2, 2, 6, 'a', 0, 0), (3, 3, 5, 'b', 0, 0), (4, 4, 5, "
                  "'b', 7, 0), (5, 5, 5, 'b', 7, 1), (6, 6, 5, 'b', 0, 0)",
                  "(1, 10, 6, 'a', 0, 0), (2, 20, 5, 'z', 9, 9), (3, 30, 5, 'B', 9, 9), (4, 40, 5, "
                  "'b', 8, 0), (5, 50, 5, 'b', 7, 0), (1, 100, 4, 'z', 9, 9)");
    uint64_t searches = trash_searches_mt(trash);
    assert_int_equal(newest_find_mt(s, "pin", conn, &e), 0);
    assert_int_equal(newest_find_mt(s, "pin", conn, &e), 0);
    assert_int_equal(trash_searches_mt(trash), searches + 1);
    assert_int_equal(s->newest, NEWEST_LOSERS);
    left(s, "2,3,5,6,10,40");
    uint64_t number = s->losers;
    snapshot_unref_mt(&s);
    assert_true(losers_exist(number)); /* until somebody with a connection comes by */
    trash_empty_mt(trash, conn);
    assert_false(losers_exist(number));
}

/* A table that only grows is looked at from where it was known to have no key twice. */
static void test_newest_of_a_growing_table(void **state)
{
    (void)state;
    struct err e = {0};
    struct snapshot *s = with_rows("delta/grows", "(1, 1, 5, 'a', 0, 0), (9, 9, 5, 'a', 1, 0)",
                                   "(2, 2, 5, 'a', 2, 0)");
    assert_int_equal(newest_find_mt(s, "pin", conn, &e), 0);
    assert_int_equal(s->newest, NEWEST_ALL);
    static const struct {
        const char *rows, *left;
    } steps[] = {{"(3, 3, 5, 'a', 3, 0), (4, 4, 5, 'a', 4, 0)", NULL},
                 {"(5, 5, 5, 'a', 5, 0)", NULL},
                 {"(6, 6, 5, 'a', 6, 0), (6, 7, 6, 'a', 7, 0)", "1,2,3,4,5,7,9"},
                 {"(9, 90, 6, 'a', 8, 0)", "1,2,3,4,5,7,90"}};
    struct delta *d = delta_new(store, "delta/grows");
    assert_int_equal(delta_refresh(d, NULL, &e), 0);
    for (unsigned i = 0; i < 4; i++) {
        char *name = mem_printf("%u.parquet", i + 2);
        char *sql = mem_printf("COPY (SELECT ind::BIGINT AS ind, v::BIGINT AS v, "
                               "make_timestamptz(us::BIGINT) AS _ingested_at, s AS _source, "
                               "p::BIGINT AS _position, i::INTEGER AS _item FROM (VALUES %s) "
                               "t(ind, v, us, s, p, i)) TO '%s/delta/grows/%s' (FORMAT parquet)",
                               steps[i].rows, dir, name);
        assert_int_equal(duck_exec(conn, sql, &e), 0);
        mem_free(sql);
        add(d, name, 1);
        snapshot_unref_mt(&s);
        s = snapshot_make_mt(store, d, TABLE_PIN, trash);
        sql = mem_printf("SET VARIABLE pin_files = getvariable('pin_files') || ['%s']",
                         s->files[s->files_n - 1]);
        assert_int_equal(duck_exec(conn, sql, &e), 0);
        mem_free(sql);
        mem_free(name);
        if (newest_find_mt(s, "pin", conn, &e))
            fail_msg("%s", e.text);
        assert_int_equal(s->newest, steps[i].left ? NEWEST_LOSERS : NEWEST_ALL);
        if (steps[i].left)
            left(s, steps[i].left);
    }
    snapshot_unref_mt(&s);
    delta_free(&d);
}

static void test_a_failed_search_is_no_result(void **state)
{
    (void)state;
    struct err e = {0};
    struct snapshot *s = with_rows("delta/fails", "(1, 1, 5, 'b', 0, 0)", "(1, 2, 5, 'b', 1, 0)");
    assert_int_equal(remove(s->files[1]), 0);
    assert_int_not_equal(newest_find_mt(s, "pin", conn, &e), 0);
    assert_int_equal(s->newest, NEWEST_UNKNOWN);
    snapshot_unref_mt(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snapshot), cmocka_unit_test(test_files_outside_are_refused),
        cmocka_unit_test(test_newest), cmocka_unit_test(test_newest_of_a_growing_table),
        cmocka_unit_test(test_a_failed_search_is_no_result)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
