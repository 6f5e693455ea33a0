/* test_httpd: the HTTP server against raw sockets: framing, limits, slow and cut clients, streams, drain, HTTP/2 by httpc.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd.h"
#include "base/clock.h"
#include "base/mem.h"
#include "io/httpc.h"
#include "io/httpd_priv.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

enum { WAIT_MS = 30000 };

struct fix {
    struct loop *loop;
    struct httpd *h;
    struct httpd_call *held[8];
    unsigned n_held, gone, wants;
    struct httpd_stream *stream;
    struct buf last_body;
    char last_path[128], last_query[64], last_header[64];
    size_t stream_left;
    bool stream_gone;
};

static void on_gone(void *ctx)
{
    struct fix *f = ctx;
    f->gone++;
    f->n_held = 0;
}

static void on_stream_gone(void *ctx)
{
    struct fix *f = ctx;
    f->stream_gone = true;
    f->stream = NULL;
}

static void on_want(void *ctx)
{
    struct fix *f = ctx;
    static char piece[60000];
    f->wants++;
    memset(piece, 'x', sizeof piece);
    struct httpd_stream *s = f->stream;
    if (f->stream_left == 0) {
        f->stream = NULL;
        httpd_stream_send(s, STR("end"), true);
        return;
    }
    size_t n = f->stream_left < sizeof piece ? f->stream_left : sizeof piece;
    f->stream_left -= n;
    httpd_stream_send(s, str_make(piece, n), false);
}

static void on_request(void *ctx, struct httpd_call *call, const struct httpd_request *req)
{
    struct fix *f = ctx;
    buf_reset(&f->last_body);
    buf_str(&f->last_body, req->body);
    snprintf(f->last_path, sizeof f->last_path, STR_FMT, STR_ARG(req->path));
    snprintf(f->last_query, sizeof f->last_query, STR_FMT, STR_ARG(req->query));
    struct str test = httpd_header(req, "x-test");
    snprintf(f->last_header, sizeof f->last_header, STR_FMT, STR_ARG(test));
    volatile char sum = 0;
    for (size_t i = 0; i < HTTPD_BODY_PADDING && req->body.n; i++)
        sum = (char)(sum + req->body.p[req->body.n + i]); /* the padding is readable (ASan looks) */
    if (str_is(req->path, "/hold")) {
        httpd_call_on_gone(call, on_gone, f);
        f->held[f->n_held++] = call;
        return;
    }
    if (str_is(req->path, "/stream")) {
        struct httpd_answer a = {.status = 200, .content_type = "text/plain"};
        f->stream = httpd_stream_begin(call, &a, on_want, on_stream_gone, f);
        return;
    }
    if (str_is(req->path, "/big")) {
        size_t n = 8 << 20;
        char *big = mem_alloc(n);
        memset(big, 'b', n);
        httpd_answer(call, &(struct httpd_answer){
                               .status = 200, .body = str_make(big, n), .body_owned = big});
        return;
    }
    httpd_answer(call,
                 &(struct httpd_answer){.status = 200,
                                        .content_type = "text/plain",
                                        .body = req->body.n ? req->body : STR("hello"),
                                        .headers = {{"x-a", STR("b")}, {"x-bad", STR("a\r\nb")}}});
}

static void on_error(void *ctx, int status, const char *text, struct buf *body,
                     const char **ret_type)
{
    (void)ctx;
    *ret_type = "application/json";
    buf_printf(body, "{\"error_code\":%d,\"message\":\"%s\"}", status, text);
}

static struct fix *open_with(struct httpd_opts o)
{
    struct fix *f = MEM_NEW(struct fix);
    struct err e = {0};
    buf_init(&f->last_body, 32 << 20);
    f->loop = loop_new();
    o.listen = "127.0.0.1:0";
    if (!o.max_body_bytes)
        o.max_body_bytes = 1000;
    if (!o.max_header_bytes)
        o.max_header_bytes = 2048;
    if (!o.max_arriving_bytes)
        o.max_arriving_bytes = 1 << 20;
    if (!o.max_connections)
        o.max_connections = 100;
    if (!o.request_timeout_ms)
        o.request_timeout_ms = 60000;
    o.on_request = on_request;
    o.on_error = on_error;
    o.ctx = f;
    assert_int_equal(httpd_open(f->loop, &o, &f->h, &e), 0);
    return f;
}

