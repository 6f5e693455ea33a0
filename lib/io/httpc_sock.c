/* httpc_sock: libcurl's sockets as uv_poll_t, its timer as a loop timer.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpc_priv.h"
#include "base/mem.h"

struct sock {
    uv_poll_t poll;
    struct httpc *c;
    curl_socket_t fd;
};

static void action(struct httpc *c, curl_socket_t fd, int what)
{
    int running;
    c->in_curl = true;
    /* Its only failures are a bad handle or memory; transfers report their own. */
    (void)curl_multi_socket_action(c->multi, fd, what, &running);
    c->in_curl = false;
    httpc_reap(c);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct sock *s = poll->data;
    int what = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        what |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        what |= CURL_CSELECT_OUT;
    action(s->c, s->fd, what);
}

static void on_sock_closed(uv_handle_t *handle)
{
    struct sock *s = handle->data;
    struct httpc *c = s->c;
    mem_free(s);
    c->socks--;
    httpc_free_if_ended(c);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *sock_ctx)
{
    struct httpc *c = CHECK_FROM(ctx, struct httpc, HTTPC_TAG);
    struct sock *s = sock_ctx;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            (void)uv_poll_stop(&s->poll);
            uv_close((uv_handle_t *)&s->poll, on_sock_closed);
            curl_multi_assign(c->multi, fd, NULL);
        }
        return 0;
    }
    if (!s) {
        s = MEM_NEW(struct sock);
        s->c = c;
        s->fd = fd;
        s->poll.data = s;
        if (uv_poll_init_socket(loop_uv(c->loop), &s->poll, fd) != 0) {
            mem_free(s);
            return -1; /* libcurl fails the transfer */
        }
        c->socks++;
        curl_multi_assign(c->multi, fd, s);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&s->poll, events, on_poll) == 0 ? 0 : -1;
}

static void on_timer(void *ctx)
{
    httpc_sock_kick(CHECK_FROM(ctx, struct httpc, HTTPC_TAG));
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *ctx)
{
    struct httpc *c = CHECK_FROM(ctx, struct httpc, HTTPC_TAG);
    (void)multi;
    if (timeout_ms < 0)
        loop_timer_stop(&c->timer);
    else
        loop_timer_start(c->loop, &c->timer, (uint64_t)timeout_ms, on_timer, c);
    return 0;
}

void httpc_sock_kick(struct httpc *c)
{
    action(c, CURL_SOCKET_TIMEOUT, 0);
}

void httpc_sock_open(struct httpc *c)
{
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
}
