#include "support/plain_ops.h"

#include <math.h>
#include <string.h>

static double gate_value(struct plain_gate gate, int64_t sample, int64_t channel, int64_t channels)
{
    if (!gate.values) return 1;
    return gate.values[sample * gate.entries + gate.first + channel / (channels / gate.count)];
}

void plain_linear(int64_t rows, int64_t in, int64_t out, const double *x, const double *weight,
                  const double *bias, const double *residual, double *y)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t o = 0; o < out; o++) {
            double sum = bias ? bias[o] : 0;
            for (int64_t i = 0; i < in; i++) sum += x[row * in + i] * weight[o * in + i];
            y[row * out + o] = sum + (residual ? residual[row * out + o] : 0);
        }
}

int64_t plain_convolution_height(const struct plain_convolution *c)
{
    return (c->height + c->geometry.pad_top + c->geometry.pad_bottom - c->kernel_height) /
               c->geometry.stride +
           1;
}

int64_t plain_convolution_width(const struct plain_convolution *c)
{
    return (c->width + c->geometry.pad_left + c->geometry.pad_right - c->kernel_width) / c->geometry.stride +
           1;
}

/* Sum over the kernel of output `o` at (row, column) of a sample x [H, W, in]. */
static double convolve(const struct plain_convolution *c, const double *x, const double *weight, int64_t row,
                       int64_t column, int64_t o)
{
    double sum = 0;
    for (int64_t i = 0; i < c->in; i++)
        for (int64_t p = 0; p < c->kernel_height; p++)
            for (int64_t q = 0; q < c->kernel_width; q++) {
                int64_t h = row * c->geometry.stride + p - c->geometry.pad_top;
                int64_t w = column * c->geometry.stride + q - c->geometry.pad_left;
                if (h < 0 || h >= c->height || w < 0 || w >= c->width) continue;
                sum += x[(h * c->width + w) * c->in + i] *
                       weight[((o * c->in + i) * c->kernel_height + p) * c->kernel_width + q];
            }
    return sum;
}

void plain_convolution(const struct plain_convolution *c, const double *x, const double *weight,
                       const double *bias, const double *residual, double *y)
{
    int64_t height = plain_convolution_height(c), width = plain_convolution_width(c);
    for (int64_t sample = 0; sample < c->samples; sample++)
        for (int64_t pixel = 0; pixel < height * width; pixel++)
            for (int64_t o = 0; o < c->out; o++) {
                int64_t index = (sample * height * width + pixel) * c->out + o;
                y[index] = convolve(c, x + sample * c->height * c->width * c->in, weight, pixel / width,
                                    pixel % width, o);
                y[index] += (bias ? bias[o] : 0) + (residual ? residual[index] : 0);
            }
}

/* One cell of a sample's channel: x [H, W, channels], from its channel on. */
static double pool_cell(const struct pooling *pooling, int64_t height, int64_t width, int64_t channels,
                        int64_t row, int64_t column, const double *x)
{
    const struct convolution *geometry = &pooling->geometry;
    double largest = -INFINITY, sum = 0, count = 0;
    for (int64_t p = 0; p < pooling->kernel_height; p++)
        for (int64_t q = 0; q < pooling->kernel_width; q++) {
            int64_t h = row * geometry->stride + p - geometry->pad_top;
            int64_t w = column * geometry->stride + q - geometry->pad_left;
            if (h < 0 || h >= height || w < 0 || w >= width) continue;
            double value = x[(h * width + w) * channels];
            largest = fmax(largest, value);
            sum += value;
            count++;
        }
    return pooling->mean ? sum / count : largest;
}

void plain_pool(const struct pooling *pooling, int64_t samples, int64_t height, int64_t width,
                int64_t channels, int64_t y_height, int64_t y_width, const double *x, double *y)
{
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t row = 0; row < y_height; row++)
            for (int64_t column = 0; column < y_width; column++)
                for (int64_t c = 0; c < channels; c++)
                    y[((sample * y_height + row) * y_width + column) * channels + c] =
                        pool_cell(pooling, height, width, channels, row, column,
                                  x + sample * height * width * channels + c);
}

void plain_group_norm(int64_t samples, int64_t tokens, int64_t channels, int64_t groups, double epsilon,
                      bool silu, struct plain_gate gate, const double *x, const double *shift,
                      const double *weight, const double *bias, double *y)
{
    int64_t width = channels / groups;
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t group = 0; group < groups; group++) {
            double sum = 0, squares = 0;
            for (int pass = 0; pass < 3; pass++)
                for (int64_t t = 0; t < tokens; t++)
                    for (int64_t c = group * width; c < (group + 1) * width; c++) {
                        int64_t index = (sample * tokens + t) * channels + c;
                        double value = x[index] + (shift ? shift[sample * channels + c] : 0);
                        double mean = sum / (double)(tokens * width);
                        if (pass == 0) sum += value;
                        if (pass == 1) squares += (value - mean) * (value - mean);
                        if (pass < 2) continue;
                        double n = (value - mean) / sqrt(squares / (double)(tokens * width) + epsilon);
                        n = n * weight[c] + bias[c];
                        y[index] = gate_value(gate, sample, c, channels) * (silu ? n / (1 + exp(-n)) : n);
                    }
        }
}

void plain_layer_norm(int64_t rows, int64_t channels, double epsilon, const double *x, const double *weight,
                      const double *bias, double *y)
{
    for (int64_t row = 0; row < rows; row++) {
        const double *value = x + row * channels;
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < channels; c++) mean += value[c] / (double)channels;
        for (int64_t c = 0; c < channels; c++)
            variance += (value[c] - mean) * (value[c] - mean) / (double)channels;
        for (int64_t c = 0; c < channels; c++)
            y[row * channels + c] = (value[c] - mean) / sqrt(variance + epsilon) * weight[c] + bias[c];
    }
}

