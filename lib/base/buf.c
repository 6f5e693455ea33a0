/* buf: a growing buffer of bytes with a cap.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){.max = max_bytes};
}

void buf_deinit(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
    b->overflow = false;
    if (b->data)
        b->data[0] = 0;
}

char *buf_reserve(struct buf *b, size_t n)
{
    /* Once over, always over: nothing may be appended behind a gap. */
    if (b->overflow || n > b->max || b->len > b->max - n) {
        b->overflow = true;
        return NULL;
    }
    if (b->len + n + 1 > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 64;
        if (cap > b->max + 1)
            cap = b->max + 1;
        if (cap < b->len + n + 1)
            cap = b->len + n + 1;
        if (b->len) {
            char *data = mem_alloc_raw(cap);
            memcpy(data, b->data, b->len);
            mem_free(b->data);
            b->data = data;
        } else {
            mem_free(b->data);
            b->data = mem_alloc_raw(cap);
        }
        b->cap = cap;
    }
    b->data[b->len] = 0;
    return b->data + b->len;
}

void buf_advance(struct buf *b, size_t n)
{
    CHECK(b->len + n < b->cap);
    b->len += n;
    b->data[b->len] = 0;
}

bool buf_append(struct buf *b, const void *p, size_t n)
{
    char *to = buf_reserve(b, n);
    if (!to)
        return false;
    if (n)
        memcpy(to, p, n);
    b->len += n;
    b->data[b->len] = 0;
    return true;
}

bool buf_str(struct buf *b, struct str s)
{
    return buf_append(b, s.p, s.n);
}

bool buf_z(struct buf *b, const char *z)
{
    return buf_append(b, z, strlen(z));
}

bool buf_char(struct buf *b, char c)
{
    return buf_append(b, &c, 1);
}

bool buf_u64(struct buf *b, uint64_t v)
{
    char text[20], *p = text + sizeof text;
    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    return buf_append(b, p, (size_t)(text + sizeof text - p));
}

bool buf_i64(struct buf *b, int64_t v)
{
    if (v >= 0)
        return buf_u64(b, (uint64_t)v);
    return buf_char(b, '-') && buf_u64(b, 0 - (uint64_t)v);
}

bool buf_double(struct buf *b, double v)
{
    if (!isfinite(v))
        return buf_append(b, "null", 4);
    char text[40];
    int n = 0;
    for (int digits = 15; digits <= 17; digits++) {
        n = snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    if (!memchr(text, '.', (size_t)n) && !memchr(text, 'e', (size_t)n)) {
        text[n++] = '.';
        text[n++] = '0';
    }
    return buf_append(b, text, (size_t)n);
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    if (b->overflow)
        return false;
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    size_t room = b->cap > b->len ? b->cap - b->len : 0;
    int n = vsnprintf(room ? b->data + b->len : NULL, room, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    bool ok = true;
    if ((size_t)n >= room) {
        char *to = buf_reserve(b, (size_t)n);
        if (to)
            vsnprintf(to, (size_t)n + 1, fmt, again);
        else
            ok = false;
    }
    va_end(again);
    if (ok)
        b->len += (size_t)n;
    return ok;
}

/* Length of the well-formed UTF-8 sequence at p, or 0. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xc2 ? 0
                 : p[0] < 0xe0 ? 2
                 : p[0] < 0xf0 ? 3
                 : p[0] < 0xf5 ? 4
                               : 0;
    return len && len <= n && str_utf8_valid(str_make((const char *)p, len)) ? len : 0;
}

bool buf_json(struct buf *b, struct str s)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)s.p;
    buf_char(b, '"');
    size_t from = 0, i = 0;
    while (i < s.n) {
        unsigned char c = p[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c < 0x7f) {
            i++;
            continue;
        }
        size_t len = c >= 0x80 ? utf8_len(p + i, s.n - i) : 0;
        if (len) {
            i += len;
            continue;
        }
        buf_append(b, s.p + from, i - from);
        char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        const char *shorts = "\"\"\\\\\bb\ff\nn\rr\tt";
        size_t k = 0;
        while (shorts[k] && shorts[k] != (char)c)
            k += 2;
        if (c >= 0x80) {
            buf_append(b, "\xef\xbf\xbd", 3);
        } else if (shorts[k]) {
            esc[1] = shorts[k + 1];
            buf_append(b, esc, 2);
        } else {
            buf_append(b, esc, 6);
        }
        from = ++i;
    }
    if (s.n > from)
        buf_append(b, s.p + from, s.n - from);
    return buf_char(b, '"');
}

char *buf_steal(struct buf *b, size_t *ret_len)
{
    char *data = b->data;
    if (ret_len)
        *ret_len = b->len;
    *b = (struct buf){.max = b->max};
    return data;
}

void buf_consume(struct buf *b, size_t n)
{
    CHECK(n <= b->len);
    if (!n)
        return;
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}
