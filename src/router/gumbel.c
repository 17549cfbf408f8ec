#include "router/gumbel.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

/* Keeps the logarithms of the depth formula finite (METHOD section 3a). */
static const double depth_margin = 1e-6;

double gate_hard(double soft)
{
    return soft >= 0.5 ? 1 : 0;
}

static double noise_at(const double *noise, int i)
{
    return noise ? noise[i] : GUMBEL_MEDIAN;
}

/* sigmoid((x + g + b) / gamma) */
static double gumbel_sigmoid(struct gumbel gumbel, double x, double noise)
{
    return 1 / (1 + exp(-(x + noise + gumbel.offset) / gumbel.temperature));
}

/* Its derivative with respect to x, from its value. */
static double gumbel_sigmoid_slope(struct gumbel gumbel, double value)
{
    return value * (1 - value) / gumbel.temperature;
}

// ---- width (METHOD section 3a, "Width")

void gumbel_width(struct gumbel gumbel, int width, const double *logits, const double *noise, double *gates)
{
    bool empty = true;
    for (int i = 0; i < width; i++) {
        gates[i] = gumbel_sigmoid(gumbel, logits[i], noise_at(noise, i));
        if (gates[i] >= 0.5) empty = false;
    }
    if (empty) gates[0] += 0.5;
}

/* The rescue of an empty unit adds a constant: it has no part in the gradient. */
void gumbel_width_backward(struct gumbel gumbel, int width, const double *logits, const double *noise,
                           const double *gate_gradient, double *logit_gradient)
{
    for (int i = 0; i < width; i++) {
        double value = gumbel_sigmoid(gumbel, logits[i], noise_at(noise, i));
        logit_gradient[i] = gate_gradient[i] * gumbel_sigmoid_slope(gumbel, value);
    }
}

// ---- depth (METHOD section 3a, "Depth"): p = softmax(e); c[i] = p[0] + ... + p[entries-1-i]

struct softmax {
    double largest, sum; /* p[k] = exp(e[k] - largest) / sum */
};

static struct softmax softmax_of(int entries, const double *logits)
{
    struct softmax softmax = {.largest = -INFINITY};
    for (int k = 0; k < entries; k++) softmax.largest = fmax(softmax.largest, logits[k]);
    for (int k = 0; k < entries; k++) softmax.sum += exp(logits[k] - softmax.largest);
    return softmax;
}

static double softmax_at(struct softmax softmax, double logit)
{
    return exp(logit - softmax.largest) / softmax.sum;
}

/* The logit that a chance c in [0, 1] of being kept stands for. */
static double chance_logit(double c)
{
    return log(c + depth_margin) - log1p(-(c - depth_margin));
}

static double chance_logit_slope(double c)
{
    return 1 / (c + depth_margin) + 1 / (1 - (c - depth_margin));
}

void gumbel_depth(struct gumbel gumbel, int entries, const int *order, const double *logits,
                  const double *noise, double *gates)
{
    struct softmax softmax = softmax_of(entries, logits);
    double sum = 0;
    for (int k = 0; k < entries; k++) {
        int i = entries - 1 - k;
        sum += softmax_at(softmax, logits[k]);
        gates[order[i]] = gumbel_sigmoid(gumbel, chance_logit(fmin(sum, 1)), noise_at(noise, i));
    }
}

void gumbel_depth_backward(struct gumbel gumbel, int entries, const int *order, const double *logits,
                           const double *noise, const double *gate_gradient, double *logit_gradient)
{
    struct softmax softmax = softmax_of(entries, logits);
    double sum = 0;
    for (int k = 0; k < entries; k++) { // d loss / d c[i], kept at k
        int i = entries - 1 - k;
        sum += softmax_at(softmax, logits[k]);
        double c = fmin(sum, 1);
        double value = gumbel_sigmoid(gumbel, chance_logit(c), noise_at(noise, i));
        logit_gradient[k] =
            sum > 1 ? 0
                    : gate_gradient[order[i]] * gumbel_sigmoid_slope(gumbel, value) * chance_logit_slope(c);
    }
    // p[k] is part of c[0], ..., c[entries-1-k]: the gradient of p is the sum from the other end
    for (int k = entries - 2; k >= 0; k--) logit_gradient[k] += logit_gradient[k + 1];
    double mean = 0;
    for (int k = 0; k < entries; k++) mean += softmax_at(softmax, logits[k]) * logit_gradient[k];
    for (int k = 0; k < entries; k++)
        logit_gradient[k] = softmax_at(softmax, logits[k]) * (logit_gradient[k] - mean);
}

// ---- whole vectors

static const double *offset_noise(const double *noise, int64_t offset)
{
    return noise ? noise + offset : NULL;
}

void gumbel_gates(const struct unit_table *table, struct gumbel gumbel, int64_t rows, const double *logits,
                  const double *noise, double *gates)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        for (int u = 0; u < table->units; u++) {
            int64_t at = row * table->entries + table->unit[u].first;
            gumbel_width(gumbel, table->unit[u].width, logits + at, offset_noise(noise, at), gates + at);
        }
        int64_t at = row * table->entries + table->width_entries;
        gumbel_depth(gumbel, table->depth_entries, table->depth_order, logits + at, offset_noise(noise, at),
                     gates + at);
    }
}

void gumbel_gates_backward(const struct unit_table *table, struct gumbel gumbel, int64_t rows,
                           const double *logits, const double *noise, const double *gate_gradient,
                           double *logit_gradient)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        for (int u = 0; u < table->units; u++) {
            int64_t at = row * table->entries + table->unit[u].first;
            gumbel_width_backward(gumbel, table->unit[u].width, logits + at, offset_noise(noise, at),
                                  gate_gradient + at, logit_gradient + at);
        }
        int64_t at = row * table->entries + table->width_entries;
        gumbel_depth_backward(gumbel, table->depth_entries, table->depth_order, logits + at,
                              offset_noise(noise, at), gate_gradient + at, logit_gradient + at);
    }
}
