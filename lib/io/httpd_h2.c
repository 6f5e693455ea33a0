/* httpd_h2: HTTP/2 without TLS, by h2o. A connection comes here after its preface, with the bytes read so far.
 *
 * h2o gathers bodies by itself, asks us when one is whole, and knows but one answer to a body that is too large: it resets the
 * stream, as if the client should try again. So after each read its streams are looked at (h2o/http2_internal.h): a body beyond the
 * limit, announced or arrived, is answered 413, one that takes too long 408, as h2o itself answers a head with broken
 * characters: by moving the stream on to its answer. What the client sends of such a body afterwards is dropped before h2o sees
 * it, because h2o would reset the stream, and clients then throw the answer away.
 *
 * What is read and not yet handed to the service is counted as arriving; beyond the room the connection ends. It ends as well when
 * a client does not take an answer in time.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"
#include "base/log.h"
#include "base/mem.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <h2o.h>
#include <h2o/http2.h>
#include <h2o/http2_internal.h>
#pragma GCC diagnostic pop

/* A body may pass the limit by what one read brings; h2o's own limit stays behind that. */
enum { BODY_SLACK = 4 << 20, LATE_MAX = 64 };

struct httpd_h2 {
    struct httpd *h;
    h2o_globalconf_t conf;
    h2o_context_t ctx;
    h2o_accept_ctx_t accept;
    struct list calls;
    int early; /* not 0: the status of the request that is being handed to on_request */
};
struct h2_handler {
    h2o_handler_t super;
    struct httpd_h2 *h2;
};
struct h2_conn {
    h2o_socket_t *sock;
    h2o_socket_cb read; /* h2o's own */
    size_t arriving;
    uint64_t partial_ms;     /* since when a frame or a head is there in part; 0: none is */
    struct list answers;     /* struct h2_answer, oldest first */
    uint32_t late[LATE_MAX]; /* streams that were answered before their body was whole */
    unsigned late_n;
};
struct h2_answer { /* whole, and not yet written */
    struct list node;
    uint64_t since_ms;
};
struct httpd_h2_call {
    h2o_generator_t gen; /* first: h2o hands it back */
    struct list node;
    struct httpd_call call;
    h2o_req_t *req;
    char *piece; /* of a stream: on its way */
};

/* ---- requests ---- */

static void on_call_dispose(void *p)
{
    struct httpd_h2_call *hc = p;
    mem_free(hc->piece);
    hc->piece = NULL;
    list_remove(&hc->node);
    httpd_call_gone(&hc->call);
}

static bool put_header(h2o_req_t *req, const char *name, struct str value)
{
    for (size_t i = 0; i < value.n; i++)
        if (((unsigned char)value.p[i] < ' ' && value.p[i] != '\t') || value.p[i] == 0x7f)
            return false;
    h2o_iovec_t v = h2o_strdup(&req->pool, value.p ? value.p : "", value.n);
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, strlen(name), 1, NULL, v.base,
                          v.len);
    return true;
}

static void put_head(h2o_req_t *req, const struct httpd_answer *a)
{
    req->res.status = a->status;
    req->res.reason = httpd_reason(a->status);
    if (a->content_type)
        (void)put_header(req, "content-type", str_of(a->content_type)); /* ours: always clean */
    for (size_t i = 0; i < sizeof a->headers / sizeof *a->headers && a->headers[i].name; i++)
        (void)put_header(req, a->headers[i].name,
                         a->headers[i].value); /* an unclean value is left out */
}

static void on_timer(void *ctx);

static void on_answer_dispose(void *p)
{
    list_remove(&((struct h2_answer *)p)->node);
}

