/* kafka_rig: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "kafka_rig.h"
#include "base/log.h"
#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

int kafka_rig_setup(void **state)
{
    struct kafka_rig *f = MEM_NEW(struct kafka_rig);
    log_init("test_kafka");
    log_set_levels(STR("error"));
    (void)turning_setup(state);
    f->mock = kafka_mock_new(1);
    if (!f->mock)
        return -1;
    f->brokers = kafka_mock_brokers(f->mock);
    *state = f;
    return 0;
}

static void end_filler(struct kafka_rig *f)
{
    if (f->filler)
        kafka_producer_close(&f->filler->p);
    mem_free(f->filler);
    f->filler = NULL;
}

void kafka_rig_settle(struct kafka_rig *f)
{
    end_filler(f);
    for (uint64_t end = uv_hrtime() + TURNING_NS;
         uv_loop_alive(loop_uv(loop)) && uv_hrtime() < end;)
        turn();
}

int kafka_rig_teardown(void **state)
{
    struct kafka_rig *f = *state;
    kafka_rig_settle(f);
    int rc = turning_teardown(state);
    kafka_mock_free(&f->mock);
    mem_free(f);
    return rc;
}

static void on_delivery(void *ctx, void *record, const struct kafka_delivery *d)
{
    struct sink *s = ctx;
    s->last = *d;
    s->n++;
    s->stored += d->outcome == KAFKA_STORED;
    s->refused += d->outcome == KAFKA_REFUSED;
    s->unsure += d->outcome == KAFKA_UNSURE;
    size_t i = (size_t)(uintptr_t)record;
    if (i < SINK_MAX)
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

struct kafka_producer_opts sink_opts(struct kafka_rig *f, struct sink *s)
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

int sink_produce(struct sink *s, const char *topic, int32_t partition, const char *key,
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

void kafka_fill(struct kafka_rig *f, const char *topic, int32_t partition, size_t n)
{
    if (!f->filler) {
        f->filler = MEM_NEW(struct sink);
        const struct kafka_producer_opts o = sink_opts(f, f->filler);
        assert_int_equal(kafka_producer_open(loop, &o, &f->filler->p, NULL), 0);
    }
    char value[32];
    size_t before = f->filler->stored;
    for (size_t i = 0; i < n; i++) {
        snprintf(value, sizeof(value), "v%zu", i);
        assert_int_equal(sink_produce(f->filler, topic, partition, "k", value, i), 0);
    }
    WAIT(f->filler->stored >= before + n);
}

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

void source_take(struct source *s, const char *topic, int32_t partition, int64_t offset)
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
                source_take(s, parts[i].topic, parts[i].partition, s->start);
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

void source_open(struct kafka_rig *f, struct source *s, const char *topics, const char *instance)
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
    assert_int_equal(kafka_consumer_open(loop, &o, &s->c, NULL), 0);
}
