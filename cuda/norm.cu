/* GroupNorm (+ shift, SiLU, gate) and LayerNorm.
 *
 * GroupNorm goes through a sample in chunks of CHUNK_ROWS tokens and tiles of channels (reduce.h): in each
 * the sums of a channel are fp32, what comes after them is fp64 in order. So a sample's result does not
 * depend on the others, and long samples keep their digits. LayerNorm has a team of threads for a row. */
#include "activation.h"
#include "reduce.h"

#include <math.h>

/* ---- GroupNorm: sizes and coefficients */

/* Of a GroupNorm over x [B, T, C]. */
struct group_sizes {
    int64_t samples, tokens, channels; /* B, T, C */
    int64_t groups, width;             /* channels of a group */
    int64_t chunks;                    /* of T */
    bool aligned;                      /* rows of x can be taken in vectors */
};

template <class T> static group_sizes group_sizes_of(const struct tensor *x, int64_t groups)
{
    int64_t tokens = tensor_tokens(x), channels = tensor_channels(x);
    return {x->dim[0],
            tokens,
            channels,
            groups,
            channels / groups,
            divide_up(tokens, CHUNK_ROWS),
            in_vectors<T>(channels)};
}

/* Of kernels that go by tiles: a block is a tile of a sample's chunk. */
template <class T> static dim3 group_grid(const group_sizes &sizes)
{
    return dim3(tiles_of<vector<T>::SIZE>(sizes.channels), (unsigned)sizes.chunks, (unsigned)sizes.samples);
}

/* This thread's part of such a block: rows first + lane + i TILE_LANES, i < LANE_ROWS, that are < end. */
struct chunk_place {
    int64_t first, end; /* tokens */
    int64_t sample;
    int64_t unit; /* the chunk's number among those of all samples */
};

__device__ static chunk_place place_of_chunk(const group_sizes &sizes)
{
    int64_t first = (int64_t)blockIdx.y * CHUNK_ROWS, end = first + CHUNK_ROWS;
    return {first, smaller(end, sizes.tokens), blockIdx.z, blockIdx.z * sizes.chunks + blockIdx.y};
}

/* Row `i` of a thread's piece of x, zeros where there is none. */
template <class T>
__device__ static floats<vector<T>::SIZE> load_row(const T *x, const group_sizes &sizes,
                                                   const chunk_place &chunk, const tile_place &place, int i)
{
    int64_t row = chunk.first + place.lane + i * TILE_LANES;
    const T *from = x + (chunk.sample * sizes.tokens + row) * sizes.channels + place.column;
    return load_some<vector<T>::SIZE>(from, row < chunk.end ? place.count : 0, sizes.aligned);
}

template <class T>
__device__ static void store_row(T *y, const floats<vector<T>::SIZE> &value, const group_sizes &sizes,
                                 const chunk_place &chunk, const tile_place &place, int i)
{
    int64_t row = chunk.first + place.lane + i * TILE_LANES;
    T *to = y + (chunk.sample * sizes.tokens + row) * sizes.channels + place.column;
    store_some(to, value, row < chunk.end ? place.count : 0, sizes.aligned);
}

/* What a channel of a sample is computed with, rows of coefficients [B, COEFFICIENTS, C]: z = (x - centre)
 * scale; M1, M2: see the backward pass. */
enum { CENTRE, SCALE, GATE, M1, M2, COEFFICIENTS };

/* Those of the forward pass, of one group of a sample: written by `threads` threads, of which this is one. */
template <class T>
__device__ static void write_coefficients(const group_sizes &sizes, int64_t sample, int64_t group, float mean,
                                          float scale, const T *shift, device_gate gate, int thread,
                                          int threads, float *coefficients)
{
    float *of_sample = coefficients + sample * COEFFICIENTS * sizes.channels;
    int64_t first = group * sizes.width;
    for (int64_t c = first + thread; c < first + sizes.width; c += threads) {
        of_sample[CENTRE * sizes.channels + c] =
            mean - (shift ? to_float(shift[sample * sizes.channels + c]) : 0.f);
        of_sample[SCALE * sizes.channels + c] = scale;
        of_sample[GATE * sizes.channels + c] = gate.of_channel(sample, c, sizes.channels);
    }
}

