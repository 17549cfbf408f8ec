/* The three normal forms: PyTorch, finite differences, properties. */
#include "router/normal_form.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static enum normal_form kind_of(const char *name)
{
    if (strcmp(name, "mixed") == 0) return NORMAL_FORM_MIXED;
    if (strcmp(name, "hard") == 0) return NORMAL_FORM_HARD;
    assert_string_equal(name, "soft");
    return NORMAL_FORM_SOFT;
}

/* MACs whose shares are those of the fixture. Its depth shares are all that goes with a depth entry, which is
 * what normal_form_scale puts together from the parts. */
static struct unit_macs macs_of_shares(const struct unit_table *table, const double *width_share,
                                       const double *depth_share)
{
    struct unit_macs macs = {.unit = check_calloc((size_t)table->units, sizeof(double)),
                             .depth = check_calloc((size_t)table->depth_entries, sizeof(double)),
                             .prunable = 1};
    for (int j = 0; j < table->depth_entries; j++) macs.depth[j] = depth_share[j];
    for (int u = 0; u < table->units; u++) {
        macs.unit[u] = width_share[u];
        if (table->unit[u].depth >= 0) macs.depth[table->unit[u].depth] -= width_share[u];
    }
    return macs;
}

static void check_fixture(const char *name)
{
    struct fixture *fixture = fixture_open(name);
    struct unit_table table = table_of_fixture(fixture);
    enum normal_form kind = kind_of(fixture_text(fixture, "normal_form"));
    int64_t rows = fixture_length(fixture, "inputs/v", 0), n = table.entries;
    struct unit_macs macs = {0};
    bool shares = fixture_has(fixture, "inputs/width_share");
    if (shares)
        macs = macs_of_shares(&table, fixture_doubles(fixture, "inputs/width_share"),
                              fixture_doubles(fixture, "inputs/depth_share"));
    const double *gates = fixture_doubles(fixture, "inputs/v");
    double *form_gradient = fixture_doubles(fixture, "inputs/weights"); // of mean(out x weights)
    for (int64_t i = 0; i < rows * n; i++) form_gradient[i] /= (double)(rows * n);
    double *scale = check_malloc((size_t)n * sizeof *scale),
           *length = check_malloc((size_t)rows * sizeof *length);
    double *form = check_malloc((size_t)(rows * n) * sizeof *form),
           *gradient = check_malloc((size_t)(rows * n) * sizeof *gradient);

    normal_form_scale(&table, shares ? &macs : NULL, scale);
    normal_form_forward(&table, kind, scale, rows, gates, form, length);
    normal_form_backward(&table, kind, scale, rows, gates, form, length, form_gradient, gradient);
    // sums of n <= 1620 terms: some 1e-14
    assert_near(rows * n, form, fixture_doubles(fixture, "outputs/out"), 1e-13);
    assert_near(rows * n, gradient, fixture_doubles(fixture, "gradients/v"), 1e-13);

    free(gradient);
    free(form);
    free(length);
    free(scale);
    unit_macs_free(&macs);
    unit_table_free(&table);
    fixture_close(fixture);
}

static void forms_are_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"normal_form_mixed",       "normal_form_hard",       "normal_form_soft",
                           "normal_form_mixed_small", "normal_form_hard_small", "normal_form_soft_small",
                           "normal_form_shares",      "normal_form_flat"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_fixture(names[i]);
}

struct form_context {
    const struct unit_table *table;
    enum normal_form kind;
    const double *scale, *weights;
};

static double weighted_form(const double *gates, const void *context)
{
    const struct form_context *c = context;
    double form[37], length, sum = 0;
    normal_form_forward(c->table, c->kind, c->scale, 1, gates, form, &length);
    for (int i = 0; i < c->table->entries; i++) sum += c->weights[i] * form[i];
    return sum;
}

