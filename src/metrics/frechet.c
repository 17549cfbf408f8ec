#include "metrics/frechet.h"

#include "base/check.h"
#include "metrics/features.h"

#include <cblas.h>
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// ---- moments

/* Which rows: some of features, in an order. */
struct selection {
    int64_t N, F;
    const double *features; /* borrowed */
    const int64_t *rows;    /* [N] borrowed; NULL: 0 .. N-1 */
};

static const double *selected(const struct selection *of, int64_t i)
{
    return of->features + (of->rows ? of->rows[i] : i) * of->F;
}

/* Columns [first, first + count) of the mean. */
static void mean_of_columns(const struct selection *of, int64_t first, int64_t count, double *mean)
{
    for (int64_t i = 0; i < count; i++) mean[first + i] = 0;
    for (int64_t row = 0; row < of->N; row++) {
        const double *x = selected(of, row) + first;
        for (int64_t i = 0; i < count; i++) mean[first + i] += x[i];
    }
    for (int64_t i = 0; i < count; i++) mean[first + i] /= (double)of->N;
}

/* out [rows, count] = columns [first, first + count) of rows from first_row on, less their mean. */
static void centre(const struct selection *of, const double *mean, int64_t first_row, int64_t rows,
                   int64_t first, int64_t count, double *out)
{
    for (int64_t row = 0; row < rows; row++) {
        const double *x = selected(of, first_row + row) + first;
        for (int64_t i = 0; i < count; i++) out[row * count + i] = x[i] - mean[first + i];
    }
}

/* The tile of the covariance whose rows begin at `top` and columns at `left`, and its mirror image. scratch
 * [2, FEATURE_BLOCK, FEATURE_BLOCK]. */
static void covariance_tile(const struct selection *of, const double *mean, int64_t top, int64_t left,
                            double *scratch, double *covariance)
{
    int64_t F = of->F, height = smaller(FEATURE_BLOCK, F - top), width = smaller(FEATURE_BLOCK, F - left);
    double *above = scratch, *beside = scratch + FEATURE_BLOCK * FEATURE_BLOCK;
    double *tile = covariance + top * F + left;
    for (int64_t row = 0; row < of->N; row += FEATURE_BLOCK) {
        int64_t rows = smaller(FEATURE_BLOCK, of->N - row);
        centre(of, mean, row, rows, top, height, above);
        centre(of, mean, row, rows, left, width, beside);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)height, (int)width, (int)rows,
                    1 / ((double)of->N - 1), above, (int)height, beside, (int)width, row == 0 ? 0 : 1, tile,
                    (int)F);
    }
    for (int64_t i = 0; i < height; i++)
        for (int64_t j = 0; j < width; j++)
            if (top + i < left + j) covariance[(left + j) * F + top + i] = tile[i * F + j];
}

struct moments moments_of(int64_t N, int64_t F, const double *features, const int64_t *rows)
{
    CHECK(N >= 2 && F >= 1, "moments of %lld rows of %lld features: at least 2 and 1 are needed",
          (long long)N, (long long)F);
    struct selection of = {N, F, features, rows};
    struct moments moments = {.F = F};
    moments.mean = check_malloc((size_t)F * sizeof *moments.mean);
    moments.covariance = check_malloc((size_t)(F * F) * sizeof *moments.covariance);
#pragma omp parallel
    {
        double *scratch = check_malloc(2 * FEATURE_BLOCK * FEATURE_BLOCK * sizeof *scratch);
#pragma omp for
        for (int64_t first = 0; first < F; first += FEATURE_BLOCK)
            mean_of_columns(&of, first, smaller(FEATURE_BLOCK, F - first), moments.mean);
        int64_t tiles = (F + FEATURE_BLOCK - 1) / FEATURE_BLOCK; // along one side
#pragma omp for schedule(dynamic)
        for (int64_t tile = 0; tile < tiles * tiles; tile++) {
            int64_t top = tile / tiles * FEATURE_BLOCK, left = tile % tiles * FEATURE_BLOCK;
            if (top <= left) covariance_tile(&of, moments.mean, top, left, scratch, moments.covariance);
        }
        free(scratch);
    }
    return moments;
}

void moments_free(struct moments *moments)
{
    free(moments->covariance);
    free(moments->mean);
    *moments = (struct moments){0};
}

// ---- the distance

/* root [rank, F] of a covariance C = root' root, from its eigenvectors, each times the square root of its
 * eigenvalue. The rank is returned: eigenvalues that are rounding of the largest, some of them negative,
 * count as 0. The caller frees. */
