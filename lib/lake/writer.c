/* writer: see the header.
 *
 * state      waits for       moves on in   then
 * idle       a call          -             one of the others
 * OP_…       its job         on_job_done   idle, then the caller's callback
 * A job has `delta`, `conn` and the fields under "the job's" for itself; the loop reads the published copy only. After
 * writer_close the job finds the gate shut, and the writer is freed when it comes back.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/writer.h"
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/parquet_priv.h"
#include "lake/store_priv.h"

#define WRITER_TAG CHECK_TAG('w', 'r', 't', 'r')
#define COMMIT_MAX_BYTES ((size_t)64 << 20)
#define SWEEP_AGE_MS (3600 * 1000)

enum op { OP_NONE, OP_REFRESH, OP_WRITE, OP_COMMIT, OP_CHECKPOINT };

/* What the loop sees of the state. */
struct view {
    int64_t version;
    char *id;
    struct map *txns; /* int64_t */
};

struct writer {
    uint32_t tag;
    struct loop *loop;
    struct work *work;
    struct store *store;
    struct duck *duck;
    char *path, *schema;
    unsigned checkpoint_interval;
    bool dead; /* the table of rejects; names its crash points */

    enum op op;
    bool closed;
    writer_done_fn *done;
    writer_file_fn *file_done;
    void *ctx;
    struct loop_defer defer; /* a call whose job could not be started */

    struct view view;
    struct delta_file file; /* of the last write; path NULL: none */
    char txn_id[64];        /* of the commit that is tried; empty: none */
    struct buf body;
    int64_t commit_version, checkpoint_version; /* checkpoint_version -1: none wanted */

    /* The job's: */
    struct parquet_gate gate; /* and conn's appearance is under its lock */
    struct duck_conn *conn;
    struct delta *delta;
    bool swept;
    struct parquet_source src;
    struct delta_file new_file;
    struct view new_view; /* txns NULL: nothing new */
    int rc;
    struct err e;
};

static void file_deinit(struct delta_file *f)
{
    mem_free(f->path);
    mem_free(f->stats);
    *f = (struct delta_file){0};
}

