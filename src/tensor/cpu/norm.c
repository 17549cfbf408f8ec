/* GroupNorm (+ shift, SiLU, gate) and LayerNorm.
 *
 * GroupNorm goes through a sample in chunks of tokens (tiles.h); a channel's sums over a chunk are kept, then
 * added up in order. So nothing depends on the threads, and the sums over long samples keep their digits. */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/tiles.h"
#include "tensor/cpu/vector_math.h"

#include <math.h>

/* Sizes of a GroupNorm over x [B, T, C]. */
struct group_sizes {
    int64_t samples, tokens, channels; /* B, T, C */
    int64_t groups, width;             /* channels of a group */
    struct chunks chunks;              /* of T */
};

static struct group_sizes group_sizes(const struct tensor *x, int64_t groups)
{
    struct group_sizes sizes = {
        .samples = x->dim[0], .tokens = tensor_tokens(x), .channels = tensor_channels(x), .groups = groups};
    sizes.width = sizes.channels / groups;
    sizes.chunks = chunks_of(sizes.tokens);
    return sizes;
}

/* ---- statistics */

/* Mean and sum of squared deviations of some elements of a group. */
struct moments {
    double mean, squares;
};

/* Adds to the moments of groups what a tile of `size` channels from `channel` on has in `rows` rows, the
 * first of which begins at element `first`: squared deviations from `centre`, and the mean of the deviations,
 * which is what the centre lacks of the mean. */
static void add_deviations(const struct tensor *x, int64_t first, int64_t rows, int64_t stride, int64_t size,
                           const float *centre, int64_t channel, int64_t width, struct moments *of_group)
{
    float buffer[TILE], sum[TILE] = {0}, squares[TILE] = {0};
    for (int64_t row = 0; row < rows; row++) {
        const float *value = tile_load(x, first + row * stride, size, buffer);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            float deviation = value[i] - centre[i];
            sum[i] += deviation;
            squares[i] = multiply_add(deviation, deviation, squares[i]);
        }
    }
    for (int64_t i = 0; i < size; i++) {
        struct moments *moments = &of_group[(channel + i) / width];
        moments->mean += sum[i] / (double)(rows * width);
        moments->squares += squares[i];
    }
}

/* moments [B, chunks, groups] of x + shift; centre [B, chunks, C] is scratch. In two passes over a chunk: its
 * mean to fp32 first, then what is left of it and the squares, so a large mean costs no digits. */
static void chunk_moments(const struct group_sizes *sizes, const struct tensor *x, const struct tensor *shift,
                          float *centre, struct moments *moments)
{
    int64_t channels = sizes->channels, width = sizes->width;
    struct chunks chunks = sizes->chunks;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < sizes->samples * chunks.count; unit++) {
        int64_t sample = unit / chunks.count, chunk = unit % chunks.count, rows = chunk_size(chunks, chunk);
        int64_t first = (sample * sizes->tokens + chunk * chunks.size) * channels;
        float *sum = centre + unit * channels;
        float buffer[TILE];
        memset(sum, 0, (size_t)channels * sizeof *sum);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t c = 0; c < channels; c += TILE) {
                int64_t size = tile_size(c, channels);
                const float *value = tile_load(x, first + row * channels + c, size, buffer);
#pragma omp simd
                for (int64_t i = 0; i < size; i++) sum[c + i] += value[i];
            }
        struct moments *of_group = moments + unit * sizes->groups;
        for (int64_t group = 0; group < sizes->groups; group++) {
            double total = 0;
            for (int64_t c = group * width; c < (group + 1) * width; c++)
                total += sum[c] + (shift ? (double)rows * element(shift, sample * channels + c) : 0);
            of_group[group] = (struct moments){(float)(total / (double)(rows * width)), 0};
            for (int64_t c = group * width; c < (group + 1) * width; c++)
                sum[c] = (float)(of_group[group].mean - (shift ? element(shift, sample * channels + c) : 0));
        }
        for (int64_t c = 0; c < channels; c += TILE)
            add_deviations(x, first + c, rows, channels, tile_size(c, channels), sum + c, c, width, of_group);
    }
}

