/* delta: the log as it lies in the store: names, and how a snapshot is put together from them (contract 4.1).
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/mem.h"
#include <stdarg.h>
#include <stdio.h>

enum kind { OTHER, COMMIT, CHECKPOINT, PART, NAMED_CHECKPOINT };
struct entry {
    enum kind kind;
    int64_t version;
    uint64_t part, parts;
};

char *delta_log_key(const struct delta *d, const char *fmt, ...)
{
    char name[160];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(name, sizeof name, fmt, ap); /* names of a log are short */
    va_end(ap);
    return mem_printf("%s/_delta_log/%s", d->path, name);
}

/* Exactly `n` digits at p; false otherwise. */
static bool digits(struct str *s, size_t n, uint64_t *ret)
{
    if (s->n < n || str_u64(str_make(s->p, n), ret))
        return false;
    *s = str_make(s->p + n, s->n - n);
    return true;
}

static bool skip(struct str *s, const char *z)
{
    if (!str_starts(*s, str_of(z)))
        return false;
    *s = str_make(s->p + strlen(z), s->n - strlen(z));
    return true;
}

static struct entry classify(const char *name)
{
    struct str s = str_of(name);
    struct entry en = {0};
    uint64_t v;
    if (!digits(&s, 20, &v) || v > (uint64_t)DELTA_VERSION_MAX)
        return en;
    en.version = (int64_t)v;
    if (str_is(s, ".json")) {
        en.kind = COMMIT;
    } else if (skip(&s, ".checkpoint.")) {
        struct str rest = s;
        if (str_is(s, "parquet"))
            en.kind = CHECKPOINT;
        else if (digits(&rest, 10, &en.part) && skip(&rest, ".") && digits(&rest, 10, &en.parts) &&
                 str_is(rest, ".parquet"))
            en.kind = en.part >= 1 && en.part <= en.parts ? PART : OTHER;
        else if (s.n > 36 && (str_ends(s, STR(".parquet")) || str_ends(s, STR(".json"))))
            en.kind = NAMED_CHECKPOINT;
    }
    return en;
}

/* The version that _last_checkpoint hints at; -1: no usable hint. */
static int64_t hint(struct delta *d)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    char *key = delta_log_key(d, "_last_checkpoint");
    int64_t version = -1;
    if (!store_get(d->store, key, &b, NULL)) {
        d->reads++;
        json_t *o = json_loadb(b.data ? b.data : "", b.len, JSON_ALLOW_NUL, NULL);
        const json_t *v = json_object_get(o, "version");
        if (json_is_integer(v) && json_integer_value(v) >= 0 &&
            json_integer_value(v) <= DELTA_VERSION_MAX)
            version = json_integer_value(v);
        json_decref(o);
    }
    mem_free(key);
    buf_deinit(&b);
    return version;
}

int delta_log_get(struct delta *d, int64_t version, struct buf *out, struct err *e)
{
    char *key = delta_log_key(d, "%020lld.json", (long long)version);
    int rc = store_get(d->store, key, out, e);
    if (!rc)
        d->reads++;
    mem_free(key);
    return rc;
}

static int list(struct delta *d, int64_t from, struct store_names *ret, struct err *e)
{
    char start[32], *prefix = mem_printf("%s/_delta_log", d->path);
    (void)snprintf(start, sizeof start, "%020lld", (long long)from);
    int rc = store_list(d->store, prefix, start, ret, e);
    mem_free(prefix);
    return rc;
}

int64_t delta_log_newest(struct delta *d, struct err *e)
{
    struct store_names names = {0};
    int rc = list(d, 0, &names, e);
    if (rc)
        return rc;
    int64_t newest = -1;
    for (size_t i = 0; i < names.n; i++) {
        struct entry en = classify(names.names[i]);
        if (en.kind != OTHER && en.version > newest)
            newest = en.version;
    }
    store_names_free(&names);
    return newest;
}

/* The parts of the checkpoint whose first part is names[at], all of them or none: names are sorted. */
static size_t gather_parts(const struct store_names *names, size_t at, char **ret)
{
    struct entry first = classify(names->names[at]);
    size_t n = 0;
    for (size_t i = at; i < names->n && n < first.parts; i++) {
        struct entry en = classify(names->names[i]);
        if (en.version != first.version)
            break;
        if (en.kind == PART && en.parts == first.parts && en.part == n + 1)
            ret[n++] = names->names[i];
    }
    return n == first.parts ? n : 0;
}

/* The newest complete checkpoint at or below `max`: its version and its names (into ret_names); -1: none. */
static int64_t pick_checkpoint(const struct store_names *names, int64_t max, char **ret_names,
                               size_t *ret_n)
{
    for (size_t i = names->n; i-- > 0;) {
        struct entry en = classify(names->names[i]);
        if (en.version > max)
            continue;
        *ret_n = 0;
        if (en.kind == CHECKPOINT)
            ret_names[(*ret_n)++] = names->names[i];
        else if (en.kind == PART && en.part == 1)
            *ret_n = gather_parts(names, i, ret_names);
        if (*ret_n)
            return en.version;
    }
    return -1;
}

static int corrupt_gap(const struct delta *d, int64_t version, struct err *e)
{
    return err_set(e, ERR_CORRUPT, "table %s: commit %lld is missing from its log", d->path,
                   (long long)version);
}

