/* topics: what the cluster has, asked for again and again, and what it should have.
 *
 * Every metadata.refresh all topics are described. While something that is configured is missing or has too few partitions, one
 * order (create, or grow) follows each answer: clean and dead topics come before raw ones, because a cleaner must find the clean partition
 * of every raw one.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "topics"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "producer/producer.h"

enum { WANTED = 7, TOPIC_BYTES_MAX = 4 << 20, RAW_MARGIN = 64 << 10 };

static const char *const datasets[] = {"pin", "geo", "user"};

static void refresh(void *ctx);

static void again(struct producer *p, uint64_t after_ms)
{
    loop_timer_start(p->loop, &p->refresh_timer, after_ms, refresh, p);
}

/* ---- the cache ---- */
static void put_packed(struct buf *b, unsigned field, const int32_t *v, size_t n)
{
    size_t bytes = 0;
    if (!n)
        return;
    for (size_t i = 0; i < n; i++)
        bytes += wire_varint_size((uint64_t)(int64_t)v[i]);
    wire_put_varint(b, field << 3 | 2);
    wire_put_varint(b, bytes);
    for (size_t i = 0; i < n; i++)
        wire_put_varint(b, (uint64_t)(int64_t)v[i]);
}

void topic_encode(const struct kafka_topic_info *info, struct buf *out)
{
    struct buf part;
    buf_init(&part, TOPIC_BYTES_MAX);
    wire_put_bytes(out, 1, str_of(info->name));
    wire_put_bytes(out, 2, str_of(info->id));
    for (size_t i = 0; i < info->partitions_n; i++) {
        const struct kafka_topic_partition_info *x = &info->partitions[i];
        buf_reset(&part);
        wire_put_u64(&part, 1, (uint64_t)x->partition);
        wire_put_u64(&part, 2, (uint64_t)(int64_t)x->leader);
        put_packed(&part, 3, x->replicas, x->replicas_n);
        put_packed(&part, 4, x->isr, x->isr_n);
        wire_put_bytes(out, 3, buf_as_str(&part));
    }
    buf_deinit(&part);
}

struct topic *topics_find(struct producer *p, struct str name)
{
    struct topic *t = map_get(p->topics, name);
    return t && t->present ? t : NULL;
}

static void remember(struct producer *p, const struct kafka_topic_info *info)
{
    struct topic *t = map_get(p->topics, str_of(info->name));
    if (!t) {
        t = MEM_NEW(struct topic);
        t->name = mem_strdup(info->name);
        buf_init(&t->wire, TOPIC_BYTES_MAX);
        list_init(&t->held);
        map_put(p->topics, str_of(t->name), t);
    }
    memcpy(t->id, info->id, sizeof(t->id));
    t->present = true;
    t->partitions = info->partitions_n;
    buf_reset(&t->wire);
    topic_encode(info, &t->wire);
}

static void topic_free(struct topic *t)
{
    loop_defer_cancel(&t->release);
    buf_deinit(&t->wire);
    mem_free(t->name);
    mem_free(t);
}

static void remember_all(struct producer *p, const struct kafka_topics_info *info)
{
    struct str key;
    void *value;
    for (size_t i = 0; map_next(p->topics, &i, &key, &value);)
        ((struct topic *)value)->present = false;
    for (size_t i = 0; i < info->topics_n; i++)
        if (!info->topics[i].code)
            remember(p, &info->topics[i]);
    for (size_t i = 0; map_next(p->topics, &i, &key, &value);) {
        struct topic *t = value;
        if (t->present || t->in_flight || !list_empty(&t->held))
            continue;
        map_remove(p->topics, key);
        topic_free(t);
    }
    mem_free(p->brokers);
    p->brokers = mem_dup(info->brokers, info->brokers_n * sizeof(*info->brokers) + 1);
    p->brokers_n = info->brokers_n;
    p->refreshed_ms = clock_ms();
    metric_set(p->metrics, M_TOPICS, 0, (double)map_count(p->topics));
}

