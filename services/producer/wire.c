/* wire: proto/produce.proto by hand: records are read where they lie and handed to Kafka's client, which copies them once.
 * SPDX-License-Identifier: Apache-2.0  */
#include "producer/producer.h"

static bool varint(struct wire *w, uint64_t *ret)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        uint8_t c = (uint8_t)*w->p++;
        v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) {
            *ret = v;
            return true;
        }
    }
    w->bad = true;
    return false;
}

static bool take(struct wire *w, uint64_t n, struct str *ret)
{
    if (n > (uint64_t)(w->end - w->p)) {
        w->bad = true;
        return false;
    }
    *ret = str_make(w->p, (size_t)n);
    w->p += n;
    return true;
}

bool wire_next(struct wire *w, struct wire_field *ret)
{
    uint64_t tag, n;
    if (w->bad || w->p >= w->end || !varint(w, &tag))
        return false;
    *ret = (struct wire_field){.number = (unsigned)(tag >> 3), .type = (unsigned)(tag & 7)};
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        w->bad = true;
    switch (w->bad ? 7 : ret->type) {
    case 0:
        return varint(w, &ret->value);
    case 1:
        return take(w, 8, &ret->bytes);
    case 2:
        return varint(w, &n) && take(w, n, &ret->bytes);
    case 5:
        return take(w, 4, &ret->bytes);
    default:
        w->bad = true;
        return false;
    }
}

static bool header(struct str body, struct kafka_header *ret)
{
    struct wire w = wire_of(body);
    struct wire_field f;
    *ret = (struct kafka_header){0};
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 2)
            ret->name = f.bytes;
        else if (f.number == 2 && f.type == 2)
            ret->value = f.bytes;
    }
    return !w.bad && ret->name.p;
}

static bool record(struct str body, struct wire_record *ret)
{
    struct wire w = wire_of(body);
    struct wire_field f;
    ret->key = ret->value = (struct str){0};
    ret->partition = -1;
    ret->timestamp_ms = 0;
    ret->headers_n = 0;
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 2)
            ret->key = f.bytes;
        else if (f.number == 2 && f.type == 2)
            ret->value = f.bytes;
        else if (f.number == 3 && f.type == 0)
            ret->partition = (int32_t)f.value;
        else if (f.number == 4 && f.type == 0)
            ret->timestamp_ms = (int64_t)f.value;
        else if (f.number == 5 && f.type == 2 &&
                 (ret->headers_n == PRODUCER_HEADERS_MAX ||
                  !header(f.bytes, &ret->headers[ret->headers_n++])))
            return false;
    }
    return !w.bad;
}

static void count(struct wire_request *r, const struct wire_record *rec)
{
    r->records++;
    r->headers += rec->headers_n;
    r->bytes += rec->key.n + rec->value.n;
    for (size_t i = 0; i < rec->headers_n; i++)
        r->bytes += rec->headers[i].name.n + rec->headers[i].value.n;
    if (rec->partition > r->highest)
        r->highest = rec->partition;
}

int wire_request(struct str body, struct wire_request *ret)
{
    struct wire w = wire_of(body);
    struct wire_field f;
    struct wire_record rec;
    *ret = (struct wire_request){.partition = -1, .highest = -1, .body = body};
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 2)
            ret->topic = f.bytes;
        else if (f.number == 2 && f.type == 0)
            ret->partition = (int32_t)f.value;
        else if (f.number == 3 && f.type == 0)
            ret->timeout_ms = f.value > UINT32_MAX ? UINT32_MAX : (uint32_t)f.value;
        else if (f.number == 4 && f.type == 2) {
            if (!record(f.bytes, &rec))
                return ERR_BAD_DATA;
            count(ret, &rec);
        }
    }
    if (ret->partition > ret->highest)
        ret->highest = ret->partition;
    bool ok = !w.bad && ret->topic.n && !memchr(ret->topic.p, 0, ret->topic.n);
    return ok ? 0 : ERR_BAD_DATA;
}

bool wire_record(struct wire *w, struct wire_record *ret)
{
    struct wire_field f;
    while (wire_next(w, &f))
        if (f.number == 4 && f.type == 2)
            return record(f.bytes, ret);
    return false;
}

void wire_put_varint(struct buf *b, uint64_t v)
{
    char out[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (char)(v | 0x80);
    out[n++] = (char)v;
    buf_append(b, out, n);
}

void wire_put_u64(struct buf *b, unsigned field, uint64_t v)
{
    wire_put_varint(b, field << 3);
    wire_put_varint(b, v);
}

void wire_put_bytes(struct buf *b, unsigned field, struct str s)
{
    wire_put_varint(b, field << 3 | 2);
    wire_put_varint(b, s.n);
    buf_append(b, s.p, s.n);
}

size_t wire_varint_size(uint64_t v)
{
    size_t n = 1;
    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}
