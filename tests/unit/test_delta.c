/* test_delta: the log of a table: commits and races for them, checkpoints, damage, and what other writers may have left in it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/parquet.h"
#include "support/tmpdir.h"
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static const struct column_def columns[] = {
    {"id", COLUMN_LONG}, {"s", COLUMN_STR}, {"p", COLUMN_POINT}};
static char *dir, *schema;
static struct store *st;
static struct duck *db;
static struct duck_conn *con;

static int set_up(void **state)
{
    (void)state;
    dir = tmpdir_new();
    char *url = mem_printf("file://%s", dir);
    struct err e = {0};
    static const struct duck_setting settings[] = {
        {"memory_limit", "256MiB"}, {"threads", "1"}, {NULL, NULL}};
    int rc = store_open(url, &st, &e);
    if (!rc)
        rc = duck_open(settings, &db, &e);
    if (!rc)
        rc = duck_connect(db, &con, &e);
    if (rc)
        print_error("%s\n", e.text);
    mem_free(url);
    schema = parquet_delta_schema(columns, 3);
    return rc;
}

static int tear_down(void **state)
{
    (void)state;
    duck_disconnect(&con);
    duck_close(&db);
    store_close(&st);
    mem_free(schema);
    tmpdir_remove(&dir);
    return 0;
}

static void put_raw(const char *table, const char *name, const char *text)
{
    char *key = mem_printf("%s/_delta_log/%s", table, name);
    assert_int_equal(store_put(st, key, str_of(text), NULL), 0);
    mem_free(key);
}

static void put_version(const char *table, int64_t version, const char *text)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%020lld.json", (long long)version);
    put_raw(table, name, text);
}

static void delete_log(const char *table, const char *fmt, int64_t version)
{
    char name[64];
    if (!strcmp(fmt, "json"))
        (void)snprintf(name, sizeof name, "%020lld.json", (long long)version);
    else
        (void)snprintf(name, sizeof name, "%020lld.checkpoint.parquet", (long long)version);
    char *key = mem_printf("%s/_delta_log/%s", table, name);
    assert_int_equal(store_delete(st, key, NULL), 0);
    mem_free(key);
}

static void refreshed(struct delta *d, int want)
{
    struct err e = {0};
    int rc = delta_refresh(d, con, &e);
    if (rc != want)
        print_error("%s\n", e.text);
    assert_int_equal(rc, want);
}

/* One commit with a file of `rows` rows and a position; the try's own id. */
static int commit(struct delta *d, int64_t version, const char *name, int64_t rows, const char *app,
                  int64_t at, const char *txn_id)
{
    char *path = mem_printf("part-%s.parquet", name),
         *stats = mem_printf("{\"numRecords\":%lld}", (long long)rows);
    struct delta_file f = {
        .path = path, .bytes = 100, .rows = rows, .modified_ms = 5, .stats = stats};
    struct delta_txn_action t = {app, at};
    struct delta_commit c = {.version = version,
                             .txn_id = txn_id,
                             .adds = &f,
                             .adds_n = 1,
                             .txns = &t,
                             .txns_n = 1,
                             .copies = 3,
                             .timestamp_ms = 1760000000456};
    struct buf b;
    buf_init(&b, 1 << 20);
    delta_commit_encode(&c, &b);
    struct err e = {0};
    int rc = delta_put(d, version, buf_as_str(&b), txn_id, &e);
    buf_deinit(&b);
    mem_free(path);
    mem_free(stats);
    return rc;
}

