/* option: a program's options, from one constant table: defaults, a JSON file, the environment and the command line.
 *
 *   struct config { const char *brokers; uint64_t linger; };
 *   static const struct option_def options[] = {
 *       {OPTION(ADDRESSES, "kafka.brokers", struct config, brokers), .def = "127.0.0.1:9092", .help = "where Kafka is"},
 *       {OPTION(DURATION, "span.linger", struct config, linger), .def = "20ms", .max = 10000, .help = "…"},
 *       {0}};
 * `kafka.brokers` is `--kafka.brokers=…` or `--kafka.brokers …`, SLUICE_KAFKA_BROKERS, and `{"kafka.brokers": "…"}` in the file of
 * `--config=FILE`; a flag beats the environment, that beats the file, that beats the default.
 * A secret `x.url` has a twin `x.url_file` (the value is the file's content without line ends at its end), and is refused on
 * the command line, which everybody on the machine can read. Secrets are texts (STR), with a default.
 * Ownership: texts in the config structs live until option_free. Threads: one.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

enum option_type {
    OPTION_STR,  /* const char *; never NULL. min: shortest length, max: longest (0: no bound) */
    OPTION_LIST, /* const char *: parts between commas; a JSON array of strings is joined */
    OPTION_ADDRESSES, /* const char *: a LIST whose parts are host:port, ports 1..65535 */
    OPTION_LISTEN,    /* const char *: one host:port, port 0 = any */
    OPTION_CHOICE,    /* const char *: one of `choices` ("drop|keep") */
    OPTION_INT,       /* int64_t, from min to max (both 0: no bounds) */
    OPTION_BOOL,      /* bool: on/off, true/false, yes/no, 1/0 */
    OPTION_DURATION,  /* uint64_t, milliseconds; min and max too (max 0: no bound) */
    OPTION_SIZE,      /* uint64_t, bytes; min and max too (max 0: no bound) */
};

struct option_def {
    const char *key; /* lower case words, dots between them; NULL ends the table */
    enum option_type type;
    size_t offset;   /* into the config struct */
    const char *def; /* as it would be written */
    int64_t min, max;
    const char *choices;
    bool secret;
    const char *help; /* one line, lower case, no full stop */
};
#define OPTION(type_, key_, struct_, member_)                                                      \
    .key = (key_), .type = OPTION_##type_, .offset = offsetof(struct_, member_)

/* Some tables, each with the struct that it fills (zeroed before); ends with {0}. */
struct option_set {
    const struct option_def *table;
    void *config;
};

enum option_action {
    OPTION_RUN,
    OPTION_SHOW_HELP,
    OPTION_SHOW_VERSION,
    OPTION_SHOW_VERSION_JSON,
    OPTION_CHECK,         /* --check-config: everything was read and is valid */
    OPTION_PRINT,         /* --print-config */
    OPTION_PRINT_SOURCES, /* --print-config=sources */
    OPTION_DUMP_OPTIONS,  /* the Markdown tables of docs/ */
    OPTION_DUMP_METRICS,
};

struct options;
/* Reads everything. For the help, version and dump actions nothing but the command line's flags is looked at.
 * env: "NAME=value" texts up to NULL. Returns 0, ERR_USAGE (the command line) or ERR_CONFIG (a value, wherever it came from);
 * then nothing has to be freed. The text names file:line or the variable or flag, the key, and what is allowed. */
int option_load(const struct option_set *sets, int argc, char *const *argv, char *const *env,
                struct options **ret, enum option_action *ret_action, struct err *e);
void option_free(struct options **o);
/* Texts about what was odd but no error (unknown SLUICE_* variables); NULL after the last. */
const char *option_warning(const struct options *o, size_t i);
/* JSON that can be fed back by --config. A secret other than the default reads "***", which is refused when fed back. */
void option_print(const struct options *o, bool sources, struct buf *out);
void option_help(const struct option_set *sets, const char *program, const char *summary,
                 struct buf *out);
void option_markdown(const struct option_set *sets, struct buf *out);
/* Cuts "host:port" or "[v6]:port"; ret_host (without brackets) takes 256 bytes. 0 or ERR_BAD_DATA. */
int option_address(struct str s, char ret_host[256], unsigned *ret_port);
