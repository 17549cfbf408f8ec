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

static void identify_image(const struct published_clip *clip, struct sha256 *hash)
{
    const struct clip_vision_config *config = &clip->vision->config;
    const struct clip_preprocessor *p = &clip->preprocessor;
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
}

static void identify_text(const struct published_clip *clip, struct sha256 *hash)
{
    const struct clip_text_config *config = &clip->text->config;
    add_text(hash, check_format("clip text heads %lld activation %d epsilon %.17g end %lld\n",
                                (long long)config->encoder.heads, (int)config->encoder.activation,
                                config->encoder.epsilon, (long long)config->end_token));
    weights_identify(&clip->text_parameters, hash);
    clip_bpe_identify(clip->tokenizer, hash);
}

static void identify(struct published_clip *clip)
{
    struct sha256 *hash = sha256_new();
    identify_image(clip, hash);
    if (clip->text) identify_text(clip, hash);
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

static bool open_image(struct published_clip *clip, struct backend *backend, const char *folder,
                       struct fault *fault)
{
    clip->vision = clip_vision_open(&clip->parameters, backend, folder, false, fault);
    if (!clip->vision ||
        !clip_preprocessor_open(&clip->preprocessor, folder, (int)clip->vision->config.image_size, fault) ||
        !check_sizes(clip, folder, fault))
        return false;
    clip->width = clip->vision->config.projection;
    return true;
}

static bool check_text(const struct published_clip *clip, const char *folder, struct fault *fault)
{
    const struct clip_text_config *config = &clip->text->config;
    if (config->projection != clip->width)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: text features are %lld wide, those of pictures %lld; it must be a whole "
                           "CLIPModel",
                           folder, (long long)config->projection, (long long)clip->width);
    if (clip_bpe_count(clip->tokenizer) <= config->vocabulary && clip->tokens <= config->positions)
        return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "%s: the tokenizer has %d tokens, %d a text; the text encoder reads %lld and %lld",
                       folder, (int)clip_bpe_count(clip->tokenizer), clip->tokens,
                       (long long)config->vocabulary, (long long)config->positions);
}

static bool open_text(struct published_clip *clip, struct backend *backend, const char *folder,
                      struct fault *fault)
{
    clip->text = clip_text_open(&clip->text_parameters, backend, folder, false, fault);
    if (!clip->text || !clip_bpe_read(folder, &clip->tokenizer, fault))
        return fault_prefix(fault, "text tower of a CLIPModel: ");
    clip->tokens = clip_bpe_length(clip->tokenizer);
    return check_text(clip, folder, fault);
}

bool published_clip_open(struct published_clip *clip, struct backend *backend, const char *folder,
                         enum published_clip_towers towers, enum dtype dtype, struct fault *fault)
{
    *clip = (struct published_clip){0};
    if (!open_image(clip, backend, folder, fault) ||
        (towers == PUBLISHED_CLIP_IMAGE_AND_TEXT && !open_text(clip, backend, folder, fault))) {
        published_clip_close(clip);
        return false;
    }
    identify(clip);
    parameter_set_freeze(&clip->parameters, dtype, false);
    if (clip->text) parameter_set_freeze(&clip->text_parameters, dtype, false);
    clip->tape = tape_new(backend, dtype);
    return true;
}

void published_clip_close(struct published_clip *clip)
{
    if (clip->tape) tape_delete(clip->tape);
    clip_vision_delete(clip->vision);
    if (clip->parameters.backend) parameter_set_clear(&clip->parameters);
    clip_bpe_free(clip->tokenizer);
    clip_text_delete(clip->text);
    if (clip->text_parameters.backend) parameter_set_clear(&clip->text_parameters);
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

/* One forward pass of the text tower: ids [filled, T] -> embeds [filled, P]; the batch's other rows repeat
 * the last one. */
static void run_texts(struct published_clip *clip, int64_t filled, const int32_t *ids, float *embeds)
{
    int64_t tokens = clip->tokens, width = clip->width, end[BATCH];
    int32_t *all = check_malloc((size_t)(BATCH * tokens) * sizeof *all);  // [BATCH, T]
    float *found = check_malloc((size_t)(BATCH * width) * sizeof *found); // [BATCH, P]
    for (int64_t b = 0; b < BATCH; b++)
        memcpy(all + b * tokens, ids + (b < filled ? b : filled - 1) * tokens, (size_t)tokens * sizeof *ids);
    tape_reset(clip->tape, TAPE_NO_GRADIENT);
    struct tensor *input = tape_input(clip->tape, DTYPE_I32, 2, (int64_t[]){BATCH, tokens}, all);
    struct tensor *states = clip_text_states(clip->tape, clip->text, input);
    clip_text_end_tokens(&clip->text->config, BATCH, tokens, all, end);
    tape_read(clip->tape, clip_text_project(clip->tape, clip->text, states, end), found);
    memcpy(embeds, found, (size_t)(filled * width) * sizeof *embeds);
    free(found);
    free(all);
}

void published_clip_text_features(struct published_clip *clip, int64_t count, const char *const *text,
                                  float *features, int64_t *cut)
{
    CHECK(clip->text, "texts for a CLIP whose text tower is not open");
    int32_t *ids = check_malloc((size_t)(BATCH * clip->tokens) * sizeof *ids);
    for (int64_t first = 0; first < count; first += BATCH) {
        int64_t filled = count - first < BATCH ? count - first : BATCH;
        for (int64_t i = 0; i < filled; i++) {
            const char *one = text[first + i];
            int64_t lost = clip_bpe_encode(clip->tokenizer, one, strlen(one), clip->tokens,
                                           ids + i * clip->tokens, NULL);
            if (cut) cut[first + i] = lost;
        }
        run_texts(clip, filled, ids, features + first * clip->width);
    }
    free(ids);
}
