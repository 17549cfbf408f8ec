/* The ops of tensor/backend.h as plain loops in fp64: what every backend is tested against. Arrays are
 * contiguous in the layouts said there; B samples, T tokens, C channels. A pointer that may be NULL there may
 * be NULL here. */
#ifndef TEST_PLAIN_OPS_H
#define TEST_PLAIN_OPS_H

#include "tensor/backend.h"

/* Gates [B, entries], of which [first, first + count) are used; values NULL: no gate. */
struct plain_gate {
    const double *values;
    int64_t entries, first, count;
};

void plain_linear(int64_t rows, int64_t in, int64_t out, const double *x, const double *weight,
                  const double *bias, const double *residual, double *y);

/* x [B, H, W, in], weight [out, in, kernel_height, kernel_width], y [B, y_height, y_width, out] */
struct plain_convolution {
    struct convolution geometry;
    int64_t samples, height, width, in, out, kernel_height, kernel_width;
};
int64_t plain_convolution_height(const struct plain_convolution *convolution); /* of y */
int64_t plain_convolution_width(const struct plain_convolution *convolution);
void plain_convolution(const struct plain_convolution *convolution, const double *x, const double *weight,
                       const double *bias, const double *residual, double *y);

/* x [B, H, W, channels]; the window's cells that lie in the map alone */
void plain_pool(const struct pooling *pooling, int64_t samples, int64_t height, int64_t width,
                int64_t channels, int64_t y_height, int64_t y_width, const double *x, double *y);

void plain_group_norm(int64_t samples, int64_t tokens, int64_t channels, int64_t groups, double epsilon,
                      bool silu, struct plain_gate gate, const double *x, const double *shift,
                      const double *weight, const double *bias, double *y);
void plain_layer_norm(int64_t rows, int64_t channels, double epsilon, const double *x, const double *weight,
                      const double *bias, double *y);

/* q [B, q_tokens, q_stride], kv [B, kv_tokens, kv_stride] */
void plain_attention(const struct attention *attention, int64_t samples, int64_t q_tokens, int64_t q_stride,
                     int64_t kv_tokens, int64_t kv_stride, struct plain_gate gate, const double *q,
                     const double *kv, const double *key_mask, double *y);

double plain_activation(enum activation kind, double x);
void plain_geglu(int64_t samples, int64_t tokens, int64_t channels, struct plain_gate gate, const double *x,
                 double *y);
void plain_depth_mix(int64_t samples, int64_t elements, struct plain_gate gate, const double *x,
                     const double *f, double *y);

void plain_concat(int64_t rows, int64_t a_channels, int64_t b_channels, const double *a, const double *b,
                  double *y);
void plain_upsample(int64_t samples, int64_t height, int64_t width, int64_t channels, int64_t y_height,
                    int64_t y_width, const double *x, double *y);
void plain_timestep_embedding(int64_t samples, int64_t channels, bool flip_sin_to_cos, double shift,
                              const double *timesteps, double *y);
void plain_embedding(int64_t rows, int64_t channels, const double *ids, const double *table, double *y);
void plain_masked_mean(int64_t samples, int64_t tokens, int64_t channels, const double *x, const double *mask,
                       double *y);
void plain_squared_error(int64_t samples, int64_t elements, const double *a, const double *b, double *loss);

#endif
