/* rest_body: reads the body of a v2 produce request, and writes its records as the wire bytes of ProduceRequest.record.
 *
 * One pass, all or nothing: a fault names the record and leaves `out` as it was. In the json format key and value are carried as
 * they stand in the body, byte for byte; binary decodes base64, text takes strings.
 * Threads: one at a time.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"

enum rest_format {
    REST_BINARY,
    REST_JSON,
    REST_TEXT,
    REST_SCHEMA /* avro, jsonschema, protobuf: read only to say what is missing */
};

struct rest_fault {
    int status, code;
    char text[400];
};

struct rest_body_opts {
    unsigned max_depth;
    size_t record_max; /* bytes of key, value and headers together */
    unsigned records_max;
};
struct rest_body_request {
    enum rest_format format;
    int32_t partitions; /* of the topic: a record's own partition lies below it; 0: not checked */
    uint64_t ingested_at_ms; /* goes with every record as the header sluice-ingested-at */
};

struct rest_body;
struct rest_body *rest_body_new(const struct rest_body_opts *o);
void rest_body_free(struct rest_body **rb);
/* `body` is followed by JSONSCAN_PADDING readable bytes. 0 or ERR_BAD_DATA with the fault. */
int rest_body_parse(struct rest_body *rb, struct str body, const struct rest_body_request *req,
                    struct buf *out, unsigned *ret_records, struct rest_fault *fault);
