/* CLIP's tokenizer against transformers' CLIPTokenizer (fixtures), and by hand. */
#include "models/clip_bpe.h"

#include "base/check.h"
#include "io/hdf5_file.h"
#include "support/clip_tokenizer.h"
#include "support/faults.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SMALL "test/fixtures/sd2_text_small/tokenizer"
#define SAVED "test/fixtures/sd2_text_small/tokenizer_saved"

/* The small vocabulary: 512 bytes, 150 merges, start and end; padding "!". */
enum { SMALL_END = 663, SMALL_LENGTH = 20 };

static struct clip_bpe *open_folder(const char *folder)
{
    struct fault fault = {0};
    struct clip_bpe *tokenizer;
    GOOD(clip_bpe_read(folder, &tokenizer, &fault));
    return tokenizer;
}

static struct clip_bpe *open_published(const char *name)
{
    char *folder = clip_tokenizer_folder(name);
    struct clip_bpe *tokenizer = open_folder(folder);
    free(folder);
    return tokenizer;
}

/* The tokens of a text are those given, between start and end, with padding behind. */
static void expect(const struct clip_bpe *tokenizer, int32_t start, int32_t end, int32_t pad,
                   const char *text, size_t bytes, int count, const int *expected)
{
    enum { CAPACITY = 40 };
    int32_t ids[CAPACITY];
    int length;
    assert_int_equal(clip_bpe_encode(tokenizer, text, bytes, CAPACITY, ids, &length), 0);
    if (length != count + 2) fail_msg("\"%s\": %d tokens, expected %d", text, length - 2, count);
    assert_int_equal(ids[0], start);
    for (int i = 0; i < count; i++) assert_int_equal(ids[i + 1], expected[i]);
    assert_int_equal(ids[count + 1], end);
    for (int i = count + 2; i < CAPACITY; i++) assert_int_equal(ids[i], pad);
}
#define EXPECT(tokenizer, pad, text, ...)                                                                    \
    expect(tokenizer, 49406, 49407, pad, text, sizeof text - 1, sizeof((int[]){__VA_ARGS__}) / sizeof(int),  \
           (int[]){__VA_ARGS__})
#define SD1(text, ...) EXPECT(sd1, 49407, text, __VA_ARGS__)
#define SD2(text, ...) EXPECT(sd2, 0, text, __VA_ARGS__)

enum { A = 320, B = 321, C = 322, HELLO = 3306, WORLD = 1002, MARK = 256, MARKS_3 = 995 };

/* The ids are those that CLIPTokenizer gave by hand. */
static void test_published_ids(void **state)
{
    (void)state;
    struct clip_bpe *sd1 = open_published("sd1");
    assert_int_equal(clip_bpe_count(sd1), 49408);
    assert_int_equal(clip_bpe_length(sd1), 77);
    expect(sd1, 49406, 49407, 49407, "", 0, 0, NULL);
    expect(sd1, 49406, 49407, 49407, " \t\xe3\x80\x80", 5, 0, NULL);
    SD1("HELLO World", HELLO, WORLD);
    SD1("12 345", 272, 273, 274, 275, 276);
    SD1("IT'S don't", 585, 568, 847, 713);
    SD1("\xc3\xa9 e\xcc\x81", 4166, 4166); // composed and decomposed
    SD1("\xc4\xb0", 328, 16384);           // I with dot: two characters when lowered
    SD1("x\0y", 343, 444, 344);            // a zero is a character
    SD1("a\xc2\xa0"
        "b\xc2\x85"
        "c\xe2\x80\x8b",
        A, B, C, 9844); // blanks; a joiner is none
    clip_bpe_free(sd1);
}

/* Padding "!" of Stable Diffusion 2 is found wherever a text has it, before anything else. */
static void test_exclamation_marks(void **state)
{
    (void)state;
    struct clip_bpe *sd1 = open_published("sd1"), *sd2 = open_published("sd2");
    SD1("!", MARK);
    SD1("a!b", A, MARK, B);
    SD1("hello!!!", HELLO, MARKS_3);
    SD1("hello ! world", HELLO, MARK, WORLD);
    SD2("!", 0);
    SD2("a!b", A, 0, B);
    SD2("hello!!!", HELLO, 0, 0, 0);
    SD2("hello ! world", HELLO, 0, WORLD);
    SD2(" ! ", 0);
    SD2("a", A);
    clip_bpe_free(sd2);
    clip_bpe_free(sd1);
}

