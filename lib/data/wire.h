/* wire: protobuf's wire format, as much of it as spans need: varints, tags, length-delimited slices, doubles.
 *
 * Readers never look past the end they are given. Threads: any.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/str.h"

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
#define WIRE_TAG(field, type) ((uint32_t)(field) << 3 | (uint32_t)(type))

static inline size_t wire_varint_size(uint64_t v)
{
    return ((size_t)(63 - __builtin_clzll(v | 1)) * 9 + 73) / 64;
}
static inline char *wire_put_varint(char *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (char)(v | 0x80);
    *p++ = (char)v;
    return p;
}
static inline char *wire_put_bytes(char *p, unsigned field, struct str s)
{
    p = wire_put_varint(p, WIRE_TAG(field, WIRE_BYTES));
    p = wire_put_varint(p, s.n);
    if (s.n)
        memcpy(p, s.p, s.n);
    return p + s.n;
}
static inline size_t wire_bytes_size(unsigned field, size_t n)
{
    return wire_varint_size(WIRE_TAG(field, 0)) + wire_varint_size(n) + n;
}
static inline char *wire_put_int(char *p, unsigned field, int64_t v)
{
    p = wire_put_varint(p, WIRE_TAG(field, WIRE_VARINT));
    return wire_put_varint(p, (uint64_t)v);
}
static inline size_t wire_int_size(unsigned field, int64_t v)
{
    return wire_varint_size(WIRE_TAG(field, 0)) + wire_varint_size((uint64_t)v);
}
char *wire_put_double(char *p, unsigned field, double v); /* 9 bytes for fields up to 15 */

/* All take from the front of *rest; false: these bytes are no such thing, *rest is then of no use. */
bool wire_get_long_varint(struct str *rest, uint64_t *ret); /* of any length */
static inline bool wire_get_varint(struct str *rest, uint64_t *ret)
{
    const unsigned char *p = (const unsigned char *)rest->p;
    size_t n = 1;
    if (rest->n && p[0] < 0x80) {
        *ret = p[0];
    } else if (rest->n > 1 && p[1] < 0x80) {
        *ret = (p[0] & 0x7f) | (uint64_t)p[1] << 7;
        n = 2;
    } else {
        return wire_get_long_varint(rest, ret);
    }
    rest->p += n;
    rest->n -= n;
    return true;
}
static inline bool wire_take(struct str *rest, size_t n, struct str *ret)
{
    if (rest->n < n)
        return false;
    *ret = str_make(rest->p, n);
    rest->p += n;
    rest->n -= n;
    return true;
}
struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t v;   /* VARINT; the bits of FIXED64 and FIXED32 */
    struct str s; /* BYTES */
};
/* The rest of a field of that type. */
bool wire_get_fixed(struct str *rest, struct wire_field *ret);
/* Inline: a sink spends a tenth of its time here. */
__attribute__((always_inline)) static inline bool wire_get_field(struct str *rest,
                                                                 struct wire_field *ret)
{
    uint64_t tag, n;
    if (!wire_get_varint(rest, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
        return false;
    ret->number = (uint32_t)(tag >> 3);
    ret->type = (enum wire_type)(tag & 7);
    ret->v = 0;
    if (ret->type == WIRE_BYTES)
        return wire_get_varint(rest, &n) && wire_take(rest, n, &ret->s);
    if (ret->type == WIRE_VARINT)
        return wire_get_varint(rest, &ret->v);
    return wire_get_fixed(rest, ret);
}
double wire_double(const struct wire_field *f);
