/* The library stand-ins: calls as documented give what plain fp64 loops give; calls against the documentation
 * are each refused, with the reason. */
#include "emulator.h"

#include <cublasLt.h>
#include <cudnn.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

extern "C" {
#include <cmocka.h>
}

/* ---- values in device memory */

/* Significant bits of what a value is stored in, and of an operand that tensor cores take. */
enum { BITS_FP32 = 24, BITS_BF16 = 8, BITS_TF32 = 11 };

/* To the nearest value of so many bits; ties, which the values of these tests do not make, away from zero. */
static double rounded(double value, int bits)
{
    int exponent;
    double mantissa = frexp(value, &exponent);
    return ldexp(round(ldexp(mantissa, bits)), exponent - bits);
}

/* Values of a tensor, on the host; element i is stored in `bits` bits. */
struct values {
    std::vector<double> data;
    int bits;
};

static size_t bytes_of(int bits)
{
    return bits == BITS_BF16 ? 2 : 4;
}

/* Reproducible numbers in [-1, 1] that both types hold. */
static struct values values_new(int64_t count, int bits, unsigned seed)
{
    struct values values = {std::vector<double>((size_t)count), bits};
    for (double &value : values.data) {
        seed = seed * 1664525u + 1013904223u;
        value = rounded((double)(seed >> 8) / (1 << 23) - 1, bits);
    }
    return values;
}

static void *device_new(size_t bytes)
{
    void *device;
    assert_int_equal(cudaMalloc(&device, bytes), cudaSuccess);
    return device;
}

/* Of all calls here. */
static cudaStream_t stream;

static void synchronize(void)
{
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
}

static void upload(void *device, const std::vector<char> &bytes)
{
    void *pinned;
    assert_int_equal(cudaMallocHost(&pinned, bytes.size()), cudaSuccess);
    memcpy(pinned, bytes.data(), bytes.size());
    assert_int_equal(cudaMemcpyAsync(device, pinned, bytes.size(), cudaMemcpyHostToDevice, stream),
                     cudaSuccess);
    synchronize();
    cudaFreeHost(pinned);
}

static std::vector<char> download(const void *device, size_t count)
{
    void *pinned;
    assert_int_equal(cudaMallocHost(&pinned, count), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(pinned, device, count, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    synchronize();
    std::vector<char> bytes(static_cast<char *>(pinned), static_cast<char *>(pinned) + count);
    cudaFreeHost(pinned);
    return bytes;
}

/* A copy in device memory of its own. */
static char *to_device(const struct values &values)
{
    size_t size = bytes_of(values.bits), count = values.data.size();
    std::vector<char> raw(count * size);
    for (size_t i = 0; i < count; i++) {
        float value = (float)values.data[i];
        memcpy(&raw[i * size], (const char *)&value + (4 - size),
               size); // bf16: the upper half, little-endian
    }
    char *device = static_cast<char *>(device_new(count * size));
    upload(device, raw);
    return device;
}

static struct values from_device(const void *device, int64_t count, int bits)
{
    size_t size = bytes_of(bits);
    std::vector<char> raw = download(device, (size_t)count * size);
    struct values values = {std::vector<double>((size_t)count), bits};
    for (size_t i = 0; i < (size_t)count; i++) {
        float value = 0;
        memcpy((char *)&value + (4 - size), &raw[i * size], size);
        values.data[i] = value;
    }
    return values;
}

/* The stand-ins sum in fp64 and round once: to within half a unit of the last place, and a hair. */
static void assert_close(const char *label, const struct values &got, const std::vector<double> &expected)
{
    for (size_t i = 0; i < expected.size(); i++) {
        double limit = ldexp(fabs(expected[i]), -got.bits) * (1 + 1e-6) + 1e-12;
        if (!(fabs(got.data[i] - expected[i]) <= limit))
            fail_msg("%s: element %zu is %.9g, not %.9g", label, i, got.data[i], expected[i]);
    }
}

/* ---- defects: `wrong` must end its process, a child of this one, with the status of a defect and with
 * `reason` in its message */
template <class Wrong> static void assert_defect(const char *label, const char *reason, Wrong wrong)
{
    int messages[2];
    assert_int_equal(pipe(messages), 0);
    fflush(nullptr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(messages[1], STDERR_FILENO);
        close(messages[0]);
        close(messages[1]);
        wrong();
        _exit(0);
    }
    close(messages[1]);
    std::string said;
    char part[256];
    for (ssize_t n; (n = read(messages[0], part, sizeof part)) > 0;) said.append(part, (size_t)n);
    close(messages[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != EMULATOR_DEFECT)
        fail_msg("%s: was not caught (status %x): %s", label, (unsigned)status, said.c_str());
    if (said.find(reason) == std::string::npos) fail_msg("%s: said %s, not %s", label, said.c_str(), reason);
}

/* ---- products */

struct matrix_plan {
    cudaDataType type;
    int64_t rows, columns, leading;
    int64_t stride = 0; /* of the batch */
    bool row_major = false;
};

/* A call of cublasLtMatmul: what is told to the library, and the memory. */
struct product_call {
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cudaDataType scale = CUDA_R_32F;
    bool transpose_a = false, transpose_b = false;
    struct matrix_plan a, b, c, d;
    int32_t count = 1;
    float alpha = 1, beta = 0;
    bool in_place = true; /* C is D */
    bool bias = false;
    int32_t bias_type = -1;
    int64_t bias_stride = 0;
    uint32_t alignment = 16;      /* promised for A, B, C, D */
    uint64_t workspace = 1 << 20; /* allowed */

    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t layouts[4] = {};
    cublasLtMatmulHeuristicResult_t found = {};
    const char *data_a = nullptr, *data_b = nullptr, *data_c = nullptr, *data_bias = nullptr;
    char *data_d = nullptr, *data_workspace = nullptr;
};

static int bits_of(cudaDataType type)
{
    return type == CUDA_R_16BF ? BITS_BF16 : BITS_FP32;
}

static int64_t place(const struct matrix_plan &plan, int64_t i, int64_t r, int64_t c)
{
    return i * plan.stride + (plan.row_major ? r * plan.leading + c : c * plan.leading + r);
}

/* Elements from the first to the last. */
static int64_t extent(const struct matrix_plan &plan, int32_t count)
{
    return place(plan, count - 1, plan.rows - 1, plan.columns - 1) + 1;
}

static cublasLtMatrixLayout_t layout_new(const struct matrix_plan &plan, int32_t count)
{
    cublasLtMatrixLayout_t layout;
    cublasLtMatrixLayoutCreate(&layout, plan.type, (uint64_t)plan.rows, (uint64_t)plan.columns, plan.leading);
    int32_t order = plan.row_major ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL;
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &plan.stride,
                                     sizeof plan.stride);
    return layout;
}

template <class Value>
static void set(const struct product_call &call, cublasLtMatmulDescAttributes_t attribute, Value value)
{
    assert_int_equal(cublasLtMatmulDescSetAttribute(call.operation, attribute, &value, sizeof value),
                     CUBLAS_STATUS_SUCCESS);
}

static void describe(struct product_call &call)
{
    cublasLtCreate(&call.handle);
    cublasLtMatmulDescCreate(&call.operation, call.compute, call.scale);
    set(call, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)(call.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    set(call, CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)(call.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    if (call.bias) {
        set(call, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_BIAS);
        set(call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)call.data_bias);
        set(call, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, call.bias_type);
        set(call, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, call.bias_stride);
    }
    const struct matrix_plan *plans[4] = {&call.a, &call.b, &call.c, &call.d};
    for (int i = 0; i < 4; i++) call.layouts[i] = layout_new(*plans[i], call.count);
}

static void find(struct product_call &call)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &call.workspace, sizeof call.workspace);
    for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES;
         i++)
        cublasLtMatmulPreferenceSetAttribute(preference, cublasLtMatmulPreferenceAttributes_t(i),
                                             &call.alignment, sizeof call.alignment);
    int results = 0;
    assert_int_equal(cublasLtMatmulAlgoGetHeuristic(call.handle, call.operation, call.layouts[0],
                                                    call.layouts[1], call.layouts[2], call.layouts[3],
                                                    preference, 1, &call.found, &results),
                     CUBLAS_STATUS_SUCCESS);
    assert_int_equal(results, 1);
    cublasLtMatmulPreferenceDestroy(preference);
    if (call.found.workspaceSize > 0)
        call.data_workspace = static_cast<char *>(device_new(call.found.workspaceSize));
}

