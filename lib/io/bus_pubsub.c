/* bus_pubsub: the PUB and SUB sides.
 *
 * A message is copied once and shared by the queues of all subscribers. A queue moves into its connection's output when the one
 * before has been taken by the kernel; while that takes, at most QUEUE messages wait and the oldest make room.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "bus"
#include "io/bus_priv.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"

#define PUB_TAG CHECK_TAG('b', 'p', 'u', 'b')
#define SUB_TAG CHECK_TAG('b', 's', 'u', 'b')
#define QUEUE 256
#define MAX_SUBSCRIBERS 256
#define OUTPUT_BYTES (1024 * 1024) /* of one connection, then its queue waits */

struct pub_msg {
    unsigned refs;
    size_t n;
    char bytes[];
};

struct subscriber {
    struct list node;
    struct bus_pub *pub;
    struct bus_conn *conn;
    struct pub_msg *queue[QUEUE]; /* a ring */
    unsigned first, n;
    uint64_t dropped;
};

struct bus_pub {
    uint32_t tag;
    struct loop *loop;
    uv_tcp_t *listener; /* apart, because it ends later than the publisher */
    struct list subscribers;
    unsigned port, n_subscribers;
};

static void msg_unref(struct pub_msg *m)
{
    if (--m->refs == 0)
        mem_free(m);
}

static struct pub_msg *queue_pop(struct subscriber *s)
{
    struct pub_msg *m = s->queue[s->first];
    s->first = (s->first + 1) % QUEUE;
    s->n--;
    return m;
}

static void pump(struct subscriber *s)
{
    while (s->n && s->conn->up && !s->conn->net.writing &&
           net_conn_waiting(&s->conn->net) < OUTPUT_BYTES) {
        struct pub_msg *m = queue_pop(s);
        bus_conn_send(s->conn, (struct str){0}, str_make(m->bytes, m->n));
        msg_unref(m);
    }
}

static void subscriber_free(struct subscriber *s)
{
    while (s->n)
        msg_unref(queue_pop(s));
    list_remove(&s->node);
    s->pub->n_subscribers--;
    mem_free(s);
}

static void on_sub_up(struct bus_conn *c)
{
    pump(c->owner);
}

static void on_sub_message(struct bus_conn *c, struct str msg)
{
    (void)c, (void)msg; /* subscribers have nothing to say; nanomsg's filters are its own side's */
}

static void on_sub_down(struct bus_conn *c, int rc)
{
    struct subscriber *s = c->owner;
    LOG(DEBUG, "subscriber_lost", KV_ERR(rc), KV_INT("dropped", s->dropped));
    subscriber_free(s);
}

static const struct bus_conn_calls pub_calls = {.on_up = on_sub_up,
                                                .on_message = on_sub_message,
                                                .on_drained = on_sub_up,
                                                .on_down = on_sub_down};

static void on_pub_connection(uv_stream_t *listener, int status)
{
    if (status < 0 || !listener->data)
        return;
    struct bus_pub *p = CHECK_FROM(listener->data, struct bus_pub, PUB_TAG);
    struct subscriber *s = MEM_NEW(struct subscriber);
    s->pub = p;
    s->conn = bus_conn_new(p->loop, BUS_PUB, BUS_SUB, 65536, &pub_calls, s);
    list_push(&p->subscribers, &s->node);
    p->n_subscribers++;
    int rc = bus_conn_accept(s->conn, listener);
    if (rc < 0 || p->n_subscribers > MAX_SUBSCRIBERS) {
        LOG(WARN, "connection_refused", KV_ERR(rc < 0 ? rc : ERR_LIMIT));
        bus_conn_close(s->conn);
        subscriber_free(s);
    }
}

int bus_pub_open(struct loop *loop, const char *listen, struct bus_pub **ret, struct err *e)
{
    loop_assert(loop);
    struct bus_pub *p = MEM_NEW(struct bus_pub);
    p->tag = PUB_TAG;
    p->loop = loop;
    list_init(&p->subscribers);
    p->listener = MEM_NEW(uv_tcp_t);
    p->listener->data = p;
    int rc = net_listen(loop, p->listener, listen, on_pub_connection, &p->port, e);
    if (rc < 0) {
        bus_pub_close(&p);
        return rc;
    }
    *ret = p;
    return 0;
}

