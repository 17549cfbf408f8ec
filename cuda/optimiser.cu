/* AdamW, moving averages, gradient norms and buckets: many fp32 arrays in few launches. */
#include "kernel.h"

#include <math.h>

/* The arrays of a launch go to the device in the kernel's parameters, which may take 4 KiB: nothing is
 * copied. The arrays are cut into chunks, of which a block takes one at a time. */
enum { ARRAYS = 80, OPERANDS = 4 };

struct array_table {
    float *operand[ARRAYS][OPERANDS]; /* what they are is up to the kernel; those that it has not are NULL */
    int64_t count[ARRAYS];            /* elements */
    int64_t first_chunk[ARRAYS + 1];
    int arrays;
};
static_assert(sizeof(struct array_table) + 64 <= 4096, "with some numbers besides");

__device__ inline int64_t chunks_in(const array_table &table)
{
    return table.first_chunk[table.arrays];
}

/* The array of a chunk: the last one that begins at it or before. */
__device__ inline chunk chunk_of(const array_table &table, int64_t index)
{
    int low = 0, high = table.arrays;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (table.first_chunk[middle] <= index)
            low = middle;
        else
            high = middle;
    }
    return chunk_at(index, low, index - table.first_chunk[low], table.count[low]);
}

/* Calls step<STEP>(operands, i) for the chunk's elements [i, i + STEP) of the array, shared out among the
 * block. In vectors where all operands are at multiples of 16 bytes: pieces of a bucket need not be. */
template <class Step>
__device__ inline void for_chunk_elements(const array_table &table, const chunk &chunk, Step step)
{
    float *const *operand = table.operand[chunk.sample];
    uintptr_t addresses = 0;
    for (int i = 0; i < OPERANDS; i++) addresses |= reinterpret_cast<uintptr_t>(operand[i]);
    auto at = [&]<int STEP>(int i) { step.template operator()<STEP>(operand, chunk.first + i); };
    int thread = (int)threadIdx.x, threads = (int)blockDim.x;
    if (addresses % sizeof(vector<float>) == 0)
        for_elements<vector<float>::SIZE>(chunk.count, thread, threads, at);
    else
        for_elements<1>(chunk.count, thread, threads, at);
}

/* Calls launch(table, grid) for tables of all arrays; operands_of(array, operand) sets the array's operands.
 */
template <class Operands, class Launch>
static void for_tables(const struct cuda_backend *cuda, int count, const struct trained_array *arrays,
                       Operands operands_of, Launch launch)
{
    for (int first = 0; first < count; first += ARRAYS) {
        struct array_table table = {};
        table.arrays = count - first < ARRAYS ? count - first : ARRAYS;
        for (int i = 0; i < table.arrays; i++) {
            const struct trained_array *array = &arrays[first + i];
            operands_of(array, table.operand[i]);
            table.count[i] = array->count;
            table.first_chunk[i + 1] = table.first_chunk[i] + chunks_of(array->count);
        }
        int64_t chunks = table.first_chunk[table.arrays];
        if (chunks > 0) launch(table, grid_for(cuda, chunks * THREADS, THREADS));
    }
}

/* ---- AdamW */

struct adamw_factors {
    float decay, step, inverse_deviation, beta1, beta2, rest1, rest2, epsilon, scale;
};

/* Loshchilov and Hutter 2019, in the order of torch.optim.AdamW: decay, moments, corrected step. */
__global__ void adamw_kernel(const array_table table, const adamw_factors factors)
{
    for (int64_t index = blockIdx.x; index < chunks_in(table); index += gridDim.x)
        for_chunk_elements(table, chunk_of(table, index), [&]<int STEP>(float *const *operand, int64_t i) {
            floats<STEP> value = load<STEP>(operand[0] + i), gradient = load<STEP>(operand[1] + i),
                         first = load<STEP>(operand[2] + i), second = load<STEP>(operand[3] + i);
            for (int j = 0; j < STEP; j++) {
                float g = factors.scale * gradient.value[j];
                float m = factors.beta1 * first.value[j] + factors.rest1 * g;
                float v = factors.beta2 * second.value[j] + factors.rest2 * g * g;
                float deviation = sqrtf(v) * factors.inverse_deviation + factors.epsilon;
                first.value[j] = m;
                second.value[j] = v;
                value.value[j] = factors.decay * value.value[j] - factors.step * m / deviation;
            }
            store(operand[0] + i, value);
            store(operand[2] + i, first);
            store(operand[3] + i, second);
        });
}

