/* Kernels and calls that are broken, each in one way. */
#include "cases.h"

#include <cuda.h>

void many_times(struct bench *bench);

/* Runs `body` with an open bench and waits for what it asked for. */
template <class Body> static void with_bench(Body body)
{
    struct bench bench = bench_open();
    body(bench);
    bench_close(&bench);
}

#define CASE(name, message, ...)                                                                             \
    {                                                                                                        \
        name, [] { with_bench([](struct bench &bench) { __VA_ARGS__ }); }, message, false                    \
    }

/* ---- races */

__global__ static void no_barrier(const float *x, float *y)
{
    SHARED(float, tile, 256);
    int i = (int)threadIdx.x;
    tile[i] = 0;
    __syncthreads();
    tile[i] = x[i];
    y[i] = tile[255 - i];
}

/* The barrier before is there, the one behind the last use is not. */
__global__ static void no_second_barrier(const float *x, float *y)
{
    SHARED(float, tile, 256);
    int i = (int)threadIdx.x;
    tile[i] = x[i];
    __syncthreads();
    float value = tile[255 - i];
    tile[i] = value;
    y[i] = value;
}

__global__ static void all_write_one(float *y)
{
    SHARED(float, sum, 1);
    sum[0] = (float)threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = sum[0];
}

__global__ static void blocks_write_one(float *y)
{
    if (threadIdx.x == 0) y[0] = (float)blockIdx.x;
}

__global__ static void blocks_read_and_write(float *x)
{
    if (threadIdx.x == 0) x[blockIdx.x] = x[(blockIdx.x + 1) % gridDim.x];
}

/* Thread by thread in place, but of neighbours. */
__global__ static void shift_in_place(float *x)
{
    x[threadIdx.x] = x[threadIdx.x + 1];
}

/* All read one place and one of them changes it; the others are lanes of its warp, other warps, other blocks.
 */
__global__ static void read_by_others(float *x, float *y, int step)
{
    if (threadIdx.x % step != 0) return;
    float value = x[0];
    if (grid_thread() == 0) x[0] = value + 1;
    y[grid_thread()] = value;
}

/* Shuffles order no memory. */
__global__ static void shuffle_for_a_barrier(const float *x, float *y)
{
    SHARED(float, tile, 32);
    int lane = (int)threadIdx.x;
    tile[lane] = 0;
    __syncthreads();
    tile[lane] = x[lane];
    float sum = warp_sum(x[lane]);
    y[lane] = sum + tile[31 - lane];
}

/* __syncwarp orders one warp. */
__global__ static void syncwarp_for_a_barrier(const float *x, float *y)
{
    SHARED(float, tile, 64);
    int i = (int)threadIdx.x;
    tile[i] = 0;
    __syncthreads();
    tile[i] = x[i];
    __syncwarp();
    y[i] = tile[63 - i];
}

/* As one warp alone of two. */
__global__ static void synchronised_alone(float *y)
{
    SHARED(float, tile, 1);
    if (threadIdx.x == 0) tile[0] = 0;
    __syncthreads();
    if (threadIdx.x == 0) tile[0] = 1;
    if (threadIdx.x >= 32) {
        __syncwarp();
        if (threadIdx.x == 32) y[0] = tile[0];
    }
}

/* ---- bounds and contents */

__global__ static void copy(const float *x, float *y, int count)
{
    for (int64_t i = grid_thread(); i < count; i += grid_threads()) y[i] = x[i];
}

__global__ static void copy_vectors(const float *x, float *y)
{
    reinterpret_cast<vector<float> *>(y)[threadIdx.x] =
        reinterpret_cast<const vector<float> *>(x)[threadIdx.x];
}

__global__ static void copy_doubles(const double *x, double *y)
{
    y[threadIdx.x] = x[threadIdx.x];
}

__global__ static void shared_bounds(const float *x, float *y)
{
    SHARED(float, tile, 100);
    SHARED(float, other, 100);
    int i = (int)threadIdx.x;
    tile[i + 1] = x[i];
    other[i] = x[i];
    __syncthreads();
    y[i] = tile[i] + other[i];
}

