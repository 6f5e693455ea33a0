/* httpd_priv: what the files of httpd share.
 *
 * httpd.c       listener, limits, statistics, the life of the whole
 * httpd_head.c  the strict scanner of HTTP/1 heads and chunks: pure functions on bytes
 * httpd_conn.c  one connection: HTTP/1.1, or handed to h2o when it opens with HTTP/2's preface
 * httpd_write.c what goes out on a connection of HTTP/1.1
 * httpd_call.c  requests, answers and streams, whatever the protocol
 * httpd_h2.c    HTTP/2 by h2o (the only file that includes its headers)
 *
 * h2o 2.2.5 takes HTTP/1 requests whose framing is not clean (conflicting lengths, bare line feeds, odd chunk sizes), so
 * HTTP/1 never reaches it.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/httpd.h"
#include "base/check.h"
#include "base/list.h"

#define HTTPD_TAG CHECK_TAG('h', 't', 'p', 'd')
#define HTTPD_CONN_TAG CHECK_TAG('h', 'c', 'o', 'n')
#define HTTPD_CALL_TAG CHECK_TAG('h', 'c', 'a', 'l')
#define HTTPD_MAX_FIELDS 100
#define HTTPD_BUFFER_CLASSES 5 /* 16 KiB to 256 KiB */

/* ---- head scanner ---- */
/* offsets from the first byte of the head: the memory may move while the body arrives */
struct httpd_field {
    uint16_t name, name_len, value, value_len;
};
struct httpd_head {
    enum httpd_method method;
    uint16_t method_len, path, path_len, query, query_len;
    bool has_query, http10, keep_alive, chunked, has_length, expect_continue;
    uint64_t length;
    unsigned n_fields;
    struct httpd_field fields[HTTPD_MAX_FIELDS];
};
/* Looks for the end of a head in p[0..n) from *at on (0 at first; kept by the caller). 1: *ret_end is one past it; 0: more bytes,
 * please; -400 or -431. */
int httpd_head_find(const char *p, size_t n, size_t max, size_t *at, size_t *ret_end);
/* Reads a whole head, and makes the field names lower case in place. 0, -400 or -431 with a text for people. */
int httpd_head_parse(char *p, size_t n, struct httpd_head *h, const char **ret_text);
struct str httpd_head_field(const struct httpd_head *h, const char *p, const char *name);
enum httpd_method httpd_method_of(struct str name);

/* Chunked bodies, decoded in place: p[0..*len) holds decoded bytes and then raw ones. */
struct httpd_chunks {
    enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER, CHUNK_DONE } state;
    uint64_t left;
    size_t trailer_bytes;
};
/* Decodes from `raw` on to `out`. 0: more bytes, please; 1: whole; -400 or -413. */
int httpd_chunks_decode(struct httpd_chunks *c, char *p, size_t len, size_t max_body,
                        size_t max_trailer, size_t *raw, size_t *out);

/* ---- calls ---- */
struct httpd_stream {
    struct httpd_call *call;
    httpd_want_fn *want;
    void (*gone)(void *ctx);
    void *ctx;
    struct loop_defer next;
    bool head_only;
};
struct httpd_call {
    uint32_t tag;
    bool open; /* not answered yet, and not gone */
    bool streaming;
    struct httpd *h;
    struct httpd_conn *conn; /* HTTP/1 */
    struct httpd_h2_call *h2;
    struct httpd_request req;
    void (*gone)(void *ctx);
    void *gone_ctx;
    struct httpd_stream stream;
};
/* counts it and asks the service */
void httpd_call_begin(struct httpd_call *call, struct httpd *h);
void httpd_call_gone(struct httpd_call *call); /* tells the service; fine on one that ended */

