/* runner_ask: what a thread does with an ask.
 *
 * Each thread takes a slot, which is a connection with three views. A view reads the files that a variable of the connection names, the
 * first of them an empty file of the right schema: so the types are fixed, and a table without files, or that is not there, is an
 * empty one. A statement is bound anew for each run, since its files and parameters are constants to the optimizer.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/runner_priv.h"
#include "base/mem.h"
#include <stdio.h>

/* Files of a question whose footers are remembered. */
#define FOOTERS_MAX 64
#define METER_MS 1000

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

/* To ask DuckDB takes a millisecond, a tenth of a small question: once in a while is enough. */
static void meter_mt(struct runner *r)
{
    unsigned long long now = clock_ms(), last = atomic_load(&r->metered_ms);
    if (now - last >= METER_MS && atomic_compare_exchange_strong(&r->metered_ms, &last, now))
        atomic_store(&r->duck_bytes, duck_memory_bytes(r->duck));
}

void runner_ask_mt(void *ctx)
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
    meter_mt(r);
    run->elapsed_us = clock_us() - run->started_us;
}
