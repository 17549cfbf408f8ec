// Resizing against Pillow and torchvision (test/reference/make_images.py), to the bit, and against PyTorch's
// formula; verify compares with transformers and PyTorch themselves.
#include "base/check.h"
#include "base/memory.h"
#include "io/hdf5_file.h"
#include "io/image_resample.h"
#include "support/faults.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct image load(struct h5_reader *fixture, const char *case_name, const char *name)
{
    struct fault fault = {0};
    struct h5_info info;
    struct image image;
    char *path = check_format("resize/%s/%s", case_name, name);
    GOOD(h5_load_uint8(fixture, path, 3, (int64_t[]){-1, -1, 3}, 1 << 20, &image.rgb, &info, &fault));
    image.height = (int)info.shape[0];
    image.width = (int)info.shape[1];
    free(path);
    return image;
}

/* Frees both pictures. */
static void expect_equal(struct image found, struct image expected, const char *what, const char *case_name)
{
    assert_int_equal(found.height, expected.height);
    assert_int_equal(found.width, expected.width);
    for (int i = 0; i < found.height * found.width * 3; i++)
        if (found.rgb[i] != expected.rgb[i])
            fail_msg("%s of %s: value %d is %d, expected %d", what, case_name, i, found.rgb[i],
                     expected.rgb[i]);
    image_free(&found);
    image_free(&expected);
}

static void equals_pillow_and_torchvision(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct h5_reader *fixture;
    struct h5_strings cases;
    int64_t size;
    GOOD(h5_open("test/io/fixtures/images.h5", FILE_REFERENCE, &fixture, &fault));
    GOOD(h5_attribute_int64(fixture, "resize", "size", &size, &fault));
    GOOD(h5_list(fixture, "resize", true, &cases, &fault));
    assert_int_equal(cases.count, 14);
    const struct image_crop crop = {IMAGE_BILINEAR, (int)size, (int)size, IMAGE_MARGIN_EVEN};
    for (int64_t i = 0; i < cases.count; i++) {
        const char *name = cases.item[i];
        struct image source = load(fixture, name, "input");
        expect_equal(image_resize_crop(&source, crop), load(fixture, name, "output"), "crop", name);
        expect_equal(image_resize(&source, IMAGE_BILINEAR, 24, 11), load(fixture, name, "stretched"),
                     "bilinear", name);
        expect_equal(image_resize(&source, IMAGE_BICUBIC, 24, 11), load(fixture, name, "bicubic"), "bicubic",
                     name);
        image_free(&source);
    }
    h5_strings_free(&cases);
    h5_close(fixture);
}

/* A crop is a part of the whole picture; an odd remainder is split as the margin says. */
static void crops_begin_where_they_should(void **state)
{
    (void)state;
    struct image source = image_new(6, 10);
    for (int i = 0; i < 6 * 10 * 3; i++) source.rgb[i] = (uint8_t)(i * 29);
    struct image whole = image_resize(&source, IMAGE_BICUBIC, 12, 20);
    const struct {
        enum image_margin margin;
        int crop, top, left;
    } cases[] = {
        {IMAGE_MARGIN_DOWN, 12, 0, 4}, {IMAGE_MARGIN_EVEN, 12, 0, 4}, {IMAGE_MARGIN_DOWN, 7, 2, 6},
        {IMAGE_MARGIN_EVEN, 7, 2, 6},  {IMAGE_MARGIN_DOWN, 5, 3, 7},  {IMAGE_MARGIN_EVEN, 5, 4, 8},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int crop = cases[k].crop;
        struct image expected = image_new(crop, crop);
        for (int y = 0; y < crop; y++)
            memcpy(expected.rgb + y * crop * 3,
                   whole.rgb + ((y + cases[k].top) * whole.width + cases[k].left) * 3, (size_t)crop * 3);
        expect_equal(
            image_resize_crop(&source, (struct image_crop){IMAGE_BICUBIC, 12, crop, cases[k].margin}),
            expected, "crop", cases[k].margin == IMAGE_MARGIN_DOWN ? "down" : "even");
    }
    image_free(&whole);
    image_free(&source);
}

