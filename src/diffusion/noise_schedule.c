#include "diffusion/noise_schedule.h"

#include "base/check.h"
#include "base/random.h"

#include <math.h>
#include <string.h>

static const char *const prediction_names[] = {[PREDICTION_V] = "v", [PREDICTION_EPSILON] = "epsilon"};

const char *prediction_name(enum prediction prediction)
{
    return prediction_names[prediction];
}

bool prediction_find(const char *name, enum prediction *prediction)
{
    for (enum prediction p = PREDICTION_V; p <= PREDICTION_EPSILON; p++) {
        if (strcmp(prediction_names[p], name) != 0) continue;
        *prediction = p;
        return true;
    }
    return false;
}

struct noise_schedule noise_schedule_of_betas(enum prediction prediction, double beta_start, double beta_end)
{
    CHECK(beta_start > 0 && beta_start < 1 && beta_end > 0 && beta_end < 1,
          "betas from %g to %g, (0, 1) allowed", beta_start, beta_end);
    struct noise_schedule schedule = {
        .prediction = prediction, .beta_start = beta_start, .beta_end = beta_end};
    const double first = sqrt(beta_start), last = sqrt(beta_end);
    double product = 1;
    for (int t = 0; t < TRAIN_TIMESTEPS; t++) {
        double root = first + (last - first) * t / (TRAIN_TIMESTEPS - 1);
        product *= 1 - root * root;
        schedule.alpha_bar[t] = product;
    }
    return schedule;
}

struct noise_schedule noise_schedule_scaled_linear(enum prediction prediction)
{
    return noise_schedule_of_betas(prediction, 0.00085, 0.012);
}

void noise_schedule_add_noise(const struct noise_schedule *schedule, int timestep, int64_t count,
                              const float *latent, const float *noise, float *noisy, float *target)
{
    CHECK(timestep >= 0 && timestep < TRAIN_TIMESTEPS, "timestep %d, 0..%d allowed", timestep,
          TRAIN_TIMESTEPS - 1);
    float signal = (float)sqrt(schedule->alpha_bar[timestep]);
    float sigma = (float)sqrt(1 - schedule->alpha_bar[timestep]);
    for (int64_t i = 0; i < count; i++) {
        float eps = noise[i];
        noisy[i] = signal * latent[i] + sigma * eps;
        target[i] = schedule->prediction == PREDICTION_V ? signal * eps - sigma * latent[i] : eps;
    }
}

int noise_schedule_draw(const struct noise_schedule *schedule, uint64_t seed, uint64_t step, uint64_t sample,
                        int64_t count, const float *latent, float *noisy, float *target)
{
    int timestep =
        (int)random_below((struct random_key){seed, RANDOM_TIMESTEP, step, sample}, 0, TRAIN_TIMESTEPS);
    random_normal((struct random_key){seed, RANDOM_NOISE, step, sample}, (uint64_t)count, noisy);
    noise_schedule_add_noise(schedule, timestep, count, latent, noisy, noisy, target);
    return timestep;
}

double noise_schedule_min_snr(const struct noise_schedule *schedule, int timestep, double gamma)
{
    if (gamma == 0) return 1;
    double snr = schedule->alpha_bar[timestep] / (1 - schedule->alpha_bar[timestep]);
    double scale = schedule->prediction == PREDICTION_V ? snr + 1 : snr;
    return fmin(scale, gamma) / scale;
}
