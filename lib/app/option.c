/* option: reads a table's options from defaults, file, environment and command line.
 *
 * Every value is parsed and checked where it is found, so that an error names its place even if something else overrides it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option.h"
#include "base/mem.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

enum { FILE_MAX = 1 << 20, SECRET_MAX = 64 << 10 };

enum source { FROM_DEFAULT, FROM_FILE, FROM_ENV, FROM_FLAG };

struct slot {
    const struct option_def *def;
    void *config;
    enum source source;
    const char *where;     /* "default", "gateway.json:3", "SLUICE_…", "--key" */
    const char *twin_path; /* the secret came from this file; NULL: it did not */
};

struct options {
    struct slot *slots;
    size_t n;
    char **owned; /* every text made on the way; all freed at the end */
    size_t owned_n, owned_room;
    const char **warnings;
    size_t warnings_n;
};

static char *own(struct options *o, char *text)
{
    if (o->owned_n == o->owned_room) {
        size_t room = o->owned_room ? o->owned_room * 2 : 64;
        o->owned = mem_realloc(o->owned, o->owned_room * sizeof *o->owned, room * sizeof *o->owned);
        o->owned_room = room;
    }
    return o->owned[o->owned_n++] = text;
}

static void warn(struct options *o, char *text)
{
    o->warnings = mem_realloc(o->warnings, o->warnings_n * sizeof *o->warnings,
                              (o->warnings_n + 1) * sizeof *o->warnings);
    o->warnings[o->warnings_n++] = own(o, text);
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

/* Names */

static struct slot *find(const struct options *o, struct str key, bool *ret_twin)
{
    for (size_t i = 0; i < o->n; i++) {
        struct str name = str_of(o->slots[i].def->key);
        *ret_twin = false;
        if (str_eq(name, key))
            return &o->slots[i];
        *ret_twin = true;
        if (o->slots[i].def->secret && str_starts(key, name) &&
            str_is(str_make(key.p + name.n, key.n - name.n), "_file"))
            return &o->slots[i];
    }
    return NULL;
}

static void env_name(const char *key, char *out, size_t room)
{
    snprintf(out, room, "SLUICE_%s", key);
    for (; *out; out++) {
        if (*out == '.' || *out == '-')
            *out = '_';
        else if (*out >= 'a' && *out <= 'z')
            *out = (char)(*out - 32);
    }
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* Insertions, removals and replacements between two names; both are cut at 63. */
static unsigned distance(struct str a, struct str b)
{
    unsigned row[64];
    a.n = a.n < 63 ? a.n : 63;
    b.n = b.n < 63 ? b.n : 63;
    for (unsigned j = 0; j <= b.n; j++)
        row[j] = j;
    for (unsigned i = 1; i <= a.n; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= b.n; j++) {
            unsigned up = row[j];
            row[j] = least(least(row[j - 1], up) + 1, diagonal + (a.p[i - 1] != b.p[j - 1]));
            diagonal = up;
        }
    }
    return row[b.n];
}

/* "; did you mean kafka.brokers?", or nothing when no key is near. */
static const char *suggest(const struct options *o, struct str key, char out[160])
{
    const char *best = NULL;
    unsigned best_distance = key.n < 6 ? 2 : 4;
    for (size_t i = 0; i < o->n; i++) {
        struct str name = str_of(o->slots[i].def->key);
        unsigned d = distance(key, name);
        if (key.n > 2 && name.n > key.n && name.p[name.n - key.n - 1] == '.' && str_ends(name, key))
            d = 1; /* the last words without the first */
        if (d < best_distance) {
            best_distance = d;
            best = name.p;
        }
    }
    out[0] = 0;
    if (best)
        snprintf(out, 160, "; did you mean %s?", best);
    return out;
}

/* Values */

int option_address(struct str s, char ret_host[256], unsigned *ret_port)
{
    const char *colon = s.n ? memrchr(s.p, ':', s.n) : NULL;
    if (!colon)
        return ERR_BAD_DATA;
    struct str host = str_make(s.p, (size_t)(colon - s.p));
    uint64_t port;
    if (str_u64(str_make(colon + 1, s.n - host.n - 1), &port) < 0 || port > 65535)
        return ERR_BAD_DATA;
    if (host.n >= 2 && host.p[0] == '[' && host.p[host.n - 1] == ']')
        host = str_make(host.p + 1, host.n - 2);
    else if (host.n && memchr(host.p, ':', host.n))
        return ERR_BAD_DATA;
    if (!host.n || host.n > 255)
        return ERR_BAD_DATA;
    for (size_t i = 0; i < host.n; i++) {
        if ((unsigned char)host.p[i] <= ' ' || host.p[i] == '/' || host.p[i] == 0x7f)
            return ERR_BAD_DATA;
    }
    memcpy(ret_host, host.p, host.n);
    ret_host[host.n] = 0;
    *ret_port = (unsigned)port;
    return 0;
}

static bool all_addresses(struct str list)
{
    struct str part;
    char host[256];
    unsigned port;
    while (list.n && str_next(&list, ',', &part)) {
        if (option_address(str_trim(part), host, &port) < 0 || !port)
            return false;
    }
    return true;
}

static int to_bool(struct str s, bool *ret)
{
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};
    for (int i = 0; i < 8; i++) {
        if (str_ieq(s, str_of(words[i]))) {
            *ret = i % 2;
            return 0;
        }
    }
    return ERR_BAD_DATA;
}

