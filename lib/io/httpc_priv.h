/* httpc_priv: what httpc.c (calls) and httpc_sock.c (sockets and timer of libcurl on the loop) share.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/check.h"
#include "io/httpc.h"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#include <curl/curl.h>
#pragma GCC diagnostic pop

#define HTTPC_TAG CHECK_TAG('h', 't', 'p', 'c')

struct httpc {
    uint32_t tag;
    bool closed, in_curl;
    struct loop *loop;
    struct httpc_opts o;
    CURLM *multi;
    struct loop_timer timer, nudge;
    struct loop_defer reap;  /* looks for ended transfers, outside libcurl's callbacks */
    struct list calls, idle; /* idle: easy handles for reuse */
    /* HTTP/2: libcurl 7.88 opens a connection by prior knowledge, but fails (CURLE_HTTP2) when a later call that asks for prior
     * knowledge reuses it; one that asks for plain 2.0 is carried. So one call opens, the others wait for it, and then ask for 2.0. */
    enum { H2_NONE, H2_OPENING, H2_READY } h2;
    struct list waiting;
    unsigned n_idle, socks; /* socks: poll handles that are not closed yet */
};
/* Wires the multi handle to the loop. */
void httpc_sock_open(struct httpc *c);
void httpc_sock_kick(struct httpc *c); /* lets libcurl look at its timers */
void httpc_sock_nudge(struct httpc *c); /* HTTP/2: sees to it that no answer is forgotten */
void httpc_reap(struct httpc *c);      /* ended transfers to their callbacks */
void httpc_free_if_ended(struct httpc *c);
