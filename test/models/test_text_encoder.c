/* Stable Diffusion's text encoder: tokenizer and model together (verify compares it with transformers). */
#include "models/text_encoder.h"

#include "base/check.h"
#include "support/faults.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MODEL "test/fixtures/sd2_text_small/text_encoder"
#define TOKENIZER "test/fixtures/sd2_text_small/tokenizer"

static const char *const TEXTS[] = {
    "a red bird!", "",       "an oil painting of a ship in a stormy sea, in a style", "!", "the the the",
    "x",           "The end"};
enum { COUNT = sizeof TEXTS / sizeof *TEXTS, T = 20, D = 20 };

struct encoded {
    int32_t ids[COUNT][T];
    float states[COUNT][T][D];
    int64_t cut[COUNT];
};

static struct text_encoder open_encoder(struct backend *backend, const char *model, const char *tokenizer,
                                        int batch)
{
    struct fault fault = {0};
    struct text_encoder encoder;
    GOOD(text_encoder_open(&encoder, backend, model, tokenizer,
                           (struct text_encoder_options){.batch = batch, .dtype = DTYPE_F32}, &fault));
    assert_int_equal(encoder.tokens, T);
    assert_int_equal(encoder.channels, D);
    return encoder;
}

/* Neither the others in a batch nor their number change a text's states, bit for bit. */
static void neighbours_do_not_matter(void **state)
{
    (void)state;
    static struct encoded all, one;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct text_encoder encoder = open_encoder(backend, MODEL, TOKENIZER, 3);
    text_encoder_encode(&encoder, COUNT, TEXTS, all.ids[0], all.states[0][0], all.cut);
    for (int i = 0; i < COUNT; i++) {
        text_encoder_encode(&encoder, 1, &TEXTS[i], one.ids[0], one.states[0][0], NULL);
        assert_memory_equal(one.ids[0], all.ids[i], sizeof all.ids[i]);
        assert_memory_equal(one.states[0], all.states[i], sizeof all.states[i]);
    }
    for (int i = 1; i < COUNT; i++)
        assert_memory_not_equal(all.states[0], all.states[i], sizeof all.states[i]);
    text_encoder_close(&encoder);
    backend_close(backend);
}

static void what_is_cut_is_told(void **state)
{
    (void)state;
    static struct encoded all;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct text_encoder encoder = open_encoder(backend, MODEL, TOKENIZER, 4);
    text_encoder_encode(&encoder, COUNT, TEXTS, all.ids[0], all.states[0][0], all.cut);
    for (int i = 0; i < COUNT; i++) {
        int32_t whole[200];
        int length;
        clip_bpe_encode(encoder.tokenizer, TEXTS[i], strlen(TEXTS[i]), 200, whole, &length);
        assert_int_equal(all.cut[i], length > T ? length - T : 0);
        assert_memory_equal(all.ids[i], whole, (T - 1) * sizeof *whole);
    }
    assert_true(all.cut[2] > 0);
    text_encoder_close(&encoder);
    backend_close(backend);
}

// ---- folders

/* A file of one folder in another, with `old` replaced (NULL: as it is). */
static void copy_file(const char *from, const char *to, const char *name, const char *old, const char *new)
{
    char *source = scratch_path(from, name), *target = scratch_path(to, name);
    size_t size;
    char *bytes = file_bytes(source, &size);
    if (old) {
        char *place = strstr(bytes, old);
        if (!place) fail_msg("%s has no %s", source, old);
        char *changed = check_format("%.*s%s%s", (int)(place - bytes), bytes, new, place + strlen(old));
        free(bytes);
        bytes = changed;
        size = strlen(changed);
    }
    file_write(target, bytes, size);
    free(bytes);
    free(source);
    free(target);
}

static void copy_model(const char *folder, const char *old, const char *new)
{
    copy_file(MODEL, folder, "config.json", old, new);
    copy_file(MODEL, folder, "model.safetensors", NULL, NULL);
}

/* The id is of what states depend on, not of places, forms of files, or the batch. */
static void identity(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct text_encoder encoder = open_encoder(backend, MODEL, TOKENIZER, 3);
    char id[SHA256_HEX_SIZE];
    memcpy(id, encoder.id, sizeof id);
    assert_int_equal(strlen(id), 64);
    text_encoder_close(&encoder);

    char *folder = scratch_make();
    copy_model(folder, "\"eos_token_id\": 2", "\"eos_token_id\": 663"); // of the projection alone
    encoder = open_encoder(backend, folder, "test/fixtures/sd2_text_small/tokenizer_saved", 1);
    assert_string_equal(encoder.id, id);
    text_encoder_close(&encoder);

    static const char *const change[][2] = {{"\"num_attention_heads\": 2", "\"num_attention_heads\": 4"},
                                            {"\"gelu\"", "\"quick_gelu\""},
                                            {"1e-05", "1e-06"}};
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        copy_model(folder, change[i][0], change[i][1]);
        encoder = open_encoder(backend, folder, TOKENIZER, 3);
        assert_string_not_equal(encoder.id, id);
        text_encoder_close(&encoder);
    }
    // The last value of the last weight.
    copy_model(folder, NULL, NULL);
    char *path = scratch_path(folder, "model.safetensors");
    size_t size;
    unsigned char *bytes = file_bytes(path, &size);
    bytes[size - 4] ^= 1;
    file_write(path, bytes, size);
    encoder = open_encoder(backend, folder, TOKENIZER, 3);
    assert_string_not_equal(encoder.id, id);
    text_encoder_close(&encoder);
    free(bytes);
    free(path);
    scratch_remove(folder);
    backend_close(backend);
}

static void tokenizer_and_model_must_fit(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct backend *backend = backend_open(BACKEND_CPU);
    struct text_encoder encoder;
    struct text_encoder_options options = {.batch = 1, .dtype = DTYPE_F32};
    char *folder = scratch_make();
    copy_file(TOKENIZER, folder, "vocab.json", NULL, NULL);
    copy_file(TOKENIZER, folder, "merges.txt", NULL, NULL);
    copy_file(TOKENIZER, folder, "special_tokens_map.json", NULL, NULL);
    copy_file(TOKENIZER, folder, "tokenizer_config.json", "\"model_max_length\": 20",
              "\"model_max_length\": 21");
    FAILS(text_encoder_open(&encoder, backend, MODEL, folder, options, &fault), EXIT_CODE_INPUT,
          "664 tokens, 21 a text, but vocab_size of");
    copy_file(TOKENIZER, folder, "tokenizer_config.json", "\"model_max_length\": 20",
              "\"model_max_length\": 11");
    FAILS(text_encoder_open(&encoder, backend, "test/fixtures/clip_text_quick", folder, options, &fault),
          EXIT_CODE_INPUT, "664 tokens, 11 a text, but vocab_size of test/fixtures/clip_text_quick is 53");
    FAILS(text_encoder_open(&encoder, backend, "test/fixtures/none", folder, options, &fault),
          EXIT_CODE_INPUT, "test/fixtures/none/config.json");
    FAILS(text_encoder_open(&encoder, backend, MODEL, "test/fixtures/none", options, &fault), EXIT_CODE_INPUT,
          "test/fixtures/none");
    scratch_remove(folder);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_do_not_matter),
        cmocka_unit_test(what_is_cut_is_told),
        cmocka_unit_test(identity),
        cmocka_unit_test(tokenizer_and_model_must_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
