/* api_answer: the ends of a request.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "api"
#include "query-api/api.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>

#define PIECE_BYTES (64 << 10)
#define PROBLEM_TYPE "application/problem+json"

const struct problem_def problem_defs[PROBLEMS] = {
    [PROBLEM_UNKNOWN_PARAMETER] = {"unknown-parameter", "Unknown parameter", 400},
    [PROBLEM_BAD_VALUE] = {"bad-value", "A parameter has a value that is not allowed", 400},
    [PROBLEM_NOT_FOUND] = {"not-found", "There is no such path", 404},
    [PROBLEM_UNKNOWN_QUESTION] = {"unknown-question", "There is no such question", 404},
    [PROBLEM_UNKNOWN_TABLE] = {"unknown-table", "There is no such table", 404},
    [PROBLEM_NO_SUCH_TABLE] = {"table-not-there", "The table is not there", 404},
    [PROBLEM_METHOD] = {"method-not-allowed", "The method is not allowed", 405},
    [PROBLEM_NOT_ACCEPTABLE] = {"not-acceptable", "None of the accepted formats exists", 406},
    [PROBLEM_VERSION_GONE] = {"version-gone", "The version of the table is not to be had", 410},
    [PROBLEM_TOO_MANY_ROWS] = {"too-many-rows", "The answer is too large", 422},
    [PROBLEM_OUT_OF_MEMORY] = {"out-of-memory", "The question needs more memory than it may have",
                               507},
    [PROBLEM_SPILL_FULL] = {"spill-full", "The question needs more disk than it may have", 507},
    [PROBLEM_TIMEOUT] = {"query-timeout", "The question took too long", 504},
    [PROBLEM_BUSY] = {"too-busy", "Too many questions at once", 503},
    [PROBLEM_STARTING] = {"starting", "The tables are still being read", 503},
    [PROBLEM_TABLE_UNAVAILABLE] = {"table-unavailable", "The table cannot be read", 503},
    [PROBLEM_DRAINING] = {"draining", "The service is ending", 503},
    [PROBLEM_INTERNAL] = {"internal", "The question failed", 500},
    [PROBLEM_REQUEST] = {"request", "The request was refused", 400},
};

/* ---- the ends of a request ---- */

static void request_free(struct request *q)
{
    list_remove(&q->node);
    loop_timer_stop(&q->stalled);
    if (q->body) {
        app_memory_sub(app_memory(q->api->app), q->body_n);
        mem_free(q->body);
    }
    q->api->open--;
    mem_free(q);
}

static void count(struct request *q, int status)
{
    char code[16];
    snprintf(code, sizeof code, "%d", status);
    struct metrics *m = q->api->metrics;
    const char *route = q->route < ROUTES ? routes[q->route].name : "other";
    metric_add(m, M_REQUESTS, metric_series(m, M_REQUESTS, route, code), 1);
    metric_observe(m, M_SECONDS, q->route, (double)(clock_us() - q->started_us) / 1e6);
    LOG(DEBUG, "request_answered", KV_STR("request_id", q->id), KV_STR("route", route),
        KV_INT("status", status), KV_INT("elapsed_us", clock_us() - q->started_us));
}

void api_on_gone(void *ctx)
{
    struct request *q = ctx;
    q->call = NULL, q->stream = NULL;
    runner_cancel(q->api->runner, &q->run);
    request_free(q);
}

static void on_stalled(void *ctx)
{
    struct request *q = ctx;
    LOG(WARN, "client_stalled", KV_STR("request_id", q->id), KV_INT("sent", q->sent),
        KV_INT("bytes", q->body_n));
    struct httpd_stream *s = q->stream;
    request_free(q);
    httpd_stream_abort(s);
}

static void on_want(void *ctx)
{
    struct request *q = ctx;
    size_t n = q->body_n - q->sent < PIECE_BYTES ? q->body_n - q->sent : PIECE_BYTES;
    bool last = q->sent + n == q->body_n;
    struct httpd_stream *s = q->stream;
    char *piece = q->body + q->sent;
    q->sent += n;
    if (!last) {
        loop_timer_start(app_loop(q->api->app), &q->stalled, q->api->config->request_timeout,
                         on_stalled, q);
        httpd_stream_send(s, str_make(piece, n), false);
        return;
    }
    httpd_stream_send(s, str_make(piece, n), true);
    request_free(q);
}

void api_put_header(struct httpd_answer *a, const char *name, struct str value)
{
    for (unsigned i = 0; i < sizeof a->headers / sizeof *a->headers; i++)
        if (!a->headers[i].name) {
            a->headers[i].name = name;
            a->headers[i].value = value;
            return;
        }
    CHECK(!"room for the header");
}

