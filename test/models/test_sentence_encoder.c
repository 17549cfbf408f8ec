/* The sentence encoder against transformers (fixtures), its properties, and the folders that it refuses. */
#define _XOPEN_SOURCE 700 // mkdtemp, nftw
#include "models/sentence_encoder.h"

#include "io/hdf5_file.h"
#include "io/text_file.h"
#include "support/published_encoder.h"

#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char SMALL[] = "test/fixtures/bert_small", SMALL_MPNET[] = "test/fixtures/mpnet_small";
static const struct sentence_encoder_options PLAIN = {.batch = 8, .dtype = DTYPE_F32};

static struct sentence_encoder open_encoder(struct backend *backend, const char *folder,
                                            struct sentence_encoder_options options)
{
    struct sentence_encoder encoder;
    struct fault fault = {0};
    if (!sentence_encoder_open(&encoder, backend, folder, options, &fault)) fail_msg("%s", fault.text);
    return encoder;
}

/* ---- against transformers */

struct expected {
    struct h5_strings texts;
    int64_t *length;
    float *embedding;
};

static struct expected read_expected(const char *fixture, int channels)
{
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct h5_info info;
    struct expected expected = {0};
    if (!h5_open(fixture, FILE_REFERENCE, &reader, &fault) ||
        !h5_load_int64(reader, "outputs/length", 1, (int64_t[]){-1}, 1 << 16, &expected.length, &info,
                       &fault) ||
        !h5_load_float(reader, "outputs/embedding", 2, (int64_t[]){info.shape[0], channels}, 1 << 20,
                       &expected.embedding, NULL, &fault) ||
        !h5_read_strings(reader, "inputs/text", 0, info.shape[0], 1 << 20, &expected.texts, &fault))
        fail_msg("%s", fault.text);
    h5_close(reader);
    assert_true(expected.texts.count >= 200);
    return expected;
}

static void free_expected(struct expected *expected)
{
    h5_strings_free(&expected->texts);
    free(expected->length);
    free(expected->embedding);
}

/* Lengths exactly, embeddings to 1e-5 of the largest value: fp32 through six layers, against fp64. */
static void expect_fixture(const char *fixture, const char *folder, struct sentence_encoder_options options)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder encoder = open_encoder(backend, folder, options);
    struct expected expected = read_expected(fixture, encoder.channels);
    int count = (int)expected.texts.count;
    size_t elements = (size_t)count * (size_t)encoder.channels;
    int32_t *length = malloc((size_t)count * sizeof *length);
    float *embedding = malloc(elements * sizeof *embedding);
    sentence_encoder_encode(&encoder, count, (const char *const *)expected.texts.item, length, NULL,
                            embedding);
    double error = 0, largest = 0;
    for (int i = 0; i < count; i++) assert_int_equal(length[i], expected.length[i]);
    for (size_t i = 0; i < elements; i++) {
        assert_true(isfinite(embedding[i]));
        error = fmax(error, fabs((double)embedding[i] - expected.embedding[i]));
        largest = fmax(largest, fabs(expected.embedding[i]));
    }
    print_message("%s: off by %.2g of %.2g\n", fixture, error, largest);
    assert_true(error <= 1e-5 * fmax(largest, 1));
    free(length);
    free(embedding);
    free_expected(&expected);
    sentence_encoder_close(&encoder);
    backend_close(backend);
}

static void test_small_fixture(void **state)
{
    (void)state;
    expect_fixture("test/fixtures/sentence_encoder_small.h5", SMALL, PLAIN);
}

/* MPNet, in the form of a newer folder: the vocabulary in tokenizer.json, the most tokens beside it. */
static void test_small_mpnet_fixture(void **state)
{
    (void)state;
    struct sentence_encoder_options options = PLAIN;
    options.normalize = true;
    expect_fixture("test/fixtures/sentence_encoder_mpnet_small.h5", SMALL_MPNET, options);
}

/* Files that were made with an encoder name it: its id must stay what it was. */
static void expect_known_id(const char *folder)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder encoder = open_encoder(backend, folder, PLAIN);
    struct h5_reader *reader = NULL;
    struct fault fault = {0};
    char *id = NULL;
    if (!h5_open("input/emoji/clip.h5", FILE_CLIP, &reader, &fault) ||
        !h5_load_text(reader, "encoder/sentence", 1 << 10, &id, &fault))
        fail_msg("%s", fault.text);
    assert_string_equal(encoder.id, id);
    free(id);
    h5_close(reader);
    sentence_encoder_close(&encoder);
    backend_close(backend);
}

