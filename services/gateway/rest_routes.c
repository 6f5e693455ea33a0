/* rest_routes: from a request to its answer.
 *
 * A produce request: route → media types → may it go on at all (draining, producers, bytes in flight) → its topic, from the cache
 * or by a question → body → outbox → answer. Whatever fails before the outbox is refused: nothing of it was handed on.
 * The client may leave at any time: a request that is at a producer then ends without an answer.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/gateway.h"
#include "gateway/rest_answer.h"
#include "gateway/rest_head.h"

enum { SEGMENTS = 6, TOPIC_ASK_MS = 40, QUESTION_MS = 5000 };
#define UNKNOWN_TEXT "The answer of the producer was lost: the records may have been written."

struct rest_call {
    struct outbox_item item; /* first: the outbox hands it back */
    struct list node;
    struct gateway *gw;
    struct httpd_call *call; /* NULL: answered, or the client has left */
    const struct httpd_request *req;
    struct outbox_question *question;
    enum gateway_route route;
    enum rest_format format;
    int32_t partition;
    bool strict, at_producer;
    const char *type; /* of the answer */
    uint64_t charged_bytes;
    uint64_t arrived_us;
    struct gateway_series series;
    size_t request_id_n, topic_n;
    char request_id[65];
    char topic[250];
};

static struct str topic_of(const struct rest_call *c)
{
    return str_make(c->topic, c->topic_n);
}

static void free_call(struct rest_call *c)
{
    struct gateway *gw = c->gw;
    gw->inflight_bytes -= c->charged_bytes;
    app_memory_sub(app_memory(gw->app), c->charged_bytes);
    outbox_cancel(&c->question);
    list_remove(&c->node);
    mem_free(c);
}

void rest_drop_calls(struct gateway *gw)
{
    LIST_EACH (it, tmp, &gw->calls)
        free_call(LIST_ENTRY(it, struct rest_call, node));
}

static void on_gone(void *ctx)
{
    struct rest_call *c = ctx;
    c->call = NULL;
    c->req = NULL;
    if (!c->at_producer)
        free_call(c);
}

/* ---- answers ---- */

static unsigned code_index(int status)
{
    static const int codes[] = {200, 204, 207, 400, 401, 403, 404,
                                405, 406, 413, 415, 422, 500, 503};
    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i] == status)
            return i;
    return 12;
}
enum { CODES = 14 };

/* Answers with what is in gw->answer. `allow`: for 405 and OPTIONS. */
static void answer(struct rest_call *c, int status, bool retry, const char *allow)
{
    struct gateway *gw = c->gw;
    struct httpd_call *call = c->call;
    c->call = NULL;
    if (!call)
        return;
    struct httpd_answer a = {.status = status,
                             .content_type = status == 204 ? NULL : c->type,
                             .body =
                                 status == 204 ? (struct str){NULL, 0} : buf_as_str(&gw->answer)};
    rest_head_add(&a, "x-request-id", str_make(c->request_id, c->request_id_n));
    if (retry)
        rest_head_add(&a, "retry-after", STR("1"));
    if (allow)
        rest_head_add(&a, "allow", str_of(allow));
    rest_head_cors(gw, c->req, c->route == ROUTE_PREFLIGHT, &a);
    metric_add(gw->metrics, GM_HTTP_REQUESTS, c->route * CODES + code_index(status), 1);
    metric_observe(gw->metrics, GM_HTTP_SECONDS, c->route,
                   (double)(clock_us() - c->arrived_us) / 1e6);
    c->req = NULL;
    httpd_answer(call, &a);
}

/* Refused before anything was handed on; ends the call. */
static void refuse(struct rest_call *c, enum gateway_reject reason, int status, int code,
                   const char *text)
{
    struct gateway *gw = c->gw;
    gw->rejected[reason]++;
    buf_reset(&gw->answer);
    rest_answer_error(&gw->answer, code, text);
    answer(c, status, status == 503 && code == 503, NULL);
    free_call(c);
}

