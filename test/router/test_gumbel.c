/* Gumbel-sigmoid gates: PyTorch, finite differences, and what METHOD 3a says in words. */
#include "router/gumbel.h"

#include "base/check.h"
#include "base/random.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct gumbel paper = {.temperature = 0.4, .offset = 3};

/* Gradient of mean(gate^2) with respect to the gates. */
static double *gradient_of_mean_square(int64_t count, const double *gate)
{
    double *gradient = check_malloc((size_t)count * sizeof *gradient);
    for (int64_t i = 0; i < count; i++) gradient[i] = 2 * gate[i] / (double)count;
    return gradient;
}

/* Runs a fixture of one unit through a table of that unit alone, which tests the walk over the table too. */
static void check_fixture(const char *name, bool depth)
{
    struct fixture *fixture = fixture_open(name);
    struct gumbel gumbel = {fixture_attribute(fixture, "gamma"), fixture_attribute(fixture, "b")};
    const double *logits = fixture_doubles(fixture, "inputs/logits"),
                 *noise = fixture_doubles(fixture, "inputs/gumbel");
    int64_t rows = fixture_length(fixture, "inputs/logits", 0),
            n = fixture_length(fixture, "inputs/logits", 1);
    struct unit_table table =
        depth ? table_make(0, NULL, NULL, (int)n, fixture_integers(fixture, "inputs/order"))
              : table_make(1, &n, (int64_t[]){-1}, 0, NULL);
    double *gate = check_malloc((size_t)(rows * n) * sizeof *gate);
    gumbel_gates(&table, gumbel, rows, logits, noise, gate);
    double *gate_gradient = gradient_of_mean_square(rows * n, gate);
    double *gradient = check_malloc((size_t)(rows * n) * sizeof *gradient);
    gumbel_gates_backward(&table, gumbel, rows, logits, noise, gate_gradient, gradient);

    // 1e-9: the depth formula multiplies a rounding of c next to 1 by 1e6 / 0.4
    assert_near(rows * n, gate, fixture_doubles(fixture, "outputs/gate"), depth ? 1e-9 : 1e-14);
    assert_near(rows * n, gradient, fixture_doubles(fixture, "gradients/logits"), depth ? 1e-9 : 1e-14);
    assert_true(largest(rows * n, gradient) > 1e-4 || n == 1);
    free(gradient);
    free(gate_gradient);
    free(gate);
    unit_table_free(&table);
    fixture_close(fixture);
}

static void width_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"gumbel_width", "gumbel_width_empty", "gumbel_width_one", "gumbel_width_settings"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_fixture(names[i], false);
}

static void depth_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"gumbel_depth", "gumbel_depth_peaked", "gumbel_depth_one"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_fixture(names[i], true);
}

struct gates_context {
    const struct unit_table *table;
    const double *noise, *weights;
    double *gates; // scratch
};

/* sum(weights x gates), two rows */
static double weighted_gates(const double *logits, const void *context)
{
    const struct gates_context *c = context;
    double sum = 0;
    gumbel_gates(c->table, paper, 2, logits, c->noise, c->gates);
    for (int i = 0; i < 2 * c->table->entries; i++) sum += c->weights[i] * c->gates[i];
    return sum;
}

static void gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    struct unit_table tables[] = {table_small(), table_flat()};
    for (int t = 0; t < 2; t++) {
        const struct unit_table *table = &tables[t];
        int64_t count = 2 * table->entries;
        double *logits = random_normals(10, count), *noise = random_normals(11, count),
               *weights = random_normals(12, count), *gates = random_normals(13, count),
               *gradient = random_normals(14, count);          // overwritten
        for (int64_t i = 0; i < count; i++) logits[i] -= 3;    // half of the gates closed
        for (int i = 0; i < 8 && t == 0; i++) logits[i] -= 20; // an empty unit, rescued
        for (int row = 0; row < 2; row++)                      // depth gates that are not all wide open
            for (int j = 0; j < table->depth_entries; j++)
                logits[row * table->entries + table->width_entries + j] *= 3;
        struct gates_context context = {table, noise, weights, gates};
        gumbel_gates_backward(table, paper, 2, logits, noise, weights, gradient);
        // truncation h^2 times a third derivative of at most 1/0.4^3, rounding 1e-16 / h
        assert_true(finite_difference_error(weighted_gates, &context, count, logits, gradient, 1e-5) < 1e-8);
        assert_true(largest(count, gradient) > 0.1);

        gumbel_gates_backward(table, paper, 2, logits, NULL, weights, gradient);
        context.noise = NULL;
        assert_true(finite_difference_error(weighted_gates, &context, count, logits, gradient, 1e-5) < 1e-8);
        free(gradient);
        free(gates);
        free(weights);
        free(noise);
        free(logits);
        unit_table_free(&tables[t]);
    }
}

static void an_empty_unit_keeps_its_first_entry(void **state)
{
    (void)state;
    double logits[4] = {-9, -8, -7, -30}, noise[4] = {0}, gates[4];
    gumbel_width(paper, 4, logits, noise, gates);
    assert_true(gates[0] >= 0.5 && gates[1] < 0.5 && gates[2] < 0.5 && gates[3] < 0.5);
    assert_within(gates[0], 0.5 + 1 / (1 + exp(15)), 1e-14);
    logits[3] = 0; // now one is open: nothing is added
    gumbel_width(paper, 4, logits, noise, gates);
    assert_true(gates[0] < 0.5 && gates[3] > 0.5);
    logits[3] = -3; // exactly one half counts as open
    gumbel_width(paper, 4, logits, noise, gates);
    assert_true(gates[3] == 0.5 && gates[0] < 0.5);
}