static void close_fix(struct fix *f)
{
    httpd_close(&f->h);
    uint64_t end = clock_ms() + WAIT_MS;
    while (uv_loop_alive(loop_uv(f->loop)) && clock_ms() < end)
        loop_run_once(f->loop, false);
    assert_int_equal(loop_free(&f->loop), 0);
    buf_deinit(&f->last_body);
    mem_free(f);
}

/* ---- raw client ---- */
struct client {
    int fd;
    bool eof;
    struct buf got;
};

static void dial(struct fix *f, struct client *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)httpd_port(f->h))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM, 0)};
    buf_init(&c->got, 64 << 20);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof a), 0);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static void hang_up(struct client *c)
{
    close(c->fd);
    buf_deinit(&c->got);
}

static void step(struct fix *f, struct client *c)
{
    char buf[65536];
    loop_run_once(f->loop, false);
    if (!c)
        return;
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (c->eof || poll(&p, 1, 1) <= 0)
        return;
    ssize_t n = recv(c->fd, buf, sizeof buf, 0);
    if (n > 0)
        buf_append(&c->got, buf, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        c->eof = true;
}

static void put(struct fix *f, struct client *c, const char *p, size_t n)
{
    uint64_t end = clock_ms() + WAIT_MS;
    while (n && clock_ms() < end) {
        ssize_t k = send(c->fd, p, n, MSG_NOSIGNAL);
        if (k > 0)
            p += k, n -= (size_t)k;
        else if (errno != EAGAIN)
            return;
        else
            step(f, c);
    }
}

#define UNTIL(f, c, cond)                                                                          \
    do {                                                                                           \
        uint64_t end_ = clock_ms() + WAIT_MS;                                                      \
        while (!(cond) && clock_ms() < end_)                                                       \
            step((f), (c));                                                                        \
        assert_true(cond);                                                                         \
    } while (0)

static size_t count(const struct client *c, const char *needle)
{
    size_t n = 0;
    const char *p = c->got.data;
    while (p &&
           (p = memmem(p, c->got.len - (size_t)(p - c->got.data), needle, strlen(needle))) != NULL)
        n++, p++;
    return n;
}

static void ask(struct fix *f, struct client *c, const char *text)
{
    put(f, c, text, strlen(text));
}

/* Sends it and expects exactly one answer with that status, and the end of the connection. */
static void refused(struct httpd_opts o, const char *text, size_t n, const char *status)
{
    struct fix *f = open_with(o);
    struct client c;
    dial(f, &c);
    put(f, &c, text, n);
    UNTIL(f, &c, c.eof);
    char line[64];
    snprintf(line, sizeof line, "HTTP/1.1 %s ", status);
    if (count(&c, line) != 1 || count(&c, "HTTP/1.1 ") != 1) {
        print_error("asked: %.*s\ngot: %.*s\n", (int)n, text, (int)c.got.len, c.got.data);
        fail();
    }
    assert_int_equal(count(&c, "connection: close"), 1);
    char body[64];
    snprintf(body, sizeof body, "{\"error_code\":%s,", status);
    assert_int_equal(count(&c, body), 1);
    struct httpd_stats st;
    httpd_get_stats(f->h, &st);
    assert_int_equal(st.refused_total, 1);
    assert_int_equal(st.requests_total, 0);
    assert_int_equal(st.arriving_bytes, 0);
    hang_up(&c);
    close_fix(f);
}

#define H "Host: a\r\n"

static void test_answers(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.server_name = "sluice"});
    struct client c;
    dial(f, &c);
    ask(f, &c, "GET /a/b%20c?x=1&y HTTP/1.1\r\n" H "X-Test:  seen \r\n\r\n");
    UNTIL(f, &c, count(&c, "hello") == 1);
    assert_string_equal(f->last_path, "/a/b%20c");
    assert_string_equal(f->last_query, "x=1&y");
    assert_string_equal(f->last_header, "seen");
    assert_int_equal(count(&c, "HTTP/1.1 200 OK\r\n"), 1);
    assert_int_equal(count(&c, "content-length: 5\r\n"), 1);
    assert_int_equal(count(&c, "content-type: text/plain\r\n"), 1);
    assert_int_equal(count(&c, "server: sluice\r\n"), 1);
    assert_int_equal(count(&c, "x-a: b\r\n"), 1);
    assert_int_equal(count(&c, "x-bad"), 0);
    assert_int_equal(count(&c, " GMT\r\n"), 1);
    /* kept alive; HEAD has the head only */
    ask(f, &c, "HEAD /x HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, count(&c, "content-length: 5\r\n\r\n") == 2);
    ask(f, &c, "POST /x HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc");
    UNTIL(f, &c, count(&c, "abc") == 1);
    assert_int_equal(count(&c, "hello"), 1);
    /* absolute form and lone version 1.0, which ends the connection */
    ask(f, &c, "GET http://h:80/abs HTTP/1.0\r\n\r\n");
    UNTIL(f, &c, c.eof);
    assert_string_equal(f->last_path, "/abs");
    assert_int_equal(count(&c, "hello"), 2);
    hang_up(&c);
    close_fix(f);
}

