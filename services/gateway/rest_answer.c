/* rest_answer: JSON of the v2 answers.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/rest_answer.h"
#include "base/mem.h"
#include <stdlib.h>

void rest_answer_error(struct buf *body, int code, const char *text)
{
    buf_str(body, STR("{\"error_code\":"));
    buf_i64(body, code);
    buf_str(body, STR(",\"message\":"));
    buf_json(body, str_of(text));
    buf_char(body, '}');
}

static void whole_refused(const Sluice__Refused *r, struct buf *body, struct rest_outcome *ret)
{
    static const struct {
        int status, code;
        const char *text; /* NULL: the producer's own */
    } all[] = {
        [SLUICE__REFUSED__REASON__BUSY] = {503, 503, NULL},
        [SLUICE__REFUSED__REASON__TOPIC_UNKNOWN] = {404, 40401, "Topic not found."},
        [SLUICE__REFUSED__REASON__PARTITION_UNKNOWN] = {404, 40402, "Partition not found."},
        [SLUICE__REFUSED__REASON__INVALID] = {500, 50002, NULL},
        [SLUICE__REFUSED__REASON__DENIED] = {403, 40301, NULL},
        [SLUICE__REFUSED__REASON__AUTHENTICATION] = {401, 40101, NULL},
    };
    size_t i = (size_t)r->reason < sizeof all / sizeof *all && all[r->reason].status
                   ? (size_t)r->reason
                   : SLUICE__REFUSED__REASON__INVALID;
    ret->status = all[i].status;
    ret->code = all[i].code;
    rest_answer_error(body, all[i].code, all[i].text ? all[i].text : r->text);
}

static int code_of(Sluice__ProduceError__Outcome outcome)
{
    switch (outcome) {
    case SLUICE__PRODUCE_ERROR__OUTCOME__REFUSED:
        return 50002;
    case SLUICE__PRODUCE_ERROR__OUTCOME__DENIED:
        return 40301;
    case SLUICE__PRODUCE_ERROR__OUTCOME__UNAUTHENTICATED:
        return 40101;
    default:
        return 50003;
    }
}

static void put_failed(struct buf *body, int code, const char *text)
{
    buf_str(body, STR("{\"partition\":null,\"offset\":null,\"error_code\":"));
    buf_i64(body, code);
    buf_str(body, STR(",\"error\":"));
    buf_json(body, str_of(text));
    buf_char(body, '}');
}

static int by_index(const void *a, const void *b)
{
    const Sluice__ProduceError *x = *(Sluice__ProduceError *const *)a,
                               *y = *(Sluice__ProduceError *const *)b;
    return (x->index > y->index) - (x->index < y->index);
}

static int status_of(const struct rest_outcome *o, bool strict, bool authentication,
                     bool authorization)
{
    if (authentication)
        return 401;
    if (authorization)
        return 403;
    if (!strict || !(o->refused + o->unknown))
        return 200;
    if (o->stored)
        return 207;
    return o->refused ? 500 : 503;
}

void rest_answer_produce(const Sluice__ProduceAnswer *a, unsigned records, bool strict,
                         struct buf *body, struct rest_outcome *ret)
{
    *ret = (struct rest_outcome){0};
    if (a->refused) {
        ret->refused = records;
        whole_refused(a->refused, body, ret);
        return;
    }
    bool authentication = false, authorization = false;
    size_t at = 0;
    if (a->n_error > 1)
        qsort(a->error, a->n_error, sizeof *a->error, by_index);
    buf_str(body, STR("{\"offsets\":["));
    for (unsigned i = 0; i < records; i++) {
        if (i)
            buf_char(body, ',');
        while (at < a->n_error && a->error[at]->index < i)
            at++;
        if (at < a->n_error && a->error[at]->index == i) {
            int code = code_of(a->error[at]->outcome);
            authentication |= code == 40101;
            authorization |= code == 40301;
            *(code == 50003 ? &ret->unknown : &ret->refused) += 1;
            put_failed(body, code, a->error[at]->text);
        } else if (a->offset[i] < 0 || a->partition[i] < 0) {
            ret->unknown++;
            put_failed(body, 50003, "no offset was confirmed");
        } else {
            ret->stored++;
            buf_str(body, STR("{\"partition\":"));
            buf_i64(body, a->partition[i]);
            buf_str(body, STR(",\"offset\":"));
            buf_i64(body, a->offset[i]);
            buf_str(body, STR(",\"error_code\":null,\"error\":null}"));
        }
    }
    buf_str(body, STR("],\"key_schema_id\":null,\"value_schema_id\":null}"));
    ret->status = status_of(ret, strict, authentication, authorization);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(Sluice__Topic *const *)a)->name, (*(Sluice__Topic *const *)b)->name);
}

