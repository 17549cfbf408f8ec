/* cuDNN 9 on the emulator: the legacy convolution calls, for NHWC. Each argument is checked as NVIDIA's
 * documentation of cudnnConvolutionForward, BackwardData and BackwardFilter states it for NHWC tensors and
 * filters; the convolution is computed by plain loops when its stream comes to it. */
#include "library.h"

#include <cudnn.h>

#include <algorithm>
#include <climits>

struct cudnnContext {
    cudaStream_t stream;
};

struct cudnnTensorStruct {
    bool set;
    cudnnDataType_t type;
    int n, c, h, w;
    int n_stride, c_stride, h_stride, w_stride;
};

struct cudnnFilterStruct {
    bool set;
    cudnnDataType_t type;
    cudnnTensorFormat_t format;
    int k, c, h, w;
};

struct cudnnConvolutionStruct {
    bool set;
    int pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w, groups;
    cudnnConvolutionMode_t mode;
    cudnnDataType_t compute_type;
    cudnnMathType_t math;
};

/* ---- handles and descriptors */

size_t cudnnGetVersion(void)
{
    return CUDNN_VERSION;
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    switch (status) {
    case CUDNN_STATUS_SUCCESS:
        return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
        return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
        return "CUDNN_STATUS_NOT_SUPPORTED";
    default:
        return "CUDNN_STATUS_INTERNAL_ERROR";
    }
}

template <class Structure> static cudnnStatus_t create(Structure **structure)
{
    *structure = new Structure();
    return CUDNN_STATUS_SUCCESS;
}

template <class Structure> static cudnnStatus_t destroy(const char *call, Structure *structure)
{
    if (structure == nullptr) emulator_fail("%s: NULL", call);
    delete structure;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    return create(handle);
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    return destroy("cudnnDestroy", handle);
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t streamId)
{
    handle->stream = streamId;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *streamId)
{
    *streamId = handle->stream;
    return CUDNN_STATUS_SUCCESS;
}

/* Sizes of a tensor or filter: cuDNN takes positive ones, and at most 2 Gi elements in all. */
static void check_sizes(const char *call, int a, int b, int c, int d)
{
    if (a < 1 || b < 1 || c < 1 || d < 1) emulator_fail("%s: a size of %d, %d, %d, %d", call, a, b, c, d);
    if ((double)a * b * c * d >= 0x1p31) emulator_fail("%s: 2^31 elements or more", call);
}

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *tensorDesc)
{
    return create(tensorDesc);
}

cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t tensorDesc, cudnnDataType_t dataType,
                                           int n, int c, int h, int w, int nStride, int cStride, int hStride,
                                           int wStride)
{
    check_sizes("cudnnSetTensor4dDescriptorEx", n, c, h, w);
    *tensorDesc = {true, dataType, n, c, h, w, nStride, cStride, hStride, wStride};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t tensorDesc, cudnnTensorFormat_t format,
                                         cudnnDataType_t dataType, int n, int c, int h, int w)
{
    const char *call = "cudnnSetTensor4dDescriptor";
    check_sizes(call, n, c, h, w);
    if (format == CUDNN_TENSOR_NHWC)
        return cudnnSetTensor4dDescriptorEx(tensorDesc, dataType, n, c, h, w, h * w * c, 1, w * c, c);
    if (format == CUDNN_TENSOR_NCHW)
        return cudnnSetTensor4dDescriptorEx(tensorDesc, dataType, n, c, h, w, c * h * w, h * w, w, 1);
    emulator_fail("%s: format %d is not one that the stand-in knows", call, format);
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensorDesc)
{
    return destroy("cudnnDestroyTensorDescriptor", tensorDesc);
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *filterDesc)
{
    return create(filterDesc);
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t filterDesc, cudnnDataType_t dataType,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w)
{
    check_sizes("cudnnSetFilter4dDescriptor", k, c, h, w);
    *filterDesc = {true, dataType, format, k, c, h, w};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filterDesc)
{
    return destroy("cudnnDestroyFilterDescriptor", filterDesc);
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *convDesc)
{
    create(convDesc);
    (*convDesc)->groups = 1;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t convDesc)
{
    return destroy("cudnnDestroyConvolutionDescriptor", convDesc);
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t convDesc, int pad_h, int pad_w,
                                              int u, int v, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t computeType)
{
    const char *call = "cudnnSetConvolution2dDescriptor";
    if (pad_h < 0 || pad_w < 0) emulator_fail("%s: pads %d, %d are less than 0", call, pad_h, pad_w);
    if (u < 1 || v < 1) emulator_fail("%s: strides %d, %d are less than 1", call, u, v);
    if (dilation_h < 1 || dilation_w < 1)
        emulator_fail("%s: dilations %d, %d are less than 1", call, dilation_h, dilation_w);
    *convDesc = {true, pad_h,       pad_w,         u, v, dilation_h, dilation_w, convDesc->groups,
                 mode, computeType, convDesc->math};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t convDesc, cudnnMathType_t mathType)
{
    convDesc->math = mathType;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t convDesc, int groupCount)
{
    if (groupCount != 1)
        emulator_fail("cudnnSetConvolutionGroupCount: %d groups; the stand-in knows 1", groupCount);
    convDesc->groups = groupCount;
    return CUDNN_STATUS_SUCCESS;
}

