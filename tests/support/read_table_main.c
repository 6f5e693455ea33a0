/* read_table: what our code makes of a Delta table, for comparison with readers that are not ours.
 *
 * read_table FOLDER TABLE [VERSION]: one line of JSON: version, id, rows (-1: not counted), files (path, bytes, rows), txns, writable (the
 * refusal's text, or null); or {"error": code's name, "text": …} and exit code 1.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/buf.h"
#include "base/mem.h"
#include "lake/delta.h"
#include <stdio.h>

static void put_state(const struct delta *d, struct buf *b)
{
    const struct delta_file *f;
    struct str app;
    int64_t version;
    buf_printf(b, "{\"version\":%lld,\"id\":", (long long)delta_version(d));
    buf_json(b, str_of(delta_id(d)));
    buf_printf(b, ",\"rows\":%lld,\"files\":[", (long long)delta_rows(d));
    for (size_t i = 0, n = 0; delta_next_file(d, &i, &f); n++) {
        buf_z(b, n ? ",{\"path\":" : "{\"path\":");
        buf_json(b, str_of(f->path));
        buf_printf(b, ",\"bytes\":%llu,\"rows\":%lld}", (unsigned long long)f->bytes,
                   (long long)f->rows);
    }
    buf_z(b, "],\"txns\":{");
    for (size_t i = 0, n = 0; delta_next_txn(d, &i, &app, &version); n++) {
        buf_z(b, n ? "," : "");
        buf_json(b, app);
        buf_printf(b, ":%lld", (long long)version);
    }
    buf_z(b, "},\"writable\":");
    /* Its own columns: only what the table asks of a writer can be in the way. */
    struct err e = {0};
    if (delta_check_writable(d, delta_schema(d), &e))
        buf_json(b, str_of(e.text));
    else
        buf_z(b, "null");
    buf_z(b, "}");
}

static int run(const char *folder, const char *table, int64_t version, struct buf *b, struct err *e)
{
    struct store *s = NULL;
    struct duck *db = NULL;
    struct duck_conn *c = NULL;
    struct delta *d = NULL;
    char *url = mem_printf("file://%s", folder);
    int rc = store_open_read(url, &s, e);
    if (!rc)
        rc = duck_open(NULL, &db, e);
    if (!rc)
        rc = duck_connect(db, &c, e);
    if (!rc) {
        d = delta_new(s, table);
        rc = version < 0 ? delta_refresh(d, c, e) : delta_load_at(d, c, version, e);
    }
    if (!rc)
        put_state(d, b);
    delta_free(&d);
    duck_disconnect(&c);
    duck_close(&db);
    store_close(&s);
    mem_free(url);
    return rc;
}

int main(int argc, char **argv)
{
    int64_t version = -1;
    if (argc < 3 || argc > 4 || (argc == 4 && str_i64(str_of(argv[3]), &version))) {
        fprintf(stderr, "read_table FOLDER TABLE [VERSION]\n");
        return 64;
    }
    struct buf b;
    buf_init(&b, (size_t)1 << 30);
    struct err e = {0};
    int rc = run(argv[1], argv[2], version, &b, &e);
    if (rc) {
        buf_reset(&b);
        buf_z(&b, "{\"error\":");
        buf_json(&b, str_of(err_name(rc)));
        buf_z(&b, ",\"text\":");
        buf_json(&b, str_of(e.text));
        buf_z(&b, "}");
    }
    puts(b.data);
    buf_deinit(&b);
    return rc ? 1 : 0;
}
