/* Unit tests of query-api/question: names, parameters, the Accept field.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

static struct ask_fault fault;

static int parse(struct ask *ask, const char *name, const char *query)
{
    const struct question *q = question_by_name(str_of(name));
    assert_non_null(q);
    return ask_parse(ask, q, str_of(query), &fault);
}

static void refused(const char *name, const char *query, const char *param)
{
    struct ask ask;
    assert_int_equal(parse(&ask, name, query), ERR_BAD_DATA);
    if (param)
        assert_string_equal(fault.param, param);
    else
        assert_null(fault.param);
}

static void test_questions_are_whole(void **state)
{
    (void)state;
    for (unsigned i = 0; i < QUESTIONS; i++) {
        const struct question *q = &questions[i];
        assert_ptr_equal(question_by_name(str_of(q->name)), q);
        size_t n = (size_t)(q->sql_end - q->sql);
        assert_true(n > 100);
        assert_int_equal(strlen(q->sql), n);
        assert_non_null(strstr(q->sql, "SPDX-License-Identifier"));
        assert_non_null(q->columns[0].name);
        assert_int_equal(q->left_out, strstr(q->sql, "_left_out") != NULL);
        assert_int_equal(question_takes(q, PARAM_FROM), strstr(q->sql, "$from") != NULL);
        assert_int_equal(question_takes(q, PARAM_TO), strstr(q->sql, "$to ") != NULL);
        assert_int_equal(question_takes(q, PARAM_MEDIAN), strstr(q->sql, "$median") != NULL);
        assert_int_equal(question_takes(q, PARAM_TOP), strstr(q->sql, "$top") != NULL);
        assert_int_equal(question_takes(q, PARAM_DISTINCT), strstr(q->sql, "$distinct") != NULL);
        assert_int_equal(q->tables >> TABLE_PIN & 1, strstr(q->sql, " pin p") != NULL);
        assert_int_equal(q->tables >> TABLE_GEO & 1, strstr(q->sql, " geo g") != NULL);
        assert_int_equal(q->tables >> TABLE_USER & 1, strstr(q->sql, " \"user\" u") != NULL);
    }
    assert_null(question_by_name(STR("top-user")));
    assert_null(question_by_name(STR("")));
}

static void test_metrics_have_the_values_of_the_tables(void **state)
{
    (void)state;
    for (unsigned i = 0; i < QUESTIONS; i++)
        assert_string_equal(query_metrics[M_QUERY_SECONDS].label_values[0][i], questions[i].name);
    for (unsigned i = 0; i < ROUTES; i++)
        assert_string_equal(query_metrics[M_SECONDS].label_values[0][i], routes[i].name);
    for (unsigned i = 0; i < TABLES; i++)
        assert_string_equal(query_metrics[M_VERSION].label_values[0][i], table_names[i]);
    for (unsigned i = 0; i < PROBLEMS; i++)
        assert_string_equal(query_metrics[M_REJECTED].label_values[0][i], problem_defs[i].type);
    assert_null(query_metrics[M_QUERY_SECONDS].label_values[0][QUESTIONS]);
    assert_null(query_metrics[M_REJECTED].label_values[0][PROBLEMS]);
}

static void test_defaults_and_values(void **state)
{
    (void)state;
    struct ask a;
    assert_int_equal(parse(&a, "category-posts-by-year", ""), 0);
    assert_int_equal(a.from, 2018);
    assert_int_equal(a.to, 2022);
    assert_int_equal(a.limit, -1);
    assert_false(a.dedup_off || a.top || a.batch || a.format_given);
    assert_int_equal(a.versions[TABLE_PIN], -1);
    assert_int_equal(parse(&a, "category-posts-by-year",
                           "from=1&to=9999&top=1&dedup=off&limit=0&&tables=batch&format=csv"),
                     0);
    assert_true(a.from == 1 && a.to == 9999 && a.top && a.dedup_off && a.limit == 0 && a.batch);
    assert_true(a.format_given && a.format == FORMAT_CSV);
    assert_int_equal(parse(&a, "users-joined-by-year", "distinct=person&from=2020&to=2020"), 0);
    assert_true(a.person && a.from == 2020 && a.to == 2020);
    assert_int_equal(parse(&a, "median-followers-by-age", "median=lower"), 0);
    assert_true(a.lower);
    assert_int_equal(parse(&a, "top-user-country", "version=geo%3A410%2Cpin:412"), 0);
    assert_true(a.versions[TABLE_PIN] == 412 && a.versions[TABLE_GEO] == 410 &&
                a.versions[TABLE_USER] == -1);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *q = "category-posts-by-year";
    refused(q, "median=lower", NULL);
    assert_string_equal(fault.name, "median");
    refused(q, "x", NULL);
    refused(q, "=1", NULL);
    refused(q, "From=2018", NULL);
    refused(q, "a%", NULL);
    refused(q, "from=", "from");
    refused(q, "from", "from");
    refused(q, "from=0", "from");
    refused(q, "from=-1", "from");
    refused(q, "from=2018.0", "from");
    refused(q, "to=10000", "to");
    refused(q, "to=18446744073709551616", "to");
    refused(q, "from=2023", "from");
    refused(q, "from=2018&from=2018", "from");
    refused(q, "top=0", "top");
    refused(q, "dedup=ON", "dedup");
    refused(q, "limit=2147483648", "limit");
    const char *const versions[] = {"",       "pin",    "pin:",
                                    "pin:-1", "pin:1,", "pin:1,pin:2",
                                    "dead:1", ":1",     "pin:9223372036854775808",
                                    "pin:1:2"};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        char query[64] = "version=";
        strncat(query, versions[i], 40);
        refused(q, query, "version");
    }
    char longest[800];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    refused(q, longest, NULL);
    assert_true(strlen(fault.name) < sizeof fault.name);
    memcpy(longest, "top=", 4);
    longest[400] = 0;
    refused(q, longest, "top");
    assert_non_null(strstr(fault.detail, "allowed: all, 1"));
}

static void canonical(const char *name, const char *query, const char *want)
{
    struct ask a;
    struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(parse(&a, name, query), 0);
    ask_canonical(&a, &b);
    assert_string_equal(b.data, want);
    buf_deinit(&b);
}

static void test_canonical(void **state)
{
    (void)state;
    canonical("top-user-country", "", "top-user-country&dedup=on&tables=stream&format=json");
    canonical("top-user-country", "format=json&dedup=on",
              "top-user-country&dedup=on&tables=stream&format=json");
    canonical("category-posts-by-year", "top=1&limit=3&to=2019",
              "category-posts-by-year&from=2018&to=2019&top=1&dedup=on&tables=stream&format=json&"
              "limit=3");
    canonical("users-joined-by-year", "distinct=person",
              "users-joined-by-year&from=2015&to=2020&distinct=person&dedup=on&tables=stream&"
              "format=json");
    canonical("median-followers-by-age", "median=lower",
              "median-followers-by-age&median=lower&dedup=on&tables=stream&format=json");
}

static void test_accept(void **state)
{
    (void)state;
    static const struct {
        const char *accept;
        int want;
    } cases[] = {{NULL, FORMAT_JSON},
                 {"", FORMAT_JSON},
                 {"*/*", FORMAT_JSON},
                 {"text/csv", FORMAT_CSV},
                 {"text/*", FORMAT_CSV},
                 {"application/*", FORMAT_JSON},
                 {"application/x-ndjson", FORMAT_NDJSON},
                 {"application/ndjson;q=0.3", FORMAT_NDJSON},
                 {"application/json;q=0.5,text/csv", FORMAT_CSV},
                 {"application/json; q=0.5 , text/csv;q=0.4", FORMAT_JSON},
                 {"application/json;q=0, */*;q=0.1", FORMAT_NDJSON},
                 {"*/*;q=0.1, text/csv;q=0.2", FORMAT_CSV},
                 {"application/json;q=0.1, application/*;q=0.9", FORMAT_NDJSON},
                 {"TEXT/CSV;Q=1", FORMAT_CSV},
                 {"text/csv;header=present;q=0.9", FORMAT_CSV},
                 {"application/json;q=0", -1},
                 {"text/html", -1},
                 {"image/*, text/plain", -1},
                 {",,;", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(format_accepted(str_of(cases[i].accept), 7), cases[i].want);
    assert_int_equal(format_accepted(STR("text/csv"), 1), -1);
    assert_int_equal(format_accepted(STR("text/csv, */*;q=0.1"), 1), FORMAT_JSON);
}

static void test_openapi_is_balanced(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    openapi_write(&b);
    assert_false(b.overflow);
    int depth = 0;
    for (size_t i = 0; i < b.len; i++)
        depth += (b.data[i] == '{') - (b.data[i] == '}');
    assert_int_equal(depth, 0);
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_questions_are_whole),
        cmocka_unit_test(test_metrics_have_the_values_of_the_tables),
        cmocka_unit_test(test_defaults_and_values),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_accept),
        cmocka_unit_test(test_openapi_is_balanced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
