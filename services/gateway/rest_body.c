/* rest_body: the v2 produce body in one pass.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/rest_body.h"
#include "base/jsonscan.h"
#include "base/mem.h"
#include "gateway/rest_wire.h"
#include <stdio.h>

enum { HEADERS_MAX = 1000, FIXED_BYTES = 64, TIMESTAMP_AHEAD_MS = 30 * 60 * 1000 };

struct record {
    struct str key, value; /* p NULL: null; binary: still base64 */
    bool has_partition, has_timestamp;
    int32_t partition;
    int64_t timestamp_ms;
    size_t header_bytes; /* names and values */
};

struct rest_body {
    struct rest_body_opts o;
    struct jsonscan *js;
    struct buf headers; /* of the record at hand, as wire bytes */
    /* of the request at hand */
    const struct rest_body_request *req;
    struct str body;
    struct buf *out;
    struct rest_fault *fault;
    unsigned records;
    char ingested[64]; /* the header sluice-ingested-at, as wire bytes */
    size_t ingested_n;
    bool any_key, any_value, key_schema, value_schema;
};

struct rest_body *rest_body_new(const struct rest_body_opts *o)
{
    struct rest_body *rb = MEM_NEW(struct rest_body);
    rb->o = *o;
    rb->js = jsonscan_new(o->max_depth);
    buf_init(&rb->headers, o->record_max + 64 * HEADERS_MAX);
    return rb;
}

void rest_body_free(struct rest_body **prb)
{
    struct rest_body *rb = *prb;
    if (!rb)
        return;
    *prb = NULL;
    jsonscan_free(&rb->js);
    buf_deinit(&rb->headers);
    mem_free(rb);
}

/* ---- faults ---- */

__attribute__((format(printf, 4, 5))) static int fault(struct rest_body *rb, int status, int code,
                                                       const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    rb->fault->status = status;
    rb->fault->code = code;
    vsnprintf(rb->fault->text, sizeof rb->fault->text, fmt, ap);
    va_end(ap);
    return ERR_BAD_DATA;
}

static int malformed(struct rest_body *rb)
{
    size_t pos = 0;
    const char *text = NULL;
    (void)jsonscan_fault(rb->js, &pos, &text);
    return fault(rb, 400, 400, "Malformed JSON at byte %zu: %s", pos, text ? text : "not JSON");
}

/* The value at hand is not what it should be; what is not JSON at all says so first. */
static int wrong(struct rest_body *rb, int code, const char *where, const char *what)
{
    struct str raw;
    if (jsonscan_raw(rb->js, &raw) != 0)
        return malformed(rb);
    if (rb->records || strcmp(where, "records") != 0)
        return fault(rb, 422, code, "%srecords[%u].%s: %s", code == 422 ? "" : "Payload error. ",
                     rb->records, where, what);
    return fault(rb, 422, code, "%s: %s", where, what);
}

/* `where`: of the record at hand; NULL: the key is one of the envelope's. */
static int duplicate(struct rest_body *rb, struct str key, const char *where)
{
    size_t pos = jsonscan_key_at(rb->js);
    int n = (int)(key.n < 64 ? key.n : 64);
    if (!where)
        return fault(rb, 400, 400, "Malformed JSON at byte %zu: duplicate key '" STR_FMT "'", pos,
                     n, key.p);
    return fault(rb, 400, 400,
                 "Malformed JSON at byte %zu: duplicate key '" STR_FMT "' in records[%u]%s", pos, n,
                 key.p, rb->records, where);
}

static int unknown_field(struct rest_body *rb, struct str key, const char *where)
{
    struct str raw;
    if (jsonscan_raw(rb->js, &raw) != 0)
        return malformed(rb);
    int n = (int)(key.n < 64 ? key.n : 64);
    if (!where)
        return fault(rb, 422, 422, "Unrecognized field: " STR_FMT, n, key.p);
    return fault(rb, 422, 422, "records[%u]%s: Unrecognized field: " STR_FMT, rb->records, where, n,
                 key.p);
}

/* ---- pieces of a record ---- */

static int read_null(struct rest_body *rb)
{
    struct str raw;
    return jsonscan_raw(rb->js, &raw) == 0 ? 0 : malformed(rb);
}

