/* httpd: the listener, the limits that all connections share, statistics, and the life of the whole.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/net_priv.h"
#include <time.h>

const char *httpd_reason(int status)
{
    switch (status) {
    case 100:
        return "Continue";
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 204:
        return "No Content";
    case 207:
        return "Multi-Status";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 406:
        return "Not Acceptable";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 412:
        return "Precondition Failed";
    case 413:
        return "Content Too Large";
    case 415:
        return "Unsupported Media Type";
    case 422:
        return "Unprocessable Content";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    case 507:
        return "Insufficient Storage";
    default:
        return status < 400 ? "OK" : "Error";
    }
}

const char *httpd_date(struct httpd *h)
{
    uint64_t s = clock_wall_ms() / 1000;
    if (s != h->date_s) {
        time_t t = (time_t)s;
        struct tm tm;
        gmtime_r(&t, &tm);
        if (strftime(h->date, sizeof h->date, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 0)
            h->date[0] = 0;
        h->date_s = s;
    }
    return h->date;
}

enum { SMALLEST_SPARE = 16 << 10, SPARE_MAX = 4 << 20 };
struct httpd_buffer {
    struct httpd_buffer *next;
};

static unsigned buffer_class(size_t cap)
{
    unsigned i = 0;
    while (i < HTTPD_BUFFER_CLASSES && cap > (size_t)SMALLEST_SPARE << i)
        i++;
    return i;
}

char *httpd_buffer_take(struct httpd *h, size_t *cap)
{
    unsigned i = buffer_class(*cap);
    if (*cap <= SMALLEST_SPARE / 2 || i == HTTPD_BUFFER_CLASSES)
        return mem_alloc_raw(*cap);
    *cap = (size_t)SMALLEST_SPARE << i;
    struct httpd_buffer *b = h->spare[i];
    if (!b)
        return mem_alloc_raw(*cap);
    h->spare[i] = b->next;
    h->spare_bytes -= *cap;
    return (char *)b;
}

void httpd_buffer_give(struct httpd *h, char *p, size_t cap)
{
    unsigned i = buffer_class(cap);
    if (!p || i == HTTPD_BUFFER_CLASSES || cap != (size_t)SMALLEST_SPARE << i ||
        h->spare_bytes + cap > SPARE_MAX) {
        mem_free(p);
        return;
    }
    struct httpd_buffer *b = (struct httpd_buffer *)p;
    b->next = h->spare[i];
    h->spare[i] = b;
    h->spare_bytes += cap;
}

bool httpd_room_take(struct httpd *h, size_t bytes)
{
    if (bytes > h->o.max_arriving_bytes ||
        h->stats.arriving_bytes > h->o.max_arriving_bytes - bytes)
        return false;
    h->stats.arriving_bytes += bytes;
    return true;
}

void httpd_room_give(struct httpd *h, size_t bytes)
{
    CHECK(bytes <= h->stats.arriving_bytes);
    h->stats.arriving_bytes -= bytes;
}

void httpd_count_refused(struct httpd *h, int status)
{
    static const int statuses[] = {400, 404, 408, 413, 431, 503};
    h->stats.refused_total++;
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i] == status)
            h->stats.refused_by_status[i]++;
}

void httpd_error_answer(struct httpd *h, const struct httpd_request *req, int status,
                        const char *text, struct buf *body, struct httpd_answer *a)
{
    httpd_count_refused(h, status);
    buf_init(body, 4096);
    *a = (struct httpd_answer){.status = status, .content_type = "text/plain"};
    if (status == 503)
        a->headers[0].name = "retry-after", a->headers[0].value = STR("1");
    if (h->o.on_error && !h->closed)
        h->o.on_error(h->o.ctx, status, text, body, &a->content_type);
    else
        buf_printf(body, "%d %s: %s\n", status, httpd_reason(status), text);
    if (h->o.on_error_fields && !h->closed)
        h->o.on_error_fields(h->o.ctx, req, a);
    a->body = buf_as_str(body);
}

void httpd_get_stats(const struct httpd *h, struct httpd_stats *ret)
{
    *ret = h->stats;
}

unsigned httpd_port(const struct httpd *h)
{
    return h->port;
}

/* ---- the end of the whole ---- */

