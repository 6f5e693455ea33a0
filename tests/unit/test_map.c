/* Tests of base/map.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/map.h"
#include "base/rnd.h"
#include <stdio.h>

static int values[1000];

static struct str key_of(char out[16], unsigned i)
{
    return str_make(out, (size_t)snprintf(out, 16, "key-%u", i));
}

static void puts_and_gets(void **state)
{
    (void)state;
    struct map *m = map_new();
    assert_null(map_get(m, STR("a")));
    assert_null(map_remove(m, STR("a")));
    assert_null(map_put(m, STR("a"), &values[1]));
    assert_ptr_equal(map_put(m, STR("a"), &values[2]), &values[1]);
    assert_ptr_equal(map_get(m, STR("a")), &values[2]);
    assert_null(map_put(m, STR(""), &values[3]));
    assert_null(map_put(m, str_make("a\0", 2), &values[4]));
    assert_int_equal(map_count(m), 3);
    assert_ptr_equal(map_remove(m, STR("")), &values[3]);
    assert_null(map_get(m, STR("")));
    assert_ptr_equal(map_get(m, str_make("a\0", 2)), &values[4]);
    map_free(&m);
    assert_null(m);
    map_free(&m);
}

/* Random steps beside an array of what must be there. */
static void agrees_with_an_array(void **state)
{
    (void)state;
    struct map *m = map_new();
    struct rnd r;
    rnd_seed(&r, 4);
    void *want[300] = {NULL};
    size_t count = 0;
    for (int step = 0; step < 100000; step++) {
        unsigned k = (unsigned)rnd_below(&r, 300);
        char text[16];
        struct str key = key_of(text, k);
        switch (rnd_below(&r, 3)) {
        case 0: {
            void *v = &values[rnd_below(&r, 1000)];
            assert_ptr_equal(map_put(m, key, v), want[k]);
            count += !want[k];
            want[k] = v;
            break;
        }
        case 1:
            assert_ptr_equal(map_remove(m, key), want[k]);
            count -= want[k] != NULL;
            want[k] = NULL;
            break;
        default:
            assert_ptr_equal(map_get(m, key), want[k]);
        }
        assert_int_equal(map_count(m), count);
    }
    map_free(&m);
}

static void iterates_in_order(void **state)
{
    (void)state;
    struct map *m = map_new();
    char text[16];
    for (unsigned i = 0; i < 100; i++)
        map_put(m, key_of(text, i), &values[i]);
    struct str key;
    void *value;
    for (size_t i = 0; map_next(m, &i, &key, &value);) {
        if ((int *)value - values >= 50 || ((int *)value - values) % 2)
            map_remove(m, key);
    }
    for (unsigned i = 200; i < 400; i++)
        map_put(m, key_of(text, i), &values[i]);
    unsigned want = 0, seen = 0;
    for (size_t i = 0; map_next(m, &i, &key, &value); seen++) {
        assert_ptr_equal(value, &values[want]);
        assert_true(str_eq(key, key_of(text, want)));
        want = want == 48 ? 200 : want < 48 ? want + 2 : want + 1;
    }
    assert_int_equal(seen, 225);
    map_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(puts_and_gets),
                                       cmocka_unit_test(agrees_with_an_array),
                                       cmocka_unit_test(iterates_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