/* Coefficient `which` of a thread's piece. */
template <int N>
__device__ static floats<N> load_coefficient(const float *coefficients, int which, const group_sizes &sizes,
                                             const chunk_place &chunk, const tile_place &place)
{
    const float *from = coefficients + (chunk.sample * COEFFICIENTS + which) * sizes.channels + place.column;
    return load_some<N>(from, place.count, sizes.aligned);
}

/* ---- GroupNorm's statistics */

/* Of a channel over the rows of a chunk: a centre near the mean, and the sums of the deviations from it and
 * of their squares. Rows of moments [B, chunks, MOMENTS, C]. */
enum { CHUNK_CENTRE, DEVIATIONS, SQUARES, MOMENTS };

/* The chunk's mean to fp32 first, then what is left of it and the squares: a large mean costs no digits. */
template <class T> __global__ void group_moments(group_sizes sizes, const T *x, float *moments)
{
    constexpr int N = vector<T>::SIZE;
    SHARED(float, values, TILE_VALUES<N>);
    SHARED(float, totals, TILE_COLUMNS<N>);
    tile_place place = place_in_tile<N>(sizes.channels);
    chunk_place chunk = place_of_chunk(sizes);
    floats<N> row[LANE_ROWS], sum = {}, squares = {};
    for (int i = 0; i < LANE_ROWS; i++) row[i] = load_row(x, sizes, chunk, place, i);
    for (int i = 0; i < LANE_ROWS; i++)
        for (int j = 0; j < N; j++) sum.value[j] += row[i].value[j];
    sum_lanes(sum, values, totals, TILE_COLUMNS<N>);
    __syncthreads();
    float rows = (float)(chunk.end - chunk.first);
    floats<N> centre = load_some<N>(totals + threadIdx.x % TILE_PIECES * N, N, false);
    for (int j = 0; j < N; j++) {
        centre.value[j] /= rows;
        sum.value[j] = 0;
    }
    for (int i = 0; i < LANE_ROWS; i++) {
        bool there = chunk.first + place.lane + i * TILE_LANES < chunk.end;
        for (int j = 0; j < N; j++) {
            float deviation = there ? row[i].value[j] - centre.value[j] : 0.f;
            sum.value[j] += deviation;
            squares.value[j] += deviation * deviation;
        }
    }
    int64_t tile = (int64_t)blockIdx.x * TILE_COLUMNS<N>, count = sizes.channels - tile;
    float *to = moments + chunk.unit * MOMENTS * sizes.channels + tile;
    if (place.lane == 0)
        store_some(to + CHUNK_CENTRE * sizes.channels + (place.column - tile), centre, place.count, false);
    sum_lanes(sum, values, to + DEVIATIONS * sizes.channels, count);
    sum_lanes(squares, values, to + SQUARES * sizes.channels, count);
}

/* Mean and sum of squared deviations of `count` elements. */
struct channel_moments {
    double mean, squares, count;
};

/* Of a channel's chunk; `moments` are the chunk's. */
template <class T>
__device__ static channel_moments channel_moments_of(const group_sizes &sizes, const float *moments,
                                                     int64_t sample, int64_t chunk, int64_t channel,
                                                     const T *shift)
{
    const float *at = moments + (sample * sizes.chunks + chunk) * MOMENTS * sizes.channels + channel;
    double count = (double)smaller(sizes.tokens - chunk * CHUNK_ROWS, CHUNK_ROWS);
    double rest = at[DEVIATIONS * sizes.channels] / count;
    double offset = shift ? (double)to_float(shift[sample * sizes.channels + channel]) : 0.;
    return {at[CHUNK_CENTRE * sizes.channels] + rest + offset,
            at[SQUARES * sizes.channels] - rest * rest * count, count};
}