static void on_pub_listener_close(uv_handle_t *h)
{
    mem_free(h);
}

void bus_pub_close(struct bus_pub **ptr)
{
    struct bus_pub *p = *ptr;
    if (!p)
        return;
    loop_assert(p->loop);
    *ptr = NULL;
    p->listener->data = NULL;
    uv_close((uv_handle_t *)p->listener, on_pub_listener_close);
    while (!list_empty(&p->subscribers)) {
        struct subscriber *s = LIST_ENTRY(p->subscribers.next, struct subscriber, node);
        bus_conn_close(s->conn);
        subscriber_free(s);
    }
    p->tag = 0;
    mem_free(p);
}

unsigned bus_pub_port(const struct bus_pub *p)
{
    return p->port;
}

void bus_pub_send(struct bus_pub *p, struct str msg)
{
    loop_assert(p->loop);
    struct pub_msg *m = mem_alloc_raw(sizeof(*m) + msg.n);
    m->refs = 1;
    m->n = msg.n;
    if (msg.n)
        memcpy(m->bytes, msg.p, msg.n);
    LIST_EACH (it, tmp, &p->subscribers) {
        struct subscriber *s = LIST_ENTRY(it, struct subscriber, node);
        if (s->n == QUEUE) {
            msg_unref(queue_pop(s));
            s->dropped++;
        }
        m->refs++;
        s->queue[(s->first + s->n++) % QUEUE] = m;
        pump(s);
    }
    msg_unref(m);
}

/* ---- subscribe ---- */

struct bus_sub {
    uint32_t tag;
    struct loop *loop;
    struct bus_dial *dials;
    unsigned n, connected;
    bus_message_fn *fn;
    bus_state_fn *on_state;
    void *ctx;
};

static void sub_state(struct bus_sub *s)
{
    if (s->on_state)
        s->on_state(s->ctx, s->connected, s->n);
}

static void on_pub_up(struct bus_dial *d)
{
    struct bus_sub *s = CHECK_FROM(d->ctx, struct bus_sub, SUB_TAG);
    s->connected++;
    sub_state(s);
}

static void on_pub_message(struct bus_dial *d, struct str msg)
{
    struct bus_sub *s = CHECK_FROM(d->ctx, struct bus_sub, SUB_TAG);
    s->fn(s->ctx, msg);
}

static void on_pub_down(struct bus_dial *d, struct bus_conn *c, int rc)
{
    struct bus_sub *s = CHECK_FROM(d->ctx, struct bus_sub, SUB_TAG);
    (void)c, (void)rc; /* the dialler logged it */
    s->connected--;
    sub_state(s);
}

static const struct bus_dial_calls sub_calls = {
    .on_up = on_pub_up, .on_message = on_pub_message, .on_down = on_pub_down};

int bus_sub_open(struct loop *loop, const char *addresses, bus_message_fn *fn,
                 bus_state_fn *on_state, void *ctx, struct bus_sub **ret, struct err *e)
{
    loop_assert(loop);
    int n = bus_addresses(addresses, e);
    if (n < 0)
        return n;
    struct bus_sub *s = MEM_NEW(struct bus_sub);
    s->tag = SUB_TAG;
    s->loop = loop;
    s->fn = fn;
    s->on_state = on_state;
    s->ctx = ctx;
    s->n = (unsigned)n;
    s->dials = MEM_ARRAY(struct bus_dial, s->n);
    for (int i = 0; i < n; i++) {
        s->dials[i] = (struct bus_dial){.loop = loop,
                                        .self = BUS_SUB,
                                        .peer = BUS_PUB,
                                        .max_message = BUS_MAX_MESSAGE,
                                        .backoff_max_ms = 500,
                                        .calls = &sub_calls,
                                        .ctx = s};
        bus_dial_start(&s->dials[i], addresses, i);
    }
    *ret = s;
    return 0;
}

void bus_sub_close(struct bus_sub **ptr)
{
    struct bus_sub *s = *ptr;
    if (!s)
        return;
    loop_assert(s->loop);
    *ptr = NULL;
    for (unsigned i = 0; i < s->n; i++)
        bus_dial_stop(&s->dials[i]);
    mem_free(s->dials);
    s->tag = 0;
    mem_free(s);
}