/* statistics [B, groups, 2]: the chunks' moments put together (Chan, Golub and LeVeque 1983). */
static void group_statistics(const struct group_sizes *sizes, const struct moments *moments, float epsilon,
                             float *statistics)
{
    struct chunks chunks = sizes->chunks;
    bool parallel = sizes->samples * chunks.count * sizes->groups >= PARALLEL_MINIMUM;
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t index = 0; index < sizes->samples * sizes->groups; index++) {
        int64_t sample = index / sizes->groups, group = index % sizes->groups;
        double count = 0, mean = 0, squares = 0;
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
            struct moments part = moments[(sample * chunks.count + chunk) * sizes->groups + group];
            double part_count = (double)(chunk_size(chunks, chunk) * sizes->width);
            double total = count + part_count, difference = part.mean - mean;
            mean += difference * part_count / total;
            squares += part.squares + difference * difference * count * part_count / total;
            count = total;
        }
        statistics[2 * index] = (float)mean;
        statistics[2 * index + 1] = (float)(1 / sqrt(squares / count + epsilon));
    }
}

/* ---- GroupNorm forward */

/* y = gate act((x - centre) scale + bias), for the channels of a sample */
struct affine {
    float *centre, *scale, *gate; /* [C] */
};

static struct affine affine_of_sample(const struct group_sizes *sizes, float *coefficients, int64_t sample)
{
    float *first = coefficients + sample * 3 * sizes->channels;
    return (struct affine){first, first + sizes->channels, first + 2 * sizes->channels};
}

/* coefficients [B, 3, C]; weight NULL: scale is 1/deviation alone */
static void group_coefficients(const struct group_sizes *sizes, const struct tensor *shift,
                               const float *weight, struct gate gate, const float *statistics,
                               float *coefficients)
{
    for (int64_t sample = 0; sample < sizes->samples; sample++) {
        struct affine affine = affine_of_sample(sizes, coefficients, sample);
        for (int64_t c = 0; c < sizes->channels; c++) {
            const float *moments = statistics + 2 * (sample * sizes->groups + c / sizes->width);
            affine.centre[c] = moments[0] - (shift ? element(shift, sample * sizes->channels + c) : 0);
            affine.scale[c] = moments[1] * (weight ? weight[c] : 1);
            affine.gate[c] = gate_of_channel(gate, sample, c, sizes->channels);
        }
    }
}

static void group_apply(const struct group_sizes *sizes, const struct tensor *x, float *coefficients,
                        const float *bias, bool use_silu, struct tensor *y)
{
    int64_t channels = sizes->channels;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < sizes->samples * sizes->tokens; row++) {
        struct affine affine = affine_of_sample(sizes, coefficients, row / sizes->tokens);
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            float x_buffer[TILE], y_buffer[TILE];
            const float *in = tile_load(x, row * channels + c, size, x_buffer);
            float *out = tile_target(y, row * channels + c, y_buffer);
            const float *centre = affine.centre + c, *scale = affine.scale + c, *gates = affine.gate + c;
            if (use_silu) {
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    out[i] = gates[i] * silu(multiply_add(in[i] - centre[i], scale[i], bias[c + i]));
            } else {
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    out[i] = gates[i] * multiply_add(in[i] - centre[i], scale[i], bias[c + i]);
            }
            tile_store(y, row * channels + c, size, out);
        }
    }
}

