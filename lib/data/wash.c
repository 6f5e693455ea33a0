/* wash: one record: its shape, its items, and what becomes of each. Objects are read by wash_object.c.
 *
 * The whole record is checked before anything is handed out: a record that is broken at its end gives no row. The elements
 * of an array are found first (and checked), then read one by one as documents of their own.
 * SPDX-License-Identifier: Apache-2.0  */
#include "data/wash.h"
#include "base/mem.h"
#include "data/wash_priv.h"
#include <stdio.h>

#define MAX_DEPTH 256
/* What an element costs in a span beside its own bytes and the record's key. */
#define ITEM_BYTES 64

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

static char *padded(struct wash_padded *b, size_t n)
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

/* An object is at hand that is the whole document. `value`: what a reject carries. */
static void wash_item(struct wash *w, int32_t item, struct str value)
{
    wash_object_begin(w, item);
    struct str key = wash_rules[w->dataset->id].fields[0].name;
    if (wash_object_read(w) < 0) {
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
        wash_object_emit(w);
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
