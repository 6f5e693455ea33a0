/* landing: see landing.h.
 *
 * state        waits for               moves on in       then                                    on failure
 * IDLE         an operation            start_next        REFRESHING                              -
 * REFRESHING   the log's end           on_refreshed      done | LOOKING | WRITING | COMMITTING   BACKOFF, then the same
 * LOOKING      Redis                   on_looked         WRITING | COMMITTING                    (never fails)
 * WRITING      the data file           on_written        COMMITTING                              BACKOFF, then REFRESHING
 * COMMITTING   the put                 on_put            done | REFRESHING (conflict)            BACKOFF, then the same put
 * BACKOFF      timer                   on_backoff        where it came from                      commit_max_age
 * CHECKPOINT   the checkpoint          on_checkpointed   IDLE                                    logged, IDLE
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "sink"
#include "sink-s3/landing.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <inttypes.h>

#define BACKOFF_MS 50
#define BACKOFF_CAP_MS 5000
#define APP_ID_PREFIX "sluice:"
#define APP_ID_MAX (SPAN_SOURCE_MAX + sizeof(APP_ID_PREFIX))

enum landing_state {
    LANDING_IDLE,
    LANDING_REFRESHING,
    LANDING_LOOKING,
    LANDING_WRITING,
    LANDING_COMMITTING,
    LANDING_BACKOFF,
    LANDING_CHECKPOINT
};

struct operation {
    struct list node;
    struct batch *batch; /* NULL: a refresh */
    landing_done_fn *done;
    void *ctx;
};

struct landing {
    struct app *app;
    struct loop *loop;
    struct landing_opts opts;
    struct writer *writer;
    char *path, *check;
    struct list queue;
    struct operation *now; /* the running one */
    enum landing_state state, after_backoff;
    unsigned tries;
    uint64_t first_try_ms; /* of this commit's first put; 0: none yet */
    char txn_id[37];
    bool has_file, failing;
    struct delta_file file; /* the writer's, of this commit */
    struct landing_counts counts;
    struct copies_ask *ask;
    struct batch_cursor cursor; /* of the data file that is being written */
    struct reject reject;
    struct loop_timer timer;
    struct loop_defer defer;
};

static void start_next(void *ctx);
static void refresh(struct landing *l);
static void write_file(struct landing *l);
static void commit(struct landing *l);

static void set_state(struct landing *l, enum landing_state state)
{
    static const char *const names[] = {"IDLE",       "REFRESHING", "LOOKING",   "WRITING",
                                        "COMMITTING", "BACKOFF",    "CHECKPOINT"};
    if (l->state != state)
        LOG(TRACE, "landing_state", KV_STR("table", l->opts.name), KV_STR("from", names[l->state]),
            KV_STR("to", names[state]));
    l->state = state;
}

struct landing *landing_open(struct app *app, const struct landing_opts *o)
{
    struct landing *l = MEM_NEW(struct landing);
    l->app = app;
    l->loop = app_loop(app);
    l->opts = *o;
    l->path = mem_strdup(o->writer.path);
    l->opts.writer.path = l->path;
    l->check = mem_printf("table_%s", o->name);
    l->writer = writer_open(l->loop, &l->opts.writer);
    list_init(&l->queue);
    return l;
}

void landing_close(struct landing **pl)
{
    struct landing *l = *pl;
    if (!l)
        return;
    *pl = NULL;
    loop_timer_stop(&l->timer);
    loop_defer_cancel(&l->defer);
    copies_cancel(&l->ask);
    writer_close(&l->writer);
    struct list *node;
    while ((node = list_pop(&l->queue)))
        mem_free(LIST_ENTRY(node, struct operation, node));
    mem_free(l->now);
    mem_free(l->path);
    mem_free(l->check);
    mem_free(l);
}

static void enqueue(struct landing *l, struct batch *b, landing_done_fn *done, void *ctx)
{
    struct operation *op = MEM_NEW(struct operation);
    *op = (struct operation){.batch = b, .done = done, .ctx = ctx};
    list_push(&l->queue, &op->node);
    loop_defer(l->loop, &l->defer, start_next, l);
}

void landing_refresh(struct landing *l, landing_done_fn *done, void *ctx)
{
    enqueue(l, NULL, done, ctx);
}

void landing_put(struct landing *l, struct batch *b, landing_done_fn *done, void *ctx)
{
    enqueue(l, b, done, ctx);
}

