/* test_bus_peers: what bad peers do to either end: plain sockets of this process, driven between turns of the loop.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/bus.h"
#include "base/clock.h"
#include "base/mem.h"
#include "support/bus_rig.h"
#include "support/child.h"
#include "support/raw.h"
#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define HELLO_REQ "\0SP\0\0\x30\0\0"
#define HELLO_REP "\0SP\0\0\x31\0\0"
#define HELLO_SUB "\0SP\0\0\x21\0\0"

static int listen_at(char ret_address[ADDRESS])
{
    unsigned port;
    int fd = raw_listen(&port);
    address_of(port, ret_address);
    return fd;
}

static int accept_one(int listener)
{
    int fd = -1;
    WAIT((fd = raw_accept(listener)) >= 0);
    return fd;
}

/* The asker's next connection, shaken hands with. */
static int accept_asker(int listener, struct asker *a)
{
    int fd = accept_one(listener);
    raw_send(fd, HELLO_REP, 8);
    WAIT(bus_client_connected(a->client) == 1);
    return fd;
}

/* Takes one connection on the listener that it inherited, and says when it has read some of the requests. */
static bool reads_some(const char *arg, int out)
{
    char bytes[4096];
    uint64_t listener;
    if (str_u64(str_of(arg), &listener) < 0)
        return false;
    struct pollfd ready = {.fd = (int)listener, .events = POLLIN};
    int fd = poll(&ready, 1, -1) == 1 ? raw_accept(ready.fd) : -1;
    if (fd < 0 || send(fd, HELLO_REP, 8, MSG_NOSIGNAL) != 8)
        return false;
    ssize_t sum = 0, n = 1;
    while (n > 0 && sum < 5000)
        sum += n = recv(fd, bytes, sizeof(bytes), 0);
    return n > 0 && child_say(out, "some");
}

static void a_killed_peer_ends_its_requests_as_unknown(void **state)
{
    (void)state;
    char address[ADDRESS], fd_text[12], word[CHILD_WORD];
    struct asker a = {0};
    int listener = listen_at(address);
    snprintf(fd_text, sizeof(fd_text), "%d", listener);
    struct child c = child_start(reads_some, fd_text);
    close(listener);
    asker_open(&a, address);
    WAIT(bus_client_connected(a.client) == 1);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(ask(&a, "a request in flight"), 0);
    WAIT(child_said(&c, word));
    child_end(&c);
    WAIT(a.unknown + a.unavailable == 1000);
    assert_true(a.unknown > 0);
    assert_int_equal(bus_client_pending(a.client), 0);
    bus_client_close(&a.client);
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
    char address[ADDRESS];
    struct service s = {0};
    struct asker a = {0};
    service_open(&s);
    int silent = listen_at(address), fd = raw_connect(bus_server_port(s.server)), peer;
    raw_send(fd, "\0SP", 3);
    asker_open(&a, address);
    WAIT(bus_server_connections(s.server) == 1);
    peer = accept_one(silent);
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
    char address[ADDRESS];
    struct asker a = {0};
    int listener = listen_at(address);
    asker_open(&a, address);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        unsigned before = a.states;
        int fd = accept_one(listener);
        raw_send(fd, bad[i].bytes, bad[i].n);
        WAIT(raw_ended(fd));
        assert_int_equal(a.states - before, bad[i].states);
        close(fd);
    }
    /* An answer that nobody asked for is passed over; one that is cut off ends its request. */
    int fd = accept_one(listener);
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
    char address[ADDRESS];
    struct asker a = {0};
    int listener = listen_at(address);
    asker_open(&a, address);
    int fd = accept_asker(listener, &a);
    /* The peer reads nothing: 40 MiB do not fit into the kernel, the last request stays here whole. */
    size_t n = 40u * 1024 * 1024;
    char *big = mem_alloc(n);
    assert_int_equal(ask_for(&a, str_make(big, n), 60000, NULL), 0);
    assert_int_equal(ask(&a, "behind"), 0);
    for (int i = 0; i < 20; i++)
        turn();
    assert_int_equal(ask_for(&a, str_make(big, n), 60000, NULL), 0);
    /* 80 MiB wait; a fourth would pass twice the largest message. */
    char *most = mem_alloc(64u * 1024 * 1024 - 4);
    assert_int_equal(ask_for(&a, str_make(most, 64u * 1024 * 1024 - 4), 60000, NULL),
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
    assert_int_equal(ask_for(&a, STR("x"), 10000, NULL), 0);
    assert_int_equal(ask_for(&a, STR("y"), 16000, NULL), 0);
    assert_int_equal(ask_for(&a, STR("z"), 60000, NULL), 0);
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
    for (int i = 0; i < 3; i++) {
        fds[i] = raw_connect(bus_server_port(s.server));
        raw_send(fds[i], HELLO_REQ, 8);
    }
    WAIT(raw_ended(fds[2]));
    assert_int_equal(bus_server_connections(s.server), 2);
    bus_server_stop_accepting(s.server);
    bus_server_stop_accepting(s.server);
    raw_send(fds[0], "\0\0\0\0\0\0\0\5\x80\0\0\1q", 13); /* the others go on */
    char got[64];
    size_t n = 0;
    WAIT((n = raw_drain(fds[0], got, n, sizeof(got))) == 21);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    bus_server_close(&s.server);
}

