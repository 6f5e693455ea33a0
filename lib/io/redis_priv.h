/* redis: the reply reader, hiredis' parser building our own replies. Shared by redis.c and redis_reply.c.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "io/redis.h"

struct redis_reader;
struct redis_reader *redis_reader_new(size_t max_reply_bytes);
void redis_reader_free(struct redis_reader **r);
/* Takes bytes in. 0, or ERR_TOO_LARGE / ERR_PROTOCOL for good. */
int redis_reader_feed(struct redis_reader *r, const char *p, size_t n);
/* The next whole reply, NULL when there is none yet. 0, or ERR_PROTOCOL / ERR_TOO_LARGE. Freed by redis_reply_free. */
int redis_reader_next(struct redis_reader *r, struct redis_reply **ret);
void redis_reply_free(struct redis_reply *reply);
/* The bytes of one command; the caller frees them by redis_command_free. NULL: too many or too long arguments. */
char *redis_command_format(const struct str *argv, size_t argc, size_t *ret_n);
void redis_command_free(char *bytes);
