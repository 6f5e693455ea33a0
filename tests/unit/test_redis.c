/* test_redis: against a real redis-server that the test starts, and against a scripted socket for what a server should never do.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/redis.h"
#include "base/clock.h"
#include "base/mem.h"
#include "support/raw.h"
#include "support/redis_server.h"
#include "support/turning.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- a client that counts ---- */

struct user {
    struct redis *redis;
    unsigned ok, lost, errors, ups, downs;
    char detail[200], text[100];
    int64_t number;
    size_t items;
    bool binary_ok;
};

static void on_state(void *ctx, bool connected, const char *detail)
{
    struct user *u = ctx;
    u->ups += connected;
    u->downs += !connected;
    snprintf(u->detail, sizeof(u->detail), "%s", detail);
}

static void user_open(struct user *u, unsigned port, const char *login, struct redis_opts o)
{
    char url[120];
    snprintf(url, sizeof(url), "redis://%s127.0.0.1:%u", login, port);
    o.url = url;
    o.on_state = on_state;
    o.ctx = u;
    if (!o.command_timeout_ms)
        o.command_timeout_ms = 60000;
    if (!o.connect_timeout_ms)
        o.connect_timeout_ms = 60000;
    assert_int_equal(redis_open(loop, &o, &u->redis, NULL), 0);
}

static void on_reply(void *ctx, int rc, const struct redis_reply *reply)
{
    struct user *u = ctx;
    if (rc < 0) {
        assert_int_equal(rc, ERR_UNAVAILABLE);
        assert_null(reply);
        u->lost++;
        return;
    }
    u->ok++;
    u->errors += reply->kind == REDIS_ERROR;
    u->number = reply->i;
    u->items = reply->n;
    snprintf(u->text, sizeof(u->text), STR_FMT, STR_ARG(reply->s));
    u->binary_ok = str_eq(reply->s, STR("a\0b\r\n$"));
}

#define COMMAND(u, ...)                                                                            \
    redis_command((u)->redis, (const struct str[]){__VA_ARGS__},                                   \
                  sizeof((const struct str[]){__VA_ARGS__}) / sizeof(struct str), on_reply, (u))

static struct redis_server real;

static void values_go_and_come_whole(void **state)
{
    (void)state;
    struct user u = {0};
    user_open(&u, real.port, "", (struct redis_opts){0});
    assert_int_equal(COMMAND(&u, STR("PING")), ERR_UNAVAILABLE);
    WAIT(redis_connected(u.redis));
    assert_int_equal(u.ups, 1);
    assert_int_equal(COMMAND(&u, STR("SET"), STR("k"), STR("a\0b\r\n$")), 0);
    assert_int_equal(u.ok, 0);
    assert_int_equal(redis_in_flight(u.redis), 1);
    WAIT(u.ok == 1);
    assert_string_equal(u.text, "OK");
    assert_int_equal(COMMAND(&u, STR("GET"), STR("k")), 0);
    WAIT(u.ok == 2);
    assert_true(u.binary_ok);
    assert_int_equal(COMMAND(&u, STR("DEL"), STR("k"), STR("none")), 0);
    WAIT(u.ok == 3);
    assert_int_equal(u.number, 1);
    assert_int_equal(COMMAND(&u, STR("MGET"), STR("k"), STR(""), STR("x")), 0);
    WAIT(u.ok == 4);
    assert_int_equal(u.items, 3);
    assert_int_equal(COMMAND(&u, STR("EVAL"), STR("return {1,{2,{'three'}},false}"), STR("0")), 0);
    WAIT(u.ok == 5);
    assert_int_equal(u.items, 3);
    assert_int_equal(u.errors, 0);
    assert_int_equal(COMMAND(&u, STR("NONSENSE")), 0);
    WAIT(u.ok == 6);
    assert_int_equal(u.errors, 1);
    assert_int_equal(redis_command(u.redis, NULL, 0, on_reply, &u), ERR_TOO_LARGE);
    assert_int_equal(redis_command(u.redis, &STR("PING"), 1, NULL, NULL), 0);
    WAIT(redis_in_flight(u.redis) == 0);
    redis_close(&u.redis);
    redis_close(&u.redis);
}