/* statistics [B, groups, 2] and the coefficients, a block a group: the channels' and chunks' moments put
 * together. */
template <class T>
__global__ void group_statistics(group_sizes sizes, const float *moments, const T *shift, device_gate gate,
                                 float epsilon, float *statistics, float *coefficients)
{
    SHARED(double, partial, WARP);
    int64_t sample = blockIdx.x / sizes.groups, group = blockIdx.x % sizes.groups;
    int width = (int)sizes.width, parts = (int)sizes.chunks * width;
    double count = (double)(sizes.tokens * sizes.width), mean = 0, squares = 0;
    for (int i = (int)threadIdx.x; i < parts; i += THREADS) {
        channel_moments part =
            channel_moments_of(sizes, moments, sample, i / width, group * width + i % width, shift);
        mean += part.mean * part.count;
    }
    mean = block_sum(mean, partial) / count;
    for (int i = (int)threadIdx.x; i < parts; i += THREADS) {
        channel_moments part =
            channel_moments_of(sizes, moments, sample, i / width, group * width + i % width, shift);
        squares += part.squares + (part.mean - mean) * (part.mean - mean) * part.count;
    }
    float scale = (float)(1 / sqrt(block_sum(squares, partial) / count + epsilon));
    if (threadIdx.x == 0) {
        statistics[2 * blockIdx.x] = (float)mean;
        statistics[2 * blockIdx.x + 1] = scale;
    }
    write_coefficients(sizes, sample, group, (float)mean, scale, shift, gate, (int)threadIdx.x, THREADS,
                       coefficients);
}

/* ---- GroupNorm forward */

template <class T>
__global__ void group_apply(group_sizes sizes, const T *x, const float *coefficients, const float *weight,
                            const float *bias, bool use_silu, T *y)
{
    constexpr int N = vector<T>::SIZE;
    tile_place place = place_in_tile<N>(sizes.channels);
    chunk_place chunk = place_of_chunk(sizes);
    floats<N> row[LANE_ROWS];
    for (int i = 0; i < LANE_ROWS; i++) row[i] = load_row(x, sizes, chunk, place, i);
    floats<N> centre = load_coefficient<N>(coefficients, CENTRE, sizes, chunk, place);
    floats<N> scale = load_coefficient<N>(coefficients, SCALE, sizes, chunk, place);
    floats<N> gate = load_coefficient<N>(coefficients, GATE, sizes, chunk, place);
    floats<N> weights = load_some<N>(weight + place.column, place.count, sizes.aligned);
    floats<N> biases = load_some<N>(bias + place.column, place.count, sizes.aligned);
    for (int i = 0; i < LANE_ROWS; i++) {
        for (int j = 0; j < N; j++) {
            float z = (row[i].value[j] - centre.value[j]) * scale.value[j];
            float n = z * weights.value[j] + biases.value[j];
            row[i].value[j] = gate.value[j] * (use_silu ? silu::value(n) : n);
        }
        store_row(y, row[i], sizes, chunk, place, i);
    }
}

void group_norm_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                             const struct tensor *weight, const struct tensor *bias, int64_t groups,
                             float epsilon, bool silu, struct gate gate, struct tensor *y,
                             struct tensor *statistics)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        group_sizes sizes = group_sizes_of<T>(x, groups);
        size_t row = (size_t)(sizes.samples * sizes.channels) * sizeof(float);
        scratch moments(backend, row * (size_t)sizes.chunks * MOMENTS);
        scratch coefficients(backend, row * COEFFICIENTS);
        dim3 grid = group_grid<T>(sizes);
        LAUNCH((group_moments<T>), grid, THREADS, cuda->compute, sizes, values_of<T>(x), moments.of<float>());
        LAUNCH((group_statistics<T>), (unsigned)(sizes.samples * groups), THREADS, cuda->compute, sizes,
               moments.of<float>(), values_of<T>(shift), device_gate_of(gate), epsilon,
               values_of<float>(statistics), coefficients.of<float>());
        LAUNCH((group_apply<T>), grid, THREADS, cuda->compute, sizes, values_of<T>(x),
               coefficients.of<float>(), values_of<float>(weight), values_of<float>(bias), silu,
               values_of<T>(y));
    });
}

