/* Reading decks: values, bases, --set, and everything that is refused, by its message. */
#define _POSIX_C_SOURCE 200809L // mkdtemp
#include "io/deck.h"

#include "base/check.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const struct deck_value *value_at(const struct deck *deck, const char *path)
{
    const struct deck_setting *setting = deck_find(deck, path);
    if (!setting) fail_msg("%s is not there", path);
    return &setting->value;
}

static void all_types(void **state)
{
    (void)state;
    struct deck deck = {0};
    struct fault fault = {0};
    const char *text = "# comment with 99999999999 and @include\n"
                       "a: { b = 3; c = { d = -4L; }; }; // 0xFFFFFFFFFF\n"
                       "wide = 5000000000L; hex = 0x7fffffff;\n"
                       "real = 2e-4; half = .5; /* 1e999\n */ yes = true; no = FALSE;\n"
                       "text = \"a\\\"b\\\\ # // 99999999999 @include\" \" joined\";\n"
                       "ints = [1, 2, -3]; none = []; mixed = (1, \"x\", 2.5, true); # no newline";
    assert_true(deck_parse(&deck, text, "t.cfg", &fault));
    assert_int_equal(deck.count, 12);
    assert_int_equal(value_at(&deck, "a.b")->integer, 3);
    assert_int_equal(value_at(&deck, "a.c.d")->integer, -4);
    assert_true(value_at(&deck, "wide")->type == DECK_INT && value_at(&deck, "wide")->integer == 5000000000);
    assert_int_equal(value_at(&deck, "hex")->integer, 0x7fffffff);
    assert_true(value_at(&deck, "real")->type == DECK_DOUBLE && value_at(&deck, "real")->number == 2e-4);
    assert_true(value_at(&deck, "half")->number == 0.5);
    assert_true(value_at(&deck, "yes")->truth);
    assert_false(value_at(&deck, "no")->truth);
    assert_string_equal(value_at(&deck, "text")->text, "a\"b\\ # // 99999999999 @include joined");
    assert_int_equal(value_at(&deck, "ints")->count, 3);
    assert_int_equal(value_at(&deck, "ints")->item[2].integer, -3);
    assert_int_equal(value_at(&deck, "none")->count, 0);
    assert_string_equal(value_at(&deck, "mixed")->item[1].text, "x");
    assert_string_equal(deck_find(&deck, "a.c.d")->origin, "t.cfg:2");
    assert_string_equal(deck_find(&deck, "yes")->origin, "t.cfg:5");
    deck_clear(&deck);
}

/* Texts that are refused, each with the whole message. */
static void refused_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"a = 1;\nb = ;", "t.cfg:2: syntax error"},
        {"a = 1; b = {", "t.cfg:2: syntax error"}, // found at the end of the text,
        {"a = 1;\na = 2;", "t.cfg:2: duplicate setting name"},
        {"a = [1, 2.0];", "t.cfg:1: mismatched element type in array"},
        {"a = 3000000000;",
         "t.cfg:1: integer 3000000000 does not fit in 32 bits; a 64-bit one is written 3000000000L"},
        {"\n\na = -2147483649;",
         "t.cfg:3: integer -2147483649 does not fit in 32 bits; a 64-bit one is written -2147483649L"},
        {"a = 0xFFFFFFFF;", "t.cfg:1: integer 0xFFFFFFFF does not fit in 32 bits; a 64-bit one is written "
                            "0xFFFFFFFFL"},
        {"a = 9223372036854775808L;", "t.cfg:1: integer 9223372036854775808 does not fit in 64 bits"},
        {"a = 0x1FFFFFFFFFFFFFFFFLL;", "t.cfg:1: integer 0x1FFFFFFFFFFFFFFFF does not fit in 64 bits"},
        {"a = [1, 99999999999999999999];", "t.cfg:1: integer 99999999999999999999 does not fit in 64 bits"},
        {"a = 1e999;", "t.cfg:1: '1e999' is not a finite number"},
        {"a = .;", "t.cfg:1: '.' is not a finite number"},
        {"a = 1;\n@include \"b.cfg\"\n",
         "t.cfg:2: '@include': @include is not allowed; base = \"FILE\" names a deck to start from"},
        {"a = 1; @include \"b.cfg\"\n",
         "t.cfg:1: '@include': @include is not allowed; base = \"FILE\" names a deck to start from"},
        {"a = 1;\n/* b = 2;", "t.cfg:2: comment without an end"},
        {"a = 1;\nb = \"x;\n\n", "t.cfg:2: string without an end"},
        {"a = \"\xff\";", "t.cfg:1: byte 0xff is not UTF-8"},
        {"a = (1, {b = 2;});", "t.cfg:1: a list may only hold numbers, strings, true and false"},
        {"a = ((1), 2);", "t.cfg:1: a list may only hold numbers, strings, true and false"},
        {"a={a={a={a={a={a={a={a={a={a={a={a={a={a={a={a={a={a=1;};};};};};};};};};};};};};};};};};",
         "t.cfg:1: nested more than 16 deep"},
        {"base = \"x.cfg\";", "t.cfg:1: base is allowed in deck files only"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct deck deck = {0};
        struct fault fault = {0};
        assert_false(deck_parse(&deck, cases[i].text, "t.cfg", &fault));
        assert_int_equal(fault.code, EXIT_CODE_DECK);
        assert_string_equal(fault.text, cases[i].message);
        deck_clear(&deck);
    }
}

