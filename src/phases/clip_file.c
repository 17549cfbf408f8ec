#include "phases/clip_file.h"

#include "base/check.h"
#include "models/weights.h"
#include "phases/restart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20, MAX_TEXT = 4096, MAX_WIDTH = 1 << 16, BATCH = 32 };

void clip_file_clear(struct clip_file *file)
{
    clip_delete(file->clip);
    free(file->path);
    free(file->config_text);
    free(file->sentence_encoder);
    free(file->text_weight);
    *file = (struct clip_file){0};
}

static bool read_triple(struct h5_reader *reader, const char *name, double least, double most, float out[3],
                        struct fault *fault)
{
    double values[3];
    if (!h5_expect(reader, name, 1, (int64_t[]){3}, NULL, fault) ||
        !h5_read_double(reader, name, 0, 3, values, fault))
        return false;
    for (int c = 0; c < 3; c++) {
        if (!(values[c] >= least && values[c] <= most))
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s[%d] = %g, %g..%g allowed", h5_path(reader),
                               name, c, values[c], least, most);
        out[c] = (float)values[c];
    }
    return true;
}

/* The networks' sizes. */
static bool read_sizes(struct h5_reader *reader, struct clip_file *file, struct clip_vision_config *config,
                       struct fault *fault)
{
    struct h5_info info;
    if (!h5_load_text(reader, "config", MAX_CONFIG_BYTES, &file->config_text, fault) ||
        !clip_vision_config_parse(config, file->config_text, h5_path(reader), fault) ||
        !h5_expect(reader, "weights/text_projection.weight", 2, (int64_t[]){config->projection, -1}, &info,
                   fault))
        return false;
    file->image_size = config->image_size;
    file->width = config->projection;
    file->embedding_width = info.shape[1];
    if (config->image_channels == 3 && info.shape[1] >= 1 && info.shape[1] <= MAX_WIDTH) return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "%s: pictures of %lld channels, embeddings %lld wide: not a metric network of ours",
                       h5_path(reader), (long long)config->image_channels, (long long)info.shape[1]);
}

static bool read_network(struct h5_reader *reader, struct backend *backend, enum dtype dtype,
                         struct clip_file *file, struct fault *fault)
{
    struct clip_vision_config config;
    if (!read_sizes(reader, file, &config, fault)) return false;
    struct clip *clip = file->clip = clip_new(backend, &config, file->embedding_width);
    parameter_set_allocate(&clip->parameters, false);
    if (!weights_read_h5(&clip->parameters, reader, "weights", fault) ||
        !read_triple(reader, "image/mean", -10, 10, clip->mean, fault) ||
        !read_triple(reader, "image/deviation", 1e-3, 1e3, clip->deviation, fault))
        return false;
    file->text_weight = check_malloc((size_t)(file->width * file->embedding_width) * sizeof(float));
    parameter_part_download(&clip->parameters, clip->text_projection.weight, 0, file->text_weight);
    parameter_set_freeze(&clip->parameters, dtype, false);
    return true;
}

bool clip_file_read(const char *path, struct backend *backend, enum dtype dtype, struct clip_file *file,
                    struct fault *fault)
{
    *file = (struct clip_file){.path = check_strdup(path)};
    struct h5_reader *reader = NULL;
    bool ok = h5_open(path, FILE_CLIP, &reader, fault) && restart_refuse_checkpoint(reader, fault) &&
              h5_load_text(reader, "encoder/sentence", MAX_TEXT, &file->sentence_encoder, fault) &&
              read_network(reader, backend, dtype, file, fault);
    if (ok) snprintf(file->content_id, sizeof file->content_id, "%s", h5_stored_content_id(reader));
    h5_close(reader);
    if (!ok) clip_file_clear(file);
    return ok;
}

bool clip_file_check_encoder(const struct clip_file *file, const char *id, const char *path,
                             struct fault *fault)
{
    return strcmp(file->sentence_encoder, id) == 0 ||
           fault_raise(fault, EXIT_CODE_INPUT,
                       "%s and %s belong to different sentence encoders (%.12s, %.12s)", file->path, path,
                       file->sentence_encoder, id);
}

// ---- features

/* Pictures [first, first + filled) of rgb; the batch's other rows repeat the last one. */
static void run_batch(struct tape *tape, const struct clip_file *file, int64_t filled, const uint8_t *rgb,
                      float *pixels, float *embeds)
{
    int64_t size = file->image_size, values = size * size * 3;
    clip_pixels(file->clip, filled, rgb, pixels);
    for (int64_t b = filled; b < BATCH; b++)
        memcpy(pixels + b * values, pixels + (filled - 1) * values, (size_t)values * sizeof *pixels);
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct tensor *input = tape_input(tape, tape_dtype(tape), 4, (int64_t[]){BATCH, size, size, 3}, pixels);
    tape_read(tape, clip_vision_forward(tape, file->clip->vision, input), embeds);
}

bool clip_file_image_features(struct tape *tape, const struct clip_file *file, int64_t count, int64_t height,
                              int64_t width, const uint8_t *rgb, float *features, struct fault *fault)
{
    int64_t size = file->image_size, values = size * size * 3;
    if (height != size || width != size)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "pictures of %lld x %lld pixels for %s, allowed: %lld a side", (long long)height,
                           (long long)width, file->path, (long long)size);
    float *pixels = check_malloc((size_t)(BATCH * values) * sizeof *pixels);      // [BATCH, S, S, 3]
    float *embeds = check_malloc((size_t)(BATCH * file->width) * sizeof *embeds); // [BATCH, P]
    for (int64_t first = 0; first < count; first += BATCH) {
        int64_t filled = count - first < BATCH ? count - first : BATCH;
        run_batch(tape, file, filled, rgb + first * values, pixels, embeds);
        memcpy(features + first * file->width, embeds, (size_t)(filled * file->width) * sizeof *features);
    }
    free(embeds);
    free(pixels);
    return true;
}

void clip_file_text_features(const struct clip_file *file, int64_t count, const float *z, float *features)
{
    int64_t width = file->width, depth = file->embedding_width;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count * width; i++) {
        const float *row = z + i / width * depth, *weight = file->text_weight + i % width * depth;
        double sum = 0;
        for (int64_t d = 0; d < depth; d++) sum += (double)row[d] * weight[d];
        features[i] = (float)sum;
    }
}
