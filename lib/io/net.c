/* net: one TCP connection with a gathering output, and the look-up of names.
 *
 * Output: what is put during a turn lies in tx. At the end of the turn it is tried at once (no request, no callback); what the
 * kernel does not take flies as one uv_write, and tx gathers again meanwhile.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/net_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include <string.h>

#define NET_TAG CHECK_TAG('n', 'e', 't', 'c')
#define RESOLVE_TAG CHECK_TAG('n', 'e', 't', 'r')
#define READ_BYTES (64 * 1024)
#define KEEP_BYTES (1024 * 1024) /* empty buffers above it are given back */
#define KEEPALIVE_S 15

/* ---- addresses ---- */

int net_addr_parse(struct str s, uint16_t default_port, struct net_addr *ret, struct err *e)
{
    struct net_addr a = {.port = default_port};
    struct str host = s, port = {0};
    if (s.n && s.p[0] == '[') {
        const char *end = memchr(s.p, ']', s.n);
        if (!end)
            return err_set(e, ERR_CONFIG, "address '" STR_FMT "': ']' is missing", STR_ARG(s));
        size_t n = (size_t)(end - s.p);
        host = str_make(s.p + 1, n - 1);
        if (n + 1 < s.n && s.p[n + 1] != ':')
            return err_set(e, ERR_CONFIG, "address '" STR_FMT "': ':port' expected after ']'",
                           STR_ARG(s));
        if (n + 1 < s.n)
            port = str_make(s.p + n + 2, s.n - n - 2);
    } else {
        const char *colon = s.n ? memrchr(s.p, ':', s.n) : NULL;
        if (colon) {
            host = str_make(s.p, (size_t)(colon - s.p));
            port = str_make(colon + 1, s.n - host.n - 1);
        }
    }
    uint64_t number = default_port;
    if ((!port.p && !default_port) || (port.p && str_u64(port, &number) < 0) || number > 65535)
        return err_set(e, ERR_CONFIG, "address '" STR_FMT "': must be host:port", STR_ARG(s));
    if (host.n >= sizeof(a.host) || (host.n && memchr(host.p, 0, host.n)))
        return err_set(e, ERR_CONFIG, "address '" STR_FMT "': bad host", STR_ARG(s));
    if (host.n)
        memcpy(a.host, host.p, host.n);
    a.port = (uint16_t)number;
    *ret = a;
    return 0;
}

int net_addr_numeric(const struct net_addr *a, struct sockaddr_storage *ret)
{
    struct sockaddr_storage sa = {0};
    const char *host = a->host;
    if (!*host || strcmp(host, "*") == 0)
        host = "0.0.0.0";
    else if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (uv_ip4_addr(host, a->port, (struct sockaddr_in *)&sa) < 0 &&
        uv_ip6_addr(host, a->port, (struct sockaddr_in6 *)&sa) < 0)
        return UV_EINVAL;
    *ret = sa;
    return 0;
}

int net_listen(struct loop *loop, uv_tcp_t *tcp, const char *listen, uv_connection_cb on_connection,
               unsigned *ret_port, struct err *e)
{
    struct net_addr a;
    struct sockaddr_storage sa;
    int n = sizeof(sa);
    (void)uv_tcp_init(loop_uv(loop), tcp); /* makes no socket yet */
    int rc = net_addr_parse(str_of(listen), 0, &a, e);
    if (rc < 0)
        return rc;
    if (net_addr_numeric(&a, &sa) < 0)
        return err_set(e, ERR_CONFIG, "listen address '%s': must be numeric", listen);
    rc = uv_tcp_bind(tcp, (const struct sockaddr *)&sa, 0);
    if (!rc)
        rc = uv_listen((uv_stream_t *)tcp, 511, on_connection);
    if (!rc)
        rc = uv_tcp_getsockname(tcp, (struct sockaddr *)&sa, &n);
    if (rc < 0)
        return err_set(e, rc, "cannot listen on %s: %s", listen, uv_strerror(rc));
    *ret_port = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                               : ((struct sockaddr_in *)&sa)->sin_port);
    return 0;
}

/* ---- names ---- */

struct net_resolve {
    uint32_t tag;
    struct loop *loop;
    uv_getaddrinfo_t req;
    struct loop_defer defer;
    struct sockaddr_storage numeric;
    unsigned try_no;
    int rc;             /* of a look-up that could not start */
    net_resolve_fn *fn; /* NULL: cancelled */
    void *ctx;
};

static void on_resolve_deferred(void *ctx)
{
    struct net_resolve *r = CHECK_FROM(ctx, struct net_resolve, RESOLVE_TAG);
    struct sockaddr_storage sa = r->numeric;
    net_resolve_fn *fn = r->fn;
    void *fn_ctx = r->ctx;
    int rc = r->rc;
    mem_free(r);
    fn(fn_ctx, rc, rc ? NULL : (const struct sockaddr *)&sa);
}

