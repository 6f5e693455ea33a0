/* test_kafka: the Kafka adapter against librdkafka's mock cluster: deliveries, refusals, rebalances, seeks, commits, ends.
 * With KAFKA_BROKERS set, the questions that the mock does not answer are put to that cluster too.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/kafka.h"
#include "io/kafka_mock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { WAIT_MS = 60000, MAX = 4096 };

struct sink;
struct fix {
    struct loop *loop;
    struct sink *
        filler; /* the producer of fill(): one for a whole test, because each costs half a second to begin */
    struct kafka_mock *mock;
    const char *brokers;
};

static int setup(void **state)
{
    struct fix *f = MEM_NEW(struct fix);
    log_init("test_kafka");
    log_set_levels(STR("error"));
    f->loop = loop_new();
    f->mock = kafka_mock_new(1);
    if (!f->mock)
        return -1;
    f->brokers = kafka_mock_brokers(f->mock);
    *state = f;
    return 0;
}

static void on_guard(void *ctx)
{
    (void)ctx;
}

/* Turns the loop until the counter has reached a number. */
static void fail_at(int line, size_t n, size_t got)
{
    print_error("line %d: waited for %zu, got %zu\n", line, n, got);
    fail();
}

#define wait_for(f, counter, n) wait_at(f, counter, n, __LINE__)
static void wait_at(struct fix *f, const size_t *counter, size_t n, int line)
{
    struct loop_timer guard = {0};
    for (uint64_t end = clock_ms() + WAIT_MS; *counter < n;) {
        if (clock_ms() >= end)
            fail_at(line, n, *counter);
        loop_timer_start(f->loop, &guard, 50, on_guard, NULL);
        loop_run_once(f->loop, true);
    }
    loop_timer_stop(&guard);
}

/* Turns the loop for a while, for what must not happen. */
static void turn(struct fix *f, uint64_t ms)
{
    struct loop_timer guard = {0};
    for (uint64_t end = clock_ms() + ms; clock_ms() < end;) {
        loop_timer_start(f->loop, &guard, 20, on_guard, NULL);
        loop_run_once(f->loop, true);
    }
    loop_timer_stop(&guard);
}

static void end_filler(struct fix *f);

/* Until what was closed is gone; a test that failed leaves handles open. */
static void settle(struct fix *f)
{
    end_filler(f);
    for (uint64_t end = clock_ms() + WAIT_MS; uv_loop_alive(loop_uv(f->loop)) && clock_ms() < end;)
        turn(f, 10);
}

static int teardown(void **state)
{
    struct fix *f = *state;
    settle(f);
    assert_int_equal(loop_free(&f->loop), 0);
    kafka_mock_free(&f->mock);
    mem_free(f);
    return 0;
}

/* ---- producing ---- */
struct sink {
    size_t n, stored, refused, unsure, fatal, up;
    struct kafka_delivery last;
    struct kafka_producer *p;
    bool close_inside;
    int64_t offsets[MAX];
};

static void on_delivery(void *ctx, void *record, const struct kafka_delivery *d)
{
    struct sink *s = ctx;
    s->last = *d;
    s->n++;
    s->stored += d->outcome == KAFKA_STORED;
    s->refused += d->outcome == KAFKA_REFUSED;
    s->unsure += d->outcome == KAFKA_UNSURE;
    size_t i = (size_t)(uintptr_t)record;
    if (i < MAX)
        s->offsets[i] = d->offset;
    if (s->close_inside)
        kafka_producer_close(&s->p);
}

static void on_fatal(void *ctx, const char *text)
{
    struct sink *s = ctx;
    assert_non_null(text);
    s->fatal++;
}

static void on_state(void *ctx, bool up, const char *detail)
{
    struct sink *s = ctx;
    assert_non_null(detail);
    s->up = up;
}

static struct kafka_producer_opts producer_opts(struct fix *f, struct sink *s)
{
    return (struct kafka_producer_opts){.brokers = f->brokers,
                                        .client_id = "test",
                                        .delivery_timeout_ms = 30000,
                                        .queue_bytes = 8 << 20,
                                        .max_message_bytes = 100000,
                                        .on_delivery = on_delivery,
                                        .on_fatal = on_fatal,
                                        .on_state = on_state,
                                        .ctx = s};
}

