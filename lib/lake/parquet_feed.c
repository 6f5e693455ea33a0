/* parquet_feed: rows of a source as a table function of DuckDB.
 *
 * Its argument is a number drawn at random that stands for the feed while one write runs, so that no SQL text can ever name a
 * pointer. Strings are copied chunk by chunk: between two chunks nothing of the source is in use, which is what lets a caller
 * abandon a write.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/check.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "lake/parquet_priv.h"
#include <duckdb.h>
#include <stdio.h>

#define ROWS_FUNCTION "sluice_rows"
#define FEED_TAG CHECK_TAG('f', 'e', 'e', 'd')

/* Bounds what DuckDB holds at a time: a chunk ends early when its strings are large. */
#define CHUNK_BYTES ((size_t)1 << 20)
#define ARENA_KEPT_BYTES ((size_t)4 << 20)
struct arena_block {
    struct arena_block *next;
    size_t used, room;
    char bytes[];
};
struct arena {
    struct arena_block *blocks; /* the newest first */
    size_t taken;               /* since the reset */
};

struct parquet_feed {
    uint32_t tag;
    uint64_t number;
    const struct parquet_source *src;
    struct parquet_gate *gate;
    struct parquet_stats stats;
    struct value *values;
    struct arena arena;
    bool begun, ended;
    int rc; /* what made it fail */
    char why[160];
    struct parquet_feed *next;
};

static pthread_mutex_t feeds_lock = PTHREAD_MUTEX_INITIALIZER;
static struct parquet_feed *feeds; /* the writes that run now */

static void feed_enter(struct parquet_feed *f)
{
    pthread_mutex_lock(&feeds_lock);
    f->next = feeds;
    feeds = f;
    pthread_mutex_unlock(&feeds_lock);
}

static void feed_leave(struct parquet_feed *f)
{
    pthread_mutex_lock(&feeds_lock);
    struct parquet_feed **at = &feeds;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    pthread_mutex_unlock(&feeds_lock);
}

static struct parquet_feed *feed_find(uint64_t number)
{
    pthread_mutex_lock(&feeds_lock);
    struct parquet_feed *f = feeds;
    while (f && f->number != number)
        f = f->next;
    pthread_mutex_unlock(&feeds_lock);
    return f;
}

static duckdb_type duck_type_of(enum column_type t)
{
    switch (t) {
    case COLUMN_LONG:
        return DUCKDB_TYPE_BIGINT;
    case COLUMN_INT:
        return DUCKDB_TYPE_INTEGER;
    case COLUMN_STR:
        return DUCKDB_TYPE_VARCHAR;
    case COLUMN_TIMESTAMP:
        return DUCKDB_TYPE_TIMESTAMP_TZ;
    case COLUMN_POINT:
        return DUCKDB_TYPE_LIST;
    case COLUMN_BINARY:
        return DUCKDB_TYPE_BLOB;
    }
    return DUCKDB_TYPE_INVALID;
}

static void on_bind(duckdb_bind_info info)
{
    duckdb_value arg = duckdb_bind_get_parameter(info, 0);
    struct parquet_feed *f = feed_find(duckdb_get_uint64(arg));
    duckdb_destroy_value(&arg);
    if (!f) {
        duckdb_bind_set_error(info, ROWS_FUNCTION " is not for queries");
        return;
    }
    for (unsigned i = 0; i < f->src->columns_n; i++) {
        duckdb_logical_type t;
        if (f->src->columns[i].type == COLUMN_POINT) {
            duckdb_logical_type element = duckdb_create_logical_type(DUCKDB_TYPE_DOUBLE);
            t = duckdb_create_list_type(element);
            duckdb_destroy_logical_type(&element);
        } else {
            t = duckdb_create_logical_type(duck_type_of(f->src->columns[i].type));
        }
        duckdb_bind_add_result_column(info, f->src->columns[i].name, t);
        duckdb_destroy_logical_type(&t);
    }
    duckdb_bind_set_bind_data(info, f, NULL);
}

static void on_init(duckdb_init_info info)
{
    struct parquet_feed *f =
        CHECK_FROM(duckdb_init_get_bind_data(info), struct parquet_feed, FEED_TAG);
    if (f->begun) {
        duckdb_init_set_error(info, ROWS_FUNCTION " can be read once only");
        return;
    }
    f->begun = true;
    duckdb_init_set_max_threads(info, 1);
}

