/* Guided sampling: equal to a plain loop over unet_forward, which finds everything anew in each call; and an
 * image is the same bit for bit whatever the batch and its neighbours are. */
#include "diffusion/guided_sampling.h"

#include "base/check.h"
#include "base/random.h"
#include "models/unet_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { IMAGES = 5, HEIGHT = 8, WIDTH = 12, TOKENS = 5, CHANNELS = 4, SIZE = HEIGHT * WIDTH * CHANNELS };

static const double guidance = 3;

/* IMAGES images of one network. */
struct setting {
    struct backend *backend;
    struct unet *unet;
    struct noise_schedule schedule;
    int64_t text;  // elements of a prompt's token states
    float *noise;  // [IMAGES, SIZE]
    float *states; // [2, IMAGES, TOKENS, D]
    float *mask;   // [2, IMAGES, TOKENS]
};

static float *normals(uint64_t what, int64_t count)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    random_normal((struct random_key){.seed = what, .stream = RANDOM_TEST}, (uint64_t)count, values);
    return values;
}

static struct setting setting_new(const char *folder)
{
    struct setting setting = {.backend = backend_open(BACKEND_CPU),
                              .schedule = noise_schedule_scaled_linear(PREDICTION_V)};
    struct unet_config config;
    struct fault fault = {0};
    if (!unet_folder_config(folder, 32, &config, &fault)) fail_msg("%s", fault.text);
    setting.unet = unet_new(setting.backend, &config, (struct unet_shape){0});
    if (!unet_folder_load(folder, setting.unet, false, &fault)) fail_msg("%s", fault.text);
    assert_int_equal(config.in_channels, CHANNELS);
    setting.text = TOKENS * config.text_width;
    setting.noise = normals(1, IMAGES * SIZE);
    setting.states = normals(2, 2 * IMAGES * setting.text);
    setting.mask = check_malloc(2 * IMAGES * TOKENS * sizeof(float));
    for (int i = 0; i < 2 * IMAGES; i++) // prompts of 2, 3, ... tokens
        for (int t = 0; t < TOKENS; t++) setting.mask[i * TOKENS + t] = t < 2 + i % 4;
    return setting;
}

static void setting_clear(struct setting *setting)
{
    free(setting->noise);
    free(setting->states);
    free(setting->mask);
    unet_delete(setting->unet);
    backend_close(setting->backend);
}

static struct guided_sampling sampling_of(const struct setting *setting, enum sampler_kind kind, int steps)
{
    return (struct guided_sampling){.unet = setting->unet,
                                    .schedule = &setting->schedule,
                                    .sampler = kind,
                                    .steps = steps,
                                    .guidance = guidance};
}

static void count_call(void *context)
{
    ++*(int64_t *)context;
}

/* Images image[0..count) in one batch; into out [count, SIZE]. */
static void sample(const struct setting *setting, struct guided_sampler *sampler, int count, const int *image,
                   float *out)
{
    float *states = check_malloc((size_t)(2 * count * setting->text) * sizeof *states);
    float *mask = check_malloc((size_t)(2 * count * TOKENS) * sizeof *mask);
    for (int i = 0; i < 2 * count; i++) {
        int from = i / count * IMAGES + image[i % count];
        memcpy(states + i * setting->text, setting->states + from * setting->text,
               (size_t)setting->text * sizeof *states);
        memcpy(mask + i * TOKENS, setting->mask + from * TOKENS, TOKENS * sizeof *mask);
    }
    for (int i = 0; i < count; i++)
        memcpy(out + i * SIZE, setting->noise + image[i] * SIZE, SIZE * sizeof *out);
    struct guided_batch batch = {count, HEIGHT, WIDTH, TOKENS, out, states, mask};
    int64_t calls = 0;
    guided_sampler_run(sampler, &batch, count_call, &calls);
    assert_int_equal(calls, guided_sampler_calls(sampler, count));
    free(states);
    free(mask);
}

