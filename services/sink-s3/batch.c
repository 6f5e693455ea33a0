/* batch: see batch.h.
 * SPDX-License-Identifier: Apache-2.0  */
#include "sink-s3/batch.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include <inttypes.h>

enum batch_verdict batch_judge(int64_t wanted, const struct span *span)
{
    if (span->from > wanted)
        return BATCH_HOLE;
    return span->to <= wanted ? BATCH_DROP : BATCH_TAKE;
}

struct batch *batch_new(const struct dataset *d, bool with_keys)
{
    struct batch *b = MEM_NEW(struct batch);
    b->dataset = d;
    b->with_keys = with_keys;
    list_init(&b->sources);
    list_init(&b->pieces);
    list_init(&b->marks);
    return b;
}

static void piece_free(struct batch *b, struct batch_piece *p)
{
    b->bytes -= p->bytes.n + (p->keys ? p->rows_n * (size_t)BATCH_KEY_BYTES : 0);
    list_remove(&p->node);
    mem_free((char *)p->bytes.p);
    mem_free(p->keys);
    mem_free(p->copy);
    mem_free(p);
}

static void source_free(struct batch_source *s)
{
    list_remove(&s->node);
    mem_free(s->source);
    mem_free(s);
}

void batch_free(struct batch **pb)
{
    struct batch *b = *pb;
    if (!b)
        return;
    LIST_EACH (it, tmp, &b->pieces)
        piece_free(b, LIST_ENTRY(it, struct batch_piece, node));
    LIST_EACH (it, tmp, &b->sources)
        source_free(LIST_ENTRY(it, struct batch_source, node));
    LIST_EACH (it, tmp, &b->marks)
        mem_free(LIST_ENTRY(it, struct batch_mark, node));
    mem_free(b);
    *pb = NULL;
}

bool batch_empty(const struct batch *b)
{
    return list_empty(&b->sources);
}

struct batch_source *batch_find(const struct batch *b, struct str source)
{
    LIST_EACH (it, tmp, (struct list *)&b->sources) {
        struct batch_source *s = LIST_ENTRY(it, struct batch_source, node);
        if (str_is(source, s->source))
            return s;
    }
    return NULL;
}

/* One key a row: the table's id, the dataset and the row's canonical bytes without its provenance. */
static uint8_t *keys_of(const struct span *span, const char *table_id)
{
    uint8_t *keys = MEM_ARRAY(uint8_t, (span->rows_n ? span->rows_n : 1) * (size_t)BATCH_KEY_BYTES);
    struct hash_sha256 *h = hash_sha256_new();
    struct str id = str_of(table_id), name = str_of(span->dataset->name);
    struct span_iter it;
    struct span_item item;
    uint32_t i = 0;
    span_iter_init(&it, span);
    while (span_iter_next(&it, &item)) {
        uint8_t sum[32];
        if (item.kind != SPAN_ROW)
            continue;
        hash_sha256_update(h, id.p, id.n + 1);
        hash_sha256_update(h, name.p, name.n + 1);
        hash_sha256_update(h, item.content.p, item.content.n);
        hash_sha256_final(h, sum);
        CHECK(i < span->rows_n);
        memcpy(keys + (size_t)i++ * BATCH_KEY_BYTES, sum, BATCH_KEY_BYTES);
    }
    hash_sha256_free(&h);
    return keys;
}

/* What a cursor would find in one piece; a span that is taken whole needs no walk. */
static uint64_t count_piece(const struct batch_piece *p, bool dead, bool copies)
{
    const uint8_t *copy = dead || copies ? NULL : p->copy;
    int64_t least = dead ? p->dead_position : p->min_position;
    uint64_t n = dead ? p->rejects_n : p->rows_n;
    if (least <= p->span.from) {
        for (uint32_t i = 0; copy && i < p->rows_n; i++)
            n -= copy[i] != 0;
        return n;
    }
    struct span_iter it;
    struct span_item item;
    uint32_t row = 0;
    n = 0;
    span_iter_init(&it, &p->span);
    while (span_iter_next(&it, &item)) {
        bool reject = item.kind == SPAN_REJECT, left_out = !reject && copy && copy[row];
        row += !reject;
        n += reject == dead && !left_out && item.position >= least;
    }
    return n;
}

