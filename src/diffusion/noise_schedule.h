/* The forward process: a scaled-linear noise schedule, Stable Diffusion's as a rule, targets and loss weights
 * (METHOD section 4). */
#ifndef DIFFUSION_NOISE_SCHEDULE_H
#define DIFFUSION_NOISE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

enum { TRAIN_TIMESTEPS = 1000 };

/* What the UNet predicts: the noise eps, or v = sqrt(abar) eps - sqrt(1 - abar) z0. */
enum prediction { PREDICTION_V, PREDICTION_EPSILON };

const char *prediction_name(enum prediction prediction); /* "v", "epsilon": as files and decks say */
bool prediction_find(const char *name, enum prediction *prediction);

struct noise_schedule {
    enum prediction prediction;
    double beta_start, beta_end;       /* the first beta and the last; their roots lie on a line */
    double alpha_bar[TRAIN_TIMESTEPS]; /* product of 1 - beta up to and including t */
};

/* betas = linspace(sqrt(beta_start), sqrt(beta_end), 1000)^2; both in (0, 1) */
struct noise_schedule noise_schedule_of_betas(enum prediction prediction, double beta_start, double beta_end);

/* Stable Diffusion's: betas from 0.00085 to 0.012 */
struct noise_schedule noise_schedule_scaled_linear(enum prediction prediction);

/* One sample of `count` elements at `timestep` in [0, 1000): noisy = sqrt(abar) latent + sqrt(1 - abar)
 * noise, and the training target. `noisy` may be `noise`. */
void noise_schedule_add_noise(const struct noise_schedule *schedule, int timestep, int64_t count,
                              const float *latent, const float *noise, float *noisy, float *target);

/* The training case of one sample (METHOD section 4): timestep uniform in [0, 1000) and standard normal
 * noise, functions of (seed, step, sample), sample being its place in the global batch. Returns the timestep.
 */
int noise_schedule_draw(const struct noise_schedule *schedule, uint64_t seed, uint64_t step, uint64_t sample,
                        int64_t count, const float *latent, float *noisy, float *target);

/* Min-SNR weight of a sample's loss: min(snr + 1, gamma) / (snr + 1) for v, min(snr, gamma) / snr for eps; 1
 * if gamma is 0. */
double noise_schedule_min_snr(const struct noise_schedule *schedule, int timestep, double gamma);

#endif
