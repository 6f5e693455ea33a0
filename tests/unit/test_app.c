/* Tests of app/app: this program runs itself as a service (first argument --as-service) and talks to it as anybody would.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "app/app.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEADLINE_MS = 60000 };

/* The service */

struct config {
    const char *mode, *password;
    int64_t number;
};
static const struct option_def options[] = {
    {OPTION(CHOICE, "mode", struct config, mode), .def = "plain",
     .choices = "plain|slow|stuck|fail|refuse|late-fail|leak", .help = "what to do"},
    {OPTION(STR, "password", struct config, password), .def = "", .secret = true,
     .help = "a secret"},
    {OPTION(INT, "number", struct config, number), .def = "1", .min = 0, .max = 9,
     .help = "a number"},
    {0}};
static const struct metric_def metrics[] = {
    [0] = {"sluice_test_orders_total", METRIC_COUNTER, "Orders taken."}, {0}};

struct service {
    struct app *app;
    const struct config *config;
    struct loop_timer timer;
    struct app_order *waiting;
    uv_timer_t leaked;
};

static void fails(void *ctx)
{
    struct service *s = ctx;
    app_fail(s->app, APP_EXIT_UNAVAILABLE, "dependency_gone");
}

static void answer_late(void *ctx)
{
    struct service *s = ctx;
    app_order_answer(s->waiting, 200, STR("{\"late\":true}"));
    s->waiting = NULL;
}

static void on_order(void *ctx, struct app_order *order, struct str body)
{
    struct service *s = ctx;
    metric_add(app_metrics(s->app), 0, 0, 1);
    if (str_is(body, "bad")) {
        app_order_error(order, 404, "not \"here\"");
    } else if (str_is(body, "done")) {
        app_order_answer(order, 200, STR("{}"));
        app_drained(s->app);
    } else if (str_is(body, "down") || str_is(body, "up")) {
        app_ready_set(s->app, "peer", str_is(body, "up"), "as told");
        app_order_answer(order, 200, STR("{}"));
    } else {
        s->waiting = order;
        loop_timer_start(app_loop(s->app), &s->timer, 20, answer_late, s);
    }
}

static int start(struct app *app, void *config, struct err *e)
{
    struct service *s = MEM_NEW(struct service);
    CRASH_POINT("test-start");
    CRASH_POINT("test-start");
    s->app = app;
    s->config = config;
    app_state_set(app, s);
    app_order_on(app, "do", on_order, s);
    app_ready_set(app, "peer", true, NULL);
    app_memory_add(app_memory(app), 1000);
    if (strcmp(s->config->mode, "fail") == 0)
        return err_set(e, ERR_UNAVAILABLE, "no peer");
    if (strcmp(s->config->mode, "late-fail") == 0)
        loop_timer_start(app_loop(app), &s->timer, 10, fails, s);
    if (strcmp(s->config->mode, "leak") == 0)
        uv_timer_init(loop_uv(app_loop(app)), &s->leaked);
    return 0;
}

static void drain(struct app *app)
{
    struct service *s = app_state(app);
    /* "slow" waits for the order "done", "stuck" for ever. */
    if (strcmp(s->config->mode, "slow") != 0 && strcmp(s->config->mode, "stuck") != 0)
        app_drained(app);
}

static void stop(struct app *app)
{
    struct service *s = app_state(app);
    if (s)
        loop_timer_stop(&s->timer);
}

static void free_service(struct app *app)
{
    struct service *s = app_state(app);
    if (s && strcmp(s->config->mode, "leak") != 0)
        mem_free(s);
}

static void dump(struct app *app, struct buf *out)
{
    const struct service *s = app_state(app);
    buf_printf(out, "\"test\":{\"number\":%lld}", (long long)s->config->number);
}

static int check(const void *config, const struct app_common *common, struct err *e)
{
    const struct config *c = config;
    if (strcmp(c->mode, "refuse") == 0 && strcmp(common->user, "demo") == 0)
        return err_set(e, ERR_CONFIG, "mode: refuse does not go with user demo");
    return 0;
}

