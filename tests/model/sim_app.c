/* sim_app: app/app.h for a node of the model, and the parts of the world that the sink only opens: store, DuckDB, jobs, bus.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/mem.h"
#include "io/bus.h"
#include "io/duck.h"
#include "io/work.h"
#include "lake/store.h"
#include <string.h>

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

void app_ready_set(struct app *app, const char *name, bool ok, const char *detail)
{
    (void)app, (void)detail;
    /* A hole is reported: right only where unread spans were deleted behind our back. */
    if (!strcmp(name, "holes") && !ok && !W->clean_deleted)
        W->false_alarm++;
}

bool app_draining(const struct app *app)
{
    return app->draining;
}

void app_drained(struct app *app)
{
    (void)app;
}

void app_fail(struct app *app, int exit_code, const char *event)
{
    say("node %d fails: %s (%d)", app->index, event, exit_code);
    app->failed = true;
}

void app_listening(const char *what, const char *host, unsigned port)
{
    (void)what, (void)host, (void)port;
}

void app_order_on(struct app *app, const char *name, app_order_fn *fn, void *ctx)
{
    (void)app, (void)name, (void)fn, (void)ctx;
}

void app_order_answer(struct app_order *order, int status, struct str json)
{
    (void)order, (void)status, (void)json;
}

void app_order_error(struct app_order *order, int status, const char *text)
{
    (void)order, (void)status, (void)text;
}

struct app_memory *app_memory(struct app *app)
{
    return &app->memory;
}

/* ---------------------------------------------------------------- opened, never asked */

int store_open(const char *url, struct store **ret, struct err *e)
{
    (void)url, (void)e;
    *ret = NULL;
    return 0;
}

void store_close(struct store **s)
{
    (void)s;
}

int duck_open(const struct duck_setting *settings, struct duck **ret, struct err *e)
{
    (void)settings, (void)e;
    *ret = NULL;
    return 0;
}

void duck_close(struct duck **d)
{
    (void)d;
}

struct work *work_open(struct loop *loop, unsigned max_running, unsigned max_waiting)
{
    (void)loop, (void)max_running, (void)max_waiting;
    return NULL;
}

void work_close(struct work **work)
{
    (void)work;
}

int bus_pub_open(struct loop *loop, const char *listen, struct bus_pub **ret, struct err *e)
{
    (void)loop, (void)listen, (void)e;
    *ret = NULL;
    return 0;
}

void bus_pub_close(struct bus_pub **p)
{
    (void)p;
}

unsigned bus_pub_port(const struct bus_pub *p)
{
    (void)p;
    return 0;
}

void bus_pub_send(struct bus_pub *p, struct str msg)
{
    (void)p, (void)msg;
}
