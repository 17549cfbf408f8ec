#include "io/half.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void half_to_float(const uint16_t *half, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t sign = (uint32_t)(half[i] & 0x8000u) << 16, rest = half[i] & 0x7fffu;
        // Exponent and mantissa in a float's places are the value times 2^-112: the product is exact, also
        // for subnormal halves. Infinities and NaNs need the float's largest exponent instead.
        uint32_t finite = bits_of(from_bits(rest << 13) * 0x1p112f), special = 0x7f800000u | rest << 13;
        out[i] = from_bits(sign | (rest >= 0x7c00u ? special : finite));
    }
}

int64_t half_from_float(const float *values, int64_t count, uint16_t *half)
{
    for (int64_t i = 0; i < count; i++) {
        float size = fabsf(values[i]);
        if (!(size < 65520.0f)) return i; // 65520 is the tie between the largest half and overflow
        uint32_t bits = bits_of(size), result;
        if (size < 0x1p-14f) { // subnormal half: adding 0.5 rounds at the half's last bit, 2^-24
            result = bits_of(size + 0.5f) - bits_of(0.5f);
        } else {
            result = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1)) >> 13;
        }
        half[i] = (uint16_t)(result | (bits_of(values[i]) >> 16 & 0x8000u));
    }
    return -1;
}

int64_t half_round(float *values, int64_t count)
{
    enum { PIECE = 1024 };
    uint16_t half[PIECE];
    for (int64_t first = 0; first < count; first += PIECE) {
        int64_t piece = count - first < PIECE ? count - first : PIECE;
        int64_t bad = half_from_float(values + first, piece, half);
        if (bad >= 0) return first + bad;
        half_to_float(half, piece, values + first);
    }
    return -1;
}

void bfloat16_to_float(const uint16_t *bits, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) out[i] = from_bits((uint32_t)bits[i] << 16);
}
