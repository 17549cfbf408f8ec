/* The WordPiece tokenizer against transformers' BertTokenizer and MPNetTokenizer (fixtures), and by hand. */
#include "models/wordpiece_folder.h"

#include "base/check.h"
#include "io/hdf5_file.h"
#include "io/text_file.h"
#include "support/files.h"
#include "support/published_encoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct wordpiece_options UNCASED = {
    .lower_case = true, .strip_accents = true, .split_cjk = true};

/* Ids by line: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then from 5. */
static const char VOCABULARY[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
    "red\napple\n##s\nun\n##aff\n##able\n,\n$\ncafe\ncaf\xc3\xa9\n\xe4\xb8\xad\nRed\n"
    "a\n##a\n\xe4\xb8\xad\xe4\xb8\xad\ni\xcc\x87";
enum {
    RED = 5,
    APPLE,
    S,
    UN,
    AFF,
    ABLE,
    COMMA,
    DOLLAR,
    CAFE,
    CAFE_ACCENT,
    MIDDLE,
    CAPITAL_RED,
    A,
    AA,
    MIDDLE_2,
    DOTTED_I
};

static struct wordpiece *small(struct wordpiece_options options)
{
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    if (!wordpiece_parse(VOCABULARY, strlen(VOCABULARY), "vocabulary", options, &tokenizer, &fault))
        fail_msg("%s", fault.text);
    return tokenizer;
}

/* The tokens of a text are those given, between [CLS] and [SEP], with [PAD] behind. */
static void expect(struct wordpiece_options options, const char *text, size_t bytes, int count,
                   const int *expected)
{
    enum { CAPACITY = 40 };
    int32_t ids[CAPACITY];
    struct wordpiece *tokenizer = small(options);
    int found = wordpiece_encode(tokenizer, text, bytes, CAPACITY, ids);
    if (found != count + 2) fail_msg("\"%s\": %d tokens, expected %d", text, found - 2, count);
    assert_int_equal(ids[0], 2);
    for (int i = 0; i < count; i++) assert_int_equal(ids[i + 1], expected[i]);
    assert_int_equal(ids[count + 1], 3);
    for (int i = count + 2; i < CAPACITY; i++) assert_int_equal(ids[i], 0);
    wordpiece_free(tokenizer);
}
#define EXPECT(options, text, ...)                                                                           \
    expect(options, text, sizeof text - 1, sizeof((int[]){__VA_ARGS__}) / sizeof(int), (int[]){__VA_ARGS__})

static void test_words_and_pieces(void **state)
{
    (void)state;
    EXPECT(UNCASED, "red apples", RED, APPLE, S);
    EXPECT(UNCASED, "Unaffable", UN, AFF, ABLE); // the longest piece first
    EXPECT(UNCASED, "unaffablex", 1);            // the rest does not fit: the whole word is unknown
    EXPECT(UNCASED, "red,apple$red", RED, COMMA, APPLE, DOLLAR, RED);
    EXPECT(UNCASED,
           " \t red\r\n\xc2\xa0\xe3\x80\x80"
           "apple ",
           RED, APPLE); // no-break, ideographic space
    expect(UNCASED, "", 0, 0, NULL);
    expect(UNCASED, " \n", 2, 0, NULL);
}

static void test_normalisation(void **state)
{
    (void)state;
    EXPECT(UNCASED, "RED CAF\xc3\x89 Cafe\xcc\x81", RED, CAFE, CAFE); // composed and decomposed
    EXPECT(UNCASED,
           "re\xe2\x80\x8d"
           "d r\x01"
           "ed\xc2\xad",
           RED, RED); // joiner, control, soft hyphen
    EXPECT(UNCASED,
           "red\xe4\xb8\xad\xe4\xb8\xad"
           "red",
           RED, MIDDLE, MIDDLE, RED); // ideographs stand alone
    EXPECT(UNCASED,
           "re\xff\xc3"
           "d \xed\xa0\x80"
           "red",
           RED, RED); // not UTF-8: left out
    EXPECT(UNCASED, "red\0 red", RED, RED);
    struct wordpiece_options cased = {.split_cjk = true};
    EXPECT(cased, "Red red RED", CAPITAL_RED, RED, 1);
    EXPECT(cased, "caf\xc3\xa9", CAFE_ACCENT);
    struct wordpiece_options accents = {.lower_case = true};
    EXPECT(accents, "CAF\xc3\x89", CAFE_ACCENT);
    EXPECT(accents, "\xe4\xb8\xad\xe4\xb8\xad", MIDDLE_2);
    EXPECT(accents, "\xc4\xb0", DOTTED_I); // I with dot: two characters when lowered
}

static void test_special_tokens_in_text(void **state)
{
    (void)state;
    EXPECT(UNCASED, "red[SEP]apple [MASK]", RED, 3, APPLE, 4);
    EXPECT(UNCASED, "[sep]", 1, 1, 1); // only as spelled
    EXPECT(UNCASED, "[[PAD]", 1, 0);
}

static void test_long_words(void **state)
{
    (void)state;
    char word[WORDPIECE_MAX_WORD + 2];
    memset(word, 'a', sizeof word);
    struct wordpiece *tokenizer = small(UNCASED);
    int32_t ids[WORDPIECE_MAX_WORD + 4];
    int capacity = WORDPIECE_MAX_WORD + 4;
    assert_int_equal(wordpiece_encode(tokenizer, word, WORDPIECE_MAX_WORD, capacity, ids),
                     WORDPIECE_MAX_WORD + 2);
    assert_int_equal(ids[1], A);
    assert_int_equal(ids[2], AA);
    assert_int_equal(wordpiece_encode(tokenizer, word, WORDPIECE_MAX_WORD + 1, capacity, ids), 3);
    assert_int_equal(ids[1], 1);
    wordpiece_free(tokenizer);
}

static void test_truncation(void **state)
{
    (void)state;
    struct wordpiece *tokenizer = small(UNCASED);
    int32_t ids[5] = {0};
    const char *text = "red apples red";
    assert_int_equal(wordpiece_encode(tokenizer, text, strlen(text), 4, ids), 4);
    const int32_t expected[] = {2, RED, APPLE, 3, 0};
    assert_memory_equal(ids, expected, sizeof ids);
    assert_int_equal(wordpiece_encode(tokenizer, text, strlen(text), 2, ids), 2);
    assert_int_equal(ids[1], 3);
    wordpiece_free(tokenizer);
}

static void expect_fault(const char *vocabulary, const char *message)
{
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    assert_false(wordpiece_parse(vocabulary, strlen(vocabulary), "vocab.txt", UNCASED, &tokenizer, &fault));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
    assert_string_equal(fault.text, message);
}

static void test_broken_vocabulary(void **state)
{
    (void)state;
    expect_fault("", "vocab.txt: no token [PAD]");
    expect_fault("[PAD]\n[UNK]\n[CLS]\nred\n", "vocab.txt: no token [SEP]");
    expect_fault("[PAD]\n\nred\n", "vocab.txt:2: a token of 0 bytes, allowed 1 to 512");
    expect_fault("[PAD]\nred\n[UNK]\nred\n", "vocab.txt: the token of line 2 again in line 4");
    char longest[WORDPIECE_MAX_TOKEN + 2] = {0};
    memset(longest, 'a', WORDPIECE_MAX_TOKEN + 1);
    expect_fault(longest, "vocab.txt:1: a token of 513 bytes, allowed 1 to 512");

    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    size_t bytes = 2 * ((size_t)WORDPIECE_MAX_VOCABULARY + 1);
    char *lines = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) lines[i] = i % 2 ? '\n' : 'a';
    assert_false(wordpiece_parse(lines, bytes, "vocab.txt", UNCASED, &tokenizer, &fault));
    assert_string_equal(fault.text, "vocab.txt: more than 1048576 lines");
    free(lines);
    fault = (struct fault){0};
    assert_false(wordpiece_read("no/such/vocab.txt", UNCASED, &tokenizer, &fault));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
}