void group_norm_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                            const struct tensor *weight, const struct tensor *bias, int64_t groups,
                            float epsilon, bool silu, struct gate gate, struct tensor *y,
                            struct tensor *statistics)
{
    struct group_sizes sizes = group_sizes(x, groups);
    size_t units = (size_t)(sizes.samples * sizes.chunks.count), channels = (size_t)sizes.channels;
    struct arena *scratch = backend->scratch;
    struct arena_block *moments = arena_allocate(scratch, units * (size_t)groups * sizeof(struct moments));
    struct arena_block *centre = arena_allocate(scratch, units * channels * sizeof(float));
    struct arena_block *coefficients =
        arena_allocate(scratch, (size_t)sizes.samples * 3 * channels * sizeof(float));
    if (!cpu_backend(backend)->plan) {
        chunk_moments(&sizes, x, shift, arena_address(centre), arena_address(moments));
        group_statistics(&sizes, arena_address(moments), epsilon, statistics->data);
        group_coefficients(&sizes, shift, weight->data, gate, statistics->data, arena_address(coefficients));
        group_apply(&sizes, x, arena_address(coefficients), bias->data, silu, y);
    }
    arena_free(scratch, coefficients);
    arena_free(scratch, centre);
    arena_free(scratch, moments);
}

/* ---- GroupNorm backward. With z = (x + shift - mean) / deviation, n = z weight + bias, y = gate act(n):
 *   dn = dy gate act'(n);  dweight = sum dn z;  dbias = sum dn;  dgate = sum dy act(n)
 *   dx = (dn weight - M1 - z M2) / deviation, M1 and M2 the group's means of dn weight and dn weight z
 *   dshift = sum over tokens of dx */

/* A channel's sums over tokens: of dn, of dn z, of z, of dy act(n). */
enum { SUM_DN, SUM_DN_Z, SUM_Z, SUM_DY_ACT, SUMS };

/* One tile of one row: dn, and the sums. Inlined with `use_silu` known. */
static inline void group_sums_tile(int64_t size, bool use_silu, const float *restrict x,
                                   const float *restrict dy, const float *restrict centre,
                                   const float *restrict scale, const float *restrict gate,
                                   const float *restrict weight, const float *restrict bias,
                                   float *restrict sum_dn, float *restrict sum_dn_z, float *restrict sum_z,
                                   float *restrict sum_dy_act)
{
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
        float z = (x[i] - centre[i]) * scale[i];
        float n = multiply_add(z, weight[i], bias[i]);
        float sigmoid = use_silu ? vector_sigmoid(n) : 1;
        float slope = use_silu ? sigmoid * multiply_add(n, 1 - sigmoid, 1) : 1;
        float dn = dy[i] * gate[i] * slope;
        sum_dn[i] += dn;
        sum_dn_z[i] = multiply_add(dn, z, sum_dn_z[i]);
        sum_z[i] += z;
        sum_dy_act[i] = multiply_add(dy[i], n * sigmoid, sum_dy_act[i]);
    }
}

/* partial [B, chunks, SUMS, C] */
static void group_chunk_sums(const struct group_sizes *sizes, const struct tensor *x, const struct tensor *dy,
                             const float *weight, const float *bias, bool use_silu, float *coefficients,
                             float *partial)
{
    int64_t channels = sizes->channels;
    struct chunks chunks = sizes->chunks;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < sizes->samples * chunks.count; unit++) {
        int64_t sample = unit / chunks.count, chunk = unit % chunks.count, rows = chunk_size(chunks, chunk);
        int64_t first = (sample * sizes->tokens + chunk * chunks.size) * channels;
        struct affine affine = affine_of_sample(sizes, coefficients, sample);
        float *sum = partial + unit * SUMS * channels;
        float x_buffer[TILE], dy_buffer[TILE];
        memset(sum, 0, (size_t)(SUMS * channels) * sizeof *sum);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t c = 0; c < channels; c += TILE) {
                int64_t size = tile_size(c, channels), start = first + row * channels + c;
                const float *x_tile = tile_load(x, start, size, x_buffer);
                const float *dy_tile = tile_load(dy, start, size, dy_buffer);
                float *dn = sum + SUM_DN * channels + c, *dn_z = sum + SUM_DN_Z * channels + c;
                float *z = sum + SUM_Z * channels + c, *dy_act = sum + SUM_DY_ACT * channels + c;
                if (use_silu)
                    group_sums_tile(size, true, x_tile, dy_tile, affine.centre + c, affine.scale + c,
                                    affine.gate + c, weight + c, bias + c, dn, dn_z, z, dy_act);
                else
                    group_sums_tile(size, false, x_tile, dy_tile, affine.centre + c, affine.scale + c,
                                    affine.gate + c, weight + c, bias + c, dn, dn_z, z, dy_act);
            }
    }
}

