/* looks: whether the raw topics are still those that the chains go by.
 *
 * A topic that is deleted and made anew has the same name, and offsets from 0 on: librdkafka reads on where it stood, as soon as the new log is
 * that long. So every letter waits for a look at the topics' ids that began after the letter was written: the same id then means the same topic
 * all the time before. Looks follow each other while letters wait, at most one every LOOK_EVERY_MS; without letters, every topics.check.
 * SPDX-License-Identifier: Apache-2.0  */
#define LOG_MODULE "cleaner"
#include "cleaner/cleaner.h"

#include "base/clock.h"
#include "base/log.h"
#include <string.h>

enum { LOOK_EVERY_MS = 20, LOOK_BACKOFF_MS = 50, LOOK_BACKOFF_CAP_MS = 500 };

static void look(void *ctx);

static size_t topics_of(struct cleaner *c, const char *names[DATASETS])
{
    size_t n = 0;
    LIST_EACH (it, tmp, member_parts(c->member)) {
        const struct member_part *p = LIST_ENTRY(it, struct member_part, node);
        bool known = false;
        for (size_t i = 0; i < n; i++)
            known |= !strcmp(names[i], p->topic);
        if (!known && n < DATASETS)
            names[n++] = p->topic;
    }
    return n;
}

static bool letters_wait(struct cleaner *c)
{
    LIST_EACH (it, tmp, member_parts(c->member)) {
        if (!list_empty(&PART(LIST_ENTRY(it, struct member_part, node))->held))
            return true;
    }
    return false;
}

static void look_in(struct cleaner *c, uint64_t ms)
{
    loop_timer_start(c->loop, &c->look, ms, look, c);
}

static void on_looked(void *ctx, int rc, const struct kafka_topics_info *info)
{
    struct cleaner *c = ctx;
    bool missing = false;
    c->looking = false;
    for (size_t i = 0; !rc && i < info->topics_n; i++) {
        const struct kafka_topic_info *t = &info->topics[i];
        missing |= t->code != 0;
        if (t->code)
            continue;
        LIST_EACH (it, tmp, member_parts(c->member)) {
            struct part *p = PART(LIST_ENTRY(it, struct member_part, node));
            if (p->state != PART_RUNNING || strcmp(p->m.topic, t->name))
                continue;
            if (strcmp(p->id, t->id))
                raw_part_restart(p, "topic_made_anew");
            else
                letters_release(p, c->looks);
        }
    }
    c->looks_failed = rc || missing ? c->looks_failed + 1 : 0;
    if (c->looks_failed)
        look_in(c, loop_backoff_ms(c->looks_failed - 1, LOOK_BACKOFF_MS, LOOK_BACKOFF_CAP_MS));
    else if (letters_wait(c))
        looks_want(c);
    else
        look_in(c, c->config->topics_check);
}

static void look(void *ctx)
{
    struct cleaner *c = ctx;
    const char *names[DATASETS];
    size_t n = topics_of(c, names);
    if (!n) {
        look_in(c, c->config->topics_check);
        return;
    }
    c->looks++;
    c->looking = true;
    c->looked_ms = clock_ms();
    kafka_admin_describe(member_admin(c->member), names, n, on_looked, c);
}

void looks_want(struct cleaner *c)
{
    if (c->looking || c->looks_failed)
        return; /* the answer comes here, or the next try is near */
    uint64_t since = clock_ms() - c->looked_ms;
    uint64_t wait = since < LOOK_EVERY_MS ? LOOK_EVERY_MS - since : 0;
    if (!loop_timer_active(&c->look) || c->look.due_ms > clock_ms() + wait)
        look_in(c, wait);
}

void looks_open(struct cleaner *c)
{
    if (!loop_timer_active(&c->look))
        look_in(c, c->config->topics_check);
}

void looks_close(struct cleaner *c)
{
    loop_timer_stop(&c->look);
}
