/* duck: see the header. Rows are streamed: a chunk of at most 2048 is held at a time.
 *
 * A database is counted by its connections, so that a job that was orphaned may end after duck_close.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/duck.h"
#include "base/check.h"
#include "base/mem.h"
#include <duckdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

struct duck {
    duckdb_database db;
    atomic_int refs;
    pthread_mutex_t meter_lock;
    duckdb_connection meter; /* for duck_memory_bytes only */
};
struct duck_conn {
    struct duck *duck;
    duckdb_connection con;
};
struct duck_stmt {
    duckdb_prepared_statement ps;
};
struct column {
    duckdb_type id, child; /* child: of a LIST */
    enum duck_type type;
    uint8_t scale;      /* of a DECIMAL */
    duckdb_type stored; /* a DECIMAL's integer type */
    const void *data, *child_data;
    uint64_t *valid, *child_valid;
};
struct duck_rows {
    duckdb_result res;
    struct duck_stmt *own; /* of duck_query_sql */
    duckdb_data_chunk chunk;
    idx_t n, i; /* rows of the chunk; the current one plus 1 */
    bool ended;
    unsigned columns_n;
    struct column *columns;
};

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* The one mapping of DuckDB's errors. Prepared and streamed statements give only the text reliably. */
static int map_error(duckdb_error_type type, const char *text)
{
    bool oom = type == DUCKDB_ERROR_OUT_OF_MEMORY || has(text, "Out of Memory Error");
    if (type == DUCKDB_ERROR_INTERRUPT || has(text, "INTERRUPT Error"))
        return ERR_CANCELLED;
    if (has(text, "No space left on device") || has(text, "Disk quota exceeded") ||
        has(text, "File too large") || (oom && has(text, "max_temp_directory_size")))
        return ERR_NOSPACE;
    if (oom)
        return ERR_LIMIT;
    if (has(text, "No files found") || has(text, "No such file or directory"))
        return ERR_NOT_FOUND;
    if (has(text, "magic bytes") || has(text, "too small to be a Parquet") ||
        has(text, "Could not read enough bytes") || has(text, "TProtocolException") ||
        has(text, "Decompression failure") || has(text, "Invalid Parquet") || has(text, "corrupt"))
        return ERR_CORRUPT;
    if (type == DUCKDB_ERROR_IO || !strncmp(text, "IO Error", 8))
        return ERR_IO;
    static const char *const wrong[] = {"Parser Error",
                                        "Binder Error",
                                        "Catalog Error",
                                        "Conversion Error",
                                        "Out of Range Error",
                                        "Invalid Input Error",
                                        "Syntax Error",
                                        "Not implemented Error",
                                        "Permission Error",
                                        "Mismatch Type Error",
                                        "Invalid Error",
                                        "Parameter Not Resolved Error",
                                        "Parameter Not Allowed Error"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (!strncmp(text, wrong[i], strlen(wrong[i])))
            return ERR_BAD_DATA;
    return ERR_INTERNAL;
}

static int fail(struct err *e, duckdb_error_type type, const char *text)
{
    if (!text)
        text = "DuckDB gave no reason";
    return err_set(e, map_error(type, text), "%s", text);
}

static void duck_unref(struct duck *d)
{
    if (atomic_fetch_sub(&d->refs, 1) != 1)
        return;
    if (d->meter)
        duckdb_disconnect(&d->meter);
    if (d->db)
        duckdb_close(&d->db);
    pthread_mutex_destroy(&d->meter_lock);
    mem_free(d);
}

/* DuckDB takes this one at the opening and then forgets it: it has to be set in the open database. */
#define SPILL_LIMIT "max_temp_directory_size"

static int set_spill_limit(struct duck *d, const char *value, struct err *e)
{
    char sql[128];
    if (strchr(value, '\'') || strlen(value) > 32)
        return err_set(e, ERR_CONFIG, "DuckDB does not take " SPILL_LIMIT "=%s", value);
    (void)snprintf(sql, sizeof sql, "SET GLOBAL " SPILL_LIMIT "='%s'", value);
    duckdb_result res;
    int rc = 0;
    if (duckdb_query(d->meter, sql, &res) != DuckDBSuccess)
        rc = err_set(e, ERR_CONFIG, "DuckDB: %s", duckdb_result_error(&res));
    duckdb_destroy_result(&res);
    return rc;
}

int duck_open(const struct duck_setting *settings, struct duck **ret, struct err *e)
{
    static const struct duck_setting fixed[] = {
        {"autoinstall_known_extensions", "false"},
        {"autoload_known_extensions", "false"},
        {"allow_community_extensions", "false"},
        {"preserve_insertion_order", "true"},
        {"temp_directory", ""}, /* nothing spills where nobody said so */
        {"allocator_flush_threshold", "4MiB"},
        {"allocator_bulk_deallocation_flush_threshold", "16MiB"},
        {NULL, NULL}};
    duckdb_config config = NULL;
    if (duckdb_create_config(&config) != DuckDBSuccess)
        return err_set(e, ERR_INTERNAL, "DuckDB: no configuration");
    int rc = 0;
    const char *spill_limit = NULL;
    const struct duck_setting *lists[] = {fixed, settings};
    for (unsigned k = 0; k < 2 && !rc; k++)
        for (const struct duck_setting *s = lists[k]; s && s->name && !rc; s++)
            if (!strcmp(s->name, SPILL_LIMIT))
                spill_limit = s->value;
            else if (duckdb_set_config(config, s->name, s->value) != DuckDBSuccess)
                rc = err_set(e, ERR_CONFIG, "DuckDB does not take %s=%s", s->name, s->value);
    struct duck *d = MEM_NEW(struct duck);
    atomic_init(&d->refs, 1);
    pthread_mutex_init(&d->meter_lock, NULL);
    if (!rc) {
        char *text = NULL;
        if (duckdb_open_ext(NULL, &d->db, config, &text) != DuckDBSuccess)
            rc = err_set(e, ERR_CONFIG, "DuckDB: %s", text ? text : "cannot open");
        if (text)
            duckdb_free(text);
    }
    duckdb_destroy_config(&config);
    if (!rc && duckdb_connect(d->db, &d->meter) != DuckDBSuccess)
        rc = err_set(e, ERR_INTERNAL, "DuckDB: cannot connect");
    if (!rc && spill_limit)
        rc = set_spill_limit(d, spill_limit, e);
    if (rc) {
        duck_unref(d);
        return rc;
    }
    *ret = d;
    return 0;
}

void duck_close(struct duck **d)
{
    if (!*d)
        return;
    duck_unref(*d);
    *d = NULL;
}

int duck_connect(struct duck *d, struct duck_conn **ret, struct err *e)
{
    struct duck_conn *c = MEM_NEW(struct duck_conn);
    c->duck = d;
    atomic_fetch_add(&d->refs, 1);
    int rc = 0;
    if (duckdb_connect(d->db, &c->con) != DuckDBSuccess)
        rc = err_set(e, ERR_INTERNAL, "DuckDB: cannot connect");
    else
        rc = duck_exec(c, "SET TimeZone='UTC'", e);
    if (rc) {
        duck_disconnect(&c);
        return rc;
    }
    *ret = c;
    return 0;
}

void duck_quote(struct buf *b, char quote, const char *text)
{
    buf_char(b, quote);
    for (; *text; text++) {
        if (*text == quote)
            buf_char(b, quote);
        buf_char(b, *text);
    }
    buf_char(b, quote);
}

void duck_disconnect(struct duck_conn **c)
{
    if (!*c)
        return;
    if ((*c)->con)
        duckdb_disconnect(&(*c)->con);
    duck_unref((*c)->duck);
    mem_free(*c);
    *c = NULL;
}

void duck_interrupt_mt(struct duck_conn *c)
{
    duckdb_interrupt(c->con);
}

void *duck_native(struct duck_conn *c)
{
    return c->con;
}

int duck_exec(struct duck_conn *c, const char *sql, struct err *e)
{
    duckdb_result res;
    int rc = 0;
    if (duckdb_query(c->con, sql, &res) != DuckDBSuccess)
        rc = fail(e, duckdb_result_error_type(&res), duckdb_result_error(&res));
    duckdb_destroy_result(&res);
    return rc;
}

int duck_prepare(struct duck_conn *c, const char *sql, struct duck_stmt **ret, struct err *e)
{
    struct duck_stmt *s = MEM_NEW(struct duck_stmt);
    if (duckdb_prepare(c->con, sql, &s->ps) != DuckDBSuccess) {
        int rc = fail(e, DUCKDB_ERROR_INVALID, s->ps ? duckdb_prepare_error(s->ps) : NULL);
        duck_finish(&s);
        return rc;
    }
    *ret = s;
    return 0;
}

void duck_finish(struct duck_stmt **s)
{
    if (!*s)
        return;
    if ((*s)->ps)
        duckdb_destroy_prepare(&(*s)->ps);
    mem_free(*s);
    *s = NULL;
}

unsigned duck_params(const struct duck_stmt *s)
{
    return (unsigned)duckdb_nparams(s->ps);
}

unsigned duck_param_index(struct duck_stmt *s, const char *name)
{
    idx_t i = 0;
    if (duckdb_bind_parameter_index(s->ps, &i, name) != DuckDBSuccess)
        return 0;
    return (unsigned)i;
}

static int bound(duckdb_state st)
{
    return st == DuckDBSuccess ? 0 : ERR_BAD_DATA;
}

int duck_bind_null(struct duck_stmt *s, unsigned i)
{
    return bound(duckdb_bind_null(s->ps, i));
}

int duck_bind_i64(struct duck_stmt *s, unsigned i, int64_t v)
{
    return bound(duckdb_bind_int64(s->ps, i, v));
}

int duck_bind_bool(struct duck_stmt *s, unsigned i, bool v)
{
    return bound(duckdb_bind_boolean(s->ps, i, v));
}

int duck_bind_str(struct duck_stmt *s, unsigned i, struct str v)
{
    return bound(duckdb_bind_varchar_length(s->ps, i, v.p ? v.p : "", v.n));
}

int duck_bind_strs(struct duck_stmt *s, unsigned i, const struct str *v, size_t n)
{
    duckdb_logical_type type = duckdb_create_logical_type(DUCKDB_TYPE_VARCHAR);
    duckdb_value *values = MEM_ARRAY(duckdb_value, n + 1);
    for (size_t k = 0; k < n; k++)
        values[k] = duckdb_create_varchar_length(v[k].p ? v[k].p : "", v[k].n);
    duckdb_value list = duckdb_create_list_value(type, values, n);
    int rc = list ? bound(duckdb_bind_value(s->ps, i, list)) : ERR_BAD_DATA;
    if (list)
        duckdb_destroy_value(&list);
    for (size_t k = 0; k < n; k++)
        if (values[k])
            duckdb_destroy_value(&values[k]);
    mem_free(values);
    duckdb_destroy_logical_type(&type);
    return rc;
}

static enum duck_type classify(duckdb_type id, duckdb_type child)
{
    switch (id) {
    case DUCKDB_TYPE_BOOLEAN:
        return DUCK_BOOL;
    case DUCKDB_TYPE_TINYINT:
    case DUCKDB_TYPE_SMALLINT:
    case DUCKDB_TYPE_INTEGER:
    case DUCKDB_TYPE_UTINYINT:
    case DUCKDB_TYPE_USMALLINT:
        return DUCK_I32;
    case DUCKDB_TYPE_UINTEGER:
    case DUCKDB_TYPE_BIGINT:
    case DUCKDB_TYPE_UBIGINT:
    case DUCKDB_TYPE_HUGEINT:
        return DUCK_I64;
    case DUCKDB_TYPE_FLOAT:
    case DUCKDB_TYPE_DOUBLE:
    case DUCKDB_TYPE_DECIMAL:
        return DUCK_DOUBLE;
    case DUCKDB_TYPE_VARCHAR:
        return DUCK_STR;
    case DUCKDB_TYPE_BLOB:
        return DUCK_BLOB;
    case DUCKDB_TYPE_TIMESTAMP:
    case DUCKDB_TYPE_TIMESTAMP_TZ:
    case DUCKDB_TYPE_TIMESTAMP_S:
    case DUCKDB_TYPE_TIMESTAMP_MS:
    case DUCKDB_TYPE_TIMESTAMP_NS:
        return DUCK_TIMESTAMP;
    case DUCKDB_TYPE_DATE:
        return DUCK_DATE;
    case DUCKDB_TYPE_LIST:
        return child == DUCKDB_TYPE_DOUBLE ? DUCK_LIST_DOUBLE : DUCK_OTHER;
    default:
        return DUCK_OTHER;
    }
}

static void describe(struct duck_rows *r)
{
    r->columns_n = (unsigned)duckdb_column_count(&r->res);
    r->columns = MEM_ARRAY(struct column, r->columns_n + 1);
    for (unsigned i = 0; i < r->columns_n; i++) {
        struct column *col = &r->columns[i];
        duckdb_logical_type t = duckdb_column_logical_type(&r->res, i);
        col->id = duckdb_get_type_id(t);
        if (col->id == DUCKDB_TYPE_LIST) {
            duckdb_logical_type child = duckdb_list_type_child_type(t);
            col->child = duckdb_get_type_id(child);
            duckdb_destroy_logical_type(&child);
        } else if (col->id == DUCKDB_TYPE_DECIMAL) {
            col->scale = duckdb_decimal_scale(t);
            col->stored = duckdb_decimal_internal_type(t);
        }
        col->type = classify(col->id, col->child);
        duckdb_destroy_logical_type(&t);
    }
}

int duck_query(struct duck_stmt *s, struct duck_rows **ret, struct err *e)
{
    struct duck_rows *r = MEM_NEW(struct duck_rows);
    if (duckdb_execute_prepared_streaming(s->ps, &r->res) != DuckDBSuccess) {
        int rc = fail(e, duckdb_result_error_type(&r->res), duckdb_result_error(&r->res));
        duck_rows_free(&r);
        return rc;
    }
    describe(r);
    *ret = r;
    return 0;
}

int duck_query_sql(struct duck_conn *c, const char *sql, struct duck_rows **ret, struct err *e)
{
    struct duck_stmt *s;
    int rc = duck_prepare(c, sql, &s, e);
    if (rc)
        return rc;
    rc = duck_query(s, ret, e);
    if (rc)
        duck_finish(&s);
    else
        (*ret)->own = s;
    return rc;
}

void duck_rows_free(struct duck_rows **rp)
{
    struct duck_rows *r = *rp;
    if (!r)
        return;
    if (r->chunk)
        duckdb_destroy_data_chunk(&r->chunk);
    duckdb_destroy_result(&r->res);
    duck_finish(&r->own);
    mem_free(r->columns);
    mem_free(r);
    *rp = NULL;
}

unsigned duck_columns(const struct duck_rows *r)
{
    return r->columns_n;
}

const char *duck_column_name(const struct duck_rows *r, unsigned col)
{
    CHECK(col < r->columns_n);
    return duckdb_column_name((duckdb_result *)&r->res, col);
}

enum duck_type duck_column_type(const struct duck_rows *r, unsigned col)
{
    CHECK(col < r->columns_n);
    return r->columns[col].type;
}

static const char *type_name(duckdb_type id)
{
    switch (id) {
    case DUCKDB_TYPE_BOOLEAN:
        return "BOOLEAN";
    case DUCKDB_TYPE_TINYINT:
        return "TINYINT";
    case DUCKDB_TYPE_SMALLINT:
        return "SMALLINT";
    case DUCKDB_TYPE_INTEGER:
        return "INTEGER";
    case DUCKDB_TYPE_BIGINT:
        return "BIGINT";
    case DUCKDB_TYPE_UTINYINT:
        return "UTINYINT";
    case DUCKDB_TYPE_USMALLINT:
        return "USMALLINT";
    case DUCKDB_TYPE_UINTEGER:
        return "UINTEGER";
    case DUCKDB_TYPE_UBIGINT:
        return "UBIGINT";
    case DUCKDB_TYPE_HUGEINT:
        return "HUGEINT";
    case DUCKDB_TYPE_UHUGEINT:
        return "UHUGEINT";
    case DUCKDB_TYPE_FLOAT:
        return "FLOAT";
    case DUCKDB_TYPE_DOUBLE:
        return "DOUBLE";
    case DUCKDB_TYPE_DECIMAL:
        return "DECIMAL";
    case DUCKDB_TYPE_VARCHAR:
        return "VARCHAR";
    case DUCKDB_TYPE_BLOB:
        return "BLOB";
    case DUCKDB_TYPE_TIMESTAMP:
        return "TIMESTAMP";
    case DUCKDB_TYPE_TIMESTAMP_TZ:
        return "TIMESTAMP WITH TIME ZONE";
    case DUCKDB_TYPE_TIMESTAMP_S:
        return "TIMESTAMP_S";
    case DUCKDB_TYPE_TIMESTAMP_MS:
        return "TIMESTAMP_MS";
    case DUCKDB_TYPE_TIMESTAMP_NS:
        return "TIMESTAMP_NS";
    case DUCKDB_TYPE_DATE:
        return "DATE";
    case DUCKDB_TYPE_TIME:
        return "TIME";
    case DUCKDB_TYPE_INTERVAL:
        return "INTERVAL";
    case DUCKDB_TYPE_UUID:
        return "UUID";
    case DUCKDB_TYPE_ENUM:
        return "ENUM";
    case DUCKDB_TYPE_STRUCT:
        return "STRUCT";
    case DUCKDB_TYPE_MAP:
        return "MAP";
    case DUCKDB_TYPE_LIST:
        return "LIST";
    default:
        return "OTHER";
    }
}

const char *duck_column_type_name(const struct duck_rows *r, unsigned col)
{
    CHECK(col < r->columns_n);
    const struct column *c = &r->columns[col];
    if (c->id != DUCKDB_TYPE_LIST)
        return type_name(c->id);
    switch (c->child) {
    case DUCKDB_TYPE_DOUBLE:
        return "DOUBLE[]";
    case DUCKDB_TYPE_VARCHAR:
        return "VARCHAR[]";
    case DUCKDB_TYPE_BIGINT:
        return "BIGINT[]";
    case DUCKDB_TYPE_INTEGER:
        return "INTEGER[]";
    default:
        return "LIST";
    }
}

static void look_into_chunk(struct duck_rows *r)
{
    for (unsigned i = 0; i < r->columns_n; i++) {
        struct column *c = &r->columns[i];
        duckdb_vector v = duckdb_data_chunk_get_vector(r->chunk, i);
        c->data = duckdb_vector_get_data(v);
        c->valid = duckdb_vector_get_validity(v);
        c->child_data = NULL, c->child_valid = NULL;
        if (c->type == DUCK_LIST_DOUBLE) {
            duckdb_vector child = duckdb_list_vector_get_child(v);
            c->child_data = duckdb_vector_get_data(child);
            c->child_valid = duckdb_vector_get_validity(child);
        }
    }
}

int duck_next(struct duck_rows *r, struct err *e)
{
    while (r->i >= r->n) {
        if (r->ended)
            return 0;
        if (r->chunk)
            duckdb_destroy_data_chunk(&r->chunk);
        r->n = r->i = 0;
        r->chunk = duckdb_fetch_chunk(r->res);
        if (!r->chunk) {
            r->ended = true;
            const char *text = duckdb_result_error(&r->res);
            if (text && *text)
                return fail(e, duckdb_result_error_type(&r->res), text);
            return 0;
        }
        r->n = duckdb_data_chunk_get_size(r->chunk);
        look_into_chunk(r);
    }
    r->i++;
    return 1;
}

static const struct column *at(const struct duck_rows *r, unsigned col, idx_t *ret_row)
{
    CHECK(col < r->columns_n && r->i > 0 && r->i <= r->n);
    *ret_row = r->i - 1;
    return &r->columns[col];
}

bool duck_is_null(const struct duck_rows *r, unsigned col)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    return c->valid && !duckdb_validity_row_is_valid(c->valid, row);
}

