/* test_wash: every rule, sentinel and message shape of the datasets contract; the real posts where they are at hand.
 *
 * The real posts (pin.jsonl, geo.jsonl, user.jsonl) are looked for beside the clone, or where SLUICE_POSTS says.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "data/wash.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_RECORD (64 << 10)

struct seen {
    const struct dataset *d;
    struct buf text; /* what came, one thing after the other */
    unsigned rows, rejects;
    int last_item;
};

static void on_row(void *ctx, const struct row *row)
{
    struct seen *s = ctx;
    assert_int_equal(row->position, 7);
    assert_int_equal(row->ingested_at_ms, 1000);
    assert_int_equal(row->item, s->last_item + 1);
    s->last_item = row->item;
    s->rows++;
    buf_z(&s->text, "row");
    for (unsigned i = 0; i < s->d->columns_n; i++) {
        const struct value *v = &row->v[i];
        if (v->null)
            continue;
        buf_printf(&s->text, " %s=", s->d->columns[i].name);
        switch (s->d->columns[i].type) {
        case COLUMN_STR:
            assert_true(v->s.n > 0);
            buf_printf(&s->text, "<" STR_FMT ">", STR_ARG(v->s));
            break;
        case COLUMN_POINT:
            buf_printf(&s->text, "[%g,%g]", v->d[0], v->d[1]);
            break;
        default:
            buf_printf(&s->text, "%lld", (long long)v->i);
            break;
        }
    }
    buf_z(&s->text, ";");
}

static void on_reject(void *ctx, const struct reject *r)
{
    struct seen *s = ctx;
    assert_int_equal(r->position, 7);
    assert_int_equal(r->ingested_at_ms, 1000);
    assert_int_equal(r->item, s->last_item + 1);
    assert_true(str_eq(r->key, STR("the key")));
    assert_true(r->detail.n > 0 && str_utf8_valid(r->detail));
    s->last_item = r->item;
    s->rejects++;
    buf_printf(&s->text, "%s %s" STR_FMT ";", reject_names[r->reason], r->value.p ? "" : "null",
               STR_ARG(r->value));
}

static void on_fault(void *ctx, int column, enum wash_fault fault)
{
    struct seen *s = ctx;
    buf_printf(&s->text, "%s:%s;", column < 0 ? "?" : s->d->columns[column].name,
               wash_fault_names[fault]);
}

static enum wash_shape run(struct wash *w, struct seen *s, const struct dataset *d,
                           struct str value)
{
    struct wash_input in = {
        .position = 7, .ingested_at_ms = 1000, .key = STR("the key"), .value = value};
    struct wash_callbacks cb = {on_row, on_reject, on_fault, s};
    s->d = d;
    s->rows = s->rejects = 0;
    s->last_item = -1;
    if (s->text.max == 0)
        buf_init(&s->text, 64 << 20);
    buf_reset(&s->text);
    /* An exact copy: reading past its end is a fault. */
    char *copy = mem_dup(value.p ? value.p : "", value.n);
    in.value.p = value.p ? copy : NULL;
    enum wash_shape shape = wash_record(w, d, &in, &cb);
    mem_free(copy);
    assert_true(s->rows + s->rejects > 0);
    return shape;
}

struct sample {
    const char *in, *out;
};

static void check(enum dataset_id id, enum wash_shape shape, const struct sample *c, size_t n)
{
    struct wash *w = wash_new(MAX_RECORD);
    struct seen s = {.d = NULL};
    for (size_t i = 0; i < n; i++) {
        enum wash_shape is = run(w, &s, &datasets[id], str_of(c[i].in));
        if (strcmp(s.text.data, c[i].out) != 0)
            fail_msg("\n%s\ngave   %s\nwanted %s", c[i].in, s.text.data, c[i].out);
        assert_int_equal(is, shape);
    }
    buf_deinit(&s.text);
    wash_free(&w);
    assert_null(w);
}
#define CHECK_ALL(id, shape, samples) check(id, shape, samples, sizeof(samples) / sizeof *(samples))

