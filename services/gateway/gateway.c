/* gateway: life, producers, the cache of topics.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/gateway.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    MISSING_MAX = 1000,
    ANSWER_MAX = 64 << 20,
    MESSAGE_BYTES = 512 << 10,
    DRAIN_POLL_MS = 20,
    DRAIN_LINGER_MS = 500
};

/* ---- names ---- */

bool gateway_list_has(const char *list, struct str part, bool any_case)
{
    struct str rest = str_of(list), one;
    while (str_next(&rest, ',', &one)) {
        one = str_trim(one);
        if (one.n && (any_case ? str_ieq(one, part) : str_eq(one, part)))
            return true;
    }
    return false;
}

bool gateway_topic_name_valid(struct str name)
{
    if (name.n == 0 || name.n > 249 || str_is(name, ".") || str_is(name, ".."))
        return false;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

bool gateway_allowed(const struct gateway *gw, struct str topic)
{
    return gateway_list_has(gw->allow_text, topic, false);
}

struct gateway_series gateway_series(struct gateway *gw, const char *topic)
{
    /* Allowed topics only, so that clients cannot invent labels. */
    const char *label = gateway_allowed(gw, str_of(topic)) ? topic : "other";
    return (struct gateway_series){
        .received = metric_series(gw->metrics, GM_RECORDS_RECEIVED, "gateway", label),
        .sent = metric_series(gw->metrics, GM_RECORDS_SENT, "gateway", label),
        .refused = metric_series(gw->metrics, GM_RECORDS_DROPPED, label, "refused"),
        .unknown = metric_series(gw->metrics, GM_RECORDS_DROPPED, label, "unknown"),
    };
}

/* ---- the cache of topics ---- */

struct gateway_topic *gateway_topic(const struct gateway *gw, struct str name)
{
    return map_get(gw->topics, name);
}

static void free_topic(struct gateway_topic *t)
{
    mem_free(t->name);
    mem_free(t->id);
    mem_free(t);
}

void gateway_note_topic(struct gateway *gw, const Sluice__Topic *topic)
{
    struct str name = str_of(topic->name);
    struct gateway_topic *t = map_get(gw->topics, name);
    if (!t) {
        t = MEM_NEW(struct gateway_topic);
        t->name = mem_strdup(topic->name);
        t->allowed = gateway_allowed(gw, name);
        t->series = gateway_series(gw, topic->name);
        (void)map_put(gw->topics, name, t); /* nothing was there */
    }
    if (!t->id || strcmp(t->id, topic->id ? topic->id : "") != 0) {
        mem_free(t->id);
        t->id = mem_strdup(topic->id ? topic->id : "");
    }
    t->partitions = (int32_t)topic->n_partition;
    t->generation = gw->generation;
    (void)map_remove(gw->missing, name);
}

void gateway_note_missing(struct gateway *gw, struct str name)
{
    struct gateway_topic *t = map_remove(gw->topics, name);
    if (t)
        free_topic(t);
    if (map_count(gw->missing) < MISSING_MAX)
        (void)map_put(gw->missing, name, gw);
}

bool gateway_is_missing(const struct gateway *gw, struct str name)
{
    return map_get(gw->missing, name) != NULL;
}

static void start_refresh(void *ctx);

static void refresh_later(struct gateway *gw, uint64_t ms)
{
    loop_timer_start(gw->loop, &gw->refresh_timer, ms, start_refresh, gw);
}

static void set_ready(struct gateway *gw)
{
    char text[64];
    buf_reset(&gw->answer);
    buf_printf(&gw->answer, "%u connected", gw->connected);
    size_t n = gw->answer.len < sizeof text - 1 ? gw->answer.len : sizeof text - 1;
    memcpy(text, gw->answer.data, n);
    text[n] = 0;
    app_ready_set(gw->app, "producer", gw->connected > 0, text);
    app_ready_set(gw->app, "topics", gw->loaded,
                  gw->loaded ? "known" : "no producer has named them yet");
}

static void on_refresh(void *ctx, int rc, const Sluice__QuestionAnswer *a)
{
    struct gateway *gw = ctx;
    struct str name;
    void *value;
    if (rc != 0 || a->result != SLUICE__QUESTION_ANSWER__RESULT__OK) {
        LOG(DEBUG, "refresh_failed", KV_ERR(rc));
        refresh_later(gw, gw->config->metadata_refresh);
        return;
    }
    gw->generation++;
    map_free(&gw->missing);
    gw->missing = map_new();
    for (size_t i = 0; i < a->n_topic; i++)
        gateway_note_topic(gw, a->topic[i]);
    for (size_t i = 0; map_next(gw->topics, &i, &name, &value);) {
        struct gateway_topic *t = value;
        if (t->generation != gw->generation) {
            (void)map_remove(gw->topics, name);
            free_topic(t);
        }
    }
    if (!gw->loaded) {
        gw->loaded = true;
        set_ready(gw);
    }
    refresh_later(gw, gw->config->metadata_refresh);
}

static void start_refresh(void *ctx)
{
    struct gateway *gw = ctx;
    if (gw->refresh)
        return;
    int rc = outbox_ask(gw->outbox, SLUICE__QUESTION__KIND__CLUSTER, (struct str){NULL, 0}, -1,
                        5000, on_refresh, gw, &gw->refresh);
    if (rc != 0)
        refresh_later(gw, gw->config->metadata_refresh);
}

/* ---- producers ---- */

static void on_bus_state(void *ctx, unsigned connected, unsigned total)
{
    struct gateway *gw = ctx;
    if (connected > gw->connected && gw->outbox)
        refresh_later(gw, 0);
    if (connected != gw->connected)
        LOG(INFO, "producers_changed", KV_INT("connected", connected), KV_INT("total", total));
    gw->connected = connected;
    set_ready(gw);
}

static void on_message(void *ctx, unsigned requests, size_t bytes)
{
    struct gateway *gw = ctx;
    metric_add(gw->metrics, GM_BUS_MESSAGES, 0, 1);
    metric_observe(gw->metrics, GM_BUS_REQUESTS, 0, requests);
    metric_observe(gw->metrics, GM_BUS_BYTES, 0, (double)bytes);
}

static void on_collect(void *ctx)
{
    struct gateway *gw = ctx;
    struct metrics *m = gw->metrics;
    struct httpd_stats st;
    if (!gw->httpd)
        return;
    httpd_get_stats(gw->httpd, &st);
    /* httpd counts what it refuses itself: 400, 404, 408, 413, 431, 503. */
    static const int from_httpd[] = {REJECT_BAD_FRAMING,       REJECT_NOT_FOUND,
                                     REJECT_TIMEOUT,           REJECT_BODY_TOO_LARGE,
                                     REJECT_HEADERS_TOO_LARGE, REJECT_BACKPRESSURE};
    uint64_t rejected[REJECTS];
    memcpy(rejected, gw->rejected, sizeof rejected);
    for (size_t i = 0; i < sizeof from_httpd / sizeof *from_httpd; i++)
        rejected[from_httpd[i]] += st.refused_by_status[i];
    for (unsigned i = 0; i < REJECTS; i++)
        metric_set(m, GM_HTTP_REJECTED, i, (double)rejected[i]);
    metric_set(m, GM_HTTP_IN_FLIGHT, 0, st.calls);
    metric_set(m, GM_HTTP_CONNECTIONS, 0, st.connections);
    metric_set(m, GM_HTTP_ACCEPT_PAUSED, 0, (double)st.accept_paused_total);
    metric_set(m, GM_HTTP_ARRIVING, 0, (double)st.arriving_bytes);
    metric_set(m, GM_RECORDS_IN_FLIGHT, 0, (double)gw->inflight_records);
    metric_set(m, GM_BUFFER_BYTES, 0, (double)gw->inflight_bytes);
    metric_set(m, GM_BUFFER_MAX, 0, (double)gw->config->inflight_max);
    metric_set(m, GM_BACKPRESSURE, 0, gw->inflight_bytes >= gw->config->inflight_max * 9 / 10);
    metric_set(m, GM_BUS_UNANSWERED, 0, outbox_messages(gw->outbox));
    metric_set(m, GM_PRODUCERS, 0, gw->connected);
    metric_set(m, GM_TOPICS, 0, (double)map_count(gw->topics));
}

/* ---- life ---- */

int gateway_check(const void *config, const struct app_common *common, struct err *e)
{
    const struct gateway_config *c = config;
    if (c->record_max > c->body_max)
        return err_set(e, ERR_CONFIG, "record.max: must not be larger than body.max");
    if (c->inflight_max < c->body_max)
        return err_set(e, ERR_CONFIG, "inflight.max: must not be smaller than body.max");
    /* A request in flight lies here as its body and as a part of a message. */
    if (common->memory_max < 2 * c->inflight_max + c->body_max)
        return err_set(e, ERR_CONFIG,
                       "memory.max: inflight.max and body.max need %llu bytes at least",
                       (unsigned long long)(2 * c->inflight_max + c->body_max));
    return 0;
}

int gateway_start(struct app *app, void *config, struct err *e)
{
    struct gateway *gw = MEM_NEW(struct gateway);
    const struct gateway_config *c = gw->config = config;
    const char *user = app_common(app)->user;
    gw->app = app;
    gw->loop = app_loop(app);
    gw->metrics = app_metrics(app);
    gw->topics = map_new();
    gw->missing = map_new();
    list_init(&gw->calls);
    buf_init(&gw->answer, ANSWER_MAX);
    uint64_t seed;
    rnd_bytes(&seed, sizeof seed);
    rnd_seed(&gw->rnd, seed);
    gw->allow_text = *c->topics_allow ? mem_strdup(c->topics_allow)
                                      : mem_printf("%s.pin,%s.geo,%s.user", user, user, user);
    gw->body = rest_body_new(&(struct rest_body_opts){.max_depth = (unsigned)c->json_depth,
                                                      .record_max = c->record_max,
                                                      .records_max = (unsigned)c->records_max});
    app_state_set(app, gw);
    set_ready(gw);
    struct bus_client_opts bo = {.addresses = c->producers, .on_state = on_bus_state, .ctx = gw};
    int rc = bus_client_open(gw->loop, &bo, &gw->bus, e);
    if (rc != 0)
        return rc;
    gw->outbox = outbox_open(&(struct outbox_opts){.loop = gw->loop,
                                                   .bus = gw->bus,
                                                   .message_bytes = MESSAGE_BYTES,
                                                   .timeout_ms = c->produce_timeout,
                                                   .on_message = on_message,
                                                   .ctx = gw});
    size_t arriving = c->inflight_max / 2 > c->body_max ? c->inflight_max / 2 : c->body_max;
    struct httpd_opts ho = {.listen = c->http_listen,
                            .h2c = c->h2c,
                            .max_body_bytes = c->body_max,
                            .max_header_bytes = c->headers_max,
                            .max_arriving_bytes = arriving + (64 << 10),
                            .max_connections = (unsigned)c->connections_max,
                            .request_timeout_ms = c->request_timeout,
                            .on_request = rest_on_request,
                            .on_error = rest_on_error,
                            .on_error_fields = rest_on_error_fields,
                            .ctx = gw};
    rc = httpd_open(gw->loop, &ho, &gw->httpd, e);
    if (rc != 0)
        return err_prefix(e, "http.listen");
    metrics_on_collect(gw->metrics, on_collect, gw);
    refresh_later(gw, 0);
    char host[256];
    unsigned port;
    CHECK(option_address(str_of(c->http_listen), host, &port) ==
          0); /* the option's type has checked it */
    app_listening("http", host, httpd_port(gw->httpd));
    return 0;
}

static void on_drain_poll(void *ctx)
{
    struct gateway *gw = ctx;
    struct httpd_stats st;
    httpd_get_stats(gw->httpd, &st);
    bool late = loop_now_ms(gw->loop) - gw->drain_began_ms > DRAIN_LINGER_MS;
    if (st.calls == 0 && gw->items == 0 && (st.connections == 0 || late)) {
        app_drained(gw->app);
        return;
    }
    loop_timer_start(gw->loop, &gw->drain_timer, DRAIN_POLL_MS, on_drain_poll, gw);
}

void gateway_drain(struct app *app)
{
    struct gateway *gw = app_state(app);
    gw->draining = true;
    gw->drain_began_ms = loop_now_ms(gw->loop);
    httpd_drain(gw->httpd);
    loop_timer_start(gw->loop, &gw->drain_timer, 1, on_drain_poll, gw);
}

void gateway_stop(struct app *app)
{
    struct gateway *gw = app_state(app);
    if (!gw)
        return;
    app_state_set(app, NULL);
    loop_timer_stop(&gw->refresh_timer);
    loop_timer_stop(&gw->drain_timer);
    httpd_close(&gw->httpd);
    outbox_close(&gw->outbox);
    bus_client_close(&gw->bus);
    rest_drop_calls(gw);
    rest_body_free(&gw->body);
    struct str name;
    void *value;
    for (size_t i = 0; map_next(gw->topics, &i, &name, &value);)
        free_topic(value);
    map_free(&gw->topics);
    map_free(&gw->missing);
    buf_deinit(&gw->answer);
    mem_free(gw->allow_text);
    mem_free(gw);
}

void gateway_dump(struct app *app, struct buf *out)
{
    const struct gateway *gw = app_state(app);
    struct str name;
    void *value;
    bool first = true;
    buf_z(out, "\"gateway\":{\"topics\":{");
    for (size_t i = 0; gw && map_next(gw->topics, &i, &name, &value);) {
        const struct gateway_topic *t = value;
        if (!first)
            buf_char(out, ',');
        first = false;
        buf_json(out, name);
        buf_z(out, ":{\"id\":");
        buf_json(out, str_of(t->id));
        buf_printf(out, ",\"partitions\":%d}", t->partitions);
    }
    buf_printf(out,
               "},\"producers\":%u,\"inflight_bytes\":%llu,\"inflight_records\":%llu,\"unanswered_"
               "messages\":%u}",
               gw ? gw->connected : 0, gw ? (unsigned long long)gw->inflight_bytes : 0,
               gw ? (unsigned long long)gw->inflight_records : 0,
               gw && gw->outbox ? outbox_messages(gw->outbox) : 0);
}
