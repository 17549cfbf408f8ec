#include "metrics/clip_loss.h"

#include "base/check.h"

#include <cblas.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void clip_groups(int64_t B, int64_t D, const float *z, int32_t *group)
{
    for (int64_t b = 0; b < B; b++) {
        int64_t first = 0;
        while (memcmp(z + first * D, z + b * D, (size_t)D * sizeof *z) != 0) first++;
        group[b] = (int32_t)first;
    }
}

/* One direction. Overwrites score [B, B] with the gradient of the sum of its rows' losses, and returns that
 * sum. size [B]: rows of the group that begins at a row. */
static double cross_entropy(int64_t B, double *score, const int32_t *group, const int32_t *size)
{
    double *row_loss = check_malloc((size_t)B * sizeof *row_loss);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < B; i++) {
        double *row = score + i * B, target = 1.0 / size[group[i]], top = row[0], sum = 0, right = 0;
        for (int64_t j = 1; j < B; j++) top = fmax(top, row[j]);
        for (int64_t j = 0; j < B; j++) sum += exp(row[j] - top);
        double log_sum = top + log(sum);
        for (int64_t j = 0; j < B; j++) {
            bool same = group[j] == group[i];
            if (same) right += target * row[j];
            row[j] = exp(row[j] - log_sum) - (same ? target : 0);
        }
        row_loss[i] = log_sum - right;
    }
    double loss = 0;
    for (int64_t i = 0; i < B; i++) loss += row_loss[i];
    free(row_loss);
    return loss;
}

/* unit [B, P] = the rows of x, each divided by its length [B]. */
static void normalise(int64_t B, int64_t P, const double *x, double *unit, double *length)
{
    for (int64_t b = 0; b < B; b++) {
        length[b] = cblas_dnrm2((int)P, x + b * P, 1);
        for (int64_t p = 0; p < P; p++) unit[b * P + p] = x[b * P + p] / length[b];
    }
}

/* The gradient for rows from that for the rows made length 1, in place: what changes the length alone does
 * not count. */
static void normalise_backward(int64_t B, int64_t P, const double *unit, const double *length, double *d)
{
    for (int64_t b = 0; b < B; b++) {
        double along = cblas_ddot((int)P, unit + b * P, 1, d + b * P, 1);
        for (int64_t p = 0; p < P; p++) d[b * P + p] = (d[b * P + p] - along * unit[b * P + p]) / length[b];
    }
}

/* out [B, B] = factor a b' */
static void products(int64_t B, int64_t P, double factor, const double *a, const double *b, double *out)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)B, (int)B, (int)P, factor, a, (int)P, b, (int)P,
                0, out, (int)B);
}

double clip_loss(int64_t B, int64_t P, const double *image, const double *text, const int32_t *group,
                 double log_scale, double *d_image, double *d_text, double *d_log_scale)
{
    size_t rows = (size_t)B, features = (size_t)(B * P), pairs = (size_t)(B * B);
    double *unit_image = check_malloc(features * sizeof(double));
    double *unit_text = check_malloc(features * sizeof(double));
    double *length = check_malloc(2 * rows * sizeof(double));
    double *forth = check_malloc(pairs * sizeof(double)); // [B, B] a row a picture: scores, then gradients
    double *back = check_malloc(pairs * sizeof(double));  // [B, B] a row a prompt
    int32_t *size = check_calloc(rows, sizeof *size);
    double scale = exp(log_scale), mean = 0.5 / (double)B;
    for (int64_t b = 0; b < B; b++) size[group[b]]++;
    normalise(B, P, image, unit_image, length);
    normalise(B, P, text, unit_text, length + B);
    products(B, P, scale, unit_image, unit_text, forth);
    products(B, P, scale, unit_text, unit_image, back);
    double loss = mean * (cross_entropy(B, forth, group, size) + cross_entropy(B, back, group, size));

    for (int64_t i = 0; i < B; i++) // now d loss / d score
        for (int64_t j = 0; j < B; j++) forth[i * B + j] = mean * (forth[i * B + j] + back[j * B + i]);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)B, (int)P, (int)B, scale, forth, (int)B,
                unit_text, (int)P, 0, d_image, (int)P);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)B, (int)P, (int)B, scale, forth, (int)B,
                unit_image, (int)P, 0, d_text, (int)P);
    // d score / d log_scale = score = <unit_image, scale unit_text>
    *d_log_scale = cblas_ddot((int)(B * P), unit_image, 1, d_image, 1);
    normalise_backward(B, P, unit_image, length, d_image);
    normalise_backward(B, P, unit_text, length + B, d_text);

    free(size);
    free(back);
    free(forth);
    free(length);
    free(unit_text);
    free(unit_image);
    return loss;
}
