/* test_delta_foreign: what other writers, operators and accidents leave in a table's log: hints, gaps, clean-ups, features, replaced
 * tables, checkpoints of others.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/mem.h"
#include "lake/parquet.h"
#include "support/lake.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

static void test_wrong_hints(void **state)
{
    (void)state;
    lake_make_history(lake, "t/hint", schema, 6);
    struct delta *d = delta_new(lake->store, "t/hint");
    struct err e = {0};
    assert_int_equal(delta_load_at(d, lake->conn, 4, &e), 0);
    lake_checkpointed(lake, d);
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
        lake_put(lake, "t/hint", "_last_checkpoint", str_of(hints[i]));
        d = delta_new(lake->store, "t/hint");
        lake_refreshed(lake, d, 0);
        assert_int_equal(delta_version(d), 6);
        assert_int_equal(delta_rows(d), 6);
        delta_free(&d);
    }
}

static void test_gaps(void **state)
{
    (void)state;
    lake_make_history(lake, "t/gap", schema, 5);
    struct err e = {0};
    /* A follower that is behind the gap notices as well, at the latest when it looks at the whole list again. */
    struct delta *follower = delta_new(lake->store, "t/gap");
    assert_int_equal(delta_load_at(follower, lake->conn, 2, &e), 0);
    lake_delete_version(lake, "t/gap", 3);
    struct delta *d = delta_new(lake->store, "t/gap");
    lake_refreshed(lake, d, ERR_CORRUPT);
    assert_int_equal(delta_refresh(d, lake->conn, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "commit 3"));
    assert_int_equal(delta_version(d), -1);
    assert_int_equal(delta_load_at(d, lake->conn, 2, &e), 0);
    assert_int_equal(delta_rows(d), 2);
    delta_free(&d);
    clock_fake(clock_us() + 3600000000ull, clock_wall_ms());
    lake_refreshed(lake, follower, ERR_CORRUPT);
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
        lake_make_history(lake, table, schema, 1);
        d = delta_new(lake->store, table);
        lake_refreshed(lake, d, 0);
        char *before = lake_state(d);
        lake_put_version(lake, table, 2, broken[i]);
        lake_refreshed(lake, d, ERR_CORRUPT);
        char *after = lake_state(d); /* nothing of the broken commit was taken */
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
    lake_make_history(lake, "t/anew", schema, 3);
    struct delta *d = delta_new(lake->store, "t/anew");
    lake_refreshed(lake, d, 0);
    char *id = mem_strdup(delta_id(d));
    for (int64_t v = 0; v <= 3; v++)
        lake_delete_version(lake, "t/anew", v);
    lake_refreshed(lake, d, ERR_NOT_FOUND);
    assert_int_equal(delta_version(d), -1);
    lake_make_history(lake, "t/anew", schema, 1);
    lake_refreshed(lake, d, 0);
    assert_string_not_equal(delta_id(d), id);
    mem_free(id);
    /* Now behind its back, between two refreshes. */
    for (int64_t v = 0; v <= 1; v++)
        lake_delete_version(lake, "t/anew", v);
    lake_make_history(lake, "t/anew", schema, 0);
    lake_refreshed(lake, d, ERR_CONFLICT);
    assert_int_equal(delta_version(d), -1);
    assert_int_equal(delta_files(d), 0);
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 0);
    /* The same number of versions, of the same sizes: found by the thorough look. */
    lake_delete_version(lake, "t/anew", 0);
    lake_make_history(lake, "t/anew", schema, 0);
    clock_fake(clock_us() + 3600000000ull, clock_wall_ms());
    lake_refreshed(lake, d, ERR_CONFLICT);
    clock_real();
    delta_free(&d);
}

