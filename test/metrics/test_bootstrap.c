/* Intervals: percentiles by hand, the mean against what statistics says of it, independence of threads;
 * halves. */
#include "metrics/bootstrap.h"

#include "base/check.h"
#include "support/failing_check.h"
#include "support/router_check.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void no_replicates(void)
{
    const double x[2] = {1, 2};
    bootstrap_mean((struct bootstrap){1, 0, false}, 2, x, NULL);
}

static void no_weight(void)
{
    const double x[2] = {1, 2}, weight[2] = {1, 0};
    bootstrap_mean((struct bootstrap){1, 5, false}, 2, x, weight);
}

static void not_finite(void)
{
    const double x[2] = {1, NAN};
    bootstrap_mean((struct bootstrap){1, 5, false}, 2, x, NULL);
}

static void broken_contracts_fail(void **state)
{
    (void)state;
    assert_check_fails(no_replicates, "0 replicates of a bootstrap");
    assert_check_fails(no_weight, "weight 1 is 0");
    assert_check_fails(not_finite, "of a bootstrap is nan");
}

/* numpy.percentile([0 .. 100], [2.5, 97.5]) and of [3, 1, 2]; of one value that value. */
static void percentiles_are_numpys(void **state)
{
    (void)state;
    double values[101], three[3] = {3, 1, 2}, one[1] = {4};
    for (int i = 0; i < 101; i++) values[i] = i * 37 % 101;
    struct interval interval = bootstrap_interval(7, 101, values);
    assert_true(interval.value == 7);
    assert_within(interval.mean, 50, 1e-13);
    assert_within(interval.low, 2.5, 1e-13);
    assert_within(interval.high, 97.5, 1e-13);
    interval = bootstrap_interval(2, 3, three);
    assert_within(interval.low, 1.05, 1e-15);
    assert_within(interval.high, 2.95, 1e-15);
    interval = bootstrap_interval(2, 1, one);
    assert_true(interval.low == 4 && interval.high == 4);
}

enum { N = 400, REPLICATES = 2000 };

/* Every row is as likely as another, in each replicate and set anew. */
static void rows_are_drawn_evenly(void **state)
{
    (void)state;
    enum { ROWS = 10, DRAWS = 4000 };
    struct bootstrap bootstrap = {2, 1, false};
    int64_t rows[ROWS], again[ROWS], count[ROWS] = {0};
    for (int r = 0; r < DRAWS; r++) {
        bootstrap_rows(bootstrap, r, 0, ROWS, rows);
        for (int i = 0; i < ROWS; i++) {
            assert_in_range(rows[i], 0, ROWS - 1);
            count[rows[i]]++;
        }
    }
    // 4000 of each expected, five standard deviations of sqrt(40000 x 0.1 x 0.9) = 60
    for (int i = 0; i < ROWS; i++) assert_in_range(count[i], 4000 - 300, 4000 + 300);
    bootstrap_rows(bootstrap, 7, 0, ROWS, rows);
    bootstrap_rows(bootstrap, 7, 0, ROWS, again);
    assert_memory_equal(rows, again, sizeof rows);
    bootstrap_rows(bootstrap, 8, 0, ROWS, again);
    assert_memory_not_equal(rows, again, sizeof rows);
    bootstrap_rows(bootstrap, 7, 1, ROWS, again);
    assert_memory_not_equal(rows, again, sizeof rows);
    bootstrap_rows((struct bootstrap){3, 1, false}, 7, 0, ROWS, again);
    assert_memory_not_equal(rows, again, sizeof rows);
}

/* The interval of a mean is that of the normal distribution, 1.96 standard errors to each side. */
static void interval_of_a_mean_is_the_normal_one(void **state)
{
    (void)state;
    double *x = random_normals(95, N), mean = 0, square = 0;
    for (int i = 0; i < N; i++) x[i] = 3 + 2 * x[i];
    for (int i = 0; i < N; i++) mean += x[i] / N;
    for (int i = 0; i < N; i++) square += (x[i] - mean) * (x[i] - mean) / N;
    double error = sqrt(square / N);
    struct interval interval = bootstrap_mean((struct bootstrap){1, REPLICATES, false}, N, x, NULL);
    assert_within(interval.value, mean, 1e-13);
    assert_within(interval.mean, mean, 5 * error / sqrt(REPLICATES));
    // a 2.5th percentile of 2000 is good to sqrt(0.025 x 0.975 / 2000) / (density 0.058) = 0.06 errors
    assert_within(interval.low, mean - 1.96 * error, 0.25 * error);
    assert_within(interval.high, mean + 1.96 * error, 0.25 * error);
    free(x);
}