bool duck_bool(const struct duck_rows *r, unsigned col)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    return c->id == DUCKDB_TYPE_BOOLEAN && ((const bool *)c->data)[row];
}

static int64_t integer(const struct column *c, duckdb_type id, idx_t row)
{
    switch (id) {
    case DUCKDB_TYPE_TINYINT:
        return ((const int8_t *)c->data)[row];
    case DUCKDB_TYPE_UTINYINT:
        return ((const uint8_t *)c->data)[row];
    case DUCKDB_TYPE_SMALLINT:
        return ((const int16_t *)c->data)[row];
    case DUCKDB_TYPE_USMALLINT:
        return ((const uint16_t *)c->data)[row];
    case DUCKDB_TYPE_INTEGER:
    case DUCKDB_TYPE_DATE:
        return ((const int32_t *)c->data)[row];
    case DUCKDB_TYPE_UINTEGER:
        return ((const uint32_t *)c->data)[row];
    case DUCKDB_TYPE_BIGINT:
    case DUCKDB_TYPE_TIMESTAMP:
    case DUCKDB_TYPE_TIMESTAMP_TZ:
        return ((const int64_t *)c->data)[row];
    case DUCKDB_TYPE_TIMESTAMP_S:
    case DUCKDB_TYPE_TIMESTAMP_MS: {
        int64_t v = ((const int64_t *)c->data)[row], out;
        int64_t unit = id == DUCKDB_TYPE_TIMESTAMP_S ? 1000000 : 1000;
        return __builtin_mul_overflow(v, unit, &out) ? (v < 0 ? INT64_MIN : INT64_MAX) : out;
    }
    case DUCKDB_TYPE_TIMESTAMP_NS: {
        int64_t v = ((const int64_t *)c->data)[row];
        return v / 1000 - (v % 1000 < 0);
    }
    case DUCKDB_TYPE_UBIGINT: {
        uint64_t v = ((const uint64_t *)c->data)[row];
        return v > INT64_MAX ? INT64_MAX : (int64_t)v;
    }
    case DUCKDB_TYPE_HUGEINT: { /* saturates beyond 64 bits */
        duckdb_hugeint v = ((const duckdb_hugeint *)c->data)[row];
        if (v.upper == 0 && v.lower <= INT64_MAX)
            return (int64_t)v.lower;
        if (v.upper == -1 && v.lower > INT64_MAX)
            return (int64_t)v.lower;
        return v.upper < 0 ? INT64_MIN : INT64_MAX;
    }
    case DUCKDB_TYPE_BOOLEAN:
        return ((const bool *)c->data)[row];
    default:
        return 0;
    }
}

