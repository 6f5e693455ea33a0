/* api: routes, formats, validators and problems.
 *
 * request   waits for           moves on in          then
 * (new)     -                   on_request           answered, RUNNING
 * RUNNING   the runner          on_run_done          answered, SENDING
 * SENDING   the client to read  on_want              ended; gone after request_timeout without progress
 * An answer is whole before its first byte leaves, so that errors have their status; a long one then goes out in pieces.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "api"
#include "query-api/query-api.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <stdio.h>

#define AT_ONCE_BYTES (64 << 10)
#define PIECE_BYTES (64 << 10)
#define DRAIN_LOOK_MS 20
#define JSON_TYPE "application/json"
#define PROBLEM_TYPE "application/problem+json"
#define ALLOWED_METHODS STR("GET, HEAD, OPTIONS")

const struct route routes[ROUTES] = {
    [ROUTE_QUESTIONS] = {"questions", "/v1/questions", NULL,
                         "All questions, with their parameters and columns"},
    [ROUTE_QUESTION] = {"question", "/v1/questions/", "name", "The answer to one question"},
    [ROUTE_TABLES] = {"tables", "/v1/tables", NULL, "The tables that questions are answered from"},
    [ROUTE_TABLE] = {"table", "/v1/tables/", "table", "One table"},
    [ROUTE_OPENAPI] = {"openapi", "/openapi.json", NULL, "This description"},
};

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

struct api {
    struct app *app;
    struct metrics *metrics;
    const struct query_config *config;
    struct catalog *catalog;
    struct runner *runner;
    struct httpd *httpd;
    struct list requests;
    struct loop_timer drain;
    struct buf openapi;
    unsigned open;
};
struct request {
    struct list node;
    struct api *api;
    struct httpd_call *call;
    const struct httpd_request *req; /* until it is answered */
    unsigned route;                  /* ROUTES: none */
    char id[65], versions[128], etag[40];
    uint64_t started_us, age_ms;
    struct ask ask;
    struct run *run;
    struct httpd_stream *stream;
    char *body; /* while it is sent in pieces */
    size_t body_n, sent;
    struct loop_timer stalled;
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

static void on_gone(void *ctx)
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

static void put_header(struct httpd_answer *a, const char *name, struct str value)
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

static struct httpd_answer head(const struct request *q, int status, const char *type)
{
    struct httpd_answer a = {.status = status, .content_type = type};
    put_header(&a, "x-request-id", str_of(q->id));
    bool any = !strcmp(q->api->config->cors_origins, "*");
    put_header(&a, "vary", any ? STR("Accept") : STR("Accept, Origin"));
    struct str origin = allowed_origin(q);
    if (origin.n) {
        put_header(&a, "access-control-allow-origin", origin);
        put_header(&a, "access-control-expose-headers",
                   STR("ETag, Sluice-Table-Versions, Sluice-Data-Age, X-Request-Id, Retry-After"));
    }
    return a;
}