/* The ends of both integer types pass. */
static void largest_integers(void **state)
{
    (void)state;
    struct deck deck = {0};
    struct fault fault = {0};
    assert_true(deck_parse(&deck,
                           "a = 2147483647; b = -2147483648; c = 9223372036854775807L; d = "
                           "-9223372036854775808L; e = 0x7FFFFFFFFFFFFFFFL;",
                           "t", &fault));
    assert_true(value_at(&deck, "a")->integer == INT32_MAX && value_at(&deck, "b")->integer == INT32_MIN);
    assert_true(value_at(&deck, "c")->integer == INT64_MAX && value_at(&deck, "d")->integer == INT64_MIN);
    assert_true(value_at(&deck, "e")->integer == INT64_MAX);
    deck_clear(&deck);
}

static void set_overrides(void **state)
{
    (void)state;
    struct deck deck = {0};
    struct fault fault = {0};
    assert_true(deck_parse(&deck, "prune: { steps = 10; };", "t.cfg", &fault));
    const char *const assignments[] = {"prune.steps=50",   "a=/data/x y.h5", "b=\"quoted; 1\"",
                                       "c=[1, 2]",         "d=True",         "e=-2.5e-3",
                                       "f=2024-run/x",     "g=a=b;c",        "router.x={ y = 1; z=2; }",
                                       "h=user@host//x#1", "i=0x10",         "prune.steps=60"};
    for (size_t i = 0; i < sizeof assignments / sizeof assignments[0]; i++)
        assert_true(deck_set(&deck, assignments[i], &fault));
    assert_int_equal(value_at(&deck, "prune.steps")->integer, 60);
    assert_string_equal(deck_find(&deck, "prune.steps")->origin, "--set prune.steps=60");
    assert_string_equal(value_at(&deck, "a")->text, "/data/x y.h5");
    assert_string_equal(value_at(&deck, "b")->text, "quoted; 1");
    assert_int_equal(value_at(&deck, "c")->count, 2);
    assert_true(value_at(&deck, "d")->type == DECK_BOOL && value_at(&deck, "d")->truth);
    assert_true(value_at(&deck, "e")->number == -2.5e-3);
    assert_string_equal(value_at(&deck, "f")->text, "2024-run/x");
    assert_string_equal(value_at(&deck, "g")->text, "a=b;c");
    assert_int_equal(value_at(&deck, "router.x.z")->integer, 2);
    assert_string_equal(value_at(&deck, "h")->text, "user@host//x#1");
    assert_int_equal(value_at(&deck, "i")->integer, 16);
    deck_clear(&deck);
}

