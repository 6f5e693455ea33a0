/* test_rest_body: the produce body against protobuf-c's reader of what it writes, and every fault with its place.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/rest_body.h"
#include "base/jsonscan.h"
#include "base/mem.h"
#include "produce.pb-c.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static struct rest_body_opts opts = {.max_depth = 64, .record_max = 1000, .records_max = 100};

/* A request with the topic in front, as the outbox writes it; NULL: refused. */
static Sluice__ProduceRequest *parse_n(const char *text, size_t n, enum rest_format format,
                                       int32_t partitions, struct rest_fault *fault)
{
    static const char front[] = {0x0a, 1, 't', 0x18, 5};
    struct rest_body *rb = rest_body_new(&opts);
    struct rest_body_request req = {
        .format = format, .partitions = partitions, .ingested_at_ms = 1234567890123};
    struct buf out;
    unsigned records = 0;
    char *body = mem_alloc(n + JSONSCAN_PADDING);
    memcpy(body, text, n);
    memset(body + n, '"', JSONSCAN_PADDING); /* whatever follows the body is no part of it */
    buf_init(&out, 16 << 20);
    buf_append(&out, front, sizeof front);
    *fault = (struct rest_fault){0};
    int rc = rest_body_parse(rb, str_make(body, n), &req, &out, &records, fault);
    Sluice__ProduceRequest *r = NULL;
    if (rc == 0) {
        assert_int_equal(fault->status, 0);
        r = sluice__produce_request__unpack(NULL, out.len, (uint8_t *)out.data);
        assert_non_null(r);
        assert_int_equal(r->n_record, records);
        for (size_t i = 0; i < r->n_record; i++) {
            Sluice__ProduceHeader *last = r->record[i]->header[r->record[i]->n_header - 1];
            assert_string_equal(last->name, "sluice-ingested-at");
            assert_int_equal(last->value.len, 13);
            assert_memory_equal(last->value.data, "1234567890123", 13);
        }
    } else {
        assert_int_equal(out.len, sizeof front); /* nothing was left behind */
        assert_true(fault->status >= 400 && fault->code && *fault->text);
    }
    buf_deinit(&out);
    mem_free(body);
    rest_body_free(&rb);
    return r;
}

static Sluice__ProduceRequest *parse(const char *text, enum rest_format format)
{
    struct rest_fault fault;
    Sluice__ProduceRequest *r = parse_n(text, strlen(text), format, 4, &fault);
    if (!r)
        print_error("%s: %d %s\n", text, fault.code, fault.text);
    assert_non_null(r);
    return r;
}

static void done(Sluice__ProduceRequest *r)
{
    sluice__produce_request__free_unpacked(r, NULL);
}

static void is(const ProtobufCBinaryData *b, const char *text)
{
    assert_int_equal(b->len, strlen(text));
    assert_memory_equal(b->data, text, b->len);
}

static void refused(const char *text, enum rest_format format, int status, int code,
                    const char *part)
{
    struct rest_fault fault;
    Sluice__ProduceRequest *r = parse_n(text, strlen(text), format, 4, &fault);
    if (r || fault.status != status || fault.code != code || !strstr(fault.text, part))
        fail_msg("%s\n-> %d %d %s", text, fault.status, fault.code, fault.text);
}

static void test_json(void **state)
{
    (void)state;
    Sluice__ProduceRequest *r =
        parse("{\"records\":[{\"value\":{\"a\" : 1.50e3, \"b\":[1,2]}},"
              " {\"key\":\"1\",\"value\":\"x\\u00e4\",\"partition\":3,\"timestamp\":99},"
              "{\"key\":12345678901234567890123,\"value\":null,\"partition\":null,\"timestamp\":"
              "null},{}]}",
              REST_JSON);
    assert_int_equal(r->n_record, 4);
    is(&r->record[0]->value, "{\"a\" : 1.50e3, \"b\":[1,2]}");
    assert_false(r->record[0]->has_key || r->record[0]->has_partition ||
                 r->record[0]->has_timestamp_ms);
    is(&r->record[1]->key, "\"1\"");
    is(&r->record[1]->value, "\"x\\u00e4\"");
    assert_int_equal(r->record[1]->partition, 3);
    assert_int_equal(r->record[1]->timestamp_ms, 99);
    is(&r->record[2]->key, "12345678901234567890123");
    assert_false(r->record[2]->has_value); /* a tombstone */
    assert_false(r->record[2]->has_partition || r->record[2]->has_timestamp_ms);
    assert_false(r->record[3]->has_value || r->record[3]->has_key);
    done(r);
    r = parse("{\"key_schema_id\":null,\"value_schema\":\"x\",\"records\":[{\"value\":false}]}",
              REST_JSON);
    is(&r->record[0]->value, "false");
    done(r);
}

