/* test_inbox: order and completeness from several threads, and closing at any moment.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/inbox.h"
#include "base/mem.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define THREADS 4
#define EACH 20000

struct item {
    struct list node;
    int thread, number;
};

struct box {
    struct loop *loop;
    struct inbox *inbox;
    int next[THREADS], got, dropped, close_after;
};

static void on_drop(void *ctx, struct list *node)
{
    struct box *b = ctx;
    mem_free(LIST_ENTRY(node, struct item, node));
    b->dropped++;
}

static void on_item(void *ctx, struct list *node)
{
    struct box *b = ctx;
    struct item *item = LIST_ENTRY(node, struct item, node);
    assert_int_equal(item->number, b->next[item->thread]++);
    mem_free(item);
    if (++b->got == b->close_after) {
        inbox_close(&b->inbox, on_drop);
        loop_stop(b->loop);
    }
}

struct poster {
    struct box *box;
    int thread;
};

static void *poster_main(void *ctx)
{
    struct poster *p = ctx;
    for (int i = 0; i < EACH; i++) {
        struct item *item = MEM_NEW(struct item);
        item->thread = p->thread;
        item->number = i;
        inbox_post_mt(p->box->inbox, &item->node);
    }
    return NULL;
}

static void threads_post_in_order_and_nothing_is_lost(void **state)
{
    (void)state;
    struct box box = {.loop = loop_new(), .close_after = THREADS * EACH};
    box.inbox = inbox_open(box.loop, on_item, &box);
    pthread_t threads[THREADS];
    struct poster posters[THREADS];
    for (int i = 0; i < THREADS; i++) {
        posters[i] = (struct poster){&box, i};
        assert_int_equal(pthread_create(&threads[i], NULL, poster_main, &posters[i]), 0);
    }
    loop_run(box.loop);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(box.got, THREADS * EACH);
    assert_int_equal(box.dropped, 0);
    assert_int_equal(loop_free(&box.loop), 0);
}

static void post(struct box *box, int number)
{
    struct item *item = MEM_NEW(struct item);
    item->number = number;
    inbox_post_mt(box->inbox, &item->node);
}

static void closing_inside_the_callback_drops_the_rest(void **state)
{
    (void)state;
    struct box box = {.loop = loop_new(), .close_after = 3};
    box.inbox = inbox_open(box.loop, on_item, &box);
    for (int i = 0; i < 10; i++)
        post(&box, i);
    assert_int_equal(box.got, 0); /* never inside the post */
    loop_run(box.loop);
    assert_int_equal(box.got, 3);
    assert_int_equal(box.dropped, 7);
    assert_null(box.inbox);
    assert_int_equal(loop_free(&box.loop), 0);
}

static void closing_before_the_wake_up_drops_all(void **state)
{
    (void)state;
    struct box box = {.loop = loop_new()};
    box.inbox = inbox_open(box.loop, on_item, &box);
    post(&box, 0);
    post(&box, 1);
    inbox_close(&box.inbox, on_drop);
    inbox_close(&box.inbox, on_drop);
    loop_run(box.loop);
    assert_int_equal(box.got, 0);
    assert_int_equal(box.dropped, 2);
    assert_int_equal(loop_free(&box.loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_post_in_order_and_nothing_is_lost),
        cmocka_unit_test(closing_inside_the_callback_drops_the_rest),
        cmocka_unit_test(closing_before_the_wake_up_drops_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
