/* check: guards against bugs, and tags of objects that travel through a void pointer.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdint.h>

/* Says file, line and condition, prints a stack trace, and aborts. On in every build. */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))
void check_failed(const char *file, int line, const char *cond) __attribute__((noreturn));

/* Takes an object out of a void pointer: `struct foo` must begin with `uint32_t tag` that holds FOO_TAG.
 *   struct foo *foo = CHECK_FROM(p, struct foo, FOO_TAG); */
#define CHECK_FROM(p, type, tagvalue) ((type *)check_tagged((p), (tagvalue), __FILE__, __LINE__))
void *check_tagged(void *p, uint32_t tag, const char *file, int line);
#define CHECK_TAG(a, b, c, d)                                                                      \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