int64_t duck_i64(const struct duck_rows *r, unsigned col)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    return integer(c, c->id, row);
}

double duck_double(const struct duck_rows *r, unsigned col)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    switch (c->id) {
    case DUCKDB_TYPE_DOUBLE:
        return ((const double *)c->data)[row];
    case DUCKDB_TYPE_FLOAT:
        return (double)((const float *)c->data)[row];
    case DUCKDB_TYPE_HUGEINT:
        return duckdb_hugeint_to_double(((const duckdb_hugeint *)c->data)[row]);
    case DUCKDB_TYPE_DECIMAL: {
        double v = c->stored == DUCKDB_TYPE_HUGEINT
                       ? duckdb_hugeint_to_double(((const duckdb_hugeint *)c->data)[row])
                       : (double)integer(c, c->stored, row);
        double unit = 1;
        for (unsigned i = 0; i < c->scale; i++)
            unit *= 10;
        return v / unit;
    }
    default:
        return (double)integer(c, c->id, row);
    }
}

struct str duck_str(const struct duck_rows *r, unsigned col)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    if (c->id != DUCKDB_TYPE_VARCHAR && c->id != DUCKDB_TYPE_BLOB)
        return STR("");
    duckdb_string_t *s = &((duckdb_string_t *)c->data)[row];
    return str_make(duckdb_string_t_data(s), duckdb_string_t_length(*s));
}