/* How many bytes a base64 text stands for; its letters are checked when it is decoded. */
static size_t decoded_bytes(struct str s)
{
    size_t n = s.n / 4 * 3;
    if (n && s.p[s.n - 1] == '=')
        n -= s.p[s.n - 2] == '=' ? 2 : 1;
    return n;
}

/* Key or value. */
static int read_payload(struct rest_body *rb, const char *where, struct str *ret)
{
    enum json_type type = jsonscan_peek(rb->js);
    if (type == JSON_T_NULL) {
        *ret = (struct str){NULL, 0};
        return read_null(rb);
    }
    if (rb->req->format == REST_JSON || rb->req->format == REST_SCHEMA)
        return jsonscan_raw(rb->js, ret) == 0 ? 0 : malformed(rb);
    if (type != JSON_T_STRING)
        return wrong(rb, 42206, where,
                     rb->req->format == REST_TEXT ? "must be a string in the text format"
                                                  : "must be a base64 string in the binary format");
    bool lone = false;
    if (jsonscan_string(rb->js, ret, &lone) != 0)
        return malformed(rb);
    if (lone)
        return fault(rb, 422, 42206, "Payload error. records[%u].%s: half a surrogate pair",
                     rb->records, where);
    return 0;
}

static int read_whole(struct rest_body *rb, const char *where, int64_t max, bool *ret_has,
                      int64_t *ret)
{
    enum json_type type = jsonscan_peek(rb->js);
    struct str raw;
    int64_t v;
    *ret_has = false;
    if (type == JSON_T_NULL)
        return read_null(rb);
    if (type != JSON_T_NUMBER)
        return wrong(rb, 422, where, "must be a whole number");
    if (jsonscan_raw(rb->js, &raw) != 0)
        return malformed(rb);
    if (str_i64(raw, &v) != 0 || v < 0 || v > max)
        return fault(rb, 422, 422, "records[%u].%s: must be a whole number from 0 to %lld",
                     rb->records, where, (long long)max);
    *ret_has = true;
    *ret = v;
    return 0;
}

/* Kafka refuses a batch for one record that lies an hour ahead of its clock, and with it the records of other requests; and it
 * has no way to say 0. So both are refused here, the first with room for clocks that differ. */
static int read_timestamp(struct rest_body *rb, struct record *r)
{
    int rc = read_whole(rb, "timestamp", INT64_MAX, &r->has_timestamp, &r->timestamp_ms);
    if (rc != 0 || !r->has_timestamp)
        return rc;
    if (r->timestamp_ms == 0 ||
        (uint64_t)r->timestamp_ms > rb->req->ingested_at_ms + TIMESTAMP_AHEAD_MS)
        return fault(rb, 422, 422,
                     "records[%u].timestamp: must be milliseconds since 1970, more than 0 and not "
                     "more than %d minutes ahead",
                     rb->records, TIMESTAMP_AHEAD_MS / 60000);
    return 0;
}

static int add_header(struct rest_body *rb, struct record *r, struct str name, struct str value)
{
    if (name.n >= 7 && str_ieq(str_make(name.p, 7), STR("sluice-")))
        return fault(rb, 422, 422,
                     "records[%u].headers: names that begin with 'sluice-' are reserved",
                     rb->records);
    size_t max = str_base64_max(value.n);
    r->header_bytes += name.n + decoded_bytes(value);
    if (r->header_bytes > rb->o.record_max)
        return fault(rb, 413, 413, "records[%u]: larger than the limit of %zu bytes", rb->records,
                     rb->o.record_max);
    char *p = buf_reserve(&rb->headers, name.n + max + 32);
    if (!p)
        return fault(rb, 422, 422, "records[%u].headers: too many", rb->records);
    char *begin = p;
    *p++ = WIRE_RECORD_HEADER;
    char *length = p;
    p += WIRE_LENGTH_BYTES;
    *p++ = WIRE_HEADER_NAME;
    p = wire_varint(p, name.n);
    memcpy(p, name.p, name.n);
    p += name.n;
    if (value.p) {
        size_t n;
        *p++ = WIRE_HEADER_VALUE;
        if (str_base64_decode(value, false, p + WIRE_LENGTH_BYTES, &n) != 0)
            return fault(rb, 422, 42206,
                         "Payload error. records[%u].headers: the value of '" STR_FMT
                         "' is not base64",
                         rb->records, (int)(name.n < 64 ? name.n : 64), name.p);
        wire_length_at(p, n);
        p += WIRE_LENGTH_BYTES + n;
    }
    wire_length_at(length, (size_t)(p - length) - WIRE_LENGTH_BYTES);
    buf_advance(&rb->headers, (size_t)(p - begin));
    return 0;
}

