/* test_generate: same seed, same bytes; every record is one that the rules take; the shares are those of the real posts.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/hash.h"
#include "base/map.h"
#include "base/mem.h"
#include "data/wash.h"
#include "emulator/generate.h"
#include <jansson.h>
#include <stdlib.h>

#define ROWS 20000

static void all_bytes(uint64_t rows, uint64_t seed, bool backwards, struct buf *out)
{
    struct generate *g = generate_new(rows, seed);
    assert_int_equal(generate_rows(g), rows);
    struct buf one;
    buf_init(&one, GENERATE_MAX_BYTES);
    struct buf *hashes = out;
    buf_reset(hashes);
    for (uint64_t k = 0; k < rows; k++) {
        for (int id = 0; id < DATASETS; id++) {
            uint64_t row = backwards ? rows - 1 - k : k;
            buf_reset(&one);
            generate_json(g, (enum dataset_id)id, row, &one);
            assert_false(one.overflow);
            if (!backwards)
                buf_str(hashes, buf_as_str(&one));
        }
    }
    if (backwards) {
        /* Asked for in another order before, the rows are the same. */
        for (uint64_t row = 0; row < rows; row++) {
            for (int id = 0; id < DATASETS; id++)
                generate_json(g, (enum dataset_id)id, row, hashes);
        }
    }
    buf_deinit(&one);
    generate_free(&g);
    assert_null(g);
}

static void test_same_bytes(void **state)
{
    (void)state;
    struct buf a, b;
    buf_init(&a, 64 << 20);
    buf_init(&b, 64 << 20);
    all_bytes(300, 1, false, &a);
    all_bytes(300, 1, true, &b);
    assert_true(str_eq(buf_as_str(&a), buf_as_str(&b)));
    all_bytes(300, 2, false, &b);
    assert_false(str_eq(buf_as_str(&a), buf_as_str(&b)));
    buf_deinit(&a);
    buf_deinit(&b);
}

struct shares {
    json_t *in;
    enum dataset_id id;
    unsigned rows, image, video, story, kilo, plain, mega, no_user, no_text, no_image, no_tags,
        no_title, no_ascii, beyond_bmp, cut, newline, ages[4], first_letter_a, categories;
    struct map *people, *countries;
    int64_t *counts;
    unsigned counts_n;
    char category[64];
};

static void on_reject(void *ctx, const struct reject *r)
{
    (void)ctx;
    fail_msg("rejected: " STR_FMT, STR_ARG(r->value));
}

static void on_fault(void *ctx, int column, enum wash_fault fault)
{
    (void)ctx;
    if (fault != WASH_NOTHING)
        fail_msg("column %d: %s", column, wash_fault_names[fault]);
}

static void on_pin(struct shares *s, const struct row *row)
{
    const char *count = json_string_value(json_object_get(s->in, "follower_count"));
    struct str d = row->v[3].s, kind = row->v[7].s;
    assert_int_equal(row->v[0].i, s->rows);
    s->image += str_eq(kind, STR("image"));
    s->video += str_eq(kind, STR("video"));
    s->story += str_eq(kind, STR("multi-video(story page format)"));
    s->no_user += row->v[4].null;
    assert_int_equal(row->v[4].null, row->v[5].null);
    s->no_title += row->v[2].null;
    s->no_text += row->v[3].null;
    s->no_tags += row->v[6].null;
    s->no_image += row->v[8].null;
    assert_false(row->v[1].null || row->v[9].null || row->v[10].null);
    if (!row->v[4].null) {
        char unit = count[strlen(count) - 1];
        s->kilo += unit == 'k';
        s->mega += unit == 'M';
        if (unit != 'k' && unit != 'M') {
            s->plain++;
            assert_true(row->v[4].i <= 940);
        }
        s->counts[s->counts_n++] = row->v[4].i;
    }
    bool ascii = true, beyond = false;
    for (size_t i = 0; i < d.n; i++) {
        ascii &= (unsigned char)d.p[i] < 0x80;
        beyond |= (unsigned char)d.p[i] >= 0xf0;
    }
    s->no_ascii += !ascii;
    s->beyond_bmp += beyond;
    s->cut += str_ends(d, STR("\xe2\x80\xa6\xc2\xa0"));
    s->newline += str_ends(row->v[2].s, STR("\n"));
    assert_true(d.n <= 309 && row->v[2].s.n <= 201 && row->v[6].s.n <= 247);
    const char *category = json_string_value(json_object_get(s->in, "category"));
    if (strcmp(category, s->category) != 0) {
        assert_true(strcmp(category, s->category) > 0); /* each range of keys comes once */
        assert_true(strlen(category) < sizeof s->category);
        memcpy(s->category, category, strlen(category) + 1);
        s->categories++;
    }
}

