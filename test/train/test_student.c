/* The student's losses and gradients: an expert that is really sliced has the losses of the teacher under its
 * hard mask (mask = slice, METHOD section 2), micro-batches of any size give the same, and gradients of its
 * weights are those of finite differences. (The losses under gates are compared with PyTorch's by
 * test/phases/test_verify.sh, model prune_step.) */
#include "train/student.h"

#include "base/check.h"
#include "base/random.h"
#include "models/unet_folder.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SAMPLES = 5, HEIGHT = 8, WIDTH = 8, TOKENS = 4 };
static const char *const folder = "test/fixtures/unet_sd2";
static const struct student_weights weights = {0.3, 0.7, 1.1};

struct fixture {
    struct backend *backend;
    struct tape *tape;
    struct unet *teacher, *expert;
    uint8_t *mask; // [entries]
    struct dataset_info info;
    struct noised_batch noised;
};

static float *normals(uint64_t what, int64_t count)
{
    float *values = check_malloc((size_t)count * sizeof *values);
    random_normal((struct random_key){.seed = what, .stream = RANDOM_TEST}, (uint64_t)count, values);
    return values;
}

/* A mask that keeps the first entry of every unit, about 3 of 4 of the others, and all depth entries but one.
 */
static uint8_t *make_mask(const struct unit_table *table)
{
    uint8_t *mask = check_malloc((size_t)table->entries);
    for (int i = 0; i < table->entries; i++) mask[i] = i % 4 != 3;
    for (int u = 0; u < table->units; u++) mask[table->unit[u].first] = 1;
    for (int d = 0; d < table->depth_entries; d++) mask[table->width_entries + d] = d != 1;
    return mask;
}

static int set_up(void **state)
{
    struct fixture *f = check_calloc(1, sizeof *f);
    struct fault fault = {0};
    struct unet_config config;
    f->backend = backend_open(BACKEND_CPU);
    if (!unet_folder_config(folder, 32, &config, &fault)) fail_msg("%s", fault.text);
    f->teacher = unet_new(f->backend, &config, (struct unet_shape){0});
    if (!unet_folder_load(folder, f->teacher, true, &fault)) fail_msg("%s", fault.text);
    f->mask = make_mask(&f->teacher->table);
    struct unet_shape shape = {f->mask, f->mask + f->teacher->table.width_entries};
    f->expert = unet_new(f->backend, &config, shape);
    parameter_set_allocate(&f->expert->parameters, true);
    unet_slice(f->teacher, shape, f->expert);
    f->tape = tape_new(f->backend, DTYPE_F32);
    f->info = (struct dataset_info){.items = SAMPLES,
                                    .views = 1,
                                    .height = HEIGHT,
                                    .width = WIDTH,
                                    .channels = config.in_channels,
                                    .tokens = TOKENS,
                                    .text_width = config.text_width};
    int64_t masks = SAMPLES * TOKENS;
    struct batch batch = {.count = SAMPLES,
                          .latents = normals(1, SAMPLES * HEIGHT * WIDTH * config.in_channels),
                          .text_states = normals(2, masks * config.text_width),
                          .text_mask = check_malloc((size_t)masks * sizeof(float))};
    for (int64_t i = 0; i < masks; i++) batch.text_mask[i] = i % 3 != 2;
    struct noise_schedule schedule = noise_schedule_scaled_linear(PREDICTION_V);
    noised_batch_make(&f->noised, &schedule, &f->info, &batch, 9, 0, 0, 5.0);
    free(batch.latents);
    free(batch.text_states);
    free(batch.text_mask);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    noised_batch_clear(&f->noised);
    tape_delete(f->tape);
    unet_delete(f->expert);
    unet_delete(f->teacher);
    backend_close(f->backend);
    free(f->mask);
    free(f);
    return 0;
}

/* The three losses of every sample, losses[3][SAMPLES]; gates NULL: of the expert. */
static void run(struct fixture *f, const struct unet *unet, const struct unet *teacher, const float *gates,
                int64_t micro_batch, double losses[3][SAMPLES])
{
    float *gradient = check_malloc((size_t)(SAMPLES * unet->table.entries) * sizeof *gradient);
    struct student student = {.teacher = teacher,
                              .unet = unet,
                              .info = &f->info,
                              .weights = weights,
                              .micro_batch = micro_batch,
                              .global_batch = SAMPLES};
    struct student_result result = {losses[0], losses[1], losses[2], gradient};
    student_run(f->tape, &student, &f->noised, gates, &result);
    free(gradient);
}