/* CORS: any origin, or those that are listed. */
static struct str allowed_origin(const struct request *q)
{
    struct str origin = httpd_header(q->req, "origin"), rest = str_of(q->api->config->cors_origins),
               part;
    while (str_next(&rest, ',', &part)) {
        part = str_trim(part);
        if (str_is(part, "*"))
            return STR("*");
        if (part.n && origin.n && str_eq(part, origin))
            return origin;
    }
    return (struct str){NULL, 0};
}

struct httpd_answer api_head(const struct request *q, int status, const char *type)
{
    struct httpd_answer a = {.status = status, .content_type = type};
    api_put_header(&a, "x-request-id", str_of(q->id));
    bool any = !strcmp(q->api->config->cors_origins, "*");
    api_put_header(&a, "vary", any ? STR("Accept") : STR("Accept, Origin"));
    struct str origin = allowed_origin(q);
    if (origin.n) {
        api_put_header(&a, "access-control-allow-origin", origin);
        api_put_header(
            &a, "access-control-expose-headers",
            STR("ETag, Sluice-Table-Versions, Sluice-Data-Age, X-Request-Id, Retry-After"));
    }
    return a;
}

/* Sends what `body` holds, and ends the request. */
void api_send(struct request *q, struct httpd_answer *a, struct buf *body)
{
    struct app_memory *memory = app_memory(q->api->app);
    count(q, a->status);
    httpd_call_on_gone(q->call, NULL, NULL);
    struct httpd_call *call = q->call;
    if (body->len <= API_AT_ONCE_BYTES) {
        size_t n = 0;
        a->body_owned = buf_steal(body, &n);
        a->body = str_make(a->body_owned, n);
        httpd_answer(call, a);
        request_free(q);
        return;
    }
    q->body = buf_steal(body, &q->body_n);
    app_memory_add(memory, q->body_n);
    loop_timer_start(app_loop(q->api->app), &q->stalled, q->api->config->request_timeout,
                     on_stalled, q);
    q->call = NULL;
    q->stream = httpd_stream_begin(call, a, on_want, api_on_gone, q);
}

/* ---- problems ---- */

static void put_problem(struct buf *b, enum problem p, int status, const char *detail,
                        const char *instance)
{
    buf_printf(b, "{\"type\":\"urn:sluice:problem:%s\",\"title\":", problem_defs[p].type);
    buf_json(b, str_of(problem_defs[p].title));
    buf_printf(b, ",\"status\":%d,\"detail\":", status);
    buf_json(b, str_of(detail));
    if (instance) {
        buf_z(b, ",\"instance\":");
        buf_json(b, str_of(instance));
    }
}

/* `allowed`: JSON texts with commas between them; NULL: none. */
void api_problem_allowed(struct request *q, enum problem p, const char *detail, const char *allowed)
{
    int status = problem_defs[p].status;
    struct buf body;
    buf_init(&body, 64 << 10);
    put_problem(&body, p, status, detail, q->id);
    if (allowed)
        buf_printf(&body, ",\"allowed\":[%s]", allowed);
    buf_z(&body, "}\n");
    metric_add(q->api->metrics, M_REJECTED, p, 1);
    struct httpd_answer a = api_head(q, status, PROBLEM_TYPE);
    api_put_header(&a, "cache-control", STR("no-store"));
    if (status == 503)
        api_put_header(&a, "retry-after", STR("1"));
    if (p == PROBLEM_METHOD)
        api_put_header(&a, "allow", API_ALLOWED_METHODS);
    api_send(q, &a, &body);
    buf_deinit(&body);
}

void api_problem(struct request *q, enum problem p, const char *detail)
{
    api_problem_allowed(q, p, detail, NULL);
}

void api_on_error(void *ctx, int status, const char *text, struct buf *body, const char **ret_type)
{
    struct api *a = ctx;
    metric_add(a->metrics, M_REJECTED, PROBLEM_REQUEST, 1);
    put_problem(body, PROBLEM_REQUEST, status, text, NULL);
    buf_z(body, "}\n");
    *ret_type = PROBLEM_TYPE;
}

void api_put_name(struct buf *b, const char *name)
{
    buf_z(b, b->len ? "," : "");
    buf_json(b, str_of(name));
}

void api_not_acceptable(struct request *q, unsigned offered)
{
    struct buf allowed;
    buf_init(&allowed, 1024);
    for (unsigned f = 0; f < FORMATS; f++)
        if (offered >> f & 1)
            api_put_name(&allowed, format_types[f]);
    api_problem_allowed(q, PROBLEM_NOT_ACCEPTABLE,
                        "the Accept field names nothing that this path can give", allowed.data);
    buf_deinit(&allowed);
}
