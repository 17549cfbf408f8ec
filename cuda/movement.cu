/* Joining, splitting, resizing and pooling of feature maps. */
#include "kernel.h"

#include <math.h>

/* Columns [first, first + width) of `wide` columns = all of a matrix of `width` columns and as many rows; or,
 * to split, the other way round. An element may be a vector of values. */
template <class Element, bool SPLIT>
__global__ void move_columns(const Element *from, Element *to, int64_t rows, divisor width, int64_t wide,
                             int64_t first)
{
    for (int64_t i = grid_thread(); i < rows * width.number; i += grid_threads()) {
        place at = place_of(i, width);
        int64_t inside = at.row * wide + first + at.column;
        to[SPLIT ? i : inside] = from[SPLIT ? inside : i];
    }
}

/* `part`: columns from `first` on of `whole`. To split, whole is the source, else the part. */
template <bool SPLIT>
static void launch_move(struct cuda_backend *cuda, const struct tensor *whole, const struct tensor *part,
                        int64_t first)
{
    int64_t rows = tensor_rows(whole), wide = tensor_channels(whole), width = tensor_channels(part);
    void *from = SPLIT ? whole->data : part->data, *to = SPLIT ? part->data : whole->data;
    with_type(whole->dtype, [&](auto zero) {
        using T = decltype(zero);
        auto move = [&](auto element, int64_t size) {
            using Element = decltype(element);
            LAUNCH((move_columns<Element, SPLIT>), grid_for(cuda, rows * width / size, THREADS), THREADS,
                   cuda->compute, static_cast<const Element *>(from), static_cast<Element *>(to), rows,
                   divisor_of(width / size), wide / size, first / size);
        };
        if (in_vectors<T>(wide) && in_vectors<T>(width) && in_vectors<T>(first))
            move(vector<T>(), vector<T>::SIZE);
        else
            move(zero, 1);
    });
}

void concat_forward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                         struct tensor *y)
{
    launch_move<false>(cuda_backend(backend), y, a, 0);
    launch_move<false>(cuda_backend(backend), y, b, tensor_channels(a));
}

void concat_backward_cuda(struct backend *backend, const struct tensor *dy, struct tensor *da,
                          struct tensor *db)
{
    if (da) launch_move<true>(cuda_backend(backend), dy, da, 0);
    if (db) launch_move<true>(cuda_backend(backend), dy, db, tensor_channels(dy) - tensor_channels(db));
}

/* ---- feature maps [B, height, width, C]: a thread takes COUNT channels of a pixel */
struct map_shape {
    int64_t samples, channels;
    divisor groups; /* of threads a pixel: channels / COUNT */
    divisor width, height;

    __host__ __device__ int64_t threads() const
    {
        return samples * height.number * width.number * groups.number;
    }
    /* The first of the COUNT channels at a pixel. */
    __device__ int64_t element(int64_t sample, int64_t row, int64_t column, int channel) const
    {
        return ((sample * height.number + row) * width.number + column) * channels + channel;
    }
};

static struct map_shape map_shape_of(const struct tensor *map, int count)
{
    return {map->dim[0], map->dim[3], divisor_of(map->dim[3] / count), divisor_of(map->dim[2]),
            divisor_of(map->dim[1])};
}

struct pixel {
    int64_t sample;
    int row, column, channel;
};

template <int COUNT> __device__ pixel pixel_of(const map_shape &shape, int64_t thread)
{
    place channel = place_of(thread, shape.groups), column = place_of(channel.row, shape.width),
          row = place_of(column.row, shape.height);
    return {row.row, row.column, column.column, channel.column * COUNT};
}

/* Row (or column) of the input that output row i shows, and the first output row that shows input row i. */
__device__ inline int64_t source_of(int64_t i, const divisor &in, const divisor &out)
{
    return out.quotient(i * in.number);
}

__device__ inline int64_t first_of(int64_t i, const divisor &in, const divisor &out)
{
    return in.quotient(i * out.number + in.number - 1);
}

template <class T, int COUNT>
__global__ void upsample_forward_kernel(const T *x, map_shape in, T *y, map_shape out)
{
    for (int64_t thread = grid_thread(); thread < out.threads(); thread += grid_threads()) {
        pixel at = pixel_of<COUNT>(out, thread);
        int64_t row = source_of(at.row, in.height, out.height);
        int64_t column = source_of(at.column, in.width, out.width);
        store(y + thread * COUNT, load<COUNT>(x + in.element(at.sample, row, column, at.channel)));
    }
}

