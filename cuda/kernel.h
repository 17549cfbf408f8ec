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

/* 16 bytes that are loaded and stored at once: at addresses that are multiples of 16. */
template <class T> struct alignas(16) vector {
    static constexpr int SIZE = 16 / (int)sizeof(T);
    T value[SIZE];
};

/* Whether rows of `count` elements can be taken in vectors. Addresses of tensors are multiples of 64. */
template <class T> inline bool in_vectors(int64_t count)
{
    return count % vector<T>::SIZE == 0;
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
        return gates ? gates[sample * entries + first + channel * count / channels] : 1.f;
    }
};

inline device_gate device_gate_of(struct gate gate)
{
    return gate.gates ? device_gate{static_cast<const float *>(gate.gates->data), gate.gates->dim[1],
                                    gate.first, gate.count}
                      : device_gate{nullptr, 0, 0, 1};
}

/* Calls `work` with a value of the element type of `dtype`, fp32 or bf16:
 *     with_type(x->dtype, [&](auto zero) { using T = decltype(zero); LAUNCH((kernel<T>), ...); }); */
template <class Work> inline void with_type(enum dtype dtype, Work work)
{
    if (dtype == DTYPE_BF16)
        work(__nv_bfloat16());
    else
        work(float());
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
