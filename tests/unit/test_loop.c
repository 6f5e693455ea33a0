/* test_loop: timers by a fake and a real clock, deferred calls, the end of a turn, and what a loop leaves open.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/loop.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define MANY 2000

struct seen {
    struct loop *loop;
    int order[64], n;
};
struct note {
    struct seen *seen;
    int what;
    struct loop_timer timer;
    struct loop_defer defer;
};

static void on_note(void *ctx)
{
    struct note *note = ctx;
    note->seen->order[note->seen->n++ % 64] = note->what;
}

static void timers_fire_in_order_of_the_fake_clock(void **state)
{
    (void)state;
    clock_fake(1000000, 0);
    struct seen seen = {.loop = loop_new()};
    struct note a = {.seen = &seen, .what = 1}, b = {.seen = &seen, .what = 2},
                c = {.seen = &seen, .what = 3};
    loop_timer_start(seen.loop, &a.timer, 3000, on_note, &a);
    loop_timer_start(seen.loop, &b.timer, 1000, on_note, &b);
    loop_timer_start(seen.loop, &c.timer, 1000, on_note, &c);
    loop_run_once(seen.loop, false);
    assert_int_equal(seen.n, 0);
    clock_fake(1999000, 0);
    loop_run_once(seen.loop, false);
    assert_int_equal(seen.n, 0);
    clock_fake(2000000, 0);
    loop_run_once(seen.loop, false);
    assert_int_equal(seen.n, 2);
    assert_int_equal(seen.order[0], 2);
    assert_int_equal(seen.order[1], 3);
    assert_true(loop_timer_active(&a.timer) && !loop_timer_active(&b.timer));
    loop_timer_start(seen.loop, &a.timer, 10000, on_note, &a); /* restarts */
    clock_fake(5000000, 0);
    loop_run_once(seen.loop, false);
    assert_int_equal(seen.n, 2);
    loop_timer_stop(&a.timer);
    loop_timer_stop(&a.timer);
    clock_fake(50000000, 0);
    loop_run_once(seen.loop, false);
    assert_int_equal(seen.n, 2);
    assert_int_equal(loop_now_ms(seen.loop), 50000);
    clock_real();
    assert_int_equal(loop_free(&seen.loop), 0);
    assert_null(seen.loop);
}

/* The process may lose the processor between the start of a timer and the turn: the timer then fires before the turn would sleep. */
static void one_turn_does_not_sleep_after_a_timer_that_was_late(void **state)
{
    (void)state;
    struct seen seen = {.loop = loop_new()};
    struct note late = {.seen = &seen, .what = 1}, far = {.seen = &seen, .what = 2};
    uint64_t begin = uv_hrtime();
    loop_timer_start(seen.loop, &far.timer, 20000, on_note, &far);
    loop_timer_start(seen.loop, &late.timer, 1, on_note, &late);
    while (uv_hrtime() - begin < 5000000)
        ;
    loop_run_once(seen.loop, true);
    assert_int_equal(seen.n, 1);
    assert_int_equal(seen.order[0], 1);
    assert_true(uv_hrtime() - begin < 10000000000);
    loop_timer_stop(&far.timer);
    assert_int_equal(loop_free(&seen.loop), 0);
}

struct model {
    struct loop *loop;
    struct loop_timer timers[MANY];
    uint64_t due[MANY], last;
    unsigned fired;
};
static struct model model;

static void on_model(void *ctx)
{
    size_t i = (size_t)((uint64_t *)ctx - model.due);
    assert_true(model.due[i] >= model.last);
    assert_true(model.due[i] <= clock_ms());
    model.last = model.due[i];
    model.due[i] = UINT64_MAX;
    model.fired++;
}