static void multiply(const struct product_call &call)
{
    assert_int_equal(cublasLtMatmul(call.handle, call.operation, &call.alpha, call.data_a, call.layouts[0],
                                    call.data_b, call.layouts[1], &call.beta, call.data_c, call.layouts[2],
                                    call.data_d, call.layouts[3], &call.found.algo, call.data_workspace,
                                    call.found.workspaceSize, stream),
                     CUBLAS_STATUS_SUCCESS);
    synchronize();
}

struct product_values {
    struct values a, b, c, d, bias;
};

/* Memory for the call's operands, no byte more than they take. */
static struct product_values allocate(struct product_call &call)
{
    int64_t biases = (call.count - 1) * call.bias_stride + call.d.rows;
    struct product_values values = {values_new(extent(call.a, call.count), bits_of(call.a.type), 1),
                                    values_new(extent(call.b, call.count), bits_of(call.b.type), 2),
                                    values_new(extent(call.c, call.count), bits_of(call.c.type), 3),
                                    values_new(extent(call.d, call.count), bits_of(call.d.type), 4),
                                    values_new(biases, bits_of(call.d.type), 5)};
    call.data_a = to_device(values.a);
    call.data_b = to_device(values.b);
    call.data_d = to_device(values.d);
    call.data_c = call.in_place ? call.data_d : to_device(values.c);
    call.data_bias = to_device(values.bias);
    return values;
}

/* D as it must be: plain loops; what lies between its columns stays. */
static std::vector<double> product_expected(const struct product_call &call, const struct product_values &v)
{
    int bits = call.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? (int)BITS_TF32 : (int)BITS_FP32;
    const struct values &c = call.in_place ? v.d : v.c;
    std::vector<double> d = v.d.data;
    int64_t k = call.transpose_a ? call.a.rows : call.a.columns;
    for (int64_t i = 0; i < call.count; i++)
        for (int64_t row = 0; row < call.d.rows; row++)
            for (int64_t column = 0; column < call.d.columns; column++) {
                double sum = 0;
                for (int64_t l = 0; l < k; l++) {
                    int64_t of_a = call.transpose_a ? place(call.a, i, l, row) : place(call.a, i, row, l);
                    int64_t of_b =
                        call.transpose_b ? place(call.b, i, column, l) : place(call.b, i, l, column);
                    sum += rounded(v.a.data[(size_t)of_a], bits) * rounded(v.b.data[(size_t)of_b], bits);
                }
                double before = c.data[(size_t)place(call.c, i, row, column)];
                double bias = call.bias ? v.bias.data[(size_t)(i * call.bias_stride + row)] : 0;
                d[(size_t)place(call.d, i, row, column)] = call.alpha * sum + call.beta * before + bias;
            }
    return d;
}

static void check_product(const char *label, struct product_call call)
{
    struct product_values values = allocate(call);
    describe(call);
    find(call);
    assert_true(call.found.workspaceSize > 0);
    multiply(call);
    struct values got = from_device(call.data_d, (int64_t)values.d.data.size(), values.d.bits);
    assert_close(label, got, product_expected(call, values));
}

/* D [5, 7] = A [5, 3] B [3, 7], all column-major and in `type`, packed. */
static struct product_call small_product(cudaDataType type)
{
    struct product_call call;
    call.a = {type, 5, 3, 5};
    call.b = {type, 3, 7, 3};
    call.c = call.d = {type, 5, 7, 5};
    return call;
}

static void test_products(void **)
{
    for (cudaDataType type : {CUDA_R_32F, CUDA_R_16BF}) {
        struct product_call call = small_product(type);
        check_product("packed", call);

        call.a = {type, 3, 5, 4}, call.transpose_a = true;
        call.c.leading = call.d.leading = 6, call.alpha = 0.5f, call.beta = 2;
        check_product("A transposed, gaps, in place", call);
        call.b = {type, 7, 3, 9}, call.transpose_b = true;
        check_product("A and B transposed", call);
        call.a = {type, 5, 3, 5}, call.transpose_a = false;
        check_product("B transposed", call);

        call.in_place = false, call.c.leading = 8;
        check_product("C beside D", call);
        call.c.leading = 0;
        check_product("one column of C for all", call);
    }
}

static void test_products_row_major(void **)
{
    struct product_call call = small_product(CUDA_R_32F);
    call.a = {CUDA_R_32F, 5, 3, 4, 0, true};
    check_product("row-major A", call);
    call.b = {CUDA_R_32F, 7, 3, 3, 0, true}, call.transpose_b = true;
    call.c = call.d = {CUDA_R_32F, 5, 7, 7, 0, true};
    check_product("all row-major", call);
}

