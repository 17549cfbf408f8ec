/* Matrix products on cuBLASLt. It knows matrices by columns; a row-major matrix is its transpose in memory.
 * So c = a b is asked for as c' = b' a': the operands change places, and a bias along the columns of c lies
 * along the rows of c', where cuBLASLt has an epilogue for it. */
#include "device.h"
#include "shape_cache.h"

/* Everything that the choice of an algorithm may depend on. Addresses count by what they are multiples of, up
 * to 16: no more is asked for by any load, and the choice shall not change with the place in an arena. */
struct operand_key {
    int64_t dtype, stride, stack, alignment;
};

struct product_key {
    int64_t m, n, k, count;
    struct operand_key a, b, c;
    int64_t transpose_a, transpose_b, bias_alignment; /* 0: no bias */
    int64_t tf32;
};

/* Owned handles. */
struct product_plan {
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace;
};

struct product_cache {
    struct shape_cache<product_key, product_plan> plans;
};

enum { WORKSPACE_MAX = 32 << 20 /* what NVIDIA advises on sm_90 */, ALIGNMENT_MAX = 16 };

struct product_cache *product_cache_new(void)
{
    return static_cast<struct product_cache *>(check_calloc(1, sizeof(struct product_cache)));
}

void product_cache_delete(struct product_cache *cache)
{
    shape_cache_clear(&cache->plans, [](struct product_plan *plan) {
        CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(plan->a));
        CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(plan->b));
        CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(plan->c));
        CUBLAS_CHECK(cublasLtMatmulDescDestroy(plan->operation));
    });
    free(cache);
}

static int64_t alignment_of(const void *address)
{
    uintptr_t bits = reinterpret_cast<uintptr_t>(address) | ALIGNMENT_MAX;
    return (int64_t)(bits & -bits);
}

static struct operand_key operand_key(int64_t count, const struct matrices *matrices)
{
    return {matrices->dtype, matrices->stride, count > 1 ? matrices->stack : 0, alignment_of(matrices->data)};
}

static cudaDataType_t type_of(int64_t dtype)
{
    return dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

template <class Value>
static void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, Value value)
{
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value));
}

template <class Value>
static void set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, Value value)
{
    CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof value));
}

template <class Value>
static void set(cublasLtMatmulPreference_t wish, cublasLtMatmulPreferenceAttributes_t attribute, Value value)
{
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(wish, attribute, &value, sizeof value));
}

/* Of row-major matrices [rows, columns]. */
static cublasLtMatrixLayout_t layout_new(const struct operand_key *operand, int64_t count, int64_t rows,
                                         int64_t columns)
{
    cublasLtMatrixLayout_t layout;
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&layout, type_of(operand->dtype), (uint64_t)columns,
                                            (uint64_t)rows, operand->stride));
    if (count > 1) {
        set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (int32_t)count);
        set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, operand->stack);
    }
    return layout;
}

static cublasLtMatmulDesc_t operation_new(const struct product_key *key, const void *bias)
{
    cublasLtMatmulDesc_t operation;
    CUBLAS_CHECK(cublasLtMatmulDescCreate(
        &operation, key->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(operation, CUBLASLT_MATMUL_DESC_TRANSA, key->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(operation, CUBLASLT_MATMUL_DESC_TRANSB, key->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (bias) {
        set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
        set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); // the choice looks at its alignment
    }
    return operation;
}

/* Sums that are split over k are put together in fp32 and apart from c, in a fixed order. */
static cublasLtMatmulPreference_t wish_new(const struct product_key *key)
{
    cublasLtMatmulPreference_t wish;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&wish));
    set(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)WORKSPACE_MAX);
    set(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)key->b.alignment);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)key->a.alignment);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)key->c.alignment);
    set(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)key->c.alignment);
    return wish;
}