static void test_follower_sleeps_through_a_clean_up(void **state)
{
    (void)state;
    lake_make_history(lake, "t/sleep", schema, 2);
    struct delta *d = delta_new(lake->store, "t/sleep"), *w = delta_new(lake->store, "t/sleep");
    lake_refreshed(lake, d, 0);
    struct err e = {0};
    for (int64_t v = 3; v <= 9; v++)
        assert_int_equal(lake_commit(w, v, v == 9 ? "nine" : "x", 1, "app", v, "i"), 0);
    assert_int_equal(delta_load_at(w, lake->conn, 8, &e), 0);
    lake_checkpointed(lake, w);
    for (int64_t v = 0; v < 8; v++)
        lake_delete_version(lake, "t/sleep", v);
    lake_refreshed(lake, d, 0);
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

#define ADD(path, more)                                                                            \
    "{\"add\":{\"path\":\"" path "\",\"partitionValues\":{},\"size\":1,\"modificationTime\":1,"    \
    "\"dataChange\":true" more "}}\n"
#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define LONG_NAME X64 X64 X64 X64 X64

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
    {PROTO(1, 2, "") PLAIN ADD("file:/tmp/x", ""), ERR_UNSUPPORTED, ERR_UNSUPPORTED, "file:/tmp/x"},
    {PROTO(1, 2, "") PLAIN ADD("/x", ""), ERR_UNSUPPORTED, ERR_UNSUPPORTED, "outside"},
    {PROTO(1, 2, "") PLAIN ADD("a/%2E%2e/../x", ""), ERR_UNSUPPORTED, ERR_UNSUPPORTED, "outside"},
    {PROTO(1, 2, "") PLAIN ADD("t=12%3A30/..x", "") ADD("a%3Ab", "") ADD("x%20y/z..", ""), 0, 0,
     NULL},
    {PROTO(1, 2, "") PLAIN ADD("a%00b", ""), ERR_CORRUPT, ERR_CORRUPT, "path"},
    {PROTO(1, 2, "") PLAIN ADD("a\\u0000b", ""), ERR_CORRUPT, ERR_CORRUPT, "path"},
    /* A name that is longer than any message is no less unknown. */
    {PROTO(3, 7, FEATURES("\"" LONG_NAME "\"", "\"" LONG_NAME "\"")) PLAIN, ERR_UNSUPPORTED,
     ERR_UNSUPPORTED, "reader feature(s) xxxxxxxx"},
    {PROTO(3, 7, FEATURES("", "\"" LONG_NAME "\"")) PLAIN, 0, ERR_UNSUPPORTED,
     "writer feature(s) xxxxxxxx"},
    {PROTO(3, 7, ",\"writerFeatures\":[]") PLAIN, ERR_CORRUPT, ERR_CORRUPT, "readerFeatures"},
    {PROTO(3, 7, ",\"readerFeatures\":[]") PLAIN, 0, ERR_CORRUPT, "writerFeatures"},
    {PROTO(0, 2, "") PLAIN, ERR_CORRUPT, ERR_CORRUPT, "minReaderVersion"},
    {PROTO(1, -2, "") PLAIN, ERR_CORRUPT, ERR_CORRUPT, "minWriterVersion"},
    {PROTO(1, 2, ""), ERR_CORRUPT, ERR_CORRUPT, "metaData"},
    {PLAIN, ERR_CORRUPT, ERR_CORRUPT, "protocol"},
    {PROTO(1, 2, "") "{\"metaData\":{\"id\":\"i\"}}\n", ERR_CORRUPT, ERR_CORRUPT, "schema"},
};

static void test_foreign_tables(void **state)
{
    (void)state;
    /* order is free */
    static const struct column_def two[] = {{"s", COLUMN_STR}, {"id", COLUMN_LONG}};
    char *ours = parquet_delta_schema(two, 2);
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        char *table = mem_printf("t/foreign%zu", i);
        lake_put_version(lake, table, 0, foreign[i].text);
        struct delta *d = delta_new(lake->store, table);
        struct err e = {0};
        int rc = delta_refresh(d, lake->conn, &e);
        assert_int_equal(delta_refresh(d, lake->conn, &e), rc); /* and again */
        struct err w = {0};
        int rc2 = delta_check_writable(d, ours, &w);
        const char *text = rc ? e.text : w.text, *word = foreign[i].word;
        if (rc != foreign[i].read || rc2 != foreign[i].write || (word && !strstr(text, word)))
            print_error("%zu: %s\n", i, text);
        assert_int_equal(rc, foreign[i].read);
        assert_int_equal(rc2, foreign[i].write);
        assert_true(!word || strstr(text, word));
        delta_free(&d);
        mem_free(table);
    }
    mem_free(ours);
    /* A feature that was dropped again does no harm; one that comes does. */
    lake_put_version(lake, "t/dropped", 0,
                     PROTO(3, 7, FEATURES("\"deletionVectors\"", "\"deletionVectors\"")) PLAIN);
    lake_put_version(lake, "t/dropped", 1, PROTO(1, 2, ""));
    struct delta *d = delta_new(lake->store, "t/dropped");
    lake_refreshed(lake, d, 0);
    lake_put_version(lake, "t/dropped", 2,
                     PROTO(3, 7, FEATURES("\"columnMapping\"", "\"columnMapping\"")));
    lake_refreshed(lake, d, ERR_UNSUPPORTED);
    lake_put_version(lake, "t/dropped", 3, PROTO(1, 2, ""));
    lake_refreshed(lake, d, 0);
    delta_free(&d);
}