/* ---- GroupNorm backward. With z = (x + shift - mean) / deviation, n = z weight + bias, y = gate act(n):
 *   dn = dy gate act'(n);  dweight = sum dn z;  dbias = sum dn;  dgate = sum dy act(n)
 *   dx = (dn weight - M1 - z M2) / deviation, M1 and M2 the group's means of dn weight and dn weight z
 *   dshift = sum over tokens of dx */

/* A channel's sums over tokens: of dn, of dn z, of z, of dy act(n). */
enum { SUM_DN, SUM_DN_Z, SUM_Z, SUM_DY_ACT, SUMS };

template <class T>
__global__ void group_coefficients(group_sizes sizes, const float *statistics, const T *shift,
                                   device_gate gate, float *coefficients)
{
    write_coefficients(sizes, blockIdx.x / sizes.groups, blockIdx.x % sizes.groups,
                       statistics[2 * blockIdx.x], statistics[2 * blockIdx.x + 1], shift, gate,
                       (int)threadIdx.x, (int)blockDim.x, coefficients);
}

/* z, and act(n) and its derivative. */
struct normalised {
    float z, act, slope;
};

__device__ static normalised normalise(float x, float centre, float scale, float weight, float bias,
                                       bool silu)
{
    float z = (x - centre) * scale, n = z * weight + bias;
    if (!silu) return {z, n, 1};
    sigmoid s = sigmoid_of(n);
    return {z, n * s.value, s.value * (1 + n * s.rest)};
}

/* partial [B, chunks, SUMS, C] */
template <class T>
__global__ void group_chunk_sums(group_sizes sizes, const T *x, const T *dy, const float *coefficients,
                                 const float *weight, const float *bias, bool silu, float *partial)
{
    constexpr int N = vector<T>::SIZE;
    SHARED(float, values, TILE_VALUES<N>);
    tile_place place = place_in_tile<N>(sizes.channels);
    chunk_place chunk = place_of_chunk(sizes);
    floats<N> centre = load_coefficient<N>(coefficients, CENTRE, sizes, chunk, place);
    floats<N> scale = load_coefficient<N>(coefficients, SCALE, sizes, chunk, place);
    floats<N> gate = load_coefficient<N>(coefficients, GATE, sizes, chunk, place);
    floats<N> weights = load_some<N>(weight + place.column, place.count, sizes.aligned);
    floats<N> biases = load_some<N>(bias + place.column, place.count, sizes.aligned);
    floats<N> sum[SUMS] = {};
    for (int i = 0; i < LANE_ROWS; i++) {
        floats<N> x_row = load_row(x, sizes, chunk, place, i), dy_row = load_row(dy, sizes, chunk, place, i);
        bool there = chunk.first + place.lane + i * TILE_LANES < chunk.end;
        for (int j = 0; j < N; j++) {
            normalised at = normalise(x_row.value[j], centre.value[j], scale.value[j], weights.value[j],
                                      biases.value[j], silu);
            float dn = dy_row.value[j] * gate.value[j] * at.slope;
            sum[SUM_DN].value[j] += there ? dn : 0.f;
            sum[SUM_DN_Z].value[j] += there ? dn * at.z : 0.f;
            sum[SUM_Z].value[j] += there ? at.z : 0.f;
            sum[SUM_DY_ACT].value[j] += there ? dy_row.value[j] * at.act : 0.f;
        }
    }
    int64_t tile = (int64_t)blockIdx.x * TILE_COLUMNS<N>;
    float *to = partial + chunk.unit * SUMS * sizes.channels + tile;
    for (int i = 0; i < SUMS; i++) sum_lanes(sum[i], values, to + i * sizes.channels, sizes.channels - tile);
}

