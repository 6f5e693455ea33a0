/* clock: the only source of time, so that tests can set it.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdint.h>

uint64_t clock_ms(void);      /* monotonic */
uint64_t clock_us(void);      /* monotonic */
uint64_t clock_wall_ms(void); /* since 1970, UTC */
uint64_t clock_cpu_us(void);  /* CPU time of this process */
/* From now on the three times of day come from here (monotonic and wall set apart); clock_real() ends it. */
void clock_fake(uint64_t mono_us, uint64_t wall_ms);
void clock_real(void);
/* "2026-01-02T03:04:05.678Z": 24 characters and an end byte. Years 0..9999. */
void clock_rfc3339(uint64_t wall_ms, char out[25]);
/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar, and back. */
int64_t clock_days(int year, unsigned month, unsigned day);
void clock_civil(int64_t days, int *ret_year, unsigned *ret_month, unsigned *ret_day);
