/* query-api: answers the nine questions from the Delta tables, over HTTP.
 *
 * api*.c      routes, formats, validators and errors: what a client sees (see api.h)
 * openapi.c   the same routes, described
 * question.c  the questions: their SQL, columns and parameters; reads a request into a `struct ask`
 * accept.c    header fields with lists: what a client takes, what it has
 * catalog.c   follows the logs of the tables; hands out snapshots (snapshot.c: one version of one table)
 * runner*.c   runs asks in worker threads on DuckDB, with limits (see runner_priv.h)
 * cache.c     what is worked out once per table version: which rows are not the newest of their key
 * answer.c    rows into JSON, NDJSON and CSV
 * metrics.c   what is counted
 * Threads: loop only, but for functions that end in _mt.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "io/duck.h"
#include "io/httpd.h"
#include "lake/delta.h"
#include <pthread.h>
#include <stdatomic.h>

struct query_config {
    const char *http_listen, *cors_origins, *lake_url, *announce_from, *spill_dir;
    uint64_t poll_interval, timeout, request_timeout;              /* ms */
    uint64_t memory, spill_max, body_max, headers_max, answer_max; /* bytes */
    int64_t threads, parallel, rows_max, queue_max, connections_max;
    bool h2c;
};

enum query_metric {
    M_REQUESTS,
    M_SECONDS,
    M_IN_FLIGHT,
    M_CONNECTIONS,
    M_REJECTED,
    M_QUERY_SECONDS,
    M_QUERY_ROWS,
    M_CANCELLED,
    M_REVALIDATIONS,
    M_RUNNING,
    M_WAITING,
    M_NEWEST,
    M_VERSION,
    M_ROWS,
    M_FILES,
    M_COMMITTED,
    M_AGE,
    M_READS,
    M_REFRESHES,
    M_REFRESH_FAILURES,
    M_ANNOUNCEMENTS,
    M_PUBLISHERS,
    M_DUCK_MEMORY,
    M_DUCK_MEMORY_MAX
};
extern const struct metric_def query_metrics[];

/* ---- tables ---- */

/* The batch tables stand in the same order as the stream's. */
enum table_id {
    TABLE_PIN,
    TABLE_GEO,
    TABLE_USER,
    TABLE_DEAD,
    TABLE_BATCH_PIN,
    TABLE_BATCH_GEO,
    TABLE_BATCH_USER,
    TABLES
};
#define ASKED_TABLES 3                        /* what a question may read: pin, geo, user */
extern const char *const table_names[TABLES]; /* "pin", …, "batch-user" */

enum newest_state { NEWEST_UNKNOWN, NEWEST_ALL, NEWEST_LOSERS }; /* ALL: no key has two rows */
struct trash;
/* One version of one table. Never changes after it was made, but for what cache.c works out once. Counted by its users. */
struct snapshot {
    atomic_int refs;
    enum table_id table;
    int64_t version, rows, commit_time_ms; /* rows -1: not known */
    uint64_t bytes;
    char *id, *schema;
    size_t files_n;
    char **files; /* local paths, in the order they were added */
    pthread_mutex_t newest_lock;
    enum newest_state newest;
    uint64_t losers; /* number of the DuckDB table that lists them */
    struct trash *trash;
};
struct snapshot *snapshot_make_mt(struct store *store, const struct delta *d, enum table_id table,
                                  struct trash *trash);
struct snapshot *snapshot_ref_mt(struct snapshot *s);
void snapshot_unref_mt(struct snapshot **s); /* NULL is fine */

/* ---- catalog ---- */

struct catalog;
struct table_view {            /* what is known of a table now */
    struct snapshot *snapshot; /* not counted for the caller; NULL: no such table */
    bool known;                /* the log was read, or found to be absent, at least once */
    uint64_t checked_ms;       /* clock_ms of the last time that it was; 0: never */
    const char *trouble;       /* why the last try failed; NULL: it did not */
};
typedef void catalog_change_fn(void *ctx, enum table_id table);
/* `conn` reads checkpoints in the catalog's own thread; `store` is shared. Both outlive catalog_free. */
struct catalog *catalog_open(struct app *app, const struct query_config *config,
                             struct store *store, struct duck_conn *conn, struct trash *trash,
                             struct err *e);
