/* Activations, GEGLU, sums, mixes and conversions. */
#include "activation.h"
#include "kernel.h"

/* ---- GEGLU: x [B, T, 2 F] = (value, pre), y = gate value gelu(pre). A thread takes COUNT channels of some
 * neighbouring tokens, whose gates it loads once. */
struct geglu_shape {
    int64_t samples, tokens;
    int channels;   /* F */
    divisor groups; /* of threads a token: channels / COUNT */
    divisor parts;  /* of a sample: tokens / tokens of a thread, rounded up */
    device_gate gate;

    __host__ __device__ int64_t threads() const
    {
        return samples * parts.number * groups.number;
    }
};

static struct geglu_shape geglu_shape_of(const struct tensor *y, struct gate gate, int count, int tokens)
{
    int64_t all = tensor_tokens(y), channels = tensor_channels(y);
    return {y->dim[0],
            all,
            (int)channels,
            divisor_of(channels / count),
            divisor_of(divide_up(all, tokens)),
            device_gate_of(gate)};
}

/* A thread's part: rows [first, end) of all samples', its first channel and the gates of its channels. */
template <int COUNT> struct geglu_part {
    int64_t index; /* among all samples' */
    int64_t first, end;
    int channel;
    floats<COUNT> gates;
};

template <int COUNT, int TOKENS>
__device__ geglu_part<COUNT> geglu_part_of(const geglu_shape &shape, int64_t thread)
{
    place at = place_of(thread, shape.groups), part = place_of(at.row, shape.parts);
    int64_t token = (int64_t)part.column * TOKENS;
    int64_t end = smaller(token + TOKENS, shape.tokens);
    geglu_part<COUNT> result = {
        at.row, part.row * shape.tokens + token, part.row * shape.tokens + end, at.column * COUNT, {}};
    for (int i = 0; i < COUNT; i++)
        result.gates.value[i] = shape.gate.of_channel(part.row, result.channel + i, shape.channels);
    return result;
}

enum { GEGLU_TOKENS_FORWARD = 4, GEGLU_TOKENS_BACKWARD = 32 };

template <class T, int COUNT> __global__ void geglu_forward_kernel(const T *x, struct geglu_shape shape, T *y)
{
    for (int64_t thread = grid_thread(); thread < shape.threads(); thread += grid_threads()) {
        auto part = geglu_part_of<COUNT, GEGLU_TOKENS_FORWARD>(shape, thread);
        for (int64_t row = part.first; row < part.end; row++) {
            const T *from = x + row * 2 * shape.channels + part.channel;
            floats<COUNT> value = load<COUNT>(from), pre = load<COUNT>(from + shape.channels), out;
            for (int i = 0; i < COUNT; i++)
                out.value[i] = part.gates.value[i] * value.value[i] * gelu_erf::value(pre.value[i]);
            store(y + row * shape.channels + part.channel, out);
        }
    }
}

void geglu_forward_cuda(struct backend *backend, const struct tensor *x, struct gate gate, struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_rows(y->dtype, tensor_channels(y), [&]<class T, int COUNT>() {
        struct geglu_shape shape = geglu_shape_of(y, gate, COUNT, GEGLU_TOKENS_FORWARD);
        LAUNCH((geglu_forward_kernel<T, COUNT>), grid_for(cuda, shape.threads(), THREADS), THREADS,
               cuda->compute, values_of<T>(x), shape, values_of<T>(y));
    });
}

/* partial [B, parts, F]: sums of dy value gelu(pre) over the tokens of a part. dx, partial may be NULL. */
template <class T, int COUNT>
__global__ void geglu_backward_kernel(const T *x, struct geglu_shape shape, const T *dy, T *dx,
                                      float *partial)
{
    for (int64_t thread = grid_thread(); thread < shape.threads(); thread += grid_threads()) {
        auto part = geglu_part_of<COUNT, GEGLU_TOKENS_BACKWARD>(shape, thread);
        floats<COUNT> sum = {};
        for (int64_t row = part.first; row < part.end; row++) {
            int64_t place = row * 2 * shape.channels + part.channel;
            floats<COUNT> value = load<COUNT>(x + place), pre = load<COUNT>(x + place + shape.channels);
            floats<COUNT> gradient = load<COUNT>(dy + row * shape.channels + part.channel), dvalue, dpre;
            for (int i = 0; i < COUNT; i++) {
                normal n = normal_of(pre.value[i]);
                float gelu = pre.value[i] * n.probability, slope = pre.value[i] * n.density + n.probability;
                float gated = part.gates.value[i] * gradient.value[i];
                dvalue.value[i] = gated * gelu;
                dpre.value[i] = gated * value.value[i] * slope;
                sum.value[i] += gradient.value[i] * value.value[i] * gelu;
            }
            if (!dx) continue;
            store(dx + place, dvalue);
            store(dx + place + shape.channels, dpre);
        }
        if (partial) store(partial + part.index * shape.channels + part.channel, sum);
    }
}