/* A table that took another's place, with the longer log: nothing of the old one may stay under what is new. */
static void test_replaced_by_a_longer_log(void **state)
{
    (void)state;
    lake_make_history(lake, "t/longer", schema, 3);
    struct delta *d = delta_new(lake->store, "t/longer");
    lake_refreshed(lake, d, 0);
    for (int64_t v = 0; v <= 3; v++)
        lake_delete_version(lake, "t/longer", v);
    struct delta *other = delta_new(lake->store, "t/longer");
    struct err e = {0};
    assert_int_equal(delta_create(other, schema, &e), 0);
    for (int64_t v = 1; v <= 5; v++) /* its commits have other sizes */
        assert_int_equal(lake_commit(other, v, "anew", 1000, "another", v, "x"), 0);
    delta_free(&other);
    lake_refreshed(lake, d, ERR_CONFLICT);
    assert_int_equal(delta_version(d), -1);
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 5);
    int64_t v;
    assert_false(delta_txn(d, STR("app"), &v));
    assert_true(delta_txn(d, STR("another"), &v));
    delta_free(&d);
}

/* CREATE OR REPLACE TABLE gives the table another id within its log: told once, and then the new table is read. */
static void test_replaced_in_its_log(void **state)
{
    (void)state;
    lake_make_history(lake, "t/replaced", schema, 2);
    struct delta *d = delta_new(lake->store, "t/replaced");
    lake_refreshed(lake, d, 0);
    lake_put_version(lake, "t/replaced", 3,
                     "{\"commitInfo\":{\"operation\":\"CREATE OR REPLACE TABLE\"}}\n" PLAIN
                     "{\"remove\":{\"path\":\"part-001.parquet\",\"deletionTimestamp\":1}}\n"
                     "{\"remove\":{\"path\":\"part-002.parquet\",\"deletionTimestamp\":1}}\n");
    lake_refreshed(lake, d, ERR_CONFLICT);
    assert_int_equal(delta_version(d), -1);
    lake_refreshed(lake, d, 0);
    assert_string_equal(delta_id(d), "i");
    assert_int_equal(delta_files(d), 0);
    int64_t v = 0;
    assert_true(delta_txn(d, STR("app"), &v)); /* positions belong to the log, not to an id */
    assert_int_equal(v, 2);
    struct err e = {0};
    assert_int_equal(delta_load_at(d, lake->conn, 2, &e), 0); /* and the past is what it was */
    assert_int_equal(delta_rows(d), 2);
    assert_string_not_equal(delta_id(d), "i");
    lake_refreshed(lake, d, ERR_CONFLICT);
    lake_refreshed(lake, d, 0);
    assert_int_equal(lake_commit(d, 4, "more", 1, "app", 3, "m"), 0);
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 4);
    lake_checkpointed(lake, d);
    delta_free(&d);
    for (v = 0; v < 4; v++)
        lake_delete_version(lake, "t/replaced", v);
    d = delta_new(lake->store, "t/replaced");
    lake_refreshed(lake, d, 0);
    assert_string_equal(delta_id(d), "i");
    assert_int_equal(delta_rows(d), 1);
    delta_free(&d);
}

/* Names that are none of a log's commits and checkpoints: other software's, and numbers past what a version can be. */
static void test_other_names_in_the_log(void **state)
{
    (void)state;
    static const char *const names[] = {
        "00000000000000000002.crc",
        "00000000000000000001.00000000000000000003.compacted.json",
        "00000000000000000000.00000000000000000002.compacted.json",
        "_sidecars/3a0d65cd-4056-49b8-937b-95f9e3ee90e5.parquet",
        "_staged_commits/00000000000000000004.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.json",
        "00000000000000000004.json.tmp",
        "00000000000000000004.json.gz",
        "00000000000000000004.JSON",
        "0000000000000000004.json",
        "000000000000000000004.json",
        "00000000000000000004json",
        "0000000000000000000a.json",
        "+0000000000000000004.json",
        "09223372036854775807.json",
        "09223372036854775807.checkpoint.parquet",
        "09223372036854775808.json",
        "99999999999999999999.checkpoint.parquet",
        "09007199254740993000.checkpoint.0000000001.0000000001.parquet",
        "00000000000000000003.checkpoint.0000000000.0000000001.parquet",
        "00000000000000000003.checkpoint.0000000002.0000000001.parquet",
        "00000000000000000003.checkpoint.0000000001.0000000002.parquet",
        "00000000000000000003.checkpoint.0000000001.0000000000.parquet",
        "00000000000000000003.checkpoint.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.parquet",
        "00000000000000000003.checkpoint.parquet.tmp",
        ".00000000000000000004.json.crc",
        ".00000000000000000004.json.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.tmp",
        "_commits",
        "notes.txt",
    };
    lake_make_history(lake, "t/names", schema, 3);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        lake_put(lake, "t/names", names[i], STR("not what a log has"));
    struct delta *d = delta_new(lake->store, "t/names");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 3);
    assert_int_equal(delta_rows(d), 3);
    clock_fake(clock_us() + 3600000000ull, clock_wall_ms());
    lake_refreshed(lake, d, 0); /* the thorough look as well */
    clock_real();
    assert_int_equal(delta_version(d), 3);
    delta_free(&d);
}

