/* writer: see the header.
 *
 * state      waits for       moves on in   then
 * idle       a call          -             one of the others
 * OP_…       its job         on_job_done   idle, then the caller's callback
 * A job has `delta`, `conn` and the fields under "the job's" for itself; the loop reads the published copy only. After
 * writer_close the job finds the gate shut, and the writer is freed when it comes back.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/writer_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "lake/store_priv.h"

#define COMMIT_MAX_BYTES ((size_t)64 << 20)

static void file_deinit(struct delta_file *f)
{
    mem_free(f->path);
    mem_free(f->stats);
    *f = (struct delta_file){0};
}

struct writer *writer_open(struct loop *loop, const struct writer_opts *o)
{
    struct writer *w = MEM_NEW(struct writer);
    w->tag = WRITER_TAG;
    w->loop = loop;
    w->work = o->work;
    w->store = store_ref(o->store);
    w->duck = o->duck;
    w->path = mem_strdup(o->path);
    w->schema = parquet_delta_schema(o->columns, o->columns_n);
    w->checkpoint_interval = o->checkpoint_interval;
    w->dead = str_ends(str_of(o->path), STR("_dead_table"));
    w->view.version = w->new_view.version = -1;
    w->view.txns = map_new();
    w->checkpoint_version = -1;
    buf_init(&w->body, COMMIT_MAX_BYTES);
    pthread_mutex_init(&w->gate.lock, NULL);
    w->delta = delta_new(w->store, o->path);
    return w;
}

static void writer_free(struct writer *w)
{
    delta_free(&w->delta);
    duck_disconnect(&w->conn);
    writer_view_deinit(&w->view);
    writer_view_deinit(&w->new_view);
    file_deinit(&w->file);
    file_deinit(&w->new_file);
    buf_deinit(&w->body);
    pthread_mutex_destroy(&w->gate.lock);
    store_close(&w->store);
    mem_free(w->path);
    mem_free(w->schema);
    mem_free(w);
}

void writer_close(struct writer **wp)
{
    struct writer *w = *wp;
    if (!w)
        return;
    loop_assert(w->loop);
    *wp = NULL;
    if (w->op == OP_NONE || w->defer.queued) {
        loop_defer_cancel(&w->defer);
        writer_free(w);
        return;
    }
    w->closed = true;
    pthread_mutex_lock(&w->gate.lock);
    w->gate.shut = true;
    if (w->conn)
        duck_interrupt_mt(w->conn);
    pthread_mutex_unlock(&w->gate.lock);
}

bool writer_busy(const struct writer *w)
{
    return w->op != OP_NONE;
}

static void on_job_run_mt(void *ctx)
{
    struct writer *w = CHECK_FROM(ctx, struct writer, WRITER_TAG);
    writer_run_mt(w);
}

/* Takes over what the job found. */
static void settle(struct writer *w, enum writer_op op)
{
    if (w->new_view.txns) {
        writer_view_deinit(&w->view);
        w->view = w->new_view;
        w->new_view = (struct writer_view){.version = -1};
    }
    if (op == OP_WRITE && !w->rc) {
        file_deinit(&w->file);
        w->file = w->new_file;
        w->new_file = (struct delta_file){0};
    } else if (op == OP_COMMIT && !w->rc) {
        file_deinit(&w->file);
        w->txn_id[0] = 0;
        buf_reset(&w->body);
        if (w->checkpoint_interval && w->commit_version > 0 &&
            w->commit_version % (int64_t)w->checkpoint_interval == 0)
            w->checkpoint_version = w->commit_version;
    } else if (op == OP_COMMIT && w->rc == ERR_CONFLICT) {
        w->txn_id[0] = 0; /* its fate is known: the same id may stand for another try's bytes */
    } else if (op == OP_CHECKPOINT) {
        w->checkpoint_version = -1; /* after a failure the next one will do */
    }
}

static void finish(struct writer *w)
{
    enum writer_op op = w->op;
    w->op = OP_NONE;
    settle(w, op);
    struct err e = w->e;
    int rc = e.code = w->rc;
    if (!e.text[0] && rc)
        err_set(&e, rc, "%s", err_name(rc));
    if (op == OP_WRITE) {
        struct writer_file out = {.file = w->file};
        if (rc)
            out.file = (struct delta_file){0};
        w->file_done(w->ctx, rc, &out, &e);
    } else {
        w->done(w->ctx, rc, &e);
    }
}

static void on_job_done(void *ctx, int rc)
{
    struct writer *w = CHECK_FROM(ctx, struct writer, WRITER_TAG);
    if (rc)
        w->rc = rc;
    if (w->closed)
        writer_free(w);
    else
        finish(w);
}

