#include "models/clip.h"

#include "base/check.h"
#include "base/random.h"
#include "models/clip_preprocessor.h"
#include "models/initialise.h"

#include <math.h>
#include <stdlib.h>

struct clip *clip_new(struct backend *backend, const struct clip_vision_config *config,
                      int64_t embedding_width)
{
    CHECK(config->image_channels == 3, "pictures of %lld channels, 3 allowed",
          (long long)config->image_channels);
    struct clip *clip = check_calloc(1, sizeof *clip);
    struct parameter_set *set = &clip->parameters;
    parameter_set_init(set, backend);
    clip->vision = clip_vision_new(set, config);
    linear_init(&clip->text_projection, set, embedding_width, config->projection, false, "text_projection");
    clip->logit_scale = parameter_add(set, false, 1, (int64_t[]){1}, "logit_scale");
    for (int c = 0; c < 3; c++) clip->mean[c] = clip->deviation[c] = 0.5f;
    return clip;
}

void clip_delete(struct clip *clip)
{
    if (!clip) return;
    clip_vision_delete(clip->vision);
    parameter_set_clear(&clip->parameters);
    free(clip);
}

/* Fills a table with normal numbers, of the sequence that belongs to the parameter. */
static void fill_table(struct clip *clip, struct parameter *table, double deviation, uint64_t seed)
{
    int64_t count = tensor_count(&table->value);
    float *values = check_malloc((size_t)count * sizeof *values);
    uint64_t index = 0;
    while (clip->parameters.items[index] != table) index++;
    random_normal((struct random_key){seed, RANDOM_WEIGHTS, 0, index}, (uint64_t)count, values);
    for (int64_t i = 0; i < count; i++) values[i] *= (float)deviation;
    parameter_part_upload(&clip->parameters, table, 0, values);
    free(values);
}

void clip_initialise(struct clip *clip, uint64_t seed)
{
    const struct clip_vision *vision = clip->vision;
    float logit_scale = logf(1 / 0.07f);
    parameters_initialise(&clip->parameters, seed);
    fill_table(clip, vision->class_embedding, 1 / sqrt((double)vision->config.encoder.channels), seed);
    fill_table(clip, vision->position_embedding, 0.02, seed);
    parameter_part_upload(&clip->parameters, clip->logit_scale, 0, &logit_scale);
}

double clip_bound_scale(struct clip *clip)
{
    float log_scale, most = (float)CLIP_LOGIT_SCALE_MAX;
    parameter_part_download(&clip->parameters, clip->logit_scale, 0, &log_scale);
    if (log_scale > most) parameter_part_upload(&clip->parameters, clip->logit_scale, 0, &most);
    return log_scale > most ? most : log_scale;
}

void clip_pixels(const struct clip *clip, int64_t count, const uint8_t *rgb, float *pixels)
{
    int64_t size = clip->vision->config.image_size;
    clip_normalise(clip->mean, clip->deviation, count * size * size, rgb, pixels);
}

struct tensor *clip_text_forward(struct tape *tape, const struct clip *clip, struct tensor *z)
{
    return linear_forward(tape, &clip->text_projection, z, NULL);
}
