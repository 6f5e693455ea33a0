/* option: reads a table's options from defaults, file, environment and command line.
 *
 * Every value is parsed and checked where it is found, so that an error names its place even if something else overrides it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option_priv.h"
#include "base/mem.h"
#include <errno.h>
#include <stdio.h>

enum { SECRET_MAX = 64 << 10 };

char *option_own(struct options *o, char *text)
{
    if (o->owned_n == o->owned_room) {
        size_t room = o->owned_room ? o->owned_room * 2 : 64;
        o->owned = mem_realloc(o->owned, o->owned_room * sizeof *o->owned, room * sizeof *o->owned);
        o->owned_room = room;
    }
    return o->owned[o->owned_n++] = text;
}

void option_warn(struct options *o, char *text)
{
    o->warnings = mem_realloc(o->warnings, o->warnings_n * sizeof *o->warnings,
                              (o->warnings_n + 1) * sizeof *o->warnings);
    o->warnings[o->warnings_n++] = option_own(o, text);
}

const char *option_warning(const struct options *o, size_t i)
{
    return i < o->warnings_n ? o->warnings[i] : NULL;
}

void option_free(struct options **o)
{
    if (!*o)
        return;
    for (size_t i = 0; i < (*o)->owned_n; i++)
        mem_free((*o)->owned[i]);
    mem_free((*o)->owned);
    mem_free((*o)->warnings);
    mem_free((*o)->slots);
    mem_free(*o);
    *o = NULL;
}

/* One value */

int option_read_file(const char *path, size_t max, struct buf *to)
{
    buf_init(to, max);
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    char part[4096];
    size_t n;
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        buf_append(to, part, n);
    int rc = ferror(f) ? (errno ? -errno : ERR_IO) : to->overflow ? ERR_TOO_LARGE : 0;
    fclose(f);
    return rc;
}

int option_assign(struct options *o, struct slot *slot, bool twin, struct str value,
                  enum source source, const char *where, struct err *e)
{
    const struct option_def *d = slot->def;
    int code = source == FROM_FLAG ? ERR_USAGE : ERR_CONFIG;
    char text[160];
    if (source == FROM_FLAG && d->secret && !twin)
        return err_set(
            e, ERR_USAGE,
            "--%s: a secret must not stand on the command line; use the environment, the "
            "file, or --%s_file",
            d->key, d->key);
    if (d->secret && source != FROM_DEFAULT && slot->source == source &&
        twin != (slot->twin_path != NULL))
        return err_set(e, code, "%s: both %s and %s_file are set", where, d->key, d->key);
    struct buf content = {0};
    const char *path = NULL;
    if (twin) {
        path = option_own(o, mem_strndup(value.p, value.n));
        int rc = option_read_file(path, SECRET_MAX, &content);
        if (rc < 0) {
            buf_deinit(&content);
            return err_set(e, code, "%s: %s_file: cannot read %s: %s", where, d->key, path,
                           err_name(rc));
        }
        while (content.len &&
               (content.data[content.len - 1] == '\n' || content.data[content.len - 1] == '\r'))
            content.data[--content.len] = 0;
        value = buf_as_str(&content);
    } else if (d->secret && str_is(value, "***")) {
        return err_set(e, code, "%s: %s: *** is a masked secret: set the secret itself, or %s_file",
                       where, d->key, d->key);
    }
    bool ok = option_store(o, slot, value);
    buf_deinit(&content);
    if (!ok && d->secret)
        return err_set(e, code, "%s: %s: the value is not allowed: %s", where, d->key,
                       option_allowed(d, text));
    if (!ok)
        return err_set(e, code, "%s: %s: '%.*s' is not allowed: %s", where, d->key,
                       value.n < 100 ? (int)value.n : 100, value.p, option_allowed(d, text));
    slot->source = source;
    slot->where = where;
    slot->twin_path = path;
    return 0;
}

/* All of them */

static int load_all(struct options *o, int argc, char *const *argv, char *const *env,
                    enum option_action *action, struct err *e)
{
    const char *config = NULL;
    int rc = option_walk_flags(o, argc, argv, action, &config, false, e);
    if (rc < 0 || (*action != OPTION_RUN && *action != OPTION_CHECK && *action != OPTION_PRINT &&
                   *action != OPTION_PRINT_SOURCES))
        return rc;
    for (size_t i = 0; i < o->n; i++) {
        const char *def = o->slots[i].def->def;
        rc = option_assign(o, &o->slots[i], false, str_of(def ? def : ""), FROM_DEFAULT, "default",
                           e);
        if (rc < 0)
            return rc;
    }
    if (config)
        rc = option_load_file(o, config, e);
    if (rc == 0)
        rc = option_load_env(o, env, e);
    if (rc == 0)
        rc = option_walk_flags(o, argc, argv, action, &config, true, e);
    return rc;
}

int option_load(const struct option_set *sets, int argc, char *const *argv, char *const *env,
                struct options **ret, enum option_action *ret_action, struct err *e)
{
    struct options *o = MEM_NEW(struct options);
    for (const struct option_set *s = sets; s->table; s++) {
        for (const struct option_def *d = s->table; d->key; d++)
            o->n++;
    }
    o->slots = MEM_ARRAY(struct slot, o->n);
    size_t i = 0;
    for (const struct option_set *s = sets; s->table; s++) {
        for (const struct option_def *d = s->table; d->key; d++)
            o->slots[i++] = (struct slot){.def = d, .config = s->config, .where = "default"};
    }
    *ret_action = OPTION_RUN;
    int rc = load_all(o, argc, argv, env, ret_action, e);
    if (rc < 0)
        option_free(&o);
    *ret = o;
    return rc;
}
