/* test_bus: requests and announcements between our ends, with the real libnng at either end, and what bad peers do.
 *
 * Bad peers are plain sockets of this process, driven between turns of the loop. No step waits without a deadline.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/bus.h"
#include "base/clock.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>
#include <nng/nng.h>
#include <nng/supplemental/util/platform.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>

#define DEADLINE_NS 60000000000ULL
#define HELLO_REQ "\0SP\0\0\x30\0\0"
#define HELLO_REP "\0SP\0\0\x31\0\0"
#define HELLO_SUB "\0SP\0\0\x21\0\0"

static struct loop *loop;
static struct loop_timer tick;

static void on_tick(void *ctx)
{
    (void)ctx; /* only ends the wait of loop_run_once */
}

static void turn(void)
{
    loop_timer_start(loop, &tick, 5, on_tick, NULL);
    loop_run_once(loop, true);
    loop_timer_stop(&tick);
}

#define WAIT(cond)                                                                                 \
    for (uint64_t end_ = uv_hrtime() + DEADLINE_NS; !(cond);) {                                    \
        assert_true(uv_hrtime() < end_);                                                           \
        turn();                                                                                    \
    }

static int setup(void **state)
{
    (void)state;
    loop = loop_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clock_real();
    return loop_free(&loop);
}

/* ---- our own two ends ---- */

struct service {
    struct bus_server *server;
    char address[40];
    struct bus_call *held[300];
    unsigned n_held, seen;
    bool hold;
};

static void on_request(void *ctx, struct bus_call *call, struct str msg)
{
    struct service *s = ctx;
    s->seen++;
    if (str_is(msg, "drop"))
        bus_drop(call);
    else if (s->hold)
        s->held[s->n_held++] = call;
    else
        bus_reply(call, msg);
}

static void service_open_as(struct service *s, struct bus_server_opts o)
{
    struct err e = {0};
    o.on_request = on_request;
    o.ctx = s;
    if (!o.listen)
        o.listen = "127.0.0.1:0";
    assert_int_equal(bus_server_open(loop, &o, &s->server, &e), 0);
    snprintf(s->address, sizeof(s->address), "127.0.0.1:%u", bus_server_port(s->server));
}

static void service_open(struct service *s)
{
    service_open_as(s, (struct bus_server_opts){0});
}

static void answer_held(struct service *s, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        bus_reply(s->held[--s->n_held], STR("late"));
}

struct asker {
    struct bus_client *client;
    unsigned answers, unknown, unavailable, states;
    char last[64];
};

static void on_answer(void *ctx, int rc, struct str msg)
{
    struct asker *a = ctx;
    assert_true(rc == 0 || rc == ERR_UNKNOWN || rc == ERR_UNAVAILABLE);
    a->answers += rc == 0;
    a->unknown += rc == ERR_UNKNOWN;
    a->unavailable += rc == ERR_UNAVAILABLE;
    snprintf(a->last, sizeof(a->last), STR_FMT, STR_ARG(msg));
}

static void on_state(void *ctx, unsigned connected, unsigned total)
{
    struct asker *a = ctx;
    assert_true(connected <= total);
    a->states++;
}

static void asker_open(struct asker *a, const char *addresses)
{
    struct bus_client_opts o = {
        .addresses = addresses, .on_state = on_state, .ctx = a, .reconnect_max_ms = 50};
    struct err e = {0};
    assert_int_equal(bus_client_open(loop, &o, &a->client, &e), 0);
}

static int ask(struct asker *a, const char *text)
{
    return bus_ask(a->client, str_of(text), DEADLINE_NS / 1000000, on_answer, a, NULL);
}

static void a_request_gets_its_answer(void **state)
{
    (void)state;
    struct service s = {0};
    struct asker a = {0};
    service_open(&s);
    asker_open(&a, s.address);
    assert_int_equal(ask(&a, "x"), ERR_UNAVAILABLE); /* not connected yet */
    WAIT(bus_client_connected(a.client) == 1);
    assert_int_equal(a.states, 1);
    assert_int_equal(ask(&a, "hello"), 0);
    assert_int_equal(a.answers, 0);
    assert_int_equal(bus_client_pending(a.client), 1);
    WAIT(a.answers == 1);
    assert_string_equal(a.last, "hello");
    assert_int_equal(ask(&a, ""), 0);
    WAIT(a.answers == 2);
    assert_string_equal(a.last, "");
    assert_int_equal(bus_client_pending(a.client), 0);
    assert_int_equal(bus_server_calls(s.server), 0);
    bus_client_close(&a.client);
    WAIT(bus_server_connections(s.server) == 0);
    bus_server_close(&s.server);
}