static int produce(struct sink *s, const char *topic, int32_t partition, const char *key,
                   const char *value, size_t i)
{
    const struct kafka_header h[] = {
        {STR("a"), STR("1")}, {STR("none"), {0}}, {STR("a"), STR("2")}};
    const struct kafka_record r = {.topic = topic,
                                   .partition = partition,
                                   .key = str_of(key),
                                   .value = str_of(value),
                                   .timestamp_ms = 1700000000000 + (int64_t)i,
                                   .headers = h,
                                   .headers_n = 3};
    return kafka_produce(s->p, &r, (void *)(uintptr_t)i);
}

static void fill(struct fix *f, const char *topic, int32_t partition, size_t n)
{
    if (!f->filler) {
        f->filler = MEM_NEW(struct sink);
        const struct kafka_producer_opts o = producer_opts(f, f->filler);
        assert_int_equal(kafka_producer_open(f->loop, &o, &f->filler->p, NULL), 0);
    }
    char value[32];
    size_t before = f->filler->stored;
    for (size_t i = 0; i < n; i++) {
        snprintf(value, sizeof(value), "v%zu", i);
        assert_int_equal(produce(f->filler, topic, partition, "k", value, i), 0);
    }
    wait_for(f, &f->filler->stored, before + n);
}

static void end_filler(struct fix *f)
{
    if (f->filler)
        kafka_producer_close(&f->filler->p);
    mem_free(f->filler);
    f->filler = NULL;
}

static void test_produce(void **state)
{
    struct fix *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    const struct kafka_producer_opts o = producer_opts(f, &s);
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(produce(&s, "t", i % 2 ? 0 : -1, "k", "hello", i), 0);
    assert_int_equal(s.n, 0); /* never inside the call */
    assert_int_equal(kafka_producer_queued(s.p), 1000);
    assert_int_equal(kafka_producer_queued_bytes(s.p), 6000);
    wait_for(f, &s.n, 1000);
    assert_int_equal(s.stored, 1000);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(s.offsets[i], i);
    assert_int_equal(kafka_producer_queued(s.p), 0);
    assert_int_equal(kafka_producer_queued_bytes(s.p), 0);
    wait_for(f, &s.up, 1);
    kafka_producer_close(&s.p);
    assert_null(s.p);
}

static void test_refusals(void **state)
{
    struct fix *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    const struct kafka_producer_opts o = producer_opts(f, &s);
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    char *big = mem_alloc(200001);
    memset(big, 'x', 200000);
    assert_int_equal(produce(&s, "t", 0, NULL, big, 1), ERR_TOO_LARGE);
    mem_free(big);
    assert_int_equal(produce(&s, "gone", -1, NULL, "v", 3), 0);
    wait_for(f, &s.n, 1);
    assert_int_equal(s.refused, 1);
    assert_int_equal(s.last.code, ERR_NOT_FOUND);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 4), 0);
    wait_for(f, &s.n, 2);
    assert_int_equal(s.stored, 1);
    /* The broker says that it is too large, and that we may not: nobody has it. */
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_TOO_LARGE, 1);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 5), 0);
    wait_for(f, &s.n, 3);
    assert_int_equal(s.last.outcome, KAFKA_REFUSED);
    assert_int_equal(s.last.code, ERR_TOO_LARGE);
    /* What passes by itself is tried again. */
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_NOT_ENOUGH_REPLICAS, 2);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_DISCONNECT, 1);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 7), 0);
    wait_for(f, &s.n, 4);
    assert_int_equal(s.last.outcome, KAFKA_STORED);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_DENIED, 1);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 6), 0);
    wait_for(f, &s.n, 5);
    assert_int_equal(s.last.outcome, KAFKA_REFUSED);
    assert_int_equal(s.last.code, ERR_DENIED);
    kafka_producer_close(&s.p);
}

static void test_queue_full(void **state)
{
    struct fix *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_producer_opts o = producer_opts(f, &s);
    o.queue_bytes = 1 << 20;
    kafka_mock_set_down(f->mock, -1, 1);
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    char *value = mem_alloc(50001);
    memset(value, 'x', 50000);
    size_t n = 0;
    int rc;
    while (!(rc = produce(&s, "t", 0, NULL, value, n)) && n < 1000)
        n++;
    assert_int_equal(rc, ERR_BUSY);
    assert_in_range(n, 15, 25);
    kafka_mock_set_down(f->mock, -1, 0);
    wait_for(f, &s.stored, n);
    assert_int_equal(produce(&s, "t", 0, NULL, value, n), 0);
    wait_for(f, &s.stored, n + 1);
    mem_free(value);
    kafka_producer_close(&s.p);
}