static void refused_sets(void **state)
{
    (void)state;
    static const struct {
        const char *assignment, *message;
    } cases[] = {
        {"prune.steps", "--set prune.steps: must be KEY=VALUE, for instance prune.steps=50"},
        {"=5", "--set =5: must be KEY=VALUE, for instance prune.steps=50"},
        {"a..b=5", "--set a..b=5: must be KEY=VALUE, for instance prune.steps=50"},
        {"a.=5", "--set a.=5: must be KEY=VALUE, for instance prune.steps=50"},
        {"5a=5", "--set 5a=5: must be KEY=VALUE, for instance prune.steps=50"},
        {"a b=5", "--set a b=5: must be KEY=VALUE, for instance prune.steps=50"},
        {"a=", "--set a=: the value is missing"},
        {"a=5e", "--set a=5e: syntax error"},
        {"a=99999999999",
         "--set a=99999999999: integer 99999999999 does not fit in 32 bits; a 64-bit one is written "
         "99999999999L"},
        {"a=[1, 2", "--set a=[1, 2: syntax error"},
        {"a=\"x\"; b = 2", "--set a=\"x\"; b = 2: one value is expected"},
        {"a=b\xff", "--set a=b\xff: byte 0xff is not UTF-8"},
        {"base=x.cfg", "--set base: base is allowed in deck files only"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct deck deck = {0};
        struct fault fault = {0};
        assert_false(deck_set(&deck, cases[i].assignment, &fault));
        assert_int_equal(fault.code, EXIT_CODE_DECK);
        assert_string_equal(fault.text, cases[i].message);
        assert_int_equal(deck.count, 0);
    }
}

static void values_read_back(void **state)
{
    (void)state;
    struct deck deck = {0}, again = {0};
    struct fault fault = {0};
    assert_true(
        deck_parse(&deck,
                   "a = 0.1; b = 3.0; c = 1e30; d = 1.7976931348623157e308; e = 5e-324; f = -0.0; "
                   "g = 123456789012345L; h = [1L, 5000000000L]; i = (1, 5000000000L, \"x\"); "
                   "j = \"tab\\t, newline\\n, \\\"quotes\\\" \\\\, \xc3\xbc\"; k = []; l = [true, false]; "
                   "m = [0.5, 2.0]; n = \"\"; o = 0.30000000000000004;",
                   "t", &fault));
    for (int i = 0; i < deck.count; i++) {
        char *text = deck_value_text(&deck.setting[i].value);
        char *line = check_format("%s = %s;", deck.setting[i].path, text);
        assert_true(deck_parse(&again, line, "t", &fault));
        char *text_again = deck_value_text(value_at(&again, deck.setting[i].path));
        assert_string_equal(text, text_again);
        free(text);
        free(line);
        free(text_again);
    }
    assert_true(value_at(&again, "o")->number == 0.30000000000000004);
    assert_true(value_at(&again, "d")->number == 1.7976931348623157e308);
    assert_true(value_at(&again, "e")->number == 5e-324);
    assert_true(signbit(value_at(&again, "f")->number));
    assert_int_equal(value_at(&again, "b")->type, DECK_DOUBLE);
    assert_int_equal(value_at(&again, "c")->type, DECK_DOUBLE);
    assert_string_equal(value_at(&again, "j")->text, value_at(&deck, "j")->text);
    char *text = deck_value_text(value_at(&deck, "a"));
    assert_string_equal(text, "0.1");
    free(text);
    deck_clear(&deck);
    deck_clear(&again);
}

// ---- files: each test in a fresh folder

struct folder {
    char path[64];
};

static int folder_new(void **state)
{
    struct folder *folder = check_calloc(1, sizeof *folder);
    strcpy(folder->path, "build/test_deck_XXXXXX");
    *state = folder;
    return mkdtemp(folder->path) ? 0 : -1;
}

static int folder_remove(void **state)
{
    char *command = check_format("rm -r %s", ((struct folder *)*state)->path);
    int status = system(command);
    free(command);
    free(*state);
    return status;
}

static void write_deck(const struct folder *folder, const char *name, const char *text)
{
    char *path = check_format("%s/%s", folder->path, name);
    for (char *slash = strchr(path + strlen(folder->path) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(path, 0777) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    free(path);
}

static bool read_deck(const struct folder *folder, const char *name, struct deck *deck, struct fault *fault)
{
    char *path = check_format("%s/%s", folder->path, name);
    *deck = (struct deck){0};
    *fault = (struct fault){0};
    bool ok = deck_read(deck, path, fault);
    free(path);
    return ok;
}

static void expect_refused(const struct folder *folder, const char *name, const char *message)
{
    struct deck deck;
    struct fault fault;
    assert_false(read_deck(folder, name, &deck, &fault));
    assert_int_equal(fault.code, EXIT_CODE_DECK);
    if (!strstr(fault.text, message)) fail_msg("'%s' does not say '%s'", fault.text, message);
    deck_clear(&deck);
}

static void a_base_is_overridden_key_by_key(void **state)
{
    const struct folder *folder = *state;
    write_deck(folder, "input/prune.cfg",
               "phase = \"prune\";\nprune: { steps = 10; batch = 4; };\nlist = [1, 2, 3];");
    write_deck(folder, "input/emoji/mid.cfg", "prune: { batch = 8; };\nbase = \"../prune.cfg\";");
    write_deck(folder, "input/emoji/top.cfg", "base = \"mid.cfg\";\nprune: {\n steps = 20; };\nlist = [9];");
    struct deck deck;
    struct fault fault;
    assert_true(read_deck(folder, "input/emoji/top.cfg", &deck, &fault));
    assert_int_equal(deck.count, 4);
    assert_string_equal(deck.setting[0].path, "phase");
    assert_int_equal(value_at(&deck, "prune.steps")->integer, 20);
    assert_int_equal(value_at(&deck, "prune.batch")->integer, 8);
    assert_int_equal(value_at(&deck, "list")->count, 1);
    assert_null(deck_find(&deck, "base"));
    assert_non_null(strstr(deck_find(&deck, "prune.steps")->origin, "/input/emoji/top.cfg:3"));
    assert_non_null(strstr(deck_find(&deck, "prune.batch")->origin, "/input/emoji/mid.cfg:1"));
    deck_clear(&deck);
}

static void bases_that_are_refused(void **state)
{
    const struct folder *folder = *state;
    write_deck(folder, "outside.cfg", "a = 1;");
    write_deck(folder, "input/a.cfg", "\nbase = \"../outside.cfg\";");
    expect_refused(folder, "input/a.cfg",
                   "input/a.cfg:2: base \"../outside.cfg\" lies outside of the deck tree ");
    write_deck(folder, "alone/a.cfg",
               "base = \"../outside.cfg\";"); // no folder input above: its own is the tree
    expect_refused(folder, "alone/a.cfg", "lies outside of the deck tree ");
    char *link = check_format("%s/input/link.cfg", folder->path);
    assert_int_equal(symlink("../outside.cfg", link), 0);
    free(link);
    write_deck(folder, "input/b.cfg", "base = \"link.cfg\";");
    expect_refused(folder, "input/b.cfg", "base \"link.cfg\" lies outside of the deck tree ");
    write_deck(folder, "input/c.cfg", "base = \"/etc/passwd\";");
    expect_refused(folder, "input/c.cfg", "input/c.cfg:1: base \"/etc/passwd\" must be relative to the deck");
    write_deck(folder, "input/d.cfg", "base = 5;");
    expect_refused(folder, "input/d.cfg", "input/d.cfg:1: base must be a string");
    write_deck(folder, "input/e.cfg", "base = \"none.cfg\";");
    expect_refused(folder, "input/e.cfg", "input/e.cfg:1: base \"none.cfg\": No such file or directory");
    write_deck(folder, "input/f.cfg", "base = \"g.cfg\";");
    write_deck(folder, "input/g.cfg", "base = \"x/../f.cfg\";");
    write_deck(folder, "input/x/h.cfg", "a = 1;");
    expect_refused(folder, "input/f.cfg", "input/g.cfg:1: base \"x/../f.cfg\" builds on this deck itself");
    write_deck(folder, "input/bad.cfg", "a = 99999999999;");
    write_deck(folder, "input/i.cfg", "base = \"bad.cfg\";");
    expect_refused(folder, "input/i.cfg", "input/bad.cfg:1: integer 99999999999 does not fit");
}

static void chains_of_bases_end(void **state)
{
    const struct folder *folder = *state;
    for (int i = 0; i < 12; i++) {
        char name[32], text[64];
        snprintf(name, sizeof name, "input/%d.cfg", i);
        snprintf(text, sizeof text, "a%d = 1;%s base = \"%d.cfg\";", i, i == 0 ? " #" : "", i - 1);
        write_deck(folder, name, text);
    }
    struct deck deck;
    struct fault fault;
    assert_true(read_deck(folder, "input/8.cfg", &deck, &fault)); // DECK_MAX_BASES below it
    assert_int_equal(deck.count, 9);
    deck_clear(&deck);
    expect_refused(folder, "input/9.cfg", "input/1.cfg:1: more than 8 decks build on each other");
}

static void files_that_are_refused(void **state)
{
    const struct folder *folder = *state;
    expect_refused(folder, "none.cfg", "none.cfg: cannot be opened: No such file or directory");
    write_deck(folder, "a/x.cfg", "");
    expect_refused(folder, "a", "cannot be read: Is a directory");
    char *large = check_malloc(DECK_MAX_BYTES + 2);
    memset(large, ' ', DECK_MAX_BYTES + 1);
    large[DECK_MAX_BYTES + 1] = '\0';
    write_deck(folder, "large.cfg", large);
    expect_refused(folder, "large.cfg", "more than the 131072 bytes allowed");
    large[DECK_MAX_BYTES] = '\0';
    write_deck(folder, "fits.cfg", large);
    struct deck deck;
    struct fault fault;
    assert_true(read_deck(folder, "fits.cfg", &deck, &fault));
    free(large);
}

#define FILE_TEST(test) cmocka_unit_test_setup_teardown(test, folder_new, folder_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_types),
        cmocka_unit_test(refused_texts),
        cmocka_unit_test(largest_integers),
        cmocka_unit_test(set_overrides),
        cmocka_unit_test(refused_sets),
        cmocka_unit_test(values_read_back),
        FILE_TEST(a_base_is_overridden_key_by_key),
        FILE_TEST(bases_that_are_refused),
        FILE_TEST(chains_of_bases_end),
        FILE_TEST(files_that_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
