#include "support/router_check.h"

#include "base/check.h"
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct unit_table table_make(int units, const int64_t *width, const int64_t *depth, int depth_entries,
                             const int64_t *order)
{
    struct unit_table table = {.units = units, .depth_entries = depth_entries};
    table.unit = check_calloc((size_t)units, sizeof *table.unit);
    table.depth = check_calloc((size_t)depth_entries, sizeof *table.depth);
    table.depth_order = check_calloc((size_t)depth_entries, sizeof *table.depth_order);
    for (int u = 0; u < units; u++) {
        table.unit[u].first = table.width_entries;
        table.unit[u].width = (int)width[u];
        table.unit[u].depth = (int)depth[u];
        table.width_entries += (int)width[u];
    }
    for (int i = 0; i < depth_entries; i++)
        table.depth_order[i] = (int)(order[i] < 0 ? order[i] + depth_entries : order[i]);
    table.entries = table.width_entries + depth_entries;
    return table;
}

struct unit_table table_of_fixture(struct fixture *fixture)
{
    return table_make(
        (int)fixture_length(fixture, "inputs/unit_width", 0), fixture_integers(fixture, "inputs/unit_width"),
        fixture_integers(fixture, "inputs/unit_depth"), (int)fixture_length(fixture, "inputs/order", 0),
        fixture_integers(fixture, "inputs/order"));
}

struct unit_table table_small(void)
{
    return table_make(7, (int64_t[]){8, 3, 1, 5, 8, 2, 7}, (int64_t[]){-1, 0, 1, 1, -1, -1, 2}, 3,
                      (int64_t[]){-1, 0, 1});
}

struct unit_table table_flat(void)
{
    return table_make(2, (int64_t[]){4, 6}, (int64_t[]){-1, -1}, 0, NULL);
}

struct unit_macs macs_make(const struct unit_table *table)
{
    struct unit_macs macs = {.unit = random_uniforms(1000, table->units, 1e3, 1e5),
                             .depth = random_uniforms(1001, table->depth_entries, 1e2, 1e4)};
    for (int u = 0; u < table->units; u++) macs.prunable += macs.unit[u];
    for (int j = 0; j < table->depth_entries; j++) macs.prunable += macs.depth[j];
    macs.total = 2 * macs.prunable;
    return macs;
}

double *random_uniforms(uint64_t what, int64_t count, double low, double high)
{
    double *out = check_malloc((size_t)count * sizeof *out);
    for (int64_t i = 0; i < count; i++)
        out[i] =
            low + (high - low) * random_uniform((struct random_key){0, RANDOM_TEST, 1, what}, (uint64_t)i);
    return out;
}

double *random_normals(uint64_t what, int64_t count)
{
    double *out = check_malloc((size_t)count * sizeof *out);
    float *normal = check_malloc((size_t)count * sizeof *normal);
    random_normal((struct random_key){0, RANDOM_TEST, 2, what}, (uint64_t)count, normal);
    for (int64_t i = 0; i < count; i++) out[i] = normal[i];
    free(normal);
    return out;
}

double largest(int64_t count, const double *a)
{
    double max = 0;
    for (int64_t i = 0; i < count; i++) max = fmax(max, fabs(a[i]));
    return max;
}

double largest_difference(int64_t count, const double *a, const double *b)
{
    double max = 0;
    for (int64_t i = 0; i < count; i++) max = fmax(max, fabs(a[i] - b[i]));
    return max;
}

void assert_near(int64_t count, const double *found, const double *expected, double tolerance)
{
    double scale = largest(count, expected), limit = scale > 0 ? tolerance * scale : tolerance, worst = 0;
    int64_t at = -1;
    for (int64_t i = 0; i < count; i++) {
        double error = fabs(found[i] - expected[i]);
        if (!(error <= limit) && !(error <= worst)) { // catches NaN
            worst = error;
            at = i;
        }
    }
    if (at >= 0)
        fail_msg("element %lld of %lld: %.17g, expected %.17g, limit %g", (long long)at, (long long)count,
                 found[at], expected[at], limit);
}

void assert_within(double found, double expected, double limit)
{
    if (!(fabs(found - expected) <= limit)) // catches NaN
        fail_msg("%.17g, expected %.17g, off by %g, limit %g", found, expected, fabs(found - expected),
                 limit);
}

double finite_difference_error(double (*f)(const double *x, const void *context), const void *context,
                               int64_t count, const double *x, const double *gradient, double h)
{
    double *moved = check_malloc((size_t)count * sizeof *moved), worst = 0;
    for (int64_t i = 0; i < count; i++) moved[i] = x[i];
    for (int64_t i = 0; i < count; i++) {
        moved[i] = x[i] + h;
        double above = f(moved, context);
        moved[i] = x[i] - h;
        double below = f(moved, context);
        moved[i] = x[i];
        double error = fabs((above - below) / (2 * h) - gradient[i]);
        if (!(error <= worst)) worst = error;
    }
    free(moved);
    return worst;
}