static void test_create_commit_follow(void **state)
{
    (void)state;
    struct delta *d = delta_new(st, "t/create");
    refreshed(d, ERR_NOT_FOUND);
    assert_int_equal(delta_version(d), -1);
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    assert_int_equal(delta_create(d, "another", &e), 0); /* there already: nothing changes */
    refreshed(d, 0);
    assert_int_equal(delta_version(d), 0);
    assert_string_equal(delta_schema(d), schema);
    assert_int_equal(strlen(delta_id(d)), 36);
    assert_int_equal(delta_check_writable(d, schema, &e), 0);
    assert_int_equal(delta_rows(d), 0);

    assert_int_equal(commit(d, 1, "a", 10, "sluice:kafka:x:0:G", 7, "id-1"), 0);
    assert_int_equal(delta_version(d), 0); /* only a refresh moves it */
    assert_int_equal(commit(d, 1, "a", 10, "sluice:kafka:x:0:G", 7, "id-1"), 0);
    assert_int_equal(commit(d, 1, "b", 10, "sluice:kafka:x:0:G", 7, "id-2"), ERR_CONFLICT);
    assert_int_equal(commit(d, 2, "b", 5, "sluice:kafka:x:0:G", 9, "id-2"), 0);
    uint64_t reads = delta_reads(d);
    refreshed(d, 0);
    assert_int_equal(delta_reads(d), reads + 2);
    refreshed(d, 0);
    assert_int_equal(delta_reads(d), reads + 2);
    assert_int_equal(delta_version(d), 2);
    assert_int_equal(delta_rows(d), 15);
    assert_int_equal(delta_files(d), 2);
    assert_true(delta_commit_time_ms(d) == 1760000000456);
    int64_t v = -1;
    assert_true(delta_txn(d, STR("sluice:kafka:x:0:G"), &v));
    assert_int_equal(v, 9);
    assert_false(delta_txn(d, STR("sluice:kafka:y:0:G"), &v));
    const struct delta_file *f;
    size_t i = 0;
    assert_true(delta_next_file(d, &i, &f));
    assert_string_equal(f->path, "part-a.parquet");
    assert_int_equal(f->rows, 10);
    assert_int_equal(f->bytes, 100);
    assert_string_equal(f->stats, "{\"numRecords\":10}");
    assert_true(delta_next_file(d, &i, &f));
    assert_false(delta_next_file(d, &i, &f));
    delta_free(&d);

    d = delta_new(st, "t/create");
    assert_int_equal(delta_load_at(d, con, 1, &e), 0);
    assert_int_equal(delta_version(d), 1);
    assert_int_equal(delta_rows(d), 10);
    assert_int_equal(delta_load_at(d, con, 3, &e), ERR_NOT_FOUND);
    delta_free(&d);
}

static void test_exact_text(void **state)
{
    (void)state;
    struct delta_file f = {.path = "part-00000-x.parquet",
                           .bytes = 18734,
                           .rows = 3,
                           .modified_ms = 1760000000123,
                           .stats = "{\"numRecords\":3}"};
    struct delta_txn_action t[] = {{"sluice:kafka:demo.pin:3:6K", 4217}};
    struct delta_commit c = {.version = 42,
                             .txn_id = "the-id",
                             .adds = &f,
                             .adds_n = 1,
                             .txns = t,
                             .txns_n = 1,
                             .copies = 2,
                             .lost_json = STR("[{\"from\":0,\"to\":5}]"),
                             .timestamp_ms = 1760000000456};
    struct buf b;
    buf_init(&b, 1 << 16);
    delta_commit_encode(&c, &b);
    assert_string_equal(
        b.data,
        "{\"commitInfo\":{\"timestamp\":1760000000456,\"operation\":\"STREAMING "
        "UPDATE\",\"operationParameters\":{"
        "\"outputMode\":\"Append\",\"queryId\":\"sink-s3\",\"epochId\":\"42\"},\"readVersion\":41,"
        "\"isolationLevel\":\"Serializable\",\"isBlindAppend\":true,\"operationMetrics\":{"
        "\"numRemovedFiles\":\"0\","
        "\"numOutputRows\":\"3\",\"numOutputBytes\":\"18734\",\"numAddedFiles\":\"1\"},"
        "\"engineInfo\":\"sink-s3/0.1\","
        "\"txnId\":\"the-id\",\"sluice.copies\":2,\"sluice.lost\":[{\"from\":0,\"to\":5}]}}\n"
        "{\"txn\":{\"appId\":\"sluice:kafka:demo.pin:3:6K\",\"version\":4217,\"lastUpdated\":"
        "1760000000456}}\n"
        "{\"add\":{\"path\":\"part-00000-x.parquet\",\"partitionValues\":{},\"size\":18734,"
        "\"modificationTime\":1760000000123,\"dataChange\":true,\"stats\":\"{\\\"numRecords\\\":3}"
        "\"}}\n");
    buf_deinit(&b);
}

