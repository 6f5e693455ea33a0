/* httpc: calls on libcurl's easy handles, which are kept for reuse together with their header lists.
 *
 * libcurl sends a request again by itself when a kept connection ends without an answer. For a request that changes something that
 * would be a second one that nobody counts: its second start is refused (on_start), and the outcome reported as unknown.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpc_priv.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_IDLE = 256, KEEP_BODY = 64 << 10 };

struct httpc_call {
    struct list node;
    struct httpc *c;
    CURL *easy;
    struct curl_slist *headers;
    char *url, *method;
    struct buf body;
    httpc_done_fn *done;
    void *ctx;
    struct httpc_call **ref; /* the caller's pointer, cleared at the end */
    unsigned starts;
    bool repeatable, too_large, added;
    bool head_whole; /* libcurl takes a head that is cut in its middle as an answer */
    char error[CURL_ERROR_SIZE];
};

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct httpc_call *call = ctx;
    if (!buf_append(&call->body, p, size * n)) {
        call->too_large = true;
        return 0;
    }
    return n;
}

static size_t on_header(char *p, size_t size, size_t n, void *ctx)
{
    struct httpc_call *call = ctx;
    if (size * n == 2 && p[0] == '\r')
        call->head_whole = true;
    return size * n;
}

static int on_start(void *ctx, char *remote, char *local, int remote_port, int local_port)
{
    struct httpc_call *call = ctx;
    (void)remote, (void)local, (void)remote_port, (void)local_port;
    return call->starts++ && !call->repeatable ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static int map_code(CURLcode code, const struct httpc_call *call)
{
    if (call->too_large)
        return ERR_LIMIT;
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_OPERATION_TIMEDOUT:
        return ERR_TIMEOUT;
    case CURLE_COULDNT_CONNECT:
        return UV_ECONNREFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
        return UV_EAI_NONAME;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return ERR_USAGE;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return ERR_PROTOCOL;
    case CURLE_OUT_OF_MEMORY:
    case CURLE_FAILED_INIT:
    case CURLE_BAD_FUNCTION_ARGUMENT:
        return ERR_INTERNAL;
    default:
        return ERR_CLOSED; /* sending or receiving failed, cut in the middle, aborted by on_start */
    }
}

static void free_call(struct httpc_call *call)
{
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    mem_free(call->url);
    mem_free(call->method);
    buf_deinit(&call->body);
    mem_free(call);
}

/* Into the multi handle, or, when all HTTP/2 connections are busy, behind the others. */
static void launch(struct httpc_call *call)
{
    struct httpc *c = call->c;
    if (c->o.http2 && c->h2_busy >= c->h2_open && c->h2_open >= c->o.max_connections) {
        list_push(&c->waiting, &call->node);
        return;
    }
    list_push(&c->calls, &call->node);
    if (c->o.http2) {
        bool opener = c->h2_busy >= c->h2_open;
        if (opener)
            c->h2_open++;
        c->h2_busy++;
        curl_easy_setopt(call->easy, CURLOPT_HTTP_VERSION,
                         opener ? (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE
                                : (long)CURL_HTTP_VERSION_2_0);
        curl_easy_setopt(call->easy, CURLOPT_FRESH_CONNECT, opener ? 1L : 0L);
    }
    call->added = true;
    CHECK(curl_multi_add_handle(c->multi, call->easy) == CURLM_OK);
}

static void on_reap(void *ctx);

/* An HTTP/2 call ended; its connection is kept, or not. The next one may go. */
static void note_h2(struct httpc *c, bool kept)
{
    c->h2_busy--;
    if (!kept && c->h2_open)
        c->h2_open--;
    struct list *node = c->closed ? NULL : list_pop(&c->waiting);
    if (!node)
        return;
    launch(LIST_ENTRY(node, struct httpc_call, node));
    loop_defer(c->loop, &c->reap, on_reap, c);
}

/* Out of the multi handle, and kept for the next request or freed. */
static void retire(struct httpc_call *call)
{
    struct httpc *c = call->c;
    if (call->added)
        curl_multi_remove_handle(c->multi, call->easy);
    call->added = false;
    list_remove(&call->node);
    call->done = NULL;
    call->ref = NULL;
    if (c->closed || c->n_idle >= MAX_IDLE) {
        free_call(call);
        return;
    }
    if (call->body.cap > KEEP_BODY)
        buf_deinit(&call->body);
    list_push_front(&c->idle, &call->node);
    c->n_idle++;
}

static void end_call(struct httpc_call *call, CURLcode code)
{
    httpc_done_fn *done = call->done;
    void *ctx = call->ctx;
    long status = 0, sent = 0;
    curl_off_t uploaded = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &sent);
    curl_easy_getinfo(call->easy, CURLINFO_SIZE_UPLOAD_T, &uploaded);
    int rc = map_code(code, call);
    if (rc == 0 && !call->head_whole)
        rc = ERR_CLOSED;
    struct httpc_response res = {.status = (int)status,
                                 .sent = sent > 0 || uploaded > 0 || call->starts > 1};
    if (rc != 0)
        LOG(DEBUG, "call_failed", KV_ERR(rc), KV_STR("text", call->error));
    if (call->ref)
        *call->ref = NULL;
    /* The body outlives the callback although the handle may be reused in it. */
    size_t n = 0;
    char *body = NULL;
    if (rc == 0) {
        body = buf_steal(&call->body, &n);
        res.body = str_make(body ? body : "", n);
    }
    long version = 0;
    curl_easy_getinfo(call->easy, CURLINFO_HTTP_VERSION, &version);
    bool h2 = rc == 0 && version == CURL_HTTP_VERSION_2_0;
    struct httpc *c = call->c;
    retire(call);
    if (c->o.http2)
        note_h2(c, h2);
    done(ctx, rc, &res);
    mem_free(body);
}

