/* orders: what the operator may order: `rewind` (read again from a position) and `accept` (declare what is gone as lost).
 *
 * Both set the committed offset of one source and begin its partition anew; the chain then does what it does at every beginning.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/log.h"
#include "base/mem.h"
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

struct order {
    struct list node; /* of the cleaner */
    struct cleaner *cleaner;
    struct app_order *order;
    char source[SPAN_SOURCE_MAX + 1];
    int64_t position;
    bool accept;
    bool committing; /* asked of the consumer */
};

static struct part *part_of_source(struct cleaner *c, const char *source)
{
    LIST_EACH (it, tmp, member_parts(c->member)) {
        struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
        if (p->chain && !strcmp(chain_source(p->chain), source))
            return p;
    }
    return NULL;
}

static void order_end(struct order *o, int status, const char *text)
{
    if (status == 200)
        app_order_answer(o->order, 200, STR("{\"ok\":true}"));
    else
        app_order_error(o->order, status, text);
    list_remove(&o->node);
    mem_free(o);
}

static void on_order_committed(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct order *o = ctx;
    (void)parts, (void)n;
    struct part *p = part_of_source(o->cleaner, o->source);
    if (rc && p)
        p->m.commit_sent = p->m.committed;
    if (rc || !p) {
        order_end(o, rc ? 503 : 404,
                  rc ? "Kafka did not take the offset" : "the source has moved to another cleaner");
        return;
    }
    LOG(WARN, "order_carried_out", KV_STR("order", o->accept ? "accept" : "rewind"),
        KV_STR("source", o->source), KV_INT("position", o->position));
    metric_add(app_metrics(o->cleaner->app), M_ORDERS, 0, 1);
    raw_part_restart(p, o->accept ? "order_accept" : "order_rewind");
    order_end(o, 200, NULL);
}

static void on_order_first(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct order *o = ctx;
    struct part *p = part_of_source(o->cleaner, o->source);
    if (rc || n != 1 || !p) {
        order_end(o, p ? 503 : 404,
                  p ? "Kafka did not say what it holds"
                    : "the source has moved to another cleaner");
        return;
    }
    bool gone = parts[0].offset > o->position;
    if (gone != o->accept) {
        order_end(o, 409,
                  gone
                      ? "Kafka has deleted records from there on: order accept to declare them lost"
                      : "the records are still there: order rewind to read them again");
        return;
    }
    if (o->position > chain_confirmed(p->chain)) {
        order_end(o, 409, "not dealt with yet: to begin there would leave out what is before it");
        return;
    }
    const struct kafka_partition kp = {
        .topic = p->m.topic, .partition = p->m.partition, .offset = o->position, .metadata = p->id};
    /* Positions that were confirmed before are committed no more until the chain has passed them again. */
    p->m.commit_sent = INT64_MAX;
    o->committing = true;
    kafka_consumer_commit(member_consumer(o->cleaner->member), &kp, 1, on_order_committed, o);
}

static void take_order(struct cleaner *c, struct app_order *order, struct str body, bool accept)
{
    json_t *json = json_loadb(body.p, body.n, JSON_REJECT_DUPLICATES, NULL);
    const char *source = json_string_value(json_object_get(json, "source"));
    json_t *position = json_object_get(json, "position");
    if (!source || strlen(source) > SPAN_SOURCE_MAX || !json_is_integer(position) ||
        json_integer_value(position) < 0) {
        app_order_error(order, 400, "want {\"source\": text, \"position\": number}");
        json_decref(json);
        return;
    }
    struct part *p = part_of_source(c, source);
    if (!p) {
        app_order_error(order, 404, "this cleaner does not read that source");
        json_decref(json);
        return;
    }
    struct order *o = MEM_NEW(struct order);
    o->cleaner = c;
    o->order = order;
    o->accept = accept;
    o->position = json_integer_value(position);
    memcpy(o->source, source, strlen(source) + 1);
    json_decref(json);
    list_push(&c->orders, &o->node);
    const struct kafka_partition kp = {.topic = p->m.topic, .partition = p->m.partition};
    kafka_admin_offsets(member_admin(c->member), &kp, 1, true, on_order_first, o);
}

static void on_rewind(void *ctx, struct app_order *order, struct str body)
{
    take_order(ctx, order, body, false);
}

static void on_accept(void *ctx, struct app_order *order, struct str body)
{
    take_order(ctx, order, body, true);
}

void orders_open(struct cleaner *c)
{
    list_init(&c->orders);
    app_order_on(c->app, "rewind", on_rewind, c);
    app_order_on(c->app, "accept", on_accept, c);
}

void orders_close(struct cleaner *c)
{
    LIST_EACH (it, tmp, &c->orders)
        mem_free(LIST_ENTRY(it, struct order, node));
}

void orders_lost(struct cleaner *c)
{
    LIST_EACH (it, tmp, &c->orders) {
        struct order *o = LIST_ENTRY(it, struct order, node);
        if (o->committing)
            order_end(o, 503, "this cleaner was thrown out of its group: ask again");
    }
}