/* As the folders say: SD 1's end token, also its padding, is looked for in the text as it is, the others in
 * the normalised text. */
static void test_special_tokens_in_text(void **state)
{
    (void)state;
    struct clip_bpe *sd1 = open_published("sd1"), *sd2 = open_published("sd2");
    SD1("a<|endoftext|>b", A, 49407, B);
    SD1("<|STARTOFTEXT|>a", 49406, A);
    SD1("<|EndOfText|>", 27, 347, 40786, 4160, 91, 285); // a word, split again
    SD2("<|EndOfText|><|STARTOFTEXT|>", 49407, 49406);
    clip_bpe_free(sd2);
    clip_bpe_free(sd1);
}

static void test_bytes_that_are_no_utf8(void **state)
{
    (void)state;
    struct clip_bpe *tokenizer = open_folder(SMALL);
    static const char broken[] = "a\xff"
                                 "b \xed\xa0\x80 \xe4\xb8",
                      repaired[] = "a\xef\xbf\xbd"
                                   "b \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd";
    int32_t ids[2][64];
    int length[2];
    clip_bpe_encode(tokenizer, broken, sizeof broken - 1, 64, ids[0], &length[0]);
    clip_bpe_encode(tokenizer, repaired, sizeof repaired - 1, 64, ids[1], &length[1]);
    assert_int_equal(length[0], length[1]);
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_true(length[0] > 10);
    clip_bpe_free(tokenizer);
}

static void test_truncation(void **state)
{
    (void)state;
    struct clip_bpe *tokenizer = open_folder(SMALL);
    int32_t all[64], ids[8];
    int whole, length;
    const char *text = "a bird, a bird!, and x";
    size_t bytes = strlen(text);
    assert_int_equal(clip_bpe_encode(tokenizer, text, bytes, 64, all, &whole), 0);
    for (int capacity = 2; capacity <= 8; capacity++) {
        assert_int_equal(clip_bpe_encode(tokenizer, text, bytes, capacity, ids, &length), whole - capacity);
        assert_int_equal(length, capacity);
        assert_memory_equal(ids, all, (size_t)(capacity - 1) * sizeof *ids);
        assert_int_equal(ids[capacity - 1], SMALL_END);
    }
    assert_int_equal(clip_bpe_encode(tokenizer, text, bytes, whole, all, NULL), 0);
    clip_bpe_free(tokenizer);
}

/* A word of 3 million letters takes no longer than 1 million short words. */
static void test_very_long(void **state)
{
    (void)state;
    enum { BYTES = 3000000 };
    struct clip_bpe *tokenizer = open_folder(SMALL);
    char *text = check_malloc(BYTES);
    for (int i = 0; i < BYTES; i++) text[i] = (char)('a' + i * 7919LL % 26);
    int32_t ids[SMALL_LENGTH];
    int64_t cut = clip_bpe_encode(tokenizer, text, BYTES, SMALL_LENGTH, ids, NULL);
    assert_true(cut > BYTES / 4 && cut < BYTES);
    free(text);
    clip_bpe_free(tokenizer);
}

// ---- files

static const char *const file_names[] = {"tokenizer_config.json", "special_tokens_map.json", "vocab.json",
                                         "merges.txt", "tokenizer.json"};
enum { CONFIG, SPECIAL, VOCABULARY, MERGES, TOKENIZER, FILES };

/* A folder's files in memory, to be changed; owned. */
struct texts {
    char *text[FILES];
};

static struct texts load(const char *folder)
{
    struct texts texts = {0};
    bool saved = strcmp(folder, SAVED) == 0;
    for (int i = 0; i < FILES; i++) {
        if (saved ? i != CONFIG && i != TOKENIZER : i == TOKENIZER) continue;
        char *path = scratch_path(folder, file_names[i]);
        size_t size;
        texts.text[i] = file_bytes(path, &size);
        free(path);
    }
    return texts;
}

static void replace(struct texts *texts, int file, const char *old, const char *new)
{
    char *text = texts->text[file], *place = strstr(text, old);
    if (!place) fail_msg("%s has no %s", file_names[file], old);
    texts->text[file] = check_format("%.*s%s%s", (int)(place - text), text, new, place + strlen(old));
    free(text);
}

