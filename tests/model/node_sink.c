/* node_sink: a sink as a node of the model: small limits, so that everything happens often.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "sink-s3/sink.h"

static struct sink_config config = {.brokers = "",
                                    .group = "",
                                    .partitions = "",
                                    .lake_url = "file:///",
                                    .redis_url = "redis://",
                                    .copies = "drop",
                                    .announce_listen = "x:0",
                                    .flush_rows = 40,
                                    .checkpoint_interval = 5,
                                    .parquet_threads = 1,
                                    .session_timeout = 6000,
                                    .copies_window = 86400000,
                                    .flush_interval = 1000,
                                    .flush_bytes = 4096,
                                    .commit_max_age = 300000,
                                    .commit_interval = 500,
                                    .parquet_memory = 1};

int node_sink_start(struct app *app, struct err *e)
{
    app->metrics = metrics_new(sink_metrics);
    return sink_start(app, &config, e);
}

void node_sink_stop(struct app *app)
{
    sink_stop(app);
    sink_free(app);
}

unsigned node_sink_holes(const struct app *app)
{
    return (unsigned)metric_value(app->metrics, M_HOLES, 0);
}
