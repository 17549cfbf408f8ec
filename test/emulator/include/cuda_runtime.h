/* Stand-in for the CUDA runtime's header: the part of it that the backend uses, declared as there. Device
 * code is ordinary C++ here; test/emulator/ runs it. */
#ifndef EMULATOR_CUDA_RUNTIME_H
#define EMULATOR_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <source_location>
#include <type_traits>

#define CUDART_VERSION 13000

/* ---- errors and devices */

enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
};
typedef enum cudaError cudaError_t;

const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    size_t sharedMemPerBlock;
    int warpSize;
    int maxThreadsPerBlock;
    int maxThreadsDim[3];
    int maxGridSize[3];
    int major, minor;
    int multiProcessorCount;
    int ECCEnabled;
    int pciBusID, pciDeviceID, pciDomainID;
    int l2CacheSize;
    int maxThreadsPerMultiProcessor;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDeviceSynchronize(void);

enum { cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess = 0,
    cudaDriverEntryPointSymbolNotFound = 1,
    cudaDriverEntryPointVersionNotSufficent = 2,
};
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned int version,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result = nullptr);

/* ---- streams and events */

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);

/* ---- memory */

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
};

cudaError_t cudaMalloc(void **device, size_t size);
cudaError_t cudaFree(void *device);
cudaError_t cudaMallocHost(void **host, size_t size);
cudaError_t cudaFreeHost(void *host);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t count, enum cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void *device, int value, size_t count, cudaStream_t stream = nullptr);

template <class T> cudaError_t cudaMalloc(T **device, size_t size)
{
    return cudaMalloc(reinterpret_cast<void **>(device), size);
}

template <class T> cudaError_t cudaMallocHost(T **host, size_t size, unsigned int = 0)
{
    return cudaMallocHost(reinterpret_cast<void **>(host), size);
}

/* ---- device code */

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) alignas(bytes)

#define EMULATOR_VECTOR(type, name)                                                                          \
    struct alignas(sizeof(type)) name##1                                                                     \
    {                                                                                                        \
        type x;                                                                                              \
    };                                                                                                       \
    struct alignas(2 * sizeof(type)) name##2                                                                 \
    {                                                                                                        \
        type x, y;                                                                                           \
    };                                                                                                       \
    struct name##3                                                                                           \
    {                                                                                                        \
        type x, y, z;                                                                                        \
    };                                                                                                       \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4                                    \
    {                                                                                                        \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    inline name##1 make_##name##1(type x)                                                                    \
    {                                                                                                        \
        return {x};                                                                                          \
    }                                                                                                        \
    inline name##2 make_##name##2(type x, type y)                                                            \
    {                                                                                                        \
        return {x, y};                                                                                       \
    }                                                                                                        \
    inline name##3 make_##name##3(type x, type y, type z)                                                    \
    {                                                                                                        \
        return {x, y, z};                                                                                    \
    }                                                                                                        \
    inline name##4 make_##name##4(type x, type y, type z, type w)                                            \
    {                                                                                                        \
        return {x, y, z, w};                                                                                 \
    }
EMULATOR_VECTOR(float, float)
EMULATOR_VECTOR(double, double)
EMULATOR_VECTOR(int, int)
EMULATOR_VECTOR(unsigned int, uint)
EMULATOR_VECTOR(short, short)
EMULATOR_VECTOR(unsigned short, ushort)
EMULATOR_VECTOR(long long, longlong)
#undef EMULATOR_VECTOR

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 size) : x(size.x), y(size.y), z(size.z) {}
};

/* Of the thread that runs. They are constants to it, and without a constructor, so that the compiler does not
 * have their reads checked. */
extern const uint3 threadIdx, blockIdx, blockDim, gridDim;
static constexpr int warpSize = 32;

/* Waits for all threads of the block. */
void __syncthreads(std::source_location place = std::source_location::current());

/* What warp collectives are made of: each lane of `mask` gives a value and takes that of lane `source`
 * (emulator_exchange), or the lanes' predicates, a bit each (emulator_vote). `kind`: what all must call. */