/* ---- connections ---- */
enum httpd_state { CONN_HEAD, CONN_BODY, CONN_CALL, CONN_LINGER, CONN_H2, CONN_CLOSED };
struct httpd_conn {
    uint32_t tag;
    enum httpd_state state;
    uv_tcp_t tcp;
    struct httpd *h;
    struct list node;
    char *in;
    /* of `in`: the request at hand begins at start, bytes are valid up to len */
    size_t start, len, cap;
    size_t scanned, head_len;
    struct httpd_head head;
    struct httpd_chunks chunks;
    /* first byte of the body; chunked: raw bytes from here on; one past the request */
    size_t body, raw, end;
    size_t reserved; /* bytes counted as arriving */
    struct httpd_call call;
    struct loop_timer timer;
    struct loop_defer next;
    uint64_t deadline_ms;
    size_t discarded;
    unsigned writes;
    bool reading, in_process, close_after, no_body, continued;
    bool spoken;    /* a first HTTP/1 head was seen: no preface any more */
    bool head_read; /* `head` is that of the request at hand */
    void *h2;       /* HTTP/2: httpd_h2.c's own */
};
void httpd_conn_open(struct httpd *h);
void httpd_conn_end(struct httpd_conn *c); /* now, whatever is open on it */
void httpd_conn_drain(struct httpd_conn *c);
void httpd_conn_deadline(struct httpd_conn *c, uint64_t after_ms);
void httpd_conn_written(struct httpd_conn *c, int status); /* one write less is under way */
/* The answer is on its way: make ready for the next request. */
void httpd_conn_finish(struct httpd_conn *c);
/* Writes both pieces now as far as the socket takes them; the rest is copied (or `owned` is kept, which holds the second). May end the
 * connection. */
void httpd_write(struct httpd_conn *c, struct str a, struct str b, char *owned);
void httpd_conn_answer(struct httpd_conn *c, const struct httpd_answer *a);
void httpd_conn_stream_head(struct httpd_conn *c, const struct httpd_answer *a);
void httpd_conn_stream_send(struct httpd_conn *c, struct str piece, bool last);
/* The handle is closed (also from HTTP/2): the last thing of a connection. */
void httpd_conn_on_closed(uv_handle_t *handle);

/* ---- HTTP/2 ---- */
struct httpd_h2;
#define HTTPD_H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
int httpd_h2_open(struct httpd *h, struct httpd_h2 **ret, struct err *e);
void httpd_h2_drain(struct httpd_h2 *h2);
/* no connection is left; its timers close by themselves */
void httpd_h2_dispose(struct httpd_h2 *h2);
void httpd_h2_free(struct httpd_h2 **h2); /* after the loop has closed them */
void httpd_h2_take(struct httpd_conn *c, const char *p, size_t n);
void httpd_h2_end(struct httpd_conn *c);
/* a connection may outlive the end by a write: its calls do not */
void httpd_h2_calls_gone(struct httpd_h2 *h2);
void httpd_h2_conn_free(struct httpd_conn *c);
void httpd_h2_answer(struct httpd_call *call, const struct httpd_answer *a);
void httpd_h2_stream_head(struct httpd_call *call, const struct httpd_answer *a);
void httpd_h2_stream_send(struct httpd_call *call, struct str piece, bool last);
void httpd_h2_stream_abort(struct httpd_call *call);
struct str httpd_h2_field(const void *native, const char *name);

/* ---- the whole ---- */
struct httpd {
    uint32_t tag;
    struct loop *loop;
    struct httpd_opts o;
    char *server_name;
    uv_tcp_t listener;
    uv_idle_t marker; /* closed last, so that its callback frees the whole */
    bool listening, waiting, draining, closed, h2_disposed;
    unsigned port;
    struct list conns;
    struct httpd_stats stats;
    struct httpd_h2 *h2;
    struct buf head; /* scratch for the head of an answer */
    struct httpd_buffer *spare[HTTPD_BUFFER_CLASSES];
    size_t spare_bytes;
    uint64_t date_s;
    char date[32];
};
const char *httpd_date(struct httpd *h);
/* Buffers of connections: those of the middle sizes are kept for reuse, up to a bound. *cap is rounded up. */
char *httpd_buffer_take(struct httpd *h, size_t *cap);
void httpd_buffer_give(struct httpd *h, char *p, size_t cap);
void httpd_conn_gone(struct httpd *h); /* one connection less: takes the next, or ends the whole */
/* Room for a body that is still arriving; false: refuse it. */
bool httpd_room_take(struct httpd *h, size_t bytes);
void httpd_room_give(struct httpd *h, size_t bytes);
void httpd_count_refused(struct httpd *h, int status);
/* An answer that httpd gives itself, counted. `body` is begun here, and holds a->body: the caller ends it. `req` may be NULL. */
void httpd_error_answer(struct httpd *h, const struct httpd_request *req, int status,
                        const char *text, struct buf *body, struct httpd_answer *a);
const char *httpd_reason(int status);
