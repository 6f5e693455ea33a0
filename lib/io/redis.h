/* redis: commands to one Redis, pipelined, over a TCP socket of our own (hiredis formats and reads replies).
 *
 * Connects by itself and comes back by itself (backoff 50 ms to 2 s, addresses resolved anew). A lost connection fails all commands in
 * flight once with ERR_UNAVAILABLE (they may have run). Commands while it is down fail at once. AUTH and SELECT from the URL.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "io/loop.h"

struct redis;
typedef void redis_state_fn(void *ctx, bool connected, const char *detail);

struct redis_opts {
    const char *url;             /* redis://[user[:password]@]host[:port][/db] */
    uint64_t connect_timeout_ms; /* 0: 1 s */
    uint64_t command_timeout_ms; /* 0: 1 s; a command over it cuts the connection */
    unsigned max_in_flight;      /* 0: 65536 commands, then ERR_BUSY */
    size_t max_reply_bytes;      /* 0: 1 MiB a reply */
    redis_state_fn *on_state;    /* may be NULL */
    void *ctx;
};

enum redis_kind { REDIS_NIL, REDIS_INT, REDIS_STR, REDIS_STATUS, REDIS_ERROR, REDIS_ARRAY };
struct redis_reply {
    enum redis_kind kind;
    int64_t i;
    struct str s;                    /* STR, STATUS, ERROR */
    const struct redis_reply *items; /* ARRAY */
    size_t n;
};
/* rc 0: reply valid during the call (an ERROR reply of the server is rc 0 with kind REDIS_ERROR). Else reply is NULL. */
typedef void redis_done_fn(void *ctx, int rc, const struct redis_reply *reply);

/* ERR_CONFIG for a bad URL */
int redis_open(struct loop *loop, const struct redis_opts *o, struct redis **ret, struct err *e);
void redis_close(struct redis **r); /* no callback after it */
bool redis_connected(const struct redis *r);
unsigned redis_in_flight(const struct redis *r);
/* Binary-safe; copies the arguments. 0 and done runs once, later; or ERR_UNAVAILABLE / ERR_BUSY (also with 64 MiB
 * unsent) / ERR_TOO_LARGE (no or too many arguments) and never. done may be NULL. */
int redis_command(struct redis *r, const struct str *argv, size_t argc, redis_done_fn *done,
                  void *ctx);
/* Callbacks of this ctx will not run. */
void redis_forget(struct redis *r, void *ctx);