void geglu_backward_cuda(struct backend *backend, const struct tensor *x, struct gate gate,
                         const struct tensor *dy, struct tensor *dx, struct tensor *dgates)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    with_rows(dy->dtype, tensor_channels(dy), [&]<class T, int COUNT>() {
        struct geglu_shape shape = geglu_shape_of(dy, gate, COUNT, GEGLU_TOKENS_BACKWARD);
        int64_t sums = dgates ? shape.samples * shape.parts.number * shape.channels : 0;
        struct scratch scratch(backend, (size_t)sums * sizeof(float));
        float *partial = dgates ? scratch.of<float>() : nullptr;
        LAUNCH((geglu_backward_kernel<T, COUNT>), grid_for(cuda, shape.threads(), THREADS), THREADS,
               cuda->compute, values_of<T>(x), shape, values_of<T>(dy), values_of<T>(dx), partial);
        if (dgates)
            add_gate_gradient(cuda, partial, shape.parts.number * shape.channels, shape.parts.number,
                              shape.channels, gate, dgates);
    });
}

/* ---- element by element */

/* y = function(x...), of arrays of any length; y may be one of x. */
template <int COUNT, class Function, class Y, class... X>
__global__ void map(int64_t count, Function function, Y *y, const X *...x)
{
    for_elements<COUNT>(count, grid_thread(), grid_threads(), [&]<int STEP>(int64_t i) {
        auto compute = [&](const auto &...in) {
            floats<STEP> out;
            for (int j = 0; j < STEP; j++) out.value[j] = function(in.value[j]...);
            store(y + i, out);
        };
        compute(load<STEP>(x + i)...);
    });
}

/* One vector of the shortest type at a time. */
template <class Function, class Y, class... X>
static void launch_map(struct cuda_backend *cuda, int64_t count, Function function, Y *y, const X *...x)
{
    constexpr int SIZE = sizeof(Y) == 2 || (... || (sizeof(X) == 2)) ? 8 : 4;
    LAUNCH((map<SIZE, Function, Y, X...>), grid_for(cuda, divide_up(count, SIZE), THREADS), THREADS,
           cuda->compute, count, function, y, x...);
}

template <class Activation> struct activation_value {
    __device__ float operator()(float x) const
    {
        return Activation::value(x);
    }
};

template <class Activation> struct activation_slope {
    __device__ float operator()(float x, float dy) const
    {
        return Activation::slope(x, dy);
    }
};

/* Calls `work` with an element of the dtype and the activation's functions. */
template <class Work> static void with_activation(enum dtype dtype, enum activation kind, Work work)
{
    with_type(dtype, [&](auto zero) {
        switch (kind) {
        case ACTIVATION_SILU:
            return work(zero, silu());
        case ACTIVATION_GELU_ERF:
            return work(zero, gelu_erf());
        case ACTIVATION_GELU_TANH:
            return work(zero, gelu_tanh());
        case ACTIVATION_GELU_QUICK:
            return work(zero, gelu_quick());
        case ACTIVATION_RELU:
            return work(zero, relu());
        }
    });
}

void activation_forward_cuda(struct backend *backend, enum activation kind, const struct tensor *x,
                             struct tensor *y)
{
    with_activation(y->dtype, kind, [&](auto zero, auto activation) {
        using T = decltype(zero);
        launch_map(cuda_backend(backend), tensor_count(y), activation_value<decltype(activation)>(),
                   values_of<T>(y), values_of<T>(x));
    });
}

void activation_backward_cuda(struct backend *backend, enum activation kind, const struct tensor *x,
                              const struct tensor *dy, struct tensor *dx)
{
    with_activation(dx->dtype, kind, [&](auto zero, auto activation) {
        using T = decltype(zero);
        launch_map(cuda_backend(backend), tensor_count(dx), activation_slope<decltype(activation)>(),
                   values_of<T>(dx), values_of<T>(x), values_of<T>(dy));
    });
}

struct sum {
    __device__ float operator()(float a, float b) const
    {
        return a + b;
    }
};

void add_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b, struct tensor *y)
{
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        launch_map(cuda_backend(backend), tensor_count(y), sum(), values_of<T>(y), values_of<T>(a),
                   values_of<T>(b));
    });
}

struct multiple {
    float factor;
    __device__ float operator()(float x) const
    {
        return factor * x;
    }
};

