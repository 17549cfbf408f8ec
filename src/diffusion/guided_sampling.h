/* Sampling with classifier-free guidance (METHOD section 7).
 *
 * The UNet is always called on GUIDED_IMAGES images, the last ones of a batch being filled up with copies,
 * and on both halves of each at once. So an image is a function of its own noise and text, bit for bit,
 * whatever the batch and the other images are: kernels may be chosen by the shape, and the shape never
 * changes. */
#ifndef DIFFUSION_GUIDED_SAMPLING_H
#define DIFFUSION_GUIDED_SAMPLING_H

#include "diffusion/sampler.h"
#include "models/unet.h"

/* Images a call of the UNet: small, so that little is lost to filling up; on CPUs the time an image is that
 * of larger batches. */
enum { GUIDED_IMAGES = 2 };

struct guided_sampling {
    const struct unet *unet; /* borrowed, as the next one */
    const struct noise_schedule *schedule;
    enum sampler_kind sampler;
    int steps;       /* 1..sampler_most_steps */
    double guidance; /* 7.5; 1: the conditional prediction alone counts */
};

/* Images of one size. All arrays are host memory; latents are [count, height, width, in_channels]. */
struct guided_batch {
    int64_t count, height, width, tokens;
    float *latents; /* in: standard normal noise; out: the sampled latents */
    const float
        *text_states; /* [2 count, tokens, D]: those guided away from first, then those of the prompts */
    const float *text_mask; /* [2 count, tokens], 0 = hidden */
};

/* The sampler of one UNet, with what all its calls have in common: the embeddings of the timesteps for its
 * life, the text's keys and values for that of an image. The UNet's weights must not change meanwhile. */
struct guided_sampler;

/* Free with guided_sampler_delete. */
struct guided_sampler *guided_sampler_new(const struct guided_sampling *sampling, enum dtype dtype);
void guided_sampler_delete(struct guided_sampler *sampler); /* NULL allowed */

/* Calls of the UNet that a batch of `count` images takes. */
int64_t guided_sampler_calls(const struct guided_sampler *sampler, int64_t count);

/* Samples a batch. `called` (or NULL) hears of every call of the UNet. Not collective. */
void guided_sampler_run(struct guided_sampler *sampler, const struct guided_batch *batch,
                        void (*called)(void *context), void *context);

/* The most bytes of activations that were ever in use. */
size_t guided_sampler_peak(const struct guided_sampler *sampler);

#endif
