/* app: the life of a service's process.
 *
 * state      begins with            ends with
 * starting   app_main               start returned
 * running    start returned         SIGTERM, SIGINT, app_fail
 * draining   the first signal       app_drained, drain.timeout, the second signal
 * stopping   app_stop               every handle closed, or STOP_TIMEOUT
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "app"
#include "app/app_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { TICK_MS = 100, STOP_TIMEOUT_MS = APP_SANITIZED ? 30000 : 5000 };

struct loop *app_loop(const struct app *app)
{
    return app->loop;
}

struct metrics *app_metrics(const struct app *app)
{
    return app->metrics;
}

const struct app_common *app_common(const struct app *app)
{
    return &app->common;
}

void app_state_set(struct app *app, void *state)
{
    app->state = state;
}

void *app_state(const struct app *app)
{
    return app->state;
}

struct app_memory *app_memory(struct app *app)
{
    return &app->memory;
}

bool app_draining(const struct app *app)
{
    return app->draining;
}

void app_listening(const char *what, const char *host, unsigned port)
{
    LOG(INFO, "listening", KV_STR("what", what), KV_STR("address", host), KV_INT("port", port));
}

int app_exit_code(int rc)
{
    switch (rc) {
    case 0:
        return APP_EXIT_OK;
    case ERR_USAGE:
        return APP_EXIT_USAGE;
    case ERR_CONFIG:
        return APP_EXIT_CONFIG;
    case ERR_UNAVAILABLE:
    case ERR_TIMEOUT:
    case ERR_FATAL:
        return APP_EXIT_UNAVAILABLE;
    case ERR_IO:
    case ERR_NOSPACE:
    case ERR_DENIED:
        return APP_EXIT_CREATE;
    default: /* what lies above ours are errno codes that libuv passed on */
        return rc > -10000 ? APP_EXIT_OS : APP_EXIT_INTERNAL;
    }
}

/* Readiness */

bool app_ready(const struct app *app)
{
    if (!app->started || app->draining || app->stopping)
        return false;
    for (unsigned i = 0; i < app->checks_n; i++) {
        if (!app->checks[i].ok)
            return false;
    }
    return true;
}

static void say_ready(struct app *app)
{
    if (app->was_ready || !app_ready(app))
        return;
    app->was_ready = true;
    LOG(INFO, "ready", KV_INT("after_ms", clock_ms() - app->started_ms));
}

void app_ready_set(struct app *app, const char *name, bool ok, const char *detail)
{
    struct app_check *c = app->checks, *end = c + app->checks_n;
    while (c < end && strcmp(c->name, name) != 0)
        c++;
    bool is_new = c == end;
    if (is_new) {
        CHECK(app->checks_n < APP_CHECKS_MAX);
        app->checks_n++;
        c->name = mem_strdup(name);
    }
    char *text = mem_strdup(detail ? detail : "");
    mem_free(c->detail);
    c->detail = text;
    if (!is_new && c->ok == ok)
        return;
    c->ok = ok;
    c->since_ms = clock_wall_ms();
    /* The first word about a check is no change, and most begin as false. */
    if (!is_new && ok)
        LOG(INFO, "check_passed", KV_STR("check", name), KV_STR("detail", text));
    else if (!is_new)
        LOG(WARN, "check_failed", KV_STR("check", name), KV_STR("detail", text));
    say_ready(app);
}

/* End */

static void on_stop(void *ctx)
{
    struct app *app = ctx;
    app->stopped = true;
    app->stop_deadline_ms = clock_ms() + STOP_TIMEOUT_MS;
    loop_timer_stop(&app->drain_timer);
    loop_defer_cancel(&app->drain_call);
    if (app->start_called)
        app->def->stop(app);
    app_admin_close(app);
    uv_close((uv_handle_t *)&app->term, NULL);
    uv_close((uv_handle_t *)&app->intr, NULL);
    uv_close((uv_handle_t *)&app->usr1, NULL);
}

static void app_stop(struct app *app)
{
    if (app->stopping)
        return;
    app->stopping = true;
    loop_defer(app->loop, &app->stop_call, on_stop, app);
}

void app_fail(struct app *app, int exit_code, const char *event)
{
    LOG(ERROR, event, KV_INT("exit_code", exit_code));
    if (app->exit_code == APP_EXIT_OK)
        app->exit_code = exit_code;
    app_stop(app);
}

void app_drained(struct app *app)
{
    if (!app->draining || app->drained)
        return;
    app->drained = true;
    app_stop(app);
}

static void on_drain_timeout(void *ctx)
{
    struct app *app = ctx;
    LOG(WARN, "drain_timed_out", KV_INT("after_ms", app->common.drain_timeout));
    app_stop(app);
}

