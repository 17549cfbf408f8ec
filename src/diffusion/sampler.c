#include "diffusion/sampler.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* sample' = sample_factor sample + sum over j of factor[j] prediction[j] */
struct step {
    double sample_factor, factor[SAMPLER_HISTORY];
};

static const char *const names[SAMPLER_KINDS] = {
    [SAMPLER_PNDM] = "pndm", [SAMPLER_DDIM] = "ddim", [SAMPLER_DPMPP] = "dpmpp"};

const char *sampler_name(enum sampler_kind kind)
{
    return names[kind];
}

bool sampler_find(const char *name, enum sampler_kind *kind)
{
    for (enum sampler_kind k = 0; k < SAMPLER_KINDS; k++) {
        if (strcmp(names[k], name) != 0) continue;
        *kind = k;
        return true;
    }
    return false;
}

static int history_length(enum sampler_kind kind)
{
    static const int length[SAMPLER_KINDS] = {[SAMPLER_PNDM] = 4, [SAMPLER_DDIM] = 1, [SAMPLER_DPMPP] = 2};
    return length[kind];
}

int sampler_most_steps(enum sampler_kind kind)
{
    return kind == SAMPLER_DPMPP ? TRAIN_TIMESTEPS - 2 : TRAIN_TIMESTEPS - 1;
}

int sampler_calls(enum sampler_kind kind, int steps)
{
    return kind == SAMPLER_PNDM && steps > 1 ? steps + 1 : steps;
}

void sampler_init(struct sampler *sampler, enum sampler_kind kind, const struct noise_schedule *schedule,
                  int steps, int64_t count)
{
    CHECK(steps >= 1 && steps <= sampler_most_steps(kind), "%d sampling steps, 1..%d allowed", steps,
          sampler_most_steps(kind));
    *sampler = (struct sampler){.kind = kind,
                                .schedule = schedule,
                                .steps = steps,
                                .calls = sampler_calls(kind, steps),
                                .count = count};
    size_t elements = (size_t)count;
    for (int j = 0; j < history_length(kind); j++)
        sampler->prediction[j] = check_calloc(elements, sizeof(float));
    if (kind == SAMPLER_PNDM) sampler->first_sample = check_calloc(elements, sizeof(float));
}

void sampler_clear(struct sampler *sampler)
{
    for (int j = 0; j < SAMPLER_HISTORY; j++) free(sampler->prediction[j]);
    free(sampler->first_sample);
    *sampler = (struct sampler){0};
}

// ---- points: 0 is the noisiest, `steps` the end of the trajectory

static int point_timestep(const struct sampler *sampler, int point)
{
    // DPMSolverMultistepScheduler spaces the end too and leaves it out; the others do not count it.
    int spaced = sampler->kind == SAMPLER_DPMPP ? sampler->steps + 1 : sampler->steps;
    return (spaced - 1 - point) * (TRAIN_TIMESTEPS / spaced) + 1;
}

static double point_alpha_bar(const struct sampler *sampler, int point)
{
    if (point < sampler->steps) return sampler->schedule->alpha_bar[point_timestep(sampler, point)];
    // final_sigmas_type zero; set_alpha_to_one false
    return sampler->kind == SAMPLER_DPMPP ? 1 : sampler->schedule->alpha_bar[0];
}

int sampler_timestep(const struct sampler *sampler, int call)
{
    CHECK(call >= 0 && call < sampler->calls, "sampling step %d of %d", call, sampler->calls);
    // pndm looks at point 1 twice: to take the first step again, and to go on from there
    return point_timestep(sampler, sampler->kind == SAMPLER_PNDM && call >= 2 ? call - 1 : call);
}

// ---- factors of a step

/* The step from a point to the next that is exact when the prediction of the noise does not change (DDIM,
 * equation 12 without noise; PNDM, equation 9): sqrt(abar') z0 + sqrt(1 - abar') eps, with z0 and eps as the
 * sample and the model's output have them. */
static struct step transfer(const struct sampler *sampler, int point)
{
    double now = point_alpha_bar(sampler, point), next = point_alpha_bar(sampler, point + 1);
    double signal = sqrt(now), sigma = sqrt(1 - now);
    double next_signal = sqrt(next), next_sigma = sqrt(1 - next);
    if (sampler->schedule->prediction == PREDICTION_V)
        return (struct step){next_signal * signal + next_sigma * sigma,
                             {next_sigma * signal - next_signal * sigma}};
    return (struct step){next_signal / signal, {next_sigma - next_signal * sigma / signal}};
}

