/* bus_server: the REP side.
 *
 * A call keeps the header words of its request (one of our clients sends one; devices between us add more), which lead its
 * answer back. Back-pressure: with max_calls unanswered no connection is read; below three quarters all are again.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "bus"
#include "io/bus_priv.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"

#define CALL_TAG CHECK_TAG('c', 'a', 'l', 'l')
#define SERVER_TAG CHECK_TAG('b', 's', 'r', 'v')
#define MAX_WORDS 16 /* hops of a request, and its id */

struct bus_server {
    uint32_t tag;
    struct loop *loop;
    uv_tcp_t *listener; /* apart, because it ends later than the server */
    struct bus_server_opts o;
    struct list conns;
    struct list lost_calls; /* of connections that are gone */
    unsigned port, n_conns, n_calls;
    bool paused;
};

struct bus_call {
    uint32_t tag;
    struct bus_server *server;
    struct bus_conn *conn; /* NULL: gone */
    struct list node;
    unsigned head_bytes;
    char head[4 * MAX_WORDS];
};

static struct bus_server *server_of(struct bus_conn *c)
{
    return CHECK_FROM(c->owner, struct bus_server, SERVER_TAG);
}

static void pause_all(struct bus_server *s, bool on)
{
    s->paused = on;
    LIST_EACH (n, tmp, &s->conns) {
        struct bus_conn *c = LIST_ENTRY(n, struct bus_conn, node);
        if (c->up)
            bus_conn_pause(c, on);
    }
}

static void on_server_up(struct bus_conn *c)
{
    if (server_of(c)->paused)
        bus_conn_pause(c, true);
}

static unsigned head_size(struct str msg)
{
    for (unsigned i = 0; i < MAX_WORDS && msg.n >= 4 * (i + 1); i++)
        if (bus_get32(msg.p + 4 * i) & BUS_ID_FLAG)
            return 4 * (i + 1);
    return 0;
}

static void on_server_message(struct bus_conn *c, struct str msg)
{
    struct bus_server *s = server_of(c);
    unsigned head = head_size(msg);
    if (!head) {
        bus_conn_cut(c, ERR_PROTOCOL);
        return;
    }
    struct bus_call *call = MEM_NEW(struct bus_call);
    call->tag = CALL_TAG;
    call->server = s;
    call->conn = c;
    call->head_bytes = head;
    memcpy(call->head, msg.p, head);
    list_push(&c->calls_open, &call->node);
    if (++s->n_calls >= s->o.max_calls && !s->paused)
        pause_all(s, true);
    s->o.on_request(s->o.ctx, call, str_make(msg.p + head, msg.n - head));
}

static void conn_forget(struct bus_server *s, struct bus_conn *c)
{
    for (struct list *n; (n = list_pop(&c->calls_open));) {
        LIST_ENTRY(n, struct bus_call, node)->conn = NULL;
        list_push(&s->lost_calls, n);
    }
    list_remove(&c->node);
    s->n_conns--;
}

static void on_server_down(struct bus_conn *c, int rc)
{
    struct bus_server *s = server_of(c);
    bool normal = rc == UV_EOF || rc == UV_ECONNRESET;
    conn_forget(s, c);
    if (normal)
        LOG(DEBUG, "connection_ended", KV_INT("connections", s->n_conns));
    else
        LOG(WARN, "connection_cut", KV_ERR(rc), KV_INT("connections", s->n_conns));
}

static const struct bus_conn_calls server_calls = {
    .on_up = on_server_up, .on_message = on_server_message, .on_down = on_server_down};

