/* The unit table's keep order and MAC ratios: METHOD 3a's own list, PyTorch, finite differences, properties.
 */
#include "models/unit_table.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Depth entries of a walk over `levels` down blocks and then the up blocks: one of a ResNet in each block,
 * and behind it one of a transformer where the level has attention. */
static struct unit_table walk(int levels, const bool *attention)
{
    struct unit_table table = {0};
    table.depth = check_calloc((size_t)(4 * levels), sizeof *table.depth);
    for (int block = 0; block < 2 * levels; block++) {
        bool up = block >= levels;
        int level = up ? 2 * levels - 1 - block : block;
        for (int i = 0; i < 1 + attention[level]; i++)
            table.depth[table.depth_entries++] = (struct depth_unit){.up = up, .level = level};
    }
    return table;
}

static void check_order(int levels, const bool *attention, int entries, const int *expected)
{
    struct unit_table table = walk(levels, attention);
    assert_int_equal(table.depth_entries, entries);
    unit_table_order_depth(&table);
    for (int i = 0; i < entries; i++)
        assert_int_equal(table.depth_order[i], (expected[i] + entries) % entries);
    unit_table_free(&table);
    assert_null(table.depth_order);
}

static void order_of_sd21_is_the_published_one(void **state)
{
    (void)state;
    check_order(4, (bool[]){true, true, true, false}, 14,
                (int[]){-1, -2, 0, 1, -3, -4, 2, 3, -5, -6, 4, 5, -7, 6});
}

static void order_follows_the_rule_elsewhere(void **state)
{
    (void)state;
    check_order(1, (bool[]){false}, 2, (int[]){1, 0});
    check_order(2, (bool[]){false, true}, 6, (int[]){5, 0, 4, 3, 1, 2});
    check_order(0, NULL, 0, NULL);
}

static void ratio_is_pytorchs(void **state)
{
    (void)state;
    const char *names[] = {"mac_ratio", "mac_ratio_flat"};
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct fixture *fixture = fixture_open(names[f]);
        struct unit_table table = table_of_fixture(fixture);
        int64_t rows = fixture_length(fixture, "inputs/gates", 0), n = table.entries;
        struct unit_macs macs = {.unit = fixture_doubles(fixture, "inputs/width_macs"),
                                 .depth = fixture_doubles(fixture, "inputs/depth_macs")};
        for (int u = 0; u < table.units; u++) macs.prunable += macs.unit[u];
        for (int j = 0; j < table.depth_entries; j++) macs.prunable += macs.depth[j];
        const double *gates = fixture_doubles(fixture, "inputs/gates"),
                     *weights = fixture_doubles(fixture, "inputs/weights");
        double *hard = check_malloc((size_t)n * sizeof *hard),
               *ratio = check_malloc((size_t)rows * sizeof *ratio);
        double *gradient = check_malloc((size_t)(rows * n) * sizeof *gradient);
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t i = 0; i < n; i++) hard[i] = gates[row * n + i] >= 0.5;
            ratio[row] = unit_table_ratio(&table, &macs, hard, gradient + row * n);
            // the fixture's gradients are those of mean(ratio x weights), straight through the hard values
            for (int64_t i = 0; i < n; i++) gradient[row * n + i] *= weights[row] / (double)rows;
        }
        assert_near(rows, ratio, fixture_doubles(fixture, "outputs/ratio"), 1e-14); // a few hundred roundings
        assert_near(rows * n, gradient, fixture_doubles(fixture, "gradients/gates"), 1e-14);
        free(gradient);
        free(ratio);
        free(hard);
        unit_table_free(&table);
        fixture_close(fixture);
    }
}

struct ratio_context {
    const struct unit_table *table;
    const struct unit_macs *macs;
};

static double ratio_of(const double *x, const void *context)
{
    const struct ratio_context *c = context;
    return unit_table_ratio(c->table, c->macs, x, NULL);
}

static void ratio_gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    struct unit_macs macs = macs_make(&table);
    double *x = random_uniforms(1, table.entries, 0, 1), *gradient = check_malloc(37 * sizeof *gradient);
    unit_table_ratio(&table, &macs, x, gradient);
    struct ratio_context context = {&table, &macs};
    // bilinear: central differences are exact but for rounding, 1e-16 / h
    assert_true(finite_difference_error(ratio_of, &context, table.entries, x, gradient, 1e-3) < 1e-12);
    free(gradient);
    free(x);
    unit_macs_free(&macs);
    unit_table_free(&table);
}

static void ratio_has_its_ends_and_parts(void **state)
{
    (void)state;
    struct unit_table table = table_small();
    struct unit_macs macs = macs_make(&table);
    double x[37];
    for (int i = 0; i < 37; i++) x[i] = 1;
    assert_within(unit_table_ratio(&table, &macs, x, NULL), 1, 1e-13);
    assert_within(unit_macs_total_ratio(&macs, 1), 1, 1e-13);

    // depth entry 1 takes units 2 and 3 with it, and its own part
    x[table.width_entries + 1] = 0;
    double lost = (macs.unit[2] + macs.unit[3] + macs.depth[1]) / macs.prunable;
    assert_within(unit_table_ratio(&table, &macs, x, NULL), 1 - lost, 1e-13);
    assert_within(unit_macs_total_ratio(&macs, 1 - lost), 1 - lost / 2,
                  1e-14); // half of all is prunable

    // half of unit 0, which is under no depth entry
    for (int i = 0; i < 4; i++) x[i] = 0;
    assert_within(unit_table_ratio(&table, &macs, x, NULL), 1 - lost - macs.unit[0] / 2 / macs.prunable,
                  1e-14);

    memset(x, 0, sizeof x);
    assert_within(unit_table_ratio(&table, &macs, x, NULL), 0, 0);
    unit_macs_free(&macs);
    unit_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_of_sd21_is_the_published_one),
        cmocka_unit_test(order_follows_the_rule_elsewhere),
        cmocka_unit_test(ratio_is_pytorchs),
        cmocka_unit_test(ratio_gradient_is_that_of_finite_differences),
        cmocka_unit_test(ratio_has_its_ends_and_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
