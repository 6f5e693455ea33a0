/* fill_lake: Delta tables of generated posts, made by our own generator, rules and writers, without the services around them.
 *
 * fill_lake FOLDER USER ROWS FILES [SEED]: tables <FOLDER>/delta/USER_pin_table, …, each of ROWS rows in FILES files of one commit each.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "data/wash.h"
#include "emulator/generate.h"
#include "lake/delta.h"
#include "lake/parquet.h"
#include <stdio.h>

#define ARENA_MAX ((size_t)1 << 30)

struct feed {
    const struct dataset *dataset;
    struct generate *generate;
    struct wash *wash;
    struct buf json, texts; /* texts: of all rows of one file */
    char source[64];
    int64_t next, end;
    struct row row;
    bool have;
};

static void on_row(void *ctx, const struct row *row)
{
    struct feed *f = ctx;
    f->row = *row;
    f->have = true;
}

static void on_reject(void *ctx, const struct reject *reject)
{
    (void)ctx;
    (void)reject;
}

static int next_row(void *ctx, struct value *v)
{
    struct feed *f = ctx;
    const struct wash_callbacks cb = {.on_row = on_row, .on_reject = on_reject, .ctx = f};
    do {
        if (f->next == f->end)
            return 0;
        buf_reset(&f->json);
        generate_json(f->generate, f->dataset->id, (uint64_t)f->next, &f->json);
        struct wash_input in = {.position = f->next++,
                                .ingested_at_ms = (int64_t)clock_wall_ms(),
                                .value = buf_as_str(&f->json)};
        f->have = false;
        wash_record(f->wash, f->dataset, &in, &cb);
    } while (!f->have);
    unsigned n = f->dataset->columns_n;
    for (unsigned i = 0; i < n; i++) {
        v[i] = f->row.v[i];
        if (v[i].null || !v[i].s.p)
            continue;
        size_t at = f->texts.len;
        buf_str(&f->texts, v[i].s);
        v[i].s.p = f->texts.data + at;
    }
    v[n] = (struct value){.s = str_of(f->source)};
    v[n + 1] = (struct value){.i = f->row.position};
    v[n + 2] = (struct value){.i = f->row.item};
    v[n + 3] = (struct value){.i = f->row.ingested_at_ms};
    return 1;
}

static int add_file(struct store *s, struct delta *d, struct duck_conn *c, struct feed *f,
                    const struct parquet_source *src, struct err *e)
{
    char uuid[37], txn_id[37];
    rnd_uuid(uuid);
    rnd_uuid(txn_id);
    char *name = mem_printf("part-00000-%s-c000.zstd.parquet", uuid);
    char *key = mem_printf("%s/%s", delta_path(d), name);
    char *staged = store_stage(s, key, e);
    struct parquet_file file = {0};
    int rc = staged ? parquet_write(c, staged, src, &file, e) : ERR_IO;
    if (!rc)
        rc = store_publish(s, staged, key, e);
    struct delta_file add = {.path = name,
                             .bytes = file.bytes,
                             .rows = file.rows,
                             .modified_ms = (int64_t)clock_wall_ms(),
                             .stats = file.stats};
    char *app_id = mem_printf("sluice:%s", f->source);
    struct delta_txn_action txn = {.app_id = app_id, .version = f->end};
    struct delta_commit k = {.version = delta_version(d) + 1,
                             .txn_id = txn_id,
                             .adds = &add,
                             .adds_n = 1,
                             .txns = &txn,
                             .txns_n = 1,
                             .timestamp_ms = (int64_t)clock_wall_ms()};
    struct buf body;
    buf_init(&body, 1 << 20);
    if (!rc) {
        delta_commit_encode(&k, &body);
        rc = delta_put(d, k.version, buf_as_str(&body), txn_id, e);
    }
    if (!rc)
        rc = delta_refresh(d, c, e);
    buf_deinit(&body);
    mem_free(app_id);
    mem_free(file.stats);
    mem_free(staged);
    mem_free(key);
    mem_free(name);
    return rc;
}

static int fill(struct store *s, struct duck_conn *c, const struct dataset *dataset,
                const char *user, struct generate *g, int64_t rows, int64_t files, struct err *e)
{
    struct column_def columns[DATASET_MAX_COLUMNS + PROVENANCE_COLUMNS];
    unsigned n = dataset->columns_n;
    memcpy(columns, dataset->columns, n * sizeof(*columns));
    memcpy(columns + n, provenance_columns, sizeof(provenance_columns));
    struct feed f = {.dataset = dataset, .generate = g, .wash = wash_new(1 << 20)};
    snprintf(f.source, sizeof(f.source), "kafka:%s.%s:0:AAAAAAAAAAAAAAAAAAAAAA", user,
             dataset->name);
    buf_init(&f.json, 1 << 20);
    buf_init(&f.texts, ARENA_MAX);
    /* Slices of it must not move while a file is written. */
    (void)buf_reserve(&f.texts, (size_t)(rows / files + 1) * 1500);
    const struct parquet_source src = {
        .columns = columns, .columns_n = n + PROVENANCE_COLUMNS, .next = next_row, .ctx = &f};
    char *path = mem_printf("delta/%s_%s_table", user, dataset->name);
    char *schema = parquet_delta_schema(columns, n + PROVENANCE_COLUMNS);
    struct delta *d = delta_new(s, path);
    int rc = delta_create(d, schema, e);
    if (!rc)
        rc = delta_refresh(d, c, e);
    for (int64_t i = 0; i < files && !rc; i++) {
        f.next = rows * i / files;
        f.end = rows * (i + 1) / files;
        buf_reset(&f.texts);
        rc = add_file(s, d, c, &f, &src, e);
    }
    delta_free(&d);
    mem_free(schema);
    mem_free(path);
    buf_deinit(&f.texts);
    buf_deinit(&f.json);
    wash_free(&f.wash);
    return rc;
}

int main(int argc, char **argv)
{
    int64_t rows, files, seed = 1;
    if ((argc != 5 && argc != 6) || str_i64(str_of(argv[3]), &rows) ||
        str_i64(str_of(argv[4]), &files) || (argc == 6 && str_i64(str_of(argv[5]), &seed)) ||
        rows < 1 || files < 1) {
        fputs("fill_lake FOLDER USER ROWS FILES [SEED]\n", stderr);
        return 64;
    }
    struct err e = {0};
    struct store *s = NULL;
    struct duck *db = NULL;
    struct duck_conn *c = NULL;
    char *url = mem_printf("file://%s", argv[1]);
    struct generate *g = generate_new((uint64_t)rows, (uint64_t)seed);
    int rc = store_open(url, &s, &e);
    if (!rc)
        rc = duck_open(NULL, &db, &e);
    if (!rc)
        rc = duck_connect(db, &c, &e);
    for (int id = 0; id < DATASETS && !rc; id++)
        rc = fill(s, c, &datasets[id], argv[2], g, rows, files, &e);
    if (rc)
        fprintf(stderr, "fill_lake: %s: %s\n", err_name(rc), e.text);
    duck_disconnect(&c);
    duck_close(&db);
    store_close(&s);
    generate_free(&g);
    mem_free(url);
    return rc ? 1 : 0;
}
