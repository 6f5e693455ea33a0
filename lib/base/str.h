/* str: slices of bytes that somebody else owns, and the small parsers that work on them.
 *
 * Threads: any. Nothing allocates unless it says so.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *p; /* not terminated; NULL only with n == 0, meaning "absent" */
    size_t n;      /* bytes */
};

#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})
#define STR_FMT "%.*s"
#define STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}
static inline struct str str_make(const char *p, size_t n)
{
    return (struct str){p, n};
}
static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_is(struct str a, const char *z)
{
    return str_eq(a, str_of(z));
}
bool str_ieq(struct str a, struct str b); /* ASCII letters without case */
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
int str_cmp(struct str a, struct str b); /* bytewise, shorter first */
struct str str_trim(struct str s);       /* blanks and tabs at both ends */
/* Cuts the part before `sep` off *rest; false when *rest is at its end (p == NULL after the last part). */
bool str_next(struct str *rest, char sep, struct str *ret_part);
/* Whole slice as a decimal number; no sign for u64, no blanks. 0 or ERR_BAD_DATA. */
int str_u64(struct str s, uint64_t *ret);
int str_i64(struct str s, int64_t *ret);
/* JSON number grammar; finite only; a number of 256 characters or more is copied for it */
int str_double(struct str s, double *ret);
/* "250ms 1s 5m 24h 7d" to milliseconds; "64KiB 16MiB 1GiB 512" (bytes) to bytes. 0 or ERR_BAD_DATA. */
int str_duration_ms(struct str s, uint64_t *ret_ms);
int str_bytes(struct str s, uint64_t *ret_bytes);
/* Longest such text is 24 bytes with its end; the shortest exact form ("90s", "16MiB"). Returns out. */
char *str_from_duration(uint64_t ms, char out[24]);
char *str_from_bytes(uint64_t bytes, char out[24]);
bool str_utf8_valid(struct str s);
/* Base64 (RFC 4648, padding needed; `url`: URL-safe alphabet, no padding). Sizes: str_base64_size(n) includes no end byte. */
size_t str_base64_size(size_t n);
size_t str_base64_encode(const void *p, size_t n, bool url, char *out); /* bytes written */
size_t str_base64_max(size_t n); /* most bytes that n characters decode to */
int str_base64_decode(struct str s, bool url, void *out, size_t *ret_n); /* 0 or ERR_BAD_DATA */
void str_hex(const void *p, size_t n, char *out); /* 2n characters, lower case, no end byte */
/* Percent-decoding of a URL path or query part ('+' stays unless `plus`). out holds s.n bytes. 0 or ERR_BAD_DATA. */
int str_url_decode(struct str s, bool plus, char *out, size_t *ret_n);
