/* Linear layers: a matrix product each. A weight [O, I, 1, 1] is a matrix [O, I] as well, and so are feature
 * maps: the convolutions that are products come here too. */
#include "device.h"

/* The rows of a tensor. */
static struct matrices matrix_of(const struct tensor *tensor)
{
    int64_t channels = tensor_channels(tensor);
    return {tensor->data, tensor->dtype, tensor_rows(tensor), channels, channels, 0};
}

/* A weight [out, in] (or [out, in, 1, 1]) in the compute dtype. */
static struct matrices weight_matrix(struct backend *backend, struct parameter *weight, enum dtype dtype,
                                     enum packing form)
{
    int64_t out = weight->value.dim[0], in = weight->value.dim[1];
    return {packed_values(backend, weight, dtype, form), dtype, out, in, in, 0};
}

void linear_forward_cuda(struct backend *backend, const struct tensor *x, struct parameter *weight,
                         const struct tensor *bias, const struct tensor *residual, struct tensor *y)
{
    multiply(cuda_backend(backend), 1, 1, matrix_of(x), false,
             weight_matrix(backend, weight, x->dtype, PACKED_FORWARD), true, residual ? 1.f : 0.f,
             residual ? residual->data : nullptr, bias ? static_cast<const float *>(bias->data) : nullptr,
             matrix_of(y));
}

void linear_backward_input_cuda(struct backend *backend, const struct tensor *dy, struct parameter *weight,
                                struct tensor *dx)
{
    multiply(cuda_backend(backend), 1, 1, matrix_of(dy), false,
             weight_matrix(backend, weight, dy->dtype, PACKED_BACKWARD), false, 0, nullptr, nullptr,
             matrix_of(dx));
}

void linear_backward_weight_cuda(struct backend *backend, const struct tensor *x, const struct tensor *dy,
                                 struct tensor *dweight, struct tensor *dbias)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t out = tensor_channels(dy), in = tensor_channels(x);
    multiply(cuda, 1, 1, matrix_of(dy), true, matrix_of(x), false, 1, nullptr, nullptr,
             {dweight->data, DTYPE_F32, out, in, in, 0});
    if (dbias)
        add_column_sums(cuda, dy->data, dy->dtype, tensor_rows(dy), out, static_cast<float *>(dbias->data));
}
