/* What the library stand-ins (cublaslt.cpp, cudnn.cpp) share: values in device memory, and the arithmetic of
 * a product. A stand-in checks and copies its arguments at the call and computes when the stream comes to it.
 */
#ifndef EMULATOR_LIBRARY_H
#define EMULATOR_LIBRARY_H

#include "emulator.h"

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

enum value_type { VALUE_FP32, VALUE_BF16 };

/* How operands are rounded before they are multiplied: TF32 keeps 10 bits of the mantissa. */
enum value_rounding { ROUND_NOT, ROUND_TF32 };

/* Of both libraries' workspaces: what cuBLASLt asks for, and cudaMalloc gives. */
enum { WORKSPACE_ALIGNMENT = 256 };

inline size_t value_bytes(enum value_type type)
{
    return type == VALUE_BF16 ? 2 : 4;
}

/* To the nearest, ties away from zero, as cvt.rna.tf32 does. */
inline float rounded_to_tf32(float value)
{
    return std::isfinite(value) ? __uint_as_float((__float_as_uint(value) + 0x1000u) & ~0x1fffu) : value;
}

inline double value_at(const void *values, enum value_type type, int64_t i)
{
    if (type == VALUE_FP32) return static_cast<const float *>(values)[i];
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(values)[i]);
}

inline double operand_at(const void *values, enum value_type type, enum value_rounding rounding, int64_t i)
{
    double value = value_at(values, type, i);
    return rounding == ROUND_TF32 ? rounded_to_tf32((float)value) : value;
}

inline void value_set(void *values, enum value_type type, int64_t i, double value)
{
    if (type == VALUE_FP32)
        static_cast<float *>(values)[i] = (float)value;
    else
        static_cast<__nv_bfloat16 *>(values)[i] = __float2bfloat16_rn((float)value);
}

/* sum [count] += factor x [count], what every product here is made of. Sums are taken in fp64: not in a
 * device's order, but closer to the true value than any order in fp32. */
inline void add_multiple(double *sum, double factor, const double *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++) sum[i] += factor * x[i];
}

/* The nearest later multiple of 256 bytes in some 64 KiB, another for most `seed`s: workspace that a caller
 * must have asked about, as it cannot be guessed. Never 0. */
inline size_t workspace_of(uint64_t seed)
{
    return WORKSPACE_ALIGNMENT * (1 + seed % 255);
}

/* FNV-1a. */
inline uint64_t hash_of(const void *bytes, size_t count)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ static_cast<const unsigned char *>(bytes)[i]) * 0x100000001b3u;
    return hash >> 8 ^ hash;
}

/* Leaves what no one should read, NaN in both types. */
inline void spoil_workspace(void *workspace, size_t bytes)
{
    if (bytes == 0) return;
    emulator_write(workspace, bytes, "the workspace");
    memset(workspace, 0xff, bytes);
}

/* ---- checks at the call */

inline bool is_aligned(const void *address, size_t bytes)
{
    return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

/* `name`: of the operand, `call`: of the library's function. */
inline void check_device_pointer(const char *call, const char *name, const void *address, size_t alignment)
{
    if (address == nullptr) emulator_fail("%s: %s is NULL", call, name);
    if (!emulator_is_device(address)) emulator_fail("%s: %s is not device memory: %p", call, name, address);
    if (!is_aligned(address, alignment))
        emulator_fail("%s: %s is not aligned to %zu bytes: %p", call, name, alignment, address);
}

/* alpha, beta. */
inline float host_scalar(const char *call, const char *name, const void *address)
{
    if (address == nullptr) emulator_fail("%s: %s is NULL", call, name);
    if (emulator_is_device(address)) emulator_fail("%s: %s is in device memory, not the host's", call, name);
    float value;
    memcpy(&value, address, sizeof value);
    return value;
}

inline void check_workspace(const char *call, const void *workspace, size_t bytes, size_t needed)
{
    if (bytes < needed)
        emulator_fail("%s: the workspace has %zu bytes, the algorithm needs %zu", call, bytes, needed);
    if (needed > 0) check_device_pointer(call, "the workspace", workspace, WORKSPACE_ALIGNMENT);
}

#endif
