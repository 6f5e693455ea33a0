/* test_batch: which part of a span a commit takes, what a rebase against a newer table leaves of it, and what is written of it.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/mem.h"
#include "sink-s3/batch.h"
#include <stdio.h>
#include <string.h>

#define A "kafka:demo.pin:0:6Kc1HTPCSOSh4jxRjepkdQ"
#define B "kafka:demo.pin:1:6Kc1HTPCSOSh4jxRjepkdQ"
#define TABLE "11111111-2222-3333-4444-555555555555"

static const struct dataset *const pin = &datasets[DATASET_PIN];

/* A span with a row (key: the position / 10) for each position, and a reject beside each row whose position ends in 5. */
static struct span make(struct buf *out, const char *source, int64_t from, int64_t to, bool lost)
{
    struct span_writer w;
    span_writer_init(&w, pin, 1 << 16);
    for (int64_t p = from; p < to && !lost; p++) {
        struct row row = {.position = p, .ingested_at_ms = 1000 + p};
        for (unsigned i = 0; i < pin->columns_n; i++)
            row.v[i].null = i > 0;
        row.v[0].i = p / 10;
        span_writer_row(&w, &row);
        const struct reject reject = {
            .position = p, .item = 1, .reason = REJECT_NO_KEY, .value = STR("{}")};
        if (p % 10 == 5)
            span_writer_reject(&w, &reject);
        w.last_position = p;
    }
    buf_reset(out);
    span_writer_finish(&w, str_of(source), from, to, lost, out);
    span_writer_deinit(&w);
    struct span s;
    assert_int_equal(span_parse(buf_as_str(out), &s, NULL), 0);
    return s;
}

static void take(struct batch *b, const char *source, int64_t from, int64_t to, int64_t known)
{
    struct buf buf;
    buf_init(&buf, 1 << 20);
    struct span s = make(&buf, source, from, to, false);
    batch_take(b, &s, str_is(str_of(source), B), known, TABLE);
    memset(buf.data, 0xee, buf.len); /* the batch has a copy */
    buf_deinit(&buf);
}

/* The positions that a walk gives, as text: "3 4 5". The walk without content and the counts must agree with it. */
static const char *walk(const struct batch *b, bool dead, bool copies)
{
    static char text[2000];
    struct batch_cursor c, bare;
    struct span_item item;
    const struct batch_piece *piece, *bare_piece;
    uint32_t row, bare_row;
    uint64_t found = 0;
    size_t n = 0;
    text[0] = 0;
    batch_cursor_init(&c, b, dead, copies);
    batch_cursor_init(&bare, b, dead, copies);
    while (batch_cursor_next(&c, &item, &piece, &row)) {
        assert_int_equal(item.kind, dead ? SPAN_REJECT : SPAN_ROW);
        if (!dead && piece->keys)
            assert_true(row < piece->rows_n);
        if (!dead) {
            assert_int_equal(batch_cursor_row(&bare, &bare_piece, &bare_row), 1);
            assert_ptr_equal(bare_piece, piece);
            assert_int_equal(bare_row, row);
        }
        found++;
        n += (size_t)snprintf(text + n, sizeof(text) - n, n ? " %d" : "%d", (int)item.position);
    }
    if (!dead)
        assert_int_equal(batch_cursor_row(&bare, &bare_piece, &bare_row), 0);
    assert_int_equal(found, dead     ? batch_rejects(b)
                            : copies ? batch_rows(b) + batch_copies(b)
                                     : batch_rows(b));
    return text;
}

struct known {
    int64_t a, b;
};

static int64_t known_of(void *ctx, struct str source)
{
    const struct known *k = ctx;
    return str_is(source, A) ? k->a : k->b;
}

static void test_judge(void **state)
{
    (void)state;
    static const struct {
        int64_t wanted, from, to;
        enum batch_verdict verdict;
    } cases[] = {{0, 0, 0, BATCH_DROP},    {0, 0, 1, BATCH_TAKE},    {0, 1, 2, BATCH_HOLE},
                 {10, 5, 10, BATCH_DROP},  {10, 5, 11, BATCH_TAKE},  {10, 10, 10, BATCH_DROP},
                 {10, 10, 20, BATCH_TAKE}, {10, 11, 11, BATCH_HOLE}, {10, 11, 20, BATCH_HOLE}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct span s = {.from = cases[i].from, .to = cases[i].to};
        assert_int_equal(batch_judge(cases[i].wanted, &s), cases[i].verdict);
    }
}