static bool is_choice(struct str s, const char *choices)
{
    struct str rest = str_of(choices), part;
    while (str_next(&rest, '|', &part)) {
        if (str_eq(part, s))
            return true;
    }
    return false;
}

/* What is allowed, for people. */
static const char *allowed(const struct option_def *d, char out[160])
{
    char lo[24], hi[24];
    switch (d->type) {
    case OPTION_STR:
        if (d->max)
            snprintf(out, 160, "a text of %lld to %lld characters", (long long)d->min,
                     (long long)d->max);
        else
            snprintf(out, 160, d->min ? "a text that is not empty" : "a text");
        break;
    case OPTION_LIST:
        snprintf(out, 160, d->min ? "a list with commas, not empty" : "a list with commas");
        break;
    case OPTION_ADDRESSES:
        snprintf(out, 160, "host:port, several with commas");
        break;
    case OPTION_LISTEN:
        snprintf(out, 160, "host:port, port 0 for any");
        break;
    case OPTION_CHOICE:
        snprintf(out, 160, "%s", d->choices);
        break;
    case OPTION_INT:
        if (d->min || d->max)
            snprintf(out, 160, "a whole number from %lld to %lld", (long long)d->min,
                     (long long)d->max);
        else
            snprintf(out, 160, "a whole number");
        break;
    case OPTION_BOOL:
        snprintf(out, 160, "on or off");
        break;
    case OPTION_DURATION:
    case OPTION_SIZE: {
        bool time = d->type == OPTION_DURATION;
        char *(*text)(uint64_t, char[24]) = time ? str_from_duration : str_from_bytes;
        const char *what =
            time ? "a duration (250ms 1s 5m 24h 7d)" : "a size (512 64KiB 16MiB 1GiB)";
        if (d->max)
            snprintf(out, 160, "%s from %s to %s", what, text((uint64_t)d->min, lo),
                     text((uint64_t)d->max, hi));
        else if (d->min)
            snprintf(out, 160, "%s of %s or more", what, text((uint64_t)d->min, lo));
        else
            snprintf(out, 160, "%s", what);
        break;
    }
    }
    return out;
}

static bool in_range(const struct option_def *d, uint64_t v)
{
    return v >= (uint64_t)d->min && (!d->max || v <= (uint64_t)d->max);
}

