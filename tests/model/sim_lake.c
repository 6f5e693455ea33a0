/* sim_lake: lake/writer.h over tables that are arrays of commits. Answers get lost, requests come late, or not at all.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/check.h"
#include "base/mem.h"
#include "lake/writer.h"
#include <string.h>

struct writer {
    struct app *app;
    struct sim_table *table;
    unsigned columns_n;
    bool dead;
    int64_t version;        /* of the state last read */
    struct map *txns;       /* app id -> int64_t, boxed */
    struct table_row *rows; /* the data file of the last writer_write */
    size_t rows_n;
    char path[64];
    struct table_commit body; /* of the commit that is being tried */
    int64_t body_version;
    struct job *job;
};

/* An operation on its way. */
struct job {
    struct writer *writer; /* NULL: the node has gone */
    enum { JOB_REFRESH, JOB_WRITE, JOB_COMMIT, JOB_CHECKPOINT } kind;
    struct parquet_source src;
    writer_done_fn *done;
    writer_file_fn *file_done;
    void *ctx;
};

static void rows_free(struct table_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        mem_free(rows[i].source);
    mem_free(rows);
}

void commit_free(struct table_commit *c)
{
    rows_free(c->rows, c->rows_n);
    for (size_t i = 0; i < c->txns_n; i++)
        mem_free(c->txns[i].source);
    mem_free(c->lost_json);
    *c = (struct table_commit){.rows_n = 0};
}

static void commit_copy(struct table_commit *to, const struct table_commit *from)
{
    *to = *from;
    to->rows = MEM_ARRAY(struct table_row, from->rows_n ? from->rows_n : 1);
    for (size_t i = 0; i < from->rows_n; i++) {
        to->rows[i] = from->rows[i];
        to->rows[i].source = mem_strdup(from->rows[i].source);
    }
    for (size_t i = 0; i < from->txns_n; i++)
        to->txns[i].source = mem_strdup(from->txns[i].source);
    to->lost_json = from->lost_json ? mem_strdup(from->lost_json) : NULL;
}

bool table_put(struct sim_table *t, int64_t version, struct table_commit *c)
{
    CHECK(version <= (int64_t)t->n);
    if (version < (int64_t)t->n)
        return false;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        t->commits =
            mem_realloc(t->commits, t->cap * sizeof(*t->commits), cap * sizeof(*t->commits));
        t->cap = cap;
    }
    t->commits[t->n++] = *c;
    if (W->trace) {
        say("COMMIT %s v%lld: %zu rows, %llu copies%s%s", t->path, (long long)version, c->rows_n,
            (unsigned long long)c->copies, c->lost_json ? ", lost " : "",
            c->lost_json ? c->lost_json : "");
        for (size_t i = 0; i < c->txns_n; i++)
            say("    %s = %lld", c->txns[i].source, (long long)c->txns[i].wanted);
    }
    *c = (struct table_commit){.rows_n = 0};
    return true;
}

int64_t table_wanted_by_log(const struct sim_table *t, const char *source)
{
    for (size_t v = t->n; v-- > 0;) {
        for (size_t i = 0; i < t->commits[v].txns_n; i++) {
            if (!strcmp(t->commits[v].txns[i].source, source))
                return t->commits[v].txns[i].wanted;
        }
    }
    return -1;
}

bool sim_late_put(void)
{
    if (list_empty(&W->late_puts))
        return false;
    struct late_put *p = LIST_ENTRY(list_pop(&W->late_puts), struct late_put, node);
    if (!table_put(p->table, p->version, &p->commit))
        commit_free(&p->commit);
    mem_free(p);
    return true;
}

struct writer *writer_open(struct loop *loop, const struct writer_opts *o)
{
    struct writer *w = MEM_NEW(struct writer);
    w->app = sim_loop_app(loop);
    w->columns_n = o->columns_n;
    w->version = -1;
    w->txns = map_new();
    for (int i = 0; i <= DATASETS; i++) {
        if (!strcmp(W->tables[i].path, o->path)) {
            w->table = &W->tables[i];
            w->dead = i == DATASETS;
        }
    }
    CHECK(w->table);
    return w;
}