__global__ static void shared_unwritten(float *y)
{
    SHARED(float, tile, 100);
    if (threadIdx.x > 0) tile[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

__global__ static void too_much_shared(float *y)
{
    SHARED(float, first, 8192);
    SHARED(float, second, 8192);
    first[threadIdx.x] = second[threadIdx.x] = 0;
    y[threadIdx.x] = first[threadIdx.x];
}

__global__ static void add_atomically(unsigned *y)
{
    __atomic_fetch_add(y, 1u, __ATOMIC_RELAXED);
}

/* ---- threads that do not meet */

__global__ static void some_end(const float *x, float *y)
{
    SHARED(float, tile, 256);
    int i = (int)threadIdx.x;
    if (i >= 200) return;
    tile[i] = x[i];
    __syncthreads();
    y[i] = tile[199 - i];
}

__global__ static void one_ends(float *y)
{
    y[threadIdx.x] = 0;
    if (threadIdx.x == 1) return;
    __syncthreads();
}

__global__ static void two_barriers(float *y)
{
    if (threadIdx.x < 32) {
        y[threadIdx.x] = 1;
        __syncthreads();
    } else {
        y[threadIdx.x] = 2;
        __syncthreads();
    }
}

__global__ static void lanes_end(const float *x, float *y)
{
    if (threadIdx.x >= 20) return;
    y[threadIdx.x] = warp_sum(x[threadIdx.x]);
}

__global__ static void lanes_wait_elsewhere(const float *x, float *y)
{
    float value = x[threadIdx.x];
    if (threadIdx.x != 7) value = __shfl_xor_sync(0xffffffff, value, 1);
    __syncthreads();
    y[threadIdx.x] = value;
}

__global__ static void source_outside_mask(const float *x, float *y)
{
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_xor_sync(0xffff, x[threadIdx.x], 16);
}

__global__ static void warp_of_24(const float *x, float *y)
{
    y[threadIdx.x] = warp_sum(x[threadIdx.x]);
}

/* ---- memory of others */

static float host_value = 1;

__global__ static void write_host(float *there)
{
    if (threadIdx.x == 3) *there = 2;
}

__global__ static void read_global(float *y)
{
    y[threadIdx.x] = host_value;
}

__device__ __attribute__((noinline)) static float deep(const float *x, int depth)
{
    volatile float frame[4000]; // more than a page
    for (int i = 0; i < 256; i++) frame[i] = x[i];
    return depth == 0 ? frame[3] : deep(x, depth - 1) + frame[depth % 256];
}

__global__ static void deep_calls(const float *x, float *y, int depth)
{
    y[threadIdx.x] = deep(x, depth);
}

static void on_two_streams(bool copy_waits)
{
    struct bench bench = bench_open();
    cudaStream_t other;
    cudaEvent_t computed;
    CUDA_CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&computed, cudaEventDisableTiming));
    LAUNCH(copy, 2, 256, bench.stream, bench.x, bench.y, COUNT);
    CUDA_CHECK(cudaEventRecord(computed, bench.stream));
    if (copy_waits) CUDA_CHECK(cudaStreamWaitEvent(other, computed, 0));
    CUDA_CHECK(cudaMemcpyAsync(bench.host, bench.y, COUNT * sizeof(float), cudaMemcpyDeviceToHost, other));
    CUDA_CHECK(cudaStreamSynchronize(other));
    CHECK(bench.host[COUNT - 1] == COUNT - 1, "%g", (double)bench.host[COUNT - 1]);
    bench_close(&bench);
}

static void missing_stream_wait(void)
{
    on_two_streams(false);
}

static void changed_too_early(void)
{
    struct bench bench = bench_open();
    bench.host[0] = 7; // the copy to x has not been waited for
    CUDA_CHECK(cudaMemcpyAsync(bench.host, bench.x, sizeof(float), cudaMemcpyDeviceToHost, bench.stream));
    CUDA_CHECK(cudaStreamSynchronize(bench.stream));
    CHECK(bench.host[0] == 0, "the copy took what was written after it: %g", (double)bench.host[0]);
    bench_close(&bench);
}

