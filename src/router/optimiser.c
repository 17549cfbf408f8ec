#include "router/optimiser.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>

struct adamw adamw_new(int64_t count)
{
    return (struct adamw){.count = count,
                          .first = check_calloc((size_t)count, sizeof(double)),
                          .second = check_calloc((size_t)count, sizeof(double))};
}

void adamw_free(struct adamw *adamw)
{
    free(adamw->first);
    free(adamw->second);
    *adamw = (struct adamw){0};
}

void adamw_step(struct adamw *adamw, struct adamw_settings settings, double lr, const double *gradient,
                double *values)
{
    adamw->steps++;
    double first_bias = 1 - pow(settings.beta1, (double)adamw->steps);
    double second_bias = sqrt(1 - pow(settings.beta2, (double)adamw->steps));
#pragma omp parallel for
    for (int64_t i = 0; i < adamw->count; i++) {
        double g = gradient[i], *m = &adamw->first[i], *v = &adamw->second[i];
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
