/* ref_kafka: bare librdkafka producing records, with the settings that the producer service has, and nothing around them.
 *
 * ref_kafka BROKERS FILE: the lines of FILE are topic, tab, value. All are in memory before the clocks start; each is copied into the
 * library, and has its delivery report read. Also what fills topics for the other rows.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lines.h"
#include <stdbool.h>
/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

static size_t delivered, failed;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *ctx)
{
    (void)rk;
    (void)ctx;
    if (m->err)
        failed++;
    else
        delivered++;
}

static rd_kafka_t *open_producer(const char *brokers)
{
    static const char *const settings[][2] = {{"enable.idempotence", "true"},
                                              {"request.required.acks", "-1"},
                                              {"max.in.flight.requests.per.connection", "5"},
                                              {"batch.size", "1000000"},
                                              {"batch.num.messages", "10000"},
                                              {"linger.ms", "1"},
                                              {"queue.buffering.max.kbytes", "32768"},
                                              {"queue.buffering.max.messages", "131072"},
                                              {"compression.codec", "none"},
                                              {"allow.auto.create.topics", "false"}};
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    bool ok = rd_kafka_conf_set(conf, "bootstrap.servers", brokers, text, sizeof(text)) == 0;
    for (size_t i = 0; ok && i < sizeof(settings) / sizeof(settings[0]); i++)
        ok = rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof(text)) == 0;
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_t *rk = ok ? rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text)) : NULL;
    if (!rk) {
        fprintf(stderr, "ref_kafka: %s\n", text);
        exit(70);
    }
    return rk;
}

#define TOPICS 16
static rd_kafka_topic_t *topic_of(rd_kafka_t *rk, const char *name)
{
    static rd_kafka_topic_t *topics[TOPICS];
    size_t i = 0;
    for (; i < TOPICS && topics[i]; i++) {
        if (!strcmp(rd_kafka_topic_name(topics[i]), name))
            return topics[i];
    }
    if (i == TOPICS) {
        fputs("ref_kafka: too many topics\n", stderr);
        exit(64);
    }
    topics[i] = rd_kafka_topic_new(rk, name, NULL);
    return topics[i];
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fputs("ref_kafka BROKERS FILE\n", stderr);
        return 64;
    }
    struct lines l = lines_read(argv[2]);
    rd_kafka_t *rk = open_producer(argv[1]);
    const struct rd_kafka_metadata *meta;
    if (rd_kafka_metadata(rk, 1, NULL, &meta, 10000)) {
        fputs("ref_kafka: no broker\n", stderr);
        return 69;
    }
    rd_kafka_metadata_destroy(meta);
    double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID), wall = seconds_of(CLOCK_MONOTONIC);
    for (size_t i = 0; i < l.n; i++) {
        while (rd_kafka_produce(topic_of(rk, l.line[i].target), RD_KAFKA_PARTITION_UA,
                                RD_KAFKA_MSG_F_COPY, (void *)l.line[i].body, l.line[i].n, NULL, 0,
                                NULL)) {
            if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
                fprintf(stderr, "ref_kafka: %s\n", rd_kafka_err2str(rd_kafka_last_error()));
                return 69;
            }
            rd_kafka_poll(rk, 100);
        }
        if (i % 1000 == 0)
            rd_kafka_poll(rk, 0);
    }
    rd_kafka_flush(rk, 60000);
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = seconds_of(CLOCK_MONOTONIC) - wall;
    printf("{\"records\":%zu,\"failed\":%zu,\"cpu_s\":%.6f,\"wall_s\":%.6f}\n", delivered,
           failed + (l.n - delivered - failed), cpu, wall);
    return delivered == l.n ? 0 : 1;
}
