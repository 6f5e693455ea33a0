/* runner: asks in worker threads.
 *
 * state      waits for             moves on in            then
 * waiting    a free thread         on_run_mt              running
 *            its time, its client  on_time, runner_cancel ended
 * running    DuckDB                on_ran                 ended
 *            its time, its client  on_time, runner_cancel running, interrupted again and again until it comes back
 *
 * Each thread takes a slot, which is a connection with three views. A view reads the files that a variable of the connection names, the
 * first of them an empty file of the right schema: so the types are fixed, and a table without files, or that is not there, is an
 * empty one. A statement is bound anew for each run, since its files and parameters are constants to the optimizer.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "runner"
#include "query-api/query-api.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/dataset.h"
#include "io/work.h"
#include "lake/parquet.h"
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* An interrupt that comes between two statements is lost: it is said again. */
#define INTERRUPT_AGAIN_MS 20
/* Files of a question whose footers are remembered. */
#define FOOTERS_MAX 64
#define FOLDER_PREFIX "sluice-query-"

struct slot {
    struct duck_conn *conn;
    bool taken, footers, viewed[ASKED_TABLES]; /* footers: those of the files are remembered */
    struct snapshot *shown[ASKED_TABLES];      /* what the variable names */
    uint64_t losers[ASKED_TABLES];             /* what the view leaves out; 0: nothing */
    bool named[ASKED_TABLES];                  /* the variable is set (shown NULL: to no table) */
};
struct runner {
    struct app *app;
    struct metrics *metrics;
    const struct query_config *config;
    struct store *store;
    struct duck *duck;
    struct trash *trash;
    struct work *work;
    struct slot *slots;
    unsigned slots_n;
    pthread_mutex_t lock; /* of the slots' `taken` */
    struct list runs;
    struct duck_conn *lent[2];
    unsigned lent_n;
    char *folder, *schemas[ASKED_TABLES];
    atomic_size_t duck_bytes;
};
struct run {
    struct list node;
    struct runner *runner;
    struct ask ask;
    struct snapshot *snapshots[ASKED_TABLES];
    uint64_t data_age_ms;
    run_done_fn *done; /* NULL: nobody waits any more */
    void *ctx;
    struct work_job *job;
    struct loop_timer timer;
    pthread_mutex_t lock;
    struct duck_conn *conn; /* under the lock: what may be interrupted */
    atomic_int stop;        /* an enum run_end; RUN_OK: go on */
    struct buf out;
    int64_t rows, left_out;
    int rc, failed_table;
    struct err e;
    uint64_t started_us, elapsed_us;
};

/* ---- in the thread ---- */

static struct slot *slot_take_mt(struct runner *r)
{
    struct slot *slot = NULL;
    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < r->slots_n && !slot; i++)
        if (!r->slots[i].taken)
            slot = &r->slots[i];
    CHECK(slot); /* as many as jobs that run */
    slot->taken = true;
    pthread_mutex_unlock(&r->lock);
    return slot;
}

static void slot_give_mt(struct runner *r, struct slot *slot)
{
    pthread_mutex_lock(&r->lock);
    slot->taken = false;
    pthread_mutex_unlock(&r->lock);
}

static int name_files(struct run *run, struct slot *slot, unsigned t)
{
    struct snapshot *s = run->snapshots[t];
    if (slot->named[t] && slot->shown[t] == s)
        return 0;
    struct buf sql;
    buf_init(&sql, SIZE_MAX / 2); /* as long as the table's list of files */
    buf_printf(&sql, "SET VARIABLE %s_files = [", table_names[t]);
    duck_quote(&sql, '\'', run->runner->schemas[t]);
    for (size_t i = 0; s && i < s->files_n; i++) {
        buf_z(&sql, ", ");
        duck_quote(&sql, '\'', s->files[i]);
    }
    buf_char(&sql, ']');
    slot->named[t] = false;
    int rc = duck_exec(slot->conn, sql.data, &run->e);
    buf_deinit(&sql);
    if (rc)
        return rc;
    snapshot_unref_mt(&slot->shown[t]);
    slot->shown[t] = snapshot_ref_mt(s);
    slot->named[t] = true;
    return 0;
}

static int make_view(struct run *run, struct slot *slot, unsigned t)
{
    struct snapshot *s = run->snapshots[t];
    uint64_t losers = 0;
    if (s && !run->ask.dedup_off) {
        int rc = newest_find_mt(s, table_names[t], slot->conn, &run->e);
        if (rc)
            return rc;
        losers = s->newest == NEWEST_LOSERS ? s->losers : 0;
    }
    if (slot->viewed[t] && slot->losers[t] == losers)
        return 0;
    char *out = losers ? mem_printf(" ANTI JOIN memory.main.losers_%llu AS l ON r.file_index = "
                                    "l.file AND r.file_row_number = l.place",
                                    (unsigned long long)losers)
                       : mem_strdup("");
    char *sql = mem_printf("CREATE OR REPLACE TEMP VIEW \"%s\" AS SELECT r.* FROM "
                           "read_parquet(getvariable('%s_files'), "
                           "union_by_name=false, hive_partitioning=false) AS r%s",
                           table_names[t], table_names[t], out);
    slot->viewed[t] = false;
    int rc = duck_exec(slot->conn, sql, &run->e);
    mem_free(sql);
    mem_free(out);
    if (!rc)
        slot->viewed[t] = true, slot->losers[t] = losers;
    return rc;
}

