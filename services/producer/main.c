/* producer: the program.
 * SPDX-License-Identifier: Apache-2.0  */
#include "producer/producer.h"

#define DAYS(n) ((int64_t)(n)*24 * 3600 * 1000)

static const struct option_def options[] = {
    {OPTION(LISTEN, "bus.listen", struct producer_config, bus_listen), .def = "127.0.0.1:7700",
     .help = "where gateways connect"},
    {OPTION(ADDRESSES, "kafka.brokers", struct producer_config, brokers), .def = "127.0.0.1:9092",
     .min = 1, .help = "where Kafka is"},
    {OPTION(BOOL, "topics.create", struct producer_config, topics_create), .def = "on",
     .help = "make the raw, clean and dead topics, and grow them, where needed"},
    {OPTION(INT, "topics.partitions", struct producer_config, topics_partitions), .def = "1",
     .min = 1, .max = 1000, .help = "partitions of each topic"},
    {OPTION(INT, "topics.replication", struct producer_config, topics_replication), .def = "1",
     .min = 1, .max = 16, .help = "replicas of each partition"},
    {OPTION(DURATION, "topics.retention.raw", struct producer_config, retention_raw), .def = "7d",
     .min = 60000, .max = DAYS(3650),
     .help = "how long raw records are kept; at least as long as clean ones"},
    {OPTION(DURATION, "topics.retention.clean", struct producer_config, retention_clean),
     .def = "7d", .min = 60000, .max = DAYS(3650), .help = "how long clean spans are kept"},
    {OPTION(DURATION, "topics.retention.dead", struct producer_config, retention_dead),
     .def = "30d", .min = 60000, .max = DAYS(3650), .help = "how long dead letters are kept"},
    {OPTION(SIZE, "record.max", struct producer_config, record_max), .def = "1MiB", .min = 1024,
     .max = 50 << 20, .help = "bytes of a record; sets the topics' max.message.bytes"},
    {OPTION(SIZE, "queue.max", struct producer_config, queue_max), .def = "32MiB", .min = 1 << 20,
     .max = 1 << 30,
     .help = "bytes of records that wait for Kafka; beyond it requests are refused"},
    {OPTION(DURATION, "kafka.linger", struct producer_config, linger), .def = "1ms", .max = 1000,
     .help = "how long records gather under load; a lonely one does not wait"},
    {OPTION(DURATION, "kafka.delivery_timeout", struct producer_config, delivery_timeout),
     .def = "9s", .min = 100, .max = 600000,
     .help = "without a confirmation for so long a record is unsure"},
    {OPTION(DURATION, "metadata.refresh", struct producer_config, metadata_refresh), .def = "1s",
     .min = 50, .max = 600000, .help = "how often topics are asked for"},
    {0}};

static const struct app_def producer_app = {.name = "producer",
                                            .summary = "writes what gateways took in to Kafka",
                                            .admin_listen = "127.0.0.1:9102",
                                            .memory_max = "128MiB",
                                            .options = options,
                                            .config_size = sizeof(struct producer_config),
                                            .metrics = producer_metrics,
                                            .check = producer_check,
                                            .start = producer_start,
                                            .drain = producer_drain,
                                            .stop = producer_stop,
                                            .dump = producer_dump};

int main(int argc, char **argv)
{
    return app_main(&producer_app, argc, argv);
}