static int read_text(struct rest_body *rb, const char *where, struct str *ret)
{
    bool lone = false;
    if (jsonscan_peek(rb->js) != JSON_T_STRING)
        return wrong(rb, 422, where, "must be a string");
    if (jsonscan_string(rb->js, ret, &lone) != 0)
        return malformed(rb);
    return lone ? fault(rb, 422, 422, "records[%u].%s: half a surrogate pair", rb->records, where)
                : 0;
}

static int read_header(struct rest_body *rb, struct record *r)
{
    struct str key, name = {NULL, 0}, value = {NULL, 0};
    bool has_value = false;
    int rc;
    if (jsonscan_peek(rb->js) != JSON_T_OBJECT)
        return wrong(rb, 422, "headers", "must be a list of objects");
    if (jsonscan_object(rb->js) != 0)
        return malformed(rb);
    while ((rc = jsonscan_key(rb->js, &key)) == 1) {
        if (str_is(key, "key")) {
            if (name.p)
                return duplicate(rb, key, ".headers");
            rc = read_text(rb, "headers[].key", &name);
        } else if (str_is(key, "value")) {
            if (has_value)
                return duplicate(rb, key, ".headers");
            has_value = true;
            rc = jsonscan_peek(rb->js) == JSON_T_NULL ? read_null(rb)
                                                      : read_text(rb, "headers[].value", &value);
        } else {
            rc = unknown_field(rb, key, ".headers");
        }
        if (rc != 0)
            return rc;
    }
    if (rc < 0)
        return malformed(rb);
    if (!name.p || name.n == 0)
        return fault(rb, 422, 422, "records[%u].headers: a header needs a key", rb->records);
    return add_header(rb, r, name, value);
}

static int read_headers(struct rest_body *rb, struct record *r)
{
    int rc;
    unsigned n = 0;
    if (jsonscan_peek(rb->js) == JSON_T_NULL)
        return read_null(rb);
    if (jsonscan_peek(rb->js) != JSON_T_ARRAY)
        return wrong(rb, 422, "headers", "must be a list");
    if (jsonscan_array(rb->js) != 0)
        return malformed(rb);
    while ((rc = jsonscan_item(rb->js)) == 1) {
        if (++n > HEADERS_MAX)
            return fault(rb, 422, 422, "records[%u].headers: too many", rb->records);
        if ((rc = read_header(rb, r)) != 0)
            return rc;
    }
    return rc < 0 ? malformed(rb) : 0;
}

/* ---- records ---- */

/* Key or value with its tag; base64 is decoded into its place. NULL: it was not base64. */
static char *put_payload(struct rest_body *rb, char *p, int tag, struct str s)
{
    if (!s.p)
        return p;
    *p++ = (char)tag;
    if (rb->req->format == REST_BINARY) {
        size_t n;
        if (str_base64_decode(s, false, p + WIRE_LENGTH_BYTES, &n) != 0)
            return NULL;
        wire_length_at(p, n);
        return p + WIRE_LENGTH_BYTES + n;
    }
    p = wire_varint(p, s.n);
    memcpy(p, s.p, s.n);
    return p + s.n;
}

