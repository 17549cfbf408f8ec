/* Batches of fixed cases: noise of (seed, item, timestep) alone, the forward process and the target by plain
 * formulas. */
#include "train/noised_batch.h"

#include "base/check.h"
#include "base/random.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ITEMS = 3, SIZE = 2 * 2 * 3, TOKENS = 2, WIDTH = 4, SEED = 5, TIMESTEP = 300 };

static const struct dataset_info info = {
    .items = 10, .views = 1, .height = 2, .width = 2, .channels = 3, .tokens = TOKENS, .text_width = WIDTH};

static struct noised_batch make(enum prediction prediction, uint64_t seed, int timestep, const int64_t *item,
                                float *latents)
{
    float states[ITEMS * TOKENS * WIDTH], mask[ITEMS * TOKENS];
    for (int i = 0; i < ITEMS * TOKENS * WIDTH; i++) states[i] = (float)i;
    for (int i = 0; i < ITEMS * TOKENS; i++) mask[i] = (float)(i % 2);
    for (int i = 0; i < ITEMS; i++)
        for (int j = 0; j < SIZE; j++) latents[i * SIZE + j] = (float)(0.1 * (double)item[i] - 0.05 * j);
    struct batch batch = {.count = ITEMS, .latents = latents, .text_states = states, .text_mask = mask};
    struct noise_schedule schedule = noise_schedule_scaled_linear(prediction);
    struct noised_batch noised = {0};
    noised_batch_make_fixed(&noised, &schedule, &info, &batch, seed, timestep, item);
    assert_memory_equal(noised.text_states, states, sizeof states);
    assert_memory_equal(noised.text_mask, mask, sizeof mask);
    return noised;
}

/* noisy = sqrt(abar) z + sqrt(1 - abar) eps; the target eps, or sqrt(abar) eps - sqrt(1 - abar) z. */
static void cases_are_the_formulas(void **state)
{
    (void)state;
    const int64_t item[ITEMS] = {4, 0, 7};
    double abar = 1;
    for (int t = 0; t <= TIMESTEP; t++) {
        double root = sqrt(0.00085) + (sqrt(0.012) - sqrt(0.00085)) * t / 999;
        abar *= 1 - root * root;
    }
    for (enum prediction prediction = PREDICTION_V; prediction <= PREDICTION_EPSILON; prediction++) {
        float latents[ITEMS * SIZE];
        struct noised_batch noised = make(prediction, SEED, TIMESTEP, item, latents);
        for (int i = 0; i < ITEMS; i++) {
            float eps[SIZE];
            random_normal((struct random_key){SEED, RANDOM_EVALUATION, TIMESTEP, (uint64_t)item[i]}, SIZE,
                          eps);
            assert_true(noised.timesteps[i] == TIMESTEP && noised.weight[i] == 1);
            for (int j = 0; j < SIZE; j++) {
                double z = latents[i * SIZE + j], e = eps[j];
                double target = prediction == PREDICTION_V ? sqrt(abar) * e - sqrt(1 - abar) * z : e;
                assert_within(noised.noisy[i * SIZE + j], sqrt(abar) * z + sqrt(1 - abar) * e, 1e-6); // fp32
                assert_within(noised.target[i * SIZE + j], target, 1e-6);
            }
        }
        noised_batch_clear(&noised);
    }
}

/* An item's case is the same at any place of any batch, and another one for another seed or timestep. */
static void place_does_not_matter(void **state)
{
    (void)state;
    const int64_t item[ITEMS] = {4, 0, 7}, moved[ITEMS] = {7, 4, 4};
    float latents[ITEMS * SIZE];
    struct noised_batch a = make(PREDICTION_V, SEED, TIMESTEP, item, latents),
                        b = make(PREDICTION_V, SEED, TIMESTEP, moved, latents),
                        c = make(PREDICTION_V, SEED + 1, TIMESTEP, item, latents),
                        d = make(PREDICTION_V, SEED, TIMESTEP + 1, item, latents);
    size_t bytes = SIZE * sizeof(float);
    assert_memory_equal(a.noisy, b.noisy + SIZE, bytes);
    assert_memory_equal(a.noisy, b.noisy + 2 * SIZE, bytes);
    assert_memory_equal(a.target + 2 * SIZE, b.target, bytes);
    assert_memory_not_equal(a.noisy, c.noisy, bytes);
    // of another timestep, less the part that comes from its other signal and noise: at 1/1000 they are close
    double largest_change = 0;
    for (int j = 0; j < SIZE; j++) largest_change = fmax(largest_change, fabs(a.noisy[j] - d.noisy[j]));
    assert_true(largest_change > 0.1);
    noised_batch_clear(&a);
    noised_batch_clear(&b);
    noised_batch_clear(&c);
    noised_batch_clear(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_are_the_formulas),
        cmocka_unit_test(place_does_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
