/* How threads share out matrices whose rows or columns are summed. Both ways depend on the matrix's shape
 * alone, never on the device or on what else is computed, so that a sum has the same bits every time.
 *
 * - Rows by teams: a team of threads has a row, a warp if it is short, else a block of THREADS.
 * - Columns by tiles: a block of THREADS has a tile of columns in a chunk of rows. A thread has a piece of
 *   neighbouring columns (16 bytes of them), TILE_PIECES neighbours have 128 bytes of a row, and TILE_LANES
 *   rows are done at once. The sums of the chunks are then added up by a second kernel. */
#ifndef CUDA_REDUCE_H
#define CUDA_REDUCE_H

#include "kernel.h"

enum {
    SHORT_ROW = 2048, /* elements */
    TILE_PIECES = 8,
    TILE_LANES = THREADS / TILE_PIECES,
    LANE_ROWS = 4, /* that a thread loads before it needs the first */
    CHUNK_ROWS = TILE_LANES * LANE_ROWS,
};

/* ---- pieces of a row */

/* The first COUNT of `count` elements, or as many as there are, and zeros. `aligned`: where there are COUNT,
 * they lie as `load` wants them. */
template <int COUNT, class T>
__device__ inline floats<COUNT> load_some(const T *from, int64_t count, bool aligned)
{
    if (aligned && count >= COUNT) return load<COUNT>(from);
    floats<COUNT> result;
    for (int i = 0; i < COUNT; i++) result.value[i] = i < count ? to_float(from[i]) : 0.f;
    return result;
}

/* The same the other way round. */
template <int COUNT, class T>
__device__ inline void store_some(T *to, const floats<COUNT> &values, int64_t count, bool aligned)
{
    if (aligned && count >= COUNT) {
        store(to, values);
        return;
    }
    for (int i = 0; i < COUNT; i++)
        if (i < count) to[i] = from_float<T>(values.value[i]);
}

/* ---- rows by teams: kernels with a parameter TEAM, blocks of THREADS */

/* Calls `work` with the team for rows of `columns` elements:
 *     with_team(columns, [&]<int TEAM>() { LAUNCH((kernel<TEAM>), team_blocks<TEAM>(rows), THREADS, ...); });
 */
template <class Work> inline void with_team(int64_t columns, Work work)
{
    if (columns <= SHORT_ROW)
        work.template operator()<WARP>();
    else
        work.template operator()<THREADS>();
}

template <int TEAM> inline int team_blocks(int64_t rows)
{
    return (int)divide_up(rows, THREADS / TEAM);
}

/* This thread's row, which may be behind the last one: then the whole team returns. */
template <int TEAM> __device__ inline int64_t team_row(void)
{
    return (int64_t)blockIdx.x * (THREADS / TEAM) + threadIdx.x / TEAM;
}

template <int TEAM> __device__ inline int team_thread(void)
{
    return (int)threadIdx.x % TEAM;
}

/* The sum over a team, in each of its threads; `partial` [32] is shared memory as of block_sum. */
template <int TEAM, class T> __device__ inline T team_sum(T value, T *partial)
{
    if constexpr (TEAM == WARP)
        return warp_sum(value);
    else
        return block_sum(value, partial);
}

__device__ inline float warp_largest(float value)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, lane));
    return value;
}

/* The largest value of a team, in each of its threads. */
template <int TEAM> __device__ inline float team_largest(float value, float *partial)
{
    value = warp_largest(value);
    if constexpr (TEAM == WARP) return value;
    __syncthreads(); // `partial` may be of a sum before this one
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    return warp_largest(partial[threadIdx.x % (TEAM / WARP)]);
}

/* ---- columns by tiles: grids of [tiles_of(columns), chunks] and more */

/* This thread's place: the lane of its rows, the piece's first column, and how many there are from it on, 0
 * or fewer behind the last column. */
struct tile_place {
    int lane;
    int64_t column, count;
};

template <int N> __device__ inline tile_place place_in_tile(int64_t columns)
{
    int64_t column = ((int64_t)blockIdx.x * TILE_PIECES + threadIdx.x % TILE_PIECES) * N;
    return {(int)threadIdx.x / TILE_PIECES, column, columns - column};
}

template <int N> inline unsigned tiles_of(int64_t columns)
{
    return (unsigned)divide_up(columns, TILE_PIECES * N);
}

/* Elements of a tile of shared memory, a value for each lane and column, and of a tile's columns. */
template <int N> constexpr int TILE_COLUMNS = TILE_PIECES *N;
template <int N> constexpr int TILE_VALUES = TILE_LANES *TILE_COLUMNS<N>;

/* The lanes' values added up: totals [TILE_COLUMNS], of which the first `count` are written, by the block's
 * first threads. `values` [TILE_VALUES] is shared memory that nothing else uses meanwhile. */
template <int N>
__device__ inline void sum_lanes(const floats<N> &value, float *values, float *totals, int64_t count)
{
    __syncthreads(); // `values` may be of a sum before this one
    for (int i = 0; i < N; i++) values[threadIdx.x * N + i] = value.value[i];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < TILE_COLUMNS<N> && i < count; i += THREADS) {
        float sum = 0;
        for (int lane = 0; lane < TILE_LANES; lane++) sum += values[lane * TILE_COLUMNS<N> + i];
        totals[i] = sum;
    }
}

/* Calls add(row, there) for the rows of this thread's lane in chunk blockIdx.y, LANE_ROWS at a time: so that
 * they are loaded at once, also those behind the chunk's or the matrix's end, which are not `there`. */
template <class Add> __device__ inline void for_lane_rows(int64_t rows, int64_t chunk_rows, int lane, Add add)
{
    int64_t first = blockIdx.y * chunk_rows, end = smaller(first + chunk_rows, rows);
    for (int64_t row = first + lane; row < end; row += CHUNK_ROWS)
        for (int i = 0; i < LANE_ROWS; i++) add(row + i * TILE_LANES, row + i * TILE_LANES < end);
}

/* Rows of a chunk where all rows of a matrix are summed: a multiple of CHUNK_ROWS, and not too many chunks
 * to add up. */
int64_t summed_chunk_rows(int64_t rows);

/* sums [columns] += the sums over the chunks of partial, whose chunks lie `stride` floats apart. */
void add_chunk_sums(struct cuda_backend *cuda, const float *partial, int64_t chunks, int64_t stride,
                    int64_t columns, float *sums);

#endif
