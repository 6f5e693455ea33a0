/* delta: one table's face: loading, following, and what the state says.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"

struct delta *delta_new(struct store *s, const char *path)
{
    struct delta *d = MEM_NEW(struct delta);
    d->store = s;
    d->path = mem_strdup(path);
    delta_state_init(&d->st);
    return d;
}

void delta_free(struct delta **dp)
{
    struct delta *d = *dp;
    if (!d)
        return;
    delta_state_deinit(&d->st);
    mem_free(d->path);
    mem_free(d);
    *dp = NULL;
}

static void forget(struct delta *d)
{
    delta_state_deinit(&d->st);
    delta_state_init(&d->st);
}

/* The log is not what it was: reads it anew. Another table under the same name empties the state. */
static int reload(struct delta *d, struct duck_conn *c, struct err *e)
{
    struct delta *fresh = delta_new(d->store, d->path);
    int rc = delta_log_load(fresh, c, -1, e);
    d->reads += fresh->reads;
    if (rc == ERR_NOT_FOUND) {
        forget(d);
    } else if (!rc) {
        bool same = d->st.id && fresh->st.id && !strcmp(d->st.id, fresh->st.id);
        if (!same || fresh->st.version < d->st.version) {
            forget(d);
            rc = err_set(e, ERR_CONFLICT, "table %s was made anew", d->path);
        } else {
            struct delta_state old = d->st;
            d->st = fresh->st;
            fresh->st = old;
        }
    }
    delta_free(&fresh);
    return rc;
}

/* Every few minutes, where nothing new was found: is that because nothing is, or because the log was cut or made anew under the same sizes? */
static int verify(struct delta *d, struct duck_conn *c, struct err *e)
{
    d->verified_ms = clock_ms();
    int64_t newest = delta_log_newest(d, e);
    if (newest < -1)
        return (int)newest;
    if (newest != d->st.version)
        return reload(d, c, e); /* says what is wrong, or finds what came this moment */
    if (!d->st.commit_read)
        return 0;
    struct buf body;
    buf_init(&body, DELTA_COMMIT_MAX_BYTES);
    int rc = delta_log_get(d, d->st.version, &body, e);
    bool same = !rc && hash_bytes(body.data, body.len, 0) == d->st.commit_hash;
    buf_deinit(&body);
    if (rc && rc != ERR_NOT_FOUND)
        return rc;
    return same ? 0 : reload(d, c, e);
}

/* Applies what came after the state's version. */
static int follow(struct delta *d, bool *ret_any, struct err *e)
{
    struct buf body;
    buf_init(&body, DELTA_COMMIT_MAX_BYTES);
    int rc;
    *ret_any = false;
    for (;;) {
        int64_t version = d->st.version + 1;
        buf_reset(&body);
        rc = delta_log_get(d, version, &body, e);
        if (!rc)
            rc = delta_state_apply_commit(&d->st, version, buf_as_str(&body), true, e);
        if (rc)
            break;
        *ret_any = true;
    }
    buf_deinit(&body);
    if (rc == ERR_CONFLICT)
        forget(d);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

/* A log that was cleaned, cut or made anew is no base for what comes next: first a look whether the latest commit is there, of
 * the same size. */
static int advance(struct delta *d, struct duck_conn *c, struct err *e)
{
    char *key = delta_log_key(d, "%020lld.json", (long long)d->st.version);
    uint64_t bytes = 0;
    int rc = store_size(d->store, key, &bytes, e);
    mem_free(key);
    if (rc && rc != ERR_NOT_FOUND)
        return rc;
    bool there = !rc, any;
    if (d->st.commit_read && (!there || bytes != d->st.commit_bytes))
        return reload(d, c, e);
    rc = follow(d, &any, e);
    if (rc || any)
        return rc;
    /* A checkpoint that stands alone has no commit to look at: the list tells whether it still does. */
    return there && clock_ms() < d->verified_ms + DELTA_VERIFY_MS ? 0 : verify(d, c, e);
}

int delta_refresh(struct delta *d, struct duck_conn *c, struct err *e)
{
    int rc;
    if (d->st.version < 0) {
        bool any;
        rc = delta_log_load(d, c, -1, e);
        d->verified_ms = clock_ms();
        if (!rc)
            rc = follow(d, &any, e);
    } else {
        rc = advance(d, c, e);
    }
    return rc ? rc : delta_check_readable(d, e);
}

int delta_load_at(struct delta *d, struct duck_conn *c, int64_t version, struct err *e)
{
    forget(d);
    if (version < 0)
        return err_set(e, ERR_NOT_FOUND, "table %s: no version %lld", d->path, (long long)version);
    int rc = delta_log_load(d, c, version, e);
    return rc ? rc : delta_check_readable(d, e);
}

int64_t delta_version(const struct delta *d)
{
    return d->st.version;
}

const char *delta_path(const struct delta *d)
{
    return d->path;
}

const char *delta_id(const struct delta *d)
{
    return d->st.id ? d->st.id : "";
}

const char *delta_schema(const struct delta *d)
{
    return d->st.schema ? d->st.schema : "";
}

int64_t delta_commit_time_ms(const struct delta *d)
{
    return d->st.commit_time_ms;
}

uint64_t delta_reads(const struct delta *d)
{
    return d->reads;
}

bool delta_txn(const struct delta *d, struct str app_id, int64_t *ret_version)
{
    const struct delta_application *a = map_get(d->st.applications, app_id);
    if (a)
        *ret_version = a->version;
    return a != NULL;
}

bool delta_next_txn(const struct delta *d, size_t *i, struct str *ret_app_id, int64_t *ret_version)
{
    struct str key;
    void *value;
    if (!map_next(d->st.applications, i, &key, &value))
        return false;
    *ret_app_id = key;
    *ret_version = ((struct delta_application *)value)->version;
    return true;
}

size_t delta_files(const struct delta *d)
{
    return map_count(d->st.files);
}

bool delta_next_file(const struct delta *d, size_t *i, const struct delta_file **ret)
{
    struct str key;
    void *value;
    if (!map_next(d->st.files, i, &key, &value))
        return false;
    *ret = &((struct delta_entry *)value)->file;
    return true;
}

int64_t delta_rows(const struct delta *d)
{
    return d->st.uncounted || d->st.rows > INT64_MAX ? -1 : (int64_t)d->st.rows;
}
