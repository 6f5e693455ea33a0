/* test_store: objects in a folder: put-if-absent among threads, replacement, lists, staging, full disks, sweeping.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/store.h"
#include "base/mem.h"
#include "support/tmpdir.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>
#include <cmocka.h>

static char *dir;
static struct store *st;

/* ---- the calls that make something durable, watched: these take the C library's place in this program ---- */

static struct {
    bool on;
    struct buf trace;
    const char *fail; /* what cannot be synced or linked: the end of its path */
    int with;         /* errno */
} spy;

/* Below the store's folder, a temporary name without what makes it unique. */
static void spy_path(const char *path)
{
    size_t n = strlen(dir), len = strlen(path);
    const char *rest = strncmp(path, dir, n) ? path : path + n;
    if (len > 41 && !strcmp(path + len - 4, ".tmp"))
        buf_printf(&spy.trace, " %.*s.tmp", (int)(strlen(rest) - 41), rest);
    else
        buf_printf(&spy.trace, " %s", rest);
}

static bool spied(const char *call, const char *a, const char *b)
{
    if (!spy.on)
        return true;
    buf_z(&spy.trace, call);
    spy_path(a);
    if (b)
        spy_path(b);
    buf_z(&spy.trace, "\n");
    if (!spy.fail || !str_ends(str_of(b ? b : a), str_of(spy.fail)))
        return true;
    errno = spy.with;
    return false;
}

int fsync(int fd)
{
    char link_name[64], path[1024];
    (void)snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link_name, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return spied("sync", path, NULL) ? (int)syscall(SYS_fsync, fd) : -1;
}

int link(const char *from, const char *to)
{
    return spied("link", from, to) ? (int)syscall(SYS_link, from, to) : -1;
}

int rename(const char *from, const char *to)
{
    return spied("rename", from, to) ? (int)syscall(SYS_rename, from, to) : -1;
}

static void spy_on(const char *fail, int with)
{
    spy.on = true;
    spy.fail = fail;
    spy.with = with;
    if (!spy.trace.max)
        buf_init(&spy.trace, 1 << 16);
    buf_reset(&spy.trace);
    buf_z(&spy.trace, "");
}

static void assert_spied(const char *want)
{
    spy.on = false;
    assert_string_equal(spy.trace.data, want);
}

static int set_up(void **state)
{
    (void)state;
    dir = tmpdir_new();
    char *url = mem_printf("file://%s/lake", dir);
    struct err e = {0};
    int rc = store_open(url, &st, &e);
    if (rc)
        print_error("%s\n", e.text);
    mem_free(url);
    return rc;
}

static int tear_down(void **state)
{
    (void)state;
    store_close(&st);
    tmpdir_remove(&dir);
    buf_deinit(&spy.trace);
    return 0;
}

static char *get(const char *key, int *ret_rc)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    struct err e = {0};
    *ret_rc = store_get(st, key, &b, &e);
    char *text = mem_strndup(b.data ? b.data : "", b.len);
    buf_deinit(&b);
    return text;
}

static void assert_object(const char *key, const char *text)
{
    int rc;
    char *got = get(key, &rc);
    assert_int_equal(rc, 0);
    assert_string_equal(got, text);
    mem_free(got);
}

static void test_urls(void **state)
{
    (void)state;
    static const char *const bad[] = {"s3://bucket/x",         "/tmp/x",      "file://relative",
                                      "file:///a*b",           "file:///%zz", "",
                                      "file:///proc/none/such"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct store *s = NULL;
        struct err e = {0};
        assert_int_equal(store_open(bad[i], &s, &e), ERR_CONFIG);
        assert_null(s);
        assert_int_equal(e.code, ERR_CONFIG);
        assert_non_null(strstr(e.text, "lake.url"));
    }
    struct store *s = NULL;
    char *url = mem_printf("file://%s/not/there%%20yet/", dir);
    assert_int_equal(store_open_read(url, &s, NULL), 0);
    assert_string_equal(store_url(s), url);
    char *path = store_local_path(s, "a/b");
    assert_non_null(strstr(path, "/not/there yet/a/b"));
    struct store_names names = {0};
    assert_int_equal(store_list(s, "x", NULL, &names, NULL), 0);
    assert_int_equal(names.n, 0);
    mem_free(path);
    mem_free(url);
    store_close(&s);
    struct stat info;
    path = mem_printf("%s/not", dir);
    assert_int_not_equal(stat(path, &info), 0);
    mem_free(path);
}

