#include "router/initialise.h"

#include "base/check.h"

#include <lapacke.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { KMEANS_ROUNDS = 100 };

/* Q of the QR decomposition of a tall matrix of normal numbers, each column's sign that of R's diagonal. A
 * wide matrix is the transpose of a tall one: the same memory, read column by column. */
void initialise_orthogonal(int64_t rows, int64_t columns, struct random_key key, double *out)
{
    bool wide = rows < columns;
    int layout = wide ? LAPACK_COL_MAJOR : LAPACK_ROW_MAJOR;
    lapack_int stride = (lapack_int)columns;
    lapack_int tall = (lapack_int)(wide ? columns : rows), narrow = (lapack_int)(wide ? rows : columns);
    size_t count = (size_t)(rows * columns);
    float *normal = check_malloc(count * sizeof *normal);
    double *tau = check_malloc((size_t)narrow * sizeof *tau);
    double *sign = check_malloc((size_t)narrow * sizeof *sign);

    random_normal(key, count, normal);
    for (size_t i = 0; i < count; i++) out[i] = normal[i];
    int failed = LAPACKE_dgeqrf(layout, tall, narrow, out, stride, tau);
    CHECK(failed == 0, "LAPACKE_dgeqrf of %lld x %lld returned %d", (long long)rows, (long long)columns,
          failed);
    for (lapack_int i = 0; i < narrow; i++) sign[i] = copysign(1, out[(size_t)i * (size_t)(stride + 1)]);
    failed = LAPACKE_dorgqr(layout, tall, narrow, narrow, out, stride, tau);
    CHECK(failed == 0, "LAPACKE_dorgqr of %lld x %lld returned %d", (long long)rows, (long long)columns,
          failed);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) out[r * columns + c] *= sign[wide ? r : c];

    free(sign);
    free(tau);
    free(normal);
}

// ---- k-means

static double squared_distance(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

/* k-means++: each next centre is a point drawn with a chance in proportion to its squared distance from the
 * centres so far; uniformly when all points lie on centres. distance [rows] is scratch. */
static void seed_centres(int64_t rows, int64_t n, const double *points, int64_t K, struct random_key key,
                         double *distance, double *centres)
{
    for (int64_t i = 0; i < rows; i++) distance[i] = INFINITY;
    for (int64_t k = 0; k < K; k++) {
        int64_t chosen = (int64_t)random_below(key, (uint64_t)k, (uint64_t)rows);
        double all = 0;
        for (int64_t i = 0; k > 0 && i < rows; i++) all += distance[i];
        if (all > 0) {
            double left = random_uniform(key, (uint64_t)k) * all;
            for (chosen = 0; chosen < rows - 1 && left >= distance[chosen]; chosen++)
                left -= distance[chosen];
        }
        memcpy(centres + k * n, points + chosen * n, (size_t)n * sizeof *centres);
#pragma omp parallel for
        for (int64_t i = 0; i < rows; i++)
            distance[i] = fmin(distance[i], squared_distance(n, points + i * n, centres + k * n));
    }
}

/* nearest [rows], distance [rows] to it; returns whether any point changed its centre. */
static bool assign_points(int64_t rows, int64_t n, const double *points, int64_t K, const double *centres,
                          int *nearest, double *distance)
{
    bool changed = false;
#pragma omp parallel for reduction(|| : changed)
    for (int64_t i = 0; i < rows; i++) {
        int before = nearest[i];
        distance[i] = INFINITY;
        for (int k = 0; k < K; k++) {
            double d = squared_distance(n, points + i * n, centres + k * n);
            if (d < distance[i]) {
                distance[i] = d;
                nearest[i] = k;
            }
        }
        changed = changed || nearest[i] != before;
    }
    return changed;
}

static void average_points(int64_t rows, int64_t n, const double *points, int64_t K, const int *nearest,
                           double *distance, double *centres)
{
    for (int64_t k = 0; k < K; k++) {
        int64_t members = 0;
        double *centre = centres + k * n;
        memset(centre, 0, (size_t)n * sizeof *centre);
        for (int64_t i = 0; i < rows; i++) {
            if (nearest[i] != k) continue;
            members++;
            for (int64_t j = 0; j < n; j++) centre[j] += points[i * n + j];
        }
        if (members > 0) {
            for (int64_t j = 0; j < n; j++) centre[j] /= (double)members;
            continue;
        }
        int64_t farthest = 0;
        for (int64_t i = 1; i < rows; i++)
            if (distance[i] > distance[farthest]) farthest = i;
        memcpy(centre, points + farthest * n, (size_t)n * sizeof *centre);
        distance[farthest] = 0; // taken: the next empty centre goes elsewhere
    }
}

void initialise_kmeans(int64_t rows, int64_t n, const double *points, int64_t K, struct random_key key,
                       double *centres)
{
    CHECK(K >= 1 && rows >= K, "k-means: %lld points for %lld centres", (long long)rows, (long long)K);
    int *nearest = check_malloc((size_t)rows * sizeof *nearest);
    double *distance = check_malloc((size_t)rows * sizeof *distance);
    for (int64_t i = 0; i < rows; i++) nearest[i] = -1;
    seed_centres(rows, n, points, K, key, distance, centres);
    for (int round = 0; round < KMEANS_ROUNDS; round++) {
        if (!assign_points(rows, n, points, K, centres, nearest, distance)) break;
        average_points(rows, n, points, K, nearest, distance, centres);
    }
    free(distance);
    free(nearest);
}