static bool parse(const struct texts *texts, struct clip_bpe **tokenizer, struct fault *fault)
{
    return clip_bpe_parse(&(struct clip_bpe_files){.name = "folder",
                                                   .config = texts->text[CONFIG],
                                                   .special = texts->text[SPECIAL],
                                                   .vocabulary = texts->text[VOCABULARY],
                                                   .merges = texts->text[MERGES],
                                                   .tokenizer = texts->text[TOKENIZER]},
                          tokenizer, fault);
}

static void unload(struct texts *texts)
{
    for (int i = 0; i < FILES; i++) free(texts->text[i]);
}

/* The folder with `old` replaced in one file (old NULL: without the file) is refused with this message. */
static void expect_refusal(const char *folder, int file, const char *old, const char *new,
                           const char *message)
{
    struct fault fault = {0};
    struct clip_bpe *tokenizer;
    struct texts texts = load(folder);
    if (old) {
        replace(&texts, file, old, new);
    } else {
        free(texts.text[file]);
        texts.text[file] = NULL;
    }
    FAILS(parse(&texts, &tokenizer, &fault), EXIT_CODE_INPUT, message);
    unload(&texts);
}

static void test_refusals(void **state)
{
    (void)state;
    expect_refusal(SMALL, CONFIG, NULL, NULL, "tokenizer_config.json is missing");
    expect_refusal(SMALL, MERGES, NULL, NULL, "neither tokenizer.json nor both of vocab.json and merges.txt");
    expect_refusal(SMALL, CONFIG, "\"model_max_length\": 20", "\"model_max_length\": 1", "model_max_length");
    expect_refusal(SMALL, CONFIG, "\"model_max_length\": 20", "\"model_max_length\": 1000000000000000",
                   "model_max_length");
    expect_refusal(SMALL, CONFIG, "\"do_lower_case\": true", "\"do_lower_case\": false", "do_lower_case");
    expect_refusal(SMALL, CONFIG, "\"CLIPTokenizer\"", "\"GPT2Tokenizer\"", "GPT2Tokenizer is not supported");
    expect_refusal(SMALL, CONFIG, "\"errors\"", "\"mistakes\"", "mistakes: unknown key");
    expect_refusal(SMALL, CONFIG, "{",
                   "{\"added_tokens_decoder\": {\"5\": {\"content\": \"&\", \"normalized\": false}},",
                   "added token \"&\" is not supported");
    expect_refusal(
        SMALL, CONFIG, "{",
        "{\"added_tokens_decoder\": {\"1\": {\"content\": \"<|endoftext|>\", \"normalized\": false}},",
        "does not have \"<|endoftext|>\" with id 1");
    expect_refusal(SMALL, SPECIAL, "\"pad_token\": \"!\"", "\"pad_token\": \"<pad>\"",
                   "pad_token \"<pad>\" is not in the vocabulary");
    expect_refusal(SMALL, SPECIAL, "\"pad_token\": \"!\"", "\"pad_token\": \"\"", "pad_token \"\"");
    expect_refusal(SMALL, SPECIAL, "\"lstrip\": false", "\"lstrip\": true", "bos_token.lstrip");
    expect_refusal(SMALL, SPECIAL, "\"pad_token\": \"!\"", "\"pad_token\": \"!\", \"mask_token\": \"m\"",
                   "mask_token");
    expect_refusal(SMALL, VOCABULARY, "\"\\\"\": 1", "\"\\\"\": 0", "id 0 is another token's");
    expect_refusal(SMALL, VOCABULARY, "\"\\\"\": 1", "\"\\\"\": 664", "allowed an integer in 0..663");
    expect_refusal(SMALL, VOCABULARY, "\"\\\"\": 1", "\"!\": 1", "vocab.json");
    expect_refusal(SMALL, VOCABULARY, "\"\\\"\": 1", "\"\\\"q\": 1", "lacks byte 0x22, alone or with </w>");
    expect_refusal(SMALL, VOCABULARY, "{", "[", "vocab.json");
    expect_refusal(SMALL, MERGES, "\nt h\n", "\nt qq\n",
                   "merges.txt, line 3: \"qq\" is not in the vocabulary");
    expect_refusal(SMALL, MERGES, "\nt h\n", "\nt q\n",
                   "merges.txt, line 3: \"tq\" is not in the vocabulary");
    expect_refusal(SMALL, MERGES, "\nt h\n", "\nt h\nt h\n", "line 4: \"th\" is made by a merge before it");
    expect_refusal(SMALL, MERGES, "\nt h\n", "\nt h e\n", "allowed are two tokens with one blank between");
    expect_refusal(SMALL, MERGES, "\nt h\n", "\n\nt h\n", "line 3: allowed are two tokens");
    expect_refusal(SMALL, MERGES, "\nt h\n", "\nth\n", "allowed are two tokens");
    expect_refusal(SAVED, TOKENIZER, "\"merges\": [", "\"merges\": [], \"_\": [",
                   "folder: there are no merges");
    expect_refusal(SAVED, TOKENIZER, "\"BPE\"", "\"Unigram\"", "model.type");
    expect_refusal(SAVED, TOKENIZER, "\"end_of_word_suffix\": \"</w>\"", "\"end_of_word_suffix\": null",
                   "end_of_word_suffix");
    expect_refusal(SAVED, TOKENIZER, "\"id\": 0,", "\"id\": 7,", "does not have \"!\" with id 7");
    char *longest = check_calloc(CLIP_BPE_MAX_TOKEN + 8, 1), *merge;
    memset(longest, 'a', CLIP_BPE_MAX_TOKEN + 1);
    merge = check_format("\nt h\n%s b\n", longest);
    expect_refusal(SMALL, MERGES, "\nt h\n", merge, "line 4: a token of more than 512 bytes");
    free(merge);
    merge = check_format("\"%s\": 1", longest);
    expect_refusal(SMALL, VOCABULARY, "\"\\\"\": 1", merge, "a token of 513 bytes, at most 512 allowed");
    free(merge);
    free(longest);
    struct fault fault = {0};
    struct clip_bpe *tokenizer;
    FAILS(clip_bpe_read("test/no_such_folder", &tokenizer, &fault), EXIT_CODE_INPUT, "test/no_such_folder");
}

