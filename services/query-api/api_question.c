/* api_question: one question, from its parameters to its answer.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "api"
#include "query-api/api.h"
#include "base/hash.h"
#include "base/log.h"
#include <stdio.h>

static void answer_fault(struct request *q, const struct question *question,
                         const struct ask_fault *f)
{
    struct buf allowed;
    buf_init(&allowed, 8192);
    buf_z(&allowed, "");
    bool unknown = !f->param;
    for (unsigned i = 0; i < PARAMS; i++) {
        if (unknown && question_takes(question, i))
            api_put_name(&allowed, param_defs[i].name);
        const char *const *v = param_defs[i].values;
        for (; !unknown && v && !strcmp(f->param, param_defs[i].name) && *v; v++)
            api_put_name(&allowed, *v);
    }
    char detail[600];
    if (unknown)
        snprintf(detail, sizeof detail, "the question %s has no parameter '%s'", question->name,
                 f->name);
    else
        snprintf(detail, sizeof detail, "%s", f->detail);
    api_problem_allowed(q, unknown ? PROBLEM_UNKNOWN_PARAMETER : PROBLEM_BAD_VALUE, detail,
                        allowed.len ? allowed.data : NULL);
    buf_deinit(&allowed);
}

static void answer_unknown_question(struct request *q)
{
    struct buf allowed;
    buf_init(&allowed, 4096);
    for (unsigned i = 0; i < QUESTIONS; i++)
        api_put_name(&allowed, questions[i].name);
    api_problem_allowed(q, PROBLEM_UNKNOWN_QUESTION, "no question has that name", allowed.data);
    buf_deinit(&allowed);
}

/* The snapshots to be read, the header that names them and the tag: false when it was answered already. */
static bool choose_tables(struct request *q, struct snapshot *snapshots[ASKED_TABLES])
{
    struct buf key, versions;
    buf_init(&key, 8192);
    buf_init(&versions, sizeof q->versions - 1);
    buf_z(&versions, "");
    ask_canonical(&q->ask, &key);
    const char *detail = NULL;
    char text[400];
    enum problem p = PROBLEM_INTERNAL;
    for (unsigned t = 0; t < ASKED_TABLES && !detail; t++) {
        snapshots[t] = NULL;
        if (!(q->ask.question->tables >> t & 1))
            continue;
        enum table_id id = q->ask.batch ? TABLE_BATCH_PIN + t : t;
        struct table_view v;
        catalog_get(q->api->catalog, id, &v);
        int64_t wanted = q->ask.versions[t], version = v.snapshot ? v.snapshot->version : -1;
        uint64_t age = catalog_age_ms(q->api->catalog, id);
        q->age_ms = age > q->age_ms ? age : q->age_ms;
        detail = text;
        if (!v.known) {
            p = v.trouble ? PROBLEM_TABLE_UNAVAILABLE : PROBLEM_STARTING;
            snprintf(text, sizeof text, "the %s table: %s", table_names[id],
                     v.trouble ? v.trouble : "its log is being read");
        } else if (!v.snapshot && q->ask.batch) {
            p = PROBLEM_NO_SUCH_TABLE;
            snprintf(text, sizeof text, "there is no batch table for %s", table_names[t]);
        } else if (wanted > version) {
            p = PROBLEM_VERSION_GONE;
            if (v.snapshot)
                snprintf(text, sizeof text, "the %s table has no version %lld; the latest is %lld",
                         table_names[t], (long long)wanted, (long long)version);
            else
                snprintf(text, sizeof text, "the %s table is not there, in any version",
                         table_names[t]);
        } else {
            detail = NULL;
            snapshots[t] = wanted < 0 || wanted == version ? v.snapshot : NULL;
            if (wanted == version)
                q->ask.versions[t] = -1;
        }
        if (!detail && v.snapshot) {
            long long read = (long long)(wanted < 0 ? version : wanted);
            buf_printf(&versions, "%s%s=%lld", versions.len ? ", " : "", table_names[t], read);
            buf_printf(&key, "&%s=%s:%lld", table_names[t], v.snapshot->id, read);
        }
    }
    if (detail) {
        api_problem(q, p, detail);
    } else {
        uint8_t sum[32];
        /* Another text of the question may give another answer. */
        buf_append(&key, q->ask.question->sql,
                   (size_t)(q->ask.question->sql_end - q->ask.question->sql));
        hash_sha256(key.data, key.len, sum);
        char hex[25] = {0};
        str_hex(sum, 12, hex);
        /* Weak: the statistics of two equal answers differ. */
        snprintf(q->etag, sizeof q->etag, "W/\"%s\"", hex);
        memcpy(q->versions, versions.data, versions.len + 1);
    }
    buf_deinit(&key);
    buf_deinit(&versions);
    return !detail;
}

/* If-None-Match compares weakly: the texts between the quotes. */
static bool matches(struct str field, const char *etag)
{
    struct str part;
    if (str_is(str_trim(field), "*"))
        return true;
    while (field.n && str_next(&field, ',', &part)) {
        part = str_trim(part);
        if (str_starts(part, STR("W/")))
            part = str_make(part.p + 2, part.n - 2);
        if (str_is(part, etag + 2))
            return true;
    }
    return false;
}

