/* httpd: an HTTP/1.1 and HTTP/2 (without TLS) server on the one loop. HTTP/2 is h2o's; HTTP/1 is read here, strictly, because
 * h2o 2.2.5 lets requests through that two readers can frame in two ways.
 *
 * One handler gets every request, whole. It answers now or later by httpd_answer or a stream. A call that has ended (the client
 * left, HTTP/2) is announced by its on_gone; after that the call is gone.
 * Limits: beyond max_body_bytes 413 (before the body is buffered where Content-Length tells; while it arrives otherwise),
 * beyond max_header_bytes 431, slower than request_timeout_ms 408 (or the connection ends). All bodies that are
 * still arriving together never take more than max_arriving_bytes: beyond it 503 with Retry-After.
 * Over HTTP/2 a body without room ends its connection.
 * A client that ends its side while its call is open is taken as gone.
 * Requests whose framing is not clean (two Content-Length or Host fields, Content-Length with Transfer-Encoding, bare LF, folded
 * headers) get 400 and the connection ends. Error bodies come from `on_error`, in the service's own shape.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "io/loop.h"

struct httpd;
struct httpd_call;

enum httpd_method {
    HTTPD_GET,
    HTTPD_HEAD,
    HTTPD_POST,
    HTTPD_PUT,
    HTTPD_DELETE,
    HTTPD_OPTIONS,
    HTTPD_OTHER
};

struct httpd_request {
    enum httpd_method method;
    struct str method_name;
    struct str path;  /* without the query, as sent (still percent-encoded) */
    struct str query; /* without '?'; p NULL: none */
    struct str body;  /* HTTPD_BODY_PADDING readable bytes follow it */
    bool http2;
    uint64_t arrived_us;      /* clock_us when the request was whole */
    uint64_t arrived_wall_ms; /* clock_wall_ms of the same moment */
    const void *native;
};
#define HTTPD_BODY_PADDING 64
/* The first header of that name (lower case, constant); p NULL: none. */
struct str httpd_header(const struct httpd_request *req, const char *name);

struct httpd_answer {
    int status;
    const char *content_type;
    struct str body; /* copied, unless body_owned */
    /* if set: the body's memory, freed with mem_free when sent; body points into it */
    char *body_owned;
    struct {
        const char *name;
        struct str value;
    } headers[8]; /* name constant, lower case; ends at NULL; values copied */
    bool close;   /* end the connection after it */
};

/* `req` and its slices stay valid until the call is answered or gone. */
typedef void httpd_handler_fn(void *ctx, struct httpd_call *call, const struct httpd_request *req);
/* Fills body (and content type) of an answer that httpd itself gives: 400, 404, 408, 413, 431, 503. */
typedef void httpd_error_fn(void *ctx, int status, const char *text, struct buf *body,
                            const char **ret_content_type);
/* Adds header fields to such an answer. `req` has the head (its body is empty), or is NULL: no head could be read. What the values
 * point to stays unchanged until the service is called again. */
typedef void httpd_error_fields_fn(void *ctx, const struct httpd_request *req,
                                   struct httpd_answer *a);

struct httpd_opts {
    const char *listen; /* host:port, port 0 = any */
    bool h2c;           /* HTTP/2 with prior knowledge */
    size_t max_body_bytes, max_header_bytes, max_arriving_bytes;
    unsigned max_connections; /* beyond it accepting waits */
    uint64_t request_timeout_ms;
    const char *server_name; /* Server header; NULL: none */
    httpd_handler_fn *on_request;
    httpd_error_fn *on_error;               /* NULL: plain text */
    httpd_error_fields_fn *on_error_fields; /* NULL: none */
    void *ctx;
};
int httpd_open(struct loop *loop, const struct httpd_opts *o, struct httpd **ret, struct err *e);
unsigned httpd_port(const struct httpd *h);
/* Not accepting any more; connections end after their running request ("Connection: close", GOAWAY). */
void httpd_drain(struct httpd *h);
/* Ends every connection; no further callback. Open calls of the service become gone (their on_gone runs). */
void httpd_close(struct httpd **h);

struct httpd_stats {
    /* refused: answered by httpd itself */
    uint64_t connections_total, requests_total, refused_total;
    unsigned connections, calls; /* open now */
    size_t arriving_bytes;       /* bodies not yet whole */
    uint64_t accept_paused_total;
    uint64_t refused_by_status[6]; /* 400, 404, 408, 413, 431, 503 */
};
void httpd_get_stats(const struct httpd *h, struct httpd_stats *ret);

/* At most one of these, once. After it the call (and req) is gone for the caller. */
void httpd_answer(struct httpd_call *call, const struct httpd_answer *a);
/* The client left before the answer: runs once, then the call is gone for the caller. NULL clears. */
void httpd_call_on_gone(struct httpd_call *call, void (*fn)(void *ctx), void *ctx);

/* A long answer in pieces: begin, then for each httpd_stream_want callback one httpd_stream_send (last = true ends). */
struct httpd_stream;
typedef void httpd_want_fn(void *ctx); /* the last piece was sent: the next one, please */
struct httpd_stream *httpd_stream_begin(struct httpd_call *call, const struct httpd_answer *head,
                                        httpd_want_fn *want, void (*gone)(void *ctx), void *ctx);
/* copies; after last the stream is gone */
void httpd_stream_send(struct httpd_stream *s, struct str piece, bool last);
/* cuts the connection, so that nobody takes it for whole */
void httpd_stream_abort(struct httpd_stream *s);
