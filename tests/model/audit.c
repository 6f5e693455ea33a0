/* audit: what the tables hold against what was ever sent. Written for the model alone, from the rules and not from the code.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/mem.h"
#include "data/span.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const raw_names[MODEL_TOPICS] = {"demo.geo", "demo.user"};
static char verdict[256];

/* What became of one item, found by its place. */
struct fate {
    unsigned rows, rejects;
    bool lost;
};

static void key_of(char *out, size_t n, const char *source, int64_t position, int item)
{
    snprintf(out, n, "%s/%lld/%d", source, (long long)position, item);
}

static struct fate *fate_of(struct map *fates, const char *source, int64_t position, int item,
                            bool make)
{
    char key[400];
    key_of(key, sizeof(key), source, position, item);
    struct fate *f = map_get(fates, str_of(key));
    if (!f && make) {
        f = MEM_NEW(struct fate);
        map_put(fates, str_of(key), f);
    }
    return f;
}

void audit_free_map(struct map *m)
{
    size_t i = 0;
    struct str key;
    void *value;
    while (map_next(m, &i, &key, &value))
        mem_free(value);
    map_free(&m);
}

static void source_of(char out[SPAN_SOURCE_MAX + 1], int topic, int partition, int generation)
{
    char id[32];
    snprintf(id, sizeof(id), "id-of-generation-%05d", generation);
    span_source_kafka(out, raw_names[topic], partition, id);
}

struct range {
    char *source;
    int64_t from, to;
};
static struct range ranges[4096];
static size_t ranges_n;

static void note_lost(const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    size_t i;
    json_t *entry;
    json_array_foreach (json, i, entry) {
        if (ranges_n < 4096)
            ranges[ranges_n++] = (struct range){
                .source = mem_strdup(json_string_value(json_object_get(entry, "source"))),
                .from = json_integer_value(json_object_get(entry, "from")),
                .to = json_integer_value(json_object_get(entry, "to"))};
    }
    json_decref(json);
}

static bool declared_lost(const char *source, int64_t position)
{
    for (size_t i = 0; i < ranges_n; i++) {
        if (position >= ranges[i].from && position < ranges[i].to &&
            !strcmp(ranges[i].source, source))
            return true;
    }
    return false;
}

static const char *check_order(const struct sim_table *t, int topic)
{
    struct map *last = map_new();
    const char *bad = NULL;
    for (size_t v = 0; v < t->n; v++) {
        for (size_t i = 0; i < t->commits[v].rows_n; i++) {
            const struct table_row *r = &t->commits[v].rows[i];
            int64_t *at = map_get(last, str_of(r->source));
            int64_t place = r->position * 16 + r->item + 1;
            if (!at) {
                at = MEM_NEW(int64_t);
                map_put(last, str_of(r->source), at);
            }
            if (place <= *at &&
                topic >=
                    0) /* the dead table's sources have their order within a clean table's turn only */
                bad = "order or twice in a source";
            *at = place;
        }
    }
    audit_free_map(last);
    return bad;
}

void audit_landed(struct str message)
{
    struct span span;
    if (span_parse(message, &span, NULL))
        return;
    int64_t *end = map_get(W->chain_ends, span.source);
    if (!end) {
        end = MEM_NEW(int64_t);
        map_put(W->chain_ends, span.source, end);
    }
    if (span.from > *end)
        W->broken_rule = "a chain with a hole";
    if (span.to > *end)
        *end = span.to;
}

void audit_clean_offset(int topic, int partition, int64_t offset)
{
    const struct log_ *l = &W->clean[topic][partition];
    if (W->clean_deleted)
        return; /* spans past a hole that was closed later are in the table by others that repeat them */
    for (int64_t i = l->low; i < offset && i < l->n; i++) {
        struct span span;
        char source[SPAN_SOURCE_MAX + 1];
        if (!l->messages[i].value.p || span_parse(l->messages[i].value, &span, NULL))
            continue;
        snprintf(source, sizeof(source), STR_FMT, STR_ARG(span.source));
        int64_t wanted = table_wanted_by_log(&W->tables[DATASET_GEO + topic], source);
        if (span.to > (wanted < 0 ? 0 : wanted))
            W->broken_rule = "a clean offset before its rows";
    }
}

