/* parquet: the statistics of one file, as a Delta `add` carries them (contract 1.6).
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/parquet_priv.h"
#include "base/clock.h"
#include "base/mem.h"
#include <endian.h>

enum { STATS_COLUMNS = 32, STATS_CHARACTERS = 32 };
#define LAST_CHARACTER "\xF4\x8F\xBF\xBF" /* U+10FFFF */
#define STATS_MAX_BYTES ((size_t)1 << 20)

void parquet_stats_init(struct parquet_stats *s, const struct column_def *columns, unsigned n)
{
    *s = (struct parquet_stats){.columns = columns, .columns_n = n};
    s->column = MEM_ARRAY(struct parquet_stats_column, n + 1);
    for (unsigned i = 0; i < n; i++) {
        buf_init(&s->column[i].lo_s, SIZE_MAX / 4); /* each value was bounded where it came in */
        buf_init(&s->column[i].hi_s, SIZE_MAX / 4);
    }
}

void parquet_stats_deinit(struct parquet_stats *s)
{
    for (unsigned i = 0; i < s->columns_n && s->column; i++) {
        buf_deinit(&s->column[i].lo_s);
        buf_deinit(&s->column[i].hi_s);
    }
    mem_free(s->column);
    *s = (struct parquet_stats){0};
}

/* The first eight bytes as a number that sorts like them: it decides most comparisons. */
static uint64_t head_of(struct str s)
{
    uint64_t head = 0;
    if (s.n >= 8)
        memcpy(&head, s.p, 8);
    else if (s.n)
        memcpy(&head, s.p, s.n);
    return be64toh(head);
}

static int compare(struct str v, uint64_t head, const struct buf *bound, uint64_t bound_head)
{
    if (head != bound_head)
        return head < bound_head ? -1 : 1;
    return str_cmp(v, buf_as_str(bound));
}

static void keep(struct buf *b, uint64_t *b_head, struct str v, uint64_t head)
{
    buf_reset(b);
    (void)buf_str(b, v); /* its cap is no limit */
    *b_head = head;
}

static void look_at_string(struct parquet_stats_column *c, struct str v)
{
    if (v.n && v.p == c->last.p && v.n == c->last.n)
        return;
    c->last = v;
    uint64_t head = head_of(v);
    if (!c->seen || compare(v, head, &c->lo_s, c->lo_head) < 0)
        keep(&c->lo_s, &c->lo_head, v, head);
    if (!c->seen || compare(v, head, &c->hi_s, c->hi_head) > 0)
        keep(&c->hi_s, &c->hi_head, v, head);
    c->seen = true;
}

void parquet_stats_row(struct parquet_stats *s, const struct value *values)
{
    s->rows++;
    for (unsigned i = 0; i < s->columns_n; i++) {
        struct parquet_stats_column *c = &s->column[i];
        const struct value *v = &values[i];
        if (v->null) {
            c->nulls++;
            continue;
        }
        switch (s->columns[i].type) {
        case COLUMN_LONG:
        case COLUMN_INT:
        case COLUMN_TIMESTAMP:
            if (!c->seen || v->i < c->lo)
                c->lo = v->i;
            if (!c->seen || v->i > c->hi)
                c->hi = v->i;
            c->seen = true;
            break;
        case COLUMN_STR:
            look_at_string(c, v->s);
            break;
        case COLUMN_POINT:
        case COLUMN_BINARY:
            break;
        }
    }
}

/* The first 32 characters of valid UTF-8. */
static struct str prefix(struct str s)
{
    size_t at = 0;
    for (unsigned n = 0; at < s.n; at++)
        if (((unsigned char)s.p[at] & 0xC0) != 0x80 && ++n > STATS_CHARACTERS)
            break;
    return str_make(s.p, at);
}

/* ISO 8601 with milliseconds; false for years that other readers do not take. */
static bool put_time(struct buf *b, int64_t ms)
{
    int64_t day = ms / 86400000 - (ms % 86400000 < 0), rest = ms - day * 86400000;
    int year;
    unsigned month, dom;
    if (day < -719162 || day > 2932896) /* 0001-01-01 … 9999-12-31 */
        return false;
    clock_civil(day, &year, &month, &dom);
    buf_printf(b, "\"%04d-%02u-%02uT%02d:%02d:%02d.%03dZ\"", year, month, dom,
               (int)(rest / 3600000), (int)(rest / 60000 % 60), (int)(rest / 1000 % 60),
               (int)(rest % 1000));
    return true;
}

static bool put_bound(struct buf *b, enum column_type type, const struct parquet_stats_column *c,
                      bool hi)
{
    if (!c->seen)
        return false;
    if (type == COLUMN_LONG || type == COLUMN_INT)
        return buf_i64(b, hi ? c->hi : c->lo);
    if (type == COLUMN_TIMESTAMP)
        return put_time(b, hi ? c->hi : c->lo);
    struct str s = buf_as_str(hi ? &c->hi_s : &c->lo_s), cut = prefix(s);
    if (!hi)
        return buf_json(b, cut);
    if (memmem(s.p, s.n, LAST_CHARACTER, 4))
        return false;
    if (cut.n == s.n)
        return buf_json(b, s);
    char longer[STATS_CHARACTERS * 4 + 4];
    memcpy(longer, cut.p, cut.n);
    memcpy(longer + cut.n, LAST_CHARACTER, 4);
    return buf_json(b, str_make(longer, cut.n + 4));
}

char *parquet_stats_json(const struct parquet_stats *s)
{
    struct buf b, value;
    buf_init(&b, STATS_MAX_BYTES);
    buf_init(&value, STATS_MAX_BYTES);
    unsigned covered = s->columns_n < STATS_COLUMNS ? s->columns_n : STATS_COLUMNS;
    buf_printf(&b, "{\"numRecords\":%lld", (long long)s->rows);
    for (int hi = 0; hi < 2; hi++) {
        buf_z(&b, hi ? ",\"maxValues\":{" : ",\"minValues\":{");
        bool first = true;
        for (unsigned i = 0; i < covered; i++) {
            buf_reset(&value);
            if (!put_bound(&value, s->columns[i].type, &s->column[i], hi))
                continue;
            if (!first)
                buf_char(&b, ',');
            first = false;
            buf_json(&b, str_of(s->columns[i].name));
            buf_char(&b, ':');
            buf_str(&b, buf_as_str(&value));
        }
        buf_char(&b, '}');
    }
    buf_z(&b, ",\"nullCount\":{");
    bool first = true;
    for (unsigned i = 0; i < covered; i++) {
        if (s->columns[i].type == COLUMN_POINT)
            continue; /* arrays are left out: engines count their nulls differently */
        if (!first)
            buf_char(&b, ',');
        first = false;
        buf_json(&b, str_of(s->columns[i].name));
        buf_printf(&b, ":%lld", (long long)s->column[i].nulls);
    }
    buf_z(&b, "}}");
    buf_deinit(&value);
    return buf_steal(&b, NULL);
}
