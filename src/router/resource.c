#include "router/resource.h"

#include "base/check.h"

#include <math.h>

static double mean_of(int64_t count, const double *x)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i];
    return sum / (double)count;
}

static double sign(double x)
{
    return (x > 0) - (x < 0);
}

double resource_loss(int64_t B, const double *ratio, double target, enum resource_form form, double *gradient)
{
    CHECK(target > 0, "resource loss: target %g of the prunable MACs must be above 0", target);
    double R = mean_of(B, ratio), loss = 0, slope = 0;
    switch (form) {
    case RESOURCE_LOG:
        loss = fabs(log(R / target));
        slope = sign(R - target) / R;
        break;
    case RESOURCE_MAE:
        loss = fabs(R - target);
        slope = sign(R - target);
        break;
    case RESOURCE_MSE:
        loss = (R - target) * (R - target);
        slope = 2 * (R - target);
        break;
    }
    for (int64_t b = 0; gradient && b < B; b++) gradient[b] = slope / (double)B;
    return loss;
}

double resource_target(const struct unit_macs *macs, double p)
{
    return 1 - (1 - p) * macs->total / macs->prunable;
}

double spread_max(int64_t B, const double *ratio, double *gradient)
{
    double largest = ratio[0];
    int64_t sharing = 0;
    for (int64_t b = 1; b < B; b++) largest = fmax(largest, ratio[b]);
    for (int64_t b = 0; b < B; b++) sharing += ratio[b] == largest;
    for (int64_t b = 0; gradient && b < B; b++) gradient[b] = ratio[b] == largest ? -1 / (double)sharing : 0;
    return 1 - largest;
}

double spread_std(int64_t B, const double *ratio, double *gradient)
{
    double mean = mean_of(B, ratio), square = 0;
    for (int64_t b = 0; b < B; b++) square += (ratio[b] - mean) * (ratio[b] - mean);
    double deviation = B > 1 ? sqrt(square / (double)(B - 1)) : 0;
    // d std / d ratio = (ratio - mean) / ((B - 1) std)
    for (int64_t b = 0; gradient && b < B; b++)
        gradient[b] = deviation > 0 ? -(ratio[b] - mean) / ((double)(B - 1) * deviation) : 0;
    return -deviation;
}
