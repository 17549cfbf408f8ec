/* The squared error of each sample. */
#include "kernel.h"

/* As with_rows, with the element type of b too: that of a, or fp32. */
template <class Work>
static void with_operands(const struct tensor *a, const struct tensor *b, int64_t elements, Work work)
{
    with_rows(a->dtype, elements, [&]<class T, int COUNT>() {
        if (b->dtype == a->dtype)
            work.template operator()<T, T, COUNT>();
        else
            work.template operator()<T, float, COUNT>();
    });
}

/* partial [B, chunks]: sums of (a - b)^2 over a chunk */
template <class T, class U, int COUNT>
__global__ void squared_error_chunks(const T *a, const U *b, int64_t samples, int64_t elements,
                                     float *partial)
{
    SHARED(float, shared, WARP);
    for_chunks(samples, elements, [&](const chunk &chunk) {
        int64_t first = chunk.sample * elements + chunk.first;
        float sum = 0;
        for_elements<COUNT>(chunk.count, (int)threadIdx.x, (int)blockDim.x, [&]<int STEP>(int i) {
            floats<STEP> one = load<STEP>(a + first + i), other = load<STEP>(b + first + i);
            for (int j = 0; j < STEP; j++) {
                float difference = one.value[j] - other.value[j];
                sum += difference * difference;
            }
        });
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) partial[chunk.index] = sum;
    });
}

/* loss [B] = sums of partial [B, chunks] / elements. A block takes a sample. */
__global__ void squared_error_mean(const float *partial, int64_t samples, int64_t elements, float *loss)
{
    SHARED(double, shared, WARP);
    int64_t chunks = chunks_of(elements);
    for (int64_t sample = blockIdx.x; sample < samples; sample += gridDim.x) {
        double sum = 0;
        for (int64_t i = threadIdx.x; i < chunks; i += blockDim.x) sum += partial[sample * chunks + i];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) loss[sample] = (float)(sum / (double)elements);
    }
}

void squared_error_forward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                struct tensor *loss)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t samples = a->dim[0], elements = tensor_count(a) / samples, chunks = chunks_of(elements);
    struct scratch scratch(backend, (size_t)(samples * chunks) * sizeof(float));
    float *partial = scratch.of<float>();
    with_operands(a, b, elements, [&]<class T, class U, int COUNT>() {
        LAUNCH((squared_error_chunks<T, U, COUNT>), grid_for(cuda, samples * chunks * THREADS, THREADS),
               THREADS, cuda->compute, values_of<T>(a), values_of<U>(b), samples, elements, partial);
    });
    LAUNCH(squared_error_mean, grid_for(cuda, samples * THREADS, THREADS), THREADS, cuda->compute, partial,
           samples, elements, values_of<float>(loss));
}

template <class T, class U, int COUNT>
__global__ void squared_error_slope(const T *a, const U *b, const float *seed, int64_t samples,
                                    int64_t elements, T *da)
{
    for_chunks(samples, elements, [&](const chunk &chunk) {
        int64_t first = chunk.sample * elements + chunk.first;
        float factor = 2 * seed[chunk.sample] / (float)elements;
        for_elements<COUNT>(chunk.count, (int)threadIdx.x, (int)blockDim.x, [&]<int STEP>(int i) {
            floats<STEP> one = load<STEP>(a + first + i), other = load<STEP>(b + first + i), out;
            for (int j = 0; j < STEP; j++) out.value[j] = factor * (one.value[j] - other.value[j]);
            store(da + first + i, out);
        });
    });
}

void squared_error_backward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                 const struct tensor *seed, struct tensor *da)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t samples = a->dim[0], elements = tensor_count(a) / samples;
    with_operands(a, b, elements, [&]<class T, class U, int COUNT>() {
        LAUNCH((squared_error_slope<T, U, COUNT>),
               grid_for(cuda, samples * chunks_of(elements) * THREADS, THREADS), THREADS, cuda->compute,
               values_of<T>(a), values_of<U>(b), values_of<float>(seed), samples, elements, values_of<T>(da));
    });
}
