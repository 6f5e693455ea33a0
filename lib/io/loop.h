/* loop: the one event loop of a process, timers, deferred calls and backoff.
 *
 * Threads: the loop thread is the one that called loop_new; everything here is for it alone, but loop_assert's check.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/list.h"
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct loop;
typedef void loop_fn(void *ctx);

struct loop *loop_new(void);
/* Closes what the loop itself owns and frees it. Every other handle must be closed before: returns the number that is not
 * (each is logged as `handle_left_open`), else 0. */
int loop_free(struct loop **loop);
uv_loop_t *loop_uv(struct loop *loop);
void loop_run(struct loop *loop);  /* until loop_stop, or nothing is left to wait for */
void loop_stop(struct loop *loop); /* loop_run returns after this turn */
void loop_run_once(struct loop *loop, bool wait);
void loop_assert(const struct loop *loop);     /* CHECKs that this is the loop thread */
uint64_t loop_now_ms(const struct loop *loop); /* clock_ms at the start of this turn */
uint64_t loop_turns(const struct loop *loop);

/* Runs fn once, later in this turn or at the start of the next, never before loop_defer returned.
 * The node lives in the caller's object; cancelling a node that is not queued is fine. */
struct loop_defer {
    struct list node;
    loop_fn *fn;
    void *ctx;
    bool queued;
};
void loop_defer(struct loop *loop, struct loop_defer *d, loop_fn *fn, void *ctx);
void loop_defer_cancel(struct loop_defer *d);

/* At the end of every turn, after all callbacks of that turn: for what gathers the requests of one turn. Same node rules. */
void loop_at_turn_end(struct loop *loop, struct loop_defer *d, loop_fn *fn, void *ctx);

/* A timer that needs no closing: plain memory inside the caller's object (zeroed = not started), kept in the loop's own ordered set.
 * loop_timer_stop before the object ends. Starting again restarts it. Resolution 1 ms. */
struct loop_timer {
    uint64_t due_ms, seq;
    loop_fn *fn;
    void *ctx;
    struct loop *loop;
    size_t slot; /* place in the loop's heap, plus 1; 0: not started */
};
void loop_timer_start(struct loop *loop, struct loop_timer *t, uint64_t after_ms, loop_fn *fn,
                      void *ctx);
void loop_timer_stop(struct loop_timer *t);
static inline bool loop_timer_active(const struct loop_timer *t)
{
    return t->slot != 0;
}

/* Capped exponential backoff with full jitter: `try` counts from 0; result in [base/2, cap] ms. */
uint64_t loop_backoff_ms(unsigned try_no, uint64_t base_ms, uint64_t cap_ms);
