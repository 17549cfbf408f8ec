/* preprocessor_config.json in the forms of several versions, and its refusals; verify compares what it makes
 * of pictures with transformers. */
#include "models/clip_preprocessor.h"

#include "base/check.h"
#include "support/faults.h"
#include "support/files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* ViT-L/14-336's, of an early version. */
static const char PUBLISHED[] =
    "{\"crop_size\": 336, \"do_center_crop\": true, \"do_normalize\": true, \"do_resize\": true, "
    "\"feature_extractor_type\": \"CLIPFeatureExtractor\", \"image_mean\": [0.48145466, 0.4578275, "
    "0.40821073], \"image_std\": [0.26862954, 0.26130258, 0.27577711], \"resample\": 3, \"size\": 336}";

/* A later version's, of other values. */
static const char LATER[] =
    "{\"crop_size\": {\"height\": 20, \"width\": 20}, \"data_format\": \"channels_first\", "
    "\"default_to_square\": false, \"device\": null, \"disable_grouping\": null, \"do_center_crop\": true, "
    "\"do_convert_rgb\": true, \"do_normalize\": true, \"do_pad\": null, \"do_rescale\": true, "
    "\"do_resize\": "
    "true, \"image_mean\": [0.5, 0.25, 0], \"image_processor_type\": \"CLIPImageProcessorFast\", "
    "\"image_std\": [1, 2, 4], \"input_data_format\": null, \"pad_size\": null, \"resample\": 2, "
    "\"rescale_factor\": 0.00392156862745098, \"return_tensors\": null, \"size\": {\"shortest_edge\": 30}}";

static bool parse(struct clip_preprocessor *preprocessor, const char *text, struct fault *fault)
{
    struct json_document *document;
    if (!json_parse(text, strlen(text), "config", &document, fault)) return false;
    bool ok = clip_preprocessor_read(preprocessor, json_root(document), fault);
    json_free(document);
    return ok;
}

static void expect_usual(const struct clip_preprocessor *found, int size)
{
    const float mean[] = {0.48145466f, 0.4578275f, 0.40821073f},
                deviation[] = {0.26862954f, 0.26130258f, 0.27577711f};
    assert_int_equal(found->crop.filter, IMAGE_BICUBIC);
    assert_int_equal(found->crop.margin, IMAGE_MARGIN_DOWN);
    assert_int_equal(found->crop.shorter, size);
    assert_int_equal(found->crop.crop, size);
    assert_memory_equal(found->mean, mean, sizeof mean);
    assert_memory_equal(found->deviation, deviation, sizeof deviation);
}

static void expect_later(const struct clip_preprocessor *found)
{
    const float mean[] = {0.5f, 0.25f, 0}, deviation[] = {1, 2, 4};
    assert_int_equal(found->crop.filter, IMAGE_BILINEAR);
    assert_int_equal(found->crop.margin, IMAGE_MARGIN_DOWN);
    assert_int_equal(found->crop.shorter, 30);
    assert_int_equal(found->crop.crop, 20);
    assert_memory_equal(found->mean, mean, sizeof mean);
    assert_memory_equal(found->deviation, deviation, sizeof deviation);
}

static void every_form_is_read(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_preprocessor found;
    GOOD(parse(&found, PUBLISHED, &fault));
    expect_usual(&found, 336);
    GOOD(parse(&found, LATER, &fault));
    expect_later(&found);
    GOOD(parse(&found, "{}", &fault));
    expect_usual(&found, 224);
}

/* A folder's own file, the newer shared one, neither. */
static void the_folder_says(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_preprocessor found;
    char *folder = scratch_make();
    char *own = scratch_path(folder, "preprocessor_config.json");
    char *shared = scratch_path(folder, "processor_config.json");
    char *text = check_format("{\"image_processor\": %s, \"processor_class\": \"CLIPProcessor\"}", LATER);
    GOOD(clip_preprocessor_open(&found, folder, 40, &fault));
    expect_usual(&found, 40);
    file_write(shared, text, strlen(text));
    GOOD(clip_preprocessor_open(&found, folder, 40, &fault));
    expect_later(&found);
    file_write(own, PUBLISHED, sizeof PUBLISHED - 1);
    GOOD(clip_preprocessor_open(&found, folder, 40, &fault));
    expect_usual(&found, 336);
    file_write(own, "{", 1);
    FAILS(clip_preprocessor_open(&found, folder, 40, &fault), EXIT_CODE_INPUT, "preprocessor_config.json");
    FAILS(clip_preprocessor_open(&found, "nowhere", 40, &fault), EXIT_CODE_INPUT, "nowhere: No such file");
    free(text);
    free(shared);
    free(own);
    scratch_remove(folder);
}

static void other_things_are_refused_by_name(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_preprocessor found;
    const char *const cases[][2] = {
        {"{\"do_resize\": false}", "do_resize: this value is not supported, only true"},
        {"{\"do_center_crop\": false}", "do_center_crop"},
        {"{\"do_normalize\": false}", "do_normalize"},
        {"{\"do_rescale\": false}", "do_rescale"},
        {"{\"do_pad\": true}", "do_pad"},
        {"{\"default_to_square\": true}", "default_to_square"},
        {"{\"resample\": 1}", "resample"},
        {"{\"resample\": 0}", "resample"},
        {"{\"rescale_factor\": 0.00784313725490196}", "rescale_factor"},
        {"{\"size\": {\"height\": 224, \"width\": 224}}", "size: 2 members, allowed: shortest_edge"},
        {"{\"size\": {\"longest_edge\": 224}}", "size"},
        {"{\"crop_size\": {\"height\": 224}}", "crop_size: 1 members, allowed: height and width"},
        {"{\"crop_size\": {\"height\": 224, \"width\": 200}}", "224 x 200, squares alone are allowed"},
        {"{\"crop_size\": 300}", "crop_size = 300 is larger than size = 224"},
        {"{\"size\": 0}", "size"},
        {"{\"size\": 1000000}", "size"},
        {"{\"image_mean\": [0.5, 0.5]}", "image_mean: 2 numbers"},
        {"{\"image_mean\": [0.5, 0.5, 0.5, 0.5]}", "image_mean"},
        {"{\"image_std\": [0.5, 0.5, 0]}", "image_std"},
        {"{\"do_reduce_labels\": false}", "do_reduce_labels: unknown key"},
        {"[]", "allowed an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(parse(&found, cases[i][0], &fault), EXIT_CODE_INPUT, cases[i][1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_is_read),
        cmocka_unit_test(the_folder_says),
        cmocka_unit_test(other_things_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
