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
    if (!rest->n || (unsigned char)rest->p[0] >= 0x80)
        return wire_get_long_varint(rest, ret);
    *ret = (unsigned char)rest->p[0];
    rest->p++;
    rest->n--;
    return true;
}
struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t v;   /* VARINT; the bits of FIXED64 and FIXED32 */
    struct str s; /* BYTES */
};
bool wire_get_field(struct str *rest, struct wire_field *ret);
double wire_double(const struct wire_field *f);
