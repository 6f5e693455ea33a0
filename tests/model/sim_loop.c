/* sim_loop: io/loop.h for a node of the model: timers and deferred calls that run when the schedule says so.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

#define TIMERS 256

struct loop {
    struct app *app;
    struct list defers;
    struct loop_timer *timers[TIMERS];
    size_t n;
    uint64_t seq;
};

struct loop *sim_loop_new(struct app *app)
{
    struct loop *l = MEM_NEW(struct loop);
    l->app = app;
    list_init(&l->defers);
    return l;
}

void sim_loop_free(struct loop *l)
{
    CHECK(l->n == 0); /* a node that ended stopped all its timers */
    CHECK(list_empty(&l->defers));
    mem_free(l);
}

struct app *sim_loop_app(struct loop *l)
{
    return l->app;
}

void loop_defer(struct loop *l, struct loop_defer *d, loop_fn *fn, void *ctx)
{
    if (d->queued)
        return;
    *d = (struct loop_defer){.fn = fn, .ctx = ctx, .queued = true};
    list_push(&l->defers, &d->node);
}

void loop_defer_cancel(struct loop_defer *d)
{
    if (d->queued)
        list_remove(&d->node);
    d->queued = false;
}

void loop_timer_start(struct loop *l, struct loop_timer *t, uint64_t after_ms, loop_fn *fn,
                      void *ctx)
{
    loop_timer_stop(t);
    CHECK(l->n < TIMERS);
    t->due_ms = clock_ms() + after_ms;
    t->seq = l->seq++;
    t->fn = fn;
    t->ctx = ctx;
    t->loop = l;
    l->timers[l->n++] = t;
    t->slot = l->n;
}

void loop_timer_stop(struct loop_timer *t)
{
    if (!t->slot)
        return;
    struct loop *l = t->loop;
    l->timers[t->slot - 1] = l->timers[--l->n];
    l->timers[t->slot - 1]->slot = t->slot;
    t->slot = 0;
}

uint64_t loop_now_ms(const struct loop *l)
{
    (void)l;
    return clock_ms();
}

uint64_t loop_backoff_ms(unsigned try_no, uint64_t base_ms, uint64_t cap_ms)
{
    uint64_t ms = base_ms << (try_no < 10 ? try_no : 10);
    return ms < cap_ms ? ms : cap_ms;
}

bool sim_loop_defers(struct loop *l)
{
    bool any = false;
    struct list *n;
    while ((n = list_pop(&l->defers))) {
        struct loop_defer *d = LIST_ENTRY(n, struct loop_defer, node);
        d->queued = false;
        d->fn(d->ctx);
        any = true;
    }
    return any;
}

uint64_t sim_loop_next_due(struct loop *l)
{
    uint64_t due = UINT64_MAX;
    for (size_t i = 0; i < l->n; i++)
        due = l->timers[i]->due_ms < due ? l->timers[i]->due_ms : due;
    return due;
}

bool sim_loop_timer(struct loop *l)
{
    struct loop_timer *first = NULL;
    for (size_t i = 0; i < l->n; i++) {
        struct loop_timer *t = l->timers[i];
        if (t->due_ms <= clock_ms() && (!first || t->due_ms < first->due_ms ||
                                        (t->due_ms == first->due_ms && t->seq < first->seq)))
            first = t;
    }
    if (!first)
        return false;
    loop_timer_stop(first);
    first->fn(first->ctx);
    return true;
}
