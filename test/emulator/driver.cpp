/* The driver's virtual memory management: addresses, memory, and the one behind the other. What is mapped may
 * be used block by block (device_block_taken). */
#include "machine.h"

#include <cuda.h>

#include <map>

enum : size_t { GRANULARITY = 2 << 20 };

struct mapping {
    size_t bytes;
    CUmemGenericAllocationHandle handle;
    bool accessible;
};
struct memory {
    size_t bytes;
    int device;
    bool released;
    int mappings;
};
static std::map<uintptr_t, size_t> reservations;
static std::map<uintptr_t, struct mapping> mappings;
static std::map<CUmemGenericAllocationHandle, struct memory> memories;

/* Whether mappings, each as `good` wants it, lie one after the other from `address` for `bytes`. */
template <class Good> static bool covered(uintptr_t address, size_t bytes, Good good)
{
    const uintptr_t end = address + bytes;
    while (address < end) {
        auto after = mappings.upper_bound(address);
        if (after == mappings.begin()) return false;
        const auto &[start, mapping] = *std::prev(after);
        if (address >= start + mapping.bytes || !good(mapping)) return false;
        address = start + mapping.bytes;
    }
    return true;
}

bool is_mapped(uintptr_t address, size_t bytes)
{
    return covered(address, bytes, [](const struct mapping &mapping) { return mapping.accessible; });
}

static bool granular(size_t a, size_t b)
{
    return a % GRANULARITY == 0 && b % GRANULARITY == 0 && b > 0;
}

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t size, size_t alignment, CUdeviceptr wanted,
                             unsigned long long flags)
{
    if (!granular(alignment, size) || wanted != 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    *address = memory_reserve(size, alignment > 0 ? alignment : GRANULARITY);
    reservations[*address] = size;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t size)
{
    const auto found = reservations.find(address);
    if (found == reservations.end() || found->second != size) return CUDA_ERROR_INVALID_VALUE;
    const auto mapping = mappings.lower_bound(address);
    if (mapping != mappings.end() && mapping->first < address + size)
        emulator_fail("cuMemAddressFree of addresses with memory behind them");
    reservations.erase(found);
    return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *properties,
                     unsigned long long flags)
{
    static CUmemGenericAllocationHandle last;
    int devices = 0;
    cudaGetDeviceCount(&devices);
    if (!granular(0, size) || flags != 0 || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
        properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (properties->location.id < 0 || properties->location.id >= devices) return CUDA_ERROR_INVALID_DEVICE;
    if (!device_takes(properties->location.id, size)) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = ++last;
    memories[*handle] = {size, properties->location.id, false, 0};
    return CUDA_SUCCESS;
}

/* Memory is given back when it is released and nothing maps it any more. */
static void give_back_unused(CUmemGenericAllocationHandle handle)
{
    const struct memory *memory = &memories.at(handle);
    if (!memory->released || memory->mappings > 0) return;
    device_gives(memory->device, memory->bytes);
    memories.erase(handle);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    const auto found = memories.find(handle);
    if (found == memories.end() || found->second.released) return CUDA_ERROR_INVALID_VALUE;
    found->second.released = true;
    give_back_unused(handle);
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    const auto memory = memories.find(handle);
    const auto reservation = reservations.upper_bound(address);
    if (!granular(address, size) || offset != 0 || flags != 0 || memory == memories.end() ||
        size != memory->second.bytes || reservation == reservations.begin() ||
        address + size > std::prev(reservation)->first + std::prev(reservation)->second)
        return CUDA_ERROR_INVALID_VALUE;
    const auto next = mappings.lower_bound(address);
    if ((next != mappings.end() && next->first < address + size) ||
        (next != mappings.begin() && std::prev(next)->first + std::prev(next)->second.bytes > address))
        return CUDA_ERROR_INVALID_VALUE;
    mappings[address] = {size, handle, false};
    memory->second.mappings++;
    return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc *access, size_t count)
{
    if (count != 1 || access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
        !covered(address, size, [](const struct mapping &) { return true; }))
        return CUDA_ERROR_INVALID_VALUE;
    for (auto i = mappings.lower_bound(address); i != mappings.end() && i->first < address + size; ++i)
        i->second.accessible = true;
    return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t size)
{
    if (!covered(address, size, [](const struct mapping &) { return true; })) return CUDA_ERROR_INVALID_VALUE;
    memory_give_back(address, size);
    for (auto i = mappings.lower_bound(address); i != mappings.end() && i->first < address + size;) {
        CUmemGenericAllocationHandle handle = i->second.handle;
        i = mappings.erase(i);
        memories.at(handle).mappings--;
        give_back_unused(handle);
    }
    return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *,
                                       CUmemAllocationGranularity_flags)
{
    *granularity = GRANULARITY;
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int,
                                             unsigned long long, enum cudaDriverEntryPointQueryResult *result)
{
    static const std::map<std::string, void *> functions = {
        {"cuMemAddressReserve", reinterpret_cast<void *>(cuMemAddressReserve)},
        {"cuMemAddressFree", reinterpret_cast<void *>(cuMemAddressFree)},
        {"cuMemCreate", reinterpret_cast<void *>(cuMemCreate)},
        {"cuMemRelease", reinterpret_cast<void *>(cuMemRelease)},
        {"cuMemMap", reinterpret_cast<void *>(cuMemMap)},
        {"cuMemUnmap", reinterpret_cast<void *>(cuMemUnmap)},
        {"cuMemSetAccess", reinterpret_cast<void *>(cuMemSetAccess)},
        {"cuMemGetAllocationGranularity", reinterpret_cast<void *>(cuMemGetAllocationGranularity)},
    };
    const auto found = functions.find(symbol);
    *function = found == functions.end() ? nullptr : found->second;
    if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