static void on_getaddrinfo(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct net_resolve *r = CHECK_FROM(req->data, struct net_resolve, RESOLVE_TAG);
    struct sockaddr_storage sa = {0};
    unsigned n = 0;
    for (struct addrinfo *it = list; it; it = it->ai_next)
        n++;
    if (!status && !n)
        status = UV_EAI_NONAME;
    unsigned pick = n ? r->try_no % n : 0;
    for (struct addrinfo *it = list; it; it = it->ai_next, pick--) {
        if (pick == 0) {
            memcpy(&sa, it->ai_addr, it->ai_addrlen);
            break;
        }
    }
    uv_freeaddrinfo(list);
    net_resolve_fn *fn = r->fn;
    void *ctx = r->ctx;
    mem_free(r);
    if (fn)
        fn(ctx, status, status ? NULL : (const struct sockaddr *)&sa);
}

struct net_resolve *net_resolve_start(struct loop *loop, const struct net_addr *a, unsigned try_no,
                                      net_resolve_fn *fn, void *ctx)
{
    struct net_resolve *r = MEM_NEW(struct net_resolve);
    r->tag = RESOLVE_TAG;
    r->loop = loop;
    r->try_no = try_no;
    r->fn = fn;
    r->ctx = ctx;
    r->req.data = r;
    if (net_addr_numeric(a, &r->numeric) == 0) {
        loop_defer(loop, &r->defer, on_resolve_deferred, r);
        return r;
    }
    char port[8];
    struct str digits = str_make(port, 0);
    for (unsigned v = a->port, div = 10000; div; v %= div, div /= 10)
        port[digits.n++] = (char)('0' + v / div);
    port[digits.n] = 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV};
    r->rc = uv_getaddrinfo(loop_uv(loop), &r->req, on_getaddrinfo, a->host, port, &hints);
    if (r->rc < 0)
        loop_defer(loop, &r->defer, on_resolve_deferred, r);
    return r;
}

void net_resolve_cancel(struct net_resolve **ptr)
{
    struct net_resolve *r = *ptr;
    if (!r)
        return;
    *ptr = NULL;
    if (r->defer.queued) {
        loop_defer_cancel(&r->defer);
        mem_free(r);
        return;
    }
    r->fn = NULL;
    (void)uv_cancel((uv_req_t *)&r->req); /* one that runs already comes back to nobody */
}

/* ---- bytes ---- */

char *net_bytes_room(struct net_bytes *b, size_t n)
{
    if (b->off == b->len)
        b->off = b->len = 0;
    if (b->cap - b->len >= n)
        return b->p + b->len;
    size_t left = b->len - b->off;
    if (b->off && b->off >= left && b->cap - left >= n) {
        memcpy(b->p, b->p + b->off, left);
    } else {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap - left < n)
            cap *= 2;
        char *p = mem_alloc_raw(cap);
        if (left)
            memcpy(p, b->p + b->off, left);
        mem_free(b->p);
        b->p = p;
        b->cap = cap;
    }
    b->off = 0;
    b->len = left;
    return b->p + b->len;
}

void net_bytes_add(struct net_bytes *b, const void *p, size_t n)
{
    if (!n)
        return;
    memcpy(net_bytes_room(b, n), p, n);
    b->len += n;
}

void net_bytes_free(struct net_bytes *b)
{
    mem_free(b->p);
    *b = (struct net_bytes){0};
}

static void bytes_rest(struct net_bytes *b) /* after use: an empty one does not keep much */
{
    if (b->off != b->len)
        return;
    b->off = b->len = 0;
    if (b->cap > KEEP_BYTES)
        net_bytes_free(b);
}

/* ---- the connection ---- */

static struct net_conn *net_from(void *p)
{
    return CHECK_FROM(p, struct net_conn, NET_TAG);
}

void net_conn_init(struct net_conn *c, struct loop *loop, const struct net_conn_calls *calls)
{
    *c = (struct net_conn){.tag = NET_TAG, .loop = loop, .calls = calls};
    (void)uv_tcp_init(loop_uv(loop), &c->tcp); /* makes no socket yet */
    c->tcp.data = c->connect.data = c->write.data = c;
}

static void on_tcp_close(uv_handle_t *h)
{
    struct net_conn *c = net_from(h->data);
    net_bytes_free(&c->rx);
    net_bytes_free(&c->tx);
    net_bytes_free(&c->flying);
    c->tag = 0;
    c->calls->on_closed(c);
}

void net_conn_close(struct net_conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    loop_defer_cancel(&c->flush);
    uv_close((uv_handle_t *)&c->tcp, on_tcp_close);
}