static const struct sample pins[] = {
    {"{\"index\":1,\"unique_id\":\"u\",\"title\":\"t\",\"description\":\"d\",\"poster_name\":\"p "
     "\","
     "\"follower_count\":\"136k\",\"tag_list\":\"a,b\",\"is_image_or_video\":\"image\","
     "\"image_src\":\"i\",\"downloaded\":1,\"save_location\":\"Local save in /data/art\","
     "\"category\":\"art\"}",
     "row ind=1 unique_id=<u> title=<t> description=<d> follower_count=136000 poster_name=<p > "
     "tag_list=<a,b> is_image_or_video=<image> image_src=<i> save_location=</data/art> "
     "category=<art>;"},
    /* another order, blanks, unknown fields */
    {" { \"category\" : \"art\" , \"x\" : [1,{\"index\":2}] , \"index\" : 5 , \"y\" : null } ",
     "?:unknown_field;?:unknown_field;row ind=5 category=<art>;"},
    {"{\"index\":-3}", "row ind=-3;"},
    {"{\"index\":9223372036854775807}", "row ind=9223372036854775807;"},
    {"{\"index\":\"12\"}", "row ind=12;"},
    {"{\"index\":1,\"title\":null,\"follower_count\":null,\"downloaded\":null}", "row ind=1;"},
    /* every value that means nothing, and its neighbours */
    {"{\"index\":1,\"description\":\"No description available Story format\"}",
     "description:nothing;row ind=1;"},
    {"{\"index\":1,\"description\":\"No description available\"}",
     "description:nothing;row ind=1;"},
    {"{\"index\":1,\"description\":\"Untitled\"}", "description:nothing;row ind=1;"},
    {"{\"index\":1,\"description\":\"untitled\"}", "row ind=1 description=<untitled>;"},
    {"{\"index\":1,\"description\":\"Untitled \"}", "row ind=1 description=<Untitled >;"},
    {"{\"index\":1,\"title\":\"Untitled\",\"description\":\"Art.\"}",
     "row ind=1 title=<Untitled> description=<Art.>;"},
    {"{\"index\":1,\"follower_count\":\"User Info Error\",\"poster_name\":\"User Info Error\"}",
     "follower_count:nothing;poster_name:nothing;row ind=1;"},
    {"{\"index\":1,\"title\":\"User Info Error\"}", "row ind=1 title=<User Info Error>;"},
    {"{\"index\":1,\"image_src\":\"Image src error.\"}", "image_src:nothing;row ind=1;"},
    {"{\"index\":1,\"image_src\":\"Image src error\"}", "row ind=1 image_src=<Image src error>;"},
    {"{\"index\":1,\"tag_list\":\"N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e\"}",
     "tag_list:nothing;row ind=1;"},
    {"{\"index\":1,\"title\":\"No Title Data Available\"}", "title:nothing;row ind=1;"},
    {"{\"index\":1,\"title\":\"No Title D\\u0061ta Available\"}", "title:nothing;row ind=1;"},
    {"{\"index\":1,\"unique_id\":\"\",\"title\":\"\",\"description\":\"\",\"poster_name\":\"\","
     "\"follower_count\":\"\",\"tag_list\":\"\",\"is_image_or_video\":\"\",\"image_src\":\"\","
     "\"save_location\":\"\",\"category\":\"\"}",
     "unique_id:nothing;title:nothing;description:nothing;poster_name:nothing;"
     "follower_count:nothing;tag_list:nothing;is_image_or_video:nothing;image_src:nothing;"
     "save_location:nothing;category:nothing;row ind=1;"},
    {"{\"index\":1,\"save_location\":\"Local save in \"}", "save_location:nothing;row ind=1;"},
    {"{\"index\":1,\"save_location\":\"Local save in Local save in x\"}",
     "row ind=1 save_location=<Local save in x>;"},
    {"{\"index\":1,\"save_location\":\"Local save in\"}",
     "row ind=1 save_location=<Local save in>;"},
    {"{\"index\":1,\"save_location\":\"/x\"}", "row ind=1 save_location=</x>;"},
    {"{\"index\":1,\"is_image_or_video\":\"multi-video(story page format)\"}",
     "row ind=1 is_image_or_video=<multi-video(story page format)>;"},
    /* text as sent */
    {"{\"index\":1,\"title\":\"a\\n\\\"b\\\" \\u2026\\u00a0\\ud83d\\ude00 \xc3\xa9\"}",
     "row ind=1 title=<a\n\"b\" \xe2\x80\xa6\xc2\xa0\xf0\x9f\x98\x80 \xc3\xa9>;"},
    {"{\"index\":1,\"title\":\"\\ud800\",\"category\":\"a\\udc00\"}",
     "title:lone_surrogate;category:lone_surrogate;row ind=1;"},
    /* wrong types */
    {"{\"index\":1,\"title\":1,\"description\":[],\"poster_name\":{},\"tag_list\":true,"
     "\"follower_count\":false}",
     "title:bad_type;description:bad_type;poster_name:bad_type;tag_list:bad_type;"
     "follower_count:bad_type;row ind=1;"},
    /* counts as numbers follow the same text rule */
    {"{\"index\":1,\"follower_count\":437}", "row ind=1 follower_count=437;"},
    {"{\"index\":1,\"follower_count\":437.9}", "row ind=1 follower_count=437;"},
    {"{\"index\":1,\"follower_count\":1e3}", "follower_count:bad_format;row ind=1;"},
    {"{\"index\":1,\"follower_count\":-1}", "follower_count:bad_format;row ind=1;"},
    {"{\"index\":1,\"follower_count\":9223372036854775808}",
     "follower_count:out_of_range;row ind=1;"},
    {"{\"index\":1,\"follower_count\":\"lots\"}", "follower_count:bad_format;row ind=1;"},
    /* rejects */
    {"{}", "no_key {};"},
    {"{\"ind\":1}", "no_key {\"ind\":1};"},
    {"{\"index\":null}", "no_key {\"index\":null};"},
    {"{\"index\":1.0}", "bad_key {\"index\":1.0};"},
    {"{\"index\":1e2}", "bad_key {\"index\":1e2};"},
    {"{\"index\":9223372036854775808}", "bad_key {\"index\":9223372036854775808};"},
    {"{\"index\":\"\"}", "bad_key {\"index\":\"\"};"},
    {"{\"index\":\"-1\"}", "bad_key {\"index\":\"-1\"};"},
    {"{\"index\":\" 1\"}", "bad_key {\"index\":\" 1\"};"},
    {"{\"index\":\"99999999999999999999\"}", "bad_key {\"index\":\"99999999999999999999\"};"},
    {"{\"index\":true}", "bad_key {\"index\":true};"},
    {"{\"index\":[1]}", "bad_key {\"index\":[1]};"},
    {"{\"index\":1,\"index\":1}", "not_json {\"index\":1,\"index\":1};"},
    {"{\"index\":1,\"title\":\"a\",\"title\":\"a\"}",
     "not_json {\"index\":1,\"title\":\"a\",\"title\":\"a\"};"},
    {"{\"index\":1,\"title\":\"a\",\"titl\\u0065\":\"b\"}",
     "not_json {\"index\":1,\"title\":\"a\",\"titl\\u0065\":\"b\"};"},
    {"{\"index\":1,\"x\":1,\"y\":2,\"x\":3}", "not_json {\"index\":1,\"x\":1,\"y\":2,\"x\":3};"},
    {"{\"index\":1,\"downloaded\":1,\"downloaded\":1}",
     "not_json {\"index\":1,\"downloaded\":1,\"downloaded\":1};"},
    {"{\"x\":{\"a\":1,\"a\":2},\"index\":1}", "?:unknown_field;row ind=1;"},
    {"{\"index\":1,}", "not_json {\"index\":1,};"},
    {"{\"index\":01}", "not_json {\"index\":01};"},
    {"{\"index\":1} x", "not_json {\"index\":1} x;"},
    {"{\"index\":1,\"x\":\"\\q\"}", "not_json {\"index\":1,\"x\":\"\\q\"};"},
    {"{\"index\":1,\"title\":\"\xff\"}", "bad_utf8 {\"index\":1,\"title\":\"\xff\"};"},
    {"\xff", "bad_utf8 \xff;"},
    {"", "not_json ;"},
    {"hello", "not_json hello;"},
    {"1", "not_an_object 1;"},
    {"null", "not_an_object null;"},
    {"true", "not_an_object true;"},
    {"tru", "not_json tru;"},
};

