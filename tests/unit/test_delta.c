/* test_delta: the log of a table: commits and races for them, checkpoints. What others leave in it: test_delta_foreign.c; damage:
 * test_delta_damage.c.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/parquet.h"
#include "support/lake.h"
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
static struct lake *lake;
static char *schema;

static int set_up(void **state)
{
    (void)state;
    lake = lake_new();
    schema = parquet_delta_schema(columns, 3);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lake_free(&lake);
    mem_free(schema);
    return 0;
}

static void test_create_commit_follow(void **state)
{
    (void)state;
    struct delta *d = delta_new(lake->store, "t/create");
    lake_refreshed(lake, d, ERR_NOT_FOUND);
    assert_int_equal(delta_version(d), -1);
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    assert_int_equal(delta_create(d, "another", &e), 0); /* there already: nothing changes */
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 0);
    assert_string_equal(delta_schema(d), schema);
    assert_int_equal(strlen(delta_id(d)), 36);
    assert_int_equal(delta_check_writable(d, schema, &e), 0);
    assert_int_equal(delta_rows(d), 0);

    assert_int_equal(lake_commit(d, 1, "a", 10, "sluice:kafka:x:0:G", 7, "id-1"), 0);
    assert_int_equal(delta_version(d), 0); /* only a refresh moves it */
    assert_int_equal(lake_commit(d, 1, "a", 10, "sluice:kafka:x:0:G", 7, "id-1"), 0);
    assert_int_equal(lake_commit(d, 1, "b", 10, "sluice:kafka:x:0:G", 7, "id-2"), ERR_CONFLICT);
    assert_int_equal(lake_commit(d, 2, "b", 5, "sluice:kafka:x:0:G", 9, "id-2"), 0);
    uint64_t reads = delta_reads(d);
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_reads(d), reads + 2);
    lake_refreshed(lake, d, 0);
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

    d = delta_new(lake->store, "t/create");
    assert_int_equal(delta_load_at(d, lake->conn, 1, &e), 0);
    assert_int_equal(delta_version(d), 1);
    assert_int_equal(delta_rows(d), 10);
    assert_int_equal(delta_load_at(d, lake->conn, 3, &e), ERR_NOT_FOUND);
    delta_free(&d);
}

static void test_exact_text(void **state)
{
    (void)state;
    struct delta_file f[] = {{.path = (char *)"part-00000-x.parquet",
                              .bytes = 18734,
                              .rows = 3,
                              .modified_ms = 1760000000123,
                              .stats = (char *)"{\"numRecords\":3}"},
                             {.path = (char *)"a=1~/\xC3\xB6 %+:.parquet", .rows = -1}};
    struct delta_txn_action t[] = {{"sluice:kafka:demo.pin:3:6K", 4217}, {"\"", INT64_MIN}};
    struct delta_commit c = {.version = 42,
                             .txn_id = "the-id",
                             .adds = f,
                             .adds_n = 2,
                             .txns = t,
                             .txns_n = 2,
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
        "\"numOutputRows\":\"3\",\"numOutputBytes\":\"18734\",\"numAddedFiles\":\"2\"},"
        "\"engineInfo\":\"sink-s3/0.1\","
        "\"txnId\":\"the-id\",\"sluice.copies\":2,\"sluice.lost\":[{\"from\":0,\"to\":5}]}}\n"
        "{\"txn\":{\"appId\":\"sluice:kafka:demo.pin:3:6K\",\"version\":4217,\"lastUpdated\":"
        "1760000000456}}\n"
        "{\"txn\":{\"appId\":\"\\\"\",\"version\":-9223372036854775808,\"lastUpdated\":"
        "1760000000456}}\n"
        "{\"add\":{\"path\":\"part-00000-x.parquet\",\"partitionValues\":{},\"size\":18734,"
        "\"modificationTime\":1760000000123,\"dataChange\":true,\"stats\":\"{\\\"numRecords\\\":3}"
        "\"}}\n"
        "{\"add\":{\"path\":\"a=1~/%C3%B6%20%25%2B%3A.parquet\",\"partitionValues\":{},\"size\":0,"
        "\"modificationTime\":0,\"dataChange\":true}}\n");
    buf_deinit(&b);
    /* Version 0 but for its times and its two UUIDs. */
    struct err e = {0};
    struct delta *d = delta_new(lake->store, "t/zero");
    assert_int_equal(delta_create(d, schema, &e), 0);
    delta_free(&d);
    buf_init(&b, 1 << 16);
    assert_int_equal(store_get(lake->store, "t/zero/_delta_log/00000000000000000000.json", &b, &e),
                     0);
    struct str rest = buf_as_str(&b), line[4];
    for (int i = 0; i < 3; i++)
        assert_true(str_next(&rest, '\n', &line[i]));
    json_t *info = json_loadb(line[0].p, line[0].n, 0, NULL),
           *meta = json_loadb(line[2].p, line[2].n, 0, NULL);
    const json_t *i = json_object_get(info, "commitInfo"), *m = json_object_get(meta, "metaData");
    long long at = json_integer_value(json_object_get(i, "timestamp"));
    const char *txn_id = json_string_value(json_object_get(i, "txnId")),
               *id = json_string_value(json_object_get(m, "id"));
    assert_true(at > 1700000000000 && strlen(txn_id) == 36 && strlen(id) == 36);
    assert_string_not_equal(txn_id, id);
    struct buf want;
    buf_init(&want, 1 << 16);
    buf_printf(&want,
               "{\"commitInfo\":{\"timestamp\":%lld,\"operation\":\"CREATE TABLE\","
               "\"operationParameters\":{\"isManaged\":\"false\",\"partitionBy\":\"[]\","
               "\"properties\":\"{}\"},\"isolationLevel\":\"Serializable\",\"isBlindAppend\":true,"
               "\"operationMetrics\":{},\"engineInfo\":\"sink-s3/0.1\",\"txnId\":\"%s\"}}\n"
               "{\"protocol\":{\"minReaderVersion\":1,\"minWriterVersion\":2}}\n"
               "{\"metaData\":{\"id\":\"%s\",\"format\":{\"provider\":\"parquet\",\"options\":{}},"
               "\"schemaString\":",
               at, txn_id, id);
    buf_json(&want, str_of(schema));
    buf_printf(&want,
               ",\"partitionColumns\":[],\"configuration\":{\"delta.checkpointInterval\":\"100\"},"
               "\"createdTime\":%lld}}\n",
               at);
    assert_string_equal(b.data, want.data);
    json_decref(info);
    json_decref(meta);
    buf_deinit(&want);
    buf_deinit(&b);
}

