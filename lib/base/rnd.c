/* rnd: xoshiro256** seeded by splitmix64, and the kernel's random bytes.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/rnd.h"
#include "base/check.h"
#include <errno.h>
#include <sys/random.h>

void rnd_seed(struct rnd *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        r->s[i] = z ^ z >> 31;
    }
}

static uint64_t rotl(uint64_t v, int k)
{
    return v << k | v >> (64 - k);
}

uint64_t rnd_u64(struct rnd *r)
{
    uint64_t *s = r->s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint64_t rnd_below(struct rnd *r, uint64_t n)
{
    CHECK(n > 0);
    /* Values below 2^64 mod n would make the first remainders more likely. */
    uint64_t least = (0 - n) % n, v;
    do
        v = rnd_u64(r);
    while (v < least);
    return v % n;
}

double rnd_double(struct rnd *r)
{
    return (double)(rnd_u64(r) >> 11) * 0x1p-53;
}

void rnd_bytes(void *out, size_t n)
{
    unsigned char *p = out;
    while (n) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0) {
            CHECK(errno == EINTR);
            continue;
        }
        p += got;
        n -= (size_t)got;
    }
}

void rnd_uuid(char out[37])
{
    static const char hex[] = "0123456789abcdef";
    uint8_t b[16];
    rnd_bytes(b, sizeof b);
    b[6] = (uint8_t)(0x40 | (b[6] & 15));
    b[8] = (uint8_t)(0x80 | (b[8] & 63));
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = hex[b[i] >> 4];
        *out++ = hex[b[i] & 15];
    }
    *out = 0;
}
