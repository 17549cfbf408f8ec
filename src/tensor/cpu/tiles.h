/* How the CPU kernels go through tensors: a tile of consecutive elements at a time, as floats. An fp32 tile
 * is used in place, a bf16 one is converted into a buffer on the stack, so each kernel is written once.
 * Inside src/tensor/cpu/ only.
 *
 * Loops over a tile are marked `omp simd`: each element depends on the same elements of the inputs alone,
 * also where the output is one of them. */
#ifndef TENSOR_CPU_TILES_H
#define TENSOR_CPU_TILES_H

#include "tensor/backend.h"

#include <string.h>

enum {
    TILE = 512,               /* elements */
    PARALLEL_MINIMUM = 16384, /* below so many elements starting threads costs more than it saves */
};

/* Elements of the tile that begins at `first` of `count`. */
static inline int64_t tile_size(int64_t first, int64_t count)
{
    return count - first < TILE ? count - first : TILE;
}

/* Elements [first, first + count) as floats. */
static inline const float *tile_load(const struct tensor *tensor, int64_t first, int64_t count,
                                     float buffer[TILE])
{
    if (tensor->dtype == DTYPE_F32) return (const float *)tensor->data + first;
    const uint16_t *values = (const uint16_t *)tensor->data + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)values[i] << 16;
        memcpy(&buffer[i], &bits, sizeof bits);
    }
    return buffer;
}

/* Where to write the tile that begins at `first`; tile_store then puts it into the tensor. */
static inline float *tile_target(const struct tensor *tensor, int64_t first, float buffer[TILE])
{
    return tensor->dtype == DTYPE_F32 ? (float *)tensor->data + first : buffer;
}

static inline void tile_store(const struct tensor *tensor, int64_t first, int64_t count, const float *tile)
{
    if (tensor->dtype == DTYPE_F32) return;
    uint16_t *values = (uint16_t *)tensor->data + first;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits; // rounded as by bf16_from_float
        memcpy(&bits, &tile[i], sizeof bits);
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        values[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
    }
}

/* One element. */
static inline float element(const struct tensor *tensor, int64_t index)
{
    return tensor->dtype == DTYPE_F32 ? ((const float *)tensor->data)[index]
                                      : float_from_bf16(((const uint16_t *)tensor->data)[index]);
}

/* What a gate multiplies a channel of a sample by: 1 without a gate. */
static inline float gate_of_channel(struct gate gate, int64_t sample, int64_t channel, int64_t channels)
{
    if (!gate.gates) return 1;
    int64_t entry = gate.first + channel * gate.count / channels;
    return ((const float *)gate.gates->data)[sample * gate.gates->dim[1] + entry];
}

/* Sums over the tokens of a sample are taken chunk by chunk, in fp32 within a chunk and in fp64, in order,
 * over the chunks. The chunks are also the unit of parallel work. They are a function of the shape alone, so
 * that a sum does not depend on the number of threads or on the other samples. */
struct chunks {
    int64_t rows;  /* tokens */
    int64_t size;  /* tokens of a chunk, the last one may have fewer */
    int64_t count; /* of a sample */
};

static inline struct chunks chunks_of(int64_t rows)
{
    int64_t size = rows <= 256 ? 16 : 64;
    return (struct chunks){rows, size, (rows + size - 1) / size};
}

/* Tokens of one chunk. */
static inline int64_t chunk_size(struct chunks chunks, int64_t chunk)
{
    int64_t rest = chunks.rows - chunk * chunks.size;
    return rest < chunks.size ? rest : chunks.size;
}

#endif
