/* bus_client: the REQ side, to several servers at once.
 *
 * Every request stays in the table, and counts as load of its connection, until its answer comes or the connection ends, also
 * when its caller has given it up: a late answer finds its own record, and a peer that answers nothing draws no more work than its share.
 * A peer that says nothing at all for 15 s while requests wait is cut: it may be stopped while its kernel still takes bytes.
 * Requests of a lost connection end in a deferred call, never inside bus_ask.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "bus"
#include "io/bus_priv.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define CLIENT_TAG CHECK_TAG('b', 'c', 'l', 'i')
#define ASK_TAG CHECK_TAG('b', 'a', 's', 'k')
#define SILENCE_MS 15000
#define MAX_ABANDONED 100000
#define ASK_COST 256 /* bytes that a request counts for beside its payload */

struct peer {
    struct bus_dial dial;
    struct list asks;
    size_t load_bytes;
    unsigned abandoned;
    uint64_t silent_since_ms; /* since then something waits and nothing was heard */
};

struct bus_client {
    uint32_t tag;
    struct loop *loop;
    struct bus_client_opts o;
    struct peer *peers;
    unsigned n_peers, connected, pending, turn;
    uint32_t next_id;
    struct bus_ask **table;    /* chains by id */
    size_t table_n, table_cap; /* cap: a power of two */
    struct list ended;
    struct loop_defer defer;
    bool *gone; /* set when the client is closed inside a callback */
};

struct bus_ask {
    uint32_t tag, id;
    struct bus_client *client;
    struct peer *peer; /* NULL: ended, in client->ended */
    struct bus_ask *next;
    struct list node;
    size_t cost;
    uint64_t at_bytes; /* where it begins in what its connection sends */
    struct loop_timer timer;
    bus_answer_fn *done; /* NULL: given up by its caller */
    void *ctx;
    int rc;
};

static struct bus_client *client_from(void *p)
{
    return CHECK_FROM(p, struct bus_client, CLIENT_TAG);
}

/* ---- the table ---- */

