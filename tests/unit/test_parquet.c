/* test_parquet: what is written reads back the same, and the statistics hold for random rows.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/parquet_priv.h"
#include "support/tmpdir.h"
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

static const struct column_def columns[] = {
    {"l", COLUMN_LONG},  {"i", COLUMN_INT},    {"s", COLUMN_STR},        {"t", COLUMN_TIMESTAMP},
    {"p", COLUMN_POINT}, {"x", COLUMN_BINARY}, {"all null", COLUMN_STR},
};
enum { COLUMNS = 7 };

static char *dir;
static struct duck *db;
static struct duck_conn *con;

static int set_up(void **state)
{
    (void)state;
    dir = tmpdir_new();
    static const struct duck_setting settings[] = {
        {"memory_limit", "256MiB"}, {"threads", "1"}, {NULL, NULL}};
    struct err e = {0};
    int rc = duck_open(settings, &db, &e);
    return rc ? rc : duck_connect(db, &con, &e);
}

static int tear_down(void **state)
{
    (void)state;
    duck_disconnect(&con);
    duck_close(&db);
    tmpdir_remove(&dir);
    return 0;
}

struct rows {
    struct value *v; /* n * COLUMNS */
    size_t n, at;
    int fail_at; /* -1: never */
};

static int next_row(void *ctx, struct value *values)
{
    struct rows *r = ctx;
    if ((int)r->at == r->fail_at)
        return ERR_CLOSED;
    if (r->at == r->n)
        return 0;
    memcpy(values, &r->v[r->at * COLUMNS], COLUMNS * sizeof *values);
    r->at++;
    return 1;
}

static struct parquet_source source_of(struct rows *r)
{
    return (struct parquet_source){
        .columns = columns, .columns_n = COLUMNS, .next = next_row, .ctx = r};
}

static void rows_free(struct rows *r)
{
    for (size_t i = 0; i < r->n * COLUMNS; i++)
        mem_free((char *)r->v[i].s.p);
    mem_free(r->v);
}

/* Strings around the cut of 32 characters: one to four bytes each, quotes, NUL, and the last character of all. */
static struct str random_text(struct rnd *r)
{
    static const char *const parts[] = {"a",
                                        "Z",
                                        "\"",
                                        "\\",
                                        "\xC3\xB6",
                                        "\xE2\x82\xAC",
                                        "\xF0\x9F\x98\x80",
                                        "\xF4\x8F\xBF\xBF",
                                        "\n",
                                        "\x7F",
                                        "\xED\x9F\xBF",
                                        "\xEE\x80\x80"};
    size_t n = rnd_below(r, 4) ? rnd_below(r, 6) : 28 + rnd_below(r, 12);
    bool plain = rnd_below(r, 2);
    struct buf b;
    buf_init(&b, 4096);
    for (size_t i = 0; i < n; i++) {
        if (i < 30 && n > 20 && plain)
            buf_char(&b, 'k'); /* many share a prefix */
        else if (rnd_below(r, 40) == 0)
            buf_append(&b, "\0", 1);
        else
            buf_z(&b, parts[rnd_below(r, plain ? 7 : 12)]);
    }
    size_t len = 0;
    char *p = buf_steal(&b, &len);
    return str_make(p ? p : mem_strdup(""), len);
}

static struct rows random_rows(struct rnd *r, size_t n)
{
    struct rows rows = {.v = MEM_ARRAY(struct value, n * COLUMNS + 1), .n = n, .fail_at = -1};
    unsigned nulls = (unsigned)rnd_below(r, 4); /* none, few, many, all but few */
    int64_t spread = rnd_below(r, 2) ? 1000 : INT64_MAX / 4;
    for (size_t i = 0; i < n; i++) {
        struct value *v = &rows.v[i * COLUMNS];
        for (unsigned c = 0; c < COLUMNS; c++)
            v[c].null = c == 6 || (nulls && rnd_below(r, 4) < nulls);
        v[0].i = (int64_t)rnd_below(r, (uint64_t)spread * 2) - spread;
        v[1].i = (int32_t)rnd_u64(r);
        v[2].s = random_text(r);
        v[3].i = (int64_t)rnd_below(r, 8000000000000) - 4000000000000; /* 1843 … 2096 */
        v[4].d[0] = rnd_double(r) * 180 - 90, v[4].d[1] = rnd_double(r) * 360 - 180;
        v[5].s = random_text(r);
    }
    return rows;
}

