/* The dual encoder that judges pictures here: CLIP's image encoder, and the sentence embedding z through a
 * linear map in the place of CLIP's text encoder. Picture and prompt belong together where the cosine of
 * their features is large. */
#ifndef MODELS_CLIP_H
#define MODELS_CLIP_H

#include "models/clip_vision.h"

#include <stdint.h>

struct clip {
    struct parameter_set parameters;
    struct clip_vision *vision;
    struct linear text_projection; /* [P, D], no bias */
    struct parameter *logit_scale; /* [1], ln of the factor of the cosines; at most CLIP_LOGIT_SCALE_MAX */
    float mean[3], deviation[3];   /* pixel = (value / 255 - mean) / deviation, by colour */
};

#define CLIP_LOGIT_SCALE_MAX 4.605170185988092 /* ln 100 */

/* Builds both encoders and their parameters (without memory: parameter_set_allocate); image_channels must be
 * 3. `embedding_width` is D. mean and deviation are 1/2: pixels lie in -1..1. Free with clip_delete. */
struct clip *clip_new(struct backend *backend, const struct clip_vision_config *config,
                      int64_t embedding_width);
void clip_delete(struct clip *clip); /* NULL allowed */

/* Initial weights: PyTorch's defaults, tables normal with deviations C^-1/2 (class) and 0.02 (positions), and
 * the logit scale ln(1/0.07), as CLIP. A function of the seed. */
void clip_initialise(struct clip *clip, uint64_t seed);

/* Brings the logit scale back to its bound, where an update has led it over, as CLIP does; returns it. */
double clip_bound_scale(struct clip *clip);

/* What the image encoder reads, pixels[count, S, S, 3], from 8-bit RGB pictures [count, S, S, 3]. */
void clip_pixels(const struct clip *clip, int64_t count, const uint8_t *rgb, float *pixels);

/* z [B, D] -> text features [B, P] in the tape's dtype, of any length */
struct tensor *clip_text_forward(struct tape *tape, const struct clip *clip, struct tensor *z);

#endif
