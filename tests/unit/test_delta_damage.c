/* test_delta_damage: logs that were damaged or forged, thousands of them from one seed: never a crash, never a loop, an error that says
 * what is wrong; and where there is none, every way to a state leads to the same one.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/parquet.h"
#include "support/lake.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define TABLE "t/damage"
#define CHECKPOINT "00000000000000000003.checkpoint.parquet"
enum { VERSIONS = 6, FOLLOWED = 2 };

static const struct column_def columns[] = {{"id", COLUMN_LONG}, {"s", COLUMN_STR}};
static struct lake *lake;
static char *schema;

static int set_up(void **state)
{
    (void)state;
    lake = lake_new();
    schema = parquet_delta_schema(columns, 2);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lake_free(&lake);
    mem_free(schema);
    return 0;
}

/* ---- a log with everything in it ---- */

#define ADD(path, rows, more)                                                                      \
    "{\"add\":{\"path\":\"" path "\",\"partitionValues\":{\"p\":null},\"size\":100,"               \
    "\"modificationTime\":1760000000000,\"dataChange\":true,\"stats\":\"{\\\"numRecords\\\":" rows \
    ",\\\"minValues\\\":{\\\"id\\\":1},\\\"nullCount\\\":{\\\"id\\\":0}}\"" more "}}\n"
#define INFO(operation)                                                                            \
    "{\"commitInfo\":{\"timestamp\":1760000000456,\"operation\":\"" operation                      \
    "\",\"operationMetrics\":{\"numAddedFiles\":\"1\"},\"txnId\":\"an-id\"}}\n"

static void make_log(struct buf log[VERSIONS])
{
    static const char *const texts[VERSIONS] = {
        "",
        INFO("STREAMING UPDATE") "{\"txn\":{\"appId\":\"sluice:kafka:a.pin:0:G\",\"version\":7,"
                                 "\"lastUpdated\":1760000000000}}\n" ADD("part-1.parquet", "5", ""),
        INFO("WRITE") ADD("part-2.parquet", "6", ",\"tags\":{\"k\":\"v\"}")
            ADD("d%20x/p%C3%B6.parquet", "1", ",\"baseRowId\":null"),
        INFO("OPTIMIZE") "{\"remove\":{\"path\":\"part-1.parquet\",\"deletionTimestamp\":"
                         "4102444800000,\"dataChange\":false,\"extendedFileMetadata\":true,"
                         "\"partitionValues\":{},\"size\":100}}\r\n\n" ADD(
                             "part-3.parquet", "5",
                             "") "{\"cdc\":{\"path\":\"_change_data/x\",\"size\":1}}\n",
        "",
        INFO("STREAMING UPDATE") "{\"txn\":{\"appId\":\"sluice:kafka:a.pin:0:G\",\"version\":9}}\n"
                                 "{\"txn\":{\"appId\":\"another\",\"version\":-3}}\n"
                                 "{\"remove\":{\"path\":\"part-2.parquet\"}}\n" ADD(
                                     "part-1.parquet", "4", ""),
    };
    for (int v = 0; v < VERSIONS; v++) {
        buf_init(&log[v], 16 << 20);
        buf_z(&log[v], texts[v]);
        if (v != 0 && v != 4)
            continue;
        buf_z(&log[v], v ? INFO("SET TBLPROPERTIES") : INFO("CREATE TABLE"));
        buf_z(&log[v], "{\"protocol\":{\"minReaderVersion\":3,\"minWriterVersion\":7,"
                       "\"readerFeatures\":[\"timestampNtz\"],\"writerFeatures\":[\"timestampNtz\","
                       "\"appendOnly\"]}}\n"
                       "{\"metaData\":{\"id\":\"one\",\"name\":\"n\",\"format\":{\"provider\":"
                       "\"parquet\",\"options\":{}},\"schemaString\":");
        buf_json(&log[v], str_of(schema));
        buf_z(&log[v], ",\"partitionColumns\":[],\"configuration\":{\"delta.appendOnly\":\"true\"},"
                       "\"createdTime\":1760000000000}}\n");
    }
}

static void put_log(const struct buf *log, int64_t version)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%020lld.json", (long long)version);
    lake_put(lake, TABLE, name, buf_as_str(log));
}

/* ---- mutations ---- */

