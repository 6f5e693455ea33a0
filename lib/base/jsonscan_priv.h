/* jsonscan_priv: what the parts of jsonscan share: stage 1 (C++), the checks of single values, the walker.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- jsonscan.cc: simdjson's first stage ---- */
enum jsonscan_stage1_result {
    JSON_S1_OK,
    JSON_S1_EMPTY,   /* nothing but blanks */
    JSON_S1_UTF8,    /* broken UTF-8 somewhere */
    JSON_S1_BROKEN,  /* an open string, or a control character in one */
    JSON_S1_TOO_LONG /* 4 GiB and more */
};
struct jsonscan_stage1;
/* NULL: out of memory. Capacity grows by itself. */
struct jsonscan_stage1 *jsonscan_stage1_new(void);
void jsonscan_stage1_free(struct jsonscan_stage1 *s);
size_t jsonscan_stage1_capacity(const struct jsonscan_stage1 *s); /* bytes of document */
/* Offsets of the first byte of every token, then `n` itself once; they stand until the next run. Out of memory: aborts. */
enum jsonscan_stage1_result jsonscan_stage1_run(struct jsonscan_stage1 *s, const char *p, size_t n,
                                                const uint32_t **ret_at, uint32_t *ret_n);

/* ---- jsonscan_value.c: single values, each from its first byte up to `end`, where the next token begins ---- */

/* All return NULL, or what is wrong, with the offending place in *ret_bad. */
const char *jsonscan_check_scalar(const char *p, const char *end, const char **ret_stop,
                                  const char **ret_bad);
/* p is behind the opening quote, end at the closing one. */
const char *jsonscan_check_escapes(const char *p, const char *end, const char **ret_bad);
/* The closing quote of the string that opens at p: nothing but blanks lies between it and the next token. */
static inline const char *jsonscan_string_end(const char *next_token)
{
    const char *q = next_token - 1;
    while (*q != '"')
        q--;
    return q;
}
static inline bool jsonscan_has_escapes(const char *p, size_t n)
{
    if (n >= 64)
        return memchr(p, '\\', n) != NULL;
    /* Eight bytes at a time: a byte of x is zero where p holds a backslash. */
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        x ^= 0x5c5c5c5c5c5c5c5cu;
        if ((x - 0x0101010101010101u) & ~x & 0x8080808080808080u)
            return true;
    }
    for (; n; n--, p++) {
        if (*p == '\\')
            return true;
    }
    return false;
}
/* Of a text that passed jsonscan_check_escapes; out holds n bytes. Returns the length. */
size_t jsonscan_unescape(const char *p, size_t n, char *out, bool *ret_lone);
/* The slow pass after stage 1 refused: where, and what. Sets *ret_utf8 when the reason is the encoding. */
const char *jsonscan_locate(const char *p, size_t n, size_t *ret_pos, bool *ret_utf8);

#ifdef __cplusplus
}
#endif