/* ---- a convolution, as its descriptors state it: checked without the operands' addresses */

struct convolution {
    enum value_type type;
    enum value_rounding rounding; /* of the operands */
    int64_t n, h, w, c;           /* x [n, h, w, c] */
    int64_t out_h, out_w, k;      /* y [n, out_h, out_w, k] */
    int64_t kernel_h, kernel_w;   /* w [k, kernel_h, kernel_w, c] */
    int64_t pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w;
};

static int64_t count_x(const struct convolution *s)
{
    return s->n * s->h * s->w * s->c;
}

static int64_t count_y(const struct convolution *s)
{
    return s->n * s->out_h * s->out_w * s->k;
}

static int64_t count_w(const struct convolution *s)
{
    return s->k * s->kernel_h * s->kernel_w * s->c;
}

static int output_size(const char *call, int size, int pad, int kernel, int stride, int dilation)
{
    int reach = dilation * (kernel - 1) + 1;
    if (size + 2 * pad < reach)
        emulator_fail("%s: the filter reaches over %d cells, the padded input has %d", call, reach,
                      size + 2 * pad);
    return 1 + (size + 2 * pad - reach) / stride;
}

static void check_set(const char *call, const cudnnConvolutionStruct *convolution, const cudnnTensorStruct *x,
                      const cudnnFilterStruct *filter)
{
    if (convolution == nullptr || !convolution->set)
        emulator_fail("%s: the convolution is not described", call);
    if (x == nullptr || !x->set) emulator_fail("%s: the tensor x is not described", call);
    if (filter == nullptr || !filter->set) emulator_fail("%s: the filter is not described", call);
}

cudnnStatus_t cudnnGetConvolution2dForwardOutputDim(const cudnnConvolutionDescriptor_t convDesc,
                                                    const cudnnTensorDescriptor_t inputTensorDesc,
                                                    const cudnnFilterDescriptor_t filterDesc, int *n, int *c,
                                                    int *h, int *w)
{
    const char *call = "cudnnGetConvolution2dForwardOutputDim";
    check_set(call, convDesc, inputTensorDesc, filterDesc);
    *n = inputTensorDesc->n;
    *c = filterDesc->k;
    *h = output_size(call, inputTensorDesc->h, convDesc->pad_h, filterDesc->h, convDesc->stride_h,
                     convDesc->dilation_h);
    *w = output_size(call, inputTensorDesc->w, convDesc->pad_w, filterDesc->w, convDesc->stride_w,
                     convDesc->dilation_w);
    return CUDNN_STATUS_SUCCESS;
}

/* NHWC without gaps: the legacy calls document no other layout beside an NHWC filter. */
static void check_layout(const char *call, char name, const cudnnTensorStruct *tensor)
{
    int64_t w_stride = tensor->c, h_stride = tensor->w * w_stride, n_stride = tensor->h * h_stride;
    if (tensor->c_stride != 1 || tensor->w_stride != w_stride || tensor->h_stride != h_stride ||
        tensor->n_stride != n_stride)
        emulator_fail("%s: %c is not packed NHWC", call, name);
}