/* Ids of one text, 16 of them. */
static void encode(const struct texts *texts, const char *text, int32_t ids[16])
{
    struct fault fault = {0};
    struct clip_bpe *tokenizer;
    GOOD(parse(texts, &tokenizer, &fault));
    clip_bpe_encode(tokenizer, text, strlen(text), 16, ids, NULL);
    clip_bpe_free(tokenizer);
}

/* When a special token is looked for: transformers' answers to the same files. */
static void test_when_special_tokens_are_looked_for(void **state)
{
    (void)state;
    static const char text[] = "<|EndOfText|>";
    static const char raw[] = "\"normalized\": false", normalized[] = "\"normalized\": true";
    int32_t ids[16];
    for (int flags = 0; flags < 8; flags++) {
        struct texts texts = load(SMALL);
        free(texts.text[SPECIAL]);
        texts.text[SPECIAL] = check_format(
            "{\"eos_token\": {\"content\": \"<|endoftext|>\", %s}, \"unk_token\": {\"content\": "
            "\"<|endoftext|>\", %s}, \"pad_token\": {\"content\": \"<|endoftext|>\", %s}}",
            flags & 4 ? normalized : raw, flags & 2 ? normalized : raw, flags & 1 ? normalized : raw);
        encode(&texts, text, ids);
        bool found = ids[1] == SMALL_END;
        assert_int_equal(found, flags == 7 || (flags >= 1 && flags <= 3));
        unload(&texts);
    }
    // A list of added tokens has precedence over the map, which then is not read.
    struct texts texts = load(SMALL);
    replace(&texts, CONFIG, "{",
            "{\"added_tokens_decoder\": {\"663\": {\"content\": \"<|endoftext|>\", \"normalized\": false}},");
    encode(&texts, text, ids);
    assert_int_not_equal(ids[1], SMALL_END);
    encode(&texts, "!", ids);
    assert_int_equal(ids[1], 256);       // "!</w>"
    assert_int_equal(ids[3], SMALL_END); // padding
    unload(&texts);
}

