/* test_bus_nng: the real libnng at the other end of all four conversations.
 *
 * It runs in a process of its own that is killed when it has done its part: nng 1.5.2 may hang for good when it closes a
 * socket that has traffic.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/bus.h"
#include "support/bus_rig.h"
#include "support/child.h"
#include <arpa/inet.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <nng/nng.h>
#include <nng/supplemental/util/platform.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>

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
    char address[ADDRESS];
    if (nng_listener_create(&l, socket, "tcp://127.0.0.1:0") || nng_listener_start(l, 0) ||
        nng_listener_get_addr(l, NNG_OPT_LOCADDR, &sa))
        return false;
    snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(sa.s_in.sa_port));
    return child_say(out, address);
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
    char word[CHILD_WORD];
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
    char word[CHILD_WORD];
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
    char address[ADDRESS], word[CHILD_WORD];
    struct bus_pub *pub = pub_open(address);
    struct child c = child_start(nng_sub_main, address);
    for (uint64_t end = uv_hrtime() + TURNING_NS; !child_said(&c, word);) {
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
    char word[CHILD_WORD];
    struct listener l = {0};
    struct child c = child_start(nng_pub_main, NULL);
    WAIT(child_said(&c, word));
    listener_open(&l, word);
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
#define T(name) cmocka_unit_test_setup_teardown(name, turning_setup, turning_teardown)
    const struct CMUnitTest tests[] = {
        T(nng_req_asks_our_server),
        T(our_client_asks_nng_rep),
        T(nng_sub_hears_our_pub),
        T(our_sub_hears_nng_pub),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