/* Parses into the config struct; texts are copied. False: not allowed, nothing written. */
static bool store(struct options *o, const struct slot *slot, struct str s)
{
    const struct option_def *d = slot->def;
    void *to = (char *)slot->config + d->offset;
    if (memchr(s.p, 0, s.n))
        return false;
    uint64_t u;
    int64_t i;
    bool b;
    char host[256];
    unsigned port;
    switch (d->type) {
    case OPTION_INT:
        if (str_i64(s, &i) < 0 || ((d->min || d->max) && (i < d->min || i > d->max)))
            return false;
        *(int64_t *)to = i;
        return true;
    case OPTION_BOOL:
        if (to_bool(s, &b) < 0)
            return false;
        *(bool *)to = b;
        return true;
    case OPTION_DURATION:
    case OPTION_SIZE:
        if ((d->type == OPTION_SIZE ? str_bytes : str_duration_ms)(s, &u) < 0 || !in_range(d, u))
            return false;
        *(uint64_t *)to = u;
        return true;
    case OPTION_LISTEN:
        if (option_address(s, host, &port) < 0)
            return false;
        break;
    case OPTION_ADDRESSES:
        if (!all_addresses(s))
            return false;
        /* fall through */
    case OPTION_STR:
    case OPTION_LIST:
        if (!in_range(d, s.n))
            return false;
        break;
    case OPTION_CHOICE:
        if (!is_choice(s, d->choices))
            return false;
        break;
    }
    *(const char **)to = own(o, mem_strndup(s.p, s.n));
    return true;
}

static int read_file(const char *path, size_t max, struct buf *to)
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

/* One value from one place. `where` must be owned. */
static int assign(struct options *o, struct slot *slot, bool twin, struct str value,
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
        path = own(o, mem_strndup(value.p, value.n));
        int rc = read_file(path, SECRET_MAX, &content);
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
    bool ok = store(o, slot, value);
    buf_deinit(&content);
    if (!ok && d->secret)
        return err_set(e, code, "%s: %s: the value is not allowed: %s", where, d->key,
                       allowed(d, text));
    if (!ok)
        return err_set(e, code, "%s: %s: '%.*s' is not allowed: %s", where, d->key,
                       value.n < 100 ? (int)value.n : 100, value.p, allowed(d, text));
    slot->source = source;
    slot->where = where;
    slot->twin_path = path;
    return 0;
}

/* The file */

/* The line of each key of the outermost object, in a text that is known to be JSON; 1 where the key is not found as it is written. */
static unsigned line_of_key(struct str json, const char *key)
{
    unsigned line = 1, depth = 0;
    for (size_t i = 0; i < json.n; i++) {
        char c = json.p[i];
        if (c == '\n')
            line++;
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if (c != '"')
            continue;
        size_t from = ++i;
        while (json.p[i] != '"')
            i += json.p[i] == '\\' ? 2 : 1;
        struct str text = str_make(json.p + from, i - from);
        size_t next = i + 1;
        while (next < json.n && memchr(" \t\r\n", json.p[next], 4))
            next++;
        if (depth == 1 && next < json.n && json.p[next] == ':' && str_is(text, key))
            return line;
    }
    return 1;
}

/* The value as it would stand in the environment; false for what has no such form. */
static bool json_text(const json_t *v, bool list, struct buf *to)
{
    if (json_is_string(v))
        return buf_append(to, json_string_value(v), json_string_length(v));
    if (json_is_boolean(v))
        return buf_z(to, json_is_true(v) ? "true" : "false");
    if (json_is_integer(v))
        return buf_i64(to, json_integer_value(v));
    if (json_is_real(v))
        return buf_double(to, json_real_value(v));
    if (!json_is_array(v) || !list)
        return false;
    size_t i;
    const json_t *item;
    json_array_foreach (v, i, item) {
        if (!json_is_string(item) || (i && !buf_char(to, ',')) ||
            !buf_append(to, json_string_value(item), json_string_length(item)))
            return false;
    }
    return true;
}

static int load_member(struct options *o, const char *path, struct str text, const char *key,
                       const json_t *v, struct err *e)
{
    char hint[160];
    bool twin;
    char *where = own(o, mem_printf("%s:%u", path, line_of_key(text, key)));
    struct slot *slot = find(o, str_of(key), &twin);
    if (!slot)
        return err_set(e, ERR_CONFIG, "%s: unknown key '%.100s'%s", where, key,
                       suggest(o, str_of(key), hint));
    enum option_type type = slot->def->type;
    struct buf value;
    buf_init(&value, FILE_MAX);
    buf_z(&value, ""); /* an empty text is there, not absent */
    int rc;
    if (json_text(v, type == OPTION_LIST || type == OPTION_ADDRESSES, &value))
        rc = assign(o, slot, twin, buf_as_str(&value), FROM_FILE, where, e);
    else
        rc = err_set(e, ERR_CONFIG, "%s: %s: the value has no such JSON type here: %s", where, key,
                     allowed(slot->def, hint));
    buf_deinit(&value);
    return rc;
}

