/* clip.h5: what is read of it, and what is refused. */
#include "phases/clip_file.h"

#include "base/check.h"
#include "base/random.h"
#include "models/weights.h"
#include "support/faults.h"
#include "support/files.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const char CONFIG[] = "{\"hidden_size\": 16, \"intermediate_size\": 24, \"num_hidden_layers\": 2, "
                             "\"num_attention_heads\": 2, \"image_size\": 12, \"patch_size\": 4, "
                             "\"projection_dim\": 10}";
enum { SIZE = 12, P = 10, D = 7, VALUES = SIZE * SIZE * 3, PICTURES = 70 };

/* fp32 sums over two layers, of packed weights and of others. */
static const double TOLERANCE = 2e-6;

/* What is written: how a file of pretrain looks, or how one is wrong. */
struct contents {
    const char *config;
    double deviation;
    bool checkpoint;
};

static struct clip *network(struct backend *backend)
{
    struct fault fault = {0};
    struct clip_vision_config config;
    GOOD(clip_vision_config_parse(&config, CONFIG, "config", &fault));
    struct clip *clip = clip_new(backend, &config, D);
    parameter_set_allocate(&clip->parameters, false);
    clip_initialise(clip, 3);
    for (int c = 0; c < 3; c++) clip->mean[c] = 0.4f + 0.1f * (float)c;
    return clip;
}

static void write_file(const char *path, const struct clip *clip, struct contents contents)
{
    struct fault fault = {0};
    struct h5_writer *writer;
    double mean[3], deviation[3];
    for (int c = 0; c < 3; c++) {
        mean[c] = clip->mean[c];
        deviation[c] = contents.deviation;
    }
    struct h5_provenance provenance = {.program = "test",
                                       .commit = "test",
                                       .deck = "",
                                       .ranks = 1,
                                       .hosts = "here",
                                       .backend = "cpu fp32",
                                       .time = "2000-01-01T00:00:00Z"};
    GOOD(h5_create(path, FILE_CLIP, &writer, &fault));
    GOOD(h5_write_text(writer, "config", contents.config, &fault));
    GOOD(weights_write_h5(&clip->parameters, NULL, writer, "weights", false, &fault));
    GOOD(h5_write_double(writer, "image/mean", 1, (int64_t[]){3}, mean, &fault));
    GOOD(h5_write_double(writer, "image/deviation", 1, (int64_t[]){3}, deviation, &fault));
    GOOD(h5_write_text(writer, "encoder/sentence", "the encoder", &fault));
    if (contents.checkpoint) GOOD(h5_write_one_int64(writer, "optimizer/step", 4, &fault));
    GOOD(h5_finish(writer, &provenance, NULL, &fault));
}

/* A file beside its network, whose weights are not packed. */
struct example {
    char *folder, *path;
    struct backend *backend;
    struct clip *clip;
    struct tape *tape;
    uint8_t *rgb; /* [PICTURES, SIZE, SIZE, 3] */
};

static int setup(void **state)
{
    struct example *example = check_calloc(1, sizeof *example);
    example->folder = scratch_make();
    example->path = scratch_path(example->folder, "clip.h5");
    example->backend = backend_open(BACKEND_CPU);
    example->clip = network(example->backend);
    example->tape = tape_new(example->backend, DTYPE_F32);
    example->rgb = check_malloc(PICTURES * VALUES);
    for (int i = 0; i < PICTURES * VALUES; i++)
        example->rgb[i] = (uint8_t)random_below((struct random_key){1, RANDOM_TEST, 0, 0}, (uint64_t)i, 256);
    write_file(example->path, example->clip, (struct contents){CONFIG, 0.5, false});
    *state = example;
    return 0;
}

static int teardown(void **state)
{
    struct example *example = *state;
    free(example->rgb);
    tape_delete(example->tape);
    clip_delete(example->clip);
    backend_close(example->backend);
    scratch_remove(example->folder);
    free(example->path);
    free(example);
    return 0;
}

static struct clip_file read_file(struct example *example)
{
    struct fault fault = {0};
    struct clip_file file;
    GOOD(clip_file_read(example->path, example->backend, DTYPE_F32, &file, &fault));
    return file;
}

static void expect_near(int64_t count, const float *found, const float *expected)
{
    double error = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        assert_true(isfinite(found[i]));
        error = fmax(error, fabs((double)found[i] - expected[i]));
        largest = fmax(largest, fabs(expected[i]));
    }
    if (!(error <= TOLERANCE * largest)) fail_msg("off by %g of %g", error, largest);
}

static void sizes_are_told(void **state)
{
    struct clip_file file = read_file(*state);
    assert_int_equal(file.image_size, SIZE);
    assert_int_equal(file.width, P);
    assert_int_equal(file.embedding_width, D);
    assert_string_equal(file.sentence_encoder, "the encoder");
    assert_int_equal(strlen(file.content_id), SHA256_HEX_SIZE - 1);
    clip_file_clear(&file);
}

