/* test_writer: a table through its asynchronous face: files, commits, conflicts, checkpoints, and closing in the midst.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/writer.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "support/tmpdir.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

static const struct column_def columns[] = {{"id", COLUMN_LONG}, {"s", COLUMN_STR}};

struct bench {
    char *dir;
    struct loop *loop;
    struct work *work;
    struct store *store;
    struct duck *duck;
    int calls, rc;
    char why[512];
    int64_t file_rows;
    char *file_path;
};

static void must(int rc, const struct err *e)
{
    if (rc)
        print_error("%s\n", e->text);
    assert_int_equal(rc, 0);
}

static struct bench *bench_new(unsigned max_waiting)
{
    struct bench *b = MEM_NEW(struct bench);
    b->dir = tmpdir_new();
    b->loop = loop_new();
    b->work = work_open(b->loop, 2, max_waiting);
    char *url = mem_printf("file://%s", b->dir);
    static const struct duck_setting settings[] = {
        {"memory_limit", "128MiB"}, {"threads", "1"}, {NULL, NULL}};
    struct err e = {0};
    must(store_open(url, &b->store, &e), &e);
    must(duck_open(settings, &b->duck, &e), &e);
    mem_free(url);
    return b;
}

static void bench_end(struct bench *b)
{
    work_close(&b->work);
    duck_close(&b->duck);
    store_close(&b->store);
    loop_run(b->loop);
    assert_int_equal(loop_free(&b->loop), 0);
    tmpdir_remove(&b->dir);
    mem_free(b->file_path);
    mem_free(b);
}

static struct writer *open_writer(struct bench *b, const char *path, unsigned interval)
{
    struct writer_opts o = {.work = b->work,
                            .store = b->store,
                            .duck = b->duck,
                            .path = path,
                            .columns = columns,
                            .columns_n = 2,
                            .checkpoint_interval = interval};
    return writer_open(b->loop, &o);
}

static void on_done(void *ctx, int rc, const struct err *e)
{
    struct bench *b = ctx;
    b->calls++;
    b->rc = rc;
    (void)snprintf(b->why, sizeof b->why, "%s", e->text);
    if (rc)
        assert_int_equal(e->code, rc);
    loop_stop(b->loop);
}

static void on_file(void *ctx, int rc, const struct writer_file *f, const struct err *e)
{
    struct bench *b = ctx;
    b->file_rows = f->file.rows;
    mem_free(b->file_path);
    b->file_path = f->file.path ? mem_strdup(f->file.path) : NULL;
    on_done(ctx, rc, e);
}

static int wait_done(struct bench *b, int calls)
{
    assert_int_equal(b->calls, calls); /* never before the call returned */
    uint64_t end = clock_ms() + 60000;
    while (b->calls == calls && clock_ms() < end)
        loop_run(b->loop);
    assert_int_equal(b->calls, calls + 1);
    return b->rc;
}

static int refresh(struct bench *b, struct writer *w)
{
    int calls = b->calls;
    writer_refresh(w, on_done, b);
    assert_true(writer_busy(w));
    int rc = wait_done(b, calls);
    assert_false(writer_busy(w));
    return rc;
}

struct rows {
    int64_t n, at;
    uv_sem_t *reached; /* posted at row 3000, if set */
    atomic_int late;   /* rows taken after `ended` was set */
    atomic_bool ended;
};

static int next_row(void *ctx, struct value *v)
{
    struct rows *r = ctx;
    if (atomic_load(&r->ended))
        atomic_fetch_add(&r->late, 1);
    if (r->at == r->n)
        return 0;
    if (r->at == 3000 && r->reached)
        uv_sem_post(r->reached);
    v[0] = (struct value){.i = r->at++};
    v[1] = (struct value){.s = STR("some text that is longer than twelve bytes")};
    return 1;
}

static int write_rows(struct bench *b, struct writer *w, int64_t n)
{
    struct rows r = {.n = n};
    struct parquet_source src = {.columns = columns, .columns_n = 2, .next = next_row, .ctx = &r};
    int calls = b->calls;
    writer_write(w, &src, on_file, b);
    return wait_done(b, calls);
}

static int commit(struct bench *b, struct writer *w, const char *id, const char *app, int64_t at)
{
    struct delta_txn_action t = {app, at};
    struct delta_commit c = {.txn_id = id, .txns = &t, .txns_n = 1, .timestamp_ms = 1000};
    int calls = b->calls;
    writer_commit(w, &c, on_done, b);
    return wait_done(b, calls);
}

