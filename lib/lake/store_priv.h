/* store, private: the object itself and a count of its users for jobs that were orphaned.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "lake/store.h"
#include <stdatomic.h>

struct store {
    atomic_int refs;
    char *url;
    char *root; /* absolute, without a trailing '/' (but "/" is "") */
};

/* A second owner: the store lives until as many store_close. */
struct store *store_ref(struct store *s);
/* Can be an object to write (the header's alphabet), or to read (a foreign writer's names too). */
bool store_key_writable(const char *key);
bool store_key_readable(const char *key);