static const struct sample geos[] = {
    {"{\"ind\":4,\"timestamp\":\"2022-07-07 00:18:41\",\"latitude\":-88.5,\"longitude\":-170.25,"
     "\"country\":\"Albania\"}",
     "row ind=4 country=<Albania> coordinates=[-88.5,-170.25] timestamp=1657153121000;"},
    {"{\"ind\":\"4\",\"latitude\":90,\"longitude\":-180}", "row ind=4 coordinates=[90,-180];"},
    {"{\"ind\":4,\"latitude\":0,\"longitude\":0}", "row ind=4 coordinates=[0,0];"},
    {"{\"ind\":4,\"latitude\":1}", "row ind=4;"},
    {"{\"ind\":4,\"longitude\":1}", "row ind=4;"},
    {"{\"ind\":4,\"latitude\":90.1,\"longitude\":1}", "coordinates:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"latitude\":1,\"longitude\":-180.01}", "coordinates:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"latitude\":1e999,\"longitude\":1}", "coordinates:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"latitude\":\"1\",\"longitude\":1}", "coordinates:bad_type;row ind=4;"},
    {"{\"ind\":4,\"latitude\":null,\"longitude\":1}", "row ind=4;"},
    {"{\"ind\":4,\"timestamp\":\"2022:07:07\"}", "timestamp:bad_format;row ind=4;"},
    {"{\"ind\":4,\"timestamp\":\"2022-02-29 00:00:00\"}", "timestamp:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"timestamp\":1657153121}", "timestamp:bad_type;row ind=4;"},
    {"{\"ind\":4,\"country\":\"\"}", "country:nothing;row ind=4;"},
    {"{\"ind\":4,\"timestamp\":\"\"}", "timestamp:nothing;row ind=4;"},
    {"{\"index\":4}", "no_key {\"index\":4};"},
};