static void test_takes_what_is_wanted(void **state)
{
    (void)state;
    struct batch *b = batch_new(pin, true);
    assert_true(batch_empty(b));
    take(b, A, 3, 8, 5); /* known: 5 */
    take(b, B, 0, 2, BATCH_UNKNOWN);
    take(b, A, 7, 10, 99); /* what is known matters for the first only */
    assert_false(batch_empty(b));
    assert_string_equal(walk(b, false, true), "5 6 7 0 1 8 9");
    assert_string_equal(walk(b, true, false), "5");
    assert_int_equal(batch_rows(b), 7);
    assert_int_equal(b->rows, 7);
    assert_int_equal(batch_rejects(b), 1);
    assert_int_equal(b->newest_ingested_ms, 1009);
    const struct batch_source *s = batch_find(b, STR(A));
    assert_true(s->base == 5 && s->end == 10 && s->partition == 0);
    s = batch_find(b, STR(B));
    assert_true(s->base == BATCH_UNKNOWN && s->end == 2 && s->partition == 1);
    assert_null(batch_find(b, STR("kafka:x:0:y")));
    assert_true(b->bytes > 0);
    batch_free(&b);
    assert_null(b);
    batch_free(&b);
}

static void test_keys_are_of_table_and_content(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1 << 20);
    struct batch *b = batch_new(pin, true), *other = batch_new(pin, true),
                 *none = batch_new(pin, false);
    struct span s = make(&buf, A, 8, 12, false);
    batch_take(b, &s, 0, 8, TABLE);
    batch_take(none, &s, 0, 8, TABLE);
    batch_take(other, &s, 0, 8, "another table");
    const uint8_t *k = LIST_ENTRY(b->pieces.next, struct batch_piece, node)->keys;
    const uint8_t *o = LIST_ENTRY(other->pieces.next, struct batch_piece, node)->keys;
    /* Rows 8 and 9 have equal content, as have 10 and 11. */
    assert_memory_equal(k, k + BATCH_KEY_BYTES, BATCH_KEY_BYTES);
    assert_memory_equal(k + 2 * BATCH_KEY_BYTES, k + 3 * BATCH_KEY_BYTES, BATCH_KEY_BYTES);
    assert_memory_not_equal(k, k + 2 * BATCH_KEY_BYTES, BATCH_KEY_BYTES);
    assert_memory_not_equal(k, o, BATCH_KEY_BYTES);
    assert_null(LIST_ENTRY(none->pieces.next, struct batch_piece, node)->keys);
    /* What is flagged as a copy is walked only by those who ask for it. */
    struct batch_piece *p = LIST_ENTRY(b->pieces.next, struct batch_piece, node);
    p->copy = MEM_ARRAY(uint8_t, 4);
    p->copy[1] = p->copy[3] = 1;
    assert_string_equal(walk(b, false, false), "8 10");
    assert_string_equal(walk(b, false, true), "8 9 10 11");
    assert_int_equal(batch_copies(b), 2);
    assert_int_equal(batch_rows(b), 2);
    batch_free(&b);
    batch_free(&other);
    batch_free(&none);
    buf_deinit(&buf);
}

static void test_rebase(void **state)
{
    (void)state;
    struct batch *b = batch_new(pin, false);
    struct known k = {.a = 0, .b = 4};
    take(b, A, 0, 6, BATCH_UNKNOWN);
    take(b, A, 6, 8, 0);
    take(b, B, 4, 6, 4);
    k.a = BATCH_UNKNOWN;
    assert_int_equal(batch_rebase(b, known_of, &k), 0);
    k.a = 3; /* somebody took the beginning */
    assert_int_equal(batch_rebase(b, known_of, &k), 1);
    assert_string_equal(walk(b, false, true), "3 4 5 6 7 4 5");
    assert_int_equal(batch_find(b, STR(A))->base, 3);
    assert_int_equal(batch_rebase(b, known_of, &k), 0);
    k.a = 7, k.b = 6; /* and all of the other source */
    assert_int_equal(batch_rebase(b, known_of, &k), 2);
    assert_string_equal(walk(b, false, true), "7");
    assert_null(batch_find(b, STR(B)));
    k.a = 5; /* only another table can want less */
    assert_int_equal(batch_rebase(b, known_of, &k), -1);
    k.a = 100;
    assert_int_equal(batch_rebase(b, known_of, &k), 1);
    assert_true(batch_empty(b) && b->bytes == 0);
    batch_free(&b);
}

