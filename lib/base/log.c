/* log: one JSON object a line on stderr.
 *
 * Levels are an immutable table behind an atomic pointer, so that log_enabled takes no lock; a table that was replaced stays
 * reachable, because another thread may be reading it. One lock orders the lines and guards the sites' counters.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/log.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { LOG_BURST = 20, LOG_OVERRIDES = 32, LOG_STRING_MAX = 32768, LOG_LINE_MAX = 65536 };

struct levels {
    enum log_level all;
    size_t n;
    struct {
        char name[32];
        enum log_level level;
    } of[LOG_OVERRIDES];
    struct levels *replaced;
};

static struct levels first_levels = {.all = LOG_INFO};
static _Atomic(struct levels *) levels = &first_levels;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *service_name = "";
static _Atomic uint64_t lines[LOG_LEVELS];
static const char *const level_names[LOG_LEVELS] = {"error", "warn", "info", "debug", "trace"};

void log_init(const char *service)
{
    service_name = service;
}

static int level_of(struct str name, enum log_level *ret)
{
    for (int i = 0; i < LOG_LEVELS; i++) {
        if (str_is(name, level_names[i])) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return ERR_CONFIG;
}

static int parse_levels(struct str spec, struct levels *to)
{
    struct str part, name;
    while (str_next(&spec, ',', &part)) {
        part = str_trim(part);
        struct str level = part;
        if (!memchr(part.p, '=', part.n)) {
            if (level_of(level, &to->all) < 0)
                return ERR_CONFIG;
            continue;
        }
        str_next(&level, '=', &name);
        if (!name.n || name.n >= sizeof to->of[0].name || to->n == LOG_OVERRIDES ||
            level_of(level, &to->of[to->n].level) < 0)
            return ERR_CONFIG;
        memcpy(to->of[to->n++].name, name.p, name.n);
    }
    return 0;
}

int log_set_levels(struct str spec)
{
    struct levels *to = MEM_NEW(struct levels);
    to->all = LOG_INFO;
    if (spec.n && parse_levels(spec, to) < 0) {
        mem_free(to);
        return ERR_CONFIG;
    }
    pthread_mutex_lock(&lock);
    to->replaced = levels;
    levels = to;
    pthread_mutex_unlock(&lock);
    return 0;
}

static struct str module_name(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? str_make(module, (size_t)(dot - module)) : str_of(module);
}

bool log_enabled(enum log_level level, const char *module)
{
    const struct levels *l = levels;
    if (l->n) {
        struct str name = module_name(module);
        for (size_t i = l->n; i-- > 0;) {
            if (str_is(name, l->of[i].name))
                return level <= l->of[i].level;
        }
    }
    return level <= l->all;
}

static void put_pair(struct buf *b, const struct log_kv *kv)
{
    buf_char(b, ',');
    buf_json(b, str_of(kv->key));
    buf_char(b, ':');
    switch (kv->kind) {
    case LOG_KV_STR:
        if (!kv->s.p)
            buf_z(b, "null");
        else
            buf_json(b, str_make(kv->s.p, kv->s.n < LOG_STRING_MAX ? kv->s.n : LOG_STRING_MAX));
        break;
    case LOG_KV_INT:
        buf_i64(b, kv->i);
        break;
    case LOG_KV_U64:
        buf_u64(b, (uint64_t)kv->i);
        break;
    case LOG_KV_DBL:
        buf_double(b, kv->d);
        break;
    case LOG_KV_BOOL:
        buf_z(b, kv->i ? "true" : "false");
        break;
    }
}

static void put_head(struct buf *b, enum log_level level, const char *module, const char *event)
{
    char ts[25];
    clock_rfc3339(clock_wall_ms(), ts);
    buf_printf(b, "{\"ts\":\"%s\",\"level\":\"%s\",\"service\":", ts, level_names[level]);
    buf_json(b, str_of(service_name));
    buf_z(b, ",\"module\":");
    buf_json(b, module_name(module));
    buf_z(b, ",\"event\":");
    buf_json(b, str_of(event));
}

static void write_line(const char *p, size_t n)
{
    /* A pipe may take a part; a reader that is gone costs the line, never the service. */
    while (n) {
        ssize_t done = write(STDERR_FILENO, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        p += done;
        n -= (size_t)done;
    }
}

/* False when this place wrote its share of this second. */
static bool site_passes(struct log_site *site, unsigned *ret_suppressed)
{
    if (!site)
        return true;
    uint64_t second = clock_ms() / 1000 + 1;
    if (site->second != second) {
        site->second = second;
        site->count = 0;
    }
    if (site->count >= LOG_BURST) {
        site->suppressed++;
        return false;
    }
    site->count++;
    *ret_suppressed = site->suppressed;
    site->suppressed = 0;
    return true;
}

void log_write(enum log_level level, const char *module, const char *event, struct log_site *site,
               const struct log_kv *kv, size_t n)
{
    static struct buf line = {.max = LOG_LINE_MAX};
    unsigned suppressed = 0;
    pthread_mutex_lock(&lock);
    if (site_passes(site, &suppressed)) {
        buf_reset(&line);
        put_head(&line, level, module, event);
        for (size_t i = 1; i <= n; i++)
            put_pair(&line, &kv[i]);
        if (suppressed)
            buf_printf(&line, ",\"suppressed\":%u", suppressed);
        if (line.overflow) { /* half an object is no line: the event alone */
            buf_reset(&line);
            put_head(&line, level, module, event);
            buf_z(&line, ",\"cut\":true");
        }
        buf_z(&line, "}\n");
        write_line(line.data, line.len);
        lines[level]++;
    }
    pthread_mutex_unlock(&lock);
}

uint64_t log_lines(enum log_level level)
{
    return lines[level];
}
