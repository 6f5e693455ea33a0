/* inbox: a mutex, a list and one uv_async_t.
 *
 * Wake-ups merge, so each one takes everything. The nodes in hand hang in the object, not on the stack, because the callback may
 * close the inbox: the rest then goes to `drop`.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/inbox.h"
#include "base/check.h"
#include "base/mem.h"

#define INBOX_TAG CHECK_TAG('i', 'n', 'b', 'x')

struct inbox {
    uint32_t tag;
    struct loop *loop;
    uv_async_t async;
    uv_mutex_t lock;
    struct list posted; /* under lock */
    struct list in_hand;
    inbox_fn *fn;
    void *ctx;
    bool closed;
};

static void take(struct inbox *in)
{
    uv_mutex_lock(&in->lock);
    list_splice(&in->in_hand, &in->posted);
    uv_mutex_unlock(&in->lock);
}

static void on_async(uv_async_t *async)
{
    struct inbox *in = CHECK_FROM(async->data, struct inbox, INBOX_TAG);
    take(in);
    /* The memory lives until the close callback, which cannot run inside this one. */
    for (struct list *n; !in->closed && (n = list_pop(&in->in_hand));)
        in->fn(in->ctx, n);
}

struct inbox *inbox_open(struct loop *loop, inbox_fn *fn, void *ctx)
{
    loop_assert(loop);
    struct inbox *in = MEM_NEW(struct inbox);
    in->tag = INBOX_TAG;
    in->loop = loop;
    in->fn = fn;
    in->ctx = ctx;
    list_init(&in->posted);
    list_init(&in->in_hand);
    CHECK(uv_mutex_init(&in->lock) == 0);
    CHECK(uv_async_init(loop_uv(loop), &in->async, on_async) == 0);
    in->async.data = in;
    return in;
}

static void on_async_close(uv_handle_t *h)
{
    struct inbox *in = CHECK_FROM(h->data, struct inbox, INBOX_TAG);
    uv_mutex_destroy(&in->lock);
    in->tag = 0;
    mem_free(in);
}

void inbox_close(struct inbox **ptr, inbox_fn *drop)
{
    struct inbox *in = *ptr;
    if (!in)
        return;
    loop_assert(in->loop);
    *ptr = NULL;
    in->closed = true;
    take(in);
    for (struct list *n; (n = list_pop(&in->in_hand));) {
        CHECK(drop != NULL);
        drop(in->ctx, n);
    }
    uv_close((uv_handle_t *)&in->async, on_async_close);
}

void inbox_post_mt(struct inbox *in, struct list *node)
{
    uv_mutex_lock(&in->lock);
    bool was_empty = list_empty(&in->posted);
    list_push(&in->posted, node);
    /* Sent under the lock: after it the loop may have taken the node and closed the inbox. */
    if (was_empty)
        CHECK(uv_async_send(&in->async) == 0);
    uv_mutex_unlock(&in->lock);
}
