/* What is diffused in place of a picture: its pixels, their Haar transform (DESIGN section 8), or what a
 * published VAE makes of it.
 *
 * pixel: [H, W, 3], each value 2 p / 255 - 1.
 * haar:  [H/2, W/2, 12], the orthonormal 2x2 Haar transform of those values, each channel times a stored
 *        factor that makes its variance 1 over the training pictures. Channel 3 band + colour; of a 2x2 block
 *        (a b / c d): band 0 = (a+b+c+d)/2, 1 = (a-b+c-d)/2, 2 = (a+b-c-d)/2, 3 = (a-b-c+d)/2. The transform
 *        is its own inverse.
 * vae:   [H/8, W/8, 4], the latents of Stable Diffusion's AutoencoderKL times its scaling factor, which is
 *        the factor of every channel. It is a network (models/): what is below knows the kind, and turns no
 *        picture into it or back.
 *
 * Arrays are NHWC as everywhere in memory; pictures are 8-bit RGB [H, W, 3]. All functions are local. */
#ifndef DIFFUSION_LATENT_H
#define DIFFUSION_LATENT_H

#include <stdbool.h>
#include <stdint.h>

enum latent_kind { LATENT_PIXEL, LATENT_HAAR, LATENT_VAE };
enum { LATENT_KINDS = 3, LATENT_MAX_CHANNELS = 12 };

const char *latent_kind_name(enum latent_kind kind); /* "haar" */
/* The kind of that name; false if there is none. */
bool latent_kind_find(const char *name, enum latent_kind *kind);

int latent_channels(enum latent_kind kind); /* 3, 12 or 4 */
int latent_patch(enum latent_kind kind);    /* pixels a side that make one latent: 1, 2 or 8 */

/* A kind with its factors: data.h5's latent/kind and latent/scale. */
struct latent_form {
    enum latent_kind kind;
    double scale[LATENT_MAX_CHANNELS]; /* [latent_channels(kind)]: latent = channel x scale; positive */
};

/* The latent of a picture, [height/patch, width/patch, channels]; height and width are multiples of the
 * patch. This and what follows is not for kind vae. */
void latent_encode(const struct latent_form *form, int height, int width, const uint8_t *rgb, float *latent);

/* The picture [height x patch, width x patch, 3] of a latent [height, width, channels], rounded to the
 * nearest of 0..255 and clamped; what is not a number becomes 0. Undoes latent_encode exactly, also of a
 * latent that was stored as IEEE half. */
void latent_decode(const struct latent_form *form, int height, int width, const float *latent, uint8_t *rgb);

/* Sums over pictures for the factors, exact: they are integers, so neither the order of the pictures nor who
 * adds them changes the result. Zero initialised is empty. */
struct latent_moments {
    int64_t count; /* positions a channel */
    int64_t sum[LATENT_MAX_CHANNELS];
    int64_t square[LATENT_MAX_CHANNELS];
};
void latent_moments_add(struct latent_moments *moments, enum latent_kind kind, int height, int width,
                        const uint8_t *rgb);
void latent_moments_merge(struct latent_moments *moments, const struct latent_moments *other);

/* The form whose factors make each channel's variance 1 over what was added (1 for a channel that does not
 * vary); pixels stay in -1..1, their factors are 1. */
struct latent_form latent_form_from_moments(enum latent_kind kind, const struct latent_moments *moments);

#endif
