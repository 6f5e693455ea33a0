/* redis_server: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "redis_server.h"
#include "child.h"
#include "raw.h"
#include "tmpdir.h"
#include <signal.h>
#include <stdio.h>

void redis_server_start(struct redis_server *s, const char *password)
{
    char port[8];
    if (!s->port)
        s->port = raw_free_port();
    if (!s->dir)
        s->dir = tmpdir_new();
    snprintf(port, sizeof(port), "%u", s->port);
    const char *const argv[] = {"redis-server",
                                "--port",
                                port,
                                "--bind",
                                "127.0.0.1",
                                "--dir",
                                s->dir,
                                "--save",
                                "",
                                "--appendonly",
                                "no",
                                "--requirepass",
                                password ? password : "",
                                NULL};
    s->pid = child_exec(argv);
}

void redis_server_kill(struct redis_server *s)
{
    child_kill(s->pid, SIGKILL);
}

void redis_server_end(struct redis_server *s)
{
    redis_server_kill(s);
    tmpdir_remove(&s->dir);
    s->port = 0;
}
