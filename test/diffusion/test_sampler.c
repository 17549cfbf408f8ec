/* Samplers, as properties: where the network is right about every sample, each sampler's samples are right at
 * every call, with any number of steps. */
#include "diffusion/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { COUNT = 3 };
static const double latent[COUNT] = {0.7, -1.9, 0}, noise[COUNT] = {-1.2, 0.4, 2.1};

/* What a network says that knows latent and noise, of the sample at that noise level. */
static void predict(const struct noise_schedule *schedule, int timestep, float output[COUNT])
{
    double signal = sqrt(schedule->alpha_bar[timestep]), sigma = sqrt(1 - schedule->alpha_bar[timestep]);
    for (int i = 0; i < COUNT; i++)
        output[i] =
            (float)(schedule->prediction == PREDICTION_V ? signal * noise[i] - sigma * latent[i] : noise[i]);
}

static void assert_noise_level(double alpha_bar, const float sample[COUNT], int steps, int call)
{
    for (int i = 0; i < COUNT; i++) {
        double expected = sqrt(alpha_bar) * latent[i] + sqrt(1 - alpha_bar) * noise[i];
        // The fp32 rounding of an early sample grows with the signal, by 14 at most.
        if (!(fabs(sample[i] - expected) <= 2e-5))
            fail_msg("%d steps, call %d, element %d: %.9g, expected %.9g", steps, call, i, sample[i],
                     expected);
    }
}

static void follow(enum sampler_kind kind, const struct noise_schedule *schedule, int steps)
{
    struct sampler sampler;
    sampler_init(&sampler, kind, schedule, steps, COUNT);
    assert_int_equal(sampler.calls, sampler_calls(kind, steps));
    double alpha_bar = schedule->alpha_bar[sampler_timestep(&sampler, 0)];
    float sample[COUNT], output[COUNT];
    for (int i = 0; i < COUNT; i++)
        sample[i] = (float)(sqrt(alpha_bar) * latent[i] + sqrt(1 - alpha_bar) * noise[i]);
    for (int call = 0; call < sampler.calls; call++) {
        predict(schedule, sampler_timestep(&sampler, call), output);
        sampler_step(&sampler, output, sample);
        double end = kind == SAMPLER_DPMPP ? 1 : schedule->alpha_bar[0];
        // The sample is where the model is called next; after pndm's first call and its second alike.
        double next =
            call + 1 < sampler.calls ? schedule->alpha_bar[sampler_timestep(&sampler, call + 1)] : end;
        assert_noise_level(next, sample, steps, call);
    }
    sampler_clear(&sampler);
}

/* pndm combines outputs of different timesteps: only a prediction of the noise stays the same. */
static void right_predictions_give_right_samples(void **state)
{
    (void)state;
    static const int steps[] = {1, 2, 3, 4, 5, 14, 15, 25, 333, 500, 998};
    struct noise_schedule epsilon = noise_schedule_scaled_linear(PREDICTION_EPSILON);
    struct noise_schedule v = noise_schedule_scaled_linear(PREDICTION_V);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        for (int kind = 0; kind < SAMPLER_KINDS; kind++) follow((enum sampler_kind)kind, &epsilon, steps[i]);
        follow(SAMPLER_DDIM, &v, steps[i]);
        follow(SAMPLER_DPMPP, &v, steps[i]);
    }
}

/* The first timestep is in the schedule with any number of steps, and each is below the one before; pndm
 * visits its second one twice. */
static void timesteps_fall(void **state)
{
    (void)state;
    struct noise_schedule schedule = noise_schedule_scaled_linear(PREDICTION_V);
    for (int kind = 0; kind < SAMPLER_KINDS; kind++)
        for (int steps = 1; steps <= sampler_most_steps((enum sampler_kind)kind); steps++) {
            struct sampler sampler;
            sampler_init(&sampler, (enum sampler_kind)kind, &schedule, steps, 0);
            int before = TRAIN_TIMESTEPS, repeated = 0;
            for (int call = 0; call < sampler.calls; call++) {
                int timestep = sampler_timestep(&sampler, call);
                assert_true(timestep >= 1 && timestep <= before && timestep < TRAIN_TIMESTEPS);
                if (timestep == before) assert_int_equal((repeated++, call), 2);
                before = timestep;
            }
            assert_int_equal(repeated, kind == SAMPLER_PNDM && steps > 1);
            sampler_clear(&sampler);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_predictions_give_right_samples),
        cmocka_unit_test(timesteps_fall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
