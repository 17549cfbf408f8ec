/* PNDM sampling, the PLMS form that Stable Diffusion uses (METHOD section 7): diffusers' PNDMScheduler with
 * skip_prk_steps, "leading" spacing, offset 1, set_alpha_to_one false. Host code: a sample is small beside a
 * UNet. */
#ifndef DIFFUSION_PNDM_H
#define DIFFUSION_PNDM_H

#include "diffusion/noise_schedule.h"

/* A sampler of images that go through the same timesteps; `count` elements in all of them together. */
struct pndm {
    const struct noise_schedule *schedule; /* borrowed */
    int steps, calls;                      /* `steps` asked for are calls = steps + 1 of the model */
    int call;                              /* the next one */
    int64_t count;
    float *history[4]; /* model outputs, newest first; owned */
    int history_length;
    float *first_sample; /* the sample of call 0: call 1 starts there again; owned */
    float *combined;     /* owned */
};

/* steps in [1, 999] (1000 would ask for timestep 1000); free with pndm_clear. */
void pndm_init(struct pndm *pndm, const struct noise_schedule *schedule, int steps, int64_t count);
void pndm_clear(struct pndm *pndm);

/* Timestep of model call `call` in [0, calls): 961, 921, 921, 881, ..., 1 for 25 steps. */
int pndm_timestep(const struct pndm *pndm, int call);

/* sample[count] becomes the sample after the next call, whose model output is given. */
void pndm_step(struct pndm *pndm, const float *model_output, float *sample);

#endif
