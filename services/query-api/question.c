/* question: the nine questions as one table, and the reading of their parameters.
 *
 * The SQL is in sql/<name>.sql, built into the program. It names the tables pin, geo and "user", which runner.c makes views of, and
 * takes $from, $to, $median, $top and $distinct as it needs them.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"
#include <stdio.h>

#define SQL(symbol, file)                                                                          \
    extern const char sql_##symbol[], sql_##symbol##_end[];                                        \
    __asm__(".pushsection .rodata\n.global sql_" #symbol "\nsql_" #symbol                          \
            ":\n.incbin \"query-api/sql/" file ".sql\"\n.global sql_" #symbol "_end\nsql_" #symbol \
            "_end:\n.byte 0\n.popsection\n")
SQL(category_by_country, "popular-category-by-country");
SQL(posts_by_year, "category-posts-by-year");
SQL(user_by_country, "top-user-by-country");
SQL(user_country, "top-user-country");
SQL(category_by_age, "popular-category-by-age");
SQL(followers_by_age, "median-followers-by-age");
SQL(joined_by_year, "users-joined-by-year");
SQL(followers_by_year, "median-followers-by-joining-year");
SQL(followers_by_year_age, "median-followers-by-joining-year-and-age");

#define PIN_GEO (1u << TABLE_PIN | 1u << TABLE_GEO)
#define PIN_USER (1u << TABLE_PIN | 1u << TABLE_USER)
#define YEARS (1u << PARAM_FROM | 1u << PARAM_TO)
#define ALWAYS                                                                                     \
    (1u << PARAM_DEDUP | 1u << PARAM_LIMIT | 1u << PARAM_VERSION | 1u << PARAM_TABLES |            \
     1u << PARAM_FORMAT)

const struct question questions[QUESTIONS] = {
    {.name = "popular-category-by-country",
     .title = "The most popular category in each country",
     .columns = {{"country", "VARCHAR"}, {"category", "VARCHAR"}, {"category_count", "BIGINT"}},
     .tables = PIN_GEO,
     .sql = sql_category_by_country,
     .sql_end = sql_category_by_country_end},
    {.name = "category-posts-by-year",
     .title = "How many posts each category had in each year",
     .columns = {{"post_year", "BIGINT"}, {"category", "VARCHAR"}, {"category_count", "BIGINT"}},
     .tables = PIN_GEO,
     .params = YEARS | 1u << PARAM_TOP,
     .from = 2018,
     .to = 2022,
     .sql = sql_posts_by_year,
     .sql_end = sql_posts_by_year_end},
    {.name = "top-user-by-country",
     .title = "The user with most followers in each country",
     .columns = {{"country", "VARCHAR"}, {"poster_name", "VARCHAR"}, {"follower_count", "BIGINT"}},
     .tables = PIN_GEO,
     .sql = sql_user_by_country,
     .sql_end = sql_user_by_country_end},
    {.name = "top-user-country",
     .title = "The country of the user with most followers",
     .columns = {{"country", "VARCHAR"}, {"follower_count", "BIGINT"}},
     .tables = PIN_GEO,
     .sql = sql_user_country,
     .sql_end = sql_user_country_end},
    {.name = "popular-category-by-age",
     .title = "The most popular category of each age group",
     .columns = {{"age_group", "VARCHAR"}, {"category", "VARCHAR"}, {"category_count", "BIGINT"}},
     .tables = PIN_USER,
     .left_out = true,
     .sql = sql_category_by_age,
     .sql_end = sql_category_by_age_end},
    {.name = "median-followers-by-age",
     .title = "The median follower count of each age group",
     .columns = {{"age_group", "VARCHAR"}, {"median_follower_count", "DOUBLE"}},
     .tables = PIN_USER,
     .params = 1u << PARAM_MEDIAN,
     .left_out = true,
     .sql = sql_followers_by_age,
     .sql_end = sql_followers_by_age_end},
    {.name = "users-joined-by-year",
     .title = "How many users joined in each year",
     .columns = {{"post_year", "BIGINT"}, {"number_users_joined", "BIGINT"}},
     .tables = 1u << TABLE_USER,
     .params = YEARS | 1u << PARAM_DISTINCT,
     .from = 2015,
     .to = 2020,
     .sql = sql_joined_by_year,
     .sql_end = sql_joined_by_year_end},
    {.name = "median-followers-by-joining-year",
     .title = "The median follower count of users by the year in which they joined",
     .columns = {{"post_year", "BIGINT"}, {"median_follower_count", "DOUBLE"}},
     .tables = PIN_USER,
     .params = YEARS | 1u << PARAM_MEDIAN,
     .from = 2015,
     .to = 2020,
     .sql = sql_followers_by_year,
     .sql_end = sql_followers_by_year_end},
    {.name = "median-followers-by-joining-year-and-age",
     .title = "The median follower count of users by the year in which they joined and age group",
     .columns = {{"age_group", "VARCHAR"},
                 {"post_year", "BIGINT"},
                 {"median_follower_count", "DOUBLE"}},
     .tables = PIN_USER,
     .params = YEARS | 1u << PARAM_MEDIAN,
     .from = 2015,
     .to = 2020,
     .left_out = true,
     .sql = sql_followers_by_year_age,
     .sql_end = sql_followers_by_year_age_end}};

static const char *const dedup_values[] = {"on", "off", NULL};
static const char *const median_values[] = {"interpolated", "lower", NULL};
static const char *const top_values[] = {"all", "1", NULL};
static const char *const distinct_values[] = {"row", "person", NULL};
static const char *const tables_values[] = {"stream", "batch", NULL};
const char *const format_names[FORMATS] = {"json", "ndjson", "csv"};
const char *const format_types[FORMATS] = {"application/json", "application/x-ndjson",
                                           "text/csv; header=present; charset=utf-8"};
static const char *const format_values[] = {"json", "ndjson", "csv", NULL};

const struct param_def param_defs[PARAMS] = {
    [PARAM_FROM] = {"from", "first calendar year (UTC)", .min = 1, .max = 9999, .example = "2018"},
    [PARAM_TO] = {"to", "last calendar year (UTC), included", .min = 1, .max = 9999,
                  .example = "2020"},
    [PARAM_DEDUP] = {"dedup", "on: of each ind only the newest row; off: every row", dedup_values,
                     .example = "off"},
    [PARAM_MEDIAN] = {"median", "between the two middle values, or the lower of them",
                      median_values, .example = "lower"},
    [PARAM_TOP] = {"top", "1: only each year's winners, ties kept", top_values, .example = "1"},
    [PARAM_DISTINCT] = {"distinct", "person: each user_name, age and date_joined once",
                        distinct_values, .example = "person"},
    [PARAM_LIMIT] = {"limit", "at most so many rows of the answer (left out: all)", .min = 0,
                     .max = INT32_MAX, .example = "3"},
    [PARAM_VERSION] = {"version",
                       "versions of the tables, as pin:412,geo:410; a table left out: its latest",
                       .example = "pin:0"},
    [PARAM_TABLES] = {"tables", "the tables that the stream fills, or those of the batch",
                      tables_values, .example = "stream"},
    [PARAM_FORMAT] = {"format", "goes before the Accept header", format_values, .example = "csv"},
};

const struct question *question_by_name(struct str name)
{
    for (unsigned i = 0; i < QUESTIONS; i++)
        if (str_is(name, questions[i].name))
            return &questions[i];
    return NULL;
}

bool question_takes(const struct question *q, enum param_id param)
{
    return ((q->params | ALWAYS) >> param) & 1;
}

static int bad_value(struct ask_fault *f, enum param_id id, struct str value)
{
    const struct param_def *d = &param_defs[id];
    f->param = d->name;
    int n = snprintf(f->detail, sizeof f->detail, "%s: '%.*s' is not allowed; allowed: ", d->name,
                     (int)(value.n > 60 ? 60 : value.n), value.p ? value.p : "");
    char *p = f->detail + n;
    size_t left = sizeof f->detail - (size_t)n;
    if (d->values) {
        for (unsigned i = 0; d->values[i] && left > 1; i++) {
            n = snprintf(p, left, "%s%s", i ? ", " : "", d->values[i]);
            n = (size_t)n >= left ? (int)left - 1 : n;
            p += n, left -= (size_t)n;
        }
    } else if (id == PARAM_VERSION) {
        snprintf(p, left,
                 "tables of the question, each once, with a version: pin:412,geo:410,user:388");
    } else {
        snprintf(p, left, "a whole number from %lld to %lld", (long long)d->min, (long long)d->max);
    }
    return ERR_BAD_DATA;
}

static int read_number(enum param_id id, struct str v, int64_t *ret, struct ask_fault *f)
{
    uint64_t n;
    if (str_u64(v, &n) || n > (uint64_t)param_defs[id].max || (int64_t)n < param_defs[id].min)
        return bad_value(f, id, v);
    *ret = (int64_t)n;
    return 0;
}

/* The place among the allowed values. */
static int read_choice(enum param_id id, struct str v, unsigned *ret, struct ask_fault *f)
{
    for (unsigned i = 0; param_defs[id].values[i]; i++)
        if (str_is(v, param_defs[id].values[i])) {
            *ret = i;
            return 0;
        }
    return bad_value(f, id, v);
}

