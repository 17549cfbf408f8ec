/* What the kernels of this folder share. Values are loaded to and computed in fp32, whatever their dtype.
 * Results are the same in every run: no atomics, sums in a fixed order. */
#ifndef CUDA_KERNEL_H
#define CUDA_KERNEL_H

#include "device.h"

enum { WARP = 32, THREADS = 256 /* of a block, where nothing else asks for another number */ };

__device__ inline float to_float(float value)
{
    return value;
}

__device__ inline float to_float(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

/* Rounds to nearest even. */
template <class T> __device__ T from_float(float value);

template <> __device__ inline float from_float<float>(float value)
{
    return value;
}

template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value)
{
    return __float2bfloat16(value);
}

/* COUNT neighbouring values as they lie in memory, which are loaded and stored at once, or in steps of 16
 * bytes: at addresses that are multiples of their bytes, or of 16. COUNT is a power of two. */
template <class T, int COUNT> struct alignas(COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16) packed {
    static constexpr int SIZE = COUNT;
    T value[COUNT];
};

/* As many as make 16 bytes. */
template <class T> using vector = packed<T, 16 / (int)sizeof(T)>;

/* Whether rows of `count` elements can be taken in vectors. Addresses of tensors are multiples of 64. */
template <class T> inline bool in_vectors(int64_t count)
{
    return count % vector<T>::SIZE == 0;
}

/* COUNT neighbouring values in fp32. In memory they lie packed: where rows do not allow that, COUNT is 1. */
template <int COUNT> struct floats {
    float value[COUNT];
};

template <int COUNT, class T> __device__ inline floats<COUNT> load(const T *from)
{
    packed<T, COUNT> all = *reinterpret_cast<const packed<T, COUNT> *>(from);
    floats<COUNT> values;
    for (int i = 0; i < COUNT; i++) values.value[i] = to_float(all.value[i]);
    return values;
}

template <int COUNT, class T> __device__ inline void store(T *to, const floats<COUNT> &values)
{
    packed<T, COUNT> all;
    for (int i = 0; i < COUNT; i++) all.value[i] = from_float<T>(values.value[i]);
    *reinterpret_cast<packed<T, COUNT> *>(to) = all;
}

/* Shares out elements [0, count) among `threads` threads, of which this is `thread`: calls step<COUNT>(i) for
 * elements [i, i + COUNT), and step<1>(i) for each of the last ones that are fewer than COUNT. */
template <int COUNT, class Index, class Step>
__device__ inline void for_elements(Index count, Index thread, Index threads, Step step)
{
    Index whole = count / COUNT * COUNT;
    for (Index i = thread * COUNT; i < whole; i += threads * COUNT) step.template operator()<COUNT>(i);
    if constexpr (COUNT > 1)
        for (Index i = whole + thread; i < count; i += threads) step.template operator()<1>(i);
}

/* Division by a number that the host knows, as a product: the GPU has no instruction for division, and takes
 * about a hundred for one in 64 bits. */
struct divisor {
    int64_t number;
    uint32_t factor; /* 2^shift / number, rounded up */
    int shift;       /* 2^(shift - 31): the power of 2 from `number` on */

    /* factor exceeds 2^shift / number by less than 1, so n factor / 2^shift exceeds n / number by less than
     * n / 2^shift <= n / 2^31 / number: too little to reach the next whole number where n < 2^31. */
    __device__ int64_t quotient(int64_t n) const
    {
        if (n > INT32_MAX) return n / number;
        return (int64_t)((uint64_t)(uint32_t)n * factor >> shift);
    }
};

/* number in [1, 2^31) */
inline divisor divisor_of(int64_t number)
{
    int shift = 31;
    while ((int64_t)1 << (shift - 31) < number) shift++;
    return {number, (uint32_t)((((uint64_t)1 << shift) + (uint64_t)number - 1) / (uint64_t)number), shift};
}

/* Where element `index` of a matrix lies. */
struct place {
    int64_t row;
    int column;
};

__device__ inline place place_of(int64_t index, const divisor &columns)
{
    int64_t row = columns.quotient(index);
    return {row, (int)(index - row * columns.number)};
}

/* The samples' elements are cut into chunks, of which a block takes one at a time: where a sum lies in one
 * does not depend on the number of samples. */
