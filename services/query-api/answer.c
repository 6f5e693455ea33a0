/* answer: rows into the three formats. NULL is null in JSON and nothing in CSV, where the empty text is "".
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include "base/clock.h"
#include <math.h>

void answer_csv_text(struct buf *out, struct str s)
{
    bool plain = s.n > 0;
    for (size_t i = 0; i < s.n && plain; i++)
        plain = s.p[i] != '"' && s.p[i] != ',' && s.p[i] != '\r' && s.p[i] != '\n';
    if (plain) {
        buf_str(out, s);
        return;
    }
    buf_char(out, '"');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '"')
            buf_char(out, '"');
        buf_char(out, s.p[i]);
    }
    buf_char(out, '"');
}

void answer_timestamp(struct buf *out, int64_t us, bool quoted)
{
    int64_t seconds = us / 1000000 - (us % 1000000 < 0),
            day = seconds / 86400 - (seconds % 86400 < 0);
    unsigned second = (unsigned)(seconds - day * 86400), month, d;
    int year;
    clock_civil(day, &year, &month, &d);
    const char *quote = quoted ? "\"" : "";
    buf_printf(out, "%s%04d-%02u-%02u %02u:%02u:%02u%s", quote, year, month, d, second / 3600,
               second / 60 % 60, second % 60, quote);
}

static void put_list(struct buf *out, const struct duck_rows *r, unsigned col)
{
    buf_char(out, '[');
    for (size_t i = 0, n = duck_list_size(r, col); i < n; i++) {
        double d;
        buf_z(out, i ? "," : "");
        if (duck_list_double(r, col, i, &d))
            buf_double(out, d);
        else
            buf_z(out, "null");
    }
    buf_char(out, ']');
}

static void put_value(const struct answer *a, unsigned col)
{
    const struct duck_rows *r = a->rows;
    struct buf *out = a->out;
    bool json = a->format != FORMAT_CSV;
    if (duck_is_null(r, col)) {
        buf_z(out, json ? "null" : "");
        return;
    }
    switch (duck_column_type(r, col)) {
    case DUCK_BOOL:
        buf_z(out, duck_bool(r, col) ? "true" : "false");
        break;
    case DUCK_I32:
    case DUCK_I64:
        buf_i64(out, duck_i64(r, col));
        break;
    case DUCK_DOUBLE:
        buf_double(out, duck_double(r, col));
        break;
    case DUCK_STR:
    case DUCK_BLOB:
        if (json)
            buf_json(out, duck_str(r, col));
        else
            answer_csv_text(out, duck_str(r, col));
        break;
    case DUCK_TIMESTAMP:
        answer_timestamp(out, duck_i64(r, col), json);
        break;
    case DUCK_DATE:
        answer_timestamp(out, duck_i64(r, col) * 86400000000, json);
        break;
    case DUCK_LIST_DOUBLE:
        if (!json)
            buf_char(out, '"');
        put_list(out, r, col);
        if (!json)
            buf_char(out, '"');
        break;
    case DUCK_OTHER:
        buf_z(out, json ? "null" : "");
        break;
    }
}

void answer_begin(struct answer *a, enum format format, struct buf *out,
                  const struct duck_rows *rows, unsigned columns)
{
    *a = (struct answer){.format = format, .out = out, .rows = rows, .columns = columns};
    if (format == FORMAT_NDJSON)
        return;
    buf_z(out, format == FORMAT_JSON ? "{\"meta\":[" : "");
    for (unsigned i = 0; i < columns; i++) {
        struct str name = str_of(duck_column_name(rows, i));
        buf_z(out, i ? "," : "");
        if (format == FORMAT_CSV) {
            answer_csv_text(out, name);
            continue;
        }
        buf_z(out, "{\"name\":");
        buf_json(out, name);
        buf_printf(out, ",\"type\":\"%s\"}", duck_column_type_name(rows, i));
    }
    buf_z(out, format == FORMAT_JSON ? "],\n\"data\":[" : "\r\n");
}

void answer_row(struct answer *a)
{
    bool json = a->format != FORMAT_CSV;
    if (a->format == FORMAT_JSON)
        buf_z(a->out, a->n ? ",\n" : "\n");
    buf_z(a->out, json ? "{" : "");
    for (unsigned i = 0; i < a->columns; i++) {
        buf_z(a->out, i ? "," : "");
        if (json) {
            buf_json(a->out, str_of(duck_column_name(a->rows, i)));
            buf_char(a->out, ':');
        }
        put_value(a, i);
    }
    buf_z(a->out, json ? "}" : "\r\n");
    if (a->format == FORMAT_NDJSON)
        buf_char(a->out, '\n');
    a->n++;
}

void answer_end(struct answer *a, struct str statistics)
{
    if (a->format == FORMAT_JSON)
        buf_printf(a->out, "%s],\n\"rows\":%lld,\n\"statistics\":{" STR_FMT "}}\n",
                   a->n ? "\n" : "", (long long)a->n, STR_ARG(statistics));
    else if (a->format == FORMAT_NDJSON)
        buf_printf(a->out, "{\"end\":true,\"rows\":%lld}\n", (long long)a->n);
}
