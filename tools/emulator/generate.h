/* generate: posts of the same kind as the real ones, from a seed: same rows and seed, same bytes, in any order.
 *
 * Row n (0 .. rows-1) of the three datasets describes one post; its key is n. People have one name, place and poster name each and
 * 1.2 posts on average. The JSON is written as Python's json.dumps writes it (escaped to ASCII), as the real clients do.
 * Threads: any, after generate_new; nothing changes any more.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "data/dataset.h"

struct generate;
struct generate *generate_new(uint64_t rows, uint64_t seed);
void generate_free(struct generate **g);
uint64_t generate_rows(const struct generate *g);
/* Appends one JSON object, at most GENERATE_MAX_BYTES. */
#define GENERATE_MAX_BYTES 4096
void generate_json(const struct generate *g, enum dataset_id id, uint64_t row, struct buf *out);
