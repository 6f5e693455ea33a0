/* test_producer_wire: the producer's hand-written reader and writer of proto/produce.proto against protobuf-c's.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/mem.h"
#include "base/rnd.h"
#include "produce.pb-c.h"
#include "producer/producer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { RECORDS = 20, ROUNDS = 300 };

/* A request with every field there or not, by chance; all texts live in `pool`. */
struct made {
    Sluice__ProduceRequest request;
    Sluice__ProduceRecord records[RECORDS], *list[RECORDS];
    Sluice__ProduceHeader headers[RECORDS][3], *header_list[RECORDS][3];
    uint8_t pool[4096];
};

static ProtobufCBinaryData bytes(struct made *m, struct rnd *r)
{
    size_t n = rnd_below(r, 300);
    return (ProtobufCBinaryData){.len = n, .data = m->pool + rnd_below(r, sizeof(m->pool) - n)};
}

static void make_record(struct made *m, struct rnd *r, size_t i)
{
    Sluice__ProduceRecord *x = &m->records[i];
    sluice__produce_record__init(x);
    m->list[i] = x;
    if ((x->has_key = (protobuf_c_boolean)rnd_below(r, 2)))
        x->key = bytes(m, r);
    if ((x->has_value = (protobuf_c_boolean)rnd_below(r, 2)))
        x->value = bytes(m, r);
    if ((x->has_partition = (protobuf_c_boolean)rnd_below(r, 2)))
        x->partition = (int32_t)rnd_below(r, 1000);
    if ((x->has_timestamp_ms = (protobuf_c_boolean)rnd_below(r, 2)))
        x->timestamp_ms = (int64_t)(rnd_u64(r) >> rnd_below(r, 60)) * (rnd_below(r, 2) ? 1 : -1);
    x->header = m->header_list[i];
    x->n_header = rnd_below(r, 4);
    for (size_t k = 0; k < x->n_header; k++) {
        Sluice__ProduceHeader *h = &m->headers[i][k];
        sluice__produce_header__init(h);
        m->header_list[i][k] = h;
        h->name = (char *)(uintptr_t)(k ? "sluice-ingested-at" : "x");
        if ((h->has_value = (protobuf_c_boolean)rnd_below(r, 2)))
            h->value = bytes(m, r);
    }
}

static void make(struct made *m, struct rnd *r)
{
    for (size_t i = 0; i < sizeof(m->pool); i++)
        m->pool[i] = (uint8_t)rnd_u64(r);
    sluice__produce_request__init(&m->request);
    m->request.topic = (char *)(uintptr_t) "demo.pin";
    m->request.timeout_ms = (uint32_t)rnd_u64(r);
    if ((m->request.has_partition = (protobuf_c_boolean)rnd_below(r, 2)))
        m->request.partition = (int32_t)rnd_below(r, 50);
    m->request.n_record = rnd_below(r, RECORDS);
    m->request.record = m->list;
    for (size_t i = 0; i < m->request.n_record; i++)
        make_record(m, r, i);
}

static void same(struct str got, protobuf_c_boolean has, const ProtobufCBinaryData *want)
{
    if (!has) {
        assert_null(got.p);
        return;
    }
    assert_non_null(got.p);
    assert_int_equal(got.n, want->len);
    if (got.n)
        assert_memory_equal(got.p, want->data, got.n);
}

static void same_record(const struct wire_record *got, const Sluice__ProduceRecord *want)
{
    same(got->key, want->has_key, &want->key);
    same(got->value, want->has_value, &want->value);
    assert_int_equal(got->partition, want->has_partition ? want->partition : -1);
    assert_true(got->timestamp_ms == (want->has_timestamp_ms ? want->timestamp_ms : 0));
    assert_int_equal(got->headers_n, want->n_header);
    for (size_t i = 0; i < got->headers_n; i++) {
        assert_true(str_is(got->headers[i].name, want->header[i]->name));
        same(got->headers[i].value, want->header[i]->has_value, &want->header[i]->value);
    }
}

