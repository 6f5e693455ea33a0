/* test_rest_answer: the answers' bytes, the codes of every outcome, and the statuses of strict handling.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/rest_answer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static char text[4096];

static struct rest_outcome produce(const Sluice__ProduceAnswer *a, unsigned n, bool strict)
{
    struct buf b;
    struct rest_outcome o;
    buf_init(&b, 1 << 20);
    rest_answer_produce(a, n, strict, &b, &o);
    snprintf(text, sizeof text, STR_FMT, STR_ARG(buf_as_str(&b)));
    buf_deinit(&b);
    return o;
}

static void test_stored(void **state)
{
    (void)state;
    int32_t partition[] = {0, 3};
    int64_t offset[] = {0, 9007199254740993};
    Sluice__ProduceAnswer a = SLUICE__PRODUCE_ANSWER__INIT;
    a.n_partition = a.n_offset = 2, a.partition = partition, a.offset = offset;
    struct rest_outcome o = produce(&a, 2, false);
    assert_int_equal(o.status, 200);
    assert_int_equal(o.stored, 2);
    assert_string_equal(
        text, "{\"offsets\":[{\"partition\":0,\"offset\":0,\"error_code\":null,\"error\":null},"
              "{\"partition\":3,\"offset\":9007199254740993,\"error_code\":null,\"error\":null}],"
              "\"key_schema_id\":null,\"value_schema_id\":null}");
    assert_int_equal(produce(&a, 2, true).status, 200);
}

static void test_partial(void **state)
{
    (void)state;
    int32_t partition[] = {0, 0, 0};
    int64_t offset[] = {-1, 5, -1};
    Sluice__ProduceError e1 = SLUICE__PRODUCE_ERROR__INIT, e2 = SLUICE__PRODUCE_ERROR__INIT;
    e1.index = 2, e1.outcome = SLUICE__PRODUCE_ERROR__OUTCOME__UNSURE, e1.text = "timed \"out\"";
    e2.index = 0, e2.outcome = SLUICE__PRODUCE_ERROR__OUTCOME__REFUSED, e2.text = "too large";
    Sluice__ProduceError *errors[] = {&e1, &e2}; /* in any order */
    Sluice__ProduceAnswer a = SLUICE__PRODUCE_ANSWER__INIT;
    a.n_partition = a.n_offset = 3, a.partition = partition, a.offset = offset, a.n_error = 2,
    a.error = errors;
    struct rest_outcome o = produce(&a, 3, false);
    assert_int_equal(o.status, 200);
    assert_int_equal(o.stored, 1);
    assert_int_equal(o.refused, 1);
    assert_int_equal(o.unknown, 1);
    assert_string_equal(text, "{\"offsets\":[{\"partition\":null,\"offset\":null,\"error_code\":"
                              "50002,\"error\":\"too large\"},"
                              "{\"partition\":0,\"offset\":5,\"error_code\":null,\"error\":null},"
                              "{\"partition\":null,\"offset\":null,\"error_code\":50003,\"error\":"
                              "\"timed \\\"out\\\"\"}],"
                              "\"key_schema_id\":null,\"value_schema_id\":null}");
    assert_int_equal(produce(&a, 3, true).status, 207);
    offset[1] = -1; /* all failed, one for good; the one without an error is unknown */
    o = produce(&a, 3, true);
    assert_int_equal(o.status, 500);
    assert_int_equal(o.unknown, 2);
    e2.outcome = SLUICE__PRODUCE_ERROR__OUTCOME__UNSURE;
    assert_int_equal(produce(&a, 3, true).status, 503);
    assert_int_equal(produce(&a, 3, false).status, 200);
    e2.outcome = SLUICE__PRODUCE_ERROR__OUTCOME__DENIED;
    assert_int_equal(produce(&a, 3, false).status, 403);
    assert_non_null(strstr(text, "\"error_code\":40301"));
    e1.outcome = SLUICE__PRODUCE_ERROR__OUTCOME__UNAUTHENTICATED;
    assert_int_equal(produce(&a, 3, true).status, 401);
    assert_non_null(strstr(text, "\"error_code\":40101"));
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        Sluice__Refused__Reason reason;
        int status;
        const char *body;
    } all[] = {
        {SLUICE__REFUSED__REASON__BUSY, 503, "{\"error_code\":503,\"message\":\"why\"}"},
        {SLUICE__REFUSED__REASON__TOPIC_UNKNOWN, 404,
         "{\"error_code\":40401,\"message\":\"Topic not found.\"}"},
        {SLUICE__REFUSED__REASON__PARTITION_UNKNOWN, 404,
         "{\"error_code\":40402,\"message\":\"Partition not found.\"}"},
        {SLUICE__REFUSED__REASON__INVALID, 500, "{\"error_code\":50002,\"message\":\"why\"}"},
        {SLUICE__REFUSED__REASON__DENIED, 403, "{\"error_code\":40301,\"message\":\"why\"}"},
        {SLUICE__REFUSED__REASON__AUTHENTICATION, 401,
         "{\"error_code\":40101,\"message\":\"why\"}"},
        {(Sluice__Refused__Reason)99, 500, "{\"error_code\":50002,\"message\":\"why\"}"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        Sluice__Refused r = SLUICE__REFUSED__INIT;
        Sluice__ProduceAnswer a = SLUICE__PRODUCE_ANSWER__INIT;
        r.reason = all[i].reason, r.text = "why", a.refused = &r;
        struct rest_outcome o = produce(&a, 7, true);
        assert_int_equal(o.status, all[i].status);
        assert_int_equal(o.refused, 7);
        assert_string_equal(text, all[i].body);
    }
}

