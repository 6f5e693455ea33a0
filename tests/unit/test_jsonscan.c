/* test_jsonscan: what must be accepted, what must be refused and where, misuse, and mutations held against jansson.
 *
 * JSON_SUITE_DIR is the folder of JSONTestSuite's cases (y_*.json, n_*.json, i_*.json) that scripts/setup makes.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/jsonscan.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* A copy whose padding is full of what would be wrong to look at. */
static char *padded(const char *p, size_t n, const char *fill)
{
    char *copy = mem_alloc(n + JSONSCAN_PADDING);
    if (n)
        memcpy(copy, p, n);
    for (size_t i = 0; i < JSONSCAN_PADDING; i++)
        copy[n + i] = fill[i % strlen(fill)];
    return copy;
}

static int walk(struct jsonscan *js)
{
    struct str s;
    bool lone;
    int rc;
    switch (jsonscan_peek(js)) {
    case JSON_T_OBJECT:
        if ((rc = jsonscan_object(js)) < 0)
            return rc;
        while ((rc = jsonscan_key(js, &s)) == 1) {
            if ((rc = walk(js)) < 0)
                return rc;
        }
        return rc;
    case JSON_T_ARRAY:
        if ((rc = jsonscan_array(js)) < 0)
            return rc;
        while ((rc = jsonscan_item(js)) == 1) {
            if ((rc = walk(js)) < 0)
                return rc;
        }
        return rc;
    case JSON_T_STRING:
        if ((rc = jsonscan_string(js, &s, &lone)) == 0)
            assert_true(str_utf8_valid(s));
        return rc;
    default:
        return jsonscan_raw(js, &s);
    }
}

/* Both ways through a document must agree, whatever stands behind it. Returns 0 or the fault. */
static enum json_fault scan(struct jsonscan *js, const char *p, size_t n, size_t *ret_pos)
{
    static const char *const fills[] = {"]", "}", "0", "\"", "e", " "};
    enum json_fault first = JSON_F_NONE;
    size_t first_pos = 0;
    for (size_t i = 0; i < 2 * sizeof fills / sizeof *fills; i++) {
        char *copy = padded(p, n, fills[i / 2]);
        int rc = jsonscan_begin(js, copy, n);
        struct str raw;
        if (rc == 0)
            rc = i % 2 ? walk(js) : jsonscan_raw(js, &raw);
        if (rc == 0)
            rc = jsonscan_end(js);
        size_t pos;
        const char *text;
        enum json_fault fault = jsonscan_fault(js, &pos, &text);
        assert_true((rc == 0) == (fault == JSON_F_NONE));
        if (rc < 0) {
            assert_int_equal(rc, ERR_BAD_DATA);
            assert_true(pos <= n);
            assert_true(text && *text);
            assert_int_equal(jsonscan_end(js), ERR_BAD_DATA);
        }
        if (i == 0) {
            first = fault;
            first_pos = pos;
        } else if (fault != first || (fault && pos != first_pos)) {
            fail_msg("two ways, two answers: %.*s", (int)n, p);
        }
        mem_free(copy);
    }
    if (ret_pos)
        *ret_pos = first_pos;
    return first;
}