enum { HISTORY = 34 };

static void test_checkpoints_equal_commits(void **state)
{
    (void)state;
    const char *table = "t/check";
    struct delta *d = delta_new(lake->store, table);
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    lake_refreshed(lake, d, 0);
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
            lake_put_version(lake, table, v, text);
            mem_free(text);
        } else {
            assert_int_equal(lake_commit(d, v, name, v, app, v * 10, id), 0);
        }
        lake_refreshed(lake, d, 0);
        assert_int_equal(delta_version(d), v);
        want[v] = lake_state(d);
        if (v == 12 || v == 25)
            lake_checkpointed(lake, d);
    }
    assert_non_null(strstr(want[HISTORY], "sub dir/c3.parquet 7 11 9"));
    /* Each version, first with all that is there, then without the commits that checkpoints cover. */
    for (int pass = 0; pass < 3; pass++) {
        for (int64_t v = pass == 0 ? 1 : pass == 1 ? 12 : 25; v <= HISTORY; v++) {
            char *got = lake_state_at(lake, table, v);
            assert_string_equal(got, want[v]);
            mem_free(got);
        }
        for (int64_t v = pass == 0 ? 0 : 13; pass < 2 && v <= (pass == 0 ? 11 : 24); v++)
            lake_delete_version(lake, table, v);
        if (pass == 1)
            lake_delete(lake, table, "00000000000000000012.checkpoint.parquet");
        if (pass < 2) {
            struct delta *early = delta_new(lake->store, table);
            assert_int_equal(delta_load_at(early, lake->conn, pass == 0 ? 5 : 14, &e),
                             ERR_NOT_FOUND);
            delta_free(&early);
        }
    }
    struct delta *fresh = delta_new(lake->store, table);
    lake_refreshed(lake, fresh, 0);
    char *got = lake_state(fresh);
    assert_string_equal(got, want[HISTORY]);
    mem_free(got);
    /* A reader without DuckDB says so. */
    struct delta *plain = delta_new(lake->store, table);
    assert_int_equal(delta_refresh(plain, NULL, &e), ERR_UNSUPPORTED);
    delta_free(&plain);
    /* A checkpoint of a checkpoint is the same again; and one that is there already is no failure. */
    lake_checkpointed(lake, fresh);
    lake_checkpointed(lake, fresh);
    delta_free(&fresh);
    got = lake_state_at(lake, table, HISTORY);
    assert_string_equal(got, want[HISTORY]);
    mem_free(got);
    /* The pointer never goes back. */
    fresh = delta_new(lake->store, table);
    assert_int_equal(delta_load_at(fresh, lake->conn, 30, &e), 0);
    lake_checkpointed(lake, fresh);
    delta_free(&fresh);
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(store_get(lake->store, "t/check/_delta_log/_last_checkpoint", &b, &e), 0);
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

