/* Tests of base/log.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#define LOG_MODULE "test.c"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static char text[1 << 20];
static FILE *file;
static int saved;

/* Sends stderr into a file until caught(). */
static void begin(void)
{
    file = tmpfile();
    assert_non_null(file);
    saved = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
}

static char *caught(void)
{
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    fclose(file);
    return text;
}

static void writes_json_lines(void **state)
{
    (void)state;
    log_init("tester");
    clock_fake(1000000, 1767323045678);
    uint64_t before = log_lines(LOG_WARN);
    begin();
    LOG(WARN, "thing_happened", KV_STR("text", "a\"\n\xff"), KV_INT("n", -5), KV_DBL("d", 0.5),
        KV_BOOL("b", true), KV_STR("none", NULL), KV_ERR(ERR_TIMEOUT));
    LOG(INFO, "bare");
    char *out = caught();
    clock_real();
    assert_string_equal(out, "{\"ts\":\"2026-01-02T03:04:05.678Z\",\"level\":\"warn\",\"service\":"
                             "\"tester\",\"module\":\"test\",\"event\":\"thing_happened\","
                             "\"text\":\"a\\\"\\n\xef\xbf\xbd\",\"n\":-5,\"d\":0.5,\"b\":true,"
                             "\"none\":null,\"error\":\"ERR_TIMEOUT\"}\n"
                             "{\"ts\":\"2026-01-02T03:04:05.678Z\",\"level\":\"info\",\"service\":"
                             "\"tester\",\"module\":\"test\",\"event\":\"bare\"}\n");
    assert_true(log_lines(LOG_WARN) == before + 1);
}

static void obeys_levels(void **state)
{
    (void)state;
    assert_int_equal(log_set_levels(STR("warn,kafka=debug,test=error")), 0);
    assert_true(log_enabled(LOG_WARN, "other.c"));
    assert_false(log_enabled(LOG_INFO, "other.c"));
    assert_true(log_enabled(LOG_DEBUG, "kafka.c"));
    assert_false(log_enabled(LOG_TRACE, "kafka"));
    assert_false(log_enabled(LOG_WARN, LOG_MODULE));
    begin();
    LOG(WARN, "kept_back");
    assert_string_equal(caught(), "");
    const char *bad[] = {"loud", "info,x=loud", "=info", "info,", "a=b=info"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(log_set_levels(str_of(bad[i])), ERR_CONFIG);
    assert_true(log_enabled(LOG_DEBUG, "kafka.c"));
    assert_int_equal(log_set_levels(STR("info")), 0);
    assert_false(log_enabled(LOG_DEBUG, "kafka.c"));
}

static void repeat(int n)
{
    for (int i = 0; i < n; i++)
        LOG(INFO, "again", KV_INT("i", i));
}

static unsigned count_lines(const char *out)
{
    unsigned n = 0;
    for (; *out; out++)
        n += *out == '\n';
    return n;
}

static void holds_back_repeats(void **state)
{
    (void)state;
    clock_fake(5000000, 0);
    begin();
    repeat(100);
    assert_int_equal(count_lines(caught()), 20);
    clock_fake(6000000, 0);
    begin();
    repeat(2);
    char *out = caught();
    clock_real();
    assert_int_equal(count_lines(out), 2);
    char *first = strstr(out, "\"suppressed\":80");
    assert_non_null(first);
    assert_null(strstr(first + 14, "suppressed"));
}

static void cuts_what_is_too_long(void **state)
{
    (void)state;
    static char big[200000];
    memset(big, 1, sizeof big - 1); /* six characters each when escaped */
    begin();
    LOG(INFO, "large", KV_STR("big", big));
    LOG(INFO, "medium", KV_SLICE("big", str_make(big, 8000)));
    char *out = caught();
    char *second = strchr(out, '\n') + 1;
    json_t *a = json_loadb(out, (size_t)(second - out), 0, NULL), *b = json_loads(second, 0, NULL);
    assert_true(a && b);
    assert_true(json_is_true(json_object_get(a, "cut")));
    assert_int_equal(json_string_length(json_object_get(b, "big")), 8000);
    json_decref(a);
    json_decref(b);
}

static void *write_many(void *ctx)
{
    for (int i = 0; i < 200; i++) {
        const struct log_kv kv[] = {{0}, KV_STR("who", ctx), KV_INT("i", i)};
        log_write(LOG_INFO, LOG_MODULE, "said", NULL, kv, 2);
        LOG(INFO, "same_place", KV_STR("who", ctx));
        if (i % 50 == 0)
            (void)log_set_levels(STR("info"));
    }
    return NULL;
}

static void threads_write_whole_lines(void **state)
{
    (void)state;
    pthread_t threads[4];
    begin();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, (void *)"0123456789abcdef"),
                         0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    struct str rest = str_of(caught()), line;
    unsigned said = 0;
    while (str_next(&rest, '\n', &line) && line.n) {
        json_t *root = json_loadb(line.p, line.n, 0, NULL);
        assert_non_null(root);
        said += json_object_get(root, "i") != NULL;
        json_decref(root);
    }
    assert_int_equal(said, 800);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_json_lines), cmocka_unit_test(obeys_levels),
        cmocka_unit_test(holds_back_repeats), cmocka_unit_test(cuts_what_is_too_long),
        cmocka_unit_test(threads_write_whole_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
