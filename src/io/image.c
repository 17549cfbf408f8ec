#define _POSIX_C_SOURCE 200809L // fileno
#include "io/image.h"

#include "base/check.h"
#include "io/atomic_file.h"

#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <turbojpeg.h>

enum {
    MAX_FILE_BYTES = 256 << 20,
    PNG_CHUNK_BYTES = 1 << 20, // of a text or a profile, uncompressed: what is larger is left out,
    PNG_CHUNKS = 64,           // as is what comes behind so many
    // No file can hold more, so a small one cannot ask for the memory of a large picture:
    PNG_MOST_RATIO = 1032,  // deflate's shortest code, 2 bits, stands for at most 258 bytes
    JPEG_MOST_PIXELS = 512, // of a byte: each block of 8 x 8 takes a bit or more (Huffman coding)
};

void image_free(struct image *image)
{
    free(image->rgb);
    *image = (struct image){0};
}

static bool size_is_allowed(const char *name, int64_t width, int64_t height, int64_t max_pixels,
                            struct fault *fault)
{
    if (width >= 1 && height >= 1 && width <= INT32_MAX && height <= max_pixels / width) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld x %lld pixels, allowed are 1 to %lld", name,
                       (long long)width, (long long)height, (long long)max_pixels);
}

static bool file_holds(const char *name, int64_t width, int64_t height, bool holds, size_t bytes,
                       struct fault *fault)
{
    return holds ||
           fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld x %lld pixels, more than its %zu bytes can hold",
                       name, (long long)width, (long long)height, bytes);
}

struct image image_new(int height, int width)
{
    return (struct image){height, width, check_malloc((size_t)height * (size_t)width * 3)};
}

// ---- PNG ----

// What libpng's callbacks need.
struct png_source {
    const unsigned char *next;
    size_t bytes, left;
    size_t most;       // bytes that libpng may allocate at once
    char message[128]; // of the error that ended decoding
};

static void png_take(png_structp png, png_bytep out, png_size_t bytes)
{
    struct png_source *source = png_get_io_ptr(png);
    if (bytes > source->left) png_error(png, "the file ends early");
    memcpy(out, source->next, bytes);
    source->next += bytes;
    source->left -= bytes;
}

// Against chunks that say they are larger than the file: libpng believes them until it reads that far.
static png_voidp png_allocate(png_structp png, png_alloc_size_t bytes)
{
    const struct png_source *source = png_get_mem_ptr(png);
    return bytes <= source->most ? malloc(bytes) : NULL;
}

static void png_release(png_structp png, png_voidp memory)
{
    (void)png;
    free(memory);
}

static void png_failed(png_structp png, png_const_charp message)
{
    struct png_source *source = png_get_error_ptr(png);
    snprintf(source->message, sizeof source->message, "%s", message);
    png_longjmp(png, 1);
}

static void png_warned(png_structp png, png_const_charp message)
{
    (void)png, (void)message; // libpng goes on with what it can use
}

// Decodes to 8-bit RGBA, [height, width, 4] in *rgba (owned by the caller, also after a failure). Separate
// from its caller because libpng reports errors by longjmp: all that must survive one is behind pointers.
static bool png_decode_rgba(png_structp png, png_infop info, const char *name, int64_t max_pixels,
                            struct image *image, png_bytep *rgba, png_bytepp *rows, struct fault *fault)
{
    struct png_source *source = png_get_io_ptr(png);
    if (setjmp(png_jmpbuf(png))) {
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: broken PNG: %s", name, source->message);
    }
    png_set_user_limits(png, INT32_MAX, INT32_MAX); // ours is on the product
    png_set_chunk_malloc_max(png, PNG_CHUNK_BYTES);
    png_set_chunk_cache_max(png, PNG_CHUNKS);
    png_read_info(png, info);
    int64_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    if (!size_is_allowed(name, width, height, max_pixels, fault) ||
        !file_holds(name, width, height,
                    (size_t)height <= source->bytes * PNG_MOST_RATIO / png_get_rowbytes(png, info),
                    source->bytes, fault))
        return false;
    source->most +=
        8 * (size_t)width + 1024; // a row of up to 64 bits a pixel, and what libpng puts around it
    png_set_expand(png);          // palettes, less than 8 bits and transparent colours to full channels
    png_set_scale_16(png);        // 16 bits to 8, rounded
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 0xff, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    size_t stride = png_get_rowbytes(png, info);
    if (stride != 4 * (size_t)width) png_error(png, "unexpected row size");
    *rgba = check_malloc((size_t)height * stride);
    *rows = check_malloc((size_t)height * sizeof **rows);
    for (int64_t y = 0; y < height; y++) (*rows)[y] = *rgba + (size_t)y * stride;
    png_read_image(png, *rows);
    png_read_end(png, NULL);
    image->height = (int)height;
    image->width = (int)width;
    return true;
}

