/* Tests of base/err.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/err.h"
#include <stdio.h>
#include <string.h>
#include <uv.h>

static void sets_and_prefixes(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, ERR_CONFIG, "bad %d", 7), ERR_CONFIG);
    assert_string_equal(e.text, "bad 7");
    assert_int_equal(err_prefix(&e, "file %s", "a.json"), ERR_CONFIG);
    assert_string_equal(e.text, "file a.json: bad 7");
    assert_int_equal(err_set(&e, ERR_IO, "again: %s", e.text), ERR_IO);
    assert_string_equal(e.text, "again: file a.json: bad 7");
    assert_int_equal(err_set(NULL, ERR_BUSY, "nobody reads"), ERR_BUSY);
    assert_true(err_prefix(NULL, "x") < 0);
}

static void cuts_long_texts(void **state)
{
    (void)state;
    struct err e = {0};
    char big[2000];
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = 0;
    err_set(&e, ERR_IO, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    err_prefix(&e, "front");
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    assert_memory_equal(e.text, "front: xx", 9);
    err_prefix(&e, "%s", big);
    assert_true(strlen(e.text) < sizeof e.text);
}

static void names_every_code(void **state)
{
    (void)state;
    assert_string_equal(err_name(ERR_TIMEOUT), "ERR_TIMEOUT");
    assert_string_equal(err_name(UV_ECONNREFUSED), "ECONNREFUSED");
    assert_string_equal(err_name(0), "OK");
    assert_string_equal(err_name(-99999), "ERR_WITHOUT_A_NAME");
    for (int code = ERR_USAGE; code >= ERR_INTERNAL; code--)
        assert_memory_equal(err_name(code), "ERR_", 4);
    for (int code = ERR_USAGE; code >= ERR_INTERNAL; code--)
        assert_string_not_equal(err_name(code), "ERR_WITHOUT_A_NAME");
}

static void judges_retries(void **state)
{
    (void)state;
    const int yes[] = {ERR_UNAVAILABLE, ERR_BUSY,    ERR_TIMEOUT,  ERR_UNKNOWN,
                       ERR_IO,          ERR_NOSPACE, ERR_CLOSED,   UV_ECONNREFUSED,
                       UV_ECONNRESET,   UV_EPIPE,    UV_ETIMEDOUT, UV_EOF};
    const int no[] = {0,         ERR_CONFIG, ERR_PROTOCOL,  ERR_EXISTS,   ERR_CORRUPT,
                      ERR_FATAL, ERR_DENIED, ERR_TOO_LARGE, ERR_INTERNAL, UV_ENOENT};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(err_retryable(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(err_retryable(no[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_and_prefixes), cmocka_unit_test(cuts_long_texts),
        cmocka_unit_test(names_every_code), cmocka_unit_test(judges_retries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