static void identify(const struct texts *texts, char hex[SHA256_HEX_SIZE])
{
    struct fault fault = {0};
    struct clip_bpe *tokenizer;
    struct sha256 *hash = sha256_new();
    GOOD(parse(texts, &tokenizer, &fault));
    clip_bpe_identify(tokenizer, hash);
    sha256_finish(hash, hex);
    clip_bpe_free(tokenizer);
}

/* Both forms of the files are one tokenizer; whatever changes ids makes another. */
static void test_identity(void **state)
{
    (void)state;
    static const struct {
        int file;
        const char *old, *new;
    } change[] = {{CONFIG, "\"model_max_length\": 20", "\"model_max_length\": 21"},
                  {SPECIAL, "\"pad_token\": \"!\"", "\"pad_token\": \"?\""},
                  {SPECIAL, "\"normalized\": true", "\"normalized\": false"},
                  {MERGES, "\nt h\na n\n", "\na n\nt h\n"},
                  {VOCABULARY, "\"\\\"\": 1, \"#\": 2", "\"\\\"\": 2, \"#\": 1"}};
    char id[SHA256_HEX_SIZE], other[SHA256_HEX_SIZE];
    struct texts texts = load(SMALL), saved = load(SAVED);
    identify(&texts, id);
    identify(&saved, other);
    assert_string_equal(id, other);
    unload(&saved);
    unload(&texts);
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        texts = load(SMALL);
        replace(&texts, change[i].file, change[i].old, change[i].new);
        identify(&texts, other);
        assert_string_not_equal(id, other);
        unload(&texts);
    }
}

// ---- fixtures

/* Ids and lengths of all sentences of a fixture, exactly. */
static void expect_fixture(const char *fixture, const char *folder)
{
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct h5_strings texts = {0};
    struct h5_info info;
    int64_t *ids = NULL, *length = NULL;
    GOOD(h5_open(fixture, FILE_REFERENCE, &reader, &fault));
    GOOD(h5_load_int64(reader, "outputs/input_ids", 2, (int64_t[]){-1, -1}, 1 << 20, &ids, &info, &fault));
    GOOD(h5_load_int64(reader, "outputs/length", 1, info.shape, 1 << 20, &length, NULL, &fault));
    GOOD(h5_read_strings(reader, "inputs/text", 0, info.shape[0], 1 << 20, &texts, &fault));
    struct clip_bpe *tokenizer = open_folder(folder);
    int width = (int)info.shape[1];
    assert_true(texts.count >= 500);
    assert_int_equal(width, clip_bpe_length(tokenizer));
    int32_t *found = check_malloc((size_t)width * sizeof *found);
    for (int64_t i = 0; i < texts.count; i++) {
        const char *text = texts.item[i];
        int tokens;
        clip_bpe_encode(tokenizer, text, strlen(text), width, found, &tokens);
        if (tokens != length[i]) fail_msg("\"%s\": %d tokens, expected %d", text, tokens, (int)length[i]);
        for (int t = 0; t < width; t++)
            if (found[t] != ids[i * width + t])
                fail_msg("\"%s\": token %d is %d, expected %d", text, t, (int)found[t],
                         (int)ids[i * width + t]);
    }
    free(found);
    free(ids);
    free(length);
    clip_bpe_free(tokenizer);
    h5_strings_free(&texts);
    h5_close(reader);
}

static void test_small_fixture(void **state)
{
    (void)state;
    expect_fixture("test/fixtures/clip_bpe_small.h5", SMALL);
    expect_fixture("test/fixtures/clip_bpe_small.h5", SAVED);
}

static void test_published_fixtures(void **state)
{
    (void)state;
    char *sd1 = clip_tokenizer_folder("sd1"), *sd2 = clip_tokenizer_folder("sd2");
    expect_fixture("test/fixtures/clip_bpe_sd1.h5", sd1);
    expect_fixture("test/fixtures/clip_bpe_sd2.h5", sd2);
    free(sd2);
    free(sd1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_ids),
        cmocka_unit_test(test_exclamation_marks),
        cmocka_unit_test(test_special_tokens_in_text),
        cmocka_unit_test(test_bytes_that_are_no_utf8),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_very_long),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_when_special_tokens_are_looked_for),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_small_fixture),
        cmocka_unit_test(test_published_fixtures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
