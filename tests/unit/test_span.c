/* test_span: what is written is read back, by us and by protobuf-c; what breaks a span's rules is told; foreign bytes do no harm.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mem.h"
#include "base/rnd.h"
#include "data/span.h"
#include "data/wash.h"
#include "data/wire.h"
#include "span.pb-c.h"
#include <stdio.h>

#define SOURCE STR("kafka:demo.pin:3:6Kc1HTPCSOSh4jxRjepkdQ")

static struct value text(const char *z)
{
    return (struct value){.s = str_of(z)};
}

static struct value integer(int64_t i)
{
    return (struct value){.i = i};
}

static const struct value none = {.null = true};

static struct row pin_row(int64_t position, int32_t item)
{
    return (struct row){.position = position,
                        .item = item,
                        .ingested_at_ms = 1700000000123,
                        .v = {integer(-4), text("u-1"), text("t\n\xf0\x9f\x98\x80"), none,
                              integer(INT64_MAX), text("p "), none, text("image"), text("i"),
                              text("/data/art"), text("art")}};
}

static struct row geo_row(int64_t position)
{
    return (struct row){
        .position = position,
        .ingested_at_ms = 5,
        .v = {integer(9), text("Chad"), {.d = {-88.8298, 170.188}}, integer(-62135596800000)}};
}

static struct row user_row(int64_t position)
{
    return (struct row){.position = position,
                        .ingested_at_ms = 0,
                        .v = {integer(9), text("A B"), integer(20), integer(1445462805000)}};
}

static int read_row(const struct dataset *d, const struct span_item *item, struct row *ret)
{
    *ret = (struct row){
        .position = item->position, .item = item->item, .ingested_at_ms = item->ingested_at_ms};
    return span_item_values(d, item, ret->v);
}

static void assert_same_row(const struct dataset *d, const struct row *a, const struct row *b)
{
    assert_int_equal(a->position, b->position);
    assert_int_equal(a->item, b->item);
    assert_int_equal(a->ingested_at_ms, b->ingested_at_ms);
    for (unsigned i = 0; i < d->columns_n; i++) {
        assert_int_equal(a->v[i].null, b->v[i].null);
        if (a->v[i].null)
            continue;
        assert_int_equal(a->v[i].i, b->v[i].i);
        assert_true(a->v[i].d[0] == b->v[i].d[0] && a->v[i].d[1] == b->v[i].d[1]);
        assert_true(str_eq(a->v[i].s, b->v[i].s));
    }
}

/* A span of rows at 10 (items 0 and 2), 12, a reject at 10 (item 1) and at 15. */
static void sample(struct buf *out)
{
    struct span_writer w;
    span_writer_init(&w, &datasets[DATASET_PIN], 1000);
    assert_int_equal(span_writer_bytes(&w), 0);
    struct row a = pin_row(10, 0), b = pin_row(10, 2), c = pin_row(12, 0);
    struct reject bad = {.position = 10,
                         .item = 1,
                         .ingested_at_ms = 1700000000123,
                         .reason = REJECT_NO_KEY,
                         .detail = STR("no index"),
                         .value = STR("{\"a\":\"\xff\"}")};
    struct reject tomb = {.position = 15,
                          .ingested_at_ms = -1,
                          .reason = REJECT_TOMBSTONE,
                          .detail = STR("a null value"),
                          .key = STR("")};
    span_writer_row(&w, &a);
    span_writer_reject(&w, &bad);
    span_writer_row(&w, &b);
    span_writer_row(&w, &c);
    span_writer_reject(&w, &tomb);
    assert_int_equal(w.rows_n, 3);
    assert_int_equal(w.rejects_n, 2);
    assert_int_equal(w.last_position, 15);
    buf_reset(out);
    span_writer_finish(&w, SOURCE, 10, 20, false, out);
    assert_false(out->overflow);
    span_writer_reset(&w);
    assert_int_equal(span_writer_bytes(&w), 0);
    assert_int_equal(w.last_position, -1);
    span_writer_deinit(&w);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct buf out;
    struct span s;
    struct err e;
    struct span_iter it;
    struct span_item item;
    struct row row, want;
    struct reject r;
    buf_init(&out, 1 << 20);
    sample(&out);
    assert_int_equal(span_parse(buf_as_str(&out), &s, &e), 0);
    assert_true(str_eq(s.source, SOURCE));
    assert_int_equal(s.from, 10);
    assert_int_equal(s.to, 20);
    assert_false(s.lost);
    assert_ptr_equal(s.dataset, &datasets[DATASET_PIN]);
    assert_int_equal(s.rules, WASH_RULES_VERSION);
    assert_int_equal(s.rows_n, 3);
    assert_int_equal(s.rejects_n, 2);

    span_iter_init(&it, &s);
    static const int64_t positions[] = {10, 10, 10, 12, 15};
    static const int32_t items[] = {0, 1, 2, 0, 0};
    static const bool rejects[] = {false, true, false, false, true};
    struct str content = {NULL, 0};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(span_iter_next(&it, &item), 1);
        assert_int_equal(item.position, positions[i]);
        assert_int_equal(item.item, items[i]);
        assert_int_equal(item.kind, rejects[i] ? SPAN_REJECT : SPAN_ROW);
        if (rejects[i]) {
            assert_int_equal(span_item_reject(&item, &r), 0);
            continue;
        }
        want = pin_row(positions[i], items[i]);
        assert_int_equal(read_row(s.dataset, &item, &row), 0);
        assert_same_row(s.dataset, &row, &want);
        /* The same content at another place has the same bytes. */
        assert_true(!content.p || str_eq(content, item.content));
        content = item.content;
    }
    assert_int_equal(r.reason, REJECT_TOMBSTONE);
    assert_int_equal(r.ingested_at_ms, -1);
    assert_true(r.key.p && r.key.n == 0);
    assert_null(r.value.p);
    assert_int_equal(span_iter_next(&it, &item), 0);
    assert_int_equal(span_iter_next(&it, &item), 0);
    buf_deinit(&out);
}

