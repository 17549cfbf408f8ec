/* What a diffusers scheduler_config.json says of training: prediction and betas. How pictures are sampled is
 * the deck's matter. */
#ifndef DIFFUSION_SCHEDULER_CONFIG_H
#define DIFFUSION_SCHEDULER_CONFIG_H

#include "base/fault.h"
#include "diffusion/noise_schedule.h"

/* Reads the file. prediction_type is epsilon (also where it is absent) or v_prediction; beta_start, beta_end
 * and beta_schedule "scaled_linear" must be there, because the defaults of diffusers' classes differ; 1000
 * timesteps. Keys that say how to sample (steps_offset, clip_sample, solver_order, ...) are passed over; all
 * others must not change the forward process, or are refused by name (EXIT_CODE_INPUT). Local. */
bool scheduler_config_read(const char *path, struct noise_schedule *schedule, struct fault *fault);

#endif