static void test_broker_down(void **state)
{
    struct fix *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_producer_opts o = producer_opts(f, &s);
    o.delivery_timeout_ms = 1000;
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    wait_for(f, &s.up, 1);
    kafka_mock_set_down(f->mock, -1, 1);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 1), 0);
    wait_for(f, &s.n, 1);
    assert_int_equal(s.unsure, 1);
    assert_int_equal(s.last.code, ERR_TIMEOUT);
    assert_int_equal(s.fatal, 0);
    for (uint64_t end = clock_ms() + WAIT_MS; s.up && clock_ms() < end;)
        turn(f, 50);
    assert_int_equal(s.up, 0);
    kafka_mock_set_down(f->mock, -1, 0);
    wait_for(f, &s.up, 1);
    while (s.stored < 1) { /* the first may meet its time-out while the connection comes back */
        size_t n = s.n;
        assert_int_equal(produce(&s, "t", 0, NULL, "v", 2), 0);
        wait_for(f, &s.n, n + 1);
        assert_true(n < 30);
    }
    kafka_producer_close(&s.p);
}

static void test_gapless_fatal(void **state)
{
    struct fix *f = *state;
    struct sink s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_producer_opts o = producer_opts(f, &s);
    o.gapless = true;
    o.delivery_timeout_ms = 0;
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 1), 0);
    wait_for(f, &s.stored, 1);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_PRODUCE, KAFKA_MOCK_TOO_LARGE, 1);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 2), 0);
    wait_for(f, &s.fatal, 1);
    wait_for(f, &s.n, 2);
    assert_int_equal(s.stored, 1);
    assert_int_equal(produce(&s, "t", 0, NULL, "v", 3), ERR_FATAL);
    assert_int_equal(s.fatal, 1);
    kafka_producer_close(&s.p);
}

static void test_producer_close(void **state)
{
    struct fix *f = *state;
    struct sink s = {.close_inside = true};
    kafka_mock_topic(f->mock, "t", 1);
    const struct kafka_producer_opts o = producer_opts(f, &s);
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(produce(&s, "t", 0, "k", "v", i), 0);
    wait_for(f, &s.n, 1); /* closes inside the first report */
    assert_null(s.p);
    settle(f);
    assert_int_equal(s.n, 1);
    /* And with everything on its way, nobody at the other end, and at once. */
    s = (struct sink){0};
    kafka_mock_set_down(f->mock, -1, 1);
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, NULL), 0);
    assert_int_equal(produce(&s, "t", 0, "k", "v", 1), 0);
    kafka_producer_close(&s.p);
    kafka_producer_close(&s.p);
    settle(f);
    assert_int_equal(s.n, 0);
}

static void test_bad_setting(void **state)
{
    struct fix *f = *state;
    struct sink s = {0};
    struct err e = {0};
    struct kafka_producer_opts o = producer_opts(f, &s);
    o.compression = "feathers";
    assert_int_equal(kafka_producer_open(f->loop, &o, &s.p, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "compression.codec"));
}

/* ---- consuming ---- */
struct source {
    struct fix *f;
    struct kafka_consumer *c;
    const char *group; /* NULL: "g" */
    size_t n, ends, assigned, revoked, lost, out_of_range, fatal, up, closed, commits, offsets;
    int fatal_code;
    int64_t first, last, end_offset, bad_offset;
    int64_t start;      /* where ASSIGNED begins; -2: the test takes by hand */
    bool hold;          /* REVOKED is not answered */
    bool after_release; /* a message of a partition that is gone */
    bool close_inside;
    size_t owned;
    bool own[16];
    char last_value[32], header[32];
    int rc;
    struct kafka_partition got[4];
};

static void on_message(void *ctx, const struct kafka_message *m)
{
    struct source *s = ctx;
    struct str h;
    if (!s->n++)
        s->first = m->offset;
    s->last = m->offset;
    if (!s->own[m->partition])
        s->after_release = true;
    snprintf(s->last_value, sizeof(s->last_value), STR_FMT, STR_ARG(m->value));
    if (kafka_message_header(m, "a", &h))
        snprintf(s->header, sizeof(s->header), STR_FMT, STR_ARG(h));
    assert_false(kafka_message_header(m, "b", &h));
    if (s->close_inside)
        kafka_consumer_close(&s->c);
}

static void on_end(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct source *s = ctx;
    assert_non_null(topic);
    (void)partition;
    s->ends++;
    s->end_offset = offset;
}

static void take(struct source *s, const char *topic, int32_t partition, int64_t offset)
{
    const struct kafka_partition p = {
        .topic = (char *)(uintptr_t)topic, .partition = partition, .offset = offset};
    s->own[partition] = true;
    kafka_consumer_take(s->c, &p, 1);
}

