/* net: what bus and redis share: addresses, names, and one TCP connection with a gathering output.
 *
 * Ownership: a net_conn lies inside its owner's struct, which stays until on_closed. Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "io/loop.h"

struct net_addr {
    char host[256]; /* without brackets */
    uint16_t port;
};
/* "host:port", "[v6]:port"; with default_port not 0 the port may be absent. 0 or ERR_CONFIG. */
int net_addr_parse(struct str s, uint16_t default_port, struct net_addr *ret, struct err *e);
/* A numeric host, or "localhost" and "" (any): 0 or UV_EINVAL. */
int net_addr_numeric(const struct net_addr *a, struct sockaddr_storage *ret);
/* A socket that is bound and listens. 0 or an error; after an error the caller closes the handle all the same. */
int net_listen(struct loop *loop, uv_tcp_t *tcp, const char *listen, uv_connection_cb on_connection,
               unsigned *ret_port, struct err *e);

/* Finds an address of a host; the try number picks among several. The callback runs once, later, unless cancelled. */
struct net_resolve;
typedef void net_resolve_fn(void *ctx, int rc, const struct sockaddr *sa);
struct net_resolve *net_resolve_start(struct loop *loop, const struct net_addr *a, unsigned try_no,
                                      net_resolve_fn *fn, void *ctx);
void net_resolve_cancel(struct net_resolve **r);

/* Bytes that are not zeroed when they grow. */
struct net_bytes {
    char *p;
    size_t off, len, cap; /* off: what was consumed at the front; len: end of the data */
};
char *net_bytes_room(struct net_bytes *b, size_t n); /* room for n more at the end */
void net_bytes_add(struct net_bytes *b, const void *p, size_t n);
void net_bytes_free(struct net_bytes *b);
static inline size_t net_bytes_left(const struct net_bytes *b)
{
    return b->len - b->off;
}

struct net_conn;
struct net_conn_calls {
    void (*on_connected)(struct net_conn *c); /* outgoing ones only */
    void (*on_bytes)(struct net_conn *c);     /* more in rx: advance rx.off past what was used */
    /* failed, or closed by the peer (UV_EOF): close it now */
    void (*on_end)(struct net_conn *c, int rc);
    void (*on_drained)(struct net_conn *c); /* may be NULL: the kernel has taken what was put */
    void (*on_closed)(struct net_conn *c);  /* after net_conn_close: free the owner */
};
struct net_conn {
    uint32_t tag;
    struct loop *loop;
    const struct net_conn_calls *calls;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct net_bytes rx, tx, flying;
    uint64_t put_bytes, done_bytes; /* ever put into tx; ever given up by the write queue */
    struct loop_defer flush;
    bool closing, writing, reading;
};
void net_conn_init(struct net_conn *c, struct loop *loop, const struct net_conn_calls *calls);
/* No callback but on_closed follows. */
void net_conn_close(struct net_conn *c);
int net_conn_connect(struct net_conn *c, const struct sockaddr *sa);
int net_conn_accept(struct net_conn *c, uv_stream_t *listener);
void net_conn_read(struct net_conn *c, bool on);
/* Append to c->tx by net_bytes_*, then call this: everything of this turn leaves in one write at its end. */
void net_conn_put(struct net_conn *c, size_t n);
/* Bytes that wait here or in libuv. */
size_t net_conn_waiting(const struct net_conn *c);
/* How many of the bytes that were put have been taken by the kernel. */
uint64_t net_conn_written(const struct net_conn *c);
