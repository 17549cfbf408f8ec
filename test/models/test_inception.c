/* FID's InceptionV3: what verify's comparison with pytorch-fid does not show. */
#include "models/inception.h"

#include "base/check.h"
#include "support/faults.h"
#include "support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SIDE = 75, VALUES = SIDE * SIDE * 3, F = 128 };

static struct inception *open_network(struct backend *backend)
{
    struct fault fault = {0};
    struct inception *inception;
    GOOD(inception_open(backend, "test/fixtures/inception_narrow", DTYPE_F32, &inception, &fault));
    assert_int_equal(inception->features, F);
    return inception;
}

static void close_network(struct backend *backend, struct inception *inception)
{
    inception_close(inception);
    backend_close(backend);
}

/* Pictures [count, SIDE, SIDE, 3]: the fixture's, over and over, each moved along by some pixels. */
static float *make_pictures(int count)
{
    struct fixture *fixture = fixture_open("inception_narrow_least");
    const double *planes = fixture_doubles(fixture, "inputs/image"); // [B, 3, S, S]
    int64_t samples = fixture_length(fixture, "inputs/image", 0);
    float *pictures = check_malloc((size_t)(count * VALUES) * sizeof *pictures);
    for (int64_t b = 0; b < count; b++)
        for (int64_t pixel = 0; pixel < SIDE * SIDE; pixel++)
            for (int64_t c = 0; c < 3; c++)
                pictures[b * VALUES + pixel * 3 + c] =
                    (float)planes[((b % samples) * 3 + c) * SIDE * SIDE + (pixel + 7 * b) % (SIDE * SIDE)];
    fixture_close(fixture);
    return pictures;
}

/* Bit for bit: alone, among others, in the first batch or a later one that is not full, at any place in it.
 */
static void features_are_independent_of_the_batch(void **state)
{
    (void)state;
    enum { COUNT = 2 * INCEPTION_BATCH + 3 };
    struct backend *backend = backend_open(BACKEND_CPU);
    struct inception *inception = open_network(backend);
    float *pictures = make_pictures(COUNT);
    float *together = check_malloc(COUNT * F * sizeof *together);
    float alone[F];
    inception_features(inception, COUNT, SIDE, SIDE, pictures, together);
    for (int b = 0; b < COUNT; b++) {
        inception_features(inception, 1, SIDE, SIDE, pictures + b * VALUES, alone);
        assert_memory_equal(alone, together + b * F, sizeof alone);
        assert_memory_not_equal(alone, together + (b + 1) % COUNT * F, sizeof alone); // pictures do differ
    }
    free(together);
    free(pictures);
    close_network(backend, inception);
}

/* Values of 0..255 are -1..1 to the network. */
static void pictures_are_scaled(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct inception *inception = open_network(backend);
    float *picture = make_pictures(1), *pixels = check_malloc(VALUES * sizeof *pixels);
    float found[F], expected[F];
    for (int i = 0; i < VALUES; i++) pixels[i] = (float)((picture[i] - 127.5) / 127.5);
    inception_features(inception, 1, SIDE, SIDE, picture, found);
    tape_reset(inception->tape, TAPE_NO_GRADIENT);
    struct tensor *x = tape_input(inception->tape, DTYPE_F32, 4, (int64_t[]){1, SIDE, SIDE, 3}, pixels);
    struct tensor *features = inception_forward(inception->tape, inception, x);
    assert_int_equal(tensor_count(features), F);
    tape_read(inception->tape, features, expected);
    double largest = 0;
    for (int i = 0; i < F; i++) largest = fmax(largest, fabs(expected[i]));
    for (int i = 0; i < F; i++) // scaled by another formula: roundings of fp32
        if (!(fabs(found[i] - expected[i]) <= 2e-6 * largest))
            fail_msg("feature %d is %.9g, expected %.9g", i, found[i], expected[i]);
    free(pixels);
    free(picture);
    close_network(backend, inception);
}

/* The published network: as many values as pytorch-fid's state_dict without the classifier, under its names.
 */