/* What lies there and is no table that can be read must not be taken for no table: a writer would make one on top of it. */
static void test_a_log_that_is_none_of_ours(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int rc;
        const char *word;
    } logs[] = {
        {"00000000000000000007.checkpoint.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.parquet",
         ERR_UNSUPPORTED, "v2Checkpoint"},
        {"00000000000000000007.checkpoint.0000000001.0000000002.parquet", ERR_CORRUPT,
         "checkpoint"},
        {"00000000000000000007.json", ERR_CORRUPT, "commit 0"},
        {"_last_checkpoint", ERR_NOT_FOUND, "no log"},
    };
    for (size_t i = 0; i < sizeof logs / sizeof *logs; i++) {
        char *table = mem_printf("t/none%zu", i);
        lake_put(lake, table, logs[i].name, STR("{\"version\":7}"));
        struct delta *d = delta_new(lake->store, table);
        struct err e = {0};
        assert_int_equal(delta_refresh(d, lake->conn, &e), logs[i].rc);
        assert_non_null(strstr(e.text, logs[i].word));
        assert_int_equal(delta_version(d), -1);
        delta_free(&d);
        mem_free(table);
    }
    struct delta *d = delta_new(lake->store, "t/none0");
    struct err e = {0};
    assert_int_equal(delta_load_at(d, lake->conn, -1, &e), ERR_NOT_FOUND);
    assert_int_equal(delta_load_at(d, lake->conn, INT64_MIN, &e), ERR_NOT_FOUND);
    assert_int_equal(delta_load_at(d, lake->conn, INT64_MAX, &e), ERR_UNSUPPORTED);
    delta_free(&d);
}

/* Makes a Parquet file in the log from another one there. */
static void copy(const char *table, const char *columns_wanted, const char *from, const char *part,
                 const char *to)
{
    char *log = mem_printf("%s/%s/_delta_log", lake->dir, table);
    char *text =
        mem_printf("COPY (SELECT %s FROM read_parquet('%s/%s') %s) TO '%s/%s' (FORMAT parquet)",
                   columns_wanted, log, from, part, log, to);
    struct err e = {0};
    int rc = duck_exec(lake->conn, text, &e);
    if (rc)
        print_error("%s\n%s\n", text, e.text);
    assert_int_equal(rc, 0);
    mem_free(text);
    mem_free(log);
}

#define CHECKPOINT_4 "00000000000000000004.checkpoint.parquet"

/* A history of 6 versions, of which a checkpoint at 4 and what follows it is left. */
static char *checkpointed_table(const char *table)
{
    struct err e = {0};
    lake_make_history(lake, table, schema, 6);
    struct delta *d = delta_new(lake->store, table);
    assert_int_equal(delta_load_at(d, lake->conn, 4, &e), 0);
    lake_checkpointed(lake, d);
    delta_free(&d);
    char *want = lake_state_at(lake, table, 6);
    for (int64_t v = 0; v <= 4; v++)
        lake_delete_version(lake, table, v);
    return want;
}

static void assert_reads(const char *table, const char *want)
{
    struct delta *d = delta_new(lake->store, table);
    lake_refreshed(lake, d, 0);
    char *got = lake_state(d);
    assert_string_equal(got, want);
    mem_free(got);
    delta_free(&d);
}

