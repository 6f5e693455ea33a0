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

/* Why a question cannot be answered from its tables. */
struct hindrance {
    enum problem problem;
    char detail[400];
};

/* The version of table `t` (by ASKED_TABLES) that is to be read, -1: there is no such table, and its snapshot, NULL: there is none yet.
 * False with *h: it cannot be read. */
static bool choose_table(struct request *q, unsigned t, struct table_view *v, int64_t *ret_version,
                         struct snapshot **ret, struct hindrance *h)
{
    enum table_id id = q->ask.batch ? TABLE_BATCH_PIN + t : t;
    catalog_get(q->api->catalog, id, v);
    int64_t wanted = q->ask.versions[t], latest = v->snapshot ? v->snapshot->version : -1;
    uint64_t age = catalog_age_ms(q->api->catalog, id);
    q->age_ms = age > q->age_ms ? age : q->age_ms;
    if (!v->known) {
        h->problem = v->trouble ? PROBLEM_TABLE_UNAVAILABLE : PROBLEM_STARTING;
        snprintf(h->detail, sizeof h->detail, "the %s table: %s", table_names[id],
                 v->trouble ? v->trouble : "its log is being read");
        return false;
    }
    if (!v->snapshot && q->ask.batch) {
        h->problem = PROBLEM_NO_SUCH_TABLE;
        snprintf(h->detail, sizeof h->detail, "there is no batch table for %s", table_names[t]);
        return false;
    }
    if (wanted > latest) {
        h->problem = PROBLEM_VERSION_GONE;
        if (v->snapshot)
            snprintf(h->detail, sizeof h->detail,
                     "the %s table has no version %lld; the latest is %lld", table_names[t],
                     (long long)wanted, (long long)latest);
        else
            snprintf(h->detail, sizeof h->detail, "the %s table is not there, in any version",
                     table_names[t]);
        return false;
    }
    *ret = wanted < 0 || wanted == latest ? v->snapshot : NULL;
    *ret_version = wanted < 0 ? latest : wanted;
    if (wanted == latest)
        q->ask.versions[t] = -1;
    return true;
}

static void make_etag(struct request *q, struct buf *key)
{
    uint8_t sum[32];
    char hex[25] = {0};
    /* Another text of the question may give another answer. */
    buf_append(key, q->ask.question->sql,
               (size_t)(q->ask.question->sql_end - q->ask.question->sql));
    hash_sha256(key->data, key->len, sum);
    str_hex(sum, 12, hex);
    /* Weak: the statistics of two equal answers differ. */
    snprintf(q->etag, sizeof q->etag, "W/\"%s\"", hex);
}

/* The snapshots to be read, the header that names them and the tag: false when it was answered already. */
static bool choose_tables(struct request *q, struct snapshot *snapshots[ASKED_TABLES])
{
    struct buf key, versions;
    struct hindrance h;
    bool fine = true;
    buf_init(&key, 8192);
    buf_init(&versions, sizeof q->versions - 1);
    buf_z(&versions, "");
    ask_canonical(&q->ask, &key);
    for (unsigned t = 0; t < ASKED_TABLES && fine; t++) {
        struct table_view v;
        int64_t version;
        snapshots[t] = NULL;
        if (!(q->ask.question->tables >> t & 1))
            continue;
        fine = choose_table(q, t, &v, &version, &snapshots[t], &h);
        if (!fine || !v.snapshot)
            continue;
        buf_printf(&versions, "%s%s=%lld", versions.len ? ", " : "", table_names[t],
                   (long long)version);
        buf_printf(&key, "&%s=%s:%lld", table_names[t], v.snapshot->id, (long long)version);
    }
    if (fine) {
        make_etag(q, &key);
        memcpy(q->versions, versions.data, versions.len + 1);
    } else {
        api_problem(q, h.problem, h.detail);
    }
    buf_deinit(&key);
    buf_deinit(&versions);
    return fine;
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
        bool hit = etag_matches(condition, q->etag);
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
