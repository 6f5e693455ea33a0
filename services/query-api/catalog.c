/* catalog: one job at a time reads the logs of the tables that are due; the loop takes what it found.
 *
 * A `struct delta` belongs to the job while one runs, and to nobody else ever: what the loop needs is copied into the snapshot.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "catalog"
#include "query-api/query-api.h"
#include "announce.pb-c.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/bus.h"
#include "io/work.h"
#include <pthread.h>
#include <stdio.h>

/* Batch tables change once a day: they are looked at every so many polls. */
#define BATCH_POLLS 10
/* A state is called old when it was not checked for so many polls, and this time at least. */
#define AGE_POLLS 5
#define AGE_MIN_MS 5000

const char *const table_names[TABLES] = {"pin",       "geo",       "user",      "dead",
                                         "batch-pin", "batch-geo", "batch-user"};
static const char *const path_formats[TABLES] = {"%s_pin_table",  "%s_geo_table", "%s_user_table",
                                                 "%s_dead_table", "%s_pin_batch", "%s_geo_batch",
                                                 "%s_user_batch"};

struct table {
    char *name, *path;     /* "demo_pin_table", "delta/demo_pin_table" */
    struct delta *delta;   /* the job's */
    uint64_t commit_bytes; /* the job's: size of the latest commit's file; 0: not known */
    struct snapshot *now;
    bool known, due, doubted;
    uint64_t checked_ms, reads, series;
    char trouble[512];
};
struct found {
    bool looked, doubted, absent;
    struct snapshot *snapshot; /* NULL with rc 0: nothing new, or absent */
    int rc;
    char text[512];
    uint64_t reads;
};
struct catalog {
    struct app *app;
    struct metrics *metrics;
    const struct query_config *config;
    struct store *store;
    struct duck_conn *conn;
    struct trash *trash;
    struct work *work;
    struct bus_sub *sub;
    struct loop_timer poll;
    struct table tables[TABLES];
    struct found found[TABLES]; /* the job's while `reading` */
    bool reading, closed;
    unsigned polls;
};

/* ---- reading ---- */

/* Bytes of the file of the latest commit; 0: it is not there. */
static uint64_t commit_bytes(struct catalog *c, const struct table *table)
{
    uint64_t bytes = 0;
    char *key = mem_printf("%s/_delta_log/%020lld.json", table->path,
                           (long long)delta_version(table->delta));
    if (store_size(c->store, key, &bytes, NULL))
        bytes = 0;
    mem_free(key);
    return bytes;
}

/* Following alone would put a new table's next commit on top of an old table's state, when one took the other's place between two
 * looks and has the longer log. */
static bool replaced(struct catalog *c, const struct table *table)
{
    return table->delta && table->commit_bytes && commit_bytes(c, table) != table->commit_bytes;
}

static void look_mt(struct catalog *c, enum table_id t)
{
    struct table *table = &c->tables[t];
    struct found *f = &c->found[t];
    struct err e = {0};
    if (f->doubted || replaced(c, table))
        delta_free(&table->delta);
    if (!table->delta)
        table->delta = delta_new(c->store, table->path);
    uint64_t reads = delta_reads(table->delta);
    int64_t version = delta_version(table->delta);
    f->rc = delta_refresh(table->delta, c->conn, &e);
    if (f->rc ==
        ERR_CONFLICT) { /* made anew: the state is empty and may not be taken for the old table's */
        version = -1;
        f->rc = delta_refresh(table->delta, c->conn, &e);
    }
    f->reads = delta_reads(table->delta) - reads;
    table->commit_bytes = f->rc ? 0 : commit_bytes(c, table);
    if (f->rc == ERR_NOT_FOUND) {
        f->rc = 0, f->absent = true;
        delta_free(&table->delta);
        return;
    }
    if (!f->rc && (version < 0 || delta_version(table->delta) != version)) {
        f->snapshot = snapshot_make_mt(c->store, table->delta, t, c->trash);
        if (!f->snapshot)
            f->rc = err_set(&e, ERR_UNSUPPORTED, "table %s: a file lies outside its folder",
                            table->name);
    }
    if (f->rc) {
        /* What cannot be read may have been applied half: the next try begins from nothing, unless the log was merely out of reach. */
        if (!err_retryable(f->rc))
            delta_free(&table->delta);
        snprintf(f->text, sizeof f->text, "%s", e.text);
    }
}

static void on_look_mt(void *ctx)
{
    struct catalog *c = ctx;
    for (unsigned t = 0; t < TABLES; t++)
        if (c->found[t].looked)
            look_mt(c, t);
}

