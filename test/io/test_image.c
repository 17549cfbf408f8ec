// Pictures against Pillow (test/reference/make_images.py), bombs, damage, PNG writing.
#define _GNU_SOURCE // memmem
#include "base/check.h"
#include "base/memory.h"
#include "base/random.h"
#include "io/hdf5_file.h"
#include "io/image.h"
#include "support/files.h"

#include <arpa/inet.h>
#include <png.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <turbojpeg.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "support/faults.h"

static struct fault fault;
static struct h5_reader *fixture;
static char *folder;

static int open_fixture(void **state)
{
    (void)state;
    folder = scratch_make();
    return h5_open("test/io/fixtures/images.h5", FILE_REFERENCE, &fixture, &fault) ? 0 : -1;
}

static int close_fixture(void **state)
{
    (void)state;
    h5_close(fixture);
    scratch_remove(folder);
    return 0;
}

static uint8_t *load(const char *group, const char *case_name, const char *name, int rank,
                     struct h5_info *info)
{
    char *path = check_format("%s%s%s/%s", group, *case_name ? "/" : "", case_name, name);
    uint8_t *data;
    GOOD(h5_load_uint8(fixture, path, rank, (int64_t[]){-1, -1, 3}, 1 << 20, &data, info, &fault));
    free(path);
    return data;
}

// The largest difference from what the fixture has.
static int difference(const struct image *image, const uint8_t *expected, const struct h5_info *info)
{
    assert_int_equal(image->height, info->shape[0]);
    assert_int_equal(image->width, info->shape[1]);
    int largest = 0;
    for (int64_t i = 0; i < info->elements; i++) {
        int one = abs(image->rgb[i] - expected[i]);
        if (one > largest) largest = one;
    }
    return largest;
}

static void decodes_as_pillow_does(void **state)
{
    (void)state;
    struct h5_strings cases;
    GOOD(h5_list(fixture, "decode", true, &cases, &fault));
    assert_int_equal(cases.count, 10);
    for (int64_t i = 0; i < cases.count; i++) {
        struct h5_info bytes, pixels;
        uint8_t *file = load("decode", cases.item[i], "file", 1, &bytes);
        uint8_t *expected = load("decode", cases.item[i], "pixels", 3, &pixels);
        char *group = check_format("decode/%s", cases.item[i]);
        int64_t tolerance;
        GOOD(h5_attribute_int64(fixture, group, "tolerance", &tolerance, &fault));
        struct image image;
        GOOD(image_decode(file, (size_t)bytes.elements, cases.item[i], 13 * 21, &image, &fault));
        int found = difference(&image, expected, &pixels);
        if (found > tolerance) fail_msg("%s differs by %d", cases.item[i], found);
        image_free(&image);
        FAILS(image_decode(file, (size_t)bytes.elements, "p", 13 * 21 - 1, &image, &fault), EXIT_CODE_INPUT,
              "p: 21 x 13 pixels, allowed are 1 to 272");
        assert_null(image.rgb);
        FAILS(image_decode(file, (size_t)bytes.elements * 2 / 3, "p", 1000, &image, &fault), EXIT_CODE_INPUT,
              "p: broken ");
        assert_null(image.rgb);
        free(group);
        free(file);
        free(expected);
    }
    h5_strings_free(&cases);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    struct h5_info bytes;
    struct image image;
    uint8_t *data = load("refused", "", "jpeg_cmyk", 1, &bytes);
    FAILS(image_decode(data, (size_t)bytes.elements, "p", 1000, &image, &fault), EXIT_CODE_INPUT,
          "p: a CMYK JPEG");
    free(data);
    data = load("refused", "", "gif", 1, &bytes);
    FAILS(image_decode(data, (size_t)bytes.elements, "p", 1000, &image, &fault), EXIT_CODE_INPUT,
          "p: neither PNG nor JPEG");
    free(data);
    FAILS(image_decode("", 0, "p", 1000, &image, &fault), EXIT_CODE_INPUT, "neither PNG nor JPEG");
    FAILS(image_read("none.png", 1000, &image, &fault), EXIT_CODE_INPUT, "none.png: No such file");
    FAILS(image_read(folder, 1000, &image, &fault), EXIT_CODE_INPUT, "");
}

// A PNG header that claims 2^31-1 x 2^31-1 pixels is refused before memory is asked for.
static void bombs_are_refused(void **state)
{
    (void)state;
    uint8_t rgb[3] = {1, 2, 3};
    char *path = scratch_path(folder, "bomb.png");
    GOOD(image_write_png(path, 1, 1, rgb, NULL, 0, &fault));
    size_t size;
    uint8_t *data = file_bytes(path, &size);
    memset(data + 16, 0x7f, 8); // width and height of IHDR
    struct image image;
    FAILS(image_decode(data, size, "bomb", 1 << 24, &image, &fault), EXIT_CODE_INPUT, "bomb: ");
    // A size that is allowed, but takes more memory than such a file can have contents for.
    memcpy(data + 16, "\0\0\x20\0\0\0\x20\0", 8);
    uint32_t sum = htonl((uint32_t)crc32(0, data + 12, 17));
    memcpy(data + 29, &sum, sizeof sum);
    FAILS(image_decode(data, size, "bomb", 1 << 30, &image, &fault), EXIT_CODE_INPUT,
          "bomb: 8192 x 8192 pixels, more than its");
    free(data);
    struct h5_info bytes;
    data = load("decode", "jpeg_progressive", "file", 1, &bytes);
    uint8_t *frame = memmem(data, (size_t)bytes.elements, "\xff\xc2", 2);
    memcpy(frame + 5, "\x20\0\x20\0", 4);
    FAILS(image_decode(data, (size_t)bytes.elements, "bomb", 1 << 30, &image, &fault), EXIT_CODE_INPUT,
          "bomb: 8192 x 8192 pixels, more than its");
    free(data);
    free(path);
}