static int load_file(struct options *o, const char *path, struct err *e)
{
    struct buf text;
    json_t *root = NULL;
    json_error_t je;
    int rc = read_file(path, FILE_MAX, &text);
    if (rc < 0) {
        rc = err_set(e, ERR_CONFIG, "--config: cannot read %s: %s", path, err_name(rc));
        goto out;
    }
    root = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &je);
    if (!root) {
        rc = err_set(e, ERR_CONFIG, "%s:%d: %s", path, je.line > 0 ? je.line : 1, je.text);
        goto out;
    }
    if (!json_is_object(root)) {
        rc = err_set(e, ERR_CONFIG, "%s:1: a JSON object is expected", path);
        goto out;
    }
    const char *key;
    json_t *v;
    json_object_foreach (root, key, v) {
        rc = load_member(o, path, buf_as_str(&text), key, v, e);
        if (rc < 0)
            goto out;
    }
out:
    json_decref(root);
    buf_deinit(&text);
    return rc;
}

/* The environment */

static struct slot *find_env(const struct options *o, struct str name, bool *ret_twin)
{
    char full[160];
    for (size_t i = 0; i < o->n; i++) {
        env_name(o->slots[i].def->key, full, sizeof full);
        *ret_twin = false;
        if (str_is(name, full))
            return &o->slots[i];
        *ret_twin = true;
        if (o->slots[i].def->secret && str_starts(name, str_of(full)) &&
            str_is(str_make(name.p + strlen(full), name.n - strlen(full)), "_FILE"))
            return &o->slots[i];
    }
    return NULL;
}

/* Of the runner, the tests and the set-up. */
static bool env_is_known(struct str name)
{
    static const char *const known[] = {"SLUICE_BIN",      "SLUICE_BUILD",      "SLUICE_CACHE",
                                        "SLUICE_CRASH_AT", "SLUICE_POSTS",      "SLUICE_STATE",
                                        "SLUICE_VERIFY",   "SLUICE_JSON_SUITE", "SLUICE_KILLS"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (str_is(name, known[i]))
            return true;
    }
    return false;
}

static int load_env(struct options *o, char *const *env, struct err *e)
{
    for (; env && *env; env++) {
        struct str value = str_of(*env), name;
        if (!str_starts(value, STR("SLUICE_")) || !str_next(&value, '=', &name) || !value.p)
            continue;
        bool twin;
        struct slot *slot = find_env(o, name, &twin);
        if (slot) {
            char *where = own(o, mem_strndup(name.p, name.n));
            int rc = assign(o, slot, twin, value, FROM_ENV, where, e);
            if (rc < 0)
                return rc;
        } else if (!env_is_known(name)) {
            warn(o, mem_printf("unknown variable " STR_FMT, STR_ARG(name)));
        }
    }
    return 0;
}

/* The command line */

struct flag {
    struct str name, value; /* value.p NULL: none given */
    enum option_action action;
    bool config;
};

/* --print-config and its like; false for what is no such flag. */
static bool special(struct flag *f)
{
    static const struct {
        const char *name, *value;
        enum option_action action;
    } known[] = {
        {"help", NULL, OPTION_SHOW_HELP},
        {"version", NULL, OPTION_SHOW_VERSION},
        {"version", "json", OPTION_SHOW_VERSION_JSON},
        {"check-config", NULL, OPTION_CHECK},
        {"print-config", NULL, OPTION_PRINT},
        {"print-config", "json", OPTION_PRINT},
        {"print-config", "sources", OPTION_PRINT_SOURCES},
        {"dump-options-markdown", NULL, OPTION_DUMP_OPTIONS},
        {"dump-metrics-markdown", NULL, OPTION_DUMP_METRICS},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (str_is(f->name, known[i].name) &&
            (known[i].value ? str_is(f->value, known[i].value) : !f->value.p)) {
            f->action = known[i].action;
            return true;
        }
    }
    return false;
}

