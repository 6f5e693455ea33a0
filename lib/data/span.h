/* span: the unit of exactly once: everything of one source from one position up to another, as one message.
 *
 * A span says: all positions in [from, to) of `source` are dealt with; these rows and rejects came of them, or (lost) they
 * could not be read any more. Its bytes are proto/span.proto's message Span; they are written and read here directly
 * (a test holds them against protobuf-c). A row's bytes carry its provenance first and its content after it, so that
 * the content of a row is a contiguous, canonical slice: what marks of copies are hashed from.
 * Threads: one at a time.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "data/dataset.h"

/* Longest source text, without its end byte: "kafka:" + topic (249) + ":" + partition (10) + ":" + id (22). */
#define SPAN_SOURCE_MAX 320

/* ---- writing ---- */
struct span_writer {
    const struct dataset *dataset;
    struct buf body; /* rows and rejects, encoded */
    uint32_t rows_n, rejects_n;
    int64_t last_position; /* of the newest row or reject; -1: none */
};
/* max_bytes: where the caller means to finish. One record may pass it by far (its items are bounded where it is washed). */
void span_writer_init(struct span_writer *w, const struct dataset *d, size_t max_bytes);
void span_writer_deinit(struct span_writer *w);
void span_writer_reset(struct span_writer *w);
void span_writer_row(struct span_writer *w, const struct row *row);
void span_writer_reject(struct span_writer *w, const struct reject *reject);
size_t span_writer_bytes(const struct span_writer *w);
/* The finished message, appended to `out`. The writer keeps its content. */
void span_writer_finish(const struct span_writer *w, struct str source, int64_t from, int64_t to,
                        bool lost, struct buf *out);

/* ---- reading ---- */
struct span {
    struct str source;
    int64_t from, to;
    bool lost;
    const struct dataset *dataset;
    uint32_t rules, rows_n, rejects_n;
    int64_t newest_ingested_ms; /* of its rows; 0: none, or before 1970 */
    struct str bytes;           /* the whole message, which every slice points into */
};
/* Reads and checks the head and every row's place: ERR_BAD_DATA: no span at all (not such a message, unknown version or dataset);
 * ERR_CORRUPT: a span that breaks its own rules (from > to, a row outside, unsorted, of no year, wrong counts, lost with rows). Text in e. */
int span_parse(struct str bytes, struct span *ret, struct err *e);

struct span_iter {
    struct str rest;
    const struct dataset *dataset;
};
/* Walks the items of a parsed span in their order. 1: an item, a row or a reject; 0: at the end. */
enum span_item_kind { SPAN_ROW, SPAN_REJECT };
struct span_item {
    enum span_item_kind kind;
    int64_t position;
    int32_t item;
    int64_t ingested_at_ms;
    struct str bytes;   /* the item's own message */
    struct str content; /* a row's bytes without its provenance */
};
void span_iter_init(struct span_iter *it, const struct span *s);
int span_iter_next(struct span_iter *it, struct span_item *ret);
/* The values of an item; slices point into its bytes. 0 or ERR_CORRUPT. Of a row: as many as the dataset has columns; of those that are
 * null nothing else is set. */
int span_item_values(const struct dataset *d, const struct span_item *item, struct value *ret);
int span_item_reject(const struct span_item *item, struct reject *ret);

/* "kafka:<topic>:<partition>:<generation>" */
void span_source_kafka(char out[SPAN_SOURCE_MAX + 1], const char *topic, int32_t partition,
                       const char *topic_id);
/* Its parts; false when it is none. Slices point into source. */
bool span_source_parse_kafka(struct str source, struct str *ret_topic, int32_t *ret_partition,
                             struct str *ret_id);
