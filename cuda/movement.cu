/* Joining, splitting, resizing and pooling of feature maps. */
#include "kernel.h"

/* y [rows, width of y]: columns [first, first + width) of y = x [rows, width]; or the other way round. */
template <class T, bool split>
__global__ void move_columns(const T *from, T *to, int64_t rows, int64_t width, int64_t wide, int64_t first)
{
    for (int64_t i = grid_thread(); i < rows * width; i += grid_threads()) {
        int64_t inside = i / width * wide + first + i % width;
        to[split ? i : inside] = from[split ? inside : i];
    }
}

void concat_forward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                         struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t rows = tensor_rows(y), wide = tensor_channels(y), width_a = tensor_channels(a);
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        LAUNCH((move_columns<T, false>), grid_for(cuda, tensor_count(a), THREADS), THREADS, cuda->compute,
               values_of<T>(a), values_of<T>(y), rows, width_a, wide, (int64_t)0);
        LAUNCH((move_columns<T, false>), grid_for(cuda, tensor_count(b), THREADS), THREADS, cuda->compute,
               values_of<T>(b), values_of<T>(y), rows, wide - width_a, wide, width_a);
    });
}
