/* wash: from the bytes of one raw record to rows and rejects: a pure function of bytes and rules.
 *
 * Shapes: an object, an array of objects, a string holding the JSON text of an object, a string holding base64 of such text.
 * The rules of every column stand as tables in wash_rules.c (datasets contract, sections 1 and 3).
 * Threads: one `struct wash`, one thread. Nothing is kept between calls.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "data/dataset.h"

/* Version of the rules, carried in every span: it grows when a rule changes. */
#define WASH_RULES_VERSION 1

/* Why a field became null, counted by (dataset, column, reason). */
enum wash_fault {
    WASH_NOTHING, /* a value that means "nothing", the empty string included: not counted as a fault of the sender */
    WASH_BAD_TYPE,
    WASH_BAD_FORMAT,
    WASH_OUT_OF_RANGE,
    WASH_LONE_SURROGATE,
    WASH_UNKNOWN_FIELD, /* ignored; column is -1 */
    WASH_FAULTS
};
extern const char *const wash_fault_names[WASH_FAULTS];
/* How a record came, for metrics. */
enum wash_shape { WASH_OBJECT, WASH_ARRAY, WASH_STRING, WASH_BASE64, WASH_SHAPES };
extern const char *const wash_shape_names[WASH_SHAPES];

struct wash_input {
    int64_t position;
    int64_t ingested_at_ms;
    struct str key, value; /* as stored; p NULL: null */
};
struct wash_callbacks {
    /* Rows and rejects in the order of their items; valid during the call. */
    void (*on_row)(void *ctx, const struct row *row);
    void (*on_reject)(void *ctx, const struct reject *reject);
    void (*on_fault)(void *ctx, int column, enum wash_fault fault); /* may be NULL */
    void *ctx;
};

struct wash;
struct wash *wash_new(size_t max_record_bytes); /* beyond it: too_large */
void wash_free(struct wash **w);
/* Always gives at least one row or reject; an empty array is one reject (not_an_object), and so is an array of so many small
 * elements that they would grow past three times the limit (too_large). Elements of an array are rejected with their own bytes and the
 * record's key. A record that is broken anywhere gives no row. Returns the shape. */
enum wash_shape wash_record(struct wash *w, const struct dataset *d, const struct wash_input *in,
                            const struct wash_callbacks *cb);

/* The rules by themselves, for tests and for other programs. */
bool wash_follower_count(struct str text, int64_t *ret); /* "136k" -> 136000 */
bool wash_timestamp(struct str text, int64_t *ret_ms);   /* ISO forms of the contract */