/* The same with nothing kept between calls. Each image fills a batch of the sampler's shape with copies. */
static void sample_plainly(const struct setting *setting, enum sampler_kind kind, int steps, int image,
                           float *out)
{
    enum { ROWS = 2 * GUIDED_IMAGES };
    int64_t text = setting->text;
    float *states = check_malloc((size_t)(ROWS * text) * sizeof *states), mask[ROWS * TOKENS];
    float prediction[ROWS * SIZE], latents[ROWS * SIZE], timesteps[ROWS];
    for (int i = 0; i < ROWS; i++) {
        int from = i / GUIDED_IMAGES * IMAGES + image;
        memcpy(states + i * text, setting->states + from * text, (size_t)text * sizeof *states);
        memcpy(mask + i * TOKENS, setting->mask + from * TOKENS, TOKENS * sizeof *mask);
    }
    struct tape *tape = tape_new(setting->backend, DTYPE_F32);
    struct sampler sampler;
    sampler_init(&sampler, kind, &setting->schedule, steps, SIZE);
    memcpy(out, setting->noise + image * SIZE, SIZE * sizeof *out);
    for (int call = 0; call < sampler.calls; call++) {
        for (int i = 0; i < ROWS; i++) {
            memcpy(latents + i * SIZE, out, SIZE * sizeof *out);
            timesteps[i] = (float)sampler_timestep(&sampler, call);
        }
        tape_reset(tape, TAPE_NO_GRADIENT);
        struct unet_input input = {
            .latents = tape_input(tape, DTYPE_F32, 4, (int64_t[]){ROWS, HEIGHT, WIDTH, CHANNELS}, latents),
            .timesteps = tape_input(tape, DTYPE_F32, 1, (int64_t[]){ROWS}, timesteps),
            .text = tape_input(tape, DTYPE_F32, 3, (int64_t[]){ROWS, TOKENS, text / TOKENS}, states),
            .text_mask = tape_input(tape, DTYPE_F32, 2, (int64_t[]){ROWS, TOKENS}, mask)};
        struct unet_output output;
        unet_forward(tape, setting->unet, input, &output);
        tape_read(tape, output.sample, prediction);
        for (int i = 0; i < SIZE; i++) {
            float away = prediction[i], towards = prediction[GUIDED_IMAGES * SIZE + i];
            prediction[i] = away + (float)guidance * (towards - away);
        }
        sampler_step(&sampler, prediction, out);
    }
    sampler_clear(&sampler);
    tape_delete(tape);
    free(states);
}

static void is_the_plain_loop(void **state)
{
    (void)state;
    static const char *const folders[] = {"test/fixtures/unet_sd2", "test/fixtures/unet_sd1"};
    for (int n = 0; n < 2; n++) {
        struct setting setting = setting_new(folders[n]);
        for (enum sampler_kind kind = 0; kind < SAMPLER_KINDS; kind++) {
            struct guided_sampling sampling = sampling_of(&setting, kind, 4);
            struct guided_sampler *sampler = guided_sampler_new(&sampling, DTYPE_F32);
            float found[IMAGES * SIZE], expected[SIZE];
            sample(&setting, sampler, IMAGES, (int[]){0, 1, 2, 3, 4}, found);
            for (int i = 0; i < IMAGES; i++) {
                sample_plainly(&setting, kind, 4, i, expected);
                assert_memory_equal(found + i * SIZE, expected, sizeof expected);
                if (i) assert_memory_not_equal(found, found + i * SIZE, sizeof expected);
            }
            guided_sampler_delete(sampler);
        }
        setting_clear(&setting);
    }
}

static void batch_and_neighbours_change_nothing(void **state)
{
    (void)state;
    static const struct {
        int count, image[IMAGES];
    } batches[] = {{1, {0}}, {1, {4}}, {2, {4, 1}}, {3, {2, 2, 0}}, {4, {3, 0, 4, 1}}, {5, {4, 3, 2, 1, 0}}};
    struct setting setting = setting_new("test/fixtures/unet_sd2");
    struct guided_sampling sampling = sampling_of(&setting, SAMPLER_PNDM, 5);
    struct guided_sampler *sampler = guided_sampler_new(&sampling, DTYPE_F32);
    float all[IMAGES * SIZE], found[IMAGES * SIZE];
    sample(&setting, sampler, IMAGES, (int[]){0, 1, 2, 3, 4}, all);
    for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
        sample(&setting, sampler, batches[b].count, batches[b].image, found);
        for (int i = 0; i < batches[b].count; i++)
            assert_memory_equal(found + i * SIZE, all + batches[b].image[i] * SIZE, SIZE * sizeof *all);
    }
    assert_int_equal(guided_sampler_calls(sampler, 1), 6);
    assert_int_equal(guided_sampler_calls(sampler, IMAGES),
                     6 * ((IMAGES + GUIDED_IMAGES - 1) / GUIDED_IMAGES));
    guided_sampler_delete(sampler);
    setting_clear(&setting);
}

/* What the plan backend counts is what the CPU takes. */
static void memory_is_as_planned(void **state)
{
    (void)state;
    struct setting setting = setting_new("test/fixtures/unet_sd2");
    struct backend *plan = backend_open(BACKEND_PLAN);
    struct unet *planned = unet_new(plan, &setting.unet->config, (struct unet_shape){0});
    parameter_set_allocate(&planned->parameters, false);
    size_t peak[2];
    for (int p = 0; p < 2; p++) {
        struct guided_sampling sampling = sampling_of(&setting, SAMPLER_DDIM, 2);
        if (p) sampling.unet = planned;
        struct guided_sampler *sampler = guided_sampler_new(&sampling, DTYPE_F32);
        float out[3 * SIZE];
        for (int again = 0; again < 2; again++) sample(&setting, sampler, 3, (int[]){0, 1, 2}, out);
        peak[p] = guided_sampler_peak(sampler);
        guided_sampler_delete(sampler);
    }
    assert_true(peak[0] > 0);
    assert_int_equal(peak[0], peak[1]);
    unet_delete(planned);
    backend_close(plan);
    setting_clear(&setting);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_the_plain_loop),
        cmocka_unit_test(batch_and_neighbours_change_nothing),
        cmocka_unit_test(memory_is_as_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