static void assert_same_rows(const char *path, const struct rows *want)
{
    char *sql = mem_printf("SELECT * FROM read_parquet('%s')", path);
    struct duck_rows *got;
    struct err e = {0};
    assert_int_equal(duck_query_sql(con, sql, &got, &e), 0);
    mem_free(sql);
    assert_int_equal(duck_columns(got), COLUMNS);
    static const char *const types[] = {
        "BIGINT", "INTEGER", "VARCHAR", "TIMESTAMP WITH TIME ZONE", "DOUBLE[]", "BLOB", "VARCHAR"};
    for (unsigned c = 0; c < COLUMNS; c++) {
        assert_string_equal(duck_column_name(got, c), columns[c].name);
        assert_string_equal(duck_column_type_name(got, c), types[c]);
    }
    for (size_t i = 0; i < want->n; i++) {
        assert_int_equal(duck_next(got, &e), 1);
        const struct value *v = &want->v[i * COLUMNS];
        for (unsigned c = 0; c < COLUMNS; c++) {
            assert_int_equal(duck_is_null(got, c), v[c].null);
            if (v[c].null)
                continue;
            double d[2] = {0, 0};
            switch (columns[c].type) {
            case COLUMN_LONG:
            case COLUMN_INT:
                assert_true(duck_i64(got, c) == v[c].i);
                break;
            case COLUMN_TIMESTAMP:
                assert_true(duck_i64(got, c) == v[c].i * 1000);
                break;
            case COLUMN_STR:
            case COLUMN_BINARY:
                assert_true(str_eq(duck_str(got, c), v[c].s));
                break;
            case COLUMN_POINT:
                assert_int_equal(duck_list_size(got, c), 2);
                assert_true(duck_list_double(got, c, 0, &d[0]) &&
                            duck_list_double(got, c, 1, &d[1]));
                assert_true(d[0] == v[c].d[0] && d[1] == v[c].d[1]);
                break;
            }
        }
    }
    assert_int_equal(duck_next(got, &e), 0);
    duck_rows_free(&got);
}

