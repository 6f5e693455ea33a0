/* test_outbox: requests of a turn in one message, gathering, answers back in order, and every way in which an answer can fail,
 * against a real bus server.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/outbox.h"
#include "base/clock.h"
#include "base/mem.h"
#include "gateway/rest_wire.h"
#include "support/turning.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

enum { WAIT_MS = 30000, N = 64 };

enum mode { ANSWER, HOLD, GARBAGE, TOO_FEW, WRONG_SIZE, BAD_INDEX, DROP };
struct fix {
    struct loop *loop;
    struct bus_server *server;
    struct bus_client *client;
    struct outbox *ob;
    enum mode mode;
    struct bus_call *held[16];
    Sluice__ToProducer *held_msg[16];
    unsigned n_held, messages, requests, last_requests, sent_requests, sent_messages;
    int64_t offset;
    char last_topic[64];
    int last_partition;
    unsigned last_timeout;
};
struct request {
    struct outbox_item item;
    unsigned done;
    int rc;
    int64_t offset;
};

static void reply(struct fix *f, struct bus_call *call, const Sluice__ToProducer *to,
                  enum mode mode)
{
    static const char garbage[] = "\xff\xff\xff";
    Sluice__ProduceAnswer answers[N], *list[N];
    Sluice__ProduceError error = SLUICE__PRODUCE_ERROR__INIT, *errors[] = {&error};
    Sluice__FromProducer from = SLUICE__FROM_PRODUCER__INIT;
    int32_t partition[N] = {0};
    int64_t offset[N];
    if (mode == GARBAGE) {
        bus_reply(call, str_make(garbage, 3));
        return;
    }
    if (mode == DROP) {
        bus_drop(call);
        return;
    }
    from.version = 1;
    from.produce = list;
    from.n_produce = to->n_produce - (mode == TOO_FEW);
    for (size_t i = 0; i < from.n_produce; i++) {
        offset[i] = f->offset++;
        answers[i] = (Sluice__ProduceAnswer)SLUICE__PRODUCE_ANSWER__INIT;
        answers[i].n_partition = answers[i].n_offset =
            to->produce[i]->n_record + (mode == WRONG_SIZE);
        answers[i].partition = partition, answers[i].offset = &offset[i];
        if (mode == BAD_INDEX) {
            error.index = 99, error.outcome = SLUICE__PRODUCE_ERROR__OUTCOME__REFUSED,
            error.text = "";
            answers[i].n_error = 1, answers[i].error = errors;
        }
        list[i] = &answers[i];
    }
    size_t n = sluice__from_producer__get_packed_size(&from);
    uint8_t *p = mem_alloc(n + 1);
    sluice__from_producer__pack(&from, p);
    bus_reply(call, str_make((char *)p, n));
    mem_free(p);
}

static void on_request(void *ctx, struct bus_call *call, struct str msg)
{
    struct fix *f = ctx;
    Sluice__ToProducer *to = sluice__to_producer__unpack(NULL, msg.n, (const uint8_t *)msg.p);
    assert_non_null(to);
    assert_int_equal(to->version, 1);
    f->messages++;
    f->requests += (unsigned)to->n_produce;
    f->last_requests = (unsigned)to->n_produce;
    if (to->n_produce) {
        Sluice__ProduceRequest *r = to->produce[0];
        snprintf(f->last_topic, sizeof f->last_topic, "%s", r->topic);
        f->last_partition = r->has_partition ? r->partition : -1;
        f->last_timeout = r->timeout_ms;
        assert_int_equal(r->n_record, 1);
    }
    if (f->mode == HOLD) {
        f->held_msg[f->n_held] = to;
        f->held[f->n_held++] = call;
        return;
    }
    reply(f, call, to, f->mode);
    sluice__to_producer__free_unpacked(to, NULL);
}

static void on_message(void *ctx, unsigned requests, size_t bytes)
{
    struct fix *f = ctx;
    assert_true(bytes > 0);
    f->sent_messages++;
    f->sent_requests += requests;
}

static void on_done(struct outbox_item *item, int rc, const Sluice__ProduceAnswer *a)
{
    struct request *r = (struct request *)item;
    r->done++;
    r->rc = rc;
    r->offset = rc == 0 ? a->offset[0] : -1;
}

#define UNTIL(f, cond) TURN_UNTIL((f)->loop, cond)

static struct fix *open_fix(uint64_t timeout_ms, uint64_t gather_ms, size_t message_bytes)
{
    struct fix *f = MEM_NEW(struct fix);
    struct err e = {0};
    char address[32];
    f->loop = loop_new();
    struct bus_server_opts so = {.listen = "127.0.0.1:0", .on_request = on_request, .ctx = f};
    assert_int_equal(bus_server_open(f->loop, &so, &f->server, &e), 0);
    snprintf(address, sizeof address, "127.0.0.1:%u", bus_server_port(f->server));
    struct bus_client_opts co = {.addresses = address};
    assert_int_equal(bus_client_open(f->loop, &co, &f->client, &e), 0);
    UNTIL(f, bus_client_connected(f->client) == 1);
    struct outbox_opts oo = {.loop = f->loop,
                             .bus = f->client,
                             .message_bytes = message_bytes,
                             .timeout_ms = timeout_ms,
                             .gather_ms = gather_ms,
                             .on_message = on_message,
                             .ctx = f};
    f->ob = outbox_open(&oo);
    return f;
}

static void release(struct fix *f)
{
    for (unsigned i = 0; i < f->n_held; i++) {
        reply(f, f->held[i], f->held_msg[i], ANSWER);
        sluice__to_producer__free_unpacked(f->held_msg[i], NULL);
    }
    f->n_held = 0;
}

static void close_fix(struct fix *f)
{
    for (unsigned i = 0; i < f->n_held; i++)
        sluice__to_producer__free_unpacked(f->held_msg[i], NULL);
    outbox_close(&f->ob);
    bus_client_close(&f->client);
    bus_server_close(&f->server);
    uint64_t end = clock_ms() + WAIT_MS;
    while (uv_loop_alive(loop_uv(f->loop)) && clock_ms() < end)
        loop_run_once(f->loop, false);
    assert_int_equal(loop_free(&f->loop), 0);
    mem_free(f);
}

static void send_one(struct fix *f, struct request *r, const char *topic, int32_t partition)
{
    static const char record[] = {WIRE_REQUEST_RECORD, 3, WIRE_RECORD_VALUE, 1, 'v'};
    *r = (struct request){.item = {.records = 1, .done = on_done}};
    struct buf *b = outbox_begin(f->ob, str_of(topic), partition);
    assert_true(buf_append(b, record, sizeof record));
    outbox_commit(f->ob, &r->item);
    assert_true(r->item.bytes > sizeof record);
    assert_int_equal(r->done, 0);
}

static void test_one_turn_one_message(void **state)
{
    (void)state;
    struct fix *f = open_fix(10000, 0, 1 << 20);
    struct request r[N];
    for (int i = 0; i < N; i++)
        send_one(f, &r[i], i ? "other" : "first.topic", i ? 7 : -1);
    for (int i = 0; i < N; i++)
        UNTIL(f, r[i].done);
    assert_int_equal(f->messages, 1);
    assert_int_equal(f->requests, N);
    assert_int_equal(f->sent_messages, 1);
    assert_int_equal(f->sent_requests, N);
    assert_string_equal(f->last_topic, "first.topic");
    assert_int_equal(f->last_partition, -1);
    assert_int_equal(f->last_timeout, 9500);
    for (int i = 0; i < N; i++) {
        assert_int_equal(r[i].done, 1);
        assert_int_equal(r[i].rc, 0);
        assert_int_equal(r[i].offset, i); /* each its own answer */
    }
    send_one(f, &r[0], "x", 0);
    UNTIL(f, r[0].done);
    assert_int_equal(f->last_partition, 0);
    assert_int_equal(outbox_bytes(f->ob), 0);
    assert_int_equal(outbox_messages(f->ob), 0);
    close_fix(f);
}