static int64_t covariance_root(const struct moments *moments, double **root)
{
    int64_t F = moments->F;
    double *eigenvalue = check_malloc((size_t)F * sizeof *eigenvalue); // ascending
    double *vectors = check_malloc((size_t)(F * F) * sizeof *vectors);
    for (int64_t i = 0; i < F * F; i++) vectors[i] = moments->covariance[i];
    // A symmetric matrix is the same by columns, and then each eigenvector lies in one row.
    lapack_int info =
        LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', (lapack_int)F, vectors, (lapack_int)F, eigenvalue);
    CHECK(info == 0, "eigenvalues of a covariance of %lld features: LAPACK's info is %d", (long long)F,
          (int)info);

    double rounding = (double)F * DBL_EPSILON * eigenvalue[F - 1];
    int64_t dropped = 0;
    while (dropped < F && !(eigenvalue[dropped] > rounding)) dropped++;
    for (int64_t i = dropped; i < F; i++) cblas_dscal((int)F, sqrt(eigenvalue[i]), vectors + i * F, 1);
    int64_t rank = F - dropped;
    for (int64_t i = 0; i < rank * F; i++) vectors[i] = vectors[dropped * F + i];
    free(eigenvalue);
    *root = vectors;
    return rank;
}

/* tr((A B)^(1/2)): the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2). Those square roots
 * are the singular values of A^(1/2) B^(1/2), or of any two roots, and are taken so. Of a singular matrix the
 * eigenvalues that should be 0 come out as 1e-16 of the largest, and their square roots would be 1e-8 of it,
 * each. */
static double trace_of_root(const struct moments *a, const struct moments *b)
{
    double *root_a, *root_b, trace = 0;
    int64_t rank_a = covariance_root(a, &root_a), rank_b = covariance_root(b, &root_b), F = a->F;
    int64_t count = smaller(rank_a, rank_b);
    if (count > 0) {
        double *product = check_malloc((size_t)(rank_a * rank_b) * sizeof *product);
        double *singular = check_malloc((size_t)count * sizeof *singular), none[1];
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rank_a, (int)rank_b, (int)F, 1, root_a,
                    (int)F, root_b, (int)F, 0, product, (int)rank_b);
        // The transpose, by columns, has the same singular values.
        lapack_int info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', (lapack_int)rank_b, (lapack_int)rank_a,
                                         product, (lapack_int)rank_b, singular, none, 1, none, 1);
        CHECK(info == 0, "singular values of %lld x %lld numbers: LAPACK's info is %d", (long long)rank_a,
              (long long)rank_b, (int)info);
        for (int64_t i = 0; i < count; i++) trace += singular[i];
        free(singular);
        free(product);
    }
    free(root_b);
    free(root_a);
    return trace;
}

double frechet_terms(const struct moments *a, const struct moments *b)
{
    CHECK(a->F == b->F && a->F <= FRECHET_MAX_FEATURES,
          "moments of %lld and %lld features: equal ones, at most %d, are needed", (long long)a->F,
          (long long)b->F, FRECHET_MAX_FEATURES);
    double terms = 0;
    for (int64_t i = 0; i < a->F; i++) {
        double difference = a->mean[i] - b->mean[i];
        terms += difference * difference + a->covariance[i * a->F + i] + b->covariance[i * a->F + i];
    }
    return terms;
}

double frechet_distance(const struct moments *a, const struct moments *b)
{
    double distance = frechet_terms(a, b) - 2 * trace_of_root(a, b);
    CHECK(isfinite(distance), "the Frechet distance is %g", distance);
    return distance;
}

// ---- with an interval

struct two_sets {
    int64_t F;
    const double *a, *b; /* borrowed */
};

static double resampled_distance(const int64_t *const *rows, const int64_t *count, const void *context)
{
    const struct two_sets *sets = context;
    struct moments a = moments_of(count[0], sets->F, sets->a, rows[0]);
    struct moments b = moments_of(count[1], sets->F, sets->b, rows[1]);
    double distance = frechet_distance(&a, &b);
    moments_free(&b);
    moments_free(&a);
    return distance;
}

struct interval frechet_interval(struct bootstrap bootstrap, int64_t N, int64_t M, int64_t F, const double *a,
                                 const double *b)
{
    struct two_sets sets = {F, a, b};
    return bootstrap_statistic(bootstrap, 2, (const int64_t[]){N, M}, resampled_distance, &sets);
}
