/* option_name: keys, their variables, and the nearest key to one that is none.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option_priv.h"
#include <stdio.h>

struct slot *option_find(const struct options *o, struct str key, bool *ret_twin)
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

void option_env_name(const char *key, char *out, size_t room)
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

const char *option_suggest(const struct options *o, struct str key, char out[160])
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

struct slot *option_find_env(const struct options *o, struct str name, bool *ret_twin)
{
    char full[160];
    for (size_t i = 0; i < o->n; i++) {
        option_env_name(o->slots[i].def->key, full, sizeof full);
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
