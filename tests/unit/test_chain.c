/* test_chain: records become an unbroken run of spans, whatever the limits, the order of the reports and the end of the chain.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/rnd.h"
#include "cleaner/chain.h"
#include <stdio.h>

#define SOURCE "kafka:demo.pin:0:6Kc1HTPCSOSh4jxRjepkdQ"
#define MAX 4096

struct seen {
    struct chain_span *span;
    int64_t from, to;
    bool lost;
    uint32_t rows, rejects;
    size_t bytes;
};
static struct seen spans[MAX];
static struct chain_span *letters[MAX];
static size_t spans_n, letters_n, faults_n;
static struct wash *wash;
static struct rnd rnd;

static void on_span(void *ctx, struct chain_span *span, struct str message)
{
    struct span s;
    (void)ctx;
    assert_true(spans_n < MAX);
    assert_int_equal(span_parse(message, &s, NULL), 0);
    assert_true(str_is(s.source, SOURCE));
    spans[spans_n++] = (struct seen){.span = span,
                                     .from = s.from,
                                     .to = s.to,
                                     .lost = s.lost,
                                     .rows = s.rows_n,
                                     .rejects = s.rejects_n,
                                     .bytes = message.n};
    assert_int_equal(span->to, s.to);
    assert_int_equal(span->left, 1 + s.rejects_n);
}

static void on_reject(void *ctx, struct chain_span *span, const struct reject *reject)
{
    (void)ctx;
    assert_true(spans_n && spans[spans_n - 1].span == span); /* after its span */
    assert_true(reject->position >= spans[spans_n - 1].from && reject->position < span->to);
    assert_true(letters_n < MAX);
    letters[letters_n++] = span;
}

static void on_fault(void *ctx, int column, enum wash_fault fault)
{
    (void)ctx, (void)column, (void)fault;
    faults_n++;
}

static const struct chain_callbacks callbacks = {
    .on_span = on_span, .on_reject = on_reject, .on_fault = on_fault};

static struct chain *start(uint32_t rows, size_t bytes, int64_t begin, int64_t first)
{
    const struct chain_limits limits = {.max_rows = rows, .max_bytes = bytes, .linger_ms = 20};
    return chain_new(SOURCE, &datasets[DATASET_PIN], &limits, wash, &callbacks, begin, first);
}

static bool put(struct chain *c, int64_t position, const char *value, uint64_t now_ms)
{
    const struct wash_input in = {.position = position,
                                  .ingested_at_ms = 7,
                                  .value = value ? str_of(value) : (struct str){0}};
    return chain_record(c, &in, now_ms);
}

static void assert_span(size_t i, int64_t from, int64_t to, uint32_t rows)
{
    assert_true(i < spans_n);
    assert_int_equal(spans[i].from, from);
    assert_int_equal(spans[i].to, to);
    assert_int_equal(spans[i].rows, rows);
}

static void store_all(size_t from)
{
    for (size_t i = from; i < spans_n; i++)
        chain_stored(spans[i].span);
}

