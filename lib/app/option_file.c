/* option_file: options out of a JSON file, with the line of each that is wrong.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option_priv.h"
#include "base/mem.h"
#include <jansson.h>

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
    char *where = option_own(o, mem_printf("%s:%u", path, line_of_key(text, key)));
    struct slot *slot = option_find(o, str_of(key), &twin);
    if (!slot)
        return err_set(e, ERR_CONFIG, "%s: unknown key '%.100s'%s", where, key,
                       option_suggest(o, str_of(key), hint));
    enum option_type type = slot->def->type;
    struct buf value;
    buf_init(&value, OPTION_FILE_MAX);
    buf_z(&value, ""); /* an empty text is there, not absent */
    int rc;
    if (json_text(v, type == OPTION_LIST || type == OPTION_ADDRESSES, &value))
        rc = option_assign(o, slot, twin, buf_as_str(&value), FROM_FILE, where, e);
    else
        rc = err_set(e, ERR_CONFIG, "%s: %s: the value has no such JSON type here: %s", where, key,
                     option_allowed(slot->def, hint));
    buf_deinit(&value);
    return rc;
}

int option_load_file(struct options *o, const char *path, struct err *e)
{
    struct buf text;
    json_t *root = NULL;
    json_error_t je;
    int rc = option_read_file(path, OPTION_FILE_MAX, &text);
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
