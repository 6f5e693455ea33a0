/* span: writes the message Span of proto/span.proto: the head's fields, then the items in their order.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/check.h"
#include "data/span_priv.h"
#include "data/wash.h"
#include <inttypes.h>
#include <stdio.h>

/* Two doubles with their tags. */
#define POINT_BYTES 18
/* One record may pass the writer's size by far, and is bounded where it is washed. */
#define ONE_RECORD_BYTES ((size_t)256 << 20)

void span_writer_init(struct span_writer *w, const struct dataset *d, size_t max_bytes)
{
    *w = (struct span_writer){.dataset = d, .last_position = -1};
    buf_init(&w->body, max_bytes + ONE_RECORD_BYTES);
}

void span_writer_deinit(struct span_writer *w)
{
    buf_deinit(&w->body);
}

void span_writer_reset(struct span_writer *w)
{
    buf_reset(&w->body);
    w->rows_n = w->rejects_n = 0;
    w->last_position = -1;
}

size_t span_writer_bytes(const struct span_writer *w)
{
    return w->body.len;
}

static size_t value_size(enum column_type type, unsigned field, const struct value *v)
{
    switch (type) {
    case COLUMN_LONG:
    case COLUMN_INT:
    case COLUMN_TIMESTAMP:
        return wire_int_size(field, v->i);
    case COLUMN_POINT:
        return wire_bytes_size(field, POINT_BYTES);
    case COLUMN_STR:
    case COLUMN_BINARY:
        return wire_bytes_size(field, v->s.n);
    }
    return 0;
}

static char *put_value(char *p, enum column_type type, unsigned field, const struct value *v)
{
    switch (type) {
    case COLUMN_LONG:
    case COLUMN_INT:
    case COLUMN_TIMESTAMP:
        return wire_put_int(p, field, v->i);
    case COLUMN_POINT:
        p = wire_put_varint(p, WIRE_TAG(field, WIRE_BYTES));
        p = wire_put_varint(p, POINT_BYTES);
        p = wire_put_double(p, 1, v->d[0]);
        return wire_put_double(p, 2, v->d[1]);
    case COLUMN_STR:
    case COLUMN_BINARY:
        return wire_put_bytes(p, field, v->s);
    }
    return p;
}

/* Room for an item of `size` bytes, with its tag, length and provenance written. */
static char *begin_item(struct span_writer *w, unsigned field, size_t content, int64_t position,
                        int32_t item, int64_t ingested_at_ms, char **ret_end)
{
    CHECK(position >= w->last_position && position >= 0 && item >= 0);
    size_t size = content + wire_int_size(ITEM_POSITION, position) +
                  wire_int_size(ITEM_ITEM, item) + wire_int_size(ITEM_INGESTED, ingested_at_ms);
    size_t all = wire_bytes_size(field, size);
    char *p = buf_reserve(&w->body, all);
    CHECK(p);
    *ret_end = p + all;
    w->last_position = position;
    p = wire_put_varint(p, WIRE_TAG(field, WIRE_BYTES));
    p = wire_put_varint(p, size);
    p = wire_put_int(p, ITEM_POSITION, position);
    p = wire_put_int(p, ITEM_ITEM, item);
    return wire_put_int(p, ITEM_INGESTED, ingested_at_ms);
}

static void end_item(struct span_writer *w, char *p, const char *end)
{
    CHECK(p == end);
    buf_advance(&w->body, (size_t)(p - (w->body.data + w->body.len)));
}

void span_writer_row(struct span_writer *w, const struct row *row)
{
    const struct dataset *d = w->dataset;
    size_t content = 0;
    for (unsigned i = 0; i < d->columns_n; i++) {
        if (!row->v[i].null)
            content += value_size(d->columns[i].type, ITEM_CONTENT + i, &row->v[i]);
    }
    char *end, *p = begin_item(w, FIELD_FIRST_ROW + (unsigned)d->id, content, row->position,
                               row->item, row->ingested_at_ms, &end);
    for (unsigned i = 0; i < d->columns_n; i++) {
        if (!row->v[i].null)
            p = put_value(p, d->columns[i].type, ITEM_CONTENT + i, &row->v[i]);
    }
    end_item(w, p, end);
    w->rows_n++;
}

static size_t slice_size(unsigned field, struct str s)
{
    return s.p ? wire_bytes_size(field, s.n) : 0;
}

static char *put_slice(char *p, unsigned field, struct str s)
{
    return s.p ? wire_put_bytes(p, field, s) : p;
}

void span_writer_reject(struct span_writer *w, const struct reject *r)
{
    size_t content =
        wire_int_size(REJECT_FIELD_REASON, r->reason) + slice_size(REJECT_FIELD_DETAIL, r->detail) +
        slice_size(REJECT_FIELD_KEY, r->key) + slice_size(REJECT_FIELD_VALUE, r->value);
    char *end,
        *p = begin_item(w, FIELD_REJECT, content, r->position, r->item, r->ingested_at_ms, &end);
    p = wire_put_int(p, REJECT_FIELD_REASON, r->reason);
    p = put_slice(p, REJECT_FIELD_DETAIL, r->detail);
    p = put_slice(p, REJECT_FIELD_KEY, r->key);
    p = put_slice(p, REJECT_FIELD_VALUE, r->value);
    end_item(w, p, end);
    w->rejects_n++;
}

void span_writer_finish(const struct span_writer *w, struct str source, int64_t from, int64_t to,
                        bool lost, struct buf *out)
{
    char head[SPAN_SOURCE_MAX + 128], *p = head;
    CHECK(source.n && source.n <= SPAN_SOURCE_MAX && from >= 0 && from <= to);
    CHECK(w->last_position < to && !(lost && w->last_position >= 0));
    p = wire_put_int(p, FIELD_VERSION, SPAN_VERSION);
    p = wire_put_bytes(p, FIELD_SOURCE, source);
    p = wire_put_int(p, FIELD_FROM, from);
    p = wire_put_int(p, FIELD_TO, to);
    if (lost)
        p = wire_put_int(p, FIELD_LOST, 1);
    p = wire_put_int(p, FIELD_DATASET, (int64_t)w->dataset->id + 1);
    p = wire_put_int(p, FIELD_RULES, WASH_RULES_VERSION);
    p = wire_put_int(p, FIELD_ROWS, w->rows_n);
    p = wire_put_int(p, FIELD_REJECTS, w->rejects_n);
    buf_append(out, head, (size_t)(p - head));
    buf_append(out, w->body.data, w->body.len);
}

void span_source_kafka(char out[SPAN_SOURCE_MAX + 1], const char *topic, int32_t partition,
                       const char *topic_id)
{
    int n =
        snprintf(out, SPAN_SOURCE_MAX + 1, "kafka:%s:%" PRId32 ":%s", topic, partition, topic_id);
    CHECK(n > 0 && n <= SPAN_SOURCE_MAX);
}