static void on_big_answer(void *ctx, int rc, struct str msg)
{
    size_t *n = ctx;
    assert_int_equal(rc, 0);
    for (size_t i = 0; i < msg.n; i++)
        assert_int_equal((unsigned char)msg.p[i], (unsigned char)(i * 31));
    *n = msg.n;
}

static void messages_of_megabytes_pass_whole(void **state)
{
    (void)state;
    struct service s = {0};
    struct asker a = {0};
    size_t n = 12345678, got = 0;
    char *big = mem_alloc_raw(n);
    for (size_t i = 0; i < n; i++)
        big[i] = (char)(unsigned char)(i * 31);
    service_open(&s);
    asker_open(&a, s.address);
    WAIT(bus_client_connected(a.client) == 1);
    assert_int_equal(bus_ask(a.client, str_make(big, n), 60000, on_big_answer, &got, NULL), 0);
    WAIT(got == n);
    mem_free(big);
    assert_int_equal(bus_server_write_bytes(s.server), 0);
    bus_client_close(&a.client);
    bus_server_close(&s.server);
}

static void a_flood_of_requests_is_answered_to_the_last(void **state)
{
    (void)state;
    struct service s = {0};
    struct asker a = {0};
    service_open(&s);
    asker_open(&a, s.address);
    WAIT(bus_client_connected(a.client) == 1);
    const unsigned total = 100000;
    uint64_t begin = uv_hrtime();
    for (unsigned sent = 0; a.answers < total;) {
        for (int i = 0; i < 200 && sent < total && sent - a.answers < 3000; i++, sent++)
            assert_int_equal(ask(&a, "a produce batch of some length, as they are"), 0);
        turn();
        assert_true(uv_hrtime() - begin < 2 * DEADLINE_NS);
    }
    print_message("%.0f requests/s\n", total * 1e9 / (double)(uv_hrtime() - begin));
    assert_int_equal(s.seen, total);
    bus_client_close(&a.client);
    bus_server_close(&s.server);
}

static void requests_spread_over_all_servers(void **state)
{
    (void)state;
    struct service s[2] = {{.hold = true}, {.hold = true}};
    struct asker a = {0};
    char both[100];
    service_open(&s[0]);
    service_open(&s[1]);
    snprintf(both, sizeof(both), "%s, %s", s[0].address, s[1].address);
    asker_open(&a, both);
    WAIT(bus_client_connected(a.client) == 2);
    for (int i = 0; i < 100; i++)
        assert_int_equal(ask(&a, "x"), 0);
    WAIT(s[0].seen + s[1].seen == 100);
    assert_int_equal(s[0].seen, 50);
    answer_held(&s[1], 50);
    WAIT(a.answers == 50);
    for (int i = 0; i < 40; i++) /* to the one with less to do */
        assert_int_equal(ask(&a, "x"), 0);
    WAIT(s[0].seen + s[1].seen == 140);
    assert_int_equal(s[1].seen, 90);
    bus_server_close(&s[0].server); /* 50 requests in flight there */
    WAIT(a.unknown == 50);
    assert_int_equal(bus_client_connected(a.client), 1);
    assert_int_equal(ask(&a, "x"), 0);
    answer_held(&s[1], 40);
    WAIT(s[1].n_held == 1);
    answer_held(&s[1], 1);
    WAIT(a.answers == 91);
    bus_client_close(&a.client);
    bus_server_close(&s[1].server);
}

static void a_client_comes_back_to_a_server_that_was_away(void **state)
{
    (void)state;
    struct service s = {0};
    struct asker a = {0};
    service_open(&s);
    asker_open(&a, s.address);
    WAIT(bus_client_connected(a.client) == 1);
    bus_server_close(&s.server);
    WAIT(bus_client_connected(a.client) == 0);
    assert_int_equal(ask(&a, "x"), ERR_UNAVAILABLE);
    for (int i = 0; i < 20; i++)
        turn(); /* refused again and again */
    char again[40];
    snprintf(again, sizeof(again), "%s", s.address);
    service_open_as(&s, (struct bus_server_opts){.listen = again});
    WAIT(bus_client_connected(a.client) == 1);
    assert_int_equal(a.states, 3);
    assert_int_equal(ask(&a, "back"), 0);
    WAIT(a.answers == 1);
    bus_client_close(&a.client);
    bus_server_close(&s.server);
}

static void a_request_without_answer_times_out_and_a_late_answer_is_dropped(void **state)
{
    (void)state;
    struct service s = {.hold = true};
    struct asker a = {0};
    service_open(&s);
    asker_open(&a, s.address);
    WAIT(bus_client_connected(a.client) == 1);
    struct bus_ask *cancelled;
    assert_int_equal(bus_ask(a.client, STR("x"), 30, on_answer, &a, NULL), 0);
    assert_int_equal(bus_ask(a.client, STR("y"), 60000, on_answer, &a, &cancelled), 0);
    bus_ask_cancel(&cancelled);
    assert_null(cancelled);
    bus_ask_cancel(&cancelled);
    WAIT(a.unknown == 1 && s.seen == 2);
    assert_int_equal(bus_client_pending(a.client), 0);
    answer_held(&s, 2);
    s.hold = false;
    assert_int_equal(ask(&a, "z"), 0);
    WAIT(a.answers == 1);
    assert_string_equal(a.last, "z");
    assert_int_equal(a.unknown, 1);
    bus_client_close(&a.client);
    bus_server_close(&s.server);
}

