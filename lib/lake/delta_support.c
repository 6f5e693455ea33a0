/* delta: what this reader and this writer take on (contract 1.11 and 4.5). Whatever they refuse they refuse by name.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/mem.h"
#include <stdio.h>

static const char *const reader_features[] = {"timestampNtz", "vacuumProtocolCheck", NULL};
static const char *const writer_features[] = {"appendOnly", "invariants", "timestampNtz",
                                              "vacuumProtocolCheck", NULL};

static bool listed(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (!strcmp(*list, name))
            return true;
    return false;
}

#define NAMES_BYTES 256
/* How many names are not in `known`; with commas between them in `out`, as far as they go. */
static size_t unknown_features(const json_t *list, const char *const *known, char out[NAMES_BYTES])
{
    size_t i, n = 0, at = 0;
    json_t *v;
    out[0] = 0;
    json_array_foreach (list, i, v) {
        const char *name = json_string_value(v);
        if (listed(known, name))
            continue;
        n++;
        int more = snprintf(out + at, NAMES_BYTES - at, "%s%s", at ? ", " : "", name);
        at = more < (int)(NAMES_BYTES - at) ? at + (size_t)more : NAMES_BYTES - 1;
    }
    return n;
}

static int refuse(const struct delta *d, struct err *e, const char *what, const char *why)
{
    return err_set(e, ERR_UNSUPPORTED, "table %s version %lld needs %s; %s", d->path,
                   (long long)d->st.version, what, why);
}

static int64_t number(const json_t *o, const char *name)
{
    return json_integer_value(json_object_get(o, name));
}

static const char *configured(const struct delta *d, const char *name)
{
    return json_string_value(
        json_object_get(json_object_get(d->st.metadata, "configuration"), name));
}

static int check_type(const struct delta *d, const json_t *type, const char *column, struct err *e);

