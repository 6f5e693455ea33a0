/* app_admin: the admin port: liveness, readiness, metrics, version, state, and orders.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "admin"
#include "app/app_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define JSON_TYPE "application/json"
#define TEXT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define OPENMETRICS_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

struct app_order {
    struct list node;        /* in app->open_orders */
    struct httpd_call *call; /* NULL: the client left */
    const char *name;
};

/* Sends what `body` holds and empties it. */
static void answer(struct httpd_call *call, int status, const char *type, struct buf *body)
{
    struct httpd_answer a = {.status = status, .content_type = type};
    a.headers[0].name = "cache-control";
    a.headers[0].value = STR("no-store");
    size_t n;
    a.body_owned = buf_steal(body, &n);
    a.body = str_make(a.body_owned, n);
    httpd_answer(call, &a);
}

static void put_error(struct buf *body, const char *text)
{
    buf_z(body, "{\"error\":");
    buf_json(body, str_of(text));
    buf_z(body, "}\n");
}

static void answer_error(struct httpd_call *call, int status, const char *text)
{
    struct buf body;
    buf_init(&body, 65536);
    put_error(&body, text);
    answer(call, status, JSON_TYPE, &body);
}

/* Live means that the loop turns. It turned just now, or nobody would read this: what tells is the longest time that it
 * did not, since somebody asked last. */
static int livez(struct app *app, struct buf *body)
{
    uint64_t gap = clock_us() - app->seen_us;
    if (gap < app->longest_gap_us)
        gap = app->longest_gap_us;
    app->longest_gap_us = 0;
    app->seen_us = clock_us();
    bool live = gap / 1000 <= app->common.loop_stall;
    buf_printf(body, "{\"live\":%s,\"longest_stall_ms\":%llu}\n", live ? "true" : "false",
               (unsigned long long)(gap / 1000));
    return live ? 200 : 503;
}

static void put_checks(const struct app *app, struct buf *body)
{
    buf_printf(body, "{\"ready\":%s,\"state\":\"%s\",\"checks\":[",
               app_ready(app) ? "true" : "false",
               app->draining  ? "draining"
               : app->started ? "running"
                              : "starting");
    for (unsigned i = 0; i < app->checks_n; i++) {
        const struct app_check *c = &app->checks[i];
        char since[25];
        clock_rfc3339(c->since_ms, since);
        buf_z(body, i ? ",{\"name\":" : "{\"name\":");
        buf_json(body, str_of(c->name));
        buf_printf(body, ",\"ok\":%s,\"since\":\"%s\",\"detail\":", c->ok ? "true" : "false",
                   since);
        buf_json(body, str_of(c->detail ? c->detail : ""));
        buf_char(body, '}');
    }
    buf_z(body, "]}");
}

void app_dump(struct app *app, struct buf *out)
{
    buf_printf(
        out,
        "{\"service\":\"%s\",\"uptime_ms\":%llu,\"loop_turns\":%llu,"
        "\"memory\":{\"used\":%llu,\"peak\":%llu,\"budget\":%llu,\"max\":%llu,\"refusals\":%llu},"
        "\"readiness\":",
        app->def->name, (unsigned long long)(clock_ms() - app->started_ms),
        (unsigned long long)loop_turns(app->loop), (unsigned long long)app->memory.used,
        (unsigned long long)app->memory.peak, (unsigned long long)app->memory.budget,
        (unsigned long long)app->memory.max, (unsigned long long)app->memory.refusals);
    put_checks(app, out);
    /* Before start has returned there may be nothing to look at. */
    if (app->def->dump && app->started && !app->stopped) {
        buf_char(out, ',');
        size_t before = out->len;
        app->def->dump(app, out);
        if (out->len == before && !out->overflow)
            out->data[--out->len] = 0;
    }
    buf_z(out, "}\n");
}

static void answer_metrics(struct app *app, struct httpd_call *call,
                           const struct httpd_request *req)
{
    struct str accept = httpd_header(req, "accept");
    bool openmetrics =
        accept.n && memmem(accept.p, accept.n, "application/openmetrics-text", 28) != NULL;
    struct buf body;
    buf_init(&body, APP_DUMP_MAX);
    metrics_write(app->common_metrics, openmetrics, &body);
    if (app->metrics)
        metrics_write(app->metrics, openmetrics, &body);
    metrics_end(openmetrics, &body);
    if (body.overflow) {
        buf_deinit(&body);
        answer_error(call, 500, "the metrics are too large");
        return;
    }
    answer(call, 200, openmetrics ? OPENMETRICS_TYPE : TEXT_TYPE, &body);
}

/* Orders */

void app_order_on(struct app *app, const char *name, app_order_fn *fn, void *ctx)
{
    CHECK(app->orders_n < APP_ORDERS_MAX);
    app->orders[app->orders_n++] = (struct app_order_def){name, fn, ctx};
}