static void closing_with_requests_in_flight_calls_nobody(void **state)
{
    (void)state;
    struct service s = {.hold = true};
    struct asker a = {0};
    service_open(&s);
    asker_open(&a, s.address);
    WAIT(bus_client_connected(a.client) == 1);
    assert_int_equal(ask(&a, "x"), 0);
    assert_int_equal(ask(&a, "drop"), 0);
    WAIT(s.seen == 2);
    bus_client_close(&a.client);
    bus_client_close(&a.client);
    WAIT(bus_server_connections(s.server) == 0);
    assert_int_equal(bus_server_calls(s.server), 1);
    answer_held(&s, 1); /* to nobody */
    assert_int_equal(bus_server_calls(s.server), 0);
    assert_int_equal(a.answers + a.unknown + a.unavailable, 0);
    bus_server_close(&s.server);
}

static struct asker closer;
static void on_answer_close(void *ctx, int rc, struct str msg)
{
    (void)ctx, (void)rc, (void)msg;
    closer.answers++;
    bus_client_close(&closer.client);
}

static void a_client_may_be_closed_in_its_callbacks(void **state)
{
    (void)state;
    for (int lost = 0; lost < 2; lost++) {
        struct service s = {.hold = lost};
        closer = (struct asker){0};
        service_open(&s);
        asker_open(&closer, s.address);
        WAIT(bus_client_connected(closer.client) == 1);
        for (int i = 0; i < 10; i++)
            assert_int_equal(bus_ask(closer.client, STR("x"), 60000, on_answer_close, NULL, NULL),
                             0);
        WAIT(s.seen == 10);
        if (lost)
            bus_server_close(&s.server);
        WAIT(!closer.client);
        turn();
        assert_int_equal(closer.answers, 1);
        bus_server_close(&s.server);
    }
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",         "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000",
        "a:1,,b:2", ":7700",     "[::1:5"};
    struct bus_client *c = NULL;
    struct err e = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(
            bus_client_open(loop, &(struct bus_client_opts){.addresses = bad[i]}, &c, &e),
            ERR_CONFIG);
    struct bus_server *s = NULL;
    struct service other = {0};
    service_open(&other);
    assert_int_equal(
        bus_server_open(loop, &(struct bus_server_opts){.listen = "some.name:0"}, &s, &e),
        ERR_CONFIG);
    assert_int_equal(
        bus_server_open(loop, &(struct bus_server_opts){.listen = other.address}, &s, &e),
        UV_EADDRINUSE);
    assert_non_null(strstr(e.text, other.address));
    assert_null(s);
    bus_server_close(&other.server);
}

/* ---- plain sockets as bad peers ---- */

static int raw_connect(unsigned port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0); /* the backlog takes it */
    return fd;
}

static void raw_send(int fd, const void *p, size_t n)
{
    assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* What there is to read: bytes, 0 at the end, -1 for nothing yet. A reset counts as an end. */
static ssize_t raw_recv(int fd, void *p, size_t n)
{
    ssize_t got = recv(fd, p, n, MSG_DONTWAIT);
    return got < 0 && errno != EAGAIN ? 0 : got;
}

static bool raw_ended(int fd)
{
    char bytes[4096];
    ssize_t n;
    while ((n = raw_recv(fd, bytes, sizeof(bytes))) > 0)
        ;
    return n == 0;
}

static size_t raw_drain(int fd, char *out, size_t have, size_t cap)
{
    ssize_t n = raw_recv(fd, out + have, cap - have);
    return n > 0 ? have + (size_t)n : have;
}

static int raw_listen(char address[40])
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t n = sizeof(sa);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 10), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    snprintf(address, 40, "127.0.0.1:%u", ntohs(sa.sin_port));
    return fd;
}

static void raw_reset(int fd)
{
    struct linger hard = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    close(fd);
}

