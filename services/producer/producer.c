/* producer: start and stop, and its clients of Kafka.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "producer"
#include "producer/producer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "producer/batch.h"

enum { DRAIN_LOOK_MS = 5 };

static void on_state(void *ctx, bool up, const char *detail)
{
    struct producer *p = ctx;
    metric_set(p->metrics, M_UP, 0, up);
    app_ready_set(p->app, "kafka", up, detail);
}

static void on_fatal(void *ctx, const char *text)
{
    struct producer *p = ctx;
    LOG(ERROR, "kafka_client_failed", KV_STR("text", text));
    app_fail(p->app, APP_EXIT_UNAVAILABLE, "kafka_fatal");
}

static void on_collect(void *ctx)
{
    struct producer *p = ctx;
    metric_set(p->metrics, M_QUEUED_BYTES, 0, (double)p->queued_bytes);
    metric_set(p->metrics, M_QUEUED_RECORDS, 0, (double)p->queued_records);
    metric_set(p->metrics, M_AGE, 0,
               p->refreshed_ms ? (double)(clock_ms() - p->refreshed_ms) / 1e3 : 0);
}

int producer_check(const void *config, const struct app_common *common, struct err *e)
{
    const struct producer_config *c = config;
    if (c->retention_raw < c->retention_clean)
        return err_set(e, ERR_CONFIG,
                       "topics.retention.raw: must not be shorter than topics.retention.clean");
    if (c->queue_max + (c->queue_max >> 1) > common->memory_max)
        return err_set(e, ERR_CONFIG, "queue.max: must not pass two thirds of memory.max");
    return 0;
}

static int open_clients(struct producer *p, struct err *e)
{
    const struct producer_config *c = p->config;
    struct kafka_producer_opts o = {.brokers = c->brokers,
                                    .client_id = "sluice-producer-quick",
                                    .delivery_timeout_ms = c->delivery_timeout,
                                    .queue_bytes = c->queue_max,
                                    .max_message_bytes = c->record_max + (64 << 10),
                                    .on_delivery = records_on_delivery,
                                    .on_fatal = on_fatal,
                                    .ctx = p};
    int rc = kafka_producer_open(p->loop, &o, &p->quick, e);
    if (rc)
        return rc;
    o.client_id = "sluice-producer-bulk";
    o.linger_ms = c->linger;
    o.on_state = on_state;
    rc = kafka_producer_open(p->loop, &o, &p->bulk, e);
    if (rc)
        return rc;
    const struct kafka_admin_opts ao = {.brokers = c->brokers,
                                        .client_id = "sluice-producer-admin"};
    return kafka_admin_open(p->loop, &ao, &p->admin, e);
}

int producer_start(struct app *app, void *config, struct err *e)
{
    struct producer *p = MEM_NEW(struct producer);
    p->app = app, p->loop = app_loop(app), p->config = config, p->metrics = app_metrics(app);
    list_init(&p->batches);
    app_state_set(app, p);
    app_ready_set(app, "kafka", false, "not connected yet");
    int rc = open_clients(p, e);
    if (rc)
        return rc;
    topics_start(p);
    metrics_on_collect(p->metrics, on_collect, p);
    const struct bus_server_opts o = {
        .listen = p->config->bus_listen, .on_request = producer_on_message, .ctx = p};
    rc = bus_server_open(p->loop, &o, &p->bus, e);
    if (rc)
        return rc;
    app_listening("bus", "127.0.0.1", bus_server_port(p->bus));
    return 0;
}

static void on_drain_look(void *ctx)
{
    struct producer *p = ctx;
    if (list_empty(&p->batches) && !bus_server_write_bytes(p->bus)) {
        app_drained(p->app);
        return;
    }
    loop_timer_start(p->loop, &p->drain_timer, DRAIN_LOOK_MS, on_drain_look, p);
}

void producer_drain(struct app *app)
{
    struct producer *p = app_state(app);
    p->draining = true; /* gateways are still read and told so at once */
    on_drain_look(p);
}

void producer_stop(struct app *app)
{
    struct producer *p = app_state(app);
    if (!p)
        return;
    app_state_set(app, NULL);
    loop_timer_stop(&p->drain_timer);
    bus_server_close(&p->bus);
    kafka_admin_close(&p->admin);
    kafka_producer_close(&p->quick);
    kafka_producer_close(&p->bulk);
    LIST_EACH (it, tmp, &p->batches)
        producer_batch_free(LIST_ENTRY(it, struct batch, node));
    topics_stop(p);
    mem_free(p);
}

void producer_dump(struct app *app, struct buf *out)
{
    const struct producer *p = app_state(app);
    if (!p)
        return;
    struct str key;
    void *value;
    bool first = true;
    buf_printf(out, "\"producer\":{\"queued_bytes\":%zu,\"queued_records\":%zu,\"topics\":{",
               p->queued_bytes, p->queued_records);
    for (size_t i = 0; p->topics && map_next(p->topics, &i, &key, &value);) {
        const struct topic *t = value;
        buf_str(out, first ? STR("") : STR(","));
        first = false;
        buf_json(out, key);
        buf_printf(out, ":{\"id\":\"%s\",\"partitions\":%zu,\"in_flight\":%zu}", t->id,
                   t->partitions, t->in_flight);
    }
    buf_z(out, "}}");
}
