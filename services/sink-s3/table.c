/* table: see table.h.
 *
 * state     waits for                      moves on in        then
 * FILLING   a reason to flush              table_flush        DEAD
 * DEAD      the rejects in the dead table  on_dead_landed     CLEAN
 * CLEAN     the rows in the clean table    on_clean_landed    FILLING
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "sink"
#include "sink-s3/table.h"

#include "base/check.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/mem.h"

enum table_state { TABLE_FILLING, TABLE_DEAD, TABLE_CLEAN };

/* One caller of table_refresh: both logs are read before it hears. */
struct waiter {
    struct list node;
    struct table *table;
    landing_done_fn *done; /* NULL: forgotten */
    void *ctx;
    int rc;
};

struct table {
    struct app *app;
    struct loop *loop;
    struct table_opts opts;
    struct landing *landing;
    enum table_state state;
    struct batch *open, *closing;
    size_t closing_bytes; /* as accounted: a rebase shrinks the batch itself */
    bool flush_again;     /* a reason to flush came while one was running */
    struct list waiters;
    struct loop_timer timer;
};

static void on_dead_landed(void *ctx, int rc);
static void on_clean_landed(void *ctx, int rc);

struct table *table_open(struct app *app, const struct table_opts *o)
{
    struct table *t = MEM_NEW(struct table);
    t->app = app;
    t->loop = app_loop(app);
    t->opts = *o;
    t->landing = landing_open(app, &o->landing);
    t->open = batch_new(o->dataset, o->copies != NULL);
    list_init(&t->waiters);
    return t;
}

void table_close(struct table **pt)
{
    struct table *t = *pt;
    if (!t)
        return;
    *pt = NULL;
    loop_timer_stop(&t->timer);
    landing_close(&t->landing);
    batch_free(&t->open);
    batch_free(&t->closing);
    LIST_EACH (it, tmp, &t->waiters)
        mem_free(LIST_ENTRY(it, struct waiter, node));
    mem_free(t);
}

int64_t table_wanted_stored(const struct table *t, struct str source)
{
    return landing_wanted(t->landing, source);
}

int64_t table_wanted(const struct table *t, struct str source)
{
    const struct batch_source *s = batch_find(t->open, source);
    if (!s && t->closing)
        s = batch_find(t->closing, source);
    return s ? s->end : landing_wanted(t->landing, source);
}

static void on_flush_due(void *ctx)
{
    table_flush(ctx);
}

void table_take(struct table *t, const struct span *span, int32_t partition)
{
    size_t before = t->open->bytes;
    batch_take(t->open, span, partition, table_wanted(t, span->source),
               landing_table_id(t->landing));
    t->opts.on_bytes(t->opts.ctx, (int64_t)(t->open->bytes - before));
    if (!loop_timer_active(&t->timer))
        loop_timer_start(t->loop, &t->timer, t->opts.flush_interval_ms, on_flush_due, t);
    if (t->open->rows >= t->opts.flush_rows)
        table_flush(t);
}

/* Tells the sink about partitions whose spans were all dropped: there is nothing to wait for. */
static void report(struct table *t, struct batch *b)
{
    LIST_EACH (it, tmp, &b->marks) {
        struct batch_mark *m = LIST_ENTRY(it, struct batch_mark, node);
        int32_t partition = m->partition;
        int64_t upto = m->upto;
        list_remove(&m->node);
        mem_free(m);
        t->opts.on_stored(t->opts.ctx, t, partition, upto);
    }
}

void table_pass(struct table *t, int32_t partition, int64_t upto)
{
    batch_pass(t->open, partition, upto);
    if (!t->closing && batch_empty(t->open))
        report(t, t->open);
}

void table_drop_partition(struct table *t, int32_t partition)
{
    size_t before = t->open->bytes;
    batch_drop_partition(t->open, partition);
    t->opts.on_bytes(t->opts.ctx, (int64_t)t->open->bytes - (int64_t)before);
    /* What is on its way in may land, but says nothing about a partition that is read again from elsewhere. */
    LIST_EACH (it, tmp, t->closing ? &t->closing->marks : &t->open->marks) {
        struct batch_mark *m = LIST_ENTRY(it, struct batch_mark, node);
        if (m->partition == partition) {
            list_remove(&m->node);
            mem_free(m);
        }
    }
}

