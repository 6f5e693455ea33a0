/* rnd: seeded random numbers (xoshiro256**) for generators, models and jitter, and real random bytes for ids.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct rnd {
    uint64_t s[4];
};
void rnd_seed(struct rnd *r, uint64_t seed); /* splitmix64 of the seed */
uint64_t rnd_u64(struct rnd *r);
uint64_t rnd_below(struct rnd *r, uint64_t n); /* 0..n-1, unbiased; n > 0 */
double rnd_double(struct rnd *r);              /* [0, 1) */
void rnd_bytes(void *out, size_t n);           /* from the kernel */
void rnd_uuid(char out[37]);                   /* version 4, from the kernel */
