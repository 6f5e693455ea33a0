/* test_dataset: names, columns and topics of the datasets, as the contract says them.
 * SPDX-License-Identifier: Apache-2.0  */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "base/buf.h"
#include "data/dataset.h"

static void columns(const struct column_def *c, unsigned n, const char *expected)
{
    static const char *const types[] = {"long", "int", "str", "timestamp", "point", "binary"};
    struct buf b;
    buf_init(&b, 4096);
    for (unsigned i = 0; i < n; i++)
        buf_printf(&b, "%s%s %s", i ? "," : "", c[i].name, types[c[i].type]);
    assert_string_equal(b.data, expected);
    buf_deinit(&b);
}

static void test_columns(void **state)
{
    (void)state;
    columns(datasets[DATASET_PIN].columns, datasets[DATASET_PIN].columns_n,
            "ind long,unique_id str,title str,description str,follower_count long,poster_name str,"
            "tag_list str,is_image_or_video str,image_src str,save_location str,category str");
    columns(datasets[DATASET_GEO].columns, datasets[DATASET_GEO].columns_n,
            "ind long,country str,coordinates point,timestamp timestamp");
    columns(datasets[DATASET_USER].columns, datasets[DATASET_USER].columns_n,
            "ind long,user_name str,age int,date_joined timestamp");
    columns(provenance_columns, PROVENANCE_COLUMNS,
            "_source str,_position long,_item int,_ingested_at timestamp");
    columns(dead_columns, DEAD_COLUMNS,
            "dataset str,reason str,detail str,key binary,value binary");
}

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < DATASETS; i++) {
        assert_int_equal(datasets[i].id, i);
        assert_ptr_equal(dataset_by_name(str_of(datasets[i].name)), &datasets[i]);
    }
    assert_null(dataset_by_name(STR("pins")));
    assert_null(dataset_by_name(STR("")));
    assert_null(dataset_by_name((struct str){NULL, 0}));
    for (int i = 0; i < REJECT_REASONS; i++)
        assert_int_equal(reject_by_name(str_of(reject_names[i])), i);
    assert_int_equal(reject_by_name(STR("other")), -1);
    assert_string_equal(reject_names[REJECT_NOT_AN_OBJECT], "not_an_object");
}

static void test_topics(void **state)
{
    (void)state;
    const struct dataset *pin = &datasets[DATASET_PIN], *user = &datasets[DATASET_USER];
    assert_ptr_equal(dataset_of_raw_topic("demo", "demo.pin"), pin);
    assert_ptr_equal(dataset_of_raw_topic("a.b", "a.b.user"), user);
    assert_null(dataset_of_raw_topic("demo", "demo.clean.pin"));
    assert_null(dataset_of_raw_topic("demo", "demo.dead"));
    assert_null(dataset_of_raw_topic("demo", "demo"));
    assert_null(dataset_of_raw_topic("demo", "demo."));
    assert_null(dataset_of_raw_topic("demo", "demopin"));
    assert_null(dataset_of_raw_topic("demo", "demo2.pin"));
    assert_null(dataset_of_raw_topic("demo", "other.pin"));
    assert_ptr_equal(dataset_of_clean_topic("demo", "demo.clean.pin"), pin);
    assert_null(dataset_of_clean_topic("demo", "demo.pin"));
    assert_null(dataset_of_clean_topic("demo", "demo.clean.dead"));
    assert_null(dataset_of_clean_topic("demo", "demo.clean."));
    assert_null(dataset_of_clean_topic("demo", "other.clean.pin"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_topics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