static void test_protobuf_reads(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 20);
    sample(&out);
    Sluice__Span *p = sluice__span__unpack(NULL, out.len, (uint8_t *)out.data);
    assert_non_null(p);
    assert_int_equal(p->version, 1);
    assert_true(str_is(SOURCE, p->source));
    assert_int_equal(p->from, 10);
    assert_int_equal(p->to, 20);
    assert_false(p->has_lost);
    assert_int_equal(p->dataset, 1);
    assert_int_equal(p->rules, WASH_RULES_VERSION);
    assert_int_equal(p->rows, 3);
    assert_int_equal(p->rejects, 2);
    assert_int_equal(p->n_pin, 3);
    assert_int_equal(p->n_reject, 2);
    assert_int_equal(p->pin[1]->position, 10);
    assert_int_equal(p->pin[1]->item, 2);
    assert_int_equal(p->pin[1]->ingested_at_ms, 1700000000123);
    assert_int_equal(p->pin[1]->ind, -4);
    assert_string_equal(p->pin[1]->unique_id, "u-1");
    assert_string_equal(p->pin[1]->title, "t\n\xf0\x9f\x98\x80");
    assert_null(p->pin[1]->description);
    assert_int_equal(p->pin[1]->follower_count, INT64_MAX);
    assert_string_equal(p->pin[1]->poster_name, "p ");
    assert_null(p->pin[1]->tag_list);
    assert_string_equal(p->pin[1]->is_image_or_video, "image");
    assert_string_equal(p->pin[1]->image_src, "i");
    assert_string_equal(p->pin[1]->save_location, "/data/art");
    assert_string_equal(p->pin[1]->category, "art");
    assert_int_equal(p->reject[0]->reason, REJECT_NO_KEY);
    assert_string_equal(p->reject[0]->detail, "no index");
    assert_false(p->reject[0]->has_key);
    assert_int_equal(p->reject[0]->value.len, 9);
    assert_true(p->reject[1]->has_key);
    assert_false(p->reject[1]->has_value);
    sluice__span__free_unpacked(p, NULL);

    for (int id = DATASET_GEO; id <= DATASET_USER; id++) {
        struct span_writer w;
        span_writer_init(&w, &datasets[id], 1000);
        struct row row = id == DATASET_GEO ? geo_row(1) : user_row(1);
        span_writer_row(&w, &row);
        buf_reset(&out);
        span_writer_finish(&w, SOURCE, 0, 2, false, &out);
        span_writer_deinit(&w);
        p = sluice__span__unpack(NULL, out.len, (uint8_t *)out.data);
        assert_non_null(p);
        assert_int_equal(p->dataset, id + 1);
        if (id == DATASET_GEO) {
            assert_int_equal(p->n_geo, 1);
            assert_string_equal(p->geo[0]->country, "Chad");
            assert_true(p->geo[0]->coordinates->latitude == -88.8298);
            assert_true(p->geo[0]->coordinates->longitude == 170.188);
            assert_int_equal(p->geo[0]->timestamp, -62135596800000);
        } else {
            assert_int_equal(p->n_user, 1);
            assert_string_equal(p->user[0]->user_name, "A B");
            assert_int_equal(p->user[0]->age, 20);
            assert_int_equal(p->user[0]->date_joined, 1445462805000);
        }
        /* protobuf-c writes fields in ascending order: with rows only, byte for byte what we write. */
        size_t n = sluice__span__get_packed_size(p);
        assert_int_equal(n, out.len);
        uint8_t *packed = mem_alloc(n);
        sluice__span__pack(p, packed);
        assert_memory_equal(packed, out.data, n);
        struct span s;
        struct span_iter it;
        struct span_item item;
        struct row back;
        assert_int_equal(span_parse(str_make((char *)packed, n), &s, NULL), 0);
        span_iter_init(&it, &s);
        assert_int_equal(span_iter_next(&it, &item), 1);
        assert_int_equal(read_row(s.dataset, &item, &back), 0);
        assert_same_row(s.dataset, &row, &back);
        mem_free(packed);
        sluice__span__free_unpacked(p, NULL);
    }
    buf_deinit(&out);
}