static int64_t position(const struct writer *w, const char *app)
{
    int64_t v = -1;
    return writer_txn(w, str_of(app), &v) ? v : -1;
}

static bool exists(struct bench *b, const char *table, const char *name)
{
    char *key = mem_printf("%s/%s", table, name);
    uint64_t bytes;
    int rc = store_size(b->store, key, &bytes, NULL);
    mem_free(key);
    return rc == 0;
}

static void test_a_life(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *w = open_writer(b, "delta/demo_pin_table", 2);
    assert_int_equal(writer_version(w), -1);
    assert_int_equal(refresh(b, w), 0);
    assert_int_equal(writer_version(w), 0);
    assert_int_equal(strlen(writer_id(w)), 36);
    assert_int_equal(write_rows(b, w, 0), 0);
    assert_int_equal(b->file_rows, 0);
    assert_null(b->file_path);
    assert_int_equal(write_rows(b, w, 5000), 0);
    assert_int_equal(b->file_rows, 5000);
    assert_true(exists(b, "delta/demo_pin_table", b->file_path));
    assert_int_equal(commit(b, w, "one", "a", 10), 0);
    assert_int_equal(writer_version(w), 1);
    assert_int_equal(position(w, "a"), 10);
    assert_false(writer_wants_checkpoint(w));
    assert_int_equal(commit(b, w, "two", "b", 20), 0); /* without a file */
    assert_int_equal(writer_version(w), 2);
    assert_true(writer_wants_checkpoint(w));
    int calls = b->calls;
    writer_checkpoint(w, on_done, b);
    assert_int_equal(wait_done(b, calls), 0);
    assert_false(writer_wants_checkpoint(w));
    assert_true(
        exists(b, "delta/demo_pin_table", "_delta_log/00000000000000000002.checkpoint.parquet"));
    size_t i = 0, n = 0;
    struct str app;
    int64_t v;
    while (writer_next_txn(w, &i, &app, &v))
        n++;
    assert_int_equal(n, 2);
    /* A file that no commit gets goes away. */
    assert_int_equal(write_rows(b, w, 3), 0);
    assert_true(exists(b, "delta/demo_pin_table", b->file_path));
    writer_drop_file(w);
    uint64_t end = clock_ms() + 60000;
    while (exists(b, "delta/demo_pin_table", b->file_path) && clock_ms() < end)
        loop_run_once(b->loop, false);
    assert_false(exists(b, "delta/demo_pin_table", b->file_path));
    writer_close(&w);
    assert_null(w);

    struct delta *d = delta_new(b->store, "delta/demo_pin_table");
    struct duck_conn *c;
    struct err e = {0};
    must(duck_connect(b->duck, &c, &e), &e);
    must(delta_refresh(d, c, &e), &e);
    assert_int_equal(delta_version(d), 2);
    assert_int_equal(delta_rows(d), 5000);
    delta_free(&d);
    duck_disconnect(&c);
    bench_end(b);
}

static void test_conflicts_and_repeats(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *one = open_writer(b, "delta/t", 0), *two = open_writer(b, "delta/t", 0);
    assert_int_equal(refresh(b, one), 0);
    assert_int_equal(refresh(b, two), 0);
    assert_string_equal(writer_id(one), writer_id(two));
    assert_int_equal(write_rows(b, one, 10), 0);
    assert_int_equal(write_rows(b, two, 20), 0);
    assert_int_equal(commit(b, one, "x", "a", 1), 0);
    assert_int_equal(commit(b, two, "y", "b", 2), ERR_CONFLICT);
    assert_int_equal(position(two, "a"), -1);
    assert_int_equal(refresh(b, two), 0);
    assert_int_equal(position(two, "a"), 1);
    assert_int_equal(commit(b, two, "y", "b", 2), 0); /* the file is still its own */
    assert_int_equal(writer_version(two), 2);
    /* A commit whose answer was lost: the version is there, with the id that is tried. */
    assert_int_equal(refresh(b, one), 0);
    struct delta_txn_action t = {"a", 5};
    struct delta_commit c = {.version = 3, .txn_id = "lost", .txns = &t, .txns_n = 1};
    struct buf body;
    struct err e = {0};
    buf_init(&body, 1 << 16);
    delta_commit_encode(&c, &body);
    must(store_put_if_absent(b->store, "delta/t/_delta_log/00000000000000000003.json",
                             buf_as_str(&body), &e),
         &e);
    buf_deinit(&body);
    assert_int_equal(commit(b, one, "lost", "a", 5), 0);
    assert_int_equal(writer_version(one), 3);
    assert_int_equal(position(one, "a"), 5);
    struct delta *d = delta_new(b->store, "delta/t");
    must(delta_refresh(d, NULL, &e), &e);
    assert_int_equal(delta_files(d), 2);
    assert_int_equal(delta_rows(d), 30);
    delta_free(&d);
    writer_close(&one);
    writer_close(&two);
    bench_end(b);
}

