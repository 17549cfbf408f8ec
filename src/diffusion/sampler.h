/* Deterministic samplers (METHOD section 7), as diffusers' classes made from SD 2.1's scheduler
 * configuration: "leading" spacing, offset 1, set_alpha_to_one false, clip_sample false.
 *
 * A sampler follows a trajectory of `steps` + 1 points from noise to image. It says at which timestep the
 * model is called next, and each step is linear in the sample and the newest predictions, so that one loop
 * serves all; they differ in the points and in the factors. Host code, fp32 data and fp64 factors: a sample
 * is small beside a UNet. */
#ifndef DIFFUSION_SAMPLER_H
#define DIFFUSION_SAMPLER_H

#include "diffusion/noise_schedule.h"

#include <stdbool.h>

enum sampler_kind {
    /* PNDMScheduler with skip_prk_steps: the PLMS form of Stable Diffusion (Liu et al., arXiv 2202.09778).
     * The first step is taken twice, so `steps` are steps + 1 calls (one step is one call). The multistep
     * combination is taken of the model's outputs, whatever they predict. */
    SAMPLER_PNDM,
    /* DDIMScheduler with eta 0 (Song et al., arXiv 2010.02502). */
    SAMPLER_DDIM,
    /* DPMSolverMultistepScheduler: dpmsolver++ of order 2, midpoint, lower_order_final, final_sigmas_type
     * zero: DPM-Solver++(2M) (Lu et al., arXiv 2211.01095). */
    SAMPLER_DPMPP,
    SAMPLER_KINDS
};

const char *sampler_name(enum sampler_kind kind); /* "pndm": as files and decks say */
bool sampler_find(const char *name, enum sampler_kind *kind);

enum { SAMPLER_HISTORY = 4 };

/* A sampler of images that go through the same timesteps; `count` elements in all of them together. */
struct sampler {
    enum sampler_kind kind;
    const struct noise_schedule *schedule; /* borrowed */
    int steps, calls;                      /* `steps` asked for are `calls` of the model */
    int call;                              /* the next one, in [0, calls] */
    int64_t count;
    float *prediction[SAMPLER_HISTORY]; /* [count] each, newest first; owned. The model's outputs; for dpmpp
                                           the latents that they mean */
    float *first_sample; /* [count], pndm: the sample of call 0, where call 1 starts again; owned */
};

/* `steps` are in [1, sampler_most_steps]: 999 (dpmpp: 998), with which the first timestep is 999. */
int sampler_most_steps(enum sampler_kind kind);
/* Calls of the model that `steps` take. */
int sampler_calls(enum sampler_kind kind, int steps);

/* Free with sampler_clear. */
void sampler_init(struct sampler *sampler, enum sampler_kind kind, const struct noise_schedule *schedule,
                  int steps, int64_t count);
void sampler_clear(struct sampler *sampler);

/* Timestep of model call `call` in [0, calls). Of 25 steps: pndm 961, 921, 921, 881, ..., 1; ddim 961, 921,
 * 881,
 * ..., 1; dpmpp 951, 913, ..., 39. */
int sampler_timestep(const struct sampler *sampler, int call);

/* sample[count] becomes the sample after the next call, whose model output[count] is given. The last call
 * leaves the noise of timestep 0 in it; dpmpp leaves none. */
void sampler_step(struct sampler *sampler, const float *model_output, float *sample);

#endif