enum emulator_collective { EMULATOR_SYNCWARP, EMULATOR_SHUFFLE, EMULATOR_VOTE };
uint64_t emulator_exchange(unsigned int mask, uint64_t value, int source);
unsigned int emulator_vote(unsigned int mask, bool predicate);
int emulator_lane(void);

/* Orders the memory accesses of the warp's threads. `mask` must be all threads of the warp. */
void __syncwarp(unsigned int mask = 0xffffffff);

template <class T> T emulator_shuffle(unsigned int mask, T value, int source)
{
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "as CUDA's shuffles");
    uint64_t given = 0;
    __builtin_memcpy(&given, &value, sizeof value);
    given = emulator_exchange(mask, given, source);
    __builtin_memcpy(&value, &given, sizeof value);
    return value;
}

/* The groups of `width` lanes keep to themselves. */
template <class T> T __shfl_sync(unsigned int mask, T value, int source, int width = 32)
{
    int lane = emulator_lane();
    return emulator_shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}

template <class T> T __shfl_xor_sync(unsigned int mask, T value, int lanes, int width = 32)
{
    int lane = emulator_lane(), source = lane ^ lanes;
    return emulator_shuffle(mask, value, source < (lane & ~(width - 1)) + width ? source : lane);
}

template <class T> T __shfl_down_sync(unsigned int mask, T value, unsigned int delta, int width = 32)
{
    int lane = emulator_lane(), source = lane + (int)delta;
    return emulator_shuffle(mask, value, source < (lane & ~(width - 1)) + width ? source : lane);
}

template <class T> T __shfl_up_sync(unsigned int mask, T value, unsigned int delta, int width = 32)
{
    int lane = emulator_lane(), source = lane - (int)delta;
    return emulator_shuffle(mask, value, source >= (lane & ~(width - 1)) ? source : lane);
}

inline unsigned int __ballot_sync(unsigned int mask, int predicate)
{
    return emulator_vote(mask, predicate != 0);
}

inline int __any_sync(unsigned int mask, int predicate)
{
    return emulator_vote(mask, predicate != 0) != 0;
}

inline int __all_sync(unsigned int mask, int predicate)
{
    return emulator_vote(mask, predicate != 0) == mask;
}

/* ---- mathematics beyond <math.h> */

#define EMULATOR_EXTREMA(type)                                                                               \
    inline type min(type a, type b)                                                                          \
    {                                                                                                        \
        return a < b ? a : b;                                                                                \
    }                                                                                                        \
    inline type max(type a, type b)                                                                          \
    {                                                                                                        \
        return a > b ? a : b;                                                                                \
    }
EMULATOR_EXTREMA(int)
EMULATOR_EXTREMA(unsigned int)
EMULATOR_EXTREMA(long)
EMULATOR_EXTREMA(unsigned long)
EMULATOR_EXTREMA(long long)
EMULATOR_EXTREMA(unsigned long long)
#undef EMULATOR_EXTREMA

inline float min(float a, float b)
{
    return fminf(a, b);
}

inline float max(float a, float b)
{
    return fmaxf(a, b);
}

inline double min(double a, double b)
{
    return fmin(a, b);
}

inline double max(double a, double b)
{
    return fmax(a, b);
}

inline float rsqrtf(float x)
{
    return (float)(1.0 / sqrt((double)x));
}

inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}

inline float __expf(float x)
{
    return expf(x);
}

inline float __logf(float x)
{
    return logf(x);
}

inline float __fdividef(float x, float y)
{
    return x / y;
}

inline float __frcp_rn(float x)
{
    return 1 / x;
}

inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}

template <class To, class From> inline To emulator_bits(From value)
{
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline unsigned int __float_as_uint(float x)
{
    return emulator_bits<unsigned int>(x);
}

inline float __uint_as_float(unsigned int x)
{
    return emulator_bits<float>(x);
}

inline int __float_as_int(float x)
{
    return emulator_bits<int>(x);
}

inline float __int_as_float(int x)
{
    return emulator_bits<float>(x);
}

inline int __popc(unsigned int x)
{
    return __builtin_popcount(x);
}

/* A load through the read-only cache. */
template <class T> inline T __ldg(const T *address)
{
    return *address;
}

#endif
