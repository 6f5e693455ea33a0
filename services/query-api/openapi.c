/* openapi: the description of the API, made from the very tables that route and read requests.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/query-api.h"

static void put_problems(struct buf *b, const enum problem *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool said = false;
        for (size_t k = 0; k < i; k++)
            said = said || problem_defs[list[k]].status == problem_defs[list[i]].status;
        if (said)
            continue;
        int status = problem_defs[list[i]].status;
        buf_printf(b, ",\"%d\":{\"description\":\"", status);
        for (size_t k = i, first = 1; k < n; k++)
            if (problem_defs[list[k]].status == status) {
                buf_printf(b, "%s%s", first ? "" : "; ", problem_defs[list[k]].title);
                first = 0;
            }
        buf_z(b, "\",\"content\":{\"application/problem+json\":{\"schema\":{\"$ref\":\"#/"
                 "components/schemas/Problem\"}}}}");
    }
}

static void put_param(struct buf *b, const struct question *q, enum param_id id)
{
    const struct param_def *d = &param_defs[id];
    buf_printf(b, "{\"name\":\"%s\",\"in\":\"query\",\"required\":false,\"description\":", d->name);
    buf_json(b, str_of(d->help));
    buf_z(b, ",\"schema\":{");
    if (d->values) {
        buf_z(b, "\"type\":\"string\",\"enum\":[");
        for (unsigned i = 0; d->values[i]; i++)
            buf_printf(b, "%s\"%s\"", i ? "," : "", d->values[i]);
        buf_z(b, "]");
        if (id != PARAM_FORMAT) /* without it the Accept field decides */
            buf_printf(b, ",\"default\":\"%s\"", d->values[0]);
    } else if (id == PARAM_VERSION) {
        buf_z(
            b,
            "\"type\":\"string\",\"pattern\":\"^(pin|geo|user):[0-9]+(,(pin|geo|user):[0-9]+)*$\"");
    } else {
        buf_printf(b, "\"type\":\"integer\",\"minimum\":%lld,\"maximum\":%lld", (long long)d->min,
                   (long long)d->max);
        if (id == PARAM_FROM || id == PARAM_TO)
            buf_printf(b, ",\"default\":%d", id == PARAM_FROM ? q->from : q->to);
    }
    buf_printf(b, "},\"example\":\"%s\"}", d->example);
}

static const char *json_type(const char *duck)
{
    return duck[0] == 'B' ? "integer" : duck[0] == 'D' ? "number" : "string";
}

static void put_row_schema(struct buf *b, const struct question *q)
{
    buf_z(b, "{\"type\":\"object\",\"properties\":{");
    for (unsigned i = 0; i < QUESTION_MAX_COLUMNS && q->columns[i].name; i++)
        buf_printf(b, "%s\"%s\":{\"type\":[\"%s\",\"null\"]}", i ? "," : "", q->columns[i].name,
                   json_type(q->columns[i].type));
    buf_z(b, "}}");
}

static void put_question(struct buf *b, const struct question *q)
{
    static const enum problem possible[] = {
        PROBLEM_UNKNOWN_PARAMETER, PROBLEM_BAD_VALUE,    PROBLEM_NO_SUCH_TABLE,
        PROBLEM_NOT_ACCEPTABLE,    PROBLEM_VERSION_GONE, PROBLEM_TOO_MANY_ROWS,
        PROBLEM_INTERNAL,          PROBLEM_BUSY,         PROBLEM_STARTING,
        PROBLEM_TABLE_UNAVAILABLE, PROBLEM_DRAINING,     PROBLEM_TIMEOUT,
        PROBLEM_OUT_OF_MEMORY,     PROBLEM_SPILL_FULL};
    buf_printf(b, ",\n\"%s%s\":{\"get\":{\"operationId\":\"%s\",\"summary\":",
               routes[ROUTE_QUESTION].path, q->name, q->name);
    buf_json(b, str_of(q->title));
    buf_z(b, ",\"parameters\":[");
    bool first = true;
    for (unsigned id = 0; id < PARAMS; id++)
        if (question_takes(q, id)) {
            buf_z(b, first ? "" : ",");
            put_param(b, q, id);
            first = false;
        }
    buf_z(b, "],\"responses\":{\"200\":{\"description\":\"The answer\",\"headers\":{"
             "\"Sluice-Table-Versions\":{\"description\":\"the versions that were "
             "read\",\"schema\":{\"type\":\"string\"}},"
             "\"ETag\":{\"schema\":{\"type\":\"string\"}}},\"content\":{\"application/"
             "json\":{\"schema\":{\"type\":\"object\",\"properties\":{"
             "\"meta\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}},\"data\":{\"type\":"
             "\"array\",\"items\":");
    put_row_schema(b, q);
    buf_z(b, "},\"rows\":{\"type\":\"integer\"},\"statistics\":{\"type\":\"object\"}},\"required\":"
             "[\"meta\",\"data\",\"rows\",\"statistics\"]}},"
             "\"application/x-ndjson\":{\"schema\":{\"type\":\"string\"}},\"text/"
             "csv\":{\"schema\":{\"type\":\"string\"}}}},"
             "\"304\":{\"description\":\"The answer that the client has is still the answer\"}");
    put_problems(b, possible, sizeof possible / sizeof *possible);
    buf_z(b, "}}}");
}

