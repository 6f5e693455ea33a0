/* duck_rows: results. Rows are streamed: a chunk of at most 2048 is held at a time.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/duck_priv.h"
#include "base/check.h"
#include "base/mem.h"

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
        int rc = duck_fail(e, duckdb_result_error_type(&r->res), duckdb_result_error(&r->res));
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
                return duck_fail(e, duckdb_result_error_type(&r->res), text);
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