static const char SPECIAL_VOCABULARY[] =
    "<s>\n<pad>\n</s>\n<unk>\n[PAD]\n[UNK]\nred\n<\nunk\n>\n<mask>\n<s>\xc3\xa9";

/* MPNet's own, in the text as it is; <unk> in the cleaned text; the longest of several. */
static void test_special_tokens_of_mpnet(void **state)
{
    (void)state;
    const struct wordpiece_special added[] = {{"<unk>", true}, {"<s>\xc3\xa9", false}};
    struct wordpiece_options options = UNCASED;
    options.kind = WORDPIECE_MPNET;
    options.special = added;
    options.special_count = 2;
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    if (!wordpiece_parse(SPECIAL_VOCABULARY, strlen(SPECIAL_VOCABULARY), "vocabulary", options, &tokenizer,
                         &fault))
        fail_msg("%s", fault.text);
    const char *text = "red<unk>red <\xc3\x9cnk> <mask><Mask> <s>\xc3\xa9 <pad>[PAD]";
    const int32_t expected[] = {0, 6, 3, 6, 3, 10, 7, 5, 9, 11, 1, 5, 5, 5, 2, 1};
    int32_t ids[16];
    assert_int_equal(wordpiece_encode(tokenizer, text, strlen(text), 16, ids), 15);
    assert_memory_equal(ids, expected, sizeof ids);
    wordpiece_free(tokenizer);

    // where nobody says that it is a special token, it is a word with marks around
    options.special_count = 0;
    assert_true(wordpiece_parse(SPECIAL_VOCABULARY, strlen(SPECIAL_VOCABULARY), "vocabulary", options,
                                &tokenizer, &fault));
    const int32_t plain[] = {0, 7, 8, 9, 2};
    assert_int_equal(wordpiece_encode(tokenizer, "<unk>", 5, 16, ids), 5);
    assert_memory_equal(ids, plain, sizeof plain);
    wordpiece_free(tokenizer);

    options.special = &(struct wordpiece_special){"<extra>", false};
    options.special_count = 1;
    assert_false(wordpiece_parse(SPECIAL_VOCABULARY, strlen(SPECIAL_VOCABULARY), "vocabulary", options,
                                 &tokenizer, &fault));
    assert_string_equal(fault.text, "vocabulary: no token <extra>");
}

