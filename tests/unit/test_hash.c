/* Tests of base/hash.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/hash.h"
#include "base/str.h"
#include <stdlib.h>

/* Values of Kafka's own test of Utils.murmur2. */
static void murmur2_is_kafkas(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t hash;
    } known[] = {{"21", -973932308},
                 {"foobar", -790332482},
                 {"a-little-bit-long-string", -985981536},
                 {"a-little-bit-longer-string", -1486304829},
                 {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
                 {"abc", 479470107}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_int_equal((int32_t)hash_murmur2(known[i].text, strlen(known[i].text)),
                         known[i].hash);
}

static void sha256_is_right(void **state)
{
    (void)state;
    uint8_t out[32], again[32];
    char hex[64];
    hash_sha256("abc", 3, out);
    str_hex(out, 32, hex);
    assert_memory_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                        64);
    hash_sha256(NULL, 0, out);
    str_hex(out, 32, hex);
    assert_memory_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                        64);
    struct hash_sha256 *h = hash_sha256_new();
    for (int turn = 0; turn < 2; turn++) {
        hash_sha256_update(h, "a", 1);
        hash_sha256_update(h, NULL, 0);
        hash_sha256_update(h, "bc", 2);
        hash_sha256_final(h, again);
        hash_sha256("abc", 3, out);
        assert_memory_equal(out, again, 32);
    }
    hash_sha256_free(&h);
    assert_null(h);
    hash_sha256_free(&h);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* No two of 10 000 short keys alike, and each bit set about half of the time. */
static void spreads(void **state)
{
    (void)state;
    static uint64_t seen[10000];
    unsigned bits[64] = {0};
    unsigned char zero[100] = {0};
    for (unsigned i = 0; i < 10000; i++) {
        seen[i] = i < 100 ? hash_bytes(zero, i, 0) : hash_bytes(&i, sizeof i, 0);
        for (int b = 0; b < 64; b++)
            bits[b] += seen[i] >> b & 1;
    }
    for (int b = 0; b < 64; b++)
        assert_in_range(bits[b], 4500, 5500);
    qsort(seen, 10000, sizeof *seen, by_value);
    for (unsigned i = 1; i < 10000; i++)
        assert_true(seen[i] != seen[i - 1]);
    assert_true(hash_bytes("abc", 3, 1) != hash_bytes("abc", 3, 2));
    assert_true(hash_bytes("abc", 3, 1) == hash_bytes("abc", 3, 1));
    char text[64] = {0};
    uint64_t plain = hash_bytes(text, sizeof text, 0);
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = 1;
        assert_true(hash_bytes(text, sizeof text, 0) != plain);
        text[i] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(murmur2_is_kafkas),
                                       cmocka_unit_test(sha256_is_right),
                                       cmocka_unit_test(spreads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