const char *audit(bool healed)
{
    struct map *fates = map_new(), *contents[MODEL_TOPICS], *gone[MODEL_TOPICS];
    uint64_t copies[MODEL_TOPICS] = {0}, missing[MODEL_TOPICS] = {0};
    const char *bad = NULL;
    ranges_n = 0;
    bool hole = false;
    for (int t = 0; t < MODEL_TOPICS; t++) {
        const struct sim_table *table = &W->tables[DATASET_GEO + t];
        contents[t] = map_new();
        gone[t] = map_new();
        const char *order = check_order(table, t);
        bad = order ? order : bad;
        for (size_t v = 0; v < table->n; v++) {
            copies[t] += table->commits[v].copies;
            if (table->commits[v].lost_json)
                note_lost(table->commits[v].lost_json);
            for (size_t i = 0; i < table->commits[v].rows_n; i++) {
                const struct table_row *r = &table->commits[v].rows[i];
                char text[16];
                snprintf(text, sizeof(text), "%d", r->content);
                map_put(contents[t], str_of(text), W);
                fate_of(fates, r->source, r->position, r->item, true)->rows++;
            }
        }
        for (int p = 0; p < MODEL_PARTITIONS; p++) {
            char source[SPAN_SOURCE_MAX + 1];
            source_of(source, t, p, W->raw[t][p].generation);
            int64_t wanted = table_wanted_by_log(table, source);
            hole |= (wanted < 0 ? 0 : wanted) < W->raw[t][p].n;
        }
    }
    const struct sim_table *dead = &W->tables[DATASETS];
    for (size_t v = 0; v < dead->n; v++) {
        for (size_t i = 0; i < dead->commits[v].rows_n; i++) {
            const struct table_row *r = &dead->commits[v].rows[i];
            fate_of(fates, r->source, r->position, r->item, true)->rejects++;
        }
    }
    uint64_t places = 0;
    for (size_t h = 0; h < W->history_n && !hole; h++) {
        const struct history *r = &W->history[h];
        char source[SPAN_SOURCE_MAX + 1];
        source_of(source, r->topic, r->partition, r->generation);
        const struct log_ *l = &W->raw[r->topic][r->partition];
        bool now = r->generation == l->generation, alive = now && r->offset >= l->low,
             lost = declared_lost(source, r->offset);
        int64_t wanted = table_wanted_by_log(&W->tables[DATASET_GEO + r->topic], source);
        if (lost && alive)
            bad = "lost span over a live record";
        for (int i = 0; i < r->m.items_n; i++) {
            const struct fate *f = fate_of(fates, source, r->offset, i, false);
            unsigned rows = f ? f->rows : 0, rejects = f ? f->rejects : 0;
            char text[16];
            snprintf(text, sizeof(text), "%d", r->m.items[i].content);
            places += rows + rejects;
            if (rows + rejects > 1)
                bad = "twice";
            if (rows && r->m.items[i].reject)
                bad = "a reject in the clean table";
            if (rejects && !r->m.items[i].reject)
                bad = "a row in the dead table";
            if (rows && lost)
                bad = "in the table and declared lost";
            if (lost)
                map_put(gone[r->topic], str_of(text), W);
            if (rows + rejects || lost)
                continue;
            if (r->offset >= wanted) {
                if (now)
                    bad = "LOST: the table does not want it and has it not";
                continue; /* of a topic that is no more, never read */
            }
            if (r->m.items[i].reject) {
                bad = "LOST: a reject in no table";
            } else if (!map_get(contents[r->topic], str_of(text)) &&
                       !map_get(gone[r->topic], str_of(text))) {
                bad = "COPY OF NOTHING";
            }
            say("left out: %s %lld.%d content %s", source, (long long)r->offset, i, text);
            missing[r->topic] += !r->m.items[i].reject;
        }
    }
    for (int t = 0; t < MODEL_TOPICS && !hole && !bad; t++) {
        if (copies[t] != missing[t]) {
            snprintf(verdict, sizeof(verdict),
                     "counts do not close: %llu copies counted, %llu rows left out",
                     (unsigned long long)copies[t], (unsigned long long)missing[t]);
            bad = verdict;
        }
    }
    size_t i = 0;
    struct str key;
    void *value;
    uint64_t all = 0;
    while (map_next(fates, &i, &key, &value))
        all += ((struct fate *)value)->rows + ((struct fate *)value)->rejects;
    if (!bad && !hole && all != places)
        bad = "a row that nobody sent";
    audit_free_map(fates);
    for (int t = 0; t < MODEL_TOPICS; t++) {
        map_free(&contents[t]);
        map_free(&gone[t]);
    }
    for (size_t r = 0; r < ranges_n; r++)
        mem_free(ranges[r].source);
    if (hole && !bad) {
        /* Some source is behind: legal only while the sink says so. */
        struct app *sink = W->nodes[MODEL_NODES - 1];
        bool said = sink && node_sink_holes(sink) > 0;
        if (!said)
            return healed ? "behind and silent after healing" : "behind and silent";
        return healed ? "hole after healing" : "hole";
    }
    return bad;
}