static void on_drain(void *ctx)
{
    struct app *app = ctx;
    if (app->def->drain)
        app->def->drain(app);
    else
        app_drained(app);
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct app *app = signal->data;
    if (number == SIGUSR1) {
        struct buf state;
        buf_init(&state, APP_DUMP_MAX);
        app_dump(app, &state);
        LOG(INFO, "state_dumped", KV_SLICE("state", buf_as_str(&state)));
        buf_deinit(&state);
    } else if (app->draining) {
        LOG(WARN, "drain_cut_short", KV_STR("signal", strsignal(number)));
        app_stop(app);
    } else {
        LOG(INFO, "draining", KV_STR("signal", strsignal(number)));
        app->draining = true; /* before the service hears of it: /readyz says 503 from here on */
        loop_timer_start(app->loop, &app->drain_timer, app->common.drain_timeout, on_drain_timeout,
                         app);
        loop_defer(app->loop, &app->drain_call, on_drain, app);
    }
}

/* Run */

static void on_tick(uv_timer_t *timer)
{
    struct app *app = timer->data;
    uint64_t now = clock_us(), gap = now - app->last_tick_us;
    if (now - app->seen_us > app->longest_gap_us)
        app->longest_gap_us = now - app->seen_us;
    app->last_tick_us = app->seen_us = now;
    double lag = ((double)gap - TICK_MS * 1000.0) / 1e6;
    app_observe_lag(app, lag > 0 ? lag : 0);
    if (app->stopped && clock_ms() > app->stop_deadline_ms)
        loop_stop(app->loop);
}

static void watch_signal(struct app *app, uv_signal_t *s, int number)
{
    CHECK(uv_signal_init(loop_uv(app->loop), s) == 0);
    s->data = app;
    CHECK(uv_signal_start(s, on_signal, number) == 0);
}

static void set_budget(struct app *app)
{
    struct app_memory *m = &app->memory;
    /* A sanitizer's shadow is no memory of ours. */
    uint64_t base = APP_SANITIZED ? m->max / 4 : app_resident_bytes(), taken = base + m->max / 8;
    m->budget = taken < m->max - m->max / 4 ? m->max - taken : m->max / 4;
    if (taken > m->max - m->max / 4)
        LOG(WARN, "memory_tight", KV_INT("max", m->max), KV_INT("at_start", base));
}

static void run(struct app *app)
{
    struct err e = {0};
    app->loop = loop_new();
    app->common_metrics = app_common_metrics_new(app);
    if (app->def->metrics)
        app->metrics = metrics_new(app->def->metrics);
    watch_signal(app, &app->term, SIGTERM);
    watch_signal(app, &app->intr, SIGINT);
    watch_signal(app, &app->usr1, SIGUSR1);
    app->last_tick_us = app->seen_us = clock_us();
    (void)uv_timer_init(loop_uv(app->loop), &app->tick); /* both never fail with a callback */
    app->tick.data = app;
    (void)uv_timer_start(&app->tick, on_tick, TICK_MS, TICK_MS);
    uv_unref((uv_handle_t *)&app->tick);
    int rc = app_admin_open(app, &e);
    if (rc == 0) {
        app->start_called = true;
        rc = app->def->start(app, app->config, &e);
    }
    if (rc < 0) {
        LOG(ERROR, "start_failed", KV_ERR(rc), KV_STR("detail", e.text));
        if (app->exit_code == APP_EXIT_OK)
            app->exit_code = app_exit_code(rc);
        app_stop(app);
    } else {
        app->started = true;
        app->last_tick_us = app->seen_us = clock_us(); /* start may take its time */
        set_budget(app);
        say_ready(app);
    }
    loop_run(app->loop);
}

static void finish(struct app *app)
{
    uv_close((uv_handle_t *)&app->tick, NULL);
    if (app->def->free && app->start_called)
        app->def->free(app);
    metrics_free(&app->metrics);
    metrics_free(&app->common_metrics);
    LOG(INFO, "stopped", KV_INT("exit_code", app->exit_code),
        KV_INT("uptime_ms", clock_ms() - app->started_ms));
    int left = loop_free(&app->loop);
#ifdef SLUICE_CRASH_POINTS
    CHECK(left == 0);
#else
    CHECK(left == 0 || !APP_SANITIZED);
#endif
    if (left) /* what still runs in a thread must not meet the end of main */
        _exit(app->exit_code);
    for (unsigned i = 0; i < app->checks_n; i++) {
        mem_free(app->checks[i].name);
        mem_free(app->checks[i].detail);
    }
}

static void set_up_process(void)
{
    signal(SIGPIPE, SIG_IGN);
#if !APP_SANITIZED
    /* Memory holds secrets and people's data: no core files, no debugger of another user. The leak checker needs both. */
    (void)prctl(PR_SET_DUMPABLE, 0); /* refused: then it stays as it was */
#endif
    /* Freed memory goes back to the system, so that memory.max means something. */
    (void)mallopt(M_ARENA_MAX, 2);
    (void)mallopt(M_MMAP_THRESHOLD, 512 << 10);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

/* Options */

static int refuse(const struct app_def *def, int rc, const struct err *e)
{
    fprintf(stderr, "%s: %s\n", def->name, e->text);
    if (rc == ERR_USAGE)
        fprintf(stderr, "Try '%s --help'.\n", def->name);
    return app_exit_code(rc);
}

static int check_common(const struct app_common *c, struct err *e)
{
    for (const char *p = c->user; *p; p++) {
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
              *p == '-' || *p == '_'))
            return err_set(e, ERR_CONFIG, "user: '%s': letters, digits, - and _ only", c->user);
    }
    if (log_set_levels(str_of(c->log_levels)) < 0)
        return err_set(e, ERR_CONFIG,
                       "log.levels: '%s': levels are error, warn, info, debug, trace: "
                       "info,kafka=debug",
                       c->log_levels);
    return 0;
}

