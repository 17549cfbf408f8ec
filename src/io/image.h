/* Pictures: PNG (libpng) and JPEG (libjpeg-turbo) to 8-bit RGB, and PNG out.
 *
 * Untrusted input: width x height is checked against the caller's limit before anything is decoded. What is
 * read equals what Pillow's convert("RGB") gives, but transparency is laid over white; neither gamma chunks,
 * colour profiles nor EXIF orientation are applied, as in the field's training codes. */
#ifndef IO_IMAGE_H
#define IO_IMAGE_H

#include "base/fault.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image {
    int height, width;
    uint8_t *rgb; /* [height, width, 3] owned */
};
struct image image_new(int height, int width); /* whose pixels are not set yet */
void image_free(struct image *image);          /* leaves an empty one */

/* Decodes a PNG or JPEG, told apart by its first bytes. `name` stands in messages. EXIT_CODE_INPUT for
 * anything else, a broken picture, or more than max_pixels. */
bool image_decode(const void *data, size_t bytes, const char *name, int64_t max_pixels, struct image *image,
                  struct fault *fault);
/* The same from a file of at most 256 MiB. */
bool image_read(const char *path, int64_t max_pixels, struct image *image, struct fault *fault);

/* Text stored in a PNG (an iTXt chunk, UTF-8): "prompt", "a red apple". */
struct image_text {
    const char *key; /* 1..79 characters of Latin-1 */
    const char *text;
};

/* Reads a PNG and the text that it has under `key`, "" if none; the caller frees it. */
bool image_read_png(const char *path, int64_t max_pixels, const char *key, struct image *image, char **text,
                    struct fault *fault);

/* Writes an 8-bit RGB PNG, whole or not at all. rgb: [height, width, 3]. */
bool image_write_png(const char *path, int height, int width, const uint8_t *rgb,
                     const struct image_text *text, int texts, struct fault *fault);

#endif
