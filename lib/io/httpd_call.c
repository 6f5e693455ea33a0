/* httpd_call: requests, answers and streams, over the two protocols.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"
#include "base/clock.h"
#include "base/mem.h"

struct str httpd_header(const struct httpd_request *req, const char *name)
{
    if (req->http2)
        return httpd_h2_field(req->native, name);
    const struct httpd_conn *c = req->native;
    return httpd_head_field(&c->head, c->in + c->start, name);
}

void httpd_call_begin(struct httpd_call *call, struct httpd *h)
{
    call->h = h;
    call->open = true;
    call->req.arrived_us = clock_us();
    call->req.arrived_wall_ms = clock_wall_ms();
    h->stats.requests_total++;
    h->stats.calls++;
    h->o.on_request(h->o.ctx, call, &call->req);
}

void httpd_call_on_gone(struct httpd_call *call, void (*fn)(void *ctx), void *ctx)
{
    CHECK(call->tag == HTTPD_CALL_TAG && call->open);
    call->gone = fn;
    call->gone_ctx = ctx;
}

void httpd_call_gone(struct httpd_call *call)
{
    void (*fn)(void *ctx) = NULL;
    void *ctx = NULL;
    if (call->open) {
        fn = call->gone, ctx = call->gone_ctx;
        call->h->stats.calls--;
    } else if (call->streaming) {
        fn = call->stream.gone, ctx = call->stream.ctx;
        loop_defer_cancel(&call->stream.next);
    }
    call->open = call->streaming = false;
    if (fn)
        fn(ctx);
}

static void end_call(struct httpd_call *call)
{
    CHECK(call->tag == HTTPD_CALL_TAG && call->open);
    call->open = false;
    call->h->stats.calls--;
}

void httpd_answer(struct httpd_call *call, const struct httpd_answer *a)
{
    end_call(call);
    if (call->conn)
        httpd_conn_answer(call->conn, a);
    else
        httpd_h2_answer(call, a);
}

struct httpd_stream *httpd_stream_begin(struct httpd_call *call, const struct httpd_answer *head,
                                        httpd_want_fn *want, void (*gone)(void *ctx), void *ctx)
{
    end_call(call);
    call->streaming = true;
    call->stream = (struct httpd_stream){.call = call, .want = want, .gone = gone, .ctx = ctx};
    if (call->conn)
        httpd_conn_stream_head(call->conn, head);
    else
        httpd_h2_stream_head(call, head);
    return &call->stream;
}

void httpd_stream_send(struct httpd_stream *s, struct str piece, bool last)
{
    struct httpd_call *call = s->call;
    CHECK(call->tag == HTTPD_CALL_TAG && call->streaming);
    if (call->conn)
        httpd_conn_stream_send(call->conn, piece, last);
    else
        httpd_h2_stream_send(call, piece, last);
}

void httpd_stream_abort(struct httpd_stream *s)
{
    struct httpd_call *call = s->call;
    CHECK(call->tag == HTTPD_CALL_TAG && call->streaming);
    call->streaming = false;
    loop_defer_cancel(&s->next);
    if (call->conn)
        httpd_conn_end(call->conn);
    else
        httpd_h2_stream_abort(call);
}