/* The state in one text, so that two ways to it can be compared. */
static char *dump(const struct delta *d)
{
    struct buf b;
    buf_init(&b, 16 << 20);
    buf_printf(&b, "v%lld id %s rows %lld\n%s\n", (long long)delta_version(d), delta_id(d),
               (long long)delta_rows(d), delta_schema(d));
    struct str app;
    int64_t v;
    for (size_t i = 0; delta_next_txn(d, &i, &app, &v);)
        buf_printf(&b, "txn " STR_FMT " %lld\n", STR_ARG(app), (long long)v);
    const struct delta_file *f;
    for (size_t i = 0; delta_next_file(d, &i, &f);)
        buf_printf(&b, "%s %llu %lld %lld %s\n", f->path, (unsigned long long)f->bytes,
                   (long long)f->rows, (long long)f->modified_ms, f->stats ? f->stats : "-");
    return buf_steal(&b, NULL);
}

static char *dump_at(const char *table, int64_t version)
{
    struct delta *d = delta_new(st, table);
    struct err e = {0};
    int rc = delta_load_at(d, con, version, &e);
    if (rc)
        print_error("%s\n", e.text);
    assert_int_equal(rc, 0);
    char *text = dump(d);
    delta_free(&d);
    return text;
}

static void checkpointed(struct delta *d)
{
    struct err e = {0};
    int rc = delta_checkpoint(d, con, &e);
    if (rc)
        print_error("%s\n", e.text);
    assert_int_equal(rc, 0);
}

/* Sorted lines, since a checkpoint orders files by what is left of them. */
static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void assert_same_lines(const char *a, const char *b)
{
    struct str rest[2] = {str_of(a), str_of(b)}, line;
    char **lines[2];
    size_t n[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        lines[k] = MEM_ARRAY(char *, rest[k].n + 1);
        while (str_next(&rest[k], '\n', &line))
            lines[k][n[k]++] = mem_strndup(line.p, line.n);
        qsort(lines[k], n[k], sizeof *lines[k], by_text);
    }
    assert_int_equal(n[0], n[1]);
    for (size_t i = 0; i < n[0]; i++)
        assert_string_equal(lines[0][i], lines[1][i]);
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < n[k]; i++)
            mem_free(lines[k][i]);
        mem_free(lines[k]);
    }
}

enum { HISTORY = 34 };

