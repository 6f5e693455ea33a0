/* option_value: the types of options: what is allowed, and into the config struct with it.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/option_priv.h"
#include "base/mem.h"
#include <stdio.h>

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

const char *option_allowed(const struct option_def *d, char out[160])
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

bool option_store(struct options *o, const struct slot *slot, struct str s)
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
    *(const char **)to = option_own(o, mem_strndup(s.p, s.n));
    return true;
}
