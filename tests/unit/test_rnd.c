/* Tests of base/rnd.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/rnd.h"
#include <string.h>

/* The algorithm's authors' code gives these for the state {1, 2, 3, 4}. */
static void is_xoshiro(void **state)
{
    (void)state;
    struct rnd r = {{1, 2, 3, 4}};
    assert_true(rnd_u64(&r) == 11520);
    assert_true(rnd_u64(&r) == 0);
    assert_true(rnd_u64(&r) == 1509978240);
    assert_true(rnd_u64(&r) == 1215971899390074240);
}

static void repeats_by_seed(void **state)
{
    (void)state;
    struct rnd a, b, c;
    rnd_seed(&a, 7);
    rnd_seed(&b, 7);
    rnd_seed(&c, 8);
    uint64_t x = rnd_u64(&a);
    assert_true(x == rnd_u64(&b) && x != rnd_u64(&c));
}

static void stays_in_range(void **state)
{
    (void)state;
    struct rnd r;
    rnd_seed(&r, 9);
    unsigned seen[7] = {0};
    for (int i = 0; i < 70000; i++) {
        seen[rnd_below(&r, 7)]++;
        double d = rnd_double(&r);
        assert_true(d >= 0 && d < 1);
    }
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 9500, 10500);
    assert_true(rnd_below(&r, 1) == 0);
}

static void makes_uuids(void **state)
{
    (void)state;
    char a[37], b[37];
    rnd_uuid(a);
    rnd_uuid(b);
    assert_string_not_equal(a, b);
    assert_int_equal(strlen(a), 36);
    assert_true(a[8] == '-' && a[13] == '-' && a[18] == '-' && a[23] == '-');
    assert_int_equal(a[14], '4');
    assert_true(strchr("89ab", a[19]) != NULL);
    unsigned char none[64] = {0}, bytes[64] = {0};
    rnd_bytes(bytes, sizeof bytes);
    assert_memory_not_equal(bytes, none, sizeof bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_xoshiro), cmocka_unit_test(repeats_by_seed),
        cmocka_unit_test(stays_in_range), cmocka_unit_test(makes_uuids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
