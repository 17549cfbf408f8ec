/* Timestep sinusoids, table look-ups and the masked mean over tokens. */
#include "kernel.h"

#include <math.h>

/* In the fp32 steps of diffusers' get_timestep_embedding: the phase of timestep 999 is 999 times a rounded
 * frequency, and a trained model has seen exactly that. An odd last channel is zero, as there. `period`:
 * -log(10000). */
template <class T>
__global__ void timestep_sinusoids(const float *timesteps, int64_t samples, divisor channels, float period,
                                   bool flip_sin_to_cos, float shift, T *y)
{
    int half = (int)(channels.number / 2);
    for (int64_t i = grid_thread(); i < samples * channels.number; i += grid_threads()) {
        place at = place_of(i, channels);
        int index = at.column < half ? at.column : at.column - half;
        float exponent = period * (float)index / ((float)half - shift);
        float phase = timesteps[at.row] * expf(exponent);
        bool cosine = (at.column < half) == flip_sin_to_cos;
        y[i] = from_float<T>(index == half ? 0 : cosine ? cosf(phase) : sinf(phase));
    }
}

void timestep_embedding_cuda(struct backend *backend, const struct tensor *timesteps, bool flip_sin_to_cos,
                             float shift, struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        LAUNCH((timestep_sinusoids<T>), grid_for(cuda, tensor_count(y), THREADS), THREADS, cuda->compute,
               values_of<float>(timesteps), tensor_rows(y), divisor_of(tensor_channels(y)), -logf(10000.f),
               flip_sin_to_cos, shift, values_of<T>(y));
    });
}

/* ---- y [rows, C] = table [V, C] at ids [rows] */

/* A thread takes COUNT channels of a row; `groups`: channels / COUNT. */
template <class T, int COUNT>
__global__ void embedding_rows(const int32_t *ids, const float *table, int64_t rows, divisor groups, T *y)
{
    for (int64_t i = grid_thread(); i < rows * groups.number; i += grid_threads()) {
        place at = place_of(i, groups);
        store(y + i * COUNT, load<COUNT>(table + (ids[at.row] * groups.number + at.column) * COUNT));
    }
}

void embedding_forward_cuda(struct backend *backend, const struct tensor *ids, const struct tensor *table,
                            struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t rows = tensor_rows(y), channels = tensor_channels(y);
    with_rows(y->dtype, channels, [&]<class T, int COUNT>() {
        LAUNCH((embedding_rows<T, COUNT>), grid_for(cuda, rows * channels / COUNT, THREADS), THREADS,
               cuda->compute, values_of<int32_t>(ids), values_of<float>(table), rows,
               divisor_of(channels / COUNT), values_of<T>(y));
    });
}

/* Which of rows [first, first + 32) before `end` have this id, a bit each. All threads of a warp call it. */
__device__ inline unsigned rows_with(const int32_t *ids, int32_t id, int64_t first, int64_t end)
{
    int64_t row = first + threadIdx.x % WARP;
    return __ballot_sync(0xffffffff, row < end && ids[row] == id);
}

/* A warp takes 32 COUNT channels of an id: at the first row that has it, it adds this row and all later ones
 * with the same id to the table, in order; at other rows it does nothing. */
template <class T, int COUNT>
__global__ void embedding_gradient(const int32_t *ids, const T *dy, int64_t rows, int64_t channels,
                                   divisor segments, float *dtable)
{
    for (int64_t warp = grid_thread() / WARP; warp < rows * segments.number; warp += grid_threads() / WARP) {
        place at = place_of(warp, segments);
        int64_t channel = ((int64_t)at.column * WARP + threadIdx.x % WARP) * COUNT;
        int32_t id = ids[at.row];
        bool first = true;
        for (int64_t row = 0; first && row < at.row; row += WARP) first = !rows_with(ids, id, row, at.row);
        if (!first) continue;

        floats<COUNT> sum = {};
        float *to = dtable + id * channels + channel;
        if (channel < channels) sum = load<COUNT>(to);
        for (int64_t row = at.row; row < rows; row += WARP) {
            unsigned same = rows_with(ids, id, row, rows);
            for (int i = 0; i < WARP; i++) {
                if (!(same >> i & 1) || channel >= channels) continue;
                floats<COUNT> value = load<COUNT>(dy + (row + i) * channels + channel);
                for (int j = 0; j < COUNT; j++) sum.value[j] += value.value[j];
            }
        }
        if (channel < channels) store(to, sum);
    }
}

