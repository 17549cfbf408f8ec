/* Latents: the Haar transform against its definition, its orthonormality, exact inversion, factors. */
#include "diffusion/latent.h"

#include "base/random.h"
#include "io/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { HEIGHT = 6, WIDTH = 10, ELEMENTS = HEIGHT * WIDTH * 3, PICTURES = 40 };
static const struct latent_form haar_unscaled = {LATENT_HAAR, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}};

static void assert_near(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) fail_msg("%.9g, expected %.9g", value, expected);
}

/* Pictures of every kind: noise, noise of 0 and 255 alone, one grey. */
static void make_picture(uint64_t number, uint8_t rgb[ELEMENTS])
{
    struct random_key key = {5, RANDOM_TEST, 0, number};
    for (uint64_t i = 0; i < ELEMENTS; i++) {
        uint64_t value = random_below(key, i, 256);
        rgb[i] = (uint8_t)(number % 3 == 0   ? value
                           : number % 3 == 1 ? 255 * (value & 1)
                                             : 17 * (number % 16));
    }
}

static double pixel_value(const uint8_t *rgb, int y, int x, int colour)
{
    return 2.0 * rgb[(y * WIDTH + x) * 3 + colour] / 255 - 1;
}

/* Each channel against the formulas of latent.h; fp32 rounds to 2^-24 of at most 2. */
static void haar_is_the_defined_transform(void **state)
{
    (void)state;
    static const int sign[4][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {1, 1, -1, -1}, {1, -1, -1, 1}};
    uint8_t rgb[ELEMENTS];
    float latent[ELEMENTS];
    make_picture(0, rgb);
    struct latent_form form = haar_unscaled;
    for (int c = 0; c < 12; c++) form.scale[c] = 0.5 + 0.25 * c;
    latent_encode(&form, HEIGHT, WIDTH, rgb, latent);
    for (int y = 0; y < HEIGHT / 2; y++)
        for (int x = 0; x < WIDTH / 2; x++)
            for (int band = 0; band < 4; band++)
                for (int colour = 0; colour < 3; colour++) {
                    double sum = 0;
                    for (int i = 0; i < 4; i++)
                        sum += sign[band][i] * pixel_value(rgb, 2 * y + i / 2, 2 * x + i % 2, colour);
                    int c = 3 * band + colour;
                    assert_near(latent[(y * (WIDTH / 2) + x) * 12 + c], sum / 2 * form.scale[c],
                                2e-7 * form.scale[c]);
                }
}

/* Orthonormal: inner products of two pictures are those of their transforms, to the rounding of 180 products
 * of at most 4. */
static void haar_keeps_inner_products(void **state)
{
    (void)state;
    uint8_t a[ELEMENTS], b[ELEMENTS];
    float haar_a[ELEMENTS], haar_b[ELEMENTS];
    for (uint64_t i = 0; i + 1 < PICTURES; i++) {
        make_picture(i, a);
        make_picture(i + 1, b);
        latent_encode(&haar_unscaled, HEIGHT, WIDTH, a, haar_a);
        latent_encode(&haar_unscaled, HEIGHT, WIDTH, b, haar_b);
        double pixels = 0, bands = 0;
        for (int e = 0; e < ELEMENTS; e++) {
            pixels += (2.0 * a[e] / 255 - 1) * (2.0 * b[e] / 255 - 1);
            bands += (double)haar_a[e] * haar_b[e];
        }
        assert_near(bands, pixels, ELEMENTS * 4 * 1.2e-7);
    }
}

/* Pictures come back bit for bit, from fp32 and from the halves that a file holds, whatever the factors: a
 * half is off by 2^-11 of its value, which is 0.13 of an 8-bit level in the sum of four bands. */
static void decoding_undoes_encoding(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < LATENT_KINDS * PICTURES; i++) {
        struct latent_form form = {.kind = i < PICTURES ? LATENT_HAAR : LATENT_PIXEL};
        for (uint64_t c = 0; c < LATENT_MAX_CHANNELS; c++)
            form.scale[c] = form.kind == LATENT_PIXEL
                                ? 1
                                : 0.3 + 30 * random_uniform((struct random_key){9, RANDOM_TEST, 1, i}, c);
        uint8_t rgb[ELEMENTS], back[ELEMENTS];
        float latent[ELEMENTS];
        uint16_t half[ELEMENTS];
        int patch = latent_patch(form.kind);
        make_picture(i, rgb);
        latent_encode(&form, HEIGHT, WIDTH, rgb, latent);
        latent_decode(&form, HEIGHT / patch, WIDTH / patch, latent, back);
        assert_memory_equal(back, rgb, ELEMENTS);
        assert_int_equal(half_from_float(latent, ELEMENTS, half), -1);
        half_to_float(half, ELEMENTS, latent);
        memset(back, 1, sizeof back);
        latent_decode(&form, HEIGHT / patch, WIDTH / patch, latent, back);
        assert_memory_equal(back, rgb, ELEMENTS);
    }
}