void catalog_close(struct catalog *c); /* no more reading; what runs ends by itself */
void catalog_free(struct catalog **c); /* after the loop */
void catalog_get(const struct catalog *c, enum table_id table, struct table_view *ret);
/* Something in the table's snapshot is not to be had: reads its log from nothing. */
void catalog_doubt(struct catalog *c, enum table_id table);
/* Milliseconds since the state of the table was known to be the latest, when that is longer than following needs; else 0. */
uint64_t catalog_age_ms(const struct catalog *c, enum table_id table);
bool catalog_settled(const struct catalog *c); /* every stream table was looked at once */
void catalog_dump(const struct catalog *c, struct buf *out);

/* ---- questions ---- */

enum format { FORMAT_JSON, FORMAT_NDJSON, FORMAT_CSV, FORMATS };
extern const char *const format_names[FORMATS];
extern const char *const format_types[FORMATS]; /* media types as sent */

enum param_id {
    PARAM_FROM,
    PARAM_TO,
    PARAM_DEDUP,
    PARAM_MEDIAN,
    PARAM_TOP,
    PARAM_DISTINCT,
    PARAM_LIMIT,
    PARAM_VERSION,
    PARAM_TABLES,
    PARAM_FORMAT,
    PARAMS
};
struct param_def {
    const char *name, *help;
    /* a closed set, up to NULL; the first is the default; NULL: a number or the version's form */
    const char *const *values;
    int64_t min, max; /* of a number */
    const char *example;
};
extern const struct param_def param_defs[PARAMS];

#define QUESTION_MAX_COLUMNS 4
struct question {
    const char *name, *title;
    struct {
        const char *name, *type;
    } columns[QUESTION_MAX_COLUMNS]; /* up to a NULL name */
    unsigned tables;                 /* bit (1 << TABLE_PIN), … */
    unsigned params;                 /* bit (1 << PARAM_FROM), …, without those that all have */
    int from, to;                    /* defaults */
    bool left_out;                   /* the SQL ends in a column _left_out: see runner.c */
    const char *sql, *sql_end;
};
#define QUESTIONS 9
extern const struct question questions[QUESTIONS];
const struct question *question_by_name(struct str name); /* NULL: none */
bool question_takes(const struct question *q, enum param_id param);

/* A question with its parameters, all of them set. */
struct ask {
    const struct question *question;
    int64_t from, to, limit; /* limit -1: none */
    bool dedup_off, top, person, lower, batch, format_given;
    enum format format;
    int64_t versions[ASKED_TABLES]; /* -1: the latest */
};
/* What was wrong with a request, for its problem: which parameter, and the texts that are allowed in its place. */
struct ask_fault {
    const char *param; /* NULL: the name itself is unknown */
    char name[64];     /* as sent, cut */
    char detail[256];
};
/* Reads a query string. 0 or ERR_BAD_DATA with *fault. */
int ask_parse(struct ask *ask, const struct question *q, struct str query, struct ask_fault *fault);
/* The parameters that say something, in a fixed order: what an answer depends on besides the tables. */
void ask_canonical(const struct ask *ask, struct buf *out);

/* ---- header fields ---- */

/* The best of `offered` (a bit set of formats) for an Accept field (p NULL: anything goes); -1: none. */
int format_accepted(struct str accept, unsigned offered);
/* Whether an If-None-Match field names the (weak) tag: compared are the texts between the quotes. */
bool etag_matches(struct str field, const char *etag);

/* ---- answers ---- */

struct answer { /* a growing text in one format */
    enum format format;
    struct buf *out;
    const struct duck_rows *rows;
    unsigned columns;
    int64_t n;
};
void answer_begin(struct answer *a, enum format format, struct buf *out,
                  const struct duck_rows *rows, unsigned columns);
void answer_row(struct answer *a);
/* `statistics`: JSON members without their braces; only JSON carries them. */
void answer_end(struct answer *a, struct str statistics);
void answer_csv_text(struct buf *out, struct str s);
void answer_timestamp(struct buf *out, int64_t us, bool quoted);

/* ---- what is worked out once per version ---- */

/* DuckDB tables that no snapshot needs any more, to be dropped by whoever has a connection. Outlives all snapshots. */
struct trash *trash_new_mt(void);
void trash_free_mt(struct trash **t);
uint64_t trash_number_mt(struct trash *t);   /* a name that was never used */
uint64_t trash_searches_mt(struct trash *t); /* how often newest_find_mt had to look */
void trash_put_mt(struct trash *t, uint64_t losers);
void trash_empty_mt(struct trash *t, struct duck_conn *c);
/* Finds out which rows of the snapshot are not the newest of their key, if that is not known yet. The variable `<table>_files` of the
 * connection names its files. */