static struct bus_ask **table_at(struct bus_client *c, uint32_t id)
{
    struct bus_ask **at = &c->table[id & (c->table_cap - 1)];
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

static void table_put(struct bus_client *c, struct bus_ask *ask)
{
    if (c->table_n >= c->table_cap) {
        size_t old_cap = c->table_cap;
        struct bus_ask **old = c->table;
        c->table_cap = old_cap ? 2 * old_cap : 256;
        c->table = MEM_ARRAY(struct bus_ask *, c->table_cap);
        for (size_t i = 0; i < old_cap; i++) {
            for (struct bus_ask *it = old[i], *next; it; it = next) {
                next = it->next;
                it->next = NULL;
                *table_at(c, it->id) = it;
            }
        }
        mem_free(old);
    }
    *table_at(c, ask->id) = ask;
    c->table_n++;
}

static void ask_leave_peer(struct bus_ask *ask)
{
    struct bus_client *c = ask->client;
    struct bus_ask **at = table_at(c, ask->id);
    CHECK(*at == ask);
    *at = ask->next;
    ask->next = NULL;
    c->table_n--;
    ask->peer->load_bytes -= ask->cost;
    if (!ask->done)
        ask->peer->abandoned--;
    ask->peer = NULL;
    list_remove(&ask->node);
}

static void ask_free(struct bus_ask *ask)
{
    loop_timer_stop(&ask->timer);
    ask->tag = 0;
    mem_free(ask);
}

/* ---- asking ---- */

static struct peer *pick(struct bus_client *c, size_t bytes)
{
    struct peer *best = NULL;
    unsigned start = c->turn++;
    for (unsigned i = 0; i < c->n_peers; i++) {
        struct peer *p = &c->peers[(start + i) % c->n_peers];
        if (!p->dial.up ||
            net_conn_waiting(&p->dial.conn->net) + bytes > 2 * c->o.max_message_bytes)
            continue;
        if (!best || p->load_bytes < best->load_bytes)
            best = p;
    }
    return best;
}

static void ask_abandon(struct bus_ask *ask)
{
    ask->done = NULL;
    ask->client->pending--;
    ask->peer->abandoned++;
    loop_timer_stop(&ask->timer);
}

static void on_ask_timeout(void *ctx)
{
    struct bus_ask *ask = CHECK_FROM(ctx, struct bus_ask, ASK_TAG);
    struct bus_client *c = ask->client;
    struct peer *p = ask->peer;
    bus_answer_fn *done = ask->done;
    void *done_ctx = ask->ctx;
    bool gone = false;
    ask_abandon(ask);
    c->gone = &gone;
    if (clock_ms() - p->silent_since_ms >= SILENCE_MS || p->abandoned > MAX_ABANDONED)
        bus_conn_cut(p->dial.conn, ERR_TIMEOUT); /* frees the ask; on_state may close the client */
    if (gone)
        return;
    c->gone = NULL;
    done(done_ctx, ERR_UNKNOWN, (struct str){0});
}

static uint32_t new_id(struct bus_client *c)
{
    uint32_t id;
    do
        id = c->next_id++ | BUS_ID_FLAG;
    while (c->table_cap && *table_at(c, id));
    return id;
}

int bus_ask(struct bus_client *c, struct str msg, uint64_t timeout_ms, bus_answer_fn *done,
            void *ctx, struct bus_ask **ret_ask)
{
    loop_assert(c->loop);
    CHECK(done != NULL);
    if (msg.n + 4 > c->o.max_message_bytes)
        return ERR_TOO_LARGE;
    struct peer *p = pick(c, msg.n);
    if (!p)
        return ERR_UNAVAILABLE;
    struct bus_ask *ask = MEM_NEW(struct bus_ask);
    *ask = (struct bus_ask){.tag = ASK_TAG,
                            .id = new_id(c),
                            .client = c,
                            .peer = p,
                            .cost = msg.n + ASK_COST,
                            .at_bytes = p->dial.conn->net.put_bytes,
                            .done = done,
                            .ctx = ctx};
    if (list_empty(&p->asks))
        p->silent_since_ms = clock_ms();
    list_push(&p->asks, &ask->node);
    p->load_bytes += ask->cost;
    table_put(c, ask);
    c->pending++;
    loop_timer_start(c->loop, &ask->timer, timeout_ms, on_ask_timeout, ask);
    unsigned char id[4];
    bus_put32(id, ask->id);
    bus_conn_send(p->dial.conn, str_make((const char *)id, sizeof(id)), msg);
    if (ret_ask)
        *ret_ask = ask;
    return 0;
}

void bus_ask_cancel(struct bus_ask **ptr)
{
    struct bus_ask *ask = *ptr;
    if (!ask)
        return;
    CHECK(ask->tag == ASK_TAG && ask->done);
    *ptr = NULL;
    if (ask->peer) {
        ask_abandon(ask);
        return;
    }
    ask->client->pending--;
    list_remove(&ask->node);
    ask_free(ask);
}

/* ---- what the connections say ---- */

static void on_peer_up(struct bus_dial *d)
{
    struct bus_client *c = client_from(d->ctx);
    c->connected++;
    if (c->o.on_state)
        c->o.on_state(c->o.ctx, c->connected, c->n_peers);
}

static void on_peer_message(struct bus_dial *d, struct str msg)
{
    struct bus_client *c = client_from(d->ctx);
    struct peer *p = LIST_ENTRY(d, struct peer, dial);
    uint32_t id = msg.n >= 4 ? bus_get32(msg.p) : 0;
    if (!(id & BUS_ID_FLAG)) {
        bus_conn_cut(d->conn, ERR_PROTOCOL);
        return;
    }
    p->silent_since_ms = loop_now_ms(c->loop);
    struct bus_ask *ask = c->table_cap ? *table_at(c, id) : NULL;
    if (!ask || ask->peer != p) {
        LOG(DEBUG, "answer_without_request", KV_STR("address", d->name));
        return;
    }
    bus_answer_fn *done = ask->done;
    void *ctx = ask->ctx;
    ask_leave_peer(ask);
    ask_free(ask);
    if (!done)
        return;
    c->pending--;
    done(ctx, 0, str_make(msg.p + 4, msg.n - 4));
}

static void on_ended(void *ctx)
{
    struct bus_client *c = client_from(ctx);
    bool gone = false;
    c->gone = &gone;
    for (struct list *n; !gone && (n = list_pop(&c->ended));) {
        struct bus_ask *ask = LIST_ENTRY(n, struct bus_ask, node);
        bus_answer_fn *done = ask->done;
        void *done_ctx = ask->ctx;
        int rc = ask->rc;
        ask_free(ask);
        c->pending--;
        done(done_ctx, rc, (struct str){0});
    }
    if (!gone)
        c->gone = NULL;
}

static void on_peer_down(struct bus_dial *d, struct bus_conn *conn, int rc)
{
    struct bus_client *c = client_from(d->ctx);
    struct peer *p = LIST_ENTRY(d, struct peer, dial);
    uint64_t written = net_conn_written(&conn->net);
    (void)rc; /* the dialler logged it */
    while (!list_empty(&p->asks)) {
        struct bus_ask *ask = LIST_ENTRY(p->asks.next, struct bus_ask, node);
        ask_leave_peer(ask);
        if (!ask->done) {
            ask_free(ask);
            continue;
        }
        loop_timer_stop(&ask->timer);
        ask->rc = ask->at_bytes >= written ? ERR_UNAVAILABLE : ERR_UNKNOWN;
        list_push(&c->ended, &ask->node);
        loop_defer(c->loop, &c->defer, on_ended, c);
    }
    c->connected--;
    if (c->o.on_state)
        c->o.on_state(c->o.ctx, c->connected, c->n_peers);
}

static const struct bus_dial_calls client_calls = {
    .on_up = on_peer_up, .on_message = on_peer_message, .on_down = on_peer_down};

/* ---- life ---- */

int bus_client_open(struct loop *loop, const struct bus_client_opts *o, struct bus_client **ret,
                    struct err *e)
{
    loop_assert(loop);
    int n = bus_addresses(o->addresses, e);
    if (n < 0)
        return n;
    struct bus_client *c = MEM_NEW(struct bus_client);
    c->tag = CLIENT_TAG;
    c->loop = loop;
    c->o = *o;
    c->o.addresses = NULL; /* the caller's memory */
    if (!c->o.max_message_bytes)
        c->o.max_message_bytes = BUS_MAX_MESSAGE;
    if (!c->o.reconnect_max_ms)
        c->o.reconnect_max_ms = 500;
    list_init(&c->ended);
    c->n_peers = (unsigned)n;
    c->peers = MEM_ARRAY(struct peer, c->n_peers);
    for (int i = 0; i < n; i++) {
        struct peer *p = &c->peers[i];
        list_init(&p->asks);
        p->dial = (struct bus_dial){.loop = loop,
                                    .self = BUS_REQ,
                                    .peer = BUS_REP,
                                    .max_message = c->o.max_message_bytes,
                                    .backoff_max_ms = c->o.reconnect_max_ms,
                                    .calls = &client_calls,
                                    .ctx = c};
        bus_dial_start(&p->dial, o->addresses, i);
    }
    *ret = c;
    return 0;
}

void bus_client_close(struct bus_client **ptr)
{
    struct bus_client *c = *ptr;
    if (!c)
        return;
    loop_assert(c->loop);
    *ptr = NULL;
    loop_defer_cancel(&c->defer);
    if (c->gone)
        *c->gone = true;
    for (unsigned i = 0; i < c->n_peers; i++) {
        struct peer *p = &c->peers[i];
        bus_dial_stop(&p->dial);
        list_splice(&c->ended, &p->asks);
    }
    for (struct list *n; (n = list_pop(&c->ended));)
        ask_free(LIST_ENTRY(n, struct bus_ask, node));
    mem_free(c->table);
    mem_free(c->peers);
    c->tag = 0;
    mem_free(c);
}

unsigned bus_client_connected(const struct bus_client *c)
{
    return c->connected;
}

unsigned bus_client_pending(const struct bus_client *c)
{
    return c->pending;
}
