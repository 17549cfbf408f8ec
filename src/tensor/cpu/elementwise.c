/* Activations, GEGLU, sums, mixes and conversions. */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/tiles.h"
#include "tensor/cpu/vector_math.h"

/* ---- GEGLU: x [B, T, 2 F] = (value, pre), y = gate value gelu(pre) */

/* gate_channels [B, F]: each channel's gate; ones without a gate */
static void expand_gate(struct gate gate, int64_t samples, int64_t channels, float *gate_channels)
{
    for (int64_t sample = 0; sample < samples; sample++)
        for (int64_t channel = 0; channel < channels; channel++)
            gate_channels[sample * channels + channel] = gate_of_channel(gate, sample, channel, channels);
}

static void geglu_apply(const struct tensor *x, const float *gate_channels, struct tensor *y)
{
    int64_t channels = tensor_channels(y), tokens = tensor_tokens(y);
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < tensor_rows(y); row++)
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            float value_buffer[TILE], pre_buffer[TILE], y_buffer[TILE];
            const float *value = tile_load(x, row * 2 * channels + c, size, value_buffer);
            const float *pre = tile_load(x, (row * 2 + 1) * channels + c, size, pre_buffer);
            const float *gate = gate_channels + row / tokens * channels + c;
            float *out = tile_target(y, row * channels + c, y_buffer);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = gate[i] * value[i] * gelu_erf(pre[i]);
            tile_store(y, row * channels + c, size, out);
        }
}

void geglu_forward_cpu(struct backend *backend, const struct tensor *x, struct gate gate, struct tensor *y)
{
    int64_t samples = y->dim[0], channels = tensor_channels(y);
    struct arena_block *gate_channels =
        arena_allocate(backend->scratch, (size_t)(samples * channels) * sizeof(float));
    if (!cpu_backend(backend)->plan) {
        expand_gate(gate, samples, channels, arena_address(gate_channels));
        geglu_apply(x, arena_address(gate_channels), y);
    }
    arena_free(backend->scratch, gate_channels);
}

static void geglu_dx(const struct tensor *x, const float *gate_channels, const struct tensor *dy,
                     struct tensor *dx)
{
    int64_t channels = tensor_channels(dy), tokens = tensor_tokens(dy);
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < tensor_rows(dy); row++)
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            int64_t value_start = row * 2 * channels + c, pre_start = (row * 2 + 1) * channels + c;
            float value_buffer[TILE], pre_buffer[TILE], dy_buffer[TILE], dvalue_buffer[TILE],
                dpre_buffer[TILE];
            const float *value = tile_load(x, value_start, size, value_buffer);
            const float *pre = tile_load(x, pre_start, size, pre_buffer);
            const float *dy_tile = tile_load(dy, row * channels + c, size, dy_buffer);
            const float *gate = gate_channels + row / tokens * channels + c;
            float *dvalue = tile_target(dx, value_start, dvalue_buffer);
            float *dpre = tile_target(dx, pre_start, dpre_buffer);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) {
                struct normal normal = vector_normal(pre[i]);
                float gated = gate[i] * dy_tile[i];
                dvalue[i] = gated * pre[i] * normal.probability;
                dpre[i] = gated * value[i] * multiply_add(pre[i], normal.density, normal.probability);
            }
            tile_store(dx, value_start, size, dvalue);
            tile_store(dx, pre_start, size, dpre);
        }
}

/* partial [B, chunks, F]: sums of dy value gelu(pre) over the tokens of a chunk */
static void geglu_gate_sums(const struct tensor *x, const struct tensor *dy, struct chunks chunks,
                            float *partial)
{
    int64_t channels = tensor_channels(dy);
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < dy->dim[0] * chunks.count; unit++) {
        int64_t sample = unit / chunks.count, chunk = unit % chunks.count;
        int64_t first = sample * chunks.rows + chunk * chunks.size;
        float *sum = partial + unit * channels;
        float value_buffer[TILE], pre_buffer[TILE], dy_buffer[TILE];
        memset(sum, 0, (size_t)channels * sizeof *sum);
        for (int64_t row = first; row < first + chunk_size(chunks, chunk); row++)
            for (int64_t c = 0; c < channels; c += TILE) {
                int64_t size = tile_size(c, channels);
                const float *value = tile_load(x, row * 2 * channels + c, size, value_buffer);
                const float *pre = tile_load(x, (row * 2 + 1) * channels + c, size, pre_buffer);
                const float *dy_tile = tile_load(dy, row * channels + c, size, dy_buffer);
#pragma omp simd
                for (int64_t i = 0; i < size; i++) sum[c + i] += dy_tile[i] * value[i] * gelu_erf(pre[i]);
            }
    }
}

