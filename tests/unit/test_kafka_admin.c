/* test_kafka_admin: questions and orders, against the mock cluster; what it does not answer, against the cluster of KAFKA_BROKERS.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "io/kafka.h"
#include "support/kafka_rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

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

static struct kafka_admin *open_admin(const char *brokers, uint64_t timeout_ms)
{
    struct kafka_admin *admin;
    const struct kafka_admin_opts o = {
        .brokers = brokers, .client_id = "test", .timeout_ms = timeout_ms};
    assert_int_equal(kafka_admin_open(loop, &o, &admin, NULL), 0);
    return admin;
}

static void test_admin(void **state)
{
    struct kafka_rig *f = *state;
    struct answer a = {0};
    kafka_mock_topic(f->mock, "t", 2);
    kafka_fill(f, "t", 0, 30);
    struct kafka_admin *admin = open_admin(f->brokers, 20000);
    const char *names[] = {"t"};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    assert_int_equal(a.topics, 0);
    WAIT(a.topics >= 1);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.partitions_n, 2);
    assert_in_range(a.leader, 0, 1);
    assert_int_equal(a.replicas_n, 1);
    assert_int_equal(strlen(a.id), 22);
    kafka_admin_describe(admin, NULL, 0, on_topics, &a);
    WAIT(a.topics >= 2);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.topics_n, 1);
    assert_int_equal(a.brokers_n, 2);
    const struct kafka_partition p[] = {{.topic = (char *)(uintptr_t) "t", .partition = 0},
                                        {.topic = (char *)(uintptr_t) "t", .partition = 1}};
    kafka_admin_offsets(admin, p, 2, false, on_admin_offsets, &a);
    WAIT(a.offsets >= 1);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.offset[0] + a.offset[1], 30);
    kafka_admin_offsets(admin, p, 2, true, on_admin_offsets, &a);
    WAIT(a.offsets >= 2);
    assert_int_equal(a.offset[0], 0);
    kafka_admin_offsets(admin, p, 0, true, on_admin_offsets, &a);
    WAIT(a.offsets >= 3);
    kafka_admin_describe(admin, names, 0, on_topics, &a);
    WAIT(a.topics >= 3);
    kafka_admin_close(&admin);
}

/* When it is known that no broker is there, nobody waits for one, however long a question may take. */
static void test_admin_refused_without_brokers(void **state)
{
    struct kafka_rig *f = *state;
    struct answer a = {0};
    kafka_mock_topic(f->mock, "t", 1);
    struct kafka_admin *admin = open_admin(f->brokers, 120000);
    const char *names[] = {"t"};
    const struct kafka_partition p = {.topic = (char *)(uintptr_t) "t"};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    WAIT(a.topics >= 1);
    assert_int_equal(a.rc, 0);
    kafka_mock_set_down(f->mock, -1, 1);
    turn_ms(3000);
    uint64_t began = clock_ms();
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    assert_int_equal(a.topics, 1);
    WAIT(a.topics >= 2);
    assert_int_equal(a.rc, ERR_UNAVAILABLE);
    kafka_admin_offsets(admin, &p, 1, true, on_admin_offsets, &a);
    WAIT(a.offsets >= 1);
    assert_int_equal(a.rc, ERR_UNAVAILABLE);
    const struct kafka_new_topic topic = {.name = "new", .partitions = 1, .replication = 1};
    kafka_admin_create(admin, &topic, 1, on_order, &a);
    kafka_admin_grow(admin, "t", 2, on_order, &a);
    kafka_admin_configs(admin, "t", on_configs, &a);
    WAIT(a.orders >= 2 && a.configs >= 1);
    assert_int_equal(a.rc, ERR_UNAVAILABLE);
    assert_true(clock_ms() - began < 30000);
    kafka_mock_set_down(f->mock, -1, 0);
    for (size_t asked = a.topics; a.rc && asked < 600; asked++) {
        kafka_admin_describe(admin, names, 1, on_topics, &a);
        WAIT(a.topics > asked);
        turn_ms(100);
    }
    assert_int_equal(a.rc, 0);
    kafka_admin_close(&admin);
}

static void test_admin_away(void **state)
{
    struct kafka_rig *f = *state;
    struct answer a = {0};
    kafka_mock_set_down(f->mock, -1, 1);
    struct kafka_admin *admin = open_admin(f->brokers, 500);
    const char *names[] = {"t"};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    kafka_admin_describe(admin, NULL, 0, on_topics, &a);
    WAIT(a.topics >= 2);
    assert_true(err_retryable(a.rc));
    kafka_admin_close(&admin);
    admin = open_admin(f->brokers, 30000);
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    kafka_admin_describe(admin, NULL, 0, on_topics, &a);
    turn_ms(50);
    kafka_admin_close(&admin);
    kafka_rig_settle(f);
    assert_int_equal(a.topics, 2);
}

/* What the mock has no answer for, asked of a real cluster: tests/e2e/test_faults.py gives one. */
static void test_real_cluster(void **state)
{
    struct kafka_rig *f = *state;
    const char *brokers = getenv("KAFKA_BROKERS");
    if (!brokers) /* among the unit tests no cluster runs */
        skip();
    struct answer a = {0};
    struct kafka_admin *admin = open_admin(brokers, 20000);
    char name[64];
    snprintf(name, sizeof(name), "test_kafka_%llu", (unsigned long long)clock_wall_ms());
    struct kafka_new_topic t = {.name = name, .partitions = 1, .replication = 1};
    t.configs[0].key = "retention.ms";
    snprintf(t.configs[0].value, sizeof(t.configs[0].value), "123456");
    for (size_t i = 1; i <= 2; i++) { /* the second time it is there already */
        kafka_admin_create(admin, &t, 1, on_order, &a);
        WAIT(a.orders >= i);
        assert_int_equal(a.rc, 0);
    }
    for (size_t i = 3; i <= 4; i++) {
        kafka_admin_grow(admin, name, 3, on_order, &a);
        WAIT(a.orders >= i);
        assert_int_equal(a.rc, 0);
    }
    kafka_admin_configs(admin, name, on_configs, &a);
    WAIT(a.configs >= 1);
    assert_string_equal(a.retention, "123456");
    const char *names[] = {name};
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    WAIT(a.topics >= 1);
    assert_int_equal(a.partitions_n, 3);
    assert_int_equal(strlen(a.id), 22);
    names[0] = "not-there";
    kafka_admin_describe(admin, names, 1, on_topics, &a);
    WAIT(a.topics >= 2);
    assert_int_equal(a.code, ERR_NOT_FOUND);
    kafka_admin_grow(admin, "not-there", 3, on_order, &a);
    WAIT(a.orders >= 5);
    assert_int_equal(a.rc, ERR_NOT_FOUND);
    f->brokers = brokers;
    kafka_fill(f, name, 2, 50);
    struct source s = {0};
    source_open(f, &s, name, "i-0");
    WAIT(s.n >= 50);
    kafka_consumer_seek(s.c, name, 2, 20);
    WAIT(s.n >= 80);
    kafka_consumer_close(&s.c);
    kafka_admin_close(&admin);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, kafka_rig_setup, kafka_rig_teardown)
    const struct CMUnitTest tests[] = {
        T(test_admin),
        T(test_admin_refused_without_brokers),
        T(test_admin_away),
        T(test_real_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
