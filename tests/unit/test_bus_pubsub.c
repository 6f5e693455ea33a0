/* test_bus_pubsub: announcements between our own two ends, and to a subscriber that does not read.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/bus.h"
#include "base/mem.h"
#include "support/bus_rig.h"
#include "support/raw.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#define HELLO_SUB "\0SP\0\0\x21\0\0"

static void on_nothing(void *ctx, struct str msg)
{
    (void)ctx, (void)msg;
    fail();
}

static void all_subscribers_hear_all_publishers(void **state)
{
    (void)state;
    char one[ADDRESS], two[ADDRESS], both[2 * ADDRESS];
    struct bus_pub *p1 = pub_open(one), *p2 = pub_open(two);
    struct listener l[3] = {0};
    snprintf(both, sizeof(both), "%s,%s", one, two);
    for (int i = 0; i < 3; i++)
        listener_open(&l[i], both);
    WAIT(l[0].connected + l[1].connected + l[2].connected == 6);
    /* A subscriber is up a moment before its publisher knows: the first words may go past it. */
    for (uint64_t end = uv_hrtime() + TURNING_NS;
         l[0].got == 0 || l[1].got == 0 || l[2].got == 0;) {
        assert_true(uv_hrtime() < end);
        bus_pub_send(p1, STR("table is at version 12"));
        turn();
    }
    assert_string_equal(l[2].last, "table is at version 12");
    for (int i = 0; i < 5; i++)
        turn();
    unsigned before = l[0].got;
    for (int i = 0; i < 1000; i++) /* more than the queue, but nobody is slow */
        bus_pub_send(p2, STR("v"));
    WAIT(l[0].got >= before + 1000);
    bus_pub_close(&p1);
    WAIT(l[0].connected + l[1].connected + l[2].connected == 3);
    for (int i = 0; i < 3; i++)
        bus_sub_close(&l[i].sub);
    bus_pub_close(&p2);
    assert_int_equal(bus_sub_open(loop, "nowhere", on_nothing, NULL, NULL, &l[0].sub, NULL),
                     ERR_CONFIG);
}

static void a_slow_subscriber_loses_the_oldest(void **state)
{
    (void)state;
    char address[ADDRESS];
    struct bus_pub *pub = pub_open(address);
    int fd = raw_connect(bus_pub_port(pub));
    raw_send(fd, HELLO_SUB, 8);
    size_t n = 64 * 1024, total = 0;
    char *big = mem_alloc(n);
    char *bytes = mem_alloc_raw(n);
    size_t have = 0;
    WAIT((have = raw_drain(fd, bytes, have, 8)) == 8);
    for (unsigned i = 0; i < 2000; i++) { /* 125 MiB, of which it reads nothing */
        memcpy(big, &i, sizeof(i));
        bus_pub_send(pub, str_make(big, n));
        if (i % 16 == 0)
            turn();
    }
    unsigned last = 0, messages = 0;
    /* Every message is whole and they come in order; the last is the last. */
    char *frame = mem_alloc_raw(n + 8);
    for (uint64_t end = uv_hrtime() + TURNING_NS; last != 1999;) {
        have = 0;
        while (have < n + 8) {
            assert_true(uv_hrtime() < end);
            size_t now = raw_drain(fd, frame, have, n + 8);
            if (now == have)
                turn();
            have = now;
        }
        assert_memory_equal(frame, "\0\0\0\0\0\1\0\0", 8);
        unsigned number;
        memcpy(&number, frame + 8, sizeof(number));
        assert_true(messages == 0 || number > last);
        last = number;
        messages++;
        total += have;
    }
    assert_true(messages >= 256 && messages < 1500);
    mem_free(frame);
    mem_free(bytes);
    mem_free(big);
    close(fd);
    bus_pub_close(&pub);
}

int main(void)
{
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
        return 1;
#define T(name) cmocka_unit_test_setup_teardown(name, turning_setup, turning_teardown)
    const struct CMUnitTest tests[] = {
        T(all_subscribers_hear_all_publishers),
        T(a_slow_subscriber_loses_the_oldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
