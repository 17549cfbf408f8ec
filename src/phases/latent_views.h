/* The latents of all views of a picture, as files have them. */
#ifndef PHASES_LATENT_VIEWS_H
#define PHASES_LATENT_VIEWS_H

#include "diffusion/latent_codec.h"

/* rgb[crops, side, side, 3] -> latents [crops, flips, C, h, w]: each crop plain, then (flips = 2) mirrored,
 * encoded by itself. Of kind vae these are the means, with their deviations; else deviations is not used. The
 * crops are mirrored in place, `flips` times. */
void latent_views_encode(const struct latent_codec *codec, int side, int crops, int flips, uint8_t *rgb,
                         float *latents, float *deviations);

#endif
