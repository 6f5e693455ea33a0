/* records: what may be taken, which of the two clients it goes to, and what became of it.
 *
 * The quick client sends at once: a lonely record is confirmed in the broker's own time. The bulk client gathers for `linger`: a
 * flood costs less. The records of a topic that are on their way are always on one client, so that their order stays:
 *
 * on their way    load       a request goes to
 * none            calm       the quick client, if it is small; else the bulk client
 * none            flood      the bulk client
 * quick client    calm       the quick client
 * quick client    flood      is held, and so is all that follows it, until the quick client has told of all that it has; then
 *                            all that is held goes to the bulk client, in its order
 * bulk client     either     the bulk client
 *
 * Held records were not handed on: a batch whose time is over while they are held answers that they are refused.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "producer"
#include "producer/batch.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

enum {
    RECORD_COST = 160, /* bytes that a waiting record costs beside its own, with one header */
    HEADER_COST = 96,  /* and each further header */
    LONELY = 4,        /* so many records of a message still count as lonely */
    CALM = 40,         /* so many records in two windows: 2 000 a second */
    WINDOW_MS = 10
};

/* ---- what became of it ---- */
static void slot_end(struct slot *s)
{
    struct request *r = s->r;
    struct producer *p = r->b->p;
    p->queued_bytes -= s->bytes;
    p->queued_records--;
    app_memory_sub(app_memory(p->app), s->bytes);
    r->pending--;
    r->b->pending--;
}

/* One that was on its way: the last of a topic lets go what is held. */
static void sent_end(struct slot *s)
{
    struct topic *t = s->r->topic;
    slot_end(s);
    if (--t->in_flight == 0 && !list_empty(&t->held))
        loop_defer(s->r->b->p->loop, &t->release, records_release, t);
}

void records_on_delivery(void *ctx, void *record, const struct kafka_delivery *d)
{
    struct producer *p = ctx;
    struct slot *s = record;
    struct batch *b = s->r->b;
    static const unsigned series[] = {
        [KAFKA_STORED] = R_STORED, [KAFKA_REFUSED] = R_REFUSED, [KAFKA_UNSURE] = R_UNSURE};
    if (d->outcome == KAFKA_STORED) {
        s->offset = d->offset;
        s->partition = d->partition;
    } else {
        s->outcome = d->outcome == KAFKA_UNSURE ? OUTCOME_UNSURE
                     : d->code == ERR_DENIED    ? OUTCOME_DENIED
                                                : OUTCOME_REFUSED;
        s->text = d->text;
    }
    if (b->call) /* else it was counted as unsure */
        metric_add(p->metrics, M_RECORDS, series[d->outcome], 1);
    sent_end(s);
    producer_batch_done(b);
}

/* ---- to a client ---- */
static struct kafka_record record_of(const struct request *r, const struct wire_record *w)
{
    return (struct kafka_record){.topic = r->topic->name,
                                 .partition = w->partition >= 0 ? w->partition : r->wire.partition,
                                 .key = w->key,
                                 .value = w->value,
                                 .timestamp_ms = w->timestamp_ms,
                                 .headers = w->headers,
                                 .headers_n = w->headers_n};
}

static void send_one(struct producer *p, struct slot *s, const struct kafka_record *rec)
{
    struct request *r = s->r;
    int rc = kafka_produce(r->topic->client, rec, s);
    if (!rc)
        return;
    /* Nothing of it left the house. */
    s->outcome = rc == ERR_DENIED ? OUTCOME_DENIED : OUTCOME_REFUSED;
    s->text = rc == ERR_TOO_LARGE ? "the record is larger than Kafka takes"
              : rc == ERR_BUSY    ? "the queue is full"
                                  : err_name(rc);
    metric_add(p->metrics, M_RECORDS, R_REFUSED, 1);
    sent_end(s);
}

static void send_all(struct producer *p, struct request *r)
{
    struct wire w = wire_of(r->wire.body);
    struct wire_record rec;
    metric_add(p->metrics, M_CLIENT, r->topic->client == p->bulk, (double)r->n);
    r->topic->in_flight += r->n;
    for (size_t i = 0; i < r->n && wire_record(&w, &rec); i++) {
        const struct kafka_record kr = record_of(r, &rec);
        send_one(p, &r->slots[i], &kr);
    }
}

static void note_load(struct producer *p, size_t records)
{
    uint64_t now = clock_ms();
    if (now - p->window_ms >= WINDOW_MS) {
        p->before = now - p->window_ms < 2 * WINDOW_MS ? p->recent : 0;
        p->recent = 0;
        p->window_ms = now;
    }
    p->recent += records;
}

static bool is_flood(const struct producer *p)
{
    return p->recent + p->before > CALM;
}

