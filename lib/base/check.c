/* check: ends the process on a bug, with what is known about it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/check.h"
#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void check_failed(const char *file, int line, const char *cond)
{
    /* Neither allocation nor the logger's lock: the bug may lie in them. */
    static _Thread_local int inside;
    if (!inside++) {
        char text[512];
        int n = snprintf(text, sizeof text, "CHECK failed: %s:%d: %s\n", file, line, cond);
        n = n < (int)sizeof text ? n : (int)sizeof text - 1;
        if (write(STDERR_FILENO, text, (size_t)n) == n) {
            void *frames[64];
            backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
        }
    }
    abort();
}

void *check_tagged(void *p, uint32_t tag, const char *file, int line)
{
    if (!p)
        check_failed(file, line, "object is NULL");
    if (*(const uint32_t *)p != tag)
        check_failed(file, line, "object is of another kind or was freed");
    return p;
}
