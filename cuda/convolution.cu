/* Convolutions on cuDNN, with NHWC maps and filters; those that are matrix products go to linear.cu.
 *
 * This is cuDNN's older interface of one call a convolution, which version 9 deprecates in favour of
 * operation graphs but keeps. It is used because its kernels are compiled: a graph's engine may be built at
 * run time, seconds a shape, and its plans would need a layer of code of their own for what here is one file.
 * All calls of cuDNN's convolutions are in this file, so that a change of mind stays in it.
 *
 * cuDNN pads a map alike on both sides. What a geometry has more on one side is put around a copy of the map
 * first. */
#include "kernel.h"
#include "shape_cache.h"

enum direction { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT };

/* Everything that the choice of an algorithm may depend on. */
struct convolution_key {
    int64_t direction, dtype, tf32;
    int64_t samples, height, width, in; /* of x */
    int64_t out, kernel_height, kernel_width;
    int64_t stride, pad_height, pad_width;
};

/* Owned handles, and what was chosen: `algorithm` is of the direction's own enum. */
struct convolution_plan {
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t weight;
    cudnnConvolutionDescriptor_t geometry;
    int algorithm;
    size_t workspace;
};

struct convolution_cache {
    struct shape_cache<convolution_key, convolution_plan> plans;
};

enum { WORKSPACE_MAX = 256 << 20 };

struct convolution_cache *convolution_cache_new(void)
{
    return static_cast<struct convolution_cache *>(check_calloc(1, sizeof(struct convolution_cache)));
}

void convolution_cache_delete(struct convolution_cache *cache)
{
    shape_cache_clear(&cache->plans, [](struct convolution_plan *plan) {
        CUDNN_CHECK(cudnnDestroyTensorDescriptor(plan->x));
        CUDNN_CHECK(cudnnDestroyTensorDescriptor(plan->y));
        CUDNN_CHECK(cudnnDestroyFilterDescriptor(plan->weight));
        CUDNN_CHECK(cudnnDestroyConvolutionDescriptor(plan->geometry));
    });
    free(cache);
}

/* ---- plans */

static cudnnTensorDescriptor_t map_new(cudnnDataType_t type, int64_t samples, int64_t height, int64_t width,
                                       int64_t channels)
{
    CHECK(samples * height * width * channels <= INT32_MAX,
          "a map [%lld, %lld, %lld, %lld] is larger than cuDNN takes: a smaller batch is needed",
          (long long)samples, (long long)height, (long long)width, (long long)channels);
    cudnnTensorDescriptor_t map;
    CUDNN_CHECK(cudnnCreateTensorDescriptor(&map));
    CUDNN_CHECK(cudnnSetTensor4dDescriptor(map, CUDNN_TENSOR_NHWC, type, (int)samples, (int)channels,
                                           (int)height, (int)width));
    return map;
}

/* bf16 may use tensor cores; fp32 in their 10 bits of mantissa where that is wanted, else never. */
static cudnnMathType_t math_of(const struct convolution_key *key)
{
    if (key->dtype == DTYPE_BF16) return CUDNN_TENSOR_OP_MATH;
    return key->tf32 ? CUDNN_DEFAULT_MATH : CUDNN_FMA_MATH;
}

