/* app: what every service's main() shares: options, log, signals, drain, admin port, common metrics, accounted memory.
 *
 *   int main(int argc, char **argv) { return app_main(&gateway_app, argc, argv); }
 * Life: options → admin port → start → `ready` → SIGTERM or SIGINT: not ready, drain … app_drained (or drain.timeout passed, or a
 * second signal) → stop → the loop runs until every handle is closed → exit.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/metric.h"
#include "app/option.h"
#include "io/loop.h"

/* Exit codes, as in sysexits. */
enum {
    APP_EXIT_OK = 0,
    APP_EXIT_USAGE = 64,
    APP_EXIT_UNAVAILABLE = 69, /* a dependency is gone for good */
    APP_EXIT_INTERNAL = 70,
    APP_EXIT_OS = 71,     /* bind failed */
    APP_EXIT_CREATE = 73, /* a file or folder cannot be made */
    APP_EXIT_CONFIG = 78
};

/* The options that every service has. */
struct app_common {
    const char *user;         /* whose topics and tables */
    const char *admin_listen; /* host:port */
    const char *log_levels;
    uint64_t memory_max;    /* bytes */
    uint64_t drain_timeout; /* ms */
    uint64_t loop_stall;    /* ms */
};

/* A library for --version and /version. */
struct app_library {
    const char *name;
    const char *(*version)(void);
};

struct app;
struct app_def {
    const char *name;         /* "gateway" */
    const char *summary;      /* one line for --help */
    const char *admin_listen; /* default of admin.listen */
    const char *memory_max;   /* default of memory.max */
    const struct option_def *options;
    size_t config_size;
    const struct metric_def *metrics;    /* may be NULL */
    const struct app_library *libraries; /* up to {0}; may be NULL */
    /* Rules between options: 0 or ERR_CONFIG. Touches nothing outside the process. May be NULL. */
    int (*check)(const void *config, const struct app_common *common, struct err *e);
    /* Opens everything; may go on to connect later (see app_ready_set). On an error the process ends with app_exit_code(rc), after `stop`,
     * which must therefore cope with whatever start left behind (app_state may be NULL). `config` lives as long as the app. */
    int (*start)(struct app *app, void *config, struct err *e);
    /* Takes no more in and finishes what is held, then app_drained. NULL: nothing to do. */
    void (*drain)(struct app *app);
    /* Closes everything at once. Called exactly once if start was called, whatever it returned. Close callbacks may come later: the loop runs on until all is closed. */
    void (*stop)(struct app *app);
    /* Frees what `stop` could not because handles were still closing. After the last handle closed; may be NULL. */
    void (*free)(struct app *app);
    /* Appends JSON members for /debug/state: `"gateway":{…}`, without a comma before or after. May be NULL. */
    void (*dump)(struct app *app, struct buf *out);
};
int app_main(const struct app_def *def, int argc, char **argv);

struct loop *app_loop(const struct app *app);
struct metrics *app_metrics(const struct app *app); /* of def->metrics; NULL without */
const struct app_common *app_common(const struct app *app);
void app_state_set(struct app *app, void *state); /* the service's own; app does nothing with it */
void *app_state(const struct app *app);

/* Ready is when start returned, no check is false, and no drain has begun. The first call with a name makes the check.
 * detail: for people, copied; may be NULL. A change is logged as `check_failed` or `check_passed`. */
void app_ready_set(struct app *app, const char *name, bool ok, const char *detail);
bool app_ready(const struct app *app);
bool app_draining(const struct app *app);
/* The drain is complete. More than once, or without a drain: harmless. */
void app_drained(struct app *app);
/* Logs `event` as an error and ends the process with that code: stop, close, exit. Returns at once; stop runs later. */
void app_fail(struct app *app, int exit_code, const char *event);
/* Which exit code an error of start means. */
int app_exit_code(int rc);
/* The log event `listening`, by which tests and the runner find ports: what ("http", "bus", "admin"). */
void app_listening(const char *what, const char *host, unsigned port);

/* Orders: POST /orders/<name>, a JSON object in, JSON out. The handler answers now or later, once, but not after `stop`; when the client
 * has left meanwhile the answer goes nowhere. body lives until the handler returns. */
struct app_order;
typedef void app_order_fn(void *ctx, struct app_order *order, struct str body);
/* name: constant */
void app_order_on(struct app *app, const char *name, app_order_fn *fn, void *ctx);
void app_order_answer(struct app_order *order, int status, struct str json);
void app_order_error(struct app_order *order, int status, const char *text); /* {"error":"…"} */

/* Accounted memory: bytes of data that wait. budget = memory.max less what the process took when it had started, and less
 * an eighth for what no account sees (allocator, library buffers); never under a quarter of memory.max.
 * A plain struct, so that modules and their tests need no app. */
struct app_memory {
    uint64_t used, peak, budget, max; /* bytes; budget 0: no bound */
    uint64_t refusals;                /* what app_memory_fits refused */
};
struct app_memory *app_memory(struct app *app);
static inline void app_memory_add(struct app_memory *m, uint64_t bytes)
{
    m->used += bytes;
    if (m->used > m->peak)
        m->peak = m->used;
}
static inline void app_memory_sub(struct app_memory *m, uint64_t bytes)
{
    CHECK(m->used >= bytes);
    m->used -= bytes;
}
/* Would `bytes` more stay within the budget? Counts a refusal if not. Nothing is added. */
static inline bool app_memory_fits(struct app_memory *m, uint64_t bytes)
{
    if (!m->budget || (bytes <= m->budget && m->used <= m->budget - bytes))
        return true;
    m->refusals++;
    return false;
}
