/* redis: one connection that comes back by itself, and the ring of commands in flight.
 *
 * state        waits for          moves on in         then         timeout
 * waiting      backoff timer      on_backoff          resolving    50 ms to 2 s
 * resolving    address            on_resolved         connecting   connect_timeout_ms
 * connecting   connection         on_net_connected    setup        the same timer
 * setup        AUTH, SELECT, PING on_setup_reply      up           the same timer
 * up           -                  lost                waiting      command_timeout_ms for the oldest command
 *
 * Answers come in order, so the ring needs no keys, and one timer for the oldest command serves all.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "redis"
#include "io/redis_priv.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/net_priv.h"
#include <stdio.h>

#define REDIS_TAG CHECK_TAG('r', 'e', 'd', 's')
#define BACKOFF_MS 50
#define BACKOFF_MAX_MS 2000
#define MAX_OUTPUT_BYTES (64u * 1024 * 1024)

struct command {
    redis_done_fn *done; /* may be NULL */
    void *ctx;
    uint64_t due_ms;
};

struct redis_conn {
    struct net_conn net; /* first */
    struct redis *redis; /* NULL after the end */
    struct redis_reader *reader;
};

struct redis {
    uint32_t tag;
    struct loop *loop;
    struct redis_opts o;
    struct net_addr addr;
    char *user, *password, *db;
    enum { REDIS_WAITING, REDIS_RESOLVING, REDIS_CONNECTING, REDIS_SETUP, REDIS_UP } state;
    struct net_resolve *resolve;
    struct redis_conn *conn;
    struct loop_timer timer;   /* backoff, or connect */
    struct loop_timer overdue; /* the oldest command */
    unsigned try_no, setup_left;
    struct command *ring;
    unsigned ring_cap, first, n;
    bool *gone; /* set when closed inside a callback */
    char detail[160];
    bool told; /* `detail` of a failure was given to on_state */
};

static struct redis *redis_from(void *p)
{
    return CHECK_FROM(p, struct redis, REDIS_TAG);
}

/* ---- the ring ---- */

static void ring_push(struct redis *r, redis_done_fn *done, void *ctx)
{
    if (r->n == r->ring_cap) {
        unsigned cap = r->ring_cap ? 2 * r->ring_cap : 64;
        struct command *ring = MEM_ARRAY(struct command, cap);
        for (unsigned i = 0; i < r->n; i++)
            ring[i] = r->ring[(r->first + i) & (r->ring_cap - 1)];
        mem_free(r->ring);
        r->ring = ring;
        r->ring_cap = cap;
        r->first = 0;
    }
    r->ring[(r->first + r->n++) & (r->ring_cap - 1)] = (struct command){
        .done = done, .ctx = ctx, .due_ms = loop_now_ms(r->loop) + r->o.command_timeout_ms};
}

static struct command ring_pop(struct redis *r)
{
    struct command cmd = r->ring[r->first];
    r->first = (r->first + 1) & (r->ring_cap - 1);
    r->n--;
    return cmd;
}

/* ---- losing the connection ---- */

static void on_backoff(void *ctx);

static void conn_end(struct redis *r)
{
    net_resolve_cancel(&r->resolve);
    loop_timer_stop(&r->timer);
    loop_timer_stop(&r->overdue);
    if (!r->conn)
        return;
    r->conn->redis = NULL;
    net_conn_close(&r->conn->net);
    r->conn = NULL;
}

/* Ends the connection, or the attempt. May end r itself, by its callbacks: the caller returns at once. */
static void lost(struct redis *r, int rc, struct str why)
{
    bool was_up = r->state == REDIS_UP, gone = false;
    conn_end(r);
    r->state = REDIS_WAITING;
    if (was_up)
        r->try_no = 0;
    loop_timer_start(r->loop, &r->timer, loop_backoff_ms(r->try_no, BACKOFF_MS, BACKOFF_MAX_MS),
                     on_backoff, r);
    if (r->try_no < 1000000)
        r->try_no++;
    char detail[sizeof(r->detail)];
    snprintf(detail, sizeof(detail), "%s%s" STR_FMT, err_name(rc), why.n ? ": " : "", STR_ARG(why));
    bool news = was_up || !r->told || strcmp(detail, r->detail) != 0;
    memcpy(r->detail, detail, sizeof(detail));
    r->told = true;
    if (news)
        LOG(WARN, "redis_lost", KV_STR("address", r->addr.host), KV_INT("port", r->addr.port),
            KV_STR("detail", detail), KV_INT("in_flight", r->n));
    r->gone = &gone;
    /* Nothing is added meanwhile: commands while it is down fail at once. */
    while (!gone && r->n) {
        struct command cmd = ring_pop(r);
        if (cmd.done)
            cmd.done(cmd.ctx, ERR_UNAVAILABLE, NULL);
    }
    if (gone)
        return;
    r->gone = NULL;
    if (news && r->o.on_state)
        r->o.on_state(r->o.ctx, false, detail);
}

