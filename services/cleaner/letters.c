/* letters: what the chains write, on its way to Kafka: spans to the clean topic, rejects to the dead one.
 *
 * A letter is held with its partition until the raw topic's id was seen unchanged after the letter's records had been read (looks.c): a topic
 * that was made anew, and filled again beyond the place of reading, would be read on under the old source. Then it goes to the producer, or,
 * where that has no room, to the backlog, which keeps the order.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/crash.h"
#include "base/mem.h"
#include <inttypes.h>
#include <string.h>

#define RESEND_MS 10

struct letter {
    struct list node; /* of its partition, then of the backlog */
    uint64_t look;    /* the last look that had begun when it was written */
    struct chain_span *span;
    const char *topic;
    int32_t partition;
    char *value_bytes; /* the value's, the letter's own: NULL when the producer has them */
    struct buf bytes;  /* of key and header values */
    struct str key, value;
    struct kafka_header headers[4];
    size_t headers_n;
};

/* 0, or ERR_BUSY: try again later. Anything else ends the process: a span that cannot be stored would be a hole.
 * A partition that the producer does not know is there all the same (it was asked for before the chain began): it is new, and the
 * producer's view of the topic is older. */
static int produce(struct cleaner *c, struct letter *l)
{
    const struct kafka_record rec = {.topic = l->topic,
                                     .partition = l->partition,
                                     .key = l->key,
                                     .value = l->value,
                                     .give = true,
                                     .headers = l->headers,
                                     .headers_n = l->headers_n};
    int rc = kafka_produce(c->producer, &rec, l->span);
    if (rc == ERR_NOT_FOUND)
        rc = ERR_BUSY;
    if (rc && rc != ERR_BUSY)
        cleaner_fail(c, "span_refused", err_name(rc));
    if (!rc)
        l->value_bytes = NULL;
    return rc;
}

static void letter_free(struct letter *l)
{
    list_remove(&l->node);
    buf_deinit(&l->bytes);
    mem_free(l->value_bytes);
    mem_free(l);
}

static void on_resend(void *ctx)
{
    struct cleaner *c = ctx;
    while (!list_empty(&c->backlog) && !c->failed) {
        struct letter *l = LIST_ENTRY(c->backlog.next, struct letter, node);
        if (produce(c, l)) {
            loop_timer_start(c->loop, &c->resend, RESEND_MS, on_resend, c);
            return;
        }
        letter_free(l);
    }
}

static struct str keep(struct buf *b, struct str s)
{
    if (!s.p)
        return s;
    size_t at = b->len;
    buf_str(b, s);
    return str_make(b->data + at, s.n);
}

static void hold(struct part *p, const struct letter *l)
{
    struct letter *kept = MEM_NEW(struct letter);
    *kept = *l;
    size_t bytes = l->key.n + 1;
    for (size_t i = 0; i < l->headers_n; i++)
        bytes += l->headers[i].value.n;
    buf_init(&kept->bytes, bytes);
    buf_reserve(&kept->bytes, bytes - 1); /* all at once: slices into it stay */
    kept->key = keep(&kept->bytes, l->key);
    if (l->value.p) {
        kept->value_bytes = mem_alloc_raw(l->value.n);
        memcpy(kept->value_bytes, l->value.p, l->value.n);
        kept->value.p = kept->value_bytes;
    }
    for (size_t i = 0; i < l->headers_n; i++)
        kept->headers[i].value = keep(&kept->bytes, l->headers[i].value);
    kept->look = p->cleaner->looks;
    list_push(&p->held, &kept->node);
    looks_want(p->cleaner);
}

void letters_release(struct part *p, uint64_t look)
{
    struct cleaner *c = p->cleaner;
    LIST_EACH (it, tmp, &p->held) {
        struct letter *l = LIST_ENTRY(it, struct letter, node);
        if (l->look >= look)
            break;
        list_remove(&l->node);
        list_push(&c->backlog, &l->node);
    }
    if (!loop_timer_active(&c->resend))
        on_resend(c);
}

