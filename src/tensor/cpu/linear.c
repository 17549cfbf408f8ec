/* Matrix products on oneDNN's matmul: its brgemm kernels were as fast as or faster than inner products and
 * 1x1 convolutions at every size of the SD 2.1 UNet, in both dtypes and all three directions, and its blocked
 * weight layout does not depend on the number of rows. */
#include "tensor/cpu/dnnl_primitives.h"
#include "tensor/cpu/tiles.h"

static dnnl_primitive_desc_t matmul_descriptor(const struct cpu_backend *cpu, const dnnl_memory_desc_t *a,
                                               const dnnl_memory_desc_t *b, const dnnl_memory_desc_t *bias,
                                               const dnnl_memory_desc_t *c, dnnl_post_ops_t post_ops)
{
    dnnl_matmul_desc_t operation;
    DNNL_CHECK(dnnl_matmul_desc_init(&operation, a, b, bias, c));
    return primitive_descriptor(cpu, &operation, primitive_attributes(post_ops), NULL);
}

/* y [rows, out] = x [rows, in] w [in, out], with w in whatever layout is best; both directions are this. */
static struct primitive *linear_primitive(struct cpu_backend *cpu, enum primitive_kind kind, enum dtype dtype,
                                          int64_t rows, int64_t in, int64_t out, bool bias, bool residual)
{
    struct primitive_key key = {
        .kind = kind, .dtype = (int32_t)dtype, .number = {rows, in, out, bias, residual}};
    struct primitive *kept = primitive_find(cpu, &key);
    if (kept) return kept;
    dnnl_memory_desc_t x = layout(dtype, 2, (int64_t[]){rows, in}, (int64_t[]){in, 1});
    dnnl_memory_desc_t w = layout(dtype, 2, (int64_t[]){in, out}, NULL);
    dnnl_memory_desc_t y = layout(dtype, 2, (int64_t[]){rows, out}, (int64_t[]){out, 1});
    dnnl_memory_desc_t b = layout(DTYPE_F32, 2, (int64_t[]){1, out}, (int64_t[]){out, 1});
    dnnl_post_ops_t post_ops = NULL;
    if (residual) {
        DNNL_CHECK(dnnl_post_ops_create(&post_ops));
        DNNL_CHECK(dnnl_post_ops_append_binary(post_ops, dnnl_binary_add, &y));
    }
    return primitive_keep(cpu, &key, matmul_descriptor(cpu, &x, &w, bias ? &b : NULL, &y, post_ops), 1);
}

void linear_forward_cpu(struct backend *backend, const struct tensor *x, struct parameter *weight,
                        const struct tensor *bias, const struct tensor *residual, struct tensor *y)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    struct primitive *product = linear_primitive(cpu, LINEAR_FORWARD, x->dtype, tensor_rows(x),
                                                 tensor_channels(x), tensor_channels(y), bias, residual);
    void *packed = packed_weight(cpu, weight, PACKED_FORWARD, x->dtype, &product->weights);
    primitive_execute(cpu, product, 5,
                      (struct operand[]){{DNNL_ARG_SRC, x->data},
                                         {DNNL_ARG_WEIGHTS, packed},
                                         {DNNL_ARG_BIAS, bias ? bias->data : NULL},
                                         {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                                          residual ? residual->data : NULL},
                                         {DNNL_ARG_DST, y->data}});
}

void linear_backward_input_cpu(struct backend *backend, const struct tensor *dy, struct parameter *weight,
                               struct tensor *dx)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    struct primitive *product = linear_primitive(cpu, LINEAR_BACKWARD_INPUT, dy->dtype, tensor_rows(dy),
                                                 tensor_channels(dy), tensor_channels(dx), false, false);
    void *packed = packed_weight(cpu, weight, PACKED_BACKWARD, dy->dtype, &product->weights);
    primitive_execute(
        cpu, product, 3,
        (struct operand[]){{DNNL_ARG_SRC, dy->data}, {DNNL_ARG_WEIGHTS, packed}, {DNNL_ARG_DST, dx->data}});
}

/* dweight [out, in] += dy' [out, rows] x [rows, in], straight into the gradient */
static struct primitive *gradient_primitive(struct cpu_backend *cpu, enum dtype dtype, int64_t rows,
                                            int64_t in, int64_t out)
{
    struct primitive_key key = {
        .kind = LINEAR_BACKWARD_WEIGHT, .dtype = (int32_t)dtype, .number = {rows, in, out}};
    struct primitive *kept = primitive_find(cpu, &key);
    if (kept) return kept;
    dnnl_memory_desc_t dy = layout(dtype, 2, (int64_t[]){out, rows}, (int64_t[]){1, out});
    dnnl_memory_desc_t x = layout(dtype, 2, (int64_t[]){rows, in}, (int64_t[]){in, 1});
    dnnl_memory_desc_t dw = layout(DTYPE_F32, 2, (int64_t[]){out, in}, (int64_t[]){in, 1});
    dnnl_post_ops_t add;
    DNNL_CHECK(dnnl_post_ops_create(&add));
    DNNL_CHECK(dnnl_post_ops_append_sum(add, 1));
    return primitive_keep(cpu, &key, matmul_descriptor(cpu, &dy, &x, NULL, &dw, add), 1);
}

void linear_backward_weight_cpu(struct backend *backend, const struct tensor *x, const struct tensor *dy,
                                struct tensor *dweight, struct tensor *dbias)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    struct primitive *product =
        gradient_primitive(cpu, x->dtype, tensor_rows(x), tensor_channels(x), tensor_channels(dy));
    primitive_execute(cpu, product, 3,
                      (struct operand[]){{DNNL_ARG_SRC, dy->data},
                                         {DNNL_ARG_WEIGHTS, x->data},
                                         {DNNL_ARG_DST, dweight->data}});
    if (dbias) column_sums(cpu, dy, dbias);
}

enum { STRIP = 64 }; /* columns that one thread sums at a time */

/* sum[0..width) += columns [first, first + width) of x; short fp32 sums inside one in fp64, because x may
 * have hundreds of thousands of rows. */
static void strip_sums(const struct tensor *x, int64_t first, int64_t width, float *sum)
{
    int64_t rows = tensor_rows(x), channels = tensor_channels(x);
    double total[STRIP] = {0};
    for (int64_t row = 0; row < rows;) {
        int64_t last = row + 64 < rows ? row + 64 : rows;
        float part[STRIP] = {0}, buffer[TILE];
        for (; row < last; row++) {
            const float *values = tile_load(x, row * channels + first, width, buffer);
            for (int64_t i = 0; i < width; i++) part[i] += values[i];
        }
        for (int64_t i = 0; i < width; i++) total[i] += (double)part[i];
    }
    for (int64_t i = 0; i < width; i++) sum[i] += (float)total[i];
}

void column_sums(const struct cpu_backend *cpu, const struct tensor *dy, struct tensor *sum)
{
    int64_t channels = tensor_channels(dy);
    if (cpu->plan) return;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < channels; first += STRIP)
        strip_sums(dy, first, channels - first < STRIP ? channels - first : STRIP,
                   (float *)sum->data + first);
}