static void test_empty_and_lost(void **state)
{
    (void)state;
    struct span_writer w;
    struct span s;
    struct span_iter it;
    struct span_item item;
    struct buf out;
    buf_init(&out, 1000);
    span_writer_init(&w, &datasets[DATASET_USER], 1000);
    span_writer_finish(&w, SOURCE, 7, 7, false, &out);
    assert_int_equal(span_parse(buf_as_str(&out), &s, NULL), 0);
    assert_int_equal(s.from, 7);
    assert_int_equal(s.to, 7);
    assert_false(s.lost);
    span_iter_init(&it, &s);
    assert_int_equal(span_iter_next(&it, &item), 0);
    buf_reset(&out);
    span_writer_finish(&w, SOURCE, 0, INT64_MAX, true, &out);
    assert_int_equal(span_parse(buf_as_str(&out), &s, NULL), 0);
    assert_true(s.lost);
    assert_int_equal(s.to, INT64_MAX);
    span_writer_deinit(&w);
    buf_deinit(&out);
}

/* A span made by protobuf-c, with one thing wrong. */
struct forged {
    Sluice__Span span;
    Sluice__UserRow rows[2], *row_p[2];
    Sluice__Reject reject, *reject_p[1];
    Sluice__GeoRow geo, *geo_p[1];
};

static void forge(struct forged *f)
{
    *f = (struct forged){
        .span = SLUICE__SPAN__INIT, .reject = SLUICE__REJECT__INIT, .geo = SLUICE__GEO_ROW__INIT};
    f->span.version = 1;
    f->span.source = (char *)"kafka:demo.user:0:x";
    f->span.from = 5;
    f->span.to = 10;
    f->span.dataset = 3;
    f->span.rules = 1;
    f->span.rows = 2;
    f->span.n_user = 2;
    f->span.user = f->row_p;
    f->span.reject = f->reject_p;
    f->span.geo = f->geo_p;
    f->reject_p[0] = &f->reject;
    f->geo_p[0] = &f->geo;
    for (int i = 0; i < 2; i++) {
        f->rows[i] = (Sluice__UserRow)SLUICE__USER_ROW__INIT;
        f->rows[i].position = 5 + i;
        f->rows[i].has_ind = 1;
        f->row_p[i] = &f->rows[i];
    }
}