void letters_drop(struct part *p)
{
    int64_t bytes = 0;
    LIST_EACH (it, tmp, &p->held) {
        struct letter *l = LIST_ENTRY(it, struct letter, node);
        bytes += l->span->left == 1 ? (int64_t)l->span->bytes : 0;
        chain_stored(l->span); /* nobody waits for it any more */
        letter_free(l);
    }
    cleaner_account(p->cleaner, -bytes);
}

void letters_span(void *ctx, struct chain_span *span, struct str message)
{
    struct part *p = ctx;
    struct cleaner *c = p->cleaner;
    CRASH_POINT("cleaner_before_span");
    const struct letter l = {
        .span = span, .topic = p->clean_topic, .partition = p->m.partition, .value = message};
    hold(p, &l);
    metric_add(app_metrics(c->app), M_SPANS, p->dataset->id, 1);
    cleaner_account(c, (int64_t)span->bytes);
    CRASH_POINT("cleaner_after_span");
}

void letters_reject(void *ctx, struct chain_span *span, const struct reject *r)
{
    struct part *p = ctx;
    struct cleaner *c = p->cleaner;
    char position[24], item[16];
    snprintf(position, sizeof(position), "%" PRId64, r->position);
    snprintf(item, sizeof(item), "%" PRId32, r->item);
    const struct letter l = {.span = span,
                             .topic = c->dead_topic,
                             .partition = -1,
                             .key = r->key,
                             .value = r->value,
                             .headers = {{STR("sluice-reason"), str_of(reject_names[r->reason])},
                                         {STR("sluice-source"), str_of(chain_source(span->chain))},
                                         {STR("sluice-position"), str_of(position)},
                                         {STR("sluice-item"), str_of(item)}},
                             .headers_n = 4};
    size_t bytes = r->key.n + r->value.n;
    span->bytes += bytes;
    hold(p, &l);
    cleaner_account(c, (int64_t)bytes);
    metric_add(app_metrics(c->app), M_REJECTS, p->dataset->id * REJECT_REASONS + r->reason, 1);
    CRASH_POINT("cleaner_after_dead_letter");
}

static void on_delivery(void *ctx, void *record, const struct kafka_delivery *d)
{
    struct cleaner *c = ctx;
    struct chain_span *span = record;
    if (d->outcome != KAFKA_STORED) {
        cleaner_fail(c, "span_not_stored", d->text);
        return;
    }
    CRASH_POINT("cleaner_span_stored");
    int64_t bytes = span->left == 1 ? (int64_t)span->bytes : 0;
    chain_stored(span);
    cleaner_account(c, -bytes);
    cleaner_drain_step(c);
}

static void on_producer_fatal(void *ctx, const char *text)
{
    cleaner_fail(ctx, "producer_failed", text);
}

static void on_producer_state(void *ctx, bool up, const char *detail)
{
    struct cleaner *c = ctx;
    (void)detail;
    c->kafka_up[1] = up;
    cleaner_say_ready(c);
}

int letters_open(struct cleaner *c, struct err *e)
{
    const struct cleaner_config *o = c->config;
    const struct kafka_producer_opts po = {.brokers = o->brokers,
                                           .client_id = CLEANER_CLIENT,
                                           .linger_ms = 1,
                                           .delivery_timeout_ms = 0,
                                           .queue_bytes = o->inflight_max * 2,
                                           .max_message_bytes =
                                               4 * (o->record_max + RECORD_OVERHEAD),
                                           .gapless = true,
                                           .compression = "lz4",
                                           .on_delivery = on_delivery,
                                           .on_fatal = on_producer_fatal,
                                           .on_state = on_producer_state,
                                           .ctx = c};
    list_init(&c->backlog);
    return kafka_producer_open(c->loop, &po, &c->producer, e);
}

void letters_close(struct cleaner *c)
{
    loop_timer_stop(&c->resend);
    kafka_producer_close(&c->producer);
    LIST_EACH (it, tmp, &c->backlog)
        letter_free(LIST_ENTRY(it, struct letter, node));
}
