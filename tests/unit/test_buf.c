/* Tests of base/buf.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

#define SAME(b, text) assert_string_equal((b)->data ? (b)->data : "", text)

static void appends_and_consumes(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    assert_true(buf_z(&b, "abc") && buf_char(&b, '-') && buf_u64(&b, UINT64_MAX) &&
                buf_char(&b, ' ') && buf_i64(&b, INT64_MIN));
    SAME(&b, "abc-18446744073709551615 -9223372036854775808");
    assert_true(buf_printf(&b, "%s%0200d", "x", 7));
    assert_int_equal(b.len, 45 + 201);
    assert_int_equal(b.data[b.len], 0);
    buf_consume(&b, 4);
    assert_memory_equal(b.data, "184467", 6);
    buf_consume(&b, b.len);
    assert_int_equal(b.len, 0);
    buf_consume(&b, 0);
    char *to = buf_reserve(&b, 10);
    memcpy(to, "0123456789", 10);
    buf_advance(&b, 10);
    SAME(&b, "0123456789");
    size_t n;
    char *taken = buf_steal(&b, &n);
    assert_int_equal(n, 10);
    assert_null(b.data);
    assert_int_equal(b.max, 1000);
    assert_null(buf_steal(&b, &n));
    mem_free(taken);
    buf_deinit(&b);
    struct buf zero = {0};
    buf_deinit(&zero);
}

static void stops_at_its_cap(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 8);
    assert_true(buf_z(&b, "12345678"));
    assert_false(b.overflow);
    assert_false(buf_char(&b, '9'));
    assert_true(b.overflow);
    SAME(&b, "12345678");
    buf_reset(&b);
    assert_false(buf_printf(&b, "%d", 123456789));
    assert_true(b.overflow);
    assert_false(buf_char(&b, 'x'));
    buf_reset(&b);
    assert_true(buf_printf(&b, "%d", 12345678));
    buf_reset(&b);
    assert_null(buf_reserve(&b, SIZE_MAX));
    buf_deinit(&b);
}

static void writes_doubles(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    static const struct {
        double v;
        const char *text;
    } known[] = {{1, "1.0"},
                 {0.1, "0.1"},
                 {-0.0, "-0.0"},
                 {1e22, "1e+22"},
                 {1.0 / 3, "0.3333333333333333"},
                 {0.30000000000000004, "0.30000000000000004"},
                 {NAN, "null"},
                 {INFINITY, "null"},
                 {123456789, "123456789.0"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        buf_reset(&b);
        buf_double(&b, known[i].v);
        SAME(&b, known[i].text);
    }
    struct rnd r;
    rnd_seed(&r, 3);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = rnd_u64(&r);
        double v;
        memcpy(&v, &bits, 8);
        if (!isfinite(v))
            continue;
        buf_reset(&b);
        buf_double(&b, v);
        assert_true(strtod(b.data, NULL) == v);
        assert_true(strpbrk(b.data, ".e") != NULL);
    }
    buf_deinit(&b);
}

static void escapes_json(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    buf_json(&b, STR("a\"b\\c\n\r\t\b\f\x01\x7f \xc3\xbc\xe2\x82\xac/"));
    SAME(&b, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u007f \xc3\xbc\xe2\x82\xac/\"");
    buf_reset(&b);
    buf_json(&b, STR("x\xff\xc3y\xed\xa0\x80z\xf0\x9f"));
    SAME(&b, "\"x\xef\xbf\xbd\xef\xbf\xbdy\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf"
             "\xbd\"");
    buf_reset(&b);
    buf_json(&b, str_make("a\0b", 3));
    SAME(&b, "\"a\\u0000b\"");
    buf_reset(&b);
    buf_json(&b, (struct str){NULL, 0});
    SAME(&b, "\"\"");
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appends_and_consumes), cmocka_unit_test(stops_at_its_cap),
        cmocka_unit_test(writes_doubles), cmocka_unit_test(escapes_json)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
