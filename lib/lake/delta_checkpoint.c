/* delta: checkpoints: the whole state as one Parquet file, written and read with DuckDB's JSON (contract 1.9).
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/clock.h"
#include "base/mem.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

/* read_json takes buffers of twice this, and the connection's memory may be small. */
#define ACTION_MAX_BYTES ((size_t)4 << 20)
#define ACTION_MAX_TEXT "4194304"

#define CHECKPOINT_COLUMNS                                                                         \
    "{txn:'STRUCT(\"appId\" VARCHAR, \"version\" BIGINT, \"lastUpdated\" BIGINT)',"                \
    "\"add\":'STRUCT(\"path\" VARCHAR, \"partitionValues\" MAP(VARCHAR,VARCHAR), \"size\" "        \
    "BIGINT, \"modificationTime\" BIGINT, \"dataChange\" BOOLEAN, \"tags\" MAP(VARCHAR,VARCHAR), " \
    "\"stats\" VARCHAR)',"                                                                         \
    "remove:'STRUCT(\"path\" VARCHAR, \"deletionTimestamp\" BIGINT, \"dataChange\" BOOLEAN, "      \
    "\"extendedFileMetadata\" BOOLEAN, \"partitionValues\" MAP(VARCHAR,VARCHAR), \"size\" "        \
    "BIGINT)',"                                                                                    \
    "\"metaData\":'STRUCT(\"id\" VARCHAR, \"name\" VARCHAR, \"description\" VARCHAR, \"format\" "  \
    "STRUCT(\"provider\" VARCHAR, \"options\" MAP(VARCHAR,VARCHAR)), \"schemaString\" VARCHAR, "   \
    "\"partitionColumns\" VARCHAR[], \"configuration\" MAP(VARCHAR,VARCHAR), \"createdTime\" "     \
    "BIGINT)',"                                                                                    \
    "protocol:'STRUCT(\"minReaderVersion\" INTEGER, \"minWriterVersion\" INTEGER, "                \
    "\"readerFeatures\" VARCHAR[], \"writerFeatures\" VARCHAR[])'}"

/* What is read of an add. Parsed statistics stay behind: they may hold numbers that are no JSON (NaN) or too long for an integer. */
#define ADD_READ                                                                                   \
    "STRUCT(\"path\" VARCHAR, \"partitionValues\" MAP(VARCHAR,VARCHAR), \"size\" BIGINT, "         \
    "\"modificationTime\" BIGINT, \"tags\" MAP(VARCHAR,VARCHAR), \"stats\" VARCHAR, "              \
    "\"stats_parsed\" STRUCT(\"numRecords\" BIGINT), \"deletionVector\" STRUCT(\"storageType\" "   \
    "VARCHAR, \"pathOrInlineDv\" VARCHAR, \"offset\" INTEGER))"

int delta_checkpoint_read(struct delta *d, struct duck_conn *c, char **names, size_t n,
                          struct err *e)
{
    if (!c)
        return err_set(e, ERR_UNSUPPORTED, "table %s: a checkpoint, and nothing to read it with",
                       d->path);
    struct str *paths = MEM_ARRAY(struct str, n + 1);
    for (size_t i = 0; i < n; i++) {
        char *key = delta_log_key(d, "%s", names[i]);
        paths[i] = str_of(store_local_path(d->store, key));
        mem_free(key);
    }
    struct duck_stmt *s = NULL;
    struct duck_rows *rows = NULL;
    int rc = duck_prepare(c,
                          "SELECT to_json(t)::VARCHAR FROM (SELECT * REPLACE (\"add\"::" ADD_READ
                          " AS \"add\") FROM read_parquet($files, hive_partitioning=false, "
                          "union_by_name=true)) t",
                          &s, e);
    if (!rc)
        rc = duck_bind_strs(s, 1, paths, n);
    if (!rc)
        rc = duck_query(s, &rows, e);
    while (!rc && (rc = duck_next(rows, e)) == 1) {
        rc = 0;
        struct str text = duck_str(rows, 0);
        json_t *row = json_loadb(text.p, text.n, JSON_ALLOW_NUL, NULL);
        rc = row ? delta_state_apply_row(&d->st, row, e)
                 : err_set(e, ERR_CORRUPT, "a row of the checkpoint is no JSON");
        json_decref(row);
    }
    d->reads += n;
    duck_rows_free(&rows);
    duck_finish(&s);
    for (size_t i = 0; i < n; i++)
        mem_free((char *)paths[i].p);
    mem_free(paths);
    if (rc == ERR_BAD_DATA) /* its columns are not what they should be */
        rc = ERR_CORRUPT;
    if (rc && e) {
        err_prefix(e, "checkpoint %s", names[0]);
        e->code = rc;
    }
    return rc;
}

static bool put_line(void *ctx, struct str line)
{
    return fwrite(line.p, 1, line.n, ctx) == line.n;
}

static int disk_error(struct err *e, const char *path)
{
    int no = errno;
    char text[96];
    return err_set(e, no == ENOSPC || no == EDQUOT || no == EFBIG ? ERR_NOSPACE : ERR_IO,
                   "write %s: %s", path, strerror_r(no, text, sizeof text));
}

