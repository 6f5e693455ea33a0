/* Tests of app/option.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "app/option.h"
#include "base/mem.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct config {
    const char *brokers, *listen, *copies, *url, *stages, *name;
    uint64_t linger, max;
    int64_t threads;
    bool h2c;
};

static const struct option_def table[] = {
    {OPTION(ADDRESSES, "kafka.brokers", struct config, brokers), .def = "127.0.0.1:9092", .min = 1,
     .help = "where Kafka is"},
    {OPTION(LISTEN, "http.listen", struct config, listen), .def = "127.0.0.1:8082",
     .help = "where to listen"},
    {OPTION(CHOICE, "copies", struct config, copies), .def = "drop", .choices = "drop|keep",
     .help = "copies"},
    {OPTION(STR, "redis.url", struct config, url), .def = "redis://127.0.0.1", .secret = true,
     .help = "where Redis is"},
    {OPTION(LIST, "stages", struct config, stages), .def = "dev,test", .help = "stages"},
    {OPTION(STR, "name", struct config, name), .def = "x", .min = 1, .max = 5, .help = "a name"},
    {OPTION(DURATION, "span.linger", struct config, linger), .def = "20ms", .max = 10000,
     .help = "linger"},
    {OPTION(SIZE, "body.max", struct config, max), .def = "10MiB", .min = 1024,
     .help = "largest body"},
    {OPTION(INT, "query.threads", struct config, threads), .def = "2", .min = 1, .max = 64,
     .help = "threads"},
    {OPTION(BOOL, "http.h2c", struct config, h2c), .def = "on", .help = "HTTP/2"},
    {0}};

static struct config c;
static const struct option_set sets[] = {{table, &c}, {0}};
static struct options *o;
static enum option_action action;
static struct err e;
static char folder[] = "/tmp/test_option-XXXXXX", path[64], secret_path[64];

/* Flags up to NULL; env up to NULL, may be NULL. */
static int load_env(char *const *env, ...)
{
    char *argv[16] = {(char[]){"prog"}};
    int argc = 1;
    va_list ap;
    va_start(ap, env);
    while ((argv[argc] = va_arg(ap, char *)))
        argc++;
    va_end(ap);
    option_free(&o);
    memset(&c, 0, sizeof c);
    memset(&e, 0, sizeof e);
    return option_load(sets, argc, argv, env, &o, &action, &e);
}
#define LOAD(...) load_env(NULL, ##__VA_ARGS__, (char *)NULL)
#define ENV(...) ((char *[]){__VA_ARGS__, NULL})
static void says(const char *part)
{
    if (!strstr(e.text, part))
        fail_msg("'%s' is not in: %s", part, e.text);
}

