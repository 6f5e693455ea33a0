/* redis_server: a real redis-server that a test starts, which keeps nothing on disk.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <sys/types.h>

struct redis_server {
    pid_t pid;
    unsigned port; /* 0: one that is free; kept from one start to the next */
    char *dir;
};
void redis_server_start(struct redis_server *s, const char *password); /* NULL: none */
void redis_server_kill(struct redis_server *s);                        /* it may start again */
void redis_server_end(struct redis_server *s);                         /* for good */