static void start_next(void *ctx)
{
    struct landing *l = ctx;
    if (l->state != LANDING_IDLE || list_empty(&l->queue))
        return;
    l->now = LIST_ENTRY(list_pop(&l->queue), struct operation, node);
    l->tries = 0;
    l->first_try_ms = 0;
    l->counts = (struct landing_counts){.rows = 0};
    refresh(l);
}

/* Ends the running operation. Whatever queued up meanwhile starts later. */
static void finish(struct landing *l, int rc)
{
    struct operation *op = l->now;
    landing_done_fn *done = op->done;
    void *ctx = op->ctx;
    l->now = NULL;
    mem_free(op);
    if (l->state != LANDING_CHECKPOINT)
        set_state(l, LANDING_IDLE);
    loop_defer(l->loop, &l->defer, start_next, l);
    done(ctx, rc);
}

static void on_backoff(void *ctx)
{
    struct landing *l = ctx;
    if (l->after_backoff == LANDING_COMMITTING)
        commit(l);
    else
        refresh(l);
}

static void say_lake(struct landing *l, const struct err *e)
{
    bool failing = e != NULL;
    if (failing != l->failing || failing)
        app_ready_set(l->app, l->check, !failing, failing ? e->text : "");
    l->failing = failing;
}

static void back_off(struct landing *l, enum landing_state again, int rc, const struct err *e,
                     const char *what)
{
    LOG(WARN, "table_waits", KV_STR("table", l->opts.name), KV_STR("step", what), KV_ERR(rc),
        KV_STR("detail", e ? e->text : ""), KV_INT("tries", l->tries));
    struct err fallback;
    if (!e || !e->text[0])
        err_set(&fallback, rc, "%s: %s", what, err_name(rc));
    say_lake(l, e && e->text[0] ? e : &fallback);
    l->opts.on_retry(l->opts.ctx, l);
    l->after_backoff = again;
    set_state(l, LANDING_BACKOFF);
    loop_timer_start(l->loop, &l->timer, loop_backoff_ms(l->tries++, BACKOFF_MS, BACKOFF_CAP_MS),
                     on_backoff, l);
}

int64_t landing_wanted(const struct landing *l, struct str source)
{
    char app_id[APP_ID_MAX + 1];
    size_t n = sizeof(APP_ID_PREFIX) - 1;
    int64_t version;
    CHECK(source.n <= SPAN_SOURCE_MAX);
    memcpy(app_id, APP_ID_PREFIX, n);
    memcpy(app_id + n, source.p, source.n);
    return writer_txn(l->writer, str_make(app_id, n + source.n), &version) ? version
                                                                           : BATCH_UNKNOWN;
}

static int64_t known(void *ctx, struct str source)
{
    return landing_wanted(ctx, source);
}

/* ---------------------------------------------------------------- refresh and rebase */

static void on_refreshed(void *ctx, int rc, const struct err *e);

static void refresh(struct landing *l)
{
    set_state(l, LANDING_REFRESHING);
    writer_refresh(l->writer, on_refreshed, l);
}

static void on_looked(void *ctx, uint64_t unasked)
{
    struct landing *l = ctx;
    l->ask = NULL;
    l->counts.unasked = unasked; /* the last look is the one that counts */
    write_file(l);
}

static void on_refreshed(void *ctx, int rc, const struct err *e)
{
    struct landing *l = ctx;
    struct batch *b = l->now->batch;
    if (rc == ERR_CONFLICT) {
        LOG(ERROR, "table_made_anew", KV_STR("table", l->opts.name));
        finish(l, rc);
        return;
    }
    if (rc) {
        back_off(l, LANDING_REFRESHING, rc, e, "refresh");
        return;
    }
    say_lake(l, NULL);
    if (!b) {
        finish(l, 0);
        return;
    }
    rnd_uuid(l->txn_id);
    l->first_try_ms = 0;
    l->has_file = false;
    if (l->opts.dead) {
        batch_rebase_dead(b, known, l);
        if (batch_rejects(b))
            write_file(l);
        else
            finish(l, 0);
        return;
    }
    int moved = batch_rebase(b, known, l);
    if (moved < 0) {
        LOG(ERROR, "table_went_back", KV_STR("table", l->opts.name));
        finish(l, ERR_CONFLICT);
        return;
    }
    l->counts.rebased += (uint64_t)moved;
    if (batch_empty(b)) {
        finish(l, 0);
        return;
    }
    if (!l->opts.copies) {
        write_file(l);
        return;
    }
    set_state(l, LANDING_LOOKING);
    l->ask = copies_look(l->opts.copies, b, on_looked, l);
}