static void on_overdue(void *ctx)
{
    struct redis *r = redis_from(ctx);
    if (!r->n)
        return;
    uint64_t due_ms = r->ring[r->first].due_ms, now_ms = clock_ms();
    if (due_ms > now_ms)
        loop_timer_start(r->loop, &r->overdue, due_ms - now_ms, on_overdue, r);
    else
        lost(r, ERR_TIMEOUT, STR("a command had no answer in time"));
}

static void on_connect_late(void *ctx)
{
    lost(redis_from(ctx), ERR_TIMEOUT, STR("no connection in time"));
}

/* ---- commands ---- */

static int send_command(struct redis *r, const struct str *argv, size_t argc, redis_done_fn *done,
                        void *ctx)
{
    size_t n;
    if (net_conn_waiting(&r->conn->net) > MAX_OUTPUT_BYTES)
        return ERR_BUSY;
    char *bytes = redis_command_format(argv, argc, &n);
    if (!bytes)
        return ERR_TOO_LARGE;
    net_bytes_add(&r->conn->net.tx, bytes, n);
    redis_command_free(bytes);
    net_conn_put(&r->conn->net, n);
    ring_push(r, done, ctx);
    if (!loop_timer_active(&r->overdue))
        loop_timer_start(r->loop, &r->overdue, r->o.command_timeout_ms, on_overdue, r);
    return 0;
}

int redis_command(struct redis *r, const struct str *argv, size_t argc, redis_done_fn *done,
                  void *ctx)
{
    loop_assert(r->loop);
    if (r->state != REDIS_UP)
        return ERR_UNAVAILABLE;
    if (r->n >= r->o.max_in_flight)
        return ERR_BUSY;
    return send_command(r, argv, argc, done, ctx);
}

void redis_forget(struct redis *r, void *ctx)
{
    for (unsigned i = 0; i < r->n; i++) {
        struct command *cmd = &r->ring[(r->first + i) & (r->ring_cap - 1)];
        if (cmd->ctx == ctx)
            cmd->done = NULL;
    }
}

/* ---- connecting ---- */

static void on_setup_reply(void *ctx, int rc, const struct redis_reply *reply)
{
    struct redis *r = redis_from(ctx);
    if (rc < 0)
        return; /* lost() says it */
    if (reply->kind == REDIS_ERROR) {
        bool denied = str_starts(reply->s, STR("NOAUTH")) ||
                      str_starts(reply->s, STR("WRONGPASS")) || str_starts(reply->s, STR("NOPERM"));
        lost(r, denied ? ERR_DENIED : ERR_UNAVAILABLE, reply->s);
        return;
    }
    if (--r->setup_left)
        return;
    loop_timer_stop(&r->timer);
    r->state = REDIS_UP;
    r->told = false;
    LOG(INFO, "redis_connected", KV_STR("address", r->addr.host), KV_INT("port", r->addr.port));
    if (r->o.on_state)
        r->o.on_state(r->o.ctx, true, "");
}

static void setup(struct redis *r, const struct str *argv, size_t argc)
{
    r->setup_left++;
    (void)send_command(r, argv, argc, on_setup_reply, r); /* the first bytes always find room */
}

static struct redis_conn *conn_of(struct net_conn *net)
{
    return LIST_ENTRY(net, struct redis_conn, net);
}

static void on_net_connected(struct net_conn *net)
{
    struct redis *r = conn_of(net)->redis;
    r->state = REDIS_SETUP;
    r->setup_left = 0;
    net_conn_read(net, true);
    if (r->password && *r->user)
        setup(r, (struct str[]){STR("AUTH"), str_of(r->user), str_of(r->password)}, 3);
    else if (r->password)
        setup(r, (struct str[]){STR("AUTH"), str_of(r->password)}, 2);
    if (r->db)
        setup(r, (struct str[]){STR("SELECT"), str_of(r->db)}, 2);
    /* A server that still loads its data takes connections, and says so here. */
    setup(r, (struct str[]){STR("PING")}, 1);
}

static void on_net_bytes(struct net_conn *net)
{
    struct redis_conn *c = conn_of(net);
    struct net_bytes *rx = &net->rx;
    int rc = redis_reader_feed(c->reader, rx->p + rx->off, net_bytes_left(rx));
    rx->off = rx->len;
    while (c->redis) { /* the connection's memory outlives this call */
        struct redis_reply *reply = NULL;
        if (!rc)
            rc = redis_reader_next(c->reader, &reply);
        if (!rc && !reply)
            return;
        if (!rc && !c->redis->n)
            rc = ERR_PROTOCOL; /* an answer that nobody waits for */
        if (rc < 0) {
            redis_reply_free(reply);
            lost(c->redis, rc, STR("bad reply"));
            return;
        }
        struct command cmd = ring_pop(c->redis);
        if (cmd.done)
            cmd.done(cmd.ctx, 0, reply);
        redis_reply_free(reply);
    }
}

static void on_net_end(struct net_conn *net, int rc)
{
    lost(conn_of(net)->redis, rc, (struct str){0});
}

