/* map: string keys to pointers; open addressing, keys copied. Iteration in the order of insertion is kept after removals.
 * Threads: one at a time.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/str.h"

struct map;
struct map *map_new(void);
void map_free(struct map **m); /* values are the caller's */
void *map_get(const struct map *m, struct str key);
/* Sets; returns the value that was there, or NULL. value is never NULL. */
void *map_put(struct map *m, struct str key, void *value);
void *map_remove(struct map *m, struct str key); /* the value, or NULL */
size_t map_count(const struct map *m);
/* for (size_t i = 0; map_next(m, &i, &key, &value);): removal of the current key is allowed. */
bool map_next(const struct map *m, size_t *i, struct str *ret_key, void **ret_value);
