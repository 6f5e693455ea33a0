/* httpd_conn: one connection. HTTP/1.1 is read here and written in httpd_write.c; HTTP/2 goes to h2o after its preface.
 *
 * state    waits for                 moves on in     then             timeout
 * HEAD     a whole head              take_head       BODY, H2         request_timeout: 408; no byte yet: ends
 * BODY     the whole body            take_body       CALL             request_timeout: 408
 * CALL     the service's answer      …_finish        HEAD, LINGER     the service's own; for a stuck writer request_timeout
 * LINGER   the client's end          on_read         CLOSED           LINGER_MS
 * H2       h2o                       -               CLOSED           h2o's
 * CLOSED   the handle's close        on_closed       -                -
 *
 * One request is at work at a time; what is pipelined behind it waits in the buffer. The buffer never moves while a call is open,
 * because the request's slices point into it. A client that ends its side while its call is open is taken as gone.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"
#include "base/clock.h"
#include "base/mem.h"

enum {
    FIRST_BYTES = 4096, /* a buffer's first size */
    KEEP_BYTES = 8192,  /* a buffer up to this size is kept between requests */
    LINGER_MS = 2000,   /* how long the client may take to read a last answer */
    LINGER_DRAIN_MS = 200,
    LINGER_BYTES = 256 << 20, /* and how much of its body is thrown away meanwhile */
    PAD = HTTPD_BODY_PADDING,
};

static void conn_process(struct httpd_conn *c);
static void refuse(struct httpd_conn *c, int status, const char *text);
static void update_reading(struct httpd_conn *c);
static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf);

void httpd_conn_deadline(struct httpd_conn *c, uint64_t after_ms)
{
    c->deadline_ms = loop_now_ms(c->h->loop) + after_ms;
}

static void give_room(struct httpd_conn *c)
{
    httpd_room_give(c->h, c->reserved);
    c->reserved = 0;
}

/* ---- the end ---- */

void httpd_conn_on_closed(uv_handle_t *handle)
{
    struct httpd_conn *c = LIST_ENTRY(handle, struct httpd_conn, tcp);
    struct httpd *h = c->h;
    CHECK(c->tag == HTTPD_CONN_TAG);
    if (c->state == CONN_H2)
        httpd_h2_conn_free(c);
    loop_timer_stop(&c->timer);
    loop_defer_cancel(&c->next);
    list_remove(&c->node);
    c->tag = 0;
    httpd_buffer_give(h, c->in, c->cap);
    mem_free(c);
    httpd_conn_gone(h);
}

void httpd_conn_end(struct httpd_conn *c)
{
    if (c->state == CONN_H2) {
        httpd_h2_end(c);
        return;
    }
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    give_room(c);
    loop_timer_stop(&c->timer);
    loop_defer_cancel(&c->next);
    uv_close((uv_handle_t *)&c->tcp, httpd_conn_on_closed);
    httpd_call_gone(&c->call);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    (void)status; /* the client has gone already: reading says so */
    mem_free(req);
}

/* Says "no more" to the client and waits for its end, so that it can read the last answer. */
static void linger(struct httpd_conn *c)
{
    give_room(c);
    loop_defer_cancel(&c->next);
    c->state = CONN_LINGER;
    c->start = c->len = 0;
    httpd_conn_deadline(c, c->h->draining ? LINGER_DRAIN_MS : LINGER_MS);
    if (c->writes)
        httpd_conn_deadline(c, c->h->o.request_timeout_ms);
    loop_timer_start(c->h->loop, &c->timer, c->deadline_ms - loop_now_ms(c->h->loop), c->timer.fn,
                     c);
    uv_shutdown_t *req = MEM_NEW(uv_shutdown_t);
    if (uv_shutdown(req, (uv_stream_t *)&c->tcp, on_shutdown) != 0) {
        mem_free(req);
        httpd_conn_end(c);
        return;
    }
    update_reading(c);
}

void httpd_conn_drain(struct httpd_conn *c)
{
    if (c->state == CONN_HEAD && c->len == c->start && c->writes == 0)
        httpd_conn_end(c);
    else if (c->state == CONN_LINGER)
        httpd_conn_deadline(c, LINGER_DRAIN_MS);
    else
        c->close_after = true;
}

