/* delta: the state that the log adds up to. It is compacted in place: no list of commits is kept.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/hash.h"
#include "base/mem.h"

void delta_state_init(struct delta_state *st)
{
    *st = (struct delta_state){.version = -1};
    st->files = map_new();
    st->removes = map_new();
    st->applications = map_new();
}

void delta_state_deinit(struct delta_state *st)
{
    struct str key;
    void *value;
    for (size_t i = 0; st->files && map_next(st->files, &i, &key, &value);)
        delta_entry_free(value);
    for (size_t i = 0; st->removes && map_next(st->removes, &i, &key, &value);)
        json_decref(value);
    for (size_t i = 0; st->applications && map_next(st->applications, &i, &key, &value);)
        mem_free(value);
    map_free(&st->files);
    map_free(&st->removes);
    map_free(&st->applications);
    json_decref(st->protocol);
    json_decref(st->metadata);
    mem_free(st->id);
    mem_free(st->schema);
    *st = (struct delta_state){.version = -1};
}

static json_t *action(const json_t *row, const char *name)
{
    json_t *o = json_object_get(row, name);
    return json_is_object(o) ? o : NULL;
}

static void count(struct delta_state *st, const struct delta_entry *en, int sign)
{
    uint64_t one = (uint64_t)(int64_t)sign;
    if (en->file.rows < 0)
        st->uncounted += one;
    else
        st->rows += one * (uint64_t)en->file.rows; /* no log can make it overflow for good */
    st->vectors += en->deletion_vector ? one : 0;
    st->outside += en->outside ? one : 0;
}

static void drop_entry(struct delta_state *st, struct delta_entry *en)
{
    if (!en)
        return;
    count(st, en, -1);
    delta_entry_free(en);
}

static void apply_add(struct delta_state *st, const json_t *add)
{
    size_t n;
    char *key = delta_action_key(add, &n);
    struct delta_entry *en = delta_action_entry(add);
    count(st, en, 1);
    drop_entry(st, map_put(st->files, str_make(key, n), en));
    json_decref(map_remove(st->removes, str_make(key, n)));
    mem_free(key);
}

static void apply_remove(struct delta_state *st, json_t *remove)
{
    size_t n;
    char *key = delta_action_key(remove, &n);
    drop_entry(st, map_remove(st->files, str_make(key, n)));
    json_decref(map_put(st->removes, str_make(key, n), json_incref(remove)));
    mem_free(key);
}

static void apply_txn(struct delta_state *st, const json_t *txn)
{
    const json_t *id = json_object_get(txn, "appId"), *at = json_object_get(txn, "lastUpdated");
    struct delta_application *a = MEM_NEW(struct delta_application);
    a->version = json_integer_value(json_object_get(txn, "version"));
    a->updated_ms = json_is_integer(at) ? json_integer_value(at) : -1;
    struct str key = str_make(json_string_value(id), json_string_length(id));
    mem_free(map_put(st->applications, key, a));
}

static void apply_metadata(struct delta_state *st, json_t *m)
{
    json_decref(st->metadata);
    mem_free(st->id);
    mem_free(st->schema);
    st->metadata = json_incref(m);
    st->id = mem_strdup(json_string_value(json_object_get(m, "id")));
    const char *schema = json_string_value(json_object_get(m, "schemaString"));
    st->schema = schema ? mem_strdup(schema) : NULL; /* a later commit may bring it */
}

/* All of a row but its add. */
static void apply_rest(struct delta_state *st, const json_t *row)
{
    json_t *o;
    if ((o = action(row, "protocol"))) {
        json_decref(st->protocol);
        st->protocol = json_incref(o);
    }
    if ((o = action(row, "metaData")))
        apply_metadata(st, o);
    if ((o = action(row, "txn")))
        apply_txn(st, o);
    if ((o = action(row, "remove")))
        apply_remove(st, o);
    if ((o = action(row, "commitInfo"))) {
        const json_t *t = json_object_get(o, "timestamp");
        st->commit_time_ms = json_is_integer(t) ? json_integer_value(t) : 0;
    }
}

int delta_state_apply_row(struct delta_state *st, json_t *row, struct err *e)
{
    int rc = delta_action_check(row, e);
    if (rc)
        return rc;
    apply_rest(st, row);
    json_t *add = action(row, "add");
    if (add)
        apply_add(st, add);
    return 0;
}

/* The lines of a commit, each checked. */
static int parse(struct str body, json_t *rows, struct err *e)
{
    struct str line;
    while (str_next(&body, '\n', &line)) {
        while (line.n && (line.p[line.n - 1] == '\r' || line.p[line.n - 1] == ' '))
            line.n--;
        if (!line.n)
            continue;
        json_error_t why;
        json_t *row = json_loadb(line.p, line.n, JSON_ALLOW_NUL, &why);
        if (!row)
            return err_set(e, ERR_CORRUPT, "not JSON: %s", why.text);
        json_array_append_new(rows, row);
        int rc = delta_action_check(row, e);
        if (rc)
            return rc;
    }
    return 0;
}

