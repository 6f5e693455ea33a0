/* gateway: REST Proxy v2 over HTTP in front, produce batches over the bus behind.
 *
 * gateway.c      life, connection to the producers, the cache of topics
 * rest_routes.c  from a request to its answer
 * rest_head.c    media types, request ids, CORS; rest_body.c reads produce bodies; rest_answer.c writes answers
 * outbox.c       gathers and sends
 * metrics.c      the table of metrics
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "base/map.h"
#include "base/rnd.h"
#include "gateway/outbox.h"
#include "gateway/rest_body.h"
#include "io/bus.h"
#include "io/httpd.h"

struct gateway_config {
    const char *http_listen, *producers, *stages, *topics_allow, *cors_origins;
    bool h2c, strict;
    uint64_t body_max, record_max, headers_max, inflight_max;    /* bytes */
    uint64_t produce_timeout, request_timeout, metadata_refresh; /* ms */
    int64_t records_max, json_depth, connections_max;
};

enum { /* metrics */
       GM_HTTP_REQUESTS,
       GM_HTTP_SECONDS,
       GM_HTTP_BODY,
       GM_HTTP_IN_FLIGHT,
       GM_HTTP_REJECTED,
       GM_HTTP_CONNECTIONS,
       GM_HTTP_ACCEPT_PAUSED,
       GM_HTTP_ARRIVING,
       GM_RECORDS_RECEIVED,
       GM_RECORDS_SENT,
       GM_RECORDS_DROPPED,
       GM_RECORDS_IN_FLIGHT,
       GM_BUFFER_BYTES,
       GM_BUFFER_MAX,
       GM_BACKPRESSURE,
       GM_BUS_MESSAGES,
       GM_BUS_REQUESTS,
       GM_BUS_BYTES,
       GM_BUS_UNANSWERED,
       GM_PRODUCERS,
       GM_TOPICS,
};
extern const struct metric_def gateway_metrics[];

/* The closed sets of labels; metrics.c has the names in this order. */
enum gateway_route {
    ROUTE_NONE,
    ROUTE_ROOT,
    ROUTE_TOPICS,
    ROUTE_TOPIC,
    ROUTE_PARTITIONS,
    ROUTE_PARTITION,
    ROUTE_OFFSETS,
    ROUTE_BROKERS,
    ROUTE_PRODUCE,
    ROUTE_PRODUCE_PARTITION,
    ROUTE_PREFLIGHT,
    ROUTES
};
enum gateway_reject {
    REJECT_BODY_TOO_LARGE,
    REJECT_HEADERS_TOO_LARGE,
    REJECT_BAD_FRAMING,
    REJECT_BAD_JSON,
    REJECT_INVALID,
    REJECT_TIMEOUT,
    REJECT_BACKPRESSURE,
    REJECT_NO_PRODUCER,
    REJECT_DRAINING,
    REJECT_NOT_FOUND,
    REJECT_FORBIDDEN,
    REJECT_METHOD,
    REJECT_MEDIA_TYPE,
    REJECT_NOT_ACCEPTABLE,
    REJECTS
};

/* The numbers of a topic's series; topics that are not in topics.allow share those of "other". */
struct gateway_series {
    unsigned received, sent, refused, unknown;
};
struct gateway_topic {
    char *name, *id;
    int32_t partitions;
    unsigned generation; /* of the refresh that last named it */
    bool allowed;        /* may be produced to */
    struct gateway_series series;
};

struct gateway {
    struct app *app;
    const struct gateway_config *config;
    struct loop *loop;
    struct metrics *metrics;
    struct httpd *httpd;
    struct bus_client *bus;
    struct outbox *outbox;
    struct rest_body *body;
    struct buf answer;   /* scratch */
    struct rnd rnd;      /* for request ids */
    char error_id[65];   /* scratch: the request id of an answer that httpd gives */
    char *allow_text;    /* the topics that may be produced to, by commas */
    struct map *topics;  /* struct gateway_topic by name */
    struct map *missing; /* topics that were asked for and are not there; emptied by each refresh */
    unsigned generation, connected;
    bool loaded; /* the cache was filled once */
    struct outbox_question *refresh;
    struct loop_timer refresh_timer, drain_timer;
    uint64_t drain_began_ms;
    bool draining;
    struct list calls; /* struct rest_call: answered or not, until nothing is on its way for them */
    unsigned items;    /* requests at a producer */
    uint64_t inflight_bytes, inflight_records;
    uint64_t rejected[REJECTS];
};

int gateway_start(struct app *app, void *config, struct err *e);
int gateway_check(const void *config, const struct app_common *common, struct err *e);
void gateway_drain(struct app *app);
void gateway_stop(struct app *app);
void gateway_dump(struct app *app, struct buf *out);

struct gateway_topic *gateway_topic(const struct gateway *gw, struct str name);
void gateway_note_topic(struct gateway *gw, const Sluice__Topic *t);
void gateway_note_missing(struct gateway *gw, struct str name);
bool gateway_is_missing(const struct gateway *gw, struct str name);
bool gateway_allowed(const struct gateway *gw, struct str topic);
struct gateway_series gateway_series(struct gateway *gw, const char *topic);
/* Is `part` one of the comma list `list`? */
bool gateway_list_has(const char *list, struct str part, bool any_case);
bool gateway_topic_name_valid(struct str name);

/* rest_routes.c */
void rest_on_request(void *ctx, struct httpd_call *call, const struct httpd_request *req);
void rest_on_error(void *ctx, int status, const char *text, struct buf *body,
                   const char **ret_content_type);
void rest_on_error_fields(void *ctx, const struct httpd_request *req, struct httpd_answer *a);
void rest_drop_calls(struct gateway *gw); /* at the end: nothing is answered any more */
