/* test_bus: requests between our own two ends.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/bus.h"
#include "base/mem.h"
#include "support/bus_rig.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

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
        assert_true(uv_hrtime() - begin < 2 * TURNING_NS);
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
    char both[2 * ADDRESS + 2];
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
    char again[ADDRESS];
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
    assert_int_equal(ask_for(&a, STR("x"), 30, NULL), 0);
    assert_int_equal(ask_for(&a, STR("y"), 60000, &cancelled), 0);
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

int main(void)
{
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return 1;
#define T(name) cmocka_unit_test_setup_teardown(name, turning_setup, turning_teardown)
    const struct CMUnitTest tests[] = {
        T(a_request_gets_its_answer),
        T(messages_of_megabytes_pass_whole),
        T(a_flood_of_requests_is_answered_to_the_last),
        T(requests_spread_over_all_servers),
        T(a_client_comes_back_to_a_server_that_was_away),
        T(a_request_without_answer_times_out_and_a_late_answer_is_dropped),
        T(closing_with_requests_in_flight_calls_nobody),
        T(a_client_may_be_closed_in_its_callbacks),
        T(wrong_options_are_refused),
        T(reading_waits_while_too_many_calls_are_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
