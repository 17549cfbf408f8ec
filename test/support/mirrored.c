#include "support/mirrored.h"

#include "base/check.h"

#include <stdlib.h>

struct mirrored mirrored_new(struct backend *backend, enum dtype dtype, int rank, const int64_t *dim)
{
    struct mirrored mirrored = {.tensor = {.dtype = dtype, .rank = rank, .dim = {1, 1, 1, 1}}};
    for (int i = 0; i < rank; i++) mirrored.tensor.dim[i] = dim[i];
    mirrored.tensor.data = backend->ops->memory_new(backend, tensor_bytes(&mirrored.tensor));
    mirrored.host = check_calloc(1, tensor_bytes(&mirrored.tensor));
    return mirrored;
}

void mirrored_free(struct backend *backend, struct mirrored *mirrored)
{
    if (mirrored->tensor.data)
        backend->ops->memory_free(backend, mirrored->tensor.data, tensor_bytes(&mirrored->tensor));
    free(mirrored->host);
    mirrored->tensor.data = mirrored->host = NULL;
}

void mirrored_put(struct backend *backend, const struct mirrored *mirrored)
{
    backend->ops->upload(backend, mirrored->tensor.data, mirrored->host, tensor_bytes(&mirrored->tensor));
}

void mirrored_get(struct backend *backend, const struct mirrored *mirrored)
{
    backend->ops->download(backend, mirrored->host, mirrored->tensor.data, tensor_bytes(&mirrored->tensor));
}

double mirrored_at(const struct mirrored *mirrored, int64_t i)
{
    return mirrored->tensor.dtype == DTYPE_BF16 ? (double)float_from_bf16(((uint16_t *)mirrored->host)[i])
                                                : (double)((float *)mirrored->host)[i];
}

void mirrored_set(struct mirrored *mirrored, int64_t i, double value)
{
    if (mirrored->tensor.dtype == DTYPE_BF16)
        ((uint16_t *)mirrored->host)[i] = bf16_from_float((float)value);
    else
        ((float *)mirrored->host)[i] = (float)value;
}
