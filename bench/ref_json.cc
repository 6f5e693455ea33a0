/* ref_json: simdjson's on-demand parser walking documents: every key, every value, strings unescaped, numbers converted.
 *
 * ref_json FILE PASSES: the lines of FILE are documents; one with "records" counts its elements, another is one record.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lines.h"
#include <simdjson.h>

using namespace simdjson;

static size_t sink; /* what was seen, so that nothing is optimised away */

static void walk(ondemand::value v);

static void walk_object(ondemand::object o)
{
    for (auto field : o) {
        sink += std::string_view(field.unescaped_key()).size();
        walk(field.value());
    }
}

static size_t walk_array(ondemand::array a)
{
    size_t n = 0;
    for (auto item : a) {
        walk(item.value());
        n++;
    }
    return n;
}

static void walk(ondemand::value v)
{
    switch (v.type()) {
    case ondemand::json_type::object:
        walk_object(v.get_object());
        break;
    case ondemand::json_type::array:
        walk_array(v.get_array());
        break;
    case ondemand::json_type::string:
        sink += std::string_view(v.get_string()).size();
        break;
    case ondemand::json_type::number:
        sink += (size_t) double(v.get_double());
        break;
    case ondemand::json_type::boolean:
        sink += bool(v.get_bool());
        break;
    default:
        sink += v.is_null();
    }
}

static size_t walk_document(ondemand::document &doc)
{
    size_t records = 1;
    for (auto field : doc.get_object()) {
        std::string_view key = field.unescaped_key();
        sink += key.size();
        if (key == "records")
            records = walk_array(field.value().get_array());
        else
            walk(field.value());
    }
    return records;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fputs("ref_json FILE PASSES\n", stderr);
        return 64;
    }
    struct lines l = lines_read(argv[1]);
    long passes = strtol(argv[2], nullptr, 10);
    size_t records = 0;
    try {
        ondemand::parser parser;
        double begin = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
        for (long pass = 0; pass < passes; pass++) {
            for (size_t i = 0; i < l.n; i++) {
                const struct line &one = l.line[i];
                ondemand::document doc =
                    parser.iterate(padded_string_view(one.body, one.n, one.n + SIMDJSON_PADDING));
                records += walk_document(doc);
            }
        }
        double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - begin;
        printf("{\"records\":%zu,\"bytes\":%zu,\"cpu_s\":%.6f,\"seen\":%zu}\n", records,
               l.bytes * (size_t)passes, cpu, sink);
    } catch (const simdjson_error &e) {
        fprintf(stderr, "ref_json: %s\n", e.what());
        return 1;
    }
    return 0;
}
