/* app_priv: what the files of lib/app share.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/app.h"
#include "base/list.h"
#include "io/httpd.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define APP_SANITIZED 1
#else
#define APP_SANITIZED 0
#endif

enum { APP_CHECKS_MAX = 64, APP_ORDERS_MAX = 16, APP_DUMP_MAX = 8 << 20 };

struct app_check {
    char *name, *detail;
    bool ok;
    uint64_t since_ms; /* wall clock */
};

struct app_order_def {
    const char *name;
    app_order_fn *fn;
    void *ctx;
};

struct app {
    const struct app_def *def;
    struct app_common common;
    void *config, *state;
    struct options *options;
    struct loop *loop;
    struct metrics *metrics, *common_metrics;
    struct app_memory memory;
    struct httpd *admin;
    struct app_check checks[APP_CHECKS_MAX];
    unsigned checks_n;
    struct app_order_def orders[APP_ORDERS_MAX];
    unsigned orders_n;
    struct list open_orders;
    uv_signal_t term, intr, usr1;
    uv_timer_t tick; /* not referenced: it never keeps the loop going */
    struct loop_timer drain_timer;
    struct loop_defer drain_call, stop_call;
    uint64_t started_ms, started_wall_ms, last_tick_us, stop_deadline_ms;
    /* when the loop last turned; the longest time it did not, for /livez */
    uint64_t seen_us, longest_gap_us;
    bool start_called, started, was_ready, draining, drained, stopping, stopped;
    int exit_code;
};

/* app_version.c */
const char *app_version(void);
const char *app_revision(void);
void app_version_text(const struct app_def *def, bool json, struct buf *out);

/* app_metrics.c */
extern const struct metric_def app_common_defs[];
struct metrics *app_common_metrics_new(struct app *app);
void app_observe_lag(struct app *app, double seconds);
uint64_t app_resident_bytes(void);

/* app_admin.c */
int app_admin_open(struct app *app, struct err *e);
void app_admin_close(struct app *app);
void app_dump(struct app *app, struct buf *out); /* the whole object of /debug/state */