static void on_net_closed(struct net_conn *net)
{
    struct redis_conn *c = conn_of(net);
    redis_reader_free(&c->reader);
    mem_free(c);
}

static const struct net_conn_calls net_calls = {.on_connected = on_net_connected,
                                                .on_bytes = on_net_bytes,
                                                .on_end = on_net_end,
                                                .on_closed = on_net_closed};

static void on_resolved(void *ctx, int rc, const struct sockaddr *sa)
{
    struct redis *r = redis_from(ctx);
    r->resolve = NULL;
    if (rc < 0) {
        lost(r, rc, STR("name look-up"));
        return;
    }
    struct redis_conn *c = MEM_NEW(struct redis_conn);
    net_conn_init(&c->net, r->loop, &net_calls);
    c->redis = r;
    c->reader = redis_reader_new(r->o.max_reply_bytes);
    r->conn = c;
    r->state = REDIS_CONNECTING;
    rc = net_conn_connect(&c->net, sa);
    if (rc < 0)
        lost(r, rc, (struct str){0});
}

static void on_backoff(void *ctx)
{
    struct redis *r = redis_from(ctx);
    r->state = REDIS_RESOLVING;
    loop_timer_start(r->loop, &r->timer, r->o.connect_timeout_ms, on_connect_late, r);
    r->resolve = net_resolve_start(r->loop, &r->addr, r->try_no, on_resolved, r);
}

/* ---- life ---- */

static char *url_part(struct str s)
{
    char *out = mem_alloc(s.n + 1);
    size_t n = 0;
    if (str_url_decode(s, false, out, &n) < 0 || memchr(out, 0, n)) {
        mem_free(out);
        return NULL;
    }
    out[n] = 0;
    return out;
}

/* Texts of errors never repeat the URL: it may hold a password. */
static int parse_url(struct redis *r, struct str url, struct err *e)
{
    const struct str scheme = STR("redis://");
    if (!str_starts(url, scheme))
        return err_set(e, ERR_CONFIG, "the Redis URL must begin with redis://");
    struct str rest = str_make(url.p + scheme.n, url.n - scheme.n);
    const char *at = rest.n ? memrchr(rest.p, '@', rest.n) : NULL;
    if (at) {
        struct str login = str_make(rest.p, (size_t)(at - rest.p));
        const char *colon = login.n ? memchr(login.p, ':', login.n) : NULL;
        struct str user = colon ? str_make(login.p, (size_t)(colon - login.p)) : login;
        r->user = url_part(user);
        if (colon)
            r->password = url_part(str_make(colon + 1, login.n - user.n - 1));
        if (!r->user || (colon && !r->password))
            return err_set(e, ERR_CONFIG, "the Redis URL's user or password is not well encoded");
        rest = str_make(at + 1, rest.n - login.n - 1);
    }
    const char *slash = rest.n ? memchr(rest.p, '/', rest.n) : NULL;
    if (slash) {
        struct str db = str_make(slash + 1, rest.n - (size_t)(slash - rest.p) - 1);
        uint64_t number;
        if (db.n && (str_u64(db, &number) < 0 || number > 65535))
            return err_set(e, ERR_CONFIG, "the Redis URL's database must be a number");
        if (db.n)
            r->db = mem_strndup(db.p, db.n);
        rest.n = (size_t)(slash - rest.p);
    }
    if (net_addr_parse(rest, 6379, &r->addr, NULL) < 0 || !r->addr.host[0] || !r->addr.port)
        return err_set(e, ERR_CONFIG, "the Redis URL's host and port are not understood");
    return 0;
}

int redis_open(struct loop *loop, const struct redis_opts *o, struct redis **ret, struct err *e)
{
    loop_assert(loop);
    struct redis *r = MEM_NEW(struct redis);
    r->tag = REDIS_TAG;
    r->loop = loop;
    r->o = *o;
    r->o.url = NULL; /* the caller's memory */
    if (!r->o.connect_timeout_ms)
        r->o.connect_timeout_ms = 1000;
    if (!r->o.command_timeout_ms)
        r->o.command_timeout_ms = 1000;
    if (!r->o.max_in_flight)
        r->o.max_in_flight = 65536;
    if (!r->o.max_reply_bytes)
        r->o.max_reply_bytes = 1024 * 1024;
    int rc = parse_url(r, str_of(o->url), e);
    if (rc < 0) {
        redis_close(&r);
        return rc;
    }
    loop_timer_start(loop, &r->timer, 0, on_backoff, r);
    *ret = r;
    return 0;
}

void redis_close(struct redis **ptr)
{
    struct redis *r = *ptr;
    if (!r)
        return;
    loop_assert(r->loop);
    *ptr = NULL;
    if (r->gone)
        *r->gone = true;
    conn_end(r);
    mem_free(r->user);
    mem_free(r->password);
    mem_free(r->db);
    mem_free(r->ring);
    r->tag = 0;
    mem_free(r);
}

bool redis_connected(const struct redis *r)
{
    return r->state == REDIS_UP;
}

unsigned redis_in_flight(const struct redis *r)
{
    return r->n;
}
