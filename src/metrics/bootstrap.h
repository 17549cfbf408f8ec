/* 95 % intervals by resampling: the statistic of many replicates that are drawn from the sample itself.
 * Local.
 *
 * The rows of replicate r are a function of (seed, r, set) alone (base/random.h), so an interval depends on
 * no thread count, and two statistics with one seed see the same rows.
 *
 * Of a mean, replicates are the bootstrap's: as large as the sample, drawn with replacement; the interval is
 * from the 2.5th to the 97.5th percentile of the replicates.
 *
 * Distances between sets (Frechet, CMMD) are not linear in the rows: they lie above the distance of the
 * populations, by about c / N, because no two finite samples are alike. A bootstrap replicate, which repeats
 * rows, lies higher still, and with fewer rows than features it says little. For them replicates are halves:
 * N / 2 different rows, drawn without replacement (Politis and Romano, Annals of Statistics 22, 1994). A mean
 * over half of the rows scatters about that over all just as this one does about the true one, with variance
 * (1 / (N/2) - 1 / N) s^2 = s^2 / N; and the offset of a half is 2c / N, so that `mean` - `value` is c / N.
 * That gives two intervals: interval_about_value, which says how far the value would move with other samples
 * as large as these, and interval_of_population, which is what would be left with samples without end. */
#ifndef METRICS_BOOTSTRAP_H
#define METRICS_BOOTSTRAP_H

#include <stdbool.h>
#include <stdint.h>

struct bootstrap {
    uint64_t seed;
    int64_t replicates; /* >= 1; 1000 are usual */
    bool halves;        /* replicates are N / 2 different rows; else N rows with replacement */
};

struct interval {
    double value;     /* of the sample itself */
    double low, high; /* of the 95 % interval */
    double mean;      /* of the replicates */
};

/* Rows of a replicate of a set of N rows: N, or half as many, rounded down. */
int64_t bootstrap_size(struct bootstrap bootstrap, int64_t N);

/* rows [bootstrap_size]: the resampled rows of a set of N >= 1 rows. Sets of one statistic that are resampled
 * independently have numbers 0, 1, ... */
void bootstrap_rows(struct bootstrap bootstrap, int64_t replicate, int64_t set, int64_t N, int64_t *rows);

/* From the statistic of each replicate, values [replicates], which is sorted here. Percentiles are
 * interpolated between neighbours, as numpy's are. */
struct interval bootstrap_interval(double value, int64_t replicates, double *values);

/* Of an interval whose replicates are halves: the value as it is, and the percentiles moved by as much as the
 * replicates' mean lies beside it. */
struct interval interval_about_value(struct interval halves);

/* Of the same: an estimate without the offset of finite samples, 2 value - mean, with its pivotal ("basic")
 * interval, from 2 value - high to 2 value - low. It may be below 0 where there is nothing but offset. */
struct interval interval_of_population(struct interval halves);

/* The mean of values [N], N >= 1; with weight [N] (each above 0; else NULL) sum(weight value) / sum(weight).
 * Set 0. */
struct interval bootstrap_mean(struct bootstrap bootstrap, int64_t N, const double *values,
                               const double *weight);

/* Any statistic: it gets rows[s] [count[s]] of each of the sets, in order and all size[s] of them for the
 * value, and resampled for the replicates. It is called from several threads at a time, and its result must
 * be finite. */
typedef double (*bootstrap_function)(const int64_t *const *rows, const int64_t *count, const void *context);
struct interval bootstrap_statistic(struct bootstrap bootstrap, int sets, const int64_t *size,
                                    bootstrap_function statistic, const void *context);

#endif