static void test_checkpoint_of_an_older_version(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *one = open_writer(b, "delta/t", 2), *two = open_writer(b, "delta/t", 0);
    assert_int_equal(refresh(b, one), 0);
    assert_int_equal(commit(b, one, "1", "a", 1), 0);
    assert_int_equal(commit(b, one, "2", "a", 2), 0);
    assert_true(writer_wants_checkpoint(one));
    assert_int_equal(refresh(b, two), 0);
    assert_int_equal(commit(b, two, "3", "b", 3), 0);
    assert_int_equal(refresh(b, one), 0);
    assert_int_equal(writer_version(one), 3);
    int calls = b->calls;
    writer_checkpoint(one, on_done, b);
    assert_int_equal(wait_done(b, calls), 0);
    assert_true(exists(b, "delta/t", "_delta_log/00000000000000000002.checkpoint.parquet"));
    assert_false(exists(b, "delta/t", "_delta_log/00000000000000000003.checkpoint.parquet"));
    writer_close(&one);
    writer_close(&two);
    bench_end(b);
}

static void test_refusals(void **state)
{
    (void)state;
    struct bench *b = bench_new(0);
    struct err e = {0};
    must(store_put(
             b->store, "delta/t/_delta_log/00000000000000000000.json",
             STR("{\"protocol\":{\"minReaderVersion\":1,\"minWriterVersion\":4}}\n"
                 "{\"metaData\":{\"id\":\"i\",\"format\":{\"provider\":\"parquet\",\"options\":{}},"
                 "\"schemaString\":\"{\\\"type\\\":\\\"struct\\\",\\\"fields\\\":[]}\","
                 "\"partitionColumns\":[],"
                 "\"configuration\":{}}}\n"),
             &e),
         &e);
    struct writer *w = open_writer(b, "delta/t", 0), *more[2];
    assert_int_equal(refresh(b, w), ERR_UNSUPPORTED);
    assert_non_null(strstr(b->why, "protocol 1/4"));
    /* No room for a job: told later, as everything. */
    for (int i = 0; i < 2; i++) {
        more[i] = open_writer(b, "delta/u", 0);
        writer_refresh(more[i], on_done, b);
    }
    int calls = b->calls;
    writer_refresh(w, on_done, b);
    assert_int_equal(b->calls, calls);
    uint64_t end = clock_ms() + 60000;
    bool busy = false;
    while (b->calls < calls + 3 && clock_ms() < end) {
        loop_run_once(b->loop, true);
        busy |= b->rc == ERR_BUSY;
    }
    assert_int_equal(b->calls, calls + 3);
    assert_true(busy);
    for (int i = 0; i < 2; i++)
        writer_close(&more[i]);
    writer_close(&w);
    bench_end(b);
}

static void put_version(struct bench *b, int64_t version, const char *text)
{
    struct err e = {0};
    char *key = mem_printf("delta/t/_delta_log/%020lld.json", (long long)version);
    must(store_put_if_absent(b->store, key, str_of(text), &e), &e);
    mem_free(key);
}

/* The commit that won the version is looked at before another try: it may ask of a writer what this one cannot do. */
static void test_a_rival_that_upgrades_the_table(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *w = open_writer(b, "delta/t", 0);
    assert_int_equal(refresh(b, w), 0);
    assert_int_equal(write_rows(b, w, 10), 0);
    put_version(b, 1, "{\"protocol\":{\"minReaderVersion\":1,\"minWriterVersion\":4}}\n");
    assert_int_equal(commit(b, w, "x", "a", 1), ERR_CONFLICT);
    assert_int_equal(refresh(b, w), ERR_UNSUPPORTED);
    assert_non_null(strstr(b->why, "protocol 1/4"));
    put_version(b, 2, "{\"protocol\":{\"minReaderVersion\":1,\"minWriterVersion\":2}}\n");
    assert_int_equal(refresh(b, w), 0);
    assert_int_equal(commit(b, w, "x", "a", 1), 0);
    assert_int_equal(writer_version(w), 3);
    writer_close(&w);
    bench_end(b);
}

