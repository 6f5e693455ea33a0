/* snapshot: one version of one table, counted by its users: which files it is made of.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include "base/mem.h"
#include <pthread.h>

struct snapshot *snapshot_ref_mt(struct snapshot *s)
{
    if (s)
        atomic_fetch_add(&s->refs, 1);
    return s;
}

void snapshot_unref_mt(struct snapshot **sp)
{
    struct snapshot *s = *sp;
    *sp = NULL;
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    if (s->newest == NEWEST_LOSERS)
        trash_put_mt(s->trash, s->losers);
    for (size_t i = 0; i < s->files_n; i++)
        mem_free(s->files[i]);
    mem_free(s->files);
    mem_free(s->id);
    mem_free(s->schema);
    pthread_mutex_destroy(&s->newest_lock);
    mem_free(s);
}

/* A file stands inside its table's folder: everything else could be anybody's file. */
static bool path_is_inside(const char *path)
{
    struct str rest = str_of(path), part;
    if (path[0] == '/' || strstr(path, "://"))
        return false;
    while (str_next(&rest, '/', &part))
        if (str_is(part, "..") || !part.n)
            return false;
    return true;
}

struct snapshot *snapshot_make_mt(struct store *store, const struct delta *d, enum table_id table,
                                  struct trash *trash)
{
    struct snapshot *s = MEM_NEW(struct snapshot);
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->newest_lock, NULL);
    s->table = table;
    s->version = delta_version(d);
    s->rows = delta_rows(d);
    s->commit_time_ms = delta_commit_time_ms(d);
    s->id = mem_strdup(delta_id(d));
    s->schema = mem_strdup(delta_schema(d));
    s->trash = trash;
    s->files = MEM_ARRAY(char *, delta_files(d) + 1);
    char *folder = store_local_path(store, delta_path(d));
    const struct delta_file *f;
    bool inside = true;
    for (size_t i = 0; delta_next_file(d, &i, &f);) {
        s->bytes += f->bytes;
        inside = inside && path_is_inside(f->path);
        s->files[s->files_n++] = mem_printf("%s/%s", folder, f->path);
    }
    mem_free(folder);
    if (!inside)
        snapshot_unref_mt(&s);
    return s;
}
