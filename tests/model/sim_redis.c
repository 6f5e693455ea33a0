/* sim_redis: io/redis.h over one map that all nodes share; it is flushed, loses marks, and goes away.
 * SPDX-License-Identifier: Apache-2.0  */
#include "model/world.h"

#include "base/check.h"
#include "base/mem.h"
#include "io/redis.h"

struct command {
    struct list node;
    char **argv;
    size_t argc;
    redis_done_fn *done;
    void *ctx;
};

struct redis {
    struct app *app;
    struct list commands;
};

int redis_open(struct loop *loop, const struct redis_opts *o, struct redis **ret, struct err *e)
{
    (void)o, (void)e;
    struct redis *r = MEM_NEW(struct redis);
    r->app = sim_loop_app(loop);
    r->app->redis = r;
    list_init(&r->commands);
    *ret = r;
    return 0;
}

static void command_free(struct command *c)
{
    for (size_t i = 0; i < c->argc; i++)
        mem_free(c->argv[i]);
    mem_free(c->argv);
    mem_free(c);
}

void redis_close(struct redis **pr)
{
    struct redis *r = *pr;
    struct list *n;
    while ((n = list_pop(&r->commands)))
        command_free(LIST_ENTRY(n, struct command, node));
    r->app->redis = NULL;
    mem_free(r);
    *pr = NULL;
}

bool redis_connected(const struct redis *r)
{
    (void)r;
    return W->redis_up;
}

int redis_command(struct redis *r, const struct str *argv, size_t argc, redis_done_fn *done,
                  void *ctx)
{
    if (!W->redis_up)
        return ERR_UNAVAILABLE;
    struct command *c = MEM_NEW(struct command);
    c->argv = MEM_ARRAY(char *, argc);
    c->argc = argc;
    c->done = done;
    c->ctx = ctx;
    for (size_t i = 0; i < argc; i++)
        c->argv[i] = mem_strndup(argv[i].p, argv[i].n);
    list_push(&r->commands, &c->node);
    return 0;
}

/* Carries out the oldest command and answers it, or loses it with the connection. */
bool sim_redis_answer(struct app *app)
{
    if (!app->redis || list_empty(&app->redis->commands))
        return false;
    struct command *c = LIST_ENTRY(list_pop(&app->redis->commands), struct command, node);
    struct redis_reply items[1024], reply = {.kind = REDIS_ARRAY, .items = items, .n = c->argc - 1};
    bool lost = !W->redis_up || (!W->calm && chance(0.03));
    if (!strcmp(c->argv[0], "SET")) {
        reply.kind = REDIS_STATUS;
        if (!lost)
            map_put(W->redis, str_of(c->argv[1]), W);
    } else {
        CHECK(!strcmp(c->argv[0], "MGET") && c->argc <= 1024);
        for (size_t i = 1; i < c->argc; i++)
            items[i - 1].kind = map_get(W->redis, str_of(c->argv[i])) ? REDIS_STR : REDIS_NIL;
    }
    if (c->done)
        c->done(c->ctx, lost ? ERR_UNAVAILABLE : 0, lost ? NULL : &reply);
    command_free(c);
    return true;
}