static size_t characters(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

static struct str string_at(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_string(v) ? str_make(json_string_value(v), json_string_length(v))
                             : str_make(NULL, 0);
}

/* ISO 8601 to milliseconds, by another way than the code's. */
static int64_t from_iso(struct str s)
{
    int y, mo, d, h, mi, sec, ms;
    assert_int_equal(s.n, 24);
    assert_int_equal(sscanf(s.p, "%d-%d-%dT%d:%d:%d.%dZ", &y, &mo, &d, &h, &mi, &sec, &ms), 7);
    return clock_days(y, (unsigned)mo, (unsigned)d) * 86400000 + h * 3600000LL + mi * 60000LL +
           sec * 1000LL + ms;
}

static void assert_stats(const char *text, const struct rows *r)
{
    json_t *o = json_loads(text, JSON_ALLOW_NUL, NULL);
    assert_non_null(o);
    const json_t *lo = json_object_get(o, "minValues"), *hi = json_object_get(o, "maxValues"),
                 *nulls = json_object_get(o, "nullCount");
    assert_int_equal(json_integer_value(json_object_get(o, "numRecords")), r->n);
    assert_null(json_object_get(nulls, "p"));
    assert_null(json_object_get(lo, "p"));
    assert_null(json_object_get(lo, "x"));
    for (unsigned c = 0; c < COLUMNS; c++) {
        if (columns[c].type == COLUMN_POINT)
            continue;
        const char *name = columns[c].name;
        int64_t n = 0, least = INT64_MAX, most = INT64_MIN;
        bool last_character = false, cut = false, constant = true;
        struct str s_lo = string_at(lo, name), s_hi = string_at(hi, name), top = {0};
        for (size_t i = 0; i < r->n; i++) {
            const struct value *v = &r->v[i * COLUMNS + c];
            n += v->null;
            if (v->null)
                continue;
            least = v->i < least ? v->i : least;
            most = v->i > most ? v->i : most;
            if (columns[c].type != COLUMN_STR)
                continue;
            assert_non_null(s_lo.p);
            assert_true(str_cmp(s_lo, v->s) <= 0);
            assert_true(!s_hi.p || str_cmp(v->s, s_hi) <= 0);
            constant = constant && (!top.p || str_eq(v->s, top));
            if (!top.p || str_cmp(v->s, top) > 0)
                top = v->s;
        }
        assert_int_equal(json_integer_value(json_object_get(nulls, name)), n);
        if (n == (int64_t)r->n || columns[c].type == COLUMN_BINARY) {
            assert_null(json_object_get(lo, name));
            assert_null(json_object_get(hi, name));
            continue;
        }
        switch (columns[c].type) {
        case COLUMN_LONG:
        case COLUMN_INT:
            assert_true(json_integer_value(json_object_get(lo, name)) == least);
            assert_true(json_integer_value(json_object_get(hi, name)) == most);
            break;
        case COLUMN_TIMESTAMP:
            assert_true(from_iso(s_lo) == least && from_iso(s_hi) == most);
            break;
        default:
            last_character = memmem(top.p, top.n, "\xF4\x8F\xBF\xBF", 4) != NULL;
            cut = characters(top) > 32;
            assert_true(characters(s_lo) <= 32);
            assert_true(constant || !s_hi.p ||
                        !str_eq(s_lo, s_hi)); /* Spark takes it at its word */
            assert_int_equal(s_hi.p == NULL, last_character);
            if (s_hi.p)
                assert_int_equal(characters(s_hi), cut ? 33 : characters(top));
            break;
        }
    }
    json_decref(o);
}

static void test_random_rows(void **state)
{
    (void)state;
    struct rnd r;
    rnd_seed(&r, 20261128);
    for (unsigned round = 0; round < 60; round++) {
        struct rows rows = random_rows(&r, round % 20 == 19 ? 5000 : rnd_below(&r, 60));
        char *path = mem_printf("%s/r%u.parquet", dir, round);
        struct parquet_source src = source_of(&rows);
        src.texts_checked = round % 2; /* they are valid in any case */
        struct parquet_file f = {0};
        struct err e = {0};
        int rc = parquet_write(con, path, &src, &f, &e);
        if (rc)
            print_error("%s\n", e.text);
        assert_int_equal(rc, 0);
        assert_int_equal(f.rows, rows.n);
        assert_true(f.bytes > 0);
        assert_stats(f.stats, &rows);
        assert_same_rows(path, &rows);
        mem_free(f.stats);
        mem_free(path);
        rows_free(&rows);
    }
}

static void test_exact_stats(void **state)
{
    (void)state;
    struct value v[2 * COLUMNS] = {{.i = 5},      {.i = -2},       {.s = STR("b\"")}, {.i = -1},
                                   {.d = {1, 2}}, {.s = STR("x")}, {.null = true}};
    memcpy(&v[COLUMNS], v, COLUMNS * sizeof *v);
    v[COLUMNS].i = 7, v[COLUMNS + 1].null = true, v[COLUMNS + 3].i = 1767323045123;
    struct parquet_stats s;
    parquet_stats_init(&s, columns, COLUMNS);
    parquet_stats_row(&s, v);
    parquet_stats_row(&s, v + COLUMNS);
    char *text = parquet_stats_json(&s);
    assert_string_equal(
        text, "{\"numRecords\":2,\"minValues\":{\"l\":5,\"i\":-2,\"s\":\"b\\\"\",\"t\":\"1969-12-"
              "31T23:59:59.999Z\"},"
              "\"maxValues\":{\"l\":7,\"i\":-2,\"s\":\"b\\\"\",\"t\":\"2026-01-02T03:04:05.123Z\"},"
              "\"nullCount\":{\"l\":0,\"i\":1,\"s\":0,\"t\":0,\"x\":0,\"all null\":2}}");
    mem_free(text);
    parquet_stats_deinit(&s);
}

/* Statistics cover the first 32 columns; a text of just 32 characters is not cut. */
static void test_stats_of_many_columns(void **state)
{
    (void)state;
    enum { MANY = 40 };
    struct column_def many[MANY];
    struct value v[MANY];
    char names[MANY][16];
    static const char text[] = "0123456789abcdef0123456789abcdef";
    for (int i = 0; i < MANY; i++) {
        (void)snprintf(names[i], sizeof names[i], "c%d", i);
        many[i] = (struct column_def){names[i], COLUMN_STR};
        v[i] = (struct value){.s = str_of(text)};
    }
    struct parquet_stats s;
    parquet_stats_init(&s, many, MANY);
    parquet_stats_row(&s, v);
    char *json = parquet_stats_json(&s);
    json_t *o = json_loads(json, 0, NULL);
    static const char *const parts[] = {"minValues", "maxValues", "nullCount"};
    for (int k = 0; k < 3; k++) {
        const json_t *part = json_object_get(o, parts[k]);
        assert_int_equal(json_object_size(part), 32);
        assert_non_null(json_object_get(part, "c0"));
        assert_non_null(json_object_get(part, "c31"));
    }
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "maxValues"), "c5")),
                        text);
    json_decref(o);
    mem_free(json);
    parquet_stats_deinit(&s);
}

