/* api: what the parts of the HTTP interface share. api.c leads a request from its route to one of them.
 *
 * api.c           routes, request ids, life
 * api_question.c  one question: which tables, which version, the tag, the answer or why there is none
 * api_listing.c   questions, tables, the description
 * api_answer.c    the ends of a request: answers at once or in pieces, problems
 *
 * request   waits for           moves on in          then
 * (new)     -                   on_request           answered, RUNNING
 * RUNNING   the runner          on_run_done          answered, SENDING
 * SENDING   the client to read  on_want              ended; gone after request_timeout without progress
 * An answer is whole before its first byte leaves, so that errors have their status; a long one then goes out in pieces.
 * Threads: loop only.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "query-api/query-api.h"

#define API_AT_ONCE_BYTES (64 << 10) /* a longer answer goes out in pieces */
#define API_ALLOWED_METHODS STR("GET, HEAD, OPTIONS")

struct api {
    struct app *app;
    struct metrics *metrics;
    const struct query_config *config;
    struct catalog *catalog;
    struct runner *runner;
    struct httpd *httpd;
    struct list requests;
    struct loop_timer drain;
    struct buf openapi;
    unsigned open;
};
struct request {
    struct list node;
    struct api *api;
    struct httpd_call *call;
    const struct httpd_request *req; /* until it is answered */
    unsigned route;                  /* ROUTES: none */
    char id[65], versions[128], etag[40];
    uint64_t started_us, age_ms;
    struct ask ask;
    struct run *run;
    struct httpd_stream *stream;
    char *body; /* while it is sent in pieces */
    size_t body_n, sent;
    struct loop_timer stalled;
};

/* ---- api_answer.c ---- */
void api_on_gone(void *request); /* the client has left */
void api_on_error(void *api, int status, const char *text, struct buf *body, const char **ret_type);
void api_put_header(struct httpd_answer *a, const char *name, struct str value);
/* The fields of every answer. */
struct httpd_answer api_head(const struct request *q, int status, const char *type);
/* Sends what `body` holds, which it takes, and ends the request: as do all that follow. */
void api_send(struct request *q, struct httpd_answer *a, struct buf *body);
void api_problem(struct request *q, enum problem p, const char *detail);
/* `allowed`: JSON texts with commas between them; NULL: none. */
void api_problem_allowed(struct request *q, enum problem p, const char *detail,
                         const char *allowed);
void api_not_acceptable(struct request *q, unsigned offered); /* bits of enum format */
/* Appends to such a list. */
void api_put_name(struct buf *b, const char *name);

/* ---- api_question.c, api_listing.c ---- */
void api_question(struct request *q, struct str name);
void api_questions(struct request *q);
void api_tables(struct request *q);
void api_table(struct request *q, struct str name);
void api_openapi(struct request *q);
void api_options(struct request *q);