static void gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    struct unit_macs macs = macs_make(&table);
    double *gates = random_uniforms(20, 37, 0.01, 0.99), *weights = random_normals(21, 37);
    double scale[37], form[37], length, gradient[37];
    for (int shares = 0; shares < 2; shares++) {
        normal_form_scale(&table, shares ? &macs : NULL, scale);
        struct form_context context = {&table, NORMAL_FORM_SOFT, scale, weights};
        normal_form_forward(&table, NORMAL_FORM_SOFT, scale, 1, gates, form, &length);
        normal_form_backward(&table, NORMAL_FORM_SOFT, scale, 1, gates, form, &length, weights, gradient);
        // truncation h^2 = 1e-10 times third derivatives of order 1
        assert_true(finite_difference_error(weighted_form, &context, 37, gates, gradient, 1e-5) < 1e-8);
    }
    // mixed: the soft part, that is width entries under a depth gate
    normal_form_scale(&table, NULL, scale);
    struct form_context context = {&table, NORMAL_FORM_MIXED, scale, weights};
    normal_form_forward(&table, NORMAL_FORM_MIXED, scale, 1, gates, form, &length);
    normal_form_backward(&table, NORMAL_FORM_MIXED, scale, 1, gates, form, &length, weights, gradient);
    for (int u = 0; u < table.units; u++)
        for (int i = table.unit[u].first;
             table.unit[u].depth >= 0 && i < table.unit[u].first + table.unit[u].width; i++) {
            double moved[37];
            memcpy(moved, gates, sizeof moved);
            moved[i] += 1e-5;
            double above = weighted_form(moved, &context);
            moved[i] -= 2e-5;
            assert_within((above - weighted_form(moved, &context)) / 2e-5, gradient[i], 1e-8);
        }
    free(weights);
    free(gates);
    unit_macs_free(&macs);
    unit_table_free(&table);
}

static void forms_have_length_one(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    double *gates = random_uniforms(22, 5 * 37, 0, 1), scale[37], form[5 * 37], length[5];
    normal_form_scale(&table, NULL, scale);
    for (int kind = NORMAL_FORM_MIXED; kind <= NORMAL_FORM_SOFT; kind++) {
        normal_form_forward(&table, (enum normal_form)kind, scale, 5, gates, form, length);
        for (int row = 0; row < 5; row++) {
            double square = 0;
            for (int i = 0; i < 37; i++) square += form[row * 37 + i] * form[row * 37 + i];
            assert_within(square, 1, 1e-14);
        }
    }
    free(gates);
    unit_table_free(&table);
}

/* Width entries weigh 1/sqrt(width): a whole unit counts as much as a depth entry, whatever its width. */
static void units_weigh_alike(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    double scale[37], ones[37], form[37], length;
    for (int i = 0; i < 37; i++) ones[i] = 1;
    normal_form_scale(&table, NULL, scale);
    normal_form_forward(&table, NORMAL_FORM_HARD, scale, 1, ones, form, &length);
    assert_within(length, sqrt(7 + 3), 1e-14);
    for (int u = 0; u < table.units; u++) {
        double square = 0;
        for (int i = 0; i < table.unit[u].width; i++) square += pow(form[table.unit[u].first + i], 2);
        assert_within(square, 0.1, 1e-14);
    }
    unit_table_free(&table);
}

static void a_form_without_anything_is_zero(void **state)
{
    (void)state;
    struct unit_table table = table_make(1, (int64_t[]){3}, (int64_t[]){0}, 1, (int64_t[]){0});
    double gates[4] = {0.9, 0.8, 0.7, 0.3}, scale[4], form[4], length, gradient[4], weights[4] = {1, 2, 3, 4};
    normal_form_scale(&table, NULL, scale);
    normal_form_forward(&table, NORMAL_FORM_HARD, scale, 1, gates, form, &length);
    normal_form_backward(&table, NORMAL_FORM_HARD, scale, 1, gates, form, &length, weights, gradient);
    for (int i = 0; i < 4; i++) assert_true(form[i] == 0 && gradient[i] == 0);
    unit_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_are_pytorchs),
        cmocka_unit_test(gradient_is_that_of_finite_differences),
        cmocka_unit_test(forms_have_length_one),
        cmocka_unit_test(units_weigh_alike),
        cmocka_unit_test(a_form_without_anything_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
