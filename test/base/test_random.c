/* Random numbers: published Philox vectors, moments, and independence of the order of draws. */
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The uniform number that a 64-bit word stands for. */
static double unit(uint64_t word)
{
    return ((double)(word >> 11) + 0.5) * 0x1p-53;
}

/* Words of numpy.random.Philox with counter (block, sample, step, 0) and key (seed, stream); those of zeros
 * are also Random123's published vector. */
static const struct {
    struct random_key key;
    uint64_t block;
    uint64_t word[4];
} vectors[] = {
    {{0, 0, 0, 0}, 0, {0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b}},
    {{7, RANDOM_NOISE, 12, 345},
     0,
     {0xa03c3f24ea01dd2f, 0x3520a42fa6fd1600, 0x5333592f6b25732a, 0xb996f20151babe9f}},
    {{7, RANDOM_NOISE, 12, 345},
     1,
     {0xdfbbc714daa15024, 0xfd082a8e9077f194, 0xeb8f8dff258c6639, 0xc25ba9c1cfedf565}},
    {{INT64_MAX, RANDOM_GUMBEL_CODES, 1099511627776, 8589934597},
     9,
     {0x34974f7f0eee90f4, 0x7520f61eb9d82bb9, 0xabacc6c0225ef2b3, 0x6b4936f9e9956520}},
};

static void uniforms_are_philox(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
        for (uint64_t lane = 0; lane < 4; lane++)
            assert_true(random_uniform(vectors[i].key, 4 * vectors[i].block + lane) ==
                        unit(vectors[i].word[lane]));
}

/* Each word in its place: Box-Muller on pairs, Gumbel one by one. */
static void normal_and_gumbel_use_the_uniforms(void **state)
{
    (void)state;
    struct random_key key = {3, RANDOM_TEST, 5, 7};
    float normal[11];
    double gumbel[11];
    random_normal(key, 11, normal);
    random_gumbel(key, 11, gumbel);
    for (uint64_t i = 0; i < 11; i++) {
        double radius = sqrt(-2 * log(random_uniform(key, i / 2 * 2)));
        double angle = 2 * acos(-1) * random_uniform(key, i / 2 * 2 + 1);
        double expected = radius * (i % 2 ? sin(angle) : cos(angle));
        assert_true(fabs(normal[i] - expected) <= 1e-6 * fmax(1, fabs(expected))); // float
        assert_true(fabs(gumbel[i] + log(-log(random_uniform(key, i)))) < 1e-12);  // one rounding each
    }
}

static void a_shorter_draw_is_a_prefix(void **state)
{
    (void)state;
    struct random_key key = {1, RANDOM_TEST, 2, 3};
    float all[9], some[9];
    double all_gumbel[9], some_gumbel[9];
    random_normal(key, 9, all);
    random_gumbel(key, 9, all_gumbel);
    for (uint64_t count = 0; count <= 9; count++) {
        random_normal(key, count, some);
        random_gumbel(key, count, some_gumbel);
        assert_memory_equal(all, some, count * sizeof *all);
        assert_memory_equal(all_gumbel, some_gumbel, count * sizeof *all_gumbel);
    }
}

static void moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    float *normal = malloc(N * sizeof *normal);
    double *gumbel = malloc(N * sizeof *gumbel);
    double sum[3] = {0}, square[3] = {0}, cube = 0;
    struct random_key key = {11, RANDOM_TEST, 0, 0};
    random_normal(key, N, normal);
    random_gumbel(key, N, gumbel);
    for (uint64_t i = 0; i < N; i++) {
        double values[3] = {random_uniform(key, i), normal[i], gumbel[i]};
        for (int k = 0; k < 3; k++) {
            sum[k] += values[k];
            square[k] += values[k] * values[k];
        }
        cube += values[1] * values[1] * values[1];
    }
    const double euler = 0.57721566490153286, mean[3] = {0.5, 0, euler};
    const double variance[3] = {1 / 12.0, 1, acos(-1) * acos(-1) / 6};
    for (int k = 0; k < 3; k++) {
        double m = sum[k] / N, v = square[k] / N - m * m;
        assert_true(fabs(m - mean[k]) < 5 * sqrt(variance[k] / N)); // five standard errors
        assert_true(fabs(v / variance[k] - 1) < 0.02);              // as much for the widest, Gumbel's
    }
    assert_true(fabs(cube / N) < 5 * sqrt(15.0 / N));
    free(normal);
    free(gumbel);
}

/* Neighbouring keys give unrelated numbers: the correlation of two sequences is that of chance. */
static void keys_are_independent(void **state)
{
    (void)state;
    enum { N = 20000 };
    static float a[N], b[N];
    const struct random_key base = {5, RANDOM_TEST, 5, 5};
    const struct random_key others[] = {
        {6, RANDOM_TEST, 5, 5}, {5, RANDOM_BENCH, 5, 5}, {5, RANDOM_TEST, 6, 5}, {5, RANDOM_TEST, 5, 6}};
    random_normal(base, N, a);
    for (int k = 0; k < 4; k++) {
        random_normal(others[k], N, b);
        double product = 0;
        for (int i = 0; i < N; i++) product += (double)a[i] * b[i];
        assert_true(fabs(product / N) < 5 / sqrt(N));
    }
}

static void below_is_in_range_and_even(void **state)
{
    (void)state;
    enum { N = 70000, BOUND = 7 };
    int count[BOUND] = {0};
    struct random_key key = {2, RANDOM_TEST, 0, 0};
    for (uint64_t i = 0; i < N; i++) {
        uint64_t value = random_below(key, i, BOUND);
        assert_true(value < BOUND);
        count[value]++;
        assert_int_equal(random_below(key, i, 1), 0);
    }
    for (int i = 0; i < BOUND; i++) assert_true(abs(count[i] - N / BOUND) < 5 * sqrt(N / BOUND));
}

static void permutation_has_each_once_and_no_favourite(void **state)
{
    (void)state;
    enum { COUNT = 5, TRIALS = 20000 };
    int place[COUNT][COUNT] = {{0}};
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        uint64_t order[COUNT];
        int seen[COUNT] = {0};
        random_permutation((struct random_key){1, RANDOM_ORDER, trial, 0}, COUNT, order);
        for (int i = 0; i < COUNT; i++) {
            assert_true(order[i] < COUNT);
            seen[order[i]]++;
            place[i][order[i]]++;
        }
        for (int i = 0; i < COUNT; i++) assert_int_equal(seen[i], 1);
    }
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++)
            assert_true(abs(place[i][j] - TRIALS / COUNT) < 5 * sqrt(TRIALS / COUNT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniforms_are_philox),
        cmocka_unit_test(normal_and_gumbel_use_the_uniforms),
        cmocka_unit_test(a_shorter_draw_is_a_prefix),
        cmocka_unit_test(moments),
        cmocka_unit_test(keys_are_independent),
        cmocka_unit_test(below_is_in_range_and_even),
        cmocka_unit_test(permutation_has_each_once_and_no_favourite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