int delta_state_apply_commit(struct delta_state *st, int64_t version, struct str body,
                             bool same_table, struct err *e)
{
    json_t *rows = json_array(), *row;
    size_t i;
    int rc = parse(body, rows, e);
    if (rc) {
        json_decref(rows);
        if (e)
            err_prefix(e, "commit %lld", (long long)version);
        return rc;
    }
    json_array_foreach (rows, i, row) {
        const json_t *m = action(row, "metaData");
        if (m && same_table && st->id &&
            strcmp(st->id, json_string_value(json_object_get(m, "id")))) {
            json_decref(rows);
            return err_set(e, ERR_CONFLICT, "commit %lld is of another table", (long long)version);
        }
    }
    st->commit_time_ms = 0;
    json_array_foreach (rows, i, row)
        apply_rest(st, row);
    json_array_foreach (rows, i, row) {
        const json_t *add = action(row, "add");
        if (add)
            apply_add(st, add);
    }
    json_decref(rows);
    st->version = version;
    st->commit_read = true;
    st->commit_bytes = body.n;
    st->commit_hash = hash_bytes(body.p, body.n, 0);
    return 0;
}

#define WEEK_MS (7 * 24 * 3600 * (int64_t)1000)

static bool remove_expired(const struct delta_state *st, const json_t *remove, int64_t now_ms)
{
    const json_t *conf = json_object_get(st->metadata, "configuration");
    if (json_object_get(conf, "delta.deletedFileRetentionDuration"))
        return false; /* its text is an interval of Spark's: keep all rather than guess */
    return json_integer_value(json_object_get(remove, "deletionTimestamp")) <= now_ms - WEEK_MS;
}

/* A checkpoint of ours has no place for deletion vectors: the tombstone of a file with one must not hit the file that came back
 * without. */
static bool file_is_back(const struct delta_state *st, const json_t *remove)
{
    if (!action(remove, "deletionVector"))
        return false;
    json_t *plain = json_object();
    json_object_set(plain, "path", json_object_get(remove, "path"));
    size_t n;
    char *key = delta_action_key(plain, &n);
    bool back = map_get(st->files, str_make(key, n)) != NULL;
    mem_free(key);
    json_decref(plain);
    return back;
}

static void put_remove(struct buf *b, const json_t *r)
{
    static const char *const kept[] = {"deletionTimestamp", "extendedFileMetadata",
                                       "partitionValues", "size"};
    buf_z(b, "{\"remove\":{\"path\":");
    delta_put_json(b, json_object_get(r, "path"));
    buf_z(b, ",\"dataChange\":false");
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        const json_t *v = json_object_get(r, kept[i]);
        if (!v || json_is_null(v))
            continue;
        buf_printf(b, ",\"%s\":", kept[i]);
        delta_put_json(b, v);
    }
    buf_z(b, "}}\n");
}

/* A metaData whose required maps are never null. */
static void put_metadata(struct buf *b, const json_t *m)
{
    json_t *full = json_copy((json_t *)m);
    static const char *const maps[] = {"configuration", "format", "partitionColumns"};
    for (size_t i = 0; i < 3; i++) {
        const json_t *v = json_object_get(full, maps[i]);
        if (!v || json_is_null(v))
            json_object_set_new(full, maps[i], i == 2 ? json_array() : json_object());
    }
    json_t *format = json_copy(json_object_get(full, "format"));
    const json_t *options = json_object_get(format, "options");
    if (!options || json_is_null(options))
        json_object_set_new(format, "options", json_object());
    json_object_set_new(full, "format", format);
    buf_z(b, "{\"metaData\":");
    delta_put_json(b, full);
    buf_z(b, "}\n");
    json_decref(full);
}

bool delta_state_write(const struct delta_state *st, int64_t now_ms, struct buf *line,
                       bool (*put)(void *ctx, struct str line), void *ctx, int64_t *ret_rows)
{
    int64_t rows = 0;
    struct str key;
    void *value;
#define EMIT()                                                                                     \
    do {                                                                                           \
        if (line->overflow || !put(ctx, buf_as_str(line)))                                         \
            return false;                                                                          \
        rows++;                                                                                    \
        buf_reset(line);                                                                           \
    } while (0)
    buf_reset(line);
    buf_z(line, "{\"protocol\":");
    delta_put_json(line, st->protocol);
    buf_z(line, "}\n");
    EMIT();
    put_metadata(line, st->metadata);
    EMIT();
    for (size_t i = 0; map_next(st->applications, &i, &key, &value);) {
        const struct delta_application *a = value;
        buf_z(line, "{\"txn\":{\"appId\":");
        buf_json(line, key);
        buf_printf(line, ",\"version\":%lld", (long long)a->version);
        if (a->updated_ms >= 0)
            buf_printf(line, ",\"lastUpdated\":%lld", (long long)a->updated_ms);
        buf_z(line, "}}\n");
        EMIT();
    }
    for (size_t i = 0; map_next(st->files, &i, &key, &value);) {
        const struct delta_entry *en = value;
        delta_put_add(line, &en->file, en->partition_values, en->tags, false);
        EMIT();
    }
    for (size_t i = 0; map_next(st->removes, &i, &key, &value);) {
        if (remove_expired(st, value, now_ms) || file_is_back(st, value))
            continue;
        put_remove(line, value);
        EMIT();
    }
#undef EMIT
    *ret_rows = rows;
    return true;
}