static void test_products_types(void **)
{
    struct product_call call = small_product(CUDA_R_16BF);
    call.bias = true;
    check_product("bf16 with bias", call);
    call.bias_type = CUDA_R_16BF;
    check_product("bf16 with bias, its type told", call);
    call.c.type = call.d.type = CUDA_R_32F, call.bias_type = CUDA_R_32F;
    check_product("bf16 to fp32 with bias", call);
    call = small_product(CUDA_R_32F);
    call.bias = true, call.beta = -1;
    check_product("fp32 with bias", call);
    call.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    check_product("TF32", call);
}

static void test_products_batch(void **)
{
    struct product_call call = small_product(CUDA_R_32F);
    call.count = 4;
    call.a.stride = 16, call.b.stride = 0, call.c.stride = call.d.stride = 40;
    check_product("a batch that shares B", call);
    call.bias = true;
    check_product("a batch that shares a bias", call);
    call.bias_stride = 6;
    check_product("a batch with a bias each", call);

    /* as heads of attention: each head takes 5 of 4 x 5 rows of a wider matrix */
    call = small_product(CUDA_R_16BF);
    call.count = 4;
    call.a.leading = call.c.leading = call.d.leading = 20, call.a.stride = call.c.stride = call.d.stride = 5;
    call.b.leading = 12, call.b.stride = 3;
    call.beta = 1;
    check_product("heads side by side", call);

    call = small_product(CUDA_R_32F);
    call.count = 2, call.c.leading = call.d.leading = 20;
    call.a.stride = 15, call.b.stride = 21, call.c.stride = call.d.stride = 137;
    check_product("a batch whose matrices almost touch", call);
}

/* A call that is refused for a reason while it is described, found an algorithm for, or made. */
struct wrong_product {
    const char *label, *reason;
    void (*describe)(struct product_call &); /* changes the description, or NULL */
    void (*change)(struct product_call &);   /* changes the call behind the heuristic, or NULL */
};

static const struct wrong_product wrong_products[] = {
    {"leading dimension of A", "leading dimension 4 of A (column-major) is less than its 5 rows",
     [](struct product_call &call) { call.a.leading = 4; }, nullptr},
    {"leading dimension of a row-major matrix",
     "leading dimension 5 of C (row-major) is less than its 7 columns",
     [](struct product_call &call) { call.c.row_major = call.d.row_major = true; }, nullptr},
    {"leading dimension of D", "leading dimension 0 of D",
     [](struct product_call &call) { call.d.leading = 0; }, nullptr},
    {"rows and columns of A mixed up", "op(A) is 3 x 5 and op(B) 3 x 7",
     [](struct product_call &call) {
         call.a = {CUDA_R_32F, 3, 5, 3};
     },
     nullptr},
    {"rows and columns of D mixed up", "D is 7 x 5, the product 5 x 7",
     [](struct product_call &call) {
         call.c = call.d = {CUDA_R_32F, 7, 5, 7};
     },
     nullptr},
    {"a transpose too many", "op(A) is 3 x 5 and op(B) 3 x 7",
     [](struct product_call &call) { call.transpose_a = true; }, nullptr},
    {"a transpose that is missing", "op(A) is 5 x 3 and op(B) 7 x 3",
     [](struct product_call &call) {
         call.b = {CUDA_R_32F, 7, 3, 7};
     },
     nullptr},
    {"C of another shape", "C is 5 x 6, D 5 x 7", [](struct product_call &call) { call.c.columns = 6; },
     nullptr},
    {"C of another order", "C and D have different orders",
     [](struct product_call &call) { call.c = {CUDA_R_32F, 5, 7, 7, 0, true}; }, nullptr},
    {"C of another type", "C and D have different data types",
     [](struct product_call &call) { call.c.type = CUDA_R_16BF; }, nullptr},
    {"A and B of different types", "A and B have different data types",
     [](struct product_call &call) { call.b.type = CUDA_R_16BF; }, nullptr},
    {"bf16 D of fp32", "fp32 A and B with bf16 D",
     [](struct product_call &call) { call.c.type = call.d.type = CUDA_R_16BF; }, nullptr},
    {"another type", "data type 2 of A", [](struct product_call &call) { call.a.type = CUDA_R_16F; },
     nullptr},
    {"another compute type", "compute type 64",
     [](struct product_call &call) { call.compute = CUBLAS_COMPUTE_16F; }, nullptr},
    {"TF32 of bf16", "CUBLAS_COMPUTE_32F_FAST_TF32 is for fp32",
     [](struct product_call &call) {
         call.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
         call.a.type = call.b.type = CUDA_R_16BF;
     },
     nullptr},
    {"another scale type", "scale type 1", [](struct product_call &call) { call.scale = CUDA_R_64F; },
     nullptr},
    {"no columns", "A is 5 x 0", [](struct product_call &call) { call.a.columns = 0; }, nullptr},
    {"bias of another type", "the bias must have the data type of D",
     [](struct product_call &call) { call.bias = true, call.bias_type = CUDA_R_16BF; }, nullptr},
    {"bias of row-major D", "asks for column-major D",
     [](struct product_call &call) {
         call.bias = true;
         call.c = call.d = {CUDA_R_32F, 5, 7, 7, 0, true};
     },
     nullptr},
    {"bias vectors that overlap", "bias vectors of a batch are 4 elements apart",
     [](struct product_call &call) {
         call.count = 2, call.c.stride = call.d.stride = 35;
         call.bias = true, call.bias_stride = 4;
     },
     nullptr},
    {"matrices D that overlap", "the matrices D of the batch overlap: 34 elements apart",
     [](struct product_call &call) { call.count = 2, call.c.stride = call.d.stride = 34; }, nullptr},
    {"matrices D that overlap with gaps", "the matrices D of the batch overlap: 4 elements apart",
     [](struct product_call &call) {
         call.count = 2, call.c.leading = call.d.leading = 20, call.c.stride = call.d.stride = 4;
     },
     nullptr},
    {"the last column of D that overlaps", "the matrices D of the batch overlap: 117 elements apart",
     [](struct product_call &call) {
         call.count = 2, call.c.leading = call.d.leading = 20, call.c.stride = call.d.stride = 117;
     },
     nullptr},
    {"matrices D in one place", "the matrices D of the batch overlap: 0 elements apart",
     [](struct product_call &call) { call.count = 2; }, nullptr},

    {"an alignment that is none", "an alignment of 12 bytes for A",
     [](struct product_call &call) { call.alignment = 12; }, nullptr},
    {"an alignment less than a value's", "an alignment of 2 bytes for A",
     [](struct product_call &call) { call.alignment = 2; }, nullptr},

    {"workspace too small", "bytes, the algorithm needs", nullptr,
     [](struct product_call &call) { call.found.workspaceSize--; }},
    {"no workspace", "the workspace is NULL", nullptr,
     [](struct product_call &call) { call.data_workspace = nullptr; }},
    {"misaligned workspace", "the workspace is not aligned to 256 bytes", nullptr,
     [](struct product_call &call) { call.data_workspace += 64; }},
    {"workspace that is shorter than said", "the workspace: out of bounds: a write", nullptr,
     [](struct product_call &call) { call.data_workspace = static_cast<char *>(device_new(256)); }},
    {"misaligned A", "A is not aligned to 16 bytes", nullptr,
     [](struct product_call &call) { call.data_a += 4; }},
    {"misaligned D", "D is not aligned to 16 bytes", nullptr,
     [](struct product_call &call) { call.data_d += 8; }},
    {"less aligned bias", "the bias is not aligned to 16 bytes",
     [](struct product_call &call) { call.bias = true; },
     [](struct product_call &call) {
         set(call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)(call.data_bias + 4));
     }},
    {"more aligned than told: the default", "B is not aligned to 256 bytes",
     [](struct product_call &call) { call.alignment = 256; },
     [](struct product_call &call) { call.data_b += 16; }},
    {"host memory", "B is not device memory", nullptr,
     [](struct product_call &call) { call.data_b = (const char *)&call; }},
    {"no C", "C is NULL", nullptr, [](struct product_call &call) { call.data_c = nullptr; }},
    {"no bias", "the bias is NULL", [](struct product_call &call) { call.bias = true; },
     [](struct product_call &call) { set(call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)nullptr); }},
    {"algorithm of another shape", "the algorithm was found for a product of other shapes", nullptr,
     [](struct product_call &call) {
         struct product_call other = small_product(CUDA_R_32F);
         other.b = {CUDA_R_32F, 3, 6, 3}, other.c = other.d = {CUDA_R_32F, 5, 6, 5};
         describe(other);
         find(other);
         call.found = other.found;
     }},
    {"algorithm of another transpose", "the algorithm was found for a product of other shapes",
     [](struct product_call &call) {
         call.a = {CUDA_R_32F, 5, 5, 5}, call.b = {CUDA_R_32F, 5, 7, 5};
     },
     [](struct product_call &call) { set(call, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)CUBLAS_OP_T); }},
    {"algorithm that none found", "the algorithm was not made by cuBLASLt", nullptr,
     [](struct product_call &call) { call.found.algo = {}; }},
    {"A that is shorter than said", "A: out of bounds: a read", nullptr,
     [](struct product_call &call) { call.data_a = to_device(values_new(14, BITS_FP32, 1)); }},
    {"B that is shorter than said", "B: out of bounds: a read", nullptr,
     [](struct product_call &call) { call.data_b = to_device(values_new(20, BITS_FP32, 1)); }},
    {"C that is shorter than said", "C: out of bounds: a read",
     [](struct product_call &call) { call.in_place = false, call.beta = 1; },
     [](struct product_call &call) { call.data_c = to_device(values_new(34, BITS_FP32, 1)); }},
    {"D that is shorter than said", "D: out of bounds: a write", nullptr,
     [](struct product_call &call) { call.data_d = to_device(values_new(34, BITS_FP32, 1)); }},
    {"bias that is shorter than said", "the bias: out of bounds: a read",
     [](struct product_call &call) { call.bias = true; },
     [](struct product_call &call) {
         const void *bias = to_device(values_new(4, BITS_FP32, 1));
         set(call, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
     }},
    {"D over A", "D overlaps A", nullptr,
     [](struct product_call &call) { call.data_a = call.data_d + 64, call.data_c = call.data_d; }},
    {"D over B", "D overlaps B", nullptr, [](struct product_call &call) { call.data_b = call.data_d; }},
    {"D over a part of C", "D overlaps C without being it", nullptr,
     [](struct product_call &call) { call.data_c = call.data_d + 16; }},
    {"C that is D in another layout", "C is D, but has another layout",
     [](struct product_call &call) { call.c.leading = 6; }, nullptr},
    {"values that nobody wrote", "A: uninitialised read", nullptr,
     [](struct product_call &call) { call.data_a = static_cast<char *>(device_new(15 * 4)); }},
};

