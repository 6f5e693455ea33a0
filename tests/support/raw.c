/* raw: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "raw.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

static int loopback(int flags, struct sockaddr_in *ret_sa, unsigned port)
{
    *ret_sa = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    ret_sa->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    assert_true(fd >= 0);
    return fd;
}

int raw_listen(unsigned *ret_port)
{
    struct sockaddr_in sa;
    socklen_t n = sizeof(sa);
    int fd = loopback(SOCK_NONBLOCK, &sa, 0), on = 1;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 10), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    *ret_port = ntohs(sa.sin_port);
    return fd;
}

unsigned raw_free_port(void)
{
    unsigned port;
    close(raw_listen(&port));
    return port;
}

int raw_connect(unsigned port)
{
    struct sockaddr_in sa;
    int fd = loopback(0, &sa, port);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0); /* the backlog takes it */
    return fd;
}

int raw_accept(int listener)
{
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

void raw_send(int fd, const void *p, size_t n)
{
    assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

ssize_t raw_recv(int fd, void *p, size_t n)
{
    ssize_t got = recv(fd, p, n, MSG_DONTWAIT);
    return got < 0 && errno != EAGAIN ? 0 : got;
}

size_t raw_drain(int fd, char *out, size_t have, size_t cap)
{
    ssize_t n = raw_recv(fd, out + have, cap - have);
    return n > 0 ? have + (size_t)n : have;
}

bool raw_ended(int fd)
{
    char bytes[4096];
    ssize_t n;
    while ((n = raw_recv(fd, bytes, sizeof(bytes))) > 0)
        ;
    return n == 0;
}

void raw_reset(int fd)
{
    struct linger hard = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    close(fd);
}