/* ---------------------------------------------------------------- data file */

static void provenance(struct value *v, const struct batch_piece *piece,
                       const struct span_item *item)
{
    v[0] = (struct value){.s = str_of(piece->source->source)};
    v[1] = (struct value){.i = item->position};
    v[2] = (struct value){.i = item->item};
    v[3] = (struct value){.i = item->ingested_at_ms};
}

/* The next row of a clean table; runs in the job's thread. */
static int next_row_mt(void *ctx, struct value *v)
{
    struct landing *l = ctx;
    const struct batch_piece *piece;
    struct span_item item;
    uint32_t index;
    const struct dataset *d = l->now->batch->dataset;
    if (!batch_cursor_next(&l->cursor, &item, &piece, &index))
        return 0;
    int rc = span_item_values(d, &item, v);
    if (rc)
        return rc;
    provenance(v + d->columns_n, piece, &item);
    return 1;
}

/* The next row of the dead table. */
static int next_reject_mt(void *ctx, struct value *v)
{
    struct landing *l = ctx;
    const struct batch_piece *piece;
    struct span_item item;
    uint32_t index;
    if (!batch_cursor_next(&l->cursor, &item, &piece, &index))
        return 0;
    int rc = span_item_reject(&item, &l->reject);
    if (rc)
        return rc;
    provenance(v, piece, &item);
    v += PROVENANCE_COLUMNS;
    const struct reject *r = &l->reject;
    v[0] = (struct value){.s = str_of(l->now->batch->dataset->name)};
    v[1] = (struct value){.s = str_of(reject_names[r->reason])};
    v[2] = (struct value){.null = !r->detail.p, .s = r->detail};
    v[3] = (struct value){.null = !r->key.p, .s = r->key};
    v[4] = (struct value){.null = !r->value.p, .s = r->value};
    return 1;
}

static void on_written(void *ctx, int rc, const struct writer_file *file, const struct err *e)
{
    struct landing *l = ctx;
    if (rc) {
        back_off(l, LANDING_REFRESHING, rc, e, "write");
        return;
    }
    l->has_file = file->file.rows > 0;
    l->file = file->file;
    commit(l);
}

static void write_file(struct landing *l)
{
    const struct batch *b = l->now->batch;
    l->counts.rows = l->opts.dead ? 0 : batch_rows(b);
    l->counts.rejects = l->opts.dead ? batch_rejects(b) : 0;
    l->counts.copies = l->opts.dead || !l->opts.copies ? 0 : batch_copies(b);
    if (!l->counts.rows && !l->counts.rejects) {
        commit(l);
        return;
    }
    set_state(l, LANDING_WRITING);
    batch_cursor_init(&l->cursor, b, l->opts.dead, false);
    const struct parquet_source src = {.columns = l->opts.writer.columns,
                                       .columns_n = l->opts.writer.columns_n,
                                       .next = l->opts.dead ? next_reject_mt : next_row_mt,
                                       .ctx = l,
                                       .texts_checked = true}; /* by what reads spans */
    writer_write(l->writer, &src, on_written, l);
}

/* ---------------------------------------------------------------- commit */

/* Whether the dead table gets a txn of this source: only with rejects of it. */
static bool has_rejects(const struct batch *b, const struct batch_source *s)
{
    struct batch_cursor c;
    struct span_item item;
    const struct batch_piece *piece;
    uint32_t row;
    batch_cursor_init(&c, b, true, false);
    while (batch_cursor_next(&c, &item, &piece, &row)) {
        if (piece->source == s)
            return true;
    }
    return false;
}

static void on_put(void *ctx, int rc, const struct err *e);