/* ---- no answer is waited for without end ---- */

/* From now on the clock stands still, until the next call. */
static void clock_at(uint64_t begin_us, uint64_t after_ms)
{
    clock_fake(begin_us + after_ms * 1000, 0);
}

static void a_peer_that_stops_in_mid_answer_is_cut(void **state)
{
    (void)state;
    char address[ADDRESS], got[64];
    size_t n = 0;
    struct asker a = {0};
    int listener = listen_at(address);
    asker_open(&a, address);
    int fd = accept_asker(listener, &a);
    uint64_t begin_us = clock_us();
    clock_at(begin_us, 0);
    assert_int_equal(ask_for(&a, STR("x"), 10000, NULL), 0);
    assert_int_equal(ask_for(&a, STR("y"), 16000, NULL), 0);
    WAIT((n = raw_drain(fd, got, n, sizeof(got))) == 8 + 2 * 13);
    raw_send(fd, "\0\0\0\0\0\0\0\6", 8); /* the answer to the first has two bytes */
    raw_send(fd, got + 16, 4);
    clock_at(begin_us, 10001);
    WAIT(a.unknown == 1);
    assert_int_equal(bus_client_connected(a.client), 1);
    raw_send(fd, "h", 1); /* something is heard, but no answer */
    for (int i = 0; i < 5; i++)
        turn();
    clock_at(begin_us, 16001);
    WAIT(a.unknown == 2 && raw_ended(fd));
    assert_int_equal(a.answers, 0);
    close(fd);
    clock_at(begin_us, 17000);
    close(accept_asker(listener, &a));
    close(listener);
    bus_client_close(&a.client);
}

static void a_peer_that_reads_nothing_is_cut(void **state)
{
    (void)state;
    char address[ADDRESS];
    struct asker a = {0};
    int listener = listen_at(address);
    asker_open(&a, address);
    int fd = accept_asker(listener, &a);
    uint64_t begin_us = clock_us();
    clock_at(begin_us, 0);
    size_t n = 20u * 1024 * 1024; /* more than the kernel takes */
    char *big = mem_alloc(n);
    assert_int_equal(ask_for(&a, str_make(big, n), 10000, NULL), 0);
    mem_free(big);
    turn();
    assert_int_equal(ask_for(&a, STR("behind"), 10000, NULL), 0);
    clock_at(begin_us, 10001);
    WAIT(a.unknown == 2); /* both may still be sent */
    assert_int_equal(bus_client_connected(a.client), 1);
    assert_int_equal(ask_for(&a, STR("later"), 6000, NULL), 0);
    clock_at(begin_us, 16002);
    WAIT(a.unknown == 3);
    assert_int_equal(bus_client_connected(a.client), 0);
    assert_int_equal(bus_client_pending(a.client), 0);
    assert_int_equal(ask(&a, "x"), ERR_UNAVAILABLE);
    close(fd);
    clock_at(begin_us, 17000);
    close(accept_asker(listener, &a));
    close(listener);
    bus_client_close(&a.client);
}

static void a_peer_that_ends_its_own_half_is_lost(void **state)
{
    (void)state;
    char address[ADDRESS];
    struct asker a = {0};
    int listener = listen_at(address);
    asker_open(&a, address);
    int fd = accept_asker(listener, &a);
    assert_int_equal(ask(&a, "x"), 0);
    turn();
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    WAIT(a.unknown == 1 && raw_ended(fd));
    close(fd);
    close(accept_asker(listener, &a));
    close(listener);
    bus_client_close(&a.client);
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void a_connection_that_never_comes_about_is_given_up(void **state)
{
    (void)state;
    char address[ADDRESS];
    unsigned port;
    struct asker a = {0};
    int listener = raw_listen(&port);
    assert_int_equal(listen(listener, 0), 0);
    /* There is room for one that waits; the kernel leaves the next without an answer. */
    int only = raw_connect(port);
    unsigned before = open_files(), during;
    uint64_t begin_us = clock_us();
    clock_at(begin_us, 0);
    asker_open(&a, address_of(port, address));
    WAIT((during = open_files()) > before);
    clock_at(begin_us, 5001);
    WAIT(open_files() < during);
    assert_int_equal(ask(&a, "x"), ERR_UNAVAILABLE);
    clock_at(begin_us, 6000);
    WAIT(open_files() == during);
    clock_real();
    close(accept_one(listener));
    close(only);
    close(accept_asker(listener, &a));
    close(listener);
    bus_client_close(&a.client);
}

int main(void)
{
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return 1;
#define T(name) cmocka_unit_test_setup_teardown(name, turning_setup, turning_teardown)
    const struct CMUnitTest tests[] = {
        T(a_killed_peer_ends_its_requests_as_unknown),
        T(bad_clients_are_cut_and_good_ones_served),
        T(a_handshake_that_does_not_come_is_cut),
        T(bad_servers_are_cut_and_dialled_again),
        T(what_was_never_written_is_unavailable),
        T(a_peer_that_says_nothing_at_all_is_cut),
        T(a_peer_that_stops_in_mid_answer_is_cut),
        T(a_peer_that_reads_nothing_is_cut),
        T(a_peer_that_ends_its_own_half_is_lost),
        T(a_connection_that_never_comes_about_is_given_up),
        T(a_peer_that_takes_no_answers_is_cut_at_the_cap),
        T(connections_over_the_limit_are_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
