/* wash_priv: the form of the rules' tables, which wash_rules.c holds and wash_object.c carries out; what wash.c and wash_object.c share.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/jsonscan.h"
#include "base/map.h"
#include "data/wash.h"

enum wash_kind {
    KIND_KEY,     /* integer, or a string of digits; without it no row */
    KIND_TEXT,    /* string, as sent */
    KIND_COUNT,   /* "136k": string or number by the rule of follower_count */
    KIND_INTEGER, /* number without fraction or exponent, within low..high */
    KIND_INSTANT, /* string, a time of the contract's forms */
    KIND_POINT,   /* number within low..high; part 0 or 1 of a point */
    KIND_NAME,    /* string; part 0 or 1 of a text that is joined by a blank */
    KIND_IGNORED  /* known, and not stored */
};

#define WASH_MAX_NOTHING 3
struct wash_field {
    struct str name; /* in JSON */
    int column;
    enum wash_kind kind;
    unsigned part;
    int64_t low, high;
    struct str nothing[WASH_MAX_NOTHING]; /* what means "nothing"; the empty string always does */
    struct str prefix;                    /* removed once */
};
#define WASH_MAX_FIELDS 16
struct wash_rules {
    const struct wash_field *fields;
    unsigned fields_n;
};
extern const struct wash_rules wash_rules[DATASETS];

/* The rules that tell why: -1 when *ret was set, else an enum wash_fault. */
int wash_count_rule(struct str text, int64_t *ret);
int wash_instant_rule(struct str text, int64_t *ret_ms);

/* Keys of unknown fields that are compared one by one; more go into a map. */
#define FEW_UNKNOWN 16
struct wash_padded {
    char *p;
    size_t cap;
};

struct wash {
    size_t max_record_bytes;
    struct jsonscan *js;
    struct wash_padded record, inner; /* the record, and what its string held */
    struct buf joined;                /* user_name */
    struct str *elements;
    size_t elements_n, elements_cap;
    char detail[160];

    /* The record, and the item of it, at work. */
    const struct wash_input *in;
    const struct wash_callbacks *cb;
    const struct dataset *dataset;
    struct row row;
    struct str parts[2]; /* of a joined text; p NULL: null */
    bool point[2];
    bool key_seen, key_bad, repeated;
    uint32_t seen; /* fields, by their place in the table */
    struct {
        int column;
        enum wash_fault fault;
    } faults[WASH_MAX_FIELDS];
    unsigned faults_n, unknown_n;
    struct str unknown[FEW_UNKNOWN];
    struct map *many_unknown;
};

/* wash_object.c: an object that is at hand and the whole document: begun, read (an error: the scanner's), and handed out as a row. */
void wash_object_begin(struct wash *w, int32_t item);
int wash_object_read(struct wash *w);
void wash_object_emit(struct wash *w);
