/* Packed weights: a copy in the compute dtype, [O, I] of a linear layer, [O, kH, kW, I] of a convolution,
 * which is cuDNN's NHWC filter. Forward and backward products read the same copy, so both forms of a
 * parameter are one packed_weight. A weight whose master is at hand in fp32 and lies right already is not
 * copied. */
#include "kernel.h"

/* Elements of a tile of transpose_each: few along the kernel's cells, many along the channels. */
enum { TILE_CELLS = 16, TILE_CHANNELS = 64 };

/* to [columns, rows] of each of `count` matrices from [rows, columns], by tiles [HEIGHT, WIDTH] through
 * shared memory, so that loads and stores go along memory. `add`: added to what is there. */
template <class From, class To, int HEIGHT, int WIDTH, bool add>
__global__ void transpose_each(const From *from, To *to, int64_t count, int64_t rows, int64_t columns)
{
    SHARED(float, tile, HEIGHT *(WIDTH + 1));
    int64_t tiles_down = divide_up(rows, HEIGHT), tiles_across = divide_up(columns, WIDTH);
    for (int64_t at = blockIdx.x; at < count * tiles_down * tiles_across; at += gridDim.x) {
        int64_t first_row = at / tiles_across % tiles_down * HEIGHT, first_column = at % tiles_across * WIDTH;
        int64_t matrix = at / tiles_across / tiles_down * rows * columns;
        int height = (int)smaller(rows - first_row, HEIGHT);
        int width = (int)smaller(columns - first_column, WIDTH);
        for (int i = (int)threadIdx.x; i < height * width; i += (int)blockDim.x) {
            int row = i / width, column = i % width;
            tile[row * (WIDTH + 1) + column] =
                to_float(from[matrix + (first_row + row) * columns + first_column + column]);
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < height * width; i += (int)blockDim.x) {
            int row = i % height, column = i / height;
            int64_t place = matrix + (first_column + column) * rows + first_row + row;
            float value = tile[row * (WIDTH + 1) + column];
            to[place] = from_float<To>(add ? to_float(to[place]) + value : value);
        }
        __syncthreads();
    }
}

/* Cells of a convolution's kernel; 1 of a matrix. The dimensions beyond the rank are 1. */
static int64_t cells_of(const struct tensor *weight)
{
    return weight->dim[2] * weight->dim[3];
}

static void pack_from_master(struct cuda_backend *cuda, const struct tensor *master, enum dtype dtype,
                             void *packed)
{
    if (cells_of(master) == 1) {
        struct tensor to = *master;
        to.dtype = dtype;
        to.data = packed;
        cast_cuda(&cuda->base, master, &to);
        return;
    }
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        LAUNCH((transpose_each<float, T, TILE_CHANNELS, TILE_CELLS, false>),
               grid_for(cuda, tensor_count(master), THREADS), THREADS, cuda->compute,
               values_of<float>(master), static_cast<T *>(packed), master->dim[0], master->dim[1],
               cells_of(master));
    });
}

void add_packed_gradient(struct cuda_backend *cuda, const void *packed, enum dtype dtype,
                         struct tensor *gradient)
{
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        LAUNCH((transpose_each<T, float, TILE_CELLS, TILE_CHANNELS, true>),
               grid_for(cuda, tensor_count(gradient), THREADS), THREADS, cuda->compute,
               static_cast<const T *>(packed), values_of<float>(gradient), gradient->dim[0],
               cells_of(gradient), gradient->dim[1]);
    });
}

void packed_free_cuda(struct backend *backend, void *memory)
{
    struct packed_weight *packed = static_cast<struct packed_weight *>(memory);
    if (!packed || --packed->references > 0) return;
    memory_free_cuda(backend, packed->data, packed->bytes);
    free(packed);
}

static struct packed_weight *packed_new(struct backend *backend, const struct parameter *weight,
                                        enum dtype dtype)
{
    struct packed_weight *packed =
        static_cast<struct packed_weight *>(check_calloc(1, sizeof(struct packed_weight)));
    packed->dtype = dtype;
    packed->bytes = (size_t)tensor_count(&weight->value) * dtype_size(dtype);
    packed->data = memory_new_cuda(backend, packed->bytes);
    packed->references = 1;
    return packed;
}

void *pack_cuda(struct backend *backend, const struct parameter *weight, enum dtype dtype, enum packing form,
                void *old)
{
    struct packed_weight *packed = static_cast<struct packed_weight *>(old);
    if (packed && packed->dtype != dtype) {
        packed_free_cuda(backend, packed);
        packed = nullptr;
    }
    enum packing other = form == PACKED_FORWARD ? PACKED_BACKWARD : PACKED_FORWARD;
    struct packed_weight *shared = static_cast<struct packed_weight *>(weight->packed[other]);
    if (!packed && shared && shared->dtype == dtype) {
        shared->references++;
        if (!weight->packed_stale[other]) return shared;
        packed = shared;
    }
    CHECK(weight->value.data, "weight %s was frozen for other products than these, in %s",
          weight->part[0].name, dtype_name(dtype));
    if (!packed) packed = packed_new(backend, weight, dtype);
    pack_from_master(cuda_backend(backend), &weight->value, dtype, packed->data);
    return packed;
}

const void *packed_values(struct backend *backend, struct parameter *weight, enum dtype dtype,
                          enum packing form)
{
    if (weight->value.data && dtype == DTYPE_F32 && cells_of(&weight->value) == 1) {
        weight->packed_stale[form] = false;
        return weight->value.data;
    }
    struct packed_weight *packed = static_cast<struct packed_weight *>(weight->packed[form]);
    if (!packed || packed->dtype != dtype || weight->packed_stale[form]) {
        packed = static_cast<struct packed_weight *>(pack_cuda(backend, weight, dtype, form, packed));
        weight->packed[form] = packed;
        for (int i = 0; i < PACKED_FORMS; i++) // what both forms share is fresh for both
            if (weight->packed[i] == packed) weight->packed_stale[i] = false;
    }
    return packed->data;
}