static int check_fields(const struct delta *d, const json_t *type, struct err *e)
{
    size_t i;
    json_t *f;
    const json_t *fields = json_object_get(type, "fields");
    if (!json_is_array(fields))
        return err_set(e, ERR_CORRUPT, "table %s: its schema has no fields", d->path);
    json_array_foreach (fields, i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        if (!name)
            return err_set(e, ERR_CORRUPT, "table %s: a column has no name", d->path);
        int rc = check_type(d, json_object_get(f, "type"), name, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int check_type(const struct delta *d, const json_t *type, const char *column, struct err *e)
{
    static const char *const plain[] = {
        "long",          "integer", "string", "double", "binary", "boolean", "timestamp",
        "timestamp_ntz", "date",    "byte",   "short",  "float",  NULL};
    const char *name = json_is_object(type) ? json_string_value(json_object_get(type, "type"))
                                            : json_string_value(type);
    if (!name)
        return err_set(e, ERR_CORRUPT, "table %s: column %s has no type", d->path, column);
    if (json_is_object(type)) {
        int rc;
        if (!strcmp(name, "struct"))
            return check_fields(d, type, e);
        if (!strcmp(name, "array"))
            return check_type(d, json_object_get(type, "elementType"), column, e);
        if (!strcmp(name, "map")) {
            rc = check_type(d, json_object_get(type, "keyType"), column, e);
            return rc ? rc : check_type(d, json_object_get(type, "valueType"), column, e);
        }
    } else if (listed(plain, name) || !strcmp(name, "decimal") || !strncmp(name, "decimal(", 8)) {
        return 0;
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "table %s: column %s has the type %s, which is not supported", d->path, column,
                   name);
}

static json_t *parse_schema(const struct delta *d, const char *text, struct err *e)
{
    json_t *schema = json_loads(text, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(schema)) {
        json_decref(schema);
        err_set(e, ERR_CORRUPT, "table %s: its schema is no JSON object", d->path);
        return NULL;
    }
    return schema;
}

static int check_parquet(const struct delta *d, struct err *e)
{
    const char *provider =
        json_string_value(json_object_get(json_object_get(d->st.metadata, "format"), "provider"));
    if (provider && strcmp(provider, "parquet"))
        return err_set(e, ERR_UNSUPPORTED, "table %s: files of format %s are not supported",
                       d->path, provider);
    return 0;
}

/* Paths that lead out of the table (shallow clones) have no place in a store. */
static int check_paths(const struct delta *d, struct err *e)
{
    struct str key;
    void *value;
    if (!d->st.outside)
        return 0;
    for (size_t i = 0; map_next(d->st.files, &i, &key, &value);) {
        const struct delta_entry *en = value;
        if (en->outside)
            return err_set(e, ERR_UNSUPPORTED,
                           "table %s: file %.200s lies outside of it (an absolute path, of a "
                           "shallow clone), which is not supported",
                           d->path, en->file.path);
    }
    return 0;
}

/* Features are on by being listed, from these versions on; a list must be there then. */
static int check_reader_protocol(const struct delta *d, struct err *e)
{
    const json_t *p = d->st.protocol, *features = json_object_get(p, "readerFeatures");
    int64_t reader = number(p, "minReaderVersion");
    char names[NAMES_BYTES], what[NAMES_BYTES + 64];
    if (reader > 3) {
        snprintf(what, sizeof what, "reader version %lld", (long long)reader);
        return refuse(d, e, what, "supported: 1 to 3");
    }
    if (reader == 3 && !json_is_array(features))
        return err_set(e, ERR_CORRUPT,
                       "table %s version %lld: its protocol lists no readerFeatures", d->path,
                       (long long)d->st.version);
    if (reader == 3 && unknown_features(features, reader_features, names)) {
        snprintf(what, sizeof what, "reader feature(s) %s", names);
        return refuse(d, e, what,
                      "supported: timestampNtz, vacuumProtocolCheck. Rewrite the table without "
                      "them (ALTER TABLE … DROP FEATURE)");
    }
    const char *mode = configured(d, "delta.columnMapping.mode");
    if (reader == 2 && mode && strcmp(mode, "none"))
        return refuse(d, e, "columnMapping", "supported: no column mapping");
    return 0;
}

int delta_check_readable(const struct delta *d, struct err *e)
{
    const json_t *p = d->st.protocol;
    if (!p || !d->st.metadata)
        return err_set(e, ERR_CORRUPT, "table %s version %lld has no %s", d->path,
                       (long long)d->st.version, p ? "metaData" : "protocol");
    if (!d->st.schema)
        return err_set(e, ERR_CORRUPT, "table %s version %lld: its metaData has no schema", d->path,
                       (long long)d->st.version);
    int rc = check_reader_protocol(d, e);
    if (!rc && d->st.vectors)
        rc = refuse(d, e, "deletionVectors",
                    "some file has one. Rewrite with REORG TABLE … APPLY (PURGE) and drop the "
                    "feature");
    if (!rc)
        rc = check_parquet(d, e);
    if (!rc)
        rc = check_paths(d, e);
    if (rc)
        return rc;
    json_t *schema = parse_schema(d, d->st.schema, e);
    if (!schema)
        return ERR_CORRUPT;
    rc = check_fields(d, schema, e);
    json_decref(schema);
    return rc;
}

static int check_writer_protocol(const struct delta *d, struct err *e)
{
    const json_t *p = d->st.protocol, *features = json_object_get(p, "writerFeatures");
    int64_t reader = number(p, "minReaderVersion"), writer = number(p, "minWriterVersion");
    char names[NAMES_BYTES], what[NAMES_BYTES + 64];
    if (reader <= 1 && writer <= 2)
        return 0;
    size_t unknown = unknown_features(features, writer_features, names);
    if (writer != 7 || reader != 3) {
        snprintf(what, sizeof what, "protocol %lld/%lld%s%s", (long long)reader, (long long)writer,
                 unknown ? " with " : "", names);
        return refuse(d, e, what, "this writer supports protocol 1/2, and 3/7 with few features");
    }
    if (!json_is_array(features))
        return err_set(e, ERR_CORRUPT,
                       "table %s version %lld: its protocol lists no writerFeatures", d->path,
                       (long long)d->st.version);
    if (!unknown)
        return 0;
    snprintf(what, sizeof what, "writer feature(s) %s", names);
    return refuse(d, e, what,
                  "this writer supports appendOnly, invariants, timestampNtz, "
                  "vacuumProtocolCheck");
}

static const json_t *find_field(const json_t *fields, const char *name)
{
    size_t i;
    json_t *f;
    json_array_foreach (fields, i, f) {
        const char *n = json_string_value(json_object_get(f, "name"));
        if (n && !strcmp(n, name))
            return f;
    }
    return NULL;
}

/* Same names and types in any order: Parquet files name their columns. */
static int check_columns(const struct delta *d, const json_t *theirs, const json_t *ours,
                         struct err *e)
{
    size_t i;
    json_t *f;
    json_array_foreach (theirs, i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        const json_t *meta = json_object_get(f, "metadata");
        if (json_object_get(meta, "delta.invariants"))
            return err_set(e, ERR_UNSUPPORTED, "table %s: column %s has invariants", d->path, name);
        if (json_object_get(meta, "delta.generationExpression"))
            return err_set(e, ERR_UNSUPPORTED,
                           "table %s: column %s is generated (generatedColumns)", d->path, name);
        if (json_is_false(json_object_get(f, "nullable")))
            return err_set(e, ERR_UNSUPPORTED, "table %s: column %s is not nullable", d->path,
                           name);
        const json_t *own = find_field(ours, name);
        if (!own)
            return err_set(e, ERR_UNSUPPORTED, "table %s: column %s is none of this writer's",
                           d->path, name);
        if (!json_equal(json_object_get(own, "type"), json_object_get(f, "type")))
            return err_set(e, ERR_UNSUPPORTED,
                           "table %s: column %s has another type than this "
                           "writer's",
                           d->path, name);
    }
    json_array_foreach (ours, i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        if (!find_field(theirs, name))
            return err_set(e, ERR_UNSUPPORTED, "table %s: it has no column %s", d->path, name);
    }
    return 0;
}

int delta_check_writable(const struct delta *d, const char *schema_string, struct err *e)
{
    int rc = delta_check_readable(d, e);
    if (!rc)
        rc = check_writer_protocol(d, e);
    if (rc)
        return rc;
    const char *mode = configured(d, "delta.columnMapping.mode");
    const char *feed = configured(d, "delta.enableChangeDataFeed");
    if (mode && strcmp(mode, "none"))
        return refuse(d, e, "columnMapping", "this writer does not map columns");
    if (feed && !strcmp(feed, "true"))
        return refuse(d, e, "changeDataFeed", "this writer writes no change data");
    if (configured(d, "delta.setTransactionRetentionDuration"))
        return refuse(d, e, "delta.setTransactionRetentionDuration",
                      "it would forget the positions of idle sources: unset it");
    if (json_array_size(json_object_get(d->st.metadata, "partitionColumns")))
        return refuse(d, e, "partition columns", "this writer does not partition");
    json_t *theirs = parse_schema(d, d->st.schema, e);
    if (!theirs)
        return ERR_CORRUPT;
    json_t *ours = parse_schema(d, schema_string, e);
    rc = ours ? check_columns(d, json_object_get(theirs, "fields"), json_object_get(ours, "fields"),
                              e)
              : ERR_CORRUPT;
    json_decref(ours);
    json_decref(theirs);
    return rc;
}
