/* AdamW of the router: torch.optim.AdamW's numbers, and properties of Adam. */
#include "router/adamw.h"

#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Three parameters, four steps of gradients, after each step what torch.optim.AdamW in float64 gives
 * (PyTorch 2.13). */
static void steps_are_pytorchs(void **state)
{
    (void)state;
    const double gradient[4][3] = {
        {0.3, -1.0, 0.0}, {-0.2, 5.0, 0.0001}, {0.05, 0.7, -3.0}, {1.0, -0.4, 0.25}};
    const double expected[4][3] = {{0.47906644518272423, -1.97601998001998, 2.9939999999999998},
                                   {0.47636327631810266, -1.9848569336852642, 2.986975139977341},
                                   {0.4721725287124925, -1.9920926502070038, 2.994836757429066},
                                   {0.45808700072910397, -1.9956845864643067, 2.9984007322884847}};
    const struct adamw_settings settings = {.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-3, .decay = 0.1};
    struct adamw_moments moments = adamw_moments_new(3);
    double values[3] = {0.5, -2, 3};
    for (int step = 0; step < 4; step++) {
        adamw_step(&moments, settings, 0.02, gradient[step], values);
        assert_near(3, values, expected[step], 1e-14);
    }
    adamw_moments_free(&moments);
}

static const struct adamw_settings paper = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .decay = 0};

/* The first step is lr whatever the gradient's size: METHOD 4 needs it to say how far a code can move. */
static void the_first_step_is_the_learning_rate(void **state)
{
    (void)state;
    struct adamw_moments moments = adamw_moments_new(3);
    double values[3] = {1, 1, 1}, gradient[3] = {1e-3, -700, 0};
    adamw_step(&moments, paper, 0.01, gradient, values);
    assert_within(values[0], 0.99, 1e-6);
    assert_within(values[1], 1.01, 1e-6);
    assert_true(values[2] == 1);
    assert_int_equal(moments.steps, 1);
    adamw_moments_free(&moments);
}

static void a_minimum_is_found(void **state)
{
    (void)state;
    struct adamw_moments moments = adamw_moments_new(2);
    double values[2] = {4, -3};
    for (int step = 0; step < 3000; step++) {
        double gradient[2] = {2 * (values[0] - 1), 200 * (values[1] - 2)};
        adamw_step(&moments, paper, 0.01, gradient, values);
    }
    assert_within(values[0], 1, 1e-3);
    assert_within(values[1], 2, 1e-3);
    adamw_moments_free(&moments);
}

static void what_is_not_finite_is_seen(void **state)
{
    (void)state;
    double values[3] = {1, -1e308, 0};
    assert_true(all_finite(3, values));
    values[2] = NAN;
    assert_false(all_finite(3, values));
    assert_true(all_finite(2, values));
    values[0] = -INFINITY;
    assert_false(all_finite(2, values));
    assert_true(all_finite(0, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_pytorchs),
        cmocka_unit_test(the_first_step_is_the_learning_rate),
        cmocka_unit_test(a_minimum_is_found),
        cmocka_unit_test(what_is_not_finite_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
