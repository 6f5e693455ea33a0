/* jsonscan: the one C++ file: simdjson's first stage (structural index, UTF-8, control characters) behind a C face.
 *
 * The implementation is chosen at run time for the processor. Nothing here throws: simdjson allocates without exceptions
 * and returns codes.
 * SPDX-License-Identifier: Apache-2.0  */
#define SIMDJSON_EXCEPTIONS 0
#include "base/jsonscan_priv.h"
#include <cstdlib>
#include <memory>
#include <new>
#include <simdjson.h>

struct jsonscan_stage1 {
    std::unique_ptr<simdjson::internal::dom_parser_implementation> parser;
};

extern "C" jsonscan_stage1 *jsonscan_stage1_new(void)
{
    return new (std::nothrow) jsonscan_stage1;
}

extern "C" void jsonscan_stage1_free(jsonscan_stage1 *s)
{
    delete s;
}

extern "C" size_t jsonscan_stage1_capacity(const jsonscan_stage1 *s)
{
    return s->parser ? s->parser->capacity() : 0;
}

/* Doubles, so that a stream of growing documents costs a few allocations only. */
static void grow(jsonscan_stage1 *s, size_t n)
{
    size_t capacity = jsonscan_stage1_capacity(s);
    if (capacity < 4096)
        capacity = 4096;
    while (capacity < n)
        capacity *= 2;
    if (capacity > simdjson::SIMDJSON_MAXSIZE_BYTES)
        capacity = simdjson::SIMDJSON_MAXSIZE_BYTES;
    simdjson::error_code rc =
        s->parser ? s->parser->allocate(capacity, 1)
                  : simdjson::get_active_implementation()->create_dom_parser_implementation(
                        capacity, 1, s->parser);
    if (rc != simdjson::SUCCESS)
        std::abort();
}

extern "C" jsonscan_stage1_result jsonscan_stage1_run(jsonscan_stage1 *s, const char *p, size_t n,
                                                      const uint32_t **ret_at, uint32_t *ret_n)
{
    if (n == 0)
        return JSON_S1_EMPTY;
    if (n >= simdjson::SIMDJSON_MAXSIZE_BYTES)
        return JSON_S1_TOO_LONG;
    if (n > jsonscan_stage1_capacity(s))
        grow(s, n);
    simdjson::error_code rc =
        s->parser->stage1(reinterpret_cast<const uint8_t *>(p), n, simdjson::stage1_mode::regular);
    switch (rc) {
    case simdjson::SUCCESS:
        *ret_at = s->parser->structural_indexes.get();
        *ret_n = s->parser->n_structural_indexes;
        return JSON_S1_OK;
    case simdjson::EMPTY:
        return JSON_S1_EMPTY;
    case simdjson::UTF8_ERROR:
        return JSON_S1_UTF8;
    default:
        return JSON_S1_BROKEN;
    }
}