static int print_and_exit(const struct app_def *def, const struct option_set *sets,
                          const struct options *o, enum option_action action)
{
    struct buf out;
    buf_init(&out, APP_DUMP_MAX);
    switch (action) {
    case OPTION_SHOW_HELP:
        option_help(sets, def->name, def->summary, &out);
        break;
    case OPTION_SHOW_VERSION:
        app_version_text(def, false, &out);
        break;
    case OPTION_SHOW_VERSION_JSON:
        app_version_text(def, true, &out);
        buf_char(&out, '\n');
        break;
    case OPTION_CHECK:
        buf_z(&out, "the configuration is valid\n");
        break;
    case OPTION_PRINT:
    case OPTION_PRINT_SOURCES:
        option_print(o, action == OPTION_PRINT_SOURCES, &out);
        break;
    case OPTION_DUMP_OPTIONS:
        option_markdown(sets, &out);
        break;
    case OPTION_DUMP_METRICS: {
        metrics_markdown(app_common_defs, &out);
        struct buf own;
        buf_init(&own, APP_DUMP_MAX);
        if (def->metrics) {
            metrics_markdown(def->metrics, &own);
            /* One table: the second one's two head lines are left out. */
            const char *rows = strchr(strchr(own.data, '\n') + 1, '\n') + 1;
            buf_z(&out, rows);
        }
        buf_deinit(&own);
        break;
    }
    case OPTION_RUN:
        break;
    }
    bool ok = fwrite(out.data, 1, out.len, stdout) == out.len && fflush(stdout) == 0;
    buf_deinit(&out);
    return ok ? APP_EXIT_OK : APP_EXIT_OS;
}

static int run_or_print(struct app *app, const struct option_set *sets, enum option_action action)
{
    const struct app_def *def = app->def;
    bool reads = action == OPTION_RUN || action == OPTION_CHECK || action == OPTION_PRINT ||
                 action == OPTION_PRINT_SOURCES;
    struct err e = {0};
    int rc = reads ? check_common(&app->common, &e) : 0;
    if (rc == 0 && reads && def->check)
        rc = def->check(app->config, &app->common, &e);
    if (rc < 0)
        return refuse(def, rc, &e);
    for (size_t i = 0; option_warning(app->options, i); i++) {
        if (action == OPTION_RUN)
            LOG(WARN, "config_warning", KV_STR("detail", option_warning(app->options, i)));
        else if (reads)
            fprintf(stderr, "%s: warning: %s\n", def->name, option_warning(app->options, i));
    }
    if (action != OPTION_RUN)
        return print_and_exit(def, sets, app->options, action);
    app->memory.max = app->common.memory_max;
    set_up_process();
    run(app);
    finish(app);
    return app->exit_code;
}

int app_main(const struct app_def *def, int argc, char **argv)
{
    /* Before the pool's first job: DNS, files, DuckDB and questions to Kafka share it. */
    setenv("UV_THREADPOOL_SIZE", "8", 0);
    struct app app = {.def = def, .started_ms = clock_ms(), .started_wall_ms = clock_wall_ms()};
    const struct option_def common[] = {
        {OPTION(STR, "user", struct app_common, user), .def = "demo", .min = 1, .max = 64,
         .help = "whose topics and tables: the first part of their names"},
        {OPTION(LISTEN, "admin.listen", struct app_common, admin_listen), .def = def->admin_listen,
         .help = "address of /livez, /readyz, /metrics, /version, /debug/state and /orders"},
        {OPTION(STR, "log.levels", struct app_common, log_levels), .def = "info",
         .help = "error, warn, info, debug or trace; module=level for one module; commas between"},
        {OPTION(SIZE, "memory.max", struct app_common, memory_max), .def = def->memory_max,
         .min = 16 << 20, .help = "the process stays below: beyond it data is refused or paused"},
        {OPTION(DURATION, "drain.timeout", struct app_common, drain_timeout), .def = "10s",
         .max = 3600000, .help = "longest time between SIGTERM and the end"},
        {OPTION(DURATION, "loop.stall", struct app_common, loop_stall), .def = "30s", .min = 100,
         .help = "/livez fails once when the event loop stood still for longer"},
        {0}};
    list_init(&app.open_orders);
    log_init(def->name);
    app.config = mem_alloc(def->config_size);
    const struct option_set sets[] = {{common, &app.common}, {def->options, app.config}, {0}};
    enum option_action action;
    struct err e = {0};
    int rc = option_load(sets, argc, argv, environ, &app.options, &action, &e);
    int code = rc < 0 ? refuse(def, rc, &e) : run_or_print(&app, sets, action);
    option_free(&app.options);
    mem_free(app.config);
    return code;
}
