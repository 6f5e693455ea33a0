/* outbox: requests of one turn into one message; answers back to their requests.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/outbox.h"
#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "gateway/rest_wire.h"

#define OUTBOX_TAG CHECK_TAG('o', 'b', 'o', 'x')
enum { AT_ONCE = 2, GATHER_MS = 3, GATHER_STEPS = 16, MAX_MESSAGE = 60 << 20, VERSION = 1 };

struct outbox {
    uint32_t tag;
    struct outbox_opts o;
    struct buf buf; /* the next message */
    struct list items;
    unsigned n_items;
    uint64_t first_ms, due_ms; /* of the next message: its first request, and when the timer ends */
    size_t begun;              /* where the request at hand begins in buf */
    bool open;                 /* between begin and commit */
    struct list messages, questions;
    unsigned unanswered;
    struct loop_defer flush;
    struct loop_timer gather;
};
struct message {
    struct list node, items;
    struct outbox *ob;
    struct bus_ask *ask;
};
struct outbox_question {
    struct list node;
    struct outbox *ob;
    struct bus_ask *ask;
    outbox_answer_fn *done;
    void *ctx;
    struct outbox_question **ref;
};

struct outbox *outbox_open(const struct outbox_opts *o)
{
    struct outbox *ob = MEM_NEW(struct outbox);
    ob->tag = OUTBOX_TAG;
    ob->o = *o;
    if (!ob->o.gather_ms)
        ob->o.gather_ms = GATHER_MS;
    buf_init(&ob->buf, MAX_MESSAGE);
    list_init(&ob->items);
    list_init(&ob->messages);
    list_init(&ob->questions);
    return ob;
}

size_t outbox_bytes(const struct outbox *ob)
{
    return ob->buf.len;
}

unsigned outbox_messages(const struct outbox *ob)
{
    return ob->unanswered;
}

/* ---- answers ---- */

static bool fits(const struct outbox_item *item, const Sluice__ProduceAnswer *a)
{
    if (a->refused)
        return true;
    if (a->n_partition != item->records || a->n_offset != item->records)
        return false;
    for (size_t i = 0; i < a->n_error; i++)
        if (a->error[i]->index >= item->records)
            return false;
    return true;
}

static void end_items(struct list *items, int rc)
{
    for (struct list *it; (it = list_pop(items)) != NULL;) {
        struct outbox_item *item = LIST_ENTRY(it, struct outbox_item, node);
        item->done(item, rc, NULL);
    }
}

static void deal_out(struct list *items, const Sluice__FromProducer *from)
{
    for (size_t i = 0; !list_empty(items); i++) {
        struct outbox_item *item = LIST_ENTRY(list_pop(items), struct outbox_item, node);
        bool good = fits(item, from->produce[i]);
        if (!good)
            LOG(WARN, "answer_refused", KV_STR("reason", "an answer does not fit its request"));
        item->done(item, good ? 0 : ERR_UNKNOWN, good ? from->produce[i] : NULL);
    }
}

static void send_soon(struct outbox *ob);

static void on_answer(void *ctx, int rc, struct str msg)
{
    struct message *m = ctx;
    struct outbox *ob = m->ob;
    struct list items;
    unsigned n = 0;
    list_init(&items);
    list_splice(&items, &m->items);
    list_remove(&m->node);
    mem_free(m);
    ob->unanswered--;
    if (ob->n_items)
        send_soon(ob);
    Sluice__FromProducer *from = NULL;
    if (rc == 0) {
        LIST_EACH (it, tmp, &items)
            n++;
        from = sluice__from_producer__unpack(NULL, msg.n, (const uint8_t *)msg.p);
        if (!from || from->version != VERSION || from->n_produce != n) {
            LOG(ERROR, "answer_refused", KV_STR("reason", "not the answer to this message"),
                KV_INT("bytes", msg.n));
            rc = ERR_UNKNOWN;
        }
    }
    /* The callbacks come last: what they need was taken out of ob, which may be gone after any of them. */
    if (rc == 0)
        deal_out(&items, from);
    else
        end_items(&items, rc == ERR_UNAVAILABLE ? rc : ERR_UNKNOWN);
    if (from)
        sluice__from_producer__free_unpacked(from, NULL);
}

