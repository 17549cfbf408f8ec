/* Frechet distance of two sets of features, each taken as a normal distribution (METHOD section 8; FID when
 * the features are InceptionV3's). Local. */
#ifndef METRICS_FRECHET_H
#define METRICS_FRECHET_H

#include "metrics/bootstrap.h"

#include <stdint.h>

/* Largest F: LAPACK counts its workspace of 2 F^2 in 32 bits. */
enum { FRECHET_MAX_FEATURES = 16384 };

/* Mean and covariance of feature rows. */
struct moments {
    int64_t F;
    double *mean;       /* [F] owned */
    double *covariance; /* [F, F] owned; with N - 1, symmetric */
};

/* Moments of N >= 2 rows of features [*, F]: those named by rows [N] (any order, repeated ones too), or with
 * NULL the first N. Two passes, as sum x^2 - N mean^2 would lose the digits of a small variance beside a
 * large mean. The sums go over the rows one after the other or in blocks of FEATURE_BLOCK of them; their
 * order is fixed. Free with moments_free. */
struct moments moments_of(int64_t N, int64_t F, const double *features, const int64_t *rows);
void moments_free(struct moments *moments);

/* |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), of covariances of any rank. Exact to some roundings of
 * frechet_terms; it may be that far below 0. */
double frechet_distance(const struct moments *a, const struct moments *b);

/* |mean_a - mean_b|^2 + tr A + tr B: the terms from which the distance takes the rest away, hence the measure
 * of its rounding. */
double frechet_terms(const struct moments *a, const struct moments *b);

/* The distance of a [N, F] and b [M, F] with its interval, the rows of both sets being resampled (best in
 * halves, for which N and M are at least 4: metrics/bootstrap.h). A replicate holds about 8 F^2 numbers, and
 * as many are in work as there are threads. */
struct interval frechet_interval(struct bootstrap bootstrap, int64_t N, int64_t M, int64_t F, const double *a,
                                 const double *b);

#endif
