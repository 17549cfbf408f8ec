#include "metrics/bootstrap.h"

#include "base/check.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>

static const double low_quantile = 0.025, high_quantile = 0.975;

int64_t bootstrap_size(struct bootstrap bootstrap, int64_t N)
{
    return bootstrap.halves ? N / 2 : N;
}

void bootstrap_rows(struct bootstrap bootstrap, int64_t replicate, int64_t set, int64_t N, int64_t *rows)
{
    struct random_key key = {bootstrap.seed, RANDOM_BOOTSTRAP, (uint64_t)replicate, (uint64_t)set};
    if (!bootstrap.halves) {
        for (int64_t i = 0; i < N; i++) rows[i] = (int64_t)random_below(key, (uint64_t)i, (uint64_t)N);
        return;
    }
    uint64_t *order = check_malloc((size_t)N * sizeof *order);
    random_permutation(key, (uint64_t)N, order);
    for (int64_t i = 0; i < bootstrap_size(bootstrap, N); i++) rows[i] = (int64_t)order[i];
    free(order);
}

// ---- percentiles

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(int64_t count, const double *sorted, double q)
{
    double at = q * (double)(count - 1);
    int64_t below = (int64_t)at, above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (at - (double)below) * (sorted[above] - sorted[below]);
}

struct interval bootstrap_interval(double value, int64_t replicates, double *values)
{
    CHECK(replicates >= 1, "%lld replicates of a bootstrap: at least 1 is needed", (long long)replicates);
    struct interval interval = {.value = value};
    for (int64_t r = 0; r < replicates; r++) {
        CHECK(isfinite(values[r]), "replicate %lld of a bootstrap is %g", (long long)r, values[r]);
        interval.mean += values[r];
    }
    interval.mean /= (double)replicates;
    qsort(values, (size_t)replicates, sizeof *values, ascending);
    interval.low = quantile(replicates, values, low_quantile);
    interval.high = quantile(replicates, values, high_quantile);
    return interval;
}

struct interval interval_about_value(struct interval halves)
{
    double offset = halves.mean - halves.value;
    return (struct interval){halves.value, halves.low - offset, halves.high - offset, halves.value};
}

struct interval interval_of_population(struct interval halves)
{
    double twice = 2 * halves.value;
    return (struct interval){twice - halves.mean, twice - halves.high, twice - halves.low,
                             twice - halves.mean};
}

// ---- any statistic

/* Of one replicate, or with -1 of the sample itself. */
static double replicate_value(struct bootstrap bootstrap, int64_t replicate, int sets, const int64_t *size,
                              bootstrap_function statistic, const void *context)
{
    int64_t **rows = check_malloc((size_t)sets * sizeof *rows);
    int64_t *count = check_malloc((size_t)sets * sizeof *count);
    for (int s = 0; s < sets; s++) {
        count[s] = replicate < 0 ? size[s] : bootstrap_size(bootstrap, size[s]);
        rows[s] = check_malloc((size_t)count[s] * sizeof *rows[s]);
        if (replicate >= 0)
            bootstrap_rows(bootstrap, replicate, s, size[s], rows[s]);
        else
            for (int64_t i = 0; i < size[s]; i++) rows[s][i] = i;
    }
    double value = statistic((const int64_t *const *)rows, count, context);
    for (int s = 0; s < sets; s++) free(rows[s]);
    free(count);
    free(rows);
    return value;
}

struct interval bootstrap_statistic(struct bootstrap bootstrap, int sets, const int64_t *size,
                                    bootstrap_function statistic, const void *context)
{
    CHECK(bootstrap.replicates >= 1, "%lld replicates of a bootstrap: at least 1 is needed",
          (long long)bootstrap.replicates);
    double *values = check_malloc((size_t)bootstrap.replicates * sizeof *values);
    double value = replicate_value(bootstrap, -1, sets, size, statistic, context);
#pragma omp parallel for schedule(dynamic)
    for (int64_t r = 0; r < bootstrap.replicates; r++)
        values[r] = replicate_value(bootstrap, r, sets, size, statistic, context);
    struct interval interval = bootstrap_interval(value, bootstrap.replicates, values);
    free(values);
    return interval;
}

// ---- a mean

struct weighted_values {
    const double *value, *weight; /* [N] borrowed; no weight: 1 */
};

static double weighted_mean(const int64_t *const *rows, const int64_t *count, const void *context)
{
    const struct weighted_values *of = context;
    double sum = 0, weights = 0;
    for (int64_t i = 0; i < count[0]; i++) {
        int64_t row = rows[0][i];
        double weight = of->weight ? of->weight[row] : 1;
        sum += weight * of->value[row];
        weights += weight;
    }
    return sum / weights;
}

struct interval bootstrap_mean(struct bootstrap bootstrap, int64_t N, const double *values,
                               const double *weight)
{
    CHECK(N >= 1, "the mean of %lld values: at least 1 is needed", (long long)N);
    for (int64_t i = 0; weight && i < N; i++)
        CHECK(weight[i] > 0, "weight %lld is %g, more than 0 is needed", (long long)i, weight[i]);
    struct weighted_values of = {values, weight};
    return bootstrap_statistic(bootstrap, 1, &N, weighted_mean, &of);
}