/* The one value of a query, as text. */
static void assert_query(const char *fmt, const char *want)
{
    struct buf sql;
    struct err e = {0};
    struct duck_rows *rows;
    buf_init(&sql, 1 << 16);
    for (const char *p = fmt; *p; p++) {
        if (*p == '@')
            buf_printf(&sql, "read_parquet('%s/t/content/_delta_log/%020d.checkpoint.parquet')",
                       lake->dir, 1);
        else
            buf_char(&sql, *p);
    }
    if (duck_query_sql(lake->conn, sql.data, &rows, &e))
        fail_msg("%s: %s", sql.data, e.text);
    assert_int_equal(duck_next(rows, &e), 1);
    struct str got = duck_str(rows, 0);
    if (!str_is(got, want))
        print_error("%s: " STR_FMT "\n", fmt, STR_ARG(got));
    assert_true(str_is(got, want));
    duck_rows_free(&rows);
    buf_deinit(&sql);
}

/* Contract 1.9: what a checkpoint holds and what it leaves out; and the pointer to it. */
static void test_content_of_a_checkpoint(void **state)
{
    (void)state;
    struct err e = {0};
    long long now = (long long)clock_wall_ms(), week = 7 * 24 * 3600000LL;
    struct delta *d = delta_new(lake->store, "t/content");
    assert_int_equal(delta_create(d, schema, &e), 0);
    char *text = mem_printf(
        "{\"commitInfo\":{\"timestamp\":1}}\n"
        "{\"cdc\":{\"path\":\"c\",\"size\":1,\"dataChange\":false}}\n"
        "{\"txn\":{\"appId\":\"a\",\"version\":3,\"lastUpdated\":5}}\n"
        "{\"txn\":{\"appId\":\"b\",\"version\":-4}}\n"
        "{\"add\":{\"path\":\"live\",\"partitionValues\":{},\"size\":7,\"modificationTime\":9,"
        "\"dataChange\":true,\"tags\":{\"k\":null},\"stats\":\"{ }\"}}\n"
        "{\"add\":{\"path\":\"parted\",\"partitionValues\":{\"p\":null,\"q\":\"\"},\"size\":7,"
        "\"modificationTime\":9,\"dataChange\":true}}\n"
        "{\"remove\":{\"path\":\"fresh%%20one\",\"deletionTimestamp\":%lld,\"dataChange\":true,"
        "\"stats\":\"{}\",\"tags\":{\"x\":\"y\"},\"partitionValues\":{},\"size\":3}}\n"
        "{\"remove\":{\"path\":\"old\",\"deletionTimestamp\":%lld,\"dataChange\":true}}\n"
        "{\"remove\":{\"path\":\"timeless\",\"dataChange\":true}}\n",
        now - week + 60000, now - week - 60000);
    lake_put_version(lake, "t/content", 1, text);
    mem_free(text);
    /* Spark on a local folder keeps a checksum beside the pointer; one of an old pointer would make the new one unreadable to it. */
    lake_put(lake, "t/content", "_last_checkpoint", STR("{\"version\":0,\"size\":1}"));
    lake_put(lake, "t/content", "._last_checkpoint.crc", STR("crc"));
    lake_refreshed(lake, d, 0);
    lake_checkpointed(lake, d);
    delta_free(&d);
    assert_query("SELECT count(*)::VARCHAR FROM @", "7");
    assert_query("SELECT count(*)::VARCHAR FROM @ WHERE (txn IS NOT NULL)::INT + (\"add\" IS NOT "
                 "NULL)::INT + (remove IS NOT NULL)::INT + (\"metaData\" IS NOT NULL)::INT + "
                 "(protocol IS NOT NULL)::INT = 1",
                 "7");
    assert_query("SELECT string_agg(txn::VARCHAR, ';' ORDER BY txn) FROM @ WHERE txn IS NOT NULL",
                 "{'appId': a, 'version': 3, 'lastUpdated': 5};{'appId': b, 'version': -4, "
                 "'lastUpdated': NULL}");
    assert_query("SELECT string_agg(\"add\"::VARCHAR, ';' ORDER BY \"add\".path) FROM @",
                 "{'path': live, 'partitionValues': {}, 'size': 7, 'modificationTime': 9, "
                 "'dataChange': false, 'tags': {k=NULL}, 'stats': '{ }'};"
                 "{'path': parted, 'partitionValues': {p=NULL, q=''}, 'size': 7, "
                 "'modificationTime': 9, 'dataChange': false, 'tags': NULL, 'stats': NULL}");
    assert_query("SELECT string_agg(remove.path || remove.\"dataChange\" || remove.size || "
                 "remove.\"partitionValues\"::VARCHAR, ';') FROM @",
                 "fresh%20onefalse3{}");
    assert_query("SELECT string_agg((protocol::VARCHAR), ';') FROM @",
                 "{'minReaderVersion': 1, 'minWriterVersion': 2, 'readerFeatures': NULL, "
                 "'writerFeatures': NULL}");
    assert_query(
        "SELECT string_agg(m.format::VARCHAR || m.\"partitionColumns\"::VARCHAR || "
        "m.configuration::VARCHAR || (m.\"createdTime\" > 1700000000000)::VARCHAR, ';') FROM "
        "(SELECT \"metaData\" AS m FROM @)",
        "{'provider': parquet, 'options': {}}[]{delta.checkpointInterval=100}true");
    struct buf b;
    buf_init(&b, 4096);
    uint64_t bytes = 0;
    assert_int_equal(store_size(lake->store,
                                "t/content/_delta_log/00000000000000000001.checkpoint.parquet",
                                &bytes, &e),
                     0);
    assert_int_equal(store_get(lake->store, "t/content/_delta_log/_last_checkpoint", &b, &e), 0);
    char *want = mem_printf("{\"version\":1,\"size\":7,\"sizeInBytes\":%llu,\"numOfAddFiles\":2}",
                            (unsigned long long)bytes);
    assert_string_equal(b.data, want);
    mem_free(want);
    assert_int_equal(
        store_size(lake->store, "t/content/_delta_log/._last_checkpoint.crc", &bytes, &e),
        ERR_NOT_FOUND);
    assert_int_equal(store_sweep(lake->store, "t/content", 0, &e),
                     0); /* nothing half-made is left */
    buf_deinit(&b);
}