/* A checkpoint in parts counts when all of them are there; it may be all that is left of the log. */
static void test_checkpoint_in_parts(void **state)
{
    (void)state;
    char *want = checkpointed_table("t/parts");
    static const char *const parts[] = {
        "00000000000000000004.checkpoint.0000000001.0000000003.parquet",
        "00000000000000000004.checkpoint.0000000002.0000000003.parquet",
        "00000000000000000004.checkpoint.0000000003.0000000003.parquet"};
    static const char *const limits[] = {"LIMIT 2", "LIMIT 3 OFFSET 2", "OFFSET 5"};
    for (int i = 0; i < 3; i++)
        copy("t/parts", "*", CHECKPOINT_4, limits[i], parts[i]);
    lake_delete(lake, "t/parts", CHECKPOINT_4);
    lake_delete(lake, "t/parts", "_last_checkpoint");
    assert_reads("t/parts", want);
    mem_free(want);
    /* Parts of another division beside them, incomplete, change nothing; nor does a newer incomplete one. */
    want = lake_state_at(lake, "t/parts", 6);
    lake_put(lake, "t/parts", "00000000000000000004.checkpoint.0000000001.0000000004.parquet",
             STR("x"));
    lake_put(lake, "t/parts", "00000000000000000004.checkpoint.0000000002.0000000002.parquet",
             STR("x"));
    lake_put(lake, "t/parts", "00000000000000000006.checkpoint.0000000001.0000000002.parquet",
             STR("x"));
    assert_reads("t/parts", want);
    mem_free(want);
    /* Nothing but the parts: version 4 and no other. */
    lake_delete(lake, "t/parts", "00000000000000000006.checkpoint.0000000001.0000000002.parquet");
    for (int64_t v = 5; v <= 6; v++)
        lake_delete_version(lake, "t/parts", v);
    struct delta *d = delta_new(lake->store, "t/parts");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 4);
    assert_int_equal(delta_rows(d), 4);
    lake_refreshed(lake, d, 0);
    assert_int_equal(lake_commit(d, 5, "five", 1, "app", 5, "five"), 0);
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_rows(d), 5);
    delta_free(&d);
    lake_delete(lake, "t/parts", parts[1]);
    d = delta_new(lake->store, "t/parts");
    lake_refreshed(lake, d, ERR_CORRUPT);
    delta_free(&d);
}

/* Spark's checkpoints may hold parsed statistics with numbers that JSON has not, and columns that nobody else knows. */
static void test_checkpoint_of_another_writer(void **state)
{
    (void)state;
    char *want = checkpointed_table("t/parsed");
    copy("t/parsed",
         "txn, CASE WHEN \"add\" IS NOT NULL THEN struct_insert(\"add\", stats_parsed := "
         "{'numRecords': 1::BIGINT, 'minValues': {'d': "
         "'NaN'::DOUBLE, 'i': '-inf'::DOUBLE, 'h': 12345678901234567890123::DECIMAL(38,0), 't': "
         "now()}}, partitionValues_parsed := {'x': 'Infinity'::FLOAT}, defaultRowCommitVersion := "
         "3) END AS \"add\", remove, \"metaData\", protocol, NULL::STRUCT(\"path\" VARCHAR) AS cdc",
         CHECKPOINT_4, "", "new.parquet");
    copy("t/parsed", "*", "new.parquet", "", CHECKPOINT_4);
    assert_reads("t/parsed", want);
    mem_free(want);
    /* Without the text, the rows are known from the parsed ones. */
    copy("t/parsed",
         "* REPLACE (CASE WHEN \"add\" IS NOT NULL THEN struct_update(\"add\", stats := "
         "NULL::VARCHAR) END AS \"add\")",
         "new.parquet", "", CHECKPOINT_4);
    struct delta *d = delta_new(lake->store, "t/parsed");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_rows(d), 6);
    delta_free(&d);
    /* Columns of wrong types, and none at all. */
    static const char *const wrong[] = {"* REPLACE ({'path': 1, 'size': 'large'} AS \"add\")",
                                        "* REPLACE (5 AS \"add\")", "* EXCLUDE \"add\"",
                                        "* REPLACE ({'appId': 7} AS txn)"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        copy("t/parsed", wrong[i], "new.parquet", "", CHECKPOINT_4);
        struct err e = {0};
        d = delta_new(lake->store, "t/parsed");
        assert_int_equal(delta_refresh(d, lake->conn, &e), ERR_CORRUPT);
        assert_int_equal(e.code, ERR_CORRUPT);
        assert_non_null(strstr(e.text, CHECKPOINT_4));
        delta_free(&d);
    }
}

#define VECTOR ",\"deletionVector\":{\"storageType\":\"u\",\"pathOrInlineDv\":\"ab\",\"offset\":1}"

