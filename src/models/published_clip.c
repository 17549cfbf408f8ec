#include "models/published_clip.h"

#include "base/check.h"
#include "models/clip_folder.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH = 8 }; // the widest activation of ViT-L/14-336 in fp32 is 75 MB

static void add_text(struct sha256 *hash, char *text)
{
    sha256_add(hash, text, strlen(text));
    free(text);
}

static void identify(struct published_clip *clip)
{
    const struct clip_vision_config *config = &clip->vision->config;
    const struct clip_preprocessor *p = &clip->preprocessor;
    struct sha256 *hash = sha256_new();
    add_text(hash, check_format("clip image %lld patch %lld heads %lld activation %d epsilon %.17g\n",
                                (long long)config->image_size, (long long)config->patch_size,
                                (long long)config->encoder.heads, (int)config->encoder.activation,
                                config->encoder.epsilon));
    add_text(hash,
             check_format("filter %d shorter %d crop %d margin %d mean %.9g %.9g %.9g deviation %.9g "
                          "%.9g %.9g\n",
                          (int)p->crop.filter, p->crop.shorter, p->crop.crop, (int)p->crop.margin, p->mean[0],
                          p->mean[1], p->mean[2], p->deviation[0], p->deviation[1], p->deviation[2]));
    weights_identify(&clip->parameters, hash);
    sha256_finish(hash, clip->id);
}

static bool check_sizes(const struct published_clip *clip, const char *folder, struct fault *fault)
{
    const struct clip_vision_config *config = &clip->vision->config;
    if (config->image_channels != 3)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: pictures of %lld channels, 3 allowed", folder,
                           (long long)config->image_channels);
    return clip->preprocessor.crop.crop == config->image_size ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s: the preprocessor makes %d pixels a side, the image encoder reads %lld", folder,
                       clip->preprocessor.crop.crop, (long long)config->image_size);
}

bool published_clip_open(struct published_clip *clip, struct backend *backend, const char *folder,
                         enum dtype dtype, struct fault *fault)
{
    *clip = (struct published_clip){0};
    clip->vision = clip_vision_open(&clip->parameters, backend, folder, false, fault);
    if (!clip->vision) return false;
    if (!clip_preprocessor_open(&clip->preprocessor, folder, (int)clip->vision->config.image_size, fault) ||
        !check_sizes(clip, folder, fault)) {
        published_clip_close(clip);
        return false;
    }
    identify(clip);
    parameter_set_freeze(&clip->parameters, dtype, false);
    clip->width = clip->vision->config.projection;
    clip->tape = tape_new(backend, dtype);
    return true;
}

void published_clip_close(struct published_clip *clip)
{
    if (clip->tape) tape_delete(clip->tape);
    clip_vision_delete(clip->vision);
    if (clip->parameters.backend) parameter_set_clear(&clip->parameters);
    *clip = (struct published_clip){0};
}

void published_clip_image_features(struct published_clip *clip, int64_t count, const struct image *picture,
                                   float *features)
{
    int64_t size = clip->preprocessor.crop.crop, values = size * size * 3, width = clip->width;
    float *pixels = check_malloc((size_t)(BATCH * values) * sizeof *pixels); // [BATCH, S, S, 3]
    float *embeds = check_malloc((size_t)(BATCH * width) * sizeof *embeds);  // [BATCH, P]
    for (int64_t first = 0; first < count; first += BATCH) {
        int64_t filled = count - first < BATCH ? count - first : BATCH;
#pragma omp parallel for schedule(dynamic)
        for (int64_t b = 0; b < filled; b++)
            clip_preprocess(&clip->preprocessor, &picture[first + b], pixels + b * values);
        for (int64_t b = filled; b < BATCH; b++) // the batch's other rows repeat the last one
            memcpy(pixels + b * values, pixels + (filled - 1) * values, (size_t)values * sizeof *pixels);
        tape_reset(clip->tape, TAPE_NO_GRADIENT);
        struct tensor *input =
            tape_input(clip->tape, tape_dtype(clip->tape), 4, (int64_t[]){BATCH, size, size, 3}, pixels);
        tape_read(clip->tape, clip_vision_forward(clip->tape, clip->vision, input), embeds);
        memcpy(features + first * width, embeds, (size_t)(filled * width) * sizeof *features);
    }
    free(embeds);
    free(pixels);
}