static void bad_clients_are_cut_and_good_ones_served(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {
        {"GET / HTTP/1.1\r\n\r\n", 18},
        {"\0SP\1\0\x30\0\0", 8},
        {HELLO_SUB, 8},                        /* another conversation */
        {HELLO_REQ "\0\0\0\0\0\0\0\3abc", 19}, /* no room for an id */
        {HELLO_REQ "\0\0\0\0\0\0\0\x8"
                   "\0\0\0\1abcd",
         24},                                 /* no word with its top bit set */
        {HELLO_REQ "\0\0\0\0\0\x10\0\1", 16}, /* a megabyte and one byte */
        {HELLO_REQ "\xff\xff\xff\xff\xff\xff\xff\xff", 16},
    };
    struct service s = {0};
    service_open_as(&s, (struct bus_server_opts){.max_message_bytes = 1024 * 1024});
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        int fd = raw_connect(bus_server_port(s.server));
        raw_send(fd, bad[i].bytes, bad[i].n);
        WAIT(raw_ended(fd));
        close(fd);
    }
    WAIT(bus_server_connections(s.server) == 0);
    assert_int_equal(s.seen, 0);

    /* Cut in mid-message, orderly and hard. */
    for (int i = 0; i < 2; i++) {
        int fd = raw_connect(bus_server_port(s.server));
        raw_send(fd,
                 HELLO_REQ "\0\0\0\0\0\0\0\x64"
                           "\x80\0\0\1abc",
                 23);
        WAIT(bus_server_connections(s.server) == 1);
        for (int k = 0; k < 5; k++)
            turn();
        if (i)
            raw_reset(fd);
        else
            close(fd);
        WAIT(bus_server_connections(s.server) == 0);
    }

    /* Byte by byte, with two hops in front of the id: the answer has the same three words. */
    int fd = raw_connect(bus_server_port(s.server));
    static const char slow[] = HELLO_REQ "\0\0\0\0\0\0\0\xe"
                                         "\0\0\0\1\0\0\0\2\x80\0\0\3hi";
    for (size_t i = 0; i < 30; i++) {
        raw_send(fd, slow + i, 1);
        turn();
    }
    char got[64];
    size_t n = 0;
    WAIT((n = raw_drain(fd, got, n, sizeof(got))) >= 30);
    assert_int_equal(n, 30);
    assert_memory_equal(got, HELLO_REP, 8);
    assert_memory_equal(got + 8, slow + 8, 22);
    close(fd);
    bus_server_close(&s.server);
}

static void a_handshake_that_does_not_come_is_cut(void **state)
{
    (void)state;
    char address[40];
    struct service s = {0};
    struct asker a = {0};
    service_open(&s);
    int silent = raw_listen(address), fd = raw_connect(bus_server_port(s.server)), peer = -1;
    raw_send(fd, "\0SP", 3);
    asker_open(&a, address);
    WAIT(bus_server_connections(s.server) == 1);
    WAIT((peer = accept(silent, NULL, NULL)) >= 0);
    char hello[8];
    size_t n = 0;
    WAIT((n = raw_drain(peer, hello, n, 8)) == 8);
    assert_memory_equal(hello, HELLO_REQ, 8);
    assert_int_equal(bus_client_connected(a.client), 0);
    clock_fake(clock_us() + 5100000, 0);
    WAIT(raw_ended(fd) && raw_ended(peer));
    assert_int_equal(bus_server_connections(s.server), 0);
    assert_int_equal(a.states, 0);
    close(fd), close(peer), close(silent);
    bus_client_close(&a.client);
    bus_server_close(&s.server);
}

static void bad_servers_are_cut_and_dialled_again(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        unsigned states; /* connected and lost again, or never connected */
    } bad[] = {
        {"-ERR unknown command\r\n", 22, 0},
        {HELLO_REQ, 8, 0},
        {HELLO_REP "\0\0\0\0\0\0\0\2ab", 18, 2},
        {HELLO_REP "\0\0\0\0\0\0\0\4abcd", 20, 2}, /* an id without its top bit */
        {HELLO_REP "\0\0\1\0\0\0\0\0", 16, 2},
    };
    char address[40];
    struct asker a = {0};
    int listener = raw_listen(address);
    asker_open(&a, address);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        unsigned before = a.states;
        int fd = -1;
        WAIT((fd = accept(listener, NULL, NULL)) >= 0);
        raw_send(fd, bad[i].bytes, bad[i].n);
        WAIT(raw_ended(fd));
        assert_int_equal(a.states - before, bad[i].states);
        close(fd);
    }
    /* An answer that nobody asked for is passed over; one that is cut off ends its request. */
    int fd = -1;
    WAIT((fd = accept(listener, NULL, NULL)) >= 0);
    raw_send(fd, HELLO_REP "\0\0\0\0\0\0\0\5\xff\xff\xff\xffz", 21);
    WAIT(bus_client_connected(a.client) == 1);
    assert_int_equal(ask(&a, "q"), 0);
    assert_int_equal(ask(&a, "r"), 0);
    char got[64];
    size_t n = 0;
    WAIT((n = raw_drain(fd, got, n, sizeof(got))) == 8 + 2 * 13);
    assert_memory_equal(got + 8, "\0\0\0\0\0\0\0\5", 8);
    assert_true((unsigned char)got[16] & 0x80);
    assert_int_equal(got[20], 'q');
    char cut[14];
    memcpy(cut, "\0\0\0\0\0\0\0\x20", 8);
    memcpy(cut + 8, got + 16, 4);
    memcpy(cut + 12, "no", 2);
    raw_send(fd, cut, sizeof(cut));
    turn();
    raw_reset(fd);
    WAIT(a.unknown == 2);
    assert_int_equal(a.answers + a.unavailable, 0);
    close(listener);
    bus_client_close(&a.client);
}

