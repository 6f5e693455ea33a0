/* metrics: what query-api counts.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"

/* In the order of enum route_id, of the questions, of enum table_id and of enum problem: a test compares. */
static const char *const route_values[] = {"questions", "question", "tables", "table", "openapi", "other", NULL};
static const char *const question_values[] = {"popular-category-by-country",
                                              "category-posts-by-year",
                                              "top-user-by-country",
                                              "top-user-country",
                                              "popular-category-by-age",
                                              "median-followers-by-age",
                                              "users-joined-by-year",
                                              "median-followers-by-joining-year",
                                              "median-followers-by-joining-year-and-age",
                                              NULL};
static const char *const table_values[] = {"pin", "geo", "user", "dead", "batch-pin", "batch-geo", "batch-user", NULL};
static const char *const problem_values[] = {
    "unknown-parameter", "bad-value",      "not-found",    "unknown-question", "unknown-table", "table-not-there",
    "method-not-allowed", "not-acceptable", "version-gone", "too-many-rows",    "out-of-memory", "spill-full",
    "query-timeout",     "too-busy",       "starting",     "table-unavailable", "draining",     "internal",
    "request",           NULL};
static const char *const revalidation_values[] = {"unchanged", "changed", NULL};
static const char *const cancel_values[] = {"timeout", "left", "stopped", NULL};

const struct metric_def query_metrics[] = {
    [M_REQUESTS] = {"sluice_http_requests_total", METRIC_COUNTER, "Requests answered, by route and status.",
                    .labels = {"route", "code"}, .label_values = {route_values, NULL}, .max_series = 96},
    [M_SECONDS] = {"sluice_http_request_duration_seconds", METRIC_HISTOGRAM, "Time from a whole request to its answer.",
                   .labels = {"route"}, .label_values = {route_values}, .buckets = metric_latency},
    [M_IN_FLIGHT] = {"sluice_http_in_flight_requests", METRIC_GAUGE, "Requests that are not answered, or whose answer is being sent."},
    [M_CONNECTIONS] = {"sluice_http_connections", METRIC_GAUGE, "Open connections."},
    [M_REJECTED] = {"sluice_http_rejected_total", METRIC_COUNTER, "Requests answered with a problem, by its type.",
                    .labels = {"reason"}, .label_values = {problem_values}},
    [M_QUERY_SECONDS] = {"sluice_query_duration_seconds", METRIC_HISTOGRAM, "Time from a question to its answer, waiting included.",
                         .labels = {"question"}, .label_values = {question_values}, .buckets = metric_latency},
    [M_QUERY_ROWS] = {"sluice_query_rows_total", METRIC_COUNTER, "Rows of all answers."},
    [M_CANCELLED] = {"sluice_query_cancelled_total", METRIC_COUNTER, "Questions that were given up, by reason.",
                     .labels = {"reason"}, .label_values = {cancel_values}},
    [M_REVALIDATIONS] = {"sluice_query_cache_revalidations_total", METRIC_COUNTER,
                         "Conditional questions; unchanged: answered 304 without a query.",
                         .labels = {"result"}, .label_values = {revalidation_values}},
    [M_RUNNING] = {"sluice_query_running", METRIC_GAUGE, "Questions that run."},
    [M_WAITING] = {"sluice_query_waiting", METRIC_GAUGE, "Questions that wait for a thread."},
    [M_NEWEST] = {"sluice_query_newest_searches_total", METRIC_COUNTER, "Table versions that were searched for rows that are not the newest of their key."},
    [M_VERSION] = {"sluice_table_version", METRIC_GAUGE, "Latest version known; -1: no such table.",
                   .labels = {"table"}, .label_values = {table_values}},
    [M_ROWS] = {"sluice_table_rows", METRIC_GAUGE, "Rows of that version.", .labels = {"table"}, .label_values = {table_values}},
    [M_FILES] = {"sluice_table_files", METRIC_GAUGE, "Data files of that version.", .labels = {"table"}, .label_values = {table_values}},
    [M_COMMITTED] = {"sluice_table_last_commit_timestamp_seconds", METRIC_GAUGE, "When that version was committed.",
                     .labels = {"table"}, .label_values = {table_values}},
    [M_AGE] = {"sluice_table_age_seconds", METRIC_GAUGE, "Time since the log was last read to its end.",
               .labels = {"table"}, .label_values = {table_values}},
    [M_READS] = {"sluice_table_log_reads_total", METRIC_COUNTER, "Objects of the table's log that were read: one for a new version.",
                 .labels = {"table"}, .label_values = {table_values}},
    [M_REFRESHES] = {"sluice_table_refreshes_total", METRIC_COUNTER, "Looks for new versions that succeeded."},
    [M_REFRESH_FAILURES] = {"sluice_table_refresh_failures_total", METRIC_COUNTER, "Looks for new versions that failed."},
    [M_ANNOUNCEMENTS] = {"sluice_table_announcements_total", METRIC_COUNTER, "Announcements of new versions that arrived."},
    [M_PUBLISHERS] = {"sluice_table_publishers", METRIC_GAUGE, "Writers of tables whose announcements are heard."},
    [M_DUCK_MEMORY] = {"sluice_query_memory_bytes", METRIC_GAUGE, "Memory of DuckDB after the latest question."},
    [M_DUCK_MEMORY_MAX] = {"sluice_query_memory_max_bytes", METRIC_GAUGE, "The option query.memory."},
    {0}};