void adamw_cuda(struct backend *backend, const struct adamw *adamw, int count,
                const struct trained_array *arrays)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    double correction1 = 1 - pow(adamw->beta1, (double)adamw->step);
    double correction2 = 1 - pow(adamw->beta2, (double)adamw->step);
    struct adamw_factors factors = {};
    factors.decay = (float)(1 - (double)adamw->learning_rate * adamw->weight_decay);
    factors.step = (float)(adamw->learning_rate / correction1);
    factors.inverse_deviation = (float)(1 / sqrt(correction2));
    factors.beta1 = adamw->beta1;
    factors.beta2 = adamw->beta2;
    factors.rest1 = (float)(1 - (double)adamw->beta1);
    factors.rest2 = (float)(1 - (double)adamw->beta2);
    factors.epsilon = adamw->epsilon;
    factors.scale = adamw->gradient_scale;
    auto operands_of = [](const struct trained_array *array, float **operand) {
        operand[0] = array->value;
        operand[1] = array->gradient;
        operand[2] = array->first_moment;
        operand[3] = array->second_moment;
    };
    for_tables(cuda, count, arrays, operands_of, [&](const struct array_table &table, int grid) {
        LAUNCH(adamw_kernel, grid, THREADS, cuda->compute, table, factors);
    });
}

/* ---- moving averages */
__global__ void average_kernel(const array_table table, float decay, float rest)
{
    for (int64_t index = blockIdx.x; index < chunks_in(table); index += gridDim.x)
        for_chunk_elements(table, chunk_of(table, index), [&]<int STEP>(float *const *operand, int64_t i) {
            floats<STEP> value = load<STEP>(operand[0] + i), average = load<STEP>(operand[1] + i);
            for (int j = 0; j < STEP; j++)
                average.value[j] = decay * average.value[j] + rest * value.value[j];
            store(operand[1] + i, average);
        });
}

void average_cuda(struct backend *backend, float decay, int count, const struct trained_array *arrays)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    auto operands_of = [](const struct trained_array *array, float **operand) {
        operand[0] = array->value;
        operand[1] = array->average;
    };
    for_tables(cuda, count, arrays, operands_of, [&](const struct array_table &table, int grid) {
        LAUNCH(average_kernel, grid, THREADS, cuda->compute, table, decay, (float)(1 - (double)decay));
    });
}

/* ---- norms of gradients */

/* partial [chunks]: sums of squares */
__global__ void squares_of_chunks(const array_table table, double *partial)
{
    SHARED(double, shared, WARP);
    for (int64_t index = blockIdx.x; index < chunks_in(table); index += gridDim.x) {
        double sum = 0;
        for_chunk_elements(table, chunk_of(table, index), [&]<int STEP>(float *const *operand, int64_t i) {
            floats<STEP> value = load<STEP>(operand[0] + i);
            for (int j = 0; j < STEP; j++) sum += (double)value.value[j] * value.value[j];
        });
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) partial[index] = sum;
    }
}

/* total = the sum of partial [count], by one block */
__global__ void sum_of_partial(const double *partial, int64_t count, double *total)
{
    SHARED(double, shared, WARP);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *total = sum;
}

double sum_of_squares_cuda(struct backend *backend, int count, const struct trained_array *arrays)
{
    enum { THREADS_OF_TOTAL = 1024 }; // partial sums of billions of parameters are hundreds of thousands
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t chunks = 0;
    for (int i = 0; i < count; i++) chunks += chunks_of(arrays[i].count);
    struct scratch scratch(backend, (size_t)(chunks + 1) * sizeof(double));
    double *partial = scratch.of<double>(), *total = partial + chunks, result;
    auto operands_of = [](const struct trained_array *array, float **operand) {
        operand[0] = array->gradient;
    };
    for_tables(cuda, count, arrays, operands_of, [&](const struct array_table &table, int grid) {
        LAUNCH(squares_of_chunks, grid, THREADS, cuda->compute, table, partial);
        partial += table.first_chunk[table.arrays];
    });
    LAUNCH(sum_of_partial, 1, THREADS_OF_TOTAL, cuda->compute, total - chunks, chunks, total);
    download_cuda(backend, &result, total, sizeof result);
    return result;
}

/* ---- buckets */

/* operand 1 = operand 0 */
__global__ void copy_arrays(const array_table table)
{
    for (int64_t index = blockIdx.x; index < chunks_in(table); index += gridDim.x)
        for_chunk_elements(table, chunk_of(table, index), [&]<int STEP>(float *const *operand, int64_t i) {
            store(operand[1] + i, load<STEP>(operand[0] + i));
        });
}

void bucket_pack_cuda(struct backend *backend, int count, const struct trained_array *arrays, float *packed)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    auto operands_of = [&](const struct trained_array *array, float **operand) {
        operand[0] = array->gradient;
        operand[1] = packed;
        packed += array->count;
    };
    for_tables(cuda, count, arrays, operands_of, [&](const struct array_table &table, int grid) {
        LAUNCH(copy_arrays, grid, THREADS, cuda->compute, table);
    });
}

void bucket_unpack_cuda(struct backend *backend, const float *packed, int count,
                        const struct trained_array *arrays)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    auto operands_of = [&](const struct trained_array *array, float **operand) {
        operand[0] = const_cast<float *>(packed); // copy_arrays only reads it
        operand[1] = array->gradient;
        packed += array->count;
    };
    for_tables(cuda, count, arrays, operands_of, [&](const struct array_table &table, int grid) {
        LAUNCH(copy_arrays, grid, THREADS, cuda->compute, table);
    });
}