static const char *const good[] = {"null",
                                   "true",
                                   "false",
                                   "0",
                                   "-0",
                                   "1",
                                   "-1",
                                   "12",
                                   "1.5",
                                   "-1.5",
                                   "0.5",
                                   "0e1",
                                   "0E+1",
                                   "1e5",
                                   "1E5",
                                   "1e+5",
                                   "1e-5",
                                   "1.25e10",
                                   "-0.0",
                                   "123456789012345678901234567890",
                                   "-99999999999999999999999999999999999999",
                                   "1e400",
                                   "-1e400",
                                   "1e-400",
                                   "0.1e1",
                                   "18446744073709551616",
                                   "20e1",
                                   "100e-2",
                                   "\"\"",
                                   "\"a\"",
                                   "\" \"",
                                   "\"\\\"\"",
                                   "\"\\\\\"",
                                   "\"\\/\"",
                                   "\"\\b\\f\\n\\r\\t\"",
                                   "\"\\u0041\"",
                                   "\"\\u0000\"",
                                   "\"\\uD834\\uDD1E\"",
                                   "\"\\ud800\"",
                                   "\"\\udc00\"",
                                   "\"\\ud800\\ud800\"",
                                   "\"\\ud800x\"",
                                   "\"\\uDBFF\\uDFFF\"",
                                   "\"\\uabcd\\uABCD\"",
                                   "\"\x7f\"",
                                   "\"\xc3\xa9\"",
                                   "\"\xe2\x82\xac\"",
                                   "\"\xf0\x9f\x98\x80\"",
                                   "\"\xef\xbf\xbf\"",
                                   "\"\xf4\x8f\xbf\xbf\"",
                                   "\"\xc2\x80\"",
                                   "\"\xe0\xa0\x80\"",
                                   "\"\xed\x9f\xbf\"",
                                   "\"\xee\x80\x80\"",
                                   "\"{[:,]}\"",
                                   "\"\\\\\\\"\"",
                                   "[]",
                                   "[ ]",
                                   "{}",
                                   "{ }",
                                   "[1]",
                                   "[1,2]",
                                   "[ 1 , 2 ]",
                                   "[null,true,false]",
                                   "[[]]",
                                   "[[[[1]]]]",
                                   "[{}]",
                                   "{\"a\":1}",
                                   "{\"a\":{}}",
                                   "{\"a\":[]}",
                                   "{ \"a\" : 1 }",
                                   "{\"a\":1,\"b\":2}",
                                   "{\"a\":1,\"a\":2}",
                                   "{\"\":0}",
                                   "{\"a\\u0062\":0}",
                                   "{\"\\ud800\":0}",
                                   "\t1\n",
                                   " 1 ",
                                   "\r\n[\r\n1\r\n]\r\n",
                                   "[1\n,2\t]",
                                   "{\"a\":\"b\",\"c\":[1,{\"d\":null}]}",
                                   "[\"a\",\"b\"]",
                                   "[-1,-2.5e3]",
                                   "[\"\\\\\",\"\\\\\\\\\"]",
                                   "{\"a\":[[[{\"b\":[true]}]]]}",
                                   "\"\xc2\xa0\"",
                                   "[0]",
                                   "[0,0]",
                                   "[1e1]",
                                   "[\"x\",1,null,{\"k\":[]}]"};