void batch_take(struct batch *b, const struct span *span, int32_t partition, int64_t known,
                const char *table_id)
{
    struct batch_source *s = batch_find(b, span->source);
    if (!s) {
        s = MEM_NEW(struct batch_source);
        s->source = mem_strndup(span->source.p, span->source.n);
        s->partition = partition;
        s->base = known;
        s->end = known == BATCH_UNKNOWN ? 0 : known;
        list_push(&b->sources, &s->node);
    }
    CHECK(span->from <= s->end && span->to > s->end);
    struct batch_piece *p = MEM_NEW(struct batch_piece);
    p->source = s;
    p->bytes = str_make(mem_dup(span->bytes.p, span->bytes.n), span->bytes.n);
    p->span = *span;
    p->span.bytes = p->bytes;
    p->span.source = str_make(p->bytes.p + (span->source.p - span->bytes.p), span->source.n);
    p->min_position = p->dead_position = s->end;
    p->rows_n = span->rows_n;
    p->rejects_n = span->rejects_n;
    if (b->with_keys && span->rows_n)
        p->keys = keys_of(span, table_id);
    list_push(&b->pieces, &p->node);
    b->bytes += p->bytes.n + (p->keys ? p->rows_n * (size_t)BATCH_KEY_BYTES : 0);
    b->rows += count_piece(p, false, true);
    if (span->newest_ingested_ms > b->newest_ingested_ms)
        b->newest_ingested_ms = span->newest_ingested_ms;
    s->end = span->to;
}

void batch_pass(struct batch *b, int32_t partition, int64_t upto)
{
    LIST_EACH (it, tmp, &b->marks) {
        struct batch_mark *m = LIST_ENTRY(it, struct batch_mark, node);
        if (m->partition != partition)
            continue;
        m->upto = upto;
        return;
    }
    struct batch_mark *m = MEM_NEW(struct batch_mark);
    m->partition = partition;
    m->upto = upto;
    list_push(&b->marks, &m->node);
}

static void drop_source(struct batch *b, struct batch_source *s)
{
    LIST_EACH (it, tmp, &b->pieces) {
        struct batch_piece *p = LIST_ENTRY(it, struct batch_piece, node);
        if (p->source == s)
            piece_free(b, p);
    }
    source_free(s);
}

void batch_drop_partition(struct batch *b, int32_t partition)
{
    LIST_EACH (it, tmp, &b->sources) {
        struct batch_source *s = LIST_ENTRY(it, struct batch_source, node);
        if (s->partition == partition)
            drop_source(b, s);
    }
    LIST_EACH (it, tmp, &b->marks) {
        struct batch_mark *m = LIST_ENTRY(it, struct batch_mark, node);
        if (m->partition == partition) {
            list_remove(&m->node);
            mem_free(m);
        }
    }
}

int batch_rebase(struct batch *b, batch_known_fn *known, void *ctx)
{
    int moved = 0;
    LIST_EACH (it, tmp, &b->sources) {
        struct batch_source *s = LIST_ENTRY(it, struct batch_source, node);
        int64_t now = known(ctx, str_of(s->source));
        if (now == s->base)
            continue;
        if (now < s->base)
            return -1;
        moved++;
        if (s->end <= now) {
            drop_source(b, s);
            continue;
        }
        s->base = now;
        LIST_EACH (pit, ptmp, &b->pieces) {
            struct batch_piece *p = LIST_ENTRY(pit, struct batch_piece, node);
            if (p->source == s && p->min_position < now)
                p->min_position = now;
        }
    }
    return moved;
}