static void test_binary_and_text(void **state)
{
    (void)state;
    Sluice__ProduceRequest *r = parse(
        "{\"records\":[{\"key\":\"a2V5\",\"value\":\"AP8=\"},{\"value\":\"\"},{\"key\":null}]}",
        REST_BINARY);
    is(&r->record[0]->key, "key");
    assert_int_equal(r->record[0]->value.len, 2);
    assert_memory_equal(r->record[0]->value.data, "\0\xff", 2);
    assert_true(r->record[1]->has_value);
    assert_int_equal(r->record[1]->value.len, 0);
    assert_false(r->record[2]->has_key);
    done(r);
    r = parse("{\"records\":[{\"key\":\"k\\n\",\"value\":\"\\u00e4\\ud83d\\ude00\"}]}", REST_TEXT);
    is(&r->record[0]->key, "k\n");
    is(&r->record[0]->value, "\xc3\xa4\xf0\x9f\x98\x80");
    done(r);
}

static void test_headers(void **state)
{
    (void)state;
    Sluice__ProduceRequest *r = parse("{\"records\":[{\"headers\":[{\"key\":\"a\",\"value\":\"Yg=="
                                      "\"},{\"value\":null,\"key\":\"n\"},"
                                      "{\"key\":\"m\"}],\"value\":1},{\"value\":2,\"headers\":null}"
                                      ",{\"value\":3,\"headers\":[]}]}",
                                      REST_JSON);
    assert_int_equal(r->record[0]->n_header, 4);
    assert_string_equal(r->record[0]->header[0]->name, "a");
    is(&r->record[0]->header[0]->value, "b");
    assert_false(r->record[0]->header[1]->has_value || r->record[0]->header[2]->has_value);
    assert_int_equal(r->record[1]->n_header, 1);
    assert_int_equal(r->record[2]->n_header, 1);
    done(r);
    refused("{\"records\":[{\"value\":1},{\"headers\":[{\"key\":\"Sluice-x\",\"value\":\"\"}]}]}",
            REST_JSON, 422, 422, "records[1].headers");
    refused("{\"records\":[{\"headers\":[{\"key\":\"a\",\"value\":\"!\"}]}]}", REST_JSON, 422,
            42206, "records[0].headers");
    refused("{\"records\":[{\"headers\":[{\"value\":\"\"}]}]}", REST_JSON, 422, 422, "needs a key");
    refused("{\"records\":[{\"headers\":[{\"key\":\"\"}]}]}", REST_JSON, 422, 422, "needs a key");
    refused("{\"records\":[{\"headers\":[{\"key\":1}]}]}", REST_JSON, 422, 422,
            "headers[].key: must be a string");
    refused("{\"records\":[{\"headers\":[{\"key\":\"a\",\"x\":1}]}]}", REST_JSON, 422, 422,
            "records[0].headers: Unrecognized field: x");
    refused("{\"records\":[{\"headers\":[{\"key\":\"a\",\"key\":\"b\"}]}]}", REST_JSON, 400, 400,
            "duplicate key 'key' in records[0].headers");
    refused("{\"records\":[{\"headers\":{}}]}", REST_JSON, 422, 422, "must be a list");
    refused("{\"records\":[{\"headers\":[1]}]}", REST_JSON, 422, 422, "must be a list of objects");
}

