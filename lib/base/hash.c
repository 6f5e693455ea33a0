/* hash: 64-bit hashes by folded multiplication, Kafka's murmur2, and SHA-256 of libcrypto.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/hash.h"
#include "base/check.h"
#include "base/mem.h"
#include <openssl/evp.h>
#include <string.h>

#define K0 0x9e3779b97f4a7c15u
#define K1 0xd1b54a32d192ed03u
#define K2 0x8cb92ba72f3d8dd7u

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline uint64_t get64(const unsigned char *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline uint64_t get32(const unsigned char *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

uint64_t hash_bytes(const void *data, size_t n, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t h = fold(seed ^ K0, K1 ^ n), a = 0, b = 0;
    size_t left = n;
    for (; left > 16; left -= 16, p += 16)
        h = fold(get64(p) ^ K1, get64(p + 8) ^ h);
    /* The last 1 to 16 bytes as two words that may overlap; the length is in the seed. */
    if (left >= 8) {
        a = get64(p);
        b = get64(p + left - 8);
    } else if (left >= 4) {
        a = get32(p);
        b = get32(p + left - 4);
    } else if (left) {
        a = (uint64_t)p[0] << 16 | (uint64_t)p[left / 2] << 8 | p[left - 1];
    }
    return fold(K2 ^ n, fold(a ^ K1, b ^ h) ^ K0);
}

uint32_t hash_murmur2(const void *data, size_t n)
{
    const unsigned char *p = data;
    const uint32_t m = 0x5bd1e995;
    uint32_t h = 0x9747b28cu ^ (uint32_t)n;
    for (; n >= 4; n -= 4, p += 4) {
        uint32_t k =
            (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        k *= m;
        k ^= k >> 24;
        k *= m;
        h = h * m ^ k;
    }
    if (n >= 3)
        h ^= (uint32_t)p[2] << 16;
    if (n >= 2)
        h ^= (uint32_t)p[1] << 8;
    if (n >= 1)
        h = (h ^ p[0]) * m;
    h ^= h >> 13;
    h *= m;
    return h ^ h >> 15;
}

void hash_sha256(const void *p, size_t n, uint8_t out[32])
{
    CHECK(EVP_Digest(n ? p : "", n, out, NULL, EVP_sha256(), NULL) == 1);
}

struct hash_sha256 {
    EVP_MD_CTX *ctx;
};

struct hash_sha256 *hash_sha256_new(void)
{
    struct hash_sha256 *h = MEM_NEW(struct hash_sha256);
    h->ctx = EVP_MD_CTX_new();
    CHECK(h->ctx && EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) == 1);
    return h;
}

void hash_sha256_update(struct hash_sha256 *h, const void *p, size_t n)
{
    CHECK(n == 0 || EVP_DigestUpdate(h->ctx, p, n) == 1);
}

void hash_sha256_final(struct hash_sha256 *h, uint8_t out[32])
{
    CHECK(EVP_DigestFinal_ex(h->ctx, out, NULL) == 1);
    /* The same digest again: naming it would have libcrypto look it up anew, under a lock. */
    CHECK(EVP_DigestInit_ex(h->ctx, NULL, NULL) == 1);
}

void hash_sha256_free(struct hash_sha256 **h)
{
    if (!*h)
        return;
    EVP_MD_CTX_free((*h)->ctx);
    mem_free(*h);
    *h = NULL;
}
