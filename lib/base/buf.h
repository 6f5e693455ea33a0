/* buf: a growing buffer of bytes that cannot be made without a cap.
 *
 * Past the cap nothing is appended and `overflow` stays set until buf_reset: check once at the end.
 * data[len] is always 0 once something was appended. Threads: one at a time.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/str.h"
#include <stdarg.h>

struct buf {
    char *data;
    size_t len, cap, max; /* bytes */
    bool overflow;
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_deinit(struct buf *b); /* fine on a zeroed buf */
void buf_reset(struct buf *b);  /* len = 0, memory kept */
/* Room for n more bytes and the end byte; NULL past the cap. The caller writes and then calls buf_advance. */
char *buf_reserve(struct buf *b, size_t n);
void buf_advance(struct buf *b, size_t n);
bool buf_append(struct buf *b, const void *p, size_t n);
bool buf_str(struct buf *b, struct str s);
bool buf_z(struct buf *b, const char *z);
bool buf_char(struct buf *b, char c);
bool buf_u64(struct buf *b, uint64_t v);
bool buf_i64(struct buf *b, int64_t v);
/* shortest text that reads back the same; "1.0" for whole numbers; never NaN (null) */
bool buf_double(struct buf *b, double v);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
bool buf_json(struct buf *b, struct str s);
/* Takes the bytes out (NULL if none); the buf is empty and keeps its cap. The caller frees with mem_free. */
char *buf_steal(struct buf *b, size_t *ret_len);
void buf_consume(struct buf *b, size_t n); /* drops n bytes at the front */
static inline struct str buf_as_str(const struct buf *b)
{
    return str_make(b->data ? b->data : "", b->len);
}
