#include "diffusion/noise_schedule.h"

#include "base/check.h"

#include <math.h>

struct noise_schedule noise_schedule_scaled_linear(enum prediction prediction)
{
    struct noise_schedule schedule = {.prediction = prediction};
    const double first = sqrt(0.00085), last = sqrt(0.012);
    double product = 1;
    for (int t = 0; t < TRAIN_TIMESTEPS; t++) {
        double root = first + (last - first) * t / (TRAIN_TIMESTEPS - 1);
        product *= 1 - root * root;
        schedule.alpha_bar[t] = product;
    }
    return schedule;
}

void noise_schedule_add_noise(const struct noise_schedule *schedule, int timestep, int64_t count,
                              const float *latent, const float *noise, float *noisy, float *target)
{
    CHECK(timestep >= 0 && timestep < TRAIN_TIMESTEPS, "timestep %d, 0..%d allowed", timestep,
          TRAIN_TIMESTEPS - 1);
    float signal = (float)sqrt(schedule->alpha_bar[timestep]);
    float sigma = (float)sqrt(1 - schedule->alpha_bar[timestep]);
    for (int64_t i = 0; i < count; i++) {
        noisy[i] = signal * latent[i] + sigma * noise[i];
        target[i] = schedule->prediction == PREDICTION_V ? signal * noise[i] - sigma * latent[i] : noise[i];
    }
}

double noise_schedule_min_snr(const struct noise_schedule *schedule, int timestep, double gamma)
{
    if (gamma == 0) return 1;
    double snr = schedule->alpha_bar[timestep] / (1 - schedule->alpha_bar[timestep]);
    double scale = schedule->prediction == PREDICTION_V ? snr + 1 : snr;
    return fmin(scale, gamma) / scale;
}
