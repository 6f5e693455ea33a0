/* err: error codes and texts.
 *
 * Functions that can fail return 0 or a negative code: libuv's own codes pass through unchanged, ours lie below
 * -10000. Where a person will read it, a `struct err *` (may be NULL) takes code and text.
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdbool.h>

enum {
    ERR_USAGE = -10001,       /* a wrong flag on the command line */
    ERR_CONFIG = -10002,      /* a wrong value in the configuration */
    ERR_PROTOCOL = -10003,    /* a peer said what its protocol does not allow */
    ERR_LIMIT = -10004,       /* a named limit was passed */
    ERR_TIMEOUT = -10005,     /* a wait had no end in time */
    ERR_CLOSED = -10006,      /* the connection or object ended meanwhile */
    ERR_UNAVAILABLE = -10007, /* a dependency is away; nothing was done; retryable */
    ERR_EXISTS = -10008,      /* put-if-absent: somebody was first */
    ERR_NOT_FOUND = -10009,   /* no such object, topic, table, version */
    ERR_CONFLICT = -10010,    /* somebody else changed it meanwhile */
    ERR_UNKNOWN = -10011, /* the outcome is not known: may have happened; retry the same, or ask */
    ERR_CORRUPT = -10012, /* stored data contradicts itself */
    ERR_UNSUPPORTED = -10013, /* a feature that this version refuses, by name */
    ERR_CANCELLED = -10014,   /* dropped by the caller, an interrupt or a limit of time */
    ERR_BUSY = -10015,        /* a bounded queue is full; nothing was done; retryable */
    ERR_IO = -10016,          /* the disk or an object store failed */
    ERR_FATAL = -10017,       /* a library lost its state for good: the process must end */
    ERR_DENIED = -10018,      /* a peer refused the right to do it */
    ERR_NOSPACE = -10019,     /* the disk is full */
    ERR_TOO_LARGE = -10020, /* one record or message is over the size that a peer or limit allows */
    ERR_BAD_DATA = -10021,  /* bytes that are not what they should be (JSON, base64, UTF-8) */
    ERR_INTERNAL = -10022   /* a bug or a library's failure without a better name */
};

struct err {
    int code;
    char text[512];
};

/* Sets *e (if not NULL) and returns `code`. A text that is too long is cut. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Puts "prefix: " in front of the text that is there. Returns e->code. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "ERR_TIMEOUT", or libuv's name such as "ECONNREFUSED"; never NULL; static memory. */
const char *err_name(int code);
/* The one judge of retries: UNAVAILABLE, BUSY, TIMEOUT, UNKNOWN, IO, NOSPACE, CLOSED and the network's errno codes. */
bool err_retryable(int code);