static void write_file(const char *to, const char *text)
{
    FILE *f = fopen(to, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int load_text(const char *text)
{
    write_file(path, text);
    return LOAD("--config", path);
}

static void takes_defaults(void **state)
{
    (void)state;
    assert_int_equal(LOAD(), 0);
    assert_int_equal(action, OPTION_RUN);
    assert_string_equal(c.brokers, "127.0.0.1:9092");
    assert_string_equal(c.copies, "drop");
    assert_true(c.linger == 20 && c.max == 10 << 20 && c.threads == 2 && c.h2c);
    assert_null(option_warning(o, 0));
}

static void later_places_win(void **state)
{
    (void)state;
    write_file(path, "{\"query.threads\": 3, \"copies\": \"keep\", \"http.h2c\": false, "
                     "\"stages\": [\"a\", \"b\"], \"span.linger\": \"1s\"}");
    char config[80];
    snprintf(config, sizeof config, "--config=%s", path);
    assert_int_equal(
        load_env(ENV("SLUICE_QUERY_THREADS=4", "SLUICE_SPAN_LINGER=2s", "PATH=/", "SLUICE_STATE=x"),
                 config, "--query.threads", "5", "--name=ab", NULL),
        0);
    assert_int_equal(c.threads, 5);
    assert_true(c.linger == 2000 && !c.h2c);
    assert_string_equal(c.copies, "keep");
    assert_string_equal(c.stages, "a,b");
    assert_string_equal(c.name, "ab");
    assert_null(option_warning(o, 0));
    assert_int_equal(LOAD("--http.h2c=off", "--http.h2c"), 0);
    assert_true(c.h2c);
}

static void refuses_flags(void **state)
{
    (void)state;
    assert_int_equal(LOAD("--kafka.broker=a:1"), ERR_USAGE);
    says("unknown flag '--kafka.broker'; did you mean kafka.brokers?");
    assert_int_equal(LOAD("--brokers=a:1"), ERR_USAGE);
    says("did you mean kafka.brokers?");
    assert_int_equal(LOAD("--nothing-like-it"), ERR_USAGE);
    assert_null(strstr(e.text, "did you mean"));
    assert_int_equal(LOAD("stray"), ERR_USAGE);
    says("unexpected argument 'stray'");
    assert_int_equal(LOAD("--name"), ERR_USAGE);
    says("--name needs a value");
    assert_int_equal(LOAD("--print-config=xml"), ERR_USAGE);
    assert_int_equal(LOAD("--redis.url=redis://:hunter2@h"), ERR_USAGE);
    says("--redis.url_file");
    assert_null(strstr(e.text, "hunter2"));
}

static void refuses_values(void **state)
{
    (void)state;
    static const char *const bad[][2] = {{"--query.threads=0", "from 1 to 64"},
                                         {"--query.threads=65", "from 1 to 64"},
                                         {"--query.threads=x", "whole number"},
                                         {"--span.linger=20", "a duration"},
                                         {"--span.linger=11s", "from 0ms to 10s"},
                                         {"--body.max=1023", "of 1KiB or more"},
                                         {"--body.max=1MB", "a size"},
                                         {"--copies=maybe", "drop|keep"},
                                         {"--http.listen=8082", "host:port"},
                                         {"--http.listen=h:70000", "host:port"},
                                         {"--kafka.brokers=a:1,b", "host:port"},
                                         {"--kafka.brokers=a:0", "host:port"},
                                         {"--kafka.brokers=", "host:port"},
                                         {"--http.h2c=maybe", "on or off"},
                                         {"--name=", "1 to 5"},
                                         {"--name=abcdef", "1 to 5"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(LOAD(bad[i][0]), ERR_USAGE);
        says(bad[i][1]);
    }
    assert_int_equal(load_env(ENV("SLUICE_QUERY_THREADS=many"), NULL), ERR_CONFIG);
    says("SLUICE_QUERY_THREADS: query.threads: 'many'");
}

static void names_the_line(void **state)
{
    (void)state;
    assert_int_equal(load_text("{\n  \"copies\": \"keep\",\n  \"stages\": \"{query.threads\",\n  "
                               "\"query.threads\": 99\n}"),
                     ERR_CONFIG);
    says(".json:4: query.threads: '99'");
    assert_int_equal(load_text("{\n\n\"kafka.brokerz\": 1}"), ERR_CONFIG);
    says(".json:3: unknown key 'kafka.brokerz'; did you mean kafka.brokers?");
    assert_int_equal(load_text("{\n\"copies\": \"keep\",\n\"copies\": \"drop\"}"), ERR_CONFIG);
    says(".json:3: duplicate");
    assert_int_equal(load_text("{\n\"copies\": keep}"), ERR_CONFIG);
    says(".json:2: ");
    assert_int_equal(load_text("[]"), ERR_CONFIG);
    assert_int_equal(load_text(""), ERR_CONFIG);
    assert_int_equal(load_text("{\"copies\": {\"a\": 1}}"), ERR_CONFIG);
    says("no such JSON type");
    assert_int_equal(load_text("{\"copies\": null}"), ERR_CONFIG);
    assert_int_equal(load_text("{\"stages\": [1]}"), ERR_CONFIG);
    assert_int_equal(load_text("{\"copies\": [\"keep\"]}"), ERR_CONFIG);
    assert_int_equal(LOAD("--config=/nowhere/at.all"), ERR_CONFIG);
    says("/nowhere/at.all: ENOENT");
}

static void warns_of_unknown_variables(void **state)
{
    (void)state;
    assert_int_equal(load_env(ENV("SLUICE_KAFKA_BROKER=x", "SLUICE_CACHE=/c", "SLUICE_BIN=/b",
                                  "SLUICE_POSTS=p", "SLUICE_CRASH_AT=q", "OTHER=1"),
                              NULL),
                     0);
    assert_string_equal(option_warning(o, 0), "unknown variable SLUICE_KAFKA_BROKER");
    assert_null(option_warning(o, 1));
}

static void keeps_secrets(void **state)
{
    (void)state;
    write_file(secret_path, "redis://:hunter2@h\r\n\n");
    char variable[100];
    snprintf(variable, sizeof variable, "SLUICE_REDIS_URL_FILE=%s", secret_path);
    assert_int_equal(load_env(ENV(variable), NULL), 0);
    assert_string_equal(c.url, "redis://:hunter2@h");
    char flag[100];
    snprintf(flag, sizeof flag, "--redis.url_file=%s", secret_path);
    assert_int_equal(LOAD(flag), 0);
    assert_string_equal(c.url, "redis://:hunter2@h");
    assert_int_equal(load_env(ENV(variable, "SLUICE_REDIS_URL=x"), NULL), ERR_CONFIG);
    says("both redis.url and redis.url_file");
    assert_int_equal(LOAD("--redis.url_file=/nowhere/at.all"), ERR_USAGE);
    says("cannot read /nowhere/at.all");
    /* A later place may use the other form. */
    write_file(path, "{\"redis.url\": \"redis://file\"}");
    assert_int_equal(LOAD("--config", path, flag), 0);
    assert_string_equal(c.url, "redis://:hunter2@h");
    assert_int_equal(load_text("{\"redis.url\": \"***\"}"), ERR_CONFIG);
    says("masked");
}

static void prints_what_can_be_read(void **state)
{
    (void)state;
    struct buf first, second;
    buf_init(&first, 65536);
    buf_init(&second, 65536);
    assert_int_equal(LOAD("--span.linger=1500ms", "--stages=q\"uote", "--body.max=2048",
                          "--http.h2c=off", "--print-config"),
                     0);
    assert_int_equal(action, OPTION_PRINT);
    option_print(o, false, &first);
    assert_non_null(strstr(first.data, "\"redis.url\": \"redis://127.0.0.1\""));
    assert_int_equal(load_text(first.data), 0);
    assert_true(c.linger == 1500 && c.max == 2048 && !c.h2c);
    assert_string_equal(c.stages, "q\"uote");
    write_file(path, first.data);
    assert_int_equal(LOAD("--config", path, "--print-config=sources"), 0);
    option_print(o, true, &second);
    json_t *root = json_loads(second.data, 0, NULL);
    assert_non_null(root);
    const char *source =
        json_string_value(json_object_get(json_object_get(root, "span.linger"), "source"));
    assert_non_null(source);
    assert_non_null(strstr(source, ".json:8"));
    json_decref(root);
    /* A secret that was set is masked, and its mask is no value. */
    assert_int_equal(load_env(ENV("SLUICE_REDIS_URL=redis://:hunter2@h"), "--print-config", NULL),
                     0);
    buf_reset(&first);
    option_print(o, false, &first);
    assert_null(strstr(first.data, "hunter2"));
    assert_non_null(strstr(first.data, "\"redis.url\": \"***\""));
    assert_int_equal(load_text(first.data), ERR_CONFIG);
    buf_deinit(&first);
    buf_deinit(&second);
}

static void finds_what_is_asked_for(void **state)
{
    (void)state;
    assert_int_equal(LOAD("--help", "--query.threads=x"), 0);
    assert_int_equal(action, OPTION_SHOW_HELP);
    assert_int_equal(LOAD("--version"), 0);
    assert_int_equal(action, OPTION_SHOW_VERSION);
    assert_int_equal(LOAD("--version=json"), 0);
    assert_int_equal(action, OPTION_SHOW_VERSION_JSON);
    assert_int_equal(LOAD("--check-config"), 0);
    assert_int_equal(action, OPTION_CHECK);
    assert_int_equal(LOAD("--check-config", "--query.threads=x"), ERR_USAGE);
    struct buf b;
    buf_init(&b, 65536);
    option_help(sets, "prog", "does things", &b);
    for (const struct option_def *d = table; d->key; d++)
        assert_non_null(strstr(b.data, d->key));
    buf_reset(&b);
    option_markdown(sets, &b);
    assert_non_null(
        strstr(b.data, "| `copies` | `SLUICE_COPIES` | `drop` | drop\\|keep | copies |"));
    buf_deinit(&b);
}

static void cuts_addresses(void **state)
{
    (void)state;
    char host[256];
    unsigned port;
    assert_int_equal(option_address(STR("localhost:80"), host, &port), 0);
    assert_string_equal(host, "localhost");
    assert_int_equal(port, 80);
    assert_int_equal(option_address(STR("[::1]:0"), host, &port), 0);
    assert_string_equal(host, "::1");
    const char *bad[] = {
        "", ":", "h", ":80", "h:", "::1:80", "h:x", "h:65536", "a b:1", "http://h:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(option_address(str_of(bad[i]), host, &port), ERR_BAD_DATA);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/c.json", folder);
    snprintf(secret_path, sizeof secret_path, "%s/secret", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    option_free(&o);
    unlink(path);
    unlink(secret_path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_defaults),          cmocka_unit_test(later_places_win),
        cmocka_unit_test(refuses_flags),           cmocka_unit_test(refuses_values),
        cmocka_unit_test(names_the_line),          cmocka_unit_test(warns_of_unknown_variables),
        cmocka_unit_test(keeps_secrets),           cmocka_unit_test(prints_what_can_be_read),
        cmocka_unit_test(finds_what_is_asked_for), cmocka_unit_test(cuts_addresses)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