static void test_pipelined(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){0});
    struct client c;
    dial(f, &c);
    struct buf b;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 200; i++)
        buf_printf(&b, "POST /%d HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\n<%03d>", i, i);
    put(f, &c, b.data, b.len);
    UNTIL(f, &c, count(&c, "<199>") == 1);
    const char *last = c.got.data;
    for (int i = 0; i < 200; i++) {
        char want[16];
        snprintf(want, sizeof want, "<%03d>", i);
        last = memmem(last, c.got.len - (size_t)(last - c.got.data), want, 5);
        assert_non_null(last);
    }
    /* a held one keeps those behind it waiting */
    buf_reset(&c.got);
    ask(f, &c, "GET /hold HTTP/1.1\r\n" H "\r\nGET /later HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, f->n_held == 1);
    for (int i = 0; i < 20; i++)
        step(f, &c);
    assert_int_equal(c.got.len, 0);
    httpd_answer(f->held[0], &(struct httpd_answer){.status = 204});
    UNTIL(f, &c, count(&c, "hello") == 1);
    assert_int_equal(count(&c, "HTTP/1.1 204 No Content\r\n"), 1);
    buf_deinit(&b);
    hang_up(&c);
    close_fix(f);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.h2c = true});
    struct client c;
    dial(f, &c);
    const char *text = "\r\nPOST /slow HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n"
                       "3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"
                       "POST /two HTTP/1.1\r\n" H "Content-Length: 4\r\n\r\nwxyz";
    for (const char *p = text; *p; p++) {
        put(f, &c, p, 1);
        step(f, NULL);
    }
    UNTIL(f, &c, count(&c, "wxyz") == 1);
    assert_int_equal(count(&c, "abc0123456789abcdef"), 1);
    assert_int_equal(count(&c, "HTTP/1.1 200"), 2);
    hang_up(&c);
    close_fix(f);
}

static void test_chunked_whole(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.max_body_bytes = 1 << 20});
    struct client c;
    dial(f, &c);
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_z(&b, "POST /x HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\n\r\n");
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "64\r\n%0100d\r\n", i);
    buf_z(&b, "0\r\n\r\nGET /next HTTP/1.1\r\n" H "\r\n");
    put(f, &c, b.data, b.len);
    UNTIL(f, &c, count(&c, "hello") == 1);
    assert_int_equal(count(&c, "content-length: 100000\r\n"), 1);
    char want[101];
    snprintf(want, sizeof want, "%0100d", 999);
    assert_int_equal(count(&c, want), 1);
    buf_deinit(&b);
    hang_up(&c);
    close_fix(f);
}

static void test_framing_refused(void **state)
{
    (void)state;
    static const char smuggled[] = "GET /smuggled HTTP/1.1\r\n" H "\r\n";
    static const char *const heads[] = {
        "POST / HTTP/1.1\r\n" H "Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\n" H "Content-Length: 5, 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\n" H "Content-Length: +5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\n" H "Content-Length: 0x5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\n" H "Content-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0_2e\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x01garbage of TLS\r\n\r\n",
        "GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        char text[1024];
        int n = snprintf(text, sizeof text, "%s%s", heads[i], smuggled);
        refused((struct httpd_opts){.h2c = i % 2}, text, (size_t)n, "400");
    }
    static const char nul[] = "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n";
    refused((struct httpd_opts){0}, nul, sizeof nul - 1, "400");
}

