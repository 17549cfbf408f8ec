/* Budget and spread: PyTorch, finite differences, properties. */
#include "router/resource.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const double rounding = 1e-14; // a mean of nine

static enum resource_form form_of(const char *name)
{
    return strcmp(name, "log") == 0 ? RESOURCE_LOG : strcmp(name, "mae") == 0 ? RESOURCE_MAE : RESOURCE_MSE;
}

static void budget_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"resource_log",    "resource_mae",    "resource_mse",
                           "resource_log_b1", "resource_mae_b1", "resource_mse_b1"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        int64_t B = fixture_length(fixture, "inputs/ratio", 0);
        double gradient[16], expected = fixture_number(fixture, "outputs/loss");
        assert_true(B <= 16);
        double loss = resource_loss(B, fixture_doubles(fixture, "inputs/ratio"),
                                    fixture_number(fixture, "inputs/target"),
                                    form_of(fixture_text(fixture, "form")), gradient);
        assert_near(1, &loss, &expected, rounding);
        assert_near(B, gradient, fixture_doubles(fixture, "gradients/ratio"), rounding);
        fixture_close(fixture);
    }
}

static void spread_is_pytorchs(void **state)
{
    (void)state;
    for (int f = 0; f < 2; f++) {
        struct fixture *fixture = fixture_open(f ? "spread_std" : "spread_max");
        int64_t B = fixture_length(fixture, "inputs/ratio", 0);
        const double *ratio = fixture_doubles(fixture, "inputs/ratio");
        double gradient[16], expected = fixture_number(fixture, "outputs/loss");
        assert_true(B <= 16);
        double loss = f ? spread_std(B, ratio, gradient) : spread_max(B, ratio, gradient);
        assert_near(1, &loss, &expected, rounding);
        assert_near(B, gradient, fixture_doubles(fixture, "gradients/ratio"), rounding);
        fixture_close(fixture);
    }
}

static double resource_of(const double *ratio, const void *form)
{
    return resource_loss(5, ratio, 0.55, *(const enum resource_form *)form, NULL);
}

static double max_of(const double *ratio, const void *unused)
{
    (void)unused;
    return spread_max(5, ratio, NULL);
}

static double std_of(const double *ratio, const void *unused)
{
    (void)unused;
    return spread_std(5, ratio, NULL);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    (void)state;
    const double ratio[5] = {0.3, 0.9, 0.62, 0.7, 0.45};
    double gradient[5];
    const double limit = 1e-8; // truncation h^2 = 1e-10
    for (enum resource_form form = RESOURCE_LOG; form <= RESOURCE_MSE; form++) {
        resource_loss(5, ratio, 0.55, form, gradient);
        assert_true(finite_difference_error(resource_of, &form, 5, ratio, gradient, 1e-5) < limit);
        assert_true(largest(5, gradient) > 1e-2);
    }
    spread_max(5, ratio, gradient);
    assert_true(finite_difference_error(max_of, NULL, 5, ratio, gradient, 1e-5) < limit);
    spread_std(5, ratio, gradient);
    assert_true(finite_difference_error(std_of, NULL, 5, ratio, gradient, 1e-5) < limit);
}

static void the_budget_met_costs_nothing(void **state)
{
    (void)state;
    const double ratio[2] = {0.25, 0.75};
    double gradient[2];
    for (enum resource_form form = RESOURCE_LOG; form <= RESOURCE_MSE; form++) {
        assert_true(resource_loss(2, ratio, 0.5, form, gradient) == 0);
        assert_true(gradient[0] == 0 && gradient[1] == 0);
        resource_loss(2, ratio, 0.4, form, gradient); // too dear: smaller is better
        assert_true(gradient[0] > 0 && gradient[1] > 0);
        resource_loss(2, ratio, 0.6, form, gradient);
        assert_true(gradient[0] < 0 && gradient[1] < 0);
    }
    // in the log form twice and half of the budget are equally far
    assert_within(resource_loss(2, ratio, 0.25, RESOURCE_LOG, NULL),
                  resource_loss(2, ratio, 1, RESOURCE_LOG, NULL), 1e-14);
}

static void target_moves_to_the_prunable_part(void **state)
{
    (void)state;
    struct unit_macs macs = {.total = 200, .prunable = 160};
    assert_within(resource_target(&macs, 0.6), 0.5, 1e-14); // 80 of 200 must go, of 160 that can
    assert_within(resource_target(&macs, 1), 1, 1e-14);
    assert_within(unit_macs_total_ratio(&macs, resource_target(&macs, 0.37)), 0.37, 1e-14);
    // METHOD 3a: 0.892 of all is prunable at 96x96 latents, and p = 0.66 becomes 0.619
    struct unit_macs sd21 = {.total = 1, .prunable = 0.892};
    assert_within(resource_target(&sd21, 0.66), 0.619, 5e-4);
}

static void shared_maxima_share_the_gradient(void **state)
{
    (void)state;
    double gradient[4];
    spread_max(4, (double[]){0.5, 0.8, 0.3, 0.8}, gradient);
    assert_near(4, gradient, (double[]){0, -0.5, 0, -0.5}, rounding);
}

static void equal_ratios_have_no_spread(void **state)
{
    (void)state;
    double gradient[3] = {1, 1, 1};
    assert_true(spread_std(3, (double[]){0.5, 0.5, 0.5}, gradient) == 0);
    assert_true(largest(3, gradient) == 0);
    gradient[0] = 1;
    assert_true(spread_std(1, (double[]){0.5}, gradient) == 0 && gradient[0] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budget_is_pytorchs),
        cmocka_unit_test(spread_is_pytorchs),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(the_budget_met_costs_nothing),
        cmocka_unit_test(target_moves_to_the_prunable_part),
        cmocka_unit_test(shared_maxima_share_the_gradient),
        cmocka_unit_test(equal_ratios_have_no_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
