/* httpd_h2: HTTP/2 without TLS, by h2o. A connection comes here after its preface, with the bytes read so far.
 *
 * h2o gathers bodies by itself and resets a stream beyond max_request_entity_size (REFUSED_STREAM: nothing was processed). What
 * its connections have read and not yet handed to the service is counted as arriving; beyond the room the connection ends.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"
#include "base/log.h"
#include "base/mem.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include <h2o.h>
#include <h2o/http2.h>
#pragma GCC diagnostic pop

struct httpd_h2 {
    struct httpd *h;
    h2o_globalconf_t conf;
    h2o_context_t ctx;
    h2o_accept_ctx_t accept;
    struct list calls;
};
struct h2_handler {
    h2o_handler_t super;
    struct httpd_h2 *h2;
};
struct h2_conn {
    h2o_socket_t *sock;
    h2o_socket_cb read; /* h2o's own */
    size_t arriving;
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

static void send_whole(h2o_req_t *req, const struct httpd_answer *a)
{
    put_head(req, a);
    if (a->status != 204 && a->status != 304)
        req->res.content_length = a->body.n;
    h2o_send_inline(req, a->body.p ? a->body.p : "", a->status == 304 ? 0 : a->body.n);
}

static void refuse(struct httpd *h, h2o_req_t *req, int status, const char *text)
{
    struct httpd_answer a = {.status = status};
    if (status == 503)
        a.headers[0].name = "retry-after", a.headers[0].value = STR("1");
    struct buf body;
    httpd_count_refused(h, status);
    buf_init(&body, 4096);
    httpd_error_body(h, status, text, &body, &a.content_type);
    a.body = buf_as_str(&body);
    send_whole(req, &a);
    buf_deinit(&body);
}

static size_t header_bytes(const h2o_req_t *req)
{
    size_t n = req->input.path.len + req->input.method.len + req->input.authority.len;
    for (size_t i = 0; i < req->headers.size; i++)
        n += req->headers.entries[i].name->len + req->headers.entries[i].value.len + 4;
    return n;
}

/* What a whole request has taken on the wire is at most its plain size and some frames' heads. */
static void give_room_of(struct httpd *h, h2o_req_t *req)
{
    enum { FRAMES = 256 };
    h2o_socket_t *sock = req->conn->callbacks->get_socket(req->conn);
    struct httpd_conn *c = sock ? sock->on_close.data : NULL;
    struct h2_conn *hc = c ? c->h2 : NULL;
    if (!hc)
        return;
    size_t n = header_bytes(req) + req->entity.len + req->entity.len / 256 + FRAMES;
    n = n < hc->arriving ? n : hc->arriving;
    hc->arriving -= n;
    httpd_room_give(h, n);
}

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    struct httpd *h = ((struct h2_handler *)self)->h2->h;
    give_room_of(h, req);
    if (h->closed || header_bytes(req) > h->o.max_header_bytes) {
        refuse(h, req, h->closed ? 503 : 431,
               h->closed ? "closing" : "the header is larger than the limit");
        return 0;
    }
    if (req->entity.len > h->o.max_body_bytes) {
        refuse(h, req, 413, "the body is larger than the limit");
        return 0;
    }
    if (req->input.path.len == 0 || req->input.path.base[0] != '/') {
        refuse(h, req, 400, "the request target must begin with '/'");
        return 0;
    }
    struct httpd_h2_call *hc = h2o_mem_alloc_shared(&req->pool, sizeof *hc, on_call_dispose);
    memset(hc, 0, sizeof *hc);
    list_push(&((struct h2_handler *)self)->h2->calls, &hc->node);
    /* h2o's buffer ends with the body: the padding that readers of JSON need is made here. */
    char *body = h2o_mem_alloc_pool(&req->pool, req->entity.len + HTTPD_BODY_PADDING);
    if (req->entity.len)
        memcpy(body, req->entity.base, req->entity.len);
    memset(body + req->entity.len, 0, HTTPD_BODY_PADDING);
    hc->req = req;
    struct str path = str_make(req->input.path.base, req->input.path.len), query = {NULL, 0};
    if (req->input.query_at != SIZE_MAX) {
        query = str_make(path.p + req->input.query_at + 1, path.n - req->input.query_at - 1);
        path.n = req->input.query_at;
    }
    struct str method = str_make(req->input.method.base, req->input.method.len);
    hc->call = (struct httpd_call){
        .tag = HTTPD_CALL_TAG,
        .h2 = hc,
        .req = {.method = httpd_method_of(method),
                .method_name = method,
                .path = path,
                .query = query,
                .body = str_make(body, req->entity.len),
                .http2 = true,
                .native = req},
    };
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
    send_whole(call->h2->req, a);
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
    hc->read(sock, err);
    if (!hc->sock)
        give_room(c);
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
    h2->conf.max_request_entity_size = h->o.max_body_bytes;
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
