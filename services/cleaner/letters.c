/* letters: what the chains write, on its way to Kafka: spans to the clean topic, rejects to the dead one.
 *
 * A letter that the producer's queue has no room for waits in the backlog, which keeps the order; one of a partition whose topic is not
 * known for sure yet is held with the partition.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/crash.h"
#include "base/mem.h"
#include <inttypes.h>

#define RESEND_MS 10

struct letter {
    struct list node; /* of the backlog, or of its partition */
    struct chain_span *span;
    const char *topic;
    int32_t partition;
    struct buf bytes; /* key, value, then header values */
    struct str key, value;
    struct kafka_header headers[4];
    size_t headers_n;
};

/* 0, or ERR_BUSY: try again later. Anything else ends the process: a span that cannot be stored would be a hole.
 * A partition that the producer does not know is there all the same (it was asked for before the chain began): it is new, and the
 * producer's view of the topic is older. */
static int produce(struct cleaner *c, const struct letter *l)
{
    const struct kafka_record rec = {.topic = l->topic,
                                     .partition = l->partition,
                                     .key = l->key,
                                     .value = l->value,
                                     .headers = l->headers,
                                     .headers_n = l->headers_n};
    int rc = kafka_produce(c->producer, &rec, l->span);
    if (rc == ERR_NOT_FOUND)
        rc = ERR_BUSY;
    if (rc && rc != ERR_BUSY)
        cleaner_fail(c, "span_refused", err_name(rc));
    return rc;
}

static void letter_free(struct letter *l)
{
    list_remove(&l->node);
    buf_deinit(&l->bytes);
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

/* Sends now, or keeps a copy. */
static void letter_send(struct part *p, const struct letter *l)
{
    struct cleaner *c = p->cleaner;
    bool hold = p->state != PART_RUNNING;
    if (!hold && list_empty(&c->backlog) && produce(c, l) != ERR_BUSY)
        return;
    struct letter *kept = MEM_NEW(struct letter);
    *kept = *l;
    size_t bytes = l->key.n + l->value.n + 1;
    for (size_t i = 0; i < l->headers_n; i++)
        bytes += l->headers[i].value.n;
    buf_init(&kept->bytes, bytes);
    buf_reserve(&kept->bytes, bytes - 1); /* all at once: slices into it stay */
    kept->key = keep(&kept->bytes, l->key);
    kept->value = keep(&kept->bytes, l->value);
    for (size_t i = 0; i < l->headers_n; i++)
        kept->headers[i].value = keep(&kept->bytes, l->headers[i].value);
    list_push(hold ? &p->held : &c->backlog, &kept->node);
    if (!hold && !loop_timer_active(&c->resend))
        loop_timer_start(c->loop, &c->resend, RESEND_MS, on_resend, c);
}

void letters_release(struct part *p)
{
    list_splice(&p->cleaner->backlog, &p->held);
    on_resend(p->cleaner);
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
    letter_send(p, &l);
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
    letter_send(p, &l);
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
