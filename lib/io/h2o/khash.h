/* khash: the layout of klib's hash table with 64-bit keys, and no more of it than h2o/http2_internal.h needs to be included and its
 * connections' streams to be walked. Debian's libh2o-dev ships that header without the one it includes.
 *
 * The tables are h2o's: nothing here writes to one. httpd_h2.c checks with each request that they are what this says.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdint.h>

typedef uint32_t khint_t, khint32_t;
typedef khint_t khiter_t;

#define khash_t(name) kh_##name##_t

#define KHASH_MAP_INIT_INT64(name, type)                                                           \
    typedef struct kh_##name##_s {                                                                 \
        khint_t n_buckets, size, n_occupied, upper_bound;                                          \
        khint32_t *flags; /* two bits a bucket: deleted, empty */                                  \
        uint64_t *keys;                                                                            \
        type *vals;                                                                                \
    } khash_t(name);                                                                               \
    static inline khint_t kh_get_##name(const khash_t(name) * h, uint64_t key)                     \
    {                                                                                              \
        for (khint_t i = 0; i < h->n_buckets; i++)                                                 \
            if (kh_exist(h, i) && h->keys[i] == key)                                               \
                return i;                                                                          \
        return h->n_buckets;                                                                       \
    }

#define kh_exist(h, i) (!((h)->flags[(i) >> 4] >> (((i)&15U) << 1) & 3))
#define kh_begin(h) ((khint_t)0)
#define kh_end(h) ((h)->n_buckets)
#define kh_val(h, i) ((h)->vals[i])
#define kh_get(name, h, key) kh_get_##name(h, key)