static int read_versions(struct ask *ask, struct str v, struct ask_fault *f)
{
    struct str rest = v, part, table;
    while (str_next(&rest, ',', &part)) {
        uint64_t version;
        unsigned t = 0;
        if (!str_next(&part, ':', &table) || !part.p || str_u64(part, &version) ||
            version > INT64_MAX)
            return bad_value(f, PARAM_VERSION, v);
        while (t < ASKED_TABLES && !str_is(table, table_names[t]))
            t++;
        /* A table that the question does not read may be named, so that one text serves all questions. */
        if (t == ASKED_TABLES || ask->versions[t] >= 0)
            return bad_value(f, PARAM_VERSION, v);
        ask->versions[t] = (int64_t)version;
    }
    return 0;
}

static int read_param(struct ask *ask, enum param_id id, struct str v, struct ask_fault *f)
{
    unsigned choice = 0;
    int rc = 0;
    switch (id) {
    case PARAM_FROM:
        return read_number(id, v, &ask->from, f);
    case PARAM_TO:
        return read_number(id, v, &ask->to, f);
    case PARAM_LIMIT:
        return read_number(id, v, &ask->limit, f);
    case PARAM_VERSION:
        return read_versions(ask, v, f);
    default:
        if ((rc = read_choice(id, v, &choice, f)))
            return rc;
    }
    if (id == PARAM_DEDUP)
        ask->dedup_off = choice;
    else if (id == PARAM_MEDIAN)
        ask->lower = choice;
    else if (id == PARAM_TOP)
        ask->top = choice;
    else if (id == PARAM_DISTINCT)
        ask->person = choice;
    else if (id == PARAM_TABLES)
        ask->batch = choice;
    else
        ask->format = (enum format)choice, ask->format_given = true;
    return 0;
}

