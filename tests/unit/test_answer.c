/* Unit tests of query-api/answer: rows of a real DuckDB in the three formats.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

static struct duck *duck;
static struct duck_conn *conn;

static int open_duck(void **state)
{
    (void)state;
    static const struct duck_setting settings[] = {{"threads", "1"}, {NULL, NULL}};
    struct err e;
    return duck_open(settings, &duck, &e) || duck_connect(duck, &conn, &e);
}

static int close_duck(void **state)
{
    (void)state;
    duck_disconnect(&conn);
    duck_close(&duck);
    return 0;
}

static void answers(enum format format, const char *sql, unsigned hidden, const char *want)
{
    struct err e = {0};
    struct duck_rows *rows = NULL;
    struct buf out;
    struct answer a;
    buf_init(&out, 1 << 16);
    assert_int_equal(duck_query_sql(conn, sql, &rows, &e), 0);
    answer_begin(&a, format, &out, rows, duck_columns(rows) - hidden);
    int rc;
    while ((rc = duck_next(rows, &e)) == 1)
        answer_row(&a);
    assert_int_equal(rc, 0);
    answer_end(&a, STR("\"elapsed_ms\":1"));
    buf_char(&out, 0);
    assert_string_equal(out.data, want);
    duck_rows_free(&rows);
    buf_deinit(&out);
}

#define MIXED                                                                                      \
    "SELECT * FROM (VALUES (1::BIGINT, 'a,\"b\"', 1.5::DOUBLE, true, [1.5, NULL]::DOUBLE[]), "     \
    "(NULL, NULL, NULL, NULL, NULL)) "                                                             \
    "t(n, s, d, b, l)"

static void test_json(void **state)
{
    (void)state;
    answers(FORMAT_JSON, MIXED, 0,
            "{\"meta\":[{\"name\":\"n\",\"type\":\"BIGINT\"},{\"name\":\"s\",\"type\":\"VARCHAR\"},"
            "{\"name\":\"d\",\"type\":\"DOUBLE\"},"
            "{\"name\":\"b\",\"type\":\"BOOLEAN\"},{\"name\":\"l\",\"type\":\"DOUBLE[]\"}],"
            "\n\"data\":[\n"
            "{\"n\":1,\"s\":\"a,\\\"b\\\"\",\"d\":1.5,\"b\":true,\"l\":[1.5,null]},\n"
            "{\"n\":null,\"s\":null,\"d\":null,\"b\":null,\"l\":null}\n],\n\"rows\":2,"
            "\n\"statistics\":{\"elapsed_ms\":1}}\n");
    answers(FORMAT_JSON, "SELECT 1::INTEGER AS i WHERE false", 0,
            "{\"meta\":[{\"name\":\"i\",\"type\":\"INTEGER\"}],\n\"data\":[],\n\"rows\":0,"
            "\n\"statistics\":{\"elapsed_ms\":1}}\n");
    answers(FORMAT_JSON, "SELECT 9223372036854775807 AS i, 1 AS hidden", 1,
            "{\"meta\":[{\"name\":\"i\",\"type\":\"BIGINT\"}],\n\"data\":[\n{\"i\":"
            "9223372036854775807}\n],\n\"rows\":1,\n"
            "\"statistics\":{\"elapsed_ms\":1}}\n");
}

static void test_ndjson(void **state)
{
    (void)state;
    answers(
        FORMAT_NDJSON, MIXED, 0,
        "{\"n\":1,\"s\":\"a,\\\"b\\\"\",\"d\":1.5,\"b\":true,\"l\":[1.5,null]}\n"
        "{\"n\":null,\"s\":null,\"d\":null,\"b\":null,\"l\":null}\n{\"end\":true,\"rows\":2}\n");
    answers(FORMAT_NDJSON, "SELECT 1 AS i WHERE false", 0, "{\"end\":true,\"rows\":0}\n");
}

static void test_csv(void **state)
{
    (void)state;
    answers(FORMAT_CSV, MIXED, 0,
            "n,s,d,b,l\r\n1,\"a,\"\"b\"\"\",1.5,true,\"[1.5,null]\"\r\n,,,,\r\n");
    answers(FORMAT_CSV, "SELECT '' AS \"a b\", E'x\\r\\ny' AS \"c,d\", NULL::VARCHAR AS e", 0,
            "a b,\"c,d\",e\r\n\"\",\"x\r\ny\",\r\n");
    answers(FORMAT_CSV, "SELECT 1 AS i WHERE false", 0, "i\r\n");
}

static void test_instants(void **state)
{
    (void)state;
    static const struct {
        int64_t us;
        const char *want;
    } cases[] = {{0, "1970-01-01 00:00:00"},
                 {-1, "1969-12-31 23:59:59"},
                 {-1000000, "1969-12-31 23:59:59"},
                 {1508457600000000, "2017-10-20 00:00:00"},
                 {1583020799999999, "2020-02-29 23:59:59"},
                 {-62135596800000000, "0001-01-01 00:00:00"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b;
        buf_init(&b, 100);
        answer_timestamp(&b, cases[i].us, false);
        assert_string_equal(b.data, cases[i].want);
        buf_deinit(&b);
    }
    answers(FORMAT_NDJSON,
            "SELECT TIMESTAMPTZ '2020-02-29 01:02:03.9+00' AS t, DATE '2020-03-01' AS d", 0,
            "{\"t\":\"2020-02-29 01:02:03\",\"d\":\"2020-03-01 "
            "00:00:00\"}\n{\"end\":true,\"rows\":1}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_json), cmocka_unit_test(test_ndjson),
                                       cmocka_unit_test(test_csv), cmocka_unit_test(test_instants)};
    return cmocka_run_group_tests(tests, open_duck, close_duck);
}
