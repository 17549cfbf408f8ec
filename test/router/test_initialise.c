/* Orthogonal matrices against Gram-Schmidt, k-means on points whose clusters are known. */
#include "router/initialise.h"

#include "base/check.h"
#include "support/router_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct random_key key = {5, RANDOM_TEST, 0, 3};

/* The vectors of the shorter side, made orthonormal one after the other from the same normal numbers: the Q
 * of a QR decomposition whose R has a positive diagonal. Twice, for the digits. */
static void gram_schmidt(int rows, int columns, double *q)
{
    float *normal = check_malloc((size_t)(rows * columns) * sizeof *normal);
    random_normal(key, (uint64_t)(rows * columns), normal);
    for (int i = 0; i < rows * columns; i++) q[i] = normal[i];
    bool wide = rows < columns;
    int vectors = wide ? rows : columns, length = wide ? columns : rows;
    int stride = wide ? 1 : columns, next = wide ? columns : 1; // between elements, between vectors
    for (int v = 0; v < vectors; v++) {
        for (int w = 0; w < 2 * v; w++) {
            double dot = 0;
            for (int i = 0; i < length; i++) dot += q[v * next + i * stride] * q[w % v * next + i * stride];
            for (int i = 0; i < length; i++) q[v * next + i * stride] -= dot * q[w % v * next + i * stride];
        }
        double square = 0;
        for (int i = 0; i < length; i++) square += q[v * next + i * stride] * q[v * next + i * stride];
        for (int i = 0; i < length; i++) q[v * next + i * stride] /= sqrt(square);
    }
    free(normal);
}

static void check_orthogonal(int rows, int columns)
{
    double *q = random_normals(60, rows * columns), *expected = random_normals(61, rows * columns);
    initialise_orthogonal(rows, columns, key, q);
    gram_schmidt(rows, columns, expected);
    assert_true(largest_difference(rows * columns, q, expected) < 1e-12); // well-conditioned: some roundings
    bool wide = rows < columns;
    int vectors = wide ? rows : columns, length = wide ? columns : rows;
    for (int a = 0; a < vectors; a++)
        for (int b = 0; b <= a; b++) {
            double dot = 0;
            for (int i = 0; i < length; i++)
                dot +=
                    wide ? q[a * columns + i] * q[b * columns + i] : q[i * columns + a] * q[i * columns + b];
            assert_within(dot, a == b, 1e-13);
        }
    free(expected);
    free(q);
}

static void matrices_are_orthogonal(void **state)
{
    (void)state;
    check_orthogonal(5, 20); // wide
    check_orthogonal(7, 30);
    check_orthogonal(20, 5); // tall
    check_orthogonal(6, 6);
    check_orthogonal(1, 9);
    check_orthogonal(9, 1);
    check_orthogonal(1, 1);
}

static void matrices_follow_the_key(void **state)
{
    (void)state;
    struct random_key other = key;
    other.sample++;
    double a[12], b[12];
    initialise_orthogonal(3, 4, key, a);
    initialise_orthogonal(3, 4, key, b);
    assert_memory_equal(a, b, sizeof a);
    initialise_orthogonal(3, 4, other, b);
    assert_true(largest_difference(12, a, b) > 0.1);
}

enum { CLUSTERS = 4, PER_CLUSTER = 30, N = 6, POINTS = CLUSTERS * PER_CLUSTER };

/* Clusters of width 1 whose centres lie 50 and more apart; point i is of cluster i % CLUSTERS. */
static double *clustered_points(double means[CLUSTERS * N])
{
    double *points = random_normals(62, POINTS * N);
    memset(means, 0, CLUSTERS * N * sizeof *means);
    for (int i = 0; i < POINTS; i++)
        for (int j = 0; j < N; j++) {
            points[i * N + j] += 50 * (i % CLUSTERS == j);
            means[i % CLUSTERS * N + j] += points[i * N + j] / PER_CLUSTER;
        }
    return points;
}

static void kmeans_finds_the_clusters(void **state)
{
    (void)state;
    double means[CLUSTERS * N], centres[CLUSTERS * N], *points = clustered_points(means);
    for (uint64_t seed = 0; seed < 5; seed++) {
        initialise_kmeans(POINTS, N, points, CLUSTERS, (struct random_key){seed, RANDOM_TEST, 0, 0}, centres);
        bool found[CLUSTERS] = {false};
        for (int k = 0; k < CLUSTERS; k++) {
            int cluster = 0;
            for (int c = 0; c < CLUSTERS; c++)
                if (fabs(centres[k * N + c] - 50) < 10) cluster = c;
            assert_near(N, centres + k * N, means + cluster * N, 1e-12);
            found[cluster] = true;
        }
        for (int c = 0; c < CLUSTERS; c++) assert_true(found[c]);
    }
    free(points);
}

/* A fixed point of Lloyd's rounds: each centre is the mean of the points that are nearest to it. */
static void kmeans_ends_at_a_fixed_point(void **state)
{
    (void)state;
    enum { K = 7, ROWS = 80 };
    double *points = random_normals(63, ROWS * N), centres[K * N], means[K * N] = {0};
    int members[K] = {0};
    initialise_kmeans(ROWS, N, points, K, key, centres);
    for (int i = 0; i < ROWS; i++) {
        int nearest = 0;
        double least = INFINITY;
        for (int k = 0; k < K; k++) {
            double distance = 0;
            for (int j = 0; j < N; j++) distance += pow(points[i * N + j] - centres[k * N + j], 2);
            if (distance < least) least = distance, nearest = k;
        }
        members[nearest]++;
        for (int j = 0; j < N; j++) means[nearest * N + j] += points[i * N + j];
    }
    for (int k = 0; k < K; k++) {
        assert_true(members[k] > 0);
        for (int j = 0; j < N; j++) means[k * N + j] /= members[k];
    }
    assert_near(K * N, centres, means, 1e-12);
    free(points);
}

static void kmeans_takes_few_and_equal_points(void **state)
{
    (void)state;
    double centres[6];
    initialise_kmeans(3, 2, (double[]){0, 0, 5, 0, 0, 7}, 3, key, centres); // one each
    double sum[2] = {centres[0] + centres[2] + centres[4], centres[1] + centres[3] + centres[5]};
    assert_true(sum[0] == 5 && sum[1] == 7);
    initialise_kmeans(4, 1, (double[]){2, 2, 2, 2}, 3, key, centres); // nothing to tell apart
    for (int k = 0; k < 3; k++) assert_true(centres[k] == 2);
    initialise_kmeans(4, 1, (double[]){1, 2, 3, 6}, 1, key, centres);
    assert_true(centres[0] == 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matrices_are_orthogonal),           cmocka_unit_test(matrices_follow_the_key),
        cmocka_unit_test(kmeans_finds_the_clusters),         cmocka_unit_test(kmeans_ends_at_a_fixed_point),
        cmocka_unit_test(kmeans_takes_few_and_equal_points),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
