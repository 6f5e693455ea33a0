/* sluice-emulator: options, then the load, then the report.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/log.h"
#include "base/mem.h"
#include "emulator/emulator.h"
#include "emulator/generate.h"
#include <signal.h>

enum {
    EXIT_OK = 0,
    EXIT_USAGE = 64,
    EXIT_NOTHING_SENT = 69,
    EXIT_FAILED = 70,
    EXIT_NO_LEDGER = 73
};

struct program {
    struct loop *loop;
    struct load *load;
    uv_signal_t signals[2];
};

static int complain(int code, const struct err *e)
{
    fprintf(stderr, "sluice-emulator: %s\n", e->text);
    return code;
}

static int print_rows(const struct source *s, enum dataset_id id)
{
    struct buf b;
    buf_init(&b, 64 << 20);
    for (uint64_t row = 0; row < source_rows(s); row++) {
        buf_reset(&b);
        if (!source_json(s, id, row, &b))
            continue;
        buf_char(&b, '\n');
        if (fwrite(b.data, 1, b.len, stdout) != b.len)
            break; /* the reader went away */
    }
    buf_deinit(&b);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct program *p = handle->data;
    (void)signum;
    load_stop(p->load);
}

static void on_done(void *ctx)
{
    struct program *p = ctx;
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&p->signals[i], NULL);
    load_close(&p->load);
}

static int run(const struct emulator_opts *o, const struct source *s, struct ledger *ledger)
{
    static struct report report;
    static const int signums[2] = {SIGINT, SIGTERM};
    struct program p = {.loop = loop_new()};
    struct err e;
    int rc = load_open(p.loop, o, s, ledger, &report, on_done, &p, &p.load, &e);
    if (rc < 0) {
        (void)loop_free(&p.loop); /* nothing of ours is open on it */
        return complain(EXIT_FAILED, &e);
    }
    for (int i = 0; i < 2; i++) {
        uv_signal_init(loop_uv(p.loop), &p.signals[i]);
        p.signals[i].data = &p;
        uv_signal_start(&p.signals[i], on_signal, signums[i]);
    }
    loop_run(p.loop); /* until on_done closed all there is */
    if (loop_free(&p.loop) != 0)
        return EXIT_FAILED;
    report_print(&report, o->report_json, stdout);
    if (fflush(stdout) != 0)
        return EXIT_FAILED;
    if (ledger_failed(ledger))
        return EXIT_NO_LEDGER;
    bool nothing = report.requests && !report.answers && !report.lost && !report.interrupted;
    if (nothing)
        fprintf(stderr, "sluice-emulator: nothing could be sent to %s\n", o->gateway);
    return nothing ? EXIT_NOTHING_SENT : EXIT_OK;
}

int main(int argc, char **argv)
{
    struct emulator_opts o;
    struct source *s = NULL;
    struct ledger *ledger = NULL;
    struct err e;
    log_init("emulator");
    signal(SIGPIPE, SIG_IGN);
    int rc = emulator_options(argc, argv, &o, &e);
    if (rc != 0)
        return rc > 0 ? EXIT_OK : complain(EXIT_USAGE, &e);
    if (source_open(&o, &s, &e) < 0)
        return complain(EXIT_USAGE, &e);
    if (o.print >= 0) {
        rc = print_rows(s, (enum dataset_id)o.print);
    } else if (o.ledger && ledger_open(o.ledger, &ledger, &e) < 0) {
        rc = complain(EXIT_NO_LEDGER, &e);
    } else {
        rc = run(&o, s, ledger);
    }
    ledger_close(&ledger);
    source_close(&s);
    return rc;
}
