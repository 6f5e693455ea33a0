/* test_kafka_consumer: seeks, pauses and commits, against the mock cluster.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/mem.h"
#include "io/kafka.h"
#include "support/kafka_rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void on_offsets(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct source *s = ctx;
    s->rc = rc;
    s->offsets++;
    for (size_t i = 0; i < 4; i++) {
        mem_free(s->got[i].metadata);
        s->got[i] = (struct kafka_partition){.partition = -1};
    }
    for (size_t i = 0; i < n && i < 4; i++) {
        s->got[i] = parts[i];
        s->got[i].topic = NULL;
        s->got[i].metadata = parts[i].metadata ? mem_strdup(parts[i].metadata) : NULL;
    }
}

static void test_consume_group(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    kafka_fill(f, "t", 0, 100);
    source_open(f, &s, "t", NULL);
    WAIT(s.n >= 100);
    WAIT(s.ends >= 1);
    assert_int_equal(s.first, 0);
    assert_int_equal(s.last, 99);
    assert_int_equal(s.end_offset, 100);
    assert_string_equal(s.last_value, "v99");
    assert_string_equal(s.header, "2"); /* the last of that name */
    assert_int_equal(s.up, 1);
    /* Back, with more in between; then forward. Nothing of before comes after. */
    s.n = s.ends = 0;
    kafka_consumer_seek(s.c, "t", 0, 40);
    WAIT(s.n >= 60);
    WAIT(s.ends >= 1);
    assert_int_equal(s.first, 40);
    assert_int_equal(s.last, 99);
    assert_int_equal(s.n, 60);
    s.n = 0;
    kafka_consumer_seek(s.c, "t", 0, 95);
    WAIT(s.n >= 5);
    assert_int_equal(s.first, 95);
    kafka_consumer_leave(s.c);
    WAIT(s.closed >= 1);
    assert_int_equal(s.revoked, 1);
    kafka_consumer_close(&s.c);
}

/* Seeks while messages are queued in the library: the first that arrives is always the one that was asked for. */
static void test_seek_filter(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    kafka_fill(f, "t", 0, 2000);
    source_open(f, &s, NULL, NULL);
    source_take(&s, "t", 0, 0);
    int64_t target = 0;
    for (unsigned i = 0; i < 25; i++) {
        s.n = 0;
        WAIT(s.n >= 1 + i % 7);
        assert_int_equal(s.first, target);
        target = (target + 700 + (int64_t)i * 13) % 1900; /* forward and back */
        kafka_consumer_seek(s.c, "t", 0, target);
    }
    kafka_consumer_close(&s.c);
}

static void test_groupless(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 3);
    for (int32_t p = 0; p < 3; p++)
        kafka_fill(f, "t", p, 20);
    source_open(f, &s, NULL, NULL);
    source_take(&s, "t", 0, 5);
    WAIT(s.n >= 15);
    source_take(&s, "t", 2, 0); /* leaves the first where it is */
    WAIT(s.n >= 35);
    WAIT(s.ends >= 2);
    const struct kafka_partition gone = {.topic = (char *)(uintptr_t) "t", .partition = 0};
    kafka_consumer_release(s.c, &gone, 1);
    s.own[0] = false;
    kafka_fill(f, "t", 0, 5);
    kafka_fill(f, "t", 2, 5);
    WAIT(s.n >= 40);
    turn_ms(200);
    assert_int_equal(s.n, 40);
    assert_false(s.after_release);
    /* Offsets go to the group all the same. */
    const struct kafka_partition commit = {
        .topic = (char *)(uintptr_t) "t", .partition = 2, .offset = 7};
    kafka_consumer_commit(s.c, &commit, 1, on_offsets, &s);
    WAIT(s.offsets >= 1);
    assert_int_equal(s.rc, 0);
    kafka_consumer_close(&s.c);
}

static void test_commit(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 2);
    kafka_fill(f, "t", 0, 10);
    source_open(f, &s, "t", NULL);
    WAIT(s.n >= 10);
    struct kafka_partition p[] = {{.topic = (char *)(uintptr_t) "t",
                                   .partition = 0,
                                   .offset = 7,
                                   .metadata = (char *)(uintptr_t) "an-id"},
                                  {.topic = (char *)(uintptr_t) "t", .partition = 1}};
    kafka_consumer_committed(s.c, p, 2, 30000, on_offsets, &s);
    assert_int_equal(s.offsets, 0);
    WAIT(s.offsets >= 1);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.got[0].offset, -1);
    kafka_consumer_commit(s.c, p, 1, on_offsets, &s);
    WAIT(s.offsets >= 2);
    assert_int_equal(s.rc, 0);
    p[0].offset = 0;
    kafka_consumer_committed(s.c, p, 2, 30000, on_offsets, &s);
    WAIT(s.offsets >= 3);
    assert_int_equal(s.got[0].partition, 0);
    assert_int_equal(s.got[0].offset, 7);
    assert_string_equal(s.got[0].metadata, "an-id");
    assert_int_equal(s.got[1].offset, -1);
    kafka_consumer_commit(s.c, p, 1, NULL, NULL);
    kafka_consumer_committed(s.c, p, 0, 30000, on_offsets, &s);
    WAIT(s.offsets >= 4);
    /* Questions without an answer yet: no callback after the end. */
    kafka_mock_set_down(f->mock, -1, 1);
    kafka_consumer_committed(s.c, p, 2, 30000, on_offsets, &s);
    kafka_consumer_commit(s.c, p, 1, on_offsets, &s);
    kafka_consumer_close(&s.c);
    kafka_rig_settle(f);
    assert_int_equal(s.offsets, 4);
}

static void test_pause(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    kafka_fill(f, "t", 0, 10);
    source_open(f, &s, "t", NULL);
    WAIT(s.n >= 10);
    kafka_consumer_pause(s.c, "t", 0);
    kafka_fill(f, "t", 0, 10);
    turn_ms(300);
    assert_int_equal(s.n, 10);
    /* A seek does not end the pause. */
    kafka_consumer_seek(s.c, "t", 0, 12);
    turn_ms(300);
    assert_int_equal(s.n, 10);
    kafka_consumer_resume(s.c, "t", 0);
    WAIT(s.n >= 18);
    assert_int_equal(s.last, 19);
    kafka_consumer_close(&s.c);
}

static void test_out_of_range(void **state)
{
    struct kafka_rig *f = *state;
    struct source s = {.start = 500};
    kafka_mock_topic(f->mock, "t", 1);
    kafka_fill(f, "t", 0, 10);
    source_open(f, &s, "t", NULL);
    WAIT(s.out_of_range >= 1);
    assert_int_equal(s.bad_offset, 500);
    assert_int_equal(s.n, 0);
    kafka_consumer_seek(s.c, "t", 0, 3);
    WAIT(s.n >= 7);
    assert_int_equal(s.first, 3);
    kafka_consumer_close(&s.c);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, kafka_rig_setup, kafka_rig_teardown)
    const struct CMUnitTest tests[] = {
        T(test_consume_group), T(test_seek_filter), T(test_groupless),
        T(test_commit),        T(test_pause),       T(test_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
