/* References of resized pictures. */
#include "base/check.h"
#include "models/clip_preprocessor.h"
#include "phases/verify_models.h"

#include <stdlib.h>

enum { MAX_SIZE = 1 << 12, FID_SIZE = 299, CLIP_SIZE = 224 };

/* What is done to each picture: for Inception without a filter, or for CLIP. */
struct resize_case {
    bool clip;
    struct clip_preprocessor preprocessor; // of clip
    int size;                              // pixels a side of what comes out
};

static bool read_case(struct verification *verification, struct resize_case *c, struct fault *fault)
{
    static const char *const modes[] = {"fid_legacy", "clip", NULL};
    int mode;
    double size;
    if (!verify_choice(verification, "mode", modes, -1, &mode, fault) ||
        !verify_attribute(verification, "size", mode ? CLIP_SIZE : FID_SIZE, 1, MAX_SIZE, &size, fault))
        return false;
    c->clip = mode;
    c->size = (int)size;
    if (!c->clip) return true;
    if (!*verification->folder)
        clip_preprocessor_init(&c->preprocessor, c->size);
    else if (!clip_preprocessor_open(&c->preprocessor, verification->folder, c->size, fault))
        return false;
    c->size = c->preprocessor.crop.crop;
    return true;
}

/* rgb [N, H, W, 3] -> image [N, size, size, 3] */
static void run_case(const struct resize_case *c, const int64_t shape[4], uint8_t *rgb, float *image)
{
    int64_t values = (int64_t)c->size * c->size * 3, source_values = shape[1] * shape[2] * 3;
    for (int64_t i = 0; i < shape[0]; i++) {
        struct image source = {(int)shape[1], (int)shape[2], rgb + i * source_values};
        if (c->clip)
            clip_preprocess(&c->preprocessor, &source, image + i * values);
        else
            image_interpolate(&source, c->size, c->size, image + i * values);
    }
}

bool verify_resize(struct verification *verification, struct fault *fault)
{
    struct resize_case c;
    struct h5_info info;
    uint8_t *rgb = NULL;
    if (!read_case(verification, &c, fault) ||
        !h5_load_uint8(verification->reference, "inputs/image", 4, (int64_t[]){-1, -1, -1, 3},
                       VERIFY_MAX_ELEMENTS, &rgb, &info, fault))
        return false;
    int64_t nchw[] = {info.shape[0], 3, c.size, c.size}, count = info.shape[0] * c.size * c.size * 3;
    bool ok = true;
    if (info.elements < 1 || count > VERIFY_MAX_ELEMENTS) {
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld pictures of %lld x %lld pixels",
                         h5_path(verification->reference), (long long)info.shape[0], (long long)info.shape[2],
                         (long long)info.shape[1]);
    } else {
        float *image = check_malloc(2 * (size_t)count * sizeof *image), *planes = image + count;
        run_case(&c, info.shape, rgb, image);
        verify_to_nchw(nchw, image, planes);
        ok = verify_floats(verification, QUANTITY_OUTPUT, "outputs/image", 4, nchw, planes, fault);
        free(image);
    }
    free(rgb);
    return ok;
}