static void test_gathers_while_two_unanswered(void **state)
{
    (void)state;
    struct fix *f = open_fix(60000, 3600000, 1 << 20); /* gathering never ends by itself here */
    struct request r[8];
    f->mode = HOLD;
    for (int i = 0; i < 2; i++) {
        send_one(f, &r[i], "t", -1);
        UNTIL(f, f->n_held == (unsigned)i + 1);
    }
    for (int i = 2; i < 8; i++) {
        send_one(f, &r[i], "t", -1);
        for (int k = 0; k < 5; k++)
            loop_run_once(f->loop, false);
    }
    assert_int_equal(f->messages, 2);
    assert_true(outbox_bytes(f->ob) > 0);
    f->mode = ANSWER;
    release(f); /* an answer makes room: all that waited goes in one message */
    for (int i = 0; i < 8; i++)
        UNTIL(f, r[i].done);
    assert_int_equal(f->messages, 3);
    assert_int_equal(f->last_requests, 6);
    close_fix(f);
    f = open_fix(60000, 0, 1 << 20); /* and without an answer after 3 ms */
    f->mode = HOLD;
    for (int i = 0; i < 3; i++) {
        send_one(f, &r[i], "t", -1);
        UNTIL(f, f->n_held == (unsigned)i + 1);
    }
    assert_int_equal(f->messages, 3);
    release(f);
    UNTIL(f, r[2].done);
    close_fix(f);
    enum { STEP = 30 };
    f = open_fix(60000, STEP, 1 << 20); /* longer with each that is unanswered */
    f->mode = HOLD;
    for (unsigned i = 0; i < 5; i++) {
        uint64_t began = clock_ms();
        send_one(f, &r[i], "t", -1);
        UNTIL(f, f->n_held == i + 1);
        uint64_t waits = i < 2 ? 0 : (i - 1) * STEP;
        assert_true(clock_ms() - began + 2 >=
                    waits); /* the loop's own clock stands still for a turn */
    }
    release(f);
    UNTIL(f, r[4].done);
    close_fix(f);
    f = open_fix(60000, 3600000, 40); /* or when the message is large enough */
    f->mode = HOLD;
    for (int i = 0; i < 4; i++)
        send_one(f, &r[i], "t", -1);
    UNTIL(f, f->n_held == 2); /* three of them were enough, the fourth began another */
    assert_int_equal(f->requests, 4);
    assert_int_equal(f->last_requests, 1);
    for (int i = 5; i < 8; i++)
        send_one(f, &r[i], "t", -1);
    UNTIL(f, f->n_held == 3);
    assert_int_equal(f->last_requests, 3);
    release(f);
    close_fix(f);
}