static struct convolution_plan descriptors_new(const struct convolution_key *key)
{
    cudnnDataType_t type = key->dtype == DTYPE_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    struct convolution_plan plan = {};
    plan.x = map_new(type, key->samples, key->height, key->width, key->in);
    plan.y = map_new(type, key->samples,
                     (key->height + 2 * key->pad_height - key->kernel_height) / key->stride + 1,
                     (key->width + 2 * key->pad_width - key->kernel_width) / key->stride + 1, key->out);
    CUDNN_CHECK(cudnnCreateFilterDescriptor(&plan.weight));
    CUDNN_CHECK(cudnnSetFilter4dDescriptor(plan.weight, type, CUDNN_TENSOR_NHWC, (int)key->out, (int)key->in,
                                           (int)key->kernel_height, (int)key->kernel_width));
    CUDNN_CHECK(cudnnCreateConvolutionDescriptor(&plan.geometry));
    CUDNN_CHECK(cudnnSetConvolution2dDescriptor(plan.geometry, (int)key->pad_height, (int)key->pad_width,
                                                (int)key->stride, (int)key->stride, 1, 1,
                                                CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
    CUDNN_CHECK(cudnnSetConvolutionMathType(plan.geometry, math_of(key)));
    return plan;
}

/* Puts the fastest algorithm by cuDNN's own estimate into the plan: of those that give the same bits each
 * time and, if any does, keep within the workspace; else the one with the smallest. `ask` is one of cuDNN's
 * cudnnGetConvolution...Algorithm_v7, which sort by time. */
template <class Result, int COUNT, class Ask>
static void choose(const struct convolution_key *key, struct convolution_plan *plan, Ask ask)
{
    Result results[COUNT];
    int count = 0;
    const Result *best = nullptr;
    CUDNN_CHECK(ask(COUNT, &count, results));
    for (const Result *result = results; result < results + count; result++) {
        if (result->status != CUDNN_STATUS_SUCCESS || result->determinism != CUDNN_DETERMINISTIC) continue;
        if (math_of(key) == CUDNN_FMA_MATH && result->mathType != CUDNN_FMA_MATH) continue;
        if (!best || (best->memory > WORKSPACE_MAX && result->memory < best->memory)) best = result;
    }
    CHECK(best, "cuDNN has no deterministic convolution (direction %d) of [%lld, %lld, %lld, %lld] %s",
          (int)key->direction, (long long)key->samples, (long long)key->height, (long long)key->width,
          (long long)key->in, dtype_name((enum dtype)key->dtype));
    CUDNN_CHECK(cudnnSetConvolutionMathType(plan->geometry, best->mathType));
    plan->algorithm = best->algo;
    plan->workspace = best->memory;
}

static void choose_forward(struct cuda_backend *cuda, const struct convolution_key *key,
                           struct convolution_plan *plan)
{
    choose<cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_COUNT>(
        key, plan, [&](int wanted, int *count, cudnnConvolutionFwdAlgoPerf_t *results) {
            return cudnnGetConvolutionForwardAlgorithm_v7(cuda->cudnn, plan->x, plan->weight, plan->geometry,
                                                          plan->y, wanted, count, results);
        });
}

static void choose_backward_input(struct cuda_backend *cuda, const struct convolution_key *key,
                                  struct convolution_plan *plan)
{
    choose<cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT>(
        key, plan, [&](int wanted, int *count, cudnnConvolutionBwdDataAlgoPerf_t *results) {
            return cudnnGetConvolutionBackwardDataAlgorithm_v7(
                cuda->cudnn, plan->weight, plan->y, plan->geometry, plan->x, wanted, count, results);
        });
}

static void choose_backward_weight(struct cuda_backend *cuda, const struct convolution_key *key,
                                   struct convolution_plan *plan)
{
    choose<cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT>(
        key, plan, [&](int wanted, int *count, cudnnConvolutionBwdFilterAlgoPerf_t *results) {
            return cudnnGetConvolutionBackwardFilterAlgorithm_v7(
                cuda->cudnn, plan->x, plan->y, plan->geometry, plan->weight, wanted, count, results);
        });
}

/* ---- geometry */

static bool is_product(const struct convolution *geometry, const struct tensor *weight)
{
    return weight->dim[2] == 1 && weight->dim[3] == 1 && geometry->stride == 1 && geometry->pad_top == 0 &&
           geometry->pad_bottom == 0 && geometry->pad_left == 0 && geometry->pad_right == 0;
}

static bool pads_differ(const struct convolution *geometry)
{
    return geometry->pad_top != geometry->pad_bottom || geometry->pad_left != geometry->pad_right;
}

/* Rows above and columns left of the map in its padded copy: what that side has more than the other. */
static int64_t rows_above(const struct convolution *geometry)
{
    return geometry->pad_top - smaller(geometry->pad_top, geometry->pad_bottom);
}

static int64_t columns_left(const struct convolution *geometry)
{
    return geometry->pad_left - smaller(geometry->pad_left, geometry->pad_right);
}

/* The shape of x with the pads that the two sides do not share; the data are another's. */
static struct tensor padded_shape(const struct convolution *geometry, const struct tensor *x)
{
    struct tensor padded = *x;
    padded.dim[1] += llabs(geometry->pad_top - geometry->pad_bottom);
    padded.dim[2] += llabs(geometry->pad_left - geometry->pad_right);
    return padded;
}

/* `x` has its padded shape. */
static struct convolution_plan *plan_of(struct cuda_backend *cuda, enum direction direction,
                                        const struct convolution *geometry, const struct tensor *x,
                                        const struct tensor *weight)
{
    struct convolution_key key = {
        .direction = direction,
        .dtype = x->dtype,
        .tf32 = cuda->base.tf32,
        .samples = x->dim[0],
        .height = x->dim[1],
        .width = x->dim[2],
        .in = x->dim[3],
        .out = weight->dim[0],
        .kernel_height = weight->dim[2],
        .kernel_width = weight->dim[3],
        .stride = geometry->stride,
        .pad_height = smaller(geometry->pad_top, geometry->pad_bottom),
        .pad_width = smaller(geometry->pad_left, geometry->pad_right),
    };
    bool fresh;
    struct convolution_plan *plan = shape_value(&cuda->convolutions->plans, key, &fresh);
    if (!fresh) return plan;
    *plan = descriptors_new(&key);
    if (direction == FORWARD)
        choose_forward(cuda, &key, plan);
    else if (direction == BACKWARD_INPUT)
        choose_backward_input(cuda, &key, plan);
    else
        choose_backward_weight(cuda, &key, plan);
    return plan;
}

/* ---- kernels */

/* to [samples, height, width, units] = from [samples, from_height, from_width, units] at (row + down, column
 * + right); zero outside of it. */
template <class Unit>
__global__ void move_window(const Unit *from, Unit *to, int64_t count, int64_t height, int64_t width,
                            int64_t units, int64_t from_height, int64_t from_width, int64_t down,
                            int64_t right)
{
    for (int64_t i = grid_thread(); i < count; i += grid_threads()) {
        int64_t place = i / units, column = place % width + right, row = place / width % height + down;
        bool inside = row >= 0 && row < from_height && column >= 0 && column < from_width;
        int64_t sample = place / width / height;
        Unit value = {};
        if (inside) value = from[((sample * from_height + row) * from_width + column) * units + i % units];
        to[i] = value;
    }
}

static void move_map(struct cuda_backend *cuda, const struct tensor *from, struct tensor *to, int64_t down,
                     int64_t right)
{
    with_rows(to->dtype, to->dim[3], [&]<class T, int COUNT>() {
        using Unit = packed<T, COUNT>;
        int64_t count = tensor_count(to) / COUNT;
        LAUNCH((move_window<Unit>), grid_for(cuda, count, THREADS), THREADS, cuda->compute,
               values_of<Unit>(from), values_of<Unit>(to), count, to->dim[1], to->dim[2], to->dim[3] / COUNT,
               from->dim[1], from->dim[2], down, right);
    });
}

/* y [.., channels] += bias [channels] + residual, each of which may be NULL: one pass for both, on what cuDNN
 * has rounded to the compute dtype already. */
template <class T, int COUNT>
__global__ void add_bias_and_residual(T *y, int64_t count, const float *bias, int64_t channels,
                                      const T *residual)
{
    for (int64_t i = grid_thread() * COUNT; i < count; i += grid_threads() * COUNT) {
        floats<COUNT> sum = load<COUNT>(y + i), more = {};
        if (residual) more = load<COUNT>(residual + i);
        int64_t channel = i % channels;
        for (int j = 0; j < COUNT; j++) {
            if (bias) sum.value[j] += bias[channel + j];
            if (residual) sum.value[j] += more.value[j];
        }
        store(y + i, sum);
    }
}

static void add_to_map(struct cuda_backend *cuda, struct tensor *y, const struct tensor *bias,
                       const struct tensor *residual)
{
    with_rows(y->dtype, y->dim[3], [&]<class T, int COUNT>() {
        LAUNCH((add_bias_and_residual<T, COUNT>), grid_for(cuda, tensor_count(y) / COUNT, THREADS), THREADS,
               cuda->compute, values_of<T>(y), tensor_count(y), values_of<float>(bias), y->dim[3],
               values_of<T>(residual));
    });
}

/* ---- slots */

static const float one = 1, none = 0;

/* x itself, or its padded copy in `memory`. */
static struct tensor padded_map(struct cuda_backend *cuda, const struct convolution *geometry,
                                const struct tensor *x, const struct scratch *memory)
{
    if (!pads_differ(geometry)) return *x;
    struct tensor padded = padded_shape(geometry, x);
    padded.data = memory->of<void>();
    move_map(cuda, x, &padded, -rows_above(geometry), -columns_left(geometry));
    return padded;
}

static size_t padded_bytes(const struct convolution *geometry, const struct tensor *x)
{
    struct tensor padded = padded_shape(geometry, x);
    return pads_differ(geometry) ? tensor_bytes(&padded) : 0;
}

void convolution_forward_cuda(struct backend *backend, const struct convolution *geometry,
                              const struct tensor *x, struct parameter *weight, const struct tensor *bias,
                              const struct tensor *residual, struct tensor *y)
{
    if (is_product(geometry, &weight->value)) {
        linear_forward_cuda(backend, x, weight, bias, residual, y);
        return;
    }
    struct cuda_backend *cuda = cuda_backend(backend);
    const void *values = packed_values(backend, weight, x->dtype, PACKED_FORWARD);
    struct scratch memory(backend, padded_bytes(geometry, x));
    struct tensor map = padded_map(cuda, geometry, x, &memory);
    struct convolution_plan *plan = plan_of(cuda, FORWARD, geometry, &map, &weight->value);
    struct scratch workspace(backend, plan->workspace, WORKSPACE_ALIGNMENT);
    CUDNN_CHECK(cudnnConvolutionForward(cuda->cudnn, &one, plan->x, map.data, plan->weight, values,
                                        plan->geometry, (cudnnConvolutionFwdAlgo_t)plan->algorithm,
                                        workspace.of<void>(), plan->workspace, &none, plan->y, y->data));
    if (bias || residual) add_to_map(cuda, y, bias, residual);
}

void convolution_backward_input_cuda(struct backend *backend, const struct convolution *geometry,
                                     const struct tensor *dy, struct parameter *weight, struct tensor *dx)
{
    if (is_product(geometry, &weight->value)) {
        linear_backward_input_cuda(backend, dy, weight, dx);
        return;
    }
    struct cuda_backend *cuda = cuda_backend(backend);
    const void *values = packed_values(backend, weight, dy->dtype, PACKED_BACKWARD);
    struct scratch memory(backend, padded_bytes(geometry, dx));
    struct tensor map = padded_shape(geometry, dx);
    if (pads_differ(geometry)) map.data = memory.of<void>();
    struct convolution_plan *plan = plan_of(cuda, BACKWARD_INPUT, geometry, &map, &weight->value);
    struct scratch workspace(backend, plan->workspace, WORKSPACE_ALIGNMENT);
    CUDNN_CHECK(cudnnConvolutionBackwardData(cuda->cudnn, &one, plan->weight, values, plan->y, dy->data,
                                             plan->geometry, (cudnnConvolutionBwdDataAlgo_t)plan->algorithm,
                                             workspace.of<void>(), plan->workspace, &none, plan->x,
                                             map.data));
    if (pads_differ(geometry)) move_map(cuda, &map, dx, rows_above(geometry), columns_left(geometry));
}

/* cuDNN leaves the gradient in the compute dtype; the sum over steps and passes is fp32. */
void convolution_backward_weight_cuda(struct backend *backend, const struct convolution *geometry,
                                      const struct tensor *x, const struct tensor *dy, struct tensor *dweight,
                                      struct tensor *dbias)
{
    if (is_product(geometry, dweight)) {
        linear_backward_weight_cuda(backend, x, dy, dweight, dbias);
        return;
    }
    struct cuda_backend *cuda = cuda_backend(backend);
    struct scratch memory(backend, padded_bytes(geometry, x));
    struct tensor map = padded_map(cuda, geometry, x, &memory);
    struct convolution_plan *plan = plan_of(cuda, BACKWARD_WEIGHT, geometry, &map, dweight);
    struct scratch workspace(backend, plan->workspace, WORKSPACE_ALIGNMENT);
    struct scratch gradient(backend, (size_t)tensor_count(dweight) * dtype_size(x->dtype));
    CUDNN_CHECK(cudnnConvolutionBackwardFilter(
        cuda->cudnn, &one, plan->x, map.data, plan->y, dy->data, plan->geometry,
        (cudnnConvolutionBwdFilterAlgo_t)plan->algorithm, workspace.of<void>(), plan->workspace, &none,
        plan->weight, gradient.of<void>()));
    add_packed_gradient(cuda, gradient.of<void>(), x->dtype, dweight);
    if (dbias)
        add_column_sums(cuda, dy->data, dy->dtype, tensor_rows(dy), tensor_channels(dy),
                        values_of<float>(dbias));
}