static void published_sizes(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct inception *inception = inception_new(backend, &(struct inception_config){.divisor = 1});
    const struct {
        const char *name;
        int64_t dim[4];
    } some[] = {
        {"Conv2d_1a_3x3.conv.weight", {32, 3, 3, 3}},
        {"Mixed_5d.branch_pool.conv.weight", {64, 288, 1, 1}},
        {"Mixed_6c.branch7x7dbl_2.conv.weight", {160, 160, 7, 1}},
        {"Mixed_6e.branch7x7dbl_5.conv.weight", {192, 192, 1, 7}},
        {"Mixed_7a.branch7x7x3_4.conv.weight", {192, 192, 3, 3}},
        {"Mixed_7c.branch3x3dbl_3b.conv.weight", {384, 384, 3, 1}},
        {"Mixed_7c.branch_pool.bn.running_var", {192, 1, 1, 1}},
    };
    int part;
    assert_int_equal(inception->features, INCEPTION_FEATURES);
    assert_int_equal(inception->parameters.count, 470);
    assert_int_equal(parameter_set_elements(&inception->parameters), 21820000);
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        struct parameter *parameter = parameter_find(&inception->parameters, some[i].name, &part);
        assert_non_null(parameter);
        assert_memory_equal(parameter->value.dim, some[i].dim, sizeof some[i].dim);
    }
    close_network(backend, inception);
}

static void configurations_are_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct inception_config config;
    GOOD(inception_config_parse(&config, "{\"model_type\": \"fid_inception_v3\", \"_made_by\": 1}", "config",
                                &fault));
    assert_int_equal(config.divisor, 1);
    const char *const cases[][2] = {
        {"{}", "model_type"},
        {"{\"model_type\": \"inception_v3\"}", "only \"fid_inception_v3\""},
        {"{\"model_type\": \"fid_inception_v3\", \"channels\": 1}", "channels: unknown key"},
        {"{\"model_type\": \"fid_inception_v3\", \"channels_divided_by\": 3}", "3 does not divide"},
        {"{\"model_type\": \"fid_inception_v3\", \"channels_divided_by\": 32}", "1..16"},
        {"{\"model_type\": \"fid_inception_v3\", \"channels_divided_by\": 0}", "1..16"},
        {"[]", "allowed an object"},
        {"", "config"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(inception_config_parse(&config, cases[i][0], "config", &fault), EXIT_CODE_INPUT, cases[i][1]);
}

/* What would become NaN in the fold is refused with its name. */
static void negative_variance_is_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct backend *backend = backend_open(BACKEND_CPU);
    struct inception *inception = inception_new(backend, &(struct inception_config){.divisor = 16});
    int part;
    parameter_set_allocate(&inception->parameters, false); // zeros
    GOOD(inception_fold(inception, "weights", &fault));
    struct parameter *variance =
        parameter_find(&inception->parameters, "Mixed_6a.branch3x3.bn.running_var", &part);
    ((float *)variance->value.data)[3] = -1e-6f;
    FAILS(inception_fold(inception, "weights", &fault), EXIT_CODE_INPUT,
          "weights: Mixed_6a.branch3x3.bn.running_var: element 3 is -1e-06, allowed 0 and more");
    close_network(backend, inception);
}

static void folders_are_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct backend *backend = backend_open(BACKEND_CPU);
    struct inception *inception;
    FAILS(inception_open(backend, "test/fixtures/nothing", DTYPE_F32, &inception, &fault), EXIT_CODE_INPUT,
          "test/fixtures/nothing/config.json");
    FAILS(inception_open(backend, "test/fixtures/clip_vision_gelu", DTYPE_F32, &inception, &fault),
          EXIT_CODE_INPUT, "test/fixtures/clip_vision_gelu/config.json");
    assert_null(inception);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_independent_of_the_batch),
        cmocka_unit_test(pictures_are_scaled),
        cmocka_unit_test(published_sizes),
        cmocka_unit_test(configurations_are_refused),
        cmocka_unit_test(negative_variance_is_refused),
        cmocka_unit_test(folders_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
