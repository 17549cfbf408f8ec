/* A published CLIP as a metric network: features of pictures of any size, for CLIP score and CMMD. Local to
 * the calling rank. */
#ifndef MODELS_PUBLISHED_CLIP_H
#define MODELS_PUBLISHED_CLIP_H

#include "io/sha256.h"
#include "models/clip_preprocessor.h"
#include "models/clip_vision.h"

struct published_clip {
    struct parameter_set parameters; /* owned, as are the next two */
    struct clip_vision *vision;      /* frozen */
    struct tape *tape;
    struct clip_preprocessor preprocessor;
    int64_t width;            /* P: of the features */
    char id[SHA256_HEX_SIZE]; /* SHA-256 of all that features depend on but the precision: weights,
                                 configuration, preprocessing */
};

/* Reads a transformers folder (clip_vision_open, clip_preprocessor_open) for inference in `dtype`. Close with
 * published_clip_close. Faults are EXIT_CODE_INPUT. */
bool published_clip_open(struct published_clip *clip, struct backend *backend, const char *folder,
                         enum dtype dtype, struct fault *fault);
void published_clip_close(struct published_clip *clip); /* nothing, if zero or not opened */

/* image_embeds, features[count, width]; NOT of length 1. Pictures may differ in size; count >= 0. Batches
 * inside have a fixed size, so that a picture's features do not depend on the others, bit for bit. */
void published_clip_image_features(struct published_clip *clip, int64_t count, const struct image *picture,
                                   float *features);

#endif