static constexpr int64_t CHUNK = 4096; /* elements */

struct chunk {
    int64_t index;  /* among those of all samples, a sample's one after the other */
    int64_t sample; /* or array */
    int64_t first;  /* element, counted from the sample's first */
    int count;
};

inline __host__ __device__ int64_t chunks_of(int64_t elements)
{
    return divide_up(elements, CHUNK);
}

/* Chunk `index` of a sample, of which `inside` are before it in this sample. */
__device__ inline chunk chunk_at(int64_t index, int64_t sample, int64_t inside, int64_t elements)
{
    int64_t first = inside * CHUNK;
    return {index, sample, first, (int)smaller(elements - first, CHUNK)};
}

/* Calls work(chunk) for this block's chunks of `samples` of `elements` each. */
template <class Work> __device__ inline void for_chunks(int64_t samples, int64_t elements, Work work)
{
    int64_t chunks = chunks_of(elements);
    for (int64_t i = blockIdx.x; i < samples * chunks; i += gridDim.x)
        work(chunk_at(i, i / chunks, i % chunks, elements));
}

/* The place of this thread in the grid, and the number of threads of the grid. */
__device__ inline int64_t grid_thread(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ inline int64_t grid_threads(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* The sum over a warp, in each of its threads; all 32 threads must call it. */
template <class T> __device__ inline T warp_sum(T value)
{
    for (int lane = WARP / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffff, value, lane);
    return value;
}

/* The sum over a block, in each of its threads, which all must call it; blockDim.x a multiple of 32, the
 * other dimensions 1. `partial` [32] is shared memory that nothing else uses meanwhile. */
template <class T> __device__ inline T block_sum(T value, T *partial)
{
    value = warp_sum(value);
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    __syncthreads(); // `partial` may be of a sum before this one
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : T(0));
}

/* The gate of a sample's channel, 1 where there is none; `gates` [B, entries] (struct gate). */
struct device_gate {
    const float *gates; /* or nullptr */
    int64_t entries;    /* of a row */
    int64_t first, count;

    __device__ float of_channel(int64_t sample, int64_t channel, int64_t channels) const
    {
        if (!gates) return 1;
        return gates[sample * entries + first + (uint32_t)channel / (uint32_t)(channels / count)];
    }
};

inline device_gate device_gate_of(struct gate gate)
{
    return gate.gates ? device_gate{static_cast<const float *>(gate.gates->data), gate.gates->dim[1],
                                    gate.first, gate.count}
                      : device_gate{nullptr, 0, 0, 1};
}

/* dgates [B, E]: the gate's entries += the sums of values [B, rows, channels], an entry's of its channels, in
 * a fixed order (gate_sums.cu). Samples lie `sample_stride` values apart; float or double; rows x channels /
 * count below 2^31. */
template <class Value>
void add_gate_gradient(struct cuda_backend *cuda, const Value *values, int64_t sample_stride, int64_t rows,
                       int64_t channels, struct gate gate, struct tensor *dgates);

/* Calls `work` with a value of the element type of `dtype`, fp32 or bf16:
 *     with_type(x->dtype, [&](auto zero) { using T = decltype(zero); LAUNCH((kernel<T>), ...); }); */
template <class Work> inline void with_type(enum dtype dtype, Work work)
{
    if (dtype == DTYPE_BF16)
        work(__nv_bfloat16());
    else
        work(float());
}

/* As with_type, for rows of `count` elements, and with how many of them to take at once, vectors or one:
 *     with_rows(x->dtype, count, [&]<class T, int COUNT>() { LAUNCH((kernel<T, COUNT>), ...); }); */
template <class Work> inline void with_rows(enum dtype dtype, int64_t count, Work work)
{
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        if (in_vectors<T>(count))
            work.template operator()<T, vector<T>::SIZE>();
        else
            work.template operator()<T, 1>();
    });
}

template <class T> inline const T *values_of(const struct tensor *tensor)
{
    return tensor ? static_cast<const T *>(tensor->data) : nullptr;
}

template <class T> inline T *values_of(struct tensor *tensor)
{
    return tensor ? static_cast<T *>(tensor->data) : nullptr;
}

#endif
