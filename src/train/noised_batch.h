/* A batch made ready for the UNet: noisy latents, targets, timesteps and loss weights (METHOD section 4).
 * Host memory. */
#ifndef TRAIN_NOISED_BATCH_H
#define TRAIN_NOISED_BATCH_H

#include "diffusion/noise_schedule.h"
#include "models/unet.h"
#include "train/dataset.h"

struct noised_batch {
    int64_t count;
    float *noisy, *target;          /* [B, H, W, C] owned */
    float *latent;                  /* [H, W, C] one that was drawn; owned */
    float *timesteps;               /* [B] owned */
    float *weight;                  /* [B] min-SNR weight of the sample's loss; owned */
    float *text_states, *text_mask; /* [B, T, D], [B, T] copies; owned */
    int64_t capacity;
};

/* Noise and timesteps of samples first_sample + i of `step`'s global batch, and latents where those are drawn
 * (struct batch): all of it a function of (seed, step, place in the global batch). `gamma` of the min-SNR
 * weight, 0: weights 1. Starts from a zeroed struct, memory is reused; free with noised_batch_clear. */
void noised_batch_make(struct noised_batch *noised, const struct noise_schedule *schedule,
                       const struct dataset_info *info, const struct batch *batch, uint64_t seed,
                       uint64_t step, uint64_t first_sample, double gamma);

/* The same of fixed cases, for measurements: every sample at `timestep` in [0, 1000), the noise of item[B]
 * being a function of (seed, item, timestep) alone; weights 1. Latents that are drawn are a function of
 * (seed, item): an item's is the same at all timesteps and for all networks that are measured. */
void noised_batch_make_fixed(struct noised_batch *noised, const struct noise_schedule *schedule,
                             const struct dataset_info *info, const struct batch *batch, uint64_t seed,
                             int timestep, const int64_t *item);
/* `count` samples of latents and texts that are zero: for a pass whose memory alone is asked for. */
void noised_batch_blank(struct noised_batch *noised, const struct noise_schedule *schedule,
                        const struct dataset_info *info, int64_t count);
void noised_batch_clear(struct noised_batch *noised);

/* Samples [first, first + count) on a tape: the UNet's inputs (no gates), and the target [count, H, W, C]
 * fp32. */
struct unet_input noised_batch_input(struct tape *tape, const struct noised_batch *noised,
                                     const struct dataset_info *info, int64_t first, int64_t count);
struct tensor *noised_batch_target(struct tape *tape, const struct noised_batch *noised,
                                   const struct dataset_info *info, int64_t first, int64_t count);

#endif
