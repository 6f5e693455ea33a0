/* test_table: one clean table and the dead one, through real files and DuckDB: what lands, in which order, and what is told of it.
 * All of it runs within one app, in its start: the turns of the loop are the test's.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mem.h"
#include "io/duck.h"
#include "sink-s3/table.h"
#include "support/tmpdir.h"
#include "support/turning.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define SOURCE "kafka:demo.pin:0:x"
#define COLUMNS_MAX (DATASET_MAX_COLUMNS + PROVENANCE_COLUMNS + DEAD_COLUMNS)

static const struct dataset *const pin = &datasets[DATASET_PIN];

/* One writer of the two tables, as a sink is. */
struct side {
    struct table *table;
    struct landing *dead;
    int64_t stored, bytes;
    uint64_t rows, rejects, conflicts, rebased, lost, retries;
    int resets, versions, refreshed, refreshed_rc;
};

static struct app *app;
static struct work *work;
static struct store *store;
static struct duck *duck;
static struct column_def columns[2][COLUMNS_MAX];
static char *dir;
static bool ran;

static void on_stored(void *ctx, struct table *t, int32_t partition, int64_t upto)
{
    struct side *s = ctx;
    (void)t;
    assert_true(partition == 0 && upto > s->stored);
    s->stored = upto;
}

static void on_reset(void *ctx, struct table *t)
{
    struct side *s = ctx;
    (void)t;
    s->resets++;
}

static void on_bytes(void *ctx, int64_t more)
{
    struct side *s = ctx;
    s->bytes += more;
    assert_true(s->bytes >= 0);
}

static void on_version(void *ctx, struct landing *l)
{
    struct side *s = ctx;
    assert_true(landing_version(l) > 0);
    s->versions++;
}

static void on_retry(void *ctx, struct landing *l)
{
    (void)l;
    struct side *s = ctx;
    s->retries++;
}

static void on_counts(void *ctx, struct landing *l, const struct landing_counts *c)
{
    struct side *s = ctx;
    /* The dead table is first: when rows land, the rejects before them are there. */
    if (l == s->dead)
        assert_int_equal(c->rows, 0);
    s->rows += c->rows;
    s->rejects += c->rejects;
    s->conflicts += c->conflicts;
    s->rebased += c->rebased;
    s->lost += c->lost;
}

static void on_refreshed(void *ctx, int rc)
{
    struct side *s = ctx;
    s->refreshed++;
    s->refreshed_rc = rc;
}

static void side_open(struct side *s, const char *user, uint64_t interval_ms, uint64_t rows)
{
    *s = (struct side){.stored = -1};
    char *clean = mem_printf("delta/%s_pin_table", user);
    char *dead = mem_printf("delta/%s_dead_table", user);
    struct landing_opts lo = {.writer = {.work = work,
                                         .store = store,
                                         .duck = duck,
                                         .path = dead,
                                         .columns = columns[1],
                                         .columns_n = PROVENANCE_COLUMNS + DEAD_COLUMNS,
                                         .checkpoint_interval = 4},
                              .name = "dead",
                              .dead = true,
                              .commit_max_age_ms = 60000,
                              .on_version = on_version,
                              .on_retry = on_retry,
                              .on_counts = on_counts,
                              .ctx = s};
    s->dead = landing_open(app, &lo);
    lo.writer.path = clean;
    lo.writer.columns = columns[0];
    lo.writer.columns_n = pin->columns_n + PROVENANCE_COLUMNS;
    lo.name = "pin";
    lo.dead = false;
    const struct table_opts to = {.dataset = pin,
                                  .landing = lo,
                                  .dead = s->dead,
                                  .flush_interval_ms = interval_ms,
                                  .flush_rows = rows,
                                  .on_stored = on_stored,
                                  .on_reset = on_reset,
                                  .on_bytes = on_bytes,
                                  .ctx = s};
    s->table = table_open(app, &to);
    mem_free(clean);
    mem_free(dead);
    table_refresh(s->table, on_refreshed, s);
    assert_int_equal(s->refreshed, 0);
    WAIT(s->refreshed == 1);
    assert_int_equal(s->refreshed_rc, 0);
    assert_int_equal(landing_version(table_landing(s->table)), 0);
}

static void side_close(struct side *s)
{
    table_close(&s->table);
    landing_close(&s->dead);
    assert_null(s->table);
}