static void on_marker_closed(uv_handle_t *handle)
{
    struct httpd *h = CHECK_FROM(handle->data, struct httpd, HTTPD_TAG);
    httpd_h2_free(&h->h2);
    for (unsigned i = 0; i < HTTPD_BUFFER_CLASSES; i++) {
        for (struct httpd_buffer *b; (b = h->spare[i]) != NULL;) {
            h->spare[i] = b->next;
            mem_free(b);
        }
    }
    buf_deinit(&h->head);
    mem_free(h->server_name);
    h->tag = 0;
    mem_free(h);
}

/* Handles are finished in the reverse order of their closing within a turn: the marker, closed first, comes last. */
static void end_if_empty(struct httpd *h)
{
    if (!h->closed || h->stats.connections || h->listening || h->h2_disposed)
        return;
    h->h2_disposed = true;
    uv_close((uv_handle_t *)&h->marker, on_marker_closed);
    if (h->h2)
        httpd_h2_dispose(h->h2);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct httpd *h = CHECK_FROM(handle->data, struct httpd, HTTPD_TAG);
    h->listening = false;
    end_if_empty(h);
}

static void stop_listening(struct httpd *h)
{
    if (h->listening && !uv_is_closing((uv_handle_t *)&h->listener))
        uv_close((uv_handle_t *)&h->listener, on_listener_closed);
}

void httpd_conn_gone(struct httpd *h)
{
    h->stats.connections--;
    if (h->waiting && h->listening && !uv_is_closing((uv_handle_t *)&h->listener)) {
        h->waiting = false;
        httpd_conn_open(h);
    }
    end_if_empty(h);
}

void httpd_drain(struct httpd *h)
{
    if (h->draining)
        return;
    h->draining = true;
    stop_listening(h);
    if (h->h2)
        httpd_h2_drain(h->h2);
    LIST_EACH (it, tmp, &h->conns) {
        struct httpd_conn *c = LIST_ENTRY(it, struct httpd_conn, node);
        if (c->state != CONN_H2)
            httpd_conn_drain(c);
    }
}

void httpd_close(struct httpd **ph)
{
    struct httpd *h = *ph;
    if (!h)
        return;
    *ph = NULL;
    h->closed = h->draining = true;
    stop_listening(h);
    LIST_EACH (it, tmp, &h->conns)
        httpd_conn_end(LIST_ENTRY(it, struct httpd_conn, node));
    if (h->h2)
        httpd_h2_calls_gone(h->h2);
    end_if_empty(h);
}

/* ---- the beginning ---- */

static void on_connection(uv_stream_t *listener, int status)
{
    struct httpd *h = CHECK_FROM(listener->data, struct httpd, HTTPD_TAG);
    if (status != 0) {
        LOG(WARN, "accept_failed", KV_ERR(status));
        return;
    }
    if (h->stats.connections >= h->o.max_connections) {
        /* libuv does not listen on until this one is accepted. */
        h->waiting = true;
        h->stats.accept_paused_total++;
        return;
    }
    httpd_conn_open(h);
}

int httpd_open(struct loop *loop, const struct httpd_opts *o, struct httpd **ret, struct err *e)
{
    struct httpd *h = MEM_NEW(struct httpd);
    h->tag = HTTPD_TAG;
    h->loop = loop;
    h->o = *o;
    h->o.listen = NULL;
    if (h->o.max_header_bytes > 60000)
        h->o.max_header_bytes = 60000; /* offsets in a head are 16 bits */
    h->server_name = o->server_name ? mem_strdup(o->server_name) : NULL;
    list_init(&h->conns);
    buf_init(&h->head, (size_t)1 << 30);
    h->listener.data = h->marker.data = h;
    CHECK(uv_idle_init(loop_uv(loop), &h->marker) == 0);
    h->listening = true;
    int rc = net_listen(loop, &h->listener, o->listen, on_connection, &h->port, e);
    if (rc == 0 && o->h2c)
        rc = httpd_h2_open(h, &h->h2, e);
    if (rc != 0) {
        httpd_close(&h);
        return rc;
    }
    *ret = h;
    return 0;
}