/* totals [B, SUMS, C]: the chunks' sums added in order */
static void group_totals(const struct group_sizes *sizes, const float *partial, double *totals)
{
    int64_t entries = SUMS * sizes->channels, chunks = sizes->chunks.count;
#pragma omp parallel for schedule(static) if (sizes->samples * chunks * entries >= PARALLEL_MINIMUM)
    for (int64_t sample = 0; sample < sizes->samples; sample++) {
        double *total = totals + sample * entries;
        memset(total, 0, (size_t)entries * sizeof *total);
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const float *sum = partial + (sample * chunks + chunk) * entries;
#pragma omp simd
            for (int64_t i = 0; i < entries; i++) total[i] += sum[i];
        }
    }
}

/* means [B, groups, 2]: M1, M2; and dshift [B, C] from the totals */
static void group_means(const struct group_sizes *sizes, const double *totals, const float *weight,
                        const float *statistics, float *means, struct tensor *dshift)
{
    int64_t channels = sizes->channels, width = sizes->width;
    double count = (double)(sizes->tokens * width);
    for (int64_t index = 0; index < sizes->samples * sizes->groups; index++) {
        int64_t sample = index / sizes->groups, first = index % sizes->groups * width;
        const double *total = totals + sample * SUMS * channels;
        const double *dn = total + SUM_DN * channels, *dn_z = total + SUM_DN_Z * channels;
        const double *z = total + SUM_Z * channels;
        double mean = 0, mean_z = 0;
        for (int64_t c = first; c < first + width; c++) {
            mean += dn[c] * weight[c] / count;
            mean_z += dn_z[c] * weight[c] / count;
        }
        means[2 * index] = (float)mean;
        means[2 * index + 1] = (float)mean_z;
        if (!dshift) continue;
        float buffer[TILE];
        for (int64_t c = first; c < first + width; c += TILE) {
            int64_t size = tile_size(c, first + width);
            float *out = tile_target(dshift, sample * channels + c, buffer);
            for (int64_t i = 0; i < size; i++)
                out[i] =
                    (float)(statistics[2 * index + 1] *
                            (dn[c + i] * weight[c + i] - (double)sizes->tokens * mean - z[c + i] * mean_z));
            tile_store(dshift, sample * channels + c, size, out);
        }
    }
}

/* dgates, dweight, dbias (each may be NULL) += their parts of the totals */
static void group_parameter_gradients(const struct group_sizes *sizes, const double *totals, struct gate gate,
                                      struct tensor *dgates, struct tensor *dweight, struct tensor *dbias)
{
    int64_t channels = sizes->channels;
    if (dgates)
        for (int64_t index = 0; index < sizes->samples * gate.count; index++) {
            int64_t sample = index / gate.count, entry = index % gate.count, width = channels / gate.count;
            const double *dy_act = totals + (sample * SUMS + SUM_DY_ACT) * channels;
            double sum = 0;
            for (int64_t c = entry * width; c < (entry + 1) * width; c++) sum += dy_act[c];
            ((float *)dgates->data)[sample * dgates->dim[1] + gate.first + entry] += (float)sum;
        }
    for (int64_t c = 0; c < channels; c++) {
        double sum_dn = 0, sum_dn_z = 0;
        for (int64_t sample = 0; sample < sizes->samples; sample++) {
            sum_dn += totals[(sample * SUMS + SUM_DN) * channels + c];
            sum_dn_z += totals[(sample * SUMS + SUM_DN_Z) * channels + c];
        }
        if (dweight) ((float *)dweight->data)[c] += (float)sum_dn_z;
        if (dbias) ((float *)dbias->data)[c] += (float)sum_dn;
    }
}