static void forget_state(struct writer *w)
{
    size_t i = 0;
    struct str key;
    void *value;
    while (map_next(w->txns, &i, &key, &value))
        mem_free(value);
    map_free(&w->txns);
}

void writer_close(struct writer **pw)
{
    struct writer *w = *pw;
    if (!w)
        return;
    *pw = NULL;
    if (w->job)
        w->job->writer = NULL;
    forget_state(w);
    rows_free(w->rows, w->rows_n);
    commit_free(&w->body);
    mem_free(w);
}

bool writer_busy(const struct writer *w)
{
    return w->job != NULL;
}

static void read_log(struct writer *w)
{
    if (w->version < 0)
        w->version = 0; /* the table is made by whoever looks first; its version 0 holds no rows */
    for (; w->version < (int64_t)w->table->n; w->version++) {
        const struct table_commit *c = &w->table->commits[w->version];
        for (size_t i = 0; i < c->txns_n; i++) {
            char app_id[400];
            int n = snprintf(app_id, sizeof(app_id), "sluice:%s", c->txns[i].source);
            int64_t *box = MEM_NEW(int64_t);
            *box = c->txns[i].wanted;
            mem_free(map_put(w->txns, str_make(app_id, (size_t)n), box));
        }
    }
}

static void file_rows(struct writer *w, const struct parquet_source *src)
{
    struct value v[DATASET_MAX_COLUMNS + PROVENANCE_COLUMNS + DEAD_COLUMNS];
    size_t cap = 0;
    rows_free(w->rows, w->rows_n);
    w->rows = NULL;
    w->rows_n = 0;
    for (;;) {
        memset(v, 0, sizeof(v));
        int rc = src->next(src->ctx, v);
        CHECK(rc >= 0);
        if (!rc)
            return;
        if (w->rows_n == cap) {
            size_t more = cap ? cap * 2 : 16;
            w->rows = mem_realloc(w->rows, cap * sizeof(*w->rows), more * sizeof(*w->rows));
            cap = more;
        }
        const struct value *p = w->dead ? v : v + w->columns_n - PROVENANCE_COLUMNS;
        w->rows[w->rows_n++] = (struct table_row){.source = mem_strndup(p[0].s.p, p[0].s.n),
                                                  .position = p[1].i,
                                                  .item = (int)p[2].i,
                                                  .content = w->dead ? -1 : (int)v[0].i};
    }
}

/* One try: lands, does not, lands later; with an answer or without one. */
static int try_put(struct writer *w)
{
    struct sim_table *t = w->table;
    bool sure = W->calm || !chance(W->bad_put);
    if (!sure) {
        W->unsure++;
        struct table_commit copy;
        commit_copy(&copy, &w->body);
        unsigned how = below(3);
        if (how == 0 && !table_put(t, w->body_version, &copy)) {
            commit_free(&copy);
        } else if (how == 1) {
            struct late_put *p = MEM_NEW(struct late_put);
            p->table = t;
            p->version = w->body_version;
            p->commit = copy;
            list_push(&W->late_puts, &p->node);
        } else if (how == 2) {
            commit_free(&copy);
        }
        return ERR_UNKNOWN;
    }
    if (w->body_version < (int64_t)t->n) {
        bool ours = !strcmp(t->commits[w->body_version].txn_id, w->body.txn_id);
        W->conflicts += !ours;
        return ours ? 0 : ERR_CONFLICT;
    }
    struct table_commit copy;
    commit_copy(&copy, &w->body);
    CHECK(table_put(t, w->body_version, &copy));
    return 0;
}

/* The process dies with a job under way: a commit may land all the same, now or later. */
static void job_drop(void *ctx)
{
    struct job *j = ctx;
    if (j->writer) {
        j->writer->job = NULL;
        if (j->kind == JOB_COMMIT && chance(0.7))
            try_put(j->writer);
    }
    mem_free(j);
}