/* Takes [from, to): a row for each position, a reject for those that end in 5. Then passes offset `upto`. */
static void take(struct side *s, int64_t from, int64_t to, int64_t upto)
{
    struct span_writer w;
    struct buf buf;
    struct span span;
    span_writer_init(&w, pin, 1 << 16);
    buf_init(&buf, 1 << 20);
    for (int64_t p = from; p < to; p++) {
        struct row row = {.position = p, .ingested_at_ms = 1000 + p};
        for (unsigned i = 0; i < pin->columns_n; i++)
            row.v[i].null = i > 0;
        row.v[0].i = p;
        const struct reject reject = {.position = p, .reason = REJECT_NO_KEY, .value = STR("{}")};
        if (p % 10 == 5)
            span_writer_reject(&w, &reject);
        else
            span_writer_row(&w, &row);
        w.last_position = p;
    }
    span_writer_finish(&w, STR(SOURCE), from, to, false, &buf);
    assert_int_equal(span_parse(buf_as_str(&buf), &span, NULL), 0);
    table_take(s->table, &span, 0);
    table_pass(s->table, 0, upto);
    buf_deinit(&buf);
    span_writer_deinit(&w);
}

static int64_t ask(const char *sql, const char *user)
{
    struct duck_conn *conn;
    struct duck_rows *rows;
    struct err e = {0};
    char *text = mem_printf("%s FROM read_parquet('%s/delta/%s/*.parquet')", sql, dir, user);
    assert_int_equal(duck_connect(duck, &conn, &e), 0);
    if (duck_query_sql(conn, text, &rows, &e))
        fail_msg("%s", e.text);
    assert_int_equal(duck_next(rows, &e), 1);
    int64_t answer = duck_i64(rows, 0);
    duck_rows_free(&rows);
    duck_disconnect(&conn);
    mem_free(text);
    return answer;
}

static void step_flushes_in_order(void)
{
    struct side s;
    side_open(&s, "one", 20, 1000000);
    table_pass(s.table, 0, 1); /* nothing waits: told at once */
    assert_int_equal(s.stored, 1);
    assert_int_equal(table_wanted(s.table, STR(SOURCE)), BATCH_UNKNOWN);
    take(&s, 0, 10, 2);
    assert_int_equal(s.stored, 1);
    assert_int_equal(table_wanted(s.table, STR(SOURCE)), 10);
    assert_int_equal(table_wanted_stored(s.table, STR(SOURCE)), BATCH_UNKNOWN);
    assert_true(!table_idle(s.table) && s.bytes > 0 && (size_t)s.bytes == table_bytes(s.table));
    WAIT(s.stored == 2); /* by the interval */
    assert_int_equal(table_wanted_stored(s.table, STR(SOURCE)), 10);
    assert_int_equal(landing_wanted(s.dead, STR(SOURCE)), 10);
    assert_true(table_idle(s.table) && s.bytes == 0);
    assert_true(s.rows == 9 && s.rejects == 1 && s.versions == 2);
    /* What comes while a batch is on its way waits for it. */
    take(&s, 10, 14, 3);
    table_flush(s.table);
    take(&s, 14, 20, 4);
    table_flush(s.table);
    assert_int_equal(table_wanted(s.table, STR(SOURCE)), 20);
    WAIT(s.stored == 3);
    assert_int_equal(table_wanted_stored(s.table, STR(SOURCE)), 14);
    assert_int_equal(landing_wanted(s.dead, STR(SOURCE)), 10); /* no reject: no txn there */
    WAIT(s.stored == 4);
    assert_int_equal(landing_wanted(s.dead, STR(SOURCE)), 20);
    assert_int_equal(ask("SELECT count(*) * 1000 + sum(ind)", "one_pin_table"), 18000 + 170);
    assert_int_equal(ask("SELECT sum(_position)", "one_dead_table"), 20);
    side_close(&s);
    struct buf out;
    buf_init(&out, 1 << 16);
    side_open(&s, "two", 20, 1000000);
    landing_dump(table_landing(s.table), &out);
    assert_string_equal(buf_as_str(&out).p,
                        "\"pin\":{\"table\":\"two_pin_table\",\"version\":0,\"sources\":{}}");
    buf_deinit(&out);
    side_close(&s);
}

static void step_drops_a_partition(void)
{
    struct side s;
    side_open(&s, "three", 3600000, 5);
    take(&s, 0, 3, 1);
    table_drop_partition(s.table, 0);
    assert_true(table_idle(s.table) && s.bytes == 0);
    assert_int_equal(table_wanted(s.table, STR(SOURCE)), BATCH_UNKNOWN);
    take(&s, 0, 3, 1);
    table_flush(s.table);
    table_drop_partition(s.table, 0); /* on its way: lands, and says nothing */
    assert_int_equal(table_wanted(s.table, STR(SOURCE)), 3);
    WAIT(table_idle(s.table));
    assert_int_equal(s.stored, -1);
    assert_int_equal(table_wanted_stored(s.table, STR(SOURCE)), 3);
    take(&s, 3, 13, 7); /* by the number of rows */
    WAIT(s.stored == 7);
    side_close(&s);
}

