// The index of a model in parts, beside two sound parts of it.

// words: src/io/safetensors.c
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { FLOATS = 2, HEADER = 64 };

// A part of one tensor, [2] fp32.
static void put_part(const char *name, const char *tensor)
{
    char part[8 + HEADER + FLOATS * sizeof(float)] = {HEADER};
    char *header = check_format("{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", tensor);
    memset(part + 8, ' ', HEADER);
    memcpy(part + 8, header, strlen(header));
    harness_file(name, part, sizeof part);
    free(header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    if (!made) {
        put_part("1.safetensors", "a");
        put_part("2.safetensors", "b");
        put_part("above/3.safetensors", "c");
        made = true;
    }
    harness_file("model.safetensors.index.json", data, size);
    struct safetensors *file;
    struct fault fault = {0};
    bool done = safetensors_open_folder(harness_folder(), "model", &file, &fault);
    if (!harness_verdict(done, &fault, EXIT_CODE_INPUT)) return 0;
    CHECK(safetensors_parts(file) <= 2 && !safetensors_find(file, "c"), "a part of another folder");
    for (int i = 0; i < safetensors_count(file); i++) {
        float values[FLOATS];
        const struct safetensors_info *info = safetensors_info(file, i);
        done = safetensors_read(file, info->name, 1, (int64_t[]){FLOATS}, values, &fault);
        CHECK(done && values[0] == 0, "%s: %s", info->name, fault.text);
    }
    safetensors_close(file);
    return 0;
}