static void any_mix_of_starts_and_stops_fires_what_is_due(void **state)
{
    (void)state;
    struct rnd rnd;
    rnd_seed(&rnd, 7);
    uint64_t now_us = 0;
    clock_fake(now_us, 0);
    model.loop = loop_new();
    for (int i = 0; i < MANY; i++)
        model.due[i] = UINT64_MAX;
    for (int round = 0; round < 200; round++) {
        for (int k = 0; k < 50; k++) {
            size_t i = rnd_below(&rnd, MANY);
            if (rnd_below(&rnd, 3) == 0) {
                loop_timer_stop(&model.timers[i]);
                model.due[i] = UINT64_MAX;
            } else {
                uint64_t after = rnd_below(&rnd, 1000);
                model.due[i] = clock_ms() + after;
                loop_timer_start(model.loop, &model.timers[i], after, on_model, &model.due[i]);
            }
        }
        now_us += rnd_below(&rnd, 100000);
        clock_fake(now_us, 0);
        model.last = 0;
        loop_run_once(model.loop, false);
        for (int i = 0; i < MANY; i++)
            assert_true(model.due[i] == UINT64_MAX
                            ? !loop_timer_active(&model.timers[i])
                            : model.due[i] > clock_ms() && loop_timer_active(&model.timers[i]));
    }
    assert_true(model.fired > 1000);
    clock_real();
    assert_int_equal(loop_free(&model.loop), 0);
    for (int i = 0; i < MANY; i++)
        assert_false(loop_timer_active(&model.timers[i]));
}

static void a_loop_with_nothing_but_timers_stays_alive_and_is_not_early(void **state)
{
    (void)state;
    struct seen seen = {.loop = loop_new()};
    struct note a = {.seen = &seen, .what = 1}, b = {.seen = &seen, .what = 2},
                c = {.seen = &seen, .what = 3};
    uint64_t begin = clock_ms();
    loop_timer_start(seen.loop, &a.timer, 60, on_note, &a);
    loop_timer_start(seen.loop, &b.timer, 20, on_note, &b);
    loop_timer_start(seen.loop, &c.timer, 10, on_note, &c);
    loop_timer_stop(&c.timer);
    loop_run(seen.loop);
    assert_int_equal(seen.n, 2);
    assert_int_equal(seen.order[0], 2);
    assert_true(clock_ms() - begin >= 60);
    assert_int_equal(loop_free(&seen.loop), 0);
}

struct again {
    struct loop *loop;
    struct loop_timer timer;
    struct loop_defer defer, end;
    int timers, defers, ends;
    uint64_t first_turn;
    bool inside;
};

static void on_again_timer(void *ctx)
{
    struct again *a = ctx;
    if (++a->timers < 100)
        loop_timer_start(a->loop, &a->timer, 0, on_again_timer, a);
}

static void on_again_defer(void *ctx)
{
    struct again *a = ctx;
    assert_false(a->inside);
    if (++a->defers < 100)
        loop_defer(a->loop, &a->defer, on_again_defer, a);
}

static void on_again_end(void *ctx)
{
    struct again *a = ctx;
    if (++a->ends < 100)
        loop_at_turn_end(a->loop, &a->end, on_again_end, a);
}

static void what_queues_itself_again_takes_a_turn_each_and_never_sleeps(void **state)
{
    (void)state;
    struct again a = {.loop = loop_new()};
    a.inside = true;
    loop_timer_start(a.loop, &a.timer, 0, on_again_timer, &a);
    loop_defer(a.loop, &a.defer, on_again_defer, &a);
    loop_at_turn_end(a.loop, &a.end, on_again_end, &a);
    assert_int_equal(a.timers + a.defers + a.ends, 0);
    a.inside = false;
    a.first_turn = loop_turns(a.loop);
    loop_run(a.loop); /* it would not end if one of them were forgotten */
    assert_int_equal(a.timers, 100);
    assert_int_equal(a.defers, 100);
    assert_int_equal(a.ends, 100);
    assert_true(loop_turns(a.loop) - a.first_turn >= 100);
    assert_int_equal(loop_free(&a.loop), 0);
}