/* How long removed files are kept is the table's to say, in words that we do not read: then all of them are kept. */
static void test_removes_that_the_table_keeps(void **state)
{
    (void)state;
    struct err e = {0};
    struct delta *d = delta_new(lake->store, "t/keeps");
    assert_int_equal(delta_create(d, schema, &e), 0);
    lake_refreshed(lake, d, 0);
    char *text = mem_printf(
        "{\"metaData\":{\"id\":\"%s\",\"schemaString\":\"{\\\"type\\\":\\\"struct\\\","
        "\\\"fields\\\":[]}\",\"configuration\":{\"delta.deletedFileRetentionDuration\":"
        "\"interval 90 days\"}}}\n{\"remove\":{\"path\":\"old\",\"deletionTimestamp\":5}}\n",
        delta_id(d));
    lake_put_version(lake, "t/keeps", 1, text);
    mem_free(text);
    lake_refreshed(lake, d, 0);
    lake_checkpointed(lake, d);
    delta_free(&d);
    char *sql = mem_printf("SELECT count(remove) FROM read_parquet('%s/t/keeps/_delta_log/%020d."
                           "checkpoint.parquet')",
                           lake->dir, 1);
    struct duck_rows *rows;
    assert_int_equal(duck_query_sql(lake->conn, sql, &rows, &e), 0);
    assert_int_equal(duck_next(rows, &e), 1);
    assert_int_equal(duck_i64(rows, 0), 1);
    duck_rows_free(&rows);
    mem_free(sql);
}

/* The sink's connection has 64 MiB. */
static void test_large_checkpoint_in_little_memory(void **state)
{
    (void)state;
    enum { FILES = 30000 };
    struct err e = {0};
    struct delta *d = delta_new(lake->store, "t/large");
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
    lake_put_version(lake, "t/large", 1, b.data);
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
    lake_delete_version(lake, "t/large", 0);
    d = delta_new(lake->store, "t/large");
    assert_int_equal(delta_refresh(d, c, &e), 0);
    assert_int_equal(delta_files(d), FILES);
    assert_int_equal(delta_rows(d), FILES);
    delta_free(&d);
    duck_disconnect(&c);
    duck_close(&small);
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
            rc = lake_commit(d, delta_version(d) + 1, name, 1, who, n, id);
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
    h->rc = hammer(lake->store, "t/race", h->who);
    return NULL;
}

static void test_writers_race(void **state)
{
    (void)state;
    struct delta *d = delta_new(lake->store, "t/race");
    struct err e = {0};
    assert_int_equal(delta_create(d, schema, &e), 0);
    static const char *const processes[] = {"p0", "p1"};
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0)
            _exit(hammer(lake->store, "t/race", processes[i]) ? 1 : 0);
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
    lake_refreshed(lake, d, 0);
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
        cmocka_unit_test(test_content_of_a_checkpoint),
        cmocka_unit_test(test_removes_that_the_table_keeps),
        cmocka_unit_test(test_large_checkpoint_in_little_memory),
        cmocka_unit_test(test_writers_race),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
