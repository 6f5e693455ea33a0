/* metric: series in flat arrays, and their text forms.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/metric.h"
#include "base/map.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>

const double metric_latency[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                 0.25,  0.5,    1,     2.5,  5,     10,   0};
const double metric_age[] = {0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 0};
const double metric_sizes[] = {256,     1024,    4096,     16384,    65536, 262144,
                               1048576, 4194304, 16777216, 67108864, 0};
const double metric_counts[] = {1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384, 65536, 0};

/* A label's name has at most NAME_LEN_MAX bytes, its value LABEL_MAX, and twice that when every byte is escaped. */
enum { SERIES_DEFAULT = 64, HOOKS_MAX = 16, NAME_LEN_MAX = 64, LABEL_MAX = 256 };
enum { LABELS_MAX = 2 * (NAME_LEN_MAX + 2 * LABEL_MAX + 4) };

struct series {
    char *labels; /* `topic="x",result="ok"`, escaped; "" without labels */
    bool hidden;
};

struct metric {
    const struct metric_def *def;
    bool open;       /* has a label without a closed set */
    unsigned width;  /* numbers per series: 1, or a count for each bucket and +Inf, and the sum */
    unsigned series; /* in use */
    unsigned room;
    double *v;
    struct series *names;
    struct map *index; /* labels -> number plus 1 */
};

struct metrics {
    struct metric *of;
    unsigned n;
    struct {
        void (*fn)(void *ctx);
        void *ctx;
    } hooks[HOOKS_MAX];
    unsigned hooks_n;
};

static unsigned set_size(const char *const *values)
{
    unsigned n = 0;
    while (values[n])
        n++;
    return n;
}

static char *put_label(char *to, const char *name, const char *value)
{
    size_t n = strlen(value);
    if (n > LABEL_MAX || !str_utf8_valid(str_make(value, n)))
        value = "invalid";
    to = stpcpy(to, name);
    *to++ = '=';
    *to++ = '"';
    for (; *value; value++) {
        if (*value == '\\' || *value == '"' || *value == '\n')
            *to++ = '\\';
        *to++ = *value == '\n' ? 'n' : *value;
    }
    *to++ = '"';
    *to = 0;
    return to;
}

/* On the stack, because metric_series looks up by it. */
static struct str label_text(const struct metric_def *d, const char *v1, const char *v2,
                             char out[LABELS_MAX])
{
    char *to = out;
    *to = 0;
    if (d->labels[0])
        to = put_label(to, d->labels[0], v1);
    if (d->labels[1]) {
        *to++ = ',';
        to = put_label(to, d->labels[1], v2);
    }
    return str_make(out, (size_t)(to - out));
}

static unsigned new_series(struct metric *m, struct str labels)
{
    if (m->series == m->room) {
        unsigned room = m->room ? m->room * 2 : 8;
        size_t one = m->width * sizeof *m->v;
        m->v = mem_realloc(m->v, m->room * one, room * one);
        m->names = mem_realloc(m->names, m->room * sizeof *m->names, room * sizeof *m->names);
        m->room = room;
    }
    unsigned series = m->series++;
    m->names[series] = (struct series){.labels = mem_strndup(labels.p, labels.n)};
    map_put(m->index, labels, (void *)(uintptr_t)(series + 1));
    return series;
}

static void metric_init(struct metric *m, const struct metric_def *d)
{
    static const char *const none[] = {"", NULL};
    m->def = d;
    m->index = map_new();
    m->width = 1;
    if (d->kind == METRIC_HISTOGRAM) {
        CHECK(d->buckets);
        m->width = 2;
        for (const double *b = d->buckets; *b > 0; b++)
            m->width++;
    }
    CHECK(d->help && (d->labels[0] || !d->labels[1]));
    for (int i = 0; i < 2; i++)
        CHECK(!d->labels[i] || strlen(d->labels[i]) <= NAME_LEN_MAX);
    m->open = (d->labels[0] && !d->label_values[0]) || (d->labels[1] && !d->label_values[1]);
    if (m->open)
        return;
    char labels[LABELS_MAX];
    const char *const *first = d->labels[0] ? d->label_values[0] : none;
    const char *const *second = d->labels[1] ? d->label_values[1] : none;
    for (const char *const *a = first; *a; a++) {
        for (const char *const *b = second; *b; b++)
            new_series(m, label_text(d, *a, *b, labels));
    }
}

