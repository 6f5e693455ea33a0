/* runner: asks in worker threads.
 *
 * state      waits for             moves on in            then
 * waiting    a free thread         runner_ask_mt          running
 *            its time, its client  on_time, runner_cancel ended
 * running    DuckDB                on_ran                 ended
 *            its time, its client  on_time, runner_cancel running, interrupted again and again until it comes back
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/runner_priv.h"
#include "base/mem.h"
#include "data/dataset.h"
#include "lake/parquet.h"
#include <stdio.h>

/* An interrupt that comes between two statements is lost: it is said again. */
#define INTERRUPT_AGAIN_MS 20

static void run_free(struct run *run)
{
    list_remove(&run->node);
    loop_timer_stop(&run->timer);
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        snapshot_unref_mt(&run->snapshots[t]);
    buf_deinit(&run->out);
    pthread_mutex_destroy(&run->lock);
    mem_free(run);
}

static void finish(struct run *run)
{
    struct runner *r = run->runner;
    int stop = atomic_load(&run->stop);
    struct run_result res = {.end = RUN_OK, .failed_table = -1};
    if (run->rc && stop != RUN_OK)
        res.end = (enum run_end)stop;
    else if (run->rc)
        res.end = RUN_FAILED, res.rc = run->rc, res.text = run->e.text,
        res.failed_table = run->failed_table;
    res.out = &run->out;
    res.rows = run->rows;
    res.elapsed_us = run->elapsed_us;
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        res.snapshots[t] = run->ask.question->tables >> t & 1 ? run->snapshots[t] : NULL;
    static const char *const reasons[] = {
        [RUN_TIMEOUT] = "timeout", [RUN_LEFT] = "left", [RUN_STOPPED] = "stopped"};
    if (res.end == RUN_TIMEOUT || res.end == RUN_LEFT || res.end == RUN_STOPPED)
        metric_add(r->metrics, M_CANCELLED,
                   metric_series(r->metrics, M_CANCELLED, reasons[res.end], NULL), 1);
    if (res.end == RUN_OK) {
        unsigned q = (unsigned)(run->ask.question - questions);
        metric_observe(r->metrics, M_QUERY_SECONDS, q, (double)res.elapsed_us / 1e6);
        metric_add(r->metrics, M_QUERY_ROWS, 0, (double)res.rows);
    }
    run_done_fn *done = run->done;
    void *to = run->ctx;
    list_remove(&run->node);
    if (done)
        done(to, &res);
    run_free(run);
}

static void on_ran(void *ctx, int rc)
{
    struct run *run = ctx;
    if (rc) /* never began: the work was closed */
        run->rc = rc;
    finish(run);
}

static void on_orphan(void *ctx)
{
    finish(ctx);
}

/* Takes the run out if it waits (true: it is to be finished by the caller), else interrupts it until it comes back. */
static bool stop_run(struct run *run, enum run_end why);

static void on_again(void *ctx)
{
    struct run *run = ctx;
    pthread_mutex_lock(&run->lock);
    if (run->conn)
        duck_interrupt_mt(run->conn);
    pthread_mutex_unlock(&run->lock);
    loop_timer_start(app_loop(run->runner->app), &run->timer, INTERRUPT_AGAIN_MS, on_again, run);
}

static bool stop_run(struct run *run, enum run_end why)
{
    if (atomic_load(&run->stop) == RUN_OK)
        atomic_store(&run->stop, (int)why);
    if (run->runner->work && work_cancel(run->runner->work, run->job)) {
        run->rc = ERR_CANCELLED;
        return true;
    }
    on_again(run);
    return false;
}

static void on_time(void *ctx)
{
    struct run *run = ctx;
    if (stop_run(run, RUN_TIMEOUT))
        finish(run);
}

int runner_start(struct runner *r, const struct ask *ask,
                 struct snapshot *const snapshots[ASKED_TABLES], uint64_t data_age_ms,
                 run_done_fn *done, void *ctx, struct run **ret)
{
    struct run *run = MEM_NEW(struct run);
    *run = (struct run){.runner = r,
                        .ask = *ask,
                        .data_age_ms = data_age_ms,
                        .done = done,
                        .ctx = ctx,
                        .failed_table = -1,
                        .started_us = clock_us()};
    list_init(&run->node);
    pthread_mutex_init(&run->lock, NULL);
    atomic_init(&run->stop, RUN_OK);
    buf_init(&run->out, r->config->answer_max);
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        run->snapshots[t] = snapshot_ref_mt(snapshots[t]);
    int rc = work_start(r->work, runner_ask_mt, on_ran, on_orphan, run, &run->job);
    if (rc) {
        run_free(run);
        return rc;
    }
    list_push(&r->runs, &run->node);
    loop_timer_start(app_loop(r->app), &run->timer, r->config->timeout, on_time, run);
    *ret = run;
    return 0;
}

void runner_cancel(struct runner *r, struct run **rp)
{
    struct run *run = *rp;
    *rp = NULL;
    if (!run)
        return;
    CHECK(run->runner == r);
    run->done = NULL;
    if (stop_run(run, RUN_LEFT))
        finish(run);
}

unsigned runner_running(const struct runner *r)
{
    return r->work ? work_running(r->work) : 0;
}

unsigned runner_waiting(const struct runner *r)
{
    return r->work ? work_waiting(r->work) : 0;
}

