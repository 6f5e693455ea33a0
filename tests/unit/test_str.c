/* Tests of base/str.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/err.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "base/str.h"
#include <math.h>

static void compares(void **state)
{
    (void)state;
    assert_true(str_ieq(STR("AbC-1"), STR("aBc-1")));
    assert_false(str_ieq(STR("ab"), STR("abc")));
    assert_false(str_ieq(STR("a["), STR("a{")));
    assert_true(str_starts(STR("kafka.x"), STR("kafka.")));
    assert_true(str_starts(STR(""), STR("")));
    assert_false(str_starts(STR("ka"), STR("kafka")));
    assert_true(str_ends(STR("a_file"), STR("_file")));
    assert_false(str_ends(STR("file"), STR("_file")));
    assert_true(str_cmp(STR("a"), STR("ab")) < 0);
    assert_true(str_cmp(STR("b"), STR("ab")) > 0);
    assert_int_equal(str_cmp(STR("ab"), STR("ab")), 0);
    assert_true(str_cmp(STR("\xff"), STR("a")) > 0);
    assert_true(str_is(str_trim(STR(" \ta b\t ")), "a b"));
    assert_int_equal(str_trim(STR("  \t")).n, 0);
}

static void splits(void **state)
{
    (void)state;
    struct str rest = STR("a,,b,"), part;
    const char *want[] = {"a", "", "b", ""};
    for (int i = 0; i < 4; i++) {
        assert_true(str_next(&rest, ',', &part));
        assert_true(str_is(part, want[i]));
    }
    assert_false(str_next(&rest, ',', &part));
    assert_null(rest.p);
    rest = STR("");
    assert_true(str_next(&rest, ',', &part));
    assert_int_equal(part.n, 0);
    assert_false(str_next(&rest, ',', &part));
}

static void reads_whole_numbers(void **state)
{
    (void)state;
    uint64_t u;
    int64_t i;
    assert_int_equal(str_u64(STR("18446744073709551615"), &u), 0);
    assert_true(u == UINT64_MAX);
    const char *bad_u[] = {
        "", "-1", "+1", " 1", "1 ", "1x", "18446744073709551616", "99999999999999999999"};
    for (size_t k = 0; k < sizeof bad_u / sizeof *bad_u; k++)
        assert_int_equal(str_u64(str_of(bad_u[k]), &u), ERR_BAD_DATA);
    assert_int_equal(str_i64(STR("-9223372036854775808"), &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(str_i64(STR("9223372036854775807"), &i), 0);
    assert_true(i == INT64_MAX);
    const char *bad_i[] = {"", "-", "--1", "9223372036854775808", "-9223372036854775809"};
    for (size_t k = 0; k < sizeof bad_i / sizeof *bad_i; k++)
        assert_int_equal(str_i64(str_of(bad_i[k]), &i), ERR_BAD_DATA);
}

static void reads_doubles(void **state)
{
    (void)state;
    double d;
    assert_int_equal(str_double(STR("-12.5e-1"), &d), 0);
    assert_true(d == -1.25);
    assert_int_equal(str_double(STR("0"), &d), 0);
    const char *bad[] = {"",   "-",    "01",  "1.",       ".5",    "1e", "1e+",
                         "+1", "0x10", "NaN", "Infinity", "1e999", "1 ", "--1"};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        assert_int_equal(str_double(str_of(bad[k]), &d), ERR_BAD_DATA);
    char digits[600];
    memset(digits, '0', sizeof digits);
    memcpy(digits, "1.5", 3);
    assert_int_equal(str_double(str_make(digits, sizeof digits), &d), 0);
    assert_true(d == 1.5);
}

static void reads_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"250ms", 250},    {"1s", 1000}, {"5m", 300000}, {"24h", 86400000},
                {"7d", 604800000}, {"0", 0},     {"0s", 0}};
    uint64_t v;
    char out[24];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(str_duration_ms(str_of(good[i].text), &v), 0);
        assert_true(v == good[i].ms);
        assert_int_equal(str_duration_ms(str_of(str_from_duration(v, out)), &v), 0);
        assert_true(v == good[i].ms);
    }
    const char *bad[] = {"",
                         "1",
                         "ms",
                         "1.5s",
                         "-1s",
                         "1 s",
                         "1w",
                         "99999999999999999999s",
                         "18446744073709551615d"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(str_duration_ms(str_of(bad[i]), &v), ERR_BAD_DATA);
    assert_int_equal(str_bytes(STR("16MiB"), &v), 0);
    assert_true(v == 16777216);
    assert_int_equal(str_bytes(STR("512"), &v), 0);
    assert_true(v == 512);
    assert_int_equal(str_bytes(STR("16MB"), &v), ERR_BAD_DATA);
    assert_int_equal(str_bytes(STR("16777216TiB"), &v), ERR_BAD_DATA);
    assert_string_equal(str_from_duration(90000, out), "90s");
    assert_string_equal(str_from_duration(1001, out), "1001ms");
    assert_string_equal(str_from_bytes(16777216, out), "16MiB");
    assert_string_equal(str_from_bytes(1025, out), "1025");
    assert_string_equal(str_from_bytes(UINT64_MAX, out), "18446744073709551615");
}

/* Slow and plain, by the table of the Unicode standard. */
static bool utf8_plain(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t len = p[i] < 0x80             ? 1
                     : (p[i] & 0xe0) == 0xc0 ? 2
                     : (p[i] & 0xf0) == 0xe0 ? 3
                     : (p[i] & 0xf8) == 0xf0 ? 4
                                             : 0;
        if (!len || i + len > n)
            return false;
        uint32_t c = len == 1 ? p[i] : p[i] & (0x7f >> len);
        for (size_t k = 1; k < len; k++) {
            if ((p[i + k] & 0xc0) != 0x80)
                return false;
            c = c << 6 | (p[i + k] & 0x3f);
        }
        static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
        if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
            return false;
        i += len;
    }
    return true;
}