static int read_pair(struct ask *ask, struct str pair, unsigned *seen, struct ask_fault *f)
{
    char text[512];
    struct str name;
    size_t n;
    if (pair.n > sizeof text || str_url_decode(pair, true, text, &n)) {
        snprintf(f->name, sizeof f->name, "%.*s", (int)(pair.n > 60 ? 60 : pair.n), pair.p);
        return ERR_BAD_DATA;
    }
    struct str value = str_make(text, n);
    /* an empty pair has the empty name, which is none of ours */
    (void)str_next(&value, '=', &name);
    for (unsigned id = 0; id < PARAMS; id++) {
        if (!str_is(name, param_defs[id].name) || !question_takes(ask->question, id))
            continue;
        if (*seen & 1u << id) {
            f->param = param_defs[id].name;
            snprintf(f->detail, sizeof f->detail, "%s is given more than once", f->param);
            return ERR_BAD_DATA;
        }
        *seen |= 1u << id;
        return read_param(ask, id, value, f);
    }
    snprintf(f->name, sizeof f->name, "%.*s", (int)(name.n > 60 ? 60 : name.n),
             name.p ? name.p : "");
    return ERR_BAD_DATA;
}

int ask_parse(struct ask *ask, const struct question *q, struct str query, struct ask_fault *f)
{
    *f = (struct ask_fault){0};
    *ask = (struct ask){
        .question = q, .from = q->from, .to = q->to, .limit = -1, .versions = {-1, -1, -1}};
    unsigned seen = 0;
    struct str pair;
    while (query.n && str_next(&query, '&', &pair)) {
        if (!pair.n)
            continue;
        int rc = read_pair(ask, pair, &seen, f);
        if (rc)
            return rc;
    }
    if (question_takes(q, PARAM_FROM) && ask->from > ask->to) {
        f->param = "from";
        snprintf(f->detail, sizeof f->detail, "from=%lld is after to=%lld", (long long)ask->from,
                 (long long)ask->to);
        return ERR_BAD_DATA;
    }
    return 0;
}

void ask_canonical(const struct ask *a, struct buf *out)
{
    const struct question *q = a->question;
    buf_z(out, q->name);
    if (question_takes(q, PARAM_FROM))
        buf_printf(out, "&from=%lld&to=%lld", (long long)a->from, (long long)a->to);
    if (question_takes(q, PARAM_MEDIAN))
        buf_printf(out, "&median=%s", median_values[a->lower]);
    if (question_takes(q, PARAM_TOP))
        buf_printf(out, "&top=%s", top_values[a->top]);
    if (question_takes(q, PARAM_DISTINCT))
        buf_printf(out, "&distinct=%s", distinct_values[a->person]);
    buf_printf(out, "&dedup=%s&tables=%s&format=%s", dedup_values[a->dedup_off],
               tables_values[a->batch], format_names[a->format]);
    if (a->limit >= 0)
        buf_printf(out, "&limit=%lld", (long long)a->limit);
}
