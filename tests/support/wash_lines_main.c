/* wash_lines: what our rules make of raw records, for comparison with rules that are not ours (tools/sluice/rules.py).
 *
 * wash_lines MAX_RECORD_BYTES: on stdin one record a line, "dataset key value", both in base64, "-" for null; on stdout one line of JSON for
 * each: its items, ["row", [columns…]] or ["reject", reason, value in base64 or null].
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/buf.h"
#include "base/mem.h"
#include "data/wash.h"
#include <stdio.h>
#include <stdlib.h>

struct out {
    const struct dataset *d;
    struct buf text;
    unsigned items;
};

static void put_base64(struct buf *b, struct str s)
{
    char *text = mem_alloc(str_base64_size(s.n) + 1);
    size_t n = str_base64_encode(s.p, s.n, false, text);
    buf_json(b, str_make(text, n));
    mem_free(text);
}

static void on_row(void *ctx, const struct row *row)
{
    struct out *o = ctx;
    buf_z(&o->text, o->items++ ? ",[\"row\",[" : "[\"row\",[");
    for (unsigned i = 0; i < o->d->columns_n; i++) {
        const struct value *v = &row->v[i];
        buf_z(&o->text, i ? "," : "");
        if (v->null)
            buf_z(&o->text, "null");
        else if (o->d->columns[i].type == COLUMN_STR)
            buf_json(&o->text, v->s);
        else if (o->d->columns[i].type == COLUMN_POINT)
            buf_printf(&o->text, "[%.17g,%.17g]", v->d[0], v->d[1]);
        else
            buf_i64(&o->text, v->i);
    }
    buf_z(&o->text, "]]");
}

static void on_reject(void *ctx, const struct reject *r)
{
    struct out *o = ctx;
    buf_printf(&o->text, "%s[\"reject\",\"%s\",", o->items++ ? "," : "", reject_names[r->reason]);
    if (r->value.p)
        put_base64(&o->text, r->value);
    else
        buf_z(&o->text, "null");
    buf_char(&o->text, ']');
}

/* Bytes of a field; absent for "-". The caller frees *ret_bytes. */
static struct str decode(struct str field, char **ret_bytes)
{
    size_t n = 0;
    *ret_bytes = mem_alloc(str_base64_max(field.n) + 1);
    if (str_is(field, "-"))
        return (struct str){NULL, 0};
    if (field.n && str_base64_decode(field, false, *ret_bytes, &n)) {
        fprintf(stderr, "bad base64\n");
        exit(1);
    }
    return str_make(*ret_bytes, n);
}

static void wash_line(struct wash *w, struct str line, struct out *o)
{
    struct str name, key, value;
    char *key_bytes, *value_bytes;
    (void)str_next(&line, ' ', &name), (void)str_next(&line, ' ', &key);
    (void)str_next(&line, '\n', &value); /* what is missing is an unknown dataset, or empty */
    o->d = dataset_by_name(name);
    if (!o->d) {
        fprintf(stderr, "no dataset\n");
        exit(1);
    }
    const struct wash_callbacks cb = {on_row, on_reject, NULL, o};
    struct wash_input in = {.key = decode(key, &key_bytes), .value = decode(value, &value_bytes)};
    o->items = 0;
    buf_reset(&o->text);
    buf_char(&o->text, '[');
    wash_record(w, o->d, &in, &cb);
    puts(buf_char(&o->text, ']') ? o->text.data : "too long");
    mem_free(key_bytes);
    mem_free(value_bytes);
}

int main(int argc, char **argv)
{
    uint64_t max;
    if (argc != 2 || str_u64(str_of(argv[1]), &max)) {
        fprintf(stderr, "wash_lines MAX_RECORD_BYTES\n");
        return 64;
    }
    struct wash *w = wash_new(max);
    struct out o = {0};
    buf_init(&o.text, (size_t)1 << 30);
    char *line = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&line, &room, stdin)) > 0;)
        wash_line(w, str_make(line, (size_t)n), &o);
    free(line); /* getline's */
    buf_deinit(&o.text);
    wash_free(&w);
    return 0;
}