static void order_gone(void *ctx)
{
    struct app_order *order = ctx;
    order->call = NULL;
}

void app_order_answer(struct app_order *order, int status, struct str json)
{
    struct httpd_call *call = order->call;
    LOG(INFO, "order_answered", KV_STR("order", order->name), KV_INT("status", status));
    list_remove(&order->node);
    mem_free(order);
    if (!call)
        return;
    httpd_call_on_gone(call, NULL, NULL);
    struct buf body;
    buf_init(&body, APP_DUMP_MAX);
    buf_str(&body, json);
    answer(call, status, JSON_TYPE, &body);
}

void app_order_error(struct app_order *order, int status, const char *text)
{
    struct buf body;
    buf_init(&body, 65536);
    put_error(&body, text);
    app_order_answer(order, status, buf_as_str(&body));
    buf_deinit(&body);
}

static void take_order(struct app *app, struct httpd_call *call, struct str name, struct str body)
{
    for (unsigned i = 0; i < app->orders_n; i++) {
        const struct app_order_def *d = &app->orders[i];
        if (!str_is(name, d->name))
            continue;
        struct app_order *order = MEM_NEW(struct app_order);
        order->call = call;
        order->name = d->name;
        list_push(&app->open_orders, &order->node);
        httpd_call_on_gone(call, order_gone, order);
        LOG(INFO, "order_taken", KV_STR("order", d->name));
        d->fn(d->ctx, order, body);
        return;
    }
    answer_error(call, 404, "no such order");
}

/* Requests */

static void answer_method(struct httpd_call *call, const char *allow)
{
    struct httpd_answer a = {.status = 405, .content_type = JSON_TYPE};
    a.headers[0].name = "allow";
    a.headers[0].value = str_of(allow);
    a.body = STR("{\"error\":\"method not allowed\"}\n");
    httpd_answer(call, &a);
}

static void on_request(void *ctx, struct httpd_call *call, const struct httpd_request *req)
{
    struct app *app = ctx;
    static const char *const paths[] = {"/livez", "/readyz", "/metrics", "/version",
                                        "/debug/state"};
    if (str_starts(req->path, STR("/orders/"))) {
        if (req->method != HTTPD_POST)
            answer_method(call, "POST");
        else if (!app->started || app->stopped)
            answer_error(call, 503, "not running");
        else
            take_order(app, call, str_make(req->path.p + 8, req->path.n - 8), req->body);
        return;
    }
    int which = 0;
    while (which < 5 && !str_is(req->path, paths[which]))
        which++;
    if (which == 5) {
        answer_error(call, 404, "not found");
        return;
    }
    if (req->method != HTTPD_GET && req->method != HTTPD_HEAD) {
        answer_method(call, "GET, HEAD");
        return;
    }
    int status = 200;
    struct buf body;
    buf_init(&body, APP_DUMP_MAX);
    switch (which) {
    case 0:
        status = livez(app, &body);
        break;
    case 1:
        put_checks(app, &body);
        buf_char(&body, '\n');
        status = app_ready(app) ? 200 : 503;
        break;
    case 2:
        answer_metrics(app, call, req);
        return;
    case 3:
        app_version_text(app->def, true, &body);
        break;
    default:
        app_dump(app, &body);
        if (!body.overflow)
            break;
        buf_deinit(&body);
        answer_error(call, 500, "the state is too large");
        return;
    }
    answer(call, status, JSON_TYPE, &body);
}

static void on_error(void *ctx, int status, const char *text, struct buf *body,
                     const char **ret_type)
{
    (void)ctx, (void)status;
    put_error(body, text);
    *ret_type = JSON_TYPE;
}

int app_admin_open(struct app *app, struct err *e)
{
    struct httpd_opts o = {.listen = app->common.admin_listen,
                           .max_body_bytes = 1 << 20,
                           .max_header_bytes = 16 << 10,
                           .max_arriving_bytes = 4 << 20,
                           .max_connections = 64,
                           .request_timeout_ms = 10000,
                           .on_request = on_request,
                           .on_error = on_error,
                           .ctx = app};
    int rc = httpd_open(app->loop, &o, &app->admin, e);
    if (rc < 0)
        return err_prefix(e, "admin.listen %s", app->common.admin_listen);
    char host[256];
    unsigned port;
    CHECK(option_address(str_of(app->common.admin_listen), host, &port) == 0);
    app_listening("admin", host, httpd_port(app->admin));
    return 0;
}

void app_admin_close(struct app *app)
{
    httpd_close(&app->admin);
    for (struct list *n; (n = list_pop(&app->open_orders));)
        mem_free(LIST_ENTRY(n, struct app_order, node));
}