int newest_find_mt(struct snapshot *s, const char *variable, struct duck_conn *c, struct err *e);

/* ---- runner ---- */

struct runner;
struct run; /* one ask on its way */
enum run_end { RUN_OK, RUN_TIMEOUT, RUN_LEFT, RUN_STOPPED, RUN_FAILED };
struct run_result {
    enum run_end end;
    int rc; /* of RUN_FAILED */
    const char *text;
    int failed_table; /* whose version or file was not to be had; -1: none */
    struct buf *out;  /* the answer; the callee may steal its bytes */
    int64_t rows;
    uint64_t elapsed_us;
    /* what was read; NULL: no such table, or not asked for */
    struct snapshot *snapshots[ASKED_TABLES];
};
typedef void run_done_fn(void *ctx, const struct run_result *res);
int runner_open(struct app *app, const struct query_config *config, struct store *store,
                struct runner **ret, struct err *e);
/* ends all runs without their callbacks; interrupts what runs */
void runner_stop(struct runner *r);
void runner_free(struct runner **r); /* after the loop */
struct trash *runner_trash(struct runner *r);
/* for the catalog; the runner closes it */
int runner_connect(struct runner *r, struct duck_conn **ret, struct err *e);
/* `snapshots` (by ASKED_TABLES; NULL: no such table, or a version to be read first) are counted by the runner itself. done runs
 * once, later; ERR_BUSY: the queue is full, and done never runs. */
int runner_start(struct runner *r, const struct ask *ask,
                 struct snapshot *const snapshots[ASKED_TABLES], uint64_t data_age_ms,
                 run_done_fn *done, void *ctx, struct run **ret);
/* done will not run; what waits is taken out, what runs is interrupted. NULL is fine. Sets *run to NULL. */
void runner_cancel(struct runner *r, struct run **run);
unsigned runner_running(const struct runner *r);
unsigned runner_waiting(const struct runner *r);
/* as of the end of a run; looked at once a second */
size_t runner_duck_bytes(const struct runner *r);

/* ---- the service ---- */

enum route_id { ROUTE_QUESTIONS, ROUTE_QUESTION, ROUTE_TABLES, ROUTE_TABLE, ROUTE_OPENAPI, ROUTES };
struct route {
    const char *name;           /* in metrics, and as OpenAPI's operationId */
    const char *path;           /* up to the last segment, if that is a parameter */
    const char *path_parameter; /* NULL: none */
    const char *summary;
};
extern const struct route routes[ROUTES];
/* Every kind of problem that the API answers with. */
enum problem {
    PROBLEM_UNKNOWN_PARAMETER,
    PROBLEM_BAD_VALUE,
    PROBLEM_NOT_FOUND,
    PROBLEM_UNKNOWN_QUESTION,
    PROBLEM_UNKNOWN_TABLE,
    PROBLEM_NO_SUCH_TABLE,
    PROBLEM_METHOD,
    PROBLEM_NOT_ACCEPTABLE,
    PROBLEM_VERSION_GONE,
    PROBLEM_TOO_MANY_ROWS,
    PROBLEM_OUT_OF_MEMORY,
    PROBLEM_SPILL_FULL,
    PROBLEM_TIMEOUT,
    PROBLEM_BUSY,
    PROBLEM_STARTING,
    PROBLEM_TABLE_UNAVAILABLE,
    PROBLEM_DRAINING,
    PROBLEM_INTERNAL,
    PROBLEM_REQUEST, /* what httpd refuses itself */
    PROBLEMS
};
struct problem_def {
    const char *type, *title;
    int status;
};
extern const struct problem_def problem_defs[PROBLEMS];

struct api;
int api_open(struct app *app, const struct query_config *config, struct catalog *catalog,
             struct runner *runner, struct api **ret, struct err *e);
void api_drain(struct api *a); /* calls app_drained when the last request is answered */
void api_close(struct api *a);
void api_free(struct api **a); /* after the loop */
void openapi_write(struct buf *out);

int query_start(struct app *app, void *config, struct err *e);
void query_drain(struct app *app);
void query_stop(struct app *app);
void query_free(struct app *app);
void query_dump(struct app *app, struct buf *out);
