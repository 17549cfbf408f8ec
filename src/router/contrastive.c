#include "router/contrastive.h"

#include "base/check.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

/* Softmax of a row of scores and its complement, as logarithms. */
struct log_softmax {
    double *p;     /* [B] log p */
    double *not_p; /* [B] log(1 - p) */
    int64_t top;   /* index of the largest score */
};

/* Keeps the digits of log p and log(1 - p) also where p is next to 1. That can be the largest entry alone:
 * its 1 - p is the sum over the others by itself, and the log of the whole sum is log1p of them. B >= 2. */
static void log_softmax(int64_t B, const double *score, struct log_softmax *out)
{
    int64_t top = 0;
    for (int64_t j = 1; j < B; j++)
        if (score[j] > score[top]) top = j;
    double second = -INFINITY, others = 0; // of the others: the largest, and the sum of exp(score - second)
    for (int64_t j = 0; j < B; j++)
        if (j != top) second = fmax(second, score[j]);
    for (int64_t j = 0; j < B; j++)
        if (j != top) others += exp(score[j] - second);
    double log_sum = log1p(exp(second - score[top]) * others); // of exp(score - score[top])
    for (int64_t j = 0; j < B; j++) {
        out->p[j] = score[j] - score[top] - log_sum;
        if (j != top) out->not_p[j] = log1p(-exp(out->p[j])); // p is at most 1/2
    }
    out->not_p[top] = log(others) + second - score[top] - log_sum;
    out->top = top;
}

/* One row of the loss: -sum over j of [T log A + (1-T) log(1-A)], T = softmax(truth), A = softmax(score).
 * Overwrites score [B] with its gradient,
 *
 *     d/d score[k] = -(T-A)[k] + A[k] sum over j != k of (T-A)[j] / (1-A[j]),
 *
 * which is the usual chain with the terms gathered so that each is small where T is near A. scratch [5 B]. */
static double contrast_row(int64_t B, const double *truth, double *score, double *scratch)
{
    struct log_softmax T = {scratch, scratch + B, 0}, A = {scratch + 2 * B, scratch + 3 * B, 0};
    double *difference = scratch + 4 * B; // T - A
    log_softmax(B, truth, &T);
    log_softmax(B, score, &A);

    double loss = 0, sum = 0; // sum over j of (T-A)[j] / (1-A[j]), without the largest entry of A
    for (int64_t j = 0; j < B; j++) {
        double t = exp(T.p[j]), not_t = exp(T.not_p[j]), a = exp(A.p[j]), not_a = exp(A.not_p[j]);
        loss -= t * A.p[j] + not_t * A.not_p[j];
        difference[j] = a < 0.5 ? t - a : not_a - not_t;
        if (j != A.top) sum += difference[j] / not_a;
    }
    for (int64_t k = 0; k < B; k++) {
        double a = exp(A.p[k]), rest = a * sum;
        if (k != A.top) // A[k] / (1-A[top]) is at most 1, though 1-A[top] may be next to 0
            rest += exp(A.p[k] - A.not_p[A.top]) * difference[A.top] - a * difference[k] / exp(A.not_p[k]);
        score[k] = rest - difference[k];
    }
    return loss;
}

/* out [B, B] = x x' / tau */
static void similarities(int64_t B, int64_t n, const double *x, double tau, double *out)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)B, (int)B, (int)n, 1 / tau, x, (int)n, x,
                (int)n, 0, out, (int)B);
}

/* x [B, B] += x' */
static void add_transpose(int64_t B, double *x)
{
    for (int64_t i = 0; i < B; i++)
        for (int64_t j = 0; j <= i; j++) x[i * B + j] = x[j * B + i] = x[i * B + j] + x[j * B + i];
}

/* unit [B, D] = the rows of z, each divided by its length. */
static void normalise_rows(int64_t B, int64_t D, const double *z, double *unit)
{
    for (int64_t b = 0; b < B; b++) {
        double length = fmax(cblas_dnrm2((int)D, z + b * D, 1), 1e-12);
        for (int64_t i = 0; i < D; i++) unit[b * D + i] = z[b * D + i] / length;
    }
}

double contrastive_loss(int64_t B, int64_t D, const double *z, int64_t n, const double *form, double tau,
                        double *form_gradient)
{
    if (B < 2) {
        for (int64_t i = 0; form_gradient && i < B * n; i++) form_gradient[i] = 0;
        return 0;
    }
    double *unit = check_malloc((size_t)(B * D) * sizeof *unit);
    double *truth = check_malloc((size_t)(B * B) * sizeof *truth); // [B, B] cos(z_i, z_j) / tau
    double *score =
        check_malloc((size_t)(B * B) * sizeof *score); // [B, B] cos(a_i, a_j) / tau, then its gradient
    double *row_loss = check_malloc((size_t)B * sizeof *row_loss);
    normalise_rows(B, D, z, unit);
    similarities(B, D, unit, tau, truth);
    similarities(B, n, form, tau, score);

#pragma omp parallel
    {
        double *scratch = check_malloc((size_t)(5 * B) * sizeof *scratch);
#pragma omp for
        for (int64_t i = 0; i < B; i++) row_loss[i] = contrast_row(B, truth + i * B, score + i * B, scratch);
        free(scratch);
    }
    double loss = 0, mean = 1 / ((double)B * (double)B); // of the B x B pairs
    for (int64_t i = 0; i < B; i++) loss += row_loss[i] * mean;

    if (form_gradient) { // score = form form' / tau: d form = (G + G') form / tau
        add_transpose(B, score);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)B, (int)n, (int)B, mean / tau, score,
                    (int)B, form, (int)n, 0, form_gradient, (int)n);
    }
    free(row_loss);
    free(score);
    free(truth);
    free(unit);
    return loss;
}
