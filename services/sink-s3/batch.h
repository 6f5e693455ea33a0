/* batch: spans that wait for a commit of one clean table, and the rules by which they are taken; no I/O.
 *
 * For each source: `base`, the position that the table wanted when the batch began with it, and `end`, what it will want after the
 * commit. A rebase against a newer state of the table drops what somebody else has written. Rules: DESIGN section 3 as kept in
 * docs/guarantees.md. Threads: loop only; while a data file is written from it, a batch is not changed and may be read by the job.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/list.h"
#include "data/span.h"

#define BATCH_KEY_BYTES 16
/* What a table does not know: a source without a txn. Its wanted position is 0. */
#define BATCH_UNKNOWN (-1)

enum batch_verdict { BATCH_TAKE, BATCH_DROP, BATCH_HOLE };
/* What becomes of a span when the table wants `wanted` (0 for an unknown source) next. */
enum batch_verdict batch_judge(int64_t wanted, const struct span *span);

struct batch_source {
    struct list node;
    char *source;
    int32_t partition; /* of the clean topic */
    int64_t base;      /* BATCH_UNKNOWN, or the table's wanted position */
    int64_t end;
};
/* One span that was taken (in part). */
struct batch_piece {
    struct list node;
    struct batch_source *source;
    struct str bytes;           /* the span's message, owned */
    struct span span;           /* what stands in it */
    int64_t min_position;       /* rows and the lost part below it are not this commit's */
    int64_t dead_position;      /* the same for rejects */
    uint32_t rows_n, rejects_n; /* of the whole span */
    uint8_t *keys;              /* rows_n keys of BATCH_KEY_BYTES each; NULL when copies are kept */
    uint8_t *copy;              /* rows_n flags: left out as a copy; NULL: none */
};
/* How far a clean partition has been read when everything in this batch is stored. */
struct batch_mark {
    struct list node;
    int32_t partition;
    int64_t upto; /* next offset */
};

struct batch {
    const struct dataset *dataset;
    bool with_keys;
    struct list sources, pieces, marks;
    size_t bytes;               /* of messages and keys, for accounting */
    uint64_t rows;              /* rows taken, copies included, before a rebase */
    int64_t newest_ingested_ms; /* of its spans' rows; 0: none */
};

struct batch *batch_new(const struct dataset *d, bool with_keys);
void batch_free(struct batch **b);
bool batch_empty(const struct batch *b); /* no source moves */
/* NULL: nothing of that source here. */
struct batch_source *batch_find(const struct batch *b, struct str source);
/* Takes a span that batch_judge said TAKE to. `known`: what the table (with batches before this one) says: BATCH_UNKNOWN or the wanted position;
 * used as base when the source is new here. table_id goes into the keys of copies. */
void batch_take(struct batch *b, const struct span *span, int32_t partition, int64_t known,
                const char *table_id);
/* Notes that the clean partition was read up to `upto`, whatever became of the span. */
void batch_pass(struct batch *b, int32_t partition, int64_t upto);
/* Drops everything of a clean partition: it is read again, or gone. */
void batch_drop_partition(struct batch *b, int32_t partition);

/* What the table says now about a source: BATCH_UNKNOWN or its wanted position. */
typedef int64_t batch_known_fn(void *ctx, struct str source);
/* Before each try of a commit. Returns how many sources somebody else had moved; -1: a table went back, which only another table does. */
int batch_rebase(struct batch *b, batch_known_fn *known, void *ctx);
/* The same for the rejects, against the dead table. */
void batch_rebase_dead(struct batch *b, batch_known_fn *known, void *ctx);

/* Walks rows (dead false) or rejects (dead true) that a commit has to write, in order. */
struct batch_cursor {
    const struct batch *batch;
    const struct batch_piece *piece;
    struct span_iter it;
    uint32_t row;      /* index of the next row in its piece */
    bool dead, copies; /* copies: rows flagged as copies too */
};
void batch_cursor_init(struct batch_cursor *c, const struct batch *b, bool dead, bool copies);
/* 1 and the item with its piece and (rows) its index there, or 0. */
int batch_cursor_next(struct batch_cursor *c, struct span_item *ret,
                      const struct batch_piece **ret_piece, uint32_t *ret_row);
/* The same for who wants no row's content, only its piece and index; not for rejects. */
int batch_cursor_row(struct batch_cursor *c, const struct batch_piece **ret_piece,
                     uint32_t *ret_row);
uint64_t batch_rows(const struct batch *b); /* without copies */
uint64_t batch_copies(const struct batch *b);
uint64_t batch_rejects(const struct batch *b); /* of those that the dead table still wants */
/* JSON array of the lost ranges of this commit, [{"source":…,"from":…,"to":…}]; nothing appended when there are none. Alarm: *ret_alarm counts positions lost other than at a beginning. */
void batch_lost_json(const struct batch *b, struct buf *out, uint64_t *ret_alarm);
