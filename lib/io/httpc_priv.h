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
    struct loop_timer timer;
    struct loop_defer reap;  /* looks for ended transfers, outside libcurl's callbacks */
    struct list calls, idle; /* idle: easy handles for reuse */
    /* HTTP/2 with libcurl 7.88: several transfers on one connection are forgotten now and then, and a call that asks for prior
     * knowledge fails (CURLE_HTTP2) when it gets a used connection, while one that asks for plain 2.0 is carried. So each
     * connection carries one call at a time; a call opens one by prior knowledge, or takes an idle one as plain 2.0. */
    unsigned h2_open, h2_busy; /* connections that are believed to be open; calls under way */
    struct list waiting;
    unsigned n_idle, socks; /* socks: poll handles that are not closed yet */
};
/* Wires the multi handle to the loop. */
void httpc_sock_open(struct httpc *c);
void httpc_sock_kick(struct httpc *c); /* lets libcurl look at its timers */
void httpc_reap(struct httpc *c);      /* ended transfers to their callbacks */
void httpc_free_if_ended(struct httpc *c);