/* What is refused: the fault and the place. */
static const struct bad {
    const char *text;
    enum json_fault fault;
    size_t pos;
} bad[] = {
    {"", JSON_F_SYNTAX, 0},
    {" ", JSON_F_SYNTAX, 1},
    {" \n\t\r ", JSON_F_SYNTAX, 5},
    {"nul", JSON_F_SYNTAX, 0},
    {"nulll", JSON_F_SYNTAX, 4},
    {"tru", JSON_F_SYNTAX, 0},
    {"truee", JSON_F_SYNTAX, 4},
    {"True", JSON_F_SYNTAX, 0},
    {"TRUE", JSON_F_SYNTAX, 0},
    {"fals", JSON_F_SYNTAX, 0},
    {"False", JSON_F_SYNTAX, 0},
    {"undefined", JSON_F_SYNTAX, 0},
    {"NaN", JSON_F_SYNTAX, 0},
    {"Infinity", JSON_F_SYNTAX, 0},
    {"-Infinity", JSON_F_SYNTAX, 1},
    {"-NaN", JSON_F_SYNTAX, 1},
    {"nan", JSON_F_SYNTAX, 0},
    {"01", JSON_F_SYNTAX, 2},
    {"-01", JSON_F_SYNTAX, 3},
    {"00", JSON_F_SYNTAX, 2},
    {"-", JSON_F_SYNTAX, 1},
    {"--1", JSON_F_SYNTAX, 1},
    {"+1", JSON_F_SYNTAX, 0},
    {"1.", JSON_F_SYNTAX, 2},
    {"-1.", JSON_F_SYNTAX, 3},
    {"1.e1", JSON_F_SYNTAX, 2},
    {".5", JSON_F_SYNTAX, 0},
    {"-.5", JSON_F_SYNTAX, 1},
    {"1e", JSON_F_SYNTAX, 2},
    {"1e+", JSON_F_SYNTAX, 3},
    {"1E-", JSON_F_SYNTAX, 3},
    {"1e1.5", JSON_F_SYNTAX, 3},
    {"1ee1", JSON_F_SYNTAX, 2},
    {"1.2.3", JSON_F_SYNTAX, 3},
    {"1-2", JSON_F_SYNTAX, 1},
    {"0x1", JSON_F_SYNTAX, 1},
    {"0b1", JSON_F_SYNTAX, 1},
    {"1_000", JSON_F_SYNTAX, 1},
    {"1a", JSON_F_SYNTAX, 1},
    {"01x", JSON_F_SYNTAX, 2},
    {"1\"a\"", JSON_F_SYNTAX, 1},
    {"null\"a\"", JSON_F_SYNTAX, 4},
    {"\"a", JSON_F_SYNTAX, 0},
    {"\"", JSON_F_SYNTAX, 0},
    {"\"\\\"", JSON_F_SYNTAX, 0},
    {"\"\\q\"", JSON_F_SYNTAX, 1},
    {"\"\\a\"", JSON_F_SYNTAX, 1},
    {"\"\\0\"", JSON_F_SYNTAX, 1},
    {"\"\\x41\"", JSON_F_SYNTAX, 1},
    {"\"\\'\"", JSON_F_SYNTAX, 1},
    {"\"\\u\"", JSON_F_SYNTAX, 1},
    {"\"\\u1\"", JSON_F_SYNTAX, 1},
    {"\"\\u12\"", JSON_F_SYNTAX, 1},
    {"\"\\u123\"", JSON_F_SYNTAX, 1},
    {"\"\\u123g\"", JSON_F_SYNTAX, 1},
    {"\"\\u 123\"", JSON_F_SYNTAX, 1},
    {"\"\\U0041\"", JSON_F_SYNTAX, 1},
    {"\"\\u+123\"", JSON_F_SYNTAX, 1},
    {"\"\\uD800\\u1\"", JSON_F_SYNTAX, 7},
    {"\"ab\\qcd\"", JSON_F_SYNTAX, 3},
    {"[\"\\q\"]", JSON_F_SYNTAX, 2},
    {"{\"\\q\":1}", JSON_F_SYNTAX, 2},
    {"\"a\nb\"", JSON_F_SYNTAX, 2},
    {"\"a\tb\"", JSON_F_SYNTAX, 2},
    {"\"\x01\"", JSON_F_SYNTAX, 1},
    {"\"\x1f\"", JSON_F_SYNTAX, 1},
    {"\"\\\n\"", JSON_F_SYNTAX, 2},
    {"{\"a\n\":1}", JSON_F_SYNTAX, 3},
    {"'a'", JSON_F_SYNTAX, 0},
    {"{'a':1}", JSON_F_SYNTAX, 1},
    {"a", JSON_F_SYNTAX, 0},
    {"\\", JSON_F_SYNTAX, 0},
    {"\x0c", JSON_F_SYNTAX, 0},
    {"[\x0c]", JSON_F_SYNTAX, 1},
    {"[1\x0c]", JSON_F_SYNTAX, 2},
    {"[1 \x0c]", JSON_F_SYNTAX, 3},
    {"{\"a\"\x1a 1}", JSON_F_SYNTAX, 4},
    {"[1\x0c 2]", JSON_F_SYNTAX, 2},
    {"\x0b"
     "1",
     JSON_F_SYNTAX, 0},
    {"[\xc2\xa0]", JSON_F_SYNTAX, 1},
    {"\xef\xbb\xbf"
     "1",
     JSON_F_SYNTAX, 0},
    {"\xef\xbb\xbf{}", JSON_F_SYNTAX, 0},
    {"[", JSON_F_SYNTAX, 1},
    {"]", JSON_F_SYNTAX, 0},
    {"{", JSON_F_SYNTAX, 1},
    {"}", JSON_F_SYNTAX, 0},
    {"[}", JSON_F_SYNTAX, 1},
    {"{]", JSON_F_SYNTAX, 1},
    {"[1", JSON_F_SYNTAX, 2},
    {"[1,", JSON_F_SYNTAX, 3},
    {"[1,]", JSON_F_SYNTAX, 3},
    {"[,1]", JSON_F_SYNTAX, 1},
    {"[,]", JSON_F_SYNTAX, 1},
    {"[1,,2]", JSON_F_SYNTAX, 3},
    {"[1 2]", JSON_F_SYNTAX, 3},
    {"[1}", JSON_F_SYNTAX, 2},
    {"[1:2]", JSON_F_SYNTAX, 2},
    {"[\"a\":1]", JSON_F_SYNTAX, 4},
    {"[\"a\"\"b\"]", JSON_F_SYNTAX, 4},
    {"[\"a\"1]", JSON_F_SYNTAX, 4},
    {"[{}{}]", JSON_F_SYNTAX, 3},
    {"[[]", JSON_F_SYNTAX, 3},
    {"[1e]", JSON_F_SYNTAX, 3},
    {"[-]", JSON_F_SYNTAX, 2},
    {"[tru]", JSON_F_SYNTAX, 1},
    {"[01]", JSON_F_SYNTAX, 3},
    {"[*]", JSON_F_SYNTAX, 1},
    {"[//c\n1]", JSON_F_SYNTAX, 1},
    {"[1/*c*/]", JSON_F_SYNTAX, 2},
    {"{\"a\"}", JSON_F_SYNTAX, 4},
    {"{\"a\":}", JSON_F_SYNTAX, 5},
    {"{\"a\":", JSON_F_SYNTAX, 5},
    {"{\"a\"", JSON_F_SYNTAX, 4},
    {"{\"a\" 1}", JSON_F_SYNTAX, 5},
    {"{\"a\"::1}", JSON_F_SYNTAX, 5},
    {"{\"a\",1}", JSON_F_SYNTAX, 4},
    {"{:1}", JSON_F_SYNTAX, 1},
    {"{1:1}", JSON_F_SYNTAX, 1},
    {"{null:1}", JSON_F_SYNTAX, 1},
    {"{a:1}", JSON_F_SYNTAX, 1},
    {"{[]:1}", JSON_F_SYNTAX, 1},
    {"{,}", JSON_F_SYNTAX, 1},
    {"{\"a\":1,}", JSON_F_SYNTAX, 7},
    {"{\"a\":1,,\"b\":2}", JSON_F_SYNTAX, 7},
    {"{\"a\":1 \"b\":2}", JSON_F_SYNTAX, 7},
    {"{\"a\":1]", JSON_F_SYNTAX, 6},
    {"{\"a\":1", JSON_F_SYNTAX, 6},
    {"{\"a\":1,\"b\"", JSON_F_SYNTAX, 10},
    {"{\"a\":\"b}", JSON_F_SYNTAX, 5},
    {"{\"a\":01}", JSON_F_SYNTAX, 7},
    {"{\"a\" \"b\":1}", JSON_F_SYNTAX, 5},
    {"1 2", JSON_F_TRAILING, 2},
    {"1,", JSON_F_TRAILING, 1},
    {"{}{}", JSON_F_TRAILING, 2},
    {"{}}", JSON_F_TRAILING, 2},
    {"[]]", JSON_F_TRAILING, 2},
    {"[] x", JSON_F_TRAILING, 3},
    {"\"a\" \"b\"", JSON_F_TRAILING, 4},
    {"\"a\"b", JSON_F_TRAILING, 3},
    {"null true", JSON_F_TRAILING, 5},
    {"{} #", JSON_F_TRAILING, 3},
    {"1:", JSON_F_TRAILING, 1},
    {"\"\x80\"", JSON_F_UTF8, 1},
    {"\"\xc3\"", JSON_F_UTF8, 1},
    {"\"a\xc0\x80\"", JSON_F_UTF8, 2},
    {"\"\xc1\xbf\"", JSON_F_UTF8, 1},
    {"\"\xe0\x80\x80\"", JSON_F_UTF8, 1},
    {"\"\xed\xa0\x80\"", JSON_F_UTF8, 1},
    {"\"\xf0\x80\x80\x80\"", JSON_F_UTF8, 1},
    {"\"\xf4\x90\x80\x80\"", JSON_F_UTF8, 1},
    {"\"\xf5\x80\x80\x80\"", JSON_F_UTF8, 1},
    {"\"\xff\"", JSON_F_UTF8, 1},
    {"\"\xfe\"", JSON_F_UTF8, 1},
    {"\"\xe2\x82\"", JSON_F_UTF8, 1},
    {"\"\xf0\x9f\x98\"", JSON_F_UTF8, 1},
    {"{\"\xff\":1}", JSON_F_UTF8, 2},
    {"[\"ok\",\"\xe9\"]", JSON_F_UTF8, 7},
    {"\xff", JSON_F_UTF8, 0},
    {"[1]\xff", JSON_F_UTF8, 3},
    {"\"\xc3", JSON_F_UTF8, 1},
};

