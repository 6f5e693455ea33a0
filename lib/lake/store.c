/* store: opening, keys and lists of names; the file system's part is in store_file.c.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/store_priv.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <errno.h>

bool store_key_readable(const char *key)
{
    if (!*key || *key == '/')
        return false;
    for (const char *p = key; p;) {
        const char *slash = strchr(p, '/');
        size_t n = slash ? (size_t)(slash - p) : strlen(p);
        if (n == 0 || (n == 1 && *p == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p = slash ? slash + 1 : NULL;
    }
    return true;
}

bool store_key_writable(const char *key)
{
    for (const char *p = key; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
              strchr("._=/-", *p)))
            return false;
    return store_key_readable(key);
}

static int make(const char *url, struct store **ret, struct err *e)
{
    if (!url || strncmp(url, "file:///", 8))
        return err_set(e, ERR_CONFIG, "lake.url: %s: only file:///absolute/folder is supported",
                       url ? url : "(none)");
    size_t n = strlen(url + 7);
    char *root = mem_alloc(n + 1);
    size_t got = 0;
    if (str_url_decode(str_of(url + 7), false, root, &got) || memchr(root, 0, got)) {
        mem_free(root);
        return err_set(e, ERR_CONFIG, "lake.url: %s: bad percent-encoding", url);
    }
    root[got] = 0;
    while (got > 0 && root[got - 1] == '/')
        root[--got] = 0;
    if (strpbrk(root, "*?[]{}\\")) {
        mem_free(root);
        return err_set(e, ERR_CONFIG, "lake.url: %s: none of *?[]{}\\ may be in the path", url);
    }
    struct store *s = MEM_NEW(struct store);
    atomic_init(&s->refs, 1);
    s->url = mem_strdup(url);
    s->root = root;
    *ret = s;
    return 0;
}

int store_open_read(const char *url, struct store **ret, struct err *e)
{
    return make(url, ret, e);
}

int store_open(const char *url, struct store **ret, struct err *e)
{
    struct store *s;
    int rc = make(url, &s, e);
    if (rc)
        return rc;
    char uuid[37];
    rnd_uuid(uuid);
    char *key = mem_printf(".probe-%s", uuid);
    struct err why = {0};
    rc = store_put_if_absent(s, key, STR("probe"), &why);
    if (!rc && store_put_if_absent(s, key, STR("again"), &why) != ERR_EXISTS)
        rc = err_set(&why, ERR_CONFIG, "a second writer of one object was not refused");
    (void)store_delete(s, key, NULL); /* a probe left behind is invisible and small */
    mem_free(key);
    if (rc) {
        rc = err_set(e, ERR_CONFIG, "lake.url: %s cannot be used: %.380s", url, why.text);
        store_close(&s);
        return rc;
    }
    *ret = s;
    return 0;
}

struct store *store_ref(struct store *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void store_close(struct store **sp)
{
    struct store *s = *sp;
    if (!s)
        return;
    *sp = NULL;
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    mem_free(s->url);
    mem_free(s->root);
    mem_free(s);
}

const char *store_url(const struct store *s)
{
    return s->url;
}

void store_names_free(struct store_names *n)
{
    for (size_t i = 0; i < n->n; i++)
        mem_free(n->names[i]);
    mem_free(n->names);
    *n = (struct store_names){0};
}
