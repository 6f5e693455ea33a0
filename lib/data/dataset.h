/* dataset: what the kinds of posts are: their names, columns, types and keys. One table each; everything else is generic.
 *
 * A fourth dataset is one more entry of datasets[] (with its rules in wash_rules.c) and one more message in proto/span.proto.
 * Threads: any; constant data.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/str.h"

enum dataset_id { DATASET_PIN, DATASET_GEO, DATASET_USER, DATASETS };

enum column_type {
    COLUMN_LONG,      /* 64-bit integer */
    COLUMN_INT,       /* 32-bit integer */
    COLUMN_STR,       /* UTF-8 */
    COLUMN_TIMESTAMP, /* milliseconds since 1970, UTC (tables store microseconds), of the years below */
    COLUMN_POINT,     /* two doubles: latitude, longitude; array<double> in tables */
    COLUMN_BINARY     /* bytes (the dead table only) */
};

/* Years 1 to 9999: what every reader of the tables can hold. */
#define TIMESTAMP_MIN_MS (-62135596800000)
#define TIMESTAMP_END_MS 253402300800000

struct column_def {
    const char *name;
    enum column_type type;
};

#define DATASET_MAX_COLUMNS 12
struct dataset {
    enum dataset_id id;
    const char *name; /* "pin": also the topic's and the table's middle part */
    /* without the four of provenance; column 0 is the key `ind` */
    const struct column_def *columns;
    unsigned columns_n;
};
extern const struct dataset datasets[DATASETS];
/* The four columns of provenance that end every table: _source, _position, _item, _ingested_at. */
#define PROVENANCE_COLUMNS 4
extern const struct column_def provenance_columns[PROVENANCE_COLUMNS];
/* What stands after the provenance in the dead table: dataset, reason, detail, key, value. */
#define DEAD_COLUMNS 5
extern const struct column_def dead_columns[DEAD_COLUMNS];

const struct dataset *dataset_by_name(struct str name); /* NULL: none */
/* The dataset of "<user>.pin" or "<user>.clean.pin"; NULL: not such a topic of this user. */
const struct dataset *dataset_of_raw_topic(const char *user, const char *topic);
const struct dataset *dataset_of_clean_topic(const char *user, const char *topic);

struct value {
    bool null;
    int64_t i;    /* LONG, INT, TIMESTAMP */
    double d[2];  /* POINT */
    struct str s; /* STR, BINARY */
};
struct row {
    int64_t position;
    int32_t item;
    int64_t ingested_at_ms;
    struct value v[DATASET_MAX_COLUMNS]; /* columns_n of them */
};

/* Why a record is no row: the closed list of the dead table. */
enum reject_reason {
    REJECT_NOT_JSON,
    REJECT_BAD_UTF8,
    REJECT_NOT_AN_OBJECT,
    REJECT_NO_KEY,
    REJECT_BAD_KEY,
    REJECT_TOO_LARGE,
    REJECT_TOMBSTONE,
    REJECT_REASONS
};
extern const char *const reject_names[REJECT_REASONS]; /* "not_json", … */
int reject_by_name(struct str name);                   /* a reject_reason, or -1 */

struct reject {
    int64_t position;
    int32_t item;
    int64_t ingested_at_ms;
    enum reject_reason reason;
    struct str detail;
    struct str key, value; /* bytes as stored; p NULL: null */
};