/* One tile of dx; m1, m2 and the rest per channel. Inlined with `use_silu` known. */
static inline void group_dx_tile(int64_t size, bool use_silu, const float *restrict x,
                                 const float *restrict dy, const float *restrict centre,
                                 const float *restrict scale, const float *restrict gate,
                                 const float *restrict weight, const float *restrict bias,
                                 const float *restrict m1, const float *restrict m2, float *restrict dx)
{
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
        float z = (x[i] - centre[i]) * scale[i];
        float slope = use_silu ? silu_derivative(multiply_add(z, weight[i], bias[i])) : 1;
        float dn = dy[i] * gate[i] * slope;
        dx[i] = scale[i] * (dn * weight[i] - m1[i] - z * m2[i]);
    }
}

static void group_dx(const struct group_sizes *sizes, const struct tensor *x, const struct tensor *dy,
                     const float *weight, const float *bias, bool use_silu, float *coefficients,
                     const float *means, struct tensor *dx)
{
    int64_t channels = sizes->channels;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < sizes->samples * sizes->chunks.count; unit++) {
        int64_t sample = unit / sizes->chunks.count, chunk = unit % sizes->chunks.count;
        int64_t rows = chunk_size(sizes->chunks, chunk);
        int64_t first = (sample * sizes->tokens + chunk * sizes->chunks.size) * channels;
        struct affine affine = affine_of_sample(sizes, coefficients, sample);
        float m1[TILE], m2[TILE], x_buffer[TILE], dy_buffer[TILE], dx_buffer[TILE];
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            for (int64_t i = 0; i < size; i++) {
                const float *mean = means + 2 * (sample * sizes->groups + (c + i) / sizes->width);
                m1[i] = mean[0];
                m2[i] = mean[1];
            }
            for (int64_t row = 0; row < rows; row++) {
                int64_t start = first + row * channels + c;
                const float *x_tile = tile_load(x, start, size, x_buffer);
                const float *dy_tile = tile_load(dy, start, size, dy_buffer);
                float *out = tile_target(dx, start, dx_buffer);
                if (use_silu)
                    group_dx_tile(size, true, x_tile, dy_tile, affine.centre + c, affine.scale + c,
                                  affine.gate + c, weight + c, bias + c, m1, m2, out);
                else
                    group_dx_tile(size, false, x_tile, dy_tile, affine.centre + c, affine.scale + c,
                                  affine.gate + c, weight + c, bias + c, m1, m2, out);
                tile_store(dx, start, size, out);
            }
        }
    }
}