static void test_put_get_delete(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(store_put_if_absent(st, "t/_delta_log/0.json", STR("first"), &e), 0);
    assert_int_equal(store_put_if_absent(st, "t/_delta_log/0.json", STR("second"), &e), ERR_EXISTS);
    assert_object("t/_delta_log/0.json", "first");
    assert_int_equal(store_put(st, "t/_delta_log/0.json", STR("third"), &e), 0);
    assert_object("t/_delta_log/0.json", "third");
    assert_int_equal(store_put(st, "t/empty", STR(""), &e), 0);
    assert_object("t/empty", "");
    uint64_t bytes = 0;
    assert_int_equal(store_size(st, "t/_delta_log/0.json", &bytes, &e), 0);
    assert_int_equal(bytes, 5);
    struct buf b;
    buf_init(&b, 5);
    assert_int_equal(store_get(st, "t/_delta_log/0.json", &b, &e), 0);
    buf_deinit(&b);
    buf_init(&b, 4);
    assert_int_equal(store_get(st, "t/_delta_log/0.json", &b, &e), ERR_LIMIT);
    buf_deinit(&b);
    assert_int_equal(store_delete(st, "t/_delta_log/0.json", &e), 0);
    assert_int_equal(store_delete(st, "t/_delta_log/0.json", &e), 0);
    assert_int_equal(store_size(st, "t/_delta_log/0.json", &bytes, &e), ERR_NOT_FOUND);
    int rc;
    char *text = get("t/_delta_log/0.json", &rc);
    assert_int_equal(rc, ERR_NOT_FOUND);
    mem_free(text);
    static const char *const bad[] = {"",      "/x",     "../x", "a/../b", "a//b",
                                      "a/./b", "sp ace", "a\n",  "a/"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(store_put(st, bad[i], STR("x"), &e), ERR_IO);
}

static void test_lists(void **state)
{
    (void)state;
    static const char *const names[] = {"b", "a", "00010", "00002", "_last", ".hidden"};
    for (size_t i = 0; i < 6; i++) {
        char *key = mem_printf("list/%s", names[i]);
        assert_int_equal(store_put(st, key, STR("x"), NULL), 0);
        mem_free(key);
    }
    struct store_names got = {0};
    assert_int_equal(store_list(st, "list", NULL, &got, NULL), 0);
    static const char *const all[] = {"00002", "00010", "_last", "a", "b"};
    assert_int_equal(got.n, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(got.names[i], all[i]);
    store_names_free(&got);
    assert_int_equal(store_list(st, "list", "00010", &got, NULL), 0);
    assert_int_equal(got.n, 4);
    assert_string_equal(got.names[0], "00010");
    store_names_free(&got);
    assert_int_equal(store_list(st, "no/such", NULL, &got, NULL), 0);
    assert_int_equal(got.n, 0);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void test_staging(void **state)
{
    (void)state;
    struct err e = {0};
    char *staged = store_stage(st, "tab/part-1.parquet", &e);
    assert_non_null(staged);
    write_file(staged, "data");
    struct store_names got = {0};
    assert_int_equal(store_list(st, "tab", NULL, &got, NULL), 0);
    assert_int_equal(got.n, 0);
    assert_int_equal(store_publish(st, staged, "tab/part-1.parquet", &e), 0);
    assert_object("tab/part-1.parquet", "data");
    assert_int_not_equal(access(staged, F_OK), 0);
    mem_free(staged);
    staged = store_stage(st, "tab/part-1.parquet", &e);
    write_file(staged, "other");
    assert_int_equal(store_publish(st, staged, "tab/part-1.parquet", &e), ERR_EXISTS);
    assert_object("tab/part-1.parquet", "data");
    store_discard(st, staged);
    store_discard(st, staged);
    assert_int_not_equal(access(staged, F_OK), 0);
    assert_int_equal(store_publish(st, staged, "tab/part-2.parquet", &e), ERR_IO);
    mem_free(staged);
}

static void test_sweeping(void **state)
{
    (void)state;
    char *fresh = store_stage(st, "sweep/_delta_log/1.json", NULL);
    char *old = store_stage(st, "sweep/part-9", NULL);
    write_file(fresh, "x");
    write_file(old, "x");
    assert_int_equal(store_put(st, "sweep/kept.tmp", STR("x"), NULL), 0);
    struct utimbuf past = {1000, 1000};
    assert_int_equal(utime(old, &past), 0);
    assert_int_equal(store_sweep(st, "sweep", 3600 * 1000, NULL), 1);
    assert_int_not_equal(access(old, F_OK), 0);
    assert_int_equal(access(fresh, F_OK), 0);
    assert_int_equal(store_sweep(st, "sweep", 0, NULL), 1);
    assert_object("sweep/kept.tmp", "x");
    assert_int_equal(store_sweep(st, "no/such", 0, NULL), 0);
    mem_free(fresh);
    mem_free(old);
}

enum { RACERS = 8, ROUNDS = 50 };
static atomic_int winners[ROUNDS];
static pthread_barrier_t line_up;

static void *race_mt(void *ctx)
{
    char body[32];
    (void)snprintf(body, sizeof body, "racer %d", (int)(intptr_t)ctx);
    for (int i = 0; i < ROUNDS; i++) {
        char *key = mem_printf("race/%03d", i);
        pthread_barrier_wait(&line_up);
        int rc = store_put_if_absent(st, key, str_of(body), NULL);
        if (rc == 0)
            atomic_fetch_add(&winners[i], 1);
        else if (rc != ERR_EXISTS)
            atomic_fetch_add(&winners[i], 1000);
        mem_free(key);
    }
    return NULL;
}

static void test_one_winner(void **state)
{
    (void)state;
    pthread_t t[RACERS];
    assert_int_equal(pthread_barrier_init(&line_up, NULL, RACERS), 0);
    for (int i = 0; i < RACERS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, race_mt, (void *)(intptr_t)i), 0);
    for (int i = 0; i < RACERS; i++)
        pthread_join(t[i], NULL);
    pthread_barrier_destroy(&line_up);
    for (int i = 0; i < ROUNDS; i++)
        assert_int_equal(winners[i], 1);
}

/* A limit on file sizes stands in for the full disk: the same path of errors, no privileges needed. */
static void test_full_disk(void **state)
{
    (void)state;
    struct rlimit was, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    low = was;
    low.rlim_cur = 1000;
    char *body = mem_alloc(5000);
    memset(body, 'x', 5000);
    struct err e = {0};
    assert_int_equal(store_put(st, "full/there", STR("before"), &e), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int rc1 = store_put_if_absent(st, "full/x", str_make(body, 5000), &e);
    int rc2 = store_put(st, "full/there", str_make(body, 5000), &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc1, ERR_NOSPACE);
    assert_int_equal(rc2, ERR_NOSPACE);
    assert_object("full/there", "before");
    assert_int_equal(store_put_if_absent(st, "full/x", str_make(body, 5000), &e), 0);
    assert_int_equal(store_sweep(st, "full", 0, NULL), 0); /* nothing half-written is left */
    mem_free(body);
}

/* Contract 1.8: the bytes are on the disk before they have a name, the name is before success is told, and nothing is overwritten. */
static void test_order_of_durability(void **state)
{
    (void)state;
    struct err e = {0};
    spy_on(NULL, 0);
    assert_int_equal(store_put_if_absent(st, "d/_delta_log/0.json", STR("x"), &e), 0);
    assert_spied("sync /lake\n"
                 "sync /lake/d\n"
                 "sync /lake/d/_delta_log/.0.json.tmp\n"
                 "link /lake/d/_delta_log/.0.json.tmp /lake/d/_delta_log/0.json\n"
                 "sync /lake/d/_delta_log\n");
    spy_on(NULL, 0);
    assert_int_equal(store_put_if_absent(st, "d/_delta_log/0.json", STR("y"), &e), ERR_EXISTS);
    assert_spied("sync /lake/d/_delta_log/.0.json.tmp\n"
                 "link /lake/d/_delta_log/.0.json.tmp /lake/d/_delta_log/0.json\n"
                 "sync /lake/d/_delta_log\n"); /* it may be our own, of a try that could not sync */
    char *staged = store_stage(st, "d/part-0.parquet", &e);
    write_file(staged, "data");
    spy_on(NULL, 0);
    assert_int_equal(store_publish(st, staged, "d/part-0.parquet", &e), 0);
    assert_spied("sync /lake/d/.part-0.parquet.tmp\n"
                 "link /lake/d/.part-0.parquet.tmp /lake/d/part-0.parquet\n"
                 "sync /lake/d\n");
    mem_free(staged);
    spy_on(NULL, 0);
    assert_int_equal(store_put(st, "d/_delta_log/_last_checkpoint", STR("x"), &e), 0);
    assert_spied("sync /lake/d/_delta_log/._last_checkpoint.tmp\n"
                 "rename /lake/d/_delta_log/._last_checkpoint.tmp "
                 "/lake/d/_delta_log/_last_checkpoint\n"
                 "sync /lake/d/_delta_log\n");
    assert_int_equal(store_sweep(st, "d", 0, NULL), 0);
}

/* What a disk that fails leaves: certainly nothing, or something that is not known until the same is tried again. */
static void test_failures_of_the_disk(void **state)
{
    (void)state;
    struct err e = {0};
    int rc;
    assert_int_equal(store_put(st, "f/other", STR("x"), &e), 0);
    spy_on(".tmp", EIO); /* the bytes */
    rc = store_put_if_absent(st, "f/a", STR("x"), &e);
    spy.on = false;
    assert_int_equal(rc, ERR_IO);
    mem_free(get("f/a", &rc));
    assert_int_equal(rc, ERR_NOT_FOUND);
    spy_on(".tmp", ENOSPC);
    rc = store_put_if_absent(st, "f/a", STR("x"), &e);
    spy.on = false;
    assert_int_equal(rc, ERR_NOSPACE);
    spy_on("/f/a", EIO); /* the name: a link over a network may be there all the same */
    rc = store_put_if_absent(st, "f/a", STR("x"), &e);
    spy.on = false;
    assert_int_equal(rc, ERR_UNKNOWN);
    spy_on("/f/a", EPERM);
    rc = store_put_if_absent(st, "f/a", STR("x"), &e);
    spy.on = false;
    assert_int_equal(rc, ERR_IO);
    spy_on("/lake/f", EIO); /* the folder: the name is there, and a power cut may take it */
    rc = store_put_if_absent(st, "f/a", STR("x"), &e);
    int again = store_put_if_absent(st, "f/a", STR("x"), &e);
    spy.on = false;
    assert_int_equal(rc, ERR_UNKNOWN);
    assert_int_equal(again, ERR_UNKNOWN);
    assert_int_equal(store_put_if_absent(st, "f/a", STR("x"), &e), ERR_EXISTS);
    assert_object("f/a", "x");
    assert_int_equal(store_sweep(st, "f", 0, NULL), 0);
}

/* A folder, a pipe or a link to nowhere in an object's place is an error at once. */
static void test_what_is_no_file(void **state)
{
    (void)state;
    assert_int_equal(store_put(st, "odd/x", STR("x"), NULL), 0);
    char *pipe_path = mem_printf("%s/lake/odd/pipe", dir), *to = mem_printf("%s/lake/odd/to", dir);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(symlink("/no/such/place", to), 0);
    static const struct {
        const char *key;
        int rc;
    } odd[] = {{"odd", ERR_IO},
               {"odd/pipe", ERR_IO},
               {"odd/to", ERR_NOT_FOUND},
               {"odd/x/y", ERR_NOT_FOUND}};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        int rc;
        uint64_t bytes;
        mem_free(get(odd[i].key, &rc));
        assert_int_equal(rc, odd[i].rc);
        assert_int_equal(store_size(st, odd[i].key, &bytes, NULL), ERR_NOT_FOUND);
    }
    assert_int_equal(store_put_if_absent(st, "odd/x/y", STR("x"), NULL), ERR_IO);
    mem_free(pipe_path);
    mem_free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_put_get_delete),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_staging),
        cmocka_unit_test(test_sweeping),
        cmocka_unit_test(test_one_winner),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_order_of_durability),
        cmocka_unit_test(test_failures_of_the_disk),
        cmocka_unit_test(test_what_is_no_file),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