static void on_job_orphaned(void *ctx)
{
    struct writer *w = CHECK_FROM(ctx, struct writer, WRITER_TAG);
    if (w->closed)
        writer_free(w);
    else
        w->op = OP_NONE; /* the pool was closed first; the writer still belongs to somebody */
}

static void on_refused(void *ctx)
{
    struct writer *w = CHECK_FROM(ctx, struct writer, WRITER_TAG);
    finish(w);
}

static void start(struct writer *w, enum writer_op op, void *ctx)
{
    loop_assert(w->loop);
    CHECK(w->op == OP_NONE);
    w->op = op;
    w->ctx = ctx;
    w->rc = 0;
    w->e = (struct err){0};
    int rc = work_start(w->work, on_job_run_mt, on_job_done, on_job_orphaned, w, NULL);
    if (rc) {
        w->rc = err_set(&w->e, rc, "too many jobs wait");
        loop_defer(w->loop, &w->defer, on_refused, w);
    }
}

void writer_refresh(struct writer *w, writer_done_fn *done, void *ctx)
{
    w->done = done;
    start(w, OP_REFRESH, ctx);
}

int64_t writer_version(const struct writer *w)
{
    return w->view.version;
}

const char *writer_id(const struct writer *w)
{
    return w->view.id ? w->view.id : "";
}

bool writer_txn(const struct writer *w, struct str app_id, int64_t *ret_version)
{
    const int64_t *v = map_get(w->view.txns, app_id);
    if (v)
        *ret_version = *v;
    return v != NULL;
}

bool writer_next_txn(const struct writer *w, size_t *i, struct str *ret_app_id,
                     int64_t *ret_version)
{
    void *value;
    if (!map_next(w->view.txns, i, ret_app_id, &value))
        return false;
    *ret_version = *(int64_t *)value;
    return true;
}

void writer_write(struct writer *w, const struct parquet_source *src, writer_file_fn *done,
                  void *ctx)
{
    CHECK(w->op == OP_NONE);
    file_deinit(&w->file);
    w->src = *src;
    w->file_done = done;
    start(w, OP_WRITE, ctx);
}

struct drop {
    struct store *store;
    char *key;
};

static void on_drop_run_mt(void *ctx)
{
    struct drop *d = ctx;
    struct err e;
    if (store_delete(d->store, d->key, &e))
        LOG(DEBUG, "orphan_left", KV_STR("key", d->key), KV_STR("error", e.text));
}

static void on_drop_orphaned(void *ctx)
{
    struct drop *d = ctx;
    store_close(&d->store);
    mem_free(d->key);
    mem_free(d);
}

static void on_drop_done(void *ctx, int rc)
{
    (void)rc; /* never run: the file stays, which is harmless */
    on_drop_orphaned(ctx);
}

void writer_drop_file(struct writer *w)
{
    loop_assert(w->loop);
    if (!w->file.path)
        return;
    struct drop *d = MEM_NEW(struct drop);
    d->store = store_ref(w->store);
    d->key = mem_printf("%s/%s", w->path, w->file.path);
    file_deinit(&w->file);
    if (work_start(w->work, on_drop_run_mt, on_drop_done, on_drop_orphaned, d, NULL))
        on_drop_orphaned(d);
}

void writer_commit(struct writer *w, const struct delta_commit *c, writer_done_fn *done, void *ctx)
{
    CHECK(w->op == OP_NONE && w->view.version >= 0);
    CHECK(c->txn_id[0] && strlen(c->txn_id) < sizeof w->txn_id);
    w->done = done;
    if (strcmp(w->txn_id, c->txn_id)) {
        struct delta_commit mine = *c;
        mine.version = w->commit_version = w->view.version + 1;
        mine.adds = &w->file;
        mine.adds_n = w->file.path ? 1 : 0;
        if (!mine.timestamp_ms)
            mine.timestamp_ms = (int64_t)clock_wall_ms();
        memcpy(w->txn_id, c->txn_id, strlen(c->txn_id) + 1);
        buf_reset(&w->body);
        delta_commit_encode(&mine, &w->body);
        CHECK(!w->body.overflow); /* one file and a batch's sources */
    }
    start(w, OP_COMMIT, ctx);
}

bool writer_wants_checkpoint(const struct writer *w)
{
    return w->checkpoint_version >= 0;
}

void writer_checkpoint(struct writer *w, writer_done_fn *done, void *ctx)
{
    CHECK(w->checkpoint_version >= 0);
    w->done = done;
    start(w, OP_CHECKPOINT, ctx);
}