/* Where one chunk's column goes. */
struct target {
    duckdb_vector vector, child;
    void *data;
    double *child_data;
    uint64_t *valid;
    idx_t child_n;
    /* the text put last into this chunk, and where: the same slice again costs nothing */
    struct str last;
    idx_t last_row;
};

static void open_targets(struct parquet_feed *f, duckdb_data_chunk chunk, struct target *t)
{
    for (unsigned i = 0; i < f->src->columns_n; i++) {
        t[i] = (struct target){.vector = duckdb_data_chunk_get_vector(chunk, i)};
        if (f->src->columns[i].type == COLUMN_POINT) {
            (void)duckdb_list_vector_reserve(t[i].vector, 2 * duckdb_vector_size());
            t[i].child = duckdb_list_vector_get_child(t[i].vector);
            t[i].child_data = duckdb_vector_get_data(t[i].child);
        }
        t[i].data = duckdb_vector_get_data(t[i].vector);
    }
}

static void put_null(struct target *t, enum column_type type, idx_t row)
{
    if (!t->valid) {
        duckdb_vector_ensure_validity_writable(t->vector);
        t->valid = duckdb_vector_get_validity(t->vector);
    }
    t->valid[row / 64] &= ~((uint64_t)1 << (row % 64));
    if (type == COLUMN_POINT)
        ((duckdb_list_entry *)t->data)[row] = (duckdb_list_entry){t->child_n, 0};
}

/* The bytes of one chunk's strings. They live as long as those in a vector's own heap would: to the next chunk. */
static void arena_reset(struct arena *a)
{
    a->taken = 0;
    for (struct arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        if (b == a->blocks && b->room <= ARENA_KEPT_BYTES) {
            b->used = 0;
            b->next = NULL;
            continue;
        }
        if (b == a->blocks)
            a->blocks = NULL;
        mem_free(b);
    }
}

static char *arena_take(struct arena *a, size_t n)
{
    struct arena_block *b = a->blocks;
    if (!b || b->room - b->used < n) {
        size_t room = b ? b->room * 2 : (size_t)256 << 10;
        if (room > ARENA_KEPT_BYTES)
            room = ARENA_KEPT_BYTES;
        if (room < n)
            room = n;
        b = mem_alloc_raw(sizeof *b + room);
        *b = (struct arena_block){.next = a->blocks, .room = room};
        a->blocks = b;
    }
    char *p = b->bytes + b->used;
    b->used += n;
    a->taken += n;
    return p;
}

static void put_string(struct arena *a, duckdb_string_t *to, struct str s)
{
    *to = (duckdb_string_t){0};
    to->value.inlined.length = (uint32_t)s.n;
    if (s.n <= sizeof to->value.inlined.inlined) {
        if (s.n)
            memcpy(to->value.inlined.inlined, s.p, s.n);
        return;
    }
    memcpy(to->value.pointer.prefix, s.p, sizeof to->value.pointer.prefix);
    to->value.pointer.ptr = memcpy(arena_take(a, s.n), s.p, s.n);
}

static int put_value(struct parquet_feed *f, struct target *t, const struct column_def *c,
                     const struct value *v, idx_t row)
{
    switch (c->type) {
    case COLUMN_LONG:
        ((int64_t *)t->data)[row] = v->i;
        return 0;
    case COLUMN_INT:
        if (v->i < INT32_MIN || v->i > INT32_MAX)
            break;
        ((int32_t *)t->data)[row] = (int32_t)v->i;
        return 0;
    case COLUMN_TIMESTAMP: {
        int64_t us;
        if (__builtin_mul_overflow(v->i, (int64_t)1000, &us) || us == INT64_MAX ||
            us <= -INT64_MAX) /* DuckDB's infinities */
            break;
        ((int64_t *)t->data)[row] = us;
        return 0;
    }
    case COLUMN_STR: {
        duckdb_string_t *texts = t->data;
        if (v->s.n && v->s.p == t->last.p && v->s.n == t->last.n) {
            texts[row] = texts[t->last_row];
            return 0;
        }
        if (v->s.n > UINT32_MAX || (!f->src->texts_checked && !str_utf8_valid(v->s)))
            break;
        put_string(&f->arena, &texts[row], v->s);
        t->last = v->s;
        t->last_row = row;
        return 0;
    }
    case COLUMN_BINARY:
        if (v->s.n > UINT32_MAX)
            break;
        put_string(&f->arena, &((duckdb_string_t *)t->data)[row], v->s);
        return 0;
    case COLUMN_POINT:
        ((duckdb_list_entry *)t->data)[row] = (duckdb_list_entry){t->child_n, 2};
        t->child_data[t->child_n++] = v->d[0];
        t->child_data[t->child_n++] = v->d[1];
        return 0;
    }
    snprintf(f->why, sizeof f->why, "column %s: a value that its type does not hold", c->name);
    return ERR_BAD_DATA;
}