static const char *library_version(void)
{
    return "1.2.3";
}
static const struct app_library libraries[] = {{"thing", library_version}, {0}};
static const struct app_def def = {.name = "tester",
                                   .summary = "Tests.",
                                   .admin_listen = "127.0.0.1:0",
                                   .memory_max = "64MiB",
                                   .options = options,
                                   .config_size = sizeof(struct config),
                                   .metrics = metrics,
                                   .libraries = libraries,
                                   .check = check,
                                   .start = start,
                                   .drain = drain,
                                   .stop = stop,
                                   .free = free_service,
                                   .dump = dump};

/* The test's side */

static const char *self;
static struct {
    pid_t pid;
    int out, err;
    char log[1 << 20], answer[1 << 20];
    size_t log_n;
    unsigned port;
} p;

static void launch(const char *const *args, size_t n)
{
    int out[2], err[2];
    assert_int_equal(pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
    const char *argv[16] = {self, "--as-service"};
    memcpy(argv + 2, args, n * sizeof *args);
    argv[n + 2] = NULL;
    p.pid = fork();
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        execv(self, (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    p.out = out[0];
    p.err = err[0];
    p.log_n = 0;
    p.log[0] = 0;
}
#define LAUNCH(...)                                                                                \
    launch((const char *[]){__VA_ARGS__}, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *))

/* Reads stderr until a line that holds `part` is whole; returns its start. NULL: until the end. */
static const char *await(const char *part)
{
    uint64_t end = clock_ms() + DEADLINE_MS;
    for (;;) {
        const char *found = part ? strstr(p.log, part) : NULL;
        if (found && strchr(found, '\n')) {
            while (found > p.log && found[-1] != '\n')
                found--;
            return found;
        }
        struct pollfd fd = {.fd = p.err, .events = POLLIN};
        int left = (int)(end - clock_ms());
        if (left <= 0 || poll(&fd, 1, left) < 0)
            fail_msg("no '%s' in: %s", part ? part : "end", p.log);
        ssize_t n = read(p.err, p.log + p.log_n, sizeof p.log - 1 - p.log_n);
        if (n <= 0) {
            if (part)
                fail_msg("ended without '%s': %s", part, p.log);
            return p.log;
        }
        p.log_n += (size_t)n;
        p.log[p.log_n] = 0;
    }
}

/* The exit code; -signal when it was killed. */
static int finish(void)
{
    (void)await(NULL);
    int status;
    assert_int_equal(waitpid(p.pid, &status, 0), p.pid);
    ssize_t n, used = 0;
    while ((n = read(p.out, p.answer + used, sizeof p.answer - 1 - (size_t)used)) > 0)
        used += n;
    p.answer[used] = 0;
    close(p.out);
    close(p.err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void await_ready(void)
{
    const char *port = strstr(await("\"event\":\"listening\""), "\"port\":");
    assert_non_null(port);
    p.port = (unsigned)strtoul(port + 7, NULL, 10);
    (void)await("\"event\":\"ready\"");
}

/* The status; head and body are in p.answer. */
static int ask(const char *method, const char *path, const char *head, const char *body)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)p.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    char *text = mem_printf(
        "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", method,
        path, head, strlen(body), body);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    mem_free(text);
    size_t n = 0;
    ssize_t got;
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    while (poll(&pfd, 1, DEADLINE_MS) == 1 &&
           (got = read(fd, p.answer + n, sizeof p.answer - 1 - n)) > 0)
        n += (size_t)got;
    p.answer[n] = 0;
    close(fd);
    assert_memory_equal(p.answer, "HTTP/1.1 ", 9);
    return (int)strtol(p.answer + 9, NULL, 10);
}
#define GET(path) ask("GET", path, "", "")
static void says(const char *part)
{
    if (!strstr(p.answer, part))
        fail_msg("'%s' is not in: %s", part, p.answer);
}

static void end_well(void)
{
    assert_int_equal(kill(p.pid, SIGTERM), 0);
    int code = finish();
    if (code)
        fail_msg("exit code %d: %s", code, p.log);
    assert_non_null(strstr(p.log, "\"event\":\"draining\""));
    assert_non_null(strstr(p.log, "\"event\":\"stopped\""));
}

static void answers_and_ends(void **state)
{
    (void)state;
    LAUNCH("--number=7", "--log.levels=debug");
    await_ready();
    assert_int_equal(GET("/livez"), 200);
    says("\"live\":true");
    assert_int_equal(GET("/readyz"), 200);
    says("\"ready\":true");
    says("{\"name\":\"peer\",\"ok\":true,\"since\":\"");
    says("no-store");
    assert_int_equal(GET("/version"), 200);
    says("\"name\":\"tester\"");
    says("\"thing\":\"1.2.3\"");
    assert_int_equal(GET("/debug/state"), 200);
    json_t *root = json_loads(strstr(p.answer, "\r\n\r\n") + 4, 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "test"), "number")),
                     7);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "memory"), "used")),
                     1000);
    json_decref(root);
    assert_int_equal(GET("/nothing"), 404);
    says("{\"error\":");
    assert_int_equal(ask("POST", "/readyz", "", ""), 405);
    assert_int_equal(ask("GET", "/orders/do", "", ""), 405);
    assert_int_equal(ask("POST", "/orders/nothing", "", "{}"), 404);
    end_well();
}

