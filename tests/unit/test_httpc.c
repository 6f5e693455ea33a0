/* test_httpc: the HTTP client against our own server and against scripted sockets: refused, slow, cut, garbage, oversize, full,
 * stopped during a call, and a kept connection that ends without an answer.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpc.h"
#include "base/clock.h"
#include "base/mem.h"
#include "io/httpd.h"
#include "support/turning.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

enum { WAIT_MS = 30000 };

struct reply {
    bool done;
    int rc, status;
    bool sent;
    char body[256];
    size_t n;
};
struct fix {
    struct loop *loop;
    struct httpd *h;
    struct httpc *c;
    struct httpd_call *held;
    unsigned requests;
    char last[128];
    int listener; /* scripted server */
    char url[64];
};

static void on_reply(void *ctx, int rc, const struct httpc_response *res)
{
    struct reply *r = ctx;
    assert_false(r->done); /* once */
    *r = (struct reply){
        .done = true, .rc = rc, .status = res->status, .sent = res->sent, .n = res->body.n};
    snprintf(r->body, sizeof r->body, STR_FMT, STR_ARG(res->body));
}

static void on_request(void *ctx, struct httpd_call *call, const struct httpd_request *req)
{
    struct fix *f = ctx;
    f->requests++;
    struct str test = httpd_header(req, "x-test");
    snprintf(f->last, sizeof f->last, STR_FMT " " STR_FMT " " STR_FMT, STR_ARG(req->method_name),
             STR_ARG(req->path), STR_ARG(test));
    if (str_is(req->path, "/hold"))
        f->held = call;
    else
        httpd_answer(call, &(struct httpd_answer){.status = str_is(req->path, "/bad") ? 422 : 200,
                                                  .body = req->body});
}

