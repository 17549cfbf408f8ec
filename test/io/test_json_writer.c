// JSON that is written: read back by io/json.h, key by key.
#include "io/json.h"
#include "io/json_writer.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;

static struct json_object *make(void)
{
    struct json_object *object = json_object_new(), *member = json_object_new(), *item = json_object_new();
    json_set_text(object, "z", "caf\xc3\xa9 \"quoted\"\n");
    json_set_bool(object, "a", true);
    json_set_int64(object, "n", INT64_MIN);
    json_set_double(object, "x", 0.1);
    json_set_double(object, "whole", 3);
    json_set_texts(object, "texts", 2, (const char *const[]){"one", "two"});
    json_set_int64s(object, "none", 0, NULL);
    json_set_doubles(object, "doubles", 2, (const double[]){1.0 / 3, -1e300});
    json_set_int64(member, "k", 5);
    json_set_object(object, "member", member);
    json_set_list(object, "items");
    json_set_text(item, "name", "first");
    json_append(object, "items", item);
    return object;
}

static void every_kind_comes_back(void **state)
{
    (void)state;
    char *folder = scratch_make(), *path = scratch_path(folder, "made.json");
    struct json_object *object = make();
    GOOD(json_object_write(object, path, &fault));
    json_object_free(object);

    struct json_document *document;
    struct json root, value, inner;
    const char *text, *texts[2];
    bool truth = false;
    int64_t number;
    double real, reals[2];
    size_t count;
    GOOD(json_read(path, 10000, &document, &fault));
    root = json_root(document);
    assert_int_equal(json_size(root), 10);
    GOOD(json_require(root, "z", &value, &fault) && json_get_string(value, &text, &fault));
    assert_string_equal(text, "caf\xc3\xa9 \"quoted\"\n");
    GOOD(json_require(root, "a", &value, &fault) && json_get_bool(value, &truth, &fault));
    assert_true(truth);
    GOOD(json_require(root, "n", &value, &fault) &&
         json_get_int64(value, INT64_MIN, INT64_MAX, &number, &fault));
    assert_true(number == INT64_MIN);
    GOOD(json_require(root, "x", &value, &fault) && json_get_double(value, 0, 1, &real, &fault));
    assert_true(real == 0.1); // bit for bit
    GOOD(json_require(root, "whole", &value, &fault));
    assert_int_equal(json_kind(value), JSON_KIND_REAL);
    GOOD(json_require(root, "texts", &value, &fault) && json_get_strings(value, 2, texts, &count, &fault));
    assert_int_equal(count, 2);
    assert_string_equal(texts[1], "two");
    GOOD(json_require(root, "none", &value, &fault));
    assert_int_equal(json_kind(value), JSON_KIND_ARRAY);
    assert_int_equal(json_size(value), 0);
    GOOD(json_require(root, "doubles", &value, &fault) &&
         json_get_doubles(value, -1e308, 1e308, 2, reals, &count, &fault));
    assert_true(reals[0] == 1.0 / 3 && reals[1] == -1e300);
    GOOD(json_require(root, "member", &value, &fault) && json_require(value, "k", &inner, &fault) &&
         json_get_int64(inner, 5, 5, &number, &fault));
    GOOD(json_require(root, "items", &value, &fault));
    assert_int_equal(json_size(value), 1);
    GOOD(json_require(json_element(value, 0), "name", &inner, &fault) &&
         json_get_string(inner, &text, &fault));
    assert_string_equal(text, "first");
    json_free(document);
    free(path);
    scratch_remove(folder);
}

static void keys_keep_their_order(void **state)
{
    (void)state;
    struct json_object *object = json_object_new();
    json_set_int64(object, "b", 1);
    json_set_int64(object, "a", 2);
    char *text = json_object_text(object, false);
    assert_string_equal(text, "{\"b\":1,\"a\":2}");
    free(text);
    json_object_free(object);
}

static void text_that_is_not_utf8_is_null(void **state)
{
    (void)state;
    struct json_object *object = json_object_new();
    json_set_text(object, "bad", "\xff");
    json_set_texts(object, "list", 2, (const char *const[]){"good", "\xc3"});
    char *text = json_object_text(object, false);
    assert_string_equal(text, "{\"bad\":null,\"list\":[\"good\",null]}");
    free(text);
    json_object_free(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_comes_back),
        cmocka_unit_test(keys_keep_their_order),
        cmocka_unit_test(text_that_is_not_utf8_is_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
