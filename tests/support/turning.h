/* turning: the loop of the test that runs, and turns of it until something has come to pass, never without a deadline.
 *
 * The loop is made by turning_setup, and ended by turning_teardown, which fails with what was left open.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/loop.h"

#define TURNING_NS 60000000000ULL

extern struct loop *loop;

int turning_setup(void **state);
int turning_teardown(void **state); /* back to the real clock, too */
void turn(void);                    /* one turn, of 5 ms at the most */
void turn_ms(uint64_t ms);          /* turns for a while, for what must not happen */
void turn_loop(struct loop *l);     /* the same of a test's own loop */
void turning_late(const char *what, const char *file, int line); /* fails the test */

/* Turns a loop until cond is true. */
#define TURN_UNTIL(l, cond)                                                                        \
    for (uint64_t end_ = uv_hrtime() + TURNING_NS; !(cond); turn_loop(l))                          \
        if (uv_hrtime() >= end_)                                                                   \
    turning_late(#cond, __FILE__, __LINE__)
#define WAIT(cond) TURN_UNTIL(loop, cond)
