/* kafka_mock: librdkafka's mock cluster, for tests: real sockets and the real protocol, with faults by order.
 *
 * Keeps 5 MiB a partition and nothing over a restart; topics cannot be created or deleted by admin requests, only from here.
 * Threads: one at a time; the cluster runs in a thread of the library's. The calls wait for it (milliseconds).
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct kafka_mock;
/* The protocol's request types that tests let fail, or count. */
enum {
    KAFKA_MOCK_PRODUCE = 0,
    KAFKA_MOCK_FETCH = 1,
    KAFKA_MOCK_METADATA = 3,
    KAFKA_MOCK_COMMIT = 8,
    KAFKA_MOCK_HEARTBEAT = 12,
    KAFKA_MOCK_LEAVE_GROUP = 13,
    KAFKA_MOCK_SYNC_GROUP = 14
};
/* Errors of the protocol, by their numbers there. */
enum {
    KAFKA_MOCK_DISCONNECT = -195, /* the connection is cut instead of an answer */
    KAFKA_MOCK_UNKNOWN_TOPIC = 3,
    KAFKA_MOCK_NOT_LEADER = 6,
    KAFKA_MOCK_TIMED_OUT = 7,
    KAFKA_MOCK_TOO_LARGE = 10,
    KAFKA_MOCK_NOT_ENOUGH_REPLICAS = 19,
    KAFKA_MOCK_DENIED = 29,
    KAFKA_MOCK_FENCED = 82 /* the instance id is another's */
};

/* `brokers` brokers and one more, the controller. NULL: the library would not. */
struct kafka_mock *kafka_mock_new(int brokers);
void kafka_mock_free(struct kafka_mock **m);
const char *kafka_mock_brokers(const struct kafka_mock *m);                     /* host:port,… */
int kafka_mock_topic(struct kafka_mock *m, const char *name, int partitions);   /* 0 or -1 */
void kafka_mock_topic_error(struct kafka_mock *m, const char *name, int error); /* in metadata */
/* The next `times` requests of that type end with `error`. */
void kafka_mock_push_error(struct kafka_mock *m, int request, int error, size_t times);
/* ids are 0 to `brokers`; -1: all */
void kafka_mock_set_down(struct kafka_mock *m, int broker, int down);
void kafka_mock_set_rtt(struct kafka_mock *m, int rtt_ms); /* of all brokers */
/* How many requests of that type have come since the first call for any type. */
size_t kafka_mock_requests(struct kafka_mock *m, int request);