static void shows_metrics(void **state)
{
    (void)state;
    LAUNCH("--number=1");
    await_ready();
    assert_int_equal(GET("/metrics"), 200);
    says("text/plain; version=0.0.4");
    static const char *const parts[] = {"\nprocess_cpu_seconds_total ",
                                        "\nprocess_resident_memory_bytes ",
                                        "\nprocess_open_fds ",
                                        "\nprocess_max_fds ",
                                        "\nprocess_start_time_seconds ",
                                        "\nsluice_build_info{version=\"",
                                        "\nsluice_event_loop_lag_seconds_bucket{le=\"0.001\"} ",
                                        "\nsluice_log_lines_total{level=\"info\"} ",
                                        "\nsluice_memory_bytes 1000\n",
                                        "\nsluice_memory_max_bytes 67108864\n",
                                        "\nsluice_ready 1\n",
                                        "\nsluice_test_orders_total 0\n"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        says(parts[i]);
    assert_int_equal(
        ask("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n", ""), 200);
    says("application/openmetrics-text; version=1.0.0");
    says("\n# EOF\n");
    end_well();
}

static void obeys_orders(void **state)
{
    (void)state;
    LAUNCH("--number=1");
    await_ready();
    assert_int_equal(ask("POST", "/orders/do", "", "later"), 200);
    says("{\"late\":true}");
    assert_int_equal(ask("POST", "/orders/do", "", "bad"), 404);
    says("{\"error\":\"not \\\"here\\\"\"}");
    assert_int_equal(ask("POST", "/orders/do", "", "down"), 200);
    assert_int_equal(GET("/readyz"), 503);
    says("\"ready\":false");
    says("\"detail\":\"as told\"");
    assert_int_equal(GET("/metrics"), 200);
    says("\nsluice_ready 0\n");
    says("\nsluice_test_orders_total 3\n");
    (void)await("\"event\":\"check_failed\"");
    assert_int_equal(ask("POST", "/orders/do", "", "up"), 200);
    assert_int_equal(GET("/readyz"), 200);
    (void)await("\"event\":\"check_passed\"");
    end_well();
}

static void drains(void **state)
{
    (void)state;
    LAUNCH("--mode=slow", "--drain.timeout=1h");
    await_ready();
    kill(p.pid, SIGTERM);
    (void)await("\"event\":\"draining\"");
    assert_int_equal(GET("/readyz"), 503);
    says("\"state\":\"draining\"");
    assert_int_equal(GET("/livez"), 200);
    assert_int_equal(ask("POST", "/orders/do", "", "done"), 200);
    assert_int_equal(finish(), 0);
    assert_null(strstr(p.log, "drain_timed_out"));
}

static void gives_a_drain_up(void **state)
{
    (void)state;
    LAUNCH("--mode=stuck", "--drain.timeout=100ms");
    await_ready();
    kill(p.pid, SIGINT);
    (void)await("\"event\":\"drain_timed_out\"");
    assert_int_equal(finish(), 0);
    LAUNCH("--mode=stuck", "--drain.timeout=1h");
    await_ready();
    kill(p.pid, SIGTERM);
    (void)await("\"event\":\"draining\"");
    kill(p.pid, SIGTERM);
    (void)await("\"event\":\"drain_cut_short\"");
    assert_int_equal(finish(), 0);
}

static void prints_its_state(void **state)
{
    (void)state;
    LAUNCH("--number=3");
    await_ready();
    kill(p.pid, SIGUSR1);
    assert_non_null(strstr(await("\"event\":\"state_dumped\""), "\\\"number\\\":3"));
    kill(p.pid, SIGPIPE);
    assert_int_equal(GET("/livez"), 200);
    end_well();
}

static void notices_a_stall(void **state)
{
    (void)state;
    LAUNCH("--loop.stall=1s");
    await_ready();
    (void)GET("/livez"); /* what the start took is forgotten */
    int status;
    kill(p.pid, SIGSTOP);
    assert_int_equal(waitpid(p.pid, &status, WUNTRACED), p.pid);
    assert_int_equal(poll(NULL, 0, 1500), 0); /* the stall itself: this long it must last */
    kill(p.pid, SIGCONT);
    assert_int_equal(GET("/livez"), 503);
    says("\"live\":false");
    end_well();
}

static void ends_with_the_right_code(void **state)
{
    (void)state;
    LAUNCH("--mode=fail");
    assert_int_equal(finish(), APP_EXIT_UNAVAILABLE);
    assert_non_null(strstr(p.log, "\"event\":\"start_failed\""));
    assert_non_null(strstr(p.log, "no peer"));
    LAUNCH("--mode=late-fail");
    assert_int_equal(finish(), APP_EXIT_UNAVAILABLE);
    assert_non_null(strstr(p.log, "\"event\":\"dependency_gone\""));
    LAUNCH("--nonsense");
    assert_int_equal(finish(), APP_EXIT_USAGE);
    assert_non_null(strstr(p.log, "unknown flag"));
    LAUNCH("--mode=refuse");
    assert_int_equal(finish(), APP_EXIT_CONFIG);
    assert_non_null(strstr(p.log, "refuse does not go with"));
    LAUNCH("--check-config", "--user=a.b");
    assert_int_equal(finish(), APP_EXIT_CONFIG);
    LAUNCH("--check-config", "--log.levels=loud");
    assert_int_equal(finish(), APP_EXIT_CONFIG);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, n) | listen(fd, 1) |
                         getsockname(fd, (struct sockaddr *)&at, &n),
                     0);
    char flag[64];
    snprintf(flag, sizeof flag, "--admin.listen=127.0.0.1:%u", ntohs(at.sin_port));
    LAUNCH(flag);
    assert_int_equal(finish(), APP_EXIT_OS);
    assert_non_null(strstr(p.log, "EADDRINUSE"));
    close(fd);
    assert_int_equal(app_exit_code(0), 0);
    assert_int_equal(app_exit_code(ERR_INTERNAL), APP_EXIT_INTERNAL);
    assert_int_equal(app_exit_code(ERR_NOSPACE), APP_EXIT_CREATE);
}