/* totals [B, SUMS, C]: the chunks' sums added in order */
__global__ void group_totals(group_sizes sizes, const float *partial, double *totals)
{
    int64_t entries = SUMS * sizes.channels;
    for (int64_t i = grid_thread(); i < sizes.samples * entries; i += grid_threads()) {
        const float *first = partial + i / entries * sizes.chunks * entries + i % entries;
        double total = 0;
        for (int64_t chunk = 0; chunk < sizes.chunks; chunk++) total += first[chunk * entries];
        totals[i] = total;
    }
}

/* M1 and M2 into the coefficients, and dshift [B, C] or nullptr; a warp a group. */
template <class T>
__global__ void group_means(group_sizes sizes, const double *totals, const float *weight,
                            const float *statistics, float *coefficients, T *dshift)
{
    int64_t index = team_row<WARP>(), sample = index / sizes.groups, group = index % sizes.groups;
    if (sample >= sizes.samples) return;
    int64_t channels = sizes.channels, first = group * sizes.width, end = first + sizes.width;
    const double *dn = totals + (sample * SUMS + SUM_DN) * channels;
    const double *dn_z = totals + (sample * SUMS + SUM_DN_Z) * channels;
    const double *z = totals + (sample * SUMS + SUM_Z) * channels;
    double mean = 0, mean_z = 0, tokens = (double)sizes.tokens;
    for (int64_t c = first + team_thread<WARP>(); c < end; c += WARP) {
        mean += dn[c] * weight[c];
        mean_z += dn_z[c] * weight[c];
    }
    mean = warp_sum(mean) / (tokens * (double)sizes.width);
    mean_z = warp_sum(mean_z) / (tokens * (double)sizes.width);
    float *m1 = coefficients + (sample * COEFFICIENTS + M1) * channels;
    float *m2 = coefficients + (sample * COEFFICIENTS + M2) * channels;
    for (int64_t c = first + team_thread<WARP>(); c < end; c += WARP) {
        m1[c] = (float)mean;
        m2[c] = (float)mean_z;
        if (dshift)
            dshift[sample * channels + c] = from_float<T>(
                (float)(statistics[2 * index + 1] * (dn[c] * weight[c] - tokens * mean - z[c] * mean_z)));
    }
}

/* dweight, dbias [C] (each may be nullptr) += their parts of the totals, over the samples in order */
__global__ void group_weight_gradients(group_sizes sizes, const double *totals, float *dweight, float *dbias)
{
    int64_t channels = sizes.channels;
    for (int64_t c = grid_thread(); c < channels; c += grid_threads()) {
        double sum_dn = 0, sum_dn_z = 0;
        for (int64_t sample = 0; sample < sizes.samples; sample++) {
            sum_dn += totals[(sample * SUMS + SUM_DN) * channels + c];
            sum_dn_z += totals[(sample * SUMS + SUM_DN_Z) * channels + c];
        }
        if (dweight) dweight[c] += (float)sum_dn_z;
        if (dbias) dbias[c] += (float)sum_dn;
    }
}