static void on_assign(void *ctx, enum kafka_assign_kind kind, const struct kafka_partition *parts,
                      size_t n)
{
    struct source *s = ctx;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(parts[i].offset, -1);
        if (kind == KAFKA_ASSIGNED) {
            s->owned++;
            if (s->start != -2)
                take(s, parts[i].topic, parts[i].partition, s->start);
        } else {
            s->owned--;
            s->own[parts[i].partition] = false;
        }
    }
    s->assigned += kind == KAFKA_ASSIGNED ? n : 0;
    s->revoked += kind == KAFKA_REVOKED ? n : 0;
    s->lost += kind == KAFKA_LOST ? n : 0;
    if (kind != KAFKA_ASSIGNED && !s->hold)
        kafka_consumer_release(s->c, parts, n);
}

static void on_out_of_range(void *ctx, const char *topic, int32_t partition, int64_t offset)
{
    struct source *s = ctx;
    assert_non_null(topic);
    (void)partition;
    s->out_of_range++;
    s->bad_offset = offset;
}

static void on_consumer_state(void *ctx, bool up, const char *detail)
{
    struct source *s = ctx;
    (void)detail;
    s->up = up;
}

static void on_consumer_fatal(void *ctx, int code, const char *text)
{
    struct source *s = ctx;
    assert_true(*text);
    s->fatal++;
    s->fatal_code = code;
}

static void on_closed(void *ctx)
{
    struct source *s = ctx;
    s->closed++;
}

static const struct kafka_consumer_callbacks callbacks = {.on_message = on_message,
                                                          .on_end = on_end,
                                                          .on_assign = on_assign,
                                                          .on_out_of_range = on_out_of_range,
                                                          .on_state = on_consumer_state,
                                                          .on_fatal = on_consumer_fatal,
                                                          .on_closed = on_closed};

static void open_consumer(struct fix *f, struct source *s, const char *topics, const char *instance)
{
    const struct kafka_consumer_opts o = {.brokers = f->brokers,
                                          .client_id = "test",
                                          .group = s->group ? s->group : "g",
                                          .instance = instance,
                                          .session_timeout_ms = 6000,
                                          .topics = topics,
                                          .fetch_bytes = 1 << 20,
                                          .max_message_bytes = 100000,
                                          .metadata_refresh_ms = 1000,
                                          .cb = &callbacks,
                                          .ctx = s};
    s->f = f;
    assert_int_equal(kafka_consumer_open(f->loop, &o, &s->c, NULL), 0);
}

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
    struct fix *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    fill(f, "t", 0, 100);
    open_consumer(f, &s, "t", NULL);
    wait_for(f, &s.n, 100);
    wait_for(f, &s.ends, 1);
    assert_int_equal(s.first, 0);
    assert_int_equal(s.last, 99);
    assert_int_equal(s.end_offset, 100);
    assert_string_equal(s.last_value, "v99");
    assert_string_equal(s.header, "2"); /* the last of that name */
    assert_int_equal(s.up, 1);
    /* Back, with more in between; then forward. Nothing of before comes after. */
    s.n = s.ends = 0;
    kafka_consumer_seek(s.c, "t", 0, 40);
    wait_for(f, &s.n, 60);
    wait_for(f, &s.ends, 1);
    assert_int_equal(s.first, 40);
    assert_int_equal(s.last, 99);
    assert_int_equal(s.n, 60);
    s.n = 0;
    kafka_consumer_seek(s.c, "t", 0, 95);
    wait_for(f, &s.n, 5);
    assert_int_equal(s.first, 95);
    kafka_consumer_leave(s.c);
    wait_for(f, &s.closed, 1);
    assert_int_equal(s.revoked, 1);
    kafka_consumer_close(&s.c);
}

/* Seeks while messages are queued in the library: the first that arrives is always the one that was asked for. */
static void test_seek_filter(void **state)
{
    struct fix *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    fill(f, "t", 0, 2000);
    open_consumer(f, &s, NULL, NULL);
    take(&s, "t", 0, 0);
    int64_t target = 0;
    for (unsigned i = 0; i < 25; i++) {
        s.n = 0;
        wait_for(f, &s.n, 1 + i % 7);
        assert_int_equal(s.first, target);
        target = (target + 700 + (int64_t)i * 13) % 1900; /* forward and back */
        kafka_consumer_seek(s.c, "t", 0, target);
    }
    kafka_consumer_close(&s.c);
}

