/* accept: header fields with lists: what a client takes, what it has.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"

/* How well a media range of an Accept field fits a format: 3 exactly, 2 by its type, 1 by anything, 0 not at all. */
static int fits(struct str range, enum format f)
{
    static const char *const names[FORMATS][3] = {
        {"application/json", "application/json", "application/*"},
        {"application/x-ndjson", "application/ndjson", "application/*"},
        {"text/csv", "text/csv", "text/*"}};
    if (str_ieq(range, str_of(names[f][0])) || str_ieq(range, str_of(names[f][1])))
        return 3;
    if (str_ieq(range, str_of(names[f][2])))
        return 2;
    return str_is(range, "*/*") ? 1 : 0;
}

/* The weight of a range in thousandths; a weight that is none counts as 1, as nothing better is known. */
static unsigned weight(struct str params)
{
    struct str part, name;
    while (str_next(&params, ';', &part)) {
        part = str_trim(part);
        struct str value = part;
        double q;
        if (str_next(&value, '=', &name) && value.p && str_ieq(str_trim(name), STR("q")) &&
            !str_double(str_trim(value), &q) && q >= 0 && q <= 1)
            return (unsigned)(q * 1000 + 0.5);
    }
    return 1000;
}

int format_accepted(struct str accept, unsigned offered)
{
    int best = -1;
    unsigned best_q = 0;
    if (!str_trim(accept).n)
        accept = STR("*/*");
    for (unsigned f = 0; f < FORMATS; f++) {
        if (!(offered >> f & 1))
            continue;
        int fit = 0;
        unsigned q = 0;
        struct str rest = accept, part, range;
        while (str_next(&rest, ',', &part)) {
            struct str params = part;
            if (!str_next(&params, ';', &range))
                continue;
            int now = fits(str_trim(range), f);
            if (now > fit)
                fit = now, q = weight(params);
        }
        if (fit && q > best_q)
            best = (int)f, best_q = q;
    }
    return best;
}

bool etag_matches(struct str field, const char *etag)
{
    struct str part;
    if (str_is(str_trim(field), "*"))
        return true;
    while (field.n && str_next(&field, ',', &part)) {
        part = str_trim(part);
        if (str_starts(part, STR("W/")))
            part = str_make(part.p + 2, part.n - 2);
        if (str_is(part, etag + 2))
            return true;
    }
    return false;
}