static void on_connection(uv_stream_t *listener, int status)
{
    if (status < 0 || !listener->data)
        return;
    struct bus_server *s = CHECK_FROM(listener->data, struct bus_server, SERVER_TAG);
    struct bus_conn *c =
        bus_conn_new(s->loop, BUS_REP, BUS_REQ, s->o.max_message_bytes, &server_calls, s);
    int rc = bus_conn_accept(c, listener);
    if (rc < 0 || s->n_conns >= s->o.max_connections) {
        LOG(WARN, "connection_refused", KV_ERR(rc < 0 ? rc : ERR_LIMIT),
            KV_INT("connections", s->n_conns));
        bus_conn_close(c);
        return;
    }
    list_push(&s->conns, &c->node);
    s->n_conns++;
}

static void on_listener_close(uv_handle_t *h)
{
    mem_free(h);
}

void bus_server_stop_accepting(struct bus_server *s)
{
    if (!s->listener)
        return;
    s->listener->data = NULL;
    uv_close((uv_handle_t *)s->listener, on_listener_close);
    s->listener = NULL;
}

int bus_server_open(struct loop *loop, const struct bus_server_opts *o, struct bus_server **ret,
                    struct err *e)
{
    loop_assert(loop);
    struct bus_server *s = MEM_NEW(struct bus_server);
    s->tag = SERVER_TAG;
    s->loop = loop;
    s->o = *o;
    s->o.listen = NULL; /* the caller's memory */
    if (!s->o.max_message_bytes)
        s->o.max_message_bytes = BUS_MAX_MESSAGE;
    if (!s->o.max_connections)
        s->o.max_connections = 256;
    if (!s->o.max_calls)
        s->o.max_calls = 4096;
    if (!s->o.max_write_bytes)
        s->o.max_write_bytes = BUS_MAX_MESSAGE;
    list_init(&s->conns);
    list_init(&s->lost_calls);
    s->listener = MEM_NEW(uv_tcp_t);
    s->listener->data = s;
    int rc = net_listen(loop, s->listener, o->listen, on_connection, &s->port, e);
    if (rc < 0) {
        bus_server_close(&s);
        return rc;
    }
    *ret = s;
    return 0;
}

static void free_calls(struct list *calls)
{
    for (struct list *n; (n = list_pop(calls));)
        mem_free(LIST_ENTRY(n, struct bus_call, node));
}

void bus_server_close(struct bus_server **ptr)
{
    struct bus_server *s = *ptr;
    if (!s)
        return;
    loop_assert(s->loop);
    *ptr = NULL;
    bus_server_stop_accepting(s);
    while (!list_empty(&s->conns)) {
        struct bus_conn *c = LIST_ENTRY(s->conns.next, struct bus_conn, node);
        conn_forget(s, c);
        bus_conn_close(c);
    }
    free_calls(&s->lost_calls);
    s->tag = 0;
    mem_free(s);
}

unsigned bus_server_port(const struct bus_server *s)
{
    return s->port;
}

unsigned bus_server_calls(const struct bus_server *s)
{
    return s->n_calls;
}

unsigned bus_server_connections(const struct bus_server *s)
{
    return s->n_conns;
}

size_t bus_server_write_bytes(const struct bus_server *s)
{
    size_t sum = 0;
    LIST_EACH (n, tmp, &s->conns)
        sum += net_conn_waiting(&LIST_ENTRY(n, struct bus_conn, node)->net);
    return sum;
}

void bus_drop(struct bus_call *call)
{
    CHECK(call->tag == CALL_TAG);
    struct bus_server *s = call->server;
    list_remove(&call->node);
    call->tag = 0;
    mem_free(call);
    s->n_calls--;
    if (s->paused && s->n_calls <= s->o.max_calls / 4 * 3)
        pause_all(s, false);
}

void bus_reply(struct bus_call *call, struct str msg)
{
    CHECK(call->tag == CALL_TAG);
    struct bus_server *s = call->server;
    struct bus_conn *c = call->conn;
    if (c) {
        bus_conn_send(c, str_make(call->head, call->head_bytes), msg);
        if (net_conn_waiting(&c->net) > s->o.max_write_bytes)
            bus_conn_cut(c, ERR_LIMIT);
    }
    bus_drop(call);
}