/* Sends what `body` holds, and ends the request. */
static void send_answer(struct request *q, struct httpd_answer *a, struct buf *body)
{
    struct app_memory *memory = app_memory(q->api->app);
    count(q, a->status);
    httpd_call_on_gone(q->call, NULL, NULL);
    struct httpd_call *call = q->call;
    if (body->len <= AT_ONCE_BYTES) {
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
    q->stream = httpd_stream_begin(call, a, on_want, on_gone, q);
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
static void problem_allowed(struct request *q, enum problem p, const char *detail,
                            const char *allowed)
{
    int status = problem_defs[p].status;
    struct buf body;
    buf_init(&body, 64 << 10);
    put_problem(&body, p, status, detail, q->id);
    if (allowed)
        buf_printf(&body, ",\"allowed\":[%s]", allowed);
    buf_z(&body, "}\n");
    metric_add(q->api->metrics, M_REJECTED, p, 1);
    struct httpd_answer a = head(q, status, PROBLEM_TYPE);
    put_header(&a, "cache-control", STR("no-store"));
    if (status == 503)
        put_header(&a, "retry-after", STR("1"));
    if (p == PROBLEM_METHOD)
        put_header(&a, "allow", ALLOWED_METHODS);
    send_answer(q, &a, &body);
    buf_deinit(&body);
}

static void problem(struct request *q, enum problem p, const char *detail)
{
    problem_allowed(q, p, detail, NULL);
}

static void on_error(void *ctx, int status, const char *text, struct buf *body,
                     const char **ret_type)
{
    struct api *a = ctx;
    metric_add(a->metrics, M_REJECTED, PROBLEM_REQUEST, 1);
    put_problem(body, PROBLEM_REQUEST, status, text, NULL);
    buf_z(body, "}\n");
    *ret_type = PROBLEM_TYPE;
}

/* ---- a question ---- */

static void put_names(struct buf *b, const char *name)
{
    buf_z(b, b->len ? "," : "");
    buf_json(b, str_of(name));
}

static void answer_fault(struct request *q, const struct question *question,
                         const struct ask_fault *f)
{
    struct buf allowed;
    buf_init(&allowed, 8192);
    buf_z(&allowed, "");
    bool unknown = !f->param;
    for (unsigned i = 0; i < PARAMS; i++) {
        if (unknown && question_takes(question, i))
            put_names(&allowed, param_defs[i].name);
        const char *const *v = param_defs[i].values;
        for (; !unknown && v && !strcmp(f->param, param_defs[i].name) && *v; v++)
            put_names(&allowed, *v);
    }
    char detail[600];
    if (unknown)
        snprintf(detail, sizeof detail, "the question %s has no parameter '%s'", question->name,
                 f->name);
    else
        snprintf(detail, sizeof detail, "%s", f->detail);
    problem_allowed(q, unknown ? PROBLEM_UNKNOWN_PARAMETER : PROBLEM_BAD_VALUE, detail,
                    allowed.len ? allowed.data : NULL);
    buf_deinit(&allowed);
}

static void answer_not_acceptable(struct request *q, unsigned offered)
{
    struct buf allowed;
    buf_init(&allowed, 1024);
    for (unsigned f = 0; f < FORMATS; f++)
        if (offered >> f & 1)
            put_names(&allowed, format_types[f]);
    problem_allowed(q, PROBLEM_NOT_ACCEPTABLE,
                    "the Accept field names nothing that this path can give", allowed.data);
    buf_deinit(&allowed);
}

static void answer_unknown_question(struct request *q)
{
    struct buf allowed;
    buf_init(&allowed, 4096);
    for (unsigned i = 0; i < QUESTIONS; i++)
        put_names(&allowed, questions[i].name);
    problem_allowed(q, PROBLEM_UNKNOWN_QUESTION, "no question has that name", allowed.data);
    buf_deinit(&allowed);
}

/* The snapshots to be read, the header that names them and the tag: false when it was answered already. */
static bool choose_tables(struct request *q, struct snapshot *snapshots[ASKED_TABLES])
{
    struct buf key, versions;
    buf_init(&key, 8192);
    buf_init(&versions, sizeof q->versions - 1);
    buf_z(&versions, "");
    ask_canonical(&q->ask, &key);
    const char *detail = NULL;
    char text[400];
    enum problem p = PROBLEM_INTERNAL;
    for (unsigned t = 0; t < ASKED_TABLES && !detail; t++) {
        snapshots[t] = NULL;
        if (!(q->ask.question->tables >> t & 1))
            continue;
        enum table_id id = q->ask.batch ? TABLE_BATCH_PIN + t : t;
        struct table_view v;
        catalog_get(q->api->catalog, id, &v);
        int64_t wanted = q->ask.versions[t], version = v.snapshot ? v.snapshot->version : -1;
        uint64_t age = catalog_age_ms(q->api->catalog, id);
        q->age_ms = age > q->age_ms ? age : q->age_ms;
        detail = text;
        if (!v.known) {
            p = v.trouble ? PROBLEM_TABLE_UNAVAILABLE : PROBLEM_STARTING;
            snprintf(text, sizeof text, "the %s table: %s", table_names[id],
                     v.trouble ? v.trouble : "its log is being read");
        } else if (!v.snapshot && q->ask.batch) {
            p = PROBLEM_NO_SUCH_TABLE;
            snprintf(text, sizeof text, "there is no batch table for %s", table_names[t]);
        } else if (wanted > version) {
            p = PROBLEM_VERSION_GONE;
            if (v.snapshot)
                snprintf(text, sizeof text, "the %s table has no version %lld; the latest is %lld",
                         table_names[t], (long long)wanted, (long long)version);
            else
                snprintf(text, sizeof text, "the %s table is not there, in any version",
                         table_names[t]);
        } else {
            detail = NULL;
            snapshots[t] = wanted < 0 || wanted == version ? v.snapshot : NULL;
            if (wanted == version)
                q->ask.versions[t] = -1;
        }
        if (!detail && v.snapshot) {
            long long read = (long long)(wanted < 0 ? version : wanted);
            buf_printf(&versions, "%s%s=%lld", versions.len ? ", " : "", table_names[t], read);
            buf_printf(&key, "&%s=%s:%lld", table_names[t], v.snapshot->id, read);
        }
    }
    if (detail) {
        problem(q, p, detail);
    } else {
        uint8_t sum[32];
        /* Another text of the question may give another answer. */
        buf_append(&key, q->ask.question->sql,
                   (size_t)(q->ask.question->sql_end - q->ask.question->sql));
        hash_sha256(key.data, key.len, sum);
        char hex[25] = {0};
        str_hex(sum, 12, hex);
        /* Weak: the statistics of two equal answers differ. */
        snprintf(q->etag, sizeof q->etag, "W/\"%s\"", hex);
        memcpy(q->versions, versions.data, versions.len + 1);
    }
    buf_deinit(&key);
    buf_deinit(&versions);
    return !detail;
}

/* If-None-Match compares weakly: the texts between the quotes. */
static bool matches(struct str field, const char *etag)
{
    struct str part;
    if (str_is(str_trim(field), "*"))
        return true;
    while (field.n && str_next(&field, ',', &part)) {
        part = str_trim(part);
        if (str_starts(part, STR("W/")))
            part = str_make(part.p + 2, part.n - 2);
        if (str_is(part, etag + 2))
            return true;
    }
    return false;
}

static struct httpd_answer head_of_answer(const struct request *q, int status, const char *type,
                                          char age[24])
{
    struct httpd_answer a = head(q, status, type);
    put_header(&a, "cache-control", STR("private, no-cache"));
    put_header(&a, "etag", str_of(q->etag));
    if (q->versions[0])
        put_header(&a, "sluice-table-versions", str_of(q->versions));
    if (q->age_ms) {
        snprintf(age, 24, "%llu", (unsigned long long)(q->age_ms / 1000));
        put_header(&a, "sluice-data-age", str_of(age));
    }
    return a;
}

static void answer_failure(struct request *q, const struct run_result *res)
{
    char text[400];
    switch (res->rc) {
    case ERR_TOO_LARGE:
        problem(q, PROBLEM_TOO_MANY_ROWS, res->text);
        return;
    case ERR_LIMIT:
        problem(q, PROBLEM_OUT_OF_MEMORY,
                "the question does not fit into query.memory, and spilling to disk did not help");
        return;
    case ERR_NOSPACE:
        problem(q, PROBLEM_SPILL_FULL,
                "what the question spills to disk does not fit into spill.max");
        return;
    case ERR_NOT_FOUND:
        if (res->failed_table >= 0 || q->ask.versions[0] >= 0 || q->ask.versions[1] >= 0 ||
            q->ask.versions[2] >= 0) {
            snprintf(text, sizeof text,
                     "the version of the %s table, or a file of it, is not to be had any more",
                     res->failed_table >= 0 ? table_names[res->failed_table] : "asked");
            problem(q, PROBLEM_VERSION_GONE, text);
            return;
        }
        /* The latest version names files that are not there: its log deserves another look. */
        for (unsigned t = 0; t < ASKED_TABLES; t++)
            if (q->ask.question->tables >> t & 1)
                catalog_doubt(q->api->catalog, q->ask.batch ? TABLE_BATCH_PIN + t : t);
        problem(q, PROBLEM_TABLE_UNAVAILABLE,
                "a file of the table is missing; its log is read anew");
        return;
    case ERR_UNSUPPORTED:
    case ERR_CORRUPT:
    case ERR_IO:
        LOG(ERROR, "table_broken", KV_STR("request_id", q->id),
            KV_STR("question", q->ask.question->name), KV_ERR(res->rc),
            KV_STR("detail", res->text));
        problem(q, PROBLEM_TABLE_UNAVAILABLE,
                "a file or the log of the table cannot be read; the service's log says more");
        return;
    default:
        LOG(ERROR, "question_failed", KV_STR("request_id", q->id),
            KV_STR("question", q->ask.question->name), KV_ERR(res->rc),
            KV_STR("detail", res->text));
        problem(q, PROBLEM_INTERNAL,
                "the question failed; the service's log says why, under this instance");
    }
}

static void on_run_done(void *ctx, const struct run_result *res)
{
    struct request *q = ctx;
    char age[24], text[160];
    q->run = NULL;
    switch (res->end) {
    case RUN_OK:
        if (res->out->len > AT_ONCE_BYTES &&
            !app_memory_fits(app_memory(q->api->app), res->out->len)) {
            problem(q, PROBLEM_BUSY,
                    "answers that are being sent take all memory there is for them");
            return;
        }
        struct httpd_answer a = head_of_answer(q, 200, format_types[q->ask.format], age);
        send_answer(q, &a, res->out);
        return;
    case RUN_TIMEOUT:
        snprintf(text, sizeof text, "no answer within %llu ms (query.timeout)",
                 (unsigned long long)q->api->config->timeout);
        problem(q, PROBLEM_TIMEOUT, text);
        return;
    case RUN_FAILED:
        answer_failure(q, res);
        return;
    case RUN_LEFT:
    case RUN_STOPPED:
        problem(q, PROBLEM_DRAINING, "the service is ending");
        return;
    }
}

static void handle_question(struct request *q, struct str name)
{
    const struct question *question = question_by_name(name);
    struct ask_fault fault;
    struct snapshot *snapshots[ASKED_TABLES];
    if (!question) {
        answer_unknown_question(q);
        return;
    }
    if (ask_parse(&q->ask, question, q->req->query, &fault)) {
        answer_fault(q, question, &fault);
        return;
    }
    if (!q->ask.format_given) {
        unsigned all = (1u << FORMATS) - 1;
        int format = format_accepted(httpd_header(q->req, "accept"), all);
        if (format < 0) {
            answer_not_acceptable(q, all);
            return;
        }
        q->ask.format = (enum format)format;
    }
    if (!choose_tables(q, snapshots))
        return;
    struct str condition = httpd_header(q->req, "if-none-match");
    if (condition.n) {
        bool hit = matches(condition, q->etag);
        metric_add(q->api->metrics, M_REVALIDATIONS, hit ? 0 : 1, 1);
        if (hit) {
            char age[24];
            struct buf none = {0};
            struct httpd_answer a = head_of_answer(q, 304, NULL, age);
            send_answer(q, &a, &none);
            return;
        }
    }
    if (runner_start(q->api->runner, &q->ask, snapshots, q->age_ms, on_run_done, q, &q->run))
        problem(q, PROBLEM_BUSY, "as many questions are waiting as may (query.queue.max)");
}

/* ---- the other routes ---- */

static void send_json(struct request *q, struct buf *body)
{
    if (format_accepted(httpd_header(q->req, "accept"), 1u << FORMAT_JSON) < 0) {
        answer_not_acceptable(q, 1u << FORMAT_JSON);
    } else {
        struct httpd_answer a = head(q, 200, JSON_TYPE);
        put_header(&a, "cache-control", STR("private, no-cache"));
        send_answer(q, &a, body);
    }
    buf_deinit(body);
}

static void put_param(struct buf *b, const struct question *question, enum param_id id)
{
    const struct param_def *d = &param_defs[id];
    buf_printf(b, "{\"name\":\"%s\",\"description\":", d->name);
    buf_json(b, str_of(d->help));
    if (d->values) {
        buf_printf(b, ",\"default\":\"%s\",\"values\":[", d->values[0]);
        for (unsigned i = 0; d->values[i]; i++)
            buf_printf(b, "%s\"%s\"", i ? "," : "", d->values[i]);
        buf_z(b, "]}");
        return;
    }
    if (id == PARAM_FROM || id == PARAM_TO)
        buf_printf(b, ",\"default\":%d", id == PARAM_FROM ? question->from : question->to);
    else
        buf_z(b, ",\"default\":null");
    if (id != PARAM_VERSION)
        buf_printf(b, ",\"minimum\":%lld,\"maximum\":%lld", (long long)d->min, (long long)d->max);
    buf_char(b, '}');
}

static void put_question(struct buf *b, const struct question *question)
{
    buf_printf(b, "{\"name\":\"%s\",\"title\":", question->name);
    buf_json(b, str_of(question->title));
    buf_printf(b, ",\"url\":\"%s%s\",\"tables\":[", routes[ROUTE_QUESTION].path, question->name);
    bool first = true;
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        if (question->tables >> t & 1) {
            buf_printf(b, "%s\"%s\"", first ? "" : ",", table_names[t]);
            first = false;
        }
    buf_z(b, "],\"columns\":[");
    for (unsigned i = 0; i < QUESTION_MAX_COLUMNS && question->columns[i].name; i++)
        buf_printf(b, "%s{\"name\":\"%s\",\"type\":\"%s\"}", i ? "," : "",
                   question->columns[i].name, question->columns[i].type);
    buf_z(b, "],\"parameters\":[");
    first = true;
    for (unsigned id = 0; id < PARAMS; id++)
        if (question_takes(question, id)) {
            buf_z(b, first ? "" : ",");
            put_param(b, question, id);
            first = false;
        }
    buf_z(b, "]}");
}

static void handle_questions(struct request *q)
{
    struct buf b;
    buf_init(&b, 256 << 10);
    buf_z(&b, "{\"questions\":[\n");
    for (unsigned i = 0; i < QUESTIONS; i++) {
        buf_z(&b, i ? ",\n" : "");
        put_question(&b, &questions[i]);
    }
    buf_z(&b, "\n]}\n");
    send_json(q, &b);
}

static void put_table(const struct request *q, struct buf *b, enum table_id t)
{
    struct table_view v;
    catalog_get(q->api->catalog, t, &v);
    const struct snapshot *s = v.snapshot;
    buf_printf(b, "{\"name\":\"%s\",\"table\":\"%s_%s_table\",\"exists\":%s,", table_names[t],
               app_common(q->api->app)->user, table_names[t], s ? "true" : "false");
    if (!s) {
        buf_z(b, "\"id\":null,\"version\":null,\"rows\":0,\"files\":0,\"bytes\":0,\"last_commit_"
                 "at\":null,\"schema\":null");
    } else {
        char at[25] = "";
        if (s->commit_time_ms > 0)
            clock_rfc3339((uint64_t)s->commit_time_ms, at);
        buf_z(b, "\"id\":");
        buf_json(b, str_of(s->id));
        buf_printf(b, ",\"version\":%lld,\"rows\":", (long long)s->version);
        if (s->rows < 0)
            buf_z(b, "null");
        else
            buf_i64(b, s->rows);
        buf_printf(b, ",\"files\":%zu,\"bytes\":%llu,\"last_commit_at\":", s->files_n,
                   (unsigned long long)s->bytes);
        if (at[0])
            buf_printf(b, "\"%s\"", at);
        else
            buf_z(b, "null");
        buf_printf(b, ",\"schema\":%s", s->schema);
    }
    buf_z(b, ",\"trouble\":");
    if (v.trouble)
        buf_json(b, str_of(v.trouble));
    else
        buf_z(b, "null");
    buf_char(b, '}');
}

static void handle_tables(struct request *q)
{
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_z(&b, "{\"tables\":[\n");
    for (unsigned t = 0; t <= TABLE_DEAD; t++) {
        buf_z(&b, t ? ",\n" : "");
        put_table(q, &b, t);
    }
    buf_z(&b, "\n]}\n");
    send_json(q, &b);
}

static void handle_table(struct request *q, struct str name)
{
    unsigned t = 0;
    while (t <= TABLE_DEAD && !str_is(name, table_names[t]))
        t++;
    if (t > TABLE_DEAD) {
        problem_allowed(q, PROBLEM_UNKNOWN_TABLE, "no table has that name",
                        "\"pin\",\"geo\",\"user\",\"dead\"");
        return;
    }
    struct buf b;
    buf_init(&b, 1 << 20);
    put_table(q, &b, t);
    buf_char(&b, '\n');
    send_json(q, &b);
}

static void handle_openapi(struct request *q)
{
    struct buf b;
    buf_init(&b, q->api->openapi.len + 1);
    buf_str(&b, buf_as_str(&q->api->openapi));
    send_json(q, &b);
}

static void handle_options(struct request *q)
{
    struct buf none = {0};
    struct httpd_answer a = head(q, 204, NULL);
    put_header(&a, "allow", ALLOWED_METHODS);
    put_header(&a, "access-control-allow-methods", ALLOWED_METHODS);
    put_header(&a, "access-control-allow-headers", STR("Accept, If-None-Match, X-Request-Id"));
    put_header(&a, "access-control-max-age", STR("86400"));
    send_answer(q, &a, &none);
}

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
        problem_allowed(q, PROBLEM_NOT_FOUND, "no such path",
                        "\"/v1/questions\",\"/v1/questions/{name}\",\"/v1/tables\",\"/v1/tables/"
                        "{table}\",\"/openapi.json\"");
        return;
    }
    if (method == HTTPD_OPTIONS) {
        handle_options(q);
        return;
    }
    if (method != HTTPD_GET && method != HTTPD_HEAD) {
        problem_allowed(q, PROBLEM_METHOD, "only reading is possible here",
                        "\"GET\",\"HEAD\",\"OPTIONS\"");
        return;
    }
    switch ((enum route_id)q->route) {
    case ROUTE_QUESTIONS:
        handle_questions(q);
        return;
    case ROUTE_QUESTION:
        handle_question(q, last);
        return;
    case ROUTE_TABLES:
        handle_tables(q);
        return;
    case ROUTE_TABLE:
        handle_table(q, last);
        return;
    case ROUTE_OPENAPI:
        handle_openapi(q);
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
    httpd_call_on_gone(call, on_gone, q);
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
                           .on_error = on_error,
                           .ctx = a};
    int rc = httpd_open(app_loop(app), &o, &a->httpd, e);
    if (rc) {
        api_free(&a);
        return rc;
    }
    char host[256];
    unsigned port;
    (void)option_address(str_of(config->http_listen), host,
                         &port); /* the option's type has checked it */
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