static const struct sample users[] = {
    {"{\"ind\":4,\"first_name\":\"Adam\",\"last_name\":\"Acosta\",\"age\":20,"
     "\"date_joined\":\"2015-10-21T21:26:45\"}",
     "row ind=4 user_name=<Adam Acosta> age=20 date_joined=1445462805000;"},
    {"{\"ind\":4,\"last_name\":\" b\",\"first_name\":\"a \"}", "row ind=4 user_name=<a   b>;"},
    {"{\"ind\":4,\"first_name\":\"A\"}", "row ind=4;"},
    {"{\"ind\":4,\"last_name\":\"A\"}", "row ind=4;"},
    {"{\"ind\":4,\"first_name\":null,\"last_name\":\"A\"}", "row ind=4;"},
    {"{\"ind\":4,\"first_name\":\"\",\"last_name\":\"A\"}", "user_name:nothing;row ind=4;"},
    {"{\"ind\":4,\"first_name\":1,\"last_name\":\"A\"}", "user_name:bad_type;row ind=4;"},
    {"{\"ind\":4,\"first_name\":\"\\ud800\",\"last_name\":\"A\"}",
     "user_name:lone_surrogate;row ind=4;"},
    {"{\"ind\":4,\"age\":0}", "row ind=4 age=0;"},
    {"{\"ind\":4,\"age\":150}", "row ind=4 age=150;"},
    {"{\"ind\":4,\"age\":151}", "age:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"age\":-1}", "age:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"age\":99999999999999999999}", "age:out_of_range;row ind=4;"},
    {"{\"ind\":4,\"age\":20.0}", "age:bad_format;row ind=4;"},
    {"{\"ind\":4,\"age\":2e1}", "age:bad_format;row ind=4;"},
    {"{\"ind\":4,\"age\":\"20\"}", "age:bad_type;row ind=4;"},
};

static const struct sample arrays[] = {
    {"[{\"ind\":1}]", "row ind=1;"},
    {" [ {\"ind\":1} , {\"ind\":2,\"age\":7} ] ", "row ind=1;row ind=2 age=7;"},
    {"[{\"ind\":1},5,{\"ind\":2},{\"age\":1},{\"ind\":\"x\"},[{\"ind\":3}],\"{}\",null,"
     "{\"ind\":6,\"ind\":6}]",
     "row ind=1;not_an_object 5;row ind=2;no_key {\"age\":1};bad_key {\"ind\":\"x\"};"
     "not_an_object [{\"ind\":3}];not_an_object \"{}\";not_an_object null;"
     "not_json {\"ind\":6,\"ind\":6};"},
    {"[]", "not_an_object [];"},
    {"[{\"ind\":1},", "not_json [{\"ind\":1},;"},
    {"[{\"ind\":1}] []", "not_json [{\"ind\":1}] [];"},
    {"[{\"ind\":1,\"a\":\"\\q\"}]", "not_json [{\"ind\":1,\"a\":\"\\q\"}];"},
};

static const struct sample strings[] = {
    {"\"{\\\"ind\\\":1,\\\"age\\\":3}\"", "row ind=1 age=3;"},
    {"\"[{\\\"ind\\\":1}]\"", "not_an_object \"[{\\\"ind\\\":1}]\";"},
    {"\"{\\\"age\\\":1}\"", "no_key \"{\\\"age\\\":1}\";"},
    {"\"{\\\"ind\\\":1,\\\"ind\\\":1}\"", "not_json \"{\\\"ind\\\":1,\\\"ind\\\":1}\";"},
    {"\"\"", "not_an_object \"\";"},
    {"\"hello\"", "not_an_object \"hello\";"},
    {"\"1\"", "not_an_object \"1\";"},
    {"\"{\\\"ind\\\":1\"", "not_an_object \"{\\\"ind\\\":1\";"},
    {"\"{\\\"ind\\\":1}\" 2", "not_json \"{\\\"ind\\\":1}\" 2;"},
    {"\"\\\"{\\\\\\\"ind\\\\\\\":1}\\\"\"", "not_an_object \"\\\"{\\\\\\\"ind\\\\\\\":1}\\\"\";"},
    {"\"{\\\"ind\\\":1,\\\"x\\\":\\\"\\ud800\\\"}\"",
     "not_an_object \"{\\\"ind\\\":1,\\\"x\\\":\\\"\\ud800\\\"}\";"},
    {"\"aGVsbG8=\"", "not_an_object \"aGVsbG8=\";"},
    {"\"W3siaW5kIjoxfSx7ImluZCI6Mn1d\"", "not_an_object \"W3siaW5kIjoxfSx7ImluZCI6Mn1d\";"},
    {"\"/w==\"", "not_an_object \"/w==\";"},
};

