/* span: reads the message Span of proto/span.proto; span_write.c writes it.
 *
 * The head's fields come first, then the items in their order; a reader takes nothing else for a span. Fields it does not know
 * are stepped over.
 * SPDX-License-Identifier: Apache-2.0  */
#include "data/span_priv.h"
#include <inttypes.h>
#include <math.h>

static bool get_int(struct str *rest, unsigned field, int64_t *ret)
{
    uint64_t v;
    if (!rest->n || (unsigned char)rest->p[0] != WIRE_TAG(field, WIRE_VARINT))
        return false;
    rest->p++;
    rest->n--;
    if (!wire_get_varint(rest, &v))
        return false;
    *ret = (int64_t)v;
    return true;
}

static bool is_timestamp(int64_t ms)
{
    return ms >= TIMESTAMP_MIN_MS && ms < TIMESTAMP_END_MS;
}

static bool item_of(struct str bytes, enum span_item_kind kind, struct span_item *ret)
{
    struct str rest = bytes;
    int64_t item;
    if (!get_int(&rest, ITEM_POSITION, &ret->position) || !get_int(&rest, ITEM_ITEM, &item) ||
        !get_int(&rest, ITEM_INGESTED, &ret->ingested_at_ms) || item < 0 || item > INT32_MAX ||
        !is_timestamp(ret->ingested_at_ms))
        return false;
    ret->kind = kind;
    ret->item = (int32_t)item;
    ret->bytes = bytes;
    ret->content = rest;
    return true;
}

static bool is_item(const struct wire_field *f)
{
    return f->type == WIRE_BYTES && f->number >= FIELD_REJECT &&
           f->number < FIELD_FIRST_ROW + DATASETS;
}

#define BIT(field) (1u << (field))
#define HEAD_NEEDED                                                                                \
    (BIT(FIELD_VERSION) | BIT(FIELD_SOURCE) | BIT(FIELD_FROM) | BIT(FIELD_TO) |                    \
     BIT(FIELD_DATASET) | BIT(FIELD_RULES) | BIT(FIELD_ROWS) | BIT(FIELD_REJECTS))

/* One field of the head; false: not of this form. */
static bool read_head(const struct wire_field *f, struct span *s, uint32_t *seen)
{
    if (f->type != (f->number == FIELD_SOURCE ? WIRE_BYTES : WIRE_VARINT) ||
        (*seen & BIT(f->number)))
        return false;
    *seen |= BIT(f->number);
    switch (f->number) {
    case FIELD_VERSION:
        return f->v == SPAN_VERSION;
    case FIELD_SOURCE:
        s->source = f->s;
        return true;
    case FIELD_FROM:
        s->from = (int64_t)f->v;
        return true;
    case FIELD_TO:
        s->to = (int64_t)f->v;
        return true;
    case FIELD_LOST:
        s->lost = f->v != 0;
        return f->v <= 1;
    case FIELD_DATASET:
        if (f->v < 1 || f->v > DATASETS)
            return false;
        s->dataset = &datasets[f->v - 1];
        return true;
    case FIELD_RULES:
        s->rules = (uint32_t)f->v;
        return f->v <= UINT32_MAX;
    case FIELD_ROWS:
        s->rows_n = (uint32_t)f->v;
        return f->v <= UINT32_MAX;
    default: /* FIELD_REJECTS */
        s->rejects_n = (uint32_t)f->v;
        return f->v <= UINT32_MAX;
    }
}

static int check_head(const struct span *s, struct err *e)
{
    if (!s->source.n || s->source.n > SPAN_SOURCE_MAX || !str_utf8_valid(s->source))
        return err_set(e, ERR_CORRUPT, "span: a source of %zu bytes", s->source.n);
    if (s->from < 0 || s->from > s->to)
        return err_set(e, ERR_CORRUPT, "span: from %" PRId64 " to %" PRId64, s->from, s->to);
    if (s->lost && (s->rows_n || s->rejects_n))
        return err_set(e, ERR_CORRUPT, "span: lost, and with rows");
    return 0;
}

