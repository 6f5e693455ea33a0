/* loop: a uv_loop_t with an ordered set of timers, deferred calls and an end-of-turn list.
 *
 * A turn is what lies between two waits: callbacks of the poll, then due timers, then deferred calls, then the end-of-turn
 * list. The last three run in end_turn, from uv_prepare, just before libuv computes how long it may sleep. The idle handle is
 * active only while something is queued: it keeps the loop from sleeping and from ending. The one uv_timer_t is armed for the
 * earliest timer; when that one is stopped the wake-up is left standing, which is cheaper than moving it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/loop.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <poll.h>
#include <pthread.h>

#define LOOP_TAG CHECK_TAG('l', 'o', 'o', 'p')
#define LOOP_FREE_WAIT_NS 5000000000ULL

struct loop {
    uint32_t tag;
    uv_loop_t uv;
    pthread_t thread;
    uv_timer_t timer;
    uv_idle_t idle;
    uv_prepare_t prepare;
    struct list deferred, turn_end;
    struct loop_timer **heap;
    size_t heap_n, heap_cap;
    uint64_t seq, armed_due_ms, turns, now_ms;
    bool armed, now_valid, running, once_waits;
    bool ran_timer;           /* since the last end_turn, which libuv's timer phase comes before */
    struct loop *left_before; /* see loop_free */
};

uv_loop_t *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

void loop_assert(const struct loop *loop)
{
    CHECK(pthread_equal(loop->thread, pthread_self()));
}

uint64_t loop_turns(const struct loop *loop)
{
    return loop->turns;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    struct loop *l =
        (struct loop *)(uintptr_t)loop; /* the cached time is no part of what const promises */
    if (!l->now_valid) {
        l->now_ms = clock_ms();
        l->now_valid = l->running;
    }
    return l->now_ms;
}

/* ---- the heap ---- */

static bool timer_before(const struct loop_timer *a, const struct loop_timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->seq < b->seq;
}

static void heap_set(struct loop *loop, size_t i, struct loop_timer *t)
{
    loop->heap[i] = t;
    t->slot = i + 1;
}

