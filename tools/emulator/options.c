/* options: the command line of sluice-emulator.
 * SPDX-License-Identifier: Apache-2.0  */
#include "emulator/emulator.h"
#include "base/mem.h"
#include <getopt.h>

static const char help[] =
    "sluice-emulator: posts to a Sluice gateway as the clients do.\n"
    "\n"
    "What is sent (each post as three records: pin, geo, user)\n"
    "  --posts DIR         the lines of DIR/pin.jsonl, geo.jsonl and user.jsonl, each once\n"
    "  --rows N            N generated posts, each once\n"
    "  --seed S            of the generator and of draws (1)\n"
    "  --draws N           N posts drawn with replacement, as the original emulator does;\n"
    "                      without --posts, --rows and --draws: draws from 10000 until stopped\n"
    "  --pause T           between draws: nothing, or T, at random (1s)\n"
    "How\n"
    "  --gateway URL       (http://127.0.0.1:8082)\n"
    "  --user NAME         whose topics: NAME.pin, NAME.geo, NAME.user (demo)\n"
    "  --stage PREFIX      a stage in front of the path, such as dev\n"
    "  --rate R            records a second, latency counted from the planned moment; without it:\n"
    "                      as fast as answers come\n"
    "  --connections N     requests in flight (8; with --rate 64; with --draws 1)\n"
    "  --batch N           records in one request (1)\n"
    "  --tries N           of a record that was refused or whose outcome is unknown (1)\n"
    "  --timeout T         of one request (15s)\n"
    "  --http2             HTTP/2 without TLS\n"
    "What is told\n"
    "  --ledger FILE       every try of every record, one JSON line each, appended\n"
    "  --progress=json     lines on stderr instead of a bar\n"
    "  --report=json       the closing report as JSON\n"
    "  --print DATASET     no sending: the records of pin, geo or user as lines on stdout\n"
    "  --help\n"
    "Exit codes: 0 sent, 64 usage, 69 nothing could be sent, 73 the ledger cannot be written.\n";

enum {
    OPT_POSTS = 256,
    OPT_ROWS,
    OPT_SEED,
    OPT_DRAWS,
    OPT_PAUSE,
    OPT_GATEWAY,
    OPT_USER,
    OPT_STAGE,
    OPT_RATE,
    OPT_CONNECTIONS,
    OPT_BATCH,
    OPT_TRIES,
    OPT_TIMEOUT,
    OPT_HTTP2,
    OPT_LEDGER,
    OPT_PROGRESS,
    OPT_REPORT,
    OPT_PRINT,
    OPT_HELP
};

static const struct option options[] = {
    {"posts", required_argument, NULL, OPT_POSTS},
    {"rows", required_argument, NULL, OPT_ROWS},
    {"seed", required_argument, NULL, OPT_SEED},
    {"draws", required_argument, NULL, OPT_DRAWS},
    {"pause", required_argument, NULL, OPT_PAUSE},
    {"gateway", required_argument, NULL, OPT_GATEWAY},
    {"user", required_argument, NULL, OPT_USER},
    {"stage", required_argument, NULL, OPT_STAGE},
    {"rate", required_argument, NULL, OPT_RATE},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"tries", required_argument, NULL, OPT_TRIES},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"http2", no_argument, NULL, OPT_HTTP2},
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"progress", required_argument, NULL, OPT_PROGRESS},
    {"report", required_argument, NULL, OPT_REPORT},
    {"print", required_argument, NULL, OPT_PRINT},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int number(const char *name, const char *text, uint64_t low, uint64_t high, uint64_t *ret,
                  struct err *e)
{
    uint64_t v;
    if (str_u64(str_of(text), &v) < 0 || v < low || v > high)
        return err_set(e, ERR_USAGE, "--%s: %s is not a number from %llu to %llu", name, text,
                       (unsigned long long)low, (unsigned long long)high);
    *ret = v;
    return 0;
}

static int duration(const char *name, const char *text, uint64_t *ret_ms, struct err *e)
{
    if (str_duration_ms(str_of(text), ret_ms) < 0)
        return err_set(e, ERR_USAGE, "--%s: %s is not a time such as 500ms or 2s", name, text);
    return 0;
}

static int json_or(const char *name, const char *other, const char *text, bool *ret, struct err *e)
{
    *ret = strcmp(text, "json") == 0;
    if (!*ret && strcmp(text, other) != 0)
        return err_set(e, ERR_USAGE, "--%s: %s is neither json nor %s", name, text, other);
    return 0;
}