static void test_wrong_products(void **)
{
    for (const struct wrong_product &wrong : wrong_products)
        assert_defect(wrong.label, wrong.reason, [&] {
            struct product_call call = small_product(CUDA_R_32F);
            allocate(call);
            if (wrong.describe) wrong.describe(call);
            describe(call);
            find(call);
            if (wrong.change) wrong.change(call);
            multiply(call);
        });
}

static struct product_call described_product(void)
{
    struct product_call call = small_product(CUDA_R_32F);
    allocate(call);
    describe(call);
    return call;
}

/* Descriptors that the library does not understand. */
static void set_and_find(cublasLtMatmulDescAttributes_t attribute, int32_t value)
{
    struct product_call call = described_product();
    set(call, attribute, value);
    find(call);
}

static void set_layout_and_find(cublasLtMatrixLayoutAttribute_t attribute, int32_t value)
{
    struct product_call call = described_product();
    cublasLtMatrixLayoutSetAttribute(call.layouts[1], attribute, &value, sizeof value);
    find(call);
}

struct wrong_call {
    const char *label, *reason;
    void (*make)(void);
};

static void assert_defects(const struct wrong_call *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) assert_defect(calls[i].label, calls[i].reason, calls[i].make);
}

static const struct wrong_call wrong_product_calls[] = {
    {"size of an attribute", "the attribute has 4 bytes, the value given 8",
     [] { set(described_product(), CUBLASLT_MATMUL_DESC_TRANSA, (int64_t)CUBLAS_OP_T); }},
    {"an attribute without a value", "no value",
     [] {
         cublasLtMatmulDescSetAttribute(described_product().operation, CUBLASLT_MATMUL_DESC_TRANSA, nullptr,
                                        4);
     }},
    {"another attribute of a product", "attribute 6 is not one",
     [] { set(described_product(), cublasLtMatmulDescAttributes_t(6), 0); }},
    {"another attribute of a layout", "attribute 7 is not one",
     [] { set_layout_and_find(cublasLtMatrixLayoutAttribute_t(7), 0); }},
    {"another preference", "attribute 12 is not one",
     [] {
         cublasLtMatmulPreference_t preference;
         uint64_t value = 0;
         cublasLtMatmulPreferenceCreate(&preference);
         cublasLtMatmulPreferenceSetAttribute(preference, cublasLtMatmulPreferenceAttributes_t(12), &value,
                                              sizeof value);
     }},
    {"another order", "order 2 of B", [] { set_layout_and_find(CUBLASLT_MATRIX_LAYOUT_ORDER, 2); }},
    {"different batch counts", "different batch counts",
     [] { set_layout_and_find(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 2); }},
    {"another transform", "operation 3 on A", [] { set_and_find(CUBLASLT_MATMUL_DESC_TRANSA, 3); }},
    {"another epilogue", "epilogue 2", [] { set_and_find(CUBLASLT_MATMUL_DESC_EPILOGUE, 2); }},
    {"alpha in device memory, said", "pointer mode 1",
     [] { set_and_find(CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_POINTER_MODE_DEVICE); }},
    {"a layout that is something else", "the layout of B was not made by cuBLASLt, or is destroyed",
     [] {
         struct product_call call = described_product();
         call.layouts[1] = reinterpret_cast<cublasLtMatrixLayout_t>(call.operation);
         find(call);
     }},
    {"no layout", "the layout of D is NULL",
     [] {
         struct product_call call = described_product();
         call.layouts[3] = nullptr;
         find(call);
     }},
    {"no place for an algorithm", "no place for a result",
     [] {
         struct product_call call = described_product();
         cublasLtMatmulPreference_t preference;
         cublasLtMatmulPreferenceCreate(&preference);
         cublasLtMatmulAlgoGetHeuristic(call.handle, call.operation, call.layouts[0], call.layouts[1],
                                        call.layouts[2], call.layouts[3], preference, 0, &call.found,
                                        nullptr);
     }},
};