static void finish(struct rest_call *c, int status)
{
    answer(c, status, false, NULL);
    free_call(c);
}

void rest_on_error_fields(void *ctx, const struct httpd_request *req, struct httpd_answer *a)
{
    struct gateway *gw = ctx;
    size_t n = rest_head_request_id(gw, req, gw->error_id);
    rest_head_add(a, "x-request-id", str_make(gw->error_id, n));
    rest_head_cors(gw, req, false, a);
}

void rest_on_error(void *ctx, int status, const char *text, struct buf *body,
                   const char **ret_content_type)
{
    (void)ctx;
    *ret_content_type = REST_V2_TYPE;
    rest_answer_error(body, status, text);
}

/* ---- produce ---- */

static void note_outcome(struct rest_call *c, unsigned sent, unsigned refused, unsigned unknown)
{
    struct metrics *m = c->gw->metrics;
    c->gw->inflight_records -= c->item.records;
    if (sent)
        metric_add(m, GM_RECORDS_SENT, c->series.sent, sent);
    if (refused)
        metric_add(m, GM_RECORDS_DROPPED, c->series.refused, refused);
    if (unknown)
        metric_add(m, GM_RECORDS_DROPPED, c->series.unknown, unknown);
}

static void on_produced(struct outbox_item *item, int rc, const Sluice__ProduceAnswer *a)
{
    struct rest_call *c = (struct rest_call *)item;
    struct gateway *gw = c->gw;
    struct rest_outcome o = {0};
    gw->items--;
    c->at_producer = false;
    buf_reset(&gw->answer);
    if (rc == 0) {
        rest_answer_produce(a, item->records, c->strict, &gw->answer, &o);
        note_outcome(c, o.stored, o.refused, o.unknown);
        if (o.code == 40401)
            gateway_note_missing(gw, topic_of(c));
        if (o.code == 503)
            gw->rejected[REJECT_BACKPRESSURE]++;
    } else if (rc == ERR_UNAVAILABLE) {
        note_outcome(c, 0, item->records, 0);
        gw->rejected[REJECT_NO_PRODUCER]++;
        o = (struct rest_outcome){.status = 503, .code = 503};
        rest_answer_error(&gw->answer, 503, "No producer is connected.");
    } else {
        note_outcome(c, 0, 0, item->records);
        o = (struct rest_outcome){.status = 503, .code = 50003};
        rest_answer_error(&gw->answer, 50003, UNKNOWN_TEXT);
    }
    answer(c, o.status, o.code == 503, NULL);
    free_call(c);
}

static enum gateway_reject reason_of(int status)
{
    return status == 400   ? REJECT_BAD_JSON
           : status == 413 ? REJECT_BODY_TOO_LARGE
           : status == 404 ? REJECT_NOT_FOUND
                           : REJECT_INVALID;
}

/* The topic may be produced to; it has so many partitions, or 0 when only the producer can tell. */
static void produce(struct rest_call *c, int32_t partitions, struct gateway_series series)
{
    struct gateway *gw = c->gw;
    struct rest_fault fault;
    if (partitions > 0 && c->partition >= partitions) {
        refuse(c, REJECT_NOT_FOUND, 404, 40402, "Partition not found.");
        return;
    }
    struct buf *out = outbox_begin(gw->outbox, topic_of(c), c->partition);
    struct rest_body_request req = {
        .format = c->format, .partitions = partitions, .ingested_at_ms = c->req->arrived_wall_ms};
    if (rest_body_parse(gw->body, c->req->body, &req, out, &c->item.records, &fault) != 0) {
        outbox_abort(gw->outbox);
        refuse(c, reason_of(fault.status), fault.status, fault.code, fault.text);
        return;
    }
    c->item.done = on_produced;
    outbox_commit(gw->outbox, &c->item);
    app_memory_add(app_memory(gw->app), c->item.bytes);
    c->charged_bytes += c->item.bytes;
    gw->inflight_bytes += c->item.bytes;
    gw->inflight_records += c->item.records;
    gw->items++;
    c->at_producer = true;
    c->series = series;
    metric_add(gw->metrics, GM_RECORDS_RECEIVED, series.received, c->item.records);
}