static int check_item(const struct wire_field *f, struct span *s, struct span_item *last,
                      struct err *e)
{
    struct span_item item;
    if (f->number != FIELD_REJECT && f->number != FIELD_FIRST_ROW + (unsigned)s->dataset->id)
        return err_set(e, ERR_CORRUPT, "span: a row of another dataset");
    if (!item_of(f->s, f->number == FIELD_REJECT ? SPAN_REJECT : SPAN_ROW, &item))
        return err_set(e, ERR_CORRUPT, "span: an item without its provenance");
    if (item.position < s->from || item.position >= s->to)
        return err_set(e, ERR_CORRUPT,
                       "span: position %" PRId64 " outside of %" PRId64 " to %" PRId64,
                       item.position, s->from, s->to);
    if (item.position < last->position ||
        (item.position == last->position && item.item <= last->item))
        return err_set(e, ERR_CORRUPT, "span: position %" PRId64 " item %" PRId32 " out of order",
                       item.position, item.item);
    if (item.kind == SPAN_ROW && item.ingested_at_ms > s->newest_ingested_ms)
        s->newest_ingested_ms = item.ingested_at_ms;
    *last = item;
    return 0;
}

int span_parse(struct str bytes, struct span *ret, struct err *e)
{
    struct span s = {.bytes = bytes};
    struct str rest = bytes;
    struct wire_field f;
    struct span_item last = {.position = -1};
    uint32_t seen = 0, rows = 0, rejects = 0;
    bool items = false;
    int rc = 0;
    while (rest.n) {
        if (!wire_get_field(&rest, &f))
            return err_set(e, ERR_BAD_DATA, "not a span: broken at byte %zu", bytes.n - rest.n);
        if (f.number < FIELD_REJECT) {
            if (items || !read_head(&f, &s, &seen))
                return err_set(e, ERR_BAD_DATA, "not a span: field %" PRIu32, f.number);
            continue;
        }
        if (!is_item(&f)) {
            if (f.number < FIELD_FIRST_ROW + DATASETS)
                return err_set(e, ERR_BAD_DATA, "not a span: field %" PRIu32, f.number);
            continue;
        }
        if ((seen & HEAD_NEEDED) != HEAD_NEEDED)
            return err_set(e, ERR_BAD_DATA, "not a span: its head is incomplete");
        if (rc == 0 && !items)
            rc = check_head(&s, e);
        items = true;
        if (rc == 0)
            rc = check_item(&f, &s, &last, e);
        rows += f.number != FIELD_REJECT;
        rejects += f.number == FIELD_REJECT;
    }
    if ((seen & HEAD_NEEDED) != HEAD_NEEDED)
        return err_set(e, ERR_BAD_DATA, "not a span: its head is incomplete");
    if (rc == 0)
        rc = check_head(&s, e);
    if (rc == 0 && (rows != s.rows_n || rejects != s.rejects_n))
        rc = err_set(e, ERR_CORRUPT,
                     "span: %" PRIu32 " rows and %" PRIu32 " rejects, not the %" PRIu32
                     " and %" PRIu32 " it says",
                     rows, rejects, s.rows_n, s.rejects_n);
    if (rc < 0)
        return rc;
    *ret = s;
    return 0;
}

void span_iter_init(struct span_iter *it, const struct span *s)
{
    it->rest = s->bytes;
    it->dataset = s->dataset;
}

int span_iter_next(struct span_iter *it, struct span_item *ret)
{
    struct wire_field f;
    while (it->rest.n && wire_get_field(&it->rest, &f)) {
        if (is_item(&f))
            return item_of(f.s, f.number == FIELD_REJECT ? SPAN_REJECT : SPAN_ROW, ret);
    }
    return 0;
}

