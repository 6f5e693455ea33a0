/* inbox: the one way from another thread to the loop.
 *
 * Posted nodes arrive in order, in one wake-up. Threads: inbox_post_mt from any, all else on the loop.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/loop.h"

struct inbox;
/* `fn` gets each node on the loop thread; the node belongs to it from then on. */
typedef void inbox_fn(void *ctx, struct list *node);
struct inbox *inbox_open(struct loop *loop, inbox_fn *fn, void *ctx);
/* Nodes that are still in it are handed to `fn` of inbox_close (may be NULL when none can be). No other call to the ordinary fn follows. */
void inbox_close(struct inbox **inbox, inbox_fn *drop);
void inbox_post_mt(struct inbox *inbox, struct list *node);