/* What a sampler may hand over: values beyond -1..1 and not finite. */
static void decoding_clamps(void **state)
{
    (void)state;
    static const struct latent_form pixel = {LATENT_PIXEL, {1, 1, 1}};
    float latent[12] = {-7, 9, NAN, INFINITY, -INFINITY, 0, 1, -1, 0.0039216f, 0.5f, 2, -2};
    static const uint8_t expected[12] = {0, 255, 0, 255, 0, 128, 255, 0, 128, 191, 255, 0};
    uint8_t rgb[12];
    latent_decode(&pixel, 2, 2, latent, rgb);
    assert_memory_equal(rgb, expected, sizeof rgb);
    for (int c = 0; c < 12; c++) latent[c] = c < 3 ? 100 : 0;
    latent_decode(&haar_unscaled, 1, 1, latent, rgb);
    for (int i = 0; i < 12; i++) assert_int_equal(rgb[i], 255);
    latent[2] = NAN;
    latent_decode(&haar_unscaled, 1, 1, latent, rgb);
    for (int i = 0; i < 12; i++) assert_int_equal(rgb[i], i % 3 == 2 ? 0 : 255);
}

/* After scaling each channel of the measured pictures has variance 1; in whatever parts and order they were
 * added, the factors are the same bits. */
static void factors_make_the_variance_one(void **state)
{
    (void)state;
    struct latent_moments all = {0}, odd = {0}, even = {0};
    uint8_t rgb[ELEMENTS];
    for (uint64_t i = 0; i < PICTURES; i++) {
        make_picture(i, rgb);
        latent_moments_add(&all, LATENT_HAAR, HEIGHT, WIDTH, rgb);
        latent_moments_add(i % 2 ? &odd : &even, LATENT_HAAR, HEIGHT, WIDTH, rgb);
    }
    latent_moments_merge(&odd, &even);
    struct latent_form form = latent_form_from_moments(LATENT_HAAR, &all);
    struct latent_form parts = latent_form_from_moments(LATENT_HAAR, &odd);
    assert_memory_equal(form.scale, parts.scale, sizeof form.scale);

    double sum[12] = {0}, square[12] = {0};
    float latent[ELEMENTS];
    for (uint64_t i = 0; i < PICTURES; i++) {
        make_picture(i, rgb);
        latent_encode(&form, HEIGHT, WIDTH, rgb, latent);
        for (int e = 0; e < ELEMENTS; e++) {
            sum[e % 12] += latent[e];
            square[e % 12] += (double)latent[e] * latent[e];
        }
    }
    double count = PICTURES * ELEMENTS / 12.0;
    for (int c = 0; c < 12; c++) {
        double mean = sum[c] / count;
        assert_near(square[c] / count - mean * mean, 1, 1e-6); // latents are fp32
    }
}

/* A channel that does not vary keeps its values; pixels are never scaled. */
static void factors_stay_one(void **state)
{
    (void)state;
    uint8_t rgb[ELEMENTS];
    memset(rgb, 77, sizeof rgb);
    struct latent_moments moments = {0};
    latent_moments_add(&moments, LATENT_HAAR, HEIGHT, WIDTH, rgb);
    struct latent_form form = latent_form_from_moments(LATENT_HAAR, &moments);
    for (int c = 0; c < 12; c++) assert_true(form.scale[c] == 1);

    make_picture(0, rgb);
    moments = (struct latent_moments){0};
    latent_moments_add(&moments, LATENT_PIXEL, HEIGHT, WIDTH, rgb);
    form = latent_form_from_moments(LATENT_PIXEL, &moments);
    for (int c = 0; c < 3; c++) assert_true(form.scale[c] == 1);
}

static void kinds_have_names(void **state)
{
    (void)state;
    enum latent_kind kind;
    for (int i = 0; i < LATENT_KINDS; i++) {
        assert_true(latent_kind_find(latent_kind_name((enum latent_kind)i), &kind));
        assert_int_equal(kind, i);
        if (kind == LATENT_VAE) continue;
        assert_int_equal(latent_channels(kind), 3 * latent_patch(kind) * latent_patch(kind));
    }
    assert_false(latent_kind_find("wavelet", &kind));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(haar_is_the_defined_transform),
        cmocka_unit_test(haar_keeps_inner_products),
        cmocka_unit_test(decoding_undoes_encoding),
        cmocka_unit_test(decoding_clamps),
        cmocka_unit_test(factors_make_the_variance_one),
        cmocka_unit_test(factors_stay_one),
        cmocka_unit_test(kinds_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