static void test_checkpoints_equal_commits(void **state)
{
    (void)state;
    const char *table = "t/check";
    struct delta *d = delta_new(st, table);
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    refreshed(d, 0);
    char *want[HISTORY + 1];
    long long now = (long long)clock_wall_ms();
    for (int64_t v = 1; v <= HISTORY; v++) {
        char name[32], id[32], app[64];
        (void)snprintf(name, sizeof name, "%03d", (int)v);
        (void)snprintf(id, sizeof id, "id-%d", (int)v);
        (void)snprintf(app, sizeof app, "sluice:kafka:\"q\":%d:G", (int)(v % 3));
        if (v % 7 == 3) { /* somebody compacts: two files become one whose name needs encoding */
            char *text =
                mem_printf("{\"commitInfo\":{\"timestamp\":%lld,\"operation\":\"OPTIMIZE\"}}\r\n"
                           "{\"add\":{\"path\":\"sub%%20dir/"
                           "c%d.parquet\",\"partitionValues\":{},\"size\":7,\"modificationTime\":9,"
                           "\"dataChange\":false,\"stats\":\"{ \\\"numRecords\\\" : 11 "
                           "}\",\"tags\":{\"k\":\"v\"}}}\n\n"
                           "{\"remove\":{\"path\":\"part-%03d.parquet\",\"deletionTimestamp\":%lld,"
                           "\"dataChange\":false,"
                           "\"extendedFileMetadata\":true,\"partitionValues\":{},\"size\":100}}\n"
                           "{\"unknownAction\":{\"x\":1}}\n",
                           now, (int)v, (int)v - 1, v == 3 ? 1000LL : now);
            put_version(table, v, text);
            mem_free(text);
        } else {
            assert_int_equal(commit(d, v, name, v, app, v * 10, id), 0);
        }
        refreshed(d, 0);
        assert_int_equal(delta_version(d), v);
        want[v] = dump(d);
        if (v == 12 || v == 25)
            checkpointed(d);
    }
    assert_non_null(strstr(want[HISTORY], "sub dir/c3.parquet 7 11 9"));
    /* Each version, first with all that is there, then without the commits that checkpoints cover. */
    for (int pass = 0; pass < 3; pass++) {
        for (int64_t v = pass == 0 ? 1 : pass == 1 ? 12 : 25; v <= HISTORY; v++) {
            char *got = dump_at(table, v);
            assert_same_lines(got, want[v]);
            mem_free(got);
        }
        for (int64_t v = pass == 0 ? 0 : 13; pass < 2 && v <= (pass == 0 ? 11 : 24); v++)
            delete_log(table, "json", v);
        if (pass == 1)
            delete_log(table, "checkpoint", 12);
        if (pass < 2) {
            struct delta *early = delta_new(st, table);
            assert_int_equal(delta_load_at(early, con, pass == 0 ? 5 : 14, &e), ERR_NOT_FOUND);
            delta_free(&early);
        }
    }
    struct delta *fresh = delta_new(st, table);
    refreshed(fresh, 0);
    char *got = dump(fresh);
    assert_same_lines(got, want[HISTORY]);
    mem_free(got);
    /* A reader without DuckDB says so. */
    struct delta *plain = delta_new(st, table);
    assert_int_equal(delta_refresh(plain, NULL, &e), ERR_UNSUPPORTED);
    delta_free(&plain);
    /* A checkpoint of a checkpoint is the same again; and one that is there already is no failure. */
    checkpointed(fresh);
    checkpointed(fresh);
    delta_free(&fresh);
    got = dump_at(table, HISTORY);
    assert_same_lines(got, want[HISTORY]);
    mem_free(got);
    /* The pointer never goes back. */
    fresh = delta_new(st, table);
    assert_int_equal(delta_load_at(fresh, con, 30, &e), 0);
    checkpointed(fresh);
    delta_free(&fresh);
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(store_get(st, "t/check/_delta_log/_last_checkpoint", &b, &e), 0);
    json_t *o = json_loadb(b.data, b.len, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(o, "version")), HISTORY);
    assert_true(json_integer_value(json_object_get(o, "numOfAddFiles")) > 20);
    assert_null(json_object_get(o, "parts"));
    json_decref(o);
    buf_deinit(&b);
    for (int v = 1; v <= HISTORY; v++)
        mem_free(want[v]);
    delta_free(&d);
}

/* The sink's connection has 64 MiB. */
static void test_large_checkpoint_in_little_memory(void **state)
{
    (void)state;
    enum { FILES = 30000 };
    struct err e = {0};
    struct delta *d = delta_new(st, "t/large");
    assert_int_equal(delta_create(d, schema, &e), 0);
    struct buf b;
    buf_init(&b, 64 << 20);
    for (int i = 0; i < FILES; i++) {
        buf_printf(
            &b,
            "{\"add\":{\"path\":\"part-00000-%08x-c000.zstd.parquet\",\"partitionValues\":{},"
            "\"size\":1000,\"modificationTime\":1760000000000,\"dataChange\":true,\"stats\":"
            "\"{\\\"numRecords\\\":1,\\\"minValues\\\":{\\\"s\\\":\\\"",
            (unsigned)i);
        for (int k = 0; k < 50; k++)
            buf_printf(&b, "%08x", (unsigned)i * 2654435761u + (unsigned)k);
        buf_z(&b, "\\\"}}\"}}\n");
    }
    assert_false(b.overflow);
    put_version("t/large", 1, b.data);
    buf_deinit(&b);
    static const struct duck_setting tight[] = {
        {"memory_limit", "64MiB"}, {"threads", "1"}, {"temp_directory", ""}, {NULL, NULL}};
    struct duck *small = NULL;
    struct duck_conn *c = NULL;
    assert_int_equal(duck_open(tight, &small, &e), 0);
    assert_int_equal(duck_connect(small, &c, &e), 0);
    assert_int_equal(delta_refresh(d, c, &e), 0);
    assert_int_equal(delta_rows(d), FILES);
    int rc = delta_checkpoint(d, c, &e);
    if (rc)
        print_error("%s\n", e.text);
    assert_int_equal(rc, 0);
    delta_free(&d);
    delete_log("t/large", "json", 0);
    d = delta_new(st, "t/large");
    assert_int_equal(delta_refresh(d, c, &e), 0);
    assert_int_equal(delta_files(d), FILES);
    assert_int_equal(delta_rows(d), FILES);
    delta_free(&d);
    duck_disconnect(&c);
    duck_close(&small);
}

