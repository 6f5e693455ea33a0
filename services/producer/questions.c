/* questions: of gateways, about topics, offsets and brokers: answered out of the cache, or by Kafka.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/mem.h"
#include "producer/batch.h"

static void question_end(struct question *q, unsigned result)
{
    struct batch *b = q->b;
    q->result = result;
    q->open = false;
    b->pending--;
    producer_batch_done(b);
}

static unsigned result_of(int rc)
{
    return rc == 0 ? ANSWER_OK : rc == ERR_NOT_FOUND ? ANSWER_NO_TOPIC : ANSWER_UNAVAILABLE;
}

static void on_configs(void *ctx, int rc, const struct kafka_header *configs, size_t n)
{
    struct question *q = ctx;
    struct buf topic, one;
    if (rc &&
        rc !=
            ERR_UNSUPPORTED) { /* a cluster that does not tell its configuration still has topics */
        buf_reset(&q->body);
        question_end(q, result_of(rc));
        return;
    }
    buf_init(&topic, MESSAGE_MAX);
    buf_init(&one, 1 << 20);
    buf_str(&topic, buf_as_str(&q->body));
    for (size_t i = 0; i < n; i++) {
        buf_reset(&one);
        wire_put_bytes(&one, 1, configs[i].name);
        if (configs[i].value.p)
            wire_put_bytes(&one, 2, configs[i].value);
        wire_put_bytes(&topic, 4, buf_as_str(&one));
    }
    buf_reset(&q->body);
    wire_put_bytes(&q->body, 2, buf_as_str(&topic));
    buf_deinit(&topic);
    buf_deinit(&one);
    question_end(q, ANSWER_OK);
}

static void on_topic(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct question *q = ctx;
    if (!rc && info->topics_n != 1)
        rc = ERR_NOT_FOUND;
    if (!rc)
        rc = info->topics[0].code;
    if (rc) {
        question_end(q, result_of(rc));
        return;
    }
    topic_encode(&info->topics[0], &q->body);
    kafka_admin_configs(q->b->p->admin, q->topic, on_configs, q);
}

static void on_end(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct question *q = ctx;
    if (!rc && n)
        wire_put_u64(&q->body, 5, (uint64_t)parts[0].offset);
    question_end(q, result_of(rc));
}

static void on_beginning(void *ctx, int rc, const struct kafka_partition *parts, size_t n)
{
    struct question *q = ctx;
    if (rc || !n) {
        question_end(q, rc ? result_of(rc) : ANSWER_UNAVAILABLE);
        return;
    }
    wire_put_u64(&q->body, 4, (uint64_t)parts[0].offset);
    const struct kafka_partition part = {.topic = q->topic, .partition = q->partition};
    kafka_admin_offsets(q->b->p->admin, &part, 1, false, on_end, q);
}

static void put_cluster(struct producer *p, struct buf *b)
{
    struct str key;
    void *value;
    for (size_t i = 0; map_next(p->topics, &i, &key, &value);)
        if (((struct topic *)value)->present)
            wire_put_bytes(b, 2, buf_as_str(&((struct topic *)value)->wire));
    for (size_t i = 0; i < p->brokers_n; i++)
        wire_put_u64(b, 3, (uint64_t)(int64_t)p->brokers[i]);
}

/* Answers from the cache, or starts asking Kafka. Nothing is told before the whole message was looked at. */
void questions_ask(struct producer *p, struct question *q)
{
    struct topic *t = topics_find(p, str_of(q->topic));
    metric_add(p->metrics, M_QUESTIONS, q->kind - 1, 1);
    if (q->kind == ASK_CLUSTER) {
        put_cluster(p, &q->body);
        q->result = p->refreshed_ms ? ANSWER_OK : ANSWER_UNAVAILABLE;
        return;
    }
    bool no_partition =
        q->kind == ASK_OFFSETS && t && (q->partition < 0 || (size_t)q->partition >= t->partitions);
    if (no_partition || (q->kind == ASK_OFFSETS && !t)) {
        q->result = no_partition      ? ANSWER_NO_PARTITION
                    : p->refreshed_ms ? ANSWER_NO_TOPIC
                                      : ANSWER_UNAVAILABLE;
        return;
    }
    q->open = true;
    q->b->pending++;
    const struct kafka_partition part = {.topic = q->topic, .partition = q->partition};
    const char *name = q->topic;
    if (q->kind == ASK_OFFSETS)
        kafka_admin_offsets(p->admin, &part, 1, true, on_beginning, q);
    else if (!t)
        kafka_admin_describe(p->admin, &name, 1, on_topic, q);
    else {
        buf_str(&q->body, buf_as_str(&t->wire));
        kafka_admin_configs(p->admin, q->topic, on_configs, q);
    }
}

bool questions_read(struct question *q, struct str body)
{
    struct wire w = wire_of(body);
    struct wire_field f;
    struct str topic = {0};
    q->partition = -1;
    while (wire_next(&w, &f)) {
        if (f.number == 1 && f.type == 0)
            q->kind = (unsigned)f.value;
        else if (f.number == 2 && f.type == 2)
            topic = f.bytes;
        else if (f.number == 3 && f.type == 0)
            q->partition = (int32_t)f.value;
    }
    q->topic = mem_strndup(topic.p ? topic.p : "", topic.n);
    buf_init(&q->body, MESSAGE_MAX);
    q->result = ANSWER_UNAVAILABLE;
    return !w.bad && q->kind >= ASK_CLUSTER && q->kind <= ASK_OFFSETS;
}

void questions_free(struct question *q)
{
    buf_deinit(&q->body);
    mem_free(q->topic);
}
