/* test_copies: what is a copy, by marks in a real redis-server that the test starts, and what happens without it.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mem.h"
#include "sink-s3/copies.h"
#include "support/redis_server.h"
#include "support/turning.h"
#include <stdio.h>

#define TABLE "11111111-2222-3333-4444-555555555555"

static struct copies *copies;
static struct redis *client; /* looks into the server beside it */
static struct redis_server server;
static int done_n;
static uint64_t done_unasked;

static int setup(void **state)
{
    char url[64];
    struct err e;
    (void)turning_setup(state);
    redis_server_start(&server, NULL);
    snprintf(url, sizeof(url), "redis://127.0.0.1:%u", server.port);
    const struct copies_opts o = {.redis_url = url, .user = "demo", .window_ms = 3600000};
    const struct redis_opts ro = {.url = url};
    assert_int_equal(copies_open(loop, &o, &copies, &e), 0);
    assert_int_equal(redis_open(loop, &ro, &client, &e), 0);
    WAIT(copies_connected(copies) && redis_connected(client));
    done_n = 0;
    return 0;
}

static int teardown(void **state)
{
    copies_close(&copies);
    redis_close(&client);
    redis_server_end(&server);
    return turning_teardown(state);
}

/* A batch of one span with `n` rows; the keys of the rows are `first`, `first` + 1, … modulo `distinct`. */
static struct batch *make(int64_t n, int64_t first, int64_t distinct)
{
    const struct dataset *d = &datasets[DATASET_GEO];
    struct span_writer w;
    struct buf buf;
    struct span s;
    span_writer_init(&w, d, 1 << 20);
    buf_init(&buf, 16 << 20);
    for (int64_t p = 0; p < n; p++) {
        struct row row = {.position = p, .ingested_at_ms = p};
        row.v[0].i = (first + p) % distinct;
        for (unsigned i = 1; i < d->columns_n; i++)
            row.v[i].null = true;
        span_writer_row(&w, &row);
        w.last_position = p;
    }
    span_writer_finish(&w, STR("kafka:demo.geo:0:x"), 0, n, false, &buf);
    assert_int_equal(span_parse(buf_as_str(&buf), &s, NULL), 0);
    struct batch *b = batch_new(d, true);
    batch_take(b, &s, 0, BATCH_UNKNOWN, TABLE);
    buf_deinit(&buf);
    span_writer_deinit(&w);
    return b;
}

static void on_done(void *ctx, uint64_t unasked)
{
    (void)ctx;
    done_n++;
    done_unasked = unasked;
}

static uint64_t look(struct batch *b)
{
    int before = done_n;
    assert_non_null(copies_look(copies, b, on_done, NULL));
    assert_int_equal(done_n, before); /* never at once */
    WAIT(done_n > before);
    return batch_copies(b);
}

static int64_t answer;

static void on_reply(void *ctx, int rc, const struct redis_reply *reply)
{
    (void)ctx;
    assert_int_equal(rc, 0);
    assert_int_equal(reply->kind, REDIS_INT);
    answer = reply->i;
}

static int64_t keys_in_redis(void)
{
    const struct str argv[] = {STR("DBSIZE")};
    answer = -1;
    assert_int_equal(redis_command(client, argv, 1, on_reply, NULL), 0);
    WAIT(answer >= 0);
    return answer;
}

static void test_within_a_batch(void **state)
{
    (void)state;
    struct batch *b = make(10, 0, 4);
    assert_int_equal(look(b), 6);
    assert_int_equal(batch_rows(b), 4);
    assert_int_equal(done_unasked, 0);
    assert_int_equal(keys_in_redis(), 0); /* to ask marks nothing */
    batch_free(&b);
}

static void test_marks(void **state)
{
    (void)state;
    struct batch *b = make(10, 0, 6), *next = make(10, 4, 100);
    assert_int_equal(look(b), 4);
    assert_int_equal(copies_set(copies, b), 0);
    WAIT(keys_in_redis() == 6);
    assert_int_equal(look(next), 2); /* 4 and 5 are marked, 6 to 13 are new */
    struct batch_piece *p = LIST_ENTRY(next->pieces.next, struct batch_piece, node);
    for (int i = 0; i < 10; i++)
        assert_int_equal(p->copy[i], i < 2);
    assert_int_equal(look(next), 2); /* as often as a commit is tried */
    const struct str argv[] = {STR("EVAL"),
                               STR("return redis.call('TTL', redis.call('RANDOMKEY'))"), STR("0")};
    answer = -1;
    assert_int_equal(redis_command(client, argv, 3, on_reply, NULL), 0);
    WAIT(answer >= 0);
    assert_true(answer > 3000 && answer <= 3600);
    const struct str names[] = {
        STR("EVAL"), STR("return #redis.call('KEYS', 'sluice:{demo}:copy:*')"), STR("0")};
    answer = -1;
    assert_int_equal(redis_command(client, names, 3, on_reply, NULL), 0);
    WAIT(answer >= 0);
    assert_int_equal(answer, 6);
    batch_free(&b);
    batch_free(&next);
}

static void test_many(void **state)
{
    (void)state;
    struct batch *b = make(6000, 0, 5000), *again = make(6000, 4000, 1 << 30);
    assert_int_equal(look(b), 1000);
    assert_int_equal(copies_set(copies, b), 0);
    WAIT(keys_in_redis() == 5000);
    assert_int_equal(look(again), 1000);
    assert_int_equal(done_unasked, 0);
    batch_free(&b);
    batch_free(&again);
}

static void test_redis_away(void **state)
{
    (void)state;
    struct batch *b = make(1000, 0, 900);
    redis_server_kill(&server);
    WAIT(!copies_connected(copies));
    assert_int_equal(look(b), 100); /* within the batch they are seen all the same */
    assert_int_equal(done_unasked, 900);
    assert_int_equal(copies_set(copies, b), 900);
    redis_server_start(&server, NULL);
    WAIT(copies_connected(copies));
    assert_int_equal(look(b), 100);
    assert_int_equal(done_unasked, 0);
    assert_int_equal(copies_set(copies, b), 0);
    batch_free(&b);
}

static void test_cancelled_and_closed(void **state)
{
    (void)state;
    struct batch *b = make(3000, 0, 3000);
    struct copies_ask *ask = copies_look(copies, b, on_done, NULL);
    copies_cancel(&ask); /* before the first question */
    assert_null(ask);
    copies_cancel(&ask);
    ask = copies_look(copies, b, on_done, NULL);
    loop_run_once(loop, true); /* questions are on their way */
    copies_cancel(&ask);
    batch_free(&b);
    b = make(3000, 0, 3000);
    assert_int_equal(look(b), 0);
    assert_int_equal(done_n, 1);
    ask = copies_look(copies, b, on_done, NULL);
    loop_run_once(loop, true);
    copies_cancel(&ask);
    batch_free(&b);
    copies_close(&copies);
    assert_null(copies);
    assert_int_equal(done_n, 1);
}

static void test_bad_url(void **state)
{
    (void)state;
    struct err e;
    struct copies *c = NULL;
    const struct copies_opts o = {.redis_url = "http://nowhere", .user = "demo"};
    assert_int_equal(copies_open(loop, &o, &c, &e), ERR_CONFIG);
    assert_null(c);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_within_a_batch), T(test_marks),
                                       T(test_many),           T(test_redis_away),
                                       T(test_bad_url),        T(test_cancelled_and_closed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