static void speaks_to_people(void **state)
{
    (void)state;
    LAUNCH("--help");
    assert_int_equal(finish(), 0);
    says("--admin.listen=HOST:PORT");
    says("--password_file=FILE");
    LAUNCH("--version");
    assert_int_equal(finish(), 0);
    assert_memory_equal(p.answer, "tester ", 7);
    LAUNCH("--version=json");
    assert_int_equal(finish(), 0);
    json_t *root = json_loads(p.answer, 0, NULL);
    assert_non_null(json_object_get(json_object_get(root, "libraries"), "libuv"));
    json_decref(root);
    LAUNCH("--check-config");
    assert_int_equal(finish(), 0);
    LAUNCH("--print-config", "--number=5");
    assert_int_equal(finish(), 0);
    root = json_loads(p.answer, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(root, "number")), 5);
    assert_string_equal(json_string_value(json_object_get(root, "memory.max")), "64MiB");
    json_decref(root);
    LAUNCH("--dump-options-markdown");
    assert_int_equal(finish(), 0);
    says("| `drain.timeout` | `SLUICE_DRAIN_TIMEOUT` | `10s` |");
    LAUNCH("--dump-metrics-markdown");
    assert_int_equal(finish(), 0);
    says("| `sluice_ready` | gauge |");
    says("| `sluice_test_orders_total` | counter |");
}