static void expect(struct buf *b, const char *want)
{
    assert_string_equal(b->data, want);
    buf_reset(b);
}

static void test_metadata(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    int32_t replicas[] = {1, 2}, in_sync[] = {2};
    Sluice__Topic__Partition p0 = SLUICE__TOPIC__PARTITION__INIT,
                             p1 = SLUICE__TOPIC__PARTITION__INIT;
    p0.number = 0, p0.leader = 2, p0.n_replica = 2, p0.replica = replicas, p0.n_in_sync = 1,
    p0.in_sync = in_sync;
    p1.number = 1, p1.leader = -1;
    Sluice__Topic__Partition *parts[] = {&p0, &p1};
    Sluice__Topic__TopicConfig c0 = SLUICE__TOPIC__TOPIC_CONFIG__INIT,
                               c1 = SLUICE__TOPIC__TOPIC_CONFIG__INIT;
    c0.name = "cleanup.policy", c0.value = "delete", c1.name = "x";
    Sluice__Topic__TopicConfig *configs[] = {&c0, &c1};
    Sluice__Topic t = SLUICE__TOPIC__INIT, u = SLUICE__TOPIC__INIT;
    t.name = "z", t.n_partition = 2, t.partition = parts, t.n_config = 2, t.config = configs,
    u.name = "__a";
    rest_answer_topic(&b, &t);
    expect(&b, "{\"name\":\"z\",\"configs\":{\"cleanup.policy\":\"delete\",\"x\":null},"
               "\"partitions\":[{\"partition\":0,\"leader\":2,"
               "\"replicas\":[{\"broker\":1,\"leader\":false,\"in_sync\":false},{\"broker\":2,"
               "\"leader\":true,\"in_sync\":true}]},"
               "{\"partition\":1,\"leader\":-1,\"replicas\":[]}]}");
    assert_true(rest_answer_partition(&b, &t, 1));
    expect(&b, "{\"partition\":1,\"leader\":-1,\"replicas\":[]}");
    assert_false(rest_answer_partition(&b, &t, 2));
    assert_int_equal(b.len, 0);
    Sluice__Topic *topics[] = {&t, &u};
    int32_t brokers[] = {0, 7};
    Sluice__QuestionAnswer q = SLUICE__QUESTION_ANSWER__INIT;
    q.n_topic = 2, q.topic = topics, q.n_broker = 2, q.broker = brokers, q.beginning_offset = 3,
    q.end_offset = 12;
    rest_answer_topics(&b, &q);
    expect(&b, "[\"__a\",\"z\"]");
    rest_answer_brokers(&b, &q);
    expect(&b, "{\"brokers\":[0,7]}");
    rest_answer_offsets(&b, &q);
    expect(&b, "{\"beginning_offset\":3,\"end_offset\":12}");
    rest_answer_error(&b, 40401, "a \"b\"");
    expect(&b, "{\"error_code\":40401,\"message\":\"a \\\"b\\\"\"}");
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stored), cmocka_unit_test(test_partial),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_metadata)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