static void what_was_never_written_is_unavailable(void **state)
{
    (void)state;
    char address[40];
    struct asker a = {0};
    int listener = raw_listen(address), fd = -1;
    asker_open(&a, address);
    WAIT((fd = accept(listener, NULL, NULL)) >= 0);
    raw_send(fd, HELLO_REP, 8);
    WAIT(bus_client_connected(a.client) == 1);
    /* The peer reads nothing: 40 MiB do not fit into the kernel, the last request stays here whole. */
    size_t n = 40u * 1024 * 1024;
    char *big = mem_alloc(n);
    assert_int_equal(bus_ask(a.client, str_make(big, n), 60000, on_answer, &a, NULL), 0);
    assert_int_equal(ask(&a, "behind"), 0);
    for (int i = 0; i < 20; i++)
        turn();
    assert_int_equal(bus_ask(a.client, str_make(big, n), 60000, on_answer, &a, NULL), 0);
    /* 80 MiB wait; a fourth would pass twice the largest message. */
    char *most = mem_alloc(64u * 1024 * 1024 - 4);
    assert_int_equal(
        bus_ask(a.client, str_make(most, 64u * 1024 * 1024 - 4), 60000, on_answer, &a, NULL),
        ERR_UNAVAILABLE);
    mem_free(most);
    mem_free(big);
    turn();
    raw_reset(fd);
    WAIT(a.unknown + a.unavailable == 3);
    assert_int_equal(a.unknown, 1);
    assert_int_equal(a.unavailable, 2);
    close(listener);
    bus_client_close(&a.client);
}

static void a_peer_that_says_nothing_at_all_is_cut(void **state)
{
    (void)state;
    struct service s = {.hold = true};
    struct asker a = {0};
    service_open(&s);
    asker_open(&a, s.address);
    WAIT(bus_client_connected(a.client) == 1);
    uint64_t now_us = clock_us();
    clock_fake(now_us, 0);
    assert_int_equal(bus_ask(a.client, STR("x"), 10000, on_answer, &a, NULL), 0);
    assert_int_equal(bus_ask(a.client, STR("y"), 16000, on_answer, &a, NULL), 0);
    assert_int_equal(bus_ask(a.client, STR("z"), 60000, on_answer, &a, NULL), 0);
    WAIT(s.seen == 3);
    clock_fake(now_us + 10001000, 0);
    WAIT(a.unknown == 1);
    assert_int_equal(bus_client_connected(a.client), 1);
    clock_fake(now_us + 16001000, 0);
    WAIT(a.unknown == 3);
    assert_int_equal(a.states, 2);
    clock_real();
    answer_held(&s, 3);
    bus_client_close(&a.client);
    bus_server_close(&s.server);
}