/* ---- fixtures */

static struct wordpiece *open_vocabulary(const char *folder)
{
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/vocab.txt", folder);
    if (!wordpiece_read(path, UNCASED, &tokenizer, &fault)) fail_msg("%s", fault.text);
    return tokenizer;
}

static struct wordpiece *open_folder(const char *folder, int64_t expected_tokens)
{
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    int64_t most_tokens = -1;
    if (!wordpiece_folder_open(folder, &tokenizer, &most_tokens, &fault)) fail_msg("%s", fault.text);
    assert_int_equal(most_tokens, expected_tokens);
    return tokenizer;
}

/* all-mpnet-base-v2's vocabulary is BERT's with four tokens before it and one behind. */
static struct wordpiece *mpnet_of_bert(const char *folder)
{
    const struct wordpiece_special unk = {"<unk>", true};
    struct wordpiece_options options = UNCASED;
    options.kind = WORDPIECE_MPNET;
    options.special = &unk;
    options.special_count = 1;
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    char path[4096], *vocabulary;
    snprintf(path, sizeof path, "%s/vocab.txt", folder);
    if (!text_file_read(path, WORDPIECE_MAX_FILE, &vocabulary, &fault)) fail_msg("%s", fault.text);
    char *text = check_format("<s>\n<pad>\n</s>\n<unk>\n%s<mask>\n", vocabulary);
    if (!wordpiece_parse(text, strlen(text), "vocabulary", options, &tokenizer, &fault))
        fail_msg("%s", fault.text);
    free(text);
    free(vocabulary);
    return tokenizer;
}

