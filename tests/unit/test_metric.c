/* Tests of app/metric.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "app/metric.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { M_PLAIN, M_CLOSED, M_PAIR, M_OPEN, M_MIXED, M_TIME, M_SIZE };
static const char *const results[] = {"ok", "refused", "unknown", NULL}, *const sides[] = {
                                                                             "in", "out", NULL};
static const double bounds[] = {0.1, 1, 0};
static const struct metric_def defs[] = {
    [M_PLAIN] = {"sluice_test_plain_total", METRIC_COUNTER, "Plain, with \\ and\nnew line."},
    [M_CLOSED] = {"sluice_test_closed_total", METRIC_COUNTER, "Closed.", {"result"}, {results}},
    [M_PAIR] =
        {"sluice_test_pair_total", METRIC_COUNTER, "Pair.", {"side", "result"}, {sides, results}},
    [M_OPEN] = {"sluice_test_open_bytes", METRIC_GAUGE, "Open.", {"topic"}, .max_series = 3},
    [M_MIXED] = {"sluice_test_mixed_total",
                 METRIC_COUNTER,
                 "Mixed.",
                 {"topic", "result"},
                 {NULL, results},
                 .max_series = 2},
    [M_TIME] = {"sluice_test_time_seconds",
                METRIC_HISTOGRAM,
                "Time.",
                {"result"},
                {results},
                .buckets = bounds},
    [M_SIZE] = {"sluice_test_size_bytes", METRIC_HISTOGRAM, "Size.", .buckets = metric_sizes},
    {0}};
static struct metrics *m;

static int set_up(void **state)
{
    (void)state;
    m = metrics_new(defs);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    metrics_free(&m);
    return 0;
}

/* Is this line there? */
static bool has(bool openmetrics, const char *line)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_char(&b, '\n');
    metrics_write(m, openmetrics, &b);
    metrics_end(openmetrics, &b);
    char want[256];
    snprintf(want, sizeof want, "\n%s\n", line);
    bool found = strstr(b.data, want) != NULL;
    if (!found)
        print_message("%s", b.data);
    buf_deinit(&b);
    return found;
}

static void counts(void **state)
{
    (void)state;
    metric_add(m, M_PLAIN, 0, 2);
    metric_add(m, M_PLAIN, 0, 0.5);
    assert_true(metric_value(m, M_PLAIN, 0) == 2.5);
    assert_int_equal(metric_series(m, M_CLOSED, "unknown", NULL), 2);
    metric_add(m, M_CLOSED, 2, 7);
    assert_int_equal(metric_series(m, M_PAIR, "out", "refused"), 4);
    metric_set(m, M_PAIR, 4, 1e15);
    assert_true(has(false, "sluice_test_plain_total 2.5"));
    assert_true(has(false, "sluice_test_closed_total{result=\"ok\"} 0"));
    assert_true(has(false, "sluice_test_closed_total{result=\"unknown\"} 7"));
    assert_true(has(false, "sluice_test_pair_total{side=\"out\",result=\"refused\"} 1e+15"));
    assert_true(has(false, "# HELP sluice_test_plain_total Plain, with \\\\ and\\nnew line."));
    assert_true(has(true, "# TYPE sluice_test_plain counter"));
    assert_true(has(true, "# UNIT sluice_test_time_seconds seconds"));
    assert_true(has(true, "# EOF"));
}

