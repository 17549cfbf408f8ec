#include "diffusion/pndm.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void pndm_init(struct pndm *pndm, const struct noise_schedule *schedule, int steps, int64_t count)
{
    CHECK(steps >= 1 && steps < TRAIN_TIMESTEPS, "%d sampling steps, 1..%d allowed", steps,
          TRAIN_TIMESTEPS - 1);
    *pndm = (struct pndm){
        .schedule = schedule, .steps = steps, .calls = steps > 1 ? steps + 1 : 1, .count = count};
    size_t bytes = (size_t)count * sizeof(float);
    for (int i = 0; i < 4; i++) pndm->history[i] = check_malloc(bytes);
    pndm->first_sample = check_malloc(bytes);
    pndm->combined = check_malloc(bytes);
}

void pndm_clear(struct pndm *pndm)
{
    for (int i = 0; i < 4; i++) free(pndm->history[i]);
    free(pndm->first_sample);
    free(pndm->combined);
    *pndm = (struct pndm){0};
}

int pndm_timestep(const struct pndm *pndm, int call)
{
    int ratio = TRAIN_TIMESTEPS / pndm->steps;
    int place = pndm->steps - 1 - (call < 2 ? call : call - 1); // the second timestep is visited twice
    return place * ratio + 1;
}

/* The linear multistep combination of the newest outputs, by how many there are (Adams-Bashforth). */
static const double *coefficients(int length)
{
    static const double table[4][4] = {
        {1},
        {3.0 / 2, -1.0 / 2},
        {23.0 / 12, -16.0 / 12, 5.0 / 12},
        {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24},
    };
    return table[length - 1];
}

/* One step of the transfer from timestep to previous (PNDM, equation 9). */
static void transfer(const struct pndm *pndm, int timestep, int previous, const float *output,
                     const float *from, float *to)
{
    const struct noise_schedule *schedule = pndm->schedule;
    double now = schedule->alpha_bar[timestep];
    double next = schedule->alpha_bar[previous >= 0 ? previous : 0]; // set_alpha_to_one false
    double sample_factor = sqrt(next / now);
    double output_factor = (next - now) / (now * sqrt(1 - next) + sqrt(now * (1 - now) * next));
    double signal = sqrt(now), sigma = sqrt(1 - now);
    for (int64_t i = 0; i < pndm->count; i++) {
        double noise =
            schedule->prediction == PREDICTION_V ? signal * output[i] + sigma * from[i] : output[i];
        to[i] = (float)(sample_factor * from[i] - output_factor * noise);
    }
}

void pndm_step(struct pndm *pndm, const float *model_output, float *sample)
{
    CHECK(pndm->call < pndm->calls, "sampling step %d of %d", pndm->call, pndm->calls);
    int ratio = TRAIN_TIMESTEPS / pndm->steps;
    int timestep = pndm_timestep(pndm, pndm->call), previous = timestep - ratio;
    size_t bytes = (size_t)pndm->count * sizeof(float);
    if (pndm->call == 1) {
        // The first step is taken again from its start, with the mean of its two slopes.
        previous = timestep;
        timestep += ratio;
        for (int64_t i = 0; i < pndm->count; i++)
            pndm->combined[i] = (model_output[i] + pndm->history[0][i]) / 2;
        transfer(pndm, timestep, previous, pndm->combined, pndm->first_sample, sample);
    } else {
        float *oldest = pndm->history[3];
        memmove(pndm->history + 1, pndm->history, 3 * sizeof *pndm->history);
        pndm->history[0] = oldest;
        memcpy(oldest, model_output, bytes);
        if (pndm->history_length < 4) pndm->history_length++;
        if (pndm->call == 0) memcpy(pndm->first_sample, sample, bytes);
        const double *factor = coefficients(pndm->history_length);
        for (int64_t i = 0; i < pndm->count; i++) {
            double sum = 0;
            for (int j = 0; j < pndm->history_length; j++) sum += factor[j] * pndm->history[j][i];
            pndm->combined[i] = (float)sum;
        }
        transfer(pndm, timestep, previous, pndm->combined, sample, sample);
    }
    pndm->call++;
}