static void hard_is_one_from_one_half_on(void **state)
{
    (void)state;
    assert_true(gate_hard(0.5) == 1 && gate_hard(1) == 1 && gate_hard(1.5) == 1);
    assert_true(gate_hard(nextafter(0.5, 0)) == 0 && gate_hard(0) == 0);
}

/* A noise-free gate is 1 where a drawn one is 1 half of the time or more. */
static void no_noise_is_the_median_of_noise(void **state)
{
    (void)state;
    enum { DRAWS = 20000 };
    const double logits[2] = {-3.40, -3.33}; // on both sides of -b - g = -3.3665
    double *noise = check_malloc(DRAWS * sizeof *noise), gates[2];
    random_gumbel((struct random_key){0, RANDOM_TEST, 0, 0}, DRAWS, noise);
    for (int i = 0; i < 2; i++) {
        int open = 0;
        for (int draw = 0; draw < DRAWS; draw++) {
            double shifted[2] = {logits[i], 0}, g[2] = {noise[draw], 0},
                   gate[2]; // the second keeps the unit full
            gumbel_width(paper, 2, shifted, g, gate);
            open += gate[0] >= 0.5;
        }
        double chance = 1 - exp(-exp(logits[i] + 3));             // of -log(-log U) >= -(logit + 3)
        assert_true(fabs(open / (double)DRAWS - chance) < 0.015); // four standard deviations
        assert_true((chance >= 0.5) == (i == 1));
    }
    double with_third[3] = {logits[0], logits[1], 0}, three[3];
    gumbel_width(paper, 3, with_third, NULL, three);
    gates[0] = three[0], gates[1] = three[1];
    assert_true(gates[0] < 0.5 && gates[1] >= 0.5);
    free(noise);
}

static void depth_gates_fall_off_along_the_keep_order(void **state)
{
    (void)state;
    const int order[14] = {13, 12, 0, 1, 11, 10, 2, 3, 9, 8, 4, 5, 7, 6};
    double logits[14], gates[14];
    for (int i = 0; i < 14; i++) logits[i] = 5 * cos(i);
    gumbel_depth(paper, 14, order, logits, NULL, gates);
    for (int i = 1; i < 14; i++) assert_true(gates[order[i]] <= gates[order[i - 1]]);
    assert_true(gates[order[0]] > 1 - 1e-12); // its chance is 1
    assert_true(gates[order[13]] < gates[order[0]]);

    // all weight on the last logit: only the safest unit has a chance
    for (int i = 0; i < 14; i++) logits[i] = i == 13 ? 50 : 0;
    gumbel_depth(paper, 14, order, logits, NULL, gates);
    for (int i = 0; i < 14; i++) assert_true((gates[i] >= 0.5) == (i == 13));

    // noise belongs to the place in the order: it moves one entry alone
    double noise[14] = {0}, moved[14];
    for (int i = 0; i < 14; i++) logits[i] = i < 6 ? 1 : 0;
    gumbel_depth(paper, 14, order, logits, noise, gates);
    noise[12] = -4;
    gumbel_depth(paper, 14, order, logits, noise, moved);
    for (int i = 0; i < 14; i++) assert_true((moved[i] != gates[i]) == (i == order[12]));
}

static void adding_to_all_depth_logits_changes_nothing(void **state)
{
    (void)state;
    const int order[5] = {3, 0, 2, 1, 4};
    double logits[5] = {0.3, -1, 2, 0.7, -0.2}, noise[5] = {-2, 1, -3, 0, -1}, a[5], b[5];
    double gradient[5], weights[5] = {1, -2, 3, 0.5, 1}, sum = 0;
    gumbel_depth(paper, 5, order, logits, noise, a);
    gumbel_depth_backward(paper, 5, order, logits, noise, weights, gradient);
    for (int i = 0; i < 5; i++) logits[i] += 700;
    gumbel_depth(paper, 5, order, logits, noise, b);
    assert_near(5, b, a, 1e-9);
    for (int i = 0; i < 5; i++) sum += gradient[i];
    assert_within(sum, 0, 1e-12);
    assert_true(largest(5, gradient) > 1e-3);
}

static void extreme_logits_stay_finite(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    double *logits = random_normals(15, table.entries), *gates = random_normals(16, table.entries),
           *gradient = random_normals(17, table.entries), *ones = random_uniforms(18, table.entries, 1, 1);
    for (int i = 0; i < table.entries; i++) logits[i] *= 1e5;
    gumbel_gates(&table, paper, 1, logits, NULL, gates);
    gumbel_gates_backward(&table, paper, 1, logits, NULL, ones, gradient);
    for (int i = 0; i < table.entries; i++) {
        assert_true(gates[i] >= 0 && gates[i] <= 1);
        assert_true(isfinite(gradient[i]));
    }
    free(ones);
    free(gradient);
    free(gates);
    free(logits);
    unit_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(width_is_pytorchs),
        cmocka_unit_test(depth_is_pytorchs),
        cmocka_unit_test(gradient_is_that_of_finite_differences),
        cmocka_unit_test(an_empty_unit_keeps_its_first_entry),
        cmocka_unit_test(hard_is_one_from_one_half_on),
        cmocka_unit_test(no_noise_is_the_median_of_noise),
        cmocka_unit_test(depth_gates_fall_off_along_the_keep_order),
        cmocka_unit_test(adding_to_all_depth_logits_changes_nothing),
        cmocka_unit_test(extreme_logits_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
