/* bus: messages between services, in the wire protocol of nanomsg and nng (SP over TCP), on the loop itself.
 *
 * Two conversations: request/reply (bus_server and bus_client; SP protocols REP 0x31 and REQ 0x30) and publish/subscribe
 * (bus_pub and bus_sub; PUB 0x20, SUB 0x21). Any nng or nanomsg peer can take either end.
 * Sources: the SP mapping for TCP (nanomsg RFC sp-tcp-mapping-01: 8 bytes "\\0SP\\0", protocol, 0; then 64-bit length and payload),
 * sp-request-reply-01 (a 32-bit id with its top bit set in front of the payload).
 * A request is sent once: never again to another peer (a resend would be a second record); when its connection ends it ends
 * with ERR_UNKNOWN, when it was never written to a socket with ERR_UNAVAILABLE.
 * Messages over max_message_bytes end the connection. A connection whose handshake takes over 5 s is cut. Addresses are "host:port".
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "io/loop.h"

/* ---- server: takes requests, answers each once ---- */
struct bus_server;
struct bus_call; /* one request that waits for its answer */
/* `msg` is valid during this call only. The callee answers by bus_reply, now or later, or gives the call up by bus_drop. */
typedef void bus_request_fn(void *ctx, struct bus_call *call, struct str msg);

struct bus_server_opts {
    const char *listen;       /* "127.0.0.1:7700", port 0 = any */
    size_t max_message_bytes; /* 0: 64 MiB */
    unsigned max_connections; /* 0: 256; further ones are closed at once */
    unsigned max_calls;       /* 0: 4096 unanswered calls, then reading waits */
    /* 0: 64 MiB of answers waiting for one peer, then the connection is cut */
    size_t max_write_bytes;
    bus_request_fn *on_request;
    void *ctx;
};
/* 0 or a libuv error (bind), with text in e. */
int bus_server_open(struct loop *loop, const struct bus_server_opts *o, struct bus_server **ret,
                    struct err *e);
/* No further callback. Calls that are open are dropped; the caller forgets them before. */
void bus_server_close(struct bus_server **s);
unsigned bus_server_port(const struct bus_server *s);
void bus_server_stop_accepting(struct bus_server *s);
unsigned bus_server_calls(const struct bus_server *s); /* unanswered */
unsigned bus_server_connections(const struct bus_server *s);
size_t bus_server_write_bytes(const struct bus_server *s); /* answers on their way */
/* Copies msg. Ends the call (the pointer is gone), also when its peer has gone meanwhile. */
void bus_reply(struct bus_call *call, struct str msg);
void bus_drop(struct bus_call *call);

/* ---- client: asks any of several servers ---- */
struct bus_client;
struct bus_ask; /* one request on its way */
/* rc 0: msg is the answer, valid during this call. ERR_UNKNOWN: sent, and the connection ended or the time is over.
 * ERR_UNAVAILABLE: never written to any socket. */
typedef void bus_answer_fn(void *ctx, int rc, struct str msg);
typedef void bus_state_fn(void *ctx, unsigned connected, unsigned total);

struct bus_client_opts {
    /* comma list; all are dialled and kept; the least loaded connected one gets a request */
    const char *addresses;
    size_t max_message_bytes;  /* 0: 64 MiB */
    uint64_t reconnect_max_ms; /* 0: 500; backoff from 20 ms */
    bus_state_fn *on_state;    /* may be NULL; on every change of the number connected */
    void *ctx;
};
int bus_client_open(struct loop *loop, const struct bus_client_opts *o, struct bus_client **ret,
                    struct err *e);
void bus_client_close(struct bus_client **c); /* requests end without their callback */
unsigned bus_client_connected(const struct bus_client *c);
unsigned bus_client_pending(const struct bus_client *c); /* requests without an answer */
/* Copies msg. ERR_UNAVAILABLE at once when nobody is connected, or twice max_message_bytes wait for everybody who is; ERR_TOO_LARGE over
 * max_message_bytes (done never runs); else 0 and done runs once, later. A peer that is silent for 15 s while requests wait is cut. */
int bus_ask(struct bus_client *c, struct str msg, uint64_t timeout_ms, bus_answer_fn *done,
            void *ctx, struct bus_ask **ret_ask);
/* done will not run. NULL is fine. Sets *ask to NULL. */
void bus_ask_cancel(struct bus_ask **ask);

/* ---- publish / subscribe: best effort; a slow subscriber loses messages, never the publisher its memory ---- */
struct bus_pub;
struct bus_sub;
int bus_pub_open(struct loop *loop, const char *listen, struct bus_pub **ret, struct err *e);
void bus_pub_close(struct bus_pub **p);
unsigned bus_pub_port(const struct bus_pub *p);
/* copies; per subscriber at most 256 messages wait, the oldest are dropped */
void bus_pub_send(struct bus_pub *p, struct str msg);
typedef void bus_message_fn(void *ctx, struct str msg);
int bus_sub_open(struct loop *loop, const char *addresses, bus_message_fn *fn,
                 bus_state_fn *on_state, void *ctx, struct bus_sub **ret, struct err *e);
void bus_sub_close(struct bus_sub **s);
