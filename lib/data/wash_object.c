/* wash_object: carries out the rules of wash_rules.c on one object.
 * SPDX-License-Identifier: Apache-2.0  */
#include "data/wash_priv.h"

void wash_object_begin(struct wash *w, int32_t item)
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

int wash_object_read(struct wash *w)
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

void wash_object_emit(struct wash *w)
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
