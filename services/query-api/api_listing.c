/* api_listing: what there is to ask, and of which tables.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/api.h"
#include "base/clock.h"

#define JSON_TYPE "application/json"

static void send_json(struct request *q, struct buf *body)
{
    if (format_accepted(httpd_header(q->req, "accept"), 1u << FORMAT_JSON) < 0) {
        api_not_acceptable(q, 1u << FORMAT_JSON);
    } else {
        struct httpd_answer a = api_head(q, 200, JSON_TYPE);
        api_put_header(&a, "cache-control", STR("private, no-cache"));
        api_send(q, &a, body);
    }
    buf_deinit(body);
}

static void put_param(struct buf *b, const struct question *question, enum param_id id)
{
    const struct param_def *d = &param_defs[id];
    buf_printf(b, "{\"name\":\"%s\",\"description\":", d->name);
    buf_json(b, str_of(d->help));
    if (d->values) {
        buf_printf(b, ",\"default\":\"%s\",\"values\":[", d->values[0]);
        for (unsigned i = 0; d->values[i]; i++)
            buf_printf(b, "%s\"%s\"", i ? "," : "", d->values[i]);
        buf_z(b, "]}");
        return;
    }
    if (id == PARAM_FROM || id == PARAM_TO)
        buf_printf(b, ",\"default\":%d", id == PARAM_FROM ? question->from : question->to);
    else
        buf_z(b, ",\"default\":null");
    if (id != PARAM_VERSION)
        buf_printf(b, ",\"minimum\":%lld,\"maximum\":%lld", (long long)d->min, (long long)d->max);
    buf_char(b, '}');
}

static void put_question(struct buf *b, const struct question *question)
{
    buf_printf(b, "{\"name\":\"%s\",\"title\":", question->name);
    buf_json(b, str_of(question->title));
    buf_printf(b, ",\"url\":\"%s%s\",\"tables\":[", routes[ROUTE_QUESTION].path, question->name);
    bool first = true;
    for (unsigned t = 0; t < ASKED_TABLES; t++)
        if (question->tables >> t & 1) {
            buf_printf(b, "%s\"%s\"", first ? "" : ",", table_names[t]);
            first = false;
        }
    buf_z(b, "],\"columns\":[");
    for (unsigned i = 0; i < QUESTION_MAX_COLUMNS && question->columns[i].name; i++)
        buf_printf(b, "%s{\"name\":\"%s\",\"type\":\"%s\"}", i ? "," : "",
                   question->columns[i].name, question->columns[i].type);
    buf_z(b, "],\"parameters\":[");
    first = true;
    for (unsigned id = 0; id < PARAMS; id++)
        if (question_takes(question, id)) {
            buf_z(b, first ? "" : ",");
            put_param(b, question, id);
            first = false;
        }
    buf_z(b, "]}");
}

void api_questions(struct request *q)
{
    struct buf b;
    buf_init(&b, 256 << 10);
    buf_z(&b, "{\"questions\":[\n");
    for (unsigned i = 0; i < QUESTIONS; i++) {
        buf_z(&b, i ? ",\n" : "");
        put_question(&b, &questions[i]);
    }
    buf_z(&b, "\n]}\n");
    send_json(q, &b);
}

static void put_table(const struct request *q, struct buf *b, enum table_id t)
{
    struct table_view v;
    catalog_get(q->api->catalog, t, &v);
    const struct snapshot *s = v.snapshot;
    buf_printf(b, "{\"name\":\"%s\",\"table\":\"%s_%s_table\",\"exists\":%s,", table_names[t],
               app_common(q->api->app)->user, table_names[t], s ? "true" : "false");
    if (!s) {
        buf_z(b, "\"id\":null,\"version\":null,\"rows\":0,\"files\":0,\"bytes\":0,\"last_commit_"
                 "at\":null,\"schema\":null");
    } else {
        char at[25] = "";
        if (s->commit_time_ms > 0)
            clock_rfc3339((uint64_t)s->commit_time_ms, at);
        buf_z(b, "\"id\":");
        buf_json(b, str_of(s->id));
        buf_printf(b, ",\"version\":%lld,\"rows\":", (long long)s->version);
        if (s->rows < 0)
            buf_z(b, "null");
        else
            buf_i64(b, s->rows);
        buf_printf(b, ",\"files\":%zu,\"bytes\":%llu,\"last_commit_at\":", s->files_n,
                   (unsigned long long)s->bytes);
        if (at[0])
            buf_printf(b, "\"%s\"", at);
        else
            buf_z(b, "null");
        buf_printf(b, ",\"schema\":%s", s->schema);
    }
    buf_z(b, ",\"trouble\":");
    if (v.trouble)
        buf_json(b, str_of(v.trouble));
    else
        buf_z(b, "null");
    buf_char(b, '}');
}

void api_tables(struct request *q)
{
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_z(&b, "{\"tables\":[\n");
    for (unsigned t = 0; t <= TABLE_DEAD; t++) {
        buf_z(&b, t ? ",\n" : "");
        put_table(q, &b, t);
    }
    buf_z(&b, "\n]}\n");
    send_json(q, &b);
}

void api_table(struct request *q, struct str name)
{
    unsigned t = 0;
    while (t <= TABLE_DEAD && !str_is(name, table_names[t]))
        t++;
    if (t > TABLE_DEAD) {
        api_problem_allowed(q, PROBLEM_UNKNOWN_TABLE, "no table has that name",
                            "\"pin\",\"geo\",\"user\",\"dead\"");
        return;
    }
    struct buf b;
    buf_init(&b, 1 << 20);
    put_table(q, &b, t);
    buf_char(&b, '\n');
    send_json(q, &b);
}

void api_openapi(struct request *q)
{
    struct buf b;
    buf_init(&b, q->api->openapi.len + 1);
    buf_str(&b, buf_as_str(&q->api->openapi));
    send_json(q, &b);
}

void api_options(struct request *q)
{
    struct buf none = {0};
    struct httpd_answer a = api_head(q, 204, NULL);
    api_put_header(&a, "allow", API_ALLOWED_METHODS);
    api_put_header(&a, "access-control-allow-methods", API_ALLOWED_METHODS);
    api_put_header(&a, "access-control-allow-headers", STR("Accept, If-None-Match, X-Request-Id"));
    api_put_header(&a, "access-control-max-age", STR("86400"));
    api_send(q, &a, &none);
}