static void test_wrong_product_calls(void **)
{
    assert_defects(wrong_product_calls, std::size(wrong_product_calls));
}

/* alpha in device memory, or nowhere. */
static void test_wrong_alpha(void **)
{
    struct product_call call = described_product();
    find(call);
    const char *alphas[] = {to_device({{1}, BITS_FP32}), nullptr};
    const char *reasons[] = {"alpha is in device memory", "alpha is NULL"};
    for (int i = 0; i < 2; i++)
        assert_defect("alpha", reasons[i], [&] {
            cublasLtMatmul(call.handle, call.operation, alphas[i], call.data_a, call.layouts[0], call.data_b,
                           call.layouts[1], &call.beta, call.data_c, call.layouts[2], call.data_d,
                           call.layouts[3], &call.found.algo, call.data_workspace, call.found.workspaceSize,
                           stream);
        });
}

/* ---- convolutions */

struct convolution_shape {
    int n, h, w, c, k, kernel_h, kernel_w, pad_h, pad_w, stride_h, stride_w, dilation;
};

enum direction { FORWARD, BACKWARD_DATA, BACKWARD_FILTER };

/* A call of cudnnConvolutionForward, BackwardData or BackwardFilter: what is told to the library, and the
 * memory. y is dy and x dx where it goes backward. */
struct convolution_call {
    enum direction direction;
    struct convolution_shape shape;
    cudnnDataType_t type = CUDNN_DATA_FLOAT, type_w = type, type_y = type, compute = CUDNN_DATA_FLOAT;
    cudnnMathType_t math = CUDNN_FMA_MATH;
    cudnnTensorFormat_t format = CUDNN_TENSOR_NHWC, format_w = CUDNN_TENSOR_NHWC;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    float alpha = 1, beta = 0;
    int out_h, out_w;
    int algorithm = -1; /* -1: the first deterministic one */

    cudnnHandle_t handle = nullptr;
    cudnnTensorDescriptor_t x = nullptr, y = nullptr;
    cudnnFilterDescriptor_t w = nullptr;
    cudnnConvolutionDescriptor_t convolution = nullptr;
    size_t workspace = 0;
    char *data_x = nullptr, *data_w = nullptr, *data_y = nullptr, *data_workspace = nullptr;
};

static int size_out(int size, int pad, int kernel, int stride, int dilation)
{
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
}

static struct convolution_call convolution_call(enum direction direction,
                                                const struct convolution_shape &shape, cudnnDataType_t type,
                                                cudnnMathType_t math)
{
    struct convolution_call call = {};
    call.direction = direction;
    call.shape = shape;
    call.type = call.type_w = call.type_y = type;
    call.math = math;
    call.out_h = size_out(shape.h, shape.pad_h, shape.kernel_h, shape.stride_h, shape.dilation);
    call.out_w = size_out(shape.w, shape.pad_w, shape.kernel_w, shape.stride_w, shape.dilation);
    return call;
}

static void describe(struct convolution_call &call)
{
    const struct convolution_shape &s = call.shape;
    cudnnCreate(&call.handle);
    cudnnSetStream(call.handle, stream);
    cudnnCreateTensorDescriptor(&call.x);
    cudnnCreateTensorDescriptor(&call.y);
    cudnnCreateFilterDescriptor(&call.w);
    cudnnCreateConvolutionDescriptor(&call.convolution);
    cudnnSetTensor4dDescriptor(call.x, call.format, call.type, s.n, s.c, s.h, s.w);
    cudnnSetTensor4dDescriptor(call.y, CUDNN_TENSOR_NHWC, call.type_y, s.n, s.k, call.out_h, call.out_w);
    cudnnSetFilter4dDescriptor(call.w, call.type_w, call.format_w, s.k, s.c, s.kernel_h, s.kernel_w);
    cudnnSetConvolution2dDescriptor(call.convolution, s.pad_h, s.pad_w, s.stride_h, s.stride_w, s.dilation,
                                    s.dilation, call.mode, call.compute);
    cudnnSetConvolutionMathType(call.convolution, call.math);
    cudnnSetConvolutionGroupCount(call.convolution, 1);
}

/* The first algorithm of the library's list that can be used and gives the same result in each run. */
template <class Result> static int first_usable(const Result *results, int count)
{
    for (int i = 0; i < count; i++)
        if (results[i].status == CUDNN_STATUS_SUCCESS && results[i].determinism == CUDNN_DETERMINISTIC)
            return results[i].algo;
    fail_msg("no algorithm");
    return -1;
}

