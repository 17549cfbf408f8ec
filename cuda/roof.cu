/* The roof of a device: cuBLASLt's products, cuDNN's convolutions and copies, of sizes that fill it. Which
 * sizes do is not known beforehand: each measurement begins small and grows until one run takes long enough.
 */
#include "device.h"

extern "C" {
#include "base/random.h"
#include "base/timer.h"
}

#include <math.h>
#include <string.h>

static constexpr double LONG_ENOUGH = 2e-3; /* s, of a run: all processors have had many pieces of it */
static constexpr double BATCH = 10e-3;      /* s, of runs between two looks at the clock */
static constexpr int64_t LARGEST = 1 << 30; /* bytes of an operand */

/* Fills memory with normal numbers, again and again the same few: what operands hold tells in the power that
 * arithmetic takes and so in its speed, which zeros would flatter. */
static void fill(struct cuda_backend *cuda, enum dtype dtype, void *memory, size_t bytes)
{
    enum { COUNT = 65521 }; // not of the order of any dimension
    float *values = static_cast<float *>(check_malloc(COUNT * sizeof *values));
    random_normal({1, RANDOM_BENCH, 0, 0}, COUNT, values);
    if (dtype == DTYPE_BF16)
        for (int i = 0; i < COUNT; i++) { // in place: an element ends before the next one begins
            uint16_t half = bf16_from_float(values[i]);
            memcpy(reinterpret_cast<char *>(values) + sizeof half * (size_t)i, &half, sizeof half);
        }
    size_t done = COUNT * dtype_size(dtype);
    if (done > bytes) done = bytes;
    upload_cuda(&cuda->base, memory, values, done);
    free(values);
    for (size_t more; done < bytes; done += more) {
        more = done < bytes - done ? done : bytes - done;
        CUDA_CHECK(cudaMemcpyAsync(static_cast<char *>(memory) + done, memory, more, cudaMemcpyDeviceToDevice,
                                   cuda->compute));
    }
}

/* Seconds of one run, what `enqueue` asks for: the best of the batches of runs of about `seconds`, at least
 * one. */
template <class Enqueue> static double time_of(struct cuda_backend *cuda, double seconds, Enqueue enqueue)
{
    enqueue(); // chooses the algorithm and loads its kernels
    synchronize_cuda(&cuda->base);
    double best = INFINITY, start = timer_now(), before = start, now;
    int runs = 1;
    do {
        for (int i = 0; i < runs; i++) enqueue();
        synchronize_cuda(&cuda->base);
        now = timer_now();
        best = fmin(best, (now - before) / runs);
        if (now - before < BATCH) runs *= 2;
        before = now;
    } while (now - start < seconds);
    return best;
}

/* The best of the rates that attempt(size, &time) gives at sizes 1, 2, 4, ..., until one run's time is long
 * enough; it gives 0 where memory would be too much. */
template <class Attempt> static double best_rate(Attempt attempt)
{
    double best = 0, rate, time = 0;
    for (int64_t size = 1; time < LONG_ENOUGH && (rate = attempt(size, &time)) > 0; size *= 2)
        best = fmax(best, rate);
    return best;
}

/* GFLOP/s of a square product. */
static double product_rate(struct cuda_backend *cuda, enum dtype dtype, int64_t side, double seconds,
                           double *time)
{
    size_t bytes = (size_t)(side * side) * dtype_size(dtype);
    if (bytes > LARGEST) return 0;
    struct scratch a(&cuda->base, bytes), b(&cuda->base, bytes), c(&cuda->base, bytes);
    auto square = [&](const struct scratch *memory) {
        return matrices{memory->of<void>(), dtype, side, side, side, 0};
    };
    fill(cuda, dtype, a.of<void>(), bytes);
    fill(cuda, dtype, b.of<void>(), bytes);
    *time = time_of(cuda, seconds, [&] {
        multiply(cuda, 1, 1, square(&a), false, square(&b), true, 0, nullptr, nullptr, square(&c));
    });
    return 2e-9 * (double)(side * side * side) / *time;
}

static struct tensor tensor_of(enum dtype dtype, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
    struct tensor tensor = {};
    tensor.dtype = dtype;
    tensor.rank = 4;
    tensor.dim[0] = d0, tensor.dim[1] = d1, tensor.dim[2] = d2, tensor.dim[3] = d3;
    return tensor;
}

/* GFLOP/s of a 3x3 convolution that keeps the shape of its map [samples, side, side, channels]. */
static double convolution_rate(struct cuda_backend *cuda, enum dtype dtype, int64_t samples, int64_t side,
                               int64_t channels, double seconds, double *time)
{
    static const struct convolution geometry = {1, 1, 1, 1, 1};
    struct tensor x = tensor_of(dtype, samples, side, side, channels), y = x;
    struct parameter weight = {};
    weight.value = tensor_of(DTYPE_F32, channels, channels, 3, 3); // no master: its packed form is all
    size_t bytes = tensor_bytes(&x), weight_bytes = (size_t)tensor_count(&weight.value) * dtype_size(dtype);
    if (bytes > LARGEST) return 0;
    struct scratch x_memory(&cuda->base, bytes), y_memory(&cuda->base, bytes);
    struct scratch weight_memory(&cuda->base, weight_bytes);
    struct packed_weight packed = {dtype, weight_memory.of<void>(), weight_bytes, 1};
    weight.packed[PACKED_FORWARD] = &packed;
    x.data = x_memory.of<void>();
    y.data = y_memory.of<void>();
    fill(cuda, dtype, x.data, bytes);
    fill(cuda, dtype, packed.data, weight_bytes);
    *time = time_of(cuda, seconds, [&] {
        convolution_forward_cuda(&cuda->base, &geometry, &x, &weight, nullptr, nullptr, &y);
    });
    return 2e-9 * (double)(tensor_count(&x) * channels * 9) / *time;
}

/* GB/s of copies inside the device's memory, eight times what its cache holds: each byte is read and written.
 */
static double copy_rate(struct cuda_backend *cuda, double seconds)
{
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, cuda->device));
    size_t bytes = 8 * (size_t)properties.l2CacheSize;
    struct scratch from(&cuda->base, bytes), to(&cuda->base, bytes);
    fill(cuda, DTYPE_F32, from.of<void>(), bytes);
    double time = time_of(cuda, seconds, [&] {
        CUDA_CHECK(
            cudaMemcpyAsync(to.of<void>(), from.of<void>(), bytes, cudaMemcpyDeviceToDevice, cuda->compute));
    });
    return 2e-9 * (double)bytes / time;
}

double roof_cuda(struct backend *backend, enum roof kind, enum dtype dtype, double seconds)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    if (kind == ROOF_COPY) return copy_rate(cuda, seconds);
    if (kind == ROOF_MATMUL)
        return best_rate(
            [&](int64_t size, double *time) { return product_rate(cuda, dtype, 128 * size, seconds, time); });
    double best = 0; // of the widths of the SD 2.1 UNet; at 32, [32, 64, 64] are its larger maps
    for (int64_t channels : {320, 640, 1280})
        best = fmax(best, best_rate([&](int64_t size, double *time) {
                        return convolution_rate(cuda, dtype, size, 2 * size, channels, seconds, time);
                    }));
    return best;
}
