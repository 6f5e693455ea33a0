/* test_kafka_group: members that come, go and end, against the mock cluster.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "io/kafka.h"
#include "support/kafka_rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void test_rebalance(void **state)
{
    struct kafka_rig *f = *state;
    struct source a = {0}, b = {0};
    kafka_mock_topic(f->mock, "t", 4);
    for (int32_t p = 0; p < 4; p++)
        kafka_fill(f, "t", p, 10);
    source_open(f, &a, "t", NULL);
    WAIT(a.n >= 40);
    assert_int_equal(a.owned, 4);
    a.hold = true; /* the revocation waits for us */
    source_open(f, &b, "t", NULL);
    WAIT(a.revoked >= 2);
    kafka_fill(f, "t", 0, 5);
    kafka_fill(f, "t", 1, 5);
    kafka_fill(f, "t", 2, 5);
    kafka_fill(f, "t", 3, 5);
    turn_ms(200);
    assert_false(a.after_release);
    assert_int_equal(b.n, 0);
    for (int32_t p = 0; p < 4; p++) {
        const struct kafka_partition gone = {.topic = (char *)(uintptr_t) "t", .partition = p};
        if (!a.own[p])
            kafka_consumer_release(a.c, &gone, 1); /* one by one */
    }
    WAIT(b.n >= 30);
    WAIT(a.n >= 50); /* the two that stayed are read on, the two that went are not */
    turn_ms(200);
    assert_int_equal(a.n, 50);
    assert_false(a.after_release);
    assert_int_equal(b.owned, 2);
    assert_int_equal(a.owned, 2);
    /* The second goes: the first has all again. */
    kafka_consumer_leave(b.c);
    WAIT(b.closed >= 1);
    kafka_consumer_close(&b.c);
    a.hold = false;
    WAIT(a.owned >= 4);
    kafka_consumer_close(&a.c);
}

/* An owner who does not say where to begin holds nobody up. */
static void test_slow_owner(void **state)
{
    struct kafka_rig *f = *state;
    struct source a = {.start = -2}, b = {0};
    kafka_mock_topic(f->mock, "t", 2);
    kafka_fill(f, "t", 0, 10);
    kafka_fill(f, "t", 1, 10);
    source_open(f, &a, "t", NULL);
    WAIT(a.owned >= 2);
    source_open(f, &b, "t", NULL);
    WAIT(b.n >= 10);
    assert_int_equal(a.n, 0);
    assert_int_equal(a.owned, 1);
    /* Too late for the one that is gone, in time for the other. */
    for (int32_t p = 0; p < 2; p++)
        source_take(&a, "t", p, 4);
    WAIT(a.n >= 6);
    turn_ms(200);
    assert_int_equal(a.n, 6);
    kafka_consumer_close(&a.c);
    kafka_consumer_close(&b.c);
}

static void test_static_member(void **state)
{
    struct kafka_rig *f = *state;
    struct source a = {0};
    kafka_mock_topic(f->mock, "t", 1);
    kafka_fill(f, "t", 0, 10);
    source_open(f, &a, "t", "cleaner-0");
    WAIT(a.n >= 10);
    assert_int_equal(kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP), 0);
    kafka_consumer_leave(a.c);
    kafka_consumer_leave(a.c);
    WAIT(a.closed >= 1);
    kafka_consumer_close(&a.c);
    a = (struct source){0};
    source_open(f, &a, "t", "cleaner-0");
    WAIT(a.n >= 10);
    kafka_consumer_close(&a.c);
    kafka_rig_settle(f);
    assert_int_equal(kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP), 0);
}

/* A static member whose name another has taken is told so, once; its end is as quick as any. */
static void test_fenced(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    kafka_fill(f, "t", 0, 10);
    source_open(f, &s, "t", "i-1");
    WAIT(s.n >= 10);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_HEARTBEAT, KAFKA_MOCK_FENCED, 1);
    WAIT(s.fatal >= 1);
    assert_int_equal(s.fatal_code, ERR_CONFLICT);
    kafka_consumer_close(&s.c);
}

static void test_consumer_close(void **state)
{
    struct kafka_rig *f = *state;
    kafka_mock_topic(f->mock, "t", 2);
    kafka_fill(f, "t", 0, 500);
    kafka_fill(f, "t", 1, 500);
    struct source s = {.close_inside = true, .group = "g1"};
    source_open(f, &s, "t", NULL);
    WAIT(s.n >= 1);
    turn_ms(100);
    assert_int_equal(s.n, 1);
    s = (struct source){.group = "g2"};
    source_open(f, &s, "t", NULL);
    kafka_consumer_close(&s.c); /* at once */
    s.group = "g3";
    source_open(f, &s, "t", NULL);
    kafka_consumer_leave(s.c);
    kafka_consumer_close(&s.c); /* in the middle of leaving */
    s.group = "g4";
    s.hold = true;
    source_open(f, &s, "t", "i");
    WAIT(s.n >= 1);
    kafka_consumer_leave(s.c);
    WAIT(s.revoked >= 1);
    kafka_consumer_close(&s.c); /* with a revocation that nobody answered */
    kafka_mock_set_down(f->mock, -1, 1);
    source_open(f, &s, "t", NULL);
    turn_ms(100);
    kafka_consumer_close(&s.c);
}

/* The group has given partitions out and the owner never turns to hear of it: the library's end must not wait for the answer. */
static void close_unanswered(struct kafka_rig *f, const char *instance)
{
    struct source s = {.group = instance ? "static" : "dynamic"};
    size_t synced = kafka_mock_requests(f->mock, KAFKA_MOCK_SYNC_GROUP);
    size_t left = kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP);
    source_open(f, &s, "t", instance);
    for (uint64_t end = uv_hrtime() + TURNING_NS; /* without a turn */
         kafka_mock_requests(f->mock, KAFKA_MOCK_SYNC_GROUP) == synced; uv_sleep(5))
        assert_true(uv_hrtime() < end);
    uv_sleep(100); /* the answer is here by now, or comes during the end */
    kafka_consumer_close(&s.c);
    uint64_t begin = clock_ms();
    kafka_rig_settle(f);
    assert_true(clock_ms() - begin < 8000); /* it is given up after 10 s */
    assert_int_equal(s.owned, 0);
    left += !instance;
    assert_int_equal(kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP), left);
}

static void test_close_unanswered(void **state)
{
    struct kafka_rig *f = *state;
    kafka_mock_topic(f->mock, "t", 2);
    close_unanswered(f, NULL);
    close_unanswered(f, "cleaner-0");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, kafka_rig_setup, kafka_rig_teardown)
    const struct CMUnitTest tests[] = {
        T(test_rebalance), T(test_slow_owner),     T(test_static_member),
        T(test_fenced),    T(test_consumer_close), T(test_close_unanswered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