static void put_plain(struct buf *b, enum route_id id)
{
    static const enum problem possible[] = {PROBLEM_UNKNOWN_TABLE, PROBLEM_NOT_ACCEPTABLE};
    const struct route *r = &routes[id];
    buf_printf(b, "%s\n\"%s", b->data[b->len - 1] == '{' ? "" : ",", r->path);
    if (r->path_parameter)
        buf_printf(b, "{%s}", r->path_parameter);
    buf_printf(b, "\":{\"get\":{\"operationId\":\"%s\",\"summary\":", r->name);
    buf_json(b, str_of(r->summary));
    if (r->path_parameter) {
        buf_printf(b,
                   ",\"parameters\":[{\"name\":\"%s\",\"in\":\"path\",\"required\":true,\"schema\":"
                   "{\"type\":\"string\",\"enum\":[",
                   r->path_parameter);
        for (unsigned t = 0; t <= TABLE_DEAD; t++)
            buf_printf(b, "%s\"%s\"", t ? "," : "", table_names[t]);
        buf_z(b, "]}}]");
    }
    buf_z(b, ",\"responses\":{\"200\":{\"description\":\"OK\",\"content\":{\"application/"
             "json\":{\"schema\":{\"type\":\"object\"}}}}");
    unsigned skip = r->path_parameter ? 0 : 1;
    put_problems(b, possible + skip, sizeof possible / sizeof *possible - skip);
    buf_z(b, "}}}");
}

void openapi_write(struct buf *out)
{
    buf_z(out, "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"Sluice query "
               "API\",\"version\":\"1\",\"license\":{\"name\":\"Apache-2.0\","
               "\"identifier\":\"Apache-2.0\"},\"description\":\"Answers to questions about posts, "
               "from Delta tables.\"},\n\"paths\":{");
    put_plain(out, ROUTE_QUESTIONS);
    for (unsigned i = 0; i < QUESTIONS; i++)
        put_question(out, &questions[i]);
    put_plain(out, ROUTE_TABLES);
    put_plain(out, ROUTE_TABLE);
    put_plain(out, ROUTE_OPENAPI);
    buf_z(out, "},\n\"components\":{\"schemas\":{\"Problem\":{\"type\":\"object\",\"description\":"
               "\"RFC 9457\",\"properties\":{"
               "\"type\":{\"type\":\"string\",\"enum\":[");
    for (unsigned i = 0; i < PROBLEMS; i++)
        buf_printf(out, "%s\"urn:sluice:problem:%s\"", i ? "," : "", problem_defs[i].type);
    buf_z(out, "]},\"title\":{\"type\":\"string\"},\"status\":{\"type\":\"integer\"},\"detail\":{"
               "\"type\":\"string\"},"
               "\"instance\":{\"type\":\"string\"},\"allowed\":{\"type\":\"array\",\"items\":{"
               "\"type\":\"string\"}}},"
               "\"required\":[\"type\",\"title\",\"status\",\"detail\"]}}}}\n");
}