/* A file whose deletion vector went away again is the file, also after a checkpoint. */
static void test_deletion_vectors_that_went_away(void **state)
{
    (void)state;
    char *gone = mem_printf(
        "{\"remove\":{\"path\":\"x\",\"deletionTimestamp\":%lld,\"dataChange\":true" VECTOR
        "}}\n" ADD("x", "") PROTO(1, 2, ""),
        (long long)clock_wall_ms());
    lake_put_version(lake, "t/vector", 0,
                     PROTO(3, 7, FEATURES("\"deletionVectors\"", "\"deletionVectors\""))
                         PLAIN ADD("x", ""));
    lake_put_version(lake, "t/vector", 1,
                     "{\"remove\":{\"path\":\"x\",\"deletionTimestamp\":1}}\n" ADD("x", VECTOR));
    struct delta *d = delta_new(lake->store, "t/vector");
    lake_refreshed(lake, d, ERR_UNSUPPORTED);
    lake_put_version(lake, "t/vector", 2, gone);
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_files(d), 1);
    lake_checkpointed(lake, d);
    delta_free(&d);
    for (int64_t v = 0; v <= 2; v++)
        lake_delete_version(lake, "t/vector", v);
    d = delta_new(lake->store, "t/vector");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_files(d), 1);
    struct duck_rows *rows;
    struct err e = {0};
    char *count = mem_printf("SELECT count(remove) FROM read_parquet('%s/t/vector/_delta_log/"
                             "00000000000000000002.checkpoint.parquet')",
                             lake->dir);
    assert_int_equal(duck_query_sql(lake->conn, count, &rows, &e), 0);
    assert_int_equal(duck_next(rows, &e), 1);
    assert_int_equal(duck_i64(rows, 0), 0);
    duck_rows_free(&rows);
    mem_free(count);
    mem_free(gone);
    delta_free(&d);
}

/* A commit that others saw half: read while it was empty, whole a moment later. */
static void test_a_commit_that_grows(void **state)
{
    (void)state;
    lake_make_history(lake, "t/grows", schema, 2);
    struct delta *d = delta_new(lake->store, "t/grows");
    lake_refreshed(lake, d, 0);
    lake_put_version(lake, "t/grows", 3, "");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 3);
    lake_put_version(lake, "t/grows", 3, ADD("late", ""));
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_version(d), 3);
    assert_int_equal(delta_files(d), 3);
    delta_free(&d);
}

/* Numbers that only a forger writes: nothing overflows, and a sum that cannot be told is not told. */
static void test_numbers_beyond_reason(void **state)
{
    (void)state;
#define MANY ",\"stats\":\"{\\\"numRecords\\\":9223372036854775807}\""
    lake_put_version(lake, "t/numbers", 0, PROTO(1, 2, "") PLAIN ADD("a", MANY) ADD("b", MANY));
    struct delta *d = delta_new(lake->store, "t/numbers");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_rows(d), -1);
    lake_put_version(lake, "t/numbers", 1, "{\"remove\":{\"path\":\"a\"}}\n");
    lake_refreshed(lake, d, 0);
    assert_true(delta_rows(d) == INT64_MAX);
    lake_put_version(
        lake, "t/numbers", 2,
        "{\"txn\":{\"appId\":\"x\",\"version\":-9223372036854775808,\"lastUpdated\":"
        "-1}}\n{\"remove\":{\"path\":\"b\",\"deletionTimestamp\":-9223372036854775808}}\n");
    lake_refreshed(lake, d, 0);
    assert_int_equal(delta_rows(d), 0);
    lake_checkpointed(lake, d);
    delta_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_hints),
        cmocka_unit_test(test_gaps),
        cmocka_unit_test(test_table_made_anew),
        cmocka_unit_test(test_follower_sleeps_through_a_clean_up),
        cmocka_unit_test(test_foreign_tables),
        cmocka_unit_test(test_replaced_by_a_longer_log),
        cmocka_unit_test(test_replaced_in_its_log),
        cmocka_unit_test(test_other_names_in_the_log),
        cmocka_unit_test(test_a_log_that_is_none_of_ours),
        cmocka_unit_test(test_checkpoint_in_parts),
        cmocka_unit_test(test_checkpoint_of_another_writer),
        cmocka_unit_test(test_deletion_vectors_that_went_away),
        cmocka_unit_test(test_a_commit_that_grows),
        cmocka_unit_test(test_numbers_beyond_reason),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