/* A weight of k is k rows, and equal weights are none. */
static void weights_weigh(void **state)
{
    (void)state;
    const double x[4] = {1, 2, 3, 10}, weight[4] = {1, 2, 3, 4}, even[4] = {0.3, 0.3, 0.3, 0.3};
    struct bootstrap bootstrap = {1, 500, false};
    struct interval weighted = bootstrap_mean(bootstrap, 4, x, weight),
                    plain = bootstrap_mean(bootstrap, 4, x, NULL);
    struct interval evenly = bootstrap_mean(bootstrap, 4, x, even);
    assert_within(weighted.value, (1 + 4 + 9 + 40) / 10., 1e-15);
    assert_within(plain.value, 4, 1e-15);
    assert_within(evenly.low, plain.low, 1e-14);
    assert_within(evenly.high, plain.high, 1e-14);
    assert_true(weighted.mean > plain.mean + 1);
    double expected = 0; // of the replicates, which weigh each drawn row by its weight
    for (int r = 0; r < 500; r++) {
        int64_t rows[4];
        double sum = 0, weights = 0;
        bootstrap_rows(bootstrap, r, 0, 4, rows);
        for (int i = 0; i < 4; i++) sum += weight[rows[i]] * x[rows[i]];
        for (int i = 0; i < 4; i++) weights += weight[rows[i]];
        expected += sum / weights / 500;
    }
    assert_within(weighted.mean, expected, 1e-13);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    double *x = random_normals(96, N);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    struct interval one = bootstrap_mean((struct bootstrap){1, 100, false}, N, x, NULL);
    omp_set_num_threads(3);
    struct interval three = bootstrap_mean((struct bootstrap){1, 100, false}, N, x, NULL);
    omp_set_num_threads(threads);
    assert_memory_equal(&one, &three, sizeof one);
    struct interval other = bootstrap_mean((struct bootstrap){2, 100, false}, N, x, NULL);
    assert_true(other.value == one.value && other.low != one.low);
    free(x);
}

/* What the callback gets: sets in order, and resampled as bootstrap_rows says. */
static double first_rows(const int64_t *const *rows, const int64_t *count, const void *context)
{
    (void)context;
    assert_int_equal(count[0], 2);
    assert_int_equal(count[1], 3);
    return (double)(rows[0][0] + 100 * rows[1][0] + 10000 * rows[1][2]);
}

static void each_set_has_its_rows(void **state)
{
    (void)state;
    struct bootstrap bootstrap = {4, 1, false};
    int64_t a[2], b[3];
    struct interval interval = bootstrap_statistic(bootstrap, 2, (const int64_t[]){2, 3}, first_rows, NULL);
    bootstrap_rows(bootstrap, 0, 0, 2, a);
    bootstrap_rows(bootstrap, 0, 1, 3, b);
    assert_true(interval.value == 20000);
    assert_true(interval.low == (double)(a[0] + 100 * b[0] + 10000 * b[2]));
}

// ---- halves

/* Half of the rows, none twice, each as often as another. */
static void halves_are_drawn_evenly(void **state)
{
    (void)state;
    enum { ROWS = 11, HALF = 5, DRAWS = 4000 };
    struct bootstrap bootstrap = {2, 1, true};
    int64_t rows[HALF], count[ROWS] = {0};
    assert_int_equal(bootstrap_size(bootstrap, ROWS), HALF);
    assert_int_equal(bootstrap_size((struct bootstrap){2, 1, false}, ROWS), ROWS);
    for (int r = 0; r < DRAWS; r++) {
        bool seen[ROWS] = {false};
        bootstrap_rows(bootstrap, r, 0, ROWS, rows);
        for (int i = 0; i < HALF; i++) {
            assert_in_range(rows[i], 0, ROWS - 1);
            assert_false(seen[rows[i]]);
            seen[rows[i]] = true;
            count[rows[i]]++;
        }
    }
    // 4000 x 5 / 11 of each expected, five standard deviations of sqrt(4000 x 5/11 x 6/11) = 31.5
    for (int i = 0; i < ROWS; i++) assert_in_range(count[i], 1818 - 158, 1818 + 158);
}

struct values {
    const double *value;
};

static double plain_mean(const int64_t *const *rows, const int64_t *count, const void *context)
{
    const struct values *of = context;
    double sum = 0;
    for (int64_t i = 0; i < count[0]; i++) sum += of->value[rows[0][i]];
    return sum / (double)count[0];
}

/* A mean over halves scatters like one over bootstrap replicates: 1.96 standard errors to each side. */
static void halves_scatter_as_the_sample_does(void **state)
{
    (void)state;
    double *x = random_normals(97, N), mean = 0, square = 0;
    for (int i = 0; i < N; i++) mean += x[i] / N;
    for (int i = 0; i < N; i++) square += (x[i] - mean) * (x[i] - mean) / N;
    double error = sqrt(square / N);
    const int64_t size = N;
    struct values of = {x};
    struct interval interval =
        bootstrap_statistic((struct bootstrap){1, REPLICATES, true}, 1, &size, plain_mean, &of);
    assert_within(interval.value, mean, 1e-13);
    assert_within(interval.mean, mean, 5 * error / sqrt(REPLICATES));
    assert_within(interval.low, mean - 1.96 * error, 0.25 * error);
    assert_within(interval.high, mean + 1.96 * error, 0.25 * error);
    free(x);
}

/* Value 10, halves from 13 to 18 with mean 15: the offset is 5. */
static void intervals_from_halves(void **state)
{
    (void)state;
    struct interval halves = {10, 13, 18, 15};
    struct interval about = interval_about_value(halves), population = interval_of_population(halves);
    assert_true(about.value == 10 && about.low == 8 && about.high == 13);
    assert_true(population.value == 5 && population.low == 2 && population.high == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_contracts_fail), // first: it forks
        cmocka_unit_test(percentiles_are_numpys),
        cmocka_unit_test(rows_are_drawn_evenly),
        cmocka_unit_test(interval_of_a_mean_is_the_normal_one),
        cmocka_unit_test(weights_weigh),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(each_set_has_its_rows),
        cmocka_unit_test(halves_are_drawn_evenly),
        cmocka_unit_test(halves_scatter_as_the_sample_does),
        cmocka_unit_test(intervals_from_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