static void view_deinit(struct view *v)
{
    struct str key;
    void *value;
    for (size_t i = 0; v->txns && map_next(v->txns, &i, &key, &value);)
        mem_free(value);
    map_free(&v->txns);
    mem_free(v->id);
    *v = (struct view){.version = -1};
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
    view_deinit(&w->view);
    view_deinit(&w->new_view);
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

/* Copies what the loop may look at. In the job. */
static void publish_mt(struct writer *w)
{
    view_deinit(&w->new_view);
    w->new_view.version = delta_version(w->delta);
    w->new_view.id = mem_strdup(delta_id(w->delta));
    w->new_view.txns = map_new();
    struct str app;
    int64_t version;
    for (size_t i = 0; delta_next_txn(w->delta, &i, &app, &version);)
        mem_free(map_put(w->new_view.txns, app, mem_dup(&version, sizeof version)));
}

/* Under the gate's lock: once it is shut the database may be gone. */
static int connect_mt(struct writer *w)
{
    int rc = 0;
    pthread_mutex_lock(&w->gate.lock);
    if (w->gate.shut)
        rc = ERR_CANCELLED;
    else if (!w->conn)
        rc = duck_connect(w->duck, &w->conn, &w->e);
    pthread_mutex_unlock(&w->gate.lock);
    return rc;
}

static int refresh_mt(struct writer *w)
{
    if (!w->swept) {
        (void)store_sweep(w->store, w->path, SWEEP_AGE_MS, NULL); /* what stays is invisible */
        w->swept = true;
    }
    int rc = delta_refresh(w->delta, w->conn, &w->e);
    if (rc == ERR_NOT_FOUND) {
        rc = delta_create(w->delta, w->schema, &w->e);
        if (!rc)
            rc = delta_refresh(w->delta, w->conn, &w->e);
    }
    publish_mt(w);
    return rc ? rc : delta_check_writable(w->delta, w->schema, &w->e);
}

static int write_mt(struct writer *w)
{
    char uuid[37];
    rnd_uuid(uuid);
    char *name = mem_printf("part-00000-%s-c000.zstd.parquet", uuid);
    char *key = mem_printf("%s/%s", w->path, name);
    struct parquet_file pf = {0};
    int rc = 0;
    char *staged = store_stage(w->store, key, &w->e);
    if (!staged) {
        rc = w->e.code;
        goto out;
    }
    CRASH_POINT("sink_before_parquet");
    rc = parquet_write_gated(w->conn, staged, &w->src, &w->gate, &pf, &w->e);
    CRASH_POINT("sink_after_parquet");
    if (!rc && pf.rows > 0) {
        rc = store_publish(w->store, staged, key, &w->e);
        CRASH_POINT("sink_after_publish");
    }
    if (rc || pf.rows == 0)
        store_discard(w->store, staged);
    if (!rc && pf.rows > 0) {
        w->new_file = (struct delta_file){.path = name,
                                          .bytes = pf.bytes,
                                          .rows = pf.rows,
                                          .modified_ms = (int64_t)clock_wall_ms(),
                                          .stats = pf.stats};
        name = NULL;
        pf.stats = NULL;
    }
out:
    mem_free(pf.stats);
    mem_free(staged);
    mem_free(key);
    mem_free(name);
    return rc;
}

static int commit_mt(struct writer *w)
{
    if (w->dead)
        CRASH_POINT("sink_dead_before_commit_put");
    else
        CRASH_POINT("sink_clean_before_commit_put");
    int rc = delta_put(w->delta, w->commit_version, buf_as_str(&w->body), w->txn_id, &w->e);
    if (rc)
        return rc;
    if (w->dead)
        CRASH_POINT("sink_dead_after_commit_put");
    else
        CRASH_POINT("sink_clean_after_commit_put");
    rc = delta_refresh(w->delta, w->conn, &w->e);
    publish_mt(w);
    /* It is in, so the answer must not be one that says it is not. */
    if (rc == ERR_CONFLICT || rc == ERR_NOT_FOUND)
        rc = w->e.code = ERR_CORRUPT;
    if (!rc && delta_version(w->delta) < w->commit_version)
        rc = err_set(&w->e, ERR_CORRUPT, "table %s: its log ends below our commit %lld", w->path,
                     (long long)w->commit_version);
    return rc;
}

static int checkpoint_mt(struct writer *w)
{
    CRASH_POINT("sink_before_checkpoint");
    int rc;
    if (delta_version(w->delta) == w->checkpoint_version) {
        rc = delta_checkpoint(w->delta, w->conn, &w->e);
    } else { /* others went on: the checkpoint is of that version all the same */
        struct delta *then = delta_new(w->store, w->path);
        rc = delta_load_at(then, w->conn, w->checkpoint_version, &w->e);
        if (!rc)
            rc = delta_checkpoint(then, w->conn, &w->e);
        delta_free(&then);
    }
    CRASH_POINT("sink_after_checkpoint");
    return rc;
}

static void on_job_run_mt(void *ctx)
{
    struct writer *w = CHECK_FROM(ctx, struct writer, WRITER_TAG);
    int rc = connect_mt(w);
    if (!rc) {
        switch (w->op) {
        case OP_NONE:
            break;
        case OP_REFRESH:
            rc = refresh_mt(w);
            break;
        case OP_WRITE:
            rc = write_mt(w);
            break;
        case OP_COMMIT:
            rc = commit_mt(w);
            break;
        case OP_CHECKPOINT:
            rc = checkpoint_mt(w);
            break;
        }
    }
    w->rc = rc;
}

/* Takes over what the job found. */
static void settle(struct writer *w, enum op op)
{
    if (w->new_view.txns) {
        view_deinit(&w->view);
        w->view = w->new_view;
        w->new_view = (struct view){.version = -1};
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
    enum op op = w->op;
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

static void start(struct writer *w, enum op op, void *ctx)
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