/* The documented configurations FLOAT_CONFIG and PSEUDO_BFLOAT16_CONFIG. */
static void check_types(const char *call, const cudnnConvolutionStruct *convolution,
                        const cudnnTensorStruct *x, const cudnnFilterStruct *filter,
                        const cudnnTensorStruct *y)
{
    if (x->type != filter->type || x->type != y->type)
        emulator_fail("%s: x, filter and y have different data types (%d, %d, %d)", call, x->type,
                      filter->type, y->type);
    if (x->type != CUDNN_DATA_FLOAT && x->type != CUDNN_DATA_BFLOAT16)
        emulator_fail("%s: data type %d is not one that the stand-in knows", call, x->type);
    if (convolution->compute_type != CUDNN_DATA_FLOAT)
        emulator_fail("%s: compute type %d, not CUDNN_DATA_FLOAT", call, convolution->compute_type);
    if (x->type == CUDNN_DATA_BFLOAT16 && convolution->math != CUDNN_TENSOR_OP_MATH)
        emulator_fail("%s: bf16 asks for CUDNN_TENSOR_OP_MATH", call);
    if (convolution->math == CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION)
        emulator_fail("%s: CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION would compute fp32 in half precision", call);
}

static void check_shapes(const char *call, cudnnConvolutionStruct *convolution, cudnnTensorStruct *x,
                         cudnnFilterStruct *filter, const cudnnTensorStruct *y)
{
    if (filter->c != x->c) emulator_fail("%s: the filter takes %d channels, x has %d", call, filter->c, x->c);
    int n, c, h, w;
    cudnnGetConvolution2dForwardOutputDim(convolution, x, filter, &n, &c, &h, &w);
    if (y->n != n || y->c != c || y->h != h || y->w != w)
        emulator_fail("%s: y is [n %d, c %d, h %d, w %d], the convolution of x [%d, %d, %d, %d]", call, y->n,
                      y->c, y->h, y->w, n, c, h, w);
}

/* The convolution of the descriptors, which must be one that the library computes; x, y may be dx, dy. */
static struct convolution convolution_of(const char *call, cudnnConvolutionStruct *convolution,
                                         cudnnTensorStruct *x, cudnnFilterStruct *filter,
                                         const cudnnTensorStruct *y)
{
    check_set(call, convolution, x, filter);
    if (y == nullptr || !y->set) emulator_fail("%s: the tensor y is not described", call);
    check_layout(call, 'x', x);
    check_layout(call, 'y', y);
    if (filter->format != CUDNN_TENSOR_NHWC)
        emulator_fail("%s: the filter is not NHWC (KRSC), as x and y", call);
    if (convolution->mode != CUDNN_CROSS_CORRELATION)
        emulator_fail("%s: mode %d is not one that the stand-in knows", call, convolution->mode);
    check_types(call, convolution, x, filter, y);
    check_shapes(call, convolution, x, filter, y);
    bool tf32 = x->type == CUDNN_DATA_FLOAT && convolution->math != CUDNN_FMA_MATH;
    return {x->type == CUDNN_DATA_BFLOAT16 ? VALUE_BF16 : VALUE_FP32,
            tf32 ? ROUND_TF32 : ROUND_NOT,
            x->n,
            x->h,
            x->w,
            x->c,
            y->h,
            y->w,
            y->c,
            filter->h,
            filter->w,
            convolution->pad_h,
            convolution->pad_w,
            convolution->stride_h,
            convolution->stride_w,
            convolution->dilation_h,
            convolution->dilation_w};
}

/* ---- algorithms */

enum direction { FORWARD, BACKWARD_DATA, BACKWARD_FILTER };

/* In the order in which the getters give them; `documented` for NHWC. */
struct algorithm {
    int id;
    bool documented, deterministic, workspace;
};

/* The first of the backward passes is one that this program may not use, as its results differ between runs.
 */
