/* 95 % intervals by the bootstrap: the statistic of many samples that are drawn from the sample itself, with
 * replacement and as large as it; the interval is from the 2.5th to the 97.5th percentile of the replicates.
 * Local.
 *
 * The rows of replicate r are a function of (seed, r, set) alone (base/random.h), so an interval depends on
 * no thread count, and two statistics with one seed see the same rows.
 *
 * Distances between sets (Frechet, CMMD) are not linear in the rows: a replicate, which repeats some rows and
 * leaves out others, is farther from the other set than the sample is, the more so the fewer rows there are.
 * `mean` beside `value` shows that shift; percentiles are given as they are. */
#ifndef METRICS_BOOTSTRAP_H
#define METRICS_BOOTSTRAP_H

#include <stdint.h>

struct bootstrap {
    uint64_t seed;
    int64_t replicates; /* >= 1; 1000 are usual */
};

struct interval {
    double value;     /* of the sample itself */
    double low, high; /* of the 95 % interval */
    double mean;      /* of the replicates */
};

/* rows [N]: the resampled rows of a set of N >= 1 rows. Sets of one statistic that are resampled
 * independently have numbers 0, 1, ... */
void bootstrap_rows(struct bootstrap bootstrap, int64_t replicate, int64_t set, int64_t N, int64_t *rows);

/* From the statistic of each replicate, values [replicates], which is sorted here. Percentiles are
 * interpolated between neighbours, as numpy's are. */
struct interval bootstrap_interval(double value, int64_t replicates, double *values);

/* The mean of values [N], N >= 1; with weight [N] (each above 0; else NULL) sum(weight value) / sum(weight).
 * Set 0. */
struct interval bootstrap_mean(struct bootstrap bootstrap, int64_t N, const double *values,
                               const double *weight);

/* Any statistic: `statistic` gets rows[s] [size[s]] for each of the `sets` sets, in order for the value and
 * resampled for the replicates. It is called from several threads at a time, and its result must be finite.
 */
struct interval bootstrap_statistic(struct bootstrap bootstrap, int sets, const int64_t *size,
                                    double (*statistic)(const int64_t *const *rows, const void *context),
                                    const void *context);

#endif