static void a_flood_is_pipelined_in_order_and_bounded(void **state)
{
    (void)state;
    struct user u = {0};
    user_open(&u, real.port, "", (struct redis_opts){.max_in_flight = 1000});
    WAIT(redis_connected(u.redis));
    const unsigned total = 100000;
    uint64_t begin = uv_hrtime();
    for (unsigned sent = 0; u.ok < total;) {
        while (sent < total && COMMAND(&u, STR("INCR"), STR("flood")) == 0)
            sent++;
        assert_true(redis_in_flight(u.redis) <= 1000);
        if (sent < total)
            assert_int_equal(COMMAND(&u, STR("INCR"), STR("flood")), ERR_BUSY);
        turn();
        assert_true(uv_hrtime() - begin < 2 * TURNING_NS);
    }
    print_message("%.0f commands/s\n", total * 1e9 / (double)(uv_hrtime() - begin));
    assert_int_equal(u.number, total);
    redis_close(&u.redis);
}

static void a_killed_server_fails_what_is_in_flight_once_and_it_comes_back(void **state)
{
    (void)state;
    struct redis_server s = {0};
    struct user u = {0}, forgotten = {0};
    redis_server_start(&s, NULL);
    user_open(&u, s.port, "", (struct redis_opts){0});
    WAIT(redis_connected(u.redis));
    /* It is stopped, so that the commands stay in flight. */
    assert_int_equal(kill(s.pid, SIGSTOP), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(COMMAND(&u, STR("PING")), 0);
    assert_int_equal(redis_command(u.redis, &STR("PING"), 1, on_reply, &forgotten), 0);
    redis_forget(u.redis, &forgotten);
    turn();
    redis_server_kill(&s);
    WAIT(u.lost + u.ok == 100 && u.downs >= 1);
    assert_int_equal(u.lost, 100);
    assert_int_equal(forgotten.lost + forgotten.ok, 0);
    assert_int_equal(COMMAND(&u, STR("PING")), ERR_UNAVAILABLE);
    assert_false(redis_connected(u.redis));
    redis_server_start(&s, NULL);
    WAIT(redis_connected(u.redis));
    assert_int_equal(COMMAND(&u, STR("PING")), 0);
    WAIT(u.ok == 1);
    assert_string_equal(u.text, "PONG");
    assert_int_equal(u.ups, 2);
    redis_close(&u.redis);
    redis_server_end(&s);
}

static void passwords_and_databases_come_from_the_url(void **state)
{
    (void)state;
    struct redis_server s = {0};
    struct user good = {0}, wrong = {0}, none = {0};
    redis_server_start(&s, "se:cr@t");
    user_open(&good, s.port, ":se%3Acr%40t@", (struct redis_opts){0});
    WAIT(redis_connected(good.redis));
    user_open(&wrong, s.port, "default:other@", (struct redis_opts){0});
    WAIT(strstr(wrong.detail, "WRONGPASS"));
    assert_non_null(strstr(wrong.detail, "ERR_DENIED"));
    assert_null(strstr(wrong.detail, "other"));
    user_open(&none, s.port, "", (struct redis_opts){0});
    WAIT(strstr(none.detail, "NOAUTH"));
    assert_false(redis_connected(wrong.redis) || redis_connected(none.redis));
    redis_close(&none.redis);
    redis_close(&wrong.redis);
    assert_int_equal(COMMAND(&good, STR("SET"), STR("k"), STR("in 0")), 0);
    char url[80];
    snprintf(url, sizeof(url), "redis://default:se%%3Acr%%40t@localhost:%u/3", s.port);
    struct user third = {0};
    assert_int_equal(
        redis_open(loop, &(struct redis_opts){.url = url, .on_state = on_state, .ctx = &third},
                   &third.redis, NULL),
        0);
    WAIT(redis_connected(third.redis));
    assert_int_equal(COMMAND(&third, STR("EXISTS"), STR("k")), 0);
    WAIT(third.ok == 1 && good.ok == 1);
    assert_int_equal(third.number, 0);
    redis_close(&third.redis);
    redis_close(&good.redis);
    redis_server_end(&s);
}

static void bad_urls_are_refused_without_repeating_them(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "http://x",
                                      "redis://",
                                      "redis://:6379",
                                      "redis://h:0",
                                      "redis://h:99999",
                                      "redis://h/x",
                                      "redis://u:secret%zz@h",
                                      "redis://u:secret@",
                                      "redis://u:secret@h:port"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct err e = {0};
        struct redis *r = NULL;
        assert_int_equal(redis_open(loop, &(struct redis_opts){.url = bad[i]}, &r, &e), ERR_CONFIG);
        assert_null(r);
        assert_null(strstr(e.text, "secret"));
    }
}

