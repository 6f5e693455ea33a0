/* kafka_config: every librdkafka setting that decides safety, memory or time, with its reason.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/kafka_priv.h"

#include "base/check.h"
#include "base/mem.h"

/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

struct setting {
    const char *name, *value;
};

static const struct setting common[] = {
    /* A broker that comes back is found at once; the library's own maximum of 10 s costs every outage that much. */
    {"reconnect.backoff.ms", "50"},
    {"reconnect.backoff.max.ms", "500"},
    {"socket.keepalive.enable", "true"},
    {"socket.nagle.disable", "true"},
    {"socket.connection.setup.timeout.ms", "5000"},
    /* Addresses are asked for again after an outage: containers move. */
    {"broker.address.ttl", "1000"},
    {"broker.address.family", "any"},
    /* Idle connections are kept: opening one again costs the next lonely record its latency. */
    {"connections.max.idle.ms", "0"},
    /* Topics are created on purpose only. */
    {"allow.auto.create.topics", "false"},
    {"topic.metadata.refresh.fast.interval.ms", "100"},
    {"topic.metadata.refresh.sparse", "true"},
    {"log.queue", "true"},
    {"log.connection.close", "false"},
    {"enable.metrics.push", "false"},
    {"retry.backoff.ms", "50"},
    {"retry.backoff.max.ms", "500"},
};

static const struct setting producer[] = {
    /* Stored means on all in-sync replicas, once, and in the order in which it was given. */
    {"enable.idempotence", "true"},
    {"request.required.acks", "-1"},
    {"max.in.flight.requests.per.connection", "5"},
    {"message.send.max.retries", "2147483647"},
    {"batch.size", "1000000"},
    {"batch.num.messages", "10000"},
    /* Keys go where Java's default partitioner would put them; records without a key gather in one partition a batch. */
    {"partitioner", "murmur2_random"},
    {"sticky.partitioning.linger.ms", "10"},
    {"queue.buffering.backpressure.threshold", "1"},
    {"delivery.report.only.error", "false"},
    {"topic.metadata.refresh.interval.ms", "10000"},
    {"metadata.max.age.ms", "30000"},
};

static const struct setting consumer[] = {
    /* An offset is committed by us, when what was made of the records is stored. */
    {"enable.auto.commit", "false"},
    {"enable.auto.offset.store", "false"},
    /* A lost offset is told, never jumped over. */
    {"auto.offset.reset", "error"},
    {"isolation.level", "read_committed"},
    {"enable.partition.eof", "true"},
    {"check.crcs", "true"},
    {"group.protocol", "classic"},
    {"partition.assignment.strategy", "cooperative-sticky"},
    {"max.poll.interval.ms", "300000"},
    {"fetch.min.bytes", "1"},
    /* A fetch that waits at the end of one partition delays the first of a partition that is taken or sought. */
    {"fetch.wait.max.ms", "100"},
    {"fetch.error.backoff.ms", "100"},
    {"fetch.queue.backoff.ms", "10"},
    {"queued.min.messages", "10000"},
    {"coordinator.query.interval.ms", "10000"},
};

static int set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *e)
{
    char text[256];
    if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
        return 0;
    return err_set(e, ERR_CONFIG, "kafka setting %s=%s: %s", name, value, text);
}

static int set_u64(rd_kafka_conf_t *conf, const char *name, uint64_t value, struct err *e)
{
    char text[24];
    struct buf b;
    buf_init(&b, sizeof(text));
    buf_u64(&b, value);
    int rc = set(conf, name, b.data, e);
    buf_deinit(&b);
    return rc;
}

static int set_all(rd_kafka_conf_t *conf, const struct setting *s, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        int rc = set(conf, s[i].name, s[i].value, e);
        if (rc)
            return rc;
    }
    return 0;
}
#define SET_ALL(conf, table, e) set_all(conf, table, sizeof(table) / sizeof(table[0]), e)

static rd_kafka_conf_t *finish(rd_kafka_conf_t *conf, int rc)
{
    if (!rc)
        return conf;
    rd_kafka_conf_destroy(conf);
    return NULL;
}

static int conf_common(rd_kafka_conf_t *conf, const char *brokers, const char *client_id,
                       struct err *e)
{
    int rc = set(conf, "bootstrap.servers", brokers, e);
    rc = rc ? rc : set(conf, "client.id", client_id ? client_id : "sluice", e);
    return rc ? rc : SET_ALL(conf, common, e);
}