static void test_groupless(void **state)
{
    struct fix *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 3);
    for (int32_t p = 0; p < 3; p++)
        fill(f, "t", p, 20);
    open_consumer(f, &s, NULL, NULL);
    take(&s, "t", 0, 5);
    wait_for(f, &s.n, 15);
    take(&s, "t", 2, 0); /* leaves the first where it is */
    wait_for(f, &s.n, 35);
    wait_for(f, &s.ends, 2);
    const struct kafka_partition gone = {.topic = (char *)(uintptr_t) "t", .partition = 0};
    kafka_consumer_release(s.c, &gone, 1);
    s.own[0] = false;
    fill(f, "t", 0, 5);
    fill(f, "t", 2, 5);
    wait_for(f, &s.n, 40);
    turn(f, 200);
    assert_int_equal(s.n, 40);
    assert_false(s.after_release);
    /* Offsets go to the group all the same. */
    const struct kafka_partition commit = {
        .topic = (char *)(uintptr_t) "t", .partition = 2, .offset = 7};
    kafka_consumer_commit(s.c, &commit, 1, on_offsets, &s);
    wait_for(f, &s.offsets, 1);
    assert_int_equal(s.rc, 0);
    kafka_consumer_close(&s.c);
}

/* A static member whose name another has taken is told so, once; its end is as quick as any. */
static void test_fenced(void **state)
{
    struct fix *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    fill(f, "t", 0, 10);
    open_consumer(f, &s, "t", "i-1");
    wait_for(f, &s.n, 10);
    kafka_mock_push_error(f->mock, KAFKA_MOCK_HEARTBEAT, KAFKA_MOCK_FENCED, 1);
    wait_for(f, &s.fatal, 1);
    assert_int_equal(s.fatal_code, ERR_CONFLICT);
    kafka_consumer_close(&s.c);
}

static void test_commit(void **state)
{
    struct fix *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 2);
    fill(f, "t", 0, 10);
    open_consumer(f, &s, "t", NULL);
    wait_for(f, &s.n, 10);
    struct kafka_partition p[] = {{.topic = (char *)(uintptr_t) "t",
                                   .partition = 0,
                                   .offset = 7,
                                   .metadata = (char *)(uintptr_t) "an-id"},
                                  {.topic = (char *)(uintptr_t) "t", .partition = 1}};
    kafka_consumer_committed(s.c, p, 2, 30000, on_offsets, &s);
    assert_int_equal(s.offsets, 0);
    wait_for(f, &s.offsets, 1);
    assert_int_equal(s.rc, 0);
    assert_int_equal(s.got[0].offset, -1);
    kafka_consumer_commit(s.c, p, 1, on_offsets, &s);
    wait_for(f, &s.offsets, 2);
    assert_int_equal(s.rc, 0);
    p[0].offset = 0;
    kafka_consumer_committed(s.c, p, 2, 30000, on_offsets, &s);
    wait_for(f, &s.offsets, 3);
    assert_int_equal(s.got[0].partition, 0);
    assert_int_equal(s.got[0].offset, 7);
    assert_string_equal(s.got[0].metadata, "an-id");
    assert_int_equal(s.got[1].offset, -1);
    kafka_consumer_commit(s.c, p, 1, NULL, NULL);
    kafka_consumer_committed(s.c, p, 0, 30000, on_offsets, &s);
    wait_for(f, &s.offsets, 4);
    /* Questions without an answer yet: no callback after the end. */
    kafka_mock_set_down(f->mock, -1, 1);
    kafka_consumer_committed(s.c, p, 2, 30000, on_offsets, &s);
    kafka_consumer_commit(s.c, p, 1, on_offsets, &s);
    kafka_consumer_close(&s.c);
    settle(f);
    assert_int_equal(s.offsets, 4);
}

static void test_pause(void **state)
{
    struct fix *f = *state;
    struct source s = {0};
    kafka_mock_topic(f->mock, "t", 1);
    fill(f, "t", 0, 10);
    open_consumer(f, &s, "t", NULL);
    wait_for(f, &s.n, 10);
    kafka_consumer_pause(s.c, "t", 0);
    fill(f, "t", 0, 10);
    turn(f, 300);
    assert_int_equal(s.n, 10);
    /* A seek does not end the pause. */
    kafka_consumer_seek(s.c, "t", 0, 12);
    turn(f, 300);
    assert_int_equal(s.n, 10);
    kafka_consumer_resume(s.c, "t", 0);
    wait_for(f, &s.n, 18);
    assert_int_equal(s.last, 19);
    kafka_consumer_close(&s.c);
}