/* Its memory goes with the request, when all of it is written or the stream ends otherwise. */
static void watch_answer(struct httpd *h, h2o_req_t *req)
{
    h2o_socket_t *sock = req->conn->callbacks->get_socket(req->conn);
    struct httpd_conn *c = CHECK_FROM(sock->on_close.data, struct httpd_conn, HTTPD_CONN_TAG);
    struct h2_conn *hc = c->h2;
    struct h2_answer *answer = h2o_mem_alloc_shared(&req->pool, sizeof *answer, on_answer_dispose);
    answer->since_ms = loop_now_ms(h->loop);
    list_push(&hc->answers, &answer->node);
    if (!loop_timer_active(&c->timer))
        loop_timer_start(h->loop, &c->timer, h->o.request_timeout_ms, on_timer, c);
}

static void send_whole(struct httpd *h, h2o_req_t *req, const struct httpd_answer *a)
{
    put_head(req, a);
    if (a->status != 204 && a->status != 304)
        req->res.content_length = a->body.n;
    watch_answer(h, req);
    h2o_send_inline(req, a->body.p ? a->body.p : "", a->status == 304 ? 0 : a->body.n);
}

/* A request to look its head up in; the body is still to come. */
static struct httpd_request request_of(h2o_req_t *req)
{
    struct str path = str_make(req->input.path.base, req->input.path.len), query = {NULL, 0};
    struct str method = str_make(req->input.method.base, req->input.method.len);
    if (req->input.query_at != SIZE_MAX) {
        query = str_make(path.p + req->input.query_at + 1, path.n - req->input.query_at - 1);
        path.n = req->input.query_at;
    }
    return (struct httpd_request){.method = httpd_method_of(method),
                                  .method_name = method,
                                  .path = path,
                                  .query = query,
                                  .http2 = true,
                                  .native = req};
}

static void refuse(struct httpd_h2 *h2, h2o_req_t *req, int status, const char *text)
{
    struct httpd_answer a;
    struct buf body;
    struct httpd_request head = request_of(req);
    httpd_error_answer(h2->h, &head, status, text, &body, &a);
    send_whole(h2->h, req, &a);
    buf_deinit(&body);
}

static size_t header_bytes(const h2o_req_t *req)
{
    size_t n = req->input.path.len + req->input.method.len + req->input.authority.len;
    for (size_t i = 0; i < req->headers.size; i++)
        n += req->headers.entries[i].name->len + req->headers.entries[i].value.len + 4;
    return n;
}

/* The body in its place, with the padding behind it that readers of JSON need. */
static struct str padded_body(h2o_req_t *req)
{
    static const char none[HTTPD_BODY_PADDING];
    h2o_http2_stream_t *stream = H2O_STRUCT_FROM_MEMBER(h2o_http2_stream_t, req, req);
    /* That the library is laid out as its header, and khash.h, say. */
    CHECK(h2o_http2_conn_get_stream((h2o_http2_conn_t *)req->conn, stream->stream_id) == stream);
    if (!req->entity.len || !stream->_req_body)
        return str_make(none, 0);
    h2o_iovec_t pad = h2o_buffer_reserve(&stream->_req_body, HTTPD_BODY_PADDING);
    CHECK(pad.base);
    memset(pad.base, 0, HTTPD_BODY_PADDING);
    req->entity.base = stream->_req_body->bytes;
    return str_make(req->entity.base, req->entity.len);
}

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    struct httpd_h2 *h2 = ((struct h2_handler *)self)->h2;
    struct httpd *h = h2->h;
    if (h2->early) {
        refuse(h2, req, h2->early,
               h2->early == 413 ? "the body is larger than the limit"
                                : "the request did not arrive in time");
        return 0;
    }
    if (h->closed || header_bytes(req) > h->o.max_header_bytes) {
        refuse(h2, req, h->closed ? 503 : 431,
               h->closed ? "closing" : "the header is larger than the limit");
        return 0;
    }
    if (req->entity.len > h->o.max_body_bytes) {
        refuse(h2, req, 413, "the body is larger than the limit");
        return 0;
    }
    if (req->input.path.len == 0 || req->input.path.base[0] != '/') {
        refuse(h2, req, 400, "the request target must begin with '/'");
        return 0;
    }
    struct httpd_h2_call *hc = h2o_mem_alloc_shared(&req->pool, sizeof *hc, on_call_dispose);
    memset(hc, 0, sizeof *hc);
    list_push(&h2->calls, &hc->node);
    hc->req = req;
    hc->call = (struct httpd_call){.tag = HTTPD_CALL_TAG, .h2 = hc, .req = request_of(req)};
    hc->call.req.body = padded_body(req);
    httpd_call_begin(&hc->call, h);
    return 0;
}