static void heap_up(struct loop *loop, size_t i)
{
    struct loop_timer *t = loop->heap[i];
    while (i > 0 && timer_before(t, loop->heap[(i - 1) / 2])) {
        heap_set(loop, i, loop->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_set(loop, i, t);
}

static void heap_down(struct loop *loop, size_t i)
{
    struct loop_timer *t = loop->heap[i];
    for (size_t child = 2 * i + 1; child < loop->heap_n; child = 2 * i + 1) {
        if (child + 1 < loop->heap_n && timer_before(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!timer_before(loop->heap[child], t))
            break;
        heap_set(loop, i, loop->heap[child]);
        i = child;
    }
    heap_set(loop, i, t);
}

static void heap_remove(struct loop *loop, struct loop_timer *t)
{
    size_t i = t->slot - 1;
    CHECK(i < loop->heap_n && loop->heap[i] == t);
    struct loop_timer *last = loop->heap[--loop->heap_n];
    t->slot = 0;
    if (last == t)
        return;
    heap_set(loop, i, last);
    heap_up(loop, i);
    heap_down(loop, last->slot - 1);
}

/* ---- waking up ---- */

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* being active is all it is for */
}

static void stay_awake(struct loop *loop)
{
    (void)uv_idle_start(&loop->idle, on_idle); /* fails only without a callback */
}

static void run_timers(struct loop *loop);

static void on_uv_timer(uv_timer_t *timer)
{
    struct loop *loop = CHECK_FROM(timer->data, struct loop, LOOP_TAG);
    loop->armed = false;
    run_timers(loop);
}

static void arm(struct loop *loop)
{
    if (loop->heap_n == 0) {
        if (loop->armed)
            (void)uv_timer_stop(&loop->timer); /* never fails */
        loop->armed = false;
        return;
    }
    uint64_t due_ms = loop->heap[0]->due_ms;
    if (loop->armed && loop->armed_due_ms <= due_ms)
        return;
    uint64_t now_ms = clock_ms();
    /* libuv would spin inside its own timer phase on a wait of 0: the idle handle stands for it. */
    if (due_ms <= now_ms)
        stay_awake(loop);
    uv_update_time(&loop->uv);
    /* fails only while closing */
    (void)uv_timer_start(&loop->timer, on_uv_timer, due_ms > now_ms ? due_ms - now_ms : 1, 0);
    loop->armed = true;
    loop->armed_due_ms = due_ms;
}

static bool timers_due(const struct loop *loop)
{
    return loop->heap_n && loop->heap[0]->due_ms <= clock_ms();
}

/* Runs what is due and was started before this call, so that a timer of 0 ms that restarts itself cannot hold the loop. */
static void run_timers(struct loop *loop)
{
    uint64_t now_ms = clock_ms(), seq = loop->seq;
    while (loop->heap_n && loop->heap[0]->due_ms <= now_ms && loop->heap[0]->seq <= seq) {
        struct loop_timer *t = loop->heap[0];
        heap_remove(loop, t);
        loop->ran_timer = true;
        t->fn(t->ctx);
    }
    arm(loop);
}

static bool run_list(struct list *from)
{
    struct list batch;
    list_init(&batch);
    list_splice(&batch, from);
    bool any = false;
    for (struct list *n; (n = list_pop(&batch)); any = true) {
        struct loop_defer *d = LIST_ENTRY(n, struct loop_defer, node);
        d->queued = false;
        d->fn(d->ctx);
    }
    return any;
}

static bool end_turn(struct loop *loop)
{
    run_timers(loop);
    bool any = loop->ran_timer;
    any |= run_list(&loop->deferred);
    any |= run_list(&loop->turn_end);
    loop->turns++;
    loop->now_valid = loop->ran_timer = false;
    arm(loop);
    if (list_empty(&loop->deferred) && list_empty(&loop->turn_end) && !timers_due(loop))
        (void)uv_idle_stop(&loop->idle); /* never fails */
    else
        stay_awake(loop);
    return any;
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct loop *loop = CHECK_FROM(prepare->data, struct loop, LOOP_TAG);
    if (end_turn(loop) && loop->once_waits)
        stay_awake(loop); /* loop_run_once has done something: it does not wait for more */
}

/* ---- life ---- */

struct loop *loop_new(void)
{
    struct loop *loop = MEM_NEW(struct loop);
    loop->tag = LOOP_TAG;
    loop->thread = pthread_self();
    list_init(&loop->deferred);
    list_init(&loop->turn_end);
    CHECK(uv_loop_init(&loop->uv) == 0);
    loop->uv.data = loop;
    (void)uv_timer_init(&loop->uv, &loop->timer); /* the three inits never fail */
    (void)uv_idle_init(&loop->uv, &loop->idle);
    (void)uv_prepare_init(&loop->uv, &loop->prepare);
    loop->timer.data = loop->idle.data = loop->prepare.data = loop;
    (void)uv_prepare_start(&loop->prepare, on_prepare);
    uv_unref((uv_handle_t *)&loop->prepare);
    return loop;
}

void loop_run(struct loop *loop)
{
    loop_assert(loop);
    loop->running = true;
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT); /* what is left alive is loop_free's business */
    (void)end_turn(loop);
    loop->running = loop->now_valid = false;
}

void loop_run_once(struct loop *loop, bool wait)
{
    loop_assert(loop);
    loop->running = true;
    loop->once_waits = wait;
    (void)uv_run(&loop->uv, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    (void)end_turn(loop);
    loop->running = loop->now_valid = loop->once_waits = false;
}

void loop_stop(struct loop *loop)
{
    loop_assert(loop);
    uv_stop(&loop->uv);
}

struct walk {
    struct loop *loop;
    int left;
};

static void on_walk(uv_handle_t *h, void *ctx)
{
    struct walk *w = ctx;
    bool own = h == (uv_handle_t *)&w->loop->timer || h == (uv_handle_t *)&w->loop->idle ||
               h == (uv_handle_t *)&w->loop->prepare;
    if (uv_is_closing(h))
        return;
    if (!own) {
        const char *type = uv_handle_type_name(uv_handle_get_type(h));
        w->left++;
        LOG(ERROR, "handle_left_open", KV_STR("type", type ? type : "unknown"),
            KV_BOOL("active", uv_is_active(h)));
        return; /* closing it here could make its owner close it a second time */
    }
    uv_close(h, NULL);
}

static void unlink_all(struct list *list)
{
    for (struct list *n; (n = list_pop(list));)
        LIST_ENTRY(n, struct loop_defer, node)->queued = false;
}

int loop_free(struct loop **ptr)
{
    struct loop *loop = *ptr;
    if (!loop)
        return 0;
    loop_assert(loop);
    *ptr = NULL;
    struct walk w = {.loop = loop};
    for (size_t i = 0; i < loop->heap_n; i++)
        loop->heap[i]->slot = 0;
    loop->heap_n = 0;
    unlink_all(&loop->deferred);
    unlink_all(&loop->turn_end);
    (void)uv_run(&loop->uv, UV_RUN_NOWAIT); /* ends handles whose close callback is still due */
    uv_walk(&loop->uv, on_walk, &w);
    /* Close callbacks come at once; jobs in the thread pool may need a moment. */
    for (uint64_t end = uv_hrtime() + (w.left ? 0 : LOOP_FREE_WAIT_NS);
         uv_run(&loop->uv, UV_RUN_NOWAIT) && uv_hrtime() < end;) {
        struct pollfd fd = {.fd = uv_backend_fd(&loop->uv), .events = POLLIN};
        (void)poll(&fd, 1, uv_backend_timeout(&loop->uv) == 0 ? 0 : 10); /* only a nap */
    }
    unlink_all(&loop->deferred);
    unlink_all(&loop->turn_end);
    for (size_t i = 0; i < loop->heap_n; i++)
        loop->heap[i]->slot = 0;
    int rc = uv_loop_close(&loop->uv);
    if (rc < 0) {
        /* Something may still touch the loop: its memory stays, within reach of the leak checker. */
        static struct loop *left;
        LOG(ERROR, "loop_left_busy", KV_ERR(rc));
        loop->left_before = left;
        left = loop;
        return w.left ? w.left : 1;
    }
    mem_free(loop->heap);
    mem_free(loop);
    return w.left;
}

/* ---- deferred calls ---- */

static void enqueue(struct loop *loop, struct list *list, struct loop_defer *d, loop_fn *fn,
                    void *ctx)
{
    loop_assert(loop);
    d->fn = fn;
    d->ctx = ctx;
    if (d->queued)
        return;
    d->queued = true;
    list_push(list, &d->node);
    stay_awake(loop);
}

void loop_defer(struct loop *loop, struct loop_defer *d, loop_fn *fn, void *ctx)
{
    enqueue(loop, &loop->deferred, d, fn, ctx);
}

void loop_at_turn_end(struct loop *loop, struct loop_defer *d, loop_fn *fn, void *ctx)
{
    enqueue(loop, &loop->turn_end, d, fn, ctx);
}

void loop_defer_cancel(struct loop_defer *d)
{
    if (!d->queued)
        return;
    list_remove(&d->node);
    d->queued = false;
}

/* ---- timers ---- */

void loop_timer_start(struct loop *loop, struct loop_timer *t, uint64_t after_ms, loop_fn *fn,
                      void *ctx)
{
    loop_assert(loop);
    uint64_t now_ms = clock_ms();
    loop_timer_stop(t);
    t->due_ms = after_ms > UINT64_MAX - now_ms ? UINT64_MAX : now_ms + after_ms;
    t->seq = ++loop->seq;
    t->fn = fn;
    t->ctx = ctx;
    t->loop = loop;
    if (loop->heap_n == loop->heap_cap) {
        size_t cap = loop->heap_cap ? 2 * loop->heap_cap : 64;
        loop->heap = mem_realloc(loop->heap, loop->heap_cap * sizeof(*loop->heap),
                                 cap * sizeof(*loop->heap));
        loop->heap_cap = cap;
    }
    loop->heap[loop->heap_n++] = t;
    heap_up(loop, loop->heap_n - 1);
    arm(loop);
}

void loop_timer_stop(struct loop_timer *t)
{
    if (!t->slot)
        return;
    struct loop *loop = t->loop;
    loop_assert(loop);
    heap_remove(loop, t);
    if (loop->heap_n == 0)
        arm(loop);
}

uint64_t loop_backoff_ms(unsigned try_no, uint64_t base_ms, uint64_t cap_ms)
{
    static __thread struct rnd rnd;
    static __thread bool seeded;
    if (!seeded) {
        uint64_t seed;
        rnd_bytes(&seed, sizeof(seed));
        rnd_seed(&rnd, seed);
        seeded = true;
    }
    uint64_t low = base_ms / 2, high = base_ms;
    for (unsigned i = 0; i < try_no && high < cap_ms; i++)
        high = high > cap_ms / 2 ? cap_ms : 2 * high;
    if (high > cap_ms)
        high = cap_ms;
    return low >= high ? high : low + rnd_below(&rnd, high - low + 1);
}