static int load_version(struct run *run, struct slot *slot, unsigned t)
{
    const char *user = app_common(run->runner->app)->user;
    char *path =
        mem_printf("delta/%s_%s_%s", user, table_names[t], run->ask.batch ? "batch" : "table");
    struct delta *d = delta_new(run->runner->store, path);
    int rc = delta_load_at(d, slot->conn, run->ask.versions[t], &run->e);
    if (!rc) {
        run->snapshots[t] = snapshot_make_mt(run->runner->store, d, t, run->runner->trash);
        if (!run->snapshots[t])
            rc = err_set(&run->e, ERR_UNSUPPORTED, "a file lies outside the table's folder");
    }
    delta_free(&d);
    mem_free(path);
    if (rc)
        run->failed_table = (int)t;
    return rc;
}

static int show_tables(struct run *run, struct slot *slot)
{
    int rc = 0;
    for (unsigned t = 0; t < ASKED_TABLES && !rc; t++) {
        if (!(run->ask.question->tables >> t & 1))
            continue;
        if (!run->snapshots[t] && run->ask.versions[t] >= 0)
            rc = load_version(run, slot, t);
        rc = rc ? rc : name_files(run, slot, t);
        rc = rc ? rc : make_view(run, slot, t);
        if (atomic_load(&run->stop) != RUN_OK)
            rc = ERR_CANCELLED;
    }
    return rc;
}

static int bind_ask(struct duck_stmt *s, const struct ask *a)
{
    static const char *const medians[] = {"interpolated", "lower"};
    int rc = 0;
    unsigned i;
    if ((i = duck_param_index(s, "from")))
        rc = duck_bind_i64(s, i, a->from);
    if (!rc && (i = duck_param_index(s, "to")))
        rc = duck_bind_i64(s, i, a->to);
    if (!rc && (i = duck_param_index(s, "median")))
        rc = duck_bind_str(s, i, str_of(medians[a->lower]));
    if (!rc && (i = duck_param_index(s, "top")))
        rc = duck_bind_str(s, i, a->top ? STR("1") : STR("all"));
    if (!rc && (i = duck_param_index(s, "distinct")))
        rc = duck_bind_str(s, i, a->person ? STR("person") : STR("row"));
    return rc;
}

static void put_statistics(struct run *run, struct buf *b)
{
    int64_t read = 0;
    buf_printf(b, "\"elapsed_ms\":%.3f,\"table_versions\":{",
               (double)(clock_us() - run->started_us) / 1000);
    bool first = true;
    for (unsigned t = 0; t < ASKED_TABLES; t++) {
        const struct snapshot *s = run->snapshots[t];
        if (!s || !(run->ask.question->tables >> t & 1))
            continue;
        buf_printf(b, "%s\"%s\":%lld", first ? "" : ",", table_names[t], (long long)s->version);
        first = false;
        read = s->rows < 0 || read < 0 ? -1 : read + s->rows;
    }
    buf_char(b, '}');
    if (read >= 0)
        buf_printf(b, ",\"rows_read\":%lld", (long long)read);
    if (run->ask.question->left_out)
        buf_printf(b, ",\"left_out\":%lld", (long long)run->left_out);
    if (run->data_age_ms)
        buf_printf(b, ",\"data_age_ms\":%llu", (unsigned long long)run->data_age_ms);
}

static int collect(struct run *run, struct duck_rows *rows)
{
    const struct query_config *config = run->runner->config;
    unsigned columns = duck_columns(rows) - run->ask.question->left_out;
    struct answer a;
    int rc = 0;
    answer_begin(&a, run->ask.format, &run->out, rows, columns);
    while ((run->ask.limit < 0 || a.n < run->ask.limit || run->ask.question->left_out) &&
           (rc = duck_next(rows, &run->e)) == 1) {
        if (run->ask.question->left_out && !duck_is_null(rows, columns)) {
            run->left_out = duck_i64(rows, columns); /* the row that is none: it comes first */
            continue;
        }
        if (run->ask.limit >= 0 && a.n >= run->ask.limit)
            break;
        if (a.n >= config->rows_max)
            return err_set(
                &run->e, ERR_TOO_LARGE,
                "the answer has more than %lld rows (query.rows.max); limit= asks for fewer",
                (long long)config->rows_max);
        answer_row(&a);
        if (run->out.overflow)
            break;
        if (atomic_load(&run->stop) != RUN_OK)
            return ERR_CANCELLED;
    }
    if (rc < 0)
        return rc;
    struct buf statistics;
    buf_init(&statistics, 4096);
    put_statistics(run, &statistics);
    answer_end(&a, buf_as_str(&statistics));
    buf_deinit(&statistics);
    run->rows = a.n;
    if (run->out.overflow)
        return err_set(
            &run->e, ERR_TOO_LARGE,
            "the answer is larger than %llu bytes (answer.max); limit= asks for fewer rows",
            (unsigned long long)config->answer_max);
    return 0;
}