/* ---- held ---- */
static void hold(struct request *r)
{
    r->held_bytes = mem_dup(r->wire.body.p, r->wire.body.n);
    r->wire.body.p = r->held_bytes;
    list_push(&r->topic->held, &r->held);
}

static void let_go(struct request *r)
{
    list_remove(&r->held);
    mem_free(r->held_bytes);
    r->held_bytes = NULL;
}

void records_release(void *ctx)
{
    struct topic *t = ctx;
    struct list held;
    if (t->in_flight) /* held since: the last of these lets it go */
        return;
    list_init(&held);
    list_splice(&held, &t->held);
    while (!list_empty(&held)) {
        struct request *r = LIST_ENTRY(held.next, struct request, held);
        struct batch *b = r->b;
        t->client = b->p->bulk;
        send_all(b->p, r);
        let_go(r);
        producer_batch_done(b);
    }
}

void records_refuse_held(struct batch *b)
{
    for (size_t i = 0; i < b->requests_n; i++) {
        struct request *r = &b->requests[i];
        if (!r->held_bytes)
            continue;
        let_go(r);
        for (size_t k = 0; k < r->n; k++)
            slot_end(&r->slots[k]);
        r->refused = REFUSED_BUSY;
        r->text = "Kafka did not answer in time, and nothing was handed on";
        metric_add(b->p->metrics, M_RECORDS, R_REFUSED, (double)r->n);
    }
}

static void hand_on(struct producer *p, struct request *r)
{
    struct topic *t = r->topic;
    bool turns = t->in_flight && t->client == p->quick && is_flood(p);
    if (r->n && (turns || !list_empty(&t->held))) {
        hold(r);
        return;
    }
    if (!t->in_flight)
        t->client = r->n <= LONELY && !is_flood(p) ? p->quick : p->bulk;
    send_all(p, r);
}

/* ---- in ---- */
bool records_refuse(struct request *r, unsigned reason, unsigned series, const char *text)
{
    r->refused = reason;
    r->text = text;
    metric_add(r->b->p->metrics, M_REQUESTS, series, 1);
    metric_add(r->b->p->metrics, M_RECORDS, R_REFUSED, (double)r->wire.records);
    return false;
}

static size_t cost_of(size_t records, size_t headers, size_t bytes)
{
    return bytes + records * RECORD_COST +
           (headers > records ? (headers - records) * HEADER_COST : 0);
}

/* Whether a request can be taken; else it is refused whole. */
static bool admit(struct producer *p, struct request *r, struct str body)
{
    if (wire_request(body, &r->wire))
        return records_refuse(r, REFUSED_INVALID, Q_INVALID, "the request is not to be understood");
    if (p->draining)
        return records_refuse(r, REFUSED_BUSY, Q_DRAINING, "the producer is shutting down");
    if (!p->refreshed_ms)
        return records_refuse(r, REFUSED_BUSY, Q_NO_METADATA, "Kafka was not reached yet");
    r->topic = topics_find(p, r->wire.topic);
    if (!r->topic)
        return records_refuse(r, REFUSED_TOPIC, Q_NO_TOPIC, "no such topic");
    if (r->wire.highest >= 0 && (size_t)r->wire.highest >= r->topic->partitions)
        return records_refuse(r, REFUSED_PARTITION, Q_NO_PARTITION, "no such partition");
    size_t cost = cost_of(r->wire.records, r->wire.headers, r->wire.bytes);
    if (p->queued_bytes + cost > p->config->queue_max || !app_memory_fits(app_memory(p->app), cost))
        return records_refuse(r, REFUSED_BUSY, Q_BUSY, "the queue is full");
    metric_add(p->metrics, M_REQUESTS, Q_TAKEN, 1);
    return true;
}

static void make_slots(struct producer *p, struct request *r)
{
    struct wire w = wire_of(r->wire.body);
    struct wire_record rec;
    r->n = r->pending = r->wire.records;
    r->slots = MEM_ARRAY(struct slot, r->n + 1);
    for (size_t i = 0; i < r->n && wire_record(&w, &rec); i++) {
        size_t bytes = cost_of(1, rec.headers_n, rec.key.n + rec.value.n);
        for (size_t k = 0; k < rec.headers_n; k++)
            bytes += rec.headers[k].name.n + rec.headers[k].value.n;
        r->slots[i] = (struct slot){
            .r = r, .offset = -1, .partition = -1, .text = "", .bytes = (uint32_t)bytes};
        p->queued_bytes += bytes;
        app_memory_add(app_memory(p->app), bytes);
    }
    p->queued_records += r->n;
    r->b->pending += r->n;
}

void records_take(struct producer *p, struct request *r, struct str body)
{
    if (!admit(p, r, body))
        return;
    note_load(p, r->wire.records);
    make_slots(p, r);
    hand_on(p, r);
}

void records_free(struct request *r)
{
    if (r->held_bytes)
        let_go(r);
    mem_free(r->slots);
}