static const std::vector<struct algorithm> &algorithms_of(enum direction direction)
{
    static const std::vector<struct algorithm> algorithms[3] = {
        {
            {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, true, true, true},
            {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, true, true, false},
            {CUDNN_CONVOLUTION_FWD_ALGO_GEMM, false, true, true},
            {CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD, false, true, true},
            {CUDNN_CONVOLUTION_FWD_ALGO_FFT, false, true, true},
        },
        {
            {CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, true, false, false},
            {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, true, true, true},
            {CUDNN_CONVOLUTION_BWD_DATA_ALGO_FFT, false, true, true},
            {CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD, false, true, true},
        },
        {
            {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, true, false, false},
            {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, true, true, true},
            {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT, false, true, true},
            {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3, false, false, true},
        },
    };
    return algorithms[direction];
}

/* NULL: not documented for NHWC. */
static const struct algorithm *algorithm_of(enum direction direction, int id)
{
    for (const struct algorithm &algorithm : algorithms_of(direction))
        if (algorithm.id == id && algorithm.documented) return &algorithm;
    return nullptr;
}

static size_t workspace_needed(const struct convolution *shape, enum direction direction,
                               const struct algorithm *algorithm)
{
    uint64_t seed[] = {(uint64_t)direction, (uint64_t)algorithm->id, hash_of(shape, sizeof *shape)};
    return algorithm->workspace ? workspace_of(hash_of(seed, sizeof seed)) : 0;
}