void table_flush(struct table *t)
{
    if (t->state != TABLE_FILLING) {
        t->flush_again = true;
        return;
    }
    loop_timer_stop(&t->timer);
    t->flush_again = false;
    if (batch_empty(t->open))
        return;
    t->closing = t->open;
    t->closing_bytes = t->open->bytes;
    t->open = batch_new(t->opts.dataset, t->opts.copies != NULL);
    t->state = TABLE_DEAD;
    if (batch_rejects(t->closing))
        landing_put(t->opts.dead, t->closing, on_dead_landed, t);
    else
        on_dead_landed(t, 0);
}

/* The batch on its way has come to its end, well or not. */
static void end_closing(struct table *t)
{
    t->opts.on_bytes(t->opts.ctx, -(int64_t)t->closing_bytes);
    batch_free(&t->closing);
    t->state = TABLE_FILLING;
}

static void reset(struct table *t)
{
    end_closing(t);
    t->opts.on_bytes(t->opts.ctx, -(int64_t)t->open->bytes);
    batch_free(&t->open);
    t->open = batch_new(t->opts.dataset, t->opts.copies != NULL);
    loop_timer_stop(&t->timer);
    t->opts.on_reset(t->opts.ctx, t);
}

static void on_dead_landed(void *ctx, int rc)
{
    struct table *t = ctx;
    if (rc) {
        reset(t);
        return;
    }
    CRASH_POINT("sink_between_tables");
    t->state = TABLE_CLEAN;
    landing_put(t->landing, t->closing, on_clean_landed, t);
}

static void on_clean_landed(void *ctx, int rc)
{
    struct table *t = ctx;
    if (rc) {
        reset(t);
        return;
    }
    CRASH_POINT("sink_before_marks");
    if (t->opts.copies) {
        uint64_t failed = copies_set(t->opts.copies, t->closing);
        if (failed)
            t->opts.on_marks_failed(t->opts.ctx, failed);
    }
    CRASH_POINT("sink_after_marks");
    struct batch *done = t->closing;
    int64_t bytes = (int64_t)t->closing_bytes;
    t->closing = NULL;
    t->state = TABLE_FILLING;
    report(t, done);
    batch_free(&done);
    if (batch_empty(t->open))
        report(t, t->open);
    if (t->flush_again || t->open->rows >= t->opts.flush_rows)
        table_flush(t);
    else if (!batch_empty(t->open) && !loop_timer_active(&t->timer))
        loop_timer_start(t->loop, &t->timer, t->opts.flush_interval_ms, on_flush_due, t);
    t->opts.on_bytes(t->opts.ctx, -bytes);
}

/* ---------------------------------------------------------------- refresh */

static void waiter_done(struct waiter *w, int rc)
{
    landing_done_fn *done = w->done;
    void *ctx = w->ctx;
    list_remove(&w->node);
    mem_free(w);
    if (done)
        done(ctx, rc);
}

static void on_dead_refreshed(void *ctx, int rc)
{
    struct waiter *w = ctx;
    waiter_done(w, w->rc ? w->rc : rc);
}

static void on_clean_refreshed(void *ctx, int rc)
{
    struct waiter *w = ctx;
    w->rc = rc;
    landing_refresh(w->table->opts.dead, on_dead_refreshed, w);
}

void table_refresh(struct table *t, landing_done_fn *done, void *ctx)
{
    struct waiter *w = MEM_NEW(struct waiter);
    *w = (struct waiter){.table = t, .done = done, .ctx = ctx};
    list_push(&t->waiters, &w->node);
    landing_refresh(t->landing, on_clean_refreshed, w);
}

void table_forget(struct table *t, void *ctx)
{
    LIST_EACH (it, tmp, &t->waiters) {
        struct waiter *w = LIST_ENTRY(it, struct waiter, node);
        if (w->ctx == ctx)
            w->done = NULL;
    }
}

bool table_idle(const struct table *t)
{
    return t->state == TABLE_FILLING && batch_empty(t->open);
}

size_t table_bytes(const struct table *t)
{
    return t->open->bytes + (t->closing ? t->closing_bytes : 0);
}

struct landing *table_landing(const struct table *t)
{
    return t->landing;
}