/* Ids and lengths of all sentences of a fixture, exactly. Frees the tokenizer. */
static void expect_fixture(const char *fixture, struct wordpiece *tokenizer)
{
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct h5_strings texts = {0};
    struct h5_info info;
    int64_t *ids = NULL, *length = NULL;
    bool read =
        h5_open(fixture, FILE_REFERENCE, &reader, &fault) &&
        h5_load_int64(reader, "outputs/input_ids", 2, (int64_t[]){-1, -1}, 1 << 20, &ids, &info, &fault) &&
        h5_load_int64(reader, "outputs/length", 1, (int64_t[]){info.shape[0]}, 1 << 20, &length, NULL,
                      &fault) &&
        h5_read_strings(reader, "inputs/text", 0, info.shape[0], 1 << 20, &texts, &fault);
    if (!read) fail_msg("%s", fault.text);
    assert_true(texts.count >= 500);
    int width = (int)info.shape[1];
    int32_t *found = malloc((size_t)width * sizeof *found);
    for (int64_t i = 0; i < texts.count; i++) {
        const char *text = texts.item[i];
        int tokens = wordpiece_encode(tokenizer, text, strlen(text), width, found);
        if (tokens != length[i]) fail_msg("\"%s\": %d tokens, expected %d", text, tokens, (int)length[i]);
        for (int t = 0; t < width; t++)
            if (found[t] != ids[i * width + t])
                fail_msg("\"%s\": token %d is %d, expected %d", text, t, (int)found[t],
                         (int)ids[i * width + t]);
    }
    free(found);
    free(ids);
    free(length);
    wordpiece_free(tokenizer);
    h5_strings_free(&texts);
    h5_close(reader);
}

static void test_small_fixtures(void **state)
{
    (void)state;
    expect_fixture("test/fixtures/wordpiece_small.h5", open_vocabulary("test/fixtures/bert_small"));
    expect_fixture("test/fixtures/wordpiece_small.h5", open_folder("test/fixtures/bert_small", 48));
    expect_fixture("test/fixtures/wordpiece_mpnet_small.h5", open_folder("test/fixtures/mpnet_small", 40));
}

static void test_published_fixtures(void **state)
{
    (void)state;
    char folder[2048];
    published_encoder_folder(folder, sizeof folder);
    expect_fixture("test/fixtures/wordpiece.h5", open_folder(folder, 512));
    expect_fixture("test/fixtures/wordpiece_mpnet.h5", mpnet_of_bert(folder));
}

/* A tokenizer is described the same whichever file its vocabulary is of, and others otherwise. */
static void test_description(void **state)
{
    (void)state;
    struct wordpiece *tokenizers[] = {open_vocabulary("test/fixtures/bert_small"),
                                      open_folder("test/fixtures/bert_small", 48),
                                      open_folder("test/fixtures/mpnet_small", 40)};
    char *text[3];
    for (int i = 0; i < 3; i++) {
        text[i] = wordpiece_describe(tokenizers[i]);
        wordpiece_free(tokenizers[i]);
    }
    assert_string_equal(text[0], text[1]);
    assert_null(strstr(text[0], "special"));
    assert_non_null(strstr(text[2], "special token 3 cleaned 1\n"));
    for (int i = 0; i < 3; i++) free(text[i]);
}

/* ---- folders */

static const char CONFIG[] =
    "{\"tokenizer_class\": \"BertTokenizer\", \"do_lower_case\": true, \"cls_token\": "
    "{\"content\": \"[CLS]\", \"lstrip\": false}, \"model_max_length\": 9}";
static const char TOKENIZER[] =
    "{\"added_tokens\": [{\"id\": 4, \"content\": \"[MASK]\", \"single_word\": false, \"normalized\": "
    "false}], "
    "\"normalizer\": {\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, "
    "\"strip_accents\": null, \"lowercase\": true}, \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}, "
    "\"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": \"##\", "
    "\"max_input_chars_per_word\": 100, \"vocab\": {\"[PAD]\": 0, \"red\": 5, \"[UNK]\": 1, \"[CLS]\": 2, "
    "\"[SEP]\": 3, \"[MASK]\": 4}}}";

/* Writes text with the first `old` replaced by `new`; as it is if `old` is NULL. */
static void write_changed(const char *folder, const char *name, const char *text, const char *old,
                          const char *new)
{
    const char *place = old ? strstr(text, old) : NULL;
    if (old && !place) fail_msg("%s has no %s", name, old);
    char *path = scratch_path(folder, name);
    char *changed = place ? check_format("%.*s%s%s", (int)(place - text), text, new, place + strlen(old))
                          : check_strdup(text);
    file_write(path, changed, strlen(changed));
    free(changed);
    free(path);
}

