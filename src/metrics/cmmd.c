#include "metrics/cmmd.h"

#include "base/check.h"
#include "metrics/features.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

enum { SIGMA = 10, SCALE = 1000 };

/* A set of rows and, in each of `columns` columns, weights of the rows that sum to 1. */
struct weighted_set {
    int64_t N, F, columns;
    double *unit;   /* [N, F] owned; rows of length 1 */
    double *weight; /* [N, columns] owned */
};

static int64_t block_rows(const struct weighted_set *set, int64_t first)
{
    return set->N - first < FEATURE_BLOCK ? set->N - first : FEATURE_BLOCK;
}

// ---- means of the kernel

/* kernel [rows of x's block, rows of y's block] = k(x, y) - 1. The ones would cancel in the distance and take
 * digits with them: k is above 0.98. Rows have length 1, so |x - y|^2 = 2 - 2 x.y. */
static void kernel_block(const struct weighted_set *x, int64_t first_x, const struct weighted_set *y,
                         int64_t first_y, double *kernel)
{
    int64_t rows_x = block_rows(x, first_x), rows_y = block_rows(y, first_y), F = x->F;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows_x, (int)rows_y, (int)F, 1,
                x->unit + first_x * F, (int)F, y->unit + first_y * F, (int)F, 0, kernel, (int)rows_y);
    for (int64_t i = 0; i < rows_x * rows_y; i++) kernel[i] = expm1((kernel[i] - 1) / (SIGMA * SIGMA));
}

/* sum [columns] += factor x (weights of x's block)' kernel (weights of y's block), column by column. product
 * [FEATURE_BLOCK, columns] is scratch. */
static void add_block(const struct weighted_set *x, int64_t first_x, const struct weighted_set *y,
                      int64_t first_y, const double *kernel, double factor, double *product, double *sum)
{
    int64_t rows_x = block_rows(x, first_x), rows_y = block_rows(y, first_y), columns = x->columns;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows_x, (int)columns, (int)rows_y, factor,
                kernel, (int)rows_y, y->weight + first_y * columns, (int)columns, 0, product, (int)columns);
    const double *weight = x->weight + first_x * columns;
    for (int64_t i = 0; i < rows_x; i++)
        for (int64_t c = 0; c < columns; c++) sum[c] += weight[i * columns + c] * product[i * columns + c];
}

/* mean [columns]: the weighted mean of k - 1 over all pairs of a row of x and one of y. Of a set with itself
 * the blocks below the diagonal are those above it. Each strip of blocks has its own sum, and the strips are
 * added in order: threads change nothing. */
static void kernel_mean(const struct weighted_set *x, const struct weighted_set *y, double *mean)
{
    int64_t strips = (x->N + FEATURE_BLOCK - 1) / FEATURE_BLOCK, columns = x->columns;
    double *sum = check_calloc((size_t)(strips * columns), sizeof *sum); // [strips, columns]
#pragma omp parallel
    {
        double *kernel = check_malloc(FEATURE_BLOCK * FEATURE_BLOCK * sizeof *kernel);
        double *product = check_malloc((size_t)(FEATURE_BLOCK * columns) * sizeof *product);
#pragma omp for schedule(dynamic)
        for (int64_t strip = 0; strip < strips; strip++) {
            int64_t first_x = strip * FEATURE_BLOCK;
            for (int64_t first_y = x == y ? first_x : 0; first_y < y->N; first_y += FEATURE_BLOCK) {
                double factor = x == y && first_y > first_x ? 2 : 1;
                kernel_block(x, first_x, y, first_y, kernel);
                add_block(x, first_x, y, first_y, kernel, factor, product, sum + strip * columns);
            }
        }
        free(product);
        free(kernel);
    }
    for (int64_t c = 0; c < columns; c++) mean[c] = 0;
    for (int64_t strip = 0; strip < strips; strip++)
        for (int64_t c = 0; c < columns; c++) mean[c] += sum[strip * columns + c];
    free(sum);
}

/* distance [columns] */
static void distances(const struct weighted_set *a, const struct weighted_set *b, double *distance)
{
    int64_t columns = a->columns;
    double *mean = check_malloc((size_t)columns * sizeof *mean);
    kernel_mean(a, b, distance);
    for (int64_t c = 0; c < columns; c++) distance[c] *= -2;
    const struct weighted_set *sets[2] = {a, b};
    for (int s = 0; s < 2; s++) {
        kernel_mean(sets[s], sets[s], mean);
        for (int64_t c = 0; c < columns; c++) distance[c] += mean[c];
    }
    for (int64_t c = 0; c < columns; c++) {
        distance[c] *= SCALE;
        CHECK(isfinite(distance[c]), "CMMD is %g", distance[c]);
    }
    free(mean);
}

// ---- sets

/* A set whose column 0 weighs all rows alike, and column 1 + r as replicate r of the bootstrap has them. */
static struct weighted_set set_new(int64_t N, int64_t F, const double *features,
                                   const struct bootstrap *bootstrap, int64_t number)
{
    CHECK(N >= 1 && F >= 1, "CMMD of %lld rows of %lld features: at least 1 is needed", (long long)N,
          (long long)F);
    struct weighted_set set = {.N = N, .F = F, .columns = 1 + (bootstrap ? bootstrap->replicates : 0)};
    set.unit = check_malloc((size_t)(N * F) * sizeof *set.unit);
    set.weight = check_calloc((size_t)(N * set.columns), sizeof *set.weight);
    features_normalise(N, F, features, set.unit);
    for (int64_t i = 0; i < N; i++) set.weight[i * set.columns] = 1 / (double)N;
#pragma omp parallel
    {
        int64_t *rows = check_malloc((size_t)N * sizeof *rows);
#pragma omp for
        for (int64_t c = 1; c < set.columns; c++) {
            int64_t count = bootstrap_size(*bootstrap, N);
            bootstrap_rows(*bootstrap, c - 1, number, N, rows);
            for (int64_t i = 0; i < count; i++) set.weight[rows[i] * set.columns + c] += 1 / (double)count;
        }
        free(rows);
    }
    return set;
}

static void set_free(struct weighted_set *set)
{
    free(set->weight);
    free(set->unit);
}

double cmmd_distance(int64_t N, int64_t M, int64_t F, const double *a, const double *b)
{
    struct weighted_set set_a = set_new(N, F, a, NULL, 0), set_b = set_new(M, F, b, NULL, 1);
    double distance;
    distances(&set_a, &set_b, &distance);
    set_free(&set_b);
    set_free(&set_a);
    return distance;
}

struct interval cmmd_interval(struct bootstrap bootstrap, int64_t N, int64_t M, int64_t F, const double *a,
                              const double *b)
{
    struct weighted_set set_a = set_new(N, F, a, &bootstrap, 0), set_b = set_new(M, F, b, &bootstrap, 1);
    double *distance = check_malloc((size_t)set_a.columns * sizeof *distance);
    distances(&set_a, &set_b, distance);
    struct interval interval = bootstrap_interval(distance[0], bootstrap.replicates, distance + 1);
    free(distance);
    set_free(&set_b);
    set_free(&set_a);
    return interval;
}