static void set_options(struct net_conn *c)
{
    (void)uv_tcp_nodelay(&c->tcp, 1); /* only speed hangs on these two */
    (void)uv_tcp_keepalive(&c->tcp, 1, KEEPALIVE_S);
}

static void on_tcp_connect(uv_connect_t *req, int status)
{
    struct net_conn *c = net_from(req->data);
    if (c->closing)
        return;
    if (status < 0) {
        c->calls->on_end(c, status);
        return;
    }
    set_options(c);
    c->calls->on_connected(c);
}

int net_conn_connect(struct net_conn *c, const struct sockaddr *sa)
{
    return uv_tcp_connect(&c->connect, &c->tcp, sa, on_tcp_connect);
}

int net_conn_accept(struct net_conn *c, uv_stream_t *listener)
{
    int rc = uv_accept(listener, (uv_stream_t *)&c->tcp);
    if (!rc)
        set_options(c);
    return rc;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *ret)
{
    struct net_conn *c = net_from(h->data);
    (void)suggested;
    /* A message that is longer than the buffer doubles it: memory follows what arrived, not what was announced. */
    size_t left = net_bytes_left(&c->rx), n = left > READ_BYTES ? left : READ_BYTES;
    ret->base = net_bytes_room(&c->rx, c->rx.cap - c->rx.len >= READ_BYTES / 4 ? 1 : n);
    ret->len = c->rx.cap - c->rx.len;
}

static void on_tcp_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct net_conn *c = net_from(stream->data);
    (void)buf;
    if (n == 0 || n == UV_ENOBUFS || c->closing)
        return;
    if (n < 0) {
        c->calls->on_end(c, (int)n);
        return;
    }
    c->rx.len += (size_t)n;
    c->calls->on_bytes(c);
    if (!c->closing) /* the owner stays until on_closed, which is a later callback */
        bytes_rest(&c->rx);
}

void net_conn_read(struct net_conn *c, bool on)
{
    if (c->closing || c->reading == on)
        return;
    c->reading = on;
    if (on)
        CHECK(uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_tcp_read) == 0);
    else
        (void)uv_read_stop((uv_stream_t *)&c->tcp); /* never fails */
}

static void on_flush(void *ctx);

static void on_tcp_write(uv_write_t *req, int status)
{
    struct net_conn *c = net_from(req->data);
    c->writing = false;
    if (c->closing)
        return;
    if (status < 0) {
        c->calls->on_end(c, status);
        return;
    }
    c->done_bytes += net_bytes_left(&c->flying);
    c->flying.off = c->flying.len = 0;
    bytes_rest(&c->flying);
    if (net_bytes_left(&c->tx))
        loop_at_turn_end(c->loop, &c->flush, on_flush, c);
    if (c->calls->on_drained)
        c->calls->on_drained(c);
}

static void on_flush(void *ctx)
{
    struct net_conn *c = net_from(ctx);
    if (c->closing || c->writing || !net_bytes_left(&c->tx))
        return;
    uv_stream_t *stream = (uv_stream_t *)&c->tcp;
    uv_buf_t out = uv_buf_init(c->tx.p + c->tx.off, (unsigned)net_bytes_left(&c->tx));
    int n = uv_try_write(stream, &out, 1);
    if (n < 0 && n != UV_EAGAIN) {
        c->calls->on_end(c, n);
        return;
    }
    if (n > 0) {
        c->tx.off += (size_t)n;
        c->done_bytes += (size_t)n;
    }
    if (!net_bytes_left(&c->tx)) {
        bytes_rest(&c->tx);
        if (c->calls->on_drained)
            c->calls->on_drained(c);
        return;
    }
    struct net_bytes empty = c->flying;
    c->flying = c->tx;
    c->tx = empty;
    out = uv_buf_init(c->flying.p + c->flying.off, (unsigned)net_bytes_left(&c->flying));
    int rc = uv_write(&c->write, stream, &out, 1, on_tcp_write);
    if (rc < 0) {
        c->calls->on_end(c, rc);
        return;
    }
    c->writing = true;
}

void net_conn_put(struct net_conn *c, size_t n)
{
    c->put_bytes += n;
    if (!c->closing && !c->writing)
        loop_at_turn_end(c->loop, &c->flush, on_flush, c);
}

size_t net_conn_waiting(const struct net_conn *c)
{
    return net_bytes_left(&c->tx) +
           (c->writing ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp) : 0);
}

uint64_t net_conn_written(const struct net_conn *c)
{
    if (!c->writing)
        return c->done_bytes;
    return c->done_bytes + net_bytes_left(&c->flying) -
           uv_stream_get_write_queue_size((const uv_stream_t *)&c->tcp);
}
