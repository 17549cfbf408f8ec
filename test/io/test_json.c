// JSON with limits: typed values, places in messages, what is refused.
#include "io/json.h"
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

static struct json_document *parse(const char *text)
{
    struct json_document *document;
    GOOD(json_parse(text, strlen(text), "test.json", &document, &fault));
    return document;
}

static struct json at(struct json object, const char *key)
{
    struct json member;
    GOOD(json_require(object, key, &member, &fault));
    return member;
}

static void values_are_typed(void **state)
{
    (void)state;
    struct json_document *document = parse(
        "{\"channels\": [320, 640], \"eps\": 1e-5, \"one\": 1, \"act\": \"silu\", \"null\": null,\n"
        " \"flags\": [true, false], \"names\": [\"a\", \"b\\u00e9\"], \"deep\": {\"list\": [{\"x\": -7}]}}");
    struct json root = json_root(document), member;
    assert_int_equal(json_size(root), 8);
    int64_t integers[2], integer;
    size_t count;
    GOOD(json_get_int64s(at(root, "channels"), 1, 1000, 2, integers, &count, &fault));
    assert_true(count == 2 && integers[0] == 320 && integers[1] == 640);
    double number, numbers[2];
    GOOD(json_get_double(at(root, "eps"), 0, 1, &number, &fault));
    assert_true(number == 1e-5);
    GOOD(json_get_double(at(root, "one"), 0, 1, &number, &fault));
    assert_true(number == 1);
    GOOD(json_get_doubles(at(root, "channels"), 0, 1000, 2, numbers, &count, &fault));
    assert_true(numbers[1] == 640);
    const char *text, *texts[2];
    GOOD(json_get_string(at(root, "act"), &text, &fault));
    assert_string_equal(text, "silu");
    GOOD(json_get_strings(at(root, "names"), 2, texts, &count, &fault));
    assert_string_equal(texts[1], "b\xc3\xa9");
    bool flags[2], flag;
    GOOD(json_get_bools(at(root, "flags"), 2, flags, &count, &fault));
    assert_true(flags[0] && !flags[1]);
    assert_int_equal(json_kind(at(root, "null")), JSON_KIND_NULL);
    assert_false(json_member(root, "nothing", &member));
    GOOD(json_get_int64(at(json_element(at(at(root, "deep"), "list"), 0), "x"), -10, 10, &integer, &fault));
    assert_int_equal(integer, -7);

    const char *key, *const keys[] = {"channels", "eps", "one", "act", "null", "flags", "names", "deep"};
    int seen = 0;
    for (void *iterator = NULL; json_next(root, &iterator, &key, &member);)
        assert_string_equal(key, keys[seen++]);
    assert_int_equal(seen, 8);

    FAILS(json_get_int64(at(root, "act"), 0, 9, &integer, &fault), EXIT_CODE_INPUT,
          "test.json: act: found a string, allowed an integer in 0..9");
    FAILS(json_get_int64(at(root, "eps"), 0, 9, &integer, &fault), EXIT_CODE_INPUT,
          "eps: found a real number");
    FAILS(json_get_int64s(at(root, "channels"), 1, 500, 2, integers, &count, &fault), EXIT_CODE_INPUT,
          "test.json: channels[1]: found 640, allowed an integer in 1..500");
    FAILS(json_get_int64s(at(root, "channels"), 1, 500, 1, integers, &count, &fault), EXIT_CODE_INPUT,
          "channels: found 2 elements, allowed at most 1");
    FAILS(json_get_int64s(at(root, "one"), 1, 500, 1, integers, &count, &fault), EXIT_CODE_INPUT,
          "one: found an integer, allowed an array");
    FAILS(json_get_double(at(root, "eps"), 1, 2, &number, &fault), EXIT_CODE_INPUT,
          "eps: found 1e-05, allowed a number in 1..2");
    FAILS(json_get_bool(at(root, "one"), &flag, &fault), EXIT_CODE_INPUT,
          "one: found an integer, allowed true or");
    FAILS(json_get_string(at(root, "null"), &text, &fault), EXIT_CODE_INPUT,
          "null: found null, allowed a string");
    FAILS(json_get_int64(at(json_element(at(at(root, "deep"), "list"), 0), "x"), 0, 1, &integer, &fault),
          EXIT_CODE_INPUT, "test.json: deep.list[0].x: found -7");
    FAILS(json_require(root, "nothing", &member, &fault), EXIT_CODE_INPUT, "test.json: `nothing` is missing");
    FAILS(json_require(at(root, "one"), "x", &member, &fault), EXIT_CODE_INPUT, "one: found an integer");
    json_free(document);
}

static void what_is_not_json_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "{",
                                        "{\"a\": 1,}",
                                        "[1 2]",
                                        "{\"a\": 1} x",
                                        "\"\xff\"",
                                        "{\"a\": NaN}",
                                        "[99999999999999999999]",
                                        "\"a\\u0000b\""};
    struct json_document *document;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        FAILS(json_parse(wrong[i], strlen(wrong[i]), "wrong.json", &document, &fault), EXIT_CODE_INPUT,
              "wrong.json:");
    }
    FAILS(json_parse("{\"a\": 1,\n\"a\": 2}", 17, "wrong.json", &document, &fault), EXIT_CODE_INPUT,
          "wrong.json:2: not valid JSON: duplicate object key");
    char deep[3 * JSON_MAX_DEPTH];
    memset(deep, '[', JSON_MAX_DEPTH + 1);
    memset(deep + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
    FAILS(json_parse(deep, 2 * JSON_MAX_DEPTH + 2, "deep", &document, &fault), EXIT_CODE_INPUT,
          "nested deeper");
    GOOD(json_parse(deep + 1, 2 * JSON_MAX_DEPTH, "deep", &document, &fault));
    json_free(document);
    char *bomb = malloc(1000000);
    memset(bomb, '[', 1000000);
    FAILS(json_parse(bomb, 1000000, "bomb", &document, &fault), EXIT_CODE_INPUT, "bomb:");
    free(bomb);
}

static void files_have_a_limit(void **state)
{
    (void)state;
    char *folder = scratch_make(), *path = scratch_path(folder, "a.json");
    char text[100000];
    memset(text, ' ', sizeof text);
    memcpy(text, "[1]", 3);
    file_write(path, text, sizeof text);
    struct json_document *document;
    GOOD(json_read(path, sizeof text, &document, &fault));
    assert_int_equal(json_size(json_root(document)), 1);
    json_free(document);
    FAILS(json_read(path, sizeof text - 1, &document, &fault), EXIT_CODE_INPUT,
          "more than the 99999 bytes allowed");
    FAILS(json_read(folder, 100, &document, &fault), EXIT_CODE_INPUT, "Is a directory");
    FAILS(json_read("none.json", 100, &document, &fault), EXIT_CODE_INPUT, "none.json: No such file");
    free(path);
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_typed),
        cmocka_unit_test(what_is_not_json_is_refused),
        cmocka_unit_test(files_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