static void test_published_fixture(void **state)
{
    (void)state;
    char folder[2048];
    published_encoder_folder(folder, sizeof folder);
    expect_known_id(folder);
    struct sentence_encoder_options options = PLAIN;
    options.normalize = true;
    expect_fixture("test/fixtures/sentence_encoder.h5", folder, options);
}

/* ---- properties */

static const char *const SENTENCES[] = {
    "red apple",
    "",
    "flag: France",
    "a group of people standing in front of a large building with flags "
    "waving in the wind while it rains",
    "grinning face with smiling eyes and a very long tail of words behind it",
    "keycap: 5",
    "red apple"};
enum { COUNT = sizeof SENTENCES / sizeof SENTENCES[0] };

/* z is the mean of the states of the sentence's own tokens; beyond them the states are zero. */
static void test_embedding_is_mean_of_states(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder encoder = open_encoder(backend, SMALL, PLAIN);
    int channels = encoder.channels, tokens = encoder.tokens;
    int32_t length[COUNT];
    float *states = malloc((size_t)(COUNT * tokens * channels) * sizeof *states);
    float *embedding = malloc((size_t)(COUNT * channels) * sizeof *embedding);
    sentence_encoder_encode(&encoder, COUNT, SENTENCES, length, states, embedding);
    assert_int_equal(length[1], 2);
    for (int i = 0; i < COUNT; i++)
        for (int c = 0; c < channels; c++) {
            double sum = 0;
            for (int t = 0; t < tokens; t++) {
                float value = states[(i * tokens + t) * channels + c];
                if (t >= length[i]) assert_true(value == 0);
                sum += value;
            }
            assert_true(fabs(sum / length[i] - embedding[i * channels + c]) < 1e-5);
        }
    free(states);
    free(embedding);
    sentence_encoder_close(&encoder);
    backend_close(backend);
}

/* Each sentence alone, in another order and another batch size: the same bits. */
static void test_neighbours_do_not_matter(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder encoder = open_encoder(backend, SMALL, PLAIN);
    size_t row = (size_t)encoder.channels;
    int32_t length[COUNT], one_length;
    float *embedding = malloc(COUNT * row * sizeof *embedding), *one = malloc(row * sizeof *one);
    sentence_encoder_encode(&encoder, COUNT, SENTENCES, length, NULL, embedding);
    for (int i = COUNT - 1; i >= 0; i--) {
        sentence_encoder_encode(&encoder, 1, &SENTENCES[i], &one_length, NULL, one);
        assert_int_equal(one_length, length[i]);
        assert_memory_equal(one, embedding + (size_t)i * row, row * sizeof *one);
    }
    assert_memory_equal(embedding, embedding + (COUNT - 1) * row, row * sizeof *one); // the same text twice
    free(embedding);
    free(one);
    sentence_encoder_close(&encoder);
    backend_close(backend);
}

static void test_most_tokens(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder_options options = PLAIN;
    options.tokens = 5;
    struct sentence_encoder encoder = open_encoder(backend, SMALL, options);
    assert_int_equal(encoder.tokens, 5);
    int32_t length[COUNT];
    float *embedding = malloc(COUNT * (size_t)encoder.channels * sizeof *embedding);
    sentence_encoder_encode(&encoder, COUNT, SENTENCES, length, NULL, embedding);
    for (int i = 0; i < COUNT; i++) assert_int_equal(length[i], i == 1 ? 2 : 5);
    free(embedding);
    sentence_encoder_close(&encoder);
    backend_close(backend);
}

/* ---- copies of the small folder, with one file changed */