static void on_topic_asked(void *ctx, int rc, const Sluice__QuestionAnswer *a)
{
    struct rest_call *c = ctx;
    struct gateway *gw = c->gw;
    bool allowed = gateway_allowed(gw, topic_of(c));
    if (rc == 0 && a->result == SLUICE__QUESTION_ANSWER__RESULT__OK && a->n_topic == 1) {
        gateway_note_topic(gw, a->topic[0]);
        if (allowed)
            produce(c, (int32_t)a->topic[0]->n_partition, gateway_series(gw, c->topic));
        else
            refuse(c, REJECT_FORBIDDEN, 403, 40301,
                   "Not authorized to access topics: this topic is not in topics.allow");
        return;
    }
    bool unsure = rc != 0 || a->result == SLUICE__QUESTION_ANSWER__RESULT__UNAVAILABLE;
    if (!unsure)
        gateway_note_missing(gw, topic_of(c));
    if (unsure && allowed)
        produce(c, 0, gateway_series(gw, c->topic)); /* the producer will know */
    else if (unsure && !gw->loaded)
        refuse(c, REJECT_NO_PRODUCER, 503, 503, "The topics are not known yet.");
    else
        refuse(c, REJECT_NOT_FOUND, 404, 40401, "Topic not found.");
}

static bool may_go_on(struct rest_call *c)
{
    struct gateway *gw = c->gw;
    uint64_t bytes = c->req->body.n;
    if (gw->draining) {
        refuse(c, REJECT_DRAINING, 503, 503, "The gateway is about to end.");
        return false;
    }
    if (gw->connected == 0) {
        refuse(c, REJECT_NO_PRODUCER, 503, 503, "No producer is connected.");
        return false;
    }
    if (gw->inflight_bytes + bytes > gw->config->inflight_max ||
        !app_memory_fits(app_memory(gw->app), 2 * bytes)) {
        refuse(c, REJECT_BACKPRESSURE, 503, 503, "Too many bytes are in flight (inflight.max).");
        return false;
    }
    app_memory_add(app_memory(gw->app), bytes);
    gw->inflight_bytes += bytes;
    c->charged_bytes += bytes;
    return true;
}

static void start_produce(struct rest_call *c)
{
    struct gateway *gw = c->gw;
    metric_observe(gw->metrics, GM_HTTP_BODY, 0, (double)c->req->body.n);
    if (!may_go_on(c))
        return;
    const struct gateway_topic *t = gateway_topic(gw, topic_of(c));
    if (t && t->allowed) {
        produce(c, t->partitions, t->series);
        return;
    }
    if (t) {
        refuse(c, REJECT_FORBIDDEN, 403, 40301,
               "Not authorized to access topics: this topic is not in topics.allow");
        return;
    }
    if (gateway_is_missing(gw, topic_of(c))) {
        refuse(c, REJECT_NOT_FOUND, 404, 40401, "Topic not found.");
        return;
    }
    if (outbox_ask(gw->outbox, SLUICE__QUESTION__KIND__TOPIC, topic_of(c), -1, TOPIC_ASK_MS,
                   on_topic_asked, c, &c->question) != 0)
        refuse(c, REJECT_NO_PRODUCER, 503, 503, "No producer is connected.");
}

/* ---- questions ---- */

