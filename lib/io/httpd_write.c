/* httpd_write: what goes out on a connection of HTTP/1.1: heads, answers, streams. What it sends it hands to the socket at once; only what
 * the socket does not take waits in memory.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"
#include "base/mem.h"

struct conn_write {
    uv_write_t req;
    struct httpd_conn *c;
    char *owned;
    char data[];
};

static void on_written(uv_write_t *req, int status)
{
    struct conn_write *w = LIST_ENTRY(req, struct conn_write, req);
    struct httpd_conn *c = w->c;
    mem_free(w->owned);
    mem_free(w);
    c->writes--;
    httpd_conn_written(c, status);
}

void httpd_write(struct httpd_conn *c, struct str a, struct str b, char *owned)
{
    size_t done = 0;
    if (c->writes == 0) {
        uv_buf_t bufs[2] = {uv_buf_init((char *)(uintptr_t)a.p, (unsigned)a.n),
                            uv_buf_init((char *)(uintptr_t)b.p, (unsigned)b.n)};
        int n = uv_try_write((uv_stream_t *)&c->tcp, bufs, b.n ? 2 : 1);
        if (n < 0 && n != UV_EAGAIN) {
            mem_free(owned);
            httpd_conn_end(c);
            return;
        }
        done = n > 0 ? (size_t)n : 0;
    }
    if (done == a.n + b.n) {
        mem_free(owned);
        return;
    }
    size_t from_a = done < a.n ? done : a.n, from_b = done - from_a;
    size_t copy = a.n - from_a + (owned ? 0 : b.n - from_b);
    struct conn_write *w = mem_alloc_raw(sizeof *w + copy);
    *w = (struct conn_write){.c = c, .owned = owned};
    if (a.n > from_a)
        memcpy(w->data, a.p + from_a, a.n - from_a);
    if (!owned && b.n > from_b)
        memcpy(w->data + (a.n - from_a), b.p + from_b, b.n - from_b);
    uv_buf_t bufs[2] = {uv_buf_init(w->data, (unsigned)copy),
                        uv_buf_init(owned ? (char *)(uintptr_t)b.p + from_b : NULL,
                                    owned ? (unsigned)(b.n - from_b) : 0)};
    c->writes++;
    httpd_conn_deadline(c, c->h->o.request_timeout_ms);
    if (uv_write(&w->req, (uv_stream_t *)&c->tcp, bufs, owned ? 2 : 1, on_written) != 0) {
        c->writes--;
        mem_free(owned);
        mem_free(w);
        httpd_conn_end(c);
    }
}

static bool clean_value(struct str v)
{
    for (size_t i = 0; i < v.n; i++)
        if (((unsigned char)v.p[i] < ' ' && v.p[i] != '\t') || v.p[i] == 0x7f)
            return false;
    return true;
}

static struct str write_head(struct httpd_conn *c, const struct httpd_answer *a, bool streamed)
{
    struct buf *b = &c->h->head;
    buf_reset(b);
    if (a->status == 200) {
        buf_str(b, STR("HTTP/1.1 200 OK\r\n"));
    } else {
        buf_str(b, STR("HTTP/1.1 "));
        buf_u64(b, (uint64_t)a->status);
        buf_char(b, ' ');
        buf_z(b, httpd_reason(a->status));
        buf_str(b, STR("\r\n"));
    }
    buf_str(b, STR("date: "));
    buf_z(b, httpd_date(c->h));
    buf_str(b, STR("\r\n"));
    if (c->h->server_name) {
        buf_str(b, STR("server: "));
        buf_z(b, c->h->server_name);
        buf_str(b, STR("\r\n"));
    }
    if (a->content_type) {
        buf_str(b, STR("content-type: "));
        buf_z(b, a->content_type);
        buf_str(b, STR("\r\n"));
    }
    for (size_t i = 0; i < sizeof a->headers / sizeof *a->headers && a->headers[i].name; i++) {
        if (!clean_value(a->headers[i].value))
            continue;
        buf_z(b, a->headers[i].name);
        buf_str(b, STR(": "));
        buf_str(b, a->headers[i].value);
        buf_str(b, STR("\r\n"));
    }
    if (streamed && !c->head.http10) {
        buf_str(b, STR("transfer-encoding: chunked\r\n"));
    } else if (!streamed && a->status != 204 && a->status != 304) {
        buf_str(b, STR("content-length: "));
        buf_u64(b, a->body.n);
        buf_str(b, STR("\r\n"));
    }
    if (c->close_after)
        buf_str(b, STR("connection: close\r\n"));
    else if (c->head.http10)
        buf_str(b, STR("connection: keep-alive\r\n"));
    buf_str(b, STR("\r\n"));
    return buf_as_str(b);
}

void httpd_conn_answer(struct httpd_conn *c, const struct httpd_answer *a)
{
    if (a->close || c->h->draining)
        c->close_after = true;
    struct str head = write_head(c, a, false);
    bool no_body = c->no_body || a->status == 204 || a->status == 304;
    char *owned = a->body_owned;
    if (no_body) {
        mem_free(owned);
        owned = NULL;
    }
    httpd_write(c, head, no_body ? (struct str){NULL, 0} : a->body, owned);
    httpd_conn_finish(c);
}

static void on_stream_next(void *ctx)
{
    struct httpd_conn *c = CHECK_FROM(ctx, struct httpd_conn, HTTPD_CONN_TAG);
    c->call.stream.want(c->call.stream.ctx);
}

static void stream_next(struct httpd_conn *c)
{
    if (c->state == CONN_CALL && c->writes == 0)
        loop_defer(c->h->loop, &c->call.stream.next, on_stream_next, c);
}

/* A write that fails ends the connection, and its stream with it, before the caller has the stream: the end waits a turn. */
void httpd_conn_stream_head(struct httpd_conn *c, const struct httpd_answer *a)
{
    if (a->close || c->h->draining || c->head.http10)
        c->close_after = true;
    c->call.stream.head_only = c->no_body;
    struct str head = write_head(c, a, true);
    /* Copied into the queue always, so that nothing can end it here. */
    struct conn_write *w = mem_alloc_raw(sizeof *w + head.n);
    *w = (struct conn_write){.c = c};
    memcpy(w->data, head.p, head.n);
    uv_buf_t b = uv_buf_init(w->data, (unsigned)head.n);
    c->writes++;
    httpd_conn_deadline(c, c->h->o.request_timeout_ms);
    if (uv_write(&w->req, (uv_stream_t *)&c->tcp, &b, 1, on_written) != 0) {
        c->writes--;
        mem_free(w);
        stream_next(c); /* the next write meets the same error and ends it */
    }
}

void httpd_conn_stream_send(struct httpd_conn *c, struct str piece, bool last)
{
    struct buf *b = &c->h->head;
    bool chunked = !c->head.http10;
    buf_reset(b);
    if (!c->call.stream.head_only) {
        if (chunked && piece.n)
            buf_printf(b, "%zx\r\n", piece.n);
        buf_str(b, piece);
        if (chunked && piece.n)
            buf_str(b, STR("\r\n"));
        if (chunked && last)
            buf_str(b, STR("0\r\n\r\n"));
    }
    if (last) {
        c->call.streaming = false;
        loop_defer_cancel(&c->call.stream.next);
    }
    if (b->len)
        httpd_write(c, buf_as_str(b), (struct str){NULL, 0}, NULL);
    if (c->state == CONN_CLOSED)
        return;
    if (last)
        httpd_conn_finish(c);
    else
        stream_next(c);
}
