/* Stand-in for CUDA's bf16: storage and conversions; kernels compute in fp32. */
#ifndef EMULATOR_CUDA_BF16_H
#define EMULATOR_CUDA_BF16_H

#include <cuda_runtime.h>

struct alignas(2) __nv_bfloat16 {
    unsigned short __x;
};
typedef __nv_bfloat16 nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
typedef __nv_bfloat162 nv_bfloat162;

inline float __bfloat162float(__nv_bfloat16 value)
{
    return __uint_as_float((unsigned int)value.__x << 16);
}

/* To nearest, ties to even; NaN becomes the canonical one. */
inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    unsigned int bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline __nv_bfloat16 __float2bfloat16(float value)
{
    return __float2bfloat16_rn(value);
}

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return {bits};
}

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value)
{
    return value.__x;
}

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

inline __nv_bfloat162 __float22bfloat162_rn(float2 value)
{
    return __floats2bfloat162_rn(value.x, value.y);
}

inline float2 __bfloat1622float2(__nv_bfloat162 value)
{
    return make_float2(__bfloat162float(value.x), __bfloat162float(value.y));
}

inline float __low2float(__nv_bfloat162 value)
{
    return __bfloat162float(value.x);
}

inline float __high2float(__nv_bfloat162 value)
{
    return __bfloat162float(value.y);
}

#endif