void plain_attention(const struct attention *attention, int64_t samples, int64_t q_tokens, int64_t q_stride,
                     int64_t kv_tokens, int64_t kv_stride, struct plain_gate gate, const double *q,
                     const double *kv, const double *key_mask, double *y)
{
    int64_t heads = attention->heads, size = attention->head_size;
    double probability[kv_tokens];
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t i = 0; i < q_tokens; i++) {
                const double *query =
                    q + (sample * q_tokens + i) * q_stride + attention->q_column + head * size;
                const double *keys = kv + sample * kv_tokens * kv_stride + attention->k_column + head * size;
                const double *values =
                    kv + sample * kv_tokens * kv_stride + attention->v_column + head * size;
                double largest = -INFINITY, total = 0;
                for (int64_t j = 0; j < kv_tokens; j++) {
                    double score = 0;
                    for (int64_t d = 0; d < size; d++) score += query[d] * keys[j * kv_stride + d];
                    bool hidden =
                        (attention->causal && j > i) || (key_mask && key_mask[sample * kv_tokens + j] == 0);
                    probability[j] = hidden ? -INFINITY : score * attention->scale;
                    largest = fmax(largest, probability[j]);
                }
                for (int64_t j = 0; j < kv_tokens; j++)
                    total += probability[j] = exp(probability[j] - largest);
                double *out = y + ((sample * q_tokens + i) * heads + head) * size;
                for (int64_t d = 0; d < size; d++) {
                    double sum = 0;
                    for (int64_t j = 0; j < kv_tokens; j++) sum += probability[j] * values[j * kv_stride + d];
                    out[d] = gate_value(gate, sample, head, heads) * sum / total;
                }
            }
}

double plain_activation(enum activation kind, double x)
{
    switch (kind) {
    case ACTIVATION_SILU:
        return x / (1 + exp(-x));
    case ACTIVATION_GELU_ERF:
        return x * erfc(-x / sqrt(2)) / 2;
    case ACTIVATION_GELU_TANH:
        return x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))) / 2;
    case ACTIVATION_GELU_QUICK:
        return x / (1 + exp(-1.702 * x));
    case ACTIVATION_RELU:
        return x > 0 ? x : 0;
    }
    return NAN;
}

void plain_geglu(int64_t samples, int64_t tokens, int64_t channels, struct plain_gate gate, const double *x,
                 double *y)
{
    for (int64_t row = 0; row < samples * tokens; row++)
        for (int64_t c = 0; c < channels; c++)
            y[row * channels + c] = gate_value(gate, row / tokens, c, channels) * x[row * 2 * channels + c] *
                                    plain_activation(ACTIVATION_GELU_ERF, x[(row * 2 + 1) * channels + c]);
}

void plain_depth_mix(int64_t samples, int64_t elements, struct plain_gate gate, const double *x,
                     const double *f, double *y)
{
    for (int64_t i = 0; i < samples * elements; i++) {
        double depth = gate_value(gate, i / elements, 0, 1);
        y[i] = (1 - depth) * x[i] + depth * f[i];
    }
}

void plain_concat(int64_t rows, int64_t a_channels, int64_t b_channels, const double *a, const double *b,
                  double *y)
{
    int64_t channels = a_channels + b_channels;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++)
            y[row * channels + c] =
                c < a_channels ? a[row * a_channels + c] : b[row * b_channels + c - a_channels];
}

void plain_upsample(int64_t samples, int64_t height, int64_t width, int64_t channels, int64_t y_height,
                    int64_t y_width, const double *x, double *y)
{
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t h = 0; h < y_height; h++)
            for (int64_t w = 0; w < y_width; w++)
                for (int64_t c = 0; c < channels; c++) {
                    int64_t row = (int64_t)floor((double)h * (double)height / (double)y_height);
                    int64_t column = (int64_t)floor((double)w * (double)width / (double)y_width);
                    y[((sample * y_height + h) * y_width + w) * channels + c] =
                        x[((sample * height + row) * width + column) * channels + c];
                }
}

void plain_timestep_embedding(int64_t samples, int64_t channels, bool flip_sin_to_cos, double shift,
                              const double *timesteps, double *y)
{
    int64_t half = channels / 2;
    memset(y, 0, (size_t)(samples * channels) * sizeof *y);
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t i = 0; i < half; i++) {
            double phase = timesteps[sample] * exp(-log(10000) * (double)i / ((double)half - shift));
            y[sample * channels + (flip_sin_to_cos ? half : 0) + i] = sin(phase);
            y[sample * channels + (flip_sin_to_cos ? 0 : half) + i] = cos(phase);
        }
}

void plain_embedding(int64_t rows, int64_t channels, const double *ids, const double *table, double *y)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < channels; c++)
            y[row * channels + c] = table[(int64_t)ids[row] * channels + c];
}

void plain_masked_mean(int64_t samples, int64_t tokens, int64_t channels, const double *x, const double *mask,
                       double *y)
{
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t c = 0; c < channels; c++) {
            double sum = 0, count = 0;
            for (int64_t t = 0; t < tokens; t++)
                if (mask[sample * tokens + t] != 0) {
                    sum += x[(sample * tokens + t) * channels + c];
                    count++;
                }
            y[sample * channels + c] = count ? sum / count : 0;
        }
}

void plain_squared_error(int64_t samples, int64_t elements, const double *a, const double *b, double *loss)
{
    for (int64_t sample = 0; sample < samples; sample++) {
        loss[sample] = 0;
        for (int64_t i = sample * elements; i < (sample + 1) * elements; i++)
            loss[sample] += (a[i] - b[i]) * (a[i] - b[i]) / (double)elements;
    }
}
