/* Features from outside: what is refused, and rows of length 1. */
#include "metrics/features.h"

#include "base/check.h"
#include "support/failing_check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/faults.h"

enum { N = 3, F = 2 };

static void zero_row(void)
{
    const double x[N * F] = {1, 2, 0, 0, 3, 4};
    double unit[N * F];
    features_normalise(N, F, x, unit);
}

static void row_not_finite(void)
{
    const double x[N * F] = {1, 2, 1, 1, 3, NAN};
    double unit[N * F];
    features_normalise(N, F, x, unit);
}

static void rows_without_length_fail(void **state)
{
    (void)state;
    assert_check_fails(zero_row, "row 1 of the features has length 0");
    assert_check_fails(row_not_finite, "row 2 of the features has length nan");
}

static void bad_features_are_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    double x[N * F] = {1, 2, 0, 0, 3, -1e100};
    GOOD(features_check("photos", N, F, x, 2, false, &fault));
    FAILS(features_check("photos", N, F, x, 2, true, &fault), EXIT_CODE_INPUT, "photos: row 1 is all zeros");
    FAILS(features_check("photos", N, F, x, 4, false, &fault), EXIT_CODE_INPUT,
          "3 rows of features, at least 4");
    const double bad[] = {NAN, INFINITY, -INFINITY, 1.1e100};
    for (int i = 0; i < 4; i++) {
        x[3] = bad[i];
        FAILS(features_check("photos", N, F, x, 2, false, &fault), EXIT_CODE_INPUT, "row 1, feature 1 is");
    }
}

/* Squares of such values leave the range of a double. */
static void rows_have_length_one(void **state)
{
    (void)state;
    double x[N * F] = {3, 4, 3e-200, -4e-200, 0, -1e100}, unit[N * F];
    const double expected[N * F] = {0.6, 0.8, 0.6, -0.8, 0, -1};
    features_normalise(N, F, x, unit);
    assert_near(N * F, unit, expected, 1e-15);
    features_normalise(N, F, x, x);
    assert_true(largest_difference(N * F, x, unit) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_without_length_fail),
        cmocka_unit_test(bad_features_are_refused),
        cmocka_unit_test(rows_have_length_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