static void copy_file(const char *from, const char *to, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", from, name);
    FILE *in = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/%s", to, name);
    FILE *out = fopen(path, "wb");
    assert_true(in && out);
    char buffer[4096];
    for (size_t bytes; (bytes = fread(buffer, 1, sizeof buffer, in)) > 0;)
        assert_int_equal(fwrite(buffer, 1, bytes, out), bytes);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* A copy of the small folder below `base`, which is made. */
static void copy_small_folder(char base[64])
{
    static const char *const files[] = {"modules.json",          "config.json", "sentence_bert_config.json",
                                        "tokenizer_config.json", "vocab.txt",   "model.safetensors",
                                        "1_Pooling/config.json"};
    snprintf(base, 64, "/tmp/aptp-test-XXXXXX");
    assert_non_null(mkdtemp(base));
    char pooling[128];
    snprintf(pooling, sizeof pooling, "%s/1_Pooling", base);
    assert_int_equal(mkdir(pooling, 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) copy_file(SMALL, base, files[i]);
}

static int remove_entry(const char *path, const struct stat *status, int flag, struct FTW *place)
{
    (void)status, (void)flag, (void)place;
    return remove(path);
}

static void remove_folder(const char *base)
{
    nftw(base, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* Replaces the first `old` in a file of the folder. */
static void edit(const char *base, const char *name, const char *old, const char *new)
{
    char path[256];
    char *text;
    struct fault fault = {0};
    snprintf(path, sizeof path, "%s/%s", base, name);
    assert_true(text_file_read(path, 1 << 20, &text, &fault));
    char *place = strstr(text, old);
    if (!place) fail_msg("%s has no %s", path, old);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fprintf(file, "%.*s%s%s", (int)(place - text), text, new, place + strlen(old));
    assert_int_equal(fclose(file), 0);
    free(text);
}

/* The folder with `old` replaced by `new` in one file is refused with this message. */
static void expect_refusal(const char *name, const char *old, const char *new, const char *message)
{
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder encoder;
    struct fault fault = {0};
    char base[64];
    copy_small_folder(base);
    edit(base, name, old, new);
    assert_false(sentence_encoder_open(&encoder, backend, base, PLAIN, &fault));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
    if (!strstr(fault.text, message)) fail_msg("\"%s\" does not say \"%s\"", fault.text, message);
    remove_folder(base);
    backend_close(backend);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *pooling = "1_Pooling/config.json", *tokenizer = "tokenizer_config.json";
    expect_refusal(pooling, "\"pooling_mode_cls_token\": false", "\"pooling_mode_cls_token\": true",
                   "pooling_mode_cls_token: this value is not supported, only false");
    expect_refusal(pooling, "\"pooling_mode_mean_tokens\": true", "\"pooling_mode_mean_tokens\": false",
                   "pooling_mode_mean_tokens: this value is not supported, only true");
    expect_refusal(pooling, "\"word_embedding_dimension\": 32", "\"word_embedding_dimension\": 33",
                   "word_embedding_dimension");
    expect_refusal("modules.json", "models.Pooling", "models.WordWeights",
                   "module sentence_transformers.models.WordWeights is not supported here, only Pooling");
    expect_refusal("modules.json", "1_Pooling", "../1_Pooling", "leads out of the folder");
    expect_refusal("modules.json", "1_Pooling", "2_Pooling", "2_Pooling/config.json");
    expect_refusal("modules.json", "\"path\": \"\",", "", "path");
    expect_refusal("config.json", "\"gelu\"", "\"gelu_new\"", "hidden_act");
    expect_refusal("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
                   "missing (encoder.layer.2.attention.self.query.weight, ");
    expect_refusal("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
                   "that the network does not have (encoder.layer.1.attention.output.LayerNorm.bias, ");
    expect_refusal("config.json", "\"intermediate_size\": 72", "\"intermediate_size\": 71",
                   "encoder.layer.0.intermediate.dense.weight is [72, 32], allowed [71, 32]");
    expect_refusal("sentence_bert_config.json", "\"max_seq_length\": 40", "\"max_seq_length\": 49",
                   "max_seq_length");
    expect_refusal(tokenizer, "\"BertTokenizer\"", "\"MPNetTokenizer\"", "only \"<pad>\"");
    expect_refusal("config.json", "\"bert\"", "\"roberta\"",
                   "model_type: roberta is not supported, only bert and mpnet");
    expect_refusal("sentence_bert_config.json", "\"do_lower_case\": false",
                   "\"modality_config\": {\"text\": {\"method\": \"encode\"}}",
                   "modality_config.text.method");
    expect_refusal("sentence_bert_config.json", "\"do_lower_case\": false",
                   "\"modality_config\": {\"text\": {}, \"image\": {}}",
                   "modality_config.image: unknown key");
    expect_refusal("sentence_bert_config.json", "\"do_lower_case\": false",
                   "\"transformer_task\": \"fill-mask\"", "transformer_task");
    expect_refusal(tokenizer, "\"[PAD]\"", "\"<pad>\"",
                   "pad_token: this value is not supported, only \"[PAD]\"");
    expect_refusal("vocab.txt", "[PAD]", "[PAD]\nmore", "tokens, but vocab_size in config.json is");
}

static void test_broken_weights(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder encoder;
    struct fault fault = {0};
    char base[64], path[128];
    copy_small_folder(base);
    snprintf(path, sizeof path, "%s/model.safetensors", base);
    assert_int_equal(truncate(path, 50000), 0);
    assert_false(sentence_encoder_open(&encoder, backend, base, PLAIN, &fault));
    assert_non_null(strstr(fault.text, "model.safetensors"));
    assert_int_equal(unlink(path), 0);
    fault = (struct fault){0};
    assert_false(sentence_encoder_open(&encoder, backend, base, PLAIN, &fault));
    assert_non_null(strstr(fault.text, "model.safetensors"));
    remove_folder(base);
    backend_close(backend);
}

static void test_too_many_tokens(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder_options options = PLAIN;
    struct sentence_encoder encoder;
    struct fault fault = {0};
    options.tokens = 41;
    assert_false(sentence_encoder_open(&encoder, backend, SMALL, options, &fault));
    assert_non_null(strstr(fault.text, "41 tokens a sentence, allowed 2 to 40 (max_seq_length)"));
    backend_close(backend);
}

/* The most tokens: max_seq_length before model_max_length, and no more than there are positions. */
static void test_folder_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *name, *old, *new;
        int tokens;
    } cases[] = {{"sentence_bert_config.json", "\"max_seq_length\": 40", "\"max_seq_length\": 41", 41},
                 {"sentence_bert_config.json", "\"max_seq_length\": 41", "\"max_seq_length\": null", 48},
                 {"tokenizer_config.json", "\"model_max_length\": 48", "\"model_max_length\": 30", 30},
                 {"tokenizer_config.json", "\"model_max_length\": 30", "\"model_max_length\": 512", 48}};
    struct backend *backend = backend_open(BACKEND_CPU);
    char base[64];
    copy_small_folder(base);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        edit(base, cases[i].name, cases[i].old, cases[i].new);
        struct sentence_encoder encoder = open_encoder(backend, base, PLAIN);
        assert_int_equal(encoder.tokens, cases[i].tokens);
        sentence_encoder_close(&encoder);
    }
    remove_folder(base);
    backend_close(backend);
}

/* The id follows from what z depends on, and from nothing else. */
static void test_identity(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct sentence_encoder_options options = PLAIN;
    struct sentence_encoder encoder = open_encoder(backend, SMALL, options);
    char id[SHA256_HEX_SIZE], base[64];
    memcpy(id, encoder.id, sizeof id);
    assert_int_equal(strlen(id), 64);
    sentence_encoder_close(&encoder);

    copy_small_folder(base);
    options.batch = 3;
    encoder = open_encoder(backend, base, options);
    assert_string_equal(encoder.id, id); // not of the place
    sentence_encoder_close(&encoder);

    edit(base, "tokenizer_config.json", "\"strip_accents\": null", "\"strip_accents\": false");
    encoder = open_encoder(backend, base, options);
    assert_string_not_equal(encoder.id, id);
    sentence_encoder_close(&encoder);
    edit(base, "tokenizer_config.json", "\"strip_accents\": false", "\"strip_accents\": null");

    edit(base, "modules.json", "\"sentence_transformers.models.Pooling\"\n  }",
         "\"sentence_transformers.models.Pooling\"\n  }, {\"idx\": 2, \"name\": \"2\", \"path\": "
         "\"2_Normalize\", "
         "\"type\": \"sentence_transformers.models.Normalize\"}");
    encoder = open_encoder(backend, base, options);
    assert_string_equal(encoder.id, id); // a Normalize module that is not asked for
    sentence_encoder_close(&encoder);

    options.normalize = true;
    encoder = open_encoder(backend, base, options);
    assert_string_not_equal(encoder.id, id);
    int32_t length[COUNT];
    float *embedding = malloc(COUNT * (size_t)encoder.channels * sizeof *embedding);
    sentence_encoder_encode(&encoder, COUNT, SENTENCES, length, NULL, embedding);
    for (int i = 0; i < COUNT; i++) {
        double sum = 0;
        for (int c = 0; c < encoder.channels; c++) sum += pow(embedding[i * encoder.channels + c], 2);
        assert_true(fabs(sum - 1) < 1e-6);
    }
    free(embedding);
    sentence_encoder_close(&encoder);
    remove_folder(base);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_fixture),
        cmocka_unit_test(test_small_mpnet_fixture),
        cmocka_unit_test(test_published_fixture),
        cmocka_unit_test(test_embedding_is_mean_of_states),
        cmocka_unit_test(test_neighbours_do_not_matter),
        cmocka_unit_test(test_most_tokens),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_broken_weights),
        cmocka_unit_test(test_too_many_tokens),
        cmocka_unit_test(test_folder_tokens),
        cmocka_unit_test(test_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
