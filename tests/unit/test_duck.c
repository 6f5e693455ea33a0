/* test_duck: settings, parameters, rows of every type, errors, interrupts and memory.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/duck.h"
#include "base/clock.h"
#include "base/mem.h"
#include "support/tmpdir.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <cmocka.h>

static struct duck *db;
static struct duck_conn *con;

static int set_up(void **state)
{
    (void)state;
    static const struct duck_setting settings[] = {
        {"memory_limit", "200MiB"}, {"threads", "2"}, {NULL, NULL}};
    struct err e = {0};
    if (duck_open(settings, &db, &e) || duck_connect(db, &con, &e)) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    duck_disconnect(&con);
    duck_close(&db);
    return 0;
}

static void test_rows_of_every_type(void **state)
{
    (void)state;
    struct duck_rows *r;
    struct err e = {0};
    int rc = duck_query_sql(
        con,
        "SELECT true AS b, 7::INTEGER AS i, -9::BIGINT AS l, 1.5::DOUBLE AS d, 'sön' AS s, "
        "'\\x00\\xFF'::BLOB AS x, TIMESTAMPTZ '1969-12-31 23:59:59.5+00' AS t, DATE '1970-01-03' "
        "AS day, [1.0, NULL, 3.0]::DOUBLE[] AS p, NULL::VARCHAR AS n, sum(4::BIGINT) AS h, "
        "1.25::DECIMAL(9,2) AS m, INTERVAL 1 DAY AS o",
        &r, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(duck_columns(r), 13);
    assert_string_equal(duck_column_name(r, 4), "s");
    assert_string_equal(duck_column_type_name(r, 6), "TIMESTAMP WITH TIME ZONE");
    assert_string_equal(duck_column_type_name(r, 8), "DOUBLE[]");
    static const enum duck_type types[] = {
        DUCK_BOOL, DUCK_I32,         DUCK_I64, DUCK_DOUBLE, DUCK_STR,    DUCK_BLOB, DUCK_TIMESTAMP,
        DUCK_DATE, DUCK_LIST_DOUBLE, DUCK_STR, DUCK_I64,    DUCK_DOUBLE, DUCK_OTHER};
    for (unsigned i = 0; i < 13; i++)
        assert_int_equal(duck_column_type(r, i), types[i]);
    assert_int_equal(duck_next(r, &e), 1);
    assert_true(duck_bool(r, 0));
    assert_int_equal(duck_i64(r, 1), 7);
    assert_int_equal(duck_i64(r, 2), -9);
    assert_true(duck_double(r, 3) == 1.5);
    assert_true(str_is(duck_str(r, 4), "sön"));
    assert_true(str_eq(duck_str(r, 5), str_make("\0\xFF", 2)));
    assert_int_equal(duck_i64(r, 6), -500000);
    assert_int_equal(duck_i64(r, 7), 2);
    assert_int_equal(duck_list_size(r, 8), 3);
    double d = 0;
    assert_true(duck_list_double(r, 8, 2, &d) && d == 3.0);
    assert_false(duck_list_double(r, 8, 1, &d));
    assert_true(duck_is_null(r, 9));
    assert_false(duck_is_null(r, 4));
    assert_int_equal(duck_i64(r, 10), 4);
    assert_true(duck_double(r, 11) == 1.25);
    assert_int_equal(duck_next(r, &e), 0);
    assert_int_equal(duck_next(r, &e), 0);
    duck_rows_free(&r);
}

static void test_many_chunks_are_streamed(void **state)
{
    (void)state;
    struct duck_rows *r;
    struct err e = {0};
    assert_int_equal(duck_query_sql(con, "SELECT range AS n FROM range(100000) ORDER BY n", &r, &e),
                     0);
    int64_t n = 0;
    int rc;
    while ((rc = duck_next(r, &e)) == 1)
        assert_int_equal(duck_i64(r, 0), n++);
    assert_int_equal(rc, 0);
    assert_int_equal(n, 100000);
    duck_rows_free(&r);
    /* One that is left half-read frees the connection for the next. */
    assert_int_equal(duck_query_sql(con, "SELECT range FROM range(100000)", &r, &e), 0);
    assert_int_equal(duck_next(r, &e), 1);
    duck_rows_free(&r);
    assert_int_equal(duck_exec(con, "CREATE TEMP TABLE x(a INT); DROP TABLE x", &e), 0);
}

