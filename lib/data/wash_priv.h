/* wash_priv: the form of the rules' tables, shared by wash.c (which carries them out) and wash_rules.c (which holds them).
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
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