/* An arena of one piece, with a block of COUNT floats at its start, and one behind it. */
static float *arena_open(struct bench *bench)
{
    const size_t bytes = 2 << 20;
    CUdeviceptr base;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp properties = {};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CUmemAccessDesc access = {properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    cuMemAddressReserve(&base, bytes, 0, 0, 0);
    cuMemCreate(&handle, bytes, &properties, 0);
    cuMemMap(base, bytes, 0, handle, 0);
    cuMemSetAccess(base, bytes, &access, 1);
    float *block = reinterpret_cast<float *>(base);
    device_block_taken(bench->stream, block, COUNT * sizeof(float));
    device_block_taken(bench->stream, reinterpret_cast<char *>(block + COUNT) + DEVICE_BLOCK_GUARD, 4000);
    return block;
}

const struct emulator_case broken_cases[] = {
    CASE("missing barrier", "race", LAUNCH(no_barrier, 1, 256, bench.stream, bench.x, bench.y);),
    CASE("missing second barrier", "race",
         LAUNCH(no_second_barrier, 1, 256, bench.stream, bench.x, bench.y);),
    CASE("all threads write one place", "race", LAUNCH(all_write_one, 1, 64, bench.stream, bench.y);),
    CASE("all blocks write one place", "race", LAUNCH(blocks_write_one, 4, 64, bench.stream, bench.y);),
    CASE("blocks read and write", "race", LAUNCH(blocks_read_and_write, 4, 64, bench.stream, bench.x);),
    CASE("shift in place", "race", LAUNCH(shift_in_place, 1, 64, bench.stream, bench.x);),
    CASE("read by another lane", "race", LAUNCH(read_by_others, 1, 2, bench.stream, bench.x, bench.y, 1);),
    CASE("read by another warp", "race", LAUNCH(read_by_others, 1, 64, bench.stream, bench.x, bench.y, 32);),
    CASE("read by another block", "race", LAUNCH(read_by_others, 2, 1, bench.stream, bench.x, bench.y, 1);),
    CASE("shuffle for a barrier", "race",
         LAUNCH(shuffle_for_a_barrier, 1, 32, bench.stream, bench.x, bench.y);),
    CASE("warp synchronisation for a barrier", "race",
         LAUNCH(syncwarp_for_a_barrier, 1, 64, bench.stream, bench.x, bench.y);),
    CASE("warp synchronisation of the other warp", "race",
         LAUNCH(synchronised_alone, 1, 64, bench.stream, bench.y);),
    CASE("race after long runs", "race", many_times(&bench);
         LAUNCH(blocks_write_one, 4, 64, bench.stream, bench.y);),

    CASE("read behind the end", "out of bounds: a kernel reads",
         LAUNCH(copy, 1, 64, bench.stream, bench.x + 1, bench.y, COUNT);),
    CASE("write behind the end", "out of bounds: a kernel writes",
         LAUNCH(copy, 1, 64, bench.stream, bench.x, bench.y + 1, COUNT);),
    CASE("write before the start", "out of bounds: a kernel writes",
         LAUNCH(copy, 1, 64, bench.stream, bench.x, bench.y - 1, 1);),
    CASE("write behind an arena's block", "out of bounds: a kernel writes",
         LAUNCH(copy, 1, 64, bench.stream, bench.x, arena_open(&bench) + 1, COUNT);),
    CASE("copy behind an arena's block", "out of bounds",
         CUDA_CHECK(cudaMemsetAsync(arena_open(&bench), 0, COUNT * sizeof(float) + 100, bench.stream));),
    CASE("shared memory behind its end", "shared memory `tile`",
         LAUNCH(shared_bounds, 1, 100, bench.stream, bench.x, bench.y);),
    CASE("more shared memory than there is", "bytes of shared memory",
         LAUNCH(too_much_shared, 1, 100, bench.stream, bench.y);),
    CASE("misaligned vectors", "misaligned",
         LAUNCH(copy_doubles, 1, 32, bench.stream, reinterpret_cast<double *>(bench.x + 1),
                reinterpret_cast<double *>(bench.y));),
    CASE("vectors behind the end", "out of bounds",
         LAUNCH(copy_vectors, 1, 256, bench.stream, bench.x, bench.y);),

    CASE("uninitialised read", "uninitialised read",
         LAUNCH(copy, 1, 64, bench.stream, bench.y, bench.x, COUNT);),
    CASE("uninitialised shared memory", "uninitialised read",
         LAUNCH(shared_unwritten, 1, 100, bench.stream, bench.y);),
    CASE("uninitialised download", "uninitialised read",
         CUDA_CHECK(cudaMemcpyAsync(bench.host, bench.y, 4, cudaMemcpyDeviceToHost, bench.stream));),
    CASE("what a block held before", "uninitialised read", float *block = arena_open(&bench);
         LAUNCH(copy, 1, 64, bench.stream, bench.x, block, COUNT);
         device_block_given(bench.stream, block, COUNT * sizeof(float));
         device_block_taken(bench.stream, block, COUNT * sizeof(float));
         LAUNCH(copy, 1, 64, bench.stream, block, bench.y, COUNT);),
    CASE("use of a block given back", "given back", float *block = arena_open(&bench);
         LAUNCH(copy, 1, 64, bench.stream, bench.x, block, COUNT);
         device_block_given(bench.stream, block, COUNT * sizeof(float));
         LAUNCH(copy, 1, 64, bench.stream, block, bench.y, COUNT);),
    CASE("use after free", "given back", float *x = bench.x; CUDA_CHECK(cudaFree(x));
         LAUNCH(copy, 1, 64, bench.stream, x, bench.y, COUNT);),

    CASE("some threads end before a barrier", "barrier divergence",
         LAUNCH(some_end, 1, 256, bench.stream, bench.x, bench.y);),
    CASE("a thread ends beside a barrier", "barrier divergence",
         LAUNCH(one_ends, 1, 2, bench.stream, bench.y);),
    CASE("threads at two barriers", "barrier divergence",
         LAUNCH(two_barriers, 1, 64, bench.stream, bench.y);),
    CASE("lanes that have ended", "absent lanes", LAUNCH(lanes_end, 1, 32, bench.stream, bench.x, bench.y);),
    CASE("lanes that wait elsewhere", "absent lanes",
         LAUNCH(lanes_wait_elsewhere, 1, 64, bench.stream, bench.x, bench.y);),
    CASE("lanes outside the mask", "absent lanes",
         LAUNCH(source_outside_mask, 1, 32, bench.stream, bench.x, bench.y);),
    CASE("lanes that do not exist", "absent lanes",
         LAUNCH(warp_of_24, 1, 24, bench.stream, bench.x, bench.y);),

    CASE("kernel writes host memory", "a kernel writes host memory",
         LAUNCH(write_host, 1, 32, bench.stream, &host_value);),
    CASE("kernel writes pinned memory", "a kernel writes host memory",
         LAUNCH(write_host, 1, 32, bench.stream, bench.host);),
    CASE("kernel reads a variable of the host", "a kernel reads host memory",
         LAUNCH(read_global, 1, 32, bench.stream, bench.y);),
    CASE("kernel with a stack too deep", "a kernel's stack overflows",
         LAUNCH(deep_calls, 1, 2, bench.stream, bench.x, bench.y, 1000);),
    CASE("kernel with atomics", "atomic",
         LAUNCH(add_atomically, 1, 32, bench.stream, reinterpret_cast<unsigned *>(bench.x));),
    CASE("host reads device memory", "host code touched device memory",
         CUDA_CHECK(cudaStreamSynchronize(bench.stream));
         CHECK(bench.x[3] == 3, "read");),
    CASE("host writes device memory", "host code touched device memory", bench.y[3] = 1;),
    CASE("host library touches device memory", "host code touched device memory",
         CUDA_CHECK(cudaStreamSynchronize(bench.stream));
         void *(*volatile copying)(void *, const void *, size_t) = memcpy;
         copying(bench.host, bench.x, 4000);),
    CASE("pageable upload", "pageable", static float value[4];
         CUDA_CHECK(cudaMemcpyAsync(bench.x, value, sizeof value, cudaMemcpyHostToDevice, bench.stream));),
    CASE("pageable download", "pageable", float value[4];
         CUDA_CHECK(cudaMemcpyAsync(value, bench.x, sizeof value, cudaMemcpyDeviceToHost, bench.stream));),
    CASE("copy of more than the pinned memory", "pageable",
         CUDA_CHECK(cudaMemcpyAsync(bench.x, bench.host + 1, COUNT * sizeof(float), cudaMemcpyHostToDevice,
                                    bench.stream));),
    CASE("copy in the wrong direction", "not device memory",
         CUDA_CHECK(cudaMemcpyAsync(bench.host, bench.x, 4, cudaMemcpyHostToDevice, bench.stream));),
    CASE("default stream", "default stream", LAUNCH(copy, 1, 64, nullptr, bench.x, bench.y, COUNT);),
    CASE("a launch without blocks", "cudaGetLastError(): invalid configuration",
         LAUNCH(copy, 0, 64, bench.stream, bench.x, bench.y, COUNT);),
    CASE("free of what is no allocation", "which is no allocation", CUDA_CHECK(cudaFree(bench.x + 1));),

    {"missing stream wait", missing_stream_wait, "uninitialised read", true},
    {"upload changed too early", changed_too_early, "the copy took what was written after it", true},
    {},
};