static void say_ready(struct catalog *c)
{
    struct buf text;
    buf_init(&text, 1024);
    bool ok = true, all = true;
    for (unsigned t = 0; t <= TABLE_DEAD; t++) {
        const struct table *table = &c->tables[t];
        all = all && table->known;
        if (!table->trouble[0])
            continue;
        ok = false;
        buf_printf(&text, "%s%s: %s", text.len ? "; " : "", table->name, table->trouble);
    }
    if (ok && !all)
        buf_z(&text, "the tables are being read");
    app_ready_set(c->app, "lake", ok && all, text.len ? text.data : "");
    buf_deinit(&text);
}

static void take(struct catalog *c, enum table_id t, struct found *f)
{
    struct table *table = &c->tables[t];
    table->reads += f->reads;
    metric_add(c->metrics, M_READS, t, (double)f->reads);
    metric_add(c->metrics, f->rc ? M_REFRESH_FAILURES : M_REFRESHES, 0, 1);
    if (f->rc) {
        if (!table->trouble[0])
            LOG(WARN, "table_unreadable", KV_STR("table", table->name), KV_ERR(f->rc),
                KV_STR("detail", f->text));
        snprintf(table->trouble, sizeof table->trouble, "%s",
                 f->text[0] ? f->text : err_name(f->rc));
        return;
    }
    if (table->trouble[0])
        LOG(INFO, "table_readable_again", KV_STR("table", table->name));
    table->trouble[0] = 0;
    table->known = true;
    table->checked_ms = clock_ms();
    if (f->absent && table->now) {
        LOG(INFO, "table_gone", KV_STR("table", table->name));
        snapshot_unref_mt(&table->now);
    }
    if (!f->snapshot)
        return;
    if (!table->now)
        LOG(INFO, "table_found", KV_STR("table", table->name),
            KV_INT("version", f->snapshot->version));
    else if (strcmp(table->now->id, f->snapshot->id) != 0)
        LOG(INFO, "table_made_anew", KV_STR("table", table->name),
            KV_INT("version", f->snapshot->version));
    snapshot_unref_mt(&table->now);
    table->now = f->snapshot;
    f->snapshot = NULL;
}

static void kick(struct catalog *c);

static void on_looked(void *ctx, int rc)
{
    struct catalog *c = ctx;
    c->reading = false;
    for (unsigned t = 0; t < TABLES; t++) {
        struct found *f = &c->found[t];
        if (f->looked && !rc)
            take(c, t, f);
        snapshot_unref_mt(&f->snapshot);
    }
    if (c->closed)
        return;
    say_ready(c);
    kick(c);
}

/* The job ended after catalog_close. */
static void on_orphan(void *ctx)
{
    struct catalog *c = ctx;
    c->reading = false;
    for (unsigned t = 0; t < TABLES; t++)
        snapshot_unref_mt(&c->found[t].snapshot);
}

static void kick(struct catalog *c)
{
    bool any = false;
    for (unsigned t = 0; t < TABLES; t++)
        any = any || c->tables[t].due;
    if (c->reading || c->closed || !any)
        return;
    for (unsigned t = 0; t < TABLES; t++) {
        struct table *table = &c->tables[t];
        c->found[t] = (struct found){.looked = table->due, .doubted = table->due && table->doubted};
        if (table->due)
            table->due = table->doubted = false;
    }
    /* One job of its own, never more: there is always room. */
    c->reading = !work_start(c->work, on_look_mt, on_looked, on_orphan, c, NULL);
}

static void on_poll(void *ctx)
{
    struct catalog *c = ctx;
    for (unsigned t = 0; t < TABLES; t++)
        if (t <= TABLE_DEAD || c->polls % BATCH_POLLS == 0)
            c->tables[t].due = true;
    c->polls++;
    loop_timer_start(app_loop(c->app), &c->poll, c->config->poll_interval, on_poll, c);
    kick(c);
}

/* ---- announcements ---- */

static void on_announcement(void *ctx, struct str msg)
{
    struct catalog *c = ctx;
    Sluice__TableVersion *m = sluice__table_version__unpack(NULL, msg.n, (const uint8_t *)msg.p);
    if (!m)
        return; /* somebody else's message: a poll finds what it may have meant */
    for (unsigned t = 0; t < TABLES; t++) {
        struct table *table = &c->tables[t];
        if (strcmp(m->table, table->name) != 0)
            continue;
        metric_add(c->metrics, M_ANNOUNCEMENTS, 0, 1);
        int64_t have = table->now ? table->now->version : -1;
        if (m->table_version == have)
            break;
        table->due = true;
        kick(c);
        break;
    }
    sluice__table_version__free_unpacked(m, NULL);
}

static void on_publishers(void *ctx, unsigned connected, unsigned total)
{
    struct catalog *c = ctx;
    (void)total;
    metric_set(c->metrics, M_PUBLISHERS, 0, connected);
}

/* ---- face ---- */

