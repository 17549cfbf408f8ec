/* cuBLASLt on the emulator: each argument is checked as NVIDIA's documentation of cublasLtMatmul states it,
 * the product D = alpha op(A) op(B) + beta C (+ bias) is computed by plain loops when its stream comes to it.
 */
#include "library.h"

#include <cublasLt.h>

#include <algorithm>
#include <climits>

/* ---- descriptors: kept inside the library's opaque structures */

enum { MARK_CONTEXT = 0x1c0de, MARK_LAYOUT, MARK_OPERATION, MARK_PREFERENCE, MARK_ALGORITHM, MARK_GONE };

struct cublasLtContext {
    int mark;
};

struct layout {
    int32_t mark, type, order, batch_count;
    uint64_t rows, columns;
    int64_t leading, batch_stride; /* elements */
};

struct operation {
    int32_t mark, compute_type, scale_type, pointer_mode, transpose_a, transpose_b;
    uint32_t epilogue;
    int32_t bias_type; /* -1: that of D */
    const void *bias;
    int64_t bias_batch_stride;
};

struct preference {
    int32_t mark;
    uint32_t alignment[4]; /* of A, B, C, D, bytes */
    uint32_t reductions;   /* allowed; there is none here */
    uint64_t workspace;
};

/* What the heuristic found, and for which product it holds. */
struct algorithm {
    int32_t mark;
    uint32_t alignment[5]; /* of A, B, C, D and the bias, bytes */
    uint64_t product;      /* hash */
    uint64_t workspace;
};

static_assert(sizeof(struct layout) <= sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(struct operation) <= sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(struct preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t));
static_assert(sizeof(struct algorithm) <= sizeof(cublasLtMatmulAlgo_t));

/* The structure inside an opaque one, which the library made and did not destroy. */
template <class Inside, class Opaque>
static Inside *inside(const char *call, const char *name, Opaque *opaque, int mark)
{
    Inside *structure = reinterpret_cast<Inside *>(opaque);
    if (structure == nullptr) emulator_fail("%s: %s is NULL", call, name);
    if (structure->mark != mark)
        emulator_fail("%s: %s was not made by cuBLASLt, or is destroyed", call, name);
    return structure;
}

template <class Inside, class Opaque> static void create(Opaque **opaque, const Inside &contents)
{
    *opaque = new Opaque();
    memcpy(*opaque, &contents, sizeof contents);
}

template <class Inside, class Opaque> static void destroy(const char *call, Opaque *opaque, int mark)
{
    inside<Inside>(call, "the descriptor", opaque, mark)->mark = MARK_GONE;
    delete opaque;
}