struct metrics *metrics_new(const struct metric_def *defs)
{
    struct metrics *m = MEM_NEW(struct metrics);
    while (defs[m->n].name)
        m->n++;
    m->of = MEM_ARRAY(struct metric, m->n);
    for (unsigned i = 0; i < m->n; i++)
        metric_init(&m->of[i], &defs[i]);
    return m;
}

void metrics_free(struct metrics **m)
{
    if (!*m)
        return;
    for (unsigned i = 0; i < (*m)->n; i++) {
        struct metric *x = &(*m)->of[i];
        for (unsigned s = 0; s < x->series; s++)
            mem_free(x->names[s].labels);
        mem_free(x->names);
        mem_free(x->v);
        map_free(&x->index);
    }
    mem_free((*m)->of);
    mem_free(*m);
    *m = NULL;
}

static double *value_at(const struct metrics *m, unsigned id, unsigned series)
{
    CHECK(id < m->n && series < m->of[id].series);
    return m->of[id].v + (size_t)series * m->of[id].width;
}

static unsigned place_in(const char *const *values, const char *v)
{
    unsigned i = 0;
    while (values[i] && strcmp(values[i], v) != 0)
        i++;
    CHECK(values[i]); /* the set is closed: a value outside it is a mistake of ours */
    return i;
}

unsigned metric_series(struct metrics *m, unsigned id, const char *v1, const char *v2)
{
    CHECK(id < m->n);
    struct metric *x = &m->of[id];
    const struct metric_def *d = x->def;
    CHECK((v1 || !d->labels[0]) && (v2 || !d->labels[1]));
    unsigned first = d->labels[0] && d->label_values[0] ? place_in(d->label_values[0], v1) : 0;
    unsigned second = d->labels[1] && d->label_values[1] ? place_in(d->label_values[1], v2) : 0;
    if (!x->open)
        return first * (d->labels[1] ? set_size(d->label_values[1]) : 1) + second;
    char text[LABELS_MAX];
    struct str labels = label_text(d, v1, v2, text);
    void *found = map_get(x->index, labels);
    if (!found && x->series >= (d->max_series ? d->max_series : SERIES_DEFAULT)) {
        labels = label_text(d, d->label_values[0] ? v1 : "other", d->label_values[1] ? v2 : "other",
                            text);
        found = map_get(x->index, labels);
    }
    if (!found)
        return new_series(x, labels);
    unsigned series = (unsigned)((uintptr_t)found - 1);
    x->names[series].hidden = false;
    return series;
}

void metric_hide(struct metrics *m, unsigned id, unsigned series)
{
    double *v = value_at(m, id, series);
    CHECK(m->of[id].open);
    for (unsigned i = 0; i < m->of[id].width; i++)
        v[i] = 0;
    m->of[id].names[series].hidden = true;
}

void metric_add(struct metrics *m, unsigned id, unsigned series, double n)
{
    *value_at(m, id, series) += n;
}

void metric_set(struct metrics *m, unsigned id, unsigned series, double v)
{
    *value_at(m, id, series) = v;
}

void metric_observe(struct metrics *m, unsigned id, unsigned series, double v)
{
    double *to = value_at(m, id, series);
    const struct metric *x = &m->of[id];
    CHECK(x->def->kind == METRIC_HISTOGRAM);
    unsigned i = 0, n = x->width - 2;
    while (i < n && v > x->def->buckets[i])
        i++;
    to[i]++;
    to[n + 1] += v;
}

double metric_value(const struct metrics *m, unsigned id, unsigned series)
{
    const double *v = value_at(m, id, series);
    double count = 0;
    if (m->of[id].def->kind != METRIC_HISTOGRAM)
        return *v;
    for (unsigned i = 0; i < m->of[id].width - 1; i++)
        count += v[i];
    return count;
}

void metrics_on_collect(struct metrics *m, void (*fn)(void *ctx), void *ctx)
{
    CHECK(m->hooks_n < HOOKS_MAX);
    m->hooks[m->hooks_n].fn = fn;
    m->hooks[m->hooks_n++].ctx = ctx;
}

/* Texts */

static void put_number(struct buf *out, double v)
{
    if (isnan(v))
        buf_z(out, "NaN");
    else if (isinf(v))
        buf_z(out, v > 0 ? "+Inf" : "-Inf");
    else if (v == floor(v) && fabs(v) < 1e15)
        buf_i64(out, (int64_t)v);
    else
        buf_double(out, v);
}

