/* cache: which rows of a table version are not the newest of their key.
 *
 * Most tables have no key twice, because the sink drops copies: then the view of the newest rows is the table itself, and costs nothing.
 * Otherwise the places (file and row) of the older rows, few as a rule, go into a DuckDB table, and the view leaves them out: an
 * anti join against a small table, with no column more to decode, where a window over all rows would sort the whole.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cache"
#include "query-api/query-api.h"
#include "base/mem.h"
#include <pthread.h>

struct trash {
    pthread_mutex_t lock;
    uint64_t *numbers;
    size_t n, cap;
    uint64_t last;
    atomic_ullong searches;
    /* the latest snapshot of each table that was found to have no key twice */
    struct snapshot *all[TABLES];
};

struct trash *trash_new_mt(void)
{
    struct trash *t = MEM_NEW(struct trash);
    pthread_mutex_init(&t->lock, NULL);
    atomic_init(&t->searches, 0);
    return t;
}

void trash_free_mt(struct trash **t)
{
    if (!*t)
        return;
    for (unsigned i = 0; i < TABLES; i++)
        snapshot_unref_mt(&(*t)->all[i]);
    pthread_mutex_destroy(&(*t)->lock);
    mem_free((*t)->numbers);
    mem_free(*t);
    *t = NULL;
}

uint64_t trash_searches_mt(struct trash *t)
{
    return atomic_load(&t->searches);
}

uint64_t trash_number_mt(struct trash *t)
{
    pthread_mutex_lock(&t->lock);
    uint64_t n = ++t->last;
    pthread_mutex_unlock(&t->lock);
    return n;
}

void trash_put_mt(struct trash *t, uint64_t losers)
{
    pthread_mutex_lock(&t->lock);
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        t->numbers = mem_realloc(t->numbers, t->cap * sizeof *t->numbers, cap * sizeof *t->numbers);
        t->cap = cap;
    }
    t->numbers[t->n++] = losers;
    pthread_mutex_unlock(&t->lock);
}

static bool pop(struct trash *t, uint64_t *ret)
{
    pthread_mutex_lock(&t->lock);
    bool any = t->n > 0;
    if (any)
        *ret = t->numbers[--t->n];
    pthread_mutex_unlock(&t->lock);
    return any;
}

static int exec_number(struct duck_conn *c, const char *before, uint64_t number, const char *after,
                       struct err *e)
{
    char *sql = mem_printf("%s%llu%s", before, (unsigned long long)number, after);
    int rc = duck_exec(c, sql, e);
    mem_free(sql);
    return rc;
}

void trash_empty_mt(struct trash *t, struct duck_conn *c)
{
    uint64_t number;
    struct err e;
    while (pop(t, &number))
        if (exec_number(c, "DROP TABLE IF EXISTS memory.main.losers_", number, "", &e)) {
            trash_put_mt(t, number); /* a reader still has it: another time */
            return;
        }
}

static int count(struct duck_conn *c, const char *sql, int64_t *ret, struct err *e)
{
    struct duck_rows *rows = NULL;
    int rc = duck_query_sql(c, sql, &rows, e);
    if (rc)
        return rc;
    rc = duck_next(rows, e);
    if (rc == 1)
        *ret = duck_i64(rows, 0), rc = 0;
    else if (!rc)
        rc = err_set(e, ERR_INTERNAL, "a count has no row");
    duck_rows_free(&rows);
    return rc;
}

#define FILES "read_parquet(getvariable('%s_files'), union_by_name=false, hive_partitioning=false)"

static void remember_all(struct snapshot *s)
{
    s->newest = NEWEST_ALL;
    pthread_mutex_lock(&s->trash->lock);
    struct snapshot *old = s->trash->all[s->table];
    s->trash->all[s->table] = snapshot_ref_mt(s);
    pthread_mutex_unlock(&s->trash->lock);
    snapshot_unref_mt(&old);
}

/* How many of the last files were added since a version of the table that had no key twice; 0: nothing is known to build on. */
static size_t files_added(struct snapshot *s)
{
    pthread_mutex_lock(&s->trash->lock);
    struct snapshot *old = snapshot_ref_mt(s->trash->all[s->table]);
    pthread_mutex_unlock(&s->trash->lock);
    bool grown = old && !strcmp(old->id, s->id) && old->files_n > 0 && old->files_n < s->files_n;
    for (size_t i = 0; grown && i < old->files_n; i++)
        grown = !strcmp(old->files[i], s->files[i]);
    size_t n = grown ? s->files_n - old->files_n : 0;
    snapshot_unref_mt(&old);
    return n;
}

/* Rows whose key another row has, or some number above 0 when there are any. A table that only grew is looked at with the new rows in
 * hand: they are few, and their smallest and largest key leave out most of what is old. */
static int count_twice(struct snapshot *s, const char *variable, struct duck_conn *c, int64_t *ret,
                       struct err *e)
{
    size_t added = files_added(s);
    char *sql;
    if (!added)
        sql = mem_printf("SELECT count(*) - count(DISTINCT ind) FROM " FILES, variable);
    else
        sql = mem_printf(
            "SELECT (SELECT count(*) - count(DISTINCT ind) FROM "
            "read_parquet(getvariable('%s_files')[-%zu:])) + "
            "(SELECT count(*) FROM read_parquet(getvariable('%s_files')[:-%zu]) AS old "
            "SEMI JOIN read_parquet(getvariable('%s_files')[-%zu:]) AS new ON old.ind = new.ind)",
            variable, added, variable, added + 1, variable, added);
    int rc = count(c, sql, ret, e);
    mem_free(sql);
    return rc;
}

static int find(struct snapshot *s, const char *variable, struct duck_conn *c, struct err *e)
{
    int64_t twice = 0;
    atomic_fetch_add(&s->trash->searches, 1);
    int rc = count_twice(s, variable, c, &twice, e);
    if (rc || twice == 0) {
        if (!rc)
            remember_all(s);
        return rc;
    }
    uint64_t number = trash_number_mt(s->trash);
    char *sql =
        mem_printf("CREATE TABLE memory.main.losers_%llu AS SELECT file_index AS file, "
                   "file_row_number AS place FROM ("
                   "SELECT file_index, file_row_number, row_number() OVER (PARTITION BY ind "
                   "ORDER BY _ingested_at DESC NULLS LAST, "
                   "_source DESC NULLS LAST, _position DESC NULLS LAST, _item DESC NULLS LAST) "
                   "AS rank FROM " FILES " AS rows "
                   "SEMI JOIN (SELECT ind FROM " FILES
                   " GROUP BY ind HAVING count(*) > 1) AS twice ON rows.ind = twice.ind) "
                   "WHERE rank > 1",
                   (unsigned long long)number, variable, variable);
    rc = duck_exec(c, sql, e);
    mem_free(sql);
    if (!rc)
        s->losers = number, s->newest = NEWEST_LOSERS;
    return rc;
}

int newest_find_mt(struct snapshot *s, const char *variable, struct duck_conn *c, struct err *e)
{
    /* Two questions on a new version: the second waits for what the first finds, rather than look as well. */
    pthread_mutex_lock(&s->newest_lock);
    int rc = 0;
    if (s->newest == NEWEST_UNKNOWN)
        rc = s->files_n ? find(s, variable, c, e) : 0;
    if (!rc && s->newest == NEWEST_UNKNOWN)
        s->newest = NEWEST_ALL;
    pthread_mutex_unlock(&s->newest_lock);
    return rc;
}
