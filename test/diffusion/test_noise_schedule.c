/* The forward process: the published schedule, targets, loss weights, and whose noise is whose. */
#include "diffusion/noise_schedule.h"

#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Of Stable Diffusion: alphas_cumprod[999] of diffusers, in fp32, is 0.0046601. */
static void schedule_is_stable_diffusions(void **state)
{
    (void)state;
    struct noise_schedule schedule = noise_schedule_scaled_linear(PREDICTION_V);
    assert_float_equal(schedule.alpha_bar[0], 1 - 0.00085, 1e-15);
    assert_float_equal(schedule.alpha_bar[999], 0.0046601, 1e-6);
    for (int t = 1; t < TRAIN_TIMESTEPS; t++) assert_true(schedule.alpha_bar[t] < schedule.alpha_bar[t - 1]);
}

/* Betas of another start and end, as numpy.linspace(0.01 ** 0.5, 0.0225 ** 0.5, 1000) ** 2 has them. */
static void schedule_of_other_betas(void **state)
{
    (void)state;
    struct noise_schedule schedule = noise_schedule_of_betas(PREDICTION_EPSILON, 0.01, 0.0225);
    double product = 1;
    for (int t = 0; t < TRAIN_TIMESTEPS; t++) {
        double root = 0.1 + 0.05 * t / 999;
        product *= 1 - root * root;
        assert_float_equal(schedule.alpha_bar[t] / product, 1, 1e-6);
    }
    assert_true(schedule.prediction == PREDICTION_EPSILON);
    assert_true(schedule.beta_start == 0.01 && schedule.beta_end == 0.0225);
}

/* With the noisy latent, either target gives the latent and the noise back. */
static void targets_and_noisy_latents(void **state)
{
    (void)state;
    static const enum prediction kinds[] = {PREDICTION_V, PREDICTION_EPSILON};
    const float latent[2] = {0.5f, -2}, noise[2] = {1.5f, 0.25f};
    for (int k = 0; k < 2; k++) {
        struct noise_schedule schedule = noise_schedule_scaled_linear(kinds[k]);
        for (int t = 0; t < TRAIN_TIMESTEPS; t += 111) {
            double signal = sqrt(schedule.alpha_bar[t]), sigma = sqrt(1 - schedule.alpha_bar[t]);
            float noisy[2], target[2];
            noise_schedule_add_noise(&schedule, t, 2, latent, noise, noisy, target);
            for (int i = 0; i < 2; i++) {
                assert_float_equal(noisy[i], signal * latent[i] + sigma * noise[i], 1e-6);
                double v = signal * noise[i] - sigma * latent[i];
                assert_float_equal(target[i], kinds[k] == PREDICTION_V ? v : noise[i], 1e-6);
            }
        }
    }
}

/* Hang and others 2023: a loss of x0 has the weight min(snr, gamma). The error of the noise is that of x0
 * times sqrt(snr), the error of v that of x0 times sqrt(snr + 1). For v METHOD section 3a bounds snr + 1, as
 * the released code does. */
static void weights_are_min_snr(void **state)
{
    (void)state;
    struct noise_schedule v = noise_schedule_scaled_linear(PREDICTION_V);
    struct noise_schedule epsilon = noise_schedule_scaled_linear(PREDICTION_EPSILON);
    int bounded = 0;
    for (int t = 0; t < TRAIN_TIMESTEPS; t++) {
        double snr = v.alpha_bar[t] / (1 - v.alpha_bar[t]);
        bounded += snr > 5;
        assert_float_equal(noise_schedule_min_snr(&v, t, 5), snr + 1 > 5 ? 5 / (snr + 1) : 1, 1e-12);
        assert_float_equal(noise_schedule_min_snr(&epsilon, t, 5), snr > 5 ? 5 / snr : 1, 1e-12);
        assert_true(noise_schedule_min_snr(&v, t, 0) == 1 && noise_schedule_min_snr(&epsilon, t, 0) == 1);
    }
    assert_in_range(bounded, 50, 500); // both branches were seen
}

/* Each sample of each step has noise and a timestep of its own, the same whenever it is asked for. */
static void draws_follow_seed_step_and_sample(void **state)
{
    (void)state;
    enum { COUNT = 4000, KEYS = 4 };
    static const uint64_t keys[KEYS][3] = {{7, 3, 5}, {8, 3, 5}, {7, 4, 5}, {7, 3, 6}}; // seed, step, sample
    static const float latent[COUNT];
    static float noisy[KEYS][COUNT], again[COUNT], noise[KEYS][COUNT];
    struct noise_schedule schedule = noise_schedule_scaled_linear(PREDICTION_EPSILON);
    for (int k = 0; k < KEYS; k++) {
        int t = noise_schedule_draw(&schedule, keys[k][0], keys[k][1], keys[k][2], COUNT, latent, noisy[k],
                                    noise[k]);
        assert_in_range(t, 0, TRAIN_TIMESTEPS - 1);
        assert_int_equal(t, noise_schedule_draw(&schedule, keys[k][0], keys[k][1], keys[k][2], COUNT, latent,
                                                again, again));
        double square = 0;
        for (int i = 0; i < COUNT; i++) square += (double)noise[k][i] * noise[k][i];
        assert_float_equal(square / COUNT, 1, 5 * sqrt(2.0 / COUNT)); // five standard errors
        for (int other = 0; other < k; other++) {
            double product = 0;
            for (int i = 0; i < COUNT; i++) product += (double)noise[k][i] * noise[other][i];
            assert_true(fabs(product / COUNT) < 5 / sqrt(COUNT));
        }
    }
}

/* Over the samples of a step, timesteps are spread over all of [0, 1000). */
static void timesteps_are_uniform(void **state)
{
    (void)state;
    enum { SAMPLES = 20000, PARTS = 10 };
    struct noise_schedule schedule = noise_schedule_scaled_linear(PREDICTION_V);
    int count[PARTS] = {0};
    float latent = 0, noisy, target;
    for (uint64_t sample = 0; sample < SAMPLES; sample++)
        count[noise_schedule_draw(&schedule, 1, 2, sample, 1, &latent, &noisy, &target) / 100]++;
    for (int part = 0; part < PARTS; part++)
        assert_true(fabs(count[part] - SAMPLES / (double)PARTS) < 5 * sqrt(SAMPLES / (double)PARTS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedule_is_stable_diffusions),     cmocka_unit_test(schedule_of_other_betas),
        cmocka_unit_test(targets_and_noisy_latents),         cmocka_unit_test(weights_are_min_snr),
        cmocka_unit_test(draws_follow_seed_step_and_sample), cmocka_unit_test(timesteps_are_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