/* Every place of the whole picture, equally often, whichever side is the longer one. */
static void random_crops_are_parts_of_the_whole(void **state)
{
    (void)state;
    enum { SIDE = 4, DRAWS = 4000 };
    const int sizes[3][2] = {{8, 11}, {11, 8}, {8, 8}}; // scaled: 4 x 5, 5 x 4, 4 x 4
    for (int k = 0; k < 3; k++) {
        struct image source = image_new(sizes[k][0], sizes[k][1]);
        for (int i = 0; i < source.height * source.width * 3; i++) source.rgb[i] = (uint8_t)(i * i * 29 >> 3);
        int places = k < 2 ? 2 : 1, found[2] = {0};
        struct image whole =
            image_resize(&source, IMAGE_BILINEAR, k == 1 ? SIDE + 1 : SIDE, k == 0 ? SIDE + 1 : SIDE);
        for (uint64_t draw = 0; draw < DRAWS; draw++) {
            struct image crop =
                image_random_crop(&source, (struct image_crop){IMAGE_BILINEAR, SIDE, SIDE, IMAGE_MARGIN_EVEN},
                                  (struct random_key){1, RANDOM_TEST, 7, draw});
            int matching = 0;
            for (int place = 0; place < places; place++) {
                int top = k == 1 ? place : 0, left = k == 0 ? place : 0, same = 1;
                for (int y = 0; y < SIDE; y++)
                    same &= memcmp(crop.rgb + y * SIDE * 3, whole.rgb + ((y + top) * whole.width + left) * 3,
                                   SIDE * 3) == 0;
                found[place] += same;
                matching += same;
            }
            assert_int_equal(matching, 1);
            image_free(&crop);
        }
        // Binomial, with a deviation of 32; six of them.
        if (places == 2) assert_in_range(found[0], DRAWS / 2 - 192, DRAWS / 2 + 192);
        image_free(&whole);
        image_free(&source);
    }
}

static void a_long_thin_picture_is_cropped_in_little_memory(void **state)
{
    (void)state;
    enum { LENGTH = 20000000 }; // scaled as a whole: 15 TB
    struct image source = image_new(1, LENGTH);
    for (int i = 0; i < LENGTH; i++) source.rgb[3 * (size_t)i] = i < LENGTH / 2 ? 0 : 200;
    struct image crop = image_resize_crop(&source, (struct image_crop){.shorter = 256, .crop = 256});
    assert_int_equal(crop.rgb[0], 0);
    assert_int_equal(crop.rgb[3 * 255], 200);
    image_free(&crop);

    // Standing, and in no more memory than a few of its rows take: all of them, 256 wide, would be 1.5 GB.
    source.height = LENGTH / 10;
    source.width = 1;
    size_t before = memory_peak_reset() ? memory_peak() : SIZE_MAX - (100 << 20);
    source.rgb[3 * (LENGTH / 20)] = 100;
    crop = image_resize_crop(&source, (struct image_crop){.shorter = 256, .crop = 256});
    assert_true(memory_peak() < before + (100 << 20));
    assert_int_equal(crop.rgb[0], 0);
    assert_int_equal(crop.rgb[3 * 256 * 255], 100);
    image_free(&crop);
    image_free(&source);
}

/* The two source pixels of a place, and the second one's weight, as in PyTorch's upsample_bilinear2d. */
static void neighbours(int in, int out, int x, int index[2], double *weight)
{
    double place = fmax((x + 0.5) * in / out - 0.5, 0);
    index[0] = (int)place;
    index[1] = index[0] + (index[0] < in - 1);
    *weight = place - index[0];
}

static void interpolation_is_pytorchs_formula(void **state)
{
    (void)state;
    const int cases[][4] = {{1, 1, 3, 2},  {1, 30, 4, 7},  {23, 1, 6, 6}, {5, 50, 13, 11},
                            {8, 8, 8, 16}, {40, 30, 7, 9}, {7, 9, 40, 30}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct image source = image_new(cases[k][0], cases[k][1]);
        int height = cases[k][2], width = cases[k][3];
        for (int i = 0; i < source.height * source.width * 3; i++) source.rgb[i] = (uint8_t)(i * 37 + i * i);
        float *found = check_malloc((size_t)(height * width * 3) * sizeof *found);
        image_interpolate(&source, height, width, found);
        for (int i = 0; i < height * width * 3; i++) {
            int y[2], x[2];
            double down, across, sum = 0;
            neighbours(source.height, height, i / 3 / width, y, &down);
            neighbours(source.width, width, i / 3 % width, x, &across);
            for (int corner = 0; corner < 4; corner++)
                sum += source.rgb[(y[corner / 2] * source.width + x[corner % 2]) * 3 + i % 3] *
                       (corner / 2 ? down : 1 - down) * (corner % 2 ? across : 1 - across);
            // Places in single precision, as PyTorch's: off by 1e-5 of one of 50 pixels, times 255.
            if (!(fabs(found[i] - sum) <= 3e-3)) fail_msg("case %zu: %d is %g, not %g", k, i, found[i], sum);
        }
        free(found);
        image_free(&source);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow_and_torchvision),
        cmocka_unit_test(crops_begin_where_they_should),
        cmocka_unit_test(random_crops_are_parts_of_the_whole),
        cmocka_unit_test(a_long_thin_picture_is_cropped_in_little_memory),
        cmocka_unit_test(interpolation_is_pytorchs_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