/* name{labels,extra} value */
static void put_sample(struct buf *out, const char *name, const char *suffix, const char *labels,
                       const char *extra, double v)
{
    buf_printf(out, "%s%s", name, suffix);
    if (*labels || *extra)
        buf_printf(out, "{%s%s%s}", labels, *labels && *extra ? "," : "", extra);
    buf_char(out, ' ');
    put_number(out, v);
    buf_char(out, '\n');
}

static void put_histogram(struct buf *out, const struct metric *m, unsigned series)
{
    const double *v = m->v + (size_t)series * m->width;
    const char *labels = m->names[series].labels;
    unsigned n = m->width - 2;
    double count = 0;
    for (unsigned i = 0; i <= n; i++) {
        char le[48];
        struct buf bound;
        buf_init(&bound, 32);
        if (i < n)
            buf_double(&bound, m->def->buckets[i]); /* "1.0": the same series in both formats */
        else
            buf_z(&bound, "+Inf");
        snprintf(le, sizeof le, "le=\"%s\"", bound.data);
        buf_deinit(&bound);
        count += v[i];
        put_sample(out, m->def->name, "_bucket", labels, le, count);
    }
    put_sample(out, m->def->name, "_sum", labels, "", v[n + 1]);
    put_sample(out, m->def->name, "_count", labels, "", count);
}

static void put_help(struct buf *out, const char *help, bool openmetrics)
{
    for (; *help; help++) {
        if (*help == '\\' || (openmetrics && *help == '"'))
            buf_char(out, '\\');
        if (*help == '\n')
            buf_z(out, "\\n");
        else
            buf_char(out, *help);
    }
    buf_char(out, '\n');
}

static const char *const kinds[] = {"counter", "gauge", "histogram"};

static void put_head(struct buf *out, const struct metric_def *d, bool openmetrics)
{
    static const char *const units[] = {"seconds", "bytes", "ratio"};
    struct str family = str_of(d->name);
    if (openmetrics && d->kind == METRIC_COUNTER && str_ends(family, STR("_total")))
        family.n -= 6; /* a family is named without what its samples end with */
    for (size_t i = 0; openmetrics && i < 3; i++) {
        size_t n = strlen(units[i]);
        if (str_ends(family, str_of(units[i])) && family.p[family.n - n - 1] == '_')
            buf_printf(out, "# UNIT " STR_FMT " %s\n", STR_ARG(family), units[i]);
    }
    buf_printf(out, "# HELP " STR_FMT " ", STR_ARG(family));
    put_help(out, d->help, openmetrics);
    buf_printf(out, "# TYPE " STR_FMT " %s\n", STR_ARG(family), kinds[d->kind]);
}

void metrics_write(struct metrics *m, bool openmetrics, struct buf *out)
{
    for (unsigned i = 0; i < m->hooks_n; i++)
        m->hooks[i].fn(m->hooks[i].ctx);
    for (unsigned i = 0; i < m->n; i++) {
        const struct metric *x = &m->of[i];
        put_head(out, x->def, openmetrics);
        for (unsigned s = 0; s < x->series; s++) {
            if (x->names[s].hidden)
                continue;
            if (x->def->kind == METRIC_HISTOGRAM)
                put_histogram(out, x, s);
            else
                put_sample(out, x->def->name, "", x->names[s].labels, "", x->v[s]);
        }
    }
}

void metrics_end(bool openmetrics, struct buf *out)
{
    if (openmetrics)
        buf_z(out, "# EOF\n");
}

void metrics_markdown(const struct metric_def *defs, struct buf *out)
{
    buf_z(out, "| metric | kind | labels | what it counts |\n| --- | --- | --- | --- |\n");
    for (const struct metric_def *d = defs; d->name; d++) {
        buf_printf(out, "| `%s` | %s | ", d->name, kinds[d->kind]);
        for (int i = 0; i < 2 && d->labels[i]; i++) {
            buf_printf(out, "%s`%s`", i ? ", " : "", d->labels[i]);
            for (const char *const *v = d->label_values[i]; v && *v; v++)
                buf_printf(out, "%s%s", v == d->label_values[i] ? " (" : ", ", *v);
            if (d->label_values[i])
                buf_char(out, ')');
        }
        buf_printf(out, " | %s |\n", d->help);
    }
}
