/* Batches of fixed cases: noise of (seed, item, timestep) alone, the forward process and the target by plain
 * formulas. Latents that are drawn: what they are made of, told from noisy samples and targets. */
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

// ---- latents that are drawn

enum { DRAWN = 4, H = 32, W = 32, C = 4, LATENT = H * W * C };

static const struct dataset_info drawn_info = {
    .items = 10, .views = 1, .height = H, .width = W, .channels = C, .tokens = TOKENS, .text_width = WIDTH};

struct drawn {
    float mean[DRAWN * LATENT], deviation[DRAWN * LATENT], states[DRAWN * TOKENS * WIDTH],
        mask[DRAWN * TOKENS];
    struct noise_schedule schedule;
    struct noised_batch noised;
};

static struct drawn *drawn_new(void)
{
    struct drawn *drawn = check_calloc(1, sizeof *drawn);
    drawn->schedule = noise_schedule_scaled_linear(PREDICTION_V);
    for (int i = 0; i < DRAWN * LATENT; i++) {
        drawn->mean[i] = (float)(i % 37) / 10 - 2;
        drawn->deviation[i] = (float)(1 + i % 11) / 4;
    }
    return drawn;
}

static void drawn_delete(struct drawn *drawn)
{
    noised_batch_clear(&drawn->noised);
    free(drawn);
}

static struct batch drawn_batch(struct drawn *drawn, int first, int count)
{
    return (struct batch){.count = count,
                          .latents = drawn->mean + first * LATENT,
                          .deviations = drawn->deviation + first * LATENT,
                          .text_states = drawn->states,
                          .text_mask = drawn->mask};
}

/* Of v and the noisy sample: z = sqrt(abar) noisy - sqrt(1 - abar) v, eps = sqrt(1 - abar) noisy + sqrt(abar)
 * v.
 */
static void take_apart(const struct drawn *drawn, int sample, int j, double *z, double *eps)
{
    const struct noised_batch *noised = &drawn->noised;
    double abar = drawn->schedule.alpha_bar[(int)noised->timesteps[sample]];
    double noisy = noised->noisy[sample * LATENT + j], v = noised->target[sample * LATENT + j];
    *z = sqrt(abar) * noisy - sqrt(1 - abar) * v;
    *eps = sqrt(1 - abar) * noisy + sqrt(abar) * v;
}

/* Every latent is mean + deviation x the numbers of its key. */
static void expect_latents(const struct drawn *drawn, int count, const struct random_key *key)
{
    static float noise[LATENT];
    for (int i = 0; i < count; i++) {
        random_normal(key[i], LATENT, noise);
        for (int j = 0; j < LATENT; j++) {
            double z, eps, deviation = drawn->deviation[i * LATENT + j];
            take_apart(drawn, i, j, &z, &eps);
            assert_within(z, drawn->mean[i * LATENT + j] + deviation * noise[j],
                          1e-5); // fp32, values up to 10
        }
    }
}

/* In training: keyed by seed, step and place in the global batch, wherever a rank's part of it begins. */
static void training_draws_latents(void **state)
{
    (void)state;
    enum { STEP = 6, FIRST = 3 };
    struct drawn *drawn = drawn_new(), *part = drawn_new();
    struct batch batch = drawn_batch(drawn, 0, DRAWN);
    noised_batch_make(&drawn->noised, &drawn->schedule, &drawn_info, &batch, SEED, STEP, FIRST, 0);
    struct random_key key[DRAWN];
    for (uint64_t i = 0; i < DRAWN; i++) key[i] = (struct random_key){SEED, RANDOM_LATENT, STEP, FIRST + i};
    expect_latents(drawn, DRAWN, key);
    for (int first = 0; first < DRAWN; first += 2) {
        batch = drawn_batch(part, first, 2);
        noised_batch_make(&part->noised, &part->schedule, &drawn_info, &batch, SEED, STEP,
                          (uint64_t)(FIRST + first), 0);
        assert_memory_equal(part->noised.noisy, drawn->noised.noisy + first * LATENT,
                            2 * LATENT * sizeof(float));
        assert_memory_equal(part->noised.target, drawn->noised.target + first * LATENT,
                            2 * LATENT * sizeof(float));
    }
    double z[2], eps; // of two steps
    take_apart(drawn, 0, 0, &z[0], &eps);
    batch = drawn_batch(drawn, 0, DRAWN);
    noised_batch_make(&drawn->noised, &drawn->schedule, &drawn_info, &batch, SEED, STEP + 1, FIRST, 0);
    take_apart(drawn, 0, 0, &z[1], &eps);
    assert_true(fabs(z[0] - z[1]) > 1e-3);
    drawn_delete(part);
    drawn_delete(drawn);
}

/* The numbers behind the latents: standard normal, and strangers to the noise that is added. */
static void draws_are_normal(void **state)
{
    (void)state;
    struct drawn *drawn = drawn_new();
    struct batch batch = drawn_batch(drawn, 0, DRAWN);
    noised_batch_make(&drawn->noised, &drawn->schedule, &drawn_info, &batch, SEED, 1, 0, 0);
    double sum = 0, squares = 0, product = 0, n = DRAWN * LATENT;
    for (int i = 0; i < DRAWN; i++)
        for (int j = 0; j < LATENT; j++) {
            double z, eps;
            take_apart(drawn, i, j, &z, &eps);
            double number = (z - drawn->mean[i * LATENT + j]) / drawn->deviation[i * LATENT + j];
            sum += number;
            squares += number * number;
            product += number * eps;
        }
    // four standard errors
    assert_within(sum / n, 0, 4 / sqrt(n));
    assert_within(squares / n, 1, 4 * sqrt(2 / n));
    assert_within(product / n, 0, 4 / sqrt(n));
    drawn_delete(drawn);
}

/* In measurements: an item's latent is one and the same, whatever the timestep and its place. */
static void measurements_draw_by_item(void **state)
{
    (void)state;
    const int64_t item[DRAWN] = {4, 0, 7, 4};
    struct drawn *drawn = drawn_new();
    struct batch batch = drawn_batch(drawn, 0, DRAWN);
    struct random_key key[DRAWN];
    for (int i = 0; i < DRAWN; i++)
        key[i] = (struct random_key){SEED, RANDOM_EVALUATION_LATENT, 0, (uint64_t)item[i]};
    for (int timestep = 100; timestep < 1000; timestep += 400) {
        noised_batch_make_fixed(&drawn->noised, &drawn->schedule, &drawn_info, &batch, SEED, timestep, item);
        expect_latents(drawn, DRAWN, key);
    }
    drawn_delete(drawn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_are_the_formulas),    cmocka_unit_test(place_does_not_matter),
        cmocka_unit_test(training_draws_latents),    cmocka_unit_test(draws_are_normal),
        cmocka_unit_test(measurements_draw_by_item),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