/* A commit that is in is never called one that is not, whatever came behind it. */
static void test_a_commit_that_is_in_and_the_table_gone(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *w = open_writer(b, "delta/t", 0);
    assert_int_equal(refresh(b, w), 0);
    struct delta_txn_action t = {"a", 5};
    struct delta_commit c = {.version = 1, .txn_id = "mine", .txns = &t, .txns_n = 1};
    struct buf body;
    buf_init(&body, 1 << 16);
    delta_commit_encode(&c, &body);
    put_version(b, 1, body.data);
    buf_deinit(&body);
    put_version(b, 2, "{\"metaData\":{\"id\":\"another\"}}\n");
    assert_int_equal(commit(b, w, "mine", "a", 5), ERR_CORRUPT);
    writer_close(&w);
    bench_end(b);
}

/* Removed behind its back: the next refresh makes a table that knows no positions, and has another id. */
static void test_a_table_that_was_removed(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *w = open_writer(b, "delta/t", 0);
    assert_int_equal(refresh(b, w), 0);
    assert_int_equal(commit(b, w, "x", "a", 1), 0);
    char *id = mem_strdup(writer_id(w));
    for (int v = 0; v < 2; v++) {
        char *key = mem_printf("delta/t/_delta_log/%020d.json", v);
        assert_int_equal(store_delete(b->store, key, NULL), 0);
        mem_free(key);
    }
    assert_int_equal(refresh(b, w), 0);
    assert_int_equal(writer_version(w), 0);
    assert_int_equal(position(w, "a"), -1);
    assert_string_not_equal(writer_id(w), id);
    mem_free(id);
    writer_close(&w);
    bench_end(b);
}

static void test_full_disk(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *w = open_writer(b, "delta/t", 0);
    assert_int_equal(refresh(b, w), 0);
    struct rlimit was, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    low = was;
    low.rlim_cur = 300;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int rc1 = write_rows(b, w, 50000);
    int rc2 = commit(b, w, "x", "a", 1);
    int rc3 = commit(b, w, "x", "a", 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc1, ERR_NOSPACE);
    assert_int_equal(rc2, ERR_NOSPACE);
    assert_int_equal(rc3, ERR_NOSPACE);
    assert_int_equal(commit(b, w, "x", "a", 1), 0);
    assert_int_equal(writer_version(w), 1);
    struct store_names names = {0};
    assert_int_equal(store_list(b->store, "delta/t", NULL, &names, NULL), 0);
    assert_int_equal(names.n, 1); /* the log only */
    store_names_free(&names);
    assert_int_equal(store_sweep(b->store, "delta/t", 0, NULL), 0);
    writer_close(&w);
    bench_end(b);
}

/* Closes while the job is in the midst of the rows. From the return of writer_close the source is the caller's again. */
static void test_close_in_the_midst(void **state)
{
    (void)state;
    for (int what = 0; what < 2; what++) {
        struct bench *b = bench_new(8);
        struct writer *w = open_writer(b, "delta/t", 0);
        assert_int_equal(refresh(b, w), 0);
        uv_sem_t reached;
        assert_int_equal(uv_sem_init(&reached, 0), 0);
        struct rows *r = MEM_NEW(struct rows);
        r->n = 30000000;
        r->reached = &reached;
        struct parquet_source src = {
            .columns = columns, .columns_n = 2, .next = next_row, .ctx = r};
        int calls = b->calls;
        writer_write(w, &src, on_file, b);
        uv_sem_wait(&reached);
        if (what == 1) { /* the pool first, and all else at once */
            work_close(&b->work);
        }
        writer_close(&w);
        atomic_store(&r->ended, true);
        duck_close(&b->duck);
        store_close(&b->store);
        loop_run(b->loop); /* until the job is back */
        assert_int_equal(b->calls, calls);
        assert_int_equal(atomic_load(&r->late), 0);
        mem_free(r);
        uv_sem_destroy(&reached);
        bench_end(b);
    }
}

static void test_close_at_once(void **state)
{
    (void)state;
    struct bench *b = bench_new(8);
    struct writer *w[6];
    for (int i = 0; i < 6; i++) {
        w[i] = open_writer(b, "delta/t", 0);
        writer_refresh(w[i], on_done, b);
    }
    for (int i = 0; i < 6; i++)
        writer_close(&w[i]);
    loop_run(b->loop);
    assert_int_equal(b->calls, 0);
    bench_end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_life),
        cmocka_unit_test(test_conflicts_and_repeats),
        cmocka_unit_test(test_checkpoint_of_an_older_version),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_a_rival_that_upgrades_the_table),
        cmocka_unit_test(test_a_commit_that_is_in_and_the_table_gone),
        cmocka_unit_test(test_a_table_that_was_removed),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_close_in_the_midst),
        cmocka_unit_test(test_close_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