static void test_accepts(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(64);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (scan(js, good[i], strlen(good[i]), NULL) != JSON_F_NONE)
            fail_msg("refused: %s", good[i]);
    }
    jsonscan_free(&js);
    assert_null(js);
}

static void test_refuses(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(64);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t pos;
        enum json_fault fault = scan(js, bad[i].text, strlen(bad[i].text), &pos);
        if (fault != bad[i].fault || pos != bad[i].pos)
            fail_msg("%s: fault %d at %zu, wanted %d at %zu", bad[i].text, (int)fault, pos,
                     (int)bad[i].fault, bad[i].pos);
    }
    /* Where this one breaks depends on the implementation of stage 1. */
    assert_int_equal(scan(js, "a\"", 2, NULL), JSON_F_SYNTAX);
    /* NUL bytes, which a C string does not show. */
    assert_int_equal(scan(js, "\0", 1, NULL), JSON_F_SYNTAX);
    assert_int_equal(scan(js, "1\0", 2, NULL), JSON_F_SYNTAX);
    assert_int_equal(scan(js, "[1,\0]", 5, NULL), JSON_F_SYNTAX);
    assert_int_equal(scan(js, "[1 \0", 4, NULL), JSON_F_SYNTAX);
    assert_int_equal(scan(js, "\"\0\"", 3, NULL), JSON_F_SYNTAX);
    assert_int_equal(scan(js, "{}\0", 3, NULL), JSON_F_TRAILING);
    jsonscan_free(&js);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(64);
    struct str doc = STR("{\"a\":[1.5e3,true,\"x\\u00e9\\\"\",{\"b\":null,\"\xc3\xa9\":[[],{}]}]}");
    assert_int_equal(scan(js, doc.p, doc.n, NULL), JSON_F_NONE);
    for (size_t n = 0; n < doc.n; n++)
        assert_int_not_equal(scan(js, doc.p, n, NULL), JSON_F_NONE);
    jsonscan_free(&js);
}