static void test_bad_values_and_sources(void **state)
{
    (void)state;
    struct rnd r;
    rnd_seed(&r, 1);
    struct rows rows = random_rows(&r, 10);
    for (size_t i = 0; i < 10 * COLUMNS; i++)
        rows.v[i].null = i % COLUMNS == 6;
    char *path = mem_printf("%s/bad.parquet", dir);
    struct parquet_source src = source_of(&rows);
    struct parquet_file f = {0};
    struct err e = {0};
    int64_t was = rows.v[3 * COLUMNS + 1].i;
    rows.v[3 * COLUMNS + 1].i = INT64_MAX;
    assert_int_equal(parquet_write(con, path, &src, &f, &e), ERR_BAD_DATA);
    assert_non_null(strstr(e.text, "column i"));
    rows.v[3 * COLUMNS + 1].i = was, rows.at = 0;
    rows.v[4 * COLUMNS + 3].i = INT64_MAX / 1000 + 1;
    assert_int_equal(parquet_write(con, path, &src, &f, &e), ERR_BAD_DATA);
    assert_non_null(strstr(e.text, "column t"));
    rows.v[4 * COLUMNS + 3].i = 0, rows.at = 0;
    struct str text = rows.v[5 * COLUMNS + 2].s;
    rows.v[5 * COLUMNS + 2].s = STR("\xC3(");
    assert_int_equal(parquet_write(con, path, &src, &f, &e), ERR_BAD_DATA);
    assert_non_null(strstr(e.text, "column s"));
    rows.v[5 * COLUMNS + 2].s = text, rows.at = 0;
    rows.fail_at = 8;
    assert_int_equal(parquet_write(con, path, &src, &f, &e), ERR_CLOSED);
    rows.fail_at = -1, rows.at = 0;
    struct parquet_gate gate = {.shut = true};
    pthread_mutex_init(&gate.lock, NULL);
    assert_int_equal(parquet_write_gated(con, path, &src, &gate, &f, &e), ERR_CANCELLED);
    assert_int_equal(rows.at, 0);
    pthread_mutex_destroy(&gate.lock);
    /* The connection is none the worse, and SQL cannot reach the source. */
    assert_int_equal(duck_exec(con, "SELECT * FROM sluice_rows(1)", &e), ERR_BAD_DATA);
    assert_int_equal(parquet_write(con, path, &src, &f, &e), 0);
    mem_free(f.stats);
    mem_free(path);
    rows_free(&rows);
}

static void test_empty_file_has_the_columns(void **state)
{
    (void)state;
    char *path = mem_printf("%s/it's empty.parquet", dir);
    struct err e = {0};
    assert_int_equal(parquet_write_empty(con, path, columns, COLUMNS, &e), 0);
    struct rows none = {.n = 0};
    char *quoted = mem_printf("%s/it''s empty.parquet", dir);
    assert_same_rows(quoted, &none);
    mem_free(quoted);
    mem_free(path);
}

static void test_schema_string(void **state)
{
    (void)state;
    char *s = parquet_delta_schema(columns, COLUMNS);
    json_t *o = json_loads(s, 0, NULL);
    assert_non_null(o);
    const json_t *fields = json_object_get(o, "fields");
    assert_int_equal(json_array_size(fields), COLUMNS);
    static const char *const types[] = {"long", "integer", "string", "timestamp",
                                        NULL,   "binary",  "string"};
    for (size_t i = 0; i < COLUMNS; i++) {
        const json_t *f = json_array_get(fields, i), *t = json_object_get(f, "type");
        assert_string_equal(json_string_value(json_object_get(f, "name")), columns[i].name);
        assert_true(json_is_true(json_object_get(f, "nullable")));
        if (types[i])
            assert_string_equal(json_string_value(t), types[i]);
        else
            assert_string_equal(json_string_value(json_object_get(t, "elementType")), "double");
    }
    json_decref(o);
    mem_free(s);
}

