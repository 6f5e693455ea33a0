/* test_kafka_producer: deliveries, refusals and ends, against the mock cluster.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/mem.h"
#include "io/kafka.h"
#include "support/kafka_rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void test_produce(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    const struct kafka_producer_opts o = sink_opts(f, &s);
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(sink_produce(&s, "t", i % 2 ? 0 : -1, "k", "hello", i), 0);
    assert_int_equal(s.n, 0); /* never inside the call */
    assert_int_equal(kafka_producer_queued(s.p), 1000);
    assert_int_equal(kafka_producer_queued_bytes(s.p), 6000);
    WAIT(s.n >= 1000);
    assert_int_equal(s.stored, 1000);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(s.offsets[i], i);
    assert_int_equal(kafka_producer_queued(s.p), 0);
    assert_int_equal(kafka_producer_queued_bytes(s.p), 0);
    WAIT(s.up >= 1);
    kafka_producer_close(&s.p);
    assert_null(s.p);
}

static void test_refusals(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    const struct kafka_producer_opts o = sink_opts(f, &s);
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    char *big = mem_alloc(200001);
    memset(big, 'x', 200000);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, big, 1), ERR_TOO_LARGE);
    mem_free(big);
    /* Said outright: the mock creates a topic that it is asked for in one of the library's ways, and which comes first is chance. */
    kafka_mock_topic_error(f->mock, "gone", KAFKA_MOCK_UNKNOWN_TOPIC);
    assert_int_equal(sink_produce(&s, "gone", -1, NULL, "v", 3), 0);
    WAIT(s.n >= 1);
    assert_int_equal(s.refused, 1);
    assert_int_equal(s.last.code, ERR_NOT_FOUND);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 4), 0);
    WAIT(s.n >= 2);
    assert_int_equal(s.stored, 1);
    /* The broker says that it is too large, and that we may not: nobody has it. */
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_TOO_LARGE, 1);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 5), 0);
    WAIT(s.n >= 3);
    assert_int_equal(s.last.outcome, KAFKA_REFUSED);
    assert_int_equal(s.last.code, ERR_TOO_LARGE);
    /* What passes by itself is tried again. */
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_NOT_ENOUGH_REPLICAS, 2);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_DISCONNECT, 1);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 7), 0);
    WAIT(s.n >= 4);
    assert_int_equal(s.last.outcome, KAFKA_STORED);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_DENIED, 1);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 6), 0);
    WAIT(s.n >= 5);
    assert_int_equal(s.last.outcome, KAFKA_REFUSED);
    assert_int_equal(s.last.code, ERR_DENIED);
    kafka_producer_close(&s.p);
}

static void test_queue_full(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_producer_opts o = sink_opts(f, &s);
    o.queue_bytes = 1 << 20;
    kafka_mock_set_down(f->mock, -1, 1);
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    char *value = mem_alloc(50001);
    memset(value, 'x', 50000);
    size_t n = 0;
    int rc;
    while (!(rc = sink_produce(&s, "t", 0, NULL, value, n)) && n < 1000)
        n++;
    assert_int_equal(rc, ERR_BUSY);
    assert_in_range(n, 15, 25);
    kafka_mock_set_down(f->mock, -1, 0);
    WAIT(s.stored >= n);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, value, n), 0);
    WAIT(s.stored >= n + 1);
    mem_free(value);
    kafka_producer_close(&s.p);
}

static void test_broker_down(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_producer_opts o = sink_opts(f, &s);
    o.delivery_timeout_ms = 1000;
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    WAIT(s.up >= 1);
    kafka_mock_set_down(f->mock, -1, 1);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 1), 0);
    WAIT(s.n >= 1);
    assert_int_equal(s.unsure, 1);
    assert_int_equal(s.last.code, ERR_TIMEOUT);
    assert_int_equal(s.fatal, 0);
    WAIT(!s.up);
    kafka_mock_set_down(f->mock, -1, 0);
    WAIT(s.up >= 1);
    while (s.stored < 1) { /* the first may meet its time-out while the connection comes back */
        size_t n = s.n;
        assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 2), 0);
        WAIT(s.n >= n + 1);
        assert_true(n < 30);
    }
    kafka_producer_close(&s.p);
}

static void test_gapless_fatal(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_producer_opts o = sink_opts(f, &s);
    o.gapless = true;
    o.delivery_timeout_ms = 0;
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 1), 0);
    WAIT(s.stored >= 1);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_TOO_LARGE, 1);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 2), 0);
    WAIT(s.fatal >= 1);
    WAIT(s.n >= 2);
    assert_int_equal(s.stored, 1);
    assert_int_equal(sink_produce(&s, "t", 0, NULL, "v", 3), ERR_FATAL);
    assert_int_equal(s.fatal, 1);
    kafka_producer_close(&s.p);
}

static void test_producer_close(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {.close_inside = true};
    kafka_mock_topic(f->mock, "t", 1);
    const struct kafka_producer_opts o = sink_opts(f, &s);
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(sink_produce(&s, "t", 0, "k", "v", i), 0);
    WAIT(s.n >= 1); /* closes inside the first report */
    assert_null(s.p);
    kafka_rig_settle(f);
    assert_int_equal(s.n, 1);
    /* And with everything on its way, nobody at the other end, and at once. */
    s = (struct sink){0};
    kafka_mock_set_down(f->mock, -1, 1);
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, NULL), 0);
    assert_int_equal(sink_produce(&s, "t", 0, "k", "v", 1), 0);
    kafka_producer_close(&s.p);
    kafka_producer_close(&s.p);
    kafka_rig_settle(f);
    assert_int_equal(s.n, 0);
}

static void test_bad_setting(void **state)
{
    struct kafka_rig *f = *state;
    struct sink s = {0};
    struct err e = {0};
    struct kafka_producer_opts o = sink_opts(f, &s);
    o.compression = "feathers";
    assert_int_equal(kafka_producer_open(loop, &o, &s.p, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "compression.codec"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, kafka_rig_setup, kafka_rig_teardown)
    const struct CMUnitTest tests[] = {
        T(test_produce),       T(test_refusals),       T(test_queue_full),  T(test_broker_down),
        T(test_gapless_fatal), T(test_producer_close), T(test_bad_setting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