/* ---- sending ---- */

static void send_now(struct outbox *ob)
{
    loop_timer_stop(&ob->gather);
    loop_defer_cancel(&ob->flush);
    if (!ob->n_items)
        return;
    struct message *m = MEM_NEW(struct message);
    m->ob = ob;
    list_init(&m->items);
    list_splice(&m->items, &ob->items);
    unsigned n = ob->n_items;
    size_t bytes = ob->buf.len;
    ob->n_items = 0;
    int rc = bus_ask(ob->o.bus, buf_as_str(&ob->buf), ob->o.timeout_ms, on_answer, m, &m->ask);
    enum { KEEP = 2 << 20 }; /* memory that comes and goes costs page faults */
    if (ob->buf.cap > KEEP) {
        buf_deinit(&ob->buf);
        buf_init(&ob->buf, MAX_MESSAGE);
    }
    buf_reset(&ob->buf);
    if (rc != 0) {
        struct list items;
        list_init(&items);
        list_splice(&items, &m->items);
        mem_free(m);
        end_items(&items, ERR_UNAVAILABLE);
        return;
    }
    list_push(&ob->messages, &m->node);
    ob->unanswered++;
    if (ob->o.on_message)
        ob->o.on_message(ob->o.ctx, n, bytes);
}

static void on_flush(void *ctx)
{
    send_now(CHECK_FROM(ctx, struct outbox, OUTBOX_TAG));
}

static void send_soon(struct outbox *ob)
{
    uint64_t steps = ob->unanswered < AT_ONCE ? 0 : ob->unanswered - AT_ONCE + 1;
    uint64_t due = ob->first_ms + (steps < GATHER_STEPS ? steps : GATHER_STEPS) * ob->o.gather_ms;
    uint64_t now = loop_now_ms(ob->o.loop);
    if (!steps || due <= now || ob->buf.len >= ob->o.message_bytes) {
        loop_at_turn_end(ob->o.loop, &ob->flush, on_flush, ob);
    } else if (!loop_timer_active(&ob->gather) || due < ob->due_ms) {
        ob->due_ms = due;
        loop_timer_start(ob->o.loop, &ob->gather, due - now, on_flush, ob);
    }
}

struct buf *outbox_begin(struct outbox *ob, struct str topic, int32_t partition)
{
    CHECK(!ob->open);
    if (ob->buf.len >= ob->o.message_bytes)
        send_now(ob);
    ob->open = true;
    if (ob->buf.len == 0) {
        buf_char(&ob->buf, WIRE_ASK_VERSION);
        buf_char(&ob->buf, VERSION);
    }
    ob->begun = ob->buf.len;
    char *p = buf_reserve(&ob->buf, topic.n + 64);
    if (!p)
        return &ob->buf; /* full: whatever is appended fails, and the caller aborts */
    char *begin = p;
    *p++ = WIRE_ASK_PRODUCE;
    p += WIRE_LENGTH_BYTES;
    *p++ = WIRE_REQUEST_TOPIC;
    p = wire_varint(p, topic.n);
    memcpy(p, topic.p, topic.n);
    p += topic.n;
    if (partition >= 0) {
        *p++ = WIRE_REQUEST_PARTITION;
        p = wire_varint(p, (uint64_t)partition);
    }
    *p++ = WIRE_REQUEST_TIMEOUT;
    /* The producer gives up before the message's own time-out, so that its answer still comes. */
    p = wire_varint(p, ob->o.timeout_ms - ob->o.timeout_ms / 20);
    buf_advance(&ob->buf, (size_t)(p - begin));
    return &ob->buf;
}

