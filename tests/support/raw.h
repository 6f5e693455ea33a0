/* raw: plain TCP sockets of this process on loopback, driven between turns of the loop: peers that do what no library would.
 *
 * Only connecting and sending block, and these only for what the kernel takes at once.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

int raw_listen(unsigned *ret_port); /* does not block in accept */
unsigned raw_free_port(void);       /* one that was free a moment ago */
int raw_connect(unsigned port);
int raw_accept(int listener); /* one that is there, or -1 */
void raw_send(int fd, const void *p, size_t n);
/* What there is to read: bytes, 0 at the end, -1 for nothing yet. A reset counts as an end. */
ssize_t raw_recv(int fd, void *p, size_t n);
/* Adds what there is to `have` bytes in `out`, which holds `cap`; how many there are now. */
size_t raw_drain(int fd, char *out, size_t have, size_t cap);
bool raw_ended(int fd); /* throws away what comes before the end */
void raw_reset(int fd); /* closes the hard way */