void httpc_reap(struct httpc *c)
{
    CURLMsg *msg;
    int left;
    CHECK(!c->in_curl);
    while (!c->closed && (msg = curl_multi_info_read(c->multi, &left)) != NULL) {
        struct httpc_call *call = NULL;
        if (msg->msg != CURLMSG_DONE)
            continue;
        CURLcode code = msg->data.result;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        c->in_curl = true; /* a close in the callback must not free c under this loop */
        end_call(call, code);
        c->in_curl = false;
    }
    httpc_free_if_ended(c);
}

static void on_reap(void *ctx)
{
    httpc_sock_kick(CHECK_FROM(ctx, struct httpc, HTTPC_TAG));
}

int httpc_open(struct loop *loop, const struct httpc_opts *o, struct httpc **ret, struct err *e)
{
    static bool ready;
    if (!ready && curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
        return err_set(e, ERR_INTERNAL, "libcurl cannot start");
    ready = true;
    struct httpc *c = MEM_NEW(struct httpc);
    c->tag = HTTPC_TAG;
    c->loop = loop;
    c->o = *o;
    if (!c->o.max_connections)
        c->o.max_connections = 16;
    if (!c->o.max_body_bytes)
        c->o.max_body_bytes = 16 << 20;
    if (!c->o.connect_timeout_ms)
        c->o.connect_timeout_ms = 5000;
    list_init(&c->calls);
    list_init(&c->idle);
    list_init(&c->waiting);
    c->multi = curl_multi_init();
    CHECK(c->multi);
    long n = (long)c->o.max_connections;
    curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, n);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, n);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, n);
    curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    httpc_sock_open(c);
    *ret = c;
    return 0;
}

void httpc_free_if_ended(struct httpc *c)
{
    if (!c->closed || c->socks || c->in_curl)
        return;
    loop_timer_stop(&c->timer);
    loop_defer_cancel(&c->reap);
    c->tag = 0;
    mem_free(c);
}

void httpc_close(struct httpc **pc)
{
    struct httpc *c = *pc;
    if (!c)
        return;
    *pc = NULL;
    c->closed = true;
    list_splice(&c->calls, &c->waiting);
    LIST_EACH (it, tmp, &c->calls) {
        struct httpc_call *call = LIST_ENTRY(it, struct httpc_call, node);
        if (call->ref)
            *call->ref = NULL;
        retire(call);
    }
    LIST_EACH (it, tmp, &c->idle) {
        list_remove(it);
        free_call(LIST_ENTRY(it, struct httpc_call, node));
    }
    curl_multi_cleanup(c->multi);
    c->multi = NULL;
    loop_timer_stop(&c->timer);
    loop_defer_cancel(&c->reap);
    httpc_free_if_ended(c);
}

