/* Where z and the token states of a prompt come from. */
#include "base/check.h"
#include "models/prompt_encoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

#define SENTENCE "test/fixtures/bert_small"
#define PIPELINE "test/fixtures/pipeline_small"

enum { TEXTS = 3, BATCH = 2 };

static struct fault fault;
static const char *const texts[TEXTS] = {"a red apple", "",
                                         "two dogs, and a cat, and more than twelve tokens"};

struct encoded {
    int32_t length[TEXTS];
    float *states, *z;
};

static struct encoded encode(struct prompt_encoder *encoder)
{
    size_t states = (size_t)(encoder->tokens * encoder->text_width), width = (size_t)encoder->embedding_width;
    struct encoded encoded = {.states = check_malloc(TEXTS * states * sizeof(float)),
                              .z = check_malloc(TEXTS * width * sizeof(float))};
    prompt_encoder_encode(encoder, TEXTS, texts, encoded.length, encoded.states, encoded.z);
    return encoded;
}

static void forget(struct encoded *encoded)
{
    free(encoded->states);
    free(encoded->z);
}

static struct prompt_encoder_options options(const char *pipeline)
{
    return (struct prompt_encoder_options){
        .sentence_encoder = SENTENCE, .pipeline = pipeline, .batch = BATCH, .tokens = 9, .dtype = DTYPE_F32};
}

static void both_come_from_the_sentence_encoder(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct prompt_encoder encoder;
    GOOD(prompt_encoder_open(&encoder, backend, options(""), &fault));
    assert_int_equal(encoder.tokens, 9);
    assert_int_equal(encoder.text_width, encoder.embedding_width);
    assert_string_equal(prompt_encoder_states_id(&encoder), encoder.sentence.states_id);
    struct encoded ours = encode(&encoder);
    size_t states = (size_t)(encoder.tokens * encoder.text_width), width = (size_t)encoder.embedding_width;
    float *expected = check_malloc(TEXTS * states * sizeof *expected),
          *z = check_malloc(TEXTS * width * sizeof *z);
    int32_t length[TEXTS];
    sentence_encoder_encode(&encoder.sentence, TEXTS, texts, length, expected, z);
    assert_memory_equal(ours.length, length, sizeof length);
    assert_true(length[1] == 2 && length[2] == 9);
    assert_memory_equal(ours.states, expected, TEXTS * states * sizeof *expected);
    assert_memory_equal(ours.z, z, TEXTS * width * sizeof *z);
    free(expected);
    free(z);
    forget(&ours);
    prompt_encoder_close(&encoder);
    backend_close(backend);
}

static void states_come_from_the_pipeline(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct prompt_encoder encoder, plain;
    GOOD(prompt_encoder_open(&encoder, backend, options(PIPELINE), &fault));
    GOOD(prompt_encoder_open(&plain, backend, options(""), &fault));
    assert_int_equal(encoder.tokens, 12);
    assert_int_equal(encoder.text_width, 18);
    assert_string_equal(prompt_encoder_states_id(&encoder), encoder.text.id);
    assert_string_equal(prompt_encoder_embedding_id(&encoder), prompt_encoder_embedding_id(&plain));
    assert_string_not_equal(prompt_encoder_states_id(&encoder), prompt_encoder_states_id(&plain));
    struct encoded ours = encode(&encoder), theirs = encode(&plain);
    enum { VALUES = TEXTS * 12 * 18 };
    float expected[VALUES];
    int32_t ids[TEXTS * 12];
    text_encoder_encode(&encoder.text, TEXTS, texts, ids, expected, NULL);
    for (int i = 0; i < TEXTS; i++) assert_int_equal(ours.length[i], 12);
    assert_memory_equal(ours.states, expected, sizeof expected);
    assert_memory_equal(ours.z, theirs.z, TEXTS * (size_t)encoder.embedding_width * sizeof(float));
    forget(&ours);
    forget(&theirs);
    prompt_encoder_close(&plain);
    prompt_encoder_close(&encoder);
    backend_close(backend);
}

/* The states alone: the same as beside z, and a pipeline needs no sentence encoder for them. */
static void states_without_z(void **state)
{
    (void)state;
    static const char *const pipelines[] = {"", PIPELINE};
    struct backend *backend = backend_open(BACKEND_CPU);
    for (int i = 0; i < 2; i++) {
        struct prompt_encoder both, alone;
        struct prompt_encoder_options wanted = options(pipelines[i]);
        GOOD(prompt_encoder_open(&both, backend, wanted, &fault));
        if (*pipelines[i]) wanted.sentence_encoder = "";
        GOOD(prompt_encoder_open(&alone, backend, wanted, &fault));
        assert_true(alone.has_sentence == !*pipelines[i]);
        assert_int_equal(alone.embedding_width, *pipelines[i] ? 0 : both.embedding_width);
        assert_string_equal(prompt_encoder_embedding_id(&alone),
                            *pipelines[i] ? "" : prompt_encoder_embedding_id(&both));
        assert_string_equal(prompt_encoder_states_id(&alone), prompt_encoder_states_id(&both));
        struct encoded expected = encode(&both);
        size_t values = (size_t)(TEXTS * both.tokens * both.text_width);
        float *states = check_malloc(values * sizeof *states);
        int32_t length[TEXTS];
        prompt_encoder_encode(&alone, TEXTS, texts, length, states, NULL);
        assert_memory_equal(length, expected.length, sizeof length);
        assert_memory_equal(states, expected.states, values * sizeof *states);
        assert_true(prompt_encoder_peak(&alone) > 0 &&
                    prompt_encoder_peak(&alone) <= prompt_encoder_peak(&both));
        free(states);
        forget(&expected);
        prompt_encoder_close(&alone);
        prompt_encoder_close(&both);
    }
    backend_close(backend);
}

static void what_is_missing_is_named(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct prompt_encoder encoder;
    FAILS(prompt_encoder_open(&encoder, backend, options("test/fixtures/nothing"), &fault), EXIT_CODE_INPUT,
          "test/fixtures/nothing/tokenizer");
    struct prompt_encoder_options none = options(PIPELINE);
    none.sentence_encoder = "test/fixtures/nothing";
    FAILS(prompt_encoder_open(&encoder, backend, none, &fault), EXIT_CODE_INPUT, "test/fixtures/nothing");
    struct prompt_encoder_options neither = options("");
    neither.sentence_encoder = "";
    FAILS(prompt_encoder_open(&encoder, backend, neither, &fault), EXIT_CODE_INPUT, "");
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_come_from_the_sentence_encoder),
        cmocka_unit_test(states_come_from_the_pipeline),
        cmocka_unit_test(states_without_z),
        cmocka_unit_test(what_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
