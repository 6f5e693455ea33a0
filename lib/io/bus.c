/* bus: the SP framing of one connection, and the dialler.
 *
 * dial state   waits for          moves on in          then           timeout
 * waiting      backoff timer      on_dial_timer        resolving      backoff, from 20 ms
 * resolving    address            on_dial_resolved     connecting     the resolver's
 * connecting   connection         on_net_connected     shaking        5 s with the next
 * shaking      peer's 8 bytes     parse                up             5 s
 * up           -                  on_conn_down         waiting        -
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "bus"
#include "io/bus_priv.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define BACKOFF_MS 20
#define STABLE_MS 1000 /* a connection that lived so long resets the backoff */

/* ---- one connection ---- */

static struct bus_conn *conn_of(struct net_conn *net)
{
    return LIST_ENTRY(net, struct bus_conn, net);
}

void bus_conn_close(struct bus_conn *c)
{
    loop_timer_stop(&c->handshake);
    loop_defer_cancel(&c->resume);
    net_conn_close(&c->net);
}

void bus_conn_cut(struct bus_conn *c, int rc)
{
    if (c->net.closing)
        return;
    bus_conn_close(c);
    c->calls->on_down(c, rc);
}

static void frame_head(char out[BUS_FRAME_BYTES], uint64_t n)
{
    bus_put32((unsigned char *)out, (uint32_t)(n >> 32));
    bus_put32((unsigned char *)out + 4, (uint32_t)n);
}

static void handshake_bytes(char out[BUS_FRAME_BYTES], uint16_t proto)
{
    const char bytes[BUS_FRAME_BYTES] = {0, 'S', 'P', 0, (char)(proto >> 8), (char)proto, 0, 0};
    memcpy(out, bytes, sizeof(bytes));
}

/* Takes the peer's handshake; false when it is wrong or not whole yet. */
static bool take_handshake(struct bus_conn *c)
{
    char want[BUS_FRAME_BYTES];
    struct net_bytes *rx = &c->net.rx;
    size_t n = net_bytes_left(rx) < sizeof(want) ? net_bytes_left(rx) : sizeof(want);
    handshake_bytes(want, c->peer);
    if (memcmp(want, rx->p + rx->off, n) != 0) {
        bus_conn_cut(c, ERR_PROTOCOL);
        return false;
    }
    if (n < sizeof(want))
        return false;
    rx->off += n;
    c->up = true;
    loop_timer_stop(&c->handshake);
    return true;
}

static void parse(struct bus_conn *c)
{
    struct net_bytes *rx = &c->net.rx;
    if (!c->up && net_bytes_left(rx)) {
        if (!take_handshake(c))
            return;
        c->calls->on_up(c);
    }
    while (!c->net.closing && !c->paused && net_bytes_left(rx) >= BUS_FRAME_BYTES) {
        const char *p = rx->p + rx->off;
        uint64_t n = (uint64_t)bus_get32(p) << 32 | bus_get32(p + 4);
        if (n > c->max_message) {
            bus_conn_cut(c, ERR_TOO_LARGE);
            return;
        }
        if (net_bytes_left(rx) - BUS_FRAME_BYTES < n)
            return;
        rx->off += BUS_FRAME_BYTES + n;
        c->calls->on_message(c, str_make(p + BUS_FRAME_BYTES, n));
    }
}

static void on_net_bytes(struct net_conn *net)
{
    parse(conn_of(net));
}

static void on_net_end(struct net_conn *net, int rc)
{
    bus_conn_cut(conn_of(net), rc);
}

static void on_net_drained(struct net_conn *net)
{
    struct bus_conn *c = conn_of(net);
    if (c->calls->on_drained)
        c->calls->on_drained(c);
}

static void on_net_closed(struct net_conn *net)
{
    mem_free(conn_of(net));
}

static void shake(struct bus_conn *c)
{
    char hello[BUS_FRAME_BYTES];
    handshake_bytes(hello, c->self);
    net_bytes_add(&c->net.tx, hello, sizeof(hello));
    net_conn_put(&c->net, sizeof(hello));
    net_conn_read(&c->net, true);
}

static void on_net_connected(struct net_conn *net)
{
    shake(conn_of(net));
}

static const struct net_conn_calls net_calls = {.on_connected = on_net_connected,
                                                .on_bytes = on_net_bytes,
                                                .on_end = on_net_end,
                                                .on_drained = on_net_drained,
                                                .on_closed = on_net_closed};

static void on_handshake_late(void *ctx)
{
    bus_conn_cut(ctx, ERR_TIMEOUT);
}

struct bus_conn *bus_conn_new(struct loop *loop, uint16_t self, uint16_t peer, size_t max_message,
                              const struct bus_conn_calls *calls, void *owner)
{
    struct bus_conn *c = MEM_NEW(struct bus_conn);
    net_conn_init(&c->net, loop, &net_calls);
    c->loop = loop;
    c->self = self;
    c->peer = peer;
    c->max_message = max_message;
    c->calls = calls;
    c->owner = owner;
    list_init(&c->node);
    list_init(&c->calls_open);
    loop_timer_start(loop, &c->handshake, BUS_HANDSHAKE_MS, on_handshake_late, c);
    return c;
}

