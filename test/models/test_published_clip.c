/* A published CLIP folder: features of pictures of any size and of texts against transformers'
 * (test/reference/clip.py, metric_networks.py), what they and the id depend on, and folders that are refused.
 */
#include "models/published_clip.h"

#include "base/check.h"
#include "io/hdf5_file.h"
#include "models/clip_folder.h"
#include "support/faults.h"
#include "support/files.h"
#include "support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define FOLDER "test/fixtures/clip_vision_whole"
enum { PICTURES = 5, P = 11, MANY = 19 }; /* MANY: two full batches and a part of one */

/* fp32 sums over two layers: PyTorch's own fp32 is 4e-7 of the largest value away from the fp64 reference. */
static const double TOLERANCE = 2e-6;

static struct backend *backend;

static int open_backend(void **state)
{
    (void)state;
    backend = backend_open(BACKEND_CPU);
    return 0;
}

static int close_backend(void **state)
{
    (void)state;
    backend_close(backend);
    return 0;
}

static void load_pictures(struct image picture[PICTURES])
{
    struct fault fault = {0};
    struct h5_reader *reader;
    GOOD(h5_open(FOLDER ".h5", FILE_REFERENCE, &reader, &fault));
    for (int i = 0; i < PICTURES; i++) {
        struct h5_info info;
        char name[] = {'p', 'i', 'c', 't', 'u', 'r', 'e', 's', '/', (char)('0' + i), 0};
        GOOD(h5_load_uint8(reader, name, 3, (int64_t[]){-1, -1, 3}, 1 << 20, &picture[i].rgb, &info, &fault));
        picture[i].height = (int)info.shape[0];
        picture[i].width = (int)info.shape[1];
    }
    h5_close(reader);
}

static void features_are_those_of_transformers(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct published_clip clip;
    struct image picture[PICTURES];
    float found[PICTURES * P];
    load_pictures(picture);
    struct fixture *fixture = fixture_open("clip_vision_whole");
    const double *expected = fixture_doubles(fixture, "outputs/image_embeds");
    GOOD(published_clip_open(&clip, backend, FOLDER, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault));
    assert_int_equal(clip.width, P);
    published_clip_image_features(&clip, PICTURES, picture, found);
    double error = 0, largest = 0;
    for (int i = 0; i < PICTURES * P; i++) {
        error = fmax(error, fabs(found[i] - expected[i]));
        largest = fmax(largest, fabs(expected[i]));
    }
    if (!(error <= TOLERANCE * largest)) fail_msg("off by %g of %g", error, largest);
    for (int i = 0; i < PICTURES; i++) image_free(&picture[i]);
    published_clip_close(&clip);
    fixture_close(fixture);
}

/* Bit for bit, whatever is computed beside it. */
static void a_picture_has_its_features(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct published_clip clip;
    struct image picture[PICTURES], many[MANY];
    float alone[PICTURES * P], found[MANY * P];
    load_pictures(picture);
    for (int i = 0; i < MANY; i++) many[i] = picture[i * i % PICTURES];
    GOOD(published_clip_open(&clip, backend, FOLDER, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault));
    for (int i = 0; i < PICTURES; i++) published_clip_image_features(&clip, 1, &picture[i], alone + i * P);
    published_clip_image_features(&clip, MANY, many, found);
    for (int i = 0; i < MANY; i++)
        assert_memory_equal(found + i * P, alone + i * i % PICTURES * P, P * sizeof *alone);
    published_clip_image_features(&clip, 0, many, NULL);
    for (int i = 0; i < PICTURES; i++) image_free(&picture[i]);
    published_clip_close(&clip);
}

/* A copy of the folder, in which `from` stands as `to` in one file; the caller frees the name and the folder.
 */
static char *changed_folder(const char *changed, const char *from, const char *to)
{
    static const char *const names[] = {"config.json", "preprocessor_config.json", "model.safetensors"};
    char *folder = scratch_make();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        char *source = check_format(FOLDER "/%s", names[i]), *path = scratch_path(folder, names[i]);
        char *data = file_bytes(source, &size);
        if (strcmp(names[i], changed) == 0) {
            char *place = strstr(data, from);
            if (!place) fail_msg("%s has no %s", changed, from);
            char *text = check_format("%.*s%s%s", (int)(place - data), data, to, place + strlen(from));
            file_write(path, text, strlen(text));
            free(text);
        } else {
            file_write(path, data, size);
        }
        free(data);
        free(path);
        free(source);
    }
    return folder;
}