static void make_history(const char *table, int64_t last)
{
    struct delta *d = delta_new(st, table);
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    for (int64_t v = 1; v <= last; v++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%03d", (int)v);
        assert_int_equal(commit(d, v, name, 1, "app", v, name), 0);
    }
    delta_free(&d);
}

static void test_wrong_hints(void **state)
{
    (void)state;
    make_history("t/hint", 6);
    struct delta *d = delta_new(st, "t/hint");
    struct err e = {0};
    assert_int_equal(delta_load_at(d, con, 4, &e), 0);
    checkpointed(d);
    delta_free(&d);
    static const char *const hints[] = {"",
                                        "{",
                                        "garbage",
                                        "{\"version\":\"4\"}",
                                        "{\"version\":-7}",
                                        "[]",
                                        "{\"version\":3,\"size\":1}",
                                        "{\"version\":900,\"size\":1}",
                                        "{\"version\":5}"};
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        put_raw("t/hint", "_last_checkpoint", hints[i]);
        d = delta_new(st, "t/hint");
        refreshed(d, 0);
        assert_int_equal(delta_version(d), 6);
        assert_int_equal(delta_rows(d), 6);
        delta_free(&d);
    }
}

static void test_gaps(void **state)
{
    (void)state;
    make_history("t/gap", 5);
    struct err e = {0};
    /* A follower that is behind the gap notices as well, at the latest when it looks at the whole list again. */
    struct delta *follower = delta_new(st, "t/gap");
    assert_int_equal(delta_load_at(follower, con, 2, &e), 0);
    delete_log("t/gap", "json", 3);
    struct delta *d = delta_new(st, "t/gap");
    refreshed(d, ERR_CORRUPT);
    assert_int_equal(delta_refresh(d, con, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "commit 3"));
    assert_int_equal(delta_version(d), -1);
    assert_int_equal(delta_load_at(d, con, 2, &e), 0);
    assert_int_equal(delta_rows(d), 2);
    delta_free(&d);
    clock_fake(clock_us() + 3600000000ull, clock_wall_ms());
    refreshed(follower, ERR_CORRUPT);
    clock_real();
    assert_int_equal(delta_version(follower), 2);
    delta_free(&follower);
    static const char *const broken[] = {
        "{\"add\":{\"path\":\"x\"}}\n",
        "{\"add\":{\"size\":1}}\n",
        "not json\n",
        "{\"commitInfo\":{}}\n{\"txn\":{\"appId\":\"a\"}}\n",
        "{\"add\":{\"path\":\"new\",\"size\":1,\"partitionValues\":{}}}\n{\"remove\":{}}\n",
        "{\"add\":{\"path\":\"%zz\",\"size\":1}}\n",
        "[1]\n",
        "{\"protocol\":{\"minReaderVersion\":1}}\n",
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        char *table = mem_printf("t/broken%zu", i);
        make_history(table, 1);
        d = delta_new(st, table);
        refreshed(d, 0);
        char *before = dump(d);
        put_version(table, 2, broken[i]);
        refreshed(d, ERR_CORRUPT);
        char *after = dump(d); /* nothing of the broken commit was taken */
        assert_string_equal(before, after);
        mem_free(before);
        mem_free(after);
        delta_free(&d);
        mem_free(table);
    }
}

static void test_table_made_anew(void **state)
{
    (void)state;
    make_history("t/anew", 3);
    struct delta *d = delta_new(st, "t/anew");
    refreshed(d, 0);
    char *id = mem_strdup(delta_id(d));
    for (int64_t v = 0; v <= 3; v++)
        delete_log("t/anew", "json", v);
    refreshed(d, ERR_NOT_FOUND);
    assert_int_equal(delta_version(d), -1);
    make_history("t/anew", 1);
    refreshed(d, 0);
    assert_string_not_equal(delta_id(d), id);
    mem_free(id);
    /* Now behind its back, between two refreshes. */
    for (int64_t v = 0; v <= 1; v++)
        delete_log("t/anew", "json", v);
    make_history("t/anew", 0);
    refreshed(d, ERR_CONFLICT);
    assert_int_equal(delta_version(d), -1);
    assert_int_equal(delta_files(d), 0);
    refreshed(d, 0);
    assert_int_equal(delta_version(d), 0);
    /* The same number of versions, of the same sizes: found by the thorough look. */
    delete_log("t/anew", "json", 0);
    make_history("t/anew", 0);
    clock_fake(clock_us() + 3600000000ull, clock_wall_ms());
    refreshed(d, ERR_CONFLICT);
    clock_real();
    delta_free(&d);
}

