/* load_http: a closed loop of POSTs over many connections, cheap enough to leave the machine to what is measured.
 *
 * load_http PORT CONNECTIONS REQUESTS FILE: the lines of FILE are path, tab, body, and are sent in turn (from the top again at the
 * end). HTTP/1.1, keep-alive, one request at a time per connection. Prints {"requests", "ok", "wall_s", "p50_ms", "p99_ms"}.
 * Ends with 1 when a connection breaks or an answer is not 200.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lines.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define ANSWER_MAX (1 << 18)
#define EVENTS 256

struct conn {
    int fd;
    double began;
    struct iovec out[2];
    size_t got;
    char head[256], in[ANSWER_MAX];
};

static struct lines input;
static size_t next, requests, answered, ok;
static float *latency;

static void fail(const char *what)
{
    fprintf(stderr, "load_http: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void push(struct conn *c)
{
    while (c->out[1].iov_len) {
        ssize_t n = writev(c->fd, c->out, 2);
        if (n < 0 && errno == EAGAIN)
            return; /* EPOLLOUT goes on */
        if (n < 0)
            fail("write");
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)n < c->out[i].iov_len ? (size_t)n : c->out[i].iov_len;
            c->out[i].iov_base = (char *)c->out[i].iov_base + part;
            c->out[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
}

static bool begin(struct conn *c)
{
    if (next == requests)
        return false;
    const struct line *l = &input.line[next++ % input.n];
    int n = snprintf(c->head, sizeof(c->head),
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                     "Content-Type: application/vnd.kafka.json.v2+json\r\n"
                     "Accept: application/vnd.kafka.v2+json\r\nContent-Length: %zu\r\n\r\n",
                     l->target, l->n);
    c->out[0] = (struct iovec){c->head, (size_t)n};
    c->out[1] = (struct iovec){(void *)l->body, l->n};
    c->got = 0;
    c->began = seconds_of(CLOCK_MONOTONIC);
    push(c);
    return true;
}

/* The length of the whole answer; 0: not known yet. */
static size_t answer_size(const struct conn *c)
{
    const char *end = memmem(c->in, c->got, "\r\n\r\n", 4);
    if (!end)
        return 0;
    for (const char *p = c->in; p < end; p++) {
        if (*p == '\n' && !strncasecmp(p + 1, "content-length:", 15))
            return (size_t)(end + 4 - c->in) + strtoul(p + 16, NULL, 10);
    }
    errno = EPROTO;
    fail("an answer without content-length");
    return 0;
}

static void pull(struct conn *c)
{
    for (;;) {
        ssize_t n = read(c->fd, c->in + c->got, sizeof(c->in) - 1 - c->got);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            fail(n ? "read" : "connection closed");
        c->got += (size_t)n;
        c->in[c->got] = 0;
        size_t size = answer_size(c);
        if (!size || c->got < size)
            continue;
        /* A record that failed says so in a 200. */
        if (!strncmp(c->in, "HTTP/1.1 200", 12) && !strstr(c->in, "\"error_code\":5"))
            ok++;
        latency[answered++] = (float)(seconds_of(CLOCK_MONOTONIC) - c->began);
        if (!begin(c))
            return;
    }
}

static struct conn *open_conn(int port, int epoll)
{
    struct conn *c = calloc(1, sizeof(*c));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!c)
        fail("memory");
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)))
        fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) || epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e))
        fail("epoll");
    return c;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fputs("load_http PORT CONNECTIONS REQUESTS FILE\n", stderr);
        return 64;
    }
    int port = (int)strtol(argv[1], NULL, 10), epoll = epoll_create1(0);
    size_t conns = strtoul(argv[2], NULL, 10);
    requests = strtoul(argv[3], NULL, 10);
    input = lines_read(argv[4]);
    latency = calloc(requests + 1, sizeof(*latency));
    if (!latency || epoll < 0)
        fail("start");
    double wall = seconds_of(CLOCK_MONOTONIC);
    for (size_t i = 0; i < conns; i++)
        begin(open_conn(port, epoll));
    while (answered < requests) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(epoll, events, EVENTS, 20000);
        if (n <= 0)
            fail("no answer for 20 s");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                pull(c);
        }
    }
    wall = seconds_of(CLOCK_MONOTONIC) - wall;
    qsort(latency, answered, sizeof(*latency), by_size);
    printf("{\"requests\":%zu,\"ok\":%zu,\"wall_s\":%.6f,\"p50_ms\":%.3f,\"p99_ms\":%.3f}\n",
           answered, ok, wall, latency[answered / 2] * 1e3, latency[answered * 99 / 100] * 1e3);
    return ok == requests ? 0 : 1;
}