void batch_rebase_dead(struct batch *b, batch_known_fn *known, void *ctx)
{
    LIST_EACH (it, tmp, &b->pieces) {
        struct batch_piece *p = LIST_ENTRY(it, struct batch_piece, node);
        int64_t now = p->rejects_n ? known(ctx, str_of(p->source->source)) : 0;
        if (now > p->dead_position)
            p->dead_position = now;
    }
}

void batch_cursor_init(struct batch_cursor *c, const struct batch *b, bool dead, bool copies)
{
    *c = (struct batch_cursor){.batch = b, .dead = dead, .copies = copies};
}

/* Steps to the next piece that can hold what is asked for. */
static bool next_piece(struct batch_cursor *c)
{
    const struct list *at = c->piece ? &c->piece->node : &c->batch->pieces;
    for (at = at->next; at != &c->batch->pieces; at = at->next) {
        const struct batch_piece *p = LIST_ENTRY(at, struct batch_piece, node);
        if (!(c->dead ? p->rejects_n : p->rows_n))
            continue;
        span_iter_init(&c->it, &p->span);
        c->piece = p;
        c->row = 0;
        return true;
    }
    c->piece = NULL;
    return false;
}

int batch_cursor_next(struct batch_cursor *c, struct span_item *ret,
                      const struct batch_piece **ret_piece, uint32_t *ret_row)
{
    for (;;) {
        if (!c->piece && !next_piece(c))
            return 0;
        while (span_iter_next(&c->it, ret)) {
            const struct batch_piece *p = c->piece;
            if ((ret->kind == SPAN_REJECT) != c->dead) {
                c->row += ret->kind == SPAN_ROW;
                continue;
            }
            uint32_t row = c->dead ? 0 : c->row++;
            if (ret->position < (c->dead ? p->dead_position : p->min_position))
                continue;
            if (!c->dead && !c->copies && p->copy && p->copy[row])
                continue;
            *ret_piece = p;
            *ret_row = row;
            return 1;
        }
        if (!next_piece(c))
            return 0;
    }
}

int batch_cursor_row(struct batch_cursor *c, const struct batch_piece **ret_piece,
                     uint32_t *ret_row)
{
    CHECK(!c->dead);
    while (c->piece || next_piece(c)) {
        const struct batch_piece *p = c->piece;
        struct span_item item;
        if (p->min_position > p->span.from) /* taken in part: positions decide */
            return batch_cursor_next(c, &item, ret_piece, ret_row);
        while (c->row < p->rows_n) {
            uint32_t row = c->row++;
            if (!c->copies && p->copy && p->copy[row])
                continue;
            *ret_piece = p;
            *ret_row = row;
            return 1;
        }
        if (!next_piece(c))
            break;
    }
    return 0;
}

static uint64_t count(const struct batch *b, bool dead, bool copies)
{
    uint64_t n = 0;
    LIST_EACH (it, tmp, (struct list *)&b->pieces)
        n += count_piece(LIST_ENTRY(it, struct batch_piece, node), dead, copies);
    return n;
}

uint64_t batch_rows(const struct batch *b)
{
    return count(b, false, false);
}

uint64_t batch_copies(const struct batch *b)
{
    return count(b, false, true) - count(b, false, false);
}

uint64_t batch_rejects(const struct batch *b)
{
    return count(b, true, false);
}

void batch_lost_json(const struct batch *b, struct buf *out, uint64_t *ret_alarm)
{
    bool any = false;
    *ret_alarm = 0;
    LIST_EACH (it, tmp, (struct list *)&b->pieces) {
        const struct batch_piece *p = LIST_ENTRY(it, struct batch_piece, node);
        const struct span *span = &p->span;
        int64_t from = span->from > p->min_position ? span->from : p->min_position;
        if (!span->lost || from >= span->to)
            continue;
        buf_z(out, any ? ",{\"source\":" : "[{\"source\":");
        any = true;
        buf_json(out, span->source);
        buf_printf(out, ",\"from\":%" PRId64 ",\"to\":%" PRId64 "}", from, span->to);
        if (span->from > 0)
            *ret_alarm += (uint64_t)(span->to - from);
    }
    if (any)
        buf_char(out, ']');
}
