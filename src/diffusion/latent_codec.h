/* Pictures to latents and back, whatever the kind of latents (diffusion/latent.h): pixel and haar by
 * arithmetic, vae by a published AutoencoderKL. Local to the calling rank. */
#ifndef DIFFUSION_LATENT_CODEC_H
#define DIFFUSION_LATENT_CODEC_H

#include "diffusion/latent.h"
#include "models/vae.h"

struct latent_codec {
    struct latent_form form;
    struct vae *vae; /* of kind vae: frozen, owned, as is the next; else NULL */
    struct tape *tape;
    struct vae_tiling tiling;
};

/* Of kinds that need no network. */
struct latent_codec latent_codec_plain(const struct latent_form *form);

/* Opens a published VAE: `form` gets its scaling factor. It must make latents [H/8, W/8, 4] of pictures of 3
 * colours. `tiled`: pictures larger than the VAE's sample_size are computed in tiles, as diffusers'
 * enable_tiling does. Close with latent_codec_close. Faults are EXIT_CODE_INPUT. */
bool latent_codec_open_vae(struct latent_codec *codec, struct backend *backend, const char *folder,
                           enum dtype dtype, bool tiled, struct fault *fault);
void latent_codec_close(struct latent_codec *codec); /* nothing, if zero or plain */

/* The picture rgb[height x patch, width x patch, 3] of one latent [height, width, channels]. */
void latent_codec_decode(const struct latent_codec *codec, int height, int width, const float *latent,
                         uint8_t *rgb);

/* The same before it is rounded to 8 bits, of kind vae: pixels[8 height, 8 width, 3], -1..1 and beyond. */
void latent_codec_paint(const struct latent_codec *codec, int height, int width, const float *latent,
                        float *pixels);

/* Of kind vae: the mean and the standard deviation [height, width, 4] of the latent of a picture rgb
 * [8 height, 8 width, 3], times the scaling factor. A latent is mean + deviation x standard normal noise. */
void latent_codec_distribution(const struct latent_codec *codec, int height, int width, const uint8_t *rgb,
                               float *mean, float *deviation);

#endif
