/* app_metrics: the metrics that every service has.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/app_priv.h"
#include "base/clock.h"
#include "base/log.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    C_BUILD,
    C_READY,
    C_LAG,
    C_LOG_LINES,
    C_MEMORY,
    C_MEMORY_PEAK,
    C_MEMORY_BUDGET,
    C_MEMORY_MAX,
    C_MEMORY_REFUSALS,
    C_CPU,
    C_RSS,
    C_FDS,
    C_FDS_MAX,
    C_STARTED
};

static const char *const levels[] = {"error", "warn", "info", "debug", "trace", NULL};

const struct metric_def app_common_defs[] = {
    [C_BUILD] = {"sluice_build_info", METRIC_GAUGE, "Which build this is; always 1.",
                 .labels = {"version", "revision"}},
    [C_READY] = {"sluice_ready", METRIC_GAUGE, "1 when /readyz answers 200."},
    [C_LAG] = {"sluice_event_loop_lag_seconds", METRIC_HISTOGRAM,
               "How much later than planned a timer of the event loop ran.",
               .buckets = metric_latency},
    [C_LOG_LINES] = {"sluice_log_lines_total", METRIC_COUNTER, "Log lines written.",
                     .labels = {"level"}, .label_values = {levels}},
    [C_MEMORY] = {"sluice_memory_bytes", METRIC_GAUGE, "Accounted bytes of data that wait."},
    [C_MEMORY_PEAK] = {"sluice_memory_peak_bytes", METRIC_GAUGE,
                       "Most accounted bytes since the start."},
    [C_MEMORY_BUDGET] = {"sluice_memory_budget_bytes", METRIC_GAUGE,
                         "Accounted bytes beyond which data is refused or paused."},
    [C_MEMORY_MAX] = {"sluice_memory_max_bytes", METRIC_GAUGE,
                      "The option memory.max: the whole process stays below."},
    [C_MEMORY_REFUSALS] = {"sluice_memory_refusals_total", METRIC_COUNTER,
                           "Times that data was refused or paused for want of memory."},
    [C_CPU] = {"process_cpu_seconds_total", METRIC_COUNTER,
               "Total user and system CPU time spent in seconds."},
    [C_RSS] = {"process_resident_memory_bytes", METRIC_GAUGE, "Resident memory size in bytes."},
    [C_FDS] = {"process_open_fds", METRIC_GAUGE, "Number of open file descriptors."},
    [C_FDS_MAX] = {"process_max_fds", METRIC_GAUGE, "Maximum number of open file descriptors."},
    [C_STARTED] = {"process_start_time_seconds", METRIC_GAUGE,
                   "Start time of the process since unix epoch in seconds."},
    {0}};

/* /proc does not wait for any disk: reading it on the loop is fine. */
uint64_t app_resident_bytes(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    struct str rest = str_make(text, n > 0 ? (size_t)n : 0), part;
    uint64_t pages = 0;
    if (str_next(&rest, ' ', &part) && str_next(&rest, ' ', &part))
        (void)str_u64(part, &pages); /* stays 0 on a kernel that writes something else */
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static unsigned open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    unsigned n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n > 3 ? n - 3 : 0; /* less ".", ".." and the folder's own */
}

static void collect(void *ctx)
{
    struct app *app = ctx;
    struct metrics *m = app->common_metrics;
    struct rlimit limit = {0};
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    for (unsigned i = 0; i < LOG_LEVELS; i++)
        metric_set(m, C_LOG_LINES, i, (double)log_lines((enum log_level)i));
    metric_set(m, C_READY, 0, app_ready(app));
    metric_set(m, C_MEMORY, 0, (double)app->memory.used);
    metric_set(m, C_MEMORY_PEAK, 0, (double)app->memory.peak);
    metric_set(m, C_MEMORY_BUDGET, 0, (double)app->memory.budget);
    metric_set(m, C_MEMORY_MAX, 0, (double)app->memory.max);
    metric_set(m, C_MEMORY_REFUSALS, 0, (double)app->memory.refusals);
    metric_set(m, C_CPU, 0, (double)clock_cpu_us() / 1e6);
    metric_set(m, C_RSS, 0, (double)app_resident_bytes());
    metric_set(m, C_FDS, 0, open_fds());
    metric_set(m, C_FDS_MAX, 0, (double)limit.rlim_cur);
    metric_set(m, C_STARTED, 0, (double)app->started_wall_ms / 1e3);
}

struct metrics *app_common_metrics_new(struct app *app)
{
    struct metrics *m = metrics_new(app_common_defs);
    metric_set(m, C_BUILD, metric_series(m, C_BUILD, app_version(), app_revision()), 1);
    metrics_on_collect(m, collect, app);
    return m;
}

void app_observe_lag(struct app *app, double seconds)
{
    metric_observe(app->common_metrics, C_LAG, 0, seconds);
}