void rest_answer_topics(struct buf *body, const Sluice__QuestionAnswer *a)
{
    if (a->n_topic > 1)
        qsort(a->topic, a->n_topic, sizeof *a->topic, by_name);
    buf_char(body, '[');
    for (size_t i = 0; i < a->n_topic; i++) {
        if (i)
            buf_char(body, ',');
        buf_json(body, str_of(a->topic[i]->name));
    }
    buf_char(body, ']');
}

static void put_partition(struct buf *body, const Sluice__Topic__Partition *p)
{
    buf_str(body, STR("{\"partition\":"));
    buf_i64(body, p->number);
    buf_str(body, STR(",\"leader\":"));
    buf_i64(body, p->leader);
    buf_str(body, STR(",\"replicas\":["));
    for (size_t i = 0; i < p->n_replica; i++) {
        bool in_sync = false;
        for (size_t k = 0; k < p->n_in_sync; k++)
            in_sync |= p->in_sync[k] == p->replica[i];
        buf_str(body, i ? STR(",{\"broker\":") : STR("{\"broker\":"));
        buf_i64(body, p->replica[i]);
        buf_str(body, p->replica[i] == p->leader ? STR(",\"leader\":true,\"in_sync\":")
                                                 : STR(",\"leader\":false,\"in_sync\":"));
        buf_str(body, in_sync ? STR("true}") : STR("false}"));
    }
    buf_str(body, STR("]}"));
}

void rest_answer_partitions(struct buf *body, const Sluice__Topic *t)
{
    buf_char(body, '[');
    for (size_t i = 0; i < t->n_partition; i++) {
        if (i)
            buf_char(body, ',');
        put_partition(body, t->partition[i]);
    }
    buf_char(body, ']');
}

bool rest_answer_partition(struct buf *body, const Sluice__Topic *t, int32_t partition)
{
    for (size_t i = 0; i < t->n_partition; i++) {
        if (t->partition[i]->number == partition) {
            put_partition(body, t->partition[i]);
            return true;
        }
    }
    return false;
}

void rest_answer_topic(struct buf *body, const Sluice__Topic *t)
{
    buf_str(body, STR("{\"name\":"));
    buf_json(body, str_of(t->name));
    buf_str(body, STR(",\"configs\":{"));
    for (size_t i = 0; i < t->n_config; i++) {
        if (i)
            buf_char(body, ',');
        buf_json(body, str_of(t->config[i]->name));
        buf_char(body, ':');
        if (t->config[i]->value)
            buf_json(body, str_of(t->config[i]->value));
        else
            buf_str(body, STR("null"));
    }
    buf_str(body, STR("},\"partitions\":"));
    rest_answer_partitions(body, t);
    buf_char(body, '}');
}

void rest_answer_offsets(struct buf *body, const Sluice__QuestionAnswer *a)
{
    buf_str(body, STR("{\"beginning_offset\":"));
    buf_i64(body, a->beginning_offset);
    buf_str(body, STR(",\"end_offset\":"));
    buf_i64(body, a->end_offset);
    buf_char(body, '}');
}

void rest_answer_brokers(struct buf *body, const Sluice__QuestionAnswer *a)
{
    buf_str(body, STR("{\"brokers\":["));
    for (size_t i = 0; i < a->n_broker; i++) {
        if (i)
            buf_char(body, ',');
        buf_i64(body, a->broker[i]);
    }
    buf_str(body, STR("]}"));
}