static void a_killed_peer_ends_its_requests_as_unknown(void **state)
{
    (void)state;
    char address[40];
    struct asker a = {0};
    int listener = raw_listen(address), pipe_fds[2];
    assert_int_equal(pipe2(pipe_fds, O_NONBLOCK | O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char bytes[4096];
        int fd = -1;
        while (fd < 0)
            fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (send(fd, HELLO_REP, 8, MSG_NOSIGNAL) != 8)
            _exit(1);
        for (ssize_t sum = 0, n; (n = recv(fd, bytes, sizeof(bytes), 0)) > 0; sum += n) {
            if (sum < 5000 && sum + n >= 5000 && write(pipe_fds[1], "!", 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    close(listener);
    close(pipe_fds[1]);
    asker_open(&a, address);
    WAIT(bus_client_connected(a.client) == 1);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(ask(&a, "a request in flight"), 0);
    char mark;
    WAIT(read(pipe_fds[0], &mark, 1) == 1); /* it has read some */
    assert_int_equal(kill(child, SIGKILL), 0);
    WAIT(a.unknown + a.unavailable == 1000);
    assert_true(a.unknown > 0);
    assert_int_equal(bus_client_pending(a.client), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(pipe_fds[0]);
    bus_client_close(&a.client);
}

static void reading_waits_while_too_many_calls_are_open(void **state)
{
    (void)state;
    struct service s = {.hold = true};
    struct asker a = {0}, b = {0};
    service_open_as(&s, (struct bus_server_opts){.max_calls = 100});
    asker_open(&a, s.address);
    asker_open(&b, s.address);
    WAIT(bus_client_connected(a.client) + bus_client_connected(b.client) == 2);
    for (int i = 0; i < 150; i++) {
        assert_int_equal(ask(&a, "x"), 0);
        assert_int_equal(ask(&b, "x"), 0);
    }
    WAIT(bus_server_calls(s.server) == 100);
    for (int i = 0; i < 10; i++)
        turn();
    assert_int_equal(s.seen, 100);
    for (unsigned total = 300; a.answers + b.answers < total;) {
        assert_true(bus_server_calls(s.server) <= 100);
        answer_held(&s, s.n_held);
        unsigned before = s.seen;
        WAIT(s.seen > before || (s.seen == total && a.answers + b.answers == total));
    }
    assert_int_equal(s.seen, 300);
    bus_client_close(&a.client);
    bus_client_close(&b.client);
    bus_server_close(&s.server);
}

static void a_peer_that_takes_no_answers_is_cut_at_the_cap(void **state)
{
    (void)state;
    struct service s = {.hold = true};
    service_open_as(&s, (struct bus_server_opts){.max_write_bytes = 1024 * 1024});
    int fd = raw_connect(bus_server_port(s.server));
    raw_send(fd, HELLO_REQ, 8);
    for (int i = 0; i < 30; i++)
        raw_send(fd, "\0\0\0\0\0\0\0\5\x80\0\0\1q", 13);
    WAIT(s.seen == 30);
    size_t n = 512 * 1024;
    char *big = mem_alloc(n);
    while (s.n_held > 0 && bus_server_connections(s.server) == 1) {
        bus_reply(s.held[--s.n_held], str_make(big, n));
        turn();
        assert_true(bus_server_write_bytes(s.server) <= 1024 * 1024);
    }
    assert_int_equal(bus_server_connections(s.server), 0);
    answer_held(&s, s.n_held);
    mem_free(big);
    close(fd);
    bus_server_close(&s.server);
}

static void connections_over_the_limit_are_closed(void **state)
{
    (void)state;
    struct service s = {0};
    service_open_as(&s, (struct bus_server_opts){.max_connections = 2});
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = raw_connect(bus_server_port(s.server));
    WAIT(raw_ended(fds[2]));
    assert_int_equal(bus_server_connections(s.server), 2);
    bus_server_stop_accepting(s.server);
    bus_server_stop_accepting(s.server);
    raw_send(fds[0], HELLO_REQ "\0\0\0\0\0\0\0\5\x80\0\0\1q", 21); /* the others go on */
    char got[64];
    size_t n = 0;
    WAIT((n = raw_drain(fds[0], got, n, sizeof(got))) == 21);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    bus_server_close(&s.server);
}

/* ---- publish and subscribe ---- */

struct listener {
    struct bus_sub *sub;
    unsigned got, connected;
    char last[64];
};

static void on_message(void *ctx, struct str msg)
{
    struct listener *l = ctx;
    l->got++;
    snprintf(l->last, sizeof(l->last), STR_FMT, STR_ARG(msg));
}

static void on_sub_state(void *ctx, unsigned connected, unsigned total)
{
    struct listener *l = ctx;
    assert_true(connected <= total);
    l->connected = connected;
}

static struct bus_pub *pub_open(char address[40])
{
    struct bus_pub *pub = NULL;
    assert_int_equal(bus_pub_open(loop, "127.0.0.1:0", &pub, NULL), 0);
    snprintf(address, 40, "127.0.0.1:%u", bus_pub_port(pub));
    return pub;
}

static void all_subscribers_hear_all_publishers(void **state)
{
    (void)state;
    char one[40], two[40], both[100];
    struct bus_pub *p1 = pub_open(one), *p2 = pub_open(two);
    struct listener l[3] = {0};
    snprintf(both, sizeof(both), "%s,%s", one, two);
    for (int i = 0; i < 3; i++)
        assert_int_equal(bus_sub_open(loop, both, on_message, on_sub_state, &l[i], &l[i].sub, NULL),
                         0);
    WAIT(l[0].connected + l[1].connected + l[2].connected == 6);
    /* A subscriber is up a moment before its publisher knows: the first words may go past it. */
    for (uint64_t end = uv_hrtime() + DEADLINE_NS;
         l[0].got == 0 || l[1].got == 0 || l[2].got == 0;) {
        assert_true(uv_hrtime() < end);
        bus_pub_send(p1, STR("table is at version 12"));
        turn();
    }
    assert_string_equal(l[2].last, "table is at version 12");
    for (int i = 0; i < 5; i++)
        turn();
    unsigned before = l[0].got;
    for (int i = 0; i < 1000; i++) /* more than the queue, but nobody is slow */
        bus_pub_send(p2, STR("v"));
    WAIT(l[0].got >= before + 1000);
    bus_pub_close(&p1);
    WAIT(l[0].connected + l[1].connected + l[2].connected == 3);
    for (int i = 0; i < 3; i++)
        bus_sub_close(&l[i].sub);
    bus_pub_close(&p2);
    assert_int_equal(bus_sub_open(loop, "nowhere", on_message, NULL, NULL, &l[0].sub, NULL),
                     ERR_CONFIG);
}

static void a_slow_subscriber_loses_the_oldest(void **state)
{
    (void)state;
    char address[40];
    struct bus_pub *pub = pub_open(address);
    int fd = raw_connect(bus_pub_port(pub));
    raw_send(fd, HELLO_SUB, 8);
    size_t n = 64 * 1024, total = 0;
    char *big = mem_alloc(n);
    char *bytes = mem_alloc_raw(n);
    size_t have = 0;
    WAIT((have = raw_drain(fd, bytes, have, 8)) == 8);
    for (unsigned i = 0; i < 2000; i++) { /* 125 MiB, of which it reads nothing */
        memcpy(big, &i, sizeof(i));
        bus_pub_send(pub, str_make(big, n));
        if (i % 16 == 0)
            turn();
    }
    unsigned last = 0, messages = 0;
    /* Every message is whole and they come in order; the last is the last. */
    char *frame = mem_alloc_raw(n + 8);
    for (uint64_t end = uv_hrtime() + DEADLINE_NS; last != 1999;) {
        have = 0;
        while (have < n + 8) {
            assert_true(uv_hrtime() < end);
            size_t now = raw_drain(fd, frame, have, n + 8);
            if (now == have)
                turn();
            have = now;
        }
        assert_memory_equal(frame, "\0\0\0\0\0\1\0\0", 8);
        unsigned number;
        memcpy(&number, frame + 8, sizeof(number));
        assert_true(messages == 0 || number > last);
        last = number;
        messages++;
        total += have;
    }
    assert_true(messages >= 256 && messages < 1500);
    mem_free(frame);
    mem_free(bytes);
    mem_free(big);
    close(fd);
    bus_pub_close(&pub);
}

/* ---- the real nng at the other end, in a process of its own that is killed when it has done its part: nng 1.5.2 may hang for
 * good when it closes a socket that has traffic ---- */

struct child {
    pid_t pid;
    int pipe_fd; /* the child's words, 40 bytes each: an address, or "ok" */
};
typedef bool child_fn(const char *address, int out);

static bool say(int out, const char *text)
{
    char word[40] = {0};
    snprintf(word, sizeof(word), "%s", text);
    return write(out, word, sizeof(word)) == (ssize_t)sizeof(word);
}

static struct child child_start(child_fn *fn, const char *address)
{
    struct child c;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    c.pid = fork();
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || !fn(address, fds[1]) || !say(fds[1], "ok"))
            _exit(1); /* the parent reads an end instead of a word */
        for (;;)
            pause();
    }
    close(fds[1]);
    c.pipe_fd = fds[0];
    assert_int_equal(fcntl(c.pipe_fd, F_SETFL, O_NONBLOCK), 0);
    return c;
}

/* True when a word has come. A child that gave up is a failure. */
static bool child_said(struct child *c, char word[40])
{
    ssize_t n = read(c->pipe_fd, word, 40);
    assert_true(n == 40 || (n < 0 && errno == EAGAIN));
    return n == 40;
}

static void child_end(struct child *c)
{
    assert_int_equal(kill(c->pid, SIGKILL), 0);
    assert_int_equal(waitpid(c->pid, NULL, 0), c->pid);
    close(c->pipe_fd);
}

static bool nng_dials(nng_socket socket, const char *address)
{
    char url[60];
    snprintf(url, sizeof(url), "tcp://%s", address);
    return nng_dial(socket, url, NULL, 0) == 0;
}

static bool nng_listens(nng_socket socket, int out)
{
    nng_listener l;
    nng_sockaddr sa;
    char address[40];
    if (nng_listener_create(&l, socket, "tcp://127.0.0.1:0") || nng_listener_start(l, 0) ||
        nng_listener_get_addr(l, NNG_OPT_LOCADDR, &sa))
        return false;
    snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(sa.s_in.sa_port));
    return say(out, address);
}

static bool nng_gets(nng_socket socket, const char *want)
{
    char bytes[64];
    size_t n = sizeof(bytes);
    return nng_recv(socket, bytes, &n, 0) == 0 && str_eq(str_make(bytes, n), str_of(want));
}

static bool nng_puts(nng_socket socket, const char *text)
{
    return nng_send(socket, (void *)(uintptr_t)text, strlen(text), 0) == 0;
}

static bool nng_req_main(const char *address, int out)
{
    nng_socket req;
    (void)out;
    if (nng_req0_open(&req) || !nng_dials(req, address))
        return false;
    for (int i = 0; i < 20; i++) {
        char text[30];
        snprintf(text, sizeof(text), "question %d", i);
        if (!nng_puts(req, text) || !nng_gets(req, text))
            return false;
    }
    return true;
}

static void nng_req_asks_our_server(void **state)
{
    (void)state;
    struct service s = {0};
    char word[40];
    service_open(&s);
    struct child c = child_start(nng_req_main, s.address);
    WAIT(child_said(&c, word));
    assert_int_equal(s.seen, 20);
    child_end(&c);
    WAIT(bus_server_connections(s.server) == 0);
    bus_server_close(&s.server);
}

static bool nng_rep_main(const char *address, int out)
{
    nng_socket rep;
    (void)address;
    if (nng_rep0_open(&rep) || !nng_listens(rep, out))
        return false;
    for (int i = 0; i < 20; i++)
        if (!nng_gets(rep, "question") || !nng_puts(rep, "answer"))
            return false;
    return true;
}

static void our_client_asks_nng_rep(void **state)
{
    (void)state;
    struct asker a = {0};
    char word[40];
    struct child c = child_start(nng_rep_main, NULL);
    WAIT(child_said(&c, word));
    asker_open(&a, word);
    WAIT(bus_client_connected(a.client) == 1);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(ask(&a, "question"), 0);
        WAIT(a.answers == i + 1);
        assert_string_equal(a.last, "answer");
    }
    assert_int_equal(ask(&a, "to nobody"), 0);
    child_end(&c);
    WAIT(a.unknown + a.unavailable == 1);
    bus_client_close(&a.client);
}

static bool nng_sub_main(const char *address, int out)
{
    nng_socket sub;
    (void)out;
    return nng_sub0_open(&sub) == 0 && nng_setopt(sub, NNG_OPT_SUB_SUBSCRIBE, "table", 5) == 0 &&
           nng_dials(sub, address) && nng_gets(sub, "table t 12");
}

static void nng_sub_hears_our_pub(void **state)
{
    (void)state;
    char address[40], word[40];
    struct bus_pub *pub = pub_open(address);
    struct child c = child_start(nng_sub_main, address);
    for (uint64_t end = uv_hrtime() + DEADLINE_NS; !child_said(&c, word);) {
        assert_true(uv_hrtime() < end);
        bus_pub_send(pub, STR("other words"));
        bus_pub_send(pub, STR("table t 12"));
        turn();
    }
    child_end(&c);
    bus_pub_close(&pub);
}

static bool nng_pub_main(const char *address, int out)
{
    nng_socket pub;
    (void)address;
    if (nng_pub0_open(&pub) || !nng_listens(pub, out))
        return false;
    while (nng_puts(pub, "table t 13")) /* until it is killed */
        nng_msleep(2);
    return false;
}

static void our_sub_hears_nng_pub(void **state)
{
    (void)state;
    char word[40];
    struct listener l = {0};
    struct child c = child_start(nng_pub_main, NULL);
    WAIT(child_said(&c, word));
    assert_int_equal(bus_sub_open(loop, word, on_message, on_sub_state, &l, &l.sub, NULL), 0);
    WAIT(l.got >= 10);
    assert_string_equal(l.last, "table t 13");
    child_end(&c);
    WAIT(l.connected == 0);
    bus_sub_close(&l.sub);
}

int main(void)
{
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return 1;
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_killed_peer_ends_its_requests_as_unknown),
        T(a_request_gets_its_answer),
        T(messages_of_megabytes_pass_whole),
        T(a_flood_of_requests_is_answered_to_the_last),
        T(requests_spread_over_all_servers),
        T(a_client_comes_back_to_a_server_that_was_away),
        T(a_request_without_answer_times_out_and_a_late_answer_is_dropped),
        T(closing_with_requests_in_flight_calls_nobody),
        T(a_client_may_be_closed_in_its_callbacks),
        T(wrong_options_are_refused),
        T(bad_clients_are_cut_and_good_ones_served),
        T(a_handshake_that_does_not_come_is_cut),
        T(bad_servers_are_cut_and_dialled_again),
        T(what_was_never_written_is_unavailable),
        T(a_peer_that_says_nothing_at_all_is_cut),
        T(reading_waits_while_too_many_calls_are_open),
        T(a_peer_that_takes_no_answers_is_cut_at_the_cap),
        T(connections_over_the_limit_are_closed),
        T(all_subscribers_hear_all_publishers),
        T(a_slow_subscriber_loses_the_oldest),
        T(nng_req_asks_our_server),
        T(our_client_asks_nng_rep),
        T(nng_sub_hears_our_pub),
        T(our_sub_hears_nng_pub),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