static void test_follower_sleeps_through_a_clean_up(void **state)
{
    (void)state;
    make_history("t/sleep", 2);
    struct delta *d = delta_new(st, "t/sleep"), *w = delta_new(st, "t/sleep");
    refreshed(d, 0);
    struct err e = {0};
    for (int64_t v = 3; v <= 9; v++)
        assert_int_equal(commit(w, v, v == 9 ? "nine" : "x", 1, "app", v, "i"), 0);
    assert_int_equal(delta_load_at(w, con, 8, &e), 0);
    checkpointed(w);
    for (int64_t v = 0; v < 8; v++)
        delete_log("t/sleep", "json", v);
    refreshed(d, 0);
    assert_int_equal(delta_version(d), 9);
    delta_free(&d);
    delta_free(&w);
}

#define META(conf, parts, fields)                                                                  \
    "{\"metaData\":{\"id\":\"i\",\"format\":{\"provider\":\"parquet\",\"options\":{}},"            \
    "\"schemaString\":\"{\\\"type\\\":"                                                            \
    "\\\"struct\\\",\\\"fields\\\":[" fields "]}\",\"partitionColumns\":[" parts                   \
    "],\"configuration\":{" conf "}}}\n"
#define FIELD(name, type, rest)                                                                    \
    "{\\\"name\\\":\\\"" name "\\\",\\\"type\\\":" type ",\\\"nullable\\\":" rest "}"
#define ID_S                                                                                       \
    FIELD("id", "\\\"long\\\"", "true,\\\"metadata\\\":{}")                                        \
    "," FIELD("s", "\\\"string\\\"", "true,\\\"metadata\\\":{}")
#define PLAIN META("", "", ID_S)
#define PROTO(r, w, more)                                                                          \
    "{\"protocol\":{\"minReaderVersion\":" #r ",\"minWriterVersion\":" #w more "}}\n"
#define FEATURES(r, w) ",\"readerFeatures\":[" r "],\"writerFeatures\":[" w "]"