void embedding_backward_cuda(struct backend *backend, const struct tensor *ids, const struct tensor *dy,
                             struct tensor *dtable)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t rows = tensor_rows(dy), channels = tensor_channels(dy);
    with_rows(dy->dtype, channels, [&]<class T, int COUNT>() {
        int64_t segments = divide_up(channels, WARP * COUNT);
        LAUNCH((embedding_gradient<T, COUNT>), grid_for(cuda, rows * segments * WARP, THREADS), THREADS,
               cuda->compute, values_of<int32_t>(ids), values_of<T>(dy), rows, channels, divisor_of(segments),
               values_of<float>(dtable));
    });
}

/* ---- masked mean over tokens: a thread takes COUNT channels of a sample; `groups`: channels / COUNT */

/* 1 / (tokens of a sample with a mask that is not 0), or 0 where there is none */
__device__ inline float inverse_count(const float *mask, int64_t tokens)
{
    int count = 0;
    for (int64_t token = 0; token < tokens; token++) count += mask[token] != 0;
    return count ? 1 / (float)count : 0;
}

template <class T, int COUNT>
__global__ void masked_mean_forward_kernel(const T *x, const float *mask, int64_t samples, int64_t tokens,
                                           divisor groups, float *y)
{
    for (int64_t i = grid_thread(); i < samples * groups.number; i += grid_threads()) {
        place at = place_of(i, groups);
        const float *visible = mask + at.row * tokens;
        floats<COUNT> sum = {};
        for (int64_t token = 0; token < tokens; token++) {
            if (visible[token] == 0) continue;
            int64_t group = (at.row * tokens + token) * groups.number + at.column;
            floats<COUNT> value = load<COUNT>(x + group * COUNT);
            for (int j = 0; j < COUNT; j++) sum.value[j] += value.value[j];
        }
        float factor = inverse_count(visible, tokens);
        for (int j = 0; j < COUNT; j++) sum.value[j] *= factor;
        store(y + i * COUNT, sum);
    }
}

void masked_mean_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *mask,
                              struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t samples = x->dim[0], tokens = x->dim[1], channels = x->dim[2];
    with_rows(x->dtype, channels, [&]<class T, int COUNT>() {
        LAUNCH((masked_mean_forward_kernel<T, COUNT>), grid_for(cuda, samples * channels / COUNT, THREADS),
               THREADS, cuda->compute, values_of<T>(x), values_of<float>(mask), samples, tokens,
               divisor_of(channels / COUNT), values_of<float>(y));
    });
}

template <class T, int COUNT>
__global__ void masked_mean_backward_kernel(const float *mask, const float *dy, int64_t samples,
                                            int64_t tokens, divisor groups, T *dx)
{
    for (int64_t i = grid_thread(); i < samples * groups.number; i += grid_threads()) {
        place at = place_of(i, groups);
        const float *visible = mask + at.row * tokens;
        float factor = inverse_count(visible, tokens);
        floats<COUNT> gradient = load<COUNT>(dy + i * COUNT);
        for (int j = 0; j < COUNT; j++) gradient.value[j] *= factor;
        for (int64_t token = 0; token < tokens; token++) {
            int64_t group = (at.row * tokens + token) * groups.number + at.column;
            store(dx + group * COUNT, visible[token] != 0 ? gradient : floats<COUNT>{});
        }
    }
}

void masked_mean_backward_cuda(struct backend *backend, const struct tensor *mask, const struct tensor *dy,
                               struct tensor *dx)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t samples = dx->dim[0], tokens = dx->dim[1], channels = dx->dim[2];
    with_rows(dx->dtype, channels, [&]<class T, int COUNT>() {
        LAUNCH((masked_mean_backward_kernel<T, COUNT>), grid_for(cuda, samples * channels / COUNT, THREADS),
               THREADS, cuda->compute, values_of<float>(mask), values_of<float>(dy), samples, tokens,
               divisor_of(channels / COUNT), values_of<T>(dx));
    });
}