/* dgates += the channels' sums [B, chunks, F], those of an entry's channels */
static void add_gate_gradient(const float *partial, int64_t chunks, int64_t channels, struct gate gate,
                              struct tensor *dgates)
{
    int64_t width = channels / gate.count;
    for (int64_t index = 0; index < dgates->dim[0] * gate.count; index++) {
        int64_t sample = index / gate.count, entry = index % gate.count;
        double sum = 0;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const float *sums = partial + (sample * chunks + chunk) * channels;
            for (int64_t c = entry * width; c < (entry + 1) * width; c++) sum += sums[c];
        }
        ((float *)dgates->data)[sample * dgates->dim[1] + gate.first + entry] += (float)sum;
    }
}

void geglu_backward_cpu(struct backend *backend, const struct tensor *x, struct gate gate,
                        const struct tensor *dy, struct tensor *dx, struct tensor *dgates)
{
    int64_t samples = dy->dim[0], channels = tensor_channels(dy);
    struct chunks chunks = chunks_of(tensor_tokens(dy));
    struct arena_block *gate_channels =
        arena_allocate(backend->scratch, (size_t)(samples * channels) * sizeof(float));
    struct arena_block *partial = arena_allocate(
        backend->scratch, dgates ? (size_t)(samples * chunks.count * channels) * sizeof(float) : 0);
    if (!cpu_backend(backend)->plan) {
        if (dx) {
            expand_gate(gate, samples, channels, arena_address(gate_channels));
            geglu_dx(x, arena_address(gate_channels), dy, dx);
        }
        if (dgates) {
            geglu_gate_sums(x, dy, chunks, arena_address(partial));
            add_gate_gradient(arena_address(partial), chunks.count, channels, gate, dgates);
        }
    }
    arena_free(backend->scratch, partial);
    arena_free(backend->scratch, gate_channels);
}

/* ---- activations */
void activation_forward_cpu(struct backend *backend, enum activation kind, const struct tensor *x,
                            struct tensor *y)
{
    (void)backend;
    int64_t count = tensor_count(x);
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MINIMUM)
    for (int64_t first = 0; first < count; first += TILE) {
        int64_t size = tile_size(first, count);
        float x_buffer[TILE], y_buffer[TILE];
        const float *in = tile_load(x, first, size, x_buffer);
        float *out = tile_target(y, first, y_buffer);
        switch (kind) {
        case ACTIVATION_SILU:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = silu(in[i]);
            break;
        case ACTIVATION_GELU_ERF:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = gelu_erf(in[i]);
            break;
        case ACTIVATION_GELU_TANH:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = gelu_tanh(in[i]);
            break;
        case ACTIVATION_GELU_QUICK:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = gelu_quick(in[i]);
            break;
        case ACTIVATION_RELU:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = in[i] < 0 ? 0 : in[i]; // NaN stays NaN
            break;
        }
        tile_store(y, first, size, out);
    }
}

void activation_backward_cpu(struct backend *backend, enum activation kind, const struct tensor *x,
                             const struct tensor *dy, struct tensor *dx)
{
    (void)backend;
    int64_t count = tensor_count(x);
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MINIMUM)
    for (int64_t first = 0; first < count; first += TILE) {
        int64_t size = tile_size(first, count);
        float x_buffer[TILE], dy_buffer[TILE], dx_buffer[TILE];
        const float *in = tile_load(x, first, size, x_buffer);
        const float *dy_tile = tile_load(dy, first, size, dy_buffer);
        float *out = tile_target(dx, first, dx_buffer);
        switch (kind) {
        case ACTIVATION_SILU:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = dy_tile[i] * silu_derivative(in[i]);
            break;
        case ACTIVATION_GELU_ERF:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = dy_tile[i] * gelu_erf_derivative(in[i]);
            break;
        case ACTIVATION_GELU_TANH:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = dy_tile[i] * gelu_tanh_derivative(in[i]);
            break;
        case ACTIVATION_GELU_QUICK:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = dy_tile[i] * gelu_quick_derivative(in[i]);
            break;
        case ACTIVATION_RELU:
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = in[i] <= 0 ? 0 : dy_tile[i];
            break;
        }
        tile_store(dx, first, size, out);
    }
}

/* ---- sums and mixes */
void add_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b, struct tensor *y)
{
    (void)backend;
    int64_t count = tensor_count(y);
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MINIMUM)
    for (int64_t first = 0; first < count; first += TILE) {
        int64_t size = tile_size(first, count);
        float a_buffer[TILE], b_buffer[TILE], y_buffer[TILE];
        const float *a_tile = tile_load(a, first, size, a_buffer);
        const float *b_tile = tile_load(b, first, size, b_buffer);
        float *out = tile_target(y, first, y_buffer);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[i] = a_tile[i] + b_tile[i];
        tile_store(y, first, size, out);
    }
}