static void test_depth(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(8);
    for (int object = 0; object < 2; object++) {
        for (int depth = 1; depth <= 12; depth++) {
            struct buf b;
            buf_init(&b, 4096);
            for (int i = 0; i < depth; i++)
                buf_z(&b, object ? "{\"a\":" : "[");
            buf_z(&b, "1");
            for (int i = 0; i < depth; i++)
                buf_z(&b, object ? "}" : "]");
            size_t pos;
            enum json_fault fault = scan(js, b.data, b.len, &pos);
            assert_int_equal(fault, depth <= 8 ? JSON_F_NONE : JSON_F_DEPTH);
            if (fault)
                assert_int_equal(pos, object ? 8 * 5 : 8);
            buf_deinit(&b);
        }
    }
    jsonscan_free(&js);
    /* A hundred thousand brackets cost nothing but their bytes. */
    js = jsonscan_new(64);
    char *deep = mem_alloc(100000);
    memset(deep, '[', 100000);
    assert_int_equal(scan(js, deep, 100000, NULL), JSON_F_DEPTH);
    mem_free(deep);
    jsonscan_free(&js);
}

static void test_values(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(64);
    struct str doc =
        STR("  {\"k\\u0065y\" : [ -12.50e+3 , \"a\\u00e9\\ud83d\\ude00\\n\\/\" , "
            "\"plain\", {\"x\": [1, 2 ] } ,\"\\ud800-\\udc00\" , true ] , \"z\":\"\"} ");
    char *p = padded(doc.p, doc.n, "x");
    struct str key, s, first;
    bool lone;
    assert_int_equal(jsonscan_begin(js, p, doc.n), 0);
    assert_int_equal(jsonscan_peek(js), JSON_T_OBJECT);
    assert_int_equal(jsonscan_object(js), 0);
    assert_int_equal(jsonscan_key(js, &key), 1);
    assert_true(str_eq(key, STR("key")));
    assert_int_equal(jsonscan_key_at(js), 4);
    assert_int_equal(jsonscan_peek(js), JSON_T_ARRAY);
    assert_int_equal(jsonscan_array(js), 0);
    assert_int_equal(jsonscan_peek(js), JSON_T_BAD);
    assert_int_equal(jsonscan_item(js), 1);
    assert_int_equal(jsonscan_peek(js), JSON_T_NUMBER);
    assert_int_equal(jsonscan_raw(js, &s), 0);
    assert_true(str_eq(s, STR("-12.50e+3")));
    assert_int_equal(jsonscan_item(js), 1);
    assert_int_equal(jsonscan_string(js, &first, &lone), 0);
    assert_true(str_eq(first, STR("a\xc3\xa9\xf0\x9f\x98\x80\n/")));
    assert_false(lone);
    assert_int_equal(jsonscan_item(js), 1);
    assert_int_equal(jsonscan_string(js, &s, &lone), 0);
    assert_true(s.p >= p && s.p < p + doc.n); /* a slice of the document itself */
    assert_true(str_eq(s, STR("plain")));
    assert_int_equal(jsonscan_item(js), 1);
    assert_int_equal(jsonscan_raw(js, &s), 0);
    assert_true(str_eq(s, STR("{\"x\": [1, 2 ] }")));
    assert_int_equal(jsonscan_item(js), 1);
    assert_int_equal(jsonscan_string(js, &s, &lone), 0);
    assert_true(lone);
    assert_true(str_eq(s, STR("\xef\xbf\xbd-\xef\xbf\xbd")));
    assert_int_equal(jsonscan_item(js), 1);
    assert_int_equal(jsonscan_peek(js), JSON_T_BOOL);
    assert_int_equal(jsonscan_raw(js, &s), 0);
    assert_true(str_eq(s, STR("true")));
    assert_int_equal(jsonscan_item(js), 0);
    assert_int_equal(jsonscan_key(js, &key), 1);
    assert_int_equal(jsonscan_string(js, &s, NULL), 0);
    assert_int_equal(s.n, 0);
    assert_non_null(s.p);
    assert_int_equal(jsonscan_key(js, &key), 0);
    assert_int_equal(jsonscan_end(js), 0);
    assert_true(str_eq(first, STR("a\xc3\xa9\xf0\x9f\x98\x80\n/")));
    mem_free(p);
    jsonscan_free(&js);
}

