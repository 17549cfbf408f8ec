/* 16-bit floats of files: IEEE half and bfloat16, as bits. */
#ifndef IO_HALF_H
#define IO_HALF_H

#include <stdbool.h>
#include <stdint.h>

/* out[i] = the value of half[i]; exact. */
void half_to_float(const uint16_t *half, int64_t count, float *out);

/* Rounds to nearest, ties to even. Stops at the first value that is not finite or rounds to more than 65504,
 * and returns its index; -1 if all fitted. */
int64_t half_from_float(const float *values, int64_t count, uint16_t *half);

/* Rounds values to those that half has, in place. Returns like half_from_float; then the rest is not rounded.
 */
int64_t half_round(float *values, int64_t count);

/* out[i] = the value of the bfloat16 bits[i]; exact. */
void bfloat16_to_float(const uint16_t *bits, int64_t count, float *out);

#endif