/* Units of parallel work that lie within one sample: tiles of its elements. */
static int64_t tiles_of(int64_t elements)
{
    return (elements + TILE - 1) / TILE;
}

void depth_mix_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *f,
                           struct gate gate, struct tensor *y)
{
    (void)backend;
    int64_t samples = y->dim[0], elements = tensor_count(y) / samples, tiles = tiles_of(elements);
#pragma omp parallel for schedule(static) if (samples * elements >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < samples * tiles; unit++) {
        int64_t sample = unit / tiles, offset = unit % tiles * TILE, first = sample * elements + offset;
        int64_t size = tile_size(offset, elements);
        float depth = gate_of_channel(gate, sample, 0, 1), x_buffer[TILE], f_buffer[TILE], y_buffer[TILE];
        const float *x_tile = tile_load(x, first, size, x_buffer);
        const float *f_tile = tile_load(f, first, size, f_buffer);
        float *out = tile_target(y, first, y_buffer);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[i] = (1 - depth) * x_tile[i] + depth * f_tile[i];
        tile_store(y, first, size, out);
    }
}

/* partial [B, tiles]: sums of dy (f - x) over a tile */
static void depth_mix_backward_tiles(const struct tensor *x, const struct tensor *f, struct gate gate,
                                     const struct tensor *dy, struct tensor *dx, struct tensor *df,
                                     double *partial)
{
    int64_t samples = dy->dim[0], elements = tensor_count(dy) / samples, tiles = tiles_of(elements);
#pragma omp parallel for schedule(static) if (samples * elements >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < samples * tiles; unit++) {
        int64_t sample = unit / tiles, offset = unit % tiles * TILE, first = sample * elements + offset;
        int64_t size = tile_size(offset, elements);
        float depth = gate_of_channel(gate, sample, 0, 1), buffer[TILE], dy_buffer[TILE];
        const float *dy_tile = tile_load(dy, first, size, dy_buffer);
        if (dx) {
            float *out = tile_target(dx, first, buffer);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = (1 - depth) * dy_tile[i];
            tile_store(dx, first, size, out);
        }
        if (df) {
            float *out = tile_target(df, first, buffer);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = depth * dy_tile[i];
            tile_store(df, first, size, out);
        }
        if (partial) {
            float f_buffer[TILE], sum = 0;
            const float *x_tile = tile_load(x, first, size, buffer);
            const float *f_tile = tile_load(f, first, size, f_buffer);
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) sum += dy_tile[i] * (f_tile[i] - x_tile[i]);
            partial[unit] = sum;
        }
    }
}

void depth_mix_backward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *f,
                            struct gate gate, const struct tensor *dy, struct tensor *dx, struct tensor *df,
                            struct tensor *dgates)
{
    int64_t samples = dy->dim[0], tiles = tiles_of(tensor_count(dy) / samples);
    struct arena_block *block =
        arena_allocate(backend->scratch, dgates ? (size_t)(samples * tiles) * sizeof(double) : 0);
    if (!cpu_backend(backend)->plan) {
        double *partial = dgates ? arena_address(block) : NULL;
        depth_mix_backward_tiles(x, f, gate, dy, dx, df, partial);
        for (int64_t sample = 0; dgates && sample < samples; sample++) {
            double sum = 0;
            for (int64_t tile = 0; tile < tiles; tile++) sum += partial[sample * tiles + tile];
            ((float *)dgates->data)[sample * dgates->dim[1] + gate.first] += (float)sum;
        }
    }
    arena_free(backend->scratch, block);
}

/* ---- conversions */
void scale_cpu(struct backend *backend, const struct tensor *x, float factor, struct tensor *y)
{
    (void)backend;
    int64_t count = tensor_count(y);
#pragma omp parallel for schedule(static) if (count >= PARALLEL_MINIMUM)
    for (int64_t first = 0; first < count; first += TILE) {
        int64_t size = tile_size(first, count);
        float x_buffer[TILE], y_buffer[TILE];
        const float *in = tile_load(x, first, size, x_buffer);
        float *out = tile_target(y, first, y_buffer);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[i] = factor * in[i];
        tile_store(y, first, size, out);
    }
}

void cast_cpu(struct backend *backend, const struct tensor *x, struct tensor *y)
{
    if (x->dtype != y->dtype) {
        scale_cpu(backend, x, 1, y);
        return;
    }
    int64_t bytes = (int64_t)tensor_bytes(x), step = TILE * (int64_t)sizeof(float);
#pragma omp parallel for schedule(static) if (bytes >= PARALLEL_MINIMUM)
    for (int64_t first = 0; first < bytes; first += step)
        memcpy((char *)y->data + first, (const char *)x->data + first,
               (size_t)(bytes - first < step ? bytes - first : step));
}