/* Small numbers that end up in an unsigned. */
static int count(const char *name, const char *text, uint64_t high, unsigned *ret, struct err *e)
{
    uint64_t v = 0;
    int rc = number(name, text, 1, high, &v, e);
    if (rc == 0)
        *ret = (unsigned)v;
    return rc;
}

static int take(int opt, const char *name, struct emulator_opts *o, struct err *e)
{
    switch (opt) {
    case OPT_POSTS:
        o->posts = optarg;
        return 0;
    case OPT_ROWS:
        return number(name, optarg, 1, UINT64_C(1) << 40, &o->rows, e);
    case OPT_SEED:
        return number(name, optarg, 0, UINT64_MAX, &o->seed, e);
    case OPT_DRAWS:
        o->draw = true;
        return number(name, optarg, 1, UINT64_C(1) << 40, &o->draws, e);
    case OPT_PAUSE:
        return duration(name, optarg, &o->pause_ms, e);
    case OPT_GATEWAY:
        o->gateway = optarg;
        return 0;
    case OPT_USER:
        o->user = optarg;
        return 0;
    case OPT_STAGE:
        o->stage = optarg;
        return 0;
    case OPT_RATE:
        if (str_double(str_of(optarg), &o->rate) < 0 || o->rate <= 0 || o->rate > 1e7)
            return err_set(e, ERR_USAGE, "--rate: %s is not a number above 0", optarg);
        return 0;
    case OPT_CONNECTIONS:
        return count(name, optarg, 10000, &o->connections, e);
    case OPT_BATCH:
        return count(name, optarg, 10000, &o->batch, e);
    case OPT_TRIES:
        return count(name, optarg, 1000, &o->tries, e);
    case OPT_TIMEOUT:
        return duration(name, optarg, &o->timeout_ms, e);
    case OPT_HTTP2:
        o->http2 = true;
        return 0;
    case OPT_LEDGER:
        o->ledger = optarg;
        return 0;
    case OPT_PROGRESS:
        return json_or(name, "bar", optarg, &o->progress_json, e);
    case OPT_REPORT:
        return json_or(name, "table", optarg, &o->report_json, e);
    case OPT_PRINT: {
        const struct dataset *d = dataset_by_name(str_of(optarg));
        if (!d)
            return err_set(e, ERR_USAGE, "--print: %s is none of pin, geo, user", optarg);
        o->print = (int)d->id;
        return 0;
    }
    default:
        return err_set(e, ERR_USAGE, "see --help");
    }
}

static int complete(struct emulator_opts *o, struct err *e)
{
    if (!str_starts(str_of(o->gateway), STR("http://")))
        return err_set(e, ERR_USAGE, "--gateway: %s does not begin with http://", o->gateway);
    if (o->posts && o->rows)
        return err_set(e, ERR_USAGE, "--posts and --rows: only one of them");
    if (!o->timeout_ms)
        return err_set(e, ERR_USAGE, "--timeout: must be above 0");
    if (!o->posts && !o->rows) {
        o->rows = 10000;
        if (!o->draw && o->print < 0) {
            o->draw = true;
            o->draws = UINT64_MAX;
        }
    }
    if (!o->connections)
        o->connections = o->rate > 0 ? 64 : o->draw ? 1 : 8;
    /* The clock of an open loop is its rate. */
    if (o->rate > 0)
        o->pause_ms = 0;
    return 0;
}

int emulator_options(int argc, char **argv, struct emulator_opts *ret, struct err *e)
{
    struct emulator_opts o = {.gateway = "http://127.0.0.1:8082",
                              .user = "demo",
                              .stage = "",
                              .seed = 1,
                              .pause_ms = 1000,
                              .batch = 1,
                              .tries = 1,
                              .timeout_ms = 15000,
                              .print = -1};
    int index = 0, opt, rc = 0;
    optind = 1;
    opterr = 0;
    while (rc == 0 && (opt = getopt_long(argc, argv, ":", options, &index)) != -1) {
        if (opt == OPT_HELP) {
            fputs(help, stdout);
            return 1;
        }
        if (opt == ':')
            return err_set(e, ERR_USAGE, "%s needs a value", argv[optind - 1]);
        if (opt == '?')
            return err_set(e, ERR_USAGE, "%s: unknown option; see --help", argv[optind - 1]);
        rc = take(opt, options[index].name, &o, e);
    }
    if (rc == 0 && optind < argc)
        return err_set(e, ERR_USAGE, "%s: unexpected; see --help", argv[optind]);
    if (rc == 0)
        rc = complete(&o, e);
    if (rc == 0)
        *ret = o;
    return rc;
}
