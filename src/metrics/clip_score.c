#include "metrics/clip_score.h"

#include "base/check.h"

#include <cblas.h>
#include <math.h>

enum { LOGIT_SCALE = 100 };

static double cosine(int64_t F, const double *x, const double *y)
{
    double x_length = cblas_dnrm2((int)F, x, 1), y_length = cblas_dnrm2((int)F, y, 1), sum = 0;
    // Each value by its own length: a product of lengths could leave the range of a double.
    for (int64_t i = 0; i < F; i++) sum += x[i] / x_length * (y[i] / y_length);
    return sum;
}

double clip_score(int64_t N, int64_t F, const double *image, const double *text, double *score)
{
    CHECK(N >= 1, "CLIP score of %lld pairs: at least 1 is needed", (long long)N);
    double sum = 0;
    for (int64_t i = 0; i < N; i++) {
        double of_pair = LOGIT_SCALE * cosine(F, image + i * F, text + i * F);
        CHECK(isfinite(of_pair), "CLIP score of pair %lld is %g", (long long)i, of_pair);
        if (score) score[i] = of_pair;
        sum += of_pair;
    }
    return sum / (double)N;
}