/* "The same": the file is another, what features depend on is not. */
static void the_id_is_of_what_features_depend_on(void **state)
{
    (void)state;
    struct fault fault = {0};
    const struct {
        const char *name, *from, *to;
        bool same;
    } cases[] = {
        {"config.json", "\"logit_scale_init_value\": 2.6592", "\"logit_scale_init_value\": 2.5", true},
        {"preprocessor_config.json", "\"do_convert_rgb\": true", "\"do_convert_rgb\": false", true},
        {"preprocessor_config.json", "0.48145466", "0.5", false},
        {"preprocessor_config.json", "0.26130258", "0.5", false},
        {"preprocessor_config.json", "\"resample\": 3", "\"resample\": 2", false},
        {"preprocessor_config.json", "\"shortest_edge\": 17", "\"shortest_edge\": 18", false},
    };
    struct published_clip clip;
    char id[SHA256_HEX_SIZE];
    GOOD(published_clip_open(&clip, backend, FOLDER, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault));
    memcpy(id, clip.id, sizeof id);
    published_clip_close(&clip);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = changed_folder(cases[i].name, cases[i].from, cases[i].to);
        GOOD(published_clip_open(&clip, backend, folder, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault));
        if ((strcmp(clip.id, id) == 0) != cases[i].same) fail_msg("%s: id %s", cases[i].to, clip.id);
        published_clip_close(&clip);
        scratch_remove(folder);
    }
    // Another weight: the last byte of the file belongs to one of the image encoder's.
    size_t size;
    char *folder = changed_folder("config.json", "2.6592", "2.6592"),
         *path = scratch_path(folder, "model.safetensors"), *data = file_bytes(path, &size);
    data[size - 2] ^= 1;
    file_write(path, data, size);
    GOOD(published_clip_open(&clip, backend, folder, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault));
    assert_string_not_equal(clip.id, id);
    published_clip_close(&clip);
    free(data);
    free(path);
    scratch_remove(folder);
}

static void other_folders_are_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct published_clip clip;
    const char *const cases[][4] = {
        {"config.json", "\"vision_config\"", "\"_vision_config\"", "vision_config"},
        {"config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 3",
         "vision_config_dict: another encoder than vision_config's"},
        {"config.json", "\"model_type\": \"clip\"", "\"model_type\": \"clip_vision_model\"", "unknown key"},
        {"config.json", "\"projection_dim\": 11", "\"projection_dim\": 12",
         "visual_projection.weight is [11, 24], allowed [12, 24]"},
        {"config.json", "\"text_config\"", "\"sound_config\"", "sound_config: unknown key"},
        {"preprocessor_config.json", "\"height\": 15,\n    \"width\": 15", "\"height\": 16, \"width\": 16",
         "the preprocessor makes 16 pixels a side, the image encoder reads 15"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *folder = changed_folder(cases[i][0], cases[i][1], cases[i][2]);
        FAILS(published_clip_open(&clip, backend, folder, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault),
              EXIT_CODE_INPUT, cases[i][3]);
        scratch_remove(folder);
    }
    FAILS(published_clip_open(&clip, backend, "test/fixtures/clip_vision_gelu", PUBLISHED_CLIP_IMAGE,
                              DTYPE_F32, &fault),
          EXIT_CODE_INPUT, "pictures of 2 channels, 3 allowed");
    FAILS(published_clip_open(&clip, backend, "none", PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault),
          EXIT_CODE_INPUT, "No such file");
    published_clip_close(&clip);
}

#define WHOLE "test/fixtures/clip_metric"

/* From text to text_embeds: tokens, padding, truncation, the end token, projection. */
static void text_features_are_those_of_transformers(void **state)
{
    (void)state;
    enum { TEXTS = 7, WIDTH = 9, REPEATED = 3 * TEXTS };
    struct fault fault = {0};
    struct published_clip clip;
    struct h5_reader *reader;
    struct h5_strings text;
    float found[REPEATED * WIDTH];
    const char *repeated[REPEATED];
    int64_t cut[REPEATED];
    GOOD(h5_open("test/fixtures/metric_networks.h5", FILE_REFERENCE, &reader, &fault));
    GOOD(h5_read_strings(reader, "inputs/text", 0, TEXTS, 1 << 16, &text, &fault));
    h5_close(reader);
    struct fixture *fixture = fixture_open("metric_networks");
    const double *expected = fixture_doubles(fixture, "outputs/text_embeds");
    GOOD(published_clip_open(&clip, backend, WHOLE, PUBLISHED_CLIP_IMAGE_AND_TEXT, DTYPE_F32, &fault));
    assert_int_equal(clip.width, WIDTH);
    assert_int_equal(clip.tokens, 20);
    published_clip_text_features(&clip, TEXTS, (const char *const *)text.item, found, cut);
    double error = 0, largest = 0;
    for (int i = 0; i < TEXTS * WIDTH; i++) {
        error = fmax(error, fabs(found[i] - expected[i]));
        largest = fmax(largest, fabs(expected[i]));
    }
    if (!(error <= TOLERANCE * largest)) fail_msg("off by %g of %g", error, largest);
    assert_int_equal(cut[5], 0); // 18 words and the two marks are 20 tokens
    assert_int_equal(cut[6], 1);
    // A text has its features bit for bit, whatever is computed beside it.
    float many[REPEATED * WIDTH];
    for (int i = 0; i < REPEATED; i++) repeated[i] = text.item[i * i % TEXTS];
    published_clip_text_features(&clip, REPEATED, repeated, many, NULL);
    for (int i = 0; i < REPEATED; i++)
        assert_memory_equal(many + i * WIDTH, found + i * i % TEXTS * WIDTH, WIDTH * sizeof *found);
    published_clip_text_features(&clip, 0, NULL, NULL, NULL);
    published_clip_close(&clip);
    h5_strings_free(&text);
    fixture_close(fixture);
}

