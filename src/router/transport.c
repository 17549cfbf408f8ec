#include "router/transport.h"

#include "base/check.h"

#include <math.h>

/* log(sum(exp(x))) of `count` values that lie `stride` apart. */
static double log_sum_exp(int64_t count, int64_t stride, const double *x)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, x[i * stride]);
    for (int64_t i = 0; i < count; i++) sum += exp(x[i * stride] - largest);
    return largest + log(sum);
}

static void shift(int64_t count, int64_t stride, double *x, double by)
{
    for (int64_t i = 0; i < count; i++) x[i * stride] += by;
}

/* METHOD section 3a: Q = exp(S'/eps); Q /= sum(Q); then, `rounds` times, each row (a code) divided by its sum
 * and by K, and each column (a prompt) divided by its sum and by B; plan = (Q B)'. `plan` holds log Q',
 * because exp(S/eps) has no room in a double when eps is small; a code is a column of it, a prompt a row. */
void transport_plan(int64_t B, int64_t K, const double *similarity, double eps, int rounds, double *plan)
{
    CHECK(eps > 0 && rounds >= 0, "transport: eps %g must be above 0, rounds %d at least 0", eps, rounds);
    for (int64_t i = 0; i < B * K; i++) plan[i] = similarity[i] / eps;
    shift(B * K, 1, plan, -log_sum_exp(B * K, 1, plan)); // Q /= sum(Q)
    for (int round = 0; round < rounds; round++) {
        for (int64_t k = 0; k < K; k++) shift(B, K, plan + k, -log_sum_exp(B, K, plan + k) - log((double)K));
        for (int64_t b = 0; b < B; b++)
            shift(K, 1, plan + b * K, -log_sum_exp(K, 1, plan + b * K) - log((double)B));
    }
    for (int64_t i = 0; i < B * K; i++) plan[i] = exp(plan[i]) * (double)B;
}

void transport_experts(int64_t B, int64_t K, const double *scores, int *expert)
{
    for (int64_t b = 0; b < B; b++) {
        const double *score = scores + b * K;
        expert[b] = 0;
        for (int k = 1; k < K; k++)
            if (score[k] > score[expert[b]]) expert[b] = k;
    }
}

double transport_use(int64_t B, int64_t K, const int *expert, double *use)
{
    double entropy = 0;
    for (int64_t k = 0; k < K; k++) use[k] = 0;
    for (int64_t b = 0; b < B; b++) use[expert[b]] += 1;
    for (int64_t k = 0; k < K; k++) use[k] /= (double)B;
    for (int64_t k = 0; k < K; k++)
        if (use[k] > 0) entropy -= use[k] * log(use[k]);
    return entropy;
}
