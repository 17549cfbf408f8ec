#include "models/initialise.h"

#include "base/check.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_bias(const struct parameter *parameter)
{
    const char *name = parameter->part[0].name;
    size_t length = strlen(name);
    return length >= 5 && strcmp(name + length - 5, ".bias") == 0;
}

/* Inputs that one output of a product weight sums over. */
static int64_t fan_in(const struct parameter *weight)
{
    return tensor_count(&weight->value) / weight->value.dim[0];
}

static void fill_uniform(struct random_key key, double bound, int64_t count, float *values)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(bound * (2 * random_uniform(key, (uint64_t)i) - 1));
}

void parameters_initialise(struct parameter_set *set, uint64_t seed)
{
    const struct parameter *weight =
        NULL; // the product weight that a bias behind it belongs to; NULL behind a norm
    for (int i = 0; i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        bool bias = is_bias(parameter);
        if (!bias) weight = parameter->product ? parameter : NULL;
        int64_t row = tensor_count(&parameter->value) / parameter->value.dim[0];
        for (int part = 0; part < parameter->part_count; part++) {
            int64_t count = parameter->part[part].rows * row;
            float *values = check_malloc((size_t)count * sizeof *values);
            struct random_key key = {seed, RANDOM_WEIGHTS, (uint64_t)part, (uint64_t)i};
            if (weight)
                fill_uniform(key, 1 / sqrt((double)fan_in(weight)), count, values);
            else
                for (int64_t j = 0; j < count; j++) values[j] = bias ? 0 : 1;
            parameter_part_upload(set, parameter, part, values);
            free(values);
        }
    }
}