static int put_record(struct rest_body *rb, const struct record *r)
{
    bool binary = rb->req->format == REST_BINARY;
    size_t key_n = binary ? decoded_bytes(r->key) : r->key.n,
           value_n = binary ? decoded_bytes(r->value) : r->value.n;
    if (key_n + value_n + r->header_bytes > rb->o.record_max)
        return fault(rb, 413, 413, "records[%u]: larger than the limit of %zu bytes", rb->records,
                     rb->o.record_max);
    if (rb->req->partitions > 0 && r->has_partition && r->partition >= rb->req->partitions)
        return fault(rb, 404, 40402, "Partition not found. records[%u].partition: %d", rb->records,
                     r->partition);
    char *p =
        buf_reserve(rb->out, key_n + value_n + rb->headers.len + rb->ingested_n + FIXED_BYTES);
    if (!p)
        return fault(rb, 413, 413, "records[%u]: the request is larger than one message can be",
                     rb->records);
    char *begin = p;
    *p++ = WIRE_REQUEST_RECORD;
    char *length = p;
    p += WIRE_LENGTH_BYTES;
    if (!(p = put_payload(rb, p, WIRE_RECORD_KEY, r->key)))
        return fault(rb, 422, 42206, "Payload error. records[%u].key: not base64", rb->records);
    if (!(p = put_payload(rb, p, WIRE_RECORD_VALUE, r->value)))
        return fault(rb, 422, 42206, "Payload error. records[%u].value: not base64", rb->records);
    if (r->has_partition) {
        *p++ = WIRE_RECORD_PARTITION;
        p = wire_varint(p, (uint64_t)r->partition);
    }
    if (r->has_timestamp) {
        *p++ = WIRE_RECORD_TIMESTAMP;
        p = wire_varint(p, (uint64_t)r->timestamp_ms);
    }
    if (rb->headers.len) {
        memcpy(p, rb->headers.data, rb->headers.len);
        p += rb->headers.len;
    }
    memcpy(p, rb->ingested, rb->ingested_n);
    p += rb->ingested_n;
    wire_length_at(length, (size_t)(p - length) - WIRE_LENGTH_BYTES);
    buf_advance(rb->out, (size_t)(p - begin));
    rb->any_key |= r->key.p != NULL;
    rb->any_value |= r->value.p != NULL;
    return 0;
}

static int read_record(struct rest_body *rb)
{
    enum { KEY = 1, VALUE = 2, PARTITION = 4, TIMESTAMP = 8, HEADERS = 16 };
    struct record r = {0};
    struct str key;
    unsigned seen = 0;
    int64_t v = 0;
    int rc;
    buf_reset(&rb->headers);
    if (jsonscan_object(rb->js) != 0)
        return malformed(rb);
    while ((rc = jsonscan_key(rb->js, &key)) == 1) {
        unsigned field = str_is(key, "value")       ? VALUE
                         : str_is(key, "key")       ? KEY
                         : str_is(key, "partition") ? PARTITION
                         : str_is(key, "timestamp") ? TIMESTAMP
                         : str_is(key, "headers")   ? HEADERS
                                                    : 0;
        if (!field)
            return unknown_field(rb, key, "");
        if (seen & field)
            return duplicate(rb, key, "");
        seen |= field;
        switch (field) {
        case VALUE:
            rc = read_payload(rb, "value", &r.value);
            break;
        case KEY:
            rc = read_payload(rb, "key", &r.key);
            break;
        case PARTITION:
            rc = read_whole(rb, "partition", INT32_MAX, &r.has_partition, &v);
            r.partition = (int32_t)v;
            break;
        case TIMESTAMP:
            rc = read_timestamp(rb, &r);
            break;
        default:
            rc = read_headers(rb, &r);
            break;
        }
        if (rc != 0)
            return rc;
    }
    return rc < 0 ? malformed(rb) : put_record(rb, &r);
}

static int read_records(struct rest_body *rb)
{
    int rc;
    enum json_type type = jsonscan_peek(rb->js);
    if (type == JSON_T_NULL)
        return read_null(rb) == 0 ? fault(rb, 422, 422, "records: must not be null") : ERR_BAD_DATA;
    if (type != JSON_T_ARRAY)
        return wrong(rb, 422, "records", "must be a list");
    if (jsonscan_array(rb->js) != 0)
        return malformed(rb);
    while ((rc = jsonscan_item(rb->js)) == 1) {
        if (rb->records >= rb->o.records_max)
            return fault(rb, 422, 422, "records: more than %u in one request", rb->o.records_max);
        if (jsonscan_peek(rb->js) != JSON_T_OBJECT) {
            struct str raw;
            return jsonscan_raw(rb->js, &raw) != 0
                       ? malformed(rb)
                       : fault(rb, 422, 422, "records[%u]: must be an object", rb->records);
        }
        if ((rc = read_record(rb)) != 0)
            return rc;
        rb->records++;
    }
    return rc < 0 ? malformed(rb) : 0;
}