void group_norm_backward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                             const struct tensor *weight, const struct tensor *bias, int64_t groups,
                             bool silu, struct gate gate, const struct tensor *statistics,
                             const struct tensor *dy, struct tensor *dx, struct tensor *dshift,
                             struct tensor *dweight, struct tensor *dbias, struct tensor *dgates)
{
    struct group_sizes sizes = group_sizes(x, groups);
    size_t samples = (size_t)sizes.samples, channels = (size_t)sizes.channels;
    size_t units = samples * (size_t)sizes.chunks.count;
    struct arena *scratch = backend->scratch;
    struct arena_block *partial = arena_allocate(scratch, units * SUMS * channels * sizeof(float));
    struct arena_block *totals = arena_allocate(scratch, samples * SUMS * channels * sizeof(double));
    struct arena_block *coefficients = arena_allocate(scratch, samples * 3 * channels * sizeof(float));
    struct arena_block *means = arena_allocate(scratch, samples * (size_t)groups * 2 * sizeof(float));
    if (!cpu_backend(backend)->plan) {
        group_coefficients(&sizes, shift, NULL, gate, statistics->data, arena_address(coefficients));
        group_chunk_sums(&sizes, x, dy, weight->data, bias->data, silu, arena_address(coefficients),
                         arena_address(partial));
        group_totals(&sizes, arena_address(partial), arena_address(totals));
        group_means(&sizes, arena_address(totals), weight->data, statistics->data, arena_address(means),
                    dshift);
        group_parameter_gradients(&sizes, arena_address(totals), gate, dgates, dweight, dbias);
        if (dx)
            group_dx(&sizes, x, dy, weight->data, bias->data, silu, arena_address(coefficients),
                     arena_address(means), dx);
    }
    arena_free(scratch, means);
    arena_free(scratch, coefficients);
    arena_free(scratch, totals);
    arena_free(scratch, partial);
}

/* ---- LayerNorm */

/* Mean and variance of a row: the mean to fp32 first, then what is left of it and the squares. fp32 within a
 * tile, fp64 over the tiles. */
static void row_moments(const struct tensor *x, int64_t first, int64_t channels, double *mean,
                        double *variance)
{
    float buffer[TILE];
    double total = 0, rest = 0, squares = 0;
    for (int64_t c = 0; c < channels; c += TILE) {
        int64_t size = tile_size(c, channels);
        const float *value = tile_load(x, first + c, size, buffer);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; i++) sum += value[i];
        total += sum;
    }
    float centre = (float)(total / (double)channels);
    for (int64_t c = 0; c < channels; c += TILE) {
        int64_t size = tile_size(c, channels);
        const float *value = tile_load(x, first + c, size, buffer);
        float sum = 0, sum_squares = 0;
#pragma omp simd reduction(+ : sum, sum_squares)
        for (int64_t i = 0; i < size; i++) {
            float deviation = value[i] - centre;
            sum += deviation;
            sum_squares += deviation * deviation;
        }
        rest += sum;
        squares += sum_squares;
    }
    rest /= (double)channels;
    *mean = centre + rest;
    *variance = squares / (double)channels - rest * rest;
}

void layer_norm_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                            const struct tensor *bias, float epsilon, struct tensor *y,
                            struct tensor *statistics)
{
    (void)backend;
    int64_t rows = tensor_rows(x), channels = tensor_channels(x);
    const float *weights = weight->data, *biases = bias->data;
    float *moments = statistics->data;
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < rows; row++) {
        double row_mean, variance;
        row_moments(x, row * channels, channels, &row_mean, &variance);
        float mean = (float)row_mean, scale = (float)(1 / sqrt(variance + epsilon));
        moments[2 * row] = mean;
        moments[2 * row + 1] = scale;
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            float x_buffer[TILE], y_buffer[TILE];
            const float *in = tile_load(x, row * channels + c, size, x_buffer);
            float *out = tile_target(y, row * channels + c, y_buffer);
#pragma omp simd
            for (int64_t i = 0; i < size; i++)
                out[i] = multiply_add((in[i] - mean) * scale, weights[c + i], biases[c + i]);
            tile_store(y, row * channels + c, size, out);
        }
    }
}