static void test_abort(void **state)
{
    (void)state;
    struct fix *f = open_fix(10000, 0, 1 << 20);
    struct request r[2];
    (void)buf_z(outbox_begin(f->ob, STR("gone"), -1), "half a record");
    outbox_abort(f->ob);
    assert_int_equal(outbox_bytes(f->ob), 0);
    send_one(f, &r[0], "a", -1);
    (void)buf_z(outbox_begin(f->ob, STR("gone"), -1), "half a record");
    outbox_abort(f->ob);
    send_one(f, &r[1], "b", -1);
    UNTIL(f, r[0].done && r[1].done);
    assert_int_equal(f->requests, 2);
    assert_int_equal(r[1].rc, 0);
    close_fix(f);
}

static void test_bad_answers(void **state)
{
    (void)state;
    static const enum mode modes[] = {GARBAGE, TOO_FEW, WRONG_SIZE, BAD_INDEX};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct fix *f = open_fix(10000, 0, 1 << 20);
        struct request r[2];
        f->mode = modes[i];
        send_one(f, &r[0], "t", -1);
        send_one(f, &r[1], "t", -1);
        UNTIL(f, r[0].done && r[1].done);
        assert_int_equal(r[0].rc, ERR_UNKNOWN);
        assert_int_equal(r[1].rc, ERR_UNKNOWN);
        f->mode = ANSWER; /* and it goes on */
        send_one(f, &r[0], "t", -1);
        UNTIL(f, r[0].done);
        assert_int_equal(r[0].rc, 0);
        close_fix(f);
    }
}

