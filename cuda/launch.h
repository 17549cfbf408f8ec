/* How kernels are started and get shared memory: the one place where nvcc and the emulator (test/emulator/)
 * differ. Kernels are otherwise plain CUDA C++, which the emulator compiles as they stand.
 *
 * LAUNCH(kernel, grid, block, stream, arguments...): template arguments in parentheses,
 *     LAUNCH((add<float>), blocks, THREADS, stream, a, b, y, count);
 * and looks for launch errors. SHARED(type, name, count) declares `name` as a pointer to (an array of)
 * `count` elements of the block's shared memory; `count` is a constant; contents undefined. */
#ifndef CUDA_LAUNCH_H
#define CUDA_LAUNCH_H

#include <cuda_runtime.h>

#ifdef __CUDACC__

#define LAUNCH(kernel, grid, block, stream, ...)                                                             \
    do {                                                                                                     \
        kernel<<<grid, block, 0, stream>>>(__VA_ARGS__);                                                     \
        CUDA_CHECK(cudaGetLastError());                                                                      \
    } while (0)

#define SHARED(type, name, count) __shared__ type name[count]

/* Tells a checker of a piece of a larger device allocation, the step arena's blocks, which no CUDA call
 * knows: after the work on `stream` so far, what the piece holds is undefined, or nothing may use it any more
 * (of many blocks at once too). DEVICE_BLOCK_GUARD: bytes that nothing uses behind each. Nothing is done
 * here. */
static inline void device_block_taken(cudaStream_t, const void *, size_t) {}
static inline void device_block_given(cudaStream_t, const void *, size_t) {}
enum { DEVICE_BLOCK_GUARD = 0 };

#else

#include "emulator_launch.h"

/* Arguments are taken at the launch, as by <<<>>>; the kernel runs later. */
#define LAUNCH(kernel, grid, block, stream, ...)                                                             \
    do {                                                                                                     \
        emulator_launch(                                                                                     \
            #kernel, grid, block, stream, [](auto... arguments) { kernel(arguments...); }, __VA_ARGS__);     \
        CUDA_CHECK(cudaGetLastError());                                                                      \
    } while (0)

#define SHARED(type, name, count)                                                                            \
    type *name = static_cast<type *>(emulator_shared(#name, sizeof(type) * (count), alignof(type)))

#endif
#endif
