/* Feature rows, as every metric takes them: [N, F] in fp64, one row a sample, in the global order of the
 * samples.
 *
 * The caller gathers the rows of all ranks, as a bootstrap needs them all in any case. So nothing in this
 * room is collective, and no result depends on how the rows lay on ranks. Nor does one depend on the number
 * of threads: blocks have fixed sizes and are summed in a fixed order, and OpenBLAS runs with one thread
 * (main.c); what is parallel are OpenMP loops over blocks.
 *
 * Features come from files and from networks that a user trained, so they can be anything: features_check is
 * for that. The metrics themselves take its approval for granted and CHECK their results. */
#ifndef METRICS_FEATURES_H
#define METRICS_FEATURES_H

#include "base/fault.h"

#include <stdint.h>

/* Rows of a block of every blocked sum. It is a part of the results: another size rounds otherwise. */
enum { FEATURE_BLOCK = 256 };

/* Largest magnitude allowed: sums of squares and of their products stay finite. */
#define FEATURE_LIMIT 1e100

/* Whether features [N, F] are what the metrics want: finite, none above FEATURE_LIMIT, at least `least_rows`
 * rows; with `directions` (CMMD, CLIP score) no row of zeros. Else a fault of EXIT_CODE_INPUT that begins
 * with `what` and names the row. Local. */
bool features_check(const char *what, int64_t N, int64_t F, const double *features, int64_t least_rows,
                    bool directions, struct fault *fault);

/* unit [N, F] = the rows, each divided by its length (> 0, else a failed CHECK); may be `features` itself.
 * Local. */
void features_normalise(int64_t N, int64_t F, const double *features, double *unit);

#endif