/* Cuts one flag, and the argument after it where that is its value. */
static int next_flag(const struct options *o, int argc, char *const *argv, int *i, struct flag *f,
                     struct err *e)
{
    char hint[160];
    const char *arg = argv[*i];
    *f = (struct flag){.action = OPTION_RUN};
    if (strcmp(arg, "-h") == 0)
        arg = "--help";
    if (strncmp(arg, "--", 2) != 0 || !arg[2])
        return err_set(e, ERR_USAGE, "unexpected argument '%.100s'", arg);
    f->value = str_of(arg + 2);
    str_next(&f->value, '=', &f->name);
    (*i)++;
    if (special(f))
        return 0;
    bool twin;
    const struct slot *slot = find(o, f->name, &twin);
    f->config = str_is(f->name, "config");
    if (!slot && !f->config) {
        bool known = str_is(f->name, "help") || str_is(f->name, "version") ||
                     str_is(f->name, "check-config") || str_is(f->name, "print-config");
        if (known)
            return err_set(e, ERR_USAGE, "--%.*s: unknown form '%.50s'", (int)f->name.n, f->name.p,
                           f->value.p);
        return err_set(e, ERR_USAGE, "unknown flag '--%.*s'%s",
                       f->name.n < 100 ? (int)f->name.n : 100, f->name.p,
                       suggest(o, f->name, hint));
    }
    if (f->value.p)
        return 0;
    if (*i < argc && strncmp(argv[*i], "--", 2) != 0)
        f->value = str_of(argv[(*i)++]);
    else if (slot && slot->def->type == OPTION_BOOL)
        f->value = STR("on");
    else
        return err_set(e, ERR_USAGE, "--%.*s needs a value", (int)f->name.n, f->name.p);
    return 0;
}

