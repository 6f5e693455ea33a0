/* source: where the rows come from: files of JSON lines, which are sent byte for byte, or the generator.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/mem.h"
#include "emulator/emulator.h"
#include "emulator/generate.h"
#include <jansson.h>

#define MAX_FILE_BYTES ((size_t)1 << 30)

struct lines {
    struct buf text;
    struct str *line;
    size_t n;
};

struct source {
    struct generate *generate; /* or: */
    struct lines files[DATASETS];
    uint64_t rows;
};

static void split(struct lines *f)
{
    struct str rest = buf_as_str(&f->text), line;
    size_t cap = 0;
    while (str_next(&rest, '\n', &line)) {
        if (str_ends(line, STR("\r")))
            line.n--;
        if (!line.n)
            continue;
        if (f->n == cap) {
            size_t more = cap ? cap * 2 : 1024;
            f->line = mem_realloc(f->line, cap * sizeof *f->line, more * sizeof *f->line);
            cap = more;
        }
        f->line[f->n++] = line;
    }
}

static int read_file(const char *folder, const char *name, struct lines *f, struct err *e)
{
    CLEANUP(mem_cleanup) char *path = mem_printf("%s/%s.jsonl", folder, name);
    FILE *in = fopen(path, "rb");
    if (!in)
        return err_set(e, ERR_USAGE, "%s: cannot be read", path);
    buf_init(&f->text, MAX_FILE_BYTES);
    char piece[65536];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, in)) > 0)
        buf_append(&f->text, piece, n);
    bool bad = ferror(in) != 0;
    fclose(in);
    if (bad || f->text.overflow)
        return err_set(e, ERR_USAGE, "%s: %s", path, bad ? "cannot be read" : "over 1 GiB");
    split(f);
    return 0;
}

int source_open(const struct emulator_opts *o, struct source **ret, struct err *e)
{
    struct source *s = MEM_NEW(struct source);
    if (!o->posts) {
        s->generate = generate_new(o->rows, o->seed);
        s->rows = o->rows;
    }
    for (int id = 0; o->posts && id < DATASETS; id++) {
        int rc = read_file(o->posts, datasets[id].name, &s->files[id], e);
        if (rc < 0) {
            source_close(&s);
            return rc;
        }
        if (s->rows < s->files[id].n)
            s->rows = s->files[id].n;
    }
    if (!s->rows) {
        source_close(&s);
        return err_set(e, ERR_USAGE, "%s: no posts in it", o->posts);
    }
    *ret = s;
    return 0;
}

void source_close(struct source **ps)
{
    struct source *s = *ps;
    if (!s)
        return;
    generate_free(&s->generate);
    for (int id = 0; id < DATASETS; id++) {
        buf_deinit(&s->files[id].text);
        mem_free(s->files[id].line);
    }
    mem_free(s);
    *ps = NULL;
}

uint64_t source_rows(const struct source *s)
{
    return s->rows;
}

uint64_t source_records(const struct source *s)
{
    uint64_t n = 0;
    for (int id = 0; id < DATASETS; id++)
        n += s->generate ? s->rows : s->files[id].n;
    return n;
}

bool source_json(const struct source *s, enum dataset_id id, uint64_t row, struct buf *out)
{
    if (s->generate) {
        generate_json(s->generate, id, row, out);
        return true;
    }
    if (row >= s->files[id].n)
        return false;
    buf_str(out, s->files[id].line[row]);
    return true;
}

int64_t source_key(enum dataset_id id, struct str json)
{
    json_error_t e;
    json_t *j = json_loadb(json.p, json.n, 0, &e);
    json_t *key = json_object_get(j, id == DATASET_PIN ? "index" : "ind");
    int64_t v = json_is_integer(key) ? json_integer_value(key) : -1;
    json_decref(j);
    return v;
}
