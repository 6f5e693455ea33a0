/* wash_rules: what happens to each column, one table per dataset, and the rules that need more than a table.
 *
 * A change here that alters any row's bytes needs a new WASH_RULES_VERSION.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/clock.h"
#include "data/wash_priv.h"

#define NO_TAGS "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e"
#define NO_TEXT_1 "No description available Story format"
#define NO_TEXT_2 "No description available"

/* clang-format off */

/* A slice as an initialiser: STR is an expression, which a table cannot hold. */
#define TEXT(literal) {"" literal, sizeof(literal) - 1}
#define FIELD(name_, column_, kind_, ...)                                                          \
    {.name = TEXT(name_), .column = (column_), .kind = (kind_), ##__VA_ARGS__}

static const struct wash_field pin_fields[] = {
    /*    name                column  kind          more */
    FIELD("index",              0,      KIND_KEY),
    FIELD("unique_id",          1,      KIND_TEXT),
    FIELD("title",              2,      KIND_TEXT,    .nothing = {TEXT("No Title Data Available")}),
    FIELD("description",        3,      KIND_TEXT,    .nothing = {TEXT(NO_TEXT_1), TEXT(NO_TEXT_2), TEXT("Untitled")}),
    FIELD("poster_name",        5,      KIND_TEXT,    .nothing = {TEXT("User Info Error")}),
    FIELD("follower_count",     4,      KIND_COUNT,   .nothing = {TEXT("User Info Error")}),
    FIELD("tag_list",           6,      KIND_TEXT,    .nothing = {TEXT(NO_TAGS)}),
    FIELD("is_image_or_video",  7,      KIND_TEXT),
    FIELD("image_src",          8,      KIND_TEXT,    .nothing = {TEXT("Image src error.")}),
    FIELD("downloaded",         -1,     KIND_IGNORED),
    FIELD("save_location",      9,      KIND_TEXT,    .prefix = TEXT("Local save in ")),
    FIELD("category",           10,     KIND_TEXT),
};
static const struct wash_field geo_fields[] = {
    FIELD("ind",                0,      KIND_KEY),
    FIELD("timestamp",          3,      KIND_INSTANT),
    FIELD("latitude",           2,      KIND_POINT,   .part = 0, .low = -90, .high = 90),
    FIELD("longitude",          2,      KIND_POINT,   .part = 1, .low = -180, .high = 180),
    FIELD("country",            1,      KIND_TEXT),
};
static const struct wash_field user_fields[] = {
    FIELD("ind",                0,      KIND_KEY),
    FIELD("first_name",         1,      KIND_NAME,    .part = 0),
    FIELD("last_name",          1,      KIND_NAME,    .part = 1),
    FIELD("age",                2,      KIND_INTEGER, .low = 0, .high = 150),
    FIELD("date_joined",        3,      KIND_INSTANT),
};
#define RULES(fields) {fields, sizeof(fields) / sizeof *(fields)}
/* clang-format on */

const struct wash_rules wash_rules[DATASETS] = {
    [DATASET_PIN] = RULES(pin_fields),
    [DATASET_GEO] = RULES(geo_fields),
    [DATASET_USER] = RULES(user_fields),
};
_Static_assert(sizeof pin_fields / sizeof *pin_fields <= WASH_MAX_FIELDS, "seen is a mask");

const char *const wash_fault_names[WASH_FAULTS] = {
    [WASH_NOTHING] = "nothing",
    [WASH_BAD_TYPE] = "bad_type",
    [WASH_BAD_FORMAT] = "bad_format",
    [WASH_OUT_OF_RANGE] = "out_of_range",
    [WASH_LONE_SURROGATE] = "lone_surrogate",
    [WASH_UNKNOWN_FIELD] = "unknown_field",
};
const char *const wash_shape_names[WASH_SHAPES] = {
    [WASH_OBJECT] = "object",
    [WASH_ARRAY] = "array",
    [WASH_STRING] = "string",
    [WASH_BASE64] = "base64",
};

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static unsigned scale_of(char c)
{
    switch (c | 32) {
    case 'k':
        return 3;
    case 'm':
        return 6;
    case 'b':
        return 9;
    default:
        return 0;
    }
}

/* ^\d+(\.\d+)?([kKmMbB])?$ in decimal: the unit moves the point to the right, what is left of it then counts. */
int wash_count_rule(struct str text, int64_t *ret)
{
    size_t n = text.n, i = 0, point;
    unsigned scale = n ? scale_of(text.p[n - 1]) : 0;
    if (scale)
        n--;
    while (i < n && digit(text.p[i]))
        i++;
    point = i;
    if (point == 0)
        return WASH_BAD_FORMAT;
    if (i < n && text.p[i] == '.') {
        for (i++; i < n && digit(text.p[i]); i++)
            ;
        if (i == point + 1)
            return WASH_BAD_FORMAT;
    }
    if (i != n)
        return WASH_BAD_FORMAT;
    int64_t v = 0;
    for (size_t k = 0; k < point + scale; k++) {
        size_t at = k < point ? k : k + 1;
        int d = at < n ? text.p[at] - '0' : 0;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, d, &v))
            return WASH_OUT_OF_RANGE;
    }
    *ret = v;
    return -1;
}