static int parse_forged(const struct forged *f)
{
    struct span s;
    struct err e = {.code = 0};
    size_t n = sluice__span__get_packed_size(&f->span);
    uint8_t *p = mem_alloc(n);
    sluice__span__pack(&f->span, p);
    int rc = span_parse(str_make((char *)p, n), &s, &e);
    assert_int_equal(rc, e.code);
    assert_true(rc == 0 || e.text[0]);
    mem_free(p);
    return rc;
}

static void test_rules(void **state)
{
    (void)state;
    struct forged f;
    char longest[SPAN_SOURCE_MAX + 2];
    memset(longest, 'a', sizeof longest - 1);
    longest[SPAN_SOURCE_MAX + 1] = 0;
#define FORGED(rc, change)                                                                         \
    do {                                                                                           \
        forge(&f);                                                                                 \
        change;                                                                                    \
        assert_int_equal(parse_forged(&f), (rc));                                                  \
    } while (0)
    FORGED(0, (void)0);
    FORGED(0, f.rows[1].position = 9);
    FORGED(0, (f.rows[1].position = 5, f.rows[1].item = 1));
    FORGED(0, f.span.source = longest + 1);
    FORGED(ERR_CORRUPT, f.span.source = longest);
    FORGED(ERR_CORRUPT, f.span.source = (char *)"");
    FORGED(ERR_CORRUPT, f.span.source = (char *)"\xff");
    FORGED(ERR_CORRUPT, f.span.from = 11);
    FORGED(ERR_CORRUPT, f.span.from = -1);
    FORGED(ERR_CORRUPT, f.rows[1].position = 10);
    FORGED(ERR_CORRUPT, f.rows[0].position = 4);
    FORGED(ERR_CORRUPT, f.rows[1].position = 5);
    FORGED(ERR_CORRUPT, f.rows[0].position = 7);
    FORGED(ERR_CORRUPT, f.rows[0].item = -1);
    FORGED(0, f.rows[0].ingested_at_ms = TIMESTAMP_MIN_MS);
    FORGED(0, f.rows[0].ingested_at_ms = TIMESTAMP_END_MS - 1);
    FORGED(ERR_CORRUPT, f.rows[0].ingested_at_ms = TIMESTAMP_END_MS);
    FORGED(ERR_CORRUPT, f.rows[0].ingested_at_ms = TIMESTAMP_MIN_MS - 1);
    FORGED(ERR_CORRUPT, f.rows[0].ingested_at_ms = INT64_MAX);
    FORGED(ERR_CORRUPT, f.span.rows = 1);
    FORGED(ERR_CORRUPT, f.span.rows = 3);
    FORGED(ERR_CORRUPT, f.span.rejects = 1);
    FORGED(ERR_CORRUPT, (f.span.has_lost = 1, f.span.lost = 1));
    FORGED(ERR_CORRUPT, (f.span.n_geo = 1, f.geo.position = 5));
    FORGED(ERR_CORRUPT, f.span.n_reject = 1);
    FORGED(ERR_BAD_DATA, f.span.version = 2);
    FORGED(ERR_BAD_DATA, f.span.dataset = 0);
    FORGED(ERR_BAD_DATA, f.span.dataset = 4);
    struct span s;
    assert_int_equal(span_parse(STR(""), &s, NULL), ERR_BAD_DATA);
    assert_int_equal(span_parse(STR("{\"index\":1}"), &s, NULL), ERR_BAD_DATA);
}

