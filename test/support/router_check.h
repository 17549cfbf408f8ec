/* What the tests of the router share: unit tables by hand, comparison with a tolerance, finite differences.
 */
#ifndef SUPPORT_ROUTER_CHECK_H
#define SUPPORT_ROUTER_CHECK_H

#include "models/unit_table.h"
#include "support/fixture.h"

#include <stdbool.h>
#include <stdint.h>

/* A table of width units alone: width[u] entries each, under depth entry depth[u] (-1: none), and a keep
 * order of `depth_entries` indices, which may count from the end (-1 is the last). Free with unit_table_free.
 */
struct unit_table table_make(int units, const int64_t *width, const int64_t *depth, int depth_entries,
                             const int64_t *order);

/* The same from a fixture's inputs/unit_width, unit_depth, order. */
struct unit_table table_of_fixture(struct fixture *fixture);

/* Seven units of 8, 3, 1, 5, 8, 2, 7 entries, four of them under three depth entries: n = 37. */
struct unit_table table_small(void);

/* Two units of 4 and 6 entries, no depth entries: n = 10. */
struct unit_table table_flat(void);

/* Made-up MACs of a table: all different; total is twice the prunable ones. Free with unit_macs_free. */
struct unit_macs macs_make(const struct unit_table *table);

/* out[0..count) standard normal, or uniform in (low, high); `what` keeps draws apart. The caller frees. */
double *random_normals(uint64_t what, int64_t count);
double *random_uniforms(uint64_t what, int64_t count, double low, double high);

/* max |a - b| */
double largest_difference(int64_t count, const double *a, const double *b);
double largest(int64_t count, const double *a); /* max |a| */

/* Fails the test, and says where it is worst, when |found - expected| > tolerance max|expected| somewhere
 * (tolerance itself if all expected are 0), or when a value is not finite. */
void assert_near(int64_t count, const double *found, const double *expected, double tolerance);

/* Fails the test unless |found - expected| <= limit. cmocka's assert_float_equal rounds all three to float
 * first, so that a limit of 1e-12 means nothing there. */
void assert_within(double found, double expected, double limit);

/* max over x of |gradient - central difference of f|. f must be smooth within `h`. */
double finite_difference_error(double (*f)(const double *x, const void *context), const void *context,
                               int64_t count, const double *x, const double *gradient, double h);

#endif