/* A handle that nobody closed ends a build for tests with an abort, any other at least with a line in the log. */
static void finds_open_handles(void **state)
{
    (void)state;
    LAUNCH("--mode=leak");
    await_ready();
    kill(p.pid, SIGTERM);
    int code = finish();
    assert_non_null(strstr(p.log, "\"event\":\"handle_left_open\""));
    assert_non_null(strstr(p.log, "\"type\":\"timer\""));
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(SLUICE_CRASH_POINTS)
    assert_int_equal(code, -SIGABRT);
#else
    assert_int_equal(code, 0);
#endif
}

/* Named places kill builds for tests only. */
static void crashes_where_told(void **state)
{
    (void)state;
    static const struct {
        const char *at;
        bool dies;
    } cases[] = {{"test-start", true},
                 {"test-start:2", true},
                 {"test-start:3", false},
                 {"test", false},
                 {"", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("SLUICE_CRASH_AT", cases[i].at, 1);
        LAUNCH("--mode=fail");
        int code = finish();
#ifdef SLUICE_CRASH_POINTS
        assert_int_equal(code, cases[i].dies ? -SIGKILL : APP_EXIT_UNAVAILABLE);
#else
        assert_int_equal(code, APP_EXIT_UNAVAILABLE);
#endif
    }
    unsetenv("SLUICE_CRASH_AT");
}

static void accounts_memory(void **state)
{
    (void)state;
    struct app_memory m = {.budget = 100};
    assert_true(app_memory_fits(&m, 100));
    app_memory_add(&m, 60);
    assert_false(app_memory_fits(&m, 41));
    assert_true(app_memory_fits(&m, 40));
    assert_false(app_memory_fits(&m, UINT64_MAX));
    app_memory_sub(&m, 60);
    assert_true(m.used == 0 && m.peak == 60 && m.refusals == 2);
}

static int kill_rest(void **state)
{
    (void)state;
    /* Only after a failure there is one left, and then it is ours. */
    int status;
    if (p.pid > 0 && waitpid(p.pid, &status, WNOHANG) == 0) {
        kill(p.pid, SIGKILL);
        waitpid(p.pid, &status, 0);
    }
    p.pid = 0;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--as-service") == 0) {
        argv[1] = argv[0];
        return app_main(&def, argc - 1, argv + 1);
    }
    self = "/proc/self/exe";
    char path[4096];
    ssize_t n = readlink(self, path, sizeof path - 1);
    if (n <= 0)
        return 1;
    path[n] = 0;
    self = path;
#define T(f) cmocka_unit_test_teardown(f, kill_rest)
    const struct CMUnitTest tests[] = {T(answers_and_ends),   T(shows_metrics),
                                       T(obeys_orders),       T(drains),
                                       T(gives_a_drain_up),   T(prints_its_state),
                                       T(notices_a_stall),    T(ends_with_the_right_code),
                                       T(speaks_to_people),   T(finds_open_handles),
                                       T(crashes_where_told), T(accounts_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
