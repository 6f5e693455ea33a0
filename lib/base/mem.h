/* mem: allocation that zeroes and never returns NULL (out of memory ends the process).
 *
 * Every size that a peer can choose is checked against a limit before it gets here.
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdarg.h>
#include <stddef.h>

void *mem_alloc(size_t bytes);
/* New bytes past `old_bytes` are zero. mem_realloc(NULL, 0, n) allocates. */
void *mem_realloc(void *p, size_t old_bytes, size_t new_bytes);
/* Memory that is not zeroed, for large buffers that are filled at once. */
void *mem_alloc_raw(size_t bytes);
void *mem_dup(const void *p, size_t bytes);
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void mem_free(void *p);
/* malloc-compatible entry points for libraries that want their own (jansson): sizes are theirs. */
void *mem_lib_malloc(size_t bytes);
void mem_lib_free(void *p);

#define MEM_NEW(type) ((type *)mem_alloc(sizeof(type)))
#define MEM_ARRAY(type, n) ((type *)mem_alloc(sizeof(type) * (n)))
#define CLEANUP(fn) __attribute__((cleanup(fn)))
/* For `CLEANUP(mem_cleanup) char *s = …`. */
void mem_cleanup(void *pp);