static void find(struct convolution_call &call)
{
    int count = 0, found = 0;
    switch (call.direction) {
    case FORWARD: {
        cudnnConvolutionFwdAlgoPerf_t results[8];
        cudnnGetConvolutionForwardAlgorithm_v7(call.handle, call.x, call.w, call.convolution, call.y, 8,
                                               &count, results);
        found = call.algorithm >= 0 ? call.algorithm : first_usable(results, count);
        cudnnGetConvolutionForwardWorkspaceSize(call.handle, call.x, call.w, call.convolution, call.y,
                                                cudnnConvolutionFwdAlgo_t(found), &call.workspace);
        break;
    }
    case BACKWARD_DATA: {
        cudnnConvolutionBwdDataAlgoPerf_t results[8];
        cudnnGetConvolutionBackwardDataAlgorithm_v7(call.handle, call.w, call.y, call.convolution, call.x, 8,
                                                    &count, results);
        found = call.algorithm >= 0 ? call.algorithm : first_usable(results, count);
        cudnnGetConvolutionBackwardDataWorkspaceSize(call.handle, call.w, call.y, call.convolution, call.x,
                                                     cudnnConvolutionBwdDataAlgo_t(found), &call.workspace);
        break;
    }
    case BACKWARD_FILTER: {
        cudnnConvolutionBwdFilterAlgoPerf_t results[8];
        cudnnGetConvolutionBackwardFilterAlgorithm_v7(call.handle, call.x, call.y, call.convolution, call.w,
                                                      8, &count, results);
        found = call.algorithm >= 0 ? call.algorithm : first_usable(results, count);
        cudnnGetConvolutionBackwardFilterWorkspaceSize(call.handle, call.x, call.y, call.convolution, call.w,
                                                       cudnnConvolutionBwdFilterAlgo_t(found),
                                                       &call.workspace);
        break;
    }
    }
    call.algorithm = found;
    call.data_workspace = static_cast<char *>(device_new(call.workspace + 1));
}

static void convolve(const struct convolution_call &call)
{
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    switch (call.direction) {
    case FORWARD:
        status =
            cudnnConvolutionForward(call.handle, &call.alpha, call.x, call.data_x, call.w, call.data_w,
                                    call.convolution, cudnnConvolutionFwdAlgo_t(call.algorithm),
                                    call.data_workspace, call.workspace, &call.beta, call.y, call.data_y);
        break;
    case BACKWARD_DATA:
        status = cudnnConvolutionBackwardData(
            call.handle, &call.alpha, call.w, call.data_w, call.y, call.data_y, call.convolution,
            cudnnConvolutionBwdDataAlgo_t(call.algorithm), call.data_workspace, call.workspace, &call.beta,
            call.x, call.data_x);
        break;
    case BACKWARD_FILTER:
        status = cudnnConvolutionBackwardFilter(
            call.handle, &call.alpha, call.x, call.data_x, call.y, call.data_y, call.convolution,
            cudnnConvolutionBwdFilterAlgo_t(call.algorithm), call.data_workspace, call.workspace, &call.beta,
            call.w, call.data_w);
        break;
    }
    assert_int_equal(status, CUDNN_STATUS_SUCCESS);
    synchronize();
}

struct convolution_values {
    struct values x, w, y;
};

static struct convolution_values allocate(struct convolution_call &call)
{
    const struct convolution_shape &s = call.shape;
    int bits = call.type == CUDNN_DATA_BFLOAT16 ? (int)BITS_BF16 : (int)BITS_FP32;
    struct convolution_values values = {values_new(s.n * s.h * s.w * s.c, bits, 1),
                                        values_new(s.k * s.kernel_h * s.kernel_w * s.c, bits, 2),
                                        values_new(s.n * call.out_h * call.out_w * s.k, bits, 3)};
    call.data_x = to_device(values.x);
    call.data_w = to_device(values.w);
    call.data_y = to_device(values.y);
    return values;
}

/* Calls work(element of x, element of w, element of y) for all that the convolution multiplies. */
template <class Work> static void for_each_product(const struct convolution_call &call, Work work)
{
    const struct convolution_shape &s = call.shape;
    for (int n = 0; n < s.n; n++)
        for (int h = 0; h < s.h; h++)
            for (int w = 0; w < s.w; w++)
                for (int i = 0; i < s.kernel_h; i++)
                    for (int j = 0; j < s.kernel_w; j++) {
                        int row = h + s.pad_h - i * s.dilation, column = w + s.pad_w - j * s.dilation;
                        if (row < 0 || column < 0 || row % s.stride_h || column % s.stride_w) continue;
                        row /= s.stride_h, column /= s.stride_w;
                        if (row >= call.out_h || column >= call.out_w) continue;
                        for (int k = 0; k < s.k; k++)
                            for (int c = 0; c < s.c; c++)
                                work(((n * s.h + h) * s.w + w) * s.c + c,
                                     ((k * s.kernel_h + i) * s.kernel_w + j) * s.c + c,
                                     ((n * call.out_h + row) * call.out_w + column) * s.k + k);
                    }
}

static void check_convolution(const char *label, struct convolution_call call)
{
    struct convolution_values v = allocate(call);
    describe(call);
    find(call);
    assert_true(call.workspace > 0);
    convolve(call);
    bool tensor_cores = call.type == CUDNN_DATA_FLOAT && call.math != CUDNN_FMA_MATH;
    int bits = tensor_cores ? (int)BITS_TF32 : (int)BITS_FP32;
    struct values *results[] = {&v.y, &v.x, &v.w};
    const char *data[] = {call.data_y, call.data_x, call.data_w};
    const struct values &before = *results[call.direction];
    std::vector<double> sums(before.data.size());
    for_each_product(call, [&](int x, int w, int y) {
        double of_x = rounded(v.x.data[(size_t)x], bits), of_w = rounded(v.w.data[(size_t)w], bits);
        double of_y = rounded(v.y.data[(size_t)y], bits);
        if (call.direction == FORWARD) sums[(size_t)y] += of_x * of_w;
        if (call.direction == BACKWARD_DATA) sums[(size_t)x] += of_y * of_w;
        if (call.direction == BACKWARD_FILTER) sums[(size_t)w] += of_y * of_x;
    });
    for (size_t i = 0; i < sums.size(); i++) sums[i] = call.alpha * sums[i] + call.beta * before.data[i];
    assert_close(label, from_device(data[call.direction], (int64_t)sums.size(), before.bits), sums);
}

static const struct convolution_shape small_convolution = {2, 5, 6, 3, 4, 3, 3, 1, 1, 1, 1, 1};

static void test_convolutions(void **)
{
    const struct convolution_shape shapes[] = {
        small_convolution,
        {2, 6, 7, 4, 3, 3, 3, 1, 1, 2, 2, 1},  /* stride */
        {1, 8, 4, 5, 2, 1, 3, 0, 1, 1, 2, 1},  /* two kernel sizes, pads, strides */
        {1, 9, 9, 2, 3, 3, 3, 2, 2, 1, 1, 2},  /* dilation */
        {2, 4, 4, 8, 16, 1, 1, 0, 0, 1, 1, 1}, /* 1 x 1 */
    };
    for (const struct convolution_shape &shape : shapes)
        for (enum direction direction : {FORWARD, BACKWARD_DATA, BACKWARD_FILTER}) {
            struct convolution_call call =
                convolution_call(direction, shape, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH);
            check_convolution("fp32", call);
            call.alpha = 0.5f, call.beta = -2;
            check_convolution("fp32, added", call);
            call.math = CUDNN_DEFAULT_MATH;
            check_convolution("TF32", call);
            call = convolution_call(direction, shape, CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_OP_MATH);
            check_convolution("bf16", call);
            call.beta = 1;
            check_convolution("bf16, added", call);
        }
}

