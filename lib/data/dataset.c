/* dataset: the kinds of posts, one table each (datasets contract, section 2).
 * SPDX-License-Identifier: Apache-2.0  */
#include "data/dataset.h"

static const struct column_def pin_columns[] = {
    {"ind", COLUMN_LONG},          {"unique_id", COLUMN_STR},         {"title", COLUMN_STR},
    {"description", COLUMN_STR},   {"follower_count", COLUMN_LONG},   {"poster_name", COLUMN_STR},
    {"tag_list", COLUMN_STR},      {"is_image_or_video", COLUMN_STR}, {"image_src", COLUMN_STR},
    {"save_location", COLUMN_STR}, {"category", COLUMN_STR},
};
static const struct column_def geo_columns[] = {
    {"ind", COLUMN_LONG},
    {"country", COLUMN_STR},
    {"coordinates", COLUMN_POINT},
    {"timestamp", COLUMN_TIMESTAMP},
};
static const struct column_def user_columns[] = {
    {"ind", COLUMN_LONG},
    {"user_name", COLUMN_STR},
    {"age", COLUMN_INT},
    {"date_joined", COLUMN_TIMESTAMP},
};

#define COUNT(a) (sizeof(a) / sizeof *(a))
_Static_assert(COUNT(pin_columns) <= DATASET_MAX_COLUMNS, "a row holds this many values");

const struct dataset datasets[DATASETS] = {
    [DATASET_PIN] = {DATASET_PIN, "pin", pin_columns, COUNT(pin_columns)},
    [DATASET_GEO] = {DATASET_GEO, "geo", geo_columns, COUNT(geo_columns)},
    [DATASET_USER] = {DATASET_USER, "user", user_columns, COUNT(user_columns)},
};

const struct column_def provenance_columns[PROVENANCE_COLUMNS] = {
    {"_source", COLUMN_STR},
    {"_position", COLUMN_LONG},
    {"_item", COLUMN_INT},
    {"_ingested_at", COLUMN_TIMESTAMP},
};
const struct column_def dead_columns[DEAD_COLUMNS] = {
    {"dataset", COLUMN_STR}, {"reason", COLUMN_STR},   {"detail", COLUMN_STR},
    {"key", COLUMN_BINARY},  {"value", COLUMN_BINARY},
};

const char *const reject_names[REJECT_REASONS] = {
    [REJECT_NOT_JSON] = "not_json",
    [REJECT_BAD_UTF8] = "bad_utf8",
    [REJECT_NOT_AN_OBJECT] = "not_an_object",
    [REJECT_NO_KEY] = "no_key",
    [REJECT_BAD_KEY] = "bad_key",
    [REJECT_TOO_LARGE] = "too_large",
    [REJECT_TOMBSTONE] = "tombstone",
};

int reject_by_name(struct str name)
{
    for (int i = 0; i < REJECT_REASONS; i++) {
        if (str_is(name, reject_names[i]))
            return i;
    }
    return -1;
}

const struct dataset *dataset_by_name(struct str name)
{
    for (int i = 0; i < DATASETS; i++) {
        if (str_is(name, datasets[i].name))
            return &datasets[i];
    }
    return NULL;
}

/* What follows "<user>." in a topic's name, or an absent slice. */
static struct str after_user(const char *user, const char *topic)
{
    struct str u = str_of(user), t = str_of(topic);
    if (!str_starts(t, u) || t.n <= u.n || t.p[u.n] != '.')
        return (struct str){NULL, 0};
    return str_make(t.p + u.n + 1, t.n - u.n - 1);
}

const struct dataset *dataset_of_raw_topic(const char *user, const char *topic)
{
    return dataset_by_name(after_user(user, topic));
}

const struct dataset *dataset_of_clean_topic(const char *user, const char *topic)
{
    struct str rest = after_user(user, topic);
    if (!str_starts(rest, STR("clean.")))
        return NULL;
    return dataset_by_name(str_make(rest.p + 6, rest.n - 6));
}
