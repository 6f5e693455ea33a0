/* sink-s3: the program.
 * SPDX-License-Identifier: Apache-2.0  */
#include "sink-s3/sink.h"

static const struct option_def options[] = {
    {OPTION(ADDRESSES, "kafka.brokers", struct sink_config, brokers), .def = "127.0.0.1:9092",
     .help = "where Kafka is"},
    {OPTION(STR, "kafka.group", struct sink_config, group), .def = "", .max = 200,
     .help = "consumer group (empty: <user>-sink-s3)"},
    {OPTION(STR, "kafka.partitions", struct sink_config, partitions), .def = "", .max = 1000,
     .help = "read these partitions of every clean topic, whatever others read (empty: the group "
             "decides)"},
    {OPTION(INT, "replica", struct sink_config, replica), .def = "0", .min = 0, .max = 9999,
     .help = "number of this replica; makes it a static member of the group"},
    {OPTION(DURATION, "kafka.session_timeout", struct sink_config, session_timeout), .def = "6s",
     .min = 1000, .max = 1800000,
     .help = "after so long without a word its partitions go to others"},
    {OPTION(STR, "lake.url", struct sink_config, lake_url), .def = "file:///var/lib/sluice",
     .min = 8, .help = "where the tables are: file:///folder"},
    {OPTION(STR, "redis.url", struct sink_config, redis_url), .def = "redis://127.0.0.1:6379",
     .secret = true, .help = "where the marks of copies are"},
    {OPTION(CHOICE, "copies", struct sink_config, copies), .def = "drop", .choices = "drop|keep",
     .help = "what becomes of a row whose equal is in the table"},
    {OPTION(DURATION, "copies.window", struct sink_config, copies_window), .def = "24h",
     .min = 1000, .help = "how long a mark lives"},
    {OPTION(DURATION, "flush.interval", struct sink_config, flush_interval), .def = "1s", .min = 10,
     .max = 3600000, .help = "longest wait of a row for its commit, from the first that waits"},
    {OPTION(INT, "flush.rows", struct sink_config, flush_rows), .def = "100000", .min = 1,
     .max = 10000000, .help = "a commit at the latest with so many rows of a table"},
    {OPTION(SIZE, "flush.bytes", struct sink_config, flush_bytes), .def = "32MiB", .min = 1 << 20,
     .max = 1 << 30,
     .help = "a commit of everything at so many bytes that wait; at twice that reading pauses"},
    {OPTION(DURATION, "commit.max_age", struct sink_config, commit_max_age), .def = "5m",
     .min = 100,
     .help = "a commit of unknown outcome is not tried again after so long: the process ends"},
    {OPTION(DURATION, "commit.interval", struct sink_config, commit_interval), .def = "500ms",
     .min = 10, .max = 60000, .help = "how often stored offsets are committed to Kafka"},
    {OPTION(INT, "checkpoint.interval", struct sink_config, checkpoint_interval), .def = "100",
     .min = 1, .max = 100000, .help = "commits between two checkpoints of a table's log"},
    {OPTION(LISTEN, "announce.listen", struct sink_config, announce_listen),
     .def = "127.0.0.1:7710", .help = "where new table versions are announced"},
    {OPTION(INT, "parquet.threads", struct sink_config, parquet_threads), .def = "1", .min = 1,
     .max = 64, .help = "threads that write data files"},
    {OPTION(SIZE, "parquet.memory", struct sink_config, parquet_memory), .def = "64MiB",
     .min = 32 << 20, .help = "memory that writing data files may take"},
    {0}};

static int check(const void *config, const struct app_common *common, struct err *e)
{
    const struct sink_config *c = config;
    uint64_t need = 3 * c->flush_bytes + c->parquet_memory;
    if (common->memory_max < need)
        return err_set(e, ERR_CONFIG,
                       "memory.max: flush.bytes and parquet.memory need %llu bytes at least",
                       (unsigned long long)need);
    return 0;
}

static const struct app_def sink_app = {.name = "sink-s3",
                                        .summary = "lays clean rows down in Delta tables",
                                        .admin_listen = "127.0.0.1:9104",
                                        .memory_max = "192MiB",
                                        .options = options,
                                        .config_size = sizeof(struct sink_config),
                                        .metrics = sink_metrics,
                                        .check = check,
                                        .start = sink_start,
                                        .drain = sink_drain,
                                        .stop = sink_stop,
                                        .free = sink_free,
                                        .dump = sink_dump};

int main(int argc, char **argv)
{
    return app_main(&sink_app, argc, argv);
}
