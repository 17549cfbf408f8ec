/* CMMD against the references and plain loops, over blocks, threads and replicates. */
#include "metrics/cmmd.h"

#include "base/check.h"
#include "support/failing_check.h"
#include "support/router_check.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void no_rows(void)
{
    const double x[2] = {1, 2};
    cmmd_distance(0, 1, 2, x, x);
}

static void zero_row(void)
{
    const double x[4] = {1, 2, 0, 0};
    cmmd_distance(1, 2, 2, x, x);
}

static void not_finite(void)
{
    const double x[4] = {1, 2, INFINITY, 1};
    cmmd_distance(1, 2, 2, x, x);
}

static void broken_contracts_fail(void **state)
{
    (void)state;
    assert_check_fails(no_rows, "CMMD of 0 rows");
    assert_check_fails(zero_row, "row 1 of the features has length 0");
    assert_check_fails(not_finite, "row 1 of the features has length inf");
}

static void distance_is_that_of_the_references(void **state)
{
    (void)state;
    const char *names[] = {"cmmd", "cmmd_one", "cmmd_same"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        int64_t N = fixture_length(fixture, "inputs/a", 0), M = fixture_length(fixture, "inputs/b", 0);
        int64_t F = fixture_length(fixture, "inputs/a", 1);
        double *a = fixture_doubles(fixture, "inputs/a"), *b = fixture_doubles(fixture, "inputs/b");
        // 1000 times the roundings of numbers next to 1, which are the reference's
        assert_within(cmmd_distance(N, M, F, a, b), fixture_number(fixture, "outputs/distance"), 1e-12);
        fixture_close(fixture);
    }
}

/* Where k is next to 1, its digits are in 1 - k: rows at an angle t have 1 - cos t = 2 sin^2(t/2). */
static void digits_survive_next_to_one(void **state)
{
    (void)state;
    double angle = 3e-5, half = sin(angle / 2), expected = -2000 * expm1(-2 * half * half / 100);
    const double x[2] = {1, 0}, y[2] = {cos(angle), sin(angle)};
    assert_within(cmmd_distance(1, 1, 2, x, y), expected, 1e-6 * expected); // a cosine is rounded to 1e-16
}

// ---- more than one block

enum { N = 600, M = 513, F = 20 };

static void make_sets(double **a, double **b)
{
    *a = random_normals(80, N * F);
    *b = random_normals(81, M * F);
    for (int i = 0; i < N * F; i++) (*a)[i] += i % F % 2;
    for (int i = 0; i < M * F; i++) (*b)[i] += i % F % 3 + (i / F > 300);
}

static double squared_distance(const double *x, const double *y)
{
    double square_x = 0, square_y = 0, square = 0;
    for (int i = 0; i < F; i++) square_x += x[i] * x[i];
    for (int i = 0; i < F; i++) square_y += y[i] * y[i];
    for (int i = 0; i < F; i++) square += pow(x[i] / sqrt(square_x) - y[i] / sqrt(square_y), 2);
    return square;
}

static double plain_kernel_mean(int rows_x, const double *x, int rows_y, const double *y)
{
    double sum = 0;
    for (int i = 0; i < rows_x; i++)
        for (int j = 0; j < rows_y; j++) sum += exp(-squared_distance(x + i * F, y + j * F) / (2 * 10 * 10));
    return sum / ((double)rows_x * rows_y);
}

static void blocks_are_plain_loops(void **state)
{
    (void)state;
    double *a, *b;
    make_sets(&a, &b);
    double expected = 1000 * (plain_kernel_mean(N, a, N, a) + plain_kernel_mean(M, b, M, b) -
                              2 * plain_kernel_mean(N, a, M, b));
    assert_true(expected > 0.1);
    assert_within(cmmd_distance(N, M, F, a, b), expected, 1e-10);
    assert_within(cmmd_distance(M, N, F, b, a), expected, 1e-10);
    free(b);
    free(a);
}

static void order_and_length_of_rows_do_not_matter(void **state)
{
    (void)state;
    double *a, *b, moved[N * F];
    make_sets(&a, &b);
    for (int row = 0; row < N; row++) {
        double *to = moved + (row * 7 + 5) % N * F; // 7 and 600 have no common factor
        for (int i = 0; i < F; i++) to[i] = a[row * F + i] * (1 + row);
    }
    assert_within(cmmd_distance(N, M, F, moved, b), cmmd_distance(N, M, F, a, b), 1e-12);
    assert_within(cmmd_distance(N, N, F, moved, a), 0, 1e-12);
    free(b);
    free(a);
}

/* Each row twice is the same set. */
static void repeated_rows_weigh_alike(void **state)
{
    (void)state;
    double *a, *b;
    make_sets(&a, &b);
    double *twice = check_malloc(2 * N * F * sizeof *twice);
    memcpy(twice, a, N * F * sizeof *a);
    memcpy(twice + N * F, a, N * F * sizeof *a);
    assert_within(cmmd_distance(2 * N, M, F, twice, b), cmmd_distance(N, M, F, a, b), 1e-12);
    free(twice);
    free(b);
    free(a);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    double *a, *b;
    make_sets(&a, &b);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    struct interval one = cmmd_interval((struct bootstrap){5, 20, false}, N, M, F, a, b);
    omp_set_num_threads(3);
    struct interval three = cmmd_interval((struct bootstrap){5, 20, false}, N, M, F, a, b);
    omp_set_num_threads(threads);
    assert_memory_equal(&one, &three, sizeof one);
    free(b);
    free(a);
}

// ---- replicates

struct two_sets {
    const double *a, *b;
};

static double resampled(const int64_t *const *rows, const int64_t *count, const void *context)
{
    const struct two_sets *sets = context;
    double *a = check_malloc(N * F * sizeof *a), *b = check_malloc(M * F * sizeof *b);
    for (int i = 0; i < count[0]; i++) memcpy(a + i * F, sets->a + rows[0][i] * F, F * sizeof *a);
    for (int i = 0; i < count[1]; i++) memcpy(b + i * F, sets->b + rows[1][i] * F, F * sizeof *b);
    double distance = cmmd_distance(count[0], count[1], F, a, b);
    free(b);
    free(a);
    return distance;
}

static void weights_are_resampled_rows(void **state)
{
    (void)state;
    double *a, *b;
    make_sets(&a, &b);
    struct two_sets sets = {a, b};
    for (int halves = 0; halves < 2; halves++) {
        struct bootstrap bootstrap = {11, 9, halves};
        struct interval found = cmmd_interval(bootstrap, N, M, F, a, b);
        struct interval expected =
            bootstrap_statistic(bootstrap, 2, (const int64_t[]){N, M}, resampled, &sets);
        assert_within(found.value, cmmd_distance(N, M, F, a, b), 1e-12);
        assert_within(found.value, expected.value, 1e-12);
        assert_within(found.mean, expected.mean, 1e-12);
        assert_within(found.low, expected.low, 1e-12);
        assert_within(found.high, expected.high, 1e-12);
        assert_true(found.high > found.low + 1e-3);
    }
    free(b);
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_contracts_fail), // first: it forks
        cmocka_unit_test(distance_is_that_of_the_references),
        cmocka_unit_test(digits_survive_next_to_one),
        cmocka_unit_test(blocks_are_plain_loops),
        cmocka_unit_test(order_and_length_of_rows_do_not_matter),
        cmocka_unit_test(repeated_rows_weigh_alike),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(weights_are_resampled_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
