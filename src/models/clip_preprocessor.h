/* What CLIP's image encoder reads of a picture of any size, as transformers' CLIPImageProcessor makes it:
 * the shorter side is scaled, the middle cut out, every colour normalised. Local to the calling rank. */
#ifndef MODELS_CLIP_PREPROCESSOR_H
#define MODELS_CLIP_PREPROCESSOR_H

#include "io/image_resample.h"
#include "io/json.h"

struct clip_preprocessor {
    struct image_crop crop;      /* crop.crop: S, pixels a side of what comes out */
    float mean[3], deviation[3]; /* pixel = (value / 255 - mean) / deviation, by colour */
};

/* OpenAI's: bicubic, `size` pixels a side, their pictures' mean and deviation. */
void clip_preprocessor_init(struct clip_preprocessor *preprocessor, int size);

/* Reads the root of a preprocessor_config.json; what is missing has transformers' default, of 224 pixels.
 * Unknown keys, steps left out, other filters than bilinear and bicubic, and crops larger than the scaled
 * picture are refused by name (EXIT_CODE_INPUT). */
bool clip_preprocessor_read(struct clip_preprocessor *preprocessor, struct json root, struct fault *fault);

/* The same from a published folder: its preprocessor_config.json, or what processor_config.json, which newer
 * versions write in its place, has of pictures. Where neither is there: clip_preprocessor_init(size). */
bool clip_preprocessor_open(struct clip_preprocessor *preprocessor, const char *folder, int size,
                            struct fault *fault);

/* picture -> pixels[S, S, 3] */
void clip_preprocess(const struct clip_preprocessor *preprocessor, const struct image *picture,
                     float *pixels);

/* The last step alone: rgb[count, 3] -> pixels[count, 3]. */
void clip_normalise(const float mean[3], const float deviation[3], int64_t count, const uint8_t *rgb,
                    float *pixels);

#endif
