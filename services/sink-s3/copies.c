/* copies: see copies.h.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "copies"
#include "sink-s3/copies.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"
#include <inttypes.h>

/* Marks in one MGET, and MGETs on their way at once: bounds what Redis and we hold for one question. */
#define KEYS_PER_QUESTION 512
#define QUESTIONS_IN_FLIGHT 4
/* Commands without an answer: the marks of two full batches. */
#define MARKS_IN_FLIGHT (1U << 18)
#define KEY_TEXT 22 /* base64 of 16 bytes */

struct copies {
    struct loop *loop;
    struct redis *redis;
    char *prefix;
    size_t prefix_n;
    char ttl[24];
    struct list questions; /* without an answer */
};

/* The place of a row's verdict. */
struct place {
    const struct batch_piece *piece;
    uint32_t row;
};

struct question {
    struct list node;
    struct copies_ask *ask;
    size_t n;
    struct place places[KEYS_PER_QUESTION];
};

struct copies_ask {
    struct copies *copies;
    copies_done_fn *done;
    void *ctx;
    struct batch_cursor cursor;
    bool ended;         /* the cursor is at its end */
    unsigned in_flight; /* questions without an answer */
    uint64_t unasked;
    const uint8_t **seen; /* open addressing: keys of rows before */
    size_t seen_size;
    struct loop_defer defer;
};

static void look_on(void *ctx);
static void ask_free(struct copies_ask *a);

int copies_open(struct loop *loop, const struct copies_opts *o, struct copies **ret, struct err *e)
{
    struct copies *c = MEM_NEW(struct copies);
    const struct redis_opts ro = {.url = o->redis_url,
                                  .max_in_flight = MARKS_IN_FLIGHT,
                                  .on_state = o->on_state,
                                  .ctx = o->ctx};
    list_init(&c->questions);
    int rc = redis_open(loop, &ro, &c->redis, e);
    if (rc) {
        mem_free(c);
        return rc;
    }
    c->loop = loop;
    c->prefix = mem_printf("sluice:{%s}:copy:", o->user);
    c->prefix_n = strlen(c->prefix);
    snprintf(c->ttl, sizeof(c->ttl), "%" PRIu64, (o->window_ms + 999) / 1000);
    *ret = c;
    return 0;
}

void copies_close(struct copies **pc)
{
    struct copies *c = *pc;
    if (!c)
        return;
    redis_close(&c->redis);
    struct list *node;
    while ((node = list_pop(&c->questions))) {
        struct question *q = LIST_ENTRY(node, struct question, node);
        struct copies_ask *a = q->ask;
        mem_free(q);
        if (--a->in_flight == 0 && !a->done)
            ask_free(a);
    }
    mem_free(c->prefix);
    mem_free(c);
    *pc = NULL;
}

bool copies_connected(const struct copies *c)
{
    return redis_connected(c->redis);
}

static struct str key_text(const struct copies *c, const uint8_t *key, char *out)
{
    memcpy(out, c->prefix, c->prefix_n);
    size_t n = str_base64_encode(key, BATCH_KEY_BYTES, true, out + c->prefix_n);
    return str_make(out, c->prefix_n + n);
}

/* Whether a row with this key came before in this batch; notes it if not. */
static bool seen_before(struct copies_ask *a, const uint8_t *key)
{
    uint64_t h;
    memcpy(&h, key, sizeof(h)); /* the key is a cryptographic hash: any part of it is one */
    for (size_t i = h & (a->seen_size - 1);; i = (i + 1) & (a->seen_size - 1)) {
        if (!a->seen[i]) {
            a->seen[i] = key;
            return false;
        }
        if (!memcmp(a->seen[i], key, BATCH_KEY_BYTES))
            return true;
    }
}

static void set_copy(const struct batch_piece *piece, uint32_t row)
{
    ((struct batch_piece *)piece)->copy[row] = 1;
}

