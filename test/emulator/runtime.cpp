/* The runtime's calls that are not of streams: devices, memory, copies, launches. */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>

#include <map>

/* ---- errors */

static cudaError_t last_error = cudaSuccess;

cudaError_t fail_with(cudaError_t error)
{
    last_error = error;
    return error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
};

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &known : errors)
        if (known.error == error) return known.text;
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &known : errors)
        if (known.error == error) return known.name;
    return "unrecognized error code";
}

/* ---- devices */

enum { MOST_DEVICES = 16 };
static size_t in_use[MOST_DEVICES]; /* bytes of each device's memory */
static int current_device;

static int device_count(void)
{
    static const long count = setting("APTP_EMULATOR_DEVICES", 1);
    if (count < 0 || count > MOST_DEVICES) emulator_fail("APTP_EMULATOR_DEVICES is 0 to %d", MOST_DEVICES);
    return (int)count;
}

static size_t device_memory(void)
{
    static const long mebibytes = setting("APTP_EMULATOR_MEMORY", 2048);
    return (size_t)mebibytes << 20;
}

bool device_takes(int device, size_t bytes)
{
    if (bytes > device_memory() - in_use[device]) return false;
    in_use[device] += bytes;
    return true;
}

void device_gives(int device, size_t bytes)
{
    in_use[device] -= bytes;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    memory_start();
    *count = device_count();
    return *count > 0 ? cudaSuccess : fail_with(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    if (device_count() == 0) return fail_with(cudaErrorNoDevice);
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= device_count()) return fail_with(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    if (device < 0 || device >= device_count()) return fail_with(cudaErrorInvalidDevice);
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "emulated GPU %d", device);
    properties->totalGlobalMem = device_memory();
    properties->sharedMemPerBlock = SHARED_MOST;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = MOST_THREADS;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->major = 8;
    properties->multiProcessorCount = 4; // few: kernels go on in strides, and grids are soon done
    properties->pciBusID = device + 1;
    properties->l2CacheSize = 4 << 20;
    properties->maxThreadsPerMultiProcessor = 2048;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    if (device < 0 || device >= device_count() || size < 13) return fail_with(cudaErrorInvalidValue);
    snprintf(text, (size_t)size, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = device_memory();
    *available = *total - in_use[current_device];
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = device_count() > 0 ? CUDART_VERSION : 0;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- memory */

struct allocation {
    size_t bytes;
    int device;
};
static std::map<uintptr_t, struct allocation> allocations;
static std::map<uintptr_t, size_t> pinned;

cudaError_t cudaMalloc(void **device, size_t size)
{
    *device = nullptr;
    if (device_count() == 0) return fail_with(cudaErrorNoDevice);
    if (size == 0) return cudaSuccess;
    if (!device_takes(current_device, size)) return fail_with(cudaErrorMemoryAllocation);
    uintptr_t address = memory_reserve(size, 256);
    memory_add(address, size, "an allocation");
    allocations[address] = {size, current_device};
    *device = reinterpret_cast<void *>(address);
    return cudaSuccess;
}

/* As CUDA's, waits for all work. */
cudaError_t cudaFree(void *device)
{
    if (!device) return cudaSuccess;
    const auto found = allocations.find(reinterpret_cast<uintptr_t>(device));
    if (found == allocations.end()) emulator_fail("cudaFree of %p, which is no allocation", device);
    drain_streams();
    memory_give_back(found->first, found->second.bytes);
    device_gives(found->second.device, found->second.bytes);
    allocations.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **host, size_t size)
{
    *host = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (!*host) return fail_with(cudaErrorMemoryAllocation);
    pinned[reinterpret_cast<uintptr_t>(*host)] = size;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *host)
{
    if (!host) return cudaSuccess;
    drain_streams();
    if (pinned.erase(reinterpret_cast<uintptr_t>(host)) == 0)
        emulator_fail("cudaFreeHost of %p, which is not pinned memory", host);
    free(host);
    return cudaSuccess;
}

/* ---- copies */

static void check_pinned(const void *host, size_t bytes, const char *what)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(host);
    if (in_device(address)) emulator_fail("%s: %p is device memory", what, host);
    auto next = pinned.upper_bound(address);
    if (next == pinned.begin() || address + bytes > std::prev(next)->first + std::prev(next)->second)
        emulator_fail("%s: %p (%zu bytes) is pageable memory: the copy would not be asynchronous", what, host,
                      bytes);
}

static void check_device(const void *device, const char *what)
{
    if (!emulator_is_device(device)) emulator_fail("%s: %p is not device memory", what, device);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t count, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    static const char what[] = "cudaMemcpyAsync";
    if (count == 0) return cudaSuccess;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (!to_device && !from_device) emulator_fail("%s of kind %d", what, (int)kind);
    to_device ? check_device(to, what) : check_pinned(to, count, what);
    from_device ? check_device(from, what) : check_pinned(from, count, what);
    emulator_enqueue(stream, what, [=] {
        if (from_device) emulator_read(from, count, "source of cudaMemcpyAsync");
        if (to_device) emulator_write(to, count, "destination of cudaMemcpyAsync");
        memmove(to, from, count);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *device, int value, size_t count, cudaStream_t stream)
{
    static const char what[] = "cudaMemsetAsync";
    if (count == 0) return cudaSuccess;
    check_device(device, what);
    emulator_enqueue(stream, what, [=] {
        emulator_write(device, count, what);
        memset(device, value, count);
    });
    return cudaSuccess;
}

/* ---- launches, and an arena's blocks */

static bool fits(emulator_extent size, int64_t x, int64_t y, int64_t z)
{
    return size.x >= 1 && size.x <= x && size.y >= 1 && size.y <= y && size.z >= 1 && size.z <= z;
}

void emulator_enqueue_kernel(emulator_extent grid, emulator_extent block, cudaStream_t stream,
                             struct emulator_kernel kernel)
{
    if (kernel.bytes > 32764) emulator_fail("kernel %s: %zu bytes of parameters", kernel.name, kernel.bytes);
    if (!fits(grid, 0x7fffffff, 65535, 65535) || !fits(block, 1024, 1024, 64) ||
        block.x * block.y * block.z > MOST_THREADS) {
        fail_with(cudaErrorInvalidConfiguration);
        return;
    }
    dim3 blocks((unsigned)grid.x, (unsigned)grid.y, (unsigned)grid.z);
    dim3 threads((unsigned)block.x, (unsigned)block.y, (unsigned)block.z);
    emulator_enqueue(stream, kernel.name, [=] { run_kernel(kernel, blocks, threads); });
}

void device_block_taken(cudaStream_t stream, const void *address, size_t bytes)
{
    if (bytes == 0) return;
    enqueue_change(stream, [=] {
        if (!is_mapped(reinterpret_cast<uintptr_t>(address), bytes))
            emulator_fail("a block of %zu bytes at %p has no memory behind it", bytes, address);
        memory_add(reinterpret_cast<uintptr_t>(address), bytes, "a block of an arena");
    });
}

void device_block_given(cudaStream_t stream, const void *address, size_t bytes)
{
    if (bytes == 0) return;
    enqueue_change(stream, [=] { memory_remove(reinterpret_cast<uintptr_t>(address), bytes); });
}