void outbox_commit(struct outbox *ob, struct outbox_item *item)
{
    CHECK(ob->open);
    ob->open = false;
    item->bytes = ob->buf.len - ob->begun;
    wire_length_at(ob->buf.data + ob->begun + 1, item->bytes - 1 - WIRE_LENGTH_BYTES);
    list_push(&ob->items, &item->node);
    if (ob->n_items++ == 0)
        ob->first_ms = loop_now_ms(ob->o.loop);
    send_soon(ob);
}

void outbox_abort(struct outbox *ob)
{
    CHECK(ob->open);
    ob->open = false;
    ob->buf.len = ob->n_items ? ob->begun : 0;
    ob->buf.overflow = false;
}

/* ---- questions ---- */

static void end_question(struct outbox_question *q)
{
    if (q->ref)
        *q->ref = NULL;
    list_remove(&q->node);
    mem_free(q);
}

static void on_question_answer(void *ctx, int rc, struct str msg)
{
    struct outbox_question *q = ctx;
    outbox_answer_fn *done = q->done;
    void *done_ctx = q->ctx;
    Sluice__FromProducer *from = NULL;
    if (rc == 0) {
        from = sluice__from_producer__unpack(NULL, msg.n, (const uint8_t *)msg.p);
        if (!from || from->version != VERSION || from->n_question != 1)
            rc = ERR_PROTOCOL;
    }
    end_question(q);
    done(done_ctx, rc, rc == 0 ? from->question[0] : NULL);
    if (from)
        sluice__from_producer__free_unpacked(from, NULL);
}

int outbox_ask(struct outbox *ob, Sluice__Question__Kind kind, struct str topic, int32_t partition,
               uint64_t timeout_ms, outbox_answer_fn *done, void *ctx, struct outbox_question **ret)
{
    char name[256];
    Sluice__Question question = SLUICE__QUESTION__INIT, *list[] = {&question};
    Sluice__ToProducer to = SLUICE__TO_PRODUCER__INIT;
    CHECK(topic.n < sizeof name);
    memcpy(name, topic.p ? topic.p : "", topic.n);
    name[topic.n] = 0;
    to.version = VERSION;
    to.n_question = 1;
    to.question = list;
    question.kind = kind;
    question.topic = topic.n ? name : NULL;
    question.has_partition = partition >= 0;
    question.partition = partition;
    uint8_t bytes[512];
    size_t n = sluice__to_producer__get_packed_size(&to);
    CHECK(n <= sizeof bytes);
    sluice__to_producer__pack(&to, bytes);
    struct outbox_question *q = MEM_NEW(struct outbox_question);
    *q = (struct outbox_question){.ob = ob, .done = done, .ctx = ctx};
    int rc = bus_ask(ob->o.bus, str_make((const char *)bytes, n), timeout_ms, on_question_answer, q,
                     &q->ask);
    if (rc != 0) {
        mem_free(q);
        return rc;
    }
    list_push(&ob->questions, &q->node);
    q->ref = ret;
    if (ret)
        *ret = q;
    return 0;
}

void outbox_cancel(struct outbox_question **pq)
{
    struct outbox_question *q = *pq;
    if (!q)
        return;
    bus_ask_cancel(&q->ask);
    end_question(q);
    *pq = NULL;
}

void outbox_close(struct outbox **pob)
{
    struct outbox *ob = *pob;
    if (!ob)
        return;
    *pob = NULL;
    loop_timer_stop(&ob->gather);
    loop_defer_cancel(&ob->flush);
    LIST_EACH (it, tmp, &ob->messages) {
        struct message *m = LIST_ENTRY(it, struct message, node);
        bus_ask_cancel(&m->ask);
        mem_free(m);
    }
    LIST_EACH (it, tmp, &ob->questions) {
        struct outbox_question *q = LIST_ENTRY(it, struct outbox_question, node);
        bus_ask_cancel(&q->ask);
        end_question(q);
    }
    buf_deinit(&ob->buf);
    ob->tag = 0;
    mem_free(ob);
}