static void test_out_of_range(void **state)
{
    struct fix *f = *state;
    struct source s = {.start = 500};
    kafka_mock_topic(f->mock, "t", 1);
    fill(f, "t", 0, 10);
    open_consumer(f, &s, "t", NULL);
    wait_for(f, &s.out_of_range, 1);
    assert_int_equal(s.bad_offset, 500);
    assert_int_equal(s.n, 0);
    kafka_consumer_seek(s.c, "t", 0, 3);
    wait_for(f, &s.n, 7);
    assert_int_equal(s.first, 3);
    kafka_consumer_close(&s.c);
}

static void test_rebalance(void **state)
{
    struct fix *f = *state;
    struct source a = {0}, b = {0};
    kafka_mock_topic(f->mock, "t", 4);
    for (int32_t p = 0; p < 4; p++)
        fill(f, "t", p, 10);
    open_consumer(f, &a, "t", NULL);
    wait_for(f, &a.n, 40);
    assert_int_equal(a.owned, 4);
    a.hold = true; /* the revocation waits for us */
    open_consumer(f, &b, "t", NULL);
    wait_for(f, &a.revoked, 2);
    fill(f, "t", 0, 5);
    fill(f, "t", 1, 5);
    fill(f, "t", 2, 5);
    fill(f, "t", 3, 5);
    turn(f, 200);
    assert_false(a.after_release);
    assert_int_equal(b.n, 0);
    for (int32_t p = 0; p < 4; p++) {
        const struct kafka_partition gone = {.topic = (char *)(uintptr_t) "t", .partition = p};
        if (!a.own[p])
            kafka_consumer_release(a.c, &gone, 1); /* one by one */
    }
    wait_for(f, &b.n, 30);
    wait_for(f, &a.n, 50); /* the two that stayed are read on, the two that went are not */
    turn(f, 200);
    assert_int_equal(a.n, 50);
    assert_false(a.after_release);
    assert_int_equal(b.owned, 2);
    assert_int_equal(a.owned, 2);
    /* The second goes: the first has all again. */
    kafka_consumer_leave(b.c);
    wait_for(f, &b.closed, 1);
    kafka_consumer_close(&b.c);
    a.hold = false;
    wait_for(f, &a.owned, 4);
    kafka_consumer_close(&a.c);
}

/* An owner who does not say where to begin holds nobody up. */
static void test_slow_owner(void **state)
{
    struct fix *f = *state;
    struct source a = {.start = -2}, b = {0};
    kafka_mock_topic(f->mock, "t", 2);
    fill(f, "t", 0, 10);
    fill(f, "t", 1, 10);
    open_consumer(f, &a, "t", NULL);
    wait_for(f, &a.owned, 2);
    open_consumer(f, &b, "t", NULL);
    wait_for(f, &b.n, 10);
    assert_int_equal(a.n, 0);
    assert_int_equal(a.owned, 1);
    /* Too late for the one that is gone, in time for the other. */
    for (int32_t p = 0; p < 2; p++)
        take(&a, "t", p, 4);
    wait_for(f, &a.n, 6);
    turn(f, 200);
    assert_int_equal(a.n, 6);
    kafka_consumer_close(&a.c);
    kafka_consumer_close(&b.c);
}

static void test_static_member(void **state)
{
    struct fix *f = *state;
    struct source a = {0};
    kafka_mock_topic(f->mock, "t", 1);
    fill(f, "t", 0, 10);
    open_consumer(f, &a, "t", "cleaner-0");
    wait_for(f, &a.n, 10);
    assert_int_equal(kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP), 0);
    kafka_consumer_leave(a.c);
    kafka_consumer_leave(a.c);
    wait_for(f, &a.closed, 1);
    kafka_consumer_close(&a.c);
    a = (struct source){0};
    open_consumer(f, &a, "t", "cleaner-0");
    wait_for(f, &a.n, 10);
    kafka_consumer_close(&a.c);
    settle(f);
    assert_int_equal(kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP), 0);
}

static void test_consumer_close(void **state)
{
    struct fix *f = *state;
    kafka_mock_topic(f->mock, "t", 2);
    fill(f, "t", 0, 500);
    fill(f, "t", 1, 500);
    struct source s = {.close_inside = true, .group = "g1"};
    open_consumer(f, &s, "t", NULL);
    wait_for(f, &s.n, 1);
    turn(f, 100);
    assert_int_equal(s.n, 1);
    s = (struct source){.group = "g2"};
    open_consumer(f, &s, "t", NULL);
    kafka_consumer_close(&s.c); /* at once */
    s.group = "g3";
    open_consumer(f, &s, "t", NULL);
    kafka_consumer_leave(s.c);
    kafka_consumer_close(&s.c); /* in the middle of leaving */
    s.group = "g4";
    s.hold = true;
    open_consumer(f, &s, "t", "i");
    wait_for(f, &s.n, 1);
    kafka_consumer_leave(s.c);
    wait_for(f, &s.revoked, 1);
    kafka_consumer_close(&s.c); /* with a revocation that nobody answered */
    kafka_mock_set_down(f->mock, -1, 1);
    open_consumer(f, &s, "t", NULL);
    turn(f, 100);
    kafka_consumer_close(&s.c);
}