int bus_conn_connect(struct bus_conn *c, const struct sockaddr *sa)
{
    return net_conn_connect(&c->net, sa);
}

int bus_conn_accept(struct bus_conn *c, uv_stream_t *listener)
{
    int rc = net_conn_accept(&c->net, listener);
    if (!rc)
        shake(c);
    return rc;
}

static void on_resume(void *ctx)
{
    struct bus_conn *c = ctx;
    parse(c);
    if (!c->net.closing && !c->paused)
        net_conn_read(&c->net, true);
}

void bus_conn_pause(struct bus_conn *c, bool on)
{
    if (c->net.closing || c->paused == on)
        return;
    c->paused = on;
    if (on) {
        loop_defer_cancel(&c->resume);
        net_conn_read(&c->net, false);
    } else {
        loop_defer(c->loop, &c->resume, on_resume, c);
    }
}

void bus_conn_send(struct bus_conn *c, struct str head, struct str msg)
{
    char frame[BUS_FRAME_BYTES];
    size_t n = head.n + msg.n;
    frame_head(frame, n);
    net_bytes_room(&c->net.tx, sizeof(frame) + n);
    net_bytes_add(&c->net.tx, frame, sizeof(frame));
    net_bytes_add(&c->net.tx, head.p, head.n);
    net_bytes_add(&c->net.tx, msg.p, msg.n);
    net_conn_put(&c->net, sizeof(frame) + n);
}

/* ---- dialling ---- */

int bus_addresses(const char *list, struct err *e)
{
    struct str rest = str_of(list), part;
    int n = 0;
    while (str_next(&rest, ',', &part)) {
        struct net_addr a;
        int rc = net_addr_parse(str_trim(part), 0, &a, e);
        if (rc < 0)
            return rc;
        if (!a.host[0] || !a.port)
            return err_set(e, ERR_CONFIG, "address '" STR_FMT "': host and port must be given",
                           STR_ARG(part));
        n++;
    }
    if (n == 0 || n > 64)
        return err_set(e, ERR_CONFIG, "a list of 1 to 64 addresses is needed, not %d", n);
    return n;
}

static void on_dial_timer(void *ctx);

static void dial_later(struct bus_dial *d)
{
    uint64_t wait_ms = loop_backoff_ms(d->try_no, BACKOFF_MS, d->backoff_max_ms);
    if (d->try_no < 1000000)
        d->try_no++;
    loop_timer_start(d->loop, &d->timer, wait_ms, on_dial_timer, d);
}

static void on_dial_conn_up(struct bus_conn *c)
{
    struct bus_dial *d = c->owner;
    d->up = true;
    d->up_since_ms = clock_ms();
    LOG(INFO, "peer_connected", KV_STR("address", d->name));
    d->calls->on_up(d);
}

static void on_dial_conn_message(struct bus_conn *c, struct str msg)
{
    struct bus_dial *d = c->owner;
    d->calls->on_message(d, msg);
}

static void on_dial_conn_down(struct bus_conn *c, int rc)
{
    struct bus_dial *d = c->owner;
    bool was_up = d->up;
    d->conn = NULL;
    d->up = false;
    if (was_up && clock_ms() - d->up_since_ms >= STABLE_MS)
        d->try_no = 0;
    dial_later(d);
    if (!was_up) {
        LOG(DEBUG, "dial_failed", KV_STR("address", d->name), KV_ERR(rc));
        return;
    }
    LOG(INFO, "peer_lost", KV_STR("address", d->name), KV_ERR(rc));
    d->calls->on_down(d, c, rc);
}

static const struct bus_conn_calls dial_conn_calls = {
    .on_up = on_dial_conn_up, .on_message = on_dial_conn_message, .on_down = on_dial_conn_down};

static void on_dial_resolved(void *ctx, int rc, const struct sockaddr *sa)
{
    struct bus_dial *d = ctx;
    d->resolve = NULL;
    if (rc < 0) {
        LOG(DEBUG, "dial_failed", KV_STR("address", d->name), KV_ERR(rc));
        dial_later(d);
        return;
    }
    d->conn = bus_conn_new(d->loop, d->self, d->peer, d->max_message, &dial_conn_calls, d);
    rc = bus_conn_connect(d->conn, sa);
    if (rc < 0)
        bus_conn_cut(d->conn, rc);
}

static void on_dial_timer(void *ctx)
{
    struct bus_dial *d = ctx;
    d->resolve = net_resolve_start(d->loop, &d->addr, d->try_no, on_dial_resolved, d);
}

void bus_dial_start(struct bus_dial *d, const char *list, int i)
{
    struct str rest = str_of(list), part = {0};
    for (int k = 0; k <= i; k++)
        CHECK(str_next(&rest, ',', &part));
    part = str_trim(part);
    CHECK(net_addr_parse(part, 0, &d->addr, NULL) == 0);
    d->name = mem_strndup(part.p, part.n);
    loop_timer_start(d->loop, &d->timer, 0, on_dial_timer, d);
}

void bus_dial_stop(struct bus_dial *d)
{
    loop_timer_stop(&d->timer);
    net_resolve_cancel(&d->resolve);
    if (d->conn)
        bus_conn_close(d->conn);
    d->conn = NULL;
    d->up = false;
    mem_free(d->name);
    d->name = NULL;
}