template <class T>
__global__ void group_dx(group_sizes sizes, const T *x, const T *dy, const float *coefficients,
                         const float *weight, const float *bias, bool silu, T *dx)
{
    constexpr int N = vector<T>::SIZE;
    tile_place place = place_in_tile<N>(sizes.channels);
    chunk_place chunk = place_of_chunk(sizes);
    floats<N> coefficient[COEFFICIENTS];
    for (int i = 0; i < COEFFICIENTS; i++)
        coefficient[i] = load_coefficient<N>(coefficients, i, sizes, chunk, place);
    floats<N> weights = load_some<N>(weight + place.column, place.count, sizes.aligned);
    floats<N> biases = load_some<N>(bias + place.column, place.count, sizes.aligned);
    for (int i = 0; i < LANE_ROWS; i++) {
        floats<N> x_row = load_row(x, sizes, chunk, place, i), dy_row = load_row(dy, sizes, chunk, place, i);
        for (int j = 0; j < N; j++) {
            float scale = coefficient[SCALE].value[j];
            normalised at = normalise(x_row.value[j], coefficient[CENTRE].value[j], scale, weights.value[j],
                                      biases.value[j], silu);
            float dn = dy_row.value[j] * coefficient[GATE].value[j] * at.slope;
            x_row.value[j] =
                scale * (dn * weights.value[j] - coefficient[M1].value[j] - at.z * coefficient[M2].value[j]);
        }
        store_row(dx, x_row, sizes, chunk, place, i);
    }
}

void group_norm_backward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                              const struct tensor *weight, const struct tensor *bias, int64_t groups,
                              bool silu, struct gate gate, const struct tensor *statistics,
                              const struct tensor *dy, struct tensor *dx, struct tensor *dshift,
                              struct tensor *dweight, struct tensor *dbias, struct tensor *dgates)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        group_sizes sizes = group_sizes_of<T>(x, groups);
        int64_t cells = sizes.samples * sizes.channels, all_groups = sizes.samples * groups;
        scratch partial_memory(backend, (size_t)(cells * sizes.chunks * SUMS) * sizeof(float));
        scratch totals_memory(backend, (size_t)(cells * SUMS) * sizeof(double));
        scratch coefficients_memory(backend, (size_t)(cells * COEFFICIENTS) * sizeof(float));
        float *partial = partial_memory.of<float>(), *coefficients = coefficients_memory.of<float>();
        double *totals = totals_memory.of<double>();
        const float *weights = values_of<float>(weight), *biases = values_of<float>(bias);
        const float *moments = values_of<float>(statistics);
        const T *x_values = values_of<T>(x), *dy_values = values_of<T>(dy);
        device_gate gates = device_gate_of(gate);
        cudaStream_t stream = cuda->compute;

        LAUNCH((group_coefficients<T>), (unsigned)all_groups, WARP, stream, sizes, moments,
               values_of<T>(shift), gates, coefficients);
        LAUNCH((group_chunk_sums<T>), group_grid<T>(sizes), THREADS, stream, sizes, x_values, dy_values,
               coefficients, weights, biases, silu, partial);
        LAUNCH(group_totals, grid_for(cuda, cells * SUMS, THREADS), THREADS, stream, sizes, partial, totals);
        LAUNCH((group_means<T>), team_blocks<WARP>(all_groups), THREADS, stream, sizes, totals, weights,
               moments, coefficients, values_of<T>(dshift));
        if (dgates)
            add_gate_gradient(cuda, totals + SUM_DY_ACT * sizes.channels, SUMS * sizes.channels, 1,
                              sizes.channels, gate, dgates);
        if (dweight || dbias)
            LAUNCH(group_weight_gradients, grid_for(cuda, sizes.channels, WARP), WARP, stream, sizes, totals,
                   values_of<float>(dweight), values_of<float>(dbias));
        if (dx)
            LAUNCH((group_dx<T>), group_grid<T>(sizes), THREADS, stream, sizes, x_values, dy_values,
                   coefficients, weights, biases, silu, values_of<T>(dx));
    });
}

/* ---- LayerNorm */