static void test_limits(void **state)
{
    (void)state;
    const char *big = "POST / HTTP/1.1\r\n" H "Content-Length: 1001\r\n\r\n";
    refused((struct httpd_opts){0}, big, strlen(big), "413");
    big = "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3e9\r\n";
    refused((struct httpd_opts){0}, big, strlen(big), "413");
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_z(&b, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 101; i++)
        buf_printf(&b, "a\r\n0123456789\r\n");
    refused((struct httpd_opts){0}, b.data, b.len, "413");
    buf_reset(&b);
    buf_z(&b, "GET / HTTP/1.1\r\n" H "X: ");
    for (int i = 0; i < 3000; i++)
        buf_char(&b, 'a');
    refused((struct httpd_opts){0}, b.data, b.len, "431"); /* not even whole */
    buf_z(&b, "\r\n\r\n");
    refused((struct httpd_opts){0}, b.data, b.len, "431");
    buf_reset(&b);
    buf_z(&b, "GET / HTTP/1.1\r\n" H);
    for (int i = 0; i < 100; i++)
        buf_printf(&b, "x%d: y\r\n", i);
    buf_z(&b, "\r\n");
    refused((struct httpd_opts){0}, b.data, b.len, "431"); /* too many fields */
    buf_deinit(&b);
    /* no room for what arrives */
    big = "POST / HTTP/1.1\r\n" H "Content-Length: 900\r\n\r\nabc";
    refused((struct httpd_opts){.max_arriving_bytes = 500}, big, strlen(big), "503");
    big = "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n64000\r\nabc";
    struct buf c;
    buf_init(&c, 1 << 20);
    buf_z(&c, big);
    for (int i = 0; i < 300000; i++)
        buf_char(&c, 'c');
    refused((struct httpd_opts){.max_arriving_bytes = 50000, .max_body_bytes = 1 << 20}, c.data,
            c.len, "503");
    buf_deinit(&c);
}

/* A body over the limit that is sent to its end all the same: the client still reads the answer. */
static void test_oversize_sent_whole(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){0});
    struct client c;
    dial(f, &c);
    size_t n = 4 << 20;
    char *body = mem_alloc(n);
    ask(f, &c, "POST / HTTP/1.1\r\n" H "Content-Length: 4194304\r\n\r\n");
    put(f, &c, body, n);
    UNTIL(f, &c, c.eof);
    assert_int_equal(count(&c, "HTTP/1.1 413 "), 1);
    mem_free(body);
    hang_up(&c);
    close_fix(f);
}

static void test_expect_continue(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){0});
    struct client c;
    dial(f, &c);
    ask(f, &c, "POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    UNTIL(f, &c, count(&c, "HTTP/1.1 100 Continue\r\n\r\n") == 1);
    ask(f, &c, "abc");
    UNTIL(f, &c, count(&c, "abc") == 1);
    hang_up(&c);
    dial(f, &c);
    ask(f, &c, "POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 3000\r\n\r\n");
    UNTIL(f, &c, c.eof);
    assert_int_equal(count(&c, "HTTP/1.1 413 "), 1);
    assert_int_equal(count(&c, "100 Continue"), 0);
    hang_up(&c);
    close_fix(f);
}

static void test_slow(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.request_timeout_ms = 100});
    struct client c;
    dial(f, &c);
    ask(f, &c, "POST /x HTTP/1.1\r\nHos");
    UNTIL(f, &c, c.eof);
    assert_int_equal(count(&c, "HTTP/1.1 408 "), 1);
    hang_up(&c);
    dial(f, &c);
    ask(f, &c, "POST /x HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\n12345");
    UNTIL(f, &c, c.eof);
    assert_int_equal(count(&c, "HTTP/1.1 408 "), 1);
    hang_up(&c);
    dial(f, &c); /* an idle one ends without a word */
    UNTIL(f, &c, c.eof);
    assert_int_equal(c.got.len, 0);
    hang_up(&c);
    dial(f, &c); /* a call that the service holds longer than that is not cut */
    ask(f, &c, "GET /hold HTTP/1.1\r\n" H "\r\n");
    uint64_t until = clock_ms() + 350;
    UNTIL(f, &c, clock_ms() > until);
    assert_int_equal(f->n_held, 1);
    httpd_answer(f->held[0], &(struct httpd_answer){.status = 200, .body = STR("late")});
    UNTIL(f, &c, count(&c, "late") == 1);
    struct httpd_stats st;
    httpd_get_stats(f->h, &st);
    assert_int_equal(st.refused_by_status[2], 2);
    assert_int_equal(st.calls, 0);
    hang_up(&c);
    close_fix(f);
}