static bool get_point(struct str bytes, double ret[2])
{
    struct wire_field f;
    for (unsigned i = 0; i < 2; i++) {
        if (!wire_get_field(&bytes, &f) || f.number != i + 1 || f.type != WIRE_FIXED64)
            return false;
        ret[i] = wire_double(&f);
        if (!isfinite(ret[i]))
            return false;
    }
    return bytes.n == 0;
}

static bool get_value(enum column_type type, const struct wire_field *f, struct value *v)
{
    switch (type) {
    case COLUMN_LONG:
    case COLUMN_TIMESTAMP:
    case COLUMN_INT:
        v->i = (int64_t)f->v;
        return f->type == WIRE_VARINT &&
               (type != COLUMN_INT || (v->i >= INT32_MIN && v->i <= INT32_MAX)) &&
               (type != COLUMN_TIMESTAMP || is_timestamp(v->i));
    case COLUMN_POINT:
        return f->type == WIRE_BYTES && get_point(f->s, v->d);
    case COLUMN_STR:
        v->s = f->s;
        return f->type == WIRE_BYTES && str_utf8_valid(f->s);
    case COLUMN_BINARY:
        v->s = f->s;
        return f->type == WIRE_BYTES;
    }
    return false;
}

int span_item_values(const struct dataset *d, const struct span_item *item, struct value *ret)
{
    for (unsigned i = 0; i < d->columns_n; i++)
        ret[i].null = true;
    struct str rest = item->content;
    struct wire_field f;
    uint32_t last = ITEM_INGESTED;
    while (rest.n) {
        /* Ascending, each once: the bytes are canonical, or copies would not be known again. */
        if (!wire_get_field(&rest, &f) || f.number <= last)
            return ERR_CORRUPT;
        last = f.number;
        unsigned i = f.number - ITEM_CONTENT;
        if (i >= d->columns_n)
            continue;
        if (!get_value(d->columns[i].type, &f, &ret[i]))
            return ERR_CORRUPT;
        ret[i].null = false;
    }
    return ret[0].null ? ERR_CORRUPT : 0;
}

int span_item_reject(const struct span_item *item, struct reject *ret)
{
    *ret = (struct reject){.position = item->position,
                           .item = item->item,
                           .ingested_at_ms = item->ingested_at_ms,
                           .reason = REJECT_REASONS};
    struct str rest = item->content;
    struct wire_field f;
    while (rest.n) {
        if (!wire_get_field(&rest, &f))
            return ERR_CORRUPT;
        if (f.number == REJECT_FIELD_REASON && f.type == WIRE_VARINT && f.v < REJECT_REASONS)
            ret->reason = (enum reject_reason)f.v;
        else if (f.number == REJECT_FIELD_DETAIL && f.type == WIRE_BYTES && str_utf8_valid(f.s))
            ret->detail = f.s;
        else if (f.number == REJECT_FIELD_KEY && f.type == WIRE_BYTES)
            ret->key = f.s;
        else if (f.number == REJECT_FIELD_VALUE && f.type == WIRE_BYTES)
            ret->value = f.s;
        else if (f.number <= REJECT_FIELD_VALUE)
            return ERR_CORRUPT;
    }
    return ret->reason == REJECT_REASONS ? ERR_CORRUPT : 0;
}

bool span_source_parse_kafka(struct str source, struct str *ret_topic, int32_t *ret_partition,
                             struct str *ret_id)
{
    struct str kind, topic, partition, id, more;
    uint64_t number;
    if (!str_next(&source, ':', &kind) || !str_eq(kind, STR("kafka")) ||
        !str_next(&source, ':', &topic) || !str_next(&source, ':', &partition) ||
        !str_next(&source, ':', &id) || str_next(&source, ':', &more))
        return false;
    if (!topic.n || !id.n || str_u64(partition, &number) < 0 || number > INT32_MAX)
        return false;
    *ret_topic = topic;
    *ret_partition = (int32_t)number;
    *ret_id = id;
    return true;
}