/* Two walks: the first finds out what is asked for and the file, the second assigns. */
static int walk_flags(struct options *o, int argc, char *const *argv, enum option_action *action,
                      const char **config, bool assign_them, struct err *e)
{
    for (int i = 1; i < argc;) {
        struct flag f;
        int rc = next_flag(o, argc, argv, &i, &f, e);
        if (rc < 0)
            return rc;
        /* Of several the one that says most wins: help over version over printing. */
        if (f.action != OPTION_RUN && (*action == OPTION_RUN || f.action < *action))
            *action = f.action;
        if (f.config)
            *config = f.value.p;
        if (!assign_them || f.action != OPTION_RUN || f.config)
            continue;
        bool twin;
        struct slot *slot = find(o, f.name, &twin);
        char *where = own(o, mem_printf("--" STR_FMT, STR_ARG(f.name)));
        rc = assign(o, slot, twin, f.value, FROM_FLAG, where, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int load_all(struct options *o, int argc, char *const *argv, char *const *env,
                    enum option_action *action, struct err *e)
{
    const char *config = NULL;
    int rc = walk_flags(o, argc, argv, action, &config, false, e);
    if (rc < 0 || (*action != OPTION_RUN && *action != OPTION_CHECK && *action != OPTION_PRINT &&
                   *action != OPTION_PRINT_SOURCES))
        return rc;
    for (size_t i = 0; i < o->n; i++) {
        const char *def = o->slots[i].def->def;
        rc = assign(o, &o->slots[i], false, str_of(def ? def : ""), FROM_DEFAULT, "default", e);
        if (rc < 0)
            return rc;
    }
    if (config)
        rc = load_file(o, config, e);
    if (rc == 0)
        rc = load_env(o, env, e);
    if (rc == 0)
        rc = walk_flags(o, argc, argv, action, &config, true, e);
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

/* Texts for people and files */

/* A secret that is the default is none: it stands in --help. */
static void put_value(const struct slot *slot, struct buf *out)
{
    const struct option_def *d = slot->def;
    const void *from = (const char *)slot->config + d->offset;
    char text[24];
    if (slot->twin_path)
        buf_json(out, str_of(slot->twin_path));
    else if (d->secret && strcmp(*(const char *const *)from, d->def) != 0)
        buf_z(out, "\"***\"");
    else if (d->type == OPTION_INT)
        buf_i64(out, *(const int64_t *)from);
    else if (d->type == OPTION_BOOL)
        buf_z(out, *(const bool *)from ? "true" : "false");
    else if (d->type == OPTION_DURATION)
        buf_json(out, str_of(str_from_duration(*(const uint64_t *)from, text)));
    else if (d->type == OPTION_SIZE)
        buf_json(out, str_of(str_from_bytes(*(const uint64_t *)from, text)));
    else
        buf_json(out, str_of(*(const char *const *)from));
}

void option_print(const struct options *o, bool sources, struct buf *out)
{
    buf_z(out, "{");
    for (size_t i = 0; i < o->n; i++) {
        const struct slot *slot = &o->slots[i];
        buf_printf(out, "%s\n  \"%s%s\": ", i ? "," : "", slot->def->key,
                   slot->twin_path ? "_file" : "");
        if (sources)
            buf_z(out, "{\"value\": ");
        put_value(slot, out);
        if (sources) {
            buf_z(out, ", \"source\": ");
            buf_json(out, str_of(slot->where));
            buf_z(out, "}");
        }
    }
    buf_z(out, "\n}\n");
}

static const char *type_word(const struct option_def *d)
{
    static const char *const words[] = {
        [OPTION_STR] = "TEXT",          [OPTION_LIST] = "A,B,…", [OPTION_ADDRESSES] = "HOST:PORT,…",
        [OPTION_LISTEN] = "HOST:PORT",  [OPTION_INT] = "NUMBER", [OPTION_BOOL] = "on|off",
        [OPTION_DURATION] = "DURATION", [OPTION_SIZE] = "SIZE"};
    return d->type == OPTION_CHOICE ? d->choices : words[d->type];
}

void option_help(const struct option_set *sets, const char *program, const char *summary,
                 struct buf *out)
{
    buf_printf(
        out,
        "Usage: %s [--config=FILE] [--KEY=VALUE]...\n%s\n\n"
        "Every KEY is also a member of FILE ({\"KEY\": VALUE}) and a variable: SLUICE_ and the key "
        "in\n"
        "upper case with _ for . and -. A flag beats the environment, that beats the file.\n\n"
        "  --help                    this text\n"
        "  --version[=json]          the version, and those of the libraries\n"
        "  --check-config            says whether the configuration is valid: exit 0 or 78\n"
        "  --print-config[=sources]  the configuration in effect, as a file for --config; where "
        "each value came from\n"
        "  --config=FILE             a JSON object of options\n\nOptions (default):\n",
        program, summary);
    for (const struct option_set *s = sets; s->table; s++) {
        for (const struct option_def *d = s->table; d->key; d++) {
            if (d->secret)
                buf_printf(out, "  %s, --%s_file=FILE\n", d->key, d->key);
            else
                buf_printf(out, "  --%s=%s\n", d->key, type_word(d));
            buf_printf(out, "        %s", d->help ? d->help : "");
            if (d->def && *d->def)
                buf_printf(out, " (%s)", d->def);
            buf_z(out, "\n");
        }
    }
    buf_z(out, "\nExit codes: 0 ok, 64 usage, 69 a dependency is gone for good, 70 internal, 71 an "
               "address cannot\n"
               "be bound, 73 a file cannot be made, 78 configuration.\n");
}

static void put_cell(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            buf_char(out, '\\');
        buf_char(out, *text);
    }
}

void option_markdown(const struct option_set *sets, struct buf *out)
{
    char text[160];
    buf_z(out, "| option | variable | default | allowed | what it does |\n| --- | --- | --- | --- "
               "| --- |\n");
    for (const struct option_set *s = sets; s->table; s++) {
        for (const struct option_def *d = s->table; d->key; d++) {
            env_name(d->key, text, sizeof text);
            buf_printf(out, "| `%s` | `%s` | ", d->key, text);
            if (d->def && *d->def)
                buf_printf(out, "`%s`", d->def);
            else
                buf_z(out, "empty");
            buf_z(out, " | ");
            put_cell(out, allowed(d, text));
            buf_z(out, " | ");
            put_cell(out, d->help ? d->help : "");
            if (d->secret)
                buf_printf(
                    out,
                    "; a secret: not on the command line; `%s_file` names a file that holds it",
                    d->key);
            buf_z(out, " |\n");
        }
    }
}
