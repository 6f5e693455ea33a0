/* redis_reply: hiredis' reader behind our types, and the formatter of commands.
 *
 * The reader builds struct redis_reply directly. A reply is capped twice: by the bytes that arrive before it is whole, and by the
 * elements an array announces (each takes three bytes at least), before memory for them is taken.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/redis_priv.h"
#include "base/check.h"
#include "base/mem.h"
#include <hiredis/hiredis.h>
#include <limits.h>

#define MAX_ARGS 1048576

struct redis_reader {
    redisReader *r;
    size_t max_bytes, since_bytes; /* since: fed after the last whole reply */
    bool too_large;
};

static struct redis_reply *reply_at(const redisReadTask *task)
{
    if (!task->parent)
        return MEM_NEW(struct redis_reply);
    const struct redis_reply *parent = task->parent->obj;
    CHECK(parent && task->idx >= 0 && (size_t)task->idx < parent->n);
    /* The items are ours and still being built; const is for those who read them. */
    return (struct redis_reply *)(uintptr_t)&parent->items[task->idx];
}

static void *make_string(const redisReadTask *task, char *p, size_t n)
{
    struct redis_reply *reply = reply_at(task);
    reply->kind = task->type == REDIS_REPLY_ERROR    ? REDIS_ERROR
                  : task->type == REDIS_REPLY_STATUS ? REDIS_STATUS
                                                     : REDIS_STR;
    reply->s = str_make(mem_strndup(p, n), n);
    return reply;
}

static void *make_array(const redisReadTask *task, int n)
{
    struct redis_reader *reader = task->privdata;
    if (n < 0 || (size_t)n > reader->max_bytes / 3) {
        reader->too_large = true;
        return NULL;
    }
    struct redis_reply *reply = reply_at(task);
    reply->kind = REDIS_ARRAY;
    reply->n = (size_t)n;
    reply->items = n ? MEM_ARRAY(struct redis_reply, (size_t)n) : NULL;
    return reply;
}

static void *make_integer(const redisReadTask *task, long long v)
{
    struct redis_reply *reply = reply_at(task);
    reply->kind = REDIS_INT;
    reply->i = v;
    return reply;
}

static void *make_nil(const redisReadTask *task)
{
    struct redis_reply *reply = reply_at(task);
    reply->kind = REDIS_NIL;
    return reply;
}

static void reply_deinit(const struct redis_reply *reply)
{
    /* Nesting is at most 7 deep: hiredis refuses more. */
    for (size_t i = 0; i < reply->n; i++)
        reply_deinit(&reply->items[i]);
    mem_free((void *)(uintptr_t)reply->items);
    mem_free((void *)(uintptr_t)reply->s.p);
}

void redis_reply_free(struct redis_reply *reply)
{
    if (!reply)
        return;
    reply_deinit(reply);
    mem_free(reply);
}

static void free_object(void *p)
{
    redis_reply_free(p);
}

static redisReplyObjectFunctions functions = {.createString = make_string,
                                              .createArray = make_array,
                                              .createInteger = make_integer,
                                              .createNil = make_nil,
                                              .freeObject = free_object};

struct redis_reader *redis_reader_new(size_t max_reply_bytes)
{
    struct redis_reader *reader = MEM_NEW(struct redis_reader);
    reader->r = redisReaderCreateWithFunctions(&functions);
    CHECK(reader->r != NULL);
    reader->r->privdata = reader;
    reader->max_bytes = max_reply_bytes;
    return reader;
}

void redis_reader_free(struct redis_reader **ptr)
{
    struct redis_reader *reader = *ptr;
    if (!reader)
        return;
    *ptr = NULL;
    redisReaderFree(reader->r);
    mem_free(reader);
}

int redis_reader_feed(struct redis_reader *reader, const char *p, size_t n)
{
    reader->since_bytes += n;
    return redisReaderFeed(reader->r, p, n) == REDIS_OK ? 0 : ERR_PROTOCOL;
}

int redis_reader_next(struct redis_reader *reader, struct redis_reply **ret)
{
    void *reply = NULL;
    if (redisReaderGetReply(reader->r, &reply) != REDIS_OK)
        return reader->too_large ? ERR_TOO_LARGE : ERR_PROTOCOL;
    if (reply)
        reader->since_bytes = reader->r->len - reader->r->pos;
    else if (reader->since_bytes > reader->max_bytes)
        return ERR_TOO_LARGE;
    *ret = reply;
    return 0;
}

/* "<kind><n>\r\n" */
static char *put_head(char *p, char kind, size_t n)
{
    char digits[20];
    unsigned d = 0;
    do
        digits[d++] = (char)('0' + n % 10);
    while (n /= 10);
    *p++ = kind;
    while (d)
        *p++ = digits[--d];
    *p++ = '\r';
    *p++ = '\n';
    return p;
}

/* Not hiredis' formatter: its printf for each argument costs more than all else that a mark does. */
char *redis_command_format(const struct str *argv, size_t argc, size_t *ret_n)
{
    if (argc == 0 || argc > MAX_ARGS)
        return NULL;
    size_t room = 24;
    for (size_t i = 0; i < argc; i++) {
        if (argv[i].n > INT_MAX / 2 || room > INT_MAX / 2)
            return NULL;
        room += argv[i].n + 24;
    }
    char *bytes = mem_alloc_raw(room), *p = put_head(bytes, '*', argc);
    for (size_t i = 0; i < argc; i++) {
        p = put_head(p, '$', argv[i].n);
        if (argv[i].n)
            memcpy(p, argv[i].p, argv[i].n);
        p += argv[i].n;
        *p++ = '\r';
        *p++ = '\n';
    }
    *ret_n = (size_t)(p - bytes);
    return bytes;
}

void redis_command_free(char *bytes)
{
    mem_free(bytes);
}
