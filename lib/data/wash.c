/* wash: carries out the rules of wash_rules.c on the bytes of one record.
 *
 * The whole record is checked before anything is handed out: a record that is broken at its end gives no row. The elements
 * of an array are found first (and checked), then read one by one as documents of their own.
 * SPDX-License-Identifier: Apache-2.0  */
#include "data/wash.h"
#include "base/buf.h"
#include "base/jsonscan.h"
#include "base/map.h"
#include "base/mem.h"
#include "data/wash_priv.h"
#include <stdio.h>

#define MAX_DEPTH 256
/* Keys of unknown fields that are compared one by one; more go into a map. */
#define FEW_UNKNOWN 16
/* What an element costs in a span beside its own bytes and the record's key. */
#define ITEM_BYTES 64

struct padded {
    char *p;
    size_t cap;
};

struct wash {
    size_t max_record_bytes;
    struct jsonscan *js;
    struct padded record, inner; /* the record, and what its string held */
    struct buf joined;           /* user_name */
    struct str *elements;
    size_t elements_n, elements_cap;
    char detail[160];

    /* The record, and the item of it, at work. */
    const struct wash_input *in;
    const struct wash_callbacks *cb;
    const struct dataset *dataset;
    struct row row;
    struct str parts[2]; /* of a joined text; p NULL: null */
    bool point[2];
    bool key_seen, key_bad, repeated;
    uint32_t seen; /* fields, by their place in the table */
    struct {
        int column;
        enum wash_fault fault;
    } faults[WASH_MAX_FIELDS];
    unsigned faults_n, unknown_n;
    struct str unknown[FEW_UNKNOWN];
    struct map *many_unknown;
};

struct wash *wash_new(size_t max_record_bytes)
{
    struct wash *w = MEM_NEW(struct wash);
    w->max_record_bytes = max_record_bytes;
    w->js = jsonscan_new(MAX_DEPTH);
    buf_init(&w->joined, max_record_bytes + 64);
    return w;
}

void wash_free(struct wash **pw)
{
    struct wash *w = *pw;
    if (!w)
        return;
    jsonscan_free(&w->js);
    mem_free(w->record.p);
    mem_free(w->inner.p);
    buf_deinit(&w->joined);
    mem_free(w->elements);
    map_free(&w->many_unknown);
    mem_free(w);
    *pw = NULL;
}

static char *padded(struct padded *b, size_t n)
{
    if (b->cap < n + JSONSCAN_PADDING) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap < n + JSONSCAN_PADDING)
            cap *= 2;
        mem_free(b->p);
        b->p = mem_alloc(cap);
        b->cap = cap;
    }
    return b->p;
}

static void reject(struct wash *w, int32_t item, enum reject_reason reason, struct str detail,
                   struct str value)
{
    struct reject r = {.position = w->in->position,
                       .item = item,
                       .ingested_at_ms = w->in->ingested_at_ms,
                       .reason = reason,
                       .detail = detail,
                       .key = w->in->key,
                       .value = value};
    w->cb->on_reject(w->cb->ctx, &r);
}

/* A document that the scanner refused. */
static void reject_fault(struct wash *w, int32_t item, struct str value)
{
    size_t pos;
    const char *text;
    enum json_fault fault = jsonscan_fault(w->js, &pos, &text);
    int n = snprintf(w->detail, sizeof w->detail, "%s at byte %zu", text, pos);
    reject(w, item, fault == JSON_F_UTF8 ? REJECT_BAD_UTF8 : REJECT_NOT_JSON,
           str_make(w->detail, (size_t)n), value);
}

static void fault(struct wash *w, int column, enum wash_fault f)
{
    /* Each field of the table comes once at most, or the object is refused. */
    if (w->faults_n < WASH_MAX_FIELDS) {
        w->faults[w->faults_n].column = column;
        w->faults[w->faults_n++].fault = f;
    }
}

