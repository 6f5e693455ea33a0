/* option_flag: options out of the environment and off the command line.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option_priv.h"
#include "base/mem.h"

/* The environment */

/* Of the runner, the tests and the set-up. */
static bool env_is_known(struct str name)
{
    static const char *const known[] = {"SLUICE_BIN",      "SLUICE_BUILD", "SLUICE_CACHE",
                                        "SLUICE_CRASH_AT", "SLUICE_POSTS", "SLUICE_STATE",
                                        "SLUICE_VERIFY",   "SLUICE_KILLS"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (str_is(name, known[i]))
            return true;
    }
    return false;
}

int option_load_env(struct options *o, char *const *env, struct err *e)
{
    for (; env && *env; env++) {
        struct str value = str_of(*env), name;
        if (!str_starts(value, STR("SLUICE_")) || !str_next(&value, '=', &name) || !value.p)
            continue;
        bool twin;
        struct slot *slot = option_find_env(o, name, &twin);
        if (slot) {
            char *where = option_own(o, mem_strndup(name.p, name.n));
            int rc = option_assign(o, slot, twin, value, FROM_ENV, where, e);
            if (rc < 0)
                return rc;
        } else if (!env_is_known(name)) {
            option_warn(o, mem_printf("unknown variable " STR_FMT, STR_ARG(name)));
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
    const struct slot *slot = option_find(o, f->name, &twin);
    f->config = str_is(f->name, "config");
    if (!slot && !f->config) {
        bool known = str_is(f->name, "help") || str_is(f->name, "version") ||
                     str_is(f->name, "check-config") || str_is(f->name, "print-config");
        if (known)
            return err_set(e, ERR_USAGE, "--%.*s: unknown form '%.50s'", (int)f->name.n, f->name.p,
                           f->value.p);
        return err_set(e, ERR_USAGE, "unknown flag '--%.*s'%s",
                       f->name.n < 100 ? (int)f->name.n : 100, f->name.p,
                       option_suggest(o, f->name, hint));
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

int option_walk_flags(struct options *o, int argc, char *const *argv, enum option_action *action,
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
        struct slot *slot = option_find(o, f.name, &twin);
        char *where = option_own(o, mem_printf("--" STR_FMT, STR_ARG(f.name)));
        rc = option_assign(o, slot, twin, f.value, FROM_FLAG, where, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}
