/* Right kernels and calls, of each kind that has a broken form in broken.cu, with results that are checked.
 */
#include "cases.h"

#include <cuda.h>
#include <stdlib.h>

struct bench bench_open(void)
{
    struct bench bench;
    CUDA_CHECK(cudaStreamCreateWithFlags(&bench.stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaMalloc(&bench.x, COUNT * sizeof(float)));
    CUDA_CHECK(cudaMalloc(&bench.y, COUNT * sizeof(float)));
    CUDA_CHECK(cudaMallocHost(&bench.host, COUNT * sizeof(float)));
    for (int i = 0; i < COUNT; i++) bench.host[i] = (float)i;
    CUDA_CHECK(
        cudaMemcpyAsync(bench.x, bench.host, COUNT * sizeof(float), cudaMemcpyHostToDevice, bench.stream));
    return bench;
}

void bench_close(struct bench *bench)
{
    CUDA_CHECK(cudaStreamSynchronize(bench->stream));
    CUDA_CHECK(cudaFreeHost(bench->host));
    CUDA_CHECK(cudaFree(bench->y));
    CUDA_CHECK(cudaFree(bench->x));
    CUDA_CHECK(cudaStreamDestroy(bench->stream));
}

/* The first `count` of y, in the bench's pinned memory. */
static const float *result(const struct bench *bench, int count)
{
    CUDA_CHECK(cudaMemcpyAsync(bench->host, bench->y, (size_t)count * sizeof(float), cudaMemcpyDeviceToHost,
                               bench->stream));
    CUDA_CHECK(cudaStreamSynchronize(bench->stream));
    return bench->host;
}

__global__ static void twice(const float *x, float *y, int count)
{
    for (int64_t i = grid_thread(); i < count; i += grid_threads()) y[i] = 2 * x[i];
}

static void element_wise(void)
{
    struct bench bench = bench_open();
    LAUNCH(twice, 3, 128, bench.stream, bench.x, bench.y, COUNT);
    LAUNCH(twice, dim3(2), dim3(64), bench.stream, bench.y, bench.y, COUNT); // in place
    const float *y = result(&bench, COUNT);
    for (int i = 0; i < COUNT; i++) CHECK(y[i] == 4.f * (float)i, "%d: %g", i, (double)y[i]);
    bench_close(&bench);
}

/* Sums of rows of `width`, a block each. */
__global__ static void row_sums(const float *x, float *y, int width)
{
    SHARED(float, partial, 32);
    float sum = 0;
    for (int i = (int)threadIdx.x; i < width; i += (int)blockDim.x) sum += x[(int)blockIdx.x * width + i];
    sum = block_sum(sum, partial);
    float again = block_sum(sum, partial);
    if (threadIdx.x == 0) y[blockIdx.x] = again / (float)blockDim.x;
}

static void sums_of_rows(void)
{
    struct bench bench = bench_open();
    LAUNCH(row_sums, 10, 256, bench.stream, bench.x, bench.y, 100);
    const float *y = result(&bench, 10);
    for (int i = 0; i < 10; i++) CHECK(y[i] == 10000.f * (float)i + 4950, "%d: %g", i, (double)y[i]);
    bench_close(&bench);
}

/* y = x with each block's elements reversed, by way of shared memory; twice, which takes the barrier behind.
 */
__global__ static void reversed(const float *x, float *y)
{
    SHARED(float, tile, 100);
    int i = (int)threadIdx.x, base = (int)(blockIdx.x * blockDim.x), last = (int)blockDim.x - 1;
    tile[i] = x[base + i];
    __syncthreads();
    float value = tile[last - i];
    __syncthreads();
    tile[i] = value + 1;
    __syncthreads();
    y[base + i] = tile[last - i] + tile[0] - tile[0];
}

static void barriers(void)
{
    struct bench bench = bench_open();
    LAUNCH(reversed, 10, 100, bench.stream, bench.x, bench.y);
    const float *y = result(&bench, COUNT);
    for (int i = 0; i < COUNT; i++) CHECK(y[i] == (float)i + 1, "%d: %g", i, (double)y[i]);
    bench_close(&bench);
}

/* Neighbours in a warp by way of memory, ordered by __syncwarp. */
__global__ static void warp_neighbours(const float *x, float *y)
{
    SHARED(float, tile, 64);
    int i = (int)threadIdx.x, neighbour = i ^ 1;
    tile[i] = x[i];
    __syncwarp();
    float value = tile[neighbour] + tile[i];
    __syncwarp();
    tile[i] = value;
    __syncwarp();
    y[i] = tile[neighbour];
}

static void warp_synchronisation(void)
{
    struct bench bench = bench_open();
    LAUNCH(warp_neighbours, 1, 64, bench.stream, bench.x, bench.y);
    const float *y = result(&bench, 64);
    for (int i = 0; i < 64; i++) CHECK(y[i] == (float)(i + (i ^ 1)), "%d: %g", i, (double)y[i]);
    bench_close(&bench);
}

/* A bit of y for each collective that gives a thread what it should. */
__global__ static void all_collectives(float *y)
{
    const unsigned all = 0xffffffff;
    int lane = (int)threadIdx.x % 32, right = 0;
    right |= __shfl_sync(all, lane, 5) == 5;
    right |= (__shfl_xor_sync(all, 0.5f * (float)lane, 3) == 0.5f * (float)(lane ^ 3)) << 1;
    right |= (__shfl_down_sync(all, 3.0 * lane, 4) == 3.0 * (lane < 28 ? lane + 4 : lane)) << 2;
    right |= (__shfl_up_sync(all, (unsigned)lane, 2) == (unsigned)(lane < 2 ? lane : lane - 2)) << 3;
    right |= (__shfl_xor_sync(all, (long long)lane << 40, 16) == (long long)(lane ^ 16) << 40) << 4;
    right |= (__shfl_down_sync(all, lane, 1, 8) == (lane % 8 < 7 ? lane + 1 : lane)) << 5;
    right |= (__ballot_sync(all, lane % 2) == 0xaaaaaaaa) << 6;
    right |= (__any_sync(all, lane == 9) && !__any_sync(all, lane == 32)) << 7;
    right |= (__all_sync(all, lane < 32) && !__all_sync(all, lane < 31)) << 8;
    unsigned half = lane < 16 ? 0xffff : 0xffff0000; // the halves of a warp for themselves
    right |= (__shfl_xor_sync(half, lane, 15) == (lane ^ 15)) << 9;
    y[threadIdx.x] = (float)right;
}

static void collectives(void)
{
    struct bench bench = bench_open();
    LAUNCH(all_collectives, 1, 96, bench.stream, bench.y);
    const float *y = result(&bench, 96);
    for (int i = 0; i < 96; i++) CHECK(y[i] == 1023, "%d: %#x", i, (unsigned)y[i]);
    bench_close(&bench);
}

/* Threads and blocks in three dimensions, bf16 in vectors of 16 bytes. */
__global__ static void cubes(const __nv_bfloat16 *x, __nv_bfloat16 *y)
{
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    auto values = reinterpret_cast<const vector<__nv_bfloat16> *>(x)[i];
    for (auto &value : values.value) value = from_float<__nv_bfloat16>(to_float(value) * 2);
    reinterpret_cast<vector<__nv_bfloat16> *>(y)[i] = values;
}

static void dimensions(void)
{
    const int count = 2 * 3 * 2 * 24 * 8;
    struct bench bench = bench_open();
    __nv_bfloat16 *host = reinterpret_cast<__nv_bfloat16 *>(bench.host), *x, *y;
    size_t bytes = count * sizeof *host;
    CHECK(bytes <= COUNT * sizeof(float) * 2, "too many");
    CUDA_CHECK(cudaMallocHost(&host, bytes));
    CUDA_CHECK(cudaMalloc(&x, bytes));
    CUDA_CHECK(cudaMalloc(&y, bytes));
    for (int i = 0; i < count; i++) host[i] = __float2bfloat16((float)(i % 200));
    CUDA_CHECK(cudaMemcpyAsync(x, host, bytes, cudaMemcpyHostToDevice, bench.stream));
    LAUNCH(cubes, dim3(2, 3, 2), dim3(4, 3, 2), bench.stream, x, y);
    CUDA_CHECK(cudaMemcpyAsync(host, y, bytes, cudaMemcpyDeviceToHost, bench.stream));
    CUDA_CHECK(cudaStreamSynchronize(bench.stream));
    for (int i = 0; i < count; i++)
        CHECK(__bfloat162float(host[i]) == (float)(i % 200 * 2), "%d: %g", i,
              (double)__bfloat162float(host[i]));
    CUDA_CHECK(cudaFree(x));
    CUDA_CHECK(cudaFree(y));
    CUDA_CHECK(cudaFreeHost(host));
    bench_close(&bench);
}

/* Two streams that wait for each other by events. */
static void two_streams(void)
{
    struct bench bench = bench_open();
    cudaStream_t copy;
    cudaEvent_t computed, copied;
    CUDA_CHECK(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&computed, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventSynchronize(copied)); // of an event that was never recorded
    for (int round = 1; round <= 4; round++) {
        LAUNCH(twice, 2, 128, bench.stream, round == 1 ? bench.x : bench.y, bench.y, COUNT);
        CUDA_CHECK(cudaEventRecord(computed, bench.stream));
        CUDA_CHECK(cudaStreamWaitEvent(copy, computed, 0));
        CUDA_CHECK(cudaMemcpyAsync(bench.host, bench.y, COUNT * sizeof(float), cudaMemcpyDeviceToHost, copy));
        CUDA_CHECK(cudaEventRecord(copied, copy));
        CUDA_CHECK(cudaStreamWaitEvent(bench.stream, copied, 0));
        if (round % 2 == 0)
            while (cudaEventQuery(copied) == cudaErrorNotReady) continue;
        else
            CUDA_CHECK(cudaEventSynchronize(copied));
        CHECK(bench.host[3] == 3.f * (float)(1 << round), "round %d: %g", round, (double)bench.host[3]);
    }
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaEventDestroy(copied));
    CUDA_CHECK(cudaEventDestroy(computed));
    CUDA_CHECK(cudaStreamDestroy(copy));
    bench_close(&bench);
}

