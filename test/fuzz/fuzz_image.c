// Pictures: as they are and, a PNG, once more with the checksums of its chunks put right, without which
// hardly a changed byte would get further than there. What is decoded is then cropped and scaled.
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/image_resample.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { MAX_PIXELS = 1 << 21, PNG_SIGNATURE = 8, CHUNK_HEAD = 8, CHUNK_SUM = 4 };

static void decode(const uint8_t *data, size_t size)
{
    struct image image;
    struct fault fault = {0};
    if (!harness_verdict(image_decode(data, size, "picture", MAX_PIXELS, &image, &fault), &fault,
                         EXIT_CODE_INPUT))
        return;
    CHECK((int64_t)image.height * image.width <= MAX_PIXELS, "%d x %d pixels", image.width, image.height);
    struct image_crop square = {.filter = IMAGE_BICUBIC, .shorter = 17, .crop = 16};
    struct image crop = image_resize_crop(&image, square),
                 stretched = image_resize(&image, IMAGE_BILINEAR, 7, 19);
    image_free(&crop);
    image_free(&stretched);
    image_free(&image);
}

static void read_text(const uint8_t *data, size_t size)
{
    struct image image;
    char *text;
    struct fault fault = {0};
    const char *path = harness_file("picture.png", data, size);
    if (!harness_verdict(image_read_png(path, MAX_PIXELS, "prompt", &image, &text, &fault), &fault,
                         EXIT_CODE_INPUT))
        return;
    CHECK(strlen(text) <= 1 << 20, "a text of %zu bytes", strlen(text));
    free(text);
    image_free(&image);
}

static void repair_sums(uint8_t *data, size_t size)
{
    for (size_t at = PNG_SIGNATURE; at + CHUNK_HEAD + CHUNK_SUM <= size;) {
        uint32_t length, sum;
        memcpy(&length, data + at, sizeof length);
        length = ntohl(length);
        if (length > size - at - CHUNK_HEAD - CHUNK_SUM) return;
        sum = htonl((uint32_t)crc32(0, data + at + 4, length + 4)); // of type and contents
        memcpy(data + at + CHUNK_HEAD + length, &sum, sizeof sum);
        at += CHUNK_HEAD + length + CHUNK_SUM;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    decode(data, size);
    if (size < PNG_SIGNATURE || memcmp(data, "\x89PNG\r\n\x1a\n", PNG_SIGNATURE) != 0) return 0;
    uint8_t *repaired = check_malloc(size);
    memcpy(repaired, data, size);
    repair_sums(repaired, size);
    decode(repaired, size);
    read_text(repaired, size);
    free(repaired);
    return 0;
}
