/* bus_rig: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "bus_rig.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

static void on_request(void *ctx, struct bus_call *call, struct str msg)
{
    struct service *s = ctx;
    s->seen++;
    if (str_is(msg, "drop"))
        bus_drop(call);
    else if (s->hold)
        s->held[s->n_held++] = call;
    else
        bus_reply(call, msg);
}

const char *address_of(unsigned port, char out[ADDRESS])
{
    snprintf(out, ADDRESS, "127.0.0.1:%u", port);
    return out;
}

void service_open_as(struct service *s, struct bus_server_opts o)
{
    struct err e = {0};
    o.on_request = on_request;
    o.ctx = s;
    if (!o.listen)
        o.listen = "127.0.0.1:0";
    assert_int_equal(bus_server_open(loop, &o, &s->server, &e), 0);
    address_of(bus_server_port(s->server), s->address);
}

void service_open(struct service *s)
{
    service_open_as(s, (struct bus_server_opts){0});
}

void answer_held(struct service *s, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        bus_reply(s->held[--s->n_held], STR("late"));
}

static void on_answer(void *ctx, int rc, struct str msg)
{
    struct asker *a = ctx;
    assert_true(rc == 0 || rc == ERR_UNKNOWN || rc == ERR_UNAVAILABLE);
    a->answers += rc == 0;
    a->unknown += rc == ERR_UNKNOWN;
    a->unavailable += rc == ERR_UNAVAILABLE;
    snprintf(a->last, sizeof(a->last), STR_FMT, STR_ARG(msg));
}

static void on_state(void *ctx, unsigned connected, unsigned total)
{
    struct asker *a = ctx;
    assert_true(connected <= total);
    a->states++;
}

void asker_open(struct asker *a, const char *addresses)
{
    struct bus_client_opts o = {
        .addresses = addresses, .on_state = on_state, .ctx = a, .reconnect_max_ms = 50};
    struct err e = {0};
    assert_int_equal(bus_client_open(loop, &o, &a->client, &e), 0);
}

int ask_for(struct asker *a, struct str msg, uint64_t timeout_ms, struct bus_ask **ret)
{
    return bus_ask(a->client, msg, timeout_ms, on_answer, a, ret);
}

int ask(struct asker *a, const char *text)
{
    return ask_for(a, str_of(text), ASK_MS, NULL);
}

static void on_message(void *ctx, struct str msg)
{
    struct listener *l = ctx;
    l->got++;
    snprintf(l->last, sizeof(l->last), STR_FMT, STR_ARG(msg));
}

static void on_sub_state(void *ctx, unsigned connected, unsigned total)
{
    struct listener *l = ctx;
    assert_true(connected <= total);
    l->connected = connected;
}

void listener_open(struct listener *l, const char *addresses)
{
    assert_int_equal(bus_sub_open(loop, addresses, on_message, on_sub_state, l, &l->sub, NULL), 0);
}

struct bus_pub *pub_open(char ret_address[ADDRESS])
{
    struct bus_pub *pub = NULL;
    assert_int_equal(bus_pub_open(loop, "127.0.0.1:0", &pub, NULL), 0);
    address_of(bus_pub_port(pub), ret_address);
    return pub;
}