static const struct sample base64s[] = {
    {"\"eyJpbmQiOjEsImFnZSI6M30=\"", "row ind=1 age=3;"},
    {"\"e30=\"", "no_key \"e30=\";"},
};

static void test_pins(void **state)
{
    (void)state;
    CHECK_ALL(DATASET_PIN, WASH_OBJECT, pins);
}

static void test_geos(void **state)
{
    (void)state;
    CHECK_ALL(DATASET_GEO, WASH_OBJECT, geos);
}

static void test_users(void **state)
{
    (void)state;
    CHECK_ALL(DATASET_USER, WASH_OBJECT, users);
}

static void test_shapes(void **state)
{
    (void)state;
    CHECK_ALL(DATASET_USER, WASH_ARRAY, arrays);
    CHECK_ALL(DATASET_USER, WASH_STRING, strings);
    CHECK_ALL(DATASET_USER, WASH_BASE64, base64s);
}

static void test_counts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t v; /* -1: none */
    } t[] = {{"0", 0},
             {"437", 437},
             {"000437", 437},
             {"136k", 136000},
             {"136K", 136000},
             {"6M", 6000000},
             {"6m", 6000000},
             {"2B", 2000000000},
             {"2b", 2000000000},
             {"1.5k", 1500},
             {"1.2345k", 1234},
             {"1.9999", 1},
             {"0.0001k", 0},
             {"4.35M", 4350000},
             {"1.1B", 1100000000},
             {"0.001M", 1000},
             {"9223372036854775807", INT64_MAX},
             {"9223372036854775808", -1},
             {"9223372036.854775807B", INT64_MAX},
             {"9223372036.854775808B", -1},
             {"9223372036854775.807k", INT64_MAX},
             {"99999999999999999999999999", -1},
             {"00000000000000000000000000000001", 1},
             {"", -1},
             {"k", -1},
             {".5k", -1},
             {"1.k", -1},
             {"1.", -1},
             {"1.2.3", -1},
             {"-1", -1},
             {"+1", -1},
             {" 1", -1},
             {"1 ", -1},
             {"1 k", -1},
             {"1kk", -1},
             {"1e3", -1},
             {"1,000", -1},
             {"1g", -1},
             {"User Info Error", -1},
             {"\xd9\xa1", -1}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        int64_t v = -77;
        bool ok = wash_follower_count(str_of(t[i].text), &v);
        if (ok != (t[i].v >= 0) || (ok && v != t[i].v))
            fail_msg("%s: %d %lld", t[i].text, ok, (long long)v);
        assert_true(ok || v == -77);
    }
}