/* The transfer of a combination of the newest outputs. */
static struct step pndm_step(const struct sampler *sampler)
{
    static const double combination[5][SAMPLER_HISTORY] = {
        {1},
        {1.0 / 2, 1.0 / 2}, // the first step again, with the mean of its two slopes
        {3.0 / 2, -1.0 / 2},
        {23.0 / 12, -16.0 / 12, 5.0 / 12}, // Adams-Bashforth
        {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24},
    };
    struct step step = transfer(sampler, sampler->call < 1 ? 0 : sampler->call - 1);
    double factor = step.factor[0];
    for (int j = 0; j < SAMPLER_HISTORY; j++)
        step.factor[j] = factor * combination[sampler->call < 4 ? sampler->call : 4][j];
    return step;
}

/* lambda, half the logarithm of the signal-to-noise ratio */
static double half_log_snr(double alpha_bar)
{
    return log(alpha_bar / (1 - alpha_bar)) / 2;
}

/* DPM-Solver++(2M), algorithm 2 of its paper. The first step and the last, whose lambda is infinite, are of
 * first order. */
static struct step dpmpp_step(const struct sampler *sampler)
{
    int point = sampler->call;
    double now = point_alpha_bar(sampler, point), next = point_alpha_bar(sampler, point + 1);
    double sample_factor = sqrt((1 - next) / (1 - now));
    double latent_factor = sqrt(next) - sqrt(now) * sample_factor; // -alpha' (exp(-h) - 1)
    if (point == 0 || point == sampler->steps - 1) return (struct step){sample_factor, {latent_factor}};
    double lambda = half_log_snr(now);
    double ratio =
        (lambda - half_log_snr(point_alpha_bar(sampler, point - 1))) / (half_log_snr(next) - lambda);
    double extrapolated = 1 / (2 * ratio);
    return (struct step){sample_factor, {latent_factor * (1 + extrapolated), -latent_factor * extrapolated}};
}

// ---- a step

/* The latents that a model's output means, z0 = sqrt(abar) sample - sqrt(1 - abar) v or
 * (sample - sqrt(1 - abar) eps) / sqrt(abar). */
static void predict_latents(const struct sampler *sampler, const float *output, const float *sample,
                            float *latents)
{
    double now = point_alpha_bar(sampler, sampler->call), signal = sqrt(now), sigma = sqrt(1 - now);
    bool v = sampler->schedule->prediction == PREDICTION_V;
    double sample_factor = v ? signal : 1 / signal, output_factor = v ? -sigma : -sigma / signal;
    for (int64_t i = 0; i < sampler->count; i++)
        latents[i] = (float)(sample_factor * sample[i] + output_factor * output[i]);
}

/* Keeps what the next call says as prediction[0]. */
static void keep_prediction(struct sampler *sampler, const float *output, const float *sample)
{
    // What pndm's call 1 said is for taking the first step again alone: call 2 takes its place.
    if (!(sampler->kind == SAMPLER_PNDM && sampler->call == 2)) {
        int last = history_length(sampler->kind) - 1;
        float *oldest = sampler->prediction[last];
        memmove(sampler->prediction + 1, sampler->prediction, (size_t)last * sizeof oldest);
        sampler->prediction[0] = oldest;
    }
    if (sampler->kind == SAMPLER_DPMPP)
        predict_latents(sampler, output, sample, sampler->prediction[0]);
    else
        memcpy(sampler->prediction[0], output, (size_t)sampler->count * sizeof *output);
}

static struct step next_step(const struct sampler *sampler)
{
    if (sampler->kind == SAMPLER_PNDM) return pndm_step(sampler);
    if (sampler->kind == SAMPLER_DPMPP) return dpmpp_step(sampler);
    return transfer(sampler, sampler->call);
}

static void take_step(const struct sampler *sampler, struct step step, float *sample)
{
    int length = history_length(sampler->kind);
    for (int64_t i = 0; i < sampler->count; i++) {
        double sum = step.sample_factor * sample[i];
        for (int j = 0; j < length; j++) sum += step.factor[j] * sampler->prediction[j][i];
        sample[i] = (float)sum;
    }
}

void sampler_step(struct sampler *sampler, const float *model_output, float *sample)
{
    CHECK(sampler->call < sampler->calls, "sampling step %d of %d", sampler->call, sampler->calls);
    keep_prediction(sampler, model_output, sample);
    if (sampler->kind == SAMPLER_PNDM && sampler->call < 2) { // both take the first step
        size_t bytes = (size_t)sampler->count * sizeof *sample;
        if (sampler->call == 0)
            memcpy(sampler->first_sample, sample, bytes);
        else
            memcpy(sample, sampler->first_sample, bytes);
    }
    take_step(sampler, next_step(sampler), sample);
    sampler->call++;
}
