#include "metrics/retrieval.h"

#include "base/check.h"
#include "metrics/features.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

/* The share of queries [N, P] that find a row of their group among the `top` best of rows [N, P], both of
 * length 1. */
static double find(int64_t N, int64_t P, const double *queries, const double *rows, const int32_t *group,
                   int64_t top)
{
    double *cosine = check_malloc((size_t)N * sizeof *cosine);
    int64_t found = 0;
    for (int64_t i = 0; i < N; i++) {
        cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)N, (int)P, 1, rows, (int)P, queries + i * P, 1, 0,
                    cosine, 1);
        double best = -INFINITY;
        int64_t before = 0;
        for (int64_t j = 0; j < N; j++)
            if (group[j] == group[i]) best = fmax(best, cosine[j]);
        for (int64_t j = 0; j < N; j++) before += group[j] != group[i] && cosine[j] >= best;
        found += before < top;
    }
    free(cosine);
    return (double)found / (double)N;
}

void retrieval_accuracy(int64_t N, int64_t P, const double *image, const double *text, const int32_t *group,
                        int64_t top, double *image_to_text, double *text_to_image)
{
    double *unit_image = check_malloc((size_t)(N * P) * sizeof *unit_image);
    double *unit_text = check_malloc((size_t)(N * P) * sizeof *unit_text);
    features_normalise(N, P, image, unit_image);
    features_normalise(N, P, text, unit_text);
    *image_to_text = find(N, P, unit_image, unit_text, group, top);
    *text_to_image = find(N, P, unit_text, unit_image, group, top);
    free(unit_text);
    free(unit_image);
}