/* Fills a chunk while the gate is held. */
static int fill(struct parquet_feed *f, duckdb_data_chunk chunk, idx_t *ret_n)
{
    const struct parquet_source *src = f->src;
    struct target t[PARQUET_MAX_COLUMNS];
    open_targets(f, chunk, t);
    arena_reset(&f->arena);
    idx_t n = 0, max = duckdb_vector_size();
    while (n < max && !f->ended && f->arena.taken < CHUNK_BYTES) {
        int rc = src->next(src->ctx, f->values);
        if (rc < 0)
            return rc;
        if (rc == 0) {
            f->ended = true;
            break;
        }
        for (unsigned i = 0; i < src->columns_n; i++) {
            if (f->values[i].null)
                put_null(&t[i], src->columns[i].type, n);
            else if ((rc = put_value(f, &t[i], &src->columns[i], &f->values[i], n)))
                return rc;
        }
        parquet_stats_row(&f->stats, f->values);
        n++;
    }
    for (unsigned i = 0; i < src->columns_n; i++)
        if (t[i].child)
            (void)duckdb_list_vector_set_size(t[i].vector, t[i].child_n);
    *ret_n = n;
    return 0;
}

static void on_rows(duckdb_function_info info, duckdb_data_chunk chunk)
{
    struct parquet_feed *f =
        CHECK_FROM(duckdb_function_get_bind_data(info), struct parquet_feed, FEED_TAG);
    idx_t n = 0;
    int rc;
    if (f->gate)
        pthread_mutex_lock(&f->gate->lock);
    if (f->gate && f->gate->shut)
        rc = ERR_CANCELLED;
    else
        rc = fill(f, chunk, &n);
    if (f->gate)
        pthread_mutex_unlock(&f->gate->lock);
    if (rc) {
        f->rc = rc;
        duckdb_function_set_error(info, f->why[0] ? f->why : "the source of the rows failed");
        n = 0;
    }
    duckdb_data_chunk_set_size(chunk, n);
}

/* The function belongs to the database; asking for it again is refused and harmless. */
static void register_function(duckdb_connection con)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    duckdb_table_function t = duckdb_create_table_function();
    duckdb_table_function_set_name(t, ROWS_FUNCTION);
    duckdb_logical_type number = duckdb_create_logical_type(DUCKDB_TYPE_UBIGINT);
    duckdb_table_function_add_parameter(t, number);
    duckdb_destroy_logical_type(&number);
    duckdb_table_function_set_bind(t, on_bind);
    duckdb_table_function_set_init(t, on_init);
    duckdb_table_function_set_function(t, on_rows);
    (void)duckdb_register_table_function(con, t); /* a failure shows in the COPY that follows */
    duckdb_destroy_table_function(&t);
    pthread_mutex_unlock(&lock);
}

struct parquet_feed *parquet_feed_open(struct duck_conn *c, const struct parquet_source *src,
                                       struct parquet_gate *gate)
{
    CHECK(src->columns_n <= PARQUET_MAX_COLUMNS);
    register_function(duck_native(c));
    struct parquet_feed *f = MEM_NEW(struct parquet_feed);
    *f = (struct parquet_feed){.tag = FEED_TAG, .src = src, .gate = gate};
    rnd_bytes(&f->number, sizeof f->number);
    f->values = MEM_ARRAY(struct value, src->columns_n + 1);
    parquet_stats_init(&f->stats, src->columns, src->columns_n);
    feed_enter(f);
    return f;
}

void parquet_feed_close(struct parquet_feed **pf)
{
    struct parquet_feed *f = *pf;
    feed_leave(f);
    parquet_stats_deinit(&f->stats);
    for (struct arena_block *b = f->arena.blocks, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    mem_free(f->values);
    mem_free(f);
    *pf = NULL;
}

void parquet_feed_name(const struct parquet_feed *f, struct buf *sql)
{
    buf_printf(sql, ROWS_FUNCTION "(%llu::UBIGINT)", (unsigned long long)f->number);
}

const struct parquet_stats *parquet_feed_stats(const struct parquet_feed *f)
{
    return &f->stats;
}

int parquet_feed_error(const struct parquet_feed *f, const char **ret_why)
{
    *ret_why = f->why[0] ? f->why : "the source of the rows failed";
    return f->rc;
}
