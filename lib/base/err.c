/* err: error codes and texts.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <uv.h> /* for UV_ERRNO_MAP only: uv_err_name leaks memory on a code that it does not know */

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (!e)
        return code;
    /* Through a copy: an argument may be the text that is about to be overwritten. */
    char text[sizeof e->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(e->text, text, sizeof text);
    e->code = code;
    return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (!e)
        return ERR_INTERNAL;
    char prefix[sizeof e->text], text[sizeof e->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    memcpy(text, e->text, sizeof text);
    size_t n = strlen(prefix);
    if (n + 3 > sizeof e->text)
        n = sizeof e->text - 3;
    memcpy(e->text, prefix, n);
    memcpy(e->text + n, ": ", 3);
    size_t room = sizeof e->text - n - 3, len = strnlen(text, sizeof text);
    len = len < room ? len : room;
    memcpy(e->text + n + 2, text, len);
    e->text[n + 2 + len] = 0;
    return e->code;
}

const char *err_name(int code)
{
    switch (code) {
    case 0:
        return "OK";
#define OURS(name)                                                                                 \
    case name:                                                                                     \
        return #name;
        OURS(ERR_USAGE)
        OURS(ERR_CONFIG)
        OURS(ERR_PROTOCOL)
        OURS(ERR_LIMIT)
        OURS(ERR_TIMEOUT)
        OURS(ERR_CLOSED)
        OURS(ERR_UNAVAILABLE)
        OURS(ERR_EXISTS)
        OURS(ERR_NOT_FOUND)
        OURS(ERR_CONFLICT)
        OURS(ERR_UNKNOWN)
        OURS(ERR_CORRUPT)
        OURS(ERR_UNSUPPORTED)
        OURS(ERR_CANCELLED)
        OURS(ERR_BUSY)
        OURS(ERR_IO)
        OURS(ERR_FATAL)
        OURS(ERR_DENIED)
        OURS(ERR_NOSPACE)
        OURS(ERR_TOO_LARGE)
        OURS(ERR_BAD_DATA)
        OURS(ERR_INTERNAL)
#undef OURS
#define UV_NAME(name, text)                                                                        \
    case UV_##name:                                                                                \
        return #name;
        UV_ERRNO_MAP(UV_NAME)
#undef UV_NAME
    default:
        return "ERR_WITHOUT_A_NAME";
    }
}

bool err_retryable(int code)
{
    switch (code) {
    case ERR_UNAVAILABLE:
    case ERR_BUSY:
    case ERR_TIMEOUT:
    case ERR_UNKNOWN:
    case ERR_IO:
    case ERR_NOSPACE:
    case ERR_CLOSED:
    case UV_ECONNREFUSED:
    case UV_ECONNRESET:
    case UV_ECONNABORTED:
    case UV_ETIMEDOUT:
    case UV_EPIPE:
    case UV_EOF:
    case UV_ENETUNREACH:
    case UV_ENETDOWN:
    case UV_EHOSTUNREACH:
    case UV_ENOTCONN:
    case UV_EAGAIN:
    case UV_EAI_AGAIN:
        return true;
    default:
        return false;
    }
}