static void on_timer(void *ctx)
{
    struct httpd_conn *c = CHECK_FROM(ctx, struct httpd_conn, HTTPD_CONN_TAG);
    uint64_t now = loop_now_ms(c->h->loop);
    if (c->state == CONN_CALL && c->writes == 0) {
        loop_timer_start(c->h->loop, &c->timer, c->h->o.request_timeout_ms, on_timer, c);
        return;
    }
    if (now < c->deadline_ms) {
        loop_timer_start(c->h->loop, &c->timer, c->deadline_ms - now, on_timer, c);
        return;
    }
    bool partly = c->state == CONN_BODY || (c->state == CONN_HEAD && c->len > c->start);
    if (partly && c->writes == 0)
        refuse(c, 408, "the request did not arrive in time");
    else
        httpd_conn_end(c);
}

/* ---- after an answer ---- */

void httpd_conn_written(struct httpd_conn *c, int status)
{
    if (c->state == CONN_CLOSED)
        return;
    if (status != 0) {
        httpd_conn_end(c);
        return;
    }
    if (c->writes)
        return;
    if (c->state == CONN_LINGER) {
        httpd_conn_deadline(c, c->h->draining ? LINGER_DRAIN_MS : LINGER_MS);
    } else if (c->state == CONN_CALL && c->call.streaming) {
        c->call.stream.want(c->call.stream.ctx);
    } else {
        httpd_conn_deadline(c, c->h->o.request_timeout_ms);
        conn_process(c);
    }
}

static void on_next(void *ctx)
{
    conn_process(CHECK_FROM(ctx, struct httpd_conn, HTTPD_CONN_TAG));
}

void httpd_conn_finish(struct httpd_conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    if (c->close_after) {
        linger(c);
        return;
    }
    c->state = CONN_HEAD;
    c->start = c->end;
    c->scanned = 0;
    if (c->start == c->len) {
        c->start = c->len = 0;
        if (c->cap > KEEP_BYTES) {
            httpd_buffer_give(c->h, c->in, c->cap);
            c->in = NULL;
            c->cap = 0;
        }
    }
    httpd_conn_deadline(c, c->h->o.request_timeout_ms);
    if (c->in_process)
        return;
    if (c->len > c->start)
        loop_defer(c->h->loop, &c->next, on_next, c);
    else
        update_reading(c);
}

/* ---- reading ---- */

/* The request at hand, whose body is still to come. */
static struct httpd_request request_of(struct httpd_conn *c, struct str body)
{
    const char *p = c->in + c->start;
    const struct httpd_head *d = &c->head;
    return (struct httpd_request){.method = d->method,
                                  .method_name = str_make(p, d->method_len),
                                  .path = str_make(p + d->path, d->path_len),
                                  .query = d->has_query ? str_make(p + d->query, d->query_len)
                                                        : (struct str){NULL, 0},
                                  .body = body,
                                  .native = c};
}

static void refuse(struct httpd_conn *c, int status, const char *text)
{
    struct httpd_answer a;
    struct buf body;
    struct httpd_request req;
    if (c->head_read)
        req = request_of(c, (struct str){NULL, 0});
    httpd_error_answer(c->h, c->head_read ? &req : NULL, status, text, &body, &a);
    a.close = true;
    httpd_conn_answer(c, &a);
    buf_deinit(&body);
}

