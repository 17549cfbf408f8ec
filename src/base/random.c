#include "base/random.h"

#include <Random123/philox.h>
#include <math.h>

/* Four 64-bit words: block `block` of the sequence. */
static philox4x64_ctr_t draw(struct random_key key, uint64_t block)
{
    philox4x64_ctr_t counter = {{block, key.sample, key.step, 0}};
    philox4x64_key_t philox_key = {{key.seed, (uint64_t)key.stream}};
    return philox4x64(counter, philox_key);
}

/* The middle of one of 2^53 equal parts of (0, 1): never 0 and never 1, so that every logarithm is finite. */
static double unit(uint64_t word)
{
    return ((double)(word >> 11) + 0.5) * 0x1p-53;
}

double random_uniform(struct random_key key, uint64_t index)
{
    return unit(draw(key, index / 4).v[index % 4]);
}

uint64_t random_below(struct random_key key, uint64_t index, uint64_t bound)
{
    uint64_t value = (uint64_t)(random_uniform(key, index) * (double)bound);
    return value < bound ? value : bound - 1;
}

void random_normal(struct random_key key, uint64_t count, float *out)
{
    const double two_pi = 6.283185307179586476925;
    for (uint64_t block = 0; 4 * block < count; block++) {
        philox4x64_ctr_t word = draw(key, block);
        for (uint64_t pair = 0; pair < 2; pair++) {
            double radius = sqrt(-2 * log(unit(word.v[2 * pair])));
            double angle = two_pi * unit(word.v[2 * pair + 1]);
            uint64_t index = 4 * block + 2 * pair;
            if (index < count) out[index] = (float)(radius * cos(angle));
            if (index + 1 < count) out[index + 1] = (float)(radius * sin(angle));
        }
    }
}

void random_gumbel(struct random_key key, uint64_t count, double *out)
{
    for (uint64_t block = 0; 4 * block < count; block++) {
        philox4x64_ctr_t word = draw(key, block);
        for (uint64_t lane = 0; lane < 4 && 4 * block + lane < count; lane++)
            out[4 * block + lane] = -log(-log(unit(word.v[lane])));
    }
}

void random_permutation(struct random_key key, uint64_t count, uint64_t *order)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t j = random_below(key, i, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
}
