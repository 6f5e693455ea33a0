/* rest_wire: the few pieces of protobuf's wire format that the gateway writes by hand (proto/produce.proto).
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { /* tags: field number << 3 | wire type */
       WIRE_ASK_VERSION = 1 << 3,
       WIRE_ASK_PRODUCE = 2 << 3 | 2,
       WIRE_REQUEST_TOPIC = 1 << 3 | 2,
       WIRE_REQUEST_PARTITION = 2 << 3,
       WIRE_REQUEST_TIMEOUT = 3 << 3,
       WIRE_REQUEST_RECORD = 4 << 3 | 2,
       WIRE_RECORD_KEY = 1 << 3 | 2,
       WIRE_RECORD_VALUE = 2 << 3 | 2,
       WIRE_RECORD_PARTITION = 3 << 3,
       WIRE_RECORD_TIMESTAMP = 4 << 3,
       WIRE_RECORD_HEADER = 5 << 3 | 2,
       WIRE_HEADER_NAME = 1 << 3 | 2,
       WIRE_HEADER_VALUE = 2 << 3 | 2,
};

static inline char *wire_varint(char *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (char)(v | 0x80);
        v >>= 7;
    }
    *p++ = (char)v;
    return p;
}

/* A length in exactly four bytes (up to 256 MiB), for what is measured after it was written. */
enum { WIRE_LENGTH_BYTES = 4 };
static inline void wire_length_at(char *p, size_t n)
{
    p[0] = (char)(n | 0x80);
    p[1] = (char)(n >> 7 | 0x80);
    p[2] = (char)(n >> 14 | 0x80);
    p[3] = (char)(n >> 21 & 0x7f);
}