void scale_cuda(struct backend *backend, const struct tensor *x, float factor, struct tensor *y)
{
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        launch_map(cuda_backend(backend), tensor_count(y), multiple{factor}, values_of<T>(y),
                   values_of<T>(x));
    });
}

struct identity {
    __device__ float operator()(float x) const
    {
        return x;
    }
};

void cast_cuda(struct backend *backend, const struct tensor *x, struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    if (x->dtype == y->dtype)
        CUDA_CHECK(
            cudaMemcpyAsync(y->data, x->data, tensor_bytes(x), cudaMemcpyDeviceToDevice, cuda->compute));
    else if (x->dtype == DTYPE_F32)
        launch_map(cuda, tensor_count(x), identity(), values_of<__nv_bfloat16>(y), values_of<float>(x));
    else
        launch_map(cuda, tensor_count(x), identity(), values_of<float>(y), values_of<__nv_bfloat16>(x));
}

/* ---- mixes: y = (1 - d) x + d f, d a number for each sample */
template <class T, int COUNT>
__global__ void depth_mix_forward_kernel(const T *x, const T *f, device_gate gate, int64_t samples,
                                         int64_t elements, T *y)
{
    for_chunks(samples, elements, [&](const chunk &chunk) {
        float depth = gate.of_channel(chunk.sample, 0, 1);
        int64_t first = chunk.sample * elements + chunk.first;
        for_elements<COUNT>(chunk.count, (int)threadIdx.x, (int)blockDim.x, [&]<int STEP>(int i) {
            floats<STEP> from = load<STEP>(x + first + i), to = load<STEP>(f + first + i), out;
            for (int j = 0; j < STEP; j++) out.value[j] = (1 - depth) * from.value[j] + depth * to.value[j];
            store(y + first + i, out);
        });
    });
}

void depth_mix_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *f,
                            struct gate gate, struct tensor *y)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t samples = y->dim[0], elements = tensor_count(y) / samples;
    with_rows(y->dtype, elements, [&]<class T, int COUNT>() {
        LAUNCH((depth_mix_forward_kernel<T, COUNT>),
               grid_for(cuda, samples * chunks_of(elements) * THREADS, THREADS), THREADS, cuda->compute,
               values_of<T>(x), values_of<T>(f), device_gate_of(gate), samples, elements, values_of<T>(y));
    });
}

/* partial [B, chunks]: sums of dy (f - x) over a chunk. dx, df, partial may be NULL. */
template <class T, int COUNT>
__global__ void depth_mix_backward_kernel(const T *x, const T *f, device_gate gate, int64_t samples,
                                          int64_t elements, const T *dy, T *dx, T *df, float *partial)
{
    SHARED(float, shared, WARP);
    for_chunks(samples, elements, [&](const chunk &chunk) {
        float depth = gate.of_channel(chunk.sample, 0, 1), sum = 0;
        int64_t first = chunk.sample * elements + chunk.first;
        for_elements<COUNT>(chunk.count, (int)threadIdx.x, (int)blockDim.x, [&]<int STEP>(int i) {
            floats<STEP> gradient = load<STEP>(dy + first + i), out;
            if (dx) {
                for (int j = 0; j < STEP; j++) out.value[j] = (1 - depth) * gradient.value[j];
                store(dx + first + i, out);
            }
            if (df) {
                for (int j = 0; j < STEP; j++) out.value[j] = depth * gradient.value[j];
                store(df + first + i, out);
            }
            if (!partial) return;
            floats<STEP> from = load<STEP>(x + first + i), to = load<STEP>(f + first + i);
            for (int j = 0; j < STEP; j++) sum += gradient.value[j] * (to.value[j] - from.value[j]);
        });
        if (!partial) return;
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) partial[chunk.index] = sum;
    });
}

void depth_mix_backward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *f,
                             struct gate gate, const struct tensor *dy, struct tensor *dx, struct tensor *df,
                             struct tensor *dgates)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    int64_t samples = dy->dim[0], elements = tensor_count(dy) / samples, chunks = chunks_of(elements);
    struct scratch scratch(backend, dgates ? (size_t)(samples * chunks) * sizeof(float) : 0);
    float *partial = dgates ? scratch.of<float>() : nullptr;
    with_rows(dy->dtype, elements, [&]<class T, int COUNT>() {
        LAUNCH((depth_mix_backward_kernel<T, COUNT>), grid_for(cuda, samples * chunks * THREADS, THREADS),
               THREADS, cuda->compute, values_of<T>(x), values_of<T>(f), device_gate_of(gate), samples,
               elements, values_of<T>(dy), values_of<T>(dx), values_of<T>(df), partial);
    });
    if (dgates) add_gate_gradient(cuda, partial, chunks, chunks, 1, gate, dgates);
}
