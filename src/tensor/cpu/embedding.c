/* Timestep sinusoids, table look-ups and the masked mean over tokens. */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/tiles.h"

#include <math.h>

/* In the fp32 steps of diffusers' get_timestep_embedding: the phase of timestep 999 is 999 times a rounded
 * frequency, and a trained model has seen exactly that. An odd last channel is zero, as there. */
void timestep_embedding_cpu(struct backend *backend, const struct tensor *timesteps, bool flip_sin_to_cos,
                            float shift, struct tensor *y)
{
    (void)backend;
    int64_t channels = tensor_channels(y), half = channels / 2;
    const float *timestep = timesteps->data;
    for (int64_t row = 0; row < tensor_rows(y); row++)
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            float buffer[TILE], *out = tile_target(y, row * channels + c, buffer);
            for (int64_t i = 0; i < size; i++) {
                int64_t channel = c + i, index = channel % half;
                float exponent = -logf(10000.f) * (float)index / ((float)half - shift);
                float phase = timestep[row] * expf(exponent);
                bool cosine = (channel < half) == flip_sin_to_cos;
                out[i] = channel >= 2 * half ? 0 : cosine ? cosf(phase) : sinf(phase);
            }
            tile_store(y, row * channels + c, size, out);
        }
}

void embedding_forward_cpu(struct backend *backend, const struct tensor *ids, const struct tensor *table,
                           struct tensor *y)
{
    (void)backend;
    int64_t channels = tensor_channels(y);
    const int32_t *id = ids->data;
#pragma omp parallel for schedule(static) if (tensor_count(y) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < tensor_rows(y); row++)
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels), start = row * channels + c;
            float buffer[TILE], *out = tile_target(y, start, buffer);
            memcpy(out, (const float *)table->data + id[row] * channels + c, (size_t)size * sizeof *out);
            tile_store(y, start, size, out);
        }
}

/* Threads share out the columns: rows with the same id are added in order. */
void embedding_backward_cpu(struct backend *backend, const struct tensor *ids, const struct tensor *dy,
                            struct tensor *dtable)
{
    (void)backend;
    enum { COLUMNS = 64 };
    int64_t channels = tensor_channels(dy);
    const int32_t *id = ids->data;
#pragma omp parallel for schedule(static) if (tensor_count(dy) >= PARALLEL_MINIMUM)
    for (int64_t c = 0; c < channels; c += COLUMNS) {
        int64_t size = channels - c < COLUMNS ? channels - c : COLUMNS;
        float buffer[TILE];
        for (int64_t row = 0; row < tensor_rows(dy); row++) {
            const float *from = tile_load(dy, row * channels + c, size, buffer);
            float *to = (float *)dtable->data + id[row] * channels + c;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) to[i] += from[i];
        }
    }
}

/* 1 / (tokens of a sample with a mask that is not 0), or 0 where there is none */
static double inverse_count(const float *mask, int64_t tokens)
{
    int64_t count = 0;
    for (int64_t t = 0; t < tokens; t++) count += mask[t] != 0;
    return count ? 1 / (double)count : 0;
}

void masked_mean_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *mask,
                             struct tensor *y)
{
    (void)backend;
    int64_t tokens = x->dim[1], channels = x->dim[2];
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t sample = 0; sample < x->dim[0]; sample++) {
        const float *visible = (const float *)mask->data + sample * tokens;
        double factor = inverse_count(visible, tokens);
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            float buffer[TILE], *out = (float *)y->data + sample * channels + c;
            double sum[TILE] = {0};
            for (int64_t t = 0; t < tokens; t++) {
                if (visible[t] == 0) continue;
                const float *value = tile_load(x, (sample * tokens + t) * channels + c, size, buffer);
#pragma omp simd
                for (int64_t i = 0; i < size; i++) sum[i] += value[i];
            }
            for (int64_t i = 0; i < size; i++) out[i] = (float)(sum[i] * factor);
        }
    }
}

void masked_mean_backward_cpu(struct backend *backend, const struct tensor *mask, const struct tensor *dy,
                              struct tensor *dx)
{
    (void)backend;
    int64_t tokens = dx->dim[1], channels = dx->dim[2];
#pragma omp parallel for schedule(static) if (tensor_count(dx) >= PARALLEL_MINIMUM)
    for (int64_t sample = 0; sample < dx->dim[0]; sample++) {
        const float *visible = (const float *)mask->data + sample * tokens;
        float factor = (float)inverse_count(visible, tokens);
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < channels; c += TILE) {
                int64_t size = tile_size(c, channels), start = (sample * tokens + t) * channels + c;
                const float *from = (const float *)dy->data + sample * channels + c;
                float buffer[TILE], *out = tile_target(dx, start, buffer);
                for (int64_t i = 0; i < size; i++) out[i] = visible[t] != 0 ? factor * from[i] : 0;
                tile_store(dx, start, size, out);
            }
    }
}
