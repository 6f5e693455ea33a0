/* metric: a program's counters, gauges and histograms, from one constant table, and their two text forms.
 *
 *   enum { M_RECORDS, M_SECONDS };
 *   static const char *const results[] = {"ok", "refused", "unknown", NULL};
 *   static const struct metric_def defs[] = {
 *       [M_RECORDS] = {"sluice_gateway_records_total", METRIC_COUNTER, "Records by outcome", {"topic", "result"},
 *                      {NULL, results}, .max_series = 64},
 *       [M_SECONDS] = {"sluice_gateway_request_seconds", METRIC_HISTOGRAM, "Time from request to answer",
 *                      .buckets = metric_latency},
 *       {0}};
 *   metric_add(m, M_RECORDS, metric_series(m, M_RECORDS, topic, "ok"), 1);      looks up; keep the number where it is hot
 *   metric_observe(m, M_SECONDS, 0, seconds);
 * A metric without labels has one series, 0. When every label has a closed set of values, all series exist from the start and
 * their numbers are known: one label: the value's place; two: place of the first * number of second values + place of the second.
 * A label without a closed set (NULL) makes the metric dynamic: metric_series gives numbers, up to max_series (default 64);
 * what comes after shares one series whose open labels read "other", so that no client can invent series without end.
 * Threads: the loop thread only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/check.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_def {
    /* sluice_…; counters end with _total; units are _seconds, _bytes, _ratio. NULL ends the table */
    const char *name;
    enum metric_kind kind;
    const char *help;
    const char *labels[2];              /* NULL: none */
    const char *const *label_values[2]; /* the closed set of each, up to NULL; or NULL: open */
    unsigned max_series;                /* for open labels; 0: 64 */
    const double *buckets;              /* upper bounds, ascending, up to 0; +Inf is added */
};

/* Buckets in use: 1 ms to 10 s, 0.1 to 600 s, 256 B to 64 MiB, 1 to 65536 things. */
extern const double metric_latency[], metric_age[], metric_sizes[], metric_counts[];

struct metrics;
/* `defs` must outlive it. */
struct metrics *metrics_new(const struct metric_def *defs);
void metrics_free(struct metrics **m);

/* The number of the series with these label values (v2 NULL with one label). For closed sets too; an unknown value there is a CHECK. */
unsigned metric_series(struct metrics *m, unsigned id, const char *v1, const char *v2);
/* Leaves a dynamic series out of the texts until metric_series names it again (then it starts from 0). The number stays valid. */
void metric_hide(struct metrics *m, unsigned id, unsigned series);
void metric_add(struct metrics *m, unsigned id, unsigned series, double n); /* counter, gauge */
/* gauge; or a counter kept elsewhere */
void metric_set(struct metrics *m, unsigned id, unsigned series, double v);
void metric_observe(struct metrics *m, unsigned id, unsigned series, double v);
/* of a histogram: its count */
double metric_value(const struct metrics *m, unsigned id, unsigned series);

/* Runs before every text is made: for gauges that are cheaper to ask than to keep. At most 16. */
void metrics_on_collect(struct metrics *m, void (*fn)(void *ctx), void *ctx);
/* The text format 0.0.4, or OpenMetrics 1.0 (then metrics_end must follow the last). */
void metrics_write(struct metrics *m, bool openmetrics, struct buf *out);
void metrics_end(bool openmetrics, struct buf *out);
void metrics_markdown(const struct metric_def *defs, struct buf *out);