/* With the text tower the id is of both and of the tokenizer; without, its features are the same pictures'.
 */
static void the_text_tower_is_a_part_of_the_id(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct published_clip image, both, padded;
    struct image picture[PICTURES];
    float of_image[PICTURES * P], of_both[PICTURES * P];
    static const char *const names[] = {"config.json",       "preprocessor_config.json",
                                        "model.safetensors", "vocab.json",
                                        "merges.txt",        "tokenizer_config.json"};
    load_pictures(picture);
    GOOD(published_clip_open(&image, backend, WHOLE, PUBLISHED_CLIP_IMAGE, DTYPE_F32, &fault));
    GOOD(published_clip_open(&both, backend, WHOLE, PUBLISHED_CLIP_IMAGE_AND_TEXT, DTYPE_F32, &fault));
    assert_string_not_equal(image.id, both.id);
    published_clip_image_features(&image, PICTURES, picture, of_image);
    published_clip_image_features(&both, PICTURES, picture, of_both);
    assert_memory_equal(of_image, of_both, PICTURES * (size_t)image.width * sizeof *of_image);
    // Padding by another token: another tokenizer.
    char *folder = scratch_make();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        char *source = check_format(WHOLE "/%s", names[i]), *path = scratch_path(folder, names[i]),
             *data = file_bytes(source, &size);
        char *padding = i == 5 ? strstr(data, "\"pad_token\": \"<|endoftext|>\"") : NULL;
        if (padding) memcpy(padding + 13, "\"!\"            ", 15);
        file_write(path, data, size);
        free(data);
        free(path);
        free(source);
    }
    GOOD(published_clip_open(&padded, backend, folder, PUBLISHED_CLIP_IMAGE_AND_TEXT, DTYPE_F32, &fault));
    assert_string_not_equal(padded.id, both.id);
    published_clip_close(&padded);
    published_clip_close(&both);
    published_clip_close(&image);
    for (int i = 0; i < PICTURES; i++) image_free(&picture[i]);
    scratch_remove(folder);
}

static void folders_without_a_text_tower_are_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct published_clip clip;
    const char *const cases[][2] = {
        {FOLDER, "neither tokenizer.json nor both of vocab.json and merges.txt are there"},
        {"test/fixtures/clip_vision_quick", "image_size: unknown key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(published_clip_open(&clip, backend, cases[i][0], PUBLISHED_CLIP_IMAGE_AND_TEXT, DTYPE_F32,
                                  &fault),
              EXIT_CODE_INPUT, cases[i][1]);
}

/* The text encoder's weights may be there in the folder of a whole model alone. */
static void an_image_encoder_has_no_text_weights(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct parameter_set set;
    static const char VISION[] =
        "{\"model_type\": \"clip_vision_model\", \"hidden_size\": 24, \"image_size\": 15, "
        "\"intermediate_size\": 36, \"layer_norm_eps\": 1e-4, \"num_attention_heads\": 4, "
        "\"num_hidden_layers\": 2, \"patch_size\": 5, \"projection_dim\": 11}";
    char *folder = changed_folder("config.json", "2.6592", "2.6592"),
         *path = scratch_path(folder, "config.json");
    file_write(path, VISION, sizeof VISION - 1);
    FAILS(clip_vision_open(&set, backend, folder, false, &fault), EXIT_CODE_INPUT,
          "that the network does not have");
    assert_int_equal(set.count, 0);
    free(path);
    scratch_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_those_of_transformers),
        cmocka_unit_test(a_picture_has_its_features),
        cmocka_unit_test(the_id_is_of_what_features_depend_on),
        cmocka_unit_test(other_folders_are_refused),
        cmocka_unit_test(an_image_encoder_has_no_text_weights),
        cmocka_unit_test(text_features_are_those_of_transformers),
        cmocka_unit_test(the_text_tower_is_a_part_of_the_id),
        cmocka_unit_test(folders_without_a_text_tower_are_refused),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