size_t runner_duck_bytes(const struct runner *r)
{
    return atomic_load(&r->duck_bytes);
}

struct trash *runner_trash(struct runner *r)
{
    return r->trash;
}

/* ---- open and close ---- */

static int open_duck(struct runner *r, struct err *e)
{
    const struct query_config *c = r->config;
    char threads[32], memory[48], spill[48], *spill_folder = mem_printf("%s/spill", r->folder);
    snprintf(threads, sizeof threads, "%lld", (long long)c->threads);
    snprintf(memory, sizeof memory, "%lluB", (unsigned long long)c->memory);
    snprintf(spill, sizeof spill, "%lluB", (unsigned long long)c->spill_max);
    /* The answers' order is the SQL's, not the files'. What a file holds is in the system's page cache, and need not be in ours.
     * What a question frees on its way it soon needs again: it is given back when the question has ended, if at all. */
    const struct duck_setting settings[] = {{"threads", threads},
                                            {"memory_limit", memory},
                                            {"temp_directory", spill_folder},
                                            {"max_temp_directory_size", spill},
                                            {"preserve_insertion_order", "false"},
                                            {"enable_external_file_cache", "false"},
                                            {"allocator_flush_threshold", memory},
                                            {"allocator_bulk_deallocation_flush_threshold", memory},
                                            {NULL, NULL}};
    int rc = duck_open(settings, &r->duck, e);
    mem_free(spill_folder);
    return rc;
}

static int write_schema(struct runner *r, enum dataset_id id, struct err *e)
{
    const struct dataset *d = &datasets[id];
    struct column_def columns[DATASET_MAX_COLUMNS + PROVENANCE_COLUMNS];
    memcpy(columns, d->columns, d->columns_n * sizeof *columns);
    memcpy(columns + d->columns_n, provenance_columns, sizeof provenance_columns);
    r->schemas[id] = mem_printf("%s/%s.parquet", r->folder, d->name);
    return parquet_write_empty(r->slots[0].conn, r->schemas[id], columns,
                               d->columns_n + PROVENANCE_COLUMNS, e);
}

static void on_collect(void *ctx)
{
    struct runner *r = ctx;
    metric_set(r->metrics, M_RUNNING, 0, runner_running(r));
    metric_set(r->metrics, M_WAITING, 0, runner_waiting(r));
    metric_set(r->metrics, M_NEWEST, 0, (double)trash_searches_mt(r->trash));
    metric_set(r->metrics, M_DUCK_MEMORY, 0, (double)runner_duck_bytes(r));
    metric_set(r->metrics, M_DUCK_MEMORY_MAX, 0, (double)r->config->memory);
}

int runner_open(struct app *app, const struct query_config *config, struct store *store,
                struct runner **ret, struct err *e)
{
    struct runner *r = MEM_NEW(struct runner);
    *r = (struct runner){.app = app, .metrics = app_metrics(app), .config = config, .store = store};
    list_init(&r->runs);
    pthread_mutex_init(&r->lock, NULL);
    atomic_init(&r->duck_bytes, 0);
    atomic_init(&r->metered_ms, 0);
    r->trash = trash_new_mt();
    r->slots_n = (unsigned)config->parallel;
    r->slots = MEM_ARRAY(struct slot, r->slots_n);
    int rc = runner_spill_make(config->spill_dir, &r->folder, e);
    rc = rc ? rc : open_duck(r, e);
    for (unsigned i = 0; i < r->slots_n && !rc; i++)
        rc = duck_connect(r->duck, &r->slots[i].conn, e);
    for (unsigned t = 0; t < ASKED_TABLES && !rc; t++)
        rc = write_schema(r, (enum dataset_id)t, e);
    if (rc) {
        runner_free(&r);
        return rc;
    }
    r->work = work_open(app_loop(app), r->slots_n, (unsigned)config->queue_max);
    metrics_on_collect(r->metrics, on_collect, r);
    *ret = r;
    return 0;
}

int runner_connect(struct runner *r, struct duck_conn **ret, struct err *e)
{
    CHECK(r->lent_n < sizeof r->lent / sizeof *r->lent);
    int rc = duck_connect(r->duck, &r->lent[r->lent_n], e);
    if (!rc)
        *ret = r->lent[r->lent_n++];
    return rc;
}

void runner_stop(struct runner *r)
{
    if (!r || !r->work)
        return;
    LIST_EACH (it, tmp, &r->runs) {
        struct run *run = LIST_ENTRY(it, struct run, node);
        run->done = NULL;
        if (stop_run(run, RUN_STOPPED))
            finish(run);
    }
    work_close(&r->work);
}

void runner_free(struct runner **rp)
{
    struct runner *r = *rp;
    if (!r)
        return;
    CHECK(list_empty(&r->runs));
    for (unsigned i = 0; i < r->slots_n; i++) {
        for (unsigned t = 0; t < ASKED_TABLES; t++)
            snapshot_unref_mt(&r->slots[i].shown[t]);
        duck_disconnect(&r->slots[i].conn);
    }
    for (unsigned i = 0; i < r->lent_n; i++)
        duck_disconnect(&r->lent[i]);
    duck_close(&r->duck);
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        mem_free(r->schemas[t]);
    if (r->folder)
        runner_spill_remove(r->folder);
    mem_free(r->folder);
    mem_free(r->slots);
    trash_free_mt(&r->trash);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
    *rp = NULL;
}
