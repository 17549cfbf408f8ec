/* Concatenation, upsampling and pooling. */
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/tiles.h"

#include <math.h>

/* Copies columns between matrices of the same rows: `bytes` of each row. NULL: does nothing. */
static void copy_columns(char *to, size_t to_stride, const char *from, size_t from_stride, size_t bytes,
                         int64_t rows)
{
    if (!to) return;
#pragma omp parallel for schedule(static) if (rows * (int64_t)bytes >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < rows; row++)
        memcpy(to + (size_t)row * to_stride, from + (size_t)row * from_stride, bytes);
}

static size_t row_bytes(const struct tensor *tensor)
{
    return (size_t)tensor_channels(tensor) * dtype_size(tensor->dtype);
}

void concat_forward_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b,
                        struct tensor *y)
{
    (void)backend;
    char *to = y->data;
    copy_columns(to, row_bytes(y), a->data, row_bytes(a), row_bytes(a), tensor_rows(y));
    copy_columns(to + row_bytes(a), row_bytes(y), b->data, row_bytes(b), row_bytes(b), tensor_rows(y));
}

void concat_backward_cpu(struct backend *backend, const struct tensor *dy, struct tensor *da,
                         struct tensor *db)
{
    (void)backend;
    const char *from = dy->data;
    size_t stride = row_bytes(dy);
    if (da) copy_columns(da->data, row_bytes(da), from, stride, row_bytes(da), tensor_rows(dy));
    if (db)
        copy_columns(db->data, row_bytes(db), from + stride - row_bytes(db), stride, row_bytes(db),
                     tensor_rows(dy));
}

/* Row (or column) of the input that output row `i` shows, and the first output row that shows input row `i`.
 */
static int64_t source_of(int64_t i, int64_t in, int64_t out)
{
    return i * in / out;
}

static int64_t first_of(int64_t i, int64_t in, int64_t out)
{
    return (i * out + in - 1) / in;
}

void upsample_forward_cpu(struct backend *backend, const struct tensor *x, struct tensor *y)
{
    (void)backend;
    int64_t height = x->dim[1], width = x->dim[2], out_height = y->dim[1], out_width = y->dim[2];
    size_t pixel = row_bytes(x);
#pragma omp parallel for schedule(static) if (tensor_count(y) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < y->dim[0] * out_height; row++) {
        int64_t sample = row / out_height, source = source_of(row % out_height, height, out_height);
        const char *from = (const char *)x->data + (size_t)((sample * height + source) * width) * pixel;
        char *to = (char *)y->data + (size_t)(row * out_width) * pixel;
        for (int64_t column = 0; column < out_width; column++)
            memcpy(to + (size_t)column * pixel, from + (size_t)source_of(column, width, out_width) * pixel,
                   pixel);
    }
}

/* dx of one input pixel's tile: the sum over the output pixels [top, bottom) x [left, right) that show it */
static void upsample_backward_tile(const struct tensor *dy, int64_t sample, int64_t top, int64_t bottom,
                                   int64_t left, int64_t right, int64_t channel, int64_t size, float *sum)
{
    float buffer[TILE];
    memset(sum, 0, (size_t)size * sizeof *sum);
    for (int64_t row = top; row < bottom; row++)
        for (int64_t column = left; column < right; column++) {
            int64_t pixel = (sample * dy->dim[1] + row) * dy->dim[2] + column;
            const float *value = tile_load(dy, pixel * dy->dim[3] + channel, size, buffer);
#pragma omp simd
            for (int64_t i = 0; i < size; i++) sum[i] += value[i];
        }
}

void upsample_backward_cpu(struct backend *backend, const struct tensor *dy, struct tensor *dx)
{
    (void)backend;
    int64_t height = dx->dim[1], width = dx->dim[2], channels = dx->dim[3];
    int64_t out_height = dy->dim[1], out_width = dy->dim[2];
#pragma omp parallel for schedule(static) if (tensor_count(dy) >= PARALLEL_MINIMUM)
    for (int64_t row = 0; row < dx->dim[0] * height; row++) {
        int64_t sample = row / height;
        int64_t top = first_of(row % height, height, out_height);
        int64_t bottom = first_of(row % height + 1, height, out_height);
        for (int64_t column = 0; column < width; column++) {
            int64_t left = first_of(column, width, out_width), right = first_of(column + 1, width, out_width);
            for (int64_t c = 0; c < channels; c += TILE) {
                int64_t size = tile_size(c, channels), start = (row * width + column) * channels + c;
                float buffer[TILE], *out = tile_target(dx, start, buffer);
                upsample_backward_tile(dy, sample, top, bottom, left, right, c, size, out);
                tile_store(dx, start, size, out);
            }
        }
    }
}

/* Cells of a map, [top, bottom) x [left, right). */
struct cells {
    int64_t top, bottom, left, right;
};

/* Those of the window at (row, column) that lie in the map x. */
static struct cells cells_of_window(const struct pooling *pooling, const struct tensor *x, int64_t row,
                                    int64_t column)
{
    int64_t top = row * pooling->geometry.stride - pooling->geometry.pad_top;
    int64_t left = column * pooling->geometry.stride - pooling->geometry.pad_left;
    int64_t bottom = top + pooling->kernel_height, right = left + pooling->kernel_width;
    return (struct cells){top < 0 ? 0 : top, bottom > x->dim[1] ? x->dim[1] : bottom, left < 0 ? 0 : left,
                          right > x->dim[2] ? x->dim[2] : right};
}

/* One window's tile of channels. NaN stays NaN, which oneDNN's own largest value of a window does not do. */
static void pool_tile(const struct tensor *x, bool mean, int64_t sample, struct cells cells, int64_t channel,
                      int64_t size, float *out)
{
    float buffer[TILE], scale = 1 / (float)((cells.bottom - cells.top) * (cells.right - cells.left));
    for (int64_t i = 0; i < size; i++) out[i] = mean ? 0 : -INFINITY;
    for (int64_t row = cells.top; row < cells.bottom; row++)
        for (int64_t column = cells.left; column < cells.right; column++) {
            int64_t pixel = (sample * x->dim[1] + row) * x->dim[2] + column;
            const float *value = tile_load(x, pixel * x->dim[3] + channel, size, buffer);
            if (mean)
#pragma omp simd
                for (int64_t i = 0; i < size; i++) out[i] += value[i];
            else
#pragma omp simd
                for (int64_t i = 0; i < size; i++)
                    out[i] = isnan(out[i]) || value[i] <= out[i] ? out[i] : value[i];
        }
    if (mean)
#pragma omp simd
        for (int64_t i = 0; i < size; i++) out[i] *= scale;
}

void pool_cpu(struct backend *backend, const struct pooling *pooling, const struct tensor *x,
              struct tensor *y)
{
    (void)backend;
    int64_t height = y->dim[1], width = y->dim[2], channels = y->dim[3];
#pragma omp parallel for schedule(static) if (tensor_count(x) >= PARALLEL_MINIMUM)
    for (int64_t pixel = 0; pixel < y->dim[0] * height * width; pixel++) {
        int64_t sample = pixel / (height * width), place = pixel % (height * width);
        struct cells cells = cells_of_window(pooling, x, place / width, place % width);
        for (int64_t c = 0; c < channels; c += TILE) {
            int64_t size = tile_size(c, channels), start = pixel * channels + c;
            float buffer[TILE], *out = tile_target(y, start, buffer);
            pool_tile(x, pooling->mean, sample, cells, c, size, out);
            tile_store(y, start, size, out);
        }
    }
}