static void test_envelope(void **state)
{
    (void)state;
    refused("{}", REST_JSON, 422, 422, "records: is missing");
    refused("{\"records\":[]}", REST_JSON, 422, 422, "records: must not be empty");
    refused("{\"records\":null}", REST_JSON, 422, 422, "records: must not be null");
    refused("{\"records\":{}}", REST_JSON, 422, 422, "records: must be a list");
    refused("{\"records\":[1]}", REST_JSON, 422, 422, "records[0]: must be an object");
    refused("{\"records\":[{\"value\":1},null]}", REST_JSON, 422, 422,
            "records[1]: must be an object");
    refused("[]", REST_JSON, 422, 422, "the body must be an object");
    refused("{\"records\":[{\"value\":1}],\"x\":1}", REST_JSON, 422, 422, "Unrecognized field: x");
    refused("{\"records\":[{\"value\":1},{\"valu\":1}]}", REST_JSON, 422, 422,
            "records[1]: Unrecognized field: valu");
    refused("{\"records\":[{\"value\":1,\"value\":2}]}", REST_JSON, 400, 400,
            "at byte 24: duplicate key 'value' in records[0]");
    refused("{\"records\":[{\"value\":1,\"val\\u0075e\":2}]}", REST_JSON, 400, 400,
            "at byte 24: duplicate key 'value' in records[0]");
    struct rest_fault fault;
    static const char twice[] = "{\"records\":[{\"value\":1}],\"records\":[]}";
    assert_null(parse_n(twice, strlen(twice), REST_JSON, 4, &fault));
    assert_int_equal(fault.status, 400);
    assert_string_equal(fault.text, "Malformed JSON at byte 26: duplicate key 'records'");
    refused("{\"records\":[{\"value\":1,\"partition\":-1}]}", REST_JSON, 422, 422,
            "records[0].partition");
    refused("{\"records\":[{\"value\":1,\"partition\":1.0}]}", REST_JSON, 422, 422,
            "records[0].partition");
    refused("{\"records\":[{\"value\":1,\"partition\":\"0\"}]}", REST_JSON, 422, 422,
            "records[0].partition: must be a whole number");
    refused("{\"records\":[{\"value\":1,\"partition\":2147483648}]}", REST_JSON, 422, 422,
            "2147483647");
    refused("{\"records\":[{\"value\":1},{\"value\":1,\"partition\":4}]}", REST_JSON, 404, 40402,
            "records[1].partition: 4");
    refused("{\"records\":[{\"value\":1,\"timestamp\":-5}]}", REST_JSON, 422, 422,
            "records[0].timestamp");
    refused("{\"records\":[{\"value\":1},{\"value\":\"YQ\"}]}", REST_BINARY, 422, 42206,
            "records[0].value");
    refused("{\"records\":[{\"value\":\"YQ==\"},{\"value\":\"YQ\"}]}", REST_BINARY, 422, 42206,
            "records[1].value: not base64");
    refused("{\"records\":[{\"key\":\"*\"}]}", REST_BINARY, 422, 42206,
            "records[0].key: not base64");
    refused("{\"records\":[{\"value\":{}}]}", REST_TEXT, 422, 42206,
            "records[0].value: must be a string");
    refused("{\"records\":[{\"value\":\"\\ud800\"}]}", REST_TEXT, 422, 42206, "surrogate");
}

static void test_timestamps(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        bool good;
    } all[] = {{"1", true},
               {"1234567890123", true},
               {"1234569690123", true}, /* 30 minutes ahead of the request */
               {"1234569690124", false},
               {"0", false},
               {"-1", false},
               {"9223372036854775807", false},
               {"9223372036854775808", false},
               {"1e3", false},
               {"\"1\"", false}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CLEANUP(mem_cleanup)
        char *text = mem_printf("{\"records\":[{\"value\":1},{\"timestamp\":%s}]}", all[i].value);
        if (all[i].good) {
            Sluice__ProduceRequest *r = parse(text, REST_JSON);
            assert_true(r->record[1]->has_timestamp_ms);
            done(r);
        } else {
            refused(text, REST_JSON, 422, 422, "records[1].timestamp");
        }
    }
}