/* Reads commits after the state's version up to `last`. */
static int replay(struct delta *d, int64_t last, struct err *e)
{
    struct buf body;
    buf_init(&body, DELTA_COMMIT_MAX_BYTES);
    int rc = 0;
    while (!rc && d->st.version < last) {
        int64_t version = d->st.version + 1;
        buf_reset(&body);
        rc = delta_log_get(d, version, &body, e);
        if (!rc)
            rc = delta_state_apply_commit(&d->st, version, buf_as_str(&body), false, e);
    }
    buf_deinit(&body);
    return rc;
}

struct plan {
    int64_t checkpoint, last; /* -1: none */
    size_t checkpoint_n;
    int64_t missing; /* first commit that should be there and is not; -1: none */
    bool named;      /* a checkpoint that this reader does not take was seen */
    bool torn;       /* a part of a checkpoint was seen */
    bool vanished;   /* something was listed and then not there */
};

static struct plan make_plan(const struct store_names *names, int64_t version, char **ret_names)
{
    struct plan p = {.last = -1, .missing = -1};
    for (size_t i = 0; i < names->n; i++) {
        struct entry en = classify(names->names[i]);
        p.named |= en.kind == NAMED_CHECKPOINT;
        p.torn |= en.kind == PART;
        if (en.kind == COMMIT && en.version > p.last)
            p.last = en.version;
    }
    p.checkpoint = pick_checkpoint(names, DELTA_VERSION_MAX, ret_names, &p.checkpoint_n);
    if (p.checkpoint > p.last)
        p.last = p.checkpoint;
    if (version >= 0 && version < p.last) {
        p.last = version;
        p.checkpoint = pick_checkpoint(names, version, ret_names, &p.checkpoint_n);
    }
    int64_t next = p.checkpoint + 1;
    for (size_t i = 0; i < names->n; i++) {
        struct entry en = classify(names->names[i]);
        if (en.kind == COMMIT && en.version == next)
            next++;
    }
    if (next <= p.last)
        p.missing = next;
    return p;
}

static int v2_checkpoint(const struct delta *d, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED,
                   "table %s: its checkpoints are of the feature v2Checkpoint, which is not "
                   "supported",
                   d->path);
}

static int run_plan(struct delta *d, struct duck_conn *c, struct plan *p, char **checkpoint,
                    int64_t version, struct err *e)
{
    if (p->last < 0 && p->named)
        return v2_checkpoint(d, e);
    if (p->last < 0 && p->torn)
        return err_set(e, ERR_CORRUPT, "table %s: all of its log is a part of a checkpoint",
                       d->path);
    if (p->last < 0)
        return err_set(e, ERR_NOT_FOUND, "table %s: it has no log", d->path);
    if (version > p->last)
        return err_set(e, ERR_NOT_FOUND, "table %s: no version %lld, the latest is %lld", d->path,
                       (long long)version, (long long)p->last);
    if (p->missing >= 0) {
        if (p->named)
            return v2_checkpoint(d, e);
        if (version >= 0 && p->checkpoint < 0 && p->missing == 0)
            return err_set(e, ERR_NOT_FOUND, "table %s: version %lld is not to be had any more",
                           d->path, (long long)version);
        return corrupt_gap(d, p->missing, e);
    }
    int rc = 0;
    if (p->checkpoint >= 0) {
        rc = delta_checkpoint_read(d, c, checkpoint, p->checkpoint_n, e);
        if (!rc)
            d->st.version = p->checkpoint;
    }
    if (!rc)
        rc = replay(d, p->last, e);
    p->vanished = rc == ERR_NOT_FOUND;
    return rc;
}

static int load_once(struct delta *d, struct duck_conn *c, int64_t version, bool use_hint,
                     bool *ret_vanished, struct err *e)
{
    int64_t from = use_hint ? hint(d) : -1;
    if (version >= 0 && from > version)
        from = -1;
    struct store_names names = {0};
    struct plan p;
    char **checkpoint = NULL;
    int rc;
    for (;;) {
        rc = list(d, from < 0 ? 0 : from, &names, e);
        if (rc)
            return rc;
        checkpoint = MEM_ARRAY(char *, names.n + 1);
        p = make_plan(&names, version, checkpoint);
        if (from < 0 || p.checkpoint >= 0)
            break;
        from = -1; /* the hint was wrong: everything counts */
        mem_free(checkpoint);
        store_names_free(&names);
    }
    rc = run_plan(d, c, &p, checkpoint, version, e);
    *ret_vanished = p.vanished;
    mem_free(checkpoint);
    store_names_free(&names);
    return rc;
}

int delta_log_load(struct delta *d, struct duck_conn *c, int64_t version, struct err *e)
{
    for (unsigned try_no = 0;; try_no++) {
        bool vanished = false;
        int rc = load_once(d, c, version, try_no == 0, &vanished, e);
        if (!rc)
            return 0;
        delta_state_deinit(&d->st);
        delta_state_init(&d->st);
        if (!vanished)
            return rc;
        if (try_no == 2) /* no clean-up is that fast: what the listing shows is not there */
            return err_set(e, ERR_CORRUPT, "table %s: parts of its log cannot be found", d->path);
    }
}