/* Unknown fields are stepped over: in the head, in a row, behind everything. */
static void test_newer_writer(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 16);
    sample(&out);
    static const char more[] = {(char)0xa0, 0x06, 0x01, (char)0xaa, 0x06, 0x02, 'h', 'i'};
    struct buf b;
    buf_init(&b, 1 << 16);
    buf_append(&b, more, sizeof more);
    buf_str(&b, buf_as_str(&out));
    buf_append(&b, more, sizeof more);
    struct span s;
    struct span_iter it;
    struct span_item item;
    assert_int_equal(span_parse(buf_as_str(&b), &s, NULL), 0);
    span_iter_init(&it, &s);
    int n = 0;
    while (span_iter_next(&it, &item))
        n++;
    assert_int_equal(n, 5);
    struct row row;
    struct span_item newer = {.content = STR("\x20\x07\x2a\x03"
                                             "A B\xa2\x06\x01x")};
    assert_int_equal(read_row(&datasets[DATASET_USER], &newer, &row), 0);
    assert_int_equal(row.v[0].i, 7);
    assert_true(str_eq(row.v[1].s, STR("A B")));
    assert_true(row.v[2].null);
    buf_deinit(&b);
    buf_deinit(&out);
}

static void test_bad_rows(void **state)
{
    (void)state;
    struct row row;
    static const struct {
        struct str content;
    } bad[] = {
        {STR("")}, /* no key */
        {STR("\x2a\x01"
             "A")},                /* no key */
        {STR("\x20\x07\x20\x07")}, /* twice */
        {STR("\x2a\x01"
             "A\x20\x07")}, /* descending */
        {STR("\x22\x01"
             "7")},                    /* a key of another wire type */
        {STR("\x20\x07\x28\x01")},     /* a number as text */
        {STR("\x20\x07\x2a\x01\xff")}, /* broken UTF-8 */
        {STR("\x20\x07\x2a\x05"
             "A")},                                /* cut */
        {STR("\x20\x07\x30\xff\xff\xff\xff\x7f")}, /* over 32 bits */
        {STR("\x20")},
        {STR("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")},     /* over 64 bits */
        {STR("\x20\x07\x38\xff\xff\xff\xff\xff\xff\xff\xff\x7f")}, /* a time past all years */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct span_item item = {.content = bad[i].content};
        assert_int_equal(read_row(&datasets[DATASET_USER], &item, &row), ERR_CORRUPT);
    }
    struct span_item point = {.content = STR("\x20\x07\x32\x09\x09\0\0\0\0\0\0\0\0")};
    assert_int_equal(read_row(&datasets[DATASET_GEO], &point, &row), ERR_CORRUPT);
    struct reject r;
    struct span_item reason = {.content = STR("\x20\x07")}, no_reason = {.content = STR("")};
    assert_int_equal(span_item_reject(&reason, &r), ERR_CORRUPT);
    assert_int_equal(span_item_reject(&no_reason, &r), ERR_CORRUPT);
}

static void exercise(const char *p, size_t n)
{
    /* An exact copy: reading past its end is a fault. */
    char *copy = mem_dup(p, n);
    struct span s;
    struct span_iter it;
    struct span_item item;
    struct row row;
    struct reject r;
    struct err e;
    if (span_parse(str_make(copy, n), &s, &e) == 0) {
        unsigned items = 0;
        int64_t last = -1;
        span_iter_init(&it, &s);
        while (span_iter_next(&it, &item) == 1) {
            items++;
            assert_true(item.position >= last && item.position >= s.from && item.position < s.to);
            last = item.position;
            if (item.kind == SPAN_ROW)
                (void)read_row(s.dataset, &item, &row); /* may refuse; must not read astray */
            else
                (void)span_item_reject(&item, &r); /* the same */
        }
        assert_int_equal(items, s.rows_n + s.rejects_n);
    }
    mem_free(copy);
}

