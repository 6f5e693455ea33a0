/* copies: decides which rows of a batch are copies, by marks in Redis. A mark means: a row with this content is in this table.
 *
 * A copy is a row that comes after its equal in the same batch, or whose mark is there. Marks are set only when a commit is known to have
 * landed. Redis away: nothing but copies within the batch is seen, and that is counted. Keys: sluice:{<user>}:copy:<22 characters>.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/redis.h"
#include "sink-s3/batch.h"

struct copies;
struct copies_opts {
    const char *redis_url, *user;
    uint64_t window_ms;
    redis_state_fn *on_state; /* may be NULL */
    void *ctx;
};
int copies_open(struct loop *loop, const struct copies_opts *o, struct copies **ret, struct err *e);
void copies_close(struct copies **c);
bool copies_connected(const struct copies *c);

/* Fills `copy` of every piece. done runs once, later, with the number of rows that nobody could be asked about (Redis away).
 * One at a time per batch; the batch does not change until done ran. */
struct copies_ask;
typedef void copies_done_fn(void *ctx, uint64_t unasked);
struct copies_ask *copies_look(struct copies *c, struct batch *b, copies_done_fn *done, void *ctx);
void copies_cancel(struct copies_ask **ask); /* done will not run; NULL is fine */
/* Sets the marks of all rows of a batch that has landed. Returns how many could not be sent. */
uint64_t copies_set(struct copies *c, const struct batch *b);