/* The pixels are made here by hand, and go through the network all at once. */
static void image_features_are_the_networks(void **state)
{
    struct example *example = *state;
    struct fault fault = {0};
    struct clip_file file = read_file(example);
    float *found = check_malloc(PICTURES * P * sizeof *found),
          *expected = check_malloc(PICTURES * P * sizeof *found);
    float *pixels = check_malloc(PICTURES * VALUES * sizeof *pixels);
    GOOD(clip_file_image_features(example->tape, &file, PICTURES, SIZE, SIZE, example->rgb, found, &fault));
    for (int i = 0; i < PICTURES * VALUES; i++)
        pixels[i] = (example->rgb[i] / 255.0f - (0.4f + 0.1f * (float)(i % 3))) / 0.5f;
    tape_reset(example->tape, TAPE_NO_GRADIENT);
    struct tensor *input =
        tape_input(example->tape, DTYPE_F32, 4, (int64_t[]){PICTURES, SIZE, SIZE, 3}, pixels);
    tape_read(example->tape, clip_vision_forward(example->tape, example->clip->vision, input), expected);
    expect_near(PICTURES * P, found, expected);
    free(pixels);
    free(expected);
    free(found);
    clip_file_clear(&file);
}

/* Alone or among others, at any place: the same bits. */
static void features_are_a_pictures_own(void **state)
{
    struct example *example = *state;
    struct fault fault = {0};
    struct clip_file file = read_file(example);
    float all[PICTURES * P], some[PICTURES * P];
    GOOD(clip_file_image_features(example->tape, &file, PICTURES, SIZE, SIZE, example->rgb, all, &fault));
    const int first[] = {0, 33, 69, 5, 20}, count[] = {1, 1, 1, 40, 32};
    for (int i = 0; i < 5; i++) {
        GOOD(clip_file_image_features(example->tape, &file, count[i], SIZE, SIZE,
                                      example->rgb + first[i] * VALUES, some, &fault));
        assert_memory_equal(some, all + first[i] * P, (size_t)(count[i] * P) * sizeof *some);
    }
    GOOD(clip_file_image_features(example->tape, &file, 0, SIZE, SIZE, NULL, NULL, &fault));
    clip_file_clear(&file);
}

static void text_features_are_the_networks(void **state)
{
    struct example *example = *state;
    struct clip_file file = read_file(example);
    float z[4 * D], found[4 * P], expected[4 * P];
    random_normal((struct random_key){1, RANDOM_TEST, 1, 0}, 4 * D, z);
    clip_file_text_features(&file, 4, z, found);
    tape_reset(example->tape, TAPE_NO_GRADIENT);
    struct tensor *input = tape_input(example->tape, DTYPE_F32, 2, (int64_t[]){4, D}, z);
    tape_read(example->tape, clip_text_forward(example->tape, example->clip, input), expected);
    expect_near(4 * P, found, expected);
    clip_file_clear(&file);
}

static void pictures_of_another_size_are_refused(void **state)
{
    struct example *example = *state;
    struct fault fault = {0};
    struct clip_file file = read_file(example);
    float features[P];
    FAILS(clip_file_image_features(example->tape, &file, 1, SIZE, SIZE + 1, example->rgb, features, &fault),
          EXIT_CODE_INPUT, "12 x 13 pixels");
    FAILS(clip_file_image_features(example->tape, &file, 1, SIZE / 2, SIZE, example->rgb, features, &fault),
          EXIT_CODE_INPUT, "allowed: 12 a side");
    clip_file_clear(&file);
}

static void another_sentence_encoder_is_refused(void **state)
{
    struct example *example = *state;
    struct fault fault = {0};
    struct clip_file file = read_file(example);
    GOOD(clip_file_check_encoder(&file, "the encoder", "data.h5", &fault));
    FAILS(clip_file_check_encoder(&file, "another", "data.h5", &fault), EXIT_CODE_INPUT,
          "different sentence encoders (the encoder, another)");
    clip_file_clear(&file);
}

static void wrong_files_are_refused(void **state)
{
    struct example *example = *state;
    struct fault fault = {0};
    struct clip_file file;
    char *path = scratch_path(example->folder, "wrong.h5");
    const struct {
        struct contents contents;
        const char *message;
    } cases[] = {
        {{CONFIG, 0.5, true}, "is the checkpoint of a run"},
        {{CONFIG, 0.0, false}, "image/deviation[0] = 0"},
        {{CONFIG, NAN, false}, "image/deviation[0]"},
        {{"{\"projection_dim\": 11}", 0.5, false}, "weights/text_projection.weight"},
        {{"{\"projection_dim\": 10}", 0.5, false}, "weights do not fit the network"},
        {{"{\"projection_dim\": 10, \"num_channels\": 1}", 0.5, false}, "pictures of 1 channels"},
        {{"{\"projection_dim\": 10, \"hidden_act\": \"relu\"}", 0.5, false}, "activation relu"},
        {{"{", 0.5, false}, "wrong.h5"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(path, example->clip, cases[i].contents);
        FAILS(clip_file_read(path, example->backend, DTYPE_F32, &file, &fault), EXIT_CODE_INPUT,
              cases[i].message);
        assert_null(file.clip); // nothing to free
    }
    FAILS(clip_file_read("input/emoji/teacher.h5", example->backend, DTYPE_F32, &file, &fault),
          EXIT_CODE_INPUT, "teacher");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_told),
        cmocka_unit_test(image_features_are_the_networks),
        cmocka_unit_test(features_are_a_pictures_own),
        cmocka_unit_test(text_features_are_the_networks),
        cmocka_unit_test(pictures_of_another_size_are_refused),
        cmocka_unit_test(another_sentence_encoder_is_refused),
        cmocka_unit_test(wrong_files_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
