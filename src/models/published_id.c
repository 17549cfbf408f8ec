#include "models/published_id.h"

#include "base/check.h"
#include "io/safetensors.h"
#include "models/weights.h"

#include <stdlib.h>
#include <string.h>

static bool add_tensor(struct sha256 *hash, const struct safetensors *file,
                       const struct safetensors_info *info, struct fault *fault)
{
    const int64_t rank = info->rank;
    sha256_add(hash, info->name, strlen(info->name) + 1);
    sha256_add(hash, &rank, sizeof rank);
    sha256_add(hash, info->shape, (size_t)rank * sizeof *info->shape);
    float *values = check_malloc((size_t)info->elements * sizeof *values);
    bool ok = safetensors_read(file, info->name, info->rank, info->shape, values, fault) &&
              weights_check_finite(safetensors_path(file), info->name, info->elements, values, fault);
    if (ok) sha256_add(hash, values, (size_t)info->elements * sizeof *values);
    free(values);
    return ok;
}

static bool is_integer(const char *type)
{
    return type[0] == 'I' || type[0] == 'U';
}

bool published_weights_id(const char *folder, const char *stem, char id[SHA256_HEX_SIZE], struct fault *fault)
{
    struct safetensors *file;
    if (!safetensors_open_folder(folder, stem, &file, fault)) return false;
    struct sha256 *hash = sha256_new();
    bool ok = true;
    for (int i = 0; ok && i < safetensors_count(file); i++) {
        const struct safetensors_info *info = safetensors_info(file, i);
        if (!is_integer(info->type)) ok = add_tensor(hash, file, info, fault);
    }
    safetensors_close(file);
    sha256_finish(hash, id);
    return ok;
}

bool published_text_id(const char weights_id[SHA256_HEX_SIZE], const char *tokenizer,
                       char id[SHA256_HEX_SIZE], struct fault *fault)
{
    static const char *const names[] = {"vocab.json", "merges.txt"};
    char hex[2][SHA256_HEX_SIZE];
    for (int i = 0; i < 2; i++) {
        char *path = check_format("%s/%s", tokenizer, names[i]);
        bool ok = sha256_file(path, hex[i], fault);
        free(path);
        if (!ok) return false;
    }
    char *text = check_format("clip_text weights %s\nclip tokenizer vocabulary %s merges %s\n", weights_id,
                              hex[0], hex[1]);
    sha256_bytes(text, strlen(text), id);
    free(text);
    return true;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "what is hashed is little-endian, as memory is");