// Pictures of one colour have the smallest files that there are.
static void pictures_of_one_colour_are_read(void **state)
{
    (void)state;
    enum { SIDE = 3000 };
    char *path = scratch_path(folder, "white.png");
    uint8_t *white = malloc(3 * SIDE * SIDE);
    memset(white, 255, 3 * SIDE * SIDE);
    GOOD(image_write_png(path, SIDE, SIDE, white, NULL, 0, &fault));
    struct image image;
    GOOD(image_read(path, SIDE * SIDE, &image, &fault));
    assert_memory_equal(image.rgb, white, 3 * SIDE * SIDE);
    image_free(&image);

    tjhandle encoder = tjInitCompress();
    for (int sampling = TJSAMP_444; sampling <= TJSAMP_420; sampling++) {
        unsigned char *file = NULL;
        unsigned long size = 0;
        assert_int_equal(tjCompress2(encoder, white, SIDE, 0, SIDE, TJPF_RGB, &file, &size, sampling, 50,
                                     TJFLAG_PROGRESSIVE),
                         0);
        GOOD(image_decode(file, size, "white", SIDE * SIDE, &image, &fault));
        assert_memory_equal(image.rgb, white, 3 * SIDE * SIDE);
        image_free(&image);
        tjFree(file);
    }
    tjDestroy(encoder);
    free(white);
    free(path);
}

static void png_is_written_whole_with_text(void **state)
{
    (void)state;
    char *path = scratch_path(folder, "out.png");
    uint8_t rgb[5 * 7 * 3];
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i * 37);
    struct image_text text[] = {{"prompt", "caf\xc3\xa9 \xe2\x82\xac"}, {"seed", "7"}};
    GOOD(image_write_png(path, 5, 7, rgb, text, 2, &fault));
    struct image image;
    GOOD(image_read(path, 35, &image, &fault));
    assert_true(image.height == 5 && image.width == 7);
    assert_memory_equal(image.rgb, rgb, sizeof rgb);
    image_free(&image);

    char *stored;
    GOOD(image_read_png(path, 35, "prompt", &image, &stored, &fault));
    assert_memory_equal(image.rgb, rgb, sizeof rgb);
    assert_string_equal(stored, text[0].text);
    image_free(&image);
    free(stored);
    GOOD(image_read_png(path, 35, "pro", &image, &stored, &fault));
    assert_string_equal(stored, "");
    image_free(&image);
    free(stored);
    FAILS(image_read_png("test/run.sh", 1 << 20, "prompt", &image, &stored, &fault), EXIT_CODE_INPUT,
          "not a PNG");

    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    FILE *stream = fopen(path, "rb");
    png_init_io(png, stream);
    png_read_info(png, info);
    png_textp found;
    assert_int_equal(png_get_text(png, info, &found, NULL), 2);
    assert_string_equal(found[0].key, "prompt");
    assert_string_equal(found[0].text, text[0].text);
    png_destroy_read_struct(&png, &info, NULL);
    fclose(stream);

    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {20, 20};
        setrlimit(RLIMIT_FSIZE, &limit);
        struct fault own = {0};
        bool good = image_write_png(path, 5, 7, rgb, NULL, 0, &own);
        _exit(!good && strstr(own.text, "File too large") ? (int)own.code : 99);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(WEXITSTATUS(status), EXIT_CODE_OUTPUT);
    GOOD(image_read(path, 35, &image, &fault)); // the old one
    image_free(&image);
    FAILS(image_write_png("no-such-folder/a.png", 5, 7, rgb, NULL, 0, &fault), EXIT_CODE_OUTPUT,
          "no-such-folder/a.png");
    free(path);
}

static bool read_picture(const char *path, struct sha256 *hash, struct fault *found)
{
    struct image image;
    if (!image_read(path, 100000, &image, found)) return false;
    sha256_add(hash, image.rgb, (size_t)image.height * (size_t)image.width * 3);
    image_free(&image);
    return true;
}

static void damage_never_crashes(void **state)
{
    (void)state;
    static const char *const names[] = {"png_rgba", "png_palette", "jpeg_420", "jpeg_progressive"};
    for (int i = 0; i < 4; i++) {
        struct h5_info bytes;
        uint8_t *data = load("decode", names[i], "file", 1, &bytes);
        char *path = scratch_path(folder, names[i]);
        file_write(path, data, (size_t)bytes.elements);
        struct damage damage = damage_flips(path, read_picture, 0, 0, 200, (uint64_t)i);
        assert_int_equal(damage.crashes, 0);
        damage = damage_cuts(path, read_picture, 30, (uint64_t)i);
        assert_int_equal(damage.crashes, 0);
        assert_true(damage.faults >= 28); // a cut in the last bytes may cost nothing
        free(path);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_pillow_does),
        cmocka_unit_test(other_files_are_refused),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(pictures_of_one_colour_are_read),
        cmocka_unit_test(png_is_written_whole_with_text),
        cmocka_unit_test(damage_never_crashes),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
