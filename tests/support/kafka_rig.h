/* kafka_rig: a mock cluster, a producer that counts reports and a consumer that counts messages, on the loop of turning.h.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/kafka.h"
#include "io/kafka_mock.h"
#include "turning.h"

struct sink;
struct kafka_rig {
    /* the producer of kafka_fill: one for a whole test, because each costs half a second to begin */
    struct sink *filler;
    struct kafka_mock *mock;
    const char *brokers;
};
/* The fixture; *state is the rig. Only errors are logged. */
int kafka_rig_setup(void **state);
int kafka_rig_teardown(void **state);
/* Until what was closed is gone. A test that failed leaves handles open. */
void kafka_rig_settle(struct kafka_rig *f);

/* ---- producing ---- */
enum { SINK_MAX = 4096 };
struct sink {
    size_t n, stored, refused, unsure, fatal, up;
    struct kafka_delivery last;
    struct kafka_producer *p;
    bool close_inside;
    int64_t offsets[SINK_MAX];
};
struct kafka_producer_opts sink_opts(struct kafka_rig *f, struct sink *s);
/* The i-th record; the first SINK_MAX have their offsets kept. */
int sink_produce(struct sink *s, const char *topic, int32_t partition, const char *key,
                 const char *value, size_t i);
/* Stores n records "v0", "v1", … of key "k". */
void kafka_fill(struct kafka_rig *f, const char *topic, int32_t partition, size_t n);

/* ---- consuming ---- */
struct source {
    struct kafka_rig *f;
    struct kafka_consumer *c;
    const char *group; /* NULL: "g" */
    size_t n, ends, assigned, revoked, lost, out_of_range, fatal, up, closed, commits, offsets;
    int fatal_code;
    int64_t first, last, end_offset, bad_offset;
    int64_t start;      /* where ASSIGNED begins; -2: the test takes by hand */
    bool hold;          /* REVOKED is not answered */
    bool after_release; /* a message of a partition that is gone */
    bool close_inside;
    size_t owned;
    bool own[16];
    char last_value[32], header[32];
    int rc;
    struct kafka_partition got[4];
};
void source_open(struct kafka_rig *f, struct source *s, const char *topics, const char *instance);
void source_take(struct source *s, const char *topic, int32_t partition, int64_t offset);
