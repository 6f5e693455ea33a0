/* lake: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake.h"
#include "base/mem.h"
#include "tmpdir.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void must(int rc, const struct err *e)
{
    if (rc)
        print_error("%s: %s\n", err_name(rc), e->text);
    assert_int_equal(rc, 0);
}

struct lake *lake_new(void)
{
    struct lake *l = MEM_NEW(struct lake);
    /* Tests put another file in a file's place within one tick of its time, which DuckDB's cache would not see. */
    static const struct duck_setting settings[] = {{"memory_limit", "256MiB"},
                                                   {"threads", "1"},
                                                   {"enable_external_file_cache", "false"},
                                                   {NULL, NULL}};
    struct err e = {0};
    l->dir = tmpdir_new();
    char *url = mem_printf("file://%s", l->dir);
    must(store_open(url, &l->store, &e), &e);
    must(duck_open(settings, &l->duck, &e), &e);
    must(duck_connect(l->duck, &l->conn, &e), &e);
    mem_free(url);
    return l;
}

void lake_free(struct lake **pl)
{
    struct lake *l = *pl;
    if (!l)
        return;
    duck_disconnect(&l->conn);
    duck_close(&l->duck);
    store_close(&l->store);
    tmpdir_remove(&l->dir);
    mem_free(l);
    *pl = NULL;
}

static char *path_of(struct lake *l, const char *table, const char *name)
{
    return mem_printf("%s/%s/_delta_log/%s", l->dir, table, name);
}

static char *version_name(int64_t version)
{
    return mem_printf("%020lld.json", (long long)version);
}

static void make_folders(const char *path)
{
    char *p = mem_strdup(path);
    for (char *at = strchr(p + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        (void)mkdir(p, 0777); /* most are there */
        *at = '/';
    }
    mem_free(p);
}

void lake_put(struct lake *l, const char *table, const char *name, struct str bytes)
{
    char *path = path_of(l, table, name);
    /* a new file: file systems are eager to sync what replaces another one's bytes */
    (void)unlink(path);
    FILE *f = fopen(path, "w");
    if (!f) {
        make_folders(path);
        f = fopen(path, "w");
    }
    assert_non_null(f);
    assert_int_equal(fwrite(bytes.p, 1, bytes.n, f), bytes.n);
    assert_int_equal(fclose(f), 0);
    mem_free(path);
}

void lake_put_version(struct lake *l, const char *table, int64_t version, const char *text)
{
    char *name = version_name(version);
    lake_put(l, table, name, str_of(text));
    mem_free(name);
}

void lake_delete(struct lake *l, const char *table, const char *name)
{
    char *path = path_of(l, table, name);
    assert_int_equal(unlink(path), 0);
    mem_free(path);
}

void lake_delete_version(struct lake *l, const char *table, int64_t version)
{
    char *name = version_name(version);
    lake_delete(l, table, name);
    mem_free(name);
}

int lake_commit(struct delta *d, int64_t version, const char *name, int64_t rows, const char *app,
                int64_t at, const char *txn_id)
{
    char *path = mem_printf("part-%s.parquet", name),
         *stats = mem_printf("{\"numRecords\":%lld}", (long long)rows);
    struct delta_file f = {
        .path = path, .bytes = 100, .rows = rows, .modified_ms = 5, .stats = stats};
    struct delta_txn_action t = {app, at};
    struct delta_commit c = {.version = version,
                             .txn_id = txn_id,
                             .adds = &f,
                             .adds_n = 1,
                             .txns = &t,
                             .txns_n = 1,
                             .copies = 3,
                             .timestamp_ms = 1760000000456};
    struct buf b;
    buf_init(&b, 1 << 20);
    delta_commit_encode(&c, &b);
    struct err e = {0};
    int rc = delta_put(d, version, buf_as_str(&b), txn_id, &e);
    buf_deinit(&b);
    mem_free(path);
    mem_free(stats);
    return rc;
}

void lake_make_history(struct lake *l, const char *table, const char *schema, int64_t last)
{
    struct delta *d = delta_new(l->store, table);
    struct err e = {0};
    must(delta_create(d, schema, &e), &e);
    for (int64_t v = 1; v <= last; v++) {
        char name[32];
        (void)snprintf(name, sizeof name, "%03d", (int)v);
        assert_int_equal(lake_commit(d, v, name, 1, "app", v, name), 0);
    }
    delta_free(&d);
}

void lake_refreshed(struct lake *l, struct delta *d, int want)
{
    struct err e = {0};
    int rc = delta_refresh(d, l->conn, &e);
    if (rc != want)
        print_error("%s: %s\n", err_name(rc), e.text);
    assert_int_equal(rc, want);
}

void lake_checkpointed(struct lake *l, struct delta *d)
{
    struct err e = {0};
    must(delta_checkpoint(d, l->conn, &e), &e);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *lake_state(const struct delta *d)
{
    char **lines = MEM_ARRAY(char *, 3 + delta_files(d));
    size_t n = 0;
    const struct delta_file *f;
    struct str app;
    int64_t v;
    struct buf out;
    buf_init(&out, 64 << 20);
    buf_printf(&out, "v%lld id %s rows %lld\n%s\n", (long long)delta_version(d), delta_id(d),
               (long long)delta_rows(d), delta_schema(d));
    for (size_t i = 0; delta_next_file(d, &i, &f);)
        lines[n++] =
            mem_printf("%s %llu %lld %lld %s", f->path, (unsigned long long)f->bytes,
                       (long long)f->rows, (long long)f->modified_ms, f->stats ? f->stats : "-");
    for (size_t i = 0; delta_next_txn(d, &i, &app, &v);) {
        lines = mem_realloc(lines, n * sizeof *lines, (n + 1) * sizeof *lines);
        lines[n++] = mem_printf("txn " STR_FMT " %lld", STR_ARG(app), (long long)v);
    }
    qsort(lines, n, sizeof *lines, by_text);
    for (size_t i = 0; i < n; i++) {
        buf_printf(&out, "%s\n", lines[i]);
        mem_free(lines[i]);
    }
    mem_free(lines);
    return buf_steal(&out, NULL);
}

char *lake_state_at(struct lake *l, const char *table, int64_t version)
{
    struct delta *d = delta_new(l->store, table);
    struct err e = {0};
    must(delta_load_at(d, l->conn, version, &e), &e);
    char *text = lake_state(d);
    delta_free(&d);
    return text;
}
