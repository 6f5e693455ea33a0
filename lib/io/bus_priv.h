/* bus: connections that speak SP, and addresses that are dialled again and again; shared by bus_*.c.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/bus.h"
#include "io/net_priv.h"

enum { BUS_PUB = 0x20, BUS_SUB = 0x21, BUS_REQ = 0x30, BUS_REP = 0x31 };
#define BUS_MAX_MESSAGE (64u * 1024 * 1024)
#define BUS_FRAME_BYTES 8 /* also the size of the handshake */
#define BUS_HANDSHAKE_MS 5000
#define BUS_ID_FLAG 0x80000000u

struct bus_conn;
struct bus_conn_calls {
    void (*on_up)(struct bus_conn *c);
    void (*on_message)(struct bus_conn *c, struct str msg); /* may close c */
    void (*on_drained)(struct bus_conn *c);                 /* may be NULL */
    /* c is closed already, and still readable during this call; `owner` is as it was. */
    void (*on_down)(struct bus_conn *c, int rc);
};
struct bus_conn {
    struct net_conn net; /* first */
    struct loop *loop;
    const struct bus_conn_calls *calls;
    void *owner;
    struct list node; /* the owner's */
    struct list calls_open;
    size_t max_message;
    uint16_t self, peer;
    bool up, paused;
    struct loop_timer handshake;
    struct loop_defer resume;
};
/* Not connected yet: goes on with bus_conn_connect, or bus_conn_accept. */
struct bus_conn *bus_conn_new(struct loop *loop, uint16_t self, uint16_t peer, size_t max_message,
                              const struct bus_conn_calls *calls, void *owner);
int bus_conn_connect(struct bus_conn *c, const struct sockaddr *sa);
int bus_conn_accept(struct bus_conn *c, uv_stream_t *listener);
void bus_conn_close(struct bus_conn *c);       /* no callback follows */
void bus_conn_cut(struct bus_conn *c, int rc); /* closes, and on_down follows at once */
void bus_conn_pause(struct bus_conn *c, bool on);
void bus_conn_send(struct bus_conn *c, struct str head, struct str msg);

struct bus_dial;
struct bus_dial_calls {
    void (*on_up)(struct bus_dial *d);
    void (*on_message)(struct bus_dial *d, struct str msg);
    void (*on_down)(struct bus_dial *d, struct bus_conn *c, int rc); /* only after on_up */
};
struct bus_dial {
    struct loop *loop;
    struct net_addr addr;
    char *name;
    uint16_t self, peer;
    size_t max_message;
    uint64_t backoff_max_ms, up_since_ms;
    unsigned try_no;
    struct loop_timer timer;
    struct net_resolve *resolve;
    struct bus_conn *conn;
    bool up;
    const struct bus_dial_calls *calls;
    void *ctx;
};
/* How many addresses the comma list holds (1..64), each of them checked; or ERR_CONFIG. */
int bus_addresses(const char *list, struct err *e);
/* Fills in the i-th address; the rest of *d was set by the caller. */
void bus_dial_start(struct bus_dial *d, const char *list, int i);
void bus_dial_stop(struct bus_dial *d);

static inline void bus_put32(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v >> 24), p[1] = (unsigned char)(v >> 16);
    p[2] = (unsigned char)(v >> 8), p[3] = (unsigned char)v;
}
static inline uint32_t bus_get32(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
