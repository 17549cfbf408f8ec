/* The CPU's vector functions against the C library in fp64. */
#include "tensor/cpu/vector_math.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { POINTS = 200001 };

/* Largest error of f on [low, high], relative to the value or to `floor`, whichever is larger. */
static double largest_error(float (*f)(float), double (*exact)(double), double low, double high, double floor)
{
    double largest = 0;
    for (int i = 0; i < POINTS; i++) {
        float x = (float)(low + (high - low) * i / (POINTS - 1));
        double expected = exact(x), error = fabs(f(x) - expected) / fmax(fabs(expected), floor);
        if (!(error <= largest)) largest = error;
    }
    return largest;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double probability(double x)
{
    return erfc(-x / sqrt(2)) / 2;
}

static double density(double x)
{
    return exp(-x * x / 2) / sqrt(2 * acos(-1));
}

static float vector_probability(float x)
{
    return vector_normal(x).probability;
}

static float vector_density(float x)
{
    return vector_normal(x).density;
}

static void test_accuracy(void **state)
{
    (void)state;
    assert_true(largest_error(vector_exp, exp, -87.3, 88.3, 0) <= 1e-7);
    assert_true(largest_error(vector_exp, exp, -1e-3, 1e-3, 0) <= 1e-7);
    assert_true(largest_error(vector_sigmoid, sigmoid, -87, 90, 0) <= 2e-7);
    assert_true(largest_error(vector_probability, probability, -1, 12, 0) <= 5e-7);
    // below, the rounding of x^2 / 2 is multiplied by its size
    assert_true(largest_error(vector_probability, probability, -5, -1, 0) <= 1e-6);
    assert_true(largest_error(vector_density, density, -5, 5, 0) <= 1e-6);
    // tails that are small against everything else
    assert_true(largest_error(vector_probability, probability, -40, -5, 1e-6) <= 5e-7);
}

/* Derivative of an activation by central differences in fp64. */
static double (*differentiated)(double);

static double difference(double x)
{
    return (differentiated(x + 1e-5) - differentiated(x - 1e-5)) / 2e-5;
}

static double exact_silu(double x)
{
    return x * sigmoid(x);
}

static double exact_gelu_erf(double x)
{
    return x * probability(x);
}

static double exact_gelu_tanh(double x)
{
    return x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))) / 2;
}

static double exact_gelu_quick(double x)
{
    return x * sigmoid(1.702 * x);
}

static void test_activations(void **state)
{
    (void)state;
    const struct {
        float (*value)(float), (*derivative)(float);
        double (*exact)(double);
    } kinds[] = {{silu, silu_derivative, exact_silu},
                 {gelu_erf, gelu_erf_derivative, exact_gelu_erf},
                 {gelu_tanh, gelu_tanh_derivative, exact_gelu_tanh},
                 {gelu_quick, gelu_quick_derivative, exact_gelu_quick}};
    for (int i = 0; i < 4; i++) {
        differentiated = kinds[i].exact;
        assert_true(largest_error(kinds[i].value, kinds[i].exact, -20, 60, 0.1) <= 5e-7);
        assert_true(largest_error(kinds[i].derivative, difference, -20, 60, 1) <= 1e-6);
    }
}

static void test_extremes(void **state)
{
    (void)state;
    assert_true(vector_exp(0) == 1);
    assert_true(vector_exp(-1000) == 0 && vector_exp(-INFINITY) == 0);
    assert_true(isinf(vector_exp(1000)) && isinf(vector_exp(INFINITY)));
    assert_true(vector_sigmoid(-1000) == 0 && vector_sigmoid(1000) == 1 && vector_sigmoid(0) == 0.5f);
    assert_true(vector_probability(-100) == 0 && vector_probability(100) == 1);
    assert_true(gelu_erf(0) == 0 && gelu_erf(1000) == 1000 && gelu_erf(-1000) == 0);
    assert_true(silu(-1000) == 0 && gelu_tanh(-1000) == 0 && gelu_quick(-1000) == 0);
    assert_true(isnan(vector_exp(NAN)) && isnan(vector_sigmoid(NAN)) && isnan(vector_probability(NAN)));
    assert_true(isnan(silu_derivative(NAN)) && isnan(gelu_erf_derivative(NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