struct copies_ask *copies_look(struct copies *c, struct batch *b, copies_done_fn *done, void *ctx)
{
    struct copies_ask *a = MEM_NEW(struct copies_ask);
    a->copies = c;
    a->done = done;
    a->ctx = ctx;
    size_t rows = 0;
    LIST_EACH (it, tmp, &b->pieces) {
        struct batch_piece *p = LIST_ENTRY(it, struct batch_piece, node);
        mem_free(p->copy);
        p->copy = p->keys ? MEM_ARRAY(uint8_t, p->rows_n) : NULL;
        rows += p->rows_n;
    }
    for (a->seen_size = 16; a->seen_size < rows * 2; a->seen_size *= 2)
        ;
    a->seen = MEM_ARRAY(const uint8_t *, a->seen_size);
    batch_cursor_init(&a->cursor, b, false, true);
    loop_defer(c->loop, &a->defer, look_on, a);
    return a;
}

static void ask_free(struct copies_ask *a)
{
    loop_defer_cancel(&a->defer);
    mem_free(a->seen);
    mem_free(a);
}

void copies_cancel(struct copies_ask **pa)
{
    struct copies_ask *a = *pa;
    if (!a)
        return;
    *pa = NULL;
    a->done = NULL; /* questions on their way free it with the last answer */
    a->ended = true;
    if (!a->in_flight)
        ask_free(a);
}

static void on_marks(void *ctx, int rc, const struct redis_reply *reply)
{
    struct question *q = ctx;
    struct copies_ask *a = q->ask;
    bool good = !rc && reply->kind == REDIS_ARRAY && reply->n == q->n;
    for (size_t i = 0; a->done && good && i < q->n; i++) {
        if (reply->items[i].kind == REDIS_STR)
            set_copy(q->places[i].piece, q->places[i].row);
    }
    if (!good)
        a->unasked += q->n;
    list_remove(&q->node);
    mem_free(q);
    a->in_flight--;
    if (a->done)
        look_on(a);
    else if (!a->in_flight)
        ask_free(a);
}

/* Sends one question, about the next rows that are no copies within the batch. */
static void ask_some(struct copies_ask *a)
{
    struct copies *c = a->copies;
    struct question *q = MEM_NEW(struct question);
    size_t width = c->prefix_n + KEY_TEXT + 2;
    char *text = mem_alloc_raw(width * KEYS_PER_QUESTION);
    struct str *argv = MEM_ARRAY(struct str, KEYS_PER_QUESTION + 1);
    argv[0] = STR("MGET");
    q->ask = a;
    while (q->n < KEYS_PER_QUESTION) {
        struct place *p = &q->places[q->n];
        if (!batch_cursor_row(&a->cursor, &p->piece, &p->row)) {
            a->ended = true;
            break;
        }
        const uint8_t *key = p->piece->keys + (size_t)p->row * BATCH_KEY_BYTES;
        if (seen_before(a, key)) {
            set_copy(p->piece, p->row);
            continue;
        }
        argv[q->n + 1] = key_text(c, key, text + q->n * width);
        q->n++;
    }
    if (q->n && !redis_command(c->redis, argv, q->n + 1, on_marks, q)) {
        a->in_flight++;
        list_push(&c->questions, &q->node);
    } else {
        a->unasked += q->n;
        mem_free(q);
    }
    mem_free(argv);
    mem_free(text);
}

static void look_on(void *ctx)
{
    struct copies_ask *a = ctx;
    while (!a->ended && a->in_flight < QUESTIONS_IN_FLIGHT)
        ask_some(a);
    if (!a->ended || a->in_flight)
        return;
    copies_done_fn *done = a->done;
    void *done_ctx = a->ctx;
    uint64_t unasked = a->unasked;
    ask_free(a);
    done(done_ctx, unasked);
}

uint64_t copies_set(struct copies *c, const struct batch *b)
{
    struct batch_cursor cursor;
    const struct batch_piece *piece;
    uint32_t row;
    uint64_t failed = 0;
    char *text = mem_alloc_raw(c->prefix_n + KEY_TEXT + 2);
    batch_cursor_init(&cursor, b, false, false);
    while (batch_cursor_row(&cursor, &piece, &row)) {
        const struct str argv[] = {STR("SET"),
                                   key_text(c, piece->keys + (size_t)row * BATCH_KEY_BYTES, text),
                                   STR("1"), STR("EX"), str_of(c->ttl)};
        failed += redis_command(c->redis, argv, 5, NULL, NULL) != 0;
    }
    mem_free(text);
    return failed;
}
