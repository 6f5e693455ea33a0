/* cleaner: the program.
 * SPDX-License-Identifier: Apache-2.0  */
#include "cleaner/cleaner.h"

static const struct option_def options[] = {
    {OPTION(ADDRESSES, "kafka.brokers", struct cleaner_config, brokers), .def = "127.0.0.1:9092",
     .help = "where Kafka is"},
    {OPTION(STR, "kafka.group", struct cleaner_config, group), .def = "", .max = 200,
     .help = "consumer group (empty: <user>-cleaner)"},
    {OPTION(INT, "replica", struct cleaner_config, replica), .def = "0", .min = 0, .max = 9999,
     .help = "number of this replica; makes it a static member of the group"},
    {OPTION(DURATION, "kafka.session_timeout", struct cleaner_config, session_timeout), .def = "6s",
     .min = 1000, .max = 1800000,
     .help = "after so long without a word its partitions go to others"},
    {OPTION(DURATION, "topics.check", struct cleaner_config, topics_check), .def = "2s", .min = 100,
     .max = 600000, .help = "how often raw topics are looked at for having been made anew"},
    {OPTION(SIZE, "record.max", struct cleaner_config, record_max), .def = "1MiB", .min = 1024,
     .max = 64 << 20, .help = "a larger raw record is a reject"},
    {OPTION(INT, "span.max.rows", struct cleaner_config, span_max_rows), .def = "2000", .min = 1,
     .max = 1000000, .help = "rows and rejects in a span, but for one record alone"},
    {OPTION(SIZE, "span.max.bytes", struct cleaner_config, span_max_bytes), .def = "512KiB",
     .min = 1024, .max = 4 << 20, .help = "bytes in a span, but for one record alone"},
    {OPTION(DURATION, "span.linger", struct cleaner_config, span_linger), .def = "20ms", .min = 1,
     .max = 10000, .help = "how long a span waits for more records"},
    {OPTION(DURATION, "span.heartbeat", struct cleaner_config, span_heartbeat), .def = "10s",
     .min = 100, .max = 3600000, .help = "how often an empty span says where a source stands"},
    {OPTION(DURATION, "commit.interval", struct cleaner_config, commit_interval), .def = "500ms",
     .min = 10, .max = 60000, .help = "how often confirmed offsets are committed"},
    {OPTION(SIZE, "inflight.max", struct cleaner_config, inflight_max), .def = "16MiB",
     .min = 1 << 20, .max = 1 << 30,
     .help = "bytes on their way to Kafka; above it the sources pause"},
    {0}};

static int check(const void *config, const struct app_common *common, struct err *e)
{
    const struct cleaner_config *c = config;
    /* Fetched records, spans on their way, and the largest record several times over while it is washed. */
    uint64_t need = 3 * c->inflight_max + 8 * c->record_max;
    if (common->memory_max < need)
        return err_set(e, ERR_CONFIG,
                       "memory.max: inflight.max and record.max need %llu bytes at least",
                       (unsigned long long)need);
    return 0;
}

static const struct app_def cleaner_app = {.name = "cleaner",
                                           .summary = "washes raw records into spans of clean rows",
                                           .admin_listen = "127.0.0.1:9103",
                                           .memory_max = "128MiB",
                                           .options = options,
                                           .config_size = sizeof(struct cleaner_config),
                                           .metrics = cleaner_metrics,
                                           .check = check,
                                           .start = cleaner_start,
                                           .drain = cleaner_drain,
                                           .stop = cleaner_stop,
                                           .dump = cleaner_dump};

int main(int argc, char **argv)
{
    return app_main(&cleaner_app, argc, argv);
}
