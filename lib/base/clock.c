/* clock: the only source of time.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/check.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

static atomic_bool fake;
static _Atomic uint64_t fake_mono_us, fake_wall_ms;

static uint64_t read_us(clockid_t id)
{
    struct timespec t;
    CHECK(clock_gettime(id, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t clock_us(void)
{
    return fake ? fake_mono_us : read_us(CLOCK_MONOTONIC);
}

uint64_t clock_ms(void)
{
    return clock_us() / 1000;
}

uint64_t clock_wall_ms(void)
{
    return fake ? fake_wall_ms : read_us(CLOCK_REALTIME) / 1000;
}

uint64_t clock_cpu_us(void)
{
    return read_us(CLOCK_PROCESS_CPUTIME_ID);
}

void clock_fake(uint64_t mono_us, uint64_t wall_ms)
{
    fake_mono_us = mono_us;
    fake_wall_ms = wall_ms;
    fake = true;
}

void clock_real(void)
{
    fake = false;
}

/* The calendar is counted in eras of 400 years that begin on 1 March, so that the leap day is a year's last. */
int64_t clock_days(int year, unsigned month, unsigned day)
{
    int64_t y = (int64_t)year - (month <= 2);
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned in_era = (unsigned)(y - era * 400);
    unsigned in_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    unsigned day_of_era = in_era * 365 + in_era / 4 - in_era / 100 + in_year;
    return era * 146097 + (int64_t)day_of_era - 719468;
}

void clock_civil(int64_t days, int *ret_year, unsigned *ret_month, unsigned *ret_day)
{
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    unsigned day_of_era = (unsigned)(z - era * 146097);
    unsigned in_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned in_year = day_of_era - (365 * in_era + in_era / 4 - in_era / 100);
    unsigned shifted = (5 * in_year + 2) / 153;
    *ret_day = in_year - (153 * shifted + 2) / 5 + 1;
    *ret_month = shifted < 10 ? shifted + 3 : shifted - 9;
    *ret_year = (int)((int64_t)in_era + era * 400 + (*ret_month <= 2));
}

static void put_digits(char *out, unsigned v, int n)
{
    while (n--) {
        out[n] = (char)('0' + v % 10);
        v /= 10;
    }
}

void clock_rfc3339(uint64_t wall_ms, char out[25])
{
    /* Past the year 9999 the last moment that has a text. */
    if (wall_ms > 253402300799999)
        wall_ms = 253402300799999;
    int year;
    unsigned month, day, ms = (unsigned)(wall_ms % 86400000);
    clock_civil((int64_t)(wall_ms / 86400000), &year, &month, &day);
    put_digits(out, (unsigned)year, 4), out[4] = '-';
    put_digits(out + 5, month, 2), out[7] = '-';
    put_digits(out + 8, day, 2), out[10] = 'T';
    put_digits(out + 11, ms / 3600000, 2), out[13] = ':';
    put_digits(out + 14, ms / 60000 % 60, 2), out[16] = ':';
    put_digits(out + 17, ms / 1000 % 60, 2), out[19] = '.';
    put_digits(out + 20, ms % 1000, 3), out[23] = 'Z';
    out[24] = 0;
}