static void test_parameters(void **state)
{
    (void)state;
    struct duck_stmt *s;
    struct duck_rows *r;
    struct err e = {0};
    assert_int_equal(
        duck_prepare(con,
                     "SELECT $a::BIGINT + 1, $b::VARCHAR, $c::BOOLEAN, len($d::VARCHAR[]), "
                     "($d::VARCHAR[])[2], $n::INTEGER",
                     &s, &e),
        0);
    assert_int_equal(duck_params(s), 5);
    assert_int_equal(duck_param_index(s, "nothing"), 0);
    assert_int_equal(duck_bind_i64(s, duck_param_index(s, "a"), 41), 0);
    assert_int_equal(duck_bind_str(s, duck_param_index(s, "b"), STR("it's")), 0);
    assert_int_equal(duck_bind_bool(s, duck_param_index(s, "c"), true), 0);
    struct str list[] = {STR("x"), STR("y'z")};
    assert_int_equal(duck_bind_strs(s, duck_param_index(s, "d"), list, 2), 0);
    assert_int_equal(duck_bind_null(s, duck_param_index(s, "n")), 0);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(duck_query(s, &r, &e), 0);
        assert_int_equal(duck_next(r, &e), 1);
        assert_int_equal(duck_i64(r, 0), 42);
        assert_true(str_is(duck_str(r, 1), "it's"));
        assert_true(duck_bool(r, 2));
        assert_int_equal(duck_i64(r, 3), 2);
        assert_true(str_is(duck_str(r, 4), "y'z"));
        assert_true(duck_is_null(r, 5));
        duck_rows_free(&r);
    }
    duck_finish(&s);
}

static int code_of(const char *sql)
{
    struct duck_rows *r;
    struct err e = {0};
    int rc = duck_query_sql(con, sql, &r, &e);
    if (!rc) {
        while ((rc = duck_next(r, &e)) == 1)
            ;
        duck_rows_free(&r);
    }
    if (rc) {
        assert_int_equal(e.code, rc);
        assert_true(e.text[0]);
    }
    return rc;
}

static void test_errors_have_their_codes(void **state)
{
    (void)state;
    assert_int_equal(code_of("SELECT 1"), 0);
    assert_int_equal(code_of("SELEKT 1"), ERR_BAD_DATA);
    assert_int_equal(code_of("SELECT nothing_such"), ERR_BAD_DATA);
    assert_int_equal(code_of("SELECT 'x'::INTEGER"), ERR_BAD_DATA);
    assert_int_equal(code_of("SELECT * FROM read_parquet('/nowhere/at/all.parquet')"),
                     ERR_NOT_FOUND);
    char *dir = tmpdir_new();
    char *path = mem_printf("%s/broken.parquet", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("this is not a Parquet file, whatever its name says", f);
    fclose(f);
    char *sql = mem_printf("SELECT * FROM read_parquet('%s')", path);
    assert_int_equal(code_of(sql), ERR_CORRUPT);
    /* One whose middle is missing: its footer points past its end. */
    char *whole = mem_printf("%s/whole.parquet", dir);
    char *make = mem_printf("COPY (SELECT i, hash(i) FROM range(5000) t(i)) TO '%s'", whole);
    assert_int_equal(code_of(make), 0);
    mem_free(make);
    static char bytes[1 << 20];
    f = fopen(whole, "r");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n > 20000 && n < sizeof bytes);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, 100, f) + fwrite(bytes + n - 1500, 1, 1500, f), 1600);
    fclose(f);
    assert_int_equal(code_of(sql), ERR_CORRUPT);
    mem_free(whole);
    mem_free(sql);
    mem_free(path);
    tmpdir_remove(&dir);
}

static void test_nothing_is_loaded_from_outside(void **state)
{
    (void)state;
    struct err e = {0};
    struct duck_rows *r;
    assert_int_equal(duck_query_sql(con,
                                    "SELECT current_setting('TimeZone'), "
                                    "current_setting('autoinstall_known_extensions')::VARCHAR, "
                                    "current_setting('autoload_known_extensions')::VARCHAR",
                                    &r, &e),
                     0);
    assert_int_equal(duck_next(r, &e), 1);
    assert_true(str_is(duck_str(r, 0), "UTC"));
    assert_true(str_is(duck_str(r, 1), "false"));
    assert_true(str_is(duck_str(r, 2), "false"));
    duck_rows_free(&r);
    static const struct duck_setting wrong[] = {{"no_such_setting", "1"}, {NULL, NULL}};
    struct duck *other = NULL;
    assert_int_equal(duck_open(wrong, &other, &e), ERR_CONFIG);
    assert_null(other);
    assert_non_null(strstr(e.text, "no_such_setting"));
}

