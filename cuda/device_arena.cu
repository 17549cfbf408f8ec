/* The step arena's memory on a device: addresses are reserved for all of the device's memory, and memory is
 * put behind them as the arena grows (the driver's virtual memory management), so that a growing arena stays
 * where it is. The driver's functions come through the runtime: nothing is linked against the driver, which
 * machines that only build the program do not have. */
#include "device.h"

#include <cuda.h>
#include <stdlib.h>

enum { GROWTH = 64 << 20 }; /* bytes, also a multiple of every device's granularity (2 MiB): few pieces */

struct driver {
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) address_free;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) set_access;
};

struct device_arena {
    struct cuda_backend *cuda;
    struct driver driver;
    CUmemAllocationProp properties;
    CUmemGenericAllocationHandle *piece; /* owned, in the order of addresses, GROWTH bytes each */
    int pieces;
};

static void driver_function(void **function, const char *name)
{
    cudaDriverEntryPointQueryResult found;
    CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, function, CUDART_VERSION, cudaEnableDefault, &found));
    CHECK(found == cudaDriverEntryPointSuccess, "the CUDA driver has no %s: it is too old", name);
}

static struct driver driver_open(void)
{
    struct driver driver;
    driver_function(reinterpret_cast<void **>(&driver.reserve), "cuMemAddressReserve");
    driver_function(reinterpret_cast<void **>(&driver.address_free), "cuMemAddressFree");
    driver_function(reinterpret_cast<void **>(&driver.create), "cuMemCreate");
    driver_function(reinterpret_cast<void **>(&driver.release), "cuMemRelease");
    driver_function(reinterpret_cast<void **>(&driver.map), "cuMemMap");
    driver_function(reinterpret_cast<void **>(&driver.unmap), "cuMemUnmap");
    driver_function(reinterpret_cast<void **>(&driver.set_access), "cuMemSetAccess");
    return driver;
}

static void driver_check(CUresult result, const char *call)
{
    CHECK(result == CUDA_SUCCESS, "%s: error %d of the CUDA driver", call, (int)result);
}

/* Puts GROWTH bytes of memory behind the range's usable part. */
static void add_piece(struct arena_range *range, size_t wanted)
{
    struct device_arena *arena = static_cast<struct device_arena *>(range->context);
    const struct driver *driver = &arena->driver;
    CUmemGenericAllocationHandle handle;
    CUresult created = driver->create(&handle, GROWTH, &arena->properties, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY)
        device_memory_full(arena->cuda, arena->cuda->base.op, wanted, range->usable);
    driver_check(created, "cuMemCreate");
    CUdeviceptr address = reinterpret_cast<CUdeviceptr>(range->base) + range->usable;
    CUmemAccessDesc access = {arena->properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    driver_check(driver->map(address, GROWTH, 0, handle, 0), "cuMemMap");
    driver_check(driver->set_access(address, GROWTH, &access, 1), "cuMemSetAccess");
    arena->piece = static_cast<CUmemGenericAllocationHandle *>(
        check_realloc(arena->piece, (size_t)(arena->pieces + 1) * sizeof *arena->piece));
    arena->piece[arena->pieces++] = handle;
    range->usable += GROWTH;
}

static void grow(struct arena_range *range, size_t bytes)
{
    struct device_arena *arena = static_cast<struct device_arena *>(range->context);
    if (bytes > range->capacity) device_memory_full(arena->cuda, arena->cuda->base.op, bytes, range->usable);
    while (range->usable < bytes) add_piece(range, bytes);
}

static void release(struct arena_range *range)
{
    struct device_arena *arena = static_cast<struct device_arena *>(range->context);
    const struct driver *driver = &arena->driver;
    CUDA_CHECK(cudaStreamSynchronize(arena->cuda->compute)); // ops may still use it
    CUdeviceptr base = reinterpret_cast<CUdeviceptr>(range->base);
    if (range->usable > 0) driver_check(driver->unmap(base, range->usable), "cuMemUnmap");
    for (int i = 0; i < arena->pieces; i++) driver_check(driver->release(arena->piece[i]), "cuMemRelease");
    driver_check(driver->address_free(base, range->capacity), "cuMemAddressFree");
    free(arena->piece);
    free(arena);
}

static void taken(struct arena_range *range, char *address, size_t bytes)
{
    device_block_taken(static_cast<struct device_arena *>(range->context)->cuda->compute, address, bytes);
}

static void given(struct arena_range *range, char *address, size_t bytes)
{
    device_block_given(static_cast<struct device_arena *>(range->context)->cuda->compute, address, bytes);
}

struct arena_range arena_range_cuda(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    struct device_arena *arena = static_cast<struct device_arena *>(check_calloc(1, sizeof *arena));
    arena->cuda = cuda;
    arena->driver = driver_open();
    arena->properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    arena->properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    arena->properties.location.id = cuda->device;
    size_t available, total;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    size_t capacity = (size_t)divide_up((int64_t)total, GROWTH) * GROWTH;
    CUdeviceptr base;
    driver_check(arena->driver.reserve(&base, capacity, 0, 0, 0), "cuMemAddressReserve");
    return (struct arena_range){.base = reinterpret_cast<char *>(base),
                                .capacity = capacity,
                                .usable = 0,
                                .grow = grow,
                                .release = release,
                                .taken = taken,
                                .given = given,
                                .guard = DEVICE_BLOCK_GUARD,
                                .context = arena};
}