static void commit(struct landing *l)
{
    const struct batch *b = l->now->batch;
    uint64_t now = clock_ms();
    if (!l->first_try_ms)
        l->first_try_ms = now ? now : 1;
    if (now - l->first_try_ms > l->opts.commit_max_age_ms) {
        app_fail(l->app, APP_EXIT_UNAVAILABLE, "commit_given_up");
        return;
    }
    size_t n = 0;
    LIST_EACH (it, tmp, (struct list *)&b->sources)
        n++;
    struct delta_txn_action *txns = MEM_ARRAY(struct delta_txn_action, n ? n : 1);
    n = 0;
    LIST_EACH (it, tmp, (struct list *)&b->sources) {
        const struct batch_source *s = LIST_ENTRY(it, struct batch_source, node);
        if (l->opts.dead && !has_rejects(b, s))
            continue;
        txns[n++] = (struct delta_txn_action){.app_id = mem_printf(APP_ID_PREFIX "%s", s->source),
                                              .version = s->end};
    }
    struct buf lost;
    buf_init(&lost, (size_t)1 << 20);
    l->counts.lost = 0;
    if (!l->opts.dead)
        batch_lost_json(b, &lost, &l->counts.lost);
    const struct delta_commit c = {.version = writer_version(l->writer) + 1,
                                   .txn_id = l->txn_id,
                                   .adds = &l->file,
                                   .adds_n = l->has_file,
                                   .txns = txns,
                                   .txns_n = n,
                                   .copies = l->counts.copies,
                                   .lost_json = lost.len && !lost.overflow ? buf_as_str(&lost)
                                                                           : (struct str){NULL, 0},
                                   .timestamp_ms = (int64_t)clock_wall_ms()};
    set_state(l, LANDING_COMMITTING);
    writer_commit(l->writer, &c, on_put, l);
    for (size_t i = 0; i < n; i++)
        mem_free((char *)txns[i].app_id);
    mem_free(txns);
    buf_deinit(&lost);
}

static void on_checkpointed(void *ctx, int rc, const struct err *e)
{
    struct landing *l = ctx;
    if (rc)
        LOG(WARN, "checkpoint_failed", KV_STR("table", l->opts.name), KV_ERR(rc),
            KV_STR("detail", e ? e->text : ""));
    else
        LOG(INFO, "checkpoint_written", KV_STR("table", l->opts.name),
            KV_INT("version", writer_version(l->writer)));
    set_state(l, LANDING_IDLE);
    loop_defer(l->loop, &l->defer, start_next, l);
}

static void on_put(void *ctx, int rc, const struct err *e)
{
    struct landing *l = ctx;
    if (rc == ERR_CONFLICT) {
        l->counts.conflicts++;
        if (l->has_file)
            writer_drop_file(l->writer);
        LOG(DEBUG, "commit_conflict", KV_STR("table", l->opts.name),
            KV_INT("version", writer_version(l->writer) + 1));
        refresh(l);
        return;
    }
    if (rc) {
        back_off(l, LANDING_COMMITTING, rc, e, "commit");
        return;
    }
    say_lake(l, NULL);
    l->counts.bytes = l->has_file ? l->file.bytes : 0;
    l->counts.newest_ingested_ms = l->now->batch->newest_ingested_ms;
    LOG(DEBUG, "commit_landed", KV_STR("table", l->opts.name),
        KV_INT("version", writer_version(l->writer)),
        KV_INT("rows", l->counts.rows + l->counts.rejects), KV_INT("copies", l->counts.copies));
    l->opts.on_counts(l->opts.ctx, l, &l->counts);
    l->opts.on_version(l->opts.ctx, l);
    if (writer_wants_checkpoint(l->writer)) {
        set_state(l, LANDING_CHECKPOINT);
        writer_checkpoint(l->writer, on_checkpointed, l);
    }
    finish(l, 0);
}

int64_t landing_version(const struct landing *l)
{
    return writer_version(l->writer);
}

const char *landing_table_id(const struct landing *l)
{
    const char *id = writer_id(l->writer);
    return id ? id : "";
}

bool landing_idle(const struct landing *l)
{
    return !l->now && list_empty(&l->queue);
}

void landing_dump(const struct landing *l, struct buf *out)
{
    struct str path = str_of(l->path);
    while (memchr(path.p, '/', path.n))
        path.p++, path.n--;
    buf_json(out, str_of(l->opts.name));
    buf_z(out, ":{\"table\":");
    buf_json(out, path);
    buf_printf(out, ",\"version\":%" PRId64 ",\"sources\":{", writer_version(l->writer));
    size_t i = 0;
    struct str app_id;
    int64_t version;
    bool first = true;
    while (writer_next_txn(l->writer, &i, &app_id, &version)) {
        if (!str_starts(app_id, STR(APP_ID_PREFIX)))
            continue;
        if (!first)
            buf_char(out, ',');
        first = false;
        buf_json(out, str_make(app_id.p + sizeof(APP_ID_PREFIX) - 1,
                               app_id.n - sizeof(APP_ID_PREFIX) + 1));
        buf_printf(out, ":%" PRId64, version);
    }
    buf_z(out, "}}");
}