/* Which algorithm comes first, and that some cannot be used: a caller must look at the list. */
static void test_convolution_algorithms(void **)
{
    struct convolution_call call =
        convolution_call(BACKWARD_FILTER, small_convolution, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH);
    describe(call);
    cudnnConvolutionBwdFilterAlgoPerf_t results[8];
    int count = 0;
    cudnnGetConvolutionBackwardFilterAlgorithm_v7(call.handle, call.x, call.y, call.convolution, call.w, 8,
                                                  &count, results);
    assert_true(count > 2 && count < 8);
    assert_int_equal(results[0].determinism, CUDNN_NON_DETERMINISTIC);
    int refused = 0;
    for (int i = 0; i < count; i++) {
        refused += results[i].status != CUDNN_STATUS_SUCCESS;
        size_t bytes = 0;
        cudnnStatus_t status = cudnnGetConvolutionBackwardFilterWorkspaceSize(
            call.handle, call.x, call.y, call.convolution, call.w, results[i].algo, &bytes);
        assert_int_equal(status, results[i].status);
        assert_int_equal(bytes, results[i].memory);
    }
    assert_true(refused > 0 && refused < count);
}

struct wrong_convolution {
    const char *label, *reason;
    enum direction direction;
    void (*describe)(struct convolution_call &); /* changes the description, or NULL */
    void (*change)(struct convolution_call &);   /* changes the call behind the getters, or NULL */
};

static const struct wrong_convolution wrong_convolutions[] = {
    {"NCHW", "x is not packed NHWC", FORWARD,
     [](struct convolution_call &call) { call.format = CUDNN_TENSOR_NCHW; }, nullptr},
    {"filter KCRS", "the filter is not NHWC", BACKWARD_DATA,
     [](struct convolution_call &call) { call.format_w = CUDNN_TENSOR_NCHW; }, nullptr},
    {"filter with its dimensions mixed up", "the filter takes 4 channels, x has 3", FORWARD, nullptr,
     [](struct convolution_call &call) {
         cudnnSetFilter4dDescriptor(call.w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, 3, 4, 3, 3);
     }},
    {"filter as [k, r, s, c]", "the filter takes 3 channels, x has 8", FORWARD,
     [](struct convolution_call &call) { call.shape.c = 8; },
     [](struct convolution_call &call) {
         cudnnSetFilter4dDescriptor(call.w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, 4, 3, 3, 8);
     }},
    {"y of another size", "y is [n 2, c 4, h 4, w 6], the convolution of x [2, 4, 5, 6]", FORWARD,
     [](struct convolution_call &call) { call.out_h--; }, nullptr},
    {"dy with its sizes mixed up", "y is [n 2, c 4, h 6, w 5]", BACKWARD_FILTER,
     [](struct convolution_call &call) { std::swap(call.out_h, call.out_w); }, nullptr},
    {"a filter that is too large", "the filter reaches over 9 cells, the padded input has 7", FORWARD,
     [](struct convolution_call &call) { call.shape.kernel_h = 9; }, nullptr},
    {"fp32 filter gradient of bf16", "different data types (9, 0, 9)", BACKWARD_FILTER,
     [](struct convolution_call &call) {
         call.type = call.type_y = CUDNN_DATA_BFLOAT16;
         call.math = CUDNN_TENSOR_OP_MATH;
     },
     nullptr},
    {"fp32 y of bf16", "different data types (9, 9, 0)", FORWARD,
     [](struct convolution_call &call) {
         call.type = call.type_w = CUDNN_DATA_BFLOAT16;
         call.math = CUDNN_TENSOR_OP_MATH;
     },
     nullptr},
    {"another type", "data type 2", FORWARD,
     [](struct convolution_call &call) { call.type = call.type_w = call.type_y = CUDNN_DATA_HALF; }, nullptr},
    {"another compute type", "compute type 9, not CUDNN_DATA_FLOAT", FORWARD,
     [](struct convolution_call &call) { call.compute = CUDNN_DATA_BFLOAT16; }, nullptr},
    {"bf16 without tensor cores", "bf16 asks for CUDNN_TENSOR_OP_MATH", FORWARD,
     [](struct convolution_call &call) {
         call.type = call.type_w = call.type_y = CUDNN_DATA_BFLOAT16;
         call.math = CUDNN_DEFAULT_MATH;
     },
     nullptr},
    {"fp32 in half precision", "would compute fp32 in half precision", FORWARD,
     [](struct convolution_call &call) { call.math = CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION; }, nullptr},
    {"a convolution in the mathematical sense", "mode 0", FORWARD,
     [](struct convolution_call &call) { call.mode = CUDNN_CONVOLUTION; }, nullptr},
    {"a size of 0", "a size of 2, 0, 5, 6", FORWARD, [](struct convolution_call &call) { call.shape.c = 0; },
     nullptr},
    {"a stride of 0", "strides 0, 1", FORWARD, nullptr,
     [](struct convolution_call &call) {
         cudnnSetConvolution2dDescriptor(call.convolution, 1, 1, 0, 1, 1, 1, CUDNN_CROSS_CORRELATION,
                                         CUDNN_DATA_FLOAT);
     }},
    {"groups", "2 groups", FORWARD, nullptr,
     [](struct convolution_call &call) { cudnnSetConvolutionGroupCount(call.convolution, 2); }},

    {"an algorithm that is not documented for NHWC", "algorithm 6 is not documented for NHWC", FORWARD,
     nullptr, [](struct convolution_call &call) { call.algorithm = CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD; }},
    {"an algorithm with atomics, dx", "algorithm 0 is not deterministic", BACKWARD_DATA, nullptr,
     [](struct convolution_call &call) { call.algorithm = CUDNN_CONVOLUTION_BWD_DATA_ALGO_0; }},
    {"an algorithm with atomics, dw", "algorithm 0 is not deterministic", BACKWARD_FILTER, nullptr,
     [](struct convolution_call &call) { call.algorithm = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0; }},
    {"workspace too small", "bytes, the algorithm needs", BACKWARD_DATA, nullptr,
     [](struct convolution_call &call) { call.workspace--; }},
    {"no workspace", "the workspace is NULL", FORWARD, nullptr,
     [](struct convolution_call &call) { call.data_workspace = nullptr; }},
    {"misaligned workspace", "the workspace is not aligned to 256 bytes", FORWARD, nullptr,
     [](struct convolution_call &call) { call.data_workspace += 128; }},
    {"workspace of another math type", "bytes, the algorithm needs", FORWARD, nullptr,
     [](struct convolution_call &call) {
         call.workspace = 0;
         cudnnSetConvolutionMathType(call.convolution, CUDNN_DEFAULT_MATH);
     }},
    {"misaligned x", "x is not aligned to 16 bytes", FORWARD, nullptr,
     [](struct convolution_call &call) { call.data_x += 8; }},
    {"host memory", "the filter is not device memory", FORWARD, nullptr,
     [](struct convolution_call &call) { call.data_w = reinterpret_cast<char *>(&call); }},
    {"x that is shorter than said", "x: out of bounds: a read", FORWARD, nullptr,
     [](struct convolution_call &call) {
         call.data_x = to_device(values_new(2 * 5 * 6 * 3 - 1, BITS_FP32, 1));
     }},
    {"a filter that is shorter than said", "the filter: out of bounds: a read", BACKWARD_DATA, nullptr,
     [](struct convolution_call &call) { call.data_w = to_device(values_new(107, BITS_FP32, 1)); }},
    {"dw that is shorter than said", "dw: out of bounds: a write", BACKWARD_FILTER, nullptr,
     [](struct convolution_call &call) { call.data_w = to_device(values_new(107, BITS_FP32, 1)); }},
    {"values that nobody wrote", "dy: uninitialised read", BACKWARD_DATA, nullptr,
     [](struct convolution_call &call) { call.data_y = static_cast<char *>(device_new(2 * 5 * 6 * 4 * 4)); }},
    {"dx over dy", "dx overlaps dy", BACKWARD_DATA, nullptr,
     [](struct convolution_call &call) { call.data_x = call.data_y; }},
};

