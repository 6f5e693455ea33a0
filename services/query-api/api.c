/* api: routes, and the life of the interface.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/api.h"
#include "base/mem.h"
#include "base/rnd.h"

#define DRAIN_LOOK_MS 20

const struct route routes[ROUTES] = {
    [ROUTE_QUESTIONS] = {"questions", "/v1/questions", NULL,
                         "All questions, with their parameters and columns"},
    [ROUTE_QUESTION] = {"question", "/v1/questions/", "name", "The answer to one question"},
    [ROUTE_TABLES] = {"tables", "/v1/tables", NULL, "The tables that questions are answered from"},
    [ROUTE_TABLE] = {"table", "/v1/tables/", "table", "One table"},
    [ROUTE_OPENAPI] = {"openapi", "/openapi.json", NULL, "This description"},
};

/* ---- requests ---- */

static unsigned route_of(struct str path, struct str *ret_last)
{
    for (unsigned i = 0; i < ROUTES; i++) {
        struct str start = str_of(routes[i].path);
        if (!routes[i].path_parameter && str_eq(path, start))
            return i;
        if (!routes[i].path_parameter || !str_starts(path, start) || path.n == start.n)
            continue;
        *ret_last = str_make(path.p + start.n, path.n - start.n);
        if (!memchr(ret_last->p, '/', ret_last->n))
            return i;
    }
    return ROUTES;
}

static void set_id(struct request *q)
{
    struct str id = httpd_header(q->req, "x-request-id");
    bool good = id.n > 0 && id.n < sizeof q->id;
    for (size_t i = 0; i < id.n && good; i++) {
        char c = id.p[i];
        good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
    }
    if (good)
        memcpy(q->id, id.p, id.n);
    else
        rnd_uuid(q->id);
}

static void dispatch(struct request *q, struct str last)
{
    enum httpd_method method = q->req->method;
    if (q->route == ROUTES) {
        api_problem_allowed(
            q, PROBLEM_NOT_FOUND, "no such path",
            "\"/v1/questions\",\"/v1/questions/{name}\",\"/v1/tables\",\"/v1/tables/"
            "{table}\",\"/openapi.json\"");
        return;
    }
    if (method == HTTPD_OPTIONS) {
        api_options(q);
        return;
    }
    if (method != HTTPD_GET && method != HTTPD_HEAD) {
        api_problem_allowed(q, PROBLEM_METHOD, "only reading is possible here",
                            "\"GET\",\"HEAD\",\"OPTIONS\"");
        return;
    }
    switch ((enum route_id)q->route) {
    case ROUTE_QUESTIONS:
        api_questions(q);
        return;
    case ROUTE_QUESTION:
        api_question(q, last);
        return;
    case ROUTE_TABLES:
        api_tables(q);
        return;
    case ROUTE_TABLE:
        api_table(q, last);
        return;
    case ROUTE_OPENAPI:
        api_openapi(q);
        return;
    case ROUTES:
        return;
    }
}

static void on_request(void *ctx, struct httpd_call *call, const struct httpd_request *req)
{
    struct api *a = ctx;
    struct request *q = MEM_NEW(struct request);
    *q = (struct request){.api = a, .call = call, .req = req, .started_us = req->arrived_us};
    list_push(&a->requests, &q->node);
    a->open++;
    set_id(q);
    struct str last = {NULL, 0};
    q->route = route_of(req->path, &last);
    httpd_call_on_gone(call, api_on_gone, q);
    dispatch(q, last);
}

/* ---- life ---- */

static void on_collect(void *ctx)
{
    struct api *a = ctx;
    struct httpd_stats s;
    if (!a->httpd)
        return;
    httpd_get_stats(a->httpd, &s);
    metric_set(a->metrics, M_IN_FLIGHT, 0, a->open);
    metric_set(a->metrics, M_CONNECTIONS, 0, s.connections);
}

int api_open(struct app *app, const struct query_config *config, struct catalog *catalog,
             struct runner *runner, struct api **ret, struct err *e)
{
    struct api *a = MEM_NEW(struct api);
    *a = (struct api){.app = app,
                      .metrics = app_metrics(app),
                      .config = config,
                      .catalog = catalog,
                      .runner = runner};
    list_init(&a->requests);
    buf_init(&a->openapi, 1 << 20);
    openapi_write(&a->openapi);
    struct httpd_opts o = {.listen = config->http_listen,
                           .h2c = config->h2c,
                           .max_body_bytes = config->body_max,
                           .max_header_bytes = config->headers_max,
                           .max_arriving_bytes = 4 * config->body_max,
                           .max_connections = (unsigned)config->connections_max,
                           .request_timeout_ms = config->request_timeout,
                           .server_name = "sluice-query-api",
                           .on_request = on_request,
                           .on_error = api_on_error,
                           .ctx = a};
    int rc = httpd_open(app_loop(app), &o, &a->httpd, e);
    if (rc) {
        api_free(&a);
        return rc;
    }
    char host[256];
    unsigned port;
    /* the option's type has checked it */
    (void)option_address(str_of(config->http_listen), host, &port);
    app_listening("http", host, httpd_port(a->httpd));
    metrics_on_collect(a->metrics, on_collect, a);
    *ret = a;
    return 0;
}

static void on_drain_look(void *ctx)
{
    struct api *a = ctx;
    struct httpd_stats s;
    httpd_get_stats(a->httpd, &s);
    if (!a->open && !s.connections) {
        app_drained(a->app);
        return;
    }
    loop_timer_start(app_loop(a->app), &a->drain, DRAIN_LOOK_MS, on_drain_look, a);
}

void api_drain(struct api *a)
{
    httpd_drain(a->httpd);
    on_drain_look(a);
}

void api_close(struct api *a)
{
    if (!a)
        return;
    loop_timer_stop(&a->drain);
    if (a->httpd)
        httpd_close(&a->httpd); /* every open call becomes gone, which cancels its run */
}

void api_free(struct api **ap)
{
    struct api *a = *ap;
    if (!a)
        return;
    CHECK(list_empty(&a->requests));
    buf_deinit(&a->openapi);
    mem_free(a);
    *ap = NULL;
}