static bool is_nothing(const struct wash_field *f, struct str s)
{
    if (s.n == 0)
        return true;
    for (int i = 0; i < WASH_MAX_NOTHING && f->nothing[i].n; i++) {
        if (str_eq(s, f->nothing[i]))
            return true;
    }
    return false;
}

/* The string at hand, washed of what means nothing: 1 it is there, 0 it is null (said why), or an error of the document. */
static int text_at_hand(struct wash *w, const struct wash_field *f, struct str *ret)
{
    struct str s;
    bool lone;
    int rc = jsonscan_string(w->js, &s, &lone);
    if (rc < 0)
        return rc;
    if (lone) {
        fault(w, f->column, WASH_LONE_SURROGATE);
        return 0;
    }
    bool nothing = is_nothing(f, s);
    if (!nothing && f->prefix.n && str_starts(s, f->prefix)) {
        s = str_make(s.p + f->prefix.n, s.n - f->prefix.n);
        nothing = is_nothing(f, s);
    }
    if (nothing) {
        fault(w, f->column, WASH_NOTHING);
        return 0;
    }
    *ret = s;
    return 1;
}

static bool all_digits(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
    }
    return s.n > 0;
}

static bool has_fraction(struct str number)
{
    for (size_t i = 0; i < number.n; i++) {
        if (number.p[i] == '.' || (number.p[i] | 32) == 'e')
            return true;
    }
    return false;
}

static int read_key(struct wash *w, const struct wash_field *f)
{
    struct str s;
    bool lone = false, string = jsonscan_peek(w->js) == JSON_T_STRING;
    enum json_type type = jsonscan_peek(w->js);
    int rc = string ? jsonscan_string(w->js, &s, &lone) : jsonscan_raw(w->js, &s);
    if (rc < 0 || type == JSON_T_NULL)
        return rc;
    struct value *v = &w->row.v[f->column];
    w->key_seen = true;
    if (!(string ? all_digits(s) : type == JSON_T_NUMBER) || str_i64(s, &v->i) < 0)
        w->key_bad = true;
    else
        v->null = false;
    return 0;
}

static int read_text(struct wash *w, const struct wash_field *f)
{
    struct str s;
    int rc = text_at_hand(w, f, &s);
    if (rc <= 0)
        return rc;
    if (f->kind == KIND_NAME) {
        w->parts[f->part] = s;
        return 0;
    }
    struct value *v = &w->row.v[f->column];
    int64_t i;
    int bad = f->kind == KIND_COUNT     ? wash_count_rule(s, &i)
              : f->kind == KIND_INSTANT ? wash_instant_rule(s, &i)
                                        : -1;
    if (bad >= 0) {
        fault(w, f->column, (enum wash_fault)bad);
        return 0;
    }
    v->null = false;
    if (f->kind == KIND_TEXT)
        v->s = s;
    else
        v->i = i;
    return 0;
}

