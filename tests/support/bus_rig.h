/* bus_rig: the two ends of a bus that counts, on the loop of turning.h.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/bus.h"
#include "turning.h"

enum { ADDRESS = 40, ASK_MS = 60000 };

/* Answers what it was asked, but "drop". */
struct service {
    struct bus_server *server;
    char address[ADDRESS];
    struct bus_call *held[300];
    unsigned n_held, seen;
    bool hold; /* answers nothing until answer_held */
};
void service_open(struct service *s);
void service_open_as(struct service *s, struct bus_server_opts o);
void answer_held(struct service *s, unsigned n); /* "late" to the last n */

struct asker {
    struct bus_client *client;
    unsigned answers, unknown, unavailable, states;
    char last[64]; /* answer */
};
void asker_open(struct asker *a, const char *addresses);
int ask(struct asker *a, const char *text); /* for ASK_MS */
int ask_for(struct asker *a, struct str msg, uint64_t timeout_ms, struct bus_ask **ret);

/* Hears what is announced. */
struct listener {
    struct bus_sub *sub;
    unsigned got, connected;
    char last[64];
};
void listener_open(struct listener *l, const char *addresses);
struct bus_pub *pub_open(char ret_address[ADDRESS]);

/* "127.0.0.1:port" */
const char *address_of(unsigned port, char out[ADDRESS]);
