/* log: one JSON object a line on stderr: ts, level, service, module, event, pairs.
 *
 *   LOG(INFO, "part_uploaded", KV_STR("key", key), KV_INT("bytes", n));
 * Events are past-tense snake case and stable. Define LOG_MODULE before the include to name the module.
 * A line is written with one write(2); text is escaped always. Repeats of one place beyond LOG_BURST (20) a second are
 * held back and counted: the next line that passes carries "suppressed". Threads: any.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/str.h"
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE, LOG_LEVELS };

#ifndef LOG_MODULE
#define LOG_MODULE __FILE_NAME__
#endif

struct log_kv {
    const char *key;
    enum { LOG_KV_STR, LOG_KV_INT, LOG_KV_U64, LOG_KV_DBL, LOG_KV_BOOL } kind;
    struct str s;
    int64_t i;
    double d;
};
#define KV_STR(k, v) ((struct log_kv){.key = (k), .kind = LOG_KV_STR, .s = str_of(v)})
#define KV_SLICE(k, v) ((struct log_kv){.key = (k), .kind = LOG_KV_STR, .s = (v)})
#define KV_INT(k, v) ((struct log_kv){.key = (k), .kind = LOG_KV_INT, .i = (int64_t)(v)})
#define KV_DBL(k, v) ((struct log_kv){.key = (k), .kind = LOG_KV_DBL, .d = (v)})
#define KV_BOOL(k, v) ((struct log_kv){.key = (k), .kind = LOG_KV_BOOL, .i = (v)})
#define KV_ERR(rc) KV_STR("error", err_name(rc))

struct log_site { /* one per LOG, for the rate limit */
    uint64_t second;
    unsigned count, suppressed;
};

#define LOG(level_, event_, ...)                                                                   \
    do {                                                                                           \
        if (log_enabled(LOG_##level_, LOG_MODULE)) {                                               \
            static struct log_site log_site_;                                                      \
            log_write(LOG_##level_, LOG_MODULE, (event_), &log_site_,                              \
                      (const struct log_kv[]){{.key = NULL}, ##__VA_ARGS__},                       \
                      sizeof((const struct log_kv[]){{.key = NULL}, ##__VA_ARGS__}) /              \
                              sizeof(struct log_kv) -                                              \
                          1);                                                                      \
        }                                                                                          \
    } while (0)

/* `service` must live as long as the process. */
void log_init(const char *service);
/* "info,kafka=debug": the first without a name is for all modules. 0 or ERR_CONFIG (nothing changed). */
int log_set_levels(struct str spec);
/* module: a file name is cut at its last dot */
bool log_enabled(enum log_level level, const char *module);
/* kv[0] is a filler; n pairs follow it. */
void log_write(enum log_level level, const char *module, const char *event, struct log_site *site,
               const struct log_kv *kv, size_t n);
uint64_t log_lines(enum log_level level); /* lines since the start, for the metric */
