/* test_work: bounds, order, cancelling and closing of jobs.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/work.h"
#include "base/err.h"
#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <cmocka.h>

struct bench {
    struct loop *loop;
    struct work *work;
    uv_sem_t gate; /* a job passes once per post */
    atomic_int inside, most, ran;
    int done, cancelled, orphaned;
};

static void on_run_mt(void *ctx)
{
    struct bench *b = ctx;
    int inside = atomic_fetch_add(&b->inside, 1) + 1, most = atomic_load(&b->most);
    while (inside > most && !atomic_compare_exchange_weak(&b->most, &most, inside))
        ;
    uv_sem_wait(&b->gate);
    atomic_fetch_add(&b->ran, 1);
    atomic_fetch_sub(&b->inside, 1);
}

static void on_done(void *ctx, int rc)
{
    struct bench *b = ctx;
    b->done++;
    b->cancelled += rc == ERR_CANCELLED;
    assert_true(rc == 0 || rc == ERR_CANCELLED);
}

static void on_orphan(void *ctx)
{
    ((struct bench *)ctx)->orphaned++;
}

static struct bench *bench_new(unsigned max_running, unsigned max_waiting)
{
    struct bench *b = MEM_NEW(struct bench);
    b->loop = loop_new();
    b->work = work_open(b->loop, max_running, max_waiting);
    assert_int_equal(uv_sem_init(&b->gate, 0), 0);
    return b;
}

static void bench_end(struct bench *b)
{
    work_close(&b->work);
    loop_run(b->loop);
    assert_int_equal(loop_free(&b->loop), 0);
    uv_sem_destroy(&b->gate);
    mem_free(b);
}

static int start(struct bench *b, struct work_job **ret_job)
{
    return work_start(b->work, on_run_mt, on_done, on_orphan, b, ret_job);
}

static void at_most_so_many_run_and_wait(void **state)
{
    (void)state;
    struct bench *b = bench_new(2, 5);
    for (int i = 0; i < 7; i++)
        assert_int_equal(start(b, NULL), 0);
    assert_int_equal(start(b, NULL), ERR_BUSY);
    assert_int_equal(work_running(b->work), 2);
    assert_int_equal(work_waiting(b->work), 5);
    assert_int_equal(b->done, 0);
    for (int i = 0; i < 7; i++)
        uv_sem_post(&b->gate);
    loop_run(b->loop);
    assert_int_equal(b->done, 7);
    assert_int_equal(b->cancelled, 0);
    assert_int_equal(b->ran, 7);
    assert_in_range(b->most, 1, 2);
    assert_int_equal(work_running(b->work) + work_waiting(b->work), 0);
    bench_end(b);
}

/* Waits until n jobs are inside, so that they cannot be taken back any more. */
static void wait_inside(struct bench *b, int n)
{
    uint64_t end = uv_hrtime() + 60000000000ULL;
    while (atomic_load(&b->inside) < n) {
        assert_true(uv_hrtime() < end);
        loop_run_once(b->loop, false);
    }
}

static void a_waiting_job_is_taken_out_and_a_running_one_is_not(void **state)
{
    (void)state;
    struct bench *b = bench_new(1, 5);
    struct work_job *first, *second, *third;
    assert_int_equal(start(b, &first), 0);
    assert_int_equal(start(b, &second), 0);
    assert_int_equal(start(b, &third), 0);
    wait_inside(b, 1);
    assert_false(work_cancel(b->work, first));
    assert_true(work_cancel(b->work, second));
    assert_int_equal(work_waiting(b->work), 1);
    uv_sem_post(&b->gate);
    uv_sem_post(&b->gate);
    loop_run(b->loop);
    assert_int_equal(b->done, 2);
    assert_int_equal(b->ran, 2);
    bench_end(b);
}

static void closing_cancels_what_waits_and_orphans_what_runs(void **state)
{
    (void)state;
    struct bench *b = bench_new(1, 5);
    for (int i = 0; i < 4; i++)
        assert_int_equal(start(b, NULL), 0);
    wait_inside(b, 1);
    work_close(&b->work);
    assert_int_equal(b->done, 3);
    assert_int_equal(b->cancelled, 3);
    assert_int_equal(b->orphaned, 0);
    uv_sem_post(&b->gate);
    loop_run(b->loop);
    assert_int_equal(b->done, 3);
    assert_int_equal(b->orphaned, 1);
    assert_int_equal(b->ran, 1);
    bench_end(b);
}

static void a_job_that_no_thread_has_begun_is_taken_back_from_the_pool(void **state)
{
    (void)state;
    /* Four threads, all held by one set of jobs; the other set's job lies in libuv's own queue. */
    struct bench *holders = bench_new(4, 0), *b = MEM_NEW(struct bench);
    for (int i = 0; i < 4; i++)
        assert_int_equal(start(holders, NULL), 0);
    wait_inside(holders, 4);
    struct work *other = work_open(holders->loop, 2, 0);
    struct work_job *job;
    assert_int_equal(work_start(other, on_run_mt, on_done, on_orphan, b, &job), 0);
    assert_true(work_cancel(other, job));
    assert_int_equal(work_running(other), 0);
    assert_int_equal(work_start(other, on_run_mt, on_done, on_orphan, b, &job), 0);
    work_close(&other);
    assert_int_equal(b->cancelled, 1);
    for (int i = 0; i < 4; i++)
        uv_sem_post(&holders->gate);
    loop_run(holders->loop);
    assert_int_equal(holders->done, 4);
    assert_int_equal(b->done, 1);
    assert_int_equal(b->ran + b->orphaned, 0);
    bench_end(holders);
    mem_free(b);
}

int main(void)
{
    if (setenv("UV_THREADPOOL_SIZE", "4", 1) != 0) /* before the pool starts */
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_most_so_many_run_and_wait),
        cmocka_unit_test(a_waiting_job_is_taken_out_and_a_running_one_is_not),
        cmocka_unit_test(closing_cancels_what_waits_and_orphans_what_runs),
        cmocka_unit_test(a_job_that_no_thread_has_begun_is_taken_back_from_the_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