static void test_rebase_of_the_dead_table(void **state)
{
    (void)state;
    struct batch *b = batch_new(pin, false);
    struct known k = {.a = BATCH_UNKNOWN, .b = BATCH_UNKNOWN};
    take(b, A, 0, 30, BATCH_UNKNOWN);
    batch_rebase_dead(b, known_of, &k);
    assert_string_equal(walk(b, true, false), "5 15 25");
    k.a = 16; /* a life before wrote these, and died before the clean table */
    batch_rebase_dead(b, known_of, &k);
    assert_string_equal(walk(b, true, false), "25");
    assert_int_equal(batch_rows(b), 30); /* the clean table alone decides about rows */
    k.a = 2;
    batch_rebase_dead(b, known_of, &k);
    assert_int_equal(batch_rejects(b), 1); /* never lowered */
    batch_free(&b);
    b = batch_new(pin, false);
    take(b, A, 0, 30,
         10); /* the clean table wants 10: what is below is not for the dead table either */
    k.a = BATCH_UNKNOWN;
    batch_rebase_dead(b, known_of, &k);
    assert_string_equal(walk(b, true, false), "15 25");
    batch_free(&b);
}

static void test_lost(void **state)
{
    (void)state;
    struct buf buf, json;
    uint64_t alarm;
    buf_init(&buf, 1 << 16);
    buf_init(&json, 1 << 16);
    struct batch *b = batch_new(pin, true);
    batch_lost_json(b, &json, &alarm);
    assert_int_equal(json.len, 0);
    struct span s = make(&buf, B, 0, 7, true);
    batch_take(b, &s, 1, BATCH_UNKNOWN, TABLE);
    s = make(&buf, A, 10, 20, true);
    batch_take(b, &s, 0, 12, TABLE);
    take(b, A, 20, 21, 0);
    batch_lost_json(b, &json, &alarm);
    assert_string_equal(buf_as_str(&json).p, "[{\"source\":\"" B "\",\"from\":0,\"to\":7},"
                                             "{\"source\":\"" A "\",\"from\":12,\"to\":20}]");
    assert_int_equal(alarm, 8); /* a beginning is none */
    struct known k = {.a = 20, .b = 7};
    assert_int_equal(batch_rebase(b, known_of, &k), 2);
    buf_reset(&json);
    batch_lost_json(b, &json, &alarm);
    assert_int_equal(json.len, 0);
    assert_int_equal(alarm, 0);
    assert_string_equal(walk(b, false, true), "20");
    batch_free(&b);
    buf_deinit(&buf);
    buf_deinit(&json);
}

static void test_partitions(void **state)
{
    (void)state;
    struct batch *b = batch_new(pin, true);
    take(b, A, 0, 3, BATCH_UNKNOWN);
    take(b, B, 0, 4, BATCH_UNKNOWN);
    batch_pass(b, 0, 1);
    batch_pass(b, 1, 9);
    batch_pass(b, 0, 5);
    const struct batch_mark *m = LIST_ENTRY(b->marks.next, struct batch_mark, node);
    assert_true(m->partition == 0 && m->upto == 5);
    batch_drop_partition(b, 0);
    assert_string_equal(walk(b, false, true), "0 1 2 3");
    m = LIST_ENTRY(b->marks.next, struct batch_mark, node);
    assert_true(m->partition == 1 && m->upto == 9 && m->node.next == &b->marks);
    batch_drop_partition(b, 1);
    assert_true(batch_empty(b) && list_empty(&b->marks) && list_empty(&b->pieces) && b->bytes == 0);
    take(b, A, 0, 1, BATCH_UNKNOWN);
    assert_int_equal(batch_rows(b), 1);
    batch_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_judge),
                                       cmocka_unit_test(test_takes_what_is_wanted),
                                       cmocka_unit_test(test_keys_are_of_table_and_content),
                                       cmocka_unit_test(test_rebase),
                                       cmocka_unit_test(test_rebase_of_the_dead_table),
                                       cmocka_unit_test(test_lost),
                                       cmocka_unit_test(test_partitions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
