#include "base/check.h"
#include "io/sha256.h"
#include "models/weights.h"

#include <stdlib.h>
#include <string.h>

static void add_part(const struct parameter_set *set, const struct parameter *parameter, int part,
                     struct sha256 *hash)
{
    const char *name = parameter->part[part].name;
    int64_t shape[TENSOR_MAX_RANK], elements = 1;
    int rank = weights_file_shape(parameter, part, shape);
    for (int i = 0; i < rank; i++) elements *= shape[i];
    float *values = check_malloc((size_t)elements * sizeof *values);
    parameter_part_download(set, parameter, part, values);
    sha256_add(hash, name, strlen(name) + 1);
    sha256_add(hash, shape, (size_t)rank * sizeof *shape);
    sha256_add(hash, values, (size_t)elements * sizeof *values);
    free(values);
}

void weights_identify(const struct parameter_set *set, struct sha256 *hash)
{
    for (int i = 0; i < set->count; i++)
        for (int part = 0; part < set->items[i]->part_count; part++) add_part(set, set->items[i], part, hash);
}