/* A schema's text or number: taken note of, since without a registry nothing else can be done with it. */
static int read_schema(struct rest_body *rb, bool *ret_given)
{
    struct str raw;
    bool null = jsonscan_peek(rb->js) == JSON_T_NULL;
    if (jsonscan_raw(rb->js, &raw) != 0)
        return malformed(rb);
    if (!null)
        *ret_given = true;
    return 0;
}

static int read_envelope(struct rest_body *rb)
{
    static const char *const names[] = {"records", "key_schema", "key_schema_id", "value_schema",
                                        "value_schema_id"};
    struct str key;
    unsigned seen = 0;
    int rc;
    if (jsonscan_begin(rb->js, rb->body.p, rb->body.n) != 0)
        return malformed(rb);
    if (jsonscan_peek(rb->js) != JSON_T_OBJECT) {
        struct str raw;
        return jsonscan_raw(rb->js, &raw) != 0 || jsonscan_end(rb->js) != 0
                   ? malformed(rb)
                   : fault(rb, 422, 422, "the body must be an object with the field records");
    }
    if (jsonscan_object(rb->js) != 0)
        return malformed(rb);
    while ((rc = jsonscan_key(rb->js, &key)) == 1) {
        unsigned i = 0;
        while (i < 5 && !str_is(key, names[i]))
            i++;
        if (i == 5)
            return unknown_field(rb, key, NULL);
        if (seen & 1u << i)
            return duplicate(rb, key, NULL);
        seen |= 1u << i;
        rc = i == 0 ? read_records(rb)
                    : read_schema(rb, i < 3 ? &rb->key_schema : &rb->value_schema);
        if (rc != 0)
            return rc;
    }
    if (rc < 0 || jsonscan_end(rb->js) != 0)
        return malformed(rb);
    if (!(seen & 1) || rb->records == 0)
        return fault(rb, 422, 422, "records: %s", seen & 1 ? "must not be empty" : "is missing");
    return 0;
}

/* What a format with schemas lacks here, in the peers' codes. */
static int refuse_schema(struct rest_body *rb)
{
    if (rb->any_key && !rb->key_schema)
        return fault(rb, 422, 42201, "Request includes keys but does not include key schema");
    if (rb->any_value && !rb->value_schema)
        return fault(rb, 422, 42202, "Request includes values but does not include value schema");
    return fault(
        rb, 422, 42205,
        "Invalid schema: there is no schema registry here; use the json, binary or text format");
}

static void make_ingested(struct rest_body *rb)
{
    static const char name[] = "sluice-ingested-at";
    char value[24];
    int n = snprintf(value, sizeof value, "%llu", (unsigned long long)rb->req->ingested_at_ms);
    char *p = rb->ingested;
    *p++ = WIRE_RECORD_HEADER;
    *p++ = (char)(2 + sizeof name - 1 + 2 + (size_t)n);
    *p++ = WIRE_HEADER_NAME;
    *p++ = (char)(sizeof name - 1);
    memcpy(p, name, sizeof name - 1);
    p += sizeof name - 1;
    *p++ = WIRE_HEADER_VALUE;
    *p++ = (char)n;
    memcpy(p, value, (size_t)n);
    p += n;
    rb->ingested_n = (size_t)(p - rb->ingested);
}

int rest_body_parse(struct rest_body *rb, struct str body, const struct rest_body_request *req,
                    struct buf *out, unsigned *ret_records, struct rest_fault *ret_fault)
{
    enum { KEEP = 1 << 20 };
    size_t before = out->len;
    rb->req = req;
    rb->body = body;
    rb->out = out;
    rb->fault = ret_fault;
    rb->records = 0;
    rb->any_key = rb->any_value = rb->key_schema = rb->value_schema = false;
    make_ingested(rb);
    int rc = read_envelope(rb);
    if (rc == 0 && req->format == REST_SCHEMA)
        rc = refuse_schema(rb);
    if (rc != 0) {
        out->len = before;
        out->overflow = false;
    } else {
        *ret_records = rb->records;
    }
    if (body.n > KEEP)
        jsonscan_trim(rb->js, KEEP);
    return rc;
}