static void test_cut(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){0});
    struct client c;
    struct httpd_stats st;
    static const char *const parts[] = {
        "", "PO", "POST / HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\n123",
        "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n5\r\nab"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        dial(f, &c);
        ask(f, &c, parts[i]);
        UNTIL(f, &c, (httpd_get_stats(f->h, &st), st.connections == 1));
        for (int k = 0; k < 5; k++)
            step(f, &c);
        hang_up(&c);
        UNTIL(f, NULL, (httpd_get_stats(f->h, &st), st.connections == 0));
        assert_int_equal(st.arriving_bytes, 0);
    }
    /* while its call is open */
    dial(f, &c);
    ask(f, &c, "GET /hold HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, f->n_held == 1);
    hang_up(&c);
    UNTIL(f, NULL, f->gone == 1);
    httpd_get_stats(f->h, &st);
    assert_int_equal(st.calls, 0);
    /* stopped during a call */
    dial(f, &c);
    ask(f, &c, "GET /hold HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, f->n_held == 1);
    httpd_close(&f->h);
    assert_int_equal(f->gone, 2);
    hang_up(&c);
    close_fix(f);
}

static void test_full(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.max_connections = 2});
    struct client a, b, c;
    struct httpd_stats st;
    dial(f, &a);
    dial(f, &b);
    dial(f, &c);
    ask(f, &c, "GET /x HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, (httpd_get_stats(f->h, &st), st.accept_paused_total == 1));
    assert_int_equal(st.connections, 2);
    assert_int_equal(c.got.len, 0);
    hang_up(&a); /* now the third one's turn has come */
    UNTIL(f, &c, count(&c, "hello") == 1);
    hang_up(&b);
    hang_up(&c);
    close_fix(f);
}

static void test_refused_address(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){0});
    char listen[32];
    struct err e = {0};
    struct httpd *other = NULL;
    snprintf(listen, sizeof listen, "127.0.0.1:%u", httpd_port(f->h));
    struct httpd_opts o = {.listen = listen, .h2c = true, .max_connections = 1};
    assert_int_equal(httpd_open(f->loop, &o, &other, &e), UV_EADDRINUSE);
    assert_null(other);
    o.listen = "nonsense";
    assert_int_equal(httpd_open(f->loop, &o, &other, &e), ERR_CONFIG);
    close_fix(f);
}