/* Memory behind an arena's addresses, and blocks in it that are taken again as soon as they are given back.
 */
static void arena_blocks(void)
{
    const size_t bytes = 4 << 20;
    CUdeviceptr base;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp properties = {};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CUmemAccessDesc access = {properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    struct bench bench = bench_open();
    size_t before, during, after, total;
    CUDA_CHECK(cudaMemGetInfo(&before, &total));
    CHECK(cuMemAddressReserve(&base, 2 * bytes, 0, 0, 0) == CUDA_SUCCESS, "reserve");
    CHECK(cuMemCreate(&handle, bytes, &properties, 0) == CUDA_SUCCESS, "create");
    CHECK(cuMemMap(base, bytes, 0, handle, 0) == CUDA_SUCCESS, "map");
    CHECK(cuMemMap(base, bytes, 0, handle, 0) != CUDA_SUCCESS, "mapped twice");
    CHECK(cuMemSetAccess(base, bytes, &access, 1) == CUDA_SUCCESS, "access");
    CUDA_CHECK(cudaMemGetInfo(&during, &total));
    CHECK(before - during == bytes, "%zu bytes in use", before - during);
    float *block = reinterpret_cast<float *>(base);
    for (int round = 0; round < 4; round++) {
        float *mine = block + 16 * round;
        device_block_taken(bench.stream, mine, COUNT * sizeof(float));
        LAUNCH(twice, 1, 256, bench.stream, bench.x, mine, COUNT);
        LAUNCH(twice, 1, 256, bench.stream, mine, bench.y, COUNT);
        device_block_given(bench.stream, mine, COUNT * sizeof(float));
    }
    CHECK(result(&bench, COUNT)[5] == 20, "%g", (double)bench.host[5]);
    CHECK(cuMemUnmap(base, bytes) == CUDA_SUCCESS, "unmap");
    CHECK(cuMemRelease(handle) == CUDA_SUCCESS, "release");
    CHECK(cuMemAddressFree(base, 2 * bytes) == CUDA_SUCCESS, "free");
    CUDA_CHECK(cudaMemGetInfo(&after, &total));
    CHECK(after == before, "%zu bytes lost", before - after);
    bench_close(&bench);
}

/* What a device refuses is an error of the call, not a defect. */
static void errors(void)
{
    struct bench bench = bench_open();
    void *memory;
    size_t available, total;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    CHECK(cudaMalloc(&memory, available + 1) == cudaErrorMemoryAllocation, "more than all of it");
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess, "last error");
    const struct {
        int64_t grid, block;
    } refused[] = {{0, 256}, {1, 1025}, {(int64_t)1 << 32, 32}, {-1, 32}};
    for (auto size : refused) {
        emulator_launch(
            "twice", size.grid, size.block, bench.stream, [](auto... arguments) { twice(arguments...); },
            bench.x, bench.y, (int)COUNT);
        CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration, "%lld blocks of %lld threads",
              (long long)size.grid, (long long)size.block);
    }
    CHECK(cudaSetDevice(16) == cudaErrorInvalidDevice && cudaGetLastError() != cudaSuccess, "device 16");
    bench_close(&bench);
}