void upsample_forward_cuda(struct backend *backend, const struct tensor *x, struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_rows(y->dtype, tensor_channels(y), [&]<class T, int COUNT>() {
        struct map_shape in = map_shape_of(x, COUNT), out = map_shape_of(y, COUNT);
        LAUNCH((upsample_forward_kernel<T, COUNT>), grid_for(cuda, out.threads(), THREADS), THREADS,
               cuda->compute, values_of<T>(x), in, values_of<T>(y), out);
    });
}

/* dx of a pixel: the sum over the pixels of y that show it */
template <class T, int COUNT>
__global__ void upsample_backward_kernel(const T *dy, map_shape out, T *dx, map_shape in)
{
    for (int64_t thread = grid_thread(); thread < in.threads(); thread += grid_threads()) {
        pixel at = pixel_of<COUNT>(in, thread);
        int64_t top = first_of(at.row, in.height, out.height);
        int64_t bottom = first_of(at.row + 1, in.height, out.height);
        int64_t left = first_of(at.column, in.width, out.width);
        int64_t right = first_of(at.column + 1, in.width, out.width);
        floats<COUNT> sum = {};
        for (int64_t row = top; row < bottom; row++)
            for (int64_t column = left; column < right; column++) {
                floats<COUNT> value = load<COUNT>(dy + out.element(at.sample, row, column, at.channel));
                for (int i = 0; i < COUNT; i++) sum.value[i] += value.value[i];
            }
        store(dx + thread * COUNT, sum);
    }
}

void upsample_backward_cuda(struct backend *backend, const struct tensor *dy, struct tensor *dx)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_rows(dx->dtype, tensor_channels(dx), [&]<class T, int COUNT>() {
        struct map_shape in = map_shape_of(dx, COUNT), out = map_shape_of(dy, COUNT);
        LAUNCH((upsample_backward_kernel<T, COUNT>), grid_for(cuda, in.threads(), THREADS), THREADS,
               cuda->compute, values_of<T>(dy), out, values_of<T>(dx), in);
    });
}

/* ---- pooling */

/* Rows (or columns) of a map that a window shows: [first, end). */
struct range {
    int first, end;
};

__device__ inline range range_of_window(int place, int stride, int pad, int kernel, int size)
{
    int first = place * stride - pad, end = first + kernel;
    return {first < 0 ? 0 : first, end > size ? size : end};
}

/* The window as the kernel needs it: 32 bits. */
struct window {
    bool mean;
    int height, width, stride, pad_top, pad_left;
};

template <class T, int COUNT>
__global__ void pool_kernel(const T *x, map_shape in, struct window window, T *y, map_shape out)
{
    for (int64_t thread = grid_thread(); thread < out.threads(); thread += grid_threads()) {
        pixel at = pixel_of<COUNT>(out, thread);
        range rows =
            range_of_window(at.row, window.stride, window.pad_top, window.height, (int)in.height.number);
        range columns =
            range_of_window(at.column, window.stride, window.pad_left, window.width, (int)in.width.number);
        float factor = window.mean ? 1 / (float)((rows.end - rows.first) * (columns.end - columns.first)) : 1;
        floats<COUNT> result;
        for (int i = 0; i < COUNT; i++) result.value[i] = window.mean ? 0 : -INFINITY;
        for (int row = rows.first; row < rows.end; row++)
            for (int column = columns.first; column < columns.end; column++) {
                floats<COUNT> cell = load<COUNT>(x + in.element(at.sample, row, column, at.channel));
                for (int i = 0; i < COUNT; i++) {
                    float value = cell.value[i], before = result.value[i];
                    if (window.mean)
                        result.value[i] = before + value;
                    else if (!isnan(before) && !(value <= before)) // NaN stays NaN
                        result.value[i] = value;
                }
            }
        for (int i = 0; i < COUNT; i++) result.value[i] *= factor;
        store(y + thread * COUNT, result);
    }
}

void pool_cuda(struct backend *backend, const struct pooling *pooling, const struct tensor *x,
               struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    const struct convolution *geometry = &pooling->geometry;
    struct window window = {pooling->mean,         (int)pooling->kernel_height, (int)pooling->kernel_width,
                            (int)geometry->stride, (int)geometry->pad_top,      (int)geometry->pad_left};
    with_rows(y->dtype, tensor_channels(y), [&]<class T, int COUNT>() {
        struct map_shape in = map_shape_of(x, COUNT), out = map_shape_of(y, COUNT);
        LAUNCH((pool_kernel<T, COUNT>), grid_for(cuda, out.threads(), THREADS), THREADS, cuda->compute,
               values_of<T>(x), in, window, values_of<T>(y), out);
    });
}