static void checks_utf8(void **state)
{
    (void)state;
    assert_true(str_utf8_valid(STR("plain ascii, longer than eight")));
    assert_true(str_utf8_valid(STR("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80")));
    assert_true(str_utf8_valid(STR("")));
    assert_false(str_utf8_valid(STR("\xed\xa0\x80")));
    assert_false(str_utf8_valid(STR("12345678\xc3")));
    struct rnd r;
    rnd_seed(&r, 1);
    static const unsigned char pool[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                         0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed,
                                         0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
    unsigned valid = 0;
    for (int i = 0; i < 200000; i++) {
        /* Short ones of every kind of byte, and long ones with a few characters that are not ASCII. */
        unsigned char text[100];
        bool is_long = i % 4 == 0;
        size_t n = rnd_below(&r, is_long ? 97 : 13), ascii = rnd_below(&r, n + 1);
        for (size_t k = 0; k < n; k++)
            text[k] = k < ascii || is_long ? 'a' : pool[rnd_below(&r, sizeof pool)];
        for (uint64_t k = rnd_below(&r, 4); k && is_long && n >= 3; k--)
            memcpy(text + rnd_below(&r, n - 2), rnd_below(&r, 8) ? "\xe2\x82\xac" : "\xe2\x82.", 3);
        bool want = utf8_plain(text, n);
        valid += want;
        assert_int_equal(str_utf8_valid(str_make((char *)text, n)), want);
    }
    assert_true(valid > 1000);
}

static void codes_base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"", ""},        {"f", "Zg=="},        {"fo", "Zm8="},
        {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\xfe\xfd", "//79"}};
    char out[64];
    size_t n;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct str raw = str_of(pairs[i][0]), text = str_of(pairs[i][1]);
        assert_int_equal(str_base64_encode(raw.p, raw.n, false, out), text.n);
        assert_memory_equal(out, text.p, text.n);
        assert_int_equal(str_base64_size(raw.n), text.n);
        assert_int_equal(str_base64_decode(text, false, out, &n), 0);
        assert_true(n == raw.n && memcmp(out, raw.p, n) == 0 && n <= str_base64_max(text.n));
    }
    assert_int_equal(str_base64_encode("\xff\xfe", 2, true, out), 3);
    assert_memory_equal(out, "__4", 3);
    assert_int_equal(str_base64_decode(STR("__4"), true, out, &n), 0);
    assert_int_equal(n, 2);
    const char *bad[] = {"Zg", "Zg=", "Z===", "====", "Zm9v=", "Zm 9", "Zm9-", "Zg==Zg==", "Z"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(str_base64_decode(str_of(bad[i]), false, out, &n), ERR_BAD_DATA);
    struct rnd r;
    rnd_seed(&r, 2);
    for (size_t len = 0; len < 40; len++) {
        unsigned char raw[40], back[64];
        for (size_t k = 0; k < len; k++)
            raw[k] = (unsigned char)rnd_u64(&r);
        for (int url = 0; url < 2; url++) {
            size_t m = str_base64_encode(raw, len, url, out);
            assert_int_equal(str_base64_decode(str_make(out, m), url, back, &n), 0);
            assert_true(n == len && (!n || memcmp(raw, back, n) == 0));
        }
    }
}

static void codes_hex_and_urls(void **state)
{
    (void)state;
    char out[32];
    size_t n;
    str_hex("\x00\xab\xff", 3, out);
    assert_memory_equal(out, "00abff", 6);
    assert_int_equal(str_url_decode(STR("a%2Fb+c%c3%bc"), false, out, &n), 0);
    assert_true(str_is(str_make(out, n), "a/b+c\xc3\xbc"));
    assert_int_equal(str_url_decode(STR("a+b"), true, out, &n), 0);
    assert_true(str_is(str_make(out, n), "a b"));
    const char *bad[] = {"%", "%2", "a%zz", "%2g"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(str_url_decode(str_of(bad[i]), false, out, &n), ERR_BAD_DATA);
}

static void memory_is_zero(void **state)
{
    (void)state;
    char *p = mem_alloc(100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(p[i], 0);
    memset(p, 'x', 100);
    p = mem_realloc(p, 100, 5000);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(p[i], i < 100 ? 'x' : 0);
    mem_free(p);
    mem_free(NULL);
    CLEANUP(mem_cleanup) char *s = mem_printf("%s-%d", "a", 7);
    assert_string_equal(s, "a-7");
    CLEANUP(mem_cleanup) char *d = mem_strndup("abcdef", 3);
    assert_string_equal(d, "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(compares),
                                       cmocka_unit_test(splits),
                                       cmocka_unit_test(reads_whole_numbers),
                                       cmocka_unit_test(reads_doubles),
                                       cmocka_unit_test(reads_units),
                                       cmocka_unit_test(checks_utf8),
                                       cmocka_unit_test(codes_base64),
                                       cmocka_unit_test(codes_hex_and_urls),
                                       cmocka_unit_test(memory_is_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