static void job_run(void *ctx)
{
    struct job j = *(struct job *)ctx;
    struct writer *w = j.writer;
    mem_free(ctx);
    if (!w)
        return;
    w->job = NULL;
    bool fails = !W->calm && chance(0.03);
    struct err e = {.code = fails ? ERR_IO : 0, .text = "the disk fails"};
    int rc = e.code;
    if (j.kind == JOB_WRITE) {
        struct writer_file file = {.file = {.path = NULL}};
        if (!fails) {
            file_rows(w, &j.src);
            file.file =
                (struct delta_file){.path = w->path, .bytes = 1, .rows = (int64_t)w->rows_n};
        }
        j.file_done(j.ctx, rc, &file, &e);
        return;
    }
    if (j.kind == JOB_REFRESH && !fails)
        read_log(w);
    if (j.kind == JOB_COMMIT) {
        rc = try_put(w);
        e.code = rc;
        if (!rc)
            read_log(w);
    }
    j.done(j.ctx, rc, rc ? &e : NULL);
}

static struct job *post(struct writer *w, struct job j)
{
    CHECK(!w->job);
    struct job *job = mem_dup(&j, sizeof(j));
    job->writer = w;
    w->job = job;
    event_post(w->app, job_run, job_drop, job);
    return job;
}

void writer_refresh(struct writer *w, writer_done_fn *done, void *ctx)
{
    post(w, (struct job){.kind = JOB_REFRESH, .done = done, .ctx = ctx});
}

int64_t writer_version(const struct writer *w)
{
    return w->version - 1;
}

const char *writer_id(const struct writer *w)
{
    return w->table->path;
}

bool writer_txn(const struct writer *w, struct str app_id, int64_t *ret_version)
{
    const int64_t *box = map_get(w->txns, app_id);
    if (box)
        *ret_version = *box;
    return box != NULL;
}

bool writer_next_txn(const struct writer *w, size_t *i, struct str *ret_app_id,
                     int64_t *ret_version)
{
    void *value;
    if (!map_next(w->txns, i, ret_app_id, &value))
        return false;
    *ret_version = *(int64_t *)value;
    return true;
}

void writer_write(struct writer *w, const struct parquet_source *src, writer_file_fn *done,
                  void *ctx)
{
    post(w, (struct job){.kind = JOB_WRITE, .src = *src, .file_done = done, .ctx = ctx});
}

void writer_drop_file(struct writer *w)
{
    rows_free(w->rows, w->rows_n);
    w->rows = NULL;
    w->rows_n = 0;
}

void writer_commit(struct writer *w, const struct delta_commit *c, writer_done_fn *done, void *ctx)
{
    if (strcmp(c->txn_id, w->body.txn_id)) {
        commit_free(&w->body);
        memcpy(w->body.txn_id, c->txn_id, sizeof(w->body.txn_id));
        w->body_version = c->version;
        if (c->adds_n) {
            w->body.rows = w->rows;
            w->body.rows_n = w->rows_n;
            w->rows = NULL;
            w->rows_n = 0;
        }
        CHECK(c->txns_n <= 8);
        for (size_t i = 0; i < c->txns_n; i++) {
            w->body.txns[i].source = mem_strdup(c->txns[i].app_id + strlen("sluice:"));
            w->body.txns[i].wanted = c->txns[i].version;
        }
        w->body.txns_n = c->txns_n;
        w->body.copies = c->copies;
        w->body.lost_json = c->lost_json.p ? mem_strndup(c->lost_json.p, c->lost_json.n) : NULL;
    }
    post(w, (struct job){.kind = JOB_COMMIT, .done = done, .ctx = ctx});
}

bool writer_wants_checkpoint(const struct writer *w)
{
    return w->version % 5 == 0;
}

void writer_checkpoint(struct writer *w, writer_done_fn *done, void *ctx)
{
    post(w, (struct job){.kind = JOB_CHECKPOINT, .done = done, .ctx = ctx});
}
