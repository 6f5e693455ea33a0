/* wire: protobuf's wire format.
 * SPDX-License-Identifier: Apache-2.0  */
#include "data/wire.h"
#include <endian.h>

char *wire_put_double(char *p, unsigned field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    bits = htole64(bits);
    p = wire_put_varint(p, WIRE_TAG(field, WIRE_FIXED64));
    memcpy(p, &bits, 8);
    return p + 8;
}

double wire_double(const struct wire_field *f)
{
    double v;
    memcpy(&v, &f->v, 8);
    return v;
}

/* The low seven bits of each byte, put together. */
static uint64_t seven_bits_each(uint64_t v)
{
    v &= 0x7f7f7f7f7f7f7f7f;
    v = (v & 0x00ff00ff00ff00ff) | (v & 0xff00ff00ff00ff00) >> 1;
    v = (v & 0x0000ffff0000ffff) | (v & 0xffff0000ffff0000) >> 2;
    return (v & 0x00000000ffffffff) | (v & 0xffffffff00000000) >> 4;
}

bool wire_get_long_varint(struct str *rest, uint64_t *ret)
{
    const char *p = rest->p;
    uint64_t v = 0;
    if (rest->n >= 8) { /* nearly all: without a loop */
        memcpy(&v, p, 8);
        v = le64toh(v);
        uint64_t last = ~v & 0x8080808080808080;
        if (last) {
            unsigned bits = (unsigned)__builtin_ctzll(last) + 1, n = bits / 8;
            *ret = seven_bits_each(v & (UINT64_MAX >> (64 - bits)));
            rest->p += n;
            rest->n -= n;
            return true;
        }
        v = 0;
    }
    for (size_t i = 0; i < rest->n && i < 10; i++) {
        uint64_t byte = (unsigned char)p[i];
        if (i == 9 && byte > 1)
            return false;
        v |= (byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            rest->p += i + 1;
            rest->n -= i + 1;
            *ret = v;
            return true;
        }
    }
    return false;
}

bool wire_get_fixed(struct str *rest, struct wire_field *ret)
{
    struct str fixed;
    uint32_t v;
    switch (ret->type) {
    case WIRE_FIXED64:
        if (!wire_take(rest, 8, &fixed))
            return false;
        memcpy(&ret->v, fixed.p, 8);
        ret->v = le64toh(ret->v);
        return true;
    case WIRE_FIXED32:
        if (!wire_take(rest, 4, &fixed))
            return false;
        memcpy(&v, fixed.p, 4);
        ret->v = le32toh(v);
        return true;
    default:
        return false; /* groups are not ours */
    }
}
