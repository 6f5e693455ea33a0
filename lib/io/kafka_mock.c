/* kafka_mock: a thin cover over the library's mock cluster.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/kafka_mock.h"

#include "base/mem.h"
#include <stdbool.h>

/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

#include <rdkafka_mock.h> /* needs rdkafka.h before it */

/* In the library, but not yet in the header that comes with it. */
void rd_kafka_mock_group_initial_rebalance_delay_ms(rd_kafka_mock_cluster_t *cluster,
                                                    int32_t delay_ms);
rd_kafka_resp_err_t rd_kafka_mock_broker_add(rd_kafka_mock_cluster_t *cluster, int32_t broker_id);
struct rd_kafka_mock_request_s;
void rd_kafka_mock_start_request_tracking(rd_kafka_mock_cluster_t *cluster);
struct rd_kafka_mock_request_s **rd_kafka_mock_get_requests(rd_kafka_mock_cluster_t *cluster,
                                                            size_t *ret_n);
int16_t rd_kafka_mock_request_api_key(struct rd_kafka_mock_request_s *request);
void rd_kafka_mock_request_destroy_array(struct rd_kafka_mock_request_s **requests, size_t n);

struct kafka_mock {
    rd_kafka_t *rk; /* the cluster hangs on an instance that does nothing else */
    rd_kafka_mock_cluster_t *cluster;
    int brokers;
    bool counts;
};

struct kafka_mock *kafka_mock_new(int brokers)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    struct kafka_mock *m = MEM_NEW(struct kafka_mock);
    m->rk = rk;
    m->cluster = rd_kafka_mock_cluster_new(rk, brokers);
    m->brokers = brokers;
    /* The cluster says that broker 0 is its controller and has none of that id; admin requests would wait for it for ever. */
    if (!m->cluster || rd_kafka_mock_broker_add(m->cluster, 0))
        kafka_mock_free(&m);
    else
        rd_kafka_mock_group_initial_rebalance_delay_ms(m->cluster, 0);
    return m;
}

void kafka_mock_free(struct kafka_mock **ret)
{
    struct kafka_mock *m = *ret;
    if (!m)
        return;
    *ret = NULL;
    if (m->cluster)
        rd_kafka_mock_cluster_destroy(m->cluster);
    rd_kafka_destroy(m->rk);
    mem_free(m);
}

const char *kafka_mock_brokers(const struct kafka_mock *m)
{
    return rd_kafka_mock_cluster_bootstraps(m->cluster);
}

int kafka_mock_topic(struct kafka_mock *m, const char *name, int partitions)
{
    return rd_kafka_mock_topic_create(m->cluster, name, partitions, 1) ? -1 : 0;
}

void kafka_mock_topic_error(struct kafka_mock *m, const char *name, int error)
{
    rd_kafka_mock_topic_set_error(m->cluster, name, (rd_kafka_resp_err_t)error);
}

void kafka_mock_push_error(struct kafka_mock *m, int request, int error, size_t times)
{
    rd_kafka_resp_err_t err = (rd_kafka_resp_err_t)error;
    for (size_t i = 0; i < times; i++)
        rd_kafka_mock_push_request_errors_array(m->cluster, (int16_t)request, 1, &err);
}

void kafka_mock_set_down(struct kafka_mock *m, int broker, int down)
{
    for (int id = 0; id <= m->brokers; id++) {
        if (broker >= 0 && id != broker)
            continue;
        if (down)
            rd_kafka_mock_broker_set_down(m->cluster, id);
        else
            rd_kafka_mock_broker_set_up(m->cluster, id);
    }
}

void kafka_mock_set_rtt(struct kafka_mock *m, int rtt_ms)
{
    for (int id = 0; id <= m->brokers; id++)
        rd_kafka_mock_broker_set_rtt(m->cluster, id, rtt_ms);
}

size_t kafka_mock_requests(struct kafka_mock *m, int request)
{
    size_t all, n = 0;
    if (!m->counts)
        rd_kafka_mock_start_request_tracking(m->cluster);
    m->counts = true;
    struct rd_kafka_mock_request_s **requests = rd_kafka_mock_get_requests(m->cluster, &all);
    for (size_t i = 0; i < all; i++)
        n += rd_kafka_mock_request_api_key(requests[i]) == request;
    rd_kafka_mock_request_destroy_array(requests, all);
    return n;
}