/* The text stored under a key, or "". */
static char *png_find_text(png_structp png, png_infop info, const char *key)
{
    png_textp text;
    int texts;
    png_get_text(png, info, &text, &texts);
    for (int i = 0; i < texts; i++)
        if (strcmp(text[i].key, key) == 0) return check_strdup(text[i].text);
    return check_strdup("");
}

// `key` and `text` may be NULL.
static bool png_decode(const void *data, size_t bytes, const char *name, int64_t max_pixels, const char *key,
                       struct image *image, char **text, struct fault *fault)
{
    struct png_source source = {.next = data, .bytes = bytes, .left = bytes, .most = bytes + PNG_CHUNK_BYTES};
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &source, png_failed, png_warned,
                                               &source, png_allocate, png_release);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    CHECK(png && info, "libpng does not start");
    png_set_read_fn(png, &source, png_take);
    struct image decoded = {0};
    png_bytep rgba = NULL;
    png_bytepp rows = NULL;
    bool good = png_decode_rgba(png, info, name, max_pixels, &decoded, &rgba, &rows, fault);
    if (good && key) *text = png_find_text(png, info, key);
    png_destroy_read_struct(&png, &info, NULL);
    if (good) {
        *image = image_new(decoded.height, decoded.width);
        size_t pixels = (size_t)image->height * (size_t)image->width;
        for (size_t i = 0; i < pixels; i++) { // over white, rounded
            unsigned alpha = rgba[4 * i + 3], white = 255 * (255 - alpha);
            for (int c = 0; c < 3; c++)
                image->rgb[3 * i + c] = (uint8_t)((rgba[4 * i + c] * alpha + white + 127) / 255);
        }
    }
    free(rows);
    free(rgba);
    return good;
}

// ---- JPEG ----

static bool jpeg_decode(const void *data, size_t bytes, const char *name, int64_t max_pixels,
                        struct image *image, struct fault *fault)
{
    tjhandle decoder = tjInitDecompress();
    CHECK(decoder, "libjpeg-turbo does not start: %s", tjGetErrorStr2(NULL));
    int width, height, sampling, colours;
    bool good = false;
    if (tjDecompressHeader3(decoder, data, (unsigned long)bytes, &width, &height, &sampling, &colours) != 0) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: broken JPEG: %s", name, tjGetErrorStr2(decoder));
    } else if (!size_is_allowed(name, width, height, max_pixels, fault) ||
               !file_holds(name, width, height, (size_t)height <= bytes * JPEG_MOST_PIXELS / (size_t)width,
                           bytes, fault)) {
    } else if (colours == TJCS_CMYK || colours == TJCS_YCCK) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: a CMYK JPEG, which is not supported", name);
    } else {
        *image = image_new(height, width);
        // A picture that is cut off is a warning to the library; so is any other damage.
        int flags = TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING;
#ifdef TJFLAG_LIMITSCANS
        flags |= TJFLAG_LIMITSCANS; // against files of thousands of progressive scans
#endif
        good = tjDecompress2(decoder, data, (unsigned long)bytes, image->rgb, width, 0, height, TJPF_RGB,
                             flags) == 0;
        if (!good) {
            fault_raise(fault, EXIT_CODE_INPUT, "%s: broken JPEG: %s", name, tjGetErrorStr2(decoder));
            image_free(image);
        }
    }
    tjDestroy(decoder);
    return good;
}