static void on_question(void *ctx, int rc, const Sluice__QuestionAnswer *a)
{
    struct rest_call *c = ctx;
    struct gateway *gw = c->gw;
    if (rc != 0 || a->result == SLUICE__QUESTION_ANSWER__RESULT__UNAVAILABLE) {
        refuse(c, REJECT_NO_PRODUCER, 503, 50302, "Broker not available.");
        return;
    }
    bool topic_needed =
        c->route == ROUTE_TOPIC || c->route == ROUTE_PARTITIONS || c->route == ROUTE_PARTITION;
    if (a->result == SLUICE__QUESTION_ANSWER__RESULT__NO_TOPIC ||
        (topic_needed && a->n_topic != 1)) {
        refuse(c, REJECT_NOT_FOUND, 404, 40401, "Topic not found.");
        return;
    }
    bool found = a->result == SLUICE__QUESTION_ANSWER__RESULT__OK;
    buf_reset(&gw->answer);
    switch (c->route) {
    case ROUTE_TOPICS:
        rest_answer_topics(&gw->answer, a);
        break;
    case ROUTE_TOPIC:
        rest_answer_topic(&gw->answer, a->topic[0]);
        break;
    case ROUTE_PARTITIONS:
        rest_answer_partitions(&gw->answer, a->topic[0]);
        break;
    case ROUTE_PARTITION:
        found = found && rest_answer_partition(&gw->answer, a->topic[0], c->partition);
        break;
    case ROUTE_OFFSETS:
        rest_answer_offsets(&gw->answer, a);
        break;
    default:
        rest_answer_brokers(&gw->answer, a);
        break;
    }
    if (found)
        finish(c, 200);
    else
        refuse(c, REJECT_NOT_FOUND, 404, 40402, "Partition not found.");
}

static void start_question(struct rest_call *c)
{
    Sluice__Question__Kind kind = c->route == ROUTE_TOPICS || c->route == ROUTE_BROKERS
                                      ? SLUICE__QUESTION__KIND__CLUSTER
                                  : c->route == ROUTE_OFFSETS ? SLUICE__QUESTION__KIND__OFFSETS
                                                              : SLUICE__QUESTION__KIND__TOPIC;
    int32_t partition = c->route == ROUTE_OFFSETS ? c->partition : -1;
    if (outbox_ask(c->gw->outbox, kind, topic_of(c), partition, QUESTION_MS, on_question, c,
                   &c->question) != 0)
        refuse(c, REJECT_NO_PRODUCER, 503, 503, "No producer is connected.");
}

/* ---- routes ---- */

static bool take_topic(struct rest_call *c, struct str segment)
{
    char out[1024];
    size_t n;
    if (segment.n > sizeof out || str_url_decode(segment, false, out, &n) != 0 ||
        !gateway_topic_name_valid(str_make(out, n)))
        return false;
    memcpy(c->topic, out, n);
    c->topic[n] = 0;
    c->topic_n = n;
    return true;
}

/* The route of a GET; ROUTE_NONE: there is none. A name or number that cannot exist leaves topic_n 0 or partition -1. */
static enum gateway_route find_route(struct rest_call *c, struct str path)
{
    struct str rest = path, seg[SEGMENTS + 1];
    size_t n = 0;
    if (path.n == 0 || path.p[0] != '/')
        return ROUTE_NONE;
    rest.p++, rest.n--;
    if (rest.n && rest.p[rest.n - 1] == '/')
        rest.n--;
    while (rest.n && n <= SEGMENTS && str_next(&rest, '/', &seg[n]))
        n++;
    size_t at = n && gateway_list_has(c->gw->config->stages, seg[0], true) ? 1 : 0;
    struct str *s = seg + at;
    n -= at;
    if (n == 0)
        return ROUTE_ROOT;
    if (n == 1 && str_is(s[0], "brokers"))
        return ROUTE_BROKERS;
    if (!str_is(s[0], "topics") || n > 5)
        return ROUTE_NONE;
    if (n == 1)
        return ROUTE_TOPICS;
    (void)take_topic(c, s[1]); /* an impossible name is answered as an unknown topic */
    if (n == 2)
        return ROUTE_TOPIC;
    if (!str_is(s[2], "partitions"))
        return ROUTE_NONE;
    if (n == 3)
        return ROUTE_PARTITIONS;
    uint64_t p;
    if (str_u64(s[3], &p) != 0 || p > INT32_MAX)
        return ROUTE_NONE;
    c->partition = (int32_t)p;
    if (n == 4)
        return ROUTE_PARTITION;
    return str_is(s[4], "offsets") ? ROUTE_OFFSETS : ROUTE_NONE;
}