/* What DuckDB remembers of a file's footer, some 20 KiB, is taken from the questions' memory. For a few large files that is well spent; a table of many
 * small ones would fill it, and a footer is read again in a tenth of a millisecond. */
static int remember_footers(struct run *run, struct slot *slot)
{
    size_t files = 0;
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        files += run->snapshots[t] ? run->snapshots[t]->files_n : 0;
    bool wanted = files <= FOOTERS_MAX;
    if (slot->footers == wanted)
        return 0;
    int rc = duck_exec(slot->conn,
                       wanted ? "SET SESSION parquet_metadata_cache=true"
                              : "SET SESSION parquet_metadata_cache=false",
                       &run->e);
    if (!rc)
        slot->footers = wanted;
    return rc;
}

static int ask_duck(struct run *run, struct slot *slot)
{
    struct duck_stmt *stmt = NULL;
    struct duck_rows *rows = NULL;
    int rc = show_tables(run, slot);
    rc = rc ? rc : remember_footers(run, slot);
    rc = rc ? rc : duck_prepare(slot->conn, run->ask.question->sql, &stmt, &run->e);
    rc = rc ? rc : bind_ask(stmt, &run->ask);
    rc = rc ? rc : duck_query(stmt, &rows, &run->e);
    rc = rc ? rc : collect(run, rows);
    duck_rows_free(&rows);
    duck_finish(&stmt);
    return rc;
}

static void on_run_mt(void *ctx)
{
    struct run *run = ctx;
    struct runner *r = run->runner;
    struct slot *slot = slot_take_mt(r);
    trash_empty_mt(r->trash, slot->conn);
    pthread_mutex_lock(&run->lock);
    run->conn = slot->conn;
    pthread_mutex_unlock(&run->lock);
    run->rc = atomic_load(&run->stop) == RUN_OK ? ask_duck(run, slot) : ERR_CANCELLED;
    pthread_mutex_lock(&run->lock);
    run->conn = NULL;
    pthread_mutex_unlock(&run->lock);
    /* Half of what questions may use is kept for the next one. */
    duck_trim(r->duck, (size_t)r->config->memory / 2);
    slot_give_mt(r, slot);
    atomic_store(&r->duck_bytes, duck_memory_bytes(r->duck));
    run->elapsed_us = clock_us() - run->started_us;
}

/* ---- on the loop ---- */

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
    int rc = work_start(r->work, on_run_mt, on_ran, on_orphan, run, &run->job);
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

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *en;
    while (dir && (en = readdir(dir))) {
        if (!strcmp(en->d_name, ".") || !strcmp(en->d_name, ".."))
            continue;
        char *inner = mem_printf("%s/%s", path, en->d_name);
        if (unlink(inner) && (errno == EISDIR || errno == EPERM))
            remove_folder(inner);
        mem_free(inner);
    }
    if (dir)
        closedir(dir);
    (void)rmdir(path); /* what cannot be removed stays; the next start tries again */
}

/* Folders of processes that were killed. */
static void sweep(const char *base)
{
    DIR *dir = opendir(base);
    struct dirent *en;
    while (dir && (en = readdir(dir))) {
        struct str name = str_of(en->d_name), pid;
        uint64_t number;
        if (!str_starts(name, STR(FOLDER_PREFIX)))
            continue;
        name = str_make(name.p + strlen(FOLDER_PREFIX), name.n - strlen(FOLDER_PREFIX));
        if (!str_next(&name, '-', &pid) || str_u64(pid, &number) || number > INT32_MAX ||
            !kill((pid_t)number, 0) || errno != ESRCH)
            continue;
        char *path = mem_printf("%s/%s", base, en->d_name);
        remove_folder(path);
        mem_free(path);
    }
    if (dir)
        closedir(dir);
}

static int make_folder(struct runner *r, struct err *e)
{
    const char *base = r->config->spill_dir;
    if (!base[0])
        base = getenv("TMPDIR") && *getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    if (mkdir(base, 0700) && errno != EEXIST)
        return err_set(e, ERR_IO, "spill.dir: %s: %s", base, strerror(errno));
    sweep(base);
    r->folder = mem_printf("%s/" FOLDER_PREFIX "%d-XXXXXX", base, (int)getpid());
    if (mkdtemp(r->folder))
        return 0;
    int rc =
        err_set(e, ERR_IO, "spill.dir: no folder can be made in %s: %s", base, strerror(errno));
    mem_free(r->folder);
    r->folder = NULL;
    return rc;
}

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
    r->trash = trash_new_mt();
    r->slots_n = (unsigned)config->parallel;
    r->slots = MEM_ARRAY(struct slot, r->slots_n);
    int rc = make_folder(r, e);
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
        remove_folder(r->folder);
    mem_free(r->folder);
    mem_free(r->slots);
    trash_free_mt(&r->trash);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
    *rp = NULL;
}
