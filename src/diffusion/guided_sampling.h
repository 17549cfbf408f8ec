/* Sampling with classifier-free guidance (METHOD section 7). */
#ifndef DIFFUSION_GUIDED_SAMPLING_H
#define DIFFUSION_GUIDED_SAMPLING_H

#include "diffusion/sampler.h"
#include "models/unet.h"

struct guided_sampling {
    const struct unet *unet;
    const struct noise_schedule *schedule;
    enum sampler_kind sampler;
    int steps;       /* 1..sampler_most_steps */
    double guidance; /* 7.5; 1: the conditional prediction alone counts */
};

/* A batch of images of one size. All arrays are host memory; latents are [count, height, width, in_channels].
 */
struct guided_batch {
    int64_t count, height, width, tokens;
    float *latents;           /* in: standard normal noise; out: the sampled latents */
    const float *text_states; /* [2 count, tokens, D]: those of the empty prompt first, then of the prompts */
    const float *text_mask;   /* [2 count, tokens], 0 = hidden */
};

/* Runs the sampler on a tape of its own use (it is reset every step). Not collective. */
void guided_sample(struct tape *tape, const struct guided_sampling *sampling,
                   const struct guided_batch *batch);

#endif