/* The group has given partitions out and the owner never turns to hear of it: the library's end must not wait for the answer. */
static void close_unanswered(struct fix *f, const char *instance)
{
    struct source s = {.group = instance ? "static" : "dynamic"};
    size_t synced = kafka_mock_requests(f->mock, KAFKA_MOCK_SYNC_GROUP);
    size_t left = kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP);
    open_consumer(f, &s, "t", instance);
    for (uint64_t end = clock_ms() + WAIT_MS;
         kafka_mock_requests(f->mock, KAFKA_MOCK_SYNC_GROUP) == synced;) {
        assert_true(clock_ms() < end);
        uv_sleep(5);
    }
    uv_sleep(100); /* the answer is here by now, or comes during the end */
    kafka_consumer_close(&s.c);
    uint64_t begin = clock_ms();
    settle(f);
    assert_true(clock_ms() - begin < 8000); /* it is given up after 10 s */
    assert_int_equal(s.owned, 0);
    left += !instance;
    assert_int_equal(kafka_mock_requests(f->mock, KAFKA_MOCK_LEAVE_GROUP), left);
}

static void test_close_unanswered(void **state)
{
    struct fix *f = *state;
    kafka_mock_topic(f->mock, "t", 2);
    close_unanswered(f, NULL);
    close_unanswered(f, "cleaner-0");
}

/* ---- questions ---- */
struct answer {
    size_t topics, orders, offsets, configs;
    int rc;
    size_t topics_n, partitions_n, brokers_n, replicas_n;
    int code;
    int32_t leader;
    int64_t offset[2];
    char id[32], text[256], retention[32];
};

static void on_topics(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct answer *a = ctx;
    a->topics++;
    a->rc = rc;
    a->topics_n = info->topics_n;
    a->brokers_n = info->brokers_n;
    if (!info->topics_n)
        return;
    const struct kafka_topic_info *t = &info->topics[0];
    a->code = t->code;
    a->partitions_n = t->partitions_n;
    snprintf(a->id, sizeof(a->id), "%s", t->id);
    if (t->partitions_n) {
        a->leader = t->partitions[0].leader;
        a->replicas_n = t->partitions[t->partitions_n - 1].replicas_n;
        assert_int_equal(t->partitions[t->partitions_n - 1].partition, t->partitions_n - 1);
    }
}

static void on_order(void *ctx, int rc, const char *text)
{
    struct answer *a = ctx;
    a->orders++;
    a->rc = rc;
    snprintf(a->text, sizeof(a->text), "%s", text);
}

static void on_admin_offsets(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct answer *a = ctx;
    a->offsets++;
    a->rc = rc;
    for (size_t i = 0; i < n && i < 2; i++)
        a->offset[i] = parts[i].offset;
}

static void on_configs(void *ctx, int rc, const struct kafka_header *configs, size_t n)
{
    struct answer *a = ctx;
    a->configs++;
    a->rc = rc;
    for (size_t i = 0; i < n; i++)
        if (str_is(configs[i].name, "retention.ms"))
            snprintf(a->retention, sizeof(a->retention), STR_FMT, STR_ARG(configs[i].value));
}

static struct kafka_admin *open_admin(struct fix *f, const char *brokers, uint64_t timeout_ms)
{
    struct kafka_admin *admin;
    const struct kafka_admin_opts o = {
        .brokers = brokers, .client_id = "test", .timeout_ms = timeout_ms};
    assert_int_equal(kafka_admin_open(f->loop, &o, &admin, NULL), 0);
    return admin;
}