struct str httpd_h2_field(const void *native, const char *name)
{
    const h2o_req_t *req = native;
    size_t n = strlen(name);
    if (str_is(STR("host"), name))
        return str_make(req->input.authority.base, req->input.authority.len);
    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_header_t *f = &req->headers.entries[i];
        if (f->name->len == n && memcmp(f->name->base, name, n) == 0)
            return str_make(f->value.base, f->value.len);
    }
    return (struct str){NULL, 0};
}

void httpd_h2_answer(struct httpd_call *call, const struct httpd_answer *a)
{
    send_whole(call->h, call->h2->req, a);
    mem_free(a->body_owned);
}

static void on_stream_next(void *ctx)
{
    struct httpd_call *call = CHECK_FROM(ctx, struct httpd_call, HTTPD_CALL_TAG);
    call->stream.want(call->stream.ctx);
}

static void on_proceed(h2o_generator_t *gen, h2o_req_t *req)
{
    struct httpd_call *call = &((struct httpd_h2_call *)gen)->call;
    (void)req;
    if (call->streaming)
        call->stream.want(call->stream.ctx);
}

static void on_stop(h2o_generator_t *gen, h2o_req_t *req)
{
    (void)req;
    httpd_call_gone(&((struct httpd_h2_call *)gen)->call);
}

void httpd_h2_stream_head(struct httpd_call *call, const struct httpd_answer *a)
{
    struct httpd_h2_call *hc = call->h2;
    hc->gen = (h2o_generator_t){on_proceed, on_stop};
    put_head(hc->req, a);
    h2o_start_response(hc->req, &hc->gen);
    loop_defer(call->h->loop, &call->stream.next, on_stream_next, call);
}