bool image_decode(const void *data, size_t bytes, const char *name, int64_t max_pixels, struct image *image,
                  struct fault *fault)
{
    *image = (struct image){0};
    if (bytes >= 8 && png_sig_cmp(data, 0, 8) == 0)
        return png_decode(data, bytes, name, max_pixels, NULL, image, NULL, fault);
    if (bytes >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0) {
        return jpeg_decode(data, bytes, name, max_pixels, image, fault);
    }
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: neither PNG nor JPEG", name);
}

// A whole file, owned by the caller.
static bool read_file(const char *path, unsigned char **data, size_t *bytes, struct fault *fault)
{
    FILE *stream = fopen(path, "rb");
    struct stat status;
    if (!stream || fstat(fileno(stream), &status) != 0) {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", path, strerror(errno));
        if (stream) fclose(stream);
        return false;
    }
    bool good = S_ISREG(status.st_mode) && status.st_size <= MAX_FILE_BYTES;
    if (good) {
        *data = check_malloc((size_t)status.st_size);
        *bytes = fread(*data, 1, (size_t)status.st_size, stream);
    } else {
        fault_raise(fault, EXIT_CODE_INPUT, "%s: not a regular file of at most %d bytes", path,
                    MAX_FILE_BYTES);
    }
    fclose(stream);
    return good;
}

bool image_read(const char *path, int64_t max_pixels, struct image *image, struct fault *fault)
{
    unsigned char *data;
    size_t bytes;
    *image = (struct image){0};
    if (!read_file(path, &data, &bytes, fault)) return false;
    bool good = image_decode(data, bytes, path, max_pixels, image, fault);
    free(data);
    return good;
}

bool image_read_png(const char *path, int64_t max_pixels, const char *key, struct image *image, char **text,
                    struct fault *fault)
{
    unsigned char *data;
    size_t bytes;
    *image = (struct image){0};
    *text = NULL;
    if (!read_file(path, &data, &bytes, fault)) return false;
    bool good = bytes >= 8 && png_sig_cmp(data, 0, 8) == 0
                    ? png_decode(data, bytes, path, max_pixels, key, image, text, fault)
                    : fault_raise(fault, EXIT_CODE_INPUT, "%s: not a PNG", path);
    free(data);
    return good;
}

// ---- writing ----

// The encoded file as it grows.
struct png_target {
    unsigned char *data; // owned
    size_t bytes, capacity;
};

static void png_put(png_structp png, png_bytep data, png_size_t bytes)
{
    struct png_target *target = png_get_io_ptr(png);
    if (target->bytes + bytes > target->capacity) {
        target->capacity = 2 * (target->bytes + bytes);
        target->data = check_realloc(target->data, target->capacity);
    }
    memcpy(target->data + target->bytes, data, bytes);
    target->bytes += bytes;
}

static void png_flushed(png_structp png)
{
    (void)png; // written at the end
}

static void png_encoder_failed(png_structp png, png_const_charp message)
{
    (void)png;
    CHECK(false, "libpng: %s", message); // it writes to memory: only misuse can fail
}

bool image_write_png(const char *path, int height, int width, const uint8_t *rgb,
                     const struct image_text *text, int texts, struct fault *fault)
{
    struct png_target target = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, png_encoder_failed, png_warned);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    CHECK(png && info, "libpng does not start");
    png_set_write_fn(png, &target, png_put, png_flushed);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    for (int i = 0; i < texts; i++) {
        png_text entry = {.compression = PNG_ITXT_COMPRESSION_NONE,
                          .key = (char *)text[i].key,
                          .text = (char *)text[i].text,
                          .itxt_length = strlen(text[i].text)};
        png_set_text(png, info, &entry, 1);
    }
    png_write_info(png, info);
    for (int y = 0; y < height; y++) png_write_row(png, rgb + (size_t)y * (size_t)width * 3);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    bool good = atomic_file_write(path, target.data, target.bytes, fault);
    free(target.data);
    return good;
}
