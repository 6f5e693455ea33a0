/* gateway: the program.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/gateway.h"

static const struct option_def options[] = {
    {OPTION(LISTEN, "http.listen", struct gateway_config, http_listen), .def = "127.0.0.1:8082",
     .help = "where clients connect"},
    {OPTION(BOOL, "http.h2c", struct gateway_config, h2c), .def = "on",
     .help = "HTTP/2 without TLS, by prior knowledge"},
    {OPTION(ADDRESSES, "producers", struct gateway_config, producers), .def = "127.0.0.1:7700",
     .min = 1, .help = "where the producers listen; all are used"},
    {OPTION(LIST, "stages", struct gateway_config, stages), .def = "dev,test,prod,production,stage",
     .help = "first path segments that are stripped once, in any case"},
    {OPTION(LIST, "topics.allow", struct gateway_config, topics_allow), .def = "",
     .help = "topics that may be produced to (empty: the raw topics <user>.pin, .geo, .user)"},
    {OPTION(BOOL, "strict", struct gateway_config, strict), .def = "off",
     .help = "failed records change the status of the answer, as with Prefer: handling=strict"},
    {OPTION(SIZE, "body.max", struct gateway_config, body_max), .def = "10MiB", .min = 1024,
     .max = 50 << 20, .help = "bytes of a request's body; beyond it 413"},
    {OPTION(SIZE, "record.max", struct gateway_config, record_max), .def = "1MiB", .min = 64,
     .max = 50 << 20, .help = "bytes of a record's key, value and headers; beyond it 413"},
    {OPTION(INT, "records.max", struct gateway_config, records_max), .def = "10000", .min = 1,
     .max = 1000000, .help = "records of a request; beyond it 422"},
    {OPTION(INT, "json.depth", struct gateway_config, json_depth), .def = "64", .min = 4,
     .max = 10000, .help = "nesting of a body; beyond it 400"},
    {OPTION(SIZE, "headers.max", struct gateway_config, headers_max), .def = "16KiB", .min = 256,
     .max = 60000, .help = "bytes of a request's head; beyond it 431"},
    {OPTION(INT, "connections.max", struct gateway_config, connections_max), .def = "2000",
     .min = 1, .max = 100000, .help = "open client connections; beyond it accepting waits"},
    {OPTION(SIZE, "inflight.max", struct gateway_config, inflight_max), .def = "32MiB", .min = 1024,
     .help = "bytes of requests without an answer; beyond it 503"},
    {OPTION(DURATION, "produce.timeout", struct gateway_config, produce_timeout), .def = "10s",
     .min = 100, .max = 600000,
     .help = "without an answer of the producer for so long the outcome is unknown (50003)"},
    {OPTION(DURATION, "http.request_timeout", struct gateway_config, request_timeout), .def = "30s",
     .min = 100, .max = 3600000,
     .help = "a request must have arrived whole by then; beyond it 408"},
    {OPTION(DURATION, "metadata.refresh", struct gateway_config, metadata_refresh), .def = "2s",
     .min = 50, .max = 600000, .help = "how often topics are asked for"},
    {OPTION(LIST, "cors.origins", struct gateway_config, cors_origins), .def = "*",
     .help = "origins that browsers may call from (empty: none)"},
    {0}};

static const struct app_def gateway_app = {.name = "gateway",
                                           .summary = "takes records in over HTTP (REST Proxy v2)",
                                           .admin_listen = "127.0.0.1:9101",
                                           .memory_max = "96MiB",
                                           .options = options,
                                           .config_size = sizeof(struct gateway_config),
                                           .metrics = gateway_metrics,
                                           .check = gateway_check,
                                           .start = gateway_start,
                                           .drain = gateway_drain,
                                           .stop = gateway_stop,
                                           .dump = gateway_dump};

int main(int argc, char **argv)
{
    return app_main(&gateway_app, argc, argv);
}