static struct fix *open_fix(bool server, struct httpc_opts o)
{
    struct fix *f = MEM_NEW(struct fix);
    struct err e = {0};
    f->loop = loop_new();
    f->listener = -1;
    unsigned port;
    if (server) {
        struct httpd_opts ho = {.listen = "127.0.0.1:0",
                                .h2c = true,
                                .max_body_bytes = 1 << 20,
                                .max_header_bytes = 4096,
                                .max_arriving_bytes = 8 << 20,
                                .max_connections = 100,
                                .request_timeout_ms = 60000,
                                .on_request = on_request,
                                .ctx = f};
        assert_int_equal(httpd_open(f->loop, &ho, &f->h, &e), 0);
        port = httpd_port(f->h);
    } else {
        struct sockaddr_in a = {.sin_family = AF_INET};
        socklen_t n = sizeof a;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        f->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        assert_int_equal(bind(f->listener, (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(listen(f->listener, 16), 0);
        assert_int_equal(getsockname(f->listener, (struct sockaddr *)&a, &n), 0);
        port = ntohs(a.sin_port);
    }
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u", port);
    if (!o.max_connections)
        o.max_connections = 4;
    assert_int_equal(httpc_open(f->loop, &o, &f->c, &e), 0);
    return f;
}

static void close_fix(struct fix *f)
{
    httpc_close(&f->c);
    httpd_close(&f->h);
    if (f->listener >= 0)
        close(f->listener);
    uint64_t end = clock_ms() + WAIT_MS;
    while (uv_loop_alive(loop_uv(f->loop)) && clock_ms() < end)
        loop_run_once(f->loop, false);
    assert_int_equal(loop_free(&f->loop), 0);
    mem_free(f);
}

#define UNTIL(f, cond) TURN_UNTIL((f)->loop, cond)

static void ask(struct fix *f, const char *method, const char *path, struct str body,
                const char *const *headers, uint64_t timeout_ms, struct reply *r,
                struct httpc_call **ret)
{
    char url[256];
    snprintf(url, sizeof url, "%s%s", f->url, path);
    *r = (struct reply){0};
    struct httpc_request req = {
        .method = method, .url = url, .body = body, .headers = headers, .timeout_ms = timeout_ms};
    assert_int_equal(httpc_send(f->c, &req, on_reply, r, ret), 0);
    assert_false(r->done);
}

static void test_methods(void **state)
{
    (void)state;
    for (int h2 = 0; h2 < 2; h2++) {
        struct fix *f = open_fix(true, (struct httpc_opts){.http2 = h2});
        struct reply r;
        const char *const a[] = {"X-Test: one", NULL}, *const b[] = {"X-Test: two", "X-More: 1",
                                                                     NULL};
        static const struct {
            const char *method, *path, *body;
            int header, status;
            const char *want;
        } all[] = {{"POST", "/p", "body", 1, 200, "POST /p one"},
                   {"POST", "/p", "body", 2, 200, "POST /p two"},
                   {"POST", "/p", "body", 1, 200, "POST /p one"},
                   {"GET", "/g", "", 0, 200, "GET /g "},
                   {"HEAD", "/h", "", 0, 200, "HEAD /h "},
                   {"DELETE", "/d", "", 2, 200, "DELETE /d two"},
                   {"PUT", "/u", "x", 0, 200, "PUT /u "},
                   {"GET", "/g2", "", 1, 200, "GET /g2 one"},
                   {"POST", "/bad", "{}", 0, 422, "POST /bad "},
                   {"POST", "/e", "", 0, 200, "POST /e "}};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            ask(f, all[i].method, all[i].path, str_of(all[i].body),
                all[i].header == 1   ? a
                : all[i].header == 2 ? b
                                     : NULL,
                0, &r, NULL);
            UNTIL(f, r.done);
            assert_int_equal(r.rc, 0);
            assert_int_equal(r.status, all[i].status);
            assert_string_equal(f->last, all[i].want);
            assert_string_equal(r.body, strcmp(all[i].method, "HEAD") == 0 ? "" : all[i].body);
        }
        struct httpd_stats st;
        httpd_get_stats(f->h, &st);
        assert_int_equal(st.connections_total, 1); /* kept and reused */
        close_fix(f);
    }
}

static void test_many(void **state)
{
    (void)state;
    enum { N = 300 };
    for (int h2 = 0; h2 < 2; h2++) {
        struct fix *f = open_fix(true, (struct httpc_opts){.http2 = h2, .max_connections = 3});
        struct reply *r = MEM_ARRAY(struct reply, N);
        for (int i = 0; i < N; i++)
            ask(f, "POST", "/x", STR("abc"), NULL, 0, &r[i], NULL);
        for (int i = 0; i < N; i++) {
            UNTIL(f, r[i].done);
            assert_int_equal(r[i].rc, 0);
            assert_int_equal(r[i].n, 3);
        }
        struct httpd_stats st;
        httpd_get_stats(f->h, &st);
        assert_int_equal(st.requests_total, N);
        assert_true(st.connections_total <= 3); /* full: the others wait */
        mem_free(r);
        close_fix(f);
    }
}

static void test_refused(void **state)
{
    (void)state;
    for (int h2 = 0; h2 < 2; h2++) {
        struct fix *f = open_fix(false, (struct httpc_opts){.http2 = h2});
        struct reply r, r2;
        close(f->listener);
        f->listener = -1;
        ask(f, "POST", "/x", STR("abc"), NULL, 0, &r, NULL);
        ask(f, "POST", "/x", STR("abc"), NULL, 0, &r2, NULL);
        UNTIL(f, r.done && r2.done);
        assert_int_equal(r.rc, UV_ECONNREFUSED);
        assert_int_equal(r2.rc, UV_ECONNREFUSED);
        assert_false(r.sent);
        close_fix(f);
    }
}

static void test_slow(void **state)
{
    (void)state;
    for (int h2 = 0; h2 < 2; h2++) {
        struct fix *f = open_fix(true, (struct httpc_opts){.http2 = h2});
        struct reply r;
        ask(f, "POST", "/hold", STR("abc"), NULL, 300, &r, NULL);
        UNTIL(f, r.done);
        assert_int_equal(r.rc, ERR_TIMEOUT);
        assert_true(r.sent);
        close_fix(f);
    }
}

/* Answers each connection with that text as soon as a request came, and closes it. */
static void serve(struct fix *f, const char *text, struct reply *r, unsigned *ret_requests)
{
    char buf[4096];
    uint64_t end = clock_ms() + WAIT_MS;
    int fd = -1;
    while (!r->done && clock_ms() < end) {
        loop_run_once(f->loop, false);
        if (fd < 0)
            fd = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0)
            continue;
        ssize_t n = recv(fd, buf, sizeof buf, 0);
        if (n == 0) {
            close(fd);
            fd = -1;
        } else if (n > 0) {
            ++*ret_requests;
            (void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0)
        close(fd);
    assert_true(r->done);
}

static void test_cut_and_garbage(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
    } all[] = {{"", ERR_CLOSED},
               {"HTTP/1.1 200 OK\r\nContent-Le", ERR_CLOSED},
               {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", ERR_CLOSED},
               {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ERR_CLOSED},
               {"garbage garbage\r\n\r\n", ERR_CLOSED}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct fix *f = open_fix(false, (struct httpc_opts){0});
        struct reply r;
        unsigned requests = 0;
        ask(f, "POST", "/x", STR("abc"), NULL, 0, &r, NULL);
        serve(f, all[i].text, &r, &requests);
        assert_true(r.rc != 0);
        assert_true(r.sent);
        assert_int_equal(requests, 1);
        close_fix(f);
    }
    struct fix *f = open_fix(false, (struct httpc_opts){.http2 = true});
    struct reply r;
    unsigned requests = 0;
    ask(f, "POST", "/x", STR("abc"), NULL, 0, &r, NULL);
    serve(f, "HTTP/1.1 400 Bad Request\r\n\r\n", &r, &requests);
    assert_true(r.rc != 0);
    close_fix(f);
}

/* A kept connection that ends after the second request without an answer: that request may have been carried out, so it is
 * not sent again, and said to be unknown. */
static void test_no_second_send(void **state)
{
    (void)state;
    struct fix *f = open_fix(false, (struct httpc_opts){.max_connections = 1});
    struct reply r;
    char buf[4096];
    int fd = -1;
    unsigned requests = 0;
    ask(f, "POST", "/x", STR("abc"), NULL, 0, &r, NULL);
    for (int turn = 0; turn < 2; turn++) {
        uint64_t end = clock_ms() + WAIT_MS;
        while (!r.done && clock_ms() < end) {
            loop_run_once(f->loop, false);
            int more = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK);
            if (more >= 0)
                fd = more;
            ssize_t n = fd >= 0 ? recv(fd, buf, sizeof buf, 0) : -1;
            if (n <= 0)
                continue;
            requests++;
            if (turn == 0) {
                (void)!send(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 40, MSG_NOSIGNAL);
            } else {
                close(fd);
                fd = -1;
            }
        }
        assert_true(r.done);
        if (turn == 0) {
            assert_int_equal(r.rc, 0);
            assert_string_equal(r.body, "ok");
            ask(f, "POST", "/x", STR("abc"), NULL, 0, &r, NULL);
        }
    }
    assert_int_equal(r.rc, ERR_CLOSED);
    assert_true(r.sent);
    for (int i = 0; i < 100; i++)
        loop_run_once(f->loop, false);
    int more = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK);
    ssize_t n = more >= 0 ? recv(more, buf, sizeof buf, 0) : -1;
    assert_true(n <= 0);
    assert_int_equal(requests, 2);
    if (more >= 0)
        close(more);
    if (fd >= 0)
        close(fd);
    close_fix(f);
}

static void test_oversize(void **state)
{
    (void)state;
    struct fix *f = open_fix(true, (struct httpc_opts){.max_body_bytes = 1000});
    struct reply r;
    char *big = mem_alloc(5000);
    memset(big, 'x', 4999);
    ask(f, "POST", "/x", str_make(big, 1000), NULL, 0, &r, NULL);
    UNTIL(f, r.done);
    assert_int_equal(r.rc, 0);
    ask(f, "POST", "/x", str_make(big, 4999), NULL, 0, &r, NULL);
    UNTIL(f, r.done);
    assert_int_equal(r.rc, ERR_LIMIT);
    mem_free(big);
    close_fix(f);
}

static void test_stopped(void **state)
{
    (void)state;
    for (int h2 = 0; h2 < 2; h2++) {
        struct fix *f = open_fix(true, (struct httpc_opts){.http2 = h2});
        struct reply r, r2, r3, r4;
        struct httpc_call *call = NULL, *waiting = NULL;
        ask(f, "GET", "/hold", STR(""), NULL, 0, &r, &call);
        ask(f, "GET", "/x", STR(""), NULL, 0, &r4, &waiting);
        assert_non_null(call);
        httpc_cancel(&waiting);
        assert_null(waiting);
        httpc_cancel(&waiting); /* NULL is fine */
        UNTIL(f, f->held);
        httpc_cancel(&call);
        ask(f, "GET", "/x", STR("ok"), NULL, 0, &r2, &call); /* goes on after a cancelled one */
        UNTIL(f, r2.done);
        assert_int_equal(r2.rc, 0);
        assert_null(call);
        f->held = NULL;
        ask(f, "GET", "/hold", STR(""), NULL, 0, &r3, &call);
        UNTIL(f, f->held);
        httpc_close(&f->c);
        assert_null(call);
        for (int i = 0; i < 50; i++)
            loop_run_once(f->loop, false);
        assert_false(r.done || r3.done || r4.done);
        close_fix(f);
    }
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as app does: libuv writes to sockets whose peer has left */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_methods),         cmocka_unit_test(test_many),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_slow),
        cmocka_unit_test(test_cut_and_garbage), cmocka_unit_test(test_no_second_send),
        cmocka_unit_test(test_oversize),        cmocka_unit_test(test_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