/* ---- a scripted server ---- */

static int fake_accept(int listener)
{
    int fd = -1;
    WAIT((fd = raw_accept(listener)) >= 0);
    return fd;
}

static void fake_up(struct user *u, int fd)
{
    raw_send(fd, "+PONG\r\n", 7);
    WAIT(redis_connected(u->redis));
}

static void what_a_server_must_not_say_cuts_the_connection(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        unsigned answered;
        const char *why;
    } bad[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28, 0, "ERR_PROTOCOL"},
        {"*2000000000\r\n", 13, 0, "ERR_TOO_LARGE"},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", 44, 0,
         "ERR_PROTOCOL"},
        {"+a\r\n+b\r\n+c\r\n", 12, 2, "ERR_PROTOCOL"}, /* one more than was asked */
    };
    unsigned port;
    int listener = raw_listen(&port);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct user u = {0};
        user_open(&u, port, "", (struct redis_opts){.max_reply_bytes = 100000});
        int fd = fake_accept(listener);
        fake_up(&u, fd);
        assert_int_equal(COMMAND(&u, STR("A")), 0);
        assert_int_equal(COMMAND(&u, STR("B")), 0);
        turn();
        raw_send(fd, bad[i].bytes, bad[i].n);
        WAIT(u.downs == 1 && raw_ended(fd));
        assert_int_equal(u.ok, bad[i].answered);
        assert_int_equal(u.lost, 2 - bad[i].answered);
        assert_non_null(strstr(u.detail, bad[i].why));
        close(fd);
        redis_close(&u.redis);
        turn();
    }
    close(listener);
}

static void a_reply_over_its_cap_cuts_and_many_small_ones_do_not(void **state)
{
    (void)state;
    unsigned port;
    struct user u = {0};
    int listener = raw_listen(&port);
    user_open(&u, port, "", (struct redis_opts){.max_reply_bytes = 1000});
    int fd = fake_accept(listener);
    fake_up(&u, fd);
    for (int i = 0; i < 500; i++)
        assert_int_equal(COMMAND(&u, STR("A")), 0);
    turn();
    for (int i = 0; i < 500; i++)
        raw_send(fd, "$10\r\n0123456789\r\n", 17);
    WAIT(u.ok == 500);
    assert_int_equal(COMMAND(&u, STR("A")), 0);
    turn();
    raw_send(fd, "$1000000\r\n", 10);
    char part[900] = {0};
    raw_send(fd, part, sizeof(part));
    for (int i = 0; i < 5; i++)
        turn();
    assert_int_equal(u.downs, 0);
    raw_send(fd, part, sizeof(part));
    WAIT(u.lost == 1);
    assert_non_null(strstr(u.detail, "ERR_TOO_LARGE"));
    close(fd);
    close(listener);
    redis_close(&u.redis);
}