template <class Value> static void take(const char *call, Value *to, const void *from, size_t bytes)
{
    if (from == nullptr) emulator_fail("%s: no value", call);
    if (bytes != sizeof *to)
        emulator_fail("%s: the attribute has %zu bytes, the value given %zu", call, sizeof *to, bytes);
    memcpy(to, from, bytes);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *lightHandle)
{
    *lightHandle = new cublasLtContext{MARK_CONTEXT};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t lightHandle)
{
    destroy<cublasLtContext>("cublasLtDestroy", lightHandle, MARK_CONTEXT);
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "an internal operation failed";
    }
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *matLayout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld)
{
    create(matLayout, layout{MARK_LAYOUT, type, CUBLASLT_ORDER_COL, 1, rows, cols, ld, 0});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t matLayout)
{
    destroy<layout>("cublasLtMatrixLayoutDestroy", matLayout, MARK_LAYOUT);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t matLayout,
                                                cublasLtMatrixLayoutAttribute_t attr, const void *buf,
                                                size_t sizeInBytes)
{
    const char *call = "cublasLtMatrixLayoutSetAttribute";
    struct layout *layout = inside<struct layout>(call, "the layout", matLayout, MARK_LAYOUT);
    switch (attr) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        take(call, &layout->type, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        take(call, &layout->order, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        take(call, &layout->rows, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        take(call, &layout->columns, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_LD:
        take(call, &layout->leading, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        take(call, &layout->batch_count, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        take(call, &layout->batch_stride, buf, sizeInBytes);
        break;
    default:
        emulator_fail("%s: attribute %d is not one that the stand-in knows", call, attr);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *matmulDesc, cublasComputeType_t computeType,
                                        cudaDataType scaleType)
{
    create(matmulDesc, operation{MARK_OPERATION, computeType, scaleType, CUBLASLT_POINTER_MODE_HOST,
                                 CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, -1, nullptr, 0});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t matmulDesc)
{
    destroy<operation>("cublasLtMatmulDescDestroy", matmulDesc, MARK_OPERATION);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t matmulDesc,
                                              cublasLtMatmulDescAttributes_t attr, const void *buf,
                                              size_t sizeInBytes)
{
    const char *call = "cublasLtMatmulDescSetAttribute";
    struct operation *operation = inside<struct operation>(call, "the operation", matmulDesc, MARK_OPERATION);
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        take(call, &operation->compute_type, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        take(call, &operation->scale_type, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        take(call, &operation->pointer_mode, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSA:
        take(call, &operation->transpose_a, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        take(call, &operation->transpose_b, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        take(call, &operation->epilogue, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        take(call, &operation->bias, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        take(call, &operation->bias_batch_stride, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        take(call, &operation->bias_type, buf, sizeInBytes);
        break;
    default:
        emulator_fail("%s: attribute %d is not one that the stand-in knows", call, attr);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref)
{
    create(pref, preference{MARK_PREFERENCE, {256, 256, 256, 256}, CUBLASLT_REDUCTION_SCHEME_MASK, 0});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref)
{
    destroy<preference>("cublasLtMatmulPreferenceDestroy", pref, MARK_PREFERENCE);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *buf, size_t sizeInBytes)
{
    const char *call = "cublasLtMatmulPreferenceSetAttribute";
    struct preference *preference = inside<struct preference>(call, "the preference", pref, MARK_PREFERENCE);
    switch (attr) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        take(call, &preference->workspace, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        take(call, &preference->reductions, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        take(call, &preference->alignment[attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], buf,
             sizeInBytes);
        break;
    default:
        emulator_fail("%s: attribute %d is not one that the stand-in knows", call, attr);
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- a product, as its descriptors state it: checked without the operands' addresses */

/* A stack of matrices: element (r, c) of matrix i is i batch_stride + r row_stride + c column_stride. */
struct matrix {
    char name;
    enum value_type type;
    bool row_major;
    int64_t rows, columns, leading, row_stride, column_stride, batch_stride;
};

struct product {
    struct matrix a, b, c, d;
    bool transpose_a, transpose_b;
    enum value_rounding rounding; /* of the operands */
    int64_t k, batch_count;
    bool biased;
    int64_t bias_batch_stride;
    uint64_t hash;
};

static enum value_type value_type_of(const char *call, char name, int32_t type)
{
    if (type != CUDA_R_32F && type != CUDA_R_16BF)
        emulator_fail("%s: data type %d of %c is not one that the stand-in knows", call, type, name);
    return type == CUDA_R_16BF ? VALUE_BF16 : VALUE_FP32;
}

static struct matrix matrix_of(const char *call, char name, const struct layout *layout)
{
    int64_t rows = (int64_t)layout->rows, columns = (int64_t)layout->columns, leading = layout->leading;
    if (layout->rows - 1 >= INT32_MAX || layout->columns - 1 >= INT32_MAX)
        emulator_fail("%s: %c is %ld x %ld: sizes must be in 1 .. 2^31 - 1", call, name, rows, columns);
    if (layout->order != CUBLASLT_ORDER_COL && layout->order != CUBLASLT_ORDER_ROW)
        emulator_fail("%s: order %d of %c is not one that the stand-in knows", call, layout->order, name);
    bool row_major = layout->order == CUBLASLT_ORDER_ROW;
    bool broadcast = name == 'C' && leading == 0;
    if (leading < (row_major ? columns : rows) && !broadcast)
        emulator_fail("%s: leading dimension %ld of %c (%s-major) is less than its %ld %s", call, leading,
                      name, row_major ? "row" : "column", row_major ? columns : rows,
                      row_major ? "columns" : "rows");
    return {name,
            value_type_of(call, name, layout->type),
            row_major,
            rows,
            columns,
            leading,
            row_major ? leading : 1,
            row_major ? 1 : leading,
            layout->batch_stride};
}

static bool transposed(const char *call, char name, int32_t operation)
{
    if (operation != CUBLAS_OP_N && operation != CUBLAS_OP_T && operation != CUBLAS_OP_C)
        emulator_fail("%s: operation %d on %c", call, operation, name);
    return operation != CUBLAS_OP_N;
}

/* The table of types in the documentation of cublasLtMatmul, for fp32 and bf16. */
static void check_types(const char *call, const struct operation *operation, const struct product *product)
{
    bool fp32 = product->a.type == VALUE_FP32;
    if (operation->scale_type != CUDA_R_32F)
        emulator_fail("%s: scale type %d, not CUDA_R_32F", call, operation->scale_type);
    if (product->a.type != product->b.type) emulator_fail("%s: A and B have different data types", call);
    if (product->c.type != product->d.type) emulator_fail("%s: C and D have different data types", call);
    if (fp32 && product->d.type != VALUE_FP32)
        emulator_fail("%s: fp32 A and B with bf16 D is no supported combination", call);
    switch (operation->compute_type) {
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_PEDANTIC:
        break;
    case CUBLAS_COMPUTE_32F_FAST_TF32:
        if (!fp32) emulator_fail("%s: CUBLAS_COMPUTE_32F_FAST_TF32 is for fp32 A and B alone", call);
        break;
    default:
        emulator_fail("%s: compute type %d is not supported for these data types", call,
                      operation->compute_type);
    }
}

static void check_shapes(const char *call, const struct product *product)
{
    const struct matrix *a = &product->a, *b = &product->b, *c = &product->c, *d = &product->d;
    int64_t m = product->transpose_a ? a->columns : a->rows;
    int64_t n = product->transpose_b ? b->rows : b->columns, k = product->transpose_b ? b->columns : b->rows;
    if (product->k != k)
        emulator_fail("%s: op(A) is %ld x %ld and op(B) %ld x %ld", call, m, product->k, k, n);
    if (d->rows != m || d->columns != n)
        emulator_fail("%s: D is %ld x %ld, the product %ld x %ld", call, d->rows, d->columns, m, n);
    if (c->rows != d->rows || c->columns != d->columns)
        emulator_fail("%s: C is %ld x %ld, D %ld x %ld", call, c->rows, c->columns, d->rows, d->columns);
    if (c->row_major != d->row_major) emulator_fail("%s: C and D have different orders", call);
}

/* Whether two matrices of a stack share an element. Lines (columns of a column-major matrix) begin at
 * multiples of the leading dimension, so matrices that lie `apart` do if two lines are less than a line's
 * length apart. */
static bool stack_overlaps(const struct matrix *matrix, int64_t count)
{
    int64_t length = matrix->row_major ? matrix->columns : matrix->rows;
    int64_t lines = matrix->row_major ? matrix->rows : matrix->columns;
    for (int64_t i = 1; i < count; i++) {
        int64_t apart = i * std::abs(matrix->batch_stride);
        int64_t between = apart / matrix->leading, rest = apart % matrix->leading;
        if (between < lines && rest < length) return true;
        if (between + 1 < lines && matrix->leading - rest < length) return true;
    }
    return false;
}

static void check_epilogue(const char *call, const struct operation *operation, const struct product *product)
{
    if (operation->epilogue != CUBLASLT_EPILOGUE_DEFAULT && operation->epilogue != CUBLASLT_EPILOGUE_BIAS)
        emulator_fail("%s: epilogue %u is not one that the stand-in knows", call, operation->epilogue);
    if (!product->biased) return;
    if (product->d.row_major)
        emulator_fail("%s: a bias, one value a row of D, asks for column-major D", call);
    if (operation->bias_type != -1 && value_type_of(call, 'b', operation->bias_type) != product->d.type)
        emulator_fail("%s: the bias must have the data type of D", call);
    if (operation->bias_batch_stride != 0 && operation->bias_batch_stride < product->d.rows)
        emulator_fail("%s: bias vectors of a batch are %ld elements apart, D has %ld rows", call,
                      operation->bias_batch_stride, product->d.rows);
}

static uint64_t hash_of_product(const struct operation *operation, const struct layout *const layouts[4])
{
    struct operation key = *operation;
    key.bias = nullptr;
    uint64_t parts[5] = {hash_of(&key, sizeof key)};
    for (int i = 0; i < 4; i++) parts[1 + i] = hash_of(layouts[i], sizeof *layouts[i]);
    return hash_of(parts, sizeof parts);
}

/* The product of the descriptors, which must be one that the library computes. */
static struct product product_of(const char *call, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d)
{
    const struct operation *operation =
        inside<struct operation>(call, "the operation", description, MARK_OPERATION);
    const struct layout *layouts[4] = {inside<struct layout>(call, "the layout of A", a, MARK_LAYOUT),
                                       inside<struct layout>(call, "the layout of B", b, MARK_LAYOUT),
                                       inside<struct layout>(call, "the layout of C", c, MARK_LAYOUT),
                                       inside<struct layout>(call, "the layout of D", d, MARK_LAYOUT)};
    struct product product = {};
    product.a = matrix_of(call, 'A', layouts[0]);
    product.b = matrix_of(call, 'B', layouts[1]);
    product.c = matrix_of(call, 'C', layouts[2]);
    product.d = matrix_of(call, 'D', layouts[3]);
    product.transpose_a = transposed(call, 'A', operation->transpose_a);
    product.transpose_b = transposed(call, 'B', operation->transpose_b);
    product.rounding = operation->compute_type == CUBLAS_COMPUTE_32F_FAST_TF32 ? ROUND_TF32 : ROUND_NOT;
    product.k = product.transpose_a ? product.a.rows : product.a.columns;
    product.batch_count = layouts[3]->batch_count;
    product.biased = operation->epilogue & CUBLASLT_EPILOGUE_BIAS;
    product.bias_batch_stride = operation->bias_batch_stride;
    product.hash = hash_of_product(operation, layouts);
    if (operation->pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        emulator_fail("%s: pointer mode %d is not one that the stand-in knows", call,
                      operation->pointer_mode);
    for (const struct layout *layout : layouts)
        if (layout->batch_count != product.batch_count || layout->batch_count < 1)
            emulator_fail("%s: A, B, C and D have different batch counts, or none", call);
    check_types(call, operation, &product);
    check_shapes(call, &product);
    if (stack_overlaps(&product.d, product.batch_count))
        emulator_fail("%s: the matrices D of the batch overlap: %ld elements apart, leading dimension %ld",
                      call, product.d.batch_stride, product.d.leading);
    check_epilogue(call, operation, &product);
    return product;
}

/* ---- the heuristic */

/* The largest power of two up to 16 (the widest load) that divides the address. */
static uint32_t alignment_of(const void *address)
{
    uint32_t alignment = 16;
    while (!is_aligned(address, alignment)) alignment /= 2;
    return alignment;
}

static struct algorithm algorithm_for(const char *call, const struct product *product,
                                      const struct operation *operation, const struct preference *preference,
                                      bool with_workspace)
{
    const struct matrix *matrices[4] = {&product->a, &product->b, &product->c, &product->d};
    struct algorithm algorithm = {};
    algorithm.mark = MARK_ALGORITHM;
    algorithm.product = product->hash;
    algorithm.workspace = with_workspace ? workspace_of(product->hash) : 0;
    algorithm.alignment[4] = alignment_of(operation->bias);
    for (int i = 0; i < 4; i++) {
        uint32_t alignment = preference->alignment[i];
        if (alignment < value_bytes(matrices[i]->type) || (alignment & (alignment - 1)) != 0)
            emulator_fail("%s: an alignment of %u bytes for %c", call, alignment, matrices[i]->name);
        algorithm.alignment[i] = alignment;
    }
    return algorithm;
}

/* Finds one algorithm that needs workspace, if that is allowed, and one that needs none. */
cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t operationDesc,
                               cublasLtMatrixLayout_t Adesc, cublasLtMatrixLayout_t Bdesc,
                               cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
                               cublasLtMatmulPreference_t preferenceDesc, int requestedAlgoCount,
                               cublasLtMatmulHeuristicResult_t heuristicResultsArray[], int *returnAlgoCount)
{
    const char *call = "cublasLtMatmulAlgoGetHeuristic";
    inside<cublasLtContext>(call, "the handle", lightHandle, MARK_CONTEXT);
    struct product product = product_of(call, operationDesc, Adesc, Bdesc, Cdesc, Ddesc);
    const struct preference *preference =
        inside<struct preference>(call, "the preference", preferenceDesc, MARK_PREFERENCE);
    const struct operation *operation =
        inside<struct operation>(call, "the operation", operationDesc, MARK_OPERATION);
    if (requestedAlgoCount < 1 || heuristicResultsArray == nullptr || returnAlgoCount == nullptr)
        emulator_fail("%s: no place for a result", call);
    bool first_with_workspace = workspace_of(product.hash) <= preference->workspace;
    *returnAlgoCount = std::min(requestedAlgoCount, first_with_workspace ? 2 : 1);
    for (int i = 0; i < *returnAlgoCount; i++) {
        bool with_workspace = first_with_workspace && i == 0;
        struct algorithm algorithm = algorithm_for(call, &product, operation, preference, with_workspace);
        cublasLtMatmulHeuristicResult_t result = {};
        memcpy(&result.algo, &algorithm, sizeof algorithm);
        result.workspaceSize = algorithm.workspace;
        result.state = CUBLAS_STATUS_SUCCESS;
        result.wavesCount = 1;
        heuristicResultsArray[i] = result;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- the operands' addresses, at the call */

/* Bytes [first, last) that an operand's lines occupy, in rising order. */
struct interval {
    const char *first, *last;
};

static std::vector<struct interval> lines_of(const struct matrix *matrix, const void *data,
                                             int64_t batch_count)
{
    int64_t bytes = (int64_t)value_bytes(matrix->type);
    int64_t length = (matrix->row_major ? matrix->columns : matrix->rows) * bytes;
    int64_t lines = matrix->row_major ? matrix->rows : matrix->columns;
    std::vector<struct interval> intervals;
    for (int64_t i = 0; i < batch_count; i++)
        for (int64_t line = 0; line < lines; line++) {
            const char *first =
                static_cast<const char *>(data) + (i * matrix->batch_stride + line * matrix->leading) * bytes;
            intervals.push_back({first, first + length});
        }
    std::sort(intervals.begin(), intervals.end(),
              [](const struct interval &a, const struct interval &b) { return a.first < b.first; });
    return intervals;
}

/* Whether an operand shares bytes with D, whose own lines do not overlap. */
static bool overlaps(const std::vector<struct interval> &operand, const std::vector<struct interval> &d)
{
    size_t j = 0;
    for (const struct interval &line : operand) {
        while (j < d.size() && d[j].last <= line.first) j++;
        if (j < d.size() && d[j].first < line.last) return true;
    }
    return false;
}

/* D may be C itself, in C's layout; nothing else of D may be an operand. */
static void check_overlaps(const struct product *product, const void *a, const void *b, const void *c,
                           const void *d)
{
    const char *call = "cublasLtMatmul";
    int64_t count = product->batch_count;
    std::vector<struct interval> written = lines_of(&product->d, d, count);
    if (overlaps(lines_of(&product->a, a, count), written)) emulator_fail("%s: D overlaps A", call);
    if (overlaps(lines_of(&product->b, b, count), written)) emulator_fail("%s: D overlaps B", call);
    if (c == d) {
        if (product->c.leading != product->d.leading || product->c.batch_stride != product->d.batch_stride)
            emulator_fail("%s: C is D, but has another layout", call);
    } else if (overlaps(lines_of(&product->c, c, count), written)) {
        emulator_fail("%s: D overlaps C without being it", call);
    }
}

static void check_algorithm(const struct algorithm *algorithm, const struct product *product)
{
    if (algorithm->product != product->hash)
        emulator_fail(
            "cublasLtMatmul: the algorithm was found for a product of other shapes, layouts or types");
}

/* ---- the product, when the stream comes to it */

/* Matrix i of the stack, its lines announced to the emulator. */
static const char *matrix_at(const struct matrix *matrix, const void *data, int64_t i, bool written)
{
    struct matrix single = *matrix;
    single.batch_stride = 0;
    const char *first =
        static_cast<const char *>(data) + i * matrix->batch_stride * (int64_t)value_bytes(matrix->type);
    const char name[] = {matrix->name, 0};
    for (const struct interval &line : lines_of(&single, first, 1)) {
        size_t bytes = (size_t)(line.last - line.first);
        written ? emulator_write(line.first, bytes, name) : emulator_read(line.first, bytes, name);
    }
    return first;
}

/* op(matrix) in row-major order, rounded for the product. */
static std::vector<double> operand_of(const struct matrix *matrix, const void *data, bool transpose,
                                      enum value_rounding rounding)
{
    int64_t rows = transpose ? matrix->columns : matrix->rows,
            columns = transpose ? matrix->rows : matrix->columns;
    int64_t row_stride = transpose ? matrix->column_stride : matrix->row_stride;
    int64_t column_stride = transpose ? matrix->row_stride : matrix->column_stride;
    std::vector<double> values((size_t)(rows * columns));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            values[(size_t)(r * columns + c)] =
                operand_at(data, matrix->type, rounding, r * row_stride + c * column_stride);
    return values;
}

/* One matrix of the batch. */
static void compute(const struct product *product, float alpha, const void *a, const void *b, float beta,
                    const void *c, const void *bias, void *d)
{
    int64_t m = product->d.rows, n = product->d.columns, k = product->k;
    std::vector<double> left = operand_of(&product->a, a, product->transpose_a, product->rounding);
    std::vector<double> right = operand_of(&product->b, b, product->transpose_b, product->rounding);
    std::vector<double> sums((size_t)n);
    for (int64_t i = 0; i < m; i++) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t l = 0; l < k; l++)
            add_multiple(sums.data(), left[(size_t)(i * k + l)], &right[(size_t)(l * n)], n);
        double add = bias ? value_at(bias, product->d.type, i) : 0.0;
        for (int64_t j = 0; j < n; j++) {
            double value = alpha * sums[(size_t)j] + add;
            if (beta != 0)
                value += beta * value_at(c, product->c.type,
                                         i * product->c.row_stride + j * product->c.column_stride);
            value_set(d, product->d.type, i * product->d.row_stride + j * product->d.column_stride, value);
        }
    }
}

static void compute_batch(const struct product *product, float alpha, const void *a, const void *b,
                          float beta, const void *c, const void *bias, void *d)
{
    size_t bytes = value_bytes(product->d.type);
    for (int64_t i = 0; i < product->batch_count; i++) {
        const char *bias_of = nullptr;
        if (product->biased) {
            bias_of = static_cast<const char *>(bias) + i * product->bias_batch_stride * (int64_t)bytes;
            emulator_read(bias_of, (size_t)product->d.rows * bytes, "the bias");
        }
        const char *a_of = matrix_at(&product->a, a, i, false), *b_of = matrix_at(&product->b, b, i, false);
        const char *c_of = beta != 0 ? matrix_at(&product->c, c, i, false) : nullptr;
        const char *d_of = matrix_at(&product->d, d, i, true);
        compute(product, alpha, a_of, b_of, beta, c_of, bias_of, const_cast<char *>(d_of));
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t computeDesc,
                              const void *alpha, const void *A, cublasLtMatrixLayout_t Adesc, const void *B,
                              cublasLtMatrixLayout_t Bdesc, const void *beta, const void *C,
                              cublasLtMatrixLayout_t Cdesc, void *D, cublasLtMatrixLayout_t Ddesc,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspaceSizeInBytes,
                              cudaStream_t stream)
{
    const char *call = "cublasLtMatmul";
    inside<cublasLtContext>(call, "the handle", lightHandle, MARK_CONTEXT);
    struct product product = product_of(call, computeDesc, Adesc, Bdesc, Cdesc, Ddesc);
    const void *bias = inside<struct operation>(call, "the operation", computeDesc, MARK_OPERATION)->bias;
    const struct algorithm *algorithm =
        inside<const struct algorithm>(call, "the algorithm", algo, MARK_ALGORITHM);
    float factor = host_scalar(call, "alpha", alpha), factor_c = host_scalar(call, "beta", beta);
    check_algorithm(algorithm, &product);
    check_device_pointer(call, "A", A, algorithm->alignment[0]);
    check_device_pointer(call, "B", B, algorithm->alignment[1]);
    check_device_pointer(call, "C", C, algorithm->alignment[2]);
    check_device_pointer(call, "D", D, algorithm->alignment[3]);
    if (product.biased) check_device_pointer(call, "the bias", bias, algorithm->alignment[4]);
    check_workspace(call, workspace, workspaceSizeInBytes, algorithm->workspace);
    check_overlaps(&product, A, B, C, D);
    size_t spoilt = algorithm->workspace;
    emulator_enqueue(stream, call, [=] {
        spoil_workspace(workspace, spoilt);
        compute_batch(&product, factor, A, B, factor_c, C, bias, D);
    });
    return CUBLAS_STATUS_SUCCESS;
}