/* Unescaped slices stay where they are however much follows, until the next begin. */
static void test_arena(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(4);
    struct buf b;
    buf_init(&b, 8 << 20);
    buf_z(&b, "[");
    for (int i = 0; i < 3000; i++)
        buf_printf(&b, "%s\"\\n%0*d\"", i ? "," : "", 1 + i, i);
    buf_z(&b, "]");
    char *p = padded(b.data, b.len, "x");
    struct str *all = MEM_ARRAY(struct str, 3000);
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(jsonscan_begin(js, p, b.len), 0);
        assert_int_equal(jsonscan_array(js), 0);
        for (int i = 0; i < 3000; i++) {
            assert_int_equal(jsonscan_item(js), 1);
            assert_int_equal(jsonscan_string(js, &all[i], NULL), 0);
        }
        assert_int_equal(jsonscan_item(js), 0);
        for (int i = 0; i < 3000; i++) {
            assert_int_equal(all[i].n, (size_t)i + 2);
            assert_int_equal(all[i].p[0], '\n');
            assert_int_equal(all[i].p[all[i].n - 1], '0' + i % 10);
        }
        jsonscan_trim(js, 0);
        assert_int_equal(jsonscan_end(js), ERR_BAD_DATA);
    }
    mem_free(all);
    mem_free(p);
    buf_deinit(&b);
    jsonscan_free(&js);
}

static struct jsonscan *begun(struct jsonscan *js, const char *text)
{
    static char doc[256];
    memset(doc, ' ', sizeof doc);
    memcpy(doc, text, strlen(text));
    assert_int_equal(jsonscan_begin(js, doc, strlen(text)), 0);
    return js;
}

#define ASSERT_FAULT(js, call, want)                                                               \
    do {                                                                                           \
        assert_int_equal((call), ERR_BAD_DATA);                                                    \
        assert_int_equal(jsonscan_fault((js), NULL, NULL), (want));                                \
        assert_int_equal(jsonscan_peek(js), JSON_T_BAD);                                           \
        assert_int_equal(jsonscan_raw((js), &s), ERR_BAD_DATA);                                    \
        assert_int_equal(jsonscan_fault((js), NULL, NULL), (want));                                \
    } while (0)

