/* CMMD: maximum mean discrepancy of two sets of image features (METHOD section 8). Local.
 *
 *     1000 x [ mean k(a, a') + mean k(b, b') - 2 mean k(a, b) ],   k(x, y) = exp(-|x - y|^2 / (2 sigma^2)),
 * sigma = 10,
 *
 * of rows divided by their lengths; the means are over all pairs, a row with itself too (the biased
 * estimator). Pairs are taken in blocks: no N x N matrix is ever there. */
#ifndef METRICS_CMMD_H
#define METRICS_CMMD_H

#include "metrics/bootstrap.h"

#include <stdint.h>

/* Of a [N, F] and b [M, F], N and M >= 1, rows of any length above 0 (features_check with `directions`).
 * Holds copies of both. */
double cmmd_distance(int64_t N, int64_t M, int64_t F, const double *a, const double *b);

/* The same with its interval, the rows of both sets being resampled (best in halves, for which N and M are at
 * least 2: metrics/bootstrap.h). A replicate is a weight for each row,
 * and all replicates are computed in one pass over the kernel, which costs about as much as
 * bootstrap.replicates / F + 1 distances. Holds (N + M) (F + replicates) numbers. */
struct interval cmmd_interval(struct bootstrap bootstrap, int64_t N, int64_t M, int64_t F, const double *a,
                              const double *b);

#endif