void httpd_h2_stream_send(struct httpd_call *call, struct str piece, bool last)
{
    h2o_req_t *req = call->h2->req;
    if (last)
        call->streaming = false;
    if (piece.n == 0 && !last) { /* nothing to wait for */
        loop_defer(call->h->loop, &call->stream.next, on_stream_next, call);
        return;
    }
    /* Not from the request's pool, which would keep every piece until the end. */
    mem_free(call->h2->piece);
    call->h2->piece = piece.n ? mem_dup(piece.p, piece.n) : NULL;
    h2o_iovec_t v = h2o_iovec_init(call->h2->piece, piece.n);
    h2o_send(req, &v, piece.n ? 1 : 0, last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

void httpd_h2_stream_abort(struct httpd_call *call)
{
    h2o_send(call->h2->req, NULL, 0, H2O_SEND_STATE_ERROR);
}

/* ---- connections ---- */

static void give_room(struct httpd_conn *c)
{
    struct h2_conn *hc = c->h2;
    httpd_room_give(c->h, hc->arriving);
    hc->arriving = 0;
}

static void on_sock_close(void *data)
{
    struct httpd_conn *c = CHECK_FROM(data, struct httpd_conn, HTTPD_CONN_TAG);
    ((struct h2_conn *)c->h2)->sock = NULL;
}

/* What is read of requests that are not whole. */
static size_t bytes_held(h2o_http2_conn_t *conn)
{
    size_t n = conn->sock->input->size;
    if (conn->_headers_unparsed)
        n += conn->_headers_unparsed->size;
    for (khiter_t i = kh_begin(conn->streams); i != kh_end(conn->streams); i++) {
        if (!kh_exist(conn->streams, i))
            continue;
        const h2o_http2_stream_t *stream = kh_val(conn->streams, i);
        if (stream->state == H2O_HTTP2_STREAM_STATE_RECV_BODY)
            n += stream->_req_body->size;
    }
    return n;
}

static uint64_t age_ms(h2o_http2_conn_t *conn, const h2o_http2_stream_t *stream)
{
    const struct timeval now = *h2o_get_timestamp(conn->super.ctx, NULL, NULL),
                         begun = stream->req.timestamps.request_begin_at;
    int64_t ms = (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_usec - begun.tv_usec) / 1000;
    return ms > 0 ? (uint64_t)ms : 0;
}

/* The status that a body which is not whole has earned; 0: none yet. */
static int verdict(struct httpd *h, h2o_http2_conn_t *conn, const h2o_http2_stream_t *stream)
{
    size_t max = h->o.max_body_bytes, announced = stream->_expected_content_length;
    if (stream->state != H2O_HTTP2_STREAM_STATE_RECV_BODY)
        return 0;
    if ((announced != SIZE_MAX && announced > max) || stream->_req_body->size > max)
        return 413;
    return age_ms(conn, stream) >= h->o.request_timeout_ms ? 408 : 0;
}

/* As h2o itself lets a whole request go on. False: too many bodies of this connection were answered before they were whole. */
static bool answer_early(struct httpd_conn *c, h2o_http2_conn_t *conn, h2o_http2_stream_t *stream,
                         int status)
{
    struct h2_conn *hc = c->h2;
    struct httpd_h2 *h2 = c->h->h2;
    if (hc->late_n == LATE_MAX)
        return false;
    hc->late[hc->late_n++] = stream->stream_id;
    h2o_http2_stream_set_state(conn, stream, H2O_HTTP2_STREAM_STATE_REQ_PENDING);
    h2o_http2_stream_set_state(conn, stream, H2O_HTTP2_STREAM_STATE_SEND_HEADERS);
    if (conn->pull_stream_ids.max_processed < stream->stream_id)
        conn->pull_stream_ids.max_processed = stream->stream_id;
    h2o_buffer_dispose(&stream->_req_body);
    stream->req.entity = (h2o_iovec_t){NULL, 0};
    h2->early = status;
    h2o_process_request(&stream->req);
    h2->early = 0;
    return true;
}

static unsigned find_late(const struct h2_conn *hc, uint32_t stream_id)
{
    unsigned i = 0;
    while (i < hc->late_n && hc->late[i] != stream_id)
        i++;
    return i;
}

/* Takes the whole DATA frames of streams that are answered out of what was read, and lets the client send as many bytes more. */
static void drop_late_data(struct h2_conn *hc, h2o_http2_conn_t *conn)
{
    h2o_buffer_t *in = conn->sock->input;
    size_t dropped = 0;
    for (size_t at = 0; hc->late_n && in->size - at >= H2O_HTTP2_FRAME_HEADER_SIZE;) {
        const uint8_t *head = (const uint8_t *)in->bytes + at;
        size_t n = h2o_http2_decode24u(head), whole = H2O_HTTP2_FRAME_HEADER_SIZE + n;
        uint32_t stream_id = h2o_http2_decode32u(head + 5) & 0x7fffffff;
        unsigned i = find_late(hc, stream_id);
        bool data = head[3] == H2O_HTTP2_FRAME_TYPE_DATA, end = head[4] & 1;
        if (in->size - at < whole)
            break;
        if (i == hc->late_n) {
            at += whole;
            continue;
        }
        if ((data && end) || head[3] == H2O_HTTP2_FRAME_TYPE_RST_STREAM)
            hc->late[i] = hc->late[--hc->late_n];
        if (!data) {
            at += whole;
            continue;
        }
        memmove(in->bytes + at, in->bytes + at + whole, in->size - at - whole);
        in->size -= whole;
        dropped += n;
    }
    if (dropped && conn->state < H2O_HTTP2_CONN_STATE_IS_CLOSING) {
        h2o_http2_encode_window_update_frame(&conn->_write.buf, 0, (int32_t)dropped);
        h2o_http2_conn_request_write(conn);
    }
}

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Answers what is too large or too late, and comes back when the next may be too late. False: the connection is to end. */
static bool look_at_streams(struct httpd_conn *c, h2o_http2_conn_t *conn)
{
    struct h2_conn *hc = c->h2;
    uint64_t limit = c->h->o.request_timeout_ms, oldest = 0, now = loop_now_ms(c->h->loop);
    bool waiting = false;
    for (khiter_t i = kh_begin(conn->streams); i != kh_end(conn->streams); i++) {
        if (!kh_exist(conn->streams, i))
            continue;
        h2o_http2_stream_t *stream = kh_val(conn->streams, i);
        int status = verdict(c->h, conn, stream);
        if (status) {
            if (!answer_early(c, conn, stream, status))
                return false;
        } else if (stream->state == H2O_HTTP2_STREAM_STATE_RECV_BODY) {
            oldest = greater(oldest, age_ms(conn, stream));
            waiting = true;
        }
    }
    if (!conn->sock->input->size && !conn->_headers_unparsed)
        hc->partial_ms = 0;
    else if (!hc->partial_ms)
        hc->partial_ms = now;
    if (hc->partial_ms)
        oldest = greater(oldest, now - hc->partial_ms);
    if (!list_empty(&hc->answers))
        oldest =
            greater(oldest, now - LIST_ENTRY(hc->answers.next, struct h2_answer, node)->since_ms);
    if (!waiting && !hc->partial_ms && list_empty(&hc->answers))
        loop_timer_stop(&c->timer);
    else if (!loop_timer_active(&c->timer))
        loop_timer_start(c->h->loop, &c->timer, limit > oldest ? limit - oldest + 1 : 1, on_timer,
                         c);
    return true;
}

static void after_read(struct httpd_conn *c, h2o_http2_conn_t *conn)
{
    struct h2_conn *hc = c->h2;
    if (conn->state < H2O_HTTP2_CONN_STATE_IS_CLOSING && !look_at_streams(c, conn)) {
        httpd_h2_end(c);
        return;
    }
    size_t held = bytes_held(conn);
    if (held < hc->arriving) {
        httpd_room_give(c->h, hc->arriving - held);
        hc->arriving = held;
    }
}

static void on_read(h2o_socket_t *sock, const char *err)
{
    struct httpd_conn *c = CHECK_FROM(sock->on_close.data, struct httpd_conn, HTTPD_CONN_TAG);
    struct h2_conn *hc = c->h2;
    size_t n = err ? 0 : sock->bytes_read;
    if (httpd_room_take(c->h, n)) {
        hc->arriving += n;
    } else {
        httpd_count_refused(c->h, 503);
        err = h2o_socket_error_closed;
    }
    if (!err)
        drop_late_data(hc, sock->data);
    hc->read(sock, err);
    if (!hc->sock)
        give_room(c);
    else
        after_read(c, sock->data);
}

static void on_timer(void *ctx)
{
    struct httpd_conn *c = CHECK_FROM(ctx, struct httpd_conn, HTTPD_CONN_TAG);
    struct h2_conn *hc = c->h2;
    if (!hc->sock)
        return;
    uint64_t now = loop_now_ms(c->h->loop), limit = c->h->o.request_timeout_ms;
    bool no_head = hc->partial_ms && now - hc->partial_ms >= limit;
    bool not_taken = !list_empty(&hc->answers) &&
                     now - LIST_ENTRY(hc->answers.next, struct h2_answer, node)->since_ms >= limit;
    if (no_head) /* there is nothing to answer to */
        httpd_count_refused(c->h, 408);
    if (no_head || not_taken)
        httpd_h2_end(c);
    else
        after_read(c, hc->sock->data);
}

void httpd_h2_take(struct httpd_conn *c, const char *p, size_t n)
{
    struct httpd_h2 *h2 = c->h->h2;
    struct h2_conn *hc = MEM_NEW(struct h2_conn);
    h2o_socket_t *sock = h2o_uv_socket_create((uv_stream_t *)&c->tcp, httpd_conn_on_closed);
    h2o_iovec_t room = h2o_buffer_reserve(&sock->input, n);
    memcpy(room.base, p, n);
    sock->input->size = n;
    sock->on_close.cb = on_sock_close;
    sock->on_close.data = c;
    hc->sock = sock;
    list_init(&hc->answers);
    c->h2 = hc;
    c->state = CONN_H2;
    mem_free(c->in);
    c->in = NULL;
    c->start = c->len = c->cap = 0;
    struct timeval now = {0};
    h2o_http2_accept(&h2->accept, sock, now);
    if (!hc->sock)
        return; /* ended already */
    hc->read = sock->_cb.read;
    sock->_cb.read = on_read;
    if (httpd_room_take(c->h, n)) { /* what came with the preface counts as well */
        hc->arriving = n;
        after_read(c, sock->data);
    } else {
        httpd_count_refused(c->h, 503);
        httpd_h2_end(c);
    }
}

void httpd_h2_end(struct httpd_conn *c)
{
    struct h2_conn *hc = c->h2;
    if (!hc->sock || !hc->read)
        return;
    /* As if the client had left; a write that is stuck fails by the shutdown. */
    (void)shutdown(h2o_socket_get_fd(hc->sock), SHUT_RDWR);
    hc->read(hc->sock, h2o_socket_error_closed);
}

void httpd_h2_calls_gone(struct httpd_h2 *h2)
{
    for (struct list *it; (it = list_pop(&h2->calls)) != NULL;)
        httpd_call_gone(&LIST_ENTRY(it, struct httpd_h2_call, node)->call);
}

void httpd_h2_conn_free(struct httpd_conn *c)
{
    give_room(c);
    mem_free(c->h2);
    c->h2 = NULL;
}

/* ---- the whole ---- */

int httpd_h2_open(struct httpd *h, struct httpd_h2 **ret, struct err *e)
{
    (void)e;
    struct httpd_h2 *h2 = MEM_NEW(struct httpd_h2);
    h2->h = h;
    list_init(&h2->calls);
    h2o_config_init(&h2->conf);
    h2->conf.max_request_entity_size = h->o.max_body_bytes + BODY_SLACK;
    h2->conf.http2.idle_timeout = h->o.request_timeout_ms;
    h2->conf.http2.graceful_shutdown_timeout = 1000;
    h2->conf.server_name = h->server_name ? h2o_iovec_init(h->server_name, strlen(h->server_name))
                                          : (h2o_iovec_t){NULL, 0};
    h2o_hostconf_t *host =
        h2o_config_register_host(&h2->conf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    struct h2_handler *handler =
        (struct h2_handler *)h2o_create_handler(&host->fallback_path, sizeof *handler);
    handler->super.on_req = on_request;
    handler->h2 = h2;
    h2o_context_init(&h2->ctx, loop_uv(h->loop), &h2->conf);
    h2->accept = (h2o_accept_ctx_t){.ctx = &h2->ctx, .hosts = h2->conf.hosts};
    *ret = h2;
    return 0;
}

void httpd_h2_drain(struct httpd_h2 *h2)
{
    h2o_context_request_shutdown(&h2->ctx);
}

void httpd_h2_dispose(struct httpd_h2 *h2)
{
    if (h2o_timeout_is_linked(&h2->ctx.http2._graceful_shutdown_timeout))
        h2o_timeout_unlink(&h2->ctx.http2._graceful_shutdown_timeout);
    h2o_context_dispose(&h2->ctx);
}

void httpd_h2_free(struct httpd_h2 **ph2)
{
    struct httpd_h2 *h2 = *ph2;
    if (!h2)
        return;
    *ph2 = NULL;
    h2o_config_dispose(&h2->conf);
    mem_free(h2);
}