/* dx of one row: with z = (x - mean) scale, scale (dy weight - mean(dy weight) - z mean(dy weight z)) */
static void layer_dx_row(const struct tensor *x, const float *weight, const float *moments,
                         const struct tensor *dy, int64_t row, struct tensor *dx)
{
    int64_t channels = tensor_channels(x);
    float mean = moments[2 * row], scale = moments[2 * row + 1];
    float x_buffer[TILE], dy_buffer[TILE], dx_buffer[TILE];
    double sum = 0, sum_z = 0;
    for (int64_t c = 0; c < channels; c += TILE) {
        int64_t size = tile_size(c, channels);
        const float *x_tile = tile_load(x, row * channels + c, size, x_buffer);
        const float *dy_tile = tile_load(dy, row * channels + c, size, dy_buffer);
        float part = 0, part_z = 0;
#pragma omp simd reduction(+ : part, part_z)
        for (int64_t i = 0; i < size; i++) {
            float dz = dy_tile[i] * weight[c + i];
            part += dz;
            part_z += dz * (x_tile[i] - mean) * scale;
        }
        sum += part;
        sum_z += part_z;
    }
    float m1 = (float)(sum / (double)channels), m2 = (float)(sum_z / (double)channels);
    for (int64_t c = 0; c < channels; c += TILE) {
        int64_t size = tile_size(c, channels);
        const float *x_tile = tile_load(x, row * channels + c, size, x_buffer);
        const float *dy_tile = tile_load(dy, row * channels + c, size, dy_buffer);
        float *out = tile_target(dx, row * channels + c, dx_buffer);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) {
            float z = (x_tile[i] - mean) * scale;
            out[i] = scale * (dy_tile[i] * weight[c + i] - m1 - z * m2);
        }
        tile_store(dx, row * channels + c, size, out);
    }
}

/* sums [2, C]: of dy z (dweight) and of dy (dbias), over `rows` rows */
static void layer_chunk_sums(const struct tensor *x, const float *moments, const struct tensor *dy,
                             int64_t first, int64_t rows, float *sums)
{
    int64_t channels = tensor_channels(x);
    float x_buffer[TILE], dy_buffer[TILE];
    memset(sums, 0, (size_t)(2 * channels) * sizeof *sums);
    for (int64_t row = first; row < first + rows; row++) {
        float mean = moments[2 * row], scale = moments[2 * row + 1];
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels);
            const float *x_tile = tile_load(x, row * channels + c, size, x_buffer);
            const float *dy_tile = tile_load(dy, row * channels + c, size, dy_buffer);
            float *sum_dy_z = sums + c, *sum_dy = sums + channels + c;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) {
                sum_dy_z[i] += dy_tile[i] * (x_tile[i] - mean) * scale;
                sum_dy[i] += dy_tile[i];
            }
        }
    }
}

void layer_norm_backward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                             const struct tensor *statistics, const struct tensor *dy, struct tensor *dx,
                             struct tensor *dweight, struct tensor *dbias)
{
    int64_t rows = tensor_rows(x), channels = tensor_channels(x);
    bool sums_wanted = dweight || dbias;
    struct chunks chunks = chunks_of(rows);
    struct arena_block *partial = arena_allocate(
        backend->scratch, sums_wanted ? (size_t)(chunks.count * 2 * channels) * sizeof(float) : 0);
    if (!cpu_backend(backend)->plan) {
        float *sums = arena_address(partial);
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
        for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
            int64_t first = chunk * chunks.size, size = chunk_size(chunks, chunk);
            if (sums_wanted)
                layer_chunk_sums(x, statistics->data, dy, first, size, sums + chunk * 2 * channels);
            for (int64_t row = first; dx && row < first + size; row++)
                layer_dx_row(x, weight->data, statistics->data, dy, row, dx);
        }
        if (sums_wanted)
#pragma omp parallel for schedule(static) if (chunks.count * channels >= PARALLEL_MINIMUM)
            for (int64_t c = 0; c < channels; c++) {
                double sum_dy_z = 0, sum_dy = 0;
                for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
                    sum_dy_z += sums[chunk * 2 * channels + c];
                    sum_dy += sums[(chunk * 2 + 1) * channels + c];
                }
                if (dweight) ((float *)dweight->data)[c] += (float)sum_dy_z;
                if (dbias) ((float *)dbias->data)[c] += (float)sum_dy;
            }
    }
    arena_free(backend->scratch, partial);
}