static struct httpc_call *new_call(struct httpc *c)
{
    struct list *node = list_pop(&c->idle);
    if (node) {
        c->n_idle--;
        return LIST_ENTRY(node, struct httpc_call, node);
    }
    struct httpc_call *call = MEM_NEW(struct httpc_call);
    list_init(&call->node);
    call->c = c;
    call->easy = curl_easy_init();
    CHECK(call->easy);
    CURL *h = call->easy;
    curl_easy_setopt(h, CURLOPT_PRIVATE, call);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, call->error);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, call);
    curl_easy_setopt(h, CURLOPT_PREREQFUNCTION, on_start);
    curl_easy_setopt(h, CURLOPT_PREREQDATA, call);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)c->o.connect_timeout_ms);
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    return call;
}

/* Keeps the list of the last request when it is the same one. */
static void set_headers(struct httpc_call *call, const char *const *headers)
{
    static const char *const fixed[] = {"Expect:", "User-Agent: sluice"};
    struct curl_slist *at = call->headers;
    bool same = at != NULL;
    for (size_t i = 0; i < 2 && same; i++, at = at->next)
        same = at && strcmp(at->data, fixed[i]) == 0;
    for (size_t i = 0; same && headers && headers[i]; i++, at = at->next) {
        same = at && strcmp(at->data, headers[i]) == 0;
        if (!same)
            break;
    }
    if (same && !at)
        return;
    curl_slist_free_all(call->headers);
    struct curl_slist *list = NULL;
    for (size_t i = 0; i < 2; i++)
        list = curl_slist_append(list, fixed[i]);
    for (size_t i = 0; headers && headers[i]; i++)
        list = curl_slist_append(list, headers[i]);
    call->headers = list;
    curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, list);
}

static void set_method(struct httpc_call *call, const struct httpc_request *req)
{
    CURL *h = call->easy;
    bool head = strcmp(req->method, "HEAD") == 0, get = strcmp(req->method, "GET") == 0;
    call->repeatable = head || get;
    if (!call->method || strcmp(call->method, req->method) != 0) {
        mem_free(call->method);
        call->method = mem_strdup(req->method);
        curl_easy_setopt(h, CURLOPT_NOBODY, head ? 1L : 0L);
        if (!head)
            curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, head || get ? NULL : req->method);
    }
    if (!head && !get) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body.n);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, req->body.p ? req->body.p : "");
    }
}

int httpc_send(struct httpc *c, const struct httpc_request *req, httpc_done_fn *done, void *ctx,
               struct httpc_call **ret_call)
{
    CHECK(c->tag == HTTPC_TAG && !c->closed);
    struct httpc_call *call = new_call(c);
    if (!call->url || strcmp(call->url, req->url) != 0) {
        mem_free(call->url);
        call->url = mem_strdup(req->url);
        curl_easy_setopt(call->easy, CURLOPT_URL, call->url);
    }
    set_headers(call, req->headers);
    set_method(call, req);
    curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS,
                     (long)(req->timeout_ms ? req->timeout_ms : 30000));
    buf_deinit(&call->body);
    buf_init(&call->body, c->o.max_body_bytes);
    call->done = done;
    call->ctx = ctx;
    call->starts = 0;
    call->too_large = call->head_whole = false;
    call->error[0] = 0;
    launch(call); /* only sets libcurl's timer: nothing of the call runs before this returns */
    loop_defer(c->loop, &c->reap, on_reap, c);
    call->ref = ret_call;
    if (ret_call)
        *ret_call = call;
    return 0;
}

void httpc_cancel(struct httpc_call **pcall)
{
    struct httpc_call *call = *pcall;
    if (!call)
        return;
    *pcall = NULL;
    struct httpc *c = call->c;
    bool added = call->added;
    retire(call);
    if (c->o.http2 && added)
        note_h2(c, false);
}