static const struct foreign {
    const char *text;
    int read, write; /* codes */
    const char *word;
} foreign[] = {
    {PROTO(1, 2, "") PLAIN, 0, 0, NULL},
    {PROTO(1, 1, "") PLAIN, 0, 0, NULL},
    {PROTO(3, 7, FEATURES("\"timestampNtz\"", "\"timestampNtz\",\"appendOnly\",\"invariants\""))
         PLAIN,
     0, 0, NULL},
    {PROTO(3, 7, FEATURES("\"vacuumProtocolCheck\"", "\"vacuumProtocolCheck\"")) PLAIN, 0, 0, NULL},
    {PROTO(99, 99, "") PLAIN, ERR_UNSUPPORTED, ERR_UNSUPPORTED, "reader version 99"},
    {PROTO(3, 7, FEATURES("\"deletionVectors\"", "\"deletionVectors\"")) PLAIN, ERR_UNSUPPORTED,
     ERR_UNSUPPORTED, "deletionVectors"},
    {PROTO(3, 7, FEATURES("\"columnMapping\",\"typeWidening\"", "\"x\"")) PLAIN, ERR_UNSUPPORTED,
     ERR_UNSUPPORTED, "columnMapping, typeWidening"},
    {PROTO(3, 7, FEATURES("\"v2Checkpoint\"", "\"v2Checkpoint\"")) PLAIN, ERR_UNSUPPORTED,
     ERR_UNSUPPORTED, "v2Checkpoint"},
    {PROTO(1, 7, ",\"writerFeatures\":[\"changeDataFeed\"]") PLAIN, 0, ERR_UNSUPPORTED,
     "changeDataFeed"},
    {PROTO(3, 7, FEATURES("", "\"rowTracking\",\"domainMetadata\"")) PLAIN, 0, ERR_UNSUPPORTED,
     "rowTracking, domainMetadata"},
    {PROTO(1, 4, "") PLAIN, 0, ERR_UNSUPPORTED, "protocol 1/4"},
    {PROTO(2, 5, "") META("\"delta.columnMapping.mode\":\"name\"", "", ID_S), ERR_UNSUPPORTED,
     ERR_UNSUPPORTED, "columnMapping"},
    {PROTO(2, 5, "") META("\"delta.columnMapping.mode\":\"none\"", "", ID_S), 0, ERR_UNSUPPORTED,
     "protocol 2/5"},
    {PROTO(1, 2, "")
         META("\"delta.setTransactionRetentionDuration\":\"interval 7 days\"", "", ID_S),
     0, ERR_UNSUPPORTED, "setTransactionRetentionDuration"},
    {PROTO(1, 2, "") META("\"delta.enableChangeDataFeed\":\"true\"", "", ID_S), 0, ERR_UNSUPPORTED,
     "changeDataFeed"},
    {PROTO(1, 2, "") META("\"delta.appendOnly\":\"true\"", "", ID_S), 0, 0, NULL},
    {PROTO(1, 2, "") META("", "\"id\"", ID_S), 0, ERR_UNSUPPORTED, "partition columns"},
    {PROTO(1, 2, "") META("", "", FIELD("id", "\\\"long\\\"", "false,\\\"metadata\\\":{}")), 0,
     ERR_UNSUPPORTED, "not nullable"},
    {PROTO(1, 2, "") META(
         "", "",
         FIELD("id", "\\\"long\\\"", "true,\\\"metadata\\\":{\\\"delta.invariants\\\":\\\"x\\\"}")),
     0, ERR_UNSUPPORTED, "invariants"},
    {PROTO(1, 2, "")
         META("", "",
              FIELD("id", "\\\"long\\\"",
                    "true,\\\"metadata\\\":{\\\"delta.generationExpression\\\":\\\"x\\\"}")),
     0, ERR_UNSUPPORTED, "generatedColumns"},
    {PROTO(1, 2, "") META("", "", FIELD("id", "\\\"integer\\\"", "true,\\\"metadata\\\":{}")), 0,
     ERR_UNSUPPORTED, "column id"},
    {PROTO(1, 2, "") META("", "", FIELD("id", "\\\"long\\\"", "true,\\\"metadata\\\":{}")), 0,
     ERR_UNSUPPORTED, "no column s"},
    {PROTO(1, 2, "")
         META("", "", ID_S "," FIELD("z", "\\\"decimal(10,2)\\\"", "true,\\\"metadata\\\":{}")),
     0, ERR_UNSUPPORTED, "column z"},
    {PROTO(1, 2, "") META("", "", FIELD("v", "\\\"variant\\\"", "true,\\\"metadata\\\":{}")),
     ERR_UNSUPPORTED, ERR_UNSUPPORTED, "variant"},
    {PROTO(1, 2, "") PLAIN
     "{\"add\":{\"path\":\"x\",\"partitionValues\":{},\"size\":1,\"modificationTime\":1,"
     "\"dataChange\":true,\"deletionVector\":{\"storageType\":\"u\",\"pathOrInlineDv\":\"ab\","
     "\"offset\":1,\"sizeInBytes\":4,\"cardinality\":1}}}\n",
     ERR_UNSUPPORTED, ERR_UNSUPPORTED, "deletionVectors"},
    {PROTO(1, 2, "") PLAIN
     "{\"add\":{\"path\":\"s3://b/x\",\"partitionValues\":{},\"size\":1,\"modificationTime\":1,"
     "\"dataChange\":true}}\n",
     ERR_UNSUPPORTED, ERR_UNSUPPORTED, "absolute path"},
    {PROTO(1, 2, ""), ERR_CORRUPT, ERR_CORRUPT, "metaData"},
    {PLAIN, ERR_CORRUPT, ERR_CORRUPT, "protocol"},
    {PROTO(1, 2, "") "{\"metaData\":{\"id\":\"i\"}}\n", ERR_CORRUPT, ERR_CORRUPT, "schema"},
};