static void on_two(void *ctx)
{
    struct note *n =
        ctx; /* two notes in a row: the first queues the second for the end of this turn */
    on_note(&n[0]);
    loop_at_turn_end(n[0].seen->loop, &n[1].defer, on_note, &n[1]);
}

static void the_end_of_a_turn_follows_its_deferred_calls_and_timers(void **state)
{
    (void)state;
    struct seen seen = {.loop = loop_new()};
    struct note n[5];
    for (int i = 0; i < 5; i++)
        n[i] = (struct note){.seen = &seen, .what = i};
    loop_at_turn_end(seen.loop, &n[4].defer, on_note, &n[4]);
    loop_defer(seen.loop, &n[0].defer, on_two, n);
    loop_defer(seen.loop, &n[2].defer, on_note, &n[2]);
    loop_defer(seen.loop, &n[3].defer, on_note, &n[3]);
    loop_defer_cancel(&n[3].defer);
    loop_defer_cancel(&n[3].defer);
    loop_run_once(seen.loop, true);
    assert_int_equal(seen.n, 4);
    int want[] = {0, 2, 4, 1};
    assert_memory_equal(seen.order, want, sizeof(want));
    assert_int_equal(uv_loop_alive(loop_uv(seen.loop)),
                     0); /* nothing queued: the loop may sleep and end */
    assert_int_equal(loop_free(&seen.loop), 0);
}

static void on_stop(void *ctx)
{
    struct again *a = ctx;
    a->ends++;
    loop_stop(a->loop);
}

static void stop_ends_the_run_after_its_turn(void **state)
{
    (void)state;
    struct again a = {.loop = loop_new()};
    struct loop_timer never = {0};
    loop_timer_start(a.loop, &never, 3600 * 1000, on_stop, &a);
    loop_defer(a.loop, &a.defer, on_stop, &a);
    loop_run(a.loop);
    assert_int_equal(a.ends, 1);
    assert_int_equal(loop_free(&a.loop), 0);
    assert_false(loop_timer_active(&never));
}

static void a_handle_left_open_is_counted(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    static uv_timer_t forgotten, closed; /* the loop of the first stays */
    assert_int_equal(uv_timer_init(loop_uv(loop), &forgotten), 0);
    assert_int_equal(uv_timer_init(loop_uv(loop), &closed), 0);
    uv_close((uv_handle_t *)&closed, NULL);
    assert_int_equal(loop_free(&loop), 1);
    assert_null(loop);
    assert_int_equal(loop_free(&loop), 0);
}

static void backoff_grows_between_its_bounds(void **state)
{
    (void)state;
    uint64_t high[12] = {0};
    for (int i = 0; i < 20000; i++) {
        unsigned n = (unsigned)i % 12;
        uint64_t ms = loop_backoff_ms(n, 20, 500);
        uint64_t top = n > 4 ? 500 : 20u << n;
        assert_in_range(ms, 10, top);
        high[n] = ms > high[n] ? ms : high[n];
    }
    for (int n = 1; n < 5; n++)
        assert_true(high[n] > 20u << (n - 1));
    assert_true(high[11] > 400);
    assert_in_range(loop_backoff_ms(4000000000u, 20, UINT64_MAX), 10, UINT64_MAX);
    assert_int_equal(loop_backoff_ms(0, 1000, 10), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_of_the_fake_clock),
        cmocka_unit_test(one_turn_does_not_sleep_after_a_timer_that_was_late),
        cmocka_unit_test(any_mix_of_starts_and_stops_fires_what_is_due),
        cmocka_unit_test(a_loop_with_nothing_but_timers_stays_alive_and_is_not_early),
        cmocka_unit_test(what_queues_itself_again_takes_a_turn_each_and_never_sleeps),
        cmocka_unit_test(the_end_of_a_turn_follows_its_deferred_calls_and_timers),
        cmocka_unit_test(stop_ends_the_run_after_its_turn),
        cmocka_unit_test(a_handle_left_open_is_counted),
        cmocka_unit_test(backoff_grows_between_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
