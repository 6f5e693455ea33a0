/* httpc: HTTP requests (HTTP/1.1, or HTTP/2 with prior knowledge), on libcurl's multi-socket interface and the one loop.
 *
 * Connections are kept and reused, at most max_connections. No redirects. Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "io/loop.h"

struct httpc;
struct httpc_call;
struct httpc_opts {
    unsigned max_connections;
    bool http2;                  /* prior knowledge */
    uint64_t connect_timeout_ms; /* 0: 5 s */
    size_t max_body_bytes;       /* of an answer; 0: 16 MiB */
};
struct httpc_request {
    const char *method, *url;
    struct str body;            /* stays the caller's, unchanged until done */
    const char *const *headers; /* "Name: value", NULL at the end */
    uint64_t timeout_ms;        /* 0: 30 s, all in all */
};
struct httpc_response {
    int status;
    struct str body;
    /* with an error: whether the request may have reached the server (bytes of it were sent) */
    bool sent;
};
/* rc 0: an answer came, whatever its status. Else a network error; res->sent says whether the outcome is unknown. */
typedef void httpc_done_fn(void *ctx, int rc, const struct httpc_response *res);
int httpc_open(struct loop *loop, const struct httpc_opts *o, struct httpc **ret, struct err *e);
void httpc_close(struct httpc **c); /* no callback after it */
int httpc_send(struct httpc *c, const struct httpc_request *req, httpc_done_fn *done, void *ctx,
               struct httpc_call **ret_call);
void httpc_cancel(struct httpc_call **call); /* done will not run */