static int setup(void **state)
{
    (void)state;
    spans_n = letters_n = faults_n = 0;
    wash = wash_new(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    wash_free(&wash);
    return 0;
}

static void end(struct chain **c)
{
    struct list orphans;
    list_init(&orphans);
    chain_free(c, &orphans);
    assert_null(*c);
    chain_free_orphans(&orphans);
}

static void test_begins(void **state)
{
    (void)state;
    struct chain *c = start(10, 1 << 20, 0, 0);
    assert_int_equal(spans_n, 1);
    assert_span(0, 0, 0, 0);
    assert_false(chain_idle(c)); /* the heartbeat is on its way */
    chain_stored(spans[0].span);
    assert_true(chain_idle(c));
    assert_string_equal(chain_source(c), SOURCE);
    end(&c);
    spans_n = 0;
    c = start(10, 1 << 20, 5, 12); /* 5 to 12 were deleted */
    assert_int_equal(spans_n, 2);
    assert_span(0, 5, 5, 0);
    assert_span(1, 5, 12, 0);
    assert_true(spans[1].lost && !spans[0].lost);
    assert_int_equal(chain_counts(c)->lost, 7);
    assert_int_equal(chain_next(c), 12);
    assert_int_equal(chain_confirmed(c), 5);
    store_all(0);
    assert_int_equal(chain_confirmed(c), 12);
    assert_false(put(c, 11, "{\"index\":1}", 1));
    assert_true(put(c, 12, "{\"index\":1}", 1));
    chain_flush(c);
    assert_span(2, 12, 13, 1);
    end(&c);
    spans_n = 0;
    c = start(10, 1 << 20, 7, 3); /* committed above the first */
    assert_int_equal(spans_n, 1);
    assert_int_equal(chain_next(c), 7);
    end(&c);
}

static void test_limits(void **state)
{
    (void)state;
    struct chain *c = start(3, 1 << 20, 0, 0);
    for (int i = 0; i < 3; i++)
        assert_true(put(c, i, "{\"index\":1}", 1));
    assert_span(1, 0, 3, 3); /* full: closed at once */
    put(c, 3, "{\"index\":1}", 1);
    put(c, 4, "[{\"index\":1},{\"index\":2},{\"index\":3},{\"index\":4},{}]", 1);
    assert_span(2, 3, 4, 1); /* the next did not fit */
    assert_span(3, 4, 5, 4); /* alone it may be over the limit, and is whole */
    assert_int_equal(spans[3].rejects, 1);
    assert_int_equal(letters_n, 1);
    assert_int_equal(spans_n, 4);
    end(&c);
    c = start(1000, 300, 0, 0);
    char big[2000];
    snprintf(big, sizeof(big), "{\"index\":1,\"title\":\"%01200d\"}", 0);
    spans_n = 0;
    put(c, 0, big, 1);
    assert_span(0, 0, 1, 1);
    assert_true(spans[0].bytes > 1000);
    for (int i = 1; i < 20; i++)
        put(c, i, "{\"index\":1,\"title\":\"twenty bytes of title\"}", 1);
    chain_flush(c);
    for (size_t i = 1; i < spans_n; i++) {
        assert_true(spans[i].bytes < 300 + 100);
        assert_int_equal(spans[i].from, spans[i - 1].to);
    }
    assert_int_equal(spans[spans_n - 1].to, 20);
    assert_true(spans_n > 3 && spans_n < 10);
    end(&c);
}

static void test_linger(void **state)
{
    (void)state;
    struct chain *c = start(100, 1 << 20, 0, 0);
    assert_int_equal(chain_tick(c, 1000), UINT64_MAX);
    put(c, 0, "{\"index\":1}", 1000);
    put(c, 1, "{\"index\":2}", 1015);
    assert_int_equal(chain_tick(c, 1015), 5);
    assert_int_equal(spans_n, 1);
    assert_int_equal(chain_tick(c, 1020), UINT64_MAX); /* from the first record on */
    assert_span(1, 0, 2, 2);
    put(c, 2, "{\"index\":3}", 2000);
    assert_int_equal(chain_tick(c, 1990), 20); /* a clock that lags is no reason to close */
    chain_flush(c);
    assert_span(2, 2, 3, 1);
    chain_flush(c);
    assert_int_equal(spans_n, 3);
    end(&c);
}

static void test_gaps_and_end_of_log(void **state)
{
    (void)state;
    struct chain *c = start(2, 1 << 20, 0, 0);
    put(c, 3, "{\"index\":1}", 1);
    put(c, 8, "{\"index\":1}", 1);
    assert_span(1, 0, 9, 2);
    put(c, 12, "{\"index\":1}", 1);
    put(c, 20, "[{\"index\":1},{\"index\":2}]", 1);
    assert_span(2, 9, 20, 1); /* what lies between belongs to the span before */
    assert_span(3, 20, 21, 2);
    chain_end_of_log(c, 25);
    assert_span(4, 21, 25, 0);
    chain_end_of_log(c, 25);
    chain_end_of_log(c, 10);
    assert_int_equal(spans_n, 5);
    assert_false(put(c, 24, "{\"index\":1}", 1));
    put(c, 25, "{\"index\":1}", 1);
    chain_end_of_log(c, 26);
    assert_span(5, 25, 26, 1);
    end(&c);
}

static void test_confirmed_is_an_unbroken_run(void **state)
{
    (void)state;
    struct chain *c = start(1, 1 << 20, 0, 0);
    put(c, 0, "{\"index\":1}", 1);
    put(c, 1, "{", 1);
    put(c, 2, "{\"index\":1}", 1);
    assert_int_equal(spans_n, 4);
    chain_stored(spans[3].span);
    chain_stored(spans[1].span);
    assert_int_equal(chain_confirmed(c), 0); /* the heartbeat before is not stored */
    chain_stored(spans[0].span);
    assert_int_equal(chain_confirmed(c), 1);
    chain_stored(spans[2].span);
    assert_int_equal(chain_confirmed(c), 1); /* its dead letter is still on its way */
    assert_false(chain_idle(c));
    chain_heartbeat(c);
    assert_span(4, 1, 1, 0);
    chain_stored(letters[0]);
    assert_int_equal(chain_confirmed(c), 3);
    chain_stored(spans[4].span); /* an older heartbeat takes nothing back */
    assert_int_equal(chain_confirmed(c), 3);
    assert_true(chain_idle(c));
    chain_heartbeat(c);
    assert_span(5, 3, 3, 0);
    assert_int_equal(chain_counts(c)->records, 3);
    assert_int_equal(chain_counts(c)->rows, 2);
    assert_int_equal(chain_counts(c)->rejects[REJECT_NOT_JSON], 1);
    assert_int_equal(chain_counts(c)->spans, 6);
    end(&c);
}

static void test_orphans(void **state)
{
    (void)state;
    struct list orphans;
    list_init(&orphans);
    struct chain *c = start(1, 1 << 20, 0, 0);
    put(c, 0, "{", 1);
    put(c, 1, "{\"index\":1}", 1);
    chain_stored(spans[2].span); /* waits behind others, without reports of its own left */
    chain_stored(spans[1].span);
    chain_free(&c, &orphans);
    assert_false(list_empty(&orphans));
    assert_null(spans[0].span->chain);
    chain_stored(spans[0].span);
    assert_false(list_empty(&orphans));
    chain_stored(letters[0]);
    assert_true(list_empty(&orphans));
    c = start(1, 1 << 20, 0, 0);
    chain_free(&c, &orphans);
    assert_false(list_empty(&orphans));
    chain_free_orphans(&orphans);
    chain_free(&c, &orphans); /* NULL is fine */
}

/* Random records, limits and reports: never a hole, never an overlap, confirmed only what is stored. */
static void test_random(void **state)
{
    (void)state;
    static const char *const values[] = {
        "{\"index\":1}", "{", "[{\"index\":1},{}]", NULL, "{\"index\":2,\"x\":1}", "\"a\"", "[]"};
    rnd_seed(&rnd, 7);
    for (int round = 0; round < 200; round++) {
        spans_n = letters_n = 0;
        struct chain *c = start(1 + (uint32_t)rnd_below(&rnd, 5), 100 + rnd_below(&rnd, 400), 0, 0);
        int64_t next = 0;
        uint64_t now = 1;
        for (int i = 0; i < 100; i++) {
            next += rnd_below(&rnd, 10) ? 0 : (int64_t)rnd_below(&rnd, 5);
            now += rnd_below(&rnd, 8);
            switch (rnd_below(&rnd, 6)) {
            case 0:
                chain_tick(c, now);
                break;
            case 1:
                chain_end_of_log(c, next);
                break;
            default:
                assert_true(put(c, next, values[rnd_below(&rnd, 7)], now));
                next++;
            }
        }
        chain_flush(c);
        int64_t at = 0;
        for (size_t i = 0; i < spans_n; i++) {
            assert_int_equal(spans[i].from, at);
            at = spans[i].to;
        }
        assert_int_equal(at, chain_next(c));
        assert_int_equal(chain_confirmed(c), 0);
        for (size_t i = 0; i < letters_n; i++)
            chain_stored(letters[i]);
        for (size_t i = spans_n; i-- > 1;) {
            chain_stored(spans[i].span);
            assert_int_equal(chain_confirmed(c), 0);
        }
        chain_stored(spans[0].span);
        assert_int_equal(chain_confirmed(c), at);
        assert_true(chain_idle(c));
        end(&c);
    }
    assert_true(faults_n > 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_begins),
                                       T(test_limits),
                                       T(test_linger),
                                       T(test_gaps_and_end_of_log),
                                       T(test_confirmed_is_an_unbroken_run),
                                       T(test_orphans),
                                       T(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
