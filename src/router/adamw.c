#include "router/adamw.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>

struct adamw_moments adamw_moments_new(int64_t count)
{
    return (struct adamw_moments){.count = count,
                                  .first = check_calloc((size_t)count, sizeof(double)),
                                  .second = check_calloc((size_t)count, sizeof(double))};
}

void adamw_moments_free(struct adamw_moments *moments)
{
    free(moments->first);
    free(moments->second);
    *moments = (struct adamw_moments){0};
}

void adamw_step(struct adamw_moments *moments, struct adamw_settings settings, double lr,
                const double *gradient, double *values)
{
    moments->steps++;
    double first_bias = 1 - pow(settings.beta1, (double)moments->steps);
    double second_bias = sqrt(1 - pow(settings.beta2, (double)moments->steps));
#pragma omp parallel for
    for (int64_t i = 0; i < moments->count; i++) {
        double g = gradient[i], *m = &moments->first[i], *v = &moments->second[i];
        *m = settings.beta1 * *m + (1 - settings.beta1) * g;
        *v = settings.beta2 * *v + (1 - settings.beta2) * g * g;
        values[i] -= lr * settings.decay * values[i];
        values[i] -= lr / first_bias * *m / (sqrt(*v) / second_bias + settings.epsilon);
    }
}

bool all_finite(int64_t count, const double *values)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i])) return false;
    return true;
}