static void test_misuse(void **state)
{
    (void)state;
    struct jsonscan *js = jsonscan_new(4);
    struct str s;
    ASSERT_FAULT(js, jsonscan_end(js), JSON_F_TYPE);
    ASSERT_FAULT(js, jsonscan_object(begun(js, "[1]")), JSON_F_TYPE);
    ASSERT_FAULT(js, jsonscan_array(begun(js, "{}")), JSON_F_TYPE);
    ASSERT_FAULT(js, jsonscan_string(begun(js, "1"), &s, NULL), JSON_F_TYPE);
    ASSERT_FAULT(js, jsonscan_string(begun(js, "x"), &s, NULL), JSON_F_SYNTAX);
    ASSERT_FAULT(js, jsonscan_object(begun(js, "x")), JSON_F_SYNTAX);
    ASSERT_FAULT(js, jsonscan_key(begun(js, "1"), &s), JSON_F_TYPE);
    ASSERT_FAULT(js, jsonscan_item(begun(js, "[]")), JSON_F_TYPE);
    ASSERT_FAULT(js, jsonscan_end(begun(js, "1")), JSON_F_TYPE);
    assert_int_equal(jsonscan_array(begun(js, "[1,2]")), 0);
    ASSERT_FAULT(js, jsonscan_key(js, &s), JSON_F_TYPE);
    assert_int_equal(jsonscan_array(begun(js, "[1,2]")), 0);
    assert_int_equal(jsonscan_item(js), 1);
    ASSERT_FAULT(js, jsonscan_item(js), JSON_F_TYPE);
    assert_int_equal(jsonscan_object(begun(js, "{\"a\":1}")), 0);
    ASSERT_FAULT(js, jsonscan_raw(js, &s), JSON_F_TYPE);
    assert_int_equal(jsonscan_object(begun(js, "{\"a\":1}")), 0);
    assert_int_equal(jsonscan_key(js, &s), 1);
    ASSERT_FAULT(js, jsonscan_key(js, &s), JSON_F_TYPE);
    assert_int_equal(jsonscan_raw(begun(js, "7"), &s), 0);
    ASSERT_FAULT(js, jsonscan_item(js), JSON_F_TYPE);
    jsonscan_free(&js);
    jsonscan_free(&js);
}

/* What jansson refuses and JSON allows: numbers that overflow, lone surrogates, NUL in keys. */
static bool jansson_only(const json_error_t *e)
{
    switch (json_error_code(e)) {
    case json_error_numeric_overflow:
    case json_error_null_byte_in_key:
    case json_error_null_character:
    case json_error_stack_overflow:
        return true;
    default:
        return strstr(e->text, "invalid Unicode") != NULL;
    }
}

static void test_mutations(void **state)
{
    (void)state;
    static const char *const seeds[] = {
        "{\"index\": 4, \"title\": \"a \\u2026\\u00a0 b\", \"n\": [1.5, -2e3, true, null]}",
        "[{\"a\":\"\\\\\\\"x\"},{\"b\":[[],{}]},\"\xc3\xa9\xf0\x9f\x98\x80\",false,0]",
        "{\"records\":[{\"key\":null,\"value\":{\"ind\":12,\"country\":\"Chad\"}},{\"value\":[]}]}",
        " [ 10 , 1e5 , \"a\" , { \"k\" : 0.25 } ] ",
        "\"{\\\"ind\\\": 1}\"",
    };
    static const char alphabet[] = "{}[]:,\"\\ \n\t\x0c\x1a"
                                   "0123456789+-.eEtrufalsn/x\x80\xc3\xe2\xf0\xff";
    struct jsonscan *js = jsonscan_new(64);
    struct rnd r;
    rnd_seed(&r, 20260101);
    unsigned accepted = 0, refused = 0;
    for (int turn = 0; turn < 20000; turn++) {
        const char *seed = seeds[rnd_below(&r, sizeof seeds / sizeof *seeds)];
        char text[256];
        size_t n = strlen(seed);
        memcpy(text, seed, n);
        for (uint64_t k = 1 + rnd_below(&r, 3); k; k--) {
            size_t at = rnd_below(&r, n);
            char c = alphabet[rnd_below(&r, sizeof alphabet - 1)];
            switch (rnd_below(&r, 4)) {
            case 0:
                memmove(text + at, text + at + 1, --n - at);
                break;
            case 1:
                memmove(text + at + 1, text + at, n++ - at);
                text[at] = c;
                break;
            case 2:
                text[at] = text[rnd_below(&r, n)];
                break;
            default:
                text[at] = c;
                break;
            }
        }
        json_error_t e;
        json_t *j = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        enum json_fault fault = scan(js, text, n, NULL);
        if ((fault == JSON_F_NONE) != (j != NULL) && !(fault == JSON_F_NONE && jansson_only(&e)))
            fail_msg("jansson: %s; fault %d: %.*s", j ? "accepts" : e.text, (int)fault, (int)n,
                     text);
        if (fault == JSON_F_NONE)
            accepted++;
        else
            refused++;
        json_decref(j);
    }
    assert_true(accepted > 1000);
    assert_true(refused > 1000);
    jsonscan_free(&js);
}

