/* writer_job: the part of a writer that runs in work jobs: reading the log, writing files, putting commits and checkpoints.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/crash.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/writer_priv.h"

#define SWEEP_AGE_MS (3600 * 1000)

void writer_view_deinit(struct writer_view *v)
{
    struct str key;
    void *value;
    for (size_t i = 0; v->txns && map_next(v->txns, &i, &key, &value);)
        mem_free(value);
    map_free(&v->txns);
    mem_free(v->id);
    *v = (struct writer_view){.version = -1};
}

/* Copies what the loop may look at. In the job. */
static void publish_mt(struct writer *w)
{
    writer_view_deinit(&w->new_view);
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

void writer_run_mt(struct writer *w)
{
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