static const char *allow_of(enum gateway_route route)
{
    switch (route) {
    case ROUTE_ROOT:
    case ROUTE_TOPIC:
    case ROUTE_PARTITION:
        return "GET, HEAD, POST, OPTIONS";
    default:
        return "GET, HEAD, OPTIONS";
    }
}

static void route_options(struct rest_call *c)
{
    const char *allow = c->route == ROUTE_NONE ? NULL : allow_of(c->route);
    if (!allow) {
        refuse(c, REJECT_NOT_FOUND, 404, 404, "HTTP 404 Not Found");
        return;
    }
    c->route = ROUTE_PREFLIGHT;
    answer(c, 204, false, allow);
    free_call(c);
}

/* Whether the client can read the answer; else it is refused. */
static bool accepts(struct rest_call *c)
{
    const char *type = rest_head_answer_type(c->req);
    if (!type) {
        refuse(c, REJECT_NOT_ACCEPTABLE, 406, 406, "HTTP 406 Not Acceptable");
        return false;
    }
    c->type = type;
    return true;
}

static void route_post(struct rest_call *c)
{
    if (c->route == ROUTE_ROOT) {
        if (!accepts(c))
            return;
        buf_reset(&c->gw->answer);
        buf_z(&c->gw->answer, "{}");
        finish(c, 200);
        return;
    }
    c->route = c->route == ROUTE_TOPIC ? ROUTE_PRODUCE : ROUTE_PRODUCE_PARTITION;
    if (rest_head_format(c->req, &c->format) != 0) {
        refuse(c, REJECT_MEDIA_TYPE, 415, 415, "HTTP 415 Unsupported Media Type");
        return;
    }
    if (!accepts(c))
        return;
    c->strict = c->gw->config->strict || rest_head_prefers_strict(c->req);
    if (c->topic_n == 0)
        refuse(c, REJECT_NOT_FOUND, 404, 40401, "Topic not found.");
    else
        start_produce(c);
}

static void route_get(struct rest_call *c)
{
    if (!accepts(c))
        return;
    if (c->route == ROUTE_ROOT) {
        buf_reset(&c->gw->answer);
        buf_z(&c->gw->answer, "{}");
        finish(c, 200);
        return;
    }
    if (c->topic_n == 0 && c->route != ROUTE_TOPICS && c->route != ROUTE_BROKERS)
        refuse(c, REJECT_NOT_FOUND, 404, 40401, "Topic not found.");
    else
        start_question(c);
}

void rest_on_request(void *ctx, struct httpd_call *call, const struct httpd_request *req)
{
    struct gateway *gw = ctx;
    struct rest_call *c = MEM_NEW(struct rest_call);
    c->gw = gw;
    c->call = call;
    c->req = req;
    c->partition = -1;
    c->type = REST_V2_TYPE;
    c->arrived_us = req->arrived_us;
    list_push(&gw->calls, &c->node);
    httpd_call_on_gone(call, on_gone, c);
    c->request_id_n = rest_head_request_id(gw, req, c->request_id);
    c->route = find_route(c, req->path);
    if (req->method == HTTPD_OPTIONS) {
        route_options(c);
        return;
    }
    if (c->route == ROUTE_NONE) {
        refuse(c, REJECT_NOT_FOUND, 404, 404, "HTTP 404 Not Found");
        return;
    }
    const char *allow = allow_of(c->route);
    bool get = req->method == HTTPD_GET || req->method == HTTPD_HEAD;
    if (!get && !(req->method == HTTPD_POST && strstr(allow, "POST"))) {
        gw->rejected[REJECT_METHOD]++;
        buf_reset(&gw->answer);
        rest_answer_error(&gw->answer, 405, "HTTP 405 Method Not Allowed");
        answer(c, 405, false, allow);
        free_call(c);
        return;
    }
    if (get)
        route_get(c);
    else
        route_post(c);
}
