/* rest_answer: the bodies of the v2 answers, byte for byte as the REST Proxy writes them.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "produce.pb-c.h"

struct rest_outcome {
    int status;
    int code;                          /* top-level error_code; 0: the body lists the records */
    unsigned stored, refused, unknown; /* records */
};
/* The answer of the producer to a request of `records` records. Strict (Prefer: handling=strict): 207 when mixed, 503 when all
 * failed and may be retried, 500 when all failed otherwise. */
void rest_answer_produce(const Sluice__ProduceAnswer *a, unsigned records, bool strict,
                         struct buf *body, struct rest_outcome *ret);
void rest_answer_error(struct buf *body, int code, const char *text);
void rest_answer_topics(struct buf *body, const Sluice__QuestionAnswer *a);
void rest_answer_topic(struct buf *body, const Sluice__Topic *t);
void rest_answer_partitions(struct buf *body, const Sluice__Topic *t);
/* False: there is no such partition; nothing was written. */
bool rest_answer_partition(struct buf *body, const Sluice__Topic *t, int32_t partition);
void rest_answer_offsets(struct buf *body, const Sluice__QuestionAnswer *a);
void rest_answer_brokers(struct buf *body, const Sluice__QuestionAnswer *a);