static void test_wrong_convolutions(void **)
{
    for (const struct wrong_convolution &wrong : wrong_convolutions)
        assert_defect(wrong.label, wrong.reason, [&] {
            struct convolution_call call =
                convolution_call(wrong.direction, small_convolution, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH);
            allocate(call);
            if (wrong.describe) wrong.describe(call);
            describe(call);
            find(call);
            if (wrong.change) wrong.change(call);
            convolve(call);
        });
}

/* cudnnGetConvolution2dForwardOutputDim, with what is left out (NULL) undescribed. */
static void ask_output(bool with_convolution, bool with_x, bool with_filter)
{
    struct convolution_call call =
        convolution_call(FORWARD, small_convolution, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH);
    describe(call);
    int n, c, h, w;
    if (!with_convolution) cudnnCreateConvolutionDescriptor(&call.convolution);
    if (!with_x) cudnnCreateTensorDescriptor(&call.x);
    if (!with_filter) cudnnCreateFilterDescriptor(&call.w);
    cudnnGetConvolution2dForwardOutputDim(call.convolution, call.x, call.w, &n, &c, &h, &w);
}

static struct convolution_call described_convolution(void)
{
    struct convolution_call call =
        convolution_call(FORWARD, small_convolution, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH);
    allocate(call);
    describe(call);
    return call;
}

static const struct wrong_call wrong_convolution_calls[] = {
    {"no handle to destroy", "cudnnDestroy: NULL", [] { cudnnDestroy(nullptr); }},
    {"a convolution that is not described", "the convolution is not described",
     [] { ask_output(false, true, true); }},
    {"x that is not described", "the tensor x is not described", [] { ask_output(true, false, true); }},
    {"a filter that is not described", "the filter is not described", [] { ask_output(true, true, false); }},
    {"y that is not described", "the tensor y is not described",
     [] {
         struct convolution_call call = described_convolution();
         cudnnCreateTensorDescriptor(&call.y);
         find(call);
     }},
    {"a tensor that is too large", "2^31 elements or more",
     [] {
         cudnnSetTensor4dDescriptor(described_convolution().x, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, 8192, 512,
                                    32, 16);
     }},
    {"another format", "format 2",
     [] {
         cudnnSetTensor4dDescriptor(described_convolution().x, CUDNN_TENSOR_NCHW_VECT_C, CUDNN_DATA_FLOAT, 1,
                                    1, 1, 1);
     }},
    {"negative pads", "pads -1, 0",
     [] {
         cudnnSetConvolution2dDescriptor(described_convolution().convolution, -1, 0, 1, 1, 1, 1,
                                         CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT);
     }},
    {"no dilation", "dilations 1, 0",
     [] {
         cudnnSetConvolution2dDescriptor(described_convolution().convolution, 0, 0, 1, 1, 1, 0,
                                         CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT);
     }},
    {"no place for an algorithm", "no place for a result",
     [] {
         struct convolution_call call = described_convolution();
         int count;
         cudnnGetConvolutionForwardAlgorithm_v7(call.handle, call.x, call.w, call.convolution, call.y, 1,
                                                &count, nullptr);
     }},
    {"no handle", "the handle is NULL",
     [] {
         struct convolution_call call = described_convolution();
         find(call);
         call.handle = nullptr;
         convolve(call);
     }},
};

static void test_wrong_convolution_calls(void **)
{
    assert_defects(wrong_convolution_calls, std::size(wrong_convolution_calls));
}

/* The work is done in the stream's order, on the values that are there then; and the workspace is not kept.
 */
static void test_work_is_queued(void **)
{
    struct product_call call = small_product(CUDA_R_32F);
    struct product_values values = allocate(call);
    describe(call);
    find(call);
    cublasLtMatmul(call.handle, call.operation, &call.alpha, call.data_a, call.layouts[0], call.data_b,
                   call.layouts[1], &call.beta, call.data_c, call.layouts[2], call.data_d, call.layouts[3],
                   &call.found.algo, call.data_workspace, call.found.workspaceSize, stream);
    call.alpha = 7; // was taken at the call
    cudaMemsetAsync(call.data_d, 0, values.d.data.size() * 4, stream);
    struct values after = from_device(call.data_d, (int64_t)values.d.data.size(), BITS_FP32);
    for (double value : after.data) assert_true(value == 0);
    struct values workspace = from_device(call.data_workspace, 4, BITS_FP32);
    for (double value : workspace.data) assert_true(isnan(value));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_products_row_major),
        cmocka_unit_test(test_products_types),
        cmocka_unit_test(test_products_batch),
        cmocka_unit_test(test_wrong_products),
        cmocka_unit_test(test_wrong_product_calls),
        cmocka_unit_test(test_wrong_alpha),
        cmocka_unit_test(test_convolutions),
        cmocka_unit_test(test_convolution_algorithms),
        cmocka_unit_test(test_wrong_convolutions),
        cmocka_unit_test(test_wrong_convolution_calls),
        cmocka_unit_test(test_work_is_queued),
    };
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