/* Rounding to bf16, ties to even; a NaN stays one. */
static void rounding(void)
{
    const struct {
        float value;
        unsigned short bits;
    } known[] = {{1, 0x3f80},
                 {0x1.01p0f, 0x3f80},
                 {0x1.03p0f, 0x3f82},
                 {-0x1.010002p0f, 0xbf81},
                 {0x1.fffffep127f, 0x7f80},
                 {__builtin_nanf(""), 0x7fff},
                 {0x1p-133f, 0x0001}};
    for (auto one : known)
        CHECK(__bfloat16_as_ushort(__float2bfloat16(one.value)) == one.bits, "%a: %#x", (double)one.value,
              __bfloat16_as_ushort(__float2bfloat16(one.value)));
}

__global__ static void one_each(float *y, unsigned writer)
{
    if (blockIdx.x < COUNT && threadIdx.x == writer) y[blockIdx.x] = (float)blockIdx.x;
}

void many_times(struct bench *bench)
{
    for (unsigned i = 0; i < 6; i++) LAUNCH(one_each, 100000, 2, bench->stream, bench->y, i % 2);
}

/* Warps that tell each other numbers, in one block. */
__global__ static void many_barriers(float *y, int rounds)
{
    SHARED(float, told, 2);
    unsigned warp = threadIdx.x / 32;
    for (int i = 0; i < rounds; i++) {
        if (threadIdx.x % 32 == 0) told[warp] = (float)i;
        __syncthreads();
        if (told[1 - warp] != (float)i) y[0] = -1;
        __syncthreads();
    }
}

/* More blocks than the emulator's stamps tell apart, and barriers while they run out. */
static void long_runs(void)
{
    struct bench bench = bench_open();
    many_times(&bench);
    CHECK(result(&bench, COUNT)[999] == 999, "%g", (double)bench.host[999]);
    for (unsigned i = 0; i < 4; i++) LAUNCH(one_each, 100000, 2, bench.stream, bench.y, 0);
    LAUNCH(many_barriers, 1, 33, bench.stream, bench.y, 40000);
    CHECK(result(&bench, COUNT)[0] == 0, "%g", (double)bench.host[0]);
    bench_close(&bench);
}

const struct emulator_case right_cases[] = {
    {"element-wise", element_wise, nullptr, false},
    {"sums of rows", sums_of_rows, nullptr, false},
    {"barriers", barriers, nullptr, false},
    {"warp synchronisation", warp_synchronisation, nullptr, false},
    {"collectives", collectives, nullptr, false},
    {"dimensions", dimensions, nullptr, false},
    {"two streams", two_streams, nullptr, false},
    {"arena blocks", arena_blocks, nullptr, false},
    {"errors", errors, nullptr, false},
    {"rounding", rounding, nullptr, false},
    {"long runs", long_runs, nullptr, false},
    {},
};