static void cut_in_mid_reply_and_slow_ends_are_one_failure_each(void **state)
{
    (void)state;
    unsigned port;
    struct user u = {0};
    int listener = raw_listen(&port);
    user_open(&u, port, "",
              (struct redis_opts){.connect_timeout_ms = 5000, .command_timeout_ms = 5000});
    int fd = fake_accept(listener);
    fake_up(&u, fd);
    assert_int_equal(COMMAND(&u, STR("A")), 0);
    assert_int_equal(COMMAND(&u, STR("B")), 0);
    turn();
    raw_send(fd, "+OK\r\n$100\r\nhalf", 15);
    WAIT(u.ok == 1);
    close(fd);
    WAIT(u.lost == 1);
    assert_int_equal(u.downs, 1);

    fd = fake_accept(listener); /* back, byte by byte */
    for (int i = 0; i < 7; i++) {
        raw_send(fd, &"+PONG\r\n"[i], 1);
        turn();
    }
    WAIT(redis_connected(u.redis));
    uint64_t now_us = clock_us();
    clock_fake(now_us, 0);
    assert_int_equal(COMMAND(&u, STR("A")), 0);
    turn();
    clock_fake(now_us + 4000000, 0);
    turn();
    assert_int_equal(COMMAND(&u, STR("B")), 0);
    assert_int_equal(u.lost, 1);
    clock_fake(now_us + 6000000, 0); /* the first is late; both end */
    WAIT(u.lost == 3);
    assert_non_null(strstr(u.detail, "ERR_TIMEOUT"));
    close(fd);

    clock_fake(now_us + 9000000, 0);
    fd = fake_accept(listener); /* says nothing at all */
    for (int i = 0; i < 5; i++)
        turn();
    clock_fake(now_us + 15000000, 0);
    WAIT(raw_ended(fd));
    assert_false(redis_connected(u.redis));
    close(fd);

    clock_fake(now_us + 19000000, 0);
    fd = fake_accept(listener); /* still loading */
    raw_send(fd, "-LOADING Redis is loading the dataset in memory\r\n", 49);
    WAIT(strstr(u.detail, "LOADING"));
    close(fd);
    close(listener);
    clock_fake(now_us + 29000000, 0);
    WAIT(strstr(u.detail, "ECONNREFUSED"));
    assert_int_equal(u.ups, 2);
    redis_close(&u.redis);
}

static struct user closer;
static void on_reply_close(void *ctx, int rc, const struct redis_reply *reply)
{
    (void)ctx, (void)rc, (void)reply;
    closer.ok++;
    redis_close(&closer.redis);
}

static void it_may_be_closed_at_any_moment(void **state)
{
    (void)state;
    struct user u = {0};
    unsigned port;
    int listener = raw_listen(&port);
    user_open(&u, port, "", (struct redis_opts){0});
    redis_close(&u.redis); /* before anything */
    for (int turns = 1; turns < 4; turns++) {
        user_open(&u, port, "", (struct redis_opts){0});
        for (int i = 0; i < turns; i++)
            turn();
        redis_close(&u.redis);
    }
    assert_int_equal(u.ups + u.downs, 0);
    close(listener);
    for (int lost = 0; lost < 2; lost++) { /* inside a reply, and inside a failure */
        listener = raw_listen(&port);
        closer = (struct user){0};
        user_open(&closer, port, "", (struct redis_opts){0});
        int fd = fake_accept(listener);
        fake_up(&closer, fd);
        for (int i = 0; i < 5; i++)
            assert_int_equal(redis_command(closer.redis, &STR("A"), 1, on_reply_close, NULL), 0);
        turn();
        if (!lost)
            raw_send(fd, ":1\r\n:2\r\n:3\r\n", 12);
        else
            close(fd);
        WAIT(!closer.redis);
        turn();
        assert_int_equal(closer.ok, 1);
        if (!lost)
            close(fd);
        close(listener);
    }
}

static int start_real(void **state)
{
    (void)state;
    redis_server_start(&real, NULL);
    return 0;
}

static int end_real(void **state)
{
    (void)state;
    redis_server_end(&real);
    return 0;
}

int main(void)
{
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return 1;
#define T(name) cmocka_unit_test_setup_teardown(name, turning_setup, turning_teardown)
    const struct CMUnitTest tests[] = {
        T(values_go_and_come_whole),
        T(a_flood_is_pipelined_in_order_and_bounded),
        T(a_killed_server_fails_what_is_in_flight_once_and_it_comes_back),
        T(passwords_and_databases_come_from_the_url),
        T(bad_urls_are_refused_without_repeating_them),
        T(what_a_server_must_not_say_cuts_the_connection),
        T(a_reply_over_its_cap_cuts_and_many_small_ones_do_not),
        T(cut_in_mid_reply_and_slow_ends_are_one_failure_each),
        T(it_may_be_closed_at_any_moment),
    };
    return cmocka_run_group_tests(tests, start_real, end_real);
}
