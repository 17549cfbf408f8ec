#include "metrics/features.h"

#include "base/check.h"

#include <cblas.h>
#include <math.h>

bool features_check(const char *what, int64_t N, int64_t F, const double *features, int64_t least_rows,
                    bool directions, struct fault *fault)
{
    if (N < least_rows)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld rows of features, at least %lld are needed",
                           what, (long long)N, (long long)least_rows);
    for (int64_t row = 0; row < N; row++) {
        const double *x = features + row * F;
        bool zeros = true;
        for (int64_t i = 0; i < F; i++) {
            if (!(fabs(x[i]) <= FEATURE_LIMIT)) // catches NaN
                return fault_raise(fault, EXIT_CODE_INPUT,
                                   "%s: row %lld, feature %lld is %g, at most %g allowed", what,
                                   (long long)row, (long long)i, x[i], FEATURE_LIMIT);
            zeros = zeros && x[i] == 0;
        }
        if (directions && zeros)
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: row %lld is all zeros, which has no direction",
                               what, (long long)row);
    }
    return true;
}

void features_normalise(int64_t N, int64_t F, const double *features, double *unit)
{
#pragma omp parallel for
    for (int64_t row = 0; row < N; row++) {
        const double *x = features + row * F;
        double length = cblas_dnrm2((int)F, x, 1);
        CHECK(length > 0 && isfinite(length), "row %lld of the features has length %g", (long long)row,
              length);
        for (int64_t i = 0; i < F; i++) unit[row * F + i] = x[i] / length;
    }
}