/* ---- what should be there ---- */
static void wanted(const struct producer *p, struct kafka_new_topic out[WANTED],
                   char names[WANTED][256])
{
    const char *user = app_common(p->app)->user;
    const struct producer_config *c = p->config;
    for (size_t i = 0; i < WANTED; i++) {
        struct kafka_new_topic *t = &out[i];
        bool dead = i == 3, raw = i > 3; /* clean three, dead, raw three */
        if (dead)
            snprintf(names[i], 256, "%s.dead", user);
        else
            snprintf(names[i], 256, raw ? "%s.%s" : "%s.clean.%s", user, datasets[raw ? i - 4 : i]);
        uint64_t bytes = c->record_max + RAW_MARGIN;
        uint64_t keep = dead ? c->retention_dead : raw ? c->retention_raw : c->retention_clean;
        *t = (struct kafka_new_topic){.name = names[i],
                                      .partitions = (int)c->topics_partitions,
                                      .replication = (int)c->topics_replication};
        t->configs[0].key = "cleanup.policy";
        snprintf(t->configs[0].value, sizeof(t->configs[0].value), "delete");
        t->configs[1].key = "retention.ms";
        snprintf(t->configs[1].value, sizeof(t->configs[1].value), "%llu",
                 (unsigned long long)keep);
        t->configs[2].key = "max.message.bytes";
        snprintf(t->configs[2].value, sizeof(t->configs[2].value), "%llu",
                 (unsigned long long)(raw ? bytes : 4 * bytes));
    }
}

static void on_ordered(void *ctx, int rc, const char *text)
{
    struct producer *p = ctx;
    p->asking = false;
    if (rc) {
        LOG(WARN, "topics_not_made", KV_ERR(rc), KV_STR("text", text));
        app_ready_set(p->app, "topics", false, text);
        again(p, loop_backoff_ms(p->tries++, 200, 5000));
        return;
    }
    again(p, 50);
}

/* Orders what is missing. Returns whether an order went out. */
static bool complete(struct producer *p)
{
    struct kafka_new_topic all[WANTED], missing[WANTED];
    char names[WANTED][256];
    size_t n = 0;
    wanted(p, all, names);
    for (size_t i = 0; i < WANTED; i++)
        if (!topics_find(p, str_of(all[i].name)))
            missing[n++] = all[i];
    if (n && p->config->topics_create) {
        LOG(INFO, "topics_ordered", KV_INT("topics", n));
        kafka_admin_create(p->admin, missing, n, on_ordered, p);
        return true;
    }
    for (size_t i = 0; i < WANTED && p->config->topics_create; i++) {
        if (topics_find(p, str_of(all[i].name))->partitions >= (size_t)all[i].partitions)
            continue;
        LOG(INFO, "partitions_ordered", KV_STR("topic", all[i].name),
            KV_INT("partitions", all[i].partitions));
        kafka_admin_grow(p->admin, all[i].name, all[i].partitions, on_ordered, p);
        return true;
    }
    p->complete = !n;
    app_ready_set(p->app, "topics", !n, n ? missing[0].name : "all there");
    return false;
}

static void on_topics(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct producer *p = ctx;
    p->asking = false;
    if (rc) {
        /* What was known stays: its age is told with every answer, and by a metric. */
        LOG(DEBUG, "metadata_not_had", KV_ERR(rc));
        again(p, loop_backoff_ms(p->tries++, 100, 1000));
        return;
    }
    p->tries = 0;
    remember_all(p, info);
    p->asking = complete(p);
    if (!p->asking)
        again(p, p->config->metadata_refresh);
}

static void refresh(void *ctx)
{
    struct producer *p = ctx;
    if (p->asking)
        return;
    p->asking = true;
    kafka_admin_describe(p->admin, NULL, 0, on_topics, p);
}

void topics_start(struct producer *p)
{
    p->topics = map_new();
    app_ready_set(p->app, "topics", false, "not looked at yet");
    refresh(p);
}

void topics_stop(struct producer *p)
{
    struct str key;
    void *value;
    loop_timer_stop(&p->refresh_timer);
    if (!p->topics)
        return;
    for (size_t i = 0; map_next(p->topics, &i, &key, &value);)
        topic_free(value);
    map_free(&p->topics);
    mem_free(p->brokers);
}