static struct httpd_answer head_of_answer(const struct request *q, int status, const char *type,
                                          char age[24])
{
    struct httpd_answer a = api_head(q, status, type);
    api_put_header(&a, "cache-control", STR("private, no-cache"));
    api_put_header(&a, "etag", str_of(q->etag));
    if (q->versions[0])
        api_put_header(&a, "sluice-table-versions", str_of(q->versions));
    if (q->age_ms) {
        snprintf(age, 24, "%llu", (unsigned long long)(q->age_ms / 1000));
        api_put_header(&a, "sluice-data-age", str_of(age));
    }
    return a;
}

static void answer_failure(struct request *q, const struct run_result *res)
{
    char text[400];
    switch (res->rc) {
    case ERR_TOO_LARGE:
        api_problem(q, PROBLEM_TOO_MANY_ROWS, res->text);
        return;
    case ERR_LIMIT:
        api_problem(
            q, PROBLEM_OUT_OF_MEMORY,
            "the question does not fit into query.memory, and spilling to disk did not help");
        return;
    case ERR_NOSPACE:
        api_problem(q, PROBLEM_SPILL_FULL,
                    "what the question spills to disk does not fit into spill.max");
        return;
    case ERR_NOT_FOUND:
        if (res->failed_table >= 0 || q->ask.versions[0] >= 0 || q->ask.versions[1] >= 0 ||
            q->ask.versions[2] >= 0) {
            snprintf(text, sizeof text,
                     "the version of the %s table, or a file of it, is not to be had any more",
                     res->failed_table >= 0 ? table_names[res->failed_table] : "asked");
            api_problem(q, PROBLEM_VERSION_GONE, text);
            return;
        }
        /* The latest version names files that are not there: its log deserves another look. */
        for (unsigned t = 0; t < ASKED_TABLES; t++)
            if (q->ask.question->tables >> t & 1)
                catalog_doubt(q->api->catalog, q->ask.batch ? TABLE_BATCH_PIN + t : t);
        api_problem(q, PROBLEM_TABLE_UNAVAILABLE,
                    "a file of the table is missing; its log is read anew");
        return;
    case ERR_UNSUPPORTED:
    case ERR_CORRUPT:
    case ERR_IO:
        LOG(ERROR, "table_broken", KV_STR("request_id", q->id),
            KV_STR("question", q->ask.question->name), KV_ERR(res->rc),
            KV_STR("detail", res->text));
        api_problem(q, PROBLEM_TABLE_UNAVAILABLE,
                    "a file or the log of the table cannot be read; the service's log says more");
        return;
    default:
        LOG(ERROR, "question_failed", KV_STR("request_id", q->id),
            KV_STR("question", q->ask.question->name), KV_ERR(res->rc),
            KV_STR("detail", res->text));
        api_problem(q, PROBLEM_INTERNAL,
                    "the question failed; the service's log says why, under this instance");
    }
}

static void on_run_done(void *ctx, const struct run_result *res)
{
    struct request *q = ctx;
    char age[24], text[160];
    q->run = NULL;
    switch (res->end) {
    case RUN_OK:
        if (res->out->len > API_AT_ONCE_BYTES &&
            !app_memory_fits(app_memory(q->api->app), res->out->len)) {
            api_problem(q, PROBLEM_BUSY,
                        "answers that are being sent take all memory there is for them");
            return;
        }
        struct httpd_answer a = head_of_answer(q, 200, format_types[q->ask.format], age);
        api_send(q, &a, res->out);
        return;
    case RUN_TIMEOUT:
        snprintf(text, sizeof text, "no answer within %llu ms (query.timeout)",
                 (unsigned long long)q->api->config->timeout);
        api_problem(q, PROBLEM_TIMEOUT, text);
        return;
    case RUN_FAILED:
        answer_failure(q, res);
        return;
    case RUN_LEFT:
    case RUN_STOPPED:
        api_problem(q, PROBLEM_DRAINING, "the service is ending");
        return;
    }
}

void api_question(struct request *q, struct str name)
{
    const struct question *question = question_by_name(name);
    struct ask_fault fault;
    struct snapshot *snapshots[ASKED_TABLES];
    if (!question) {
        answer_unknown_question(q);
        return;
    }
    if (ask_parse(&q->ask, question, q->req->query, &fault)) {
        answer_fault(q, question, &fault);
        return;
    }
    if (!q->ask.format_given) {
        unsigned all = (1u << FORMATS) - 1;
        int format = format_accepted(httpd_header(q->req, "accept"), all);
        if (format < 0) {
            api_not_acceptable(q, all);
            return;
        }
        q->ask.format = (enum format)format;
    }
    if (!choose_tables(q, snapshots))
        return;
    struct str condition = httpd_header(q->req, "if-none-match");
    if (condition.n) {
        bool hit = matches(condition, q->etag);
        metric_add(q->api->metrics, M_REVALIDATIONS, hit ? 0 : 1, 1);
        if (hit) {
            char age[24];
            struct buf none = {0};
            struct httpd_answer a = head_of_answer(q, 304, NULL, age);
            api_send(q, &a, &none);
            return;
        }
    }
    if (runner_start(q->api->runner, &q->ask, snapshots, q->age_ms, on_run_done, q, &q->run))
        api_problem(q, PROBLEM_BUSY, "as many questions are waiting as may (query.queue.max)");
}
