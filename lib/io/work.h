/* work: jobs that may block, in libuv's thread pool, with a bound on how many run and wait.
 *
 * At most `max_running` jobs of one `struct work` run at a time (keep it at pool size - 2 or less: DNS and files share the pool),
 * at most `max_waiting` wait. UV_THREADPOOL_SIZE is set by the app. Threads: loop only, but run_mt runs in the pool.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/loop.h"

struct work;
struct work_job;
typedef void work_run_fn_mt(void *ctx); /* in the pool */
/* on the loop; rc 0, or ERR_CANCELLED when it never ran */
typedef void work_done_fn(void *ctx, int rc);

struct work *work_open(struct loop *loop, unsigned max_running, unsigned max_waiting);
/* Jobs that wait end with ERR_CANCELLED at once (their done runs inside this call); running ones end orphaned: their done does not run,
 * but `orphan` (if not NULL) runs on the loop when they come back, to free their ctx. */
void work_close(struct work **work);
/* Returns 0 and runs done once, later; or ERR_BUSY and never. *ret_job (may be NULL) is good until done ran. */
int work_start(struct work *work, work_run_fn_mt *run, work_done_fn *done, loop_fn *orphan,
               void *ctx, struct work_job **ret_job);
/* Takes a job that still waits out (done does not run; returns true); false when it runs already. */
bool work_cancel(struct work *work, struct work_job *job);
unsigned work_running(const struct work *work);
unsigned work_waiting(const struct work *work);