static void test_malformed(void **state)
{
    (void)state;
    static const char *const all[] = {"",
                                      " ",
                                      "{",
                                      "{\"records\":[{\"value\":01}]}",
                                      "{\"records\":[{\"value\":tru}]}",
                                      "{\"records\":[{\"value\":\"\\q\"}]}",
                                      "{\"records\":[{\"value\":1}]} x",
                                      "{\"records\":[{\"value\":1},]}",
                                      "{\"records\":[{\"value\":1,}]}",
                                      "{\"records\":[{value:1}]}",
                                      "{\"records\":[{\"value\":\"\x01\"}]}",
                                      "{\"records\":[{\"value\":\"\xff\"}]}",
                                      "{\"records\":[{\"value\":[1,2}]}",
                                      "{\"records\":[{\"value\"}]}",
                                      "{\"records\":[{\"value\":1}]",
                                      "{\"records\":[{\"value\":\"open}]}",
                                      "{\"a\":tru}",
                                      "tru"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        refused(all[i], REST_JSON, 400, 400, "Malformed JSON at byte ");
    refused("{\"records\":[{\"value\":1} {}]}", REST_JSON, 400, 400, "at byte 24");
    struct buf deep;
    buf_init(&deep, 4096);
    buf_z(&deep, "{\"records\":[{\"value\":");
    for (int i = 0; i < 61; i++)
        buf_char(&deep, '[');
    struct str kept = buf_as_str(&deep);
    for (int extra = 0; extra < 2; extra++) {
        deep.len = kept.n;
        if (extra)
            buf_char(&deep, '[');
        for (int i = 0; i < 61 + extra; i++)
            buf_char(&deep, ']');
        buf_z(&deep, "}]}");
        struct rest_fault fault;
        Sluice__ProduceRequest *r = parse_n(deep.data, deep.len, REST_JSON, 4, &fault);
        if (extra) {
            assert_null(r);
            assert_int_equal(fault.code, 400);
        } else {
            assert_non_null(r); /* 64 levels in all */
            done(r);
        }
    }
    buf_deinit(&deep);
}

static void test_limits(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int over = 0; over < 2; over++) {
        buf_reset(&b);
        buf_z(&b, "{\"records\":[{\"value\":1},{\"key\":\"12345678\",\"value\":\"");
        for (int i = 0; i < 988 + over; i++) /* with the quotes of both: 1000 */
            buf_char(&b, 'x');
        buf_z(&b, "\"}]}");
        struct rest_fault fault;
        Sluice__ProduceRequest *r = parse_n(b.data, b.len, REST_JSON, 4, &fault);
        if (over) {
            assert_null(r);
            assert_int_equal(fault.status, 413);
            assert_non_null(strstr(fault.text, "records[1]"));
        } else {
            assert_non_null(r);
            done(r);
        }
    }
    /* Base64 counts as what it stands for, whatever its padding; header values do, too. */
    for (size_t n = 996; n <= 1003; n++) {
        char *bytes = mem_alloc(n), *text = mem_alloc(str_base64_size(n));
        size_t len = str_base64_encode(bytes, n - 3, false, text);
        buf_reset(&b);
        buf_z(&b, "{\"records\":[{\"value\":\"");
        buf_append(&b, text, len);
        buf_z(&b, "\",\"key\":\"YQ==\",\"headers\":[{\"key\":\"h\",\"value\":\"YQ==\"}]}]}");
        struct rest_fault fault;
        Sluice__ProduceRequest *r = parse_n(b.data, b.len, REST_BINARY, 4, &fault);
        if (n > 1000) {
            assert_null(r);
            assert_int_equal(fault.status, 413);
        } else {
            assert_non_null(r);
            assert_int_equal(r->record[0]->value.len, n - 3);
            done(r);
        }
        mem_free(bytes);
        mem_free(text);
    }
    for (int over = 0; over < 2; over++) {
        buf_reset(&b);
        buf_z(&b, "{\"records\":[{\"value\":1},{\"headers\":[{\"key\":\"h\"}");
        for (int i = 1; i < 1000 + over; i++)
            buf_z(&b, ",{\"key\":\"h\"}");
        buf_z(&b, "]}]}");
        struct rest_fault fault;
        Sluice__ProduceRequest *r = parse_n(b.data, b.len, REST_JSON, 4, &fault);
        if (over) {
            assert_null(r);
            assert_int_equal(fault.code, 422);
            assert_non_null(strstr(fault.text, "records[1].headers"));
        } else {
            assert_int_equal(r->record[1]->n_header, 1001);
            done(r);
        }
    }
    for (int over = 0; over < 2; over++) {
        buf_reset(&b);
        buf_z(&b, "{\"records\":[{\"value\":1}");
        for (int i = 1; i < 100 + over; i++)
            buf_z(&b, ",{\"value\":1}");
        buf_z(&b, "]}");
        struct rest_fault fault;
        Sluice__ProduceRequest *r = parse_n(b.data, b.len, REST_JSON, 4, &fault);
        if (over) {
            assert_null(r);
            assert_int_equal(fault.code, 422);
        } else {
            assert_int_equal(r->n_record, 100);
            done(r);
        }
    }
    buf_deinit(&b);
}

static void test_schema(void **state)
{
    (void)state;
    refused("{\"records\":[{\"value\":{}}]}", REST_SCHEMA, 422, 42202, "value schema");
    refused("{\"value_schema_id\":1,\"records\":[{\"key\":1,\"value\":{}}]}", REST_SCHEMA, 422,
            42201, "key schema");
    refused("{\"value_schema\":\"x\",\"key_schema\":\"y\",\"records\":[{\"key\":1,\"value\":{}}]}",
            REST_SCHEMA, 422, 42205, "registry");
    refused("{\"records\":[]}", REST_SCHEMA, 422, 422, "records");
}

/* The scanner's error state does not leak into the next request. */
static void test_reused(void **state)
{
    (void)state;
    struct rest_body *rb = rest_body_new(&opts);
    struct rest_body_request req = {.format = REST_JSON};
    struct rest_fault fault;
    struct buf out;
    unsigned records;
    char good[64 + JSONSCAN_PADDING] = "{\"records\":[{\"value\":1,\"partition\":99}]}",
                   bad[64 + JSONSCAN_PADDING] = "{\"records\":[{\"value\":}]}";
    buf_init(&out, 1 << 20);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rest_body_parse(rb, str_of(bad), &req, &out, &records, &fault),
                         ERR_BAD_DATA);
        assert_int_equal(rest_body_parse(rb, str_of(good), &req, &out, &records, &fault), 0);
        assert_int_equal(records, 1);
    }
    buf_deinit(&out);
    rest_body_free(&rb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),      cmocka_unit_test(test_binary_and_text),
        cmocka_unit_test(test_headers),   cmocka_unit_test(test_envelope),
        cmocka_unit_test(test_malformed), cmocka_unit_test(test_timestamps),
        cmocka_unit_test(test_limits),    cmocka_unit_test(test_schema),
        cmocka_unit_test(test_reused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