/* Rows x [rows, C], a team a row: the mean to fp32 first, then what is left of it and the squares. */
template <class T, int TEAM>
__global__ void layer_norm_rows(const T *x, const float *weight, const float *bias, int64_t rows,
                                int64_t channels, bool aligned, float epsilon, T *y, float *statistics)
{
    constexpr int N = vector<T>::SIZE;
    SHARED(float, partial, WARP);
    int64_t row = team_row<TEAM>(), begin = team_thread<TEAM>() * N;
    if (row >= rows) return;
    const T *from = x + row * channels;
    float sum = 0, rest = 0, squares = 0;
    for (int64_t c = begin; c < channels; c += TEAM * N) {
        floats<N> value = load_some<N>(from + c, channels - c, aligned);
        for (int i = 0; i < N; i++) sum += value.value[i];
    }
    float centre = team_sum<TEAM>(sum, partial) / (float)channels;
    for (int64_t c = begin; c < channels; c += TEAM * N) {
        floats<N> value = load_some<N>(from + c, channels - c, aligned);
        for (int i = 0; i < N; i++) {
            float deviation = c + i < channels ? value.value[i] - centre : 0.f;
            rest += deviation;
            squares += deviation * deviation;
        }
    }
    rest = team_sum<TEAM>(rest, partial) / (float)channels;
    float variance = team_sum<TEAM>(squares, partial) / (float)channels - rest * rest;
    float mean = centre + rest, scale = 1 / sqrtf(variance + epsilon);
    if (team_thread<TEAM>() == 0) {
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = scale;
    }
    for (int64_t c = begin; c < channels; c += TEAM * N) {
        floats<N> value = load_some<N>(from + c, channels - c, aligned);
        floats<N> weights = load_some<N>(weight + c, channels - c, aligned);
        floats<N> biases = load_some<N>(bias + c, channels - c, aligned);
        for (int i = 0; i < N; i++)
            value.value[i] = (value.value[i] - mean) * scale * weights.value[i] + biases.value[i];
        store_some(y + row * channels + c, value, channels - c, aligned);
    }
}

void layer_norm_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                             const struct tensor *bias, float epsilon, struct tensor *y,
                             struct tensor *statistics)
{
    int64_t rows = tensor_rows(x), channels = tensor_channels(x);
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        with_team(channels, [&]<int TEAM>() {
            LAUNCH((layer_norm_rows<T, TEAM>), team_blocks<TEAM>(rows), THREADS,
                   cuda_backend(backend)->compute, values_of<T>(x), values_of<float>(weight),
                   values_of<float>(bias), rows, channels, in_vectors<T>(channels), epsilon, values_of<T>(y),
                   values_of<float>(statistics));
        });
    });
}

/* dx of a row: with z = (x - mean) scale, scale (dy weight - mean(dy weight) - z mean(dy weight z)) */
template <class T, int TEAM>
__global__ void layer_dx_rows(const T *x, const float *weight, const float *statistics, const T *dy,
                              int64_t rows, int64_t channels, bool aligned, T *dx)
{
    constexpr int N = vector<T>::SIZE;
    SHARED(float, partial, WARP);
    int64_t row = team_row<TEAM>(), begin = team_thread<TEAM>() * N;
    if (row >= rows) return;
    const T *x_row = x + row * channels, *dy_row = dy + row * channels;
    float mean = statistics[2 * row], scale = statistics[2 * row + 1], m1 = 0, m2 = 0;
    for (int64_t c = begin; c < channels; c += TEAM * N) {
        floats<N> value = load_some<N>(x_row + c, channels - c, aligned);
        floats<N> gradient = load_some<N>(dy_row + c, channels - c, aligned);
        floats<N> weights = load_some<N>(weight + c, channels - c, aligned);
        for (int i = 0; i < N; i++) { // behind the last channel the weight is 0
            float dz = gradient.value[i] * weights.value[i];
            m1 += dz;
            m2 += dz * (value.value[i] - mean) * scale;
        }
    }
    m1 = team_sum<TEAM>(m1, partial) / (float)channels;
    m2 = team_sum<TEAM>(m2, partial) / (float)channels;
    for (int64_t c = begin; c < channels; c += TEAM * N) {
        floats<N> value = load_some<N>(x_row + c, channels - c, aligned);
        floats<N> gradient = load_some<N>(dy_row + c, channels - c, aligned);
        floats<N> weights = load_some<N>(weight + c, channels - c, aligned);
        for (int i = 0; i < N; i++) {
            float z = (value.value[i] - mean) * scale;
            value.value[i] = scale * (gradient.value[i] * weights.value[i] - m1 - z * m2);
        }
        store_some(dx + row * channels + c, value, channels - c, aligned);
    }
}

