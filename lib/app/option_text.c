/* option_text: --print-config, --help and docs/config.md, all from the one table.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option_priv.h"

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
            option_env_name(d->key, text, sizeof text);
            buf_printf(out, "| `%s` | `%s` | ", d->key, text);
            if (d->def && *d->def)
                buf_printf(out, "`%s`", d->def);
            else
                buf_z(out, "empty");
            buf_z(out, " | ");
            put_cell(out, option_allowed(d, text));
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
