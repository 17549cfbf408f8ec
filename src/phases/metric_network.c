#include "phases/metric_network.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *metric_network_kind_name(enum metric_network_kind kind)
{
    static const char *const names[] = {[METRIC_NETWORK_TRAINED] = "trained",
                                        [METRIC_NETWORK_INCEPTION] = "inception",
                                        [METRIC_NETWORK_CLIP] = "clip"};
    return names[kind];
}

static void set_id(struct metric_network *network, const char *id, int64_t width)
{
    snprintf(network->id, sizeof network->id, "%s", id);
    network->width = width;
}

bool metric_network_open_trained(struct metric_network *network, struct backend *backend, struct tape *tape,
                                 const char *path, struct fault *fault)
{
    *network = (struct metric_network){
        .kind = METRIC_NETWORK_TRAINED, .path = path, .tape = tape, .dtype = tape_dtype(tape)};
    if (!clip_file_read(path, backend, network->dtype, &network->trained, fault)) return false;
    set_id(network, network->trained.content_id, network->trained.width);
    return true;
}

bool metric_network_open_inception(struct metric_network *network, struct backend *backend,
                                   const char *folder, struct fault *fault)
{
    *network = (struct metric_network){.kind = METRIC_NETWORK_INCEPTION, .path = folder, .dtype = DTYPE_F32};
    if (!inception_open(backend, folder, DTYPE_F32, &network->inception, fault)) return false;
    set_id(network, network->inception->id, network->inception->features);
    return true;
}

bool metric_network_open_clip(struct metric_network *network, struct backend *backend, const char *folder,
                              bool texts, struct fault *fault)
{
    *network = (struct metric_network){.kind = METRIC_NETWORK_CLIP, .path = folder, .dtype = DTYPE_F32};
    if (!published_clip_open(&network->clip, backend, folder,
                             texts ? PUBLISHED_CLIP_IMAGE_AND_TEXT : PUBLISHED_CLIP_IMAGE, DTYPE_F32, fault))
        return false;
    set_id(network, network->clip.id, network->clip.width);
    return true;
}

void metric_network_close(struct metric_network *network)
{
    clip_file_clear(&network->trained);
    inception_close(network->inception);
    published_clip_close(&network->clip);
    *network = (struct metric_network){0};
}

int64_t metric_network_size(const struct metric_network *network)
{
    return network->kind == METRIC_NETWORK_TRAINED ? network->trained.image_size : 0;
}

// ---- pictures

static bool trained_features(struct metric_network *network, int64_t count, const struct image *picture,
                             float *features, struct fault *fault)
{
    const struct clip_file *file = &network->trained;
    size_t pixels = (size_t)(file->image_size * file->image_size * 3);
    uint8_t *rgb = check_malloc((size_t)count * pixels); // [count, S, S, 3]
    bool ok = true;
    for (int64_t i = 0; ok && i < count; i++) {
        ok = picture[i].height == file->image_size && picture[i].width == file->image_size;
        if (ok)
            memcpy(rgb + (size_t)i * pixels, picture[i].rgb, pixels);
        else
            fault_raise(fault, EXIT_CODE_INPUT, "a picture of %d x %d pixels for %s, allowed: %lld a side",
                        picture[i].height, picture[i].width, network->path, (long long)file->image_size);
    }
    ok = ok && clip_file_image_features(network->tape, file, count, file->image_size, file->image_size, rgb,
                                        features, fault);
    free(rgb);
    return ok;
}

static void inception_features_of(struct metric_network *network, int64_t count, const struct image *picture,
                                  float *features)
{
    int64_t pixels = INCEPTION_SIDE * INCEPTION_SIDE * 3;
    float *large = check_malloc((size_t)(INCEPTION_BATCH * pixels) * sizeof *large); // [BATCH, 299, 299, 3]
    for (int64_t first = 0; first < count; first += INCEPTION_BATCH) {
        int64_t filled = count - first < INCEPTION_BATCH ? count - first : INCEPTION_BATCH;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < filled; i++)
            image_interpolate(&picture[first + i], INCEPTION_SIDE, INCEPTION_SIDE, large + i * pixels);
        inception_features(network->inception, filled, INCEPTION_SIDE, INCEPTION_SIDE, large,
                           features + first * network->width);
    }
    free(large);
}

bool metric_network_picture_features(struct metric_network *network, int64_t count,
                                     const struct image *picture, float *features, struct fault *fault)
{
    switch (network->kind) {
    case METRIC_NETWORK_TRAINED:
        return trained_features(network, count, picture, features, fault);
    case METRIC_NETWORK_INCEPTION:
        inception_features_of(network, count, picture, features);
        return true;
    case METRIC_NETWORK_CLIP:
        published_clip_image_features(&network->clip, count, picture, features);
        return true;
    }
    CHECK(false, "metric network of kind %d", (int)network->kind);
    return false;
}

// ---- captions

void metric_network_caption_features(struct metric_network *network, int64_t count, const char *const *text,
                                     const float *z, float *features)
{
    CHECK(network->kind != METRIC_NETWORK_INCEPTION, "%s reads no captions", network->path);
    if (network->kind == METRIC_NETWORK_TRAINED)
        clip_file_text_features(&network->trained, count, z, features);
    else
        published_clip_text_features(&network->clip, count, text, features, NULL);
}