static void test_full_disk(void **state)
{
    (void)state;
    struct rnd r;
    rnd_seed(&r, 2);
    struct rows rows = random_rows(&r, 5000);
    struct parquet_source src = source_of(&rows);
    char *path = mem_printf("%s/full.parquet", dir);
    struct rlimit was, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    low = was;
    low.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    struct parquet_file f = {0};
    struct err e = {0};
    int rc = parquet_write(con, path, &src, &f, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    if (rc != ERR_NOSPACE)
        print_error("%s\n", e.text);
    assert_int_equal(rc, ERR_NOSPACE);
    (void)unlink(path);
    rows.at = 0;
    assert_int_equal(parquet_write(con, path, &src, &f, &e), 0);
    mem_free(f.stats);
    mem_free(path);
    rows_free(&rows);
}

struct bulk {
    size_t n, at, bytes; /* bytes of each text */
    char *noise;
};

static int next_bulk(void *ctx, struct value *v)
{
    struct bulk *b = ctx;
    if (b->at == b->n)
        return 0;
    v[0] = (struct value){.i = (int64_t)b->at};
    v[1] = (struct value){.s = str_make(b->noise + b->at % 1000, b->bytes)};
    b->at++;
    return 1;
}

/* What a flush of the sink may hold goes through the memory that the sink gives: many small rows, and few large ones. */
static void test_large_files_in_little_memory(void **state)
{
    (void)state;
    static const struct column_def two[] = {{"id", COLUMN_LONG}, {"s", COLUMN_STR}};
    static const size_t sizes[][2] = {{80000, 400}, {320, 100000}, {32, 1 << 20}};
    static const char *const threads[] = {"1", "4"};
    struct rnd r;
    rnd_seed(&r, 4);
    char *noise = mem_alloc((1 << 20) + 1000);
    for (size_t i = 0; i < (1 << 20) + 1000; i++)
        noise[i] = (char)('a' + rnd_below(&r, 26));
    char *path = mem_printf("%s/bulk.parquet", dir);
    for (int k = 0; k < 6; k++) {
        const struct duck_setting tight[] = {{"memory_limit", "64MiB"},
                                             {"threads", threads[k / 3]},
                                             {"temp_directory", ""},
                                             {NULL, NULL}};
        struct duck *small = NULL;
        struct duck_conn *c = NULL;
        struct err e = {0};
        assert_int_equal(duck_open(tight, &small, &e), 0);
        assert_int_equal(duck_connect(small, &c, &e), 0);
        struct bulk b = {.n = sizes[k % 3][0], .bytes = sizes[k % 3][1], .noise = noise};
        struct parquet_source src = {.columns = two, .columns_n = 2, .next = next_bulk, .ctx = &b};
        struct parquet_file f = {0};
        int rc = parquet_write(c, path, &src, &f, &e);
        if (rc)
            print_error("%zu of %zu: %s\n", b.n, b.bytes, e.text);
        assert_int_equal(rc, 0);
        assert_int_equal(f.rows, b.n);
        mem_free(f.stats);
        duck_disconnect(&c);
        duck_close(&small);
        /* Every row is there, in the order in which it was given. */
        char *sql = mem_printf("SELECT id, s FROM read_parquet('%s')", path);
        struct duck_rows *got;
        assert_int_equal(duck_query_sql(con, sql, &got, &e), 0);
        mem_free(sql);
        for (size_t i = 0; i < b.n; i++) {
            assert_int_equal(duck_next(got, &e), 1);
            assert_int_equal(duck_i64(got, 0), i);
            assert_true(str_eq(duck_str(got, 1), str_make(noise + i % 1000, b.bytes)));
        }
        assert_int_equal(duck_next(got, &e), 0);
        duck_rows_free(&got);
        (void)unlink(path);
    }
    mem_free(path);
    mem_free(noise);
}

struct other {
    struct rows rows;
    char *path;
    int rc;
};

static void *write_mt(void *ctx)
{
    struct other *o = ctx;
    struct duck_conn *c = NULL;
    struct err e = {0};
    o->rc = duck_connect(db, &c, &e);
    for (int i = 0; i < 5 && !o->rc; i++) {
        struct parquet_file f = {0};
        struct parquet_source src = source_of(&o->rows);
        o->rows.at = 0;
        o->rc = parquet_write(c, o->path, &src, &f, &e);
        mem_free(f.stats);
    }
    duck_disconnect(&c);
    return NULL;
}

static void test_two_connections_at_once(void **state)
{
    (void)state;
    struct rnd r;
    rnd_seed(&r, 3);
    struct other o[2] = {0};
    pthread_t t[2];
    for (int i = 0; i < 2; i++) {
        o[i].rows = random_rows(&r, 3000);
        o[i].path = mem_printf("%s/both%d.parquet", dir, i);
        assert_int_equal(pthread_create(&t[i], NULL, write_mt, &o[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(o[i].rc, 0);
        assert_same_rows(o[i].path, &o[i].rows);
        mem_free(o[i].path);
        rows_free(&o[i].rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_stats),
        cmocka_unit_test(test_stats_of_many_columns),
        cmocka_unit_test(test_random_rows),
        cmocka_unit_test(test_bad_values_and_sources),
        cmocka_unit_test(test_empty_file_has_the_columns),
        cmocka_unit_test(test_schema_string),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_large_files_in_little_memory),
        cmocka_unit_test(test_two_connections_at_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