size_t duck_list_size(const struct duck_rows *r, unsigned col)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    return c->type == DUCK_LIST_DOUBLE ? ((const duckdb_list_entry *)c->data)[row].length : 0;
}

bool duck_list_double(const struct duck_rows *r, unsigned col, size_t i, double *ret)
{
    idx_t row;
    const struct column *c = at(r, col, &row);
    CHECK(c->type == DUCK_LIST_DOUBLE);
    duckdb_list_entry en = ((const duckdb_list_entry *)c->data)[row];
    CHECK(i < en.length);
    idx_t k = en.offset + i;
    if (c->child_valid && !duckdb_validity_row_is_valid(c->child_valid, k))
        return false;
    *ret = ((const double *)c->child_data)[k];
    return true;
}

size_t duck_memory_bytes(struct duck *d)
{
    size_t bytes = 0;
    pthread_mutex_lock(&d->meter_lock);
    duckdb_result res;
    if (duckdb_query(d->meter,
                     "SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()",
                     &res) == DuckDBSuccess) {
        duckdb_data_chunk chunk = duckdb_fetch_chunk(res);
        if (chunk) {
            if (duckdb_data_chunk_get_size(chunk) == 1) {
                duckdb_vector v = duckdb_data_chunk_get_vector(chunk, 0);
                bytes = (size_t)((const int64_t *)duckdb_vector_get_data(v))[0];
            }
            duckdb_destroy_data_chunk(&chunk);
        }
    }
    duckdb_destroy_result(&res);
    pthread_mutex_unlock(&d->meter_lock);
    return bytes;
}