/* The weighted mean, whose gradient is taken. */
static double total_of(double losses[3][SAMPLES])
{
    double total = 0;
    for (int i = 0; i < SAMPLES; i++)
        total += weights.ddpm * losses[0][i] + weights.distill_out * losses[1][i] +
                 weights.distill_block * losses[2][i];
    return total / SAMPLES;
}

/* Two fp32 networks of about 20 layers: a few times what one is off. */
static const double mask_limit = 2e-5;

static void test_mask_is_slice(void **state)
{
    struct fixture *f = *state;
    double sliced[3][SAMPLES], masked[3][SAMPLES];
    int64_t entries = f->teacher->table.entries;
    float *gates = check_malloc((size_t)(SAMPLES * entries) * sizeof *gates);
    for (int64_t i = 0; i < SAMPLES * entries; i++) gates[i] = f->mask[i % entries];
    run(f, f->expert, f->teacher, NULL, SAMPLES, sliced);
    run(f, f->teacher, f->teacher, gates, SAMPLES, masked);
    for (int term = 0; term < 3; term++)
        for (int i = 0; i < SAMPLES; i++) {
            assert_true(sliced[term][i] > 1e-4);
            assert_within(sliced[term][i], masked[term][i], mask_limit * masked[term][i]);
        }
    free(gates);
}

/* 5 samples as 2 + 2 + 1, as one, and as 5 passes. Without a teacher only its losses are missing. */
static void test_passes(void **state)
{
    struct fixture *f = *state;
    double one[3][SAMPLES], other[3][SAMPLES];
    run(f, f->expert, f->teacher, NULL, SAMPLES, one);
    for (int64_t micro = 1; micro <= 2; micro++) {
        run(f, f->expert, f->teacher, NULL, micro, other);
        for (int term = 0; term < 3; term++)
            for (int i = 0; i < SAMPLES; i++)
                assert_within(other[term][i], one[term][i], 1e-5 * one[term][i]);
    }
    run(f, f->expert, NULL, NULL, 2, other);
    for (int i = 0; i < SAMPLES; i++) {
        assert_within(other[0][i], one[0][i], 1e-5 * one[0][i]);
        assert_true(other[1][i] == 0 && other[2][i] == 0);
    }
}

/* The loss in a random direction of one parameter: central difference against the gradient's product with it.
 */
static void check_parameter(struct fixture *f, struct parameter *parameter)
{
    struct parameter_set *set = &f->expert->parameters;
    int64_t count = tensor_count(&parameter->value);
    float *direction = normals(77, count), *value = parameter->value.data;
    float *kept = check_malloc((size_t)count * sizeof *kept);
    double losses[3][SAMPLES], size = 0, expected = 0, change[2];
    parameter_set_zero_gradients(set);
    run(f, f->expert, f->teacher, NULL, 2, losses);
    const float *gradient = parameter->gradient.data;
    for (int64_t i = 0; i < count; i++) {
        expected += (double)gradient[i] * direction[i];
        size += (double)gradient[i] * gradient[i];
        kept[i] = value[i];
    }
    const float distance = 2e-3f;
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < count; i++)
            value[i] = kept[i] + (side ? distance : -distance) * direction[i] / sqrtf((float)count);
        for (int form = 0; form < PACKED_FORMS; form++) parameter->packed_stale[form] = true;
        run(f, f->expert, f->teacher, NULL, 2, losses);
        change[side] = total_of(losses);
    }
    for (int64_t i = 0; i < count; i++) value[i] = kept[i];
    for (int form = 0; form < PACKED_FORMS; form++) parameter->packed_stale[form] = true;
    double found = (change[1] - change[0]) / (2 * distance) * sqrt((double)count);
    // fp32 losses of about 1 are off by some 1e-7; over the distance of 4e-3 that is 3e-5 a unit of direction
    assert_within(found, expected, 0.02 * sqrt(size) + 5e-5 * sqrt((double)count));
    free(direction);
    free(kept);
}

static void test_gradient(void **state)
{
    struct fixture *f = *state;
    struct parameter_set *set = &f->expert->parameters;
    int checked = 0;
    for (int i = 0; i < set->count; i += 7, checked++) check_parameter(f, set->items[i]);
    assert_true(checked > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mask_is_slice, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_passes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gradient, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