/* A folder of both files, one of them changed, is refused with this message; NULL: it opens. */
static void expect_folder(const char *name, const char *old, const char *new, const char *message)
{
    struct wordpiece *tokenizer = NULL;
    struct fault fault = {0};
    int64_t most_tokens;
    bool config = strcmp(name, "tokenizer_config.json") == 0;
    char *folder = scratch_make();
    write_changed(folder, "tokenizer_config.json", CONFIG, config ? old : NULL, new);
    write_changed(folder, "tokenizer.json", TOKENIZER, config ? NULL : old, new);
    bool opened = wordpiece_folder_open(folder, &tokenizer, &most_tokens, &fault);
    if (opened != !message) fail_msg("%s with %s: %s", name, new, opened ? "not refused" : fault.text);
    if (message && !strstr(fault.text, message)) fail_msg("\"%s\" does not say \"%s\"", fault.text, message);
    if (message) assert_int_equal(fault.code, EXIT_CODE_INPUT);
    wordpiece_free(tokenizer);
    scratch_remove(folder);
}

static void test_folders(void **state)
{
    (void)state;
    const char *config = "tokenizer_config.json", *json = "tokenizer.json";
    expect_folder(config, NULL, NULL, NULL);
    expect_folder(config, "BertTokenizer", "BertTokenizerFast", NULL);
    expect_folder(
        config, "BertTokenizer", "RobertaTokenizer",
        "tokenizer_class: RobertaTokenizer is not supported, only BertTokenizer and MPNetTokenizer");
    expect_folder(config, "BertTokenizer", "MPNetTokenizer",
                  "cls_token.content: this value is not supported, only \"<s>\"");
    expect_folder(config, "[CLS]", "<s>", "cls_token.content: this value is not supported, only \"[CLS]\"");
    expect_folder(config, "\"do_lower_case\": true", "\"do_lower_case\": false",
                  "normalizer.lowercase: this value is not supported, only false");
    expect_folder(config, "\"do_lower_case\": true", "\"strip_accents\": false",
                  "normalizer: strip_accents is not what tokenizer_config.json says");
    expect_folder(config, "\"do_lower_case\": true",
                  "\"added_tokens_decoder\": {\"4\": {\"content\": \"[MASK]\", \"normalized\": false}}",
                  NULL);
    expect_folder(config, "\"do_lower_case\": true",
                  "\"added_tokens_decoder\": {\"4\": {\"content\": \"<x>\", \"normalized\": false}}",
                  "no token <x>");
    expect_folder(config, "model_max_length\": 9", "model_max_length\": 0", "model_max_length");
    expect_folder(config, "do_lower_case", "do_lower", "do_lower: unknown key");
    expect_folder(json, "\"WordPiece\"", "\"BPE\"",
                  "model.type: this value is not supported, only \"WordPiece\"");
    expect_folder(json, "\"##\"", "\"@@\"", "continuing_subword_prefix");
    expect_folder(json, "\"max_input_chars_per_word\": 100", "\"max_input_chars_per_word\": 99",
                  "max_input_chars_per_word");
    expect_folder(json, "BertNormalizer", "NFKC", "normalizer.type");
    expect_folder(json, "BertPreTokenizer", "Whitespace", "pre_tokenizer.type");
    expect_folder(json, "\"single_word\": false", "\"single_word\": true", "added_tokens[0].single_word");
    expect_folder(json, "\"content\": \"[MASK]\"", "\"content\": \"[MOSK]\"", "no token [MOSK]");
    expect_folder(json, "\"red\": 5", "\"red\": 6", "model.vocab.red");
    expect_folder(json, "\"red\": 5", "\"red\": 4", "the id 4 again");
    expect_folder(json, "\"red\": 5", "\"r\\ned\": 5", "a token with a line break");
    expect_folder(json, "\"red\": 5", "\"red\": \"5\"", "model.vocab.red");
    expect_folder(json, "\"vocab\": {", "\"vocab\": [], \"dropout\": {", "dropout: unknown key");
    expect_folder(json, "\"[PAD]\": 0", "\"[POD]\": 0", "no token [PAD]");
    expect_folder(json, "\"model\"", "\"modell\"", "modell: unknown key");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_and_pieces),
        cmocka_unit_test(test_normalisation),
        cmocka_unit_test(test_special_tokens_in_text),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_broken_vocabulary),
        cmocka_unit_test(test_special_tokens_of_mpnet),
        cmocka_unit_test(test_small_fixtures),
        cmocka_unit_test(test_published_fixtures),
        cmocka_unit_test(test_description),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