static void test_memory_and_spill_limits(void **state)
{
    (void)state;
    static const struct duck_setting tight[] = {
        {"memory_limit", "32MiB"}, {"threads", "1"}, {"temp_directory", ""}, {NULL, NULL}};
    struct duck *small = NULL;
    struct duck_conn *c = NULL;
    struct err e = {0};
    assert_int_equal(duck_open(tight, &small, &e), 0);
    assert_int_equal(duck_connect(small, &c, &e), 0);
    const char *sql = "CREATE TEMP TABLE big AS SELECT range AS a, hash(range)::VARCHAR || "
                      "hash(range + 1)::VARCHAR AS b FROM range(3000000)";
    assert_int_equal(duck_exec(c, sql, &e), ERR_LIMIT);
    duck_disconnect(&c);
    duck_close(&small);

    char *dir = tmpdir_new();
    struct duck_setting spill[] = {{"memory_limit", "32MiB"},
                                   {"threads", "1"},
                                   {"temp_directory", dir},
                                   {"max_temp_directory_size", "1MiB"},
                                   {NULL, NULL}};
    assert_int_equal(duck_open(spill, &small, &e), 0);
    assert_int_equal(duck_connect(small, &c, &e), 0);
    assert_int_equal(duck_exec(c, sql, &e), ERR_NOSPACE);
    duck_disconnect(&c);
    duck_close(&small);
    tmpdir_remove(&dir);
    size_t before = duck_memory_bytes(db);
    assert_int_equal(
        duck_exec(con, "CREATE TEMP TABLE held AS SELECT hash(range) AS h FROM range(1000000)", &e),
        0);
    assert_true(duck_memory_bytes(db) > before + 1000000);
    assert_int_equal(duck_exec(con, "DROP TABLE held", &e), 0);
}

static atomic_bool over;

static void *interrupt_mt(void *ctx)
{
    while (!atomic_load(&over)) {
        duck_interrupt_mt(ctx);
        (void)poll(NULL, 0, 1);
    }
    return NULL;
}

static long own_pages(void)
{
    long all = 0, resident = 0, of_files = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld %ld", &all, &resident, &of_files), 3);
    fclose(f);
    return resident - of_files;
}

static void test_freed_memory_is_given_back(void **state)
{
    (void)state;
    struct err e = {0};
    struct duck_rows *r;
    duck_trim(db, 0); /* what the tests before left */
    long before = own_pages();
    assert_int_equal(
        duck_exec(
            con,
            "SELECT count(*) FROM (SELECT r::VARCHAR || 'x' FROM range(600000) t(r) GROUP BY 1)",
            &e),
        0);
    long held = own_pages();
    assert_true(held - before > (16 << 20) / 4096);
    duck_trim(db, (size_t)1 << 40); /* not that much */
    assert_true(own_pages() - before > (held - before) / 2);
    duck_trim(db, 8 << 20);
    long after = own_pages();
    assert_true(after - before < (held - before) / 3);
    assert_int_equal(duck_query_sql(con, "SELECT current_setting('memory_limit')", &r, &e), 0);
    assert_int_equal(duck_next(r, &e), 1);
    assert_true(str_is(duck_str(r, 0), "200.0 MiB")); /* and the limit is what it was */
    duck_rows_free(&r);
}

static void test_interrupt(void **state)
{
    (void)state;
    pthread_t t;
    atomic_store(&over, false);
    assert_int_equal(pthread_create(&t, NULL, interrupt_mt, con), 0);
    assert_int_equal(code_of("SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE "
                             "a.range + b.range = -1"),
                     ERR_CANCELLED);
    atomic_store(&over, true);
    pthread_join(t, NULL);
    assert_int_equal(code_of("SELECT 1"), 0);
}

static void test_database_outlives_its_close(void **state)
{
    (void)state;
    struct duck *d = NULL;
    struct duck_conn *c = NULL;
    struct err e = {0};
    assert_int_equal(duck_open(NULL, &d, &e), 0);
    assert_int_equal(duck_connect(d, &c, &e), 0);
    duck_close(&d);
    assert_null(d);
    assert_int_equal(duck_exec(c, "SELECT 1", &e), 0);
    duck_disconnect(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_every_type),
        cmocka_unit_test(test_many_chunks_are_streamed),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_errors_have_their_codes),
        cmocka_unit_test(test_nothing_is_loaded_from_outside),
        cmocka_unit_test(test_memory_and_spill_limits),
        cmocka_unit_test(test_freed_memory_is_given_back),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_database_outlives_its_close),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
