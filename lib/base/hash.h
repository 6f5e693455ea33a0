/* hash: 64-bit hashes for tables (not against an enemy who knows the seed) and SHA-256 for marks and ledgers.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *p, size_t n, uint64_t seed);
uint32_t hash_murmur2(const void *p, size_t n); /* as Kafka's default partitioner */
void hash_sha256(const void *p, size_t n, uint8_t out[32]);

struct hash_sha256;
struct hash_sha256 *hash_sha256_new(void);
void hash_sha256_update(struct hash_sha256 *h, const void *p, size_t n);
void hash_sha256_final(struct hash_sha256 *h, uint8_t out[32]); /* and begins anew */
void hash_sha256_free(struct hash_sha256 **h);