template <class Result>
static cudnnStatus_t find_algorithms(const char *call, enum direction direction,
                                     const struct convolution *shape, cudnnMathType_t math, int requested,
                                     int *returned, Result *results)
{
    if (requested < 1 || returned == nullptr || results == nullptr)
        emulator_fail("%s: no place for a result", call);
    const std::vector<struct algorithm> &algorithms = algorithms_of(direction);
    *returned = std::min(requested, (int)algorithms.size());
    for (int i = 0; i < *returned; i++) {
        const struct algorithm *algorithm = &algorithms[(size_t)i];
        Result result = {};
        result.algo = decltype(result.algo)(algorithm->id);
        result.status = algorithm->documented ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
        result.time = -1;
        result.memory = algorithm->documented ? workspace_needed(shape, direction, algorithm) : 0;
        result.determinism = algorithm->deterministic ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
        result.mathType = math;
        results[i] = result;
    }
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t find_workspace(enum direction direction, const struct convolution *shape, int id,
                                    size_t *bytes)
{
    const struct algorithm *algorithm = algorithm_of(direction, id);
    if (algorithm == nullptr) return CUDNN_STATUS_NOT_SUPPORTED;
    *bytes = workspace_needed(shape, direction, algorithm);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithmMaxCount(cudnnHandle_t, int *count)
{
    *count = (int)algorithms_of(FORWARD).size();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithmMaxCount(cudnnHandle_t, int *count)
{
    *count = (int)algorithms_of(BACKWARD_DATA).size();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(cudnnHandle_t, int *count)
{
    *count = (int)algorithms_of(BACKWARD_FILTER).size();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, const cudnnTensorDescriptor_t srcDesc,
                                                     const cudnnFilterDescriptor_t filterDesc,
                                                     const cudnnConvolutionDescriptor_t convDesc,
                                                     const cudnnTensorDescriptor_t destDesc,
                                                     const int requestedAlgoCount, int *returnedAlgoCount,
                                                     cudnnConvolutionFwdAlgoPerf_t *perfResults)
{
    const char *call = "cudnnGetConvolutionForwardAlgorithm_v7";
    struct convolution shape = convolution_of(call, convDesc, srcDesc, filterDesc, destDesc);
    return find_algorithms(call, FORWARD, &shape, convDesc->math, requestedAlgoCount, returnedAlgoCount,
                           perfResults);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(
    cudnnHandle_t, const cudnnFilterDescriptor_t filterDesc, const cudnnTensorDescriptor_t diffDesc,
    const cudnnConvolutionDescriptor_t convDesc, const cudnnTensorDescriptor_t gradDesc,
    const int requestedAlgoCount, int *returnedAlgoCount, cudnnConvolutionBwdDataAlgoPerf_t *perfResults)
{
    const char *call = "cudnnGetConvolutionBackwardDataAlgorithm_v7";
    struct convolution shape = convolution_of(call, convDesc, gradDesc, filterDesc, diffDesc);
    return find_algorithms(call, BACKWARD_DATA, &shape, convDesc->math, requestedAlgoCount, returnedAlgoCount,
                           perfResults);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(
    cudnnHandle_t, const cudnnTensorDescriptor_t srcDesc, const cudnnTensorDescriptor_t diffDesc,
    const cudnnConvolutionDescriptor_t convDesc, const cudnnFilterDescriptor_t gradDesc,
    const int requestedAlgoCount, int *returnedAlgoCount, cudnnConvolutionBwdFilterAlgoPerf_t *perfResults)
{
    const char *call = "cudnnGetConvolutionBackwardFilterAlgorithm_v7";
    struct convolution shape = convolution_of(call, convDesc, srcDesc, gradDesc, diffDesc);
    return find_algorithms(call, BACKWARD_FILTER, &shape, convDesc->math, requestedAlgoCount,
                           returnedAlgoCount, perfResults);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, const cudnnTensorDescriptor_t xDesc,
                                                      const cudnnFilterDescriptor_t wDesc,
                                                      const cudnnConvolutionDescriptor_t convDesc,
                                                      const cudnnTensorDescriptor_t yDesc,
                                                      cudnnConvolutionFwdAlgo_t algo, size_t *sizeInBytes)
{
    struct convolution shape =
        convolution_of("cudnnGetConvolutionForwardWorkspaceSize", convDesc, xDesc, wDesc, yDesc);
    return find_workspace(FORWARD, &shape, algo, sizeInBytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, const cudnnFilterDescriptor_t wDesc,
                                                           const cudnnTensorDescriptor_t dyDesc,
                                                           const cudnnConvolutionDescriptor_t convDesc,
                                                           const cudnnTensorDescriptor_t dxDesc,
                                                           cudnnConvolutionBwdDataAlgo_t algo,
                                                           size_t *sizeInBytes)
{
    struct convolution shape =
        convolution_of("cudnnGetConvolutionBackwardDataWorkspaceSize", convDesc, dxDesc, wDesc, dyDesc);
    return find_workspace(BACKWARD_DATA, &shape, algo, sizeInBytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(
    cudnnHandle_t, const cudnnTensorDescriptor_t xDesc, const cudnnTensorDescriptor_t dyDesc,
    const cudnnConvolutionDescriptor_t convDesc, const cudnnFilterDescriptor_t gradDesc,
    cudnnConvolutionBwdFilterAlgo_t algo, size_t *sizeInBytes)
{
    struct convolution shape =
        convolution_of("cudnnGetConvolutionBackwardFilterWorkspaceSize", convDesc, xDesc, gradDesc, dyDesc);
    return find_workspace(BACKWARD_FILTER, &shape, algo, sizeInBytes);
}

/* ---- the convolution, when the stream comes to it */

/* Calls work(pixel of x, pixel of y, tap) for all that meet: tap = place in the kernel. */
template <class Work> static void for_each_tap(const struct convolution *s, Work work)
{
    for (int64_t pixel_y = 0; pixel_y < s->n * s->out_h * s->out_w; pixel_y++) {
        int64_t n = pixel_y / (s->out_h * s->out_w), i = pixel_y / s->out_w % s->out_h,
                j = pixel_y % s->out_w;
        for (int64_t tap = 0; tap < s->kernel_h * s->kernel_w; tap++) {
            int64_t h = i * s->stride_h - s->pad_h + tap / s->kernel_w * s->dilation_h;
            int64_t w = j * s->stride_w - s->pad_w + tap % s->kernel_w * s->dilation_w;
            if (h >= 0 && h < s->h && w >= 0 && w < s->w) work((n * s->h + h) * s->w + w, pixel_y, tap);
        }
    }
}

static std::vector<double> operand_of(const struct convolution *s, const void *values, int64_t count,
                                      const char *name)
{
    emulator_read(values, (size_t)count * value_bytes(s->type), name);
    std::vector<double> operand((size_t)count);
    for (int64_t i = 0; i < count; i++) operand[(size_t)i] = operand_at(values, s->type, s->rounding, i);
    return operand;
}

/* result = alpha sums + beta result. */
static void store(const struct convolution *s, float alpha, const std::vector<double> &sums, float beta,
                  void *result, const char *name)
{
    size_t bytes = sums.size() * value_bytes(s->type);
    if (beta != 0) emulator_read(result, bytes, name);
    emulator_write(result, bytes, name);
    for (int64_t i = 0; i < (int64_t)sums.size(); i++) {
        double before = beta != 0 ? beta * value_at(result, s->type, i) : 0;
        value_set(result, s->type, i, alpha * sums[(size_t)i] + before);
    }
}

/* w [k, taps, c] as [taps, c, k]. */
static std::vector<double> filter_by_taps(const struct convolution *s, const std::vector<double> &w)
{
    int64_t taps = s->kernel_h * s->kernel_w;
    std::vector<double> turned(w.size());
    for (int64_t k = 0; k < s->k; k++)
        for (int64_t i = 0; i < taps * s->c; i++)
            turned[(size_t)(i * s->k + k)] = w[(size_t)(k * taps * s->c + i)];
    return turned;
}

static std::vector<double> forward(const struct convolution *s, const void *x_values, const void *w_values)
{
    std::vector<double> x = operand_of(s, x_values, count_x(s), "x");
    std::vector<double> w = filter_by_taps(s, operand_of(s, w_values, count_w(s), "the filter"));
    std::vector<double> y((size_t)count_y(s));
    for_each_tap(s, [&](int64_t pixel_x, int64_t pixel_y, int64_t tap) {
        for (int64_t c = 0; c < s->c; c++)
            add_multiple(&y[(size_t)(pixel_y * s->k)], x[(size_t)(pixel_x * s->c + c)],
                         &w[(size_t)((tap * s->c + c) * s->k)], s->k);
    });
    return y;
}

static std::vector<double> backward_data(const struct convolution *s, const void *dy_values,
                                         const void *w_values)
{
    std::vector<double> dy = operand_of(s, dy_values, count_y(s), "dy");
    std::vector<double> w = operand_of(s, w_values, count_w(s), "the filter");
    std::vector<double> dx((size_t)count_x(s));
    int64_t taps = s->kernel_h * s->kernel_w;
    for_each_tap(s, [&](int64_t pixel_x, int64_t pixel_y, int64_t tap) {
        for (int64_t k = 0; k < s->k; k++)
            add_multiple(&dx[(size_t)(pixel_x * s->c)], dy[(size_t)(pixel_y * s->k + k)],
                         &w[(size_t)((k * taps + tap) * s->c)], s->c);
    });
    return dx;
}

static std::vector<double> backward_filter(const struct convolution *s, const void *dy_values,
                                           const void *x_values)
{
    std::vector<double> dy = operand_of(s, dy_values, count_y(s), "dy");
    std::vector<double> x = operand_of(s, x_values, count_x(s), "x");
    std::vector<double> dw((size_t)count_w(s));
    int64_t taps = s->kernel_h * s->kernel_w;
    for_each_tap(s, [&](int64_t pixel_x, int64_t pixel_y, int64_t tap) {
        for (int64_t k = 0; k < s->k; k++)
            add_multiple(&dw[(size_t)((k * taps + tap) * s->c)], dy[(size_t)(pixel_y * s->k + k)],
                         &x[(size_t)(pixel_x * s->c)], s->c);
    });
    return dw;
}

/* An operand at the call. */
struct operand {
    const char *name;
    const void *data;
    int64_t count;
};

static void check_operands(const char *call, const struct convolution *shape,
                           const struct operand operands[2], const struct operand *result)
{
    size_t bytes = value_bytes(shape->type);
    const char *first = static_cast<const char *>(result->data),
               *last = first + (size_t)result->count * bytes;
    check_device_pointer(call, result->name, result->data, 16);
    for (int i = 0; i < 2; i++) {
        check_device_pointer(call, operands[i].name, operands[i].data, 16);
        const char *data = static_cast<const char *>(operands[i].data);
        if (data < last && first < data + (size_t)operands[i].count * bytes)
            emulator_fail("%s: %s overlaps %s", call, result->name, operands[i].name);
    }
}

/* Queues result = alpha compute(operands) + beta result. */
template <class Compute>
static cudnnStatus_t convolve(const char *call, cudnnHandle_t handle, enum direction direction, int id,
                              const struct convolution &shape, const void *alpha, struct operand a,
                              struct operand b, const void *beta, struct operand result, void *workspace,
                              size_t workspace_bytes, Compute compute)
{
    if (handle == nullptr) emulator_fail("%s: the handle is NULL", call);
    const struct algorithm *algorithm = algorithm_of(direction, id);
    if (algorithm == nullptr) emulator_fail("%s: algorithm %d is not documented for NHWC", call, id);
    if (!algorithm->deterministic)
        emulator_fail("%s: algorithm %d is not deterministic, which the backend promises to be", call, id);
    float factor = host_scalar(call, "alpha", alpha), factor_before = host_scalar(call, "beta", beta);
    const struct operand operands[2] = {a, b};
    check_operands(call, &shape, operands, &result);
    size_t needed = workspace_needed(&shape, direction, algorithm);
    check_workspace(call, workspace, workspace_bytes, needed);
    void *to = const_cast<void *>(result.data);
    emulator_enqueue(handle->stream, call, [=] {
        spoil_workspace(workspace, needed);
        store(&shape, factor, compute(&shape, a.data, b.data), factor_before, to, result.name);
    });
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void *alpha,
                                      const cudnnTensorDescriptor_t xDesc, const void *x,
                                      const cudnnFilterDescriptor_t wDesc, const void *w,
                                      const cudnnConvolutionDescriptor_t convDesc,
                                      cudnnConvolutionFwdAlgo_t algo, void *workSpace,
                                      size_t workSpaceSizeInBytes, const void *beta,
                                      const cudnnTensorDescriptor_t yDesc, void *y)
{
    const char *call = "cudnnConvolutionForward";
    struct convolution shape = convolution_of(call, convDesc, xDesc, wDesc, yDesc);
    return convolve(call, handle, FORWARD, algo, shape, alpha, {"x", x, count_x(&shape)},
                    {"the filter", w, count_w(&shape)}, beta, {"y", y, count_y(&shape)}, workSpace,
                    workSpaceSizeInBytes, forward);
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void *alpha,
                                           const cudnnFilterDescriptor_t wDesc, const void *w,
                                           const cudnnTensorDescriptor_t dyDesc, const void *dy,
                                           const cudnnConvolutionDescriptor_t convDesc,
                                           cudnnConvolutionBwdDataAlgo_t algo, void *workSpace,
                                           size_t workSpaceSizeInBytes, const void *beta,
                                           const cudnnTensorDescriptor_t dxDesc, void *dx)
{
    const char *call = "cudnnConvolutionBackwardData";
    struct convolution shape = convolution_of(call, convDesc, dxDesc, wDesc, dyDesc);
    return convolve(call, handle, BACKWARD_DATA, algo, shape, alpha, {"dy", dy, count_y(&shape)},
                    {"the filter", w, count_w(&shape)}, beta, {"dx", dx, count_x(&shape)}, workSpace,
                    workSpaceSizeInBytes, backward_data);
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void *alpha,
                                             const cudnnTensorDescriptor_t xDesc, const void *x,
                                             const cudnnTensorDescriptor_t dyDesc, const void *dy,
                                             const cudnnConvolutionDescriptor_t convDesc,
                                             cudnnConvolutionBwdFilterAlgo_t algo, void *workSpace,
                                             size_t workSpaceSizeInBytes, const void *beta,
                                             const cudnnFilterDescriptor_t dwDesc, void *dw)
{
    const char *call = "cudnnConvolutionBackwardFilter";
    struct convolution shape = convolution_of(call, convDesc, xDesc, dwDesc, dyDesc);
    return convolve(call, handle, BACKWARD_FILTER, algo, shape, alpha, {"dy", dy, count_y(&shape)},
                    {"x", x, count_x(&shape)}, beta, {"dw", dw, count_w(&shape)}, workSpace,
                    workSpaceSizeInBytes, backward_filter);
}
