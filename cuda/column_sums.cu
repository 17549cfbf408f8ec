/* Column sums of a matrix, in two stages (reduce.h). */
#include "reduce.h"

enum {
    MOST_CHUNKS = 512,
    SUMMED_COLUMNS = WARP, /* of a block in the second stage; the block's other dimension are lanes */
    SUMMED_LANES = THREADS / SUMMED_COLUMNS,
};

int64_t summed_chunk_rows(int64_t rows)
{
    return divide_up(divide_up(rows, MOST_CHUNKS), CHUNK_ROWS) * CHUNK_ROWS;
}

/* partial [chunks, columns] of x [rows, columns] */
template <class T>
__global__ void column_chunk_sums(const T *x, int64_t rows, int64_t columns, int64_t chunk_rows, bool aligned,
                                  float *partial)
{
    constexpr int N = vector<T>::SIZE;
    SHARED(float, values, TILE_VALUES<N>);
    tile_place place = place_in_tile<N>(columns);
    floats<N> sum = {};
    for_lane_rows(rows, chunk_rows, place.lane, [&](int64_t row, bool there) {
        floats<N> value = load_some<N>(x + row * columns + place.column, there ? place.count : 0, aligned);
        for (int i = 0; i < N; i++) sum.value[i] += value.value[i];
    });
    int64_t tile = (int64_t)blockIdx.x * TILE_COLUMNS<N>;
    sum_lanes(sum, values, partial + blockIdx.y * columns + tile, columns - tile);
}

__global__ void add_partial_sums(const float *partial, int64_t chunks, int64_t stride, int64_t columns,
                                 float *sums)
{
    SHARED(double, totals, THREADS);
    int lane = (int)threadIdx.x / SUMMED_COLUMNS, of_block = (int)threadIdx.x % SUMMED_COLUMNS;
    int64_t column = (int64_t)blockIdx.x * SUMMED_COLUMNS + of_block;
    double sum = 0;
    if (column < columns)
        for (int64_t chunk = lane; chunk < chunks; chunk += SUMMED_LANES)
            sum += partial[chunk * stride + column];
    totals[threadIdx.x] = sum;
    __syncthreads();
    if (lane > 0 || column >= columns) return;
    for (int other = 1; other < SUMMED_LANES; other++) sum += totals[other * SUMMED_COLUMNS + of_block];
    sums[column] += (float)sum;
}

void add_chunk_sums(struct cuda_backend *cuda, const float *partial, int64_t chunks, int64_t stride,
                    int64_t columns, float *sums)
{
    LAUNCH(add_partial_sums, (unsigned)divide_up(columns, SUMMED_COLUMNS), THREADS, cuda->compute, partial,
           chunks, stride, columns, sums);
}

void add_column_sums(struct cuda_backend *cuda, const void *x, enum dtype dtype, int64_t rows,
                     int64_t columns, float *sums)
{
    int64_t chunk_rows = summed_chunk_rows(rows), chunks = divide_up(rows, chunk_rows);
    scratch partial(&cuda->base, (size_t)(chunks * columns) * sizeof(float));
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        dim3 grid(tiles_of<vector<T>::SIZE>(columns), (unsigned)chunks);
        LAUNCH((column_chunk_sums<T>), grid, THREADS, cuda->compute, static_cast<const T *>(x), rows, columns,
               chunk_rows, in_vectors<T>(columns), partial.of<float>());
    });
    add_chunk_sums(cuda, partial.of<float>(), chunks, columns, columns, sums);
}