bool wash_follower_count(struct str text, int64_t *ret)
{
    return wash_count_rule(text, ret) < 0;
}

/* n digits at p as a number; -1 when they are none. */
static int number(const char *p, int n)
{
    int v = 0;
    for (int i = 0; i < n; i++) {
        if (!digit(p[i]))
            return -1;
        v = v * 10 + (p[i] - '0');
    }
    return v;
}

/* "Z", "+02:00", or nothing. */
static int zone_rule(struct str rest, int64_t *ret_offset_ms)
{
    *ret_offset_ms = 0;
    if (rest.n == 0 || str_eq(rest, STR("Z")))
        return -1;
    if (rest.n != 6 || (rest.p[0] != '+' && rest.p[0] != '-') || rest.p[3] != ':')
        return WASH_BAD_FORMAT;
    int hours = number(rest.p + 1, 2), minutes = number(rest.p + 4, 2);
    if (hours < 0 || minutes < 0)
        return WASH_BAD_FORMAT;
    if (hours > 23 || minutes > 59)
        return WASH_OUT_OF_RANGE;
    *ret_offset_ms = (hours * 60 + minutes) * (rest.p[0] == '-' ? -60000 : 60000);
    return -1;
}

static unsigned days_in(int year, int month)
{
    static const unsigned char days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

int wash_instant_rule(struct str text, int64_t *ret_ms)
{
    const char *p = text.p;
    if (text.n < 19 || p[4] != '-' || p[7] != '-' || (p[10] != 'T' && p[10] != ' ') ||
        p[13] != ':' || p[16] != ':')
        return WASH_BAD_FORMAT;
    int year = number(p, 4), month = number(p + 5, 2), day = number(p + 8, 2);
    int hour = number(p + 11, 2), minute = number(p + 14, 2), second = number(p + 17, 2);
    if ((year | month | day | hour | minute | second) < 0)
        return WASH_BAD_FORMAT;
    size_t i = 19;
    int ms = 0;
    if (i < text.n && p[i] == '.') {
        int digits = 0;
        for (i++; i < text.n && digit(p[i]); i++, digits++)
            ms = digits < 3 ? ms * 10 + (p[i] - '0') : ms;
        if (!digits)
            return WASH_BAD_FORMAT;
        for (; digits < 3; digits++)
            ms *= 10;
    }
    int64_t offset_ms;
    int fault = zone_rule(str_make(p + i, text.n - i), &offset_ms);
    if (fault >= 0)
        return fault;
    if (year < 1 || month < 1 || month > 12 || day < 1 || (unsigned)day > days_in(year, month) ||
        hour > 23 || minute > 59 || second > 59)
        return WASH_OUT_OF_RANGE;
    int64_t days = clock_days(year, (unsigned)month, (unsigned)day);
    int64_t v = ((days * 24 + hour) * 60 + minute) * 60000 + second * 1000 + ms - offset_ms;
    if (v < TIMESTAMP_MIN_MS || v >= TIMESTAMP_END_MS) /* now that the zone is taken off */
        return WASH_OUT_OF_RANGE;
    *ret_ms = v;
    return -1;
}

bool wash_timestamp(struct str text, int64_t *ret_ms)
{
    return wash_instant_rule(text, ret_ms) < 0;
}