static void test_foreign_bytes(void **state)
{
    (void)state;
    struct buf out;
    struct span s;
    buf_init(&out, 1 << 16);
    sample(&out);
    for (size_t n = 0; n < out.len; n++) {
        assert_true(span_parse(str_make(out.data, n), &s, NULL) < 0);
        exercise(out.data, n);
    }
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        out.data[bit / 8] ^= (char)(1 << bit % 8);
        exercise(out.data, out.len);
        out.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    struct rnd r;
    rnd_seed(&r, 3);
    for (int turn = 0; turn < 20000; turn++) {
        char copy[2048];
        assert_true(out.len < sizeof copy);
        memcpy(copy, out.data, out.len);
        for (uint64_t k = 1 + rnd_below(&r, 8); k; k--)
            copy[rnd_below(&r, out.len)] = (char)rnd_below(&r, 256);
        exercise(copy, out.len);
    }
    buf_deinit(&out);
}

static void test_wire(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int less = 0; less < 2; less++) {
            uint64_t v = ((uint64_t)1 << bit) - (uint64_t)less, back;
            char b[10];
            size_t n = (size_t)(wire_put_varint(b, v) - b);
            assert_int_equal(n, wire_varint_size(v));
            struct str rest = str_make(b, n);
            assert_true(wire_get_varint(&rest, &back));
            assert_true(back == v && rest.n == 0);
        }
    }
    /* Any bytes, of any length and with anything behind them, are read as one byte after the other says. */
    struct rnd r;
    rnd_seed(&r, 5);
    for (int turn = 0; turn < 200000; turn++) {
        char b[20];
        size_t n = rnd_below(&r, sizeof b + 1), at = 0, more = rnd_below(&r, 12);
        for (size_t i = 0; i < n; i++)
            b[i] = (char)(rnd_below(&r, 256) | (i < more ? 0x80 : 0));
        uint64_t want = 0, got = 0;
        bool good = false;
        for (; at < n && at < 10 && !good; at++) {
            uint64_t byte = (unsigned char)b[at];
            want |= (byte & 0x7f) << (7 * at);
            good = byte < 0x80 && (at < 9 || byte <= 1);
            if (at == 9 && byte > 1)
                break;
        }
        char *exact = mem_dup(b, n);
        struct str rest = str_make(exact, n);
        assert_int_equal(wire_get_varint(&rest, &got), good);
        assert_true(!good || (got == want && rest.n == n - at && rest.p == exact + at));
        mem_free(exact);
    }
}

static void test_sources(void **state)
{
    (void)state;
    char out[SPAN_SOURCE_MAX + 1];
    struct str topic, id;
    int32_t partition;
    span_source_kafka(out, "demo.pin", 3, "6Kc1HTPCSOSh4jxRjepkdQ");
    assert_true(str_is(SOURCE, out));
    assert_true(span_source_parse_kafka(SOURCE, &topic, &partition, &id));
    assert_true(str_eq(topic, STR("demo.pin")));
    assert_int_equal(partition, 3);
    assert_true(str_eq(id, STR("6Kc1HTPCSOSh4jxRjepkdQ")));
    char name[250];
    memset(name, 't', 249);
    name[249] = 0;
    span_source_kafka(out, name, INT32_MAX, "6Kc1HTPCSOSh4jxRjepkdQ");
    assert_true(span_source_parse_kafka(str_of(out), &topic, &partition, &id));
    assert_int_equal(partition, INT32_MAX);
    static const char *const none_of[] = {"",
                                          "kafka",
                                          "kafka:",
                                          "kafka:t:1",
                                          "kafka:t:1:",
                                          "kafka::1:x",
                                          "kafka:t:-1:x",
                                          "kafka:t::x",
                                          "kafka:t:a:x",
                                          "kafka:t:1:x:y",
                                          "kafka:t:2147483648:x",
                                          "kinesis:t:1:x"};
    for (size_t i = 0; i < sizeof none_of / sizeof *none_of; i++)
        assert_false(span_source_parse_kafka(str_of(none_of[i]), &topic, &partition, &id));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_protobuf_reads),
        cmocka_unit_test(test_empty_and_lost), cmocka_unit_test(test_rules),
        cmocka_unit_test(test_newer_writer),   cmocka_unit_test(test_bad_rows),
        cmocka_unit_test(test_foreign_bytes),  cmocka_unit_test(test_wire),
        cmocka_unit_test(test_sources),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