static void test_instants(void **state)
{
    (void)state;
    static const struct {
        const char *text, *out; /* NULL: none */
    } t[] = {
        {"2022-07-07 00:18:41", "2022-07-07T00:18:41.000Z"},
        {"2022-07-07T00:18:41", "2022-07-07T00:18:41.000Z"},
        {"2022-07-07T00:18:41Z", "2022-07-07T00:18:41.000Z"},
        {"2022-07-07T00:18:41.5", "2022-07-07T00:18:41.500Z"},
        {"2022-07-07 00:18:41.123Z", "2022-07-07T00:18:41.123Z"},
        {"2022-07-07T00:18:41.123999999", "2022-07-07T00:18:41.123Z"},
        {"2022-07-07T00:18:41.9999Z", "2022-07-07T00:18:41.999Z"},
        {"1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"},
        {"2022-07-07T00:18:41+02:00", "2022-07-06T22:18:41.000Z"},
        {"2022-07-07T00:18:41.25-05:30", "2022-07-07T05:48:41.250Z"},
        {"2022-12-31T23:59:59-00:01", "2023-01-01T00:00:59.000Z"},
        {"2020-02-29T00:00:00", "2020-02-29T00:00:00.000Z"},
        {"2000-02-29T00:00:00", "2000-02-29T00:00:00.000Z"},
        {"0001-01-01T00:00:00", "0001-01-01T00:00:00.000Z"},
        {"9999-12-31T23:59:59.999", "9999-12-31T23:59:59.999Z"},
        {"2021-02-29T00:00:00", NULL},
        {"1900-02-29T00:00:00", NULL},
        {"2022-04-31T00:00:00", NULL},
        {"2022-13-01T00:00:00", NULL},
        {"2022-00-01T00:00:00", NULL},
        {"2022-01-00T00:00:00", NULL},
        {"2022-01-01T24:00:00", NULL},
        {"2022-01-01T00:60:00", NULL},
        {"2022-01-01T00:00:60", NULL},
        {"0000-01-01T00:00:00", NULL},
        {"0001-01-01T00:00:00+01:00", NULL},
        {"9999-12-31T23:59:59-01:00", NULL},
        {"2022:07:07", NULL},
        {"2022-07-07", NULL},
        {"2022:07:07 00:18:41", NULL},
        {"2022-07-07 00:18", NULL},
        {"2022-07-07  0:18:41", NULL},
        {"2022-7-7 00:18:41", NULL},
        {"2022-07-07_00:18:41", NULL},
        {"2022-07-07t00:18:41", NULL},
        {"2022-07-07T00:18:41z", NULL},
        {"2022-07-07T00:18:41.", NULL},
        {"2022-07-07T00:18:41.Z", NULL},
        {"2022-07-07T00:18:41 ", NULL},
        {" 2022-07-07T00:18:41", NULL},
        {"2022-07-07T00:18:41 Z", NULL},
        {"2022-07-07T00:18:41ZZ", NULL},
        {"2022-07-07T00:18:41+0200", NULL},
        {"2022-07-07T00:18:41+02", NULL},
        {"2022-07-07T00:18:41+24:00", NULL},
        {"2022-07-07T00:18:41+02:60", NULL},
        {"2022-07-07T00:18:41,5", NULL},
        {"-022-07-07T00:18:41", NULL},
        {"2O22-07-07T00:18:41", NULL},
        {"", NULL},
        {"now", NULL},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        int64_t ms = INT64_MIN;
        bool ok = wash_timestamp(str_of(t[i].text), &ms);
        if (ok != (t[i].out != NULL))
            fail_msg("%s: %d", t[i].text, ok);
        if (!ok)
            continue;
        char out[64];
        int64_t day = ms / 86400000 - (ms % 86400000 < 0), in_day = ms - day * 86400000;
        int year;
        unsigned month, mday;
        clock_civil(day, &year, &month, &mday);
        snprintf(out, sizeof out, "%04d-%02u-%02uT%02d:%02d:%02d.%03dZ", year, month, mday,
                 (int)(in_day / 3600000), (int)(in_day / 60000 % 60), (int)(in_day / 1000 % 60),
                 (int)(in_day % 1000));
        assert_string_equal(out, t[i].out);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct wash *w = wash_new(100);
    struct seen s = {.d = NULL};
    char text[4096];
    /* To the byte. */
    int n = snprintf(text, sizeof text, "{\"ind\":1,\"first_name\":\"%*s", 77, "\"}");
    assert_int_equal(n, 100);
    run(w, &s, &datasets[DATASET_USER], str_make(text, 100));
    assert_int_equal(s.rows, 1);
    text[100] = ' ';
    run(w, &s, &datasets[DATASET_USER], str_make(text, 101));
    assert_int_equal(s.rejects, 1);
    assert_true(str_starts(buf_as_str(&s.text), STR("too_large {\"ind\":1")));
    run(w, &s, &datasets[DATASET_USER], (struct str){NULL, 0});
    assert_string_equal(s.text.data, "tombstone null;");
    run(w, &s, &datasets[DATASET_USER], STR(""));
    assert_string_equal(s.text.data, "not_json ;");
    wash_free(&w);

    /* 250 elements are usual; a record of nothing but commas is one reject, not a flood of them. */
    w = wash_new(MAX_RECORD);
    struct buf b;
    buf_init(&b, MAX_RECORD);
    buf_z(&b, "[");
    for (int i = 0; i < 250; i++)
        buf_printf(&b, "%s{\"ind\":%d}", i ? "," : "", i);
    buf_z(&b, "]");
    run(w, &s, &datasets[DATASET_USER], buf_as_str(&b));
    assert_int_equal(s.rows, 250);
    buf_reset(&b);
    buf_z(&b, "[1");
    while (b.len < MAX_RECORD - 3)
        buf_z(&b, ",1");
    buf_z(&b, "]");
    run(w, &s, &datasets[DATASET_USER], buf_as_str(&b));
    assert_int_equal(s.rejects, 1);
    assert_true(str_starts(buf_as_str(&s.text), STR("too_large [1,1")));

    /* Unknown fields beyond what is compared one by one: repeated or not. */
    for (int repeat = 0; repeat < 2; repeat++) {
        buf_reset(&b);
        buf_z(&b, "{\"ind\":1");
        for (int i = 0; i < 2000; i++)
            buf_printf(&b, ",\"u%d\":0", i == 1999 && repeat ? 1000 : i);
        buf_z(&b, "}");
        run(w, &s, &datasets[DATASET_USER], buf_as_str(&b));
        assert_int_equal(s.rows, !repeat);
        assert_int_equal(s.rejects, repeat);
        assert_true(!repeat || str_starts(buf_as_str(&s.text), STR("not_json")));
    }
    /* Deep nesting ends in a reject. */
    buf_reset(&b);
    for (int i = 0; i < 30000; i++)
        buf_z(&b, "[");
    run(w, &s, &datasets[DATASET_USER], buf_as_str(&b));
    assert_int_equal(s.rejects, 1);
    buf_deinit(&b);
    buf_deinit(&s.text);
    wash_free(&w);
}

static void take_point(void *ctx, const struct row *row)
{
    double *d = ctx;
    assert_false(row->v[2].null);
    d[0] = row->v[2].d[0];
    d[1] = row->v[2].d[1];
}

/* Degrees of any length are the very doubles that strtod reads. */
static void test_degrees(void **state)
{
    (void)state;
    struct wash *w = wash_new(MAX_RECORD);
    struct rnd r;
    double d[2];
    struct wash_callbacks cb = {take_point, NULL, NULL, d};
    rnd_seed(&r, 11);
    for (int turn = 0; turn < 20000; turn++) {
        char number[2][40], text[128];
        for (int k = 0; k < 2; k++) {
            int n = snprintf(number[k], 40, "%s%u", rnd_below(&r, 2) ? "-" : "",
                             (unsigned)rnd_below(&r, 90));
            size_t digits = rnd_below(&r, 20);
            for (size_t i = 0; i < digits; i++)
                n += snprintf(number[k] + n, (size_t)(40 - n), i ? "%u" : ".%u",
                              (unsigned)rnd_below(&r, 10));
            if (rnd_below(&r, 8) == 0)
                snprintf(number[k] + n, (size_t)(40 - n), "e-%u", (unsigned)rnd_below(&r, 9));
        }
        int n = snprintf(text, sizeof text, "{\"ind\":1,\"latitude\":%s,\"longitude\":%s}",
                         number[0], number[1]);
        struct wash_input in = {.value = str_make(text, (size_t)n)};
        wash_record(w, &datasets[DATASET_GEO], &in, &cb);
        for (int k = 0; k < 2; k++) {
            double want = strtod(number[k], NULL);
            assert_memory_equal(&d[k], &want, sizeof want);
        }
    }
    wash_free(&w);
}

/* Any bytes give rows or rejects, the same ones each time, and read nothing beyond their end. */
static void test_mutations(void **state)
{
    (void)state;
    struct wash *w = wash_new(MAX_RECORD);
    struct seen s = {.d = NULL}, again = {.d = NULL};
    struct rnd r;
    rnd_seed(&r, 7);
    const struct sample *sets[] = {pins, geos, users, arrays, strings, base64s};
    size_t sizes[] = {sizeof pins / sizeof *pins,       sizeof geos / sizeof *geos,
                      sizeof users / sizeof *users,     sizeof arrays / sizeof *arrays,
                      sizeof strings / sizeof *strings, sizeof base64s / sizeof *base64s};
    for (int turn = 0; turn < 20000; turn++) {
        size_t set = rnd_below(&r, 6);
        const char *text = sets[set][rnd_below(&r, sizes[set])].in;
        char copy[1024];
        size_t n = strlen(text);
        memcpy(copy, text, n);
        for (uint64_t k = rnd_below(&r, 4); k && n; k--)
            copy[rnd_below(&r, n)] = (char)rnd_below(&r, 256);
        if (n && rnd_below(&r, 4) == 0)
            n = rnd_below(&r, n);
        const struct dataset *d = &datasets[rnd_below(&r, DATASETS)];
        enum wash_shape shape = run(w, &s, d, str_make(copy, n));
        assert_int_equal(run(w, &again, d, str_make(copy, n)), shape);
        assert_true(str_eq(buf_as_str(&s.text), buf_as_str(&again.text)));
    }
    buf_deinit(&s.text);
    buf_deinit(&again.text);
    wash_free(&w);
}

/* ---- the real posts, against a reading of our own ---- */

struct real {
    json_t *in;
    const struct dataset *d;
    unsigned rows, nulls[DATASET_MAX_COLUMNS];
    int64_t followers;
};

static const char *source_of(const char *column)
{
    return strcmp(column, "ind") == 0 ? "index" : column;
}

static void real_row(void *ctx, const struct row *row)
{
    struct real *x = ctx;
    x->rows++;
    for (unsigned i = 0; i < x->d->columns_n; i++) {
        const struct value *v = &row->v[i];
        const char *name = x->d->columns[i].name;
        json_t *j = json_object_get(x->in, x->d->id == DATASET_PIN ? source_of(name) : name);
        if (v->null) {
            x->nulls[i]++;
            continue;
        }
        if (strcmp(name, "user_name") == 0) {
            CLEANUP(mem_cleanup)
            char *want =
                mem_printf("%s %s", json_string_value(json_object_get(x->in, "first_name")),
                           json_string_value(json_object_get(x->in, "last_name")));
            assert_true(str_is(v->s, want));
        } else if (strcmp(name, "save_location") == 0) {
            assert_true(str_is(v->s, json_string_value(j) + strlen("Local save in ")));
        } else if (strcmp(name, "follower_count") == 0) {
            const char *text = json_string_value(j);
            char *end;
            int64_t want = strtoll(text, &end, 10);
            want *= *end == 'k' ? 1000 : *end == 'M' ? 1000000 : 1;
            assert_int_equal(v->i, want);
            x->followers += v->i;
        } else if (x->d->columns[i].type == COLUMN_STR) {
            assert_true(str_eq(v->s, str_make(json_string_value(j), json_string_length(j))));
        } else if (x->d->columns[i].type == COLUMN_POINT) {
            assert_true(v->d[0] == json_number_value(json_object_get(x->in, "latitude")));
            assert_true(v->d[1] == json_number_value(json_object_get(x->in, "longitude")));
        } else if (x->d->columns[i].type == COLUMN_TIMESTAMP) {
            char out[25];
            clock_rfc3339((uint64_t)v->i, out);
            out[10] = ' ';
            out[19] = 0;
            assert_string_equal(out, json_string_value(j));
        } else {
            assert_int_equal(v->i, json_integer_value(j));
        }
    }
}

static void real_reject(void *ctx, const struct reject *r)
{
    (void)ctx;
    fail_msg("rejected: " STR_FMT, STR_ARG(r->value));
}

static void test_real_posts(void **state)
{
    (void)state;
    const char *folder = getenv("SLUICE_POSTS");
    if (!folder)
        folder = TEST_SOURCE_DIR "/../shared/data/posts";
    if (access(folder, F_OK)) {
        print_message("the real posts are not tested: there is no folder %s\n", folder);
        skip();
    }
    struct wash *w = wash_new(1 << 20);
    for (int id = 0; id < DATASETS; id++) {
        struct real x = {.d = &datasets[id]};
        struct wash_callbacks cb = {real_row, real_reject, NULL, &x};
        CLEANUP(mem_cleanup) char *path = mem_printf("%s/%s.jsonl", folder, x.d->name);
        FILE *f = fopen(path, "r");
        assert_non_null(f);
        static char line[64 << 10];
        while (fgets(line, sizeof line, f)) {
            json_error_t e;
            size_t n = strlen(line);
            x.in = json_loadb(line, n, 0, &e);
            assert_non_null(x.in);
            struct wash_input in = {.value = str_make(line, n)};
            assert_int_equal(wash_record(w, x.d, &in, &cb), WASH_OBJECT);
            json_decref(x.in);
        }
        fclose(f);
        assert_int_equal(x.rows, 877);
        if (id == DATASET_PIN) {
            /* description 9 %, image 2.6 %, tags 1.6 %, title, poster and count 1.1 % mean nothing */
            assert_int_equal(x.nulls[0] + x.nulls[1] + x.nulls[7] + x.nulls[9] + x.nulls[10], 0);
            assert_in_range(x.nulls[3], 70, 90);
            assert_in_range(x.nulls[8], 20, 26);
            assert_in_range(x.nulls[6], 12, 17);
            assert_in_range(x.nulls[2], 8, 12);
            assert_in_range(x.nulls[5], 8, 12);
            assert_in_range(x.nulls[4], 8, 12);
            assert_true(x.followers > 0);
        } else {
            for (unsigned i = 0; i < x.d->columns_n; i++)
                assert_int_equal(x.nulls[i], 0);
        }
    }
    wash_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pins),      cmocka_unit_test(test_geos),
        cmocka_unit_test(test_users),     cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_counts),    cmocka_unit_test(test_instants),
        cmocka_unit_test(test_degrees),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_mutations), cmocka_unit_test(test_real_posts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
