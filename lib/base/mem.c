/* mem: allocation that zeroes and never fails.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/mem.h"
#include "base/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The settings of jemalloc, which looks for this name (its manual, "TUNING"); MALLOC_CONF in the environment goes before them. Two
 * arenas: most memory is taken in librdkafka's threads and given back in the loop's. Pages that are free go back to the system after a
 * second, by a thread of jemalloc's, so that a service that has fallen idle is small again. */
extern const char *malloc_conf;
const char *malloc_conf = "narenas:2,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";

static void *checked(void *p, size_t bytes)
{
    if (!p) {
        char text[80];
        int n = snprintf(text, sizeof text, "out of memory: %zu bytes\n", bytes);
        if (write(STDERR_FILENO, text, (size_t)n) != n)
            abort();
        abort();
    }
    return p;
}

void *mem_alloc(size_t bytes)
{
    return checked(calloc(1, bytes ? bytes : 1), bytes);
}

void *mem_realloc(void *p, size_t old_bytes, size_t new_bytes)
{
    char *q = checked(realloc(p, new_bytes ? new_bytes : 1), new_bytes);
    if (new_bytes > old_bytes)
        memset(q + old_bytes, 0, new_bytes - old_bytes);
    return q;
}

void *mem_alloc_raw(size_t bytes)
{
    return checked(malloc(bytes ? bytes : 1), bytes);
}

void *mem_dup(const void *p, size_t bytes)
{
    void *q = mem_alloc_raw(bytes);
    if (bytes)
        memcpy(q, p, bytes);
    return q;
}

char *mem_strndup(const char *s, size_t n)
{
    char *q = mem_alloc_raw(n + 1);
    if (n)
        memcpy(q, s, n);
    q[n] = 0;
    return q;
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

char *mem_printf(const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    char *s = mem_alloc_raw((size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

void mem_free(void *p)
{
    free(p);
}

void *mem_lib_malloc(size_t bytes)
{
    return checked(malloc(bytes ? bytes : 1), bytes);
}

void mem_lib_free(void *p)
{
    free(p);
}

void mem_cleanup(void *pp)
{
    void **p = pp;
    free(*p);
    *p = NULL;
}