/* A case of the suite is refused or accepted as its name says: y_… must be accepted, n_… refused, i_… may be either. */
static bool as_labelled(struct jsonscan *js, const char *name, const char *text, size_t n)
{
    enum json_fault fault = scan(js, text, n, NULL);
    bool ok = name[0] == 'i' || (name[0] == 'y') == (fault == JSON_F_NONE);
    if (!ok)
        print_error("%s: fault %d: %.*s\n", name, (int)fault, (int)(n < 60 ? n : 60), text);
    return ok;
}

/* The bytes that are no UTF-8 came as U+FFFD: each kind of such bytes is put back for it. */
static bool as_labelled_with_broken_utf8(struct jsonscan *js, const char *name, const char *text,
                                         size_t n)
{
    static const char *const broken[] = {"\xff",     "\xe5",         "\xe9",
                                         "\xb9",     "\x80",         "\xc0",
                                         "\xef\xbb", "\xed\xa0\x80", "\xf4\xbf\xbf\xbf"};
    bool ok = true;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        CLEANUP(mem_cleanup) char *other = mem_alloc(2 * n + JSONSCAN_PADDING);
        size_t len = 0, b = strlen(broken[i]);
        for (size_t at = 0; at < n;) {
            if (n - at >= 3 && memcmp(text + at, "\xef\xbf\xbd", 3) == 0) {
                memcpy(other + len, broken[i], b);
                len += b;
                at += 3;
            } else {
                other[len++] = text[at++];
            }
        }
        ok = as_labelled(js, name, other, len) && ok;
    }
    return ok;
}

static void test_public_suite(void **state)
{
    (void)state;
    enum { MAX = 1 << 20 };
    unsigned counts[128] = {0}, broken = 0, wrong = 0;
    DIR *dir = opendir(JSON_SUITE_DIR);
    if (!dir)
        fail_msg("%s is missing: run scripts/setup", JSON_SUITE_DIR);
    struct jsonscan *js = jsonscan_new(1024);
    for (struct dirent *d; (d = readdir(dir));) {
        size_t len = strlen(d->d_name);
        if (len < 7 || strcmp(d->d_name + len - 5, ".json") != 0 || d->d_name[1] != '_')
            continue;
        CLEANUP(mem_cleanup) char *path = mem_printf("%s/%s", JSON_SUITE_DIR, d->d_name);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        CLEANUP(mem_cleanup) char *text = mem_alloc(MAX);
        size_t n = fread(text, 1, MAX, f);
        fclose(f);
        assert_true(n + JSONSCAN_PADDING < MAX);
        wrong += !as_labelled(js, d->d_name, text, n);
        if (memmem(text, n, "\xef\xbf\xbd", 3)) {
            broken++;
            wrong += !as_labelled_with_broken_utf8(js, d->d_name, text, n);
        }
        counts[d->d_name[0] & 127]++;
    }
    closedir(dir);
    assert_int_equal(counts['y'], 95);
    assert_int_equal(counts['n'], 188);
    assert_int_equal(counts['i'], 35);
    assert_true(broken > 12);
    assert_int_equal(wrong, 0);
    jsonscan_free(&js);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),      cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_values),       cmocka_unit_test(test_arena),
        cmocka_unit_test(test_misuse),       cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_public_suite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
