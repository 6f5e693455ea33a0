/* work: a waiting list in front of uv_queue_work.
 *
 * A job handed to libuv counts as running, also while it waits for a free thread there; it can still be taken back then (uv_cancel).
 * A job that is taken back or orphaned is detached from its `struct work`, so that its coming back touches nothing of it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/work.h"
#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

#define WORK_JOB_TAG CHECK_TAG('w', 'j', 'o', 'b')

struct work {
    struct loop *loop;
    unsigned max_running, max_waiting, running, waiting;
    struct list run_list, wait_list;
};

struct work_job {
    uint32_t tag;
    uv_work_t req;
    struct list node;
    struct work *work; /* NULL: detached */
    bool waits, taken; /* taken: its end has been told already */
    work_run_fn_mt *run;
    work_done_fn *done;
    loop_fn *orphan;
    void *ctx;
};

struct work *work_open(struct loop *loop, unsigned max_running, unsigned max_waiting)
{
    loop_assert(loop);
    CHECK(max_running > 0);
    struct work *w = MEM_NEW(struct work);
    w->loop = loop;
    w->max_running = max_running;
    w->max_waiting = max_waiting;
    list_init(&w->run_list);
    list_init(&w->wait_list);
    return w;
}

unsigned work_running(const struct work *w)
{
    return w->running;
}

unsigned work_waiting(const struct work *w)
{
    return w->waiting;
}

static void on_run_mt(uv_work_t *req)
{
    struct work_job *job = CHECK_FROM(req->data, struct work_job, WORK_JOB_TAG);
    job->run(job->ctx);
}

static void on_back(uv_work_t *req, int status);

static void pump(struct work *w)
{
    while (w->running < w->max_running && !list_empty(&w->wait_list)) {
        struct work_job *job = LIST_ENTRY(list_pop(&w->wait_list), struct work_job, node);
        job->waits = false;
        w->waiting--;
        w->running++;
        list_push(&w->run_list, &job->node);
        CHECK(uv_queue_work(loop_uv(w->loop), &job->req, on_run_mt, on_back) == 0);
    }
}

static void job_detach(struct work_job *job)
{
    list_remove(&job->node);
    if (job->waits)
        job->work->waiting--;
    else
        job->work->running--;
    job->work = NULL;
}

static void on_back(uv_work_t *req, int status)
{
    struct work_job *job = CHECK_FROM(req->data, struct work_job, WORK_JOB_TAG);
    struct work *w = job->work;
    work_done_fn *done = job->done;
    loop_fn *orphan = job->orphan;
    void *ctx = job->ctx;
    bool taken = job->taken;
    if (w) {
        job_detach(job);
        pump(w);
    }
    mem_free(job);
    if (w)
        done(ctx, status == UV_ECANCELED ? ERR_CANCELLED : 0);
    else if (!taken && orphan)
        orphan(ctx);
}

int work_start(struct work *w, work_run_fn_mt *run, work_done_fn *done, loop_fn *orphan, void *ctx,
               struct work_job **ret_job)
{
    loop_assert(w->loop);
    if (w->running >= w->max_running && w->waiting >= w->max_waiting)
        return ERR_BUSY;
    struct work_job *job = MEM_NEW(struct work_job);
    *job = (struct work_job){.tag = WORK_JOB_TAG,
                             .work = w,
                             .waits = true,
                             .run = run,
                             .done = done,
                             .orphan = orphan,
                             .ctx = ctx};
    job->req.data = job;
    list_push(&w->wait_list, &job->node);
    w->waiting++;
    pump(w);
    if (ret_job)
        *ret_job = job;
    return 0;
}

/* Takes a job out if no thread has begun it. The caller frees one that has `waits`; libuv gives the other back later. */
static bool job_take(struct work_job *job)
{
    if (!job->waits && uv_cancel((uv_req_t *)&job->req) < 0)
        return false;
    bool waits = job->waits;
    job_detach(job);
    job->taken = true;
    if (waits)
        mem_free(job);
    return true;
}

bool work_cancel(struct work *w, struct work_job *job)
{
    loop_assert(w->loop);
    CHECK(job->tag == WORK_JOB_TAG && job->work == w);
    if (!job_take(job))
        return false;
    pump(w);
    return true;
}

void work_close(struct work **ptr)
{
    struct work *w = *ptr;
    if (!w)
        return;
    loop_assert(w->loop);
    *ptr = NULL;
    w->max_running = 0; /* nothing starts any more, whatever the callbacks below do */
    w->max_waiting = 0;
    struct list all;
    list_init(&all);
    list_splice(&all, &w->run_list);
    list_splice(&all, &w->wait_list);
    while (!list_empty(&all)) {
        struct work_job *job = LIST_ENTRY(all.next, struct work_job, node);
        work_done_fn *done = job->done;
        void *ctx = job->ctx;
        if (job_take(job))
            done(ctx, ERR_CANCELLED);
        else
            job_detach(job);
    }
    mem_free(w);
}