static void test_lost(void **state)
{
    (void)state;
    struct fix *f = open_fix(200, 0, 1 << 20);
    struct request r[2];
    f->mode = DROP; /* no answer in time */
    send_one(f, &r[0], "t", -1);
    UNTIL(f, r[0].done);
    assert_int_equal(r[0].rc, ERR_UNKNOWN);
    close_fix(f);
    f = open_fix(60000, 0, 1 << 20);
    f->mode = HOLD; /* the producer dies after the message came */
    send_one(f, &r[0], "t", -1);
    UNTIL(f, f->n_held == 1);
    bus_server_close(&f->server);
    UNTIL(f, r[0].done);
    assert_int_equal(r[0].rc, ERR_UNKNOWN);
    UNTIL(f, bus_client_connected(f->client) == 0);
    send_one(f, &r[1], "t", -1); /* and nobody is there */
    UNTIL(f, r[1].done);
    assert_int_equal(r[1].rc, ERR_UNAVAILABLE);
    assert_int_equal(r[0].done, 1);
    close_fix(f);
}

static void test_closed_with_requests(void **state)
{
    (void)state;
    struct fix *f = open_fix(60000, 3600000, 1 << 20);
    struct request r[4];
    f->mode = HOLD;
    for (int i = 0; i < 2; i++) {
        send_one(f, &r[i], "t", -1);
        UNTIL(f, f->n_held == (unsigned)i + 1);
    }
    send_one(f, &r[2], "t", -1);
    close_fix(f);
    assert_int_equal(r[0].done + r[1].done + r[2].done, 0);
}

struct asked {
    unsigned done;
    int rc;
};

static void on_asked(void *ctx, int rc, const Sluice__QuestionAnswer *a)
{
    struct asked *q = ctx;
    assert_true((rc == 0) == (a != NULL));
    q->done++;
    q->rc = rc;
}

static void test_questions(void **state)
{
    (void)state;
    struct fix *f = open_fix(60000, 0, 1 << 20);
    struct asked a = {0}, b = {0};
    struct outbox_question *q = NULL, *q2 = NULL;
    f->mode = HOLD;
    assert_int_equal(
        outbox_ask(f->ob, SLUICE__QUESTION__KIND__OFFSETS, STR("t"), 3, 60000, on_asked, &a, &q),
        0);
    assert_int_equal(outbox_ask(f->ob, SLUICE__QUESTION__KIND__CLUSTER, (struct str){NULL, 0}, -1,
                                60000, on_asked, &b, &q2),
                     0);
    UNTIL(f, f->n_held == 2);
    Sluice__Question *first = f->held_msg[0]->question[0];
    assert_string_equal(first->topic, "t");
    assert_int_equal(first->partition, 3);
    assert_null(f->held_msg[1]->question[0]->topic);
    outbox_cancel(&q2);
    assert_null(q2);
    Sluice__QuestionAnswer answer = SLUICE__QUESTION_ANSWER__INIT, *answers[] = {&answer};
    Sluice__FromProducer from = SLUICE__FROM_PRODUCER__INIT;
    uint8_t bytes[64];
    from.version = 1, from.n_question = 1, from.question = answers;
    answer.result = SLUICE__QUESTION_ANSWER__RESULT__OK;
    size_t n = sluice__from_producer__pack(&from, bytes);
    for (int i = 0; i < 2; i++) {
        bus_reply(f->held[i], str_make((char *)bytes, n));
        sluice__to_producer__free_unpacked(f->held_msg[i], NULL);
    }
    f->n_held = 0;
    UNTIL(f, a.done);
    assert_int_equal(a.rc, 0);
    assert_null(q);
    f->mode = GARBAGE;
    a.done = 0;
    assert_int_equal(
        outbox_ask(f->ob, SLUICE__QUESTION__KIND__TOPIC, STR("t"), -1, 60000, on_asked, &a, &q), 0);
    UNTIL(f, a.done);
    assert_int_equal(a.rc, ERR_PROTOCOL);
    f->mode = DROP;
    a.done = 0;
    assert_int_equal(
        outbox_ask(f->ob, SLUICE__QUESTION__KIND__TOPIC, STR("t"), -1, 100, on_asked, &a, &q), 0);
    UNTIL(f, a.done);
    assert_true(a.rc != 0);
    assert_int_equal(b.done, 0);
    close_fix(f);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_turn_one_message),
        cmocka_unit_test(test_gathers_while_two_unanswered),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_closed_with_requests),
        cmocka_unit_test(test_questions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