/* Room for at least n more bytes and the padding. Chunked bodies count what they grow by. */
static bool reserve(struct httpd_conn *c, size_t n)
{
    if (c->cap >= c->len + n + PAD)
        return true;
    if (c->start && c->state == CONN_HEAD) {
        memmove(c->in, c->in + c->start, c->len - c->start);
        c->len -= c->start;
        c->start = 0;
        if (c->cap >= c->len + n + PAD)
            return true;
    }
    size_t cap = c->len + n + PAD;
    if (cap < FIRST_BYTES)
        cap = FIRST_BYTES;
    if (c->state == CONN_BODY && c->head.chunked && cap < 2 * c->cap)
        cap = 2 * c->cap;
    if (c->state == CONN_BODY && c->head.chunked) {
        if (!httpd_room_take(c->h, cap - c->cap))
            return false;
        c->reserved += cap - c->cap;
    }
    char *in = httpd_buffer_take(c->h, &cap);
    if (c->len)
        memcpy(in, c->in, c->len);
    httpd_buffer_give(c->h, c->in, c->cap);
    c->in = in;
    c->cap = cap;
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct httpd_conn *c = CHECK_FROM(handle->data, struct httpd_conn, HTTPD_CONN_TAG);
    (void)suggested;
    bool fixed = c->state == CONN_CALL || c->writes;
    if (!fixed) {
        size_t want = c->state == CONN_BODY && c->head.has_length ? c->end - c->len : 1024;
        if (!reserve(c, want)) {
            *buf = uv_buf_init(NULL, 0); /* on_read refuses */
            return;
        }
    }
    size_t n = c->cap > c->len + PAD ? c->cap - c->len - PAD : 0;
    *buf = uv_buf_init(c->in ? c->in + c->len : NULL, (unsigned)n);
}

static bool start_body(struct httpd_conn *c)
{
    struct httpd_head *d = &c->head;
    size_t max = c->h->o.max_body_bytes;
    c->no_body = d->method == HTTPD_HEAD;
    if (!d->keep_alive)
        c->close_after = true;
    if (d->has_length && d->length > max) {
        refuse(c, 413, "the body is larger than the limit");
        return false;
    }
    c->body = c->start + c->head_len;
    c->end = c->body + (d->has_length ? (size_t)d->length : 0);
    c->raw = 0;
    c->chunks = (struct httpd_chunks){0};
    if (d->has_length && c->end > c->len) {
        if (!httpd_room_take(c->h, c->end - c->body)) {
            refuse(c, 503, "too many bodies are arriving");
            return false;
        }
        c->reserved = c->end - c->body;
    }
    c->state = CONN_BODY;
    if (d->expect_continue && !d->http10 && (d->chunked || d->length) && c->len == c->body &&
        !c->continued) {
        c->continued = true;
        httpd_write(c, STR("HTTP/1.1 100 Continue\r\n\r\n"), (struct str){NULL, 0}, NULL);
        return c->state == CONN_BODY && c->writes == 0;
    }
    return true;
}

/* True when something moved on. */
static bool take_head(struct httpd_conn *c)
{
    while (c->scanned == 0 && c->len - c->start >= 2 && memcmp(c->in + c->start, "\r\n", 2) == 0)
        c->start += 2; /* empty lines before a request (RFC 9112, 2.2) */
    char *p = c->in + c->start;
    size_t n = c->len - c->start;
    if (n == 0)
        return false;
    if (c->h->h2 && !c->spoken && p[0] == 'P' && (n == 1 || p[1] == 'R')) {
        size_t want = sizeof HTTPD_H2_PREFACE - 1;
        if (memcmp(p, HTTPD_H2_PREFACE, n < want ? n : want) == 0) {
            if (n < want)
                return false;
            c->reading = false;
            loop_timer_stop(&c->timer);
            (void)uv_read_stop((uv_stream_t *)&c->tcp);
            httpd_h2_take(c, p, n);
            return false;
        }
    }
    size_t head_len = 0;
    c->head_read = false;
    int rc = httpd_head_find(p, n, c->h->o.max_header_bytes, &c->scanned, &head_len);
    if (rc == 0)
        return false;
    c->spoken = true;
    c->head.http10 = false;
    const char *text =
        rc == -431 ? "the header is larger than the limit" : "a line ends without CRLF";
    if (rc == 1) {
        rc = httpd_head_parse(p, head_len, &c->head, &text);
        c->head_len = head_len;
        c->head_read = rc == 0;
        if (rc == 0)
            return start_body(c);
    }
    c->no_body = false;
    refuse(c, -rc, text);
    return false;
}

static void dispatch(struct httpd_conn *c, size_t body_len)
{
    give_room(c);
    c->continued = false;
    c->state = CONN_CALL;
    c->call = (struct httpd_call){.tag = HTTPD_CALL_TAG,
                                  .conn = c,
                                  .req = request_of(c, str_make(c->in + c->body, body_len))};
    httpd_call_begin(&c->call, c->h);
}

