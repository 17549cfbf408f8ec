#define _POSIX_C_SOURCE 200809L // access
#include "models/clip_preprocessor.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CONFIG_MAX_BYTES = 1 << 20,
    MAX_SIZE = 1 << 12,
    USUAL_SIZE = 224,
    PILLOW_BILINEAR = 2,
    PILLOW_BICUBIC
};

void clip_preprocessor_init(struct clip_preprocessor *preprocessor, int size)
{
    *preprocessor = (struct clip_preprocessor){.crop = {IMAGE_BICUBIC, size, size, IMAGE_MARGIN_DOWN},
                                               .mean = {0.48145466f, 0.4578275f, 0.40821073f},
                                               .deviation = {0.26862954f, 0.26130258f, 0.27577711f}};
}

// ---- preprocessor_config.json

static const struct config_key keys[] = {
    {"do_resize", CONFIG_TRUE, NULL},
    {"size", CONFIG_READ, NULL},
    {"default_to_square", CONFIG_FALSE, NULL},
    {"resample", CONFIG_READ, NULL},
    {"do_center_crop", CONFIG_TRUE, NULL},
    {"crop_size", CONFIG_READ, NULL},
    {"do_rescale", CONFIG_TRUE, NULL},
    {"rescale_factor", CONFIG_READ, NULL},
    {"do_normalize", CONFIG_TRUE, NULL},
    {"image_mean", CONFIG_READ, NULL},
    {"image_std", CONFIG_READ, NULL},
    {"do_pad", CONFIG_EMPTY, NULL},
    {"pad_size", CONFIG_EMPTY, NULL},
    {"do_convert_rgb", CONFIG_IGNORED, NULL}, // pictures are RGB here
    // names of classes, and forms of what goes in and comes out
    {"data_format", CONFIG_IGNORED, NULL},
    {"device", CONFIG_IGNORED, NULL},
    {"disable_grouping", CONFIG_IGNORED, NULL},
    {"feature_extractor_type", CONFIG_IGNORED, NULL},
    {"image_processor_type", CONFIG_IGNORED, NULL},
    {"image_seq_length", CONFIG_IGNORED, NULL},
    {"input_data_format", CONFIG_IGNORED, NULL},
    {"processor_class", CONFIG_IGNORED, NULL},
    {"return_tensors", CONFIG_IGNORED, NULL},
};

/* A size: a number, or an object of `count` members that are all that number, as newer versions write it. */
static bool read_size(struct json root, const char *key, int count, const char *const *member, int *out,
                      struct fault *fault)
{
    struct json value, side;
    if (!json_member(root, key, &value)) return true;
    if (json_kind(value) != JSON_KIND_OBJECT) {
        int64_t size;
        if (!json_get_int64(value, 1, MAX_SIZE, &size, fault)) return false;
        *out = (int)size;
        return true;
    }
    if (json_size(value) != (size_t)count)
        return json_fault(value, fault, "%zu members, allowed: %s%s%s", json_size(value), member[0],
                          count > 1 ? " and " : "", count > 1 ? member[1] : "");
    int64_t size[2] = {0};
    for (int i = 0; i < count; i++)
        if (!json_require(value, member[i], &side, fault) ||
            !json_get_int64(side, 1, MAX_SIZE, &size[i], fault))
            return false;
    if (count > 1 && size[0] != size[1])
        return json_fault(value, fault, "%lld x %lld, squares alone are allowed", (long long)size[0],
                          (long long)size[1]);
    *out = (int)size[0];
    return true;
}

static bool read_filter(struct json root, enum image_filter *out, struct fault *fault)
{
    struct json value;
    int64_t filter;
    if (!json_member(root, "resample", &value)) return true;
    if (!json_get_int64(value, PILLOW_BILINEAR, PILLOW_BICUBIC, &filter, fault)) return false;
    *out = filter == PILLOW_BICUBIC ? IMAGE_BICUBIC : IMAGE_BILINEAR;
    return true;
}

static bool check_factor(struct json root, struct fault *fault)
{
    struct json value;
    double factor;
    return !json_member(root, "rescale_factor", &value) ||
           json_get_double(value, 1 / 255.001, 1 / 254.999, &factor, fault);
}

static bool read_triple(struct json root, const char *key, double least, double most, float out[3],
                        struct fault *fault)
{
    struct json value;
    double found[3];
    size_t count;
    if (!json_member(root, key, &value)) return true;
    if (!json_get_doubles(value, least, most, 3, found, &count, fault)) return false;
    if (count != 3) return json_fault(value, fault, "%zu numbers, one for each of 3 colours allowed", count);
    for (int c = 0; c < 3; c++) out[c] = (float)found[c];
    return true;
}

bool clip_preprocessor_read(struct clip_preprocessor *preprocessor, struct json root, struct fault *fault)
{
    struct image_crop *crop = &preprocessor->crop;
    clip_preprocessor_init(preprocessor, USUAL_SIZE);
    if (!config_keys_check(root, keys, sizeof keys / sizeof *keys, fault) ||
        !read_size(root, "size", 1, (const char *const[]){"shortest_edge"}, &crop->shorter, fault) ||
        !read_size(root, "crop_size", 2, (const char *const[]){"height", "width"}, &crop->crop, fault) ||
        !read_filter(root, &crop->filter, fault) || !check_factor(root, fault) ||
        !read_triple(root, "image_mean", -10, 10, preprocessor->mean, fault) ||
        !read_triple(root, "image_std", 1e-3, 1e3, preprocessor->deviation, fault))
        return false;
    return crop->crop <= crop->shorter ||
           json_fault(root, fault, "crop_size = %d is larger than size = %d", crop->crop, crop->shorter);
}

/* `member` of a JSON file, NULL: its root. */
static bool read_file(struct clip_preprocessor *preprocessor, const char *path, const char *member,
                      struct fault *fault)
{
    struct json_document *document = NULL;
    bool ok = json_read(path, CONFIG_MAX_BYTES, &document, fault);
    if (ok) {
        struct json root = json_root(document), value = root;
        ok = (!member || json_require(root, member, &value, fault)) &&
             clip_preprocessor_read(preprocessor, value, fault);
    }
    json_free(document);
    return ok;
}

bool clip_preprocessor_open(struct clip_preprocessor *preprocessor, const char *folder, int size,
                            struct fault *fault)
{
    char *own = check_format("%s/preprocessor_config.json", folder);
    char *shared = check_format("%s/processor_config.json", folder);
    bool ok = true;
    if (access(own, F_OK) == 0)
        ok = read_file(preprocessor, own, NULL, fault);
    else if (access(shared, F_OK) == 0)
        ok = read_file(preprocessor, shared, "image_processor", fault);
    else if (access(folder, F_OK) == 0)
        clip_preprocessor_init(preprocessor, size);
    else
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %s", folder, strerror(errno));
    free(shared);
    free(own);
    return ok;
}

// ---- pictures

void clip_normalise(const float mean[3], const float deviation[3], int64_t count, const uint8_t *rgb,
                    float *pixels)
{
    for (int64_t i = 0; i < count * 3; i++)
        pixels[i] = ((float)rgb[i] / 255 - mean[i % 3]) / deviation[i % 3];
}

void clip_preprocess(const struct clip_preprocessor *preprocessor, const struct image *picture, float *pixels)
{
    struct image square = image_resize_crop(picture, preprocessor->crop);
    clip_normalise(preprocessor->mean, preprocessor->deviation, (int64_t)square.height * square.width,
                   square.rgb, pixels);
    image_free(&square);
}