static size_t at_least(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t at_most(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int conf_producer_sizes(rd_kafka_conf_t *conf, const struct kafka_producer_opts *o,
                               struct err *e)
{
    size_t bytes = at_least(o->queue_bytes, 1 << 20);
    size_t record = o->max_message_bytes ? o->max_message_bytes : 1 << 20;
    int rc = set_u64(conf, "queue.buffering.max.kbytes", bytes / 1024, e);
    /* Each record costs a few hundred bytes beside its own: many tiny ones must not pass the memory bound. */
    rc = rc ? rc : set_u64(conf, "queue.buffering.max.messages", at_least(bytes / 256, 10000), e);
    return rc ? rc : set_u64(conf, "message.max.bytes", at_least(record, 1000), e);
}

rd_kafka_conf_t *kafka_conf_producer(const struct kafka_producer_opts *o, struct err *e)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int rc = conf_common(conf, o->brokers, o->client_id, e);
    rc = rc ? rc : SET_ALL(conf, producer, e);
    rc = rc ? rc : conf_producer_sizes(conf, o, e);
    rc = rc ? rc : set_u64(conf, "linger.ms", o->linger_ms, e);
    rc = rc ? rc : set_u64(conf, "message.timeout.ms", o->delivery_timeout_ms, e);
    /* A request that is not answered is given up and sent again while the record's own time lasts. */
    uint64_t request_ms = o->delivery_timeout_ms ? at_most(o->delivery_timeout_ms, 5000) : 5000;
    rc = rc ? rc : set_u64(conf, "request.timeout.ms", at_least(request_ms, 100), e);
    rc = rc ? rc : set_u64(conf, "socket.timeout.ms", at_least(request_ms + 1000, 3000), e);
    if (!rc && o->gapless)
        rc = set(conf, "enable.gapless.guarantee", "true", e);
    rc = rc ? rc : set(conf, "compression.codec", o->compression ? o->compression : "none", e);
    /* How long a topic may stay unknown after its creation. A gapless producer would end by it: it waits longer. */
    rc = rc ? rc : set_u64(conf, "topic.metadata.propagation.max.ms", o->gapless ? 30000 : 2000, e);
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
    return finish(conf, rc);
}

static int conf_consumer_sizes(rd_kafka_conf_t *conf, const struct kafka_consumer_opts *o,
                               struct err *e)
{
    size_t record = at_least(o->max_message_bytes ? o->max_message_bytes : 1 << 20, 1000);
    size_t bytes = at_least(o->fetch_bytes ? o->fetch_bytes : 8 << 20, 64 << 10);
    /* What is queued, what one fetch brings, and what one partition may bring of it: a record that is larger than
     * the last is still handed out, alone. */
    size_t fetch = at_least(bytes / 2, record);
    int rc = set_u64(conf, "queued.max.messages.kbytes", bytes / 1024, e);
    rc = rc ? rc : set_u64(conf, "message.max.bytes", record, e);
    rc = rc ? rc : set_u64(conf, "fetch.max.bytes", fetch, e);
    rc = rc ? rc : set_u64(conf, "fetch.message.max.bytes", at_most(fetch, 1 << 20), e);
    return rc ? rc : set_u64(conf, "receive.message.max.bytes", fetch + record + (1 << 20), e);
}

rd_kafka_conf_t *kafka_conf_consumer(const struct kafka_consumer_opts *o, struct err *e)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    uint64_t session = o->session_timeout_ms ? o->session_timeout_ms : 6000;
    uint64_t refresh = o->metadata_refresh_ms ? o->metadata_refresh_ms : 10000;
    int rc = conf_common(conf, o->brokers, o->client_id, e);
    rc = rc ? rc : SET_ALL(conf, consumer, e);
    rc = rc ? rc : conf_consumer_sizes(conf, o, e);
    rc = rc ? rc : set(conf, "group.id", o->group, e);
    if (!rc && o->instance && o->topics)
        rc = set(conf, "group.instance.id", o->instance, e);
    rc = rc ? rc : set_u64(conf, "session.timeout.ms", session, e);
    rc = rc ? rc : set_u64(conf, "heartbeat.interval.ms", at_least(session / 4, 100), e);
    rc = rc ? rc : set_u64(conf, "topic.metadata.refresh.interval.ms", at_least(refresh, 100), e);
    rc = rc ? rc : set_u64(conf, "metadata.max.age.ms", at_least(3 * refresh, 3000), e);
    rc = rc ? rc : set_u64(conf, "topic.metadata.propagation.max.ms", 2000, e);
    rc = rc ? rc : set_u64(conf, "socket.timeout.ms", 10000, e);
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_FETCH | RD_KAFKA_EVENT_ERROR |
                                       RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_OFFSET_COMMIT |
                                       RD_KAFKA_EVENT_LOG);
    return finish(conf, rc);
}

rd_kafka_conf_t *kafka_conf_admin(const struct kafka_admin_opts *o, struct err *e)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int rc = conf_common(conf, o->brokers, o->client_id, e);
    rc = rc ? rc : set_u64(conf, "socket.timeout.ms", 10000, e);
    rc = rc ? rc : set_u64(conf, "topic.metadata.refresh.interval.ms", 30000, e);
    rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
    return finish(conf, rc);
}
