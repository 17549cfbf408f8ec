/* The squared error of each sample. */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/tiles.h"

/* partial [B, tiles]: sums of (a - b)^2 over a tile */
static void squared_error_tiles(const struct tensor *a, const struct tensor *b, int64_t tiles,
                                double *partial)
{
    int64_t samples = a->dim[0], elements = tensor_count(a) / samples;
#pragma omp parallel for schedule(static) if (samples * elements >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < samples * tiles; unit++) {
        int64_t sample = unit / tiles, offset = unit % tiles * TILE, first = sample * elements + offset;
        int64_t size = tile_size(offset, elements);
        float a_buffer[TILE], b_buffer[TILE], sum = 0;
        const float *a_tile = tile_load(a, first, size, a_buffer);
        const float *b_tile = tile_load(b, first, size, b_buffer);
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; i++) sum += (a_tile[i] - b_tile[i]) * (a_tile[i] - b_tile[i]);
        partial[unit] = sum;
    }
}

void squared_error_forward_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b,
                               struct tensor *loss)
{
    int64_t samples = a->dim[0], elements = tensor_count(a) / samples, tiles = (elements + TILE - 1) / TILE;
    struct arena_block *block = arena_allocate(backend->scratch, (size_t)(samples * tiles) * sizeof(double));
    if (!cpu_backend(backend)->plan) {
        double *partial = arena_address(block);
        squared_error_tiles(a, b, tiles, partial);
        for (int64_t sample = 0; sample < samples; sample++) {
            double sum = 0;
            for (int64_t tile = 0; tile < tiles; tile++) sum += partial[sample * tiles + tile];
            ((float *)loss->data)[sample] = (float)(sum / (double)elements);
        }
    }
    arena_free(backend->scratch, block);
}

void squared_error_backward_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                const struct tensor *seed, struct tensor *da)
{
    (void)backend;
    int64_t samples = a->dim[0], elements = tensor_count(a) / samples, tiles = (elements + TILE - 1) / TILE;
#pragma omp parallel for schedule(static) if (samples * elements >= PARALLEL_MINIMUM)
    for (int64_t unit = 0; unit < samples * tiles; unit++) {
        int64_t sample = unit / tiles, offset = unit % tiles * TILE, first = sample * elements + offset;
        int64_t size = tile_size(offset, elements);
        float factor = 2 * ((const float *)seed->data)[sample] / (float)elements;
        float a_buffer[TILE], b_buffer[TILE], da_buffer[TILE];
        const float *a_tile = tile_load(a, first, size, a_buffer);
        const float *b_tile = tile_load(b, first, size, b_buffer);
        float *out = tile_target(da, first, da_buffer);
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[i] = factor * (a_tile[i] - b_tile[i]);
        tile_store(da, first, size, out);
    }
}
