/* The latents of all views of a picture, as files have them. */
#ifndef PHASES_LATENT_VIEWS_H
#define PHASES_LATENT_VIEWS_H

#include "diffusion/latent_codec.h"

/* rgb[side, side, 3] -> latents [views, C, h, w]: the plain picture, then (views = 2) the mirrored one, each
 * encoded by itself. Of kind vae these are the means, with their deviations [views, C, h, w]; else deviations
 * is not used. The picture is mirrored in place, `views` times. */
void latent_views_encode(const struct latent_codec *codec, int side, int views, uint8_t *rgb, float *latents,
                         float *deviations);

#endif
