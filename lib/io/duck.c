/* duck: databases, connections and statements.
 *
 * A database is counted by its connections, so that a job that was orphaned may end after duck_close.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/duck_priv.h"
#include "base/mem.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

struct duck {
    duckdb_database db;
    atomic_int refs;
    pthread_mutex_t meter_lock;
    duckdb_connection meter; /* for what is asked of the database itself */
    char *memory_limit;      /* as it was set; NULL: it was not */
    uint64_t own_at_start;   /* own_bytes() when it was open */
};
struct duck_conn {
    struct duck *duck;
    duckdb_connection con;
};

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* Prepared and streamed statements give only the text reliably. */
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
    /* What DuckDB's own messages begin with when a statement is at fault. */
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

int duck_fail(struct err *e, duckdb_error_type type, const char *text)
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
    mem_free(d->memory_limit);
    mem_free(d);
}

/* DuckDB takes this one at the opening and then forgets it: it has to be set in the open database. */
#define SPILL_LIMIT "max_temp_directory_size"

static int set_global(struct duck *d, const char *name, const char *value, struct err *e)
{
    char sql[128];
    if (strchr(value, '\'') || strlen(value) > 32)
        return err_set(e, ERR_CONFIG, "DuckDB does not take %s=%s", name, value);
    (void)snprintf(sql, sizeof sql, "SET GLOBAL %s='%s'", name, value);
    duckdb_result res;
    int rc = 0;
    if (duckdb_query(d->meter, sql, &res) != DuckDBSuccess)
        rc = err_set(e, ERR_CONFIG, "DuckDB: %s", duckdb_result_error(&res));
    duckdb_destroy_result(&res);
    return rc;
}

/* Bytes that this process has for itself: its resident pages without those of files. 0: not known. */
static uint64_t own_bytes(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    struct str rest = str_make(text, n > 0 ? (size_t)n : 0), part;
    uint64_t pages[3] = {0}; /* all, resident, of files */
    for (unsigned i = 0; i < 3; i++)
        if (!str_next(&rest, ' ', &part) || str_u64(part, &pages[i]))
            return 0;
    return (pages[1] - pages[2]) * (uint64_t)sysconf(_SC_PAGESIZE);
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
    const char *spill_limit = NULL, *memory_limit = NULL;
    const struct duck_setting *lists[] = {fixed, settings};
    for (unsigned k = 0; k < 2 && !rc; k++)
        for (const struct duck_setting *s = lists[k]; s && s->name && !rc; s++)
            if (!strcmp(s->name, SPILL_LIMIT))
                spill_limit = s->value;
            else if (duckdb_set_config(config, s->name, s->value) != DuckDBSuccess)
                rc = err_set(e, ERR_CONFIG, "DuckDB does not take %s=%s", s->name, s->value);
            else if (!strcmp(s->name, "memory_limit"))
                memory_limit = s->value;
    struct duck *d = MEM_NEW(struct duck);
    d->memory_limit = memory_limit ? mem_strdup(memory_limit) : NULL;
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
        rc = set_global(d, SPILL_LIMIT, spill_limit, e);
    if (rc) {
        duck_unref(d);
        return rc;
    }
    d->own_at_start = own_bytes();
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
        rc = duck_fail(e, duckdb_result_error_type(&res), duckdb_result_error(&res));
    duckdb_destroy_result(&res);
    return rc;
}

int duck_prepare(struct duck_conn *c, const char *sql, struct duck_stmt **ret, struct err *e)
{
    struct duck_stmt *s = MEM_NEW(struct duck_stmt);
    if (duckdb_prepare(c->con, sql, &s->ps) != DuckDBSuccess) {
        int rc = duck_fail(e, DUCKDB_ERROR_INVALID, s->ps ? duckdb_prepare_error(s->ps) : NULL);
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

/* Setting memory_limit, to what it is, is the one way to have DuckDB purge all arenas of its allocator. */
void duck_trim(struct duck *d, size_t above_bytes)
{
    if (!d->memory_limit || own_bytes() <= d->own_at_start + above_bytes)
        return;
    pthread_mutex_lock(&d->meter_lock);
    (void)set_global(d, "memory_limit", d->memory_limit, NULL); /* another time, then */
    pthread_mutex_unlock(&d->meter_lock);
}
