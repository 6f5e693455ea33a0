/* node_cleaner: a cleaner as a node of the model: small limits, so that everything happens often.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "cleaner/cleaner.h"

static struct cleaner_config config = {.brokers = "",
                                       .group = "",
                                       .session_timeout = 6000,
                                       .topics_check = 2000,
                                       .record_max = 1 << 20,
                                       .span_max_rows = 7,
                                       .span_max_bytes = 4096,
                                       .span_linger = 20,
                                       .span_heartbeat = 10000,
                                       .commit_interval = 500,
                                       .inflight_max = 1 << 20};

int node_cleaner_start(struct app *app, struct err *e)
{
    app->metrics = metrics_new(cleaner_metrics);
    return cleaner_start(app, &config, e);
}

void node_cleaner_stop(struct app *app)
{
    cleaner_stop(app);
}