static void bounds_open_series(void **state)
{
    (void)state;
    unsigned a = metric_series(m, M_OPEN, "a\"b\\c\nd", NULL),
             b = metric_series(m, M_OPEN, "b", NULL);
    assert_true(a != b && metric_series(m, M_OPEN, "b", NULL) == b);
    metric_series(m, M_OPEN, "c", NULL);
    unsigned other = metric_series(m, M_OPEN, "d", NULL);
    assert_int_equal(metric_series(m, M_OPEN, "e", NULL), other);
    assert_int_equal(metric_series(m, M_OPEN, "b", NULL), b);
    metric_set(m, M_OPEN, other, NAN);
    metric_set(m, M_OPEN, a, -INFINITY);
    assert_true(has(false, "sluice_test_open_bytes{topic=\"other\"} NaN"));
    assert_true(has(false, "sluice_test_open_bytes{topic=\"a\\\"b\\\\c\\nd\"} -Inf"));
    metric_series(m, M_MIXED, "t1", "ok");
    metric_series(m, M_MIXED, "t1", "refused");
    metric_add(m, M_MIXED, metric_series(m, M_MIXED, "t2", "unknown"), 1);
    metric_add(m, M_MIXED, metric_series(m, M_MIXED, "t3", "unknown"), 1);
    assert_true(has(false, "sluice_test_mixed_total{topic=\"other\",result=\"unknown\"} 2"));
    char huge[2000];
    memset(huge, '\\', sizeof huge);
    huge[sizeof huge - 1] = 0;
    metric_series(m, M_OPEN, huge, NULL);
}

static void hides_series(void **state)
{
    (void)state;
    unsigned a = metric_series(m, M_OPEN, "a", NULL);
    metric_set(m, M_OPEN, a, 5);
    assert_true(has(false, "sluice_test_open_bytes{topic=\"a\"} 5"));
    metric_hide(m, M_OPEN, a);
    struct buf b;
    buf_init(&b, 1 << 20);
    metrics_write(m, false, &b);
    assert_null(strstr(b.data, "topic=\"a\""));
    buf_deinit(&b);
    assert_int_equal(metric_series(m, M_OPEN, "a", NULL), a);
    assert_true(has(false, "sluice_test_open_bytes{topic=\"a\"} 0"));
}

static void fills_histograms(void **state)
{
    (void)state;
    const double values[] = {0.05, 0.1, 0.5, 5};
    for (int i = 0; i < 4; i++)
        metric_observe(m, M_TIME, 0, values[i]);
    assert_true(metric_value(m, M_TIME, 0) == 4);
    assert_true(has(false, "sluice_test_time_seconds_bucket{result=\"ok\",le=\"0.1\"} 2"));
    assert_true(has(false, "sluice_test_time_seconds_bucket{result=\"ok\",le=\"1.0\"} 3"));
    assert_true(has(false, "sluice_test_time_seconds_bucket{result=\"ok\",le=\"+Inf\"} 4"));
    assert_true(has(false, "sluice_test_time_seconds_sum{result=\"ok\"} 5.65"));
    assert_true(has(false, "sluice_test_time_seconds_count{result=\"ok\"} 4"));
    assert_true(has(false, "sluice_test_size_bytes_bucket{le=\"+Inf\"} 0"));
}

static void on_collect(void *ctx)
{
    metric_set(ctx, M_OPEN, metric_series(ctx, M_OPEN, "asked", NULL), 42);
}

static void asks_when_collected(void **state)
{
    (void)state;
    metrics_on_collect(m, on_collect, m);
    assert_true(has(false, "sluice_test_open_bytes{topic=\"asked\"} 42"));
}

static void pleases_promtool(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    metric_set(m, M_OPEN, metric_series(m, M_OPEN, "q\"\\\n", NULL), 1.5e-9);
    metrics_write(m, false, &b);
    int fds[2], status;
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[0], STDIN_FILENO);
        close(fds[0]);
        close(fds[1]);
        execlp("promtool", "promtool", "check", "metrics", (char *)NULL);
        _exit(127);
    }
    close(fds[0]);
    signal(SIGPIPE, SIG_IGN);
    ssize_t written = write(fds[1], b.data, b.len); /* less than a pipe holds */
    close(fds[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    size_t len = b.len;
    buf_deinit(&b);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        skip(); /* promtool is not installed */
    assert_int_equal(written, len);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bounds_open_series, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hides_series, set_up, tear_down),
        cmocka_unit_test_setup_teardown(fills_histograms, set_up, tear_down),
        cmocka_unit_test_setup_teardown(asks_when_collected, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pleases_promtool, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
