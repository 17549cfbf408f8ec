/* The dual encoder: its initial weights, its bound, its pixels. */
#include "models/clip.h"

#include "base/check.h"
#include "support/faults.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const char CONFIG[] = "{\"hidden_size\": 96, \"intermediate_size\": 24, \"num_hidden_layers\": 1, "
                             "\"num_attention_heads\": 2, \"image_size\": 32, \"patch_size\": 2, "
                             "\"projection_dim\": 10}";
enum { D = 7 };

static struct clip *network(struct backend *backend, uint64_t seed)
{
    struct fault fault = {0};
    struct clip_vision_config config;
    GOOD(clip_vision_config_parse(&config, CONFIG, "config", &fault));
    struct clip *clip = clip_new(backend, &config, D);
    parameter_set_allocate(&clip->parameters, true);
    clip_initialise(clip, seed);
    return clip;
}

static float *values_of(const struct clip *clip, const struct parameter *parameter)
{
    float *values = check_malloc(tensor_bytes(&parameter->value));
    for (int part = 0; part < parameter->part_count; part++)
        parameter_part_download(&clip->parameters, parameter, part,
                                values + parameter->part[part].first_row *
                                             (tensor_count(&parameter->value) / parameter->value.dim[0]));
    return values;
}

static void expect_deviation(const struct clip *clip, const struct parameter *parameter, double expected)
{
    int64_t count = tensor_count(&parameter->value);
    float *values = values_of(clip, parameter);
    double sum = 0, square = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i], square += (double)values[i] * values[i];
    double mean = sum / (double)count, error = expected / sqrt((double)count);
    assert_within(mean, 0, 5 * error); // five deviations each
    assert_within(sqrt(square / (double)count), expected, 5 * error / sqrt(2.0));
    free(values);
}

static void initial_weights(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct clip *clip = network(backend, 5), *same = network(backend, 5), *other = network(backend, 6);
    expect_deviation(clip, clip->vision->class_embedding, 1 / sqrt(96.0));
    expect_deviation(clip, clip->vision->position_embedding, 0.02);
    expect_deviation(clip, clip->text_projection.weight, 1 / sqrt(3.0 * D)); // uniform in +-1/sqrt(D)
    assert_within(clip_bound_scale(clip), log(1 / 0.07), 1e-6);
    for (int i = 0; i < clip->parameters.count; i++) {
        const struct parameter *parameter = clip->parameters.items[i];
        float *a = values_of(clip, parameter), *b = values_of(same, same->parameters.items[i]),
              *c = values_of(other, other->parameters.items[i]);
        bool constant = strstr(parameter->part[0].name, "norm") || parameter == clip->logit_scale;
        assert_memory_equal(a, b, tensor_bytes(&parameter->value));
        assert_int_equal(memcmp(a, c, tensor_bytes(&parameter->value)) == 0, constant);
        free(a);
        free(b);
        free(c);
    }
    clip_delete(other);
    clip_delete(same);
    clip_delete(clip);
    backend_close(backend);
}

static void scale_is_bounded(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct clip *clip = network(backend, 5);
    const float over = 4.7f, under = 4.5f;
    parameter_part_upload(&clip->parameters, clip->logit_scale, 0, &over);
    for (int i = 0; i < 2; i++) assert_within(clip_bound_scale(clip), log(100.0), 1e-6);
    float *value = values_of(clip, clip->logit_scale);
    assert_within(*value, log(100.0), 1e-6);
    free(value);
    parameter_part_upload(&clip->parameters, clip->logit_scale, 0, &under);
    assert_within(clip_bound_scale(clip), under, 0);
    clip_delete(clip);
    backend_close(backend);
}

static void pixels_lie_in_minus_one_to_one(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct fault fault = {0};
    struct clip_vision_config config;
    enum { VALUES = 2 * 32 * 32 * 3 };
    uint8_t *rgb = check_malloc(VALUES);
    float *pixels = check_malloc(VALUES * sizeof *pixels);
    GOOD(clip_vision_config_parse(&config, CONFIG, "config", &fault));
    struct clip *clip = clip_new(backend, &config, D);
    for (int i = 0; i < VALUES; i++) rgb[i] = (uint8_t)(i % 256);
    clip_pixels(clip, 2, rgb, pixels);
    for (int i = 0; i < VALUES; i++) assert_within(pixels[i], rgb[i] / 127.5 - 1, 1e-6);
    for (int c = 0; c < 3; c++) { // another mean and deviation a colour
        clip->mean[c] = (float)c / 4;
        clip->deviation[c] = (float)(1 << c);
    }
    clip_pixels(clip, 2, rgb, pixels);
    for (int i = 0; i < VALUES; i++)
        assert_within(pixels[i], (rgb[i] / 255.0 - i % 3 / 4.0) / (1 << i % 3), 1e-6);
    free(pixels);
    free(rgb);
    clip_delete(clip);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initial_weights),
        cmocka_unit_test(scale_is_bounded),
        cmocka_unit_test(pixels_lie_in_minus_one_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
