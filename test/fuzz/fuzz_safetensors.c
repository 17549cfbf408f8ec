// The header of a safetensors file, and the reading of every tensor that it names.

// words: src/io/safetensors.c
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/safetensors.h"

#include <stdlib.h>

static void read_tensor(const struct safetensors *file, const struct safetensors_info *info, size_t size)
{
    CHECK(safetensors_find(file, info->name) == info, "%s is not found by its name", info->name);
    CHECK(info->elements >= 0 && (size_t)info->elements <= size, "%s: %lld elements in %zu bytes", info->name,
          (long long)info->elements, size);
    struct fault fault = {0};
    float *values = check_malloc((size_t)info->elements * sizeof *values);
    harness_verdict(safetensors_read(file, info->name, info->rank, info->shape, values, &fault), &fault,
                    EXIT_CODE_INPUT);
    fault = (struct fault){0};
    int64_t other[] = {1, 2, 3};
    if (info->rank != 3 || info->elements != 6)
        CHECK(!safetensors_read(file, info->name, 3, other, values, &fault), "read in another shape");
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *file;
    struct fault fault = {0};
    const char *path = harness_file("model.safetensors", data, size);
    if (!harness_verdict(safetensors_open(path, &file, &fault), &fault, EXIT_CODE_INPUT)) return 0;
    for (int i = 0; i < safetensors_count(file); i++) read_tensor(file, safetensors_info(file, i), size);
    safetensors_close(file);
    return 0;
}
