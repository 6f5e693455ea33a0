/* kafka_offsets: a group's offsets, committed and asked for.
 *
 * Commits go through the library's queue. What is committed is asked for in a worker, one question at a time, and not by
 * ListConsumerGroupOffsets: librdkafka 2.15 aborts the process when the coordinator leaves the cluster under that question.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/kafka_priv.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

/* The library's header has a `const int` function. */
#pragma GCC diagnostic ignored "-Wignored-qualifiers"
#include <rdkafka.h>

enum {
    OP_TAG = CHECK_TAG('k', 'f', 'k', 'o'),
    FETCH_CHUNK_MS = 1000 /* a worker looks up this often whether anybody still waits for it */
};

/* One question that waits for its answer. */
struct op {
    uint32_t tag;
    struct list node;
    struct kafka_offsets *o;
    kafka_offsets_fn *done;
    void *ctx;
    struct kafka_partition *parts; /* as asked, for an answer that brings none */
    size_t parts_n;
    struct loop_defer defer; /* for a question that failed before it left */
    /* of a question for committed offsets that waits for the worker: its time limit; else 0 */
    uint64_t fetch_ms;
    int rc;
};

/* A question at work. Outlives its op when the consumer is closed. */
struct fetch {
    uv_work_t req;
    struct kafka_core *core;
    struct op *op; /* NULL: orphaned */
    rd_kafka_topic_partition_list_t *list;
    uint64_t timeout_ms;
    rd_kafka_resp_err_t err;
};

static struct op *op_new(struct kafka_offsets *o, const struct kafka_partition *parts, size_t n,
                         kafka_offsets_fn *done, void *ctx)
{
    struct op *op = MEM_NEW(struct op);
    op->tag = OP_TAG, op->o = o, op->done = done, op->ctx = ctx, op->parts_n = n;
    op->parts = MEM_ARRAY(struct kafka_partition, n + 1);
    for (size_t i = 0; i < n; i++)
        op->parts[i] = (struct kafka_partition){
            .topic = mem_strdup(parts[i].topic), .partition = parts[i].partition, .offset = -1};
    list_push(&o->ops, &op->node);
    return op;
}

static void op_free(struct op *op)
{
    loop_defer_cancel(&op->defer);
    list_remove(&op->node);
    kafka_parts_free(op->parts, op->parts_n);
    mem_free(op);
}

static void op_end(struct op *op, int rc, const rd_kafka_topic_partition_list_t *list)
{
    int part_rc = 0;
    size_t n = list ? (size_t)list->cnt : op->parts_n;
    struct kafka_partition *parts = list ? kafka_parts_from(list, &part_rc) : op->parts;
    kafka_offsets_fn *done = op->done;
    void *ctx = op->ctx;
    if (!list)
        op->parts = NULL;
    op_free(op);
    if (done)
        done(ctx, rc ? rc : part_rc, parts, n);
    kafka_parts_free(parts, n);
}

static void on_op_failed(void *ctx)
{
    struct op *op = ctx;
    op_end(op, op->rc, NULL);
}

static void fetch_mt(uv_work_t *req)
{
    struct fetch *f = req->data;
    uint64_t end = clock_ms() + f->timeout_ms;
    do {
        f->err = rd_kafka_committed(kafka_core_rk(f->core), f->list, FETCH_CHUNK_MS);
    } while (f->err && kafka_core_again_mt(f->core, end));
}

static void on_offsets_read(uv_work_t *req, int status);

static void fetch_next(struct kafka_offsets *o)
{
    LIST_EACH (it, tmp, &o->ops) {
        struct op *op = LIST_ENTRY(it, struct op, node);
        if (o->fetch || !op->fetch_ms)
            continue;
        struct fetch *f = o->fetch = MEM_NEW(struct fetch);
        f->core = o->core;
        f->op = op;
        f->list = kafka_list_new(op->parts, op->parts_n);
        f->timeout_ms = op->fetch_ms;
        f->req.data = f;
        op->fetch_ms = 0;
        kafka_core_hold(o->core);
        CHECK(!uv_queue_work(loop_uv(o->loop), &f->req, fetch_mt, on_offsets_read));
    }
}

static void on_offsets_read(uv_work_t *req, int status)
{
    struct fetch *f = req->data;
    struct op *op = f->op;
    rd_kafka_topic_partition_list_t *list = f->list;
    struct kafka_core *core = f->core;
    int rc = kafka_code(f->err);
    (void)status;
    mem_free(f);
    kafka_core_unhold(core);
    if (op) {
        op->o->fetch = NULL;
        fetch_next(op->o);
        op_end(op, rc, rc ? NULL : list);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

void kafka_offsets_ask(struct kafka_offsets *o, const struct kafka_partition *parts, size_t n,
                       uint64_t timeout_ms, kafka_offsets_fn *done, void *ctx)
{
    struct op *op = op_new(o, parts, n, done, ctx);
    if (!n) {
        loop_defer(o->loop, &op->defer, on_op_failed, op); /* nothing asked, nothing failed */
        return;
    }
    op->fetch_ms = timeout_ms ? timeout_ms : 1;
    fetch_next(o);
}

void kafka_offsets_commit(struct kafka_offsets *o, const struct kafka_partition *parts, size_t n,
                          kafka_offsets_fn *done, void *ctx)
{
    struct op *op = op_new(o, parts, n, done, ctx);
    rd_kafka_topic_partition_list_t *list = kafka_list_new(parts, n);
    rd_kafka_resp_err_t err =
        rd_kafka_commit_queue(kafka_core_rk(o->core), list, kafka_core_queue(o->core), NULL, op);
    rd_kafka_topic_partition_list_destroy(list);
    if (!err)
        return;
    op->rc = kafka_code(err);
    loop_defer(o->loop, &op->defer, on_op_failed, op);
}

void kafka_offsets_on_commit(rd_kafka_event_t *ev)
{
    void *opaque = rd_kafka_event_opaque(ev);
    if (!opaque)
        return; /* not one of ours */
    struct op *op = CHECK_FROM(opaque, struct op, OP_TAG);
    op_end(op, kafka_code(rd_kafka_event_error(ev)), rd_kafka_event_topic_partition_list(ev));
}

void kafka_offsets_open(struct kafka_offsets *o, struct loop *loop, struct kafka_core *core)
{
    o->loop = loop;
    o->core = core;
    list_init(&o->ops);
}

void kafka_offsets_close(struct kafka_offsets *o)
{
    if (o->fetch)
        o->fetch->op = NULL;
    LIST_EACH (it, tmp, &o->ops)
        op_free(LIST_ENTRY(it, struct op, node));
}