static int write_ndjson(const struct delta *d, const char *path, int64_t *ret_rows, struct err *e)
{
    FILE *f = fopen(path, "we");
    if (!f)
        return disk_error(e, path);
    struct buf line;
    buf_init(&line, ACTION_MAX_BYTES);
    int rc = 0;
    if (!delta_state_write(&d->st, (int64_t)clock_wall_ms(), &line, put_line, f, ret_rows))
        rc = line.overflow ? err_set(e, ERR_LIMIT, "checkpoint: an action is over 4 MiB")
                           : disk_error(e, path);
    buf_deinit(&line);
    if (fclose(f) && !rc)
        rc = disk_error(e, path);
    return rc;
}

/* read_json alone wants 64 MiB of buffers, whatever the size of the state: for the moment of a checkpoint a smaller limit is
 * lifted to 96 MiB. *ret_was: what to set again; NULL: nothing was changed. */
static int raise_memory(struct duck_conn *c, char **ret_was, struct err *e)
{
    struct duck_rows *rows;
    int rc = duck_query_sql(c, "SELECT current_setting('memory_limit')", &rows, e);
    if (rc)
        return rc;
    double size = 0;
    bool small = false;
    char *was = NULL;
    if (duck_next(rows, e) == 1) {
        struct str text = duck_str(rows, 0), number;
        was = mem_strndup(text.p, text.n);
        small = str_next(&text, ' ', &number) && !str_double(number, &size) &&
                (str_is(text, "KiB") || (str_is(text, "MiB") && size < 96));
    }
    duck_rows_free(&rows);
    if (small)
        rc = duck_exec(c, "SET memory_limit='96MiB'", e);
    if (small && !rc)
        *ret_was = was;
    else
        mem_free(was);
    return rc;
}

static int write_parquet(struct duck_conn *c, const char *ndjson, const char *parquet,
                         struct err *e)
{
    struct buf sql;
    buf_init(&sql, 1 << 16);
    buf_z(&sql, "COPY (SELECT * FROM read_json(");
    duck_quote(&sql, '\'', ndjson);
    buf_z(&sql, ", format='newline_delimited', compression='uncompressed', "
                "maximum_object_size=" ACTION_MAX_TEXT ", "
                "columns=" CHECKPOINT_COLUMNS ")) TO ");
    duck_quote(&sql, '\'', parquet);
    buf_z(&sql, " (FORMAT parquet, PARQUET_VERSION V1, COMPRESSION zstd, ROW_GROUP_SIZE 20480, "
                "USE_TMP_FILE false)");
    char *was = NULL;
    int rc = raise_memory(c, &was, e);
    if (!rc)
        rc = duck_exec(c, sql.data, e);
    if (was) {
        buf_reset(&sql);
        buf_printf(&sql, "SET memory_limit='%s'", was);
        (void)duck_exec(c, sql.data, NULL); /* a larger limit is no failure of the checkpoint */
        mem_free(was);
    }
    buf_deinit(&sql);
    return rc;
}

/* The version _last_checkpoint has; -1: none that can be read. */
static int64_t pointed_at(struct delta *d, const char *key)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    int64_t version = -1;
    if (!store_get(d->store, key, &b, NULL)) {
        json_t *o = json_loadb(b.data ? b.data : "", b.len, JSON_ALLOW_NUL, NULL);
        const json_t *v = json_object_get(o, "version");
        version = json_is_integer(v) ? json_integer_value(v) : -1;
        json_decref(o);
    }
    buf_deinit(&b);
    return version;
}

static int point_at(struct delta *d, int64_t rows, uint64_t bytes, struct err *e)
{
    char *key = delta_log_key(d, "_last_checkpoint");
    int rc = 0;
    if (pointed_at(d, key) < d->st.version) {
        struct buf b;
        buf_init(&b, 4096);
        buf_printf(
            &b, "{\"version\":%lld,\"size\":%lld,\"sizeInBytes\":%llu,\"numOfAddFiles\":%zu}",
            (long long)d->st.version, (long long)rows, (unsigned long long)bytes, delta_files(d));
        rc = store_put(d->store, key, buf_as_str(&b), e);
        buf_deinit(&b);
        /* A checksum that Hadoop's local file system left beside the old one would make Spark refuse the new one. */
        char *crc = delta_log_key(d, "._last_checkpoint.crc");
        (void)store_delete(d->store, crc, NULL);
        mem_free(crc);
    }
    mem_free(key);
    return rc;
}

int delta_checkpoint(struct delta *d, struct duck_conn *c, struct err *e)
{
    int rc = delta_check_readable(d, e);
    if (rc)
        return rc;
    char *key = delta_log_key(d, "%020lld.checkpoint.parquet", (long long)d->st.version);
    struct err why = {0};
    char *ndjson = store_stage(d->store, key, &why);
    char *parquet = ndjson ? store_stage(d->store, key, &why) : NULL;
    int64_t rows = 0;
    struct stat st = {0};
    if (!ndjson || !parquet) {
        rc = err_set(e, why.code, "%s", why.text);
        goto out;
    }
    rc = write_ndjson(d, ndjson, &rows, e);
    if (!rc)
        rc = write_parquet(c, ndjson, parquet, e);
    if (!rc && stat(parquet, &st))
        rc = disk_error(e, parquet);
    if (!rc) {
        rc = store_publish(d->store, parquet, key, e);
        if (rc == ERR_EXISTS)
            rc = 0; /* somebody else wrote the same state, and says so in _last_checkpoint */
        else if (!rc)
            rc = point_at(d, rows, (uint64_t)st.st_size, e);
    }
    store_discard(d->store, ndjson);
    store_discard(d->store, parquet);
out:
    mem_free(ndjson);
    mem_free(parquet);
    mem_free(key);
    return rc;
}