static void test_foreign_tables(void **state)
{
    (void)state;
    static const struct column_def two[] = {{"s", COLUMN_STR},
                                            {"id", COLUMN_LONG}}; /* order is free */
    char *ours = parquet_delta_schema(two, 2);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        char *table = mem_printf("t/foreign%zu", i);
        put_version(table, 0, foreign[i].text);
        struct delta *d = delta_new(st, table);
        struct err e = {0};
        int rc = delta_refresh(d, con, &e);
        if (rc != foreign[i].read)
            print_error("%zu: %s\n", i, e.text);
        assert_int_equal(rc, foreign[i].read);
        assert_int_equal(delta_refresh(d, con, &e), rc); /* and again */
        rc = delta_check_writable(d, ours, &e);
        if (rc != foreign[i].write)
            print_error("%zu: %s\n", i, e.text);
        assert_int_equal(rc, foreign[i].write);
        if (foreign[i].word && !strstr(e.text, foreign[i].word))
            print_error("%zu: %s\n", i, e.text);
        if (foreign[i].word)
            assert_non_null(strstr(e.text, foreign[i].word));
        delta_free(&d);
        mem_free(table);
    }
    mem_free(ours);
    /* A feature that was dropped again does no harm; one that comes does. */
    put_version("t/dropped", 0,
                PROTO(3, 7, FEATURES("\"deletionVectors\"", "\"deletionVectors\"")) PLAIN);
    put_version("t/dropped", 1, PROTO(1, 2, ""));
    struct delta *d = delta_new(st, "t/dropped");
    refreshed(d, 0);
    put_version("t/dropped", 2, PROTO(3, 7, FEATURES("\"columnMapping\"", "\"columnMapping\"")));
    refreshed(d, ERR_UNSUPPORTED);
    put_version("t/dropped", 3, PROTO(1, 2, ""));
    refreshed(d, 0);
    delta_free(&d);
}

enum { EACH = 40 };

/* Commits EACH times, whatever others do; as a writer of the sink would. */
static int hammer(struct store *s, const char *table, const char *who)
{
    struct delta *d = delta_new(s, table);
    struct err e = {0};
    int rc = delta_refresh(d, NULL, &e);
    for (int n = 0; n < EACH && !rc; n++) {
        char name[64], id[64];
        (void)snprintf(name, sizeof name, "%s-%d", who, n);
        (void)snprintf(id, sizeof id, "id-%s-%d", who, n);
        do {
            rc = commit(d, delta_version(d) + 1, name, 1, who, n, id);
            int again = delta_refresh(d, NULL, &e);
            if (again)
                rc = again;
        } while (rc == ERR_CONFLICT);
    }
    delta_free(&d);
    return rc;
}

struct hammerer {
    const char *who;
    int rc;
};

static void *hammer_mt(void *ctx)
{
    struct hammerer *h = ctx;
    h->rc = hammer(st, "t/race", h->who);
    return NULL;
}

static void test_writers_race(void **state)
{
    (void)state;
    struct delta *d = delta_new(st, "t/race");
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    static const char *const processes[] = {"p0", "p1"};
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(hammer(st, "t/race", processes[i]) ? 1 : 0);
    }
    struct hammerer h[2] = {{.who = "t0"}, {.who = "t1"}};
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hammer_mt, &h[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(h[i].rc, 0);
        int status = -1;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    refreshed(d, 0);
    assert_int_equal(delta_version(d), 4 * EACH);
    assert_int_equal(delta_files(d), 4 * EACH);
    assert_int_equal(delta_rows(d), 4 * EACH);
    static const char *const all[] = {"p0", "p1", "t0", "t1"};
    for (int i = 0; i < 4; i++) {
        int64_t v = -1;
        assert_true(delta_txn(d, str_of(all[i]), &v));
        assert_int_equal(v, EACH - 1);
    }
    delta_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_commit_follow),
        cmocka_unit_test(test_exact_text),
        cmocka_unit_test(test_checkpoints_equal_commits),
        cmocka_unit_test(test_large_checkpoint_in_little_memory),
        cmocka_unit_test(test_wrong_hints),
        cmocka_unit_test(test_gaps),
        cmocka_unit_test(test_table_made_anew),
        cmocka_unit_test(test_follower_sleeps_through_a_clean_up),
        cmocka_unit_test(test_foreign_tables),
        cmocka_unit_test(test_writers_race),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
