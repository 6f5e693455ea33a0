/* delta: actions as JSON: what must be in them, and how they are written.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/mem.h"

static int wrong(struct err *e, const char *action, const char *field)
{
    return err_set(e, ERR_CORRUPT, "%s action: %s is missing or of a wrong type", action, field);
}

static const json_t *field(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_null(v) ? NULL : v;
}

static int check_strings(const json_t *o, const char *action, const char *name, struct err *e)
{
    const char *key;
    json_t *v;
    const json_t *map = field(o, name);
    if (!map)
        return 0;
    if (!json_is_object(map))
        return wrong(e, action, name);
    json_object_foreach ((json_t *)map, key, v)
        if (!json_is_string(v) && !json_is_null(v))
            return wrong(e, action, name);
    return 0;
}

static int check_path(const json_t *o, const char *action, struct err *e)
{
    const json_t *p = field(o, "path");
    if (!json_is_string(p) || !json_string_length(p))
        return wrong(e, action, "path");
    size_t n = json_string_length(p), got;
    char *out = mem_alloc(n + 1);
    bool bad =
        str_url_decode(str_make(json_string_value(p), n), false, out, &got) || memchr(out, 0, got);
    mem_free(out);
    return bad ? wrong(e, action, "path") : 0;
}

/* Absent, or an array of strings. */
static int check_list(const json_t *o, const char *action, const char *name, struct err *e)
{
    const json_t *list = field(o, name);
    size_t i;
    json_t *v;
    if (list && !json_is_array(list))
        return wrong(e, action, name);
    json_array_foreach (list, i, v)
        if (!json_is_string(v))
            return wrong(e, action, name);
    return 0;
}

static bool is_string(const json_t *o, const char *name)
{
    return !field(o, name) || json_is_string(field(o, name));
}

static bool is_integer(const json_t *o, const char *name)
{
    return !field(o, name) || json_is_integer(field(o, name));
}

static int check_add(const json_t *o, struct err *e)
{
    int rc = check_path(o, "add", e);
    if (rc)
        return rc;
    if (!json_is_integer(field(o, "size")) || json_integer_value(field(o, "size")) < 0)
        return wrong(e, "add", "size");
    if (!is_integer(o, "modificationTime"))
        return wrong(e, "add", "modificationTime");
    if (!is_string(o, "stats"))
        return wrong(e, "add", "stats");
    rc = check_strings(o, "add", "tags", e);
    return rc ? rc : check_strings(o, "add", "partitionValues", e);
}

/* What a checkpoint would carry on is looked at, too. */
static int check_remove(const json_t *o, struct err *e)
{
    static const char *const integers[] = {"deletionTimestamp", "size"};
    int rc = check_path(o, "remove", e);
    for (size_t i = 0; i < 2 && !rc; i++)
        if (!is_integer(o, integers[i]))
            rc = wrong(e, "remove", integers[i]);
    if (!rc && field(o, "extendedFileMetadata") &&
        !json_is_boolean(field(o, "extendedFileMetadata")))
        rc = wrong(e, "remove", "extendedFileMetadata");
    return rc ? rc : check_strings(o, "remove", "partitionValues", e);
}

static int check_protocol(const json_t *o, struct err *e)
{
    static const char *const versions[] = {"minReaderVersion", "minWriterVersion"};
    for (size_t i = 0; i < 2; i++)
        if (!json_is_integer(field(o, versions[i])) ||
            json_integer_value(field(o, versions[i])) < 1)
            return wrong(e, "protocol", versions[i]);
    int rc = check_list(o, "protocol", "readerFeatures", e);
    return rc ? rc : check_list(o, "protocol", "writerFeatures", e);
}

static int check_metadata(const json_t *o, struct err *e)
{
    static const char *const strings[] = {"name", "description", "schemaString"};
    if (!json_is_string(field(o, "id")))
        return wrong(e, "metaData", "id");
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (!is_string(o, strings[i]))
            return wrong(e, "metaData", strings[i]);
    if (!is_integer(o, "createdTime"))
        return wrong(e, "metaData", "createdTime");
    const json_t *format = field(o, "format");
    if (format && (!json_is_object(format) || !is_string(format, "provider")))
        return wrong(e, "metaData", "format");
    int rc = format ? check_strings(format, "metaData", "options", e) : 0;
    if (!rc)
        rc = check_list(o, "metaData", "partitionColumns", e);
    return rc ? rc : check_strings(o, "metaData", "configuration", e);
}

static int check_one(const char *name, const json_t *o, struct err *e)
{
    if (!strcmp(name, "add"))
        return check_add(o, e);
    if (!strcmp(name, "remove"))
        return check_remove(o, e);
    if (!strcmp(name, "protocol"))
        return check_protocol(o, e);
    if (!strcmp(name, "metaData"))
        return check_metadata(o, e);
    if (!strcmp(name, "txn")) {
        if (!json_is_string(field(o, "appId")))
            return wrong(e, name, "appId");
        return json_is_integer(field(o, "version")) ? 0 : wrong(e, name, "version");
    }
    return 0;
}

int delta_action_check(const json_t *row, struct err *e)
{
    static const char *const known[] = {"add", "remove", "txn", "protocol", "metaData", "sidecar"};
    if (!json_is_object(row))
        return err_set(e, ERR_CORRUPT, "an action is no JSON object");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const json_t *o = field(row, known[i]);
        if (!o)
            continue;
        if (!json_is_object(o))
            return wrong(e, known[i], "the action");
        int rc = check_one(known[i], o, e);
        if (rc)
            return rc;
    }
    if (field(row, "sidecar"))
        return err_set(e, ERR_UNSUPPORTED,
                       "the checkpoint has sidecars (v2Checkpoint), which are not supported");
    return 0;
}