static void on_row(void *ctx, const struct row *row)
{
    struct shares *s = ctx;
    if (s->id == DATASET_PIN) {
        on_pin(s, row);
    } else if (s->id == DATASET_GEO) {
        for (int i = 0; i < 4; i++)
            assert_false(row->v[i].null);
        s->first_letter_a += row->v[1].s.p[0] == 'A';
        map_put(s->countries, row->v[1].s, s);
        assert_in_range(row->v[3].i / 1000, 1508457600, 1665964799);
    } else {
        for (int i = 0; i < 4; i++)
            assert_false(row->v[i].null);
        int64_t age = row->v[2].i;
        assert_in_range(age, 20, 60);
        s->ages[age < 25 ? 0 : age < 36 ? 1 : age < 51 ? 2 : 3]++;
        assert_in_range(row->v[3].i / 1000, 1445385600, 1508371199);
        CLEANUP(mem_cleanup)
        char *who = mem_printf(STR_FMT "|%lld|%lld", STR_ARG(row->v[1].s), (long long)age,
                               (long long)row->v[3].i);
        map_put(s->people, str_of(who), s);
    }
    s->rows++;
}

static int compare(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* v of n within a quarter of the share, and a little for rare things. */
static void assert_share(const char *what, unsigned v, unsigned n, double percent)
{
    double want = n * percent / 100, slack = want / 4 + n * 0.002;
    if (v < want - slack || v > want + slack)
        fail_msg("%s: %.2f %%, not %.2f %%", what, 100.0 * v / n, percent);
}

static void assert_quantile(const struct shares *s, double q, double want)
{
    double v = (double)s->counts[(size_t)(q * s->counts_n)];
    if (v < want * 0.6 || v > want * 1.6)
        fail_msg("quantile %g: %g, not %g", q, v, want);
}

static void test_shares(void **state)
{
    (void)state;
    struct generate *g = generate_new(ROWS, 42);
    struct wash *w = wash_new(1 << 20);
    struct shares s = {.people = map_new(), .countries = map_new()};
    s.counts = MEM_ARRAY(int64_t, ROWS);
    struct wash_callbacks cb = {on_row, on_reject, on_fault, &s};
    struct buf b;
    buf_init(&b, GENERATE_MAX_BYTES);
    for (int id = 0; id < DATASETS; id++) {
        s.id = (enum dataset_id)id;
        s.rows = 0;
        for (uint64_t row = 0; row < ROWS; row++) {
            buf_reset(&b);
            generate_json(g, s.id, row, &b);
            json_error_t e;
            s.in = json_loadb(b.data, b.len, JSON_REJECT_DUPLICATES, &e);
            assert_non_null(s.in);
            struct wash_input in = {.value = buf_as_str(&b)};
            assert_int_equal(wash_record(w, &datasets[id], &in, &cb), WASH_OBJECT);
            json_decref(s.in);
        }
        assert_int_equal(s.rows, ROWS);
    }
    assert_share("image", s.image, ROWS, 89.6);
    assert_share("video", s.video, ROWS, 3);
    assert_share("story", s.story, ROWS, 7.4);
    assert_share("NNk", s.kilo, ROWS, 72);
    assert_share("plain", s.plain, ROWS, 20);
    assert_share("NM", s.mega, ROWS, 7);
    assert_share("no user", s.no_user, ROWS, 1.1);
    assert_share("no title", s.no_title, ROWS, 1.1);
    assert_share("no description", s.no_text, ROWS, 9);
    assert_share("no image", s.no_image, ROWS, 2.6);
    assert_share("no tags", s.no_tags, ROWS, 1.6);
    assert_share("not ASCII", s.no_ascii, ROWS, 40);
    assert_share("beyond the BMP", s.beyond_bmp, ROWS, 1);
    assert_share("cut", s.cut, ROWS, 33.3);
    assert_share("newline", s.newline, ROWS, 0.11);
    assert_true(s.newline > 0);
    assert_share("20-24", s.ages[0], ROWS, 45);
    assert_share("25-35", s.ages[1], ROWS, 27);
    assert_share("36-50", s.ages[2], ROWS, 20);
    assert_share("51-60", s.ages[3], ROWS, 8);
    assert_share("countries of A", s.first_letter_a, ROWS, 36);
    assert_share("people", (unsigned)map_count(s.people), ROWS, 82);
    assert_in_range(map_count(s.countries), 200, 243);
    assert_int_equal(s.categories, 13);
    qsort(s.counts, s.counts_n, sizeof *s.counts, compare);
    assert_quantile(&s, 0.05, 22);
    assert_quantile(&s, 0.25, 3000);
    assert_quantile(&s, 0.50, 28000);
    assert_quantile(&s, 0.75, 190000);
    assert_quantile(&s, 0.95, 2000000);
    map_free(&s.people);
    map_free(&s.countries);
    mem_free(s.counts);
    buf_deinit(&b);
    wash_free(&w);
    generate_free(&g);
}

/* The bytes themselves are part of the promise: what a seed gave once it gives for ever. */
static void test_known_bytes(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 64 << 20);
    all_bytes(1000, 7, false, &b);
    uint8_t sum[32];
    char hex[65] = "";
    hash_sha256(b.data, b.len, sum);
    str_hex(sum, 32, hex);
    assert_string_equal(hex, "dab4c3ee5379f328d56c73395c0813e7a316b1d65afe6ac84f86ea1753821734");
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_known_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