static struct product_plan plan_new(struct cuda_backend *cuda, const struct product_key *key,
                                    const void *bias)
{
    int64_t m = key->m, n = key->n, k = key->k;
    struct product_plan plan = {
        .operation = operation_new(key, bias),
        .a = layout_new(&key->a, key->count, key->transpose_a ? k : m, key->transpose_a ? m : k),
        .b = layout_new(&key->b, key->count, key->transpose_b ? n : k, key->transpose_b ? k : n),
        .c = layout_new(&key->c, key->count, m, n),
        .algorithm = {},
        .workspace = 0,
    };
    cublasLtMatmulPreference_t wish = wish_new(key);
    cublasLtMatmulHeuristicResult_t found = {};
    int results = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda->cublas, plan.operation, plan.b, plan.a,
                                                           plan.c, plan.c, wish, 1, &found, &results);
    CHECK(status == CUBLAS_STATUS_SUCCESS && results == 1 && found.state == CUBLAS_STATUS_SUCCESS,
          "cuBLASLt has no product for %lld x [%lld x %lld] [%lld x %lld], %s to %s: %s",
          (long long)key->count, (long long)m, (long long)k, (long long)k, (long long)n,
          dtype_name((enum dtype)key->a.dtype), dtype_name((enum dtype)key->c.dtype),
          cublasLtGetStatusString(status));
    CUBLAS_CHECK(cublasLtMatmulPreferenceDestroy(wish));
    plan.algorithm = found.algo;
    plan.workspace = found.workspaceSize;
    return plan;
}

/* cuBLASLt documents a bias of c's own type alone; so beside a bf16 result it is rounded to bf16, as the
 * weights are. Adding it in fp32 behind the product would not be nearer to the truth: that rounds the
 * product, which is usually the larger, before the sum; and it is one more pass over c. */
static void round_bias(struct cuda_backend *cuda, const float *bias, int64_t count, void *rounded)
{
    struct tensor from = {}, to = {};
    from.rank = to.rank = 1;
    for (int i = 0; i < TENSOR_MAX_RANK; i++) from.dim[i] = to.dim[i] = i == 0 ? count : 1;
    from.dtype = DTYPE_F32, from.data = const_cast<float *>(bias);
    to.dtype = DTYPE_BF16, to.data = rounded;
    cast_cuda(&cuda->base, &from, &to);
}

void multiply(struct cuda_backend *cuda, int64_t count, float alpha, struct matrices a, bool transpose_a,
              struct matrices b, bool transpose_b, float beta, const void *from, const float *bias,
              struct matrices c)
{
    struct product_key key = {
        .m = c.rows,
        .n = c.columns,
        .k = transpose_a ? a.rows : a.columns,
        .count = count,
        .a = operand_key(count, &a),
        .b = operand_key(count, &b),
        .c = operand_key(count, &c),
        .transpose_a = transpose_a,
        .transpose_b = transpose_b,
        .bias_alignment = 0,
        .tf32 = cuda->base.tf32 && a.dtype == DTYPE_F32,
    };
    if (count == 0 || key.m == 0 || key.n == 0) return;
    CHECK(key.k > 0, "product over no columns");
    bool rounded = bias && c.dtype == DTYPE_BF16;
    struct scratch bias_memory(&cuda->base, rounded ? (size_t)key.n * dtype_size(DTYPE_BF16) : 0);
    if (rounded) round_bias(cuda, bias, key.n, bias_memory.of<void>());
    const void *epilogue = rounded ? bias_memory.of<void>() : bias;
    if (bias) key.bias_alignment = alignment_of(epilogue);
    if (!from) from = c.data;
    if (alignment_of(from) < key.c.alignment) key.c.alignment = alignment_of(from);

    bool fresh;
    struct product_plan *plan = shape_value(&cuda->products->plans, key, &fresh);
    if (fresh) *plan = plan_new(cuda, &key, epilogue);
    if (bias) set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, epilogue);
    struct scratch workspace(&cuda->base, plan->workspace, WORKSPACE_ALIGNMENT);
    CUBLAS_CHECK(cublasLtMatmul(cuda->cublas, plan->operation, &alpha, b.data, plan->b, a.data, plan->a,
                                &beta, from, plan->c, const_cast<void *>(c.data), plan->c, &plan->algorithm,
                                workspace.of<void>(), plan->workspace, cuda->compute));
}
