/* kafka_priv: what the parts of the Kafka adapter share: one librdkafka instance wired to the loop, settings, error mapping.
 *
 * librdkafka's types appear by their struct names, so that this header does not pull in the library's.
 * Threads: loop only, but the functions that end in _mt.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/list.h"
#include "io/kafka.h"
#include <stdatomic.h>

struct rd_kafka_s;
struct rd_kafka_conf_s;
struct rd_kafka_queue_s;
struct rd_kafka_op_s;
struct rd_kafka_topic_partition_list_s;
struct rd_kafka_AdminOptions_s;

/* ---- settings (kafka_config.c) ---- */
/* They take the opts as they are and return NULL with text in e when the library refuses a value. */
struct rd_kafka_conf_s *kafka_conf_producer(const struct kafka_producer_opts *o, struct err *e);
struct rd_kafka_conf_s *kafka_conf_consumer(const struct kafka_consumer_opts *o, struct err *e);
struct rd_kafka_conf_s *kafka_conf_admin(const struct kafka_admin_opts *o, struct err *e);

/* ---- core (kafka.c) ---- */
struct kafka_core;
/* One event of the library's queue; the core destroys it afterwards. The owner may close the core inside. */
typedef void kafka_event_fn(void *ctx, struct rd_kafka_op_s *event);
typedef void kafka_state_fn(void *ctx, bool up, const char *detail);

struct kafka_core_opts {
    struct rd_kafka_conf_s *conf; /* taken, also on failure */
    bool consumer;                /* the event queue is the consumer's; else the main one */
    kafka_event_fn *on_event;
    kafka_state_fn *on_state; /* may be NULL */
    loop_fn *on_tick;         /* once a tick (1 s, or what kafka_core_set_tick said); may be NULL */
    void *ctx;
};
struct kafka_core *kafka_core_open(struct loop *loop, const struct kafka_core_opts *o,
                                   struct err *e);
/* No callback after it. The library is destroyed by a thread of its own; the wake-up handle stays with the loop until then. */
void kafka_core_close(struct kafka_core **core);
struct rd_kafka_s *kafka_core_rk(const struct kafka_core *core);
struct rd_kafka_queue_s *kafka_core_queue(const struct kafka_core *core);
bool kafka_core_closing(const struct kafka_core *core);
bool kafka_core_up(const struct kafka_core *core);
/* sooner than not up: no broker at all */
bool kafka_core_brokerless(const struct kafka_core *core);
void kafka_core_seen(struct kafka_core *core); /* something worked: the cluster is there */
void kafka_core_set_tick(struct kafka_core *core, uint64_t every_ms);
/* The consumer has begun to leave its group: its end then serves what the library still wants answered. */
void kafka_core_set_leaving(struct kafka_core *core);
/* A worker that uses the instance from the pool holds it: the instance is not destroyed before kafka_core_unhold. */
void kafka_core_hold(struct kafka_core *core);
void kafka_core_unhold(struct kafka_core *core);
/* Whether a blocking call that failed is to be tried again: waits a moment first. False: closed meanwhile, or late. */
bool kafka_core_again_mt(const struct kafka_core *core, uint64_t end_ms);

/* ---- a consumer's offsets (kafka_offsets.c) ---- */
/* Questions that wait for their answers. Embedded in the consumer; close ends them without their callbacks, after its core was closed. */
struct kafka_offsets {
    struct loop *loop;
    struct kafka_core *core;
    struct list ops;
    struct fetch *fetch; /* at work, or NULL */
};
void kafka_offsets_open(struct kafka_offsets *o, struct loop *loop, struct kafka_core *core);
void kafka_offsets_close(struct kafka_offsets *o);
/* As kafka_consumer_committed and kafka_consumer_commit. */
void kafka_offsets_ask(struct kafka_offsets *o, const struct kafka_partition *parts, size_t n,
                       uint64_t timeout_ms, kafka_offsets_fn *done, void *ctx);
void kafka_offsets_commit(struct kafka_offsets *o, const struct kafka_partition *parts, size_t n,
                          kafka_offsets_fn *done, void *ctx);
void kafka_offsets_on_commit(struct rd_kafka_op_s *event); /* the library's answer to a commit */

/* ---- shared pieces (kafka.c) ---- */
int kafka_code(int err); /* rd_kafka_resp_err_t to ERR_* */
struct rd_kafka_topic_partition_list_s *kafka_list_new(const struct kafka_partition *parts,
                                                       size_t n);
/* A copy of the library's list, with offsets below 0 as -1; rc of the first partition that failed in *ret_rc. */
struct kafka_partition *kafka_parts_from(const struct rd_kafka_topic_partition_list_s *list,
                                         int *ret_rc);
void kafka_parts_free(struct kafka_partition *parts, size_t n);
struct rd_kafka_AdminOptions_s *kafka_admin_options(struct rd_kafka_s *rk, int for_api,
                                                    uint64_t timeout_ms, void *opaque);