/* partial [chunks, 2, C]: sums of dy z (dweight) and of dy (dbias) over a chunk's rows */
template <class T>
__global__ void layer_chunk_sums(const T *x, const float *statistics, const T *dy, int64_t rows,
                                 int64_t channels, int64_t chunk_rows, bool aligned, float *partial)
{
    constexpr int N = vector<T>::SIZE;
    SHARED(float, values, TILE_VALUES<N>);
    tile_place place = place_in_tile<N>(channels);
    floats<N> sum_dy_z = {}, sum_dy = {};
    for_lane_rows(rows, chunk_rows, place.lane, [&](int64_t row, bool there) {
        int64_t at = row * channels + place.column, count = there ? place.count : 0;
        floats<N> value = load_some<N>(x + at, count, aligned);
        floats<N> gradient = load_some<N>(dy + at, count, aligned);
        float mean = there ? statistics[2 * row] : 0.f, scale = there ? statistics[2 * row + 1] : 0.f;
        for (int i = 0; i < N; i++) {
            sum_dy_z.value[i] += gradient.value[i] * (value.value[i] - mean) * scale;
            sum_dy.value[i] += gradient.value[i];
        }
    });
    int64_t tile = (int64_t)blockIdx.x * TILE_COLUMNS<N>, count = channels - tile;
    float *to = partial + blockIdx.y * 2 * channels + tile;
    sum_lanes(sum_dy_z, values, to, count);
    sum_lanes(sum_dy, values, to + channels, count);
}

/* dweight and dbias (each may be NULL), which add */
template <class T>
static void layer_parameter_gradients(struct cuda_backend *cuda, const struct tensor *x,
                                      const struct tensor *statistics, const struct tensor *dy,
                                      struct tensor *dweight, struct tensor *dbias)
{
    int64_t rows = tensor_rows(x), channels = tensor_channels(x);
    int64_t chunk_rows = summed_chunk_rows(rows), chunks = divide_up(rows, chunk_rows);
    scratch partial(&cuda->base, (size_t)(chunks * 2 * channels) * sizeof(float));
    dim3 grid(tiles_of<vector<T>::SIZE>(channels), (unsigned)chunks);
    LAUNCH((layer_chunk_sums<T>), grid, THREADS, cuda->compute, values_of<T>(x), values_of<float>(statistics),
           values_of<T>(dy), rows, channels, chunk_rows, in_vectors<T>(channels), partial.of<float>());
    if (dweight)
        add_chunk_sums(cuda, partial.of<float>(), chunks, 2 * channels, channels, values_of<float>(dweight));
    if (dbias)
        add_chunk_sums(cuda, partial.of<float>() + channels, chunks, 2 * channels, channels,
                       values_of<float>(dbias));
}

void layer_norm_backward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                              const struct tensor *statistics, const struct tensor *dy, struct tensor *dx,
                              struct tensor *dweight, struct tensor *dbias)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t rows = tensor_rows(x), channels = tensor_channels(x);
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        if (dweight || dbias) layer_parameter_gradients<T>(cuda, x, statistics, dy, dweight, dbias);
        if (!dx) return;
        with_team(channels, [&]<int TEAM>() {
            LAUNCH((layer_dx_rows<T, TEAM>), team_blocks<TEAM>(rows), THREADS, cuda->compute, values_of<T>(x),
                   values_of<float>(weight), values_of<float>(statistics), values_of<T>(dy), rows, channels,
                   in_vectors<T>(channels), values_of<T>(dx));
        });
    });
}