static void test_requests(void **state)
{
    (void)state;
    struct rnd r;
    struct made *m = MEM_NEW(struct made);
    rnd_seed(&r, 7);
    for (unsigned round = 0; round < ROUNDS; round++) {
        make(m, &r);
        size_t n = sluice__produce_request__get_packed_size(&m->request);
        uint8_t *packed = mem_alloc(n + 1);
        sluice__produce_request__pack(&m->request, packed);
        struct wire_request got;
        assert_int_equal(wire_request(str_make((char *)packed, n), &got), 0);
        assert_true(str_is(got.topic, "demo.pin"));
        assert_true(got.timeout_ms == m->request.timeout_ms);
        assert_int_equal(got.partition, m->request.has_partition ? m->request.partition : -1);
        assert_int_equal(got.records, m->request.n_record);
        struct wire w = wire_of(got.body);
        struct wire_record rec;
        for (size_t i = 0; i < got.records; i++) {
            assert_true(wire_record(&w, &rec));
            same_record(&rec, m->list[i]);
        }
        assert_false(wire_record(&w, &rec));
        /* What is cut or damaged is refused by both, or means the same number of records to both; nothing reads past the end. */
        uint8_t *cut = mem_dup(packed, n ? n : 1);
        size_t len = rnd_below(&r, n + 1);
        if (len)
            cut[rnd_below(&r, len)] ^= (uint8_t)(1 << rnd_below(&r, 8));
        uint8_t *exact = mem_dup(cut, len ? len : 1); /* so that the sanitizer sees the end */
        int rc = wire_request(str_make((char *)exact, len), &got);
        Sluice__ProduceRequest *theirs = sluice__produce_request__unpack(NULL, len, exact);
        if (rc == 0 && theirs)
            assert_int_equal(got.records, theirs->n_record);
        if (theirs)
            sluice__produce_request__free_unpacked(theirs, NULL);
        mem_free(exact);
        mem_free(cut);
        mem_free(packed);
    }
    mem_free(m);
}

static void test_limits(void **state)
{
    (void)state;
    struct wire_request got;
    struct buf b, rec, h;
    buf_init(&b, 1 << 20);
    buf_init(&rec, 1 << 20);
    buf_init(&h, 1 << 20);
    assert_int_equal(wire_request(STR(""), &got), ERR_BAD_DATA); /* no topic */
    wire_put_bytes(&h, 1, STR("n"));
    for (size_t i = 0; i < PRODUCER_HEADERS_MAX; i++)
        wire_put_bytes(&rec, 5, buf_as_str(&h));
    wire_put_bytes(&b, 1, STR("t"));
    wire_put_bytes(&b, 4, buf_as_str(&rec));
    assert_int_equal(wire_request(buf_as_str(&b), &got), 0);
    assert_int_equal(got.headers, PRODUCER_HEADERS_MAX);
    wire_put_bytes(&rec, 5, buf_as_str(&h));
    wire_put_bytes(&b, 4, buf_as_str(&rec));
    assert_int_equal(wire_request(buf_as_str(&b), &got), ERR_BAD_DATA); /* one header too many */
    buf_reset(&b);
    wire_put_bytes(&b, 1, STR("t\0u"));
    assert_int_equal(wire_request(buf_as_str(&b), &got), ERR_BAD_DATA);
    assert_int_equal(wire_request(STR("\x0a\x01t\x0b"), &got),
                     ERR_BAD_DATA); /* a group: no such thing here */
    assert_int_equal(wire_request(STR("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01t"), &got),
                     ERR_BAD_DATA);
    buf_deinit(&b);
    buf_deinit(&rec);
    buf_deinit(&h);
}

/* A topic as the gateway will read it. */
static void test_topic(void **state)
{
    (void)state;
    int32_t ids[] = {1, 300, -1};
    struct kafka_topic_partition_info parts[] = {
        {.partition = 0, .leader = 300, .replicas = ids, .replicas_n = 3, .isr = ids, .isr_n = 1},
        {.partition = 1, .leader = -1}};
    const struct kafka_topic_info info = {.name = (char *)(uintptr_t) "t",
                                          .id = "AAAAAAAAAAAAAAAAAAAAAA",
                                          .partitions = parts,
                                          .partitions_n = 2};
    struct buf b;
    buf_init(&b, 1 << 20);
    topic_encode(&info, &b);
    Sluice__Topic *t = sluice__topic__unpack(NULL, b.len, (const uint8_t *)b.data);
    assert_non_null(t);
    assert_string_equal(t->name, "t");
    assert_string_equal(t->id, info.id);
    assert_int_equal(t->n_partition, 2);
    assert_int_equal(t->partition[0]->leader, 300);
    assert_int_equal(t->partition[0]->n_replica, 3);
    assert_int_equal(t->partition[0]->replica[1], 300);
    assert_int_equal(t->partition[0]->replica[2], -1);
    assert_int_equal(t->partition[0]->n_in_sync, 1);
    assert_int_equal(t->partition[1]->leader, -1);
    sluice__topic__free_unpacked(t, NULL);
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_topic)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
