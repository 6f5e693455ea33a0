/* turning: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "turning.h"
#include "base/clock.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

struct loop *loop;

static void on_tick(void *ctx)
{
    (void)ctx; /* only ends the wait of loop_run_once */
}

int turning_setup(void **state)
{
    (void)state;
    loop = loop_new();
    return 0;
}

int turning_teardown(void **state)
{
    (void)state;
    clock_real();
    return loop_free(&loop);
}

void turn_loop(struct loop *l)
{
    struct loop_timer tick = {0};
    loop_timer_start(l, &tick, 5, on_tick, NULL);
    loop_run_once(l, true);
    loop_timer_stop(&tick);
}

void turn(void)
{
    turn_loop(loop);
}

void turn_ms(uint64_t ms)
{
    for (uint64_t end = uv_hrtime() + ms * 1000000; uv_hrtime() < end;)
        turn();
}

void turning_late(const char *what, const char *file, int line)
{
    print_error("waited in vain for: %s\n", what);
    _fail(file, line);
}