static json_t *odd_value(struct rnd *r)
{
    static const char *const texts[] = {"null",
                                        "true",
                                        "-1",
                                        "0",
                                        "1",
                                        "3",
                                        "9223372036854775807",
                                        "-9223372036854775808",
                                        "1e308",
                                        "-0.0",
                                        "\"\"",
                                        "\"1\"",
                                        "\"x\"",
                                        "\"\\u0000\"",
                                        "\"a\\u0000b\"",
                                        "\"%zz\"",
                                        "\"%00\"",
                                        "\"%\"",
                                        "\"../x\"",
                                        "\"/etc/passwd\"",
                                        "\"s3://b/x\"",
                                        "\"part-2.parquet\"",
                                        "\"{\\\"numRecords\\\":-5}\"",
                                        "\"{\\\"numRecords\\\":9223372036854775807}\"",
                                        "\"{\\\"type\\\":\\\"struct\\\",\\\"fields\\\":[{}]}\"",
                                        "\"{\\\"type\\\":\\\"struct\\\",\\\"fields\\\":[{"
                                        "\\\"name\\\":\\\"id\\\",\\\"type\\\":{\\\"type\\\":"
                                        "\\\"map\\\"}}]}\"",
                                        "[]",
                                        "{}",
                                        "[null]",
                                        "[[[[[]]]]]",
                                        "{\"x\":{\"y\":[1,{\"z\":null}]}}",
                                        "[\"deletionVectors\"]",
                                        "{\"storageType\":\"u\",\"pathOrInlineDv\":7}"};
    if (rnd_below(r, 40) == 0) {
        size_t n = (size_t)1 << rnd_below(r, 18);
        char *p = mem_alloc(n);
        memset(p, 'y', n);
        json_t *v = json_stringn(p, n);
        mem_free(p);
        return v;
    }
    return json_loads(texts[rnd_below(r, sizeof texts / sizeof *texts)],
                      JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

static void mutate_object(struct rnd *r, json_t *o, unsigned depth)
{
    size_t at = rnd_below(r, json_object_size(o) + 1), i = 0;
    const char *key = "surplus";
    for (void *it = json_object_iter(o); it && i <= at; it = json_object_iter_next(o, it), i++)
        key = json_object_iter_key(it);
    json_t *child = json_object_get(o, key);
    if (json_is_object(child) && depth < 4 && rnd_below(r, 4)) {
        mutate_object(r, child, depth + 1);
        return;
    }
    char *name = mem_strdup(key);
    switch (rnd_below(r, 4)) {
    case 0:
        (void)json_object_del(o, name); /* "surplus" is not there */
        break;
    case 1:
        json_object_set_new(o, "deletionVector", odd_value(r));
        break;
    default:
        json_object_set_new(o, name, odd_value(r));
        break;
    }
    mem_free(name);
}

/* One line, as JSON that is almost what it was. */
static void mutate_json(struct rnd *r, struct str line, struct buf *out)
{
    json_t *o = json_loadb(line.p, line.n, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(o)) {
        buf_str(out, line);
    } else {
        mutate_object(r, o, 0);
        char *text = json_dumps(o, JSON_COMPACT);
        buf_z(out, text ? text : "{}");
        free(text);
    }
    json_decref(o);
}

static void mutate_lines(struct rnd *r, struct buf *log, const struct buf *other)
{
    struct str rest = buf_as_str(log), line, lines[64];
    size_t n = 0;
    while (n < 64 && str_next(&rest, '\n', &line))
        lines[n++] = line;
    if (!n)
        return;
    size_t at = rnd_below(r, n);
    uint64_t how = rnd_below(r, 10);
    struct buf out;
    buf_init(&out, 16 << 20);
    for (size_t i = 0; i < n; i++) {
        if (i == at && how == 0)
            continue;
        if (i == at && how >= 4)
            mutate_json(r, lines[i], &out);
        else
            buf_str(&out, lines[i]);
        if (!(i == at && how == 1))
            buf_char(&out, '\n');
        if (i == at && how == 2) {
            buf_str(&out, lines[rnd_below(r, n)]);
            buf_char(&out, '\n');
        }
    }
    if (how == 3)
        buf_str(&out, buf_as_str(other));
    buf_reset(log);
    buf_str(log, buf_as_str(&out));
    buf_deinit(&out);
}

static void mutate_bytes(struct rnd *r, struct buf *b)
{
    for (uint64_t k = 1 + rnd_below(r, 4); k && b->len; k--)
        b->data[rnd_below(r, b->len)] = (char)rnd_below(r, 256);
    if (rnd_below(r, 3) == 0)
        b->len = rnd_below(r, b->len + 1);
}

static void mutate(struct rnd *r, struct buf *log, const struct buf *other)
{
    if (rnd_below(r, 5))
        mutate_lines(r, log, other);
    else
        mutate_bytes(r, log);
}

/* ---- what must hold ---- */

static unsigned outcomes[4]; /* readable, corrupt, unsupported, others */

static void assert_told(int rc, const struct err *e)
{
    if (rc != ERR_CORRUPT && rc != ERR_UNSUPPORTED && rc != ERR_NOT_FOUND && rc != ERR_LIMIT &&
        rc != ERR_IO) /* some of what is wrong with a Parquet file is that to DuckDB */
        fail_msg("%s: %s", err_name(rc), e->text);
    assert_int_equal(e->code, rc);
    assert_true(strlen(e->text) > 10);
}

/* Loads from nothing, twice; NULL: refused. */
static struct delta *load(bool twice)
{
    struct err e = {0};
    struct delta *d = delta_new(lake->store, TABLE);
    int rc = delta_refresh(d, lake->conn, &e);
    outcomes[rc == 0 ? 0 : rc == ERR_CORRUPT ? 1 : rc == ERR_UNSUPPORTED ? 2 : 3]++;
    if (twice) {
        struct err again = {0};
        assert_int_equal(delta_refresh(d, lake->conn, &again), rc);
    }
    if (rc) {
        assert_told(rc, &e);
        delta_free(&d);
    } else {
        struct err w = {0};
        rc = delta_check_writable(d, schema, &w);
        if (rc)
            assert_told(rc, &w);
    }
    return d;
}

static void assert_state(const struct delta *d, const char *want)
{
    char *got = lake_state(d);
    assert_string_equal(got, want);
    mem_free(got);
}

/* One who had read up to FOLLOWED before the damage was done behind it. */
static void assert_follower_agrees(struct delta *follower, const char *want)
{
    char *before = lake_state(follower);
    int64_t version = delta_version(follower);
    struct err e = {0};
    int rc = delta_refresh(follower, lake->conn, &e);
    if (rc == ERR_CONFLICT) { /* damage gave the table another id */
        assert_int_equal(delta_version(follower), -1);
        rc = delta_refresh(follower, lake->conn, &e);
    }
    assert_int_equal(rc != 0, want == NULL);
    if (rc)
        assert_told(rc, &e);
    if (!rc)
        assert_state(follower, want);
    else if (delta_version(follower) == version)
        assert_state(follower, before); /* nothing of a broken commit was taken */
    mem_free(before);
}

/* What can be checkpointed reads back from the checkpoint alone. */
static void assert_checkpoint_agrees(struct delta *d, const char *want)
{
    char name[64];
    struct err e = {0};
    int rc = delta_checkpoint(d, lake->conn, &e);
    if (rc) {
        assert_true(strlen(e.text) > 10);
        return;
    }
    for (int v = 0; v <= delta_version(d); v++)
        lake_delete_version(lake, TABLE, v);
    struct delta *fresh = delta_new(lake->store, TABLE);
    lake_refreshed(lake, fresh, 0);
    assert_state(fresh, want);
    delta_free(&fresh);
    (void)snprintf(name, sizeof name, "%020lld.checkpoint.parquet", (long long)delta_version(d));
    lake_delete(lake, TABLE, name);
    lake_delete(lake, TABLE, "_last_checkpoint");
}

static void test_mutated_commits(void **state)
{
    (void)state;
    struct buf log[VERSIONS], bad[VERSIONS];
    struct rnd r;
    rnd_seed(&r, 20261201);
    make_log(log);
    for (int v = 0; v < VERSIONS; v++) {
        buf_init(&bad[v], 16 << 20);
        put_log(&log[v], v);
    }
    memset(outcomes, 0, sizeof outcomes);
    for (int turn = 0; turn < 3000; turn++) {
        struct delta *follower = NULL;
        bool hit[VERSIONS] = {false}, checkpoint = turn % 120 == 1;
        int low = 0;
        if (turn % 4 == 0) { /* one that has read a log that ends at FOLLOWED */
            low = FOLLOWED + 1;
            for (int v = low; v < VERSIONS; v++)
                lake_delete_version(lake, TABLE, v);
            follower = load(false);
            assert_non_null(follower);
        }
        for (uint64_t k = 1 + rnd_below(&r, 3); k; k--) {
            int v = low + (int)rnd_below(&r, (uint64_t)(VERSIONS - low));
            if (!hit[v]) {
                buf_reset(&bad[v]);
                buf_str(&bad[v], buf_as_str(&log[v]));
            }
            hit[v] = true;
            mutate(&r, &bad[v], &log[rnd_below(&r, VERSIONS)]);
        }
        for (int v = low; v < VERSIONS; v++)
            if (hit[v] || follower)
                put_log(hit[v] ? &bad[v] : &log[v], v);
        struct delta *d = load(turn % 2 == 0);
        char *want = d ? lake_state(d) : NULL;
        if (follower)
            assert_follower_agrees(follower, want);
        if (d && checkpoint)
            assert_checkpoint_agrees(d, want);
        mem_free(want);
        delta_free(&d);
        delta_free(&follower);
        for (int v = 0; v < VERSIONS; v++)
            if (hit[v] || checkpoint)
                put_log(&log[v], v);
    }
    /* The mutations are of a kind that hits both sides of every check. */
    assert_true(outcomes[0] > 400 && outcomes[1] > 400 && outcomes[2] > 20);
    for (int v = 0; v < VERSIONS; v++) {
        lake_delete_version(lake, TABLE, v);
        buf_deinit(&log[v]);
        buf_deinit(&bad[v]);
    }
}

static void test_mutated_hints_and_names(void **state)
{
    (void)state;
    static const char *const hints[] = {"{\"version\":3,\"size\":1}",
                                        "{\"version\":9223372036854775807}",
                                        "{\"version\":1e300}",
                                        "{\"version\":[3]}",
                                        "{\"version\":4,\"parts\":-1}",
                                        "{\"version\":3",
                                        "",
                                        "\xff\xfe",
                                        "null"};
    static const char *const names[] = {
        "00000000000000000003.checkpoint.parquet",
        "00000000000000000002.checkpoint.parquet",
        "00000000000000000003.checkpoint.0000000001.0000000002.parquet",
        "00000000000000000003.checkpoint.0000000002.0000000002.parquet",
        "00000000000000000009.json",
        "00000000000000000007.checkpoint.parquet",
        "09007199254740992.json",
        "00009007199254740992.json"};
    enum { NAMES = sizeof names / sizeof *names };
    struct buf log[VERSIONS];
    struct rnd r;
    rnd_seed(&r, 20261202);
    make_log(log);
    for (int v = 0; v < VERSIONS; v++)
        put_log(&log[v], v);
    for (int turn = 0; turn < 500; turn++) {
        bool there[NAMES] = {false};
        int gone = (int)rnd_below(&r, VERSIONS * 2);
        lake_put(lake, TABLE, "_last_checkpoint", str_of(hints[rnd_below(&r, 9)]));
        for (size_t i = 0; i < NAMES; i++) {
            there[i] = rnd_below(&r, 5) == 0;
            if (there[i])
                lake_put(lake, TABLE, names[i], rnd_below(&r, 2) ? STR("") : STR("PAR1 no PAR1"));
        }
        if (gone < VERSIONS)
            lake_delete_version(lake, TABLE, gone);
        struct delta *d = load(true);
        /* Without anything in its way the log reads as ever. */
        bool clean = gone >= VERSIONS;
        for (size_t i = 0; i < NAMES; i++)
            clean = clean && !there[i];
        assert_true(d || !clean);
        delta_free(&d);
        for (int v = 0; v < 3; v++) {
            struct err e = {0};
            d = delta_new(lake->store, TABLE);
            int rc = delta_load_at(d, lake->conn, (int64_t)rnd_below(&r, 12), &e);
            if (rc)
                assert_told(rc, &e);
            delta_free(&d);
        }
        for (size_t i = 0; i < NAMES; i++)
            if (there[i])
                lake_delete(lake, TABLE, names[i]);
        if (gone < VERSIONS)
            put_log(&log[gone], gone);
    }
    lake_delete(lake, TABLE, "_last_checkpoint");
    for (int v = 0; v < VERSIONS; v++) {
        lake_delete_version(lake, TABLE, v);
        buf_deinit(&log[v]);
    }
}

/* Bytes of a checkpoint that went bad. What its reader does not notice must at least be a state that can be handled. */
static void test_mutated_checkpoint(void **state)
{
    (void)state;
    struct buf log[VERSIONS], whole, bad;
    struct rnd r;
    struct err e = {0};
    rnd_seed(&r, 20261203);
    make_log(log);
    for (int v = 0; v < VERSIONS; v++)
        put_log(&log[v], v);
    struct delta *d = delta_new(lake->store, TABLE);
    assert_int_equal(delta_load_at(d, lake->conn, 3, &e), 0);
    lake_checkpointed(lake, d);
    delta_free(&d);
    for (int v = 0; v < VERSIONS; v++) {
        if (v <= 3)
            lake_delete_version(lake, TABLE, v);
        buf_deinit(&log[v]);
    }
    buf_init(&whole, 1 << 20);
    buf_init(&bad, 1 << 20);
    assert_int_equal(store_get(lake->store, TABLE "/_delta_log/" CHECKPOINT, &whole, &e), 0);
    memset(outcomes, 0, sizeof outcomes);
    for (int turn = 0; turn < 300; turn++) {
        buf_reset(&bad);
        buf_str(&bad, buf_as_str(&whole));
        mutate_bytes(&r, &bad);
        lake_put(lake, TABLE, CHECKPOINT, buf_as_str(&bad));
        d = load(false);
        delta_free(&d);
        /* The connection is none the worse. */
        if (turn % 50 == 0) {
            lake_put(lake, TABLE, CHECKPOINT, buf_as_str(&whole));
            d = load(false);
            assert_non_null(d);
            delta_free(&d);
        }
    }
    assert_true(outcomes[1] > 50);
    buf_deinit(&whole);
    buf_deinit(&bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutated_commits),
        cmocka_unit_test(test_mutated_hints_and_names),
        cmocka_unit_test(test_mutated_checkpoint),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
