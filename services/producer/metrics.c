/* metrics: what the producer counts. Label sets are closed.
 * SPDX-License-Identifier: Apache-2.0  */
#include "producer/producer.h"

/* In the order of the enumerations in producer.h. */
static const char *const result_values[] = {"stored", "refused", "unsure", NULL};
static const char *const request_values[] = {"taken",    "busy",         "draining", "no_metadata",
                                             "no_topic", "no_partition", "invalid",  NULL};
static const char *const client_values[] = {"quick", "bulk", NULL};
static const char *const kind_values[] = {"cluster", "topic", "offsets", NULL};

const struct metric_def producer_metrics[] = {
    [M_RECORDS] = {"sluice_producer_records_total",
                   METRIC_COUNTER,
                   "Records, by what became of them",
                   {"result"},
                   {result_values}},
    [M_REQUESTS] = {"sluice_producer_requests_total",
                    METRIC_COUNTER,
                    "Produce requests, taken or refused whole",
                    {"result"},
                    {request_values}},
    [M_BATCH] = {"sluice_producer_batch_requests", METRIC_HISTOGRAM,
                 "Produce requests in a message", .buckets = metric_counts},
    [M_DELIVERY] = {"sluice_producer_delivery_seconds", METRIC_HISTOGRAM,
                    "Time from a message to its answer", .buckets = metric_latency},
    [M_CLIENT] = {"sluice_producer_sent_records_total",
                  METRIC_COUNTER,
                  "Records handed to the client that sends at once, or to the one that gathers",
                  {"client"},
                  {client_values}},
    [M_QUEUED_BYTES] = {"sluice_producer_queued_bytes", METRIC_GAUGE,
                        "Bytes of records that wait for Kafka"},
    [M_QUEUED_RECORDS] = {"sluice_producer_queued_records", METRIC_GAUGE,
                          "Records that wait for Kafka"},
    [M_UP] = {"sluice_producer_kafka_up", METRIC_GAUGE, "Whether a broker answers"},
    [M_AGE] = {"sluice_producer_metadata_age_seconds", METRIC_GAUGE,
               "Age of what is known of topics"},
    [M_TOPICS] = {"sluice_producer_topics", METRIC_GAUGE, "Topics that are known"},
    [M_QUESTIONS] = {"sluice_producer_questions_total",
                     METRIC_COUNTER,
                     "Questions of gateways",
                     {"kind"},
                     {kind_values}},
    {0}};
