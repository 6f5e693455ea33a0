/* rest_head: what the header fields of a request ask for, and the fields that every answer carries.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "gateway/rest_body.h"
#include "io/httpd.h"

#define REST_V2_TYPE "application/vnd.kafka.v2+json"

struct gateway;
/* Of a produce request's body: 0, or -1 for a type or coding that is not taken. */
int rest_head_format(const struct httpd_request *req, enum rest_format *ret);
/* The type of the answer; NULL: none that we have is acceptable. */
const char *rest_head_answer_type(const struct httpd_request *req);
bool rest_head_prefers_strict(const struct httpd_request *req);

/* The client's X-Request-Id, or a new one; its length. `req` may be NULL: its head was not read. */
size_t rest_head_request_id(struct gateway *gw, const struct httpd_request *req, char out[65]);
/* What browsers need; `req` may be NULL. */
void rest_head_cors(const struct gateway *gw, const struct httpd_request *req, bool preflight,
                    struct httpd_answer *a);
void rest_head_add(struct httpd_answer *a, const char *name, struct str value);