static void on_collect(void *ctx)
{
    struct catalog *c = ctx;
    for (unsigned t = 0; t < TABLES; t++) {
        const struct table *table = &c->tables[t];
        const struct snapshot *s = table->now;
        metric_set(c->metrics, M_VERSION, t, s ? (double)s->version : -1);
        metric_set(c->metrics, M_ROWS, t, s && s->rows > 0 ? (double)s->rows : 0);
        metric_set(c->metrics, M_FILES, t, s ? (double)s->files_n : 0);
        metric_set(c->metrics, M_COMMITTED, t, s ? (double)s->commit_time_ms / 1000 : 0);
        metric_set(c->metrics, M_AGE, t,
                   table->checked_ms ? (double)(clock_ms() - table->checked_ms) / 1000 : 0);
    }
}

struct catalog *catalog_open(struct app *app, const struct query_config *config,
                             struct store *store, struct duck_conn *conn, struct trash *trash,
                             struct err *e)
{
    struct catalog *c = MEM_NEW(struct catalog);
    *c = (struct catalog){.app = app,
                          .metrics = app_metrics(app),
                          .config = config,
                          .store = store,
                          .conn = conn,
                          .trash = trash};
    for (unsigned t = 0; t < TABLES; t++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        c->tables[t].name = mem_printf(path_formats[t], app_common(app)->user);
#pragma GCC diagnostic pop
        c->tables[t].path = mem_printf("delta/%s", c->tables[t].name);
    }
    c->work = work_open(app_loop(app), 1, 0);
    app_ready_set(app, "lake", false, "the tables are being read");
    metrics_on_collect(c->metrics, on_collect, c);
    if (config->announce_from[0] && bus_sub_open(app_loop(app), config->announce_from,
                                                 on_announcement, on_publishers, c, &c->sub, e)) {
        catalog_close(c);
        catalog_free(&c);
        return NULL;
    }
    loop_timer_start(app_loop(app), &c->poll, 0, on_poll, c);
    return c;
}

void catalog_close(struct catalog *c)
{
    if (!c || c->closed)
        return;
    c->closed = true;
    loop_timer_stop(&c->poll);
    bus_sub_close(&c->sub);
    work_close(&c->work);
}

void catalog_free(struct catalog **cp)
{
    struct catalog *c = *cp;
    if (!c)
        return;
    for (unsigned t = 0; t < TABLES; t++) {
        snapshot_unref_mt(&c->tables[t].now);
        snapshot_unref_mt(&c->found[t].snapshot);
        delta_free(&c->tables[t].delta);
        mem_free(c->tables[t].name);
        mem_free(c->tables[t].path);
    }
    mem_free(c);
    *cp = NULL;
}

void catalog_get(const struct catalog *c, enum table_id t, struct table_view *ret)
{
    const struct table *table = &c->tables[t];
    *ret = (struct table_view){.snapshot = table->now,
                               .known = table->known,
                               .checked_ms = table->checked_ms,
                               .trouble = table->trouble[0] ? table->trouble : NULL};
}

void catalog_doubt(struct catalog *c, enum table_id t)
{
    c->tables[t].due = c->tables[t].doubted = true;
    kick(c);
}

uint64_t catalog_age_ms(const struct catalog *c, enum table_id t)
{
    const struct table *table = &c->tables[t];
    if (!table->checked_ms)
        return 0;
    uint64_t age = clock_ms() - table->checked_ms, bound = AGE_POLLS * c->config->poll_interval;
    if (t > TABLE_DEAD)
        bound *= BATCH_POLLS;
    return age > (bound > AGE_MIN_MS ? bound : AGE_MIN_MS) ? age : 0;
}

bool catalog_settled(const struct catalog *c)
{
    for (unsigned t = 0; t <= TABLE_DEAD; t++)
        if (!c->tables[t].known && !c->tables[t].trouble[0])
            return false;
    return true;
}

void catalog_dump(const struct catalog *c, struct buf *out)
{
    buf_z(out, "{");
    bool first = true;
    for (unsigned t = 0; t < TABLES; t++) {
        const struct table *table = &c->tables[t];
        const struct snapshot *s = table->now;
        if (t > TABLE_DEAD && !s)
            continue;
        buf_printf(out,
                   "%s\"%s\":{\"table\":\"%s\",\"version\":%lld,\"rows\":%lld,\"files\":%zu,"
                   "\"reads\":%llu,\"checked_ms_ago\":%lld,\"trouble\":",
                   first ? "" : ",", table_names[t], table->name, s ? (long long)s->version : -1,
                   s ? (long long)s->rows : 0, s ? s->files_n : 0, (unsigned long long)table->reads,
                   table->checked_ms ? (long long)(clock_ms() - table->checked_ms) : -1);
        first = false;
        if (table->trouble[0])
            buf_json(out, str_of(table->trouble));
        else
            buf_z(out, "null");
        buf_char(out, '}');
    }
    buf_z(out, "}");
}