static void test_admin(void **state)
{
    struct fix *f = *state;
    struct answer a = {0};
    kafka_mock_topic(f->mock, "t", 2);
    fill(f, "t", 0, 30);
    struct kafka_admin *admin = open_admin(f, f->brokers, 20000);
    const char *names[] = {"t"};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    assert_int_equal(a.topics, 0);
    wait_for(f, &a.topics, 1);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.partitions_n, 2);
    assert_in_range(a.leader, 0, 1);
    assert_int_equal(a.replicas_n, 1);
    assert_int_equal(strlen(a.id), 22);
    kafka_admin_describe(admin, NULL, 0, on_topics, &a);
    wait_for(f, &a.topics, 2);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.topics_n, 1);
    assert_int_equal(a.brokers_n, 2);
    const struct kafka_partition p[] = {{.topic = (char *)(uintptr_t) "t", .partition = 0},
                                        {.topic = (char *)(uintptr_t) "t", .partition = 1}};
    kafka_admin_offsets(admin, p, 2, false, on_admin_offsets, &a);
    wait_for(f, &a.offsets, 1);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.offset[0] + a.offset[1], 30);
    kafka_admin_offsets(admin, p, 2, true, on_admin_offsets, &a);
    wait_for(f, &a.offsets, 2);
    assert_int_equal(a.offset[0], 0);
    kafka_admin_offsets(admin, p, 0, true, on_admin_offsets, &a);
    wait_for(f, &a.offsets, 3);
    kafka_admin_describe(admin, names, 0, on_topics, &a);
    wait_for(f, &a.topics, 3);
    kafka_admin_close(&admin);
}

static void test_admin_away(void **state)
{
    struct fix *f = *state;
    struct answer a = {0};
    kafka_mock_set_down(f->mock, -1, 1);
    struct kafka_admin *admin = open_admin(f, f->brokers, 500);
    const char *names[] = {"t"};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    kafka_admin_describe(admin, NULL, 0, on_topics, &a);
    wait_for(f, &a.topics, 2);
    assert_true(err_retryable(a.rc));
    kafka_admin_close(&admin);
    admin = open_admin(f, f->brokers, 30000);
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    kafka_admin_describe(admin, NULL, 0, on_topics, &a);
    turn(f, 50);
    kafka_admin_close(&admin);
    settle(f);
    assert_int_equal(a.topics, 2);
}

/* What the mock has no answer for, asked of a real cluster when there is one. */
static void test_real_cluster(void **state)
{
    struct fix *f = *state;
    const char *brokers = getenv("KAFKA_BROKERS");
    if (!brokers)
        skip();
    struct answer a = {0};
    struct kafka_admin *admin = open_admin(f, brokers, 20000);
    char name[64];
    snprintf(name, sizeof(name), "test_kafka_%llu", (unsigned long long)clock_wall_ms());
    struct kafka_new_topic t = {.name = name, .partitions = 1, .replication = 1};
    t.configs[0].key = "retention.ms";
    snprintf(t.configs[0].value, sizeof(t.configs[0].value), "123456");
    for (size_t i = 1; i <= 2; i++) { /* the second time it is there already */
        kafka_admin_create(admin, &t, 1, on_order, &a);
        wait_for(f, &a.orders, i);
        assert_int_equal(a.rc, 0);
    }
    for (size_t i = 3; i <= 4; i++) {
        kafka_admin_grow(admin, name, 3, on_order, &a);
        wait_for(f, &a.orders, i);
        assert_int_equal(a.rc, 0);
    }
    kafka_admin_configs(admin, name, on_configs, &a);
    wait_for(f, &a.configs, 1);
    assert_string_equal(a.retention, "123456");
    const char *names[] = {name};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    wait_for(f, &a.topics, 1);
    assert_int_equal(a.partitions_n, 3);
    assert_int_equal(strlen(a.id), 22);
    names[0] = "not-there";
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    wait_for(f, &a.topics, 2);
    assert_int_equal(a.code, ERR_NOT_FOUND);
    kafka_admin_grow(admin, "not-there", 3, on_order, &a);
    wait_for(f, &a.orders, 5);
    assert_int_equal(a.rc, ERR_NOT_FOUND);
    f->brokers = brokers;
    fill(f, name, 2, 50);
    struct source s = {0};
    open_consumer(f, &s, name, "i-0");
    wait_for(f, &s.n, 50);
    kafka_consumer_seek(s.c, name, 2, 20);
    wait_for(f, &s.n, 80);
    kafka_consumer_close(&s.c);
    kafka_admin_close(&admin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
        T(test_produce),
        T(test_refusals),
        T(test_queue_full),
        T(test_broker_down),
        T(test_gapless_fatal),
        T(test_producer_close),
        T(test_bad_setting),
        T(test_consume_group),
        T(test_seek_filter),
        T(test_groupless),
        T(test_fenced),
        T(test_commit),
        T(test_pause),
        T(test_out_of_range),
        T(test_rebalance),
        T(test_slow_owner),
        T(test_static_member),
        T(test_consumer_close),
        T(test_close_unanswered),
        T(test_admin),
        T(test_admin_away),
        T(test_real_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
