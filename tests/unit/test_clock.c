/* Tests of base/clock.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/clock.h"
#include <string.h>

static void formats_times(void **state)
{
    (void)state;
    char out[25];
    clock_rfc3339(0, out);
    assert_string_equal(out, "1970-01-01T00:00:00.000Z");
    clock_rfc3339(1767323045678, out);
    assert_string_equal(out, "2026-01-02T03:04:05.678Z");
    clock_rfc3339(1709251199999, out);
    assert_string_equal(out, "2024-02-29T23:59:59.999Z");
    clock_rfc3339(UINT64_MAX, out);
    assert_string_equal(out, "9999-12-31T23:59:59.999Z");
}

static unsigned month_days(int y, unsigned m)
{
    static const unsigned days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[m - 1] + (m == 2 && ((y % 4 == 0 && y % 100 != 0) || y % 400 == 0));
}

/* Day by day from year -400 to 2500, beside a calendar that only counts. */
static void counts_days(void **state)
{
    (void)state;
    assert_int_equal(clock_days(1970, 1, 1), 0);
    int64_t day = clock_days(-400, 1, 1);
    for (int y = -400; y <= 2500; y++) {
        for (unsigned m = 1; m <= 12; m++) {
            for (unsigned d = 1; d <= month_days(y, m); d++, day++) {
                int ry;
                unsigned rm, rd;
                clock_civil(day, &ry, &rm, &rd);
                assert_true(ry == y && rm == m && rd == d);
                assert_true(clock_days(y, m, d) == day);
            }
        }
    }
}

static void can_be_set(void **state)
{
    (void)state;
    clock_fake(5000001, 77);
    assert_true(clock_us() == 5000001 && clock_ms() == 5000 && clock_wall_ms() == 77);
    clock_real();
    uint64_t a = clock_us(), cpu = clock_cpu_us();
    assert_true(clock_us() >= a && clock_cpu_us() >= cpu);
    assert_true(clock_wall_ms() > 1700000000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(formats_times),
                                       cmocka_unit_test(counts_days), cmocka_unit_test(can_be_set)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