/* Up to 15 digits are exact in a double, and so are these powers: their quotient is rounded once, as the standard wants. */
static bool short_decimal(struct str s, double *ret)
{
    static const double tens[] = {1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                  1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    size_t i = s.p[0] == '-', point = s.n;
    int64_t v = 0;
    if (s.n > 17)
        return false;
    for (; i < s.n; i++) {
        if (s.p[i] >= '0' && s.p[i] <= '9')
            v = v * 10 + (s.p[i] - '0');
        else if (s.p[i] == '.')
            point = i + 1;
        else
            return false;
    }
    if (v >= 1000000000000000)
        return false;
    *ret = (double)v / tens[s.n - point];
    if (s.p[0] == '-')
        *ret = -*ret;
    return true;
}

static int read_number(struct wash *w, const struct wash_field *f)
{
    struct str s;
    struct value *v = &w->row.v[f->column];
    int rc = jsonscan_raw(w->js, &s), bad = -1;
    if (rc < 0)
        return rc;
    int64_t i;
    double d;
    switch (f->kind) {
    case KIND_COUNT:
        if ((bad = wash_count_rule(s, &i)) < 0) {
            v->i = i;
            v->null = false;
        }
        break;
    case KIND_INTEGER:
        if (has_fraction(s)) {
            bad = WASH_BAD_FORMAT;
        } else if (str_i64(s, &i) < 0 || i < f->low || i > f->high) {
            bad = WASH_OUT_OF_RANGE;
        } else {
            v->i = i;
            v->null = false;
        }
        break;
    default: /* KIND_POINT */
        if ((!short_decimal(s, &d) && str_double(s, &d) < 0) || d < (double)f->low ||
            d > (double)f->high) {
            bad = WASH_OUT_OF_RANGE;
        } else {
            v->d[f->part] = d;
            w->point[f->part] = true;
        }
        break;
    }
    if (bad >= 0)
        fault(w, f->column, (enum wash_fault)bad);
    return 0;
}

/* Reads the value at hand by its field's rule. */
static int read_field(struct wash *w, const struct wash_field *f)
{
    struct str skipped;
    enum json_type type = jsonscan_peek(w->js);
    bool string = f->kind == KIND_TEXT || f->kind == KIND_COUNT || f->kind == KIND_INSTANT ||
                  f->kind == KIND_NAME;
    bool number = f->kind == KIND_COUNT || f->kind == KIND_INTEGER || f->kind == KIND_POINT;
    if (f->kind == KIND_KEY)
        return read_key(w, f);
    if (type == JSON_T_STRING && string)
        return read_text(w, f);
    if (type == JSON_T_NUMBER && number)
        return read_number(w, f);
    if (type != JSON_T_NULL && f->kind != KIND_IGNORED)
        fault(w, f->column, WASH_BAD_TYPE);
    return jsonscan_raw(w->js, &skipped);
}

static int read_unknown(struct wash *w, struct str key)
{
    struct str skipped;
    for (unsigned i = 0; i < w->unknown_n && i < FEW_UNKNOWN; i++)
        w->repeated |= str_eq(w->unknown[i], key);
    if (w->unknown_n < FEW_UNKNOWN) {
        w->unknown[w->unknown_n] = key;
    } else {
        if (!w->many_unknown)
            w->many_unknown = map_new();
        w->repeated |= map_put(w->many_unknown, key, w) != NULL;
    }
    w->unknown_n++;
    return jsonscan_raw(w->js, &skipped);
}

/* Clients keep their order of fields: the one behind the last is tried first. */
static const struct wash_field *field_of(const struct wash_rules *rules, struct str key,
                                         unsigned *next)
{
    for (unsigned k = 0; k < rules->fields_n; k++) {
        unsigned i = *next + k < rules->fields_n ? *next + k : *next + k - rules->fields_n;
        if (str_eq(key, rules->fields[i].name)) {
            *next = i + 1 < rules->fields_n ? i + 1 : 0;
            return &rules->fields[i];
        }
    }
    return NULL;
}

static int read_object(struct wash *w)
{
    const struct wash_rules *rules = &wash_rules[w->dataset->id];
    unsigned next = 0;
    struct str key;
    int rc = jsonscan_object(w->js);
    if (rc < 0)
        return rc;
    while ((rc = jsonscan_key(w->js, &key)) == 1) {
        const struct wash_field *f = field_of(rules, key, &next);
        if (f) {
            uint32_t bit = 1u << (f - rules->fields);
            w->repeated |= (w->seen & bit) != 0;
            w->seen |= bit;
        }
        if ((rc = f ? read_field(w, f) : read_unknown(w, key)) < 0)
            return rc;
    }
    return rc < 0 ? rc : jsonscan_end(w->js);
}

static void item_reset(struct wash *w, int32_t item)
{
    w->row.position = w->in->position;
    w->row.item = item;
    w->row.ingested_at_ms = w->in->ingested_at_ms;
    for (unsigned i = 0; i < w->dataset->columns_n; i++)
        w->row.v[i] = (struct value){.null = true};
    w->parts[0] = w->parts[1] = (struct str){NULL, 0};
    w->point[0] = w->point[1] = false;
    w->key_seen = w->key_bad = w->repeated = false;
    w->seen = 0;
    w->faults_n = w->unknown_n = 0;
    if (w->many_unknown)
        map_free(&w->many_unknown);
}

/* Columns that are made of two fields. */
static void join_parts(struct wash *w)
{
    const struct wash_rules *rules = &wash_rules[w->dataset->id];
    for (unsigned i = 0; i < rules->fields_n; i++) {
        const struct wash_field *f = &rules->fields[i];
        struct value *v = &w->row.v[f->column < 0 ? 0 : f->column];
        if (f->part != 0)
            continue;
        if (f->kind == KIND_POINT) {
            v->null = !w->point[0] || !w->point[1];
        } else if (f->kind == KIND_NAME && w->parts[0].p && w->parts[1].p) {
            buf_reset(&w->joined);
            buf_str(&w->joined, w->parts[0]);
            buf_char(&w->joined, ' ');
            buf_str(&w->joined, w->parts[1]);
            v->s = buf_as_str(&w->joined);
            v->null = false;
        }
    }
}

static void emit_row(struct wash *w)
{
    join_parts(w);
    if (w->cb->on_fault) {
        for (unsigned i = 0; i < w->faults_n; i++)
            w->cb->on_fault(w->cb->ctx, w->faults[i].column, w->faults[i].fault);
        for (unsigned i = 0; i < w->unknown_n; i++)
            w->cb->on_fault(w->cb->ctx, -1, WASH_UNKNOWN_FIELD);
    }
    w->cb->on_row(w->cb->ctx, &w->row);
}

/* An object is at hand that is the whole document. `value`: what a reject carries. */
static void wash_item(struct wash *w, int32_t item, struct str value)
{
    item_reset(w, item);
    struct str key = wash_rules[w->dataset->id].fields[0].name;
    if (read_object(w) < 0) {
        reject_fault(w, item, value);
    } else if (w->repeated) {
        reject(w, item, REJECT_NOT_JSON, STR("a key is there twice"), value);
    } else if (!w->key_seen) {
        int n = snprintf(w->detail, sizeof w->detail, "no " STR_FMT, STR_ARG(key));
        reject(w, item, REJECT_NO_KEY, str_make(w->detail, (size_t)n), value);
    } else if (w->key_bad) {
        int n =
            snprintf(w->detail, sizeof w->detail, STR_FMT " is not a 64-bit integer", STR_ARG(key));
        reject(w, item, REJECT_BAD_KEY, str_make(w->detail, (size_t)n), value);
    } else {
        emit_row(w);
    }
}

/* Finds the elements of the array at hand and checks the document to its end. */
static int find_elements(struct wash *w)
{
    int rc = jsonscan_array(w->js);
    w->elements_n = 0;
    while (rc == 0 && (rc = jsonscan_item(w->js)) == 1) {
        if (w->elements_n == w->elements_cap) {
            size_t cap = w->elements_cap ? w->elements_cap * 2 : 256;
            w->elements = mem_realloc(w->elements, w->elements_cap * sizeof *w->elements,
                                      cap * sizeof *w->elements);
            w->elements_cap = cap;
        }
        if ((rc = jsonscan_raw(w->js, &w->elements[w->elements_n])) == 0)
            w->elements_n++;
        else
            return rc;
    }
    return rc < 0 ? rc : jsonscan_end(w->js);
}

/* A record of very many small elements would grow into a span that no topic takes: it is one reject then. */
static bool too_many(const struct wash *w)
{
    size_t bytes = 0, limit = w->max_record_bytes * 3;
    if (limit < 64 << 10)
        limit = 64 << 10;
    for (size_t i = 0; i < w->elements_n && bytes <= limit; i++)
        bytes += ITEM_BYTES + w->in->key.n + w->elements[i].n;
    return bytes > limit;
}

static void wash_array(struct wash *w)
{
    if (find_elements(w) < 0) {
        reject_fault(w, 0, w->in->value);
        return;
    }
    if (w->elements_n == 0) {
        reject(w, 0, REJECT_NOT_AN_OBJECT, STR("an empty array"), w->in->value);
        return;
    }
    if (too_many(w)) {
        int n = snprintf(w->detail, sizeof w->detail, "an array of %zu elements", w->elements_n);
        reject(w, 0, REJECT_TOO_LARGE, str_make(w->detail, (size_t)n), w->in->value);
        return;
    }
    for (size_t i = 0; i < w->elements_n; i++) {
        struct str e = w->elements[i];
        if (e.p[0] != '{')
            reject(w, (int32_t)i, REJECT_NOT_AN_OBJECT, STR("not an object"), e);
        else if (jsonscan_begin(w->js, e.p, e.n) < 0)
            reject_fault(w, (int32_t)i, e);
        else
            wash_item(w, (int32_t)i, e);
    }
}

/* Whether these bytes are a JSON object, to their end. The scanner is left at the beginning of it. */
static bool begin_inner(struct wash *w, const char *p, size_t n)
{
    struct str all;
    if (jsonscan_begin(w->js, p, n) < 0)
        return false;
    if (jsonscan_peek(w->js) != JSON_T_OBJECT)
        return false;
    if (jsonscan_raw(w->js, &all) < 0 || jsonscan_end(w->js) < 0)
        return false;
    return jsonscan_begin(w->js, p, n) == 0;
}

static enum wash_shape wash_string(struct wash *w)
{
    struct str s;
    bool lone;
    if (jsonscan_string(w->js, &s, &lone) < 0 || jsonscan_end(w->js) < 0) {
        reject_fault(w, 0, w->in->value);
        return WASH_STRING;
    }
    /* The record's own copy and the scanner's memory are free to be used again from here on. */
    char *p = padded(&w->inner, s.n);
    memcpy(p, s.p, s.n);
    s.p = p;
    if (!lone && begin_inner(w, p, s.n)) {
        wash_item(w, 0, w->in->value);
        return WASH_STRING;
    }
    size_t n;
    char *decoded = padded(&w->record, str_base64_max(s.n));
    if (s.n && str_base64_decode(s, false, decoded, &n) == 0 && begin_inner(w, decoded, n)) {
        wash_item(w, 0, w->in->value);
        return WASH_BASE64;
    }
    reject(w, 0, REJECT_NOT_AN_OBJECT, STR("a string that holds no object"), w->in->value);
    return WASH_STRING;
}

static void wash_scalar(struct wash *w)
{
    struct str s;
    if (jsonscan_raw(w->js, &s) < 0 || jsonscan_end(w->js) < 0)
        reject_fault(w, 0, w->in->value);
    else
        reject(w, 0, REJECT_NOT_AN_OBJECT, STR("not an object"), w->in->value);
}

enum wash_shape wash_record(struct wash *w, const struct dataset *d, const struct wash_input *in,
                            const struct wash_callbacks *cb)
{
    w->in = in;
    w->cb = cb;
    w->dataset = d;
    if (!in->value.p) {
        reject(w, 0, REJECT_TOMBSTONE, STR("a null value"), in->value);
        return WASH_OBJECT;
    }
    if (in->value.n > w->max_record_bytes) {
        int n = snprintf(w->detail, sizeof w->detail, "%zu bytes, at most %zu are taken",
                         in->value.n, w->max_record_bytes);
        reject(w, 0, REJECT_TOO_LARGE, str_make(w->detail, (size_t)n), in->value);
        return WASH_OBJECT;
    }
    char *p = padded(&w->record, in->value.n);
    memcpy(p, in->value.p, in->value.n);
    if (jsonscan_begin(w->js, p, in->value.n) < 0) {
        reject_fault(w, 0, in->value);
        return WASH_OBJECT;
    }
    switch (jsonscan_peek(w->js)) {
    case JSON_T_OBJECT:
        wash_item(w, 0, in->value);
        return WASH_OBJECT;
    case JSON_T_ARRAY:
        wash_array(w);
        return WASH_ARRAY;
    case JSON_T_STRING:
        return wash_string(w);
    default:
        wash_scalar(w);
        return WASH_OBJECT;
    }
}