static void test_big_answer_and_stream(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){0});
    struct client c;
    dial(f, &c);
    ask(f, &c, "GET /big HTTP/1.1\r\n" H "\r\nGET /after HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, count(&c, "hello") == 1);
    assert_true(c.got.len > 8 << 20);
    buf_reset(&c.got);
    f->stream_left = 3000000;
    ask(f, &c, "GET /stream HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, count(&c, "3\r\nend\r\n0\r\n\r\n") == 1);
    assert_int_equal(count(&c, "transfer-encoding: chunked"), 1);
    assert_true(f->wants >= 51);
    ask(f, &c, "HEAD /stream HTTP/1.1\r\n" H "\r\nGET /y HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, count(&c, "hello") == 1);
    hang_up(&c);
    /* HTTP/1.0: raw until the end */
    dial(f, &c);
    f->stream_left = 10;
    ask(f, &c, "GET /stream HTTP/1.0\r\n\r\n");
    UNTIL(f, &c, c.eof);
    assert_int_equal(count(&c, "\r\n\r\nxxxxxxxxxxend"), 1);
    hang_up(&c);
    /* the client leaves in the middle */
    dial(f, &c);
    f->stream_left = (size_t)1 << 40;
    ask(f, &c, "GET /stream HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, c.got.len > 100000);
    hang_up(&c);
    UNTIL(f, NULL, f->stream_gone);
    /* the service cuts it: no end chunk */
    dial(f, &c);
    ask(f, &c, "GET /stream HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &c, c.got.len > 100000);
    httpd_stream_abort(f->stream);
    UNTIL(f, &c, c.eof);
    assert_int_equal(count(&c, "\r\n0\r\n\r\n"), 0);
    hang_up(&c);
    close_fix(f);
}

static void test_drain(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.h2c = true});
    struct client idle, busy;
    dial(f, &idle);
    ask(f, &idle, "GET /x HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &idle, count(&idle, "hello") == 1);
    dial(f, &busy);
    ask(f, &busy, "GET /hold HTTP/1.1\r\n" H "\r\n");
    UNTIL(f, &busy, f->n_held == 1);
    httpd_drain(f->h);
    UNTIL(f, &idle, idle.eof);
    for (int i = 0; i < 20; i++)
        step(f, &busy);
    assert_false(busy.eof);
    httpd_answer(f->held[0], &(struct httpd_answer){.status = 200, .body = STR("done")});
    UNTIL(f, &busy, busy.eof);
    assert_int_equal(count(&busy, "connection: close"), 1);
    assert_int_equal(count(&busy, "done"), 1);
    hang_up(&idle);
    hang_up(&busy);
    close_fix(f);
}

/* ---- HTTP/2, by httpc ---- */
struct reply {
    bool done;
    int rc, status;
    size_t n;
    char first[64];
};

static void on_reply(void *ctx, int rc, const struct httpc_response *res)
{
    struct reply *r = ctx;
    *r = (struct reply){.done = true, .rc = rc, .status = res->status, .n = res->body.n};
    snprintf(r->first, sizeof r->first, "%.*s", (int)(res->body.n < 60 ? res->body.n : 60),
             res->body.p ? res->body.p : "");
}

static void test_http2(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.h2c = true, .max_body_bytes = 200000});
    struct httpc *c = NULL;
    struct err e = {0};
    struct reply r[20] = {0};
    char url[128];
    assert_int_equal(
        httpc_open(f->loop, &(struct httpc_opts){.max_connections = 1, .http2 = true}, &c, &e), 0);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/two?q=1", httpd_port(f->h));
    char *body = mem_alloc(300000);
    memset(body, 'z', 300000);
    const char *const headers[] = {"X-Test: h2", NULL};
    for (int i = 0; i < 20; i++) {
        struct httpc_request req = {.method = "POST",
                                    .url = url,
                                    .body = str_make(body, 1000u * (unsigned)i + 1),
                                    .headers = headers};
        assert_int_equal(httpc_send(c, &req, on_reply, &r[i], NULL), 0);
    }
    for (int i = 0; i < 20; i++) {
        UNTIL(f, NULL, r[i].done);
        assert_int_equal(r[i].rc, 0);
        assert_int_equal(r[i].status, 200);
        assert_int_equal(r[i].n, 1000 * i + 1);
    }
    assert_string_equal(f->last_path, "/two");
    assert_string_equal(f->last_query, "q=1");
    assert_string_equal(f->last_header, "h2");
    struct httpd_stats st;
    httpd_get_stats(f->h, &st);
    assert_int_equal(st.connections_total, 1);
    /* beyond the body's limit nothing reaches the service */
    uint64_t before = st.requests_total;
    r[0].done = false;
    struct httpc_request big = {.method = "POST", .url = url, .body = str_make(body, 300000)};
    assert_int_equal(httpc_send(c, &big, on_reply, &r[0], NULL), 0);
    UNTIL(f, NULL, r[0].done);
    assert_int_equal(r[0].rc, 0);
    assert_int_equal(r[0].status, 413);
    httpd_get_stats(f->h, &st);
    assert_int_equal(st.requests_total, before);
    /* a header beyond its limit */
    char *wide = mem_alloc(5000);
    memset(wide, 'w', 4999);
    memcpy(wide, "X-Wide: ", 8);
    const char *const wides[] = {wide, NULL};
    r[0].done = false;
    struct httpc_request req = {.method = "GET", .url = url, .headers = wides};
    assert_int_equal(httpc_send(c, &req, on_reply, &r[0], NULL), 0);
    UNTIL(f, NULL, r[0].done);
    assert_int_equal(r[0].status, 431);
    /* a stream, and one whose client leaves */
    f->stream_left = 1000000;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/stream", httpd_port(f->h));
    r[0].done = false;
    req = (struct httpc_request){.method = "GET", .url = url};
    assert_int_equal(httpc_send(c, &req, on_reply, &r[0], NULL), 0);
    UNTIL(f, NULL, r[0].done);
    assert_int_equal(r[0].rc, 0);
    assert_int_equal(r[0].n, 1000003);
    f->stream_left = (size_t)1 << 40;
    struct httpc *other = NULL;
    assert_int_equal(
        httpc_open(f->loop, &(struct httpc_opts){.max_connections = 1, .http2 = true}, &other, &e),
        0);
    assert_int_equal(httpc_send(other, &req, on_reply, &r[1], NULL), 0);
    unsigned wants = f->wants;
    UNTIL(f, NULL, f->wants > wants + 1);
    httpc_close(&other);
    UNTIL(f, NULL, f->stream_gone);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/hold", httpd_port(f->h));
    assert_int_equal(
        httpc_open(f->loop, &(struct httpc_opts){.max_connections = 1, .http2 = true}, &other, &e),
        0);
    assert_int_equal(httpc_send(other, &req, on_reply, &r[1], NULL), 0);
    UNTIL(f, NULL, f->n_held == 1);
    httpc_close(&other);
    UNTIL(f, NULL, f->gone == 1);
    /* stopped during a call; a cut connection is an error to the client */
    r[2].done = false;
    assert_int_equal(httpc_send(c, &req, on_reply, &r[2], NULL), 0);
    UNTIL(f, NULL, f->n_held == 1);
    httpd_drain(f->h);
    httpd_close(&f->h);
    UNTIL(f, NULL, r[2].done);
    assert_true(r[2].rc != 0);
    assert_int_equal(f->gone, 2);
    httpc_close(&c);
    mem_free(body);
    mem_free(wide);
    close_fix(f);
}

static void test_http2_garbage(void **state)
{
    (void)state;
    struct fix *f = open_with((struct httpd_opts){.h2c = true});
    struct client c;
    dial(f, &c);
    ask(f, &c, HTTPD_H2_PREFACE "this is no frame at all, and it goes on for a while after that");
    UNTIL(f, &c, c.eof);
    hang_up(&c);
    dial(f, &c); /* cut after half a preface */
    ask(f, &c, "PRI * HTTP/2.0\r\n");
    for (int i = 0; i < 10; i++)
        step(f, &c);
    hang_up(&c);
    close_fix(f);
    refused((struct httpd_opts){.h2c = false}, HTTPD_H2_PREFACE, strlen(HTTPD_H2_PREFACE), "400");
}

static void test_chunks_decoder(void **state)
{
    (void)state;
    char text[] = "4\r\nabcd\r\n0\r\n\r\nrest";
    struct httpd_chunks ch = {0};
    size_t raw = 0, out = 0;
    assert_int_equal(httpd_chunks_decode(&ch, text, strlen(text), 4, 100, &raw, &out), 1);
    assert_int_equal(out, 4);
    assert_memory_equal(text, "abcd", 4);
    assert_string_equal(text + raw, "rest");
    char over[] = "5\r\nabcde";
    ch = (struct httpd_chunks){0};
    raw = out = 0;
    assert_int_equal(httpd_chunks_decode(&ch, over, strlen(over), 4, 100, &raw, &out), -413);
    char wrap[] = "3\r\nabc\r\nfffffffffffffff\r\n";
    ch = (struct httpd_chunks){0};
    raw = out = 0;
    assert_int_equal(httpd_chunks_decode(&ch, wrap, strlen(wrap), 4, 100, &raw, &out), -413);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN); /* as app does: libuv writes to sockets whose peer has left */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_chunked_whole),
        cmocka_unit_test(test_framing_refused),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_oversize_sent_whole),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_slow),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_refused_address),
        cmocka_unit_test(test_big_answer_and_stream),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_http2),
        cmocka_unit_test(test_http2_garbage),
        cmocka_unit_test(test_chunks_decoder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
