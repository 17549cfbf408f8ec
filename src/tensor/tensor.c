#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

size_t dtype_size(enum dtype dtype)
{
    return dtype == DTYPE_BF16 ? 2 : 4;
}

const char *dtype_name(enum dtype dtype)
{
    static const char *const name[] = {[DTYPE_F32] = "fp32", [DTYPE_BF16] = "bf16", [DTYPE_I32] = "int32"};
    return name[dtype];
}

int64_t tensor_count(const struct tensor *tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor->rank; i++) count *= tensor->dim[i];
    return count;
}

int64_t tensor_channels(const struct tensor *tensor)
{
    return tensor->rank ? tensor->dim[tensor->rank - 1] : 1;
}

int64_t tensor_rows(const struct tensor *tensor)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < tensor->rank; i++) rows *= tensor->dim[i];
    return rows;
}

int64_t tensor_tokens(const struct tensor *tensor)
{
    int64_t tokens = 1;
    for (int i = 1; i + 1 < tensor->rank; i++) tokens *= tensor->dim[i];
    return tokens;
}

size_t tensor_bytes(const struct tensor *tensor)
{
    return (size_t)tensor_count(tensor) * dtype_size(tensor->dtype);
}

bool tensor_same_shape(const struct tensor *a, const struct tensor *b)
{
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

const char *tensor_text(const struct tensor *tensor, char text[TENSOR_TEXT_SIZE])
{
    int length = snprintf(text, TENSOR_TEXT_SIZE, "[");
    for (int i = 0; i < tensor->rank; i++)
        length += snprintf(text + length, TENSOR_TEXT_SIZE - (size_t)length, "%s%lld", i ? ", " : "",
                           (long long)tensor->dim[i]);
    snprintf(text + length, TENSOR_TEXT_SIZE - (size_t)length, "] %s", dtype_name(tensor->dtype));
    return text;
}

uint16_t bf16_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); // NaN: keep it quiet
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float float_from_bf16(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}