static bool take_body(struct httpd_conn *c)
{
    if (!c->head.chunked) {
        if (c->len < c->end)
            return false;
        dispatch(c, c->end - c->body);
        return true;
    }
    size_t out = c->end - c->body;
    int rc = httpd_chunks_decode(&c->chunks, c->in + c->body, c->len - c->body,
                                 c->h->o.max_body_bytes, c->h->o.max_header_bytes, &c->raw, &out);
    c->end = c->body + out;
    if (rc < 0) {
        refuse(c, -rc,
               rc == -413 ? "the body is larger than the limit" : "the chunked body is malformed");
        return false;
    }
    if (rc ==
        0) { /* what is left is part of a line: close the gap, so that the buffer holds the body and little more */
        size_t left = c->len - c->body - c->raw;
        memmove(c->in + c->end, c->in + c->body + c->raw, left);
        c->raw = out;
        c->len = c->end + left;
        return false;
    }
    size_t body_len = out;
    c->end = c->body + c->raw;
    dispatch(c, body_len);
    return true;
}

static void update_reading(struct httpd_conn *c)
{
    if (c->state == CONN_CLOSED || c->state == CONN_H2)
        return;
    bool fixed = c->state == CONN_CALL || c->writes;
    bool want = !fixed || c->cap > c->len + PAD || c->state == CONN_LINGER;
    if (want == c->reading)
        return;
    c->reading = want;
    if (!want)
        (void)uv_read_stop((uv_stream_t *)&c->tcp);
    else if (uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
        httpd_conn_end(c);
}

static void conn_process(struct httpd_conn *c)
{
    c->in_process = true;
    while (c->writes == 0 &&
           ((c->state == CONN_HEAD && take_head(c)) || (c->state == CONN_BODY && take_body(c))))
        ;
    c->in_process = false;
    update_reading(c);
}

static void on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    struct httpd_conn *c = CHECK_FROM(stream->data, struct httpd_conn, HTTPD_CONN_TAG);
    (void)buf;
    if (nread == 0)
        return;
    if (nread == UV_ENOBUFS && c->state == CONN_BODY) {
        refuse(c, 503, "too many bodies are arriving");
        return;
    }
    if (nread < 0) {
        if (nread == UV_EOF && c->writes && (c->state == CONN_HEAD || c->state == CONN_LINGER)) {
            c->close_after = true; /* it has only ended its side: the answer still goes out */
            c->reading = false;
            (void)uv_read_stop(stream);
            if (c->state == CONN_HEAD)
                linger(c);
            return;
        }
        httpd_conn_end(c);
        return;
    }
    if (c->state == CONN_LINGER) {
        c->discarded += (size_t)nread;
        if (c->discarded > LINGER_BYTES)
            httpd_conn_end(c);
        return;
    }
    if (c->state == CONN_HEAD && c->len == c->start && c->writes == 0)
        httpd_conn_deadline(c, c->h->o.request_timeout_ms);
    c->len += (size_t)nread;
    if ((c->state == CONN_HEAD || c->state == CONN_BODY) && c->writes == 0)
        conn_process(c);
    else
        update_reading(c);
}

/* ---- the beginning ---- */

void httpd_conn_open(struct httpd *h)
{
    struct httpd_conn *c = MEM_NEW(struct httpd_conn);
    c->tag = HTTPD_CONN_TAG;
    c->h = h;
    c->tcp.data = c;
    list_push(&h->conns, &c->node);
    h->stats.connections++;
    CHECK(uv_tcp_init(loop_uv(h->loop), &c->tcp) == 0);
    if (uv_accept((uv_stream_t *)&h->listener, (uv_stream_t *)&c->tcp) != 0) {
        httpd_conn_end(c);
        return;
    }
    h->stats.connections_total++;
    /* fails only on a connection that has ended: reading says so */
    (void)uv_tcp_nodelay(&c->tcp, 1);
    httpd_conn_deadline(c, h->o.request_timeout_ms);
    loop_timer_start(h->loop, &c->timer, h->o.request_timeout_ms, on_timer, c);
    update_reading(c);
}