static char *decoded(const json_t *action, size_t *ret_n)
{
    const json_t *p = field(action, "path");
    size_t n = json_string_length(p);
    char *out = mem_alloc(n + 1);
    if (str_url_decode(str_make(json_string_value(p), n), false, out, ret_n))
        *ret_n = 0; /* delta_action_check refused it before */
    out[*ret_n] = 0;
    return out;
}

char *delta_action_key(const json_t *action, size_t *ret_n)
{
    char *path = decoded(action, ret_n);
    const json_t *dv = field(action, "deletionVector");
    if (!json_is_object(dv))
        return path;
    const char *kind = json_string_value(field(dv, "storageType"));
    const char *where = json_string_value(field(dv, "pathOrInlineDv"));
    char *key = mem_printf("%s\n%s%s@%lld", path, kind ? kind : "", where ? where : "",
                           (long long)json_integer_value(field(dv, "offset")));
    mem_free(path);
    *ret_n = strlen(key);
    return key;
}

/* A path with a scheme ("file:/…", "s3://…"), from the root, or up out of the table: a shallow clone's, or nobody's. */
static bool leads_out(const char *path)
{
    struct str rest = str_of(path), part;
    size_t scheme =
        strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    if (path[0] == '/' || (scheme && path[scheme] == ':' && path[scheme + 1] == '/'))
        return true;
    while (str_next(&rest, '/', &part))
        if (str_is(part, ".."))
            return true;
    return false;
}

static int64_t rows_of(const json_t *add)
{
    const json_t *text = field(add, "stats");
    int64_t rows = -1;
    if (text) {
        json_t *stats =
            json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL);
        const json_t *n = json_object_get(stats, "numRecords");
        if (json_is_integer(n) && json_integer_value(n) >= 0)
            rows = json_integer_value(n);
        json_decref(stats);
    } else {
        const json_t *n = json_object_get(field(add, "stats_parsed"), "numRecords");
        if (json_is_integer(n) && json_integer_value(n) >= 0)
            rows = json_integer_value(n);
    }
    return rows;
}

struct delta_entry *delta_action_entry(const json_t *add)
{
    struct delta_entry *en = MEM_NEW(struct delta_entry);
    size_t n;
    en->file.path = decoded(add, &n);
    en->file.bytes = (uint64_t)json_integer_value(field(add, "size"));
    en->file.modified_ms = json_integer_value(field(add, "modificationTime"));
    en->file.rows = rows_of(add);
    const json_t *stats = field(add, "stats");
    if (stats)
        en->file.stats = mem_strndup(json_string_value(stats), json_string_length(stats));
    const json_t *values = field(add, "partitionValues"), *tags = field(add, "tags");
    if (json_object_size(values))
        en->partition_values = json_deep_copy(values);
    if (json_object_size(tags))
        en->tags = json_deep_copy(tags);
    en->deletion_vector = field(add, "deletionVector") != NULL;
    en->outside = leads_out(en->file.path);
    return en;
}

void delta_entry_free(struct delta_entry *en)
{
    if (!en)
        return;
    mem_free(en->file.path);
    mem_free(en->file.stats);
    json_decref(en->partition_values);
    json_decref(en->tags);
    mem_free(en);
}

void delta_put_path(struct buf *b, struct str path)
{
    for (size_t i = 0; i < path.n; i++) {
        unsigned char c = (unsigned char)path.p[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            (c && strchr("-._~=/", c)))
            buf_char(b, (char)c);
        else
            buf_printf(b, "%%%02X", c);
    }
}

static int dump(const char *p, size_t n, void *ctx)
{
    return buf_append(ctx, p, n) ? 0 : -1;
}

void delta_put_json(struct buf *b, const json_t *v)
{
    /* an overflow stays set */
    (void)json_dump_callback(v, dump, b, JSON_COMPACT | JSON_ENCODE_ANY);
}

void delta_put_add(struct buf *b, const struct delta_file *f, const json_t *partition_values,
                   const json_t *tags, bool data_change)
{
    buf_z(b, "{\"add\":{\"path\":\"");
    delta_put_path(b, str_of(f->path));
    buf_z(b, "\",\"partitionValues\":");
    if (partition_values)
        delta_put_json(b, partition_values);
    else
        buf_z(b, "{}");
    buf_printf(b, ",\"size\":%llu,\"modificationTime\":%lld,\"dataChange\":%s",
               (unsigned long long)f->bytes, (long long)f->modified_ms,
               data_change ? "true" : "false");
    if (tags) {
        buf_z(b, ",\"tags\":");
        delta_put_json(b, tags);
    }
    if (f->stats) {
        buf_z(b, ",\"stats\":");
        buf_json(b, str_of(f->stats));
    }
    buf_z(b, "}}\n");
}

char *delta_commit_txn_id(struct str body)
{
    struct str line;
    while (str_next(&body, '\n', &line)) {
        json_t *row = json_loadb(line.p, line.n, JSON_ALLOW_NUL, NULL);
        const json_t *id = json_object_get(json_object_get(row, "commitInfo"), "txnId");
        char *out = json_is_string(id) ? mem_strdup(json_string_value(id)) : NULL;
        json_decref(row);
        if (out)
            return out;
    }
    return NULL;
}
