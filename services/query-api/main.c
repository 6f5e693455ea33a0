/* query-api: the program: options and wiring.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>

static const struct option_def options[] = {
    {OPTION(LISTEN, "http.listen", struct query_config, http_listen), .def = "127.0.0.1:8080",
     .help = "where questions are taken"},
    {OPTION(BOOL, "http.h2c", struct query_config, h2c), .def = "on", .help = "HTTP/2 without TLS"},
    {OPTION(DURATION, "http.request_timeout", struct query_config, request_timeout), .def = "30s",
     .min = 100, .max = 3600000,
     .help = "for a request to arrive, and for a client to read the next piece of an answer"},
    {OPTION(LIST, "cors.origins", struct query_config, cors_origins), .def = "*",
     .help = "origins whose pages may read answers (*: all)"},
    {OPTION(STR, "lake.url", struct query_config, lake_url), .def = "file:///var/lib/sluice",
     .min = 1, .help = "where the tables are: file:///folder"},
    {OPTION(ADDRESSES, "announce.from", struct query_config, announce_from),
     .def = "127.0.0.1:7710", .help = "writers that announce new versions of tables"},
    {OPTION(DURATION, "poll.interval", struct query_config, poll_interval), .def = "1s", .min = 10,
     .max = 3600000, .help = "how often the tables' logs are looked at, whatever is announced"},
    {OPTION(INT, "query.threads", struct query_config, threads), .def = "2", .min = 1, .max = 256,
     .help = "threads of DuckDB, all questions together"},
    {OPTION(INT, "query.parallel", struct query_config, parallel), .def = "2", .min = 1, .max = 64,
     .help = "questions that run at a time"},
    {OPTION(INT, "query.queue.max", struct query_config, queue_max), .def = "64", .max = 100000,
     .help = "questions that wait; more are refused with 503"},
    {OPTION(DURATION, "query.timeout", struct query_config, timeout), .def = "30s", .min = 1,
     .max = 3600000, .help = "a question that takes longer is given up with 504"},
    {OPTION(INT, "query.rows.max", struct query_config, rows_max), .def = "1000000", .min = 1,
     .max = 1000000000, .help = "an answer with more rows is refused with 422"},
    {OPTION(SIZE, "query.memory", struct query_config, memory), .def = "128MiB", .min = 1 << 20,
     .help = "memory of DuckDB; beyond it questions spill to disk"},
    {OPTION(SIZE, "answer.max", struct query_config, answer_max), .def = "16MiB", .min = 4096,
     .max = 1 << 30, .help = "a larger answer is refused with 422"},
    {OPTION(STR, "spill.dir", struct query_config, spill_dir), .def = "",
     .help = "folder for what questions spill (empty: the system's for temporary files)"},
    {OPTION(SIZE, "spill.max", struct query_config, spill_max), .def = "1GiB",
     .help = "size of what questions spill; beyond it 507"},
    {OPTION(SIZE, "body.max", struct query_config, body_max), .def = "64KiB", .max = 1 << 26,
     .help = "a larger request body is refused with 413"},
    {OPTION(SIZE, "headers.max", struct query_config, headers_max), .def = "16KiB", .min = 1024,
     .max = 1 << 20, .help = "a larger request head is refused with 431"},
    {OPTION(INT, "connections.max", struct query_config, connections_max), .def = "1000", .min = 1,
     .max = 100000, .help = "connections; beyond it accepting waits"},
    {0}};

struct query {
    struct app *app;
    struct store *store;
    struct runner *runner;
    struct catalog *catalog;
    struct api *api;
};

static int check(const void *config, const struct app_common *common, struct err *e)
{
    const struct query_config *c = config;
    uint64_t need = c->memory + (uint64_t)c->parallel * c->answer_max + (32u << 20);
    if (common->memory_max < need)
        return err_set(e, ERR_CONFIG,
                       "memory.max: query.memory, query.parallel times answer.max and 32MiB need "
                       "%llu bytes at least",
                       (unsigned long long)need);
    return 0;
}

int query_start(struct app *app, void *config, struct err *e)
{
    struct query_config *c = config;
    struct query *q = MEM_NEW(struct query);
    struct duck_conn *conn = NULL;
    q->app = app;
    app_state_set(app, q);
    /* The questions, the catalog, and two for look-ups of names and files. Nothing has used the pool yet. */
    char threads[32];
    snprintf(threads, sizeof threads, "%lld", (long long)c->parallel + 3);
    /* fails only without memory: then the pool has its default of 4 */
    (void)setenv("UV_THREADPOOL_SIZE", threads, 0);
    int rc = store_open_read(c->lake_url, &q->store, e);
    rc = rc ? rc : runner_open(app, c, q->store, &q->runner, e);
    rc = rc ? rc : runner_connect(q->runner, &conn, e);
    if (rc)
        return rc;
    q->catalog = catalog_open(app, c, q->store, conn, runner_trash(q->runner), e);
    if (!q->catalog)
        return ERR_CONFIG;
    return api_open(app, c, q->catalog, q->runner, &q->api, e);
}

void query_drain(struct app *app)
{
    api_drain(((struct query *)app_state(app))->api);
}

void query_stop(struct app *app)
{
    struct query *q = app_state(app);
    if (!q)
        return;
    api_close(q->api);
    catalog_close(q->catalog);
    runner_stop(q->runner);
}

void query_free(struct app *app)
{
    struct query *q = app_state(app);
    if (!q)
        return;
    api_free(&q->api);
    catalog_free(&q->catalog);
    runner_free(&q->runner);
    store_close(&q->store);
    mem_free(q);
}

void query_dump(struct app *app, struct buf *out)
{
    const struct query *q = app_state(app);
    buf_z(out, "\"query-api\":{\"tables\":");
    catalog_dump(q->catalog, out);
    buf_printf(out, ",\"running\":%u,\"waiting\":%u,\"duckdb_bytes\":%zu}",
               runner_running(q->runner), runner_waiting(q->runner), runner_duck_bytes(q->runner));
}

static const struct app_def query_app = {.name = "query-api",
                                         .summary =
                                             "answers questions about posts from the Delta tables",
                                         .admin_listen = "127.0.0.1:9105",
                                         .memory_max = "256MiB",
                                         .options = options,
                                         .config_size = sizeof(struct query_config),
                                         .metrics = query_metrics,
                                         .check = check,
                                         .start = query_start,
                                         .drain = query_drain,
                                         .stop = query_stop,
                                         .free = query_free,
                                         .dump = query_dump};

int main(int argc, char **argv)
{
    return app_main(&query_app, argc, argv);
}
