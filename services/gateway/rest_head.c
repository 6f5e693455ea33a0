/* rest_head: what the header fields of a request ask for, and the fields that every answer carries.
 * SPDX-License-Identifier: Apache-2.0  */
#include "gateway/rest_head.h"
#include "gateway/gateway.h"

#define JSON_TYPE "application/json"

/* ---- media types ---- */

static struct str media_type(struct str s)
{
    const char *semicolon = s.p ? memchr(s.p, ';', s.n) : NULL;
    return str_trim(semicolon ? str_make(s.p, (size_t)(semicolon - s.p)) : s);
}

int rest_head_format(const struct httpd_request *req, enum rest_format *ret)
{
    static const struct {
        const char *type;
        enum rest_format format;
    } all[] = {{"application/vnd.kafka.json.v2+json", REST_JSON},
               {"application/vnd.kafka.binary.v2+json", REST_BINARY},
               {"application/vnd.kafka.text.v2+json", REST_TEXT},
               {"application/vnd.kafka.avro.v2+json", REST_SCHEMA},
               {"application/vnd.kafka.jsonschema.v2+json", REST_SCHEMA},
               {"application/vnd.kafka.protobuf.v2+json", REST_SCHEMA}};
    struct str type = httpd_header(req, "content-type"),
               coding = httpd_header(req, "content-encoding");
    if (coding.p && !str_ieq(str_trim(coding), STR("identity")))
        return -1; /* compressed: it would be taken for broken JSON */
    if (!type.p) {
        *ret = REST_BINARY;
        return 0;
    }
    type = media_type(type);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (str_ieq(type, str_of(all[i].type))) {
            *ret = all[i].format;
            return 0;
        }
    }
    return -1;
}

/* The weight of a range. Java's own client writes "q=.2", which the grammar does not have. */
static double quality(struct str part)
{
    struct str rest = part, p;
    double q = 1;
    while (str_next(&rest, ';', &p)) {
        char text[16] = "0";
        p = str_trim(p);
        if (p.n <= 2 || (p.p[0] | 0x20) != 'q' || p.p[1] != '=')
            continue;
        p = str_make(p.p + 2, p.n - 2);
        if (p.n > sizeof text - 1)
            return 0;
        size_t zero = p.p[0] == '.';
        memcpy(text + zero, p.p, p.n);
        if (str_double(str_make(text, zero + p.n), &q) != 0)
            return 0;
    }
    return q;
}

/* How wanted `type` is: by the most specific range that covers it. */
static double wanted(struct str accept, const char *type)
{
    struct str part;
    double q = 0;
    int best = 0;
    while (str_next(&accept, ',', &part)) {
        struct str range = media_type(str_trim(part));
        int specific = str_ieq(range, str_of(type))                 ? 3
                       : str_ieq(range, STR("application/*"))       ? 2
                       : str_is(range, "*/*") || str_is(range, "*") ? 1
                                                                    : 0;
        if (specific > best) {
            best = specific;
            q = quality(part);
        }
    }
    return q;
}

const char *rest_head_answer_type(const struct httpd_request *req)
{
    struct str accept = httpd_header(req, "accept");
    if (!accept.p || str_trim(accept).n == 0 || str_is(accept, "*/*"))
        return REST_V2_TYPE;
    double v2 = wanted(accept, REST_V2_TYPE), json = wanted(accept, JSON_TYPE);
    return v2 <= 0 && json <= 0 ? NULL : v2 >= json ? REST_V2_TYPE : JSON_TYPE;
}

/* ---- strict ---- */

bool rest_head_prefers_strict(const struct httpd_request *req)
{
    struct str prefer = httpd_header(req, "prefer"), part;
    while (prefer.p && str_next(&prefer, ',', &part)) {
        part = str_trim(media_type(part));
        if (str_ieq(part, STR("handling=strict")) || str_ieq(part, STR("handling=\"strict\"")))
            return true;
    }
    return false;
}

/* ---- of every answer ---- */

/* Unique is enough, so no question to the kernel for each request. */
static size_t make_request_id(struct gateway *gw, char out[65])
{
    static const char digits[] = "0123456789abcdef";
    uint64_t bits[2] = {rnd_u64(&gw->rnd), rnd_u64(&gw->rnd)};
    bits[0] = (bits[0] & ~(uint64_t)0xf000) | 0x4000;               /* version 4 */
    bits[1] = (bits[1] & ~((uint64_t)3 << 62)) | (uint64_t)1 << 63; /* variant 1 */
    char *p = out;
    for (unsigned i = 0; i < 32; i++) {
        if (i == 8 || i == 12 || i == 16 || i == 20)
            *p++ = '-';
        *p++ = digits[bits[i / 16] >> (60 - 4 * (i % 16)) & 15];
    }
    return 36;
}

/* The client's own is taken only where it is harmless wherever it will be written. */
size_t rest_head_request_id(struct gateway *gw, const struct httpd_request *req, char out[65])
{
    struct str id = req ? httpd_header(req, "x-request-id") : (struct str){NULL, 0};
    bool good = id.n > 0 && id.n <= 64;
    for (size_t i = 0; good && i < id.n; i++) {
        char ch = id.p[i];
        good = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
               ch == '.' || ch == '_' || ch == '-';
    }
    if (!good)
        return make_request_id(gw, out);
    memcpy(out, id.p, id.n);
    return id.n;
}

void rest_head_add(struct httpd_answer *a, const char *name, struct str value)
{
    for (size_t i = 0; i < sizeof a->headers / sizeof *a->headers; i++) {
        if (a->headers[i].name)
            continue;
        a->headers[i].name = name;
        a->headers[i].value = value;
        return;
    }
}

void rest_head_cors(const struct gateway *gw, const struct httpd_request *req, bool preflight,
                    struct httpd_answer *a)
{
    const char *origins = gw->config->cors_origins;
    struct str origin = req ? httpd_header(req, "origin") : (struct str){NULL, 0};
    if (!origin.p || !*origins)
        return;
    if (gateway_list_has(origins, STR("*"), false)) {
        rest_head_add(a, "access-control-allow-origin", STR("*"));
    } else {
        rest_head_add(a, "vary", STR("Origin"));
        if (!gateway_list_has(origins, origin, false))
            return;
        rest_head_add(a, "access-control-allow-origin", origin);
    }
    if (!preflight) {
        rest_head_add(a, "access-control-expose-headers", STR("X-Request-Id, Retry-After"));
        return;
    }
    struct str headers = httpd_header(req, "access-control-request-headers");
    rest_head_add(a, "access-control-allow-methods", STR("GET, HEAD, POST, OPTIONS"));
    rest_head_add(a, "access-control-allow-headers",
                  headers.p ? headers : STR("Content-Type, Accept, Prefer, X-Request-Id"));
    rest_head_add(a, "access-control-max-age", STR("86400"));
}