static void step_two_writers(void)
{
    struct side a, b;
    side_open(&a, "four", 3600000, 1000000);
    side_open(&b, "four", 3600000, 1000000);
    for (int64_t n = 0; n < 10; n++) {
        take(&a, n * 10, n * 10 + 10, n + 1);
        take(&b, n * 10, n * 10 + 7, 2 * n + 1);
        table_flush(a.table);
        table_flush(b.table);
        WAIT(table_idle(a.table) && table_idle(b.table));
        b.refreshed = 0;
        table_refresh(b.table, on_refreshed, &b);
        WAIT(b.refreshed == 1);
        assert_int_equal(table_wanted(b.table, STR(SOURCE)), n * 10 + 10);
        assert_int_equal(a.stored, n + 1);
        assert_int_equal(b.stored, 2 * n + 1); /* whoever wrote it: it is there */
    }
    assert_int_equal(ask("SELECT count(DISTINCT _position)", "four_pin_table"), 90);
    assert_int_equal(a.rows + b.rows, 90);
    assert_int_equal(a.rejects + b.rejects, 10);
    assert_true(a.conflicts + b.conflicts + a.rebased + b.rebased > 0);
    side_close(&a);
    side_close(&b);
}

static void step_made_anew(void)
{
    struct side s;
    side_open(&s, "five", 3600000, 1000000);
    take(&s, 0, 3, 1);
    table_flush(s.table);
    WAIT(s.stored == 1);
    char *was = mem_printf("%s/delta/five_pin_table", dir), *gone = mem_printf("%s/gone", dir);
    assert_int_equal(rename(was, gone), 0);
    take(&s, 3, 6, 2);
    table_flush(s.table);
    take(&s, 6, 8, 3);
    WAIT(s.resets == 1);
    assert_true(table_idle(s.table) && s.bytes == 0 && s.stored == 1);
    assert_int_equal(table_wanted(s.table, STR(SOURCE)), BATCH_UNKNOWN);
    take(&s, 0, 8, 4);
    table_flush(s.table);
    WAIT(s.stored == 4);
    assert_int_equal(ask("SELECT count(*)", "five_pin_table"), 7);
    assert_int_equal(s.retries, 0);
    mem_free(was);
    mem_free(gone);
    side_close(&s);
}

static void step_closed_while_busy(void)
{
    struct side s;
    side_open(&s, "six", 3600000, 1000000);
    int refreshed = s.refreshed;
    table_refresh(s.table, on_refreshed, &s);
    table_forget(s.table, &s);
    take(&s, 0, 9, 1);
    table_flush(s.table);
    WAIT(s.stored == 1);
    assert_int_equal(s.refreshed, refreshed);
    take(&s, 9, 19, 2);
    table_flush(s.table);
    loop_run_once(loop, true); /* a job runs */
    table_refresh(s.table, on_refreshed, &s);
    side_close(&s);
    assert_int_equal(s.refreshed, refreshed);
}

static int on_start(struct app *a, void *config, struct err *e)
{
    (void)config;
    app = a;
    loop = app_loop(a);
    dir = tmpdir_new();
    char *url = mem_printf("file://%s", dir);
    const struct duck_setting settings[] = {{"threads", "1"}, {NULL, NULL}};
    assert_int_equal(store_open(url, &store, e), 0);
    assert_int_equal(duck_open(settings, &duck, e), 0);
    mem_free(url);
    work = work_open(loop, 2, 64);
    step_flushes_in_order();
    step_drops_a_partition();
    step_two_writers();
    step_made_anew();
    step_closed_while_busy();
    ran = true;
    raise(SIGTERM);
    return 0;
}

static void on_stop(struct app *a)
{
    (void)a;
    work_close(&work);
}

static void on_free(struct app *a)
{
    (void)a;
    duck_close(&duck);
    store_close(&store);
}

static void test_table(void **state)
{
    (void)state;
    static const struct option_def options[] = {{0}};
    const struct app_def def = {.name = "test",
                                .summary = "a test",
                                .admin_listen = "127.0.0.1:0",
                                .memory_max = "128MiB",
                                .options = options,
                                .config_size = 1,
                                .start = on_start,
                                .stop = on_stop,
                                .free = on_free};
    char *argv[] = {(char[]){"test"}, (char[]){"--log.levels=error"}, NULL};
    memcpy(columns[0], pin->columns, sizeof(*pin->columns) * pin->columns_n);
    memcpy(columns[0] + pin->columns_n, provenance_columns, sizeof(provenance_columns));
    memcpy(columns[1], provenance_columns, sizeof(provenance_columns));
    memcpy(columns[1] + PROVENANCE_COLUMNS, dead_columns, sizeof(dead_columns));
    assert_int_equal(app_main(&def, 2, argv), 0);
    assert_true(ran);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
