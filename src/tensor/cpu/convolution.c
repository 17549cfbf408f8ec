/* Convolutions on oneDNN with NHWC activations: its brgemm (forward) and jit (backward) kernels run in it at
 * the speed of its blocked layouts. Weights, and weight gradients before they are added, lie in the layout
 * that the implementation likes. */
#include "tensor/cpu/dnnl_primitives.h"

#include <string.h>

/* A convolution's operands as oneDNN names them: logical NCHW and OIHW. */
struct shapes {
    dnnl_memory_desc_t x, weight, bias, y;
    dnnl_dims_t strides, pads_before, pads_after;
};

static dnnl_memory_desc_t nhwc_layout(const struct tensor *tensor)
{
    const int64_t *dim = tensor->dim;
    return layout(tensor->dtype, 4, (int64_t[]){dim[0], dim[3], dim[1], dim[2]},
                  (int64_t[]){dim[1] * dim[2] * dim[3], 1, dim[2] * dim[3], dim[3]});
}

static struct shapes shapes_of(const struct convolution *geometry, const struct tensor *x,
                               const int64_t weight[4], enum dtype weight_dtype, const struct tensor *y)
{
    return (struct shapes){
        .x = nhwc_layout(x),
        .weight = layout(weight_dtype, 4, weight, NULL),
        .bias = layout(DTYPE_F32, 1, &weight[0], (int64_t[]){1}),
        .y = nhwc_layout(y),
        .strides = {geometry->stride, geometry->stride},
        .pads_before = {geometry->pad_top, geometry->pad_left},
        .pads_after = {geometry->pad_bottom, geometry->pad_right},
    };
}

static struct primitive_key convolution_key(enum primitive_kind kind, const struct convolution *geometry,
                                            const struct tensor *x, const int64_t weight[4], bool bias,
                                            bool residual)
{
    return (struct primitive_key){
        .kind = kind,
        .dtype = (int32_t)x->dtype,
        .number = {x->dim[0], x->dim[1], x->dim[2], x->dim[3], weight[0], weight[2], weight[3],
                   geometry->stride, geometry->pad_top, geometry->pad_bottom, geometry->pad_left,
                   geometry->pad_right, bias, residual},
    };
}

static dnnl_primitive_desc_t forward_descriptor(const struct cpu_backend *cpu, const struct shapes *shapes,
                                                bool bias, bool residual)
{
    dnnl_convolution_desc_t operation;
    dnnl_post_ops_t post_ops = NULL;
    DNNL_CHECK(dnnl_convolution_forward_desc_init(
        &operation, dnnl_forward_training, dnnl_convolution_direct, &shapes->x, &shapes->weight,
        bias ? &shapes->bias : NULL, &shapes->y, shapes->strides, shapes->pads_before, shapes->pads_after));
    if (residual) {
        DNNL_CHECK(dnnl_post_ops_create(&post_ops));
        DNNL_CHECK(dnnl_post_ops_append_sum(post_ops, 1));
    }
    return primitive_descriptor(cpu, &operation, primitive_attributes(post_ops), NULL);
}

static void copy(struct tensor *to, const struct tensor *from)
{
    int64_t bytes = (int64_t)tensor_bytes(from), piece = 1 << 16;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < bytes; first += piece)
        memcpy((char *)to->data + first, (const char *)from->data + first,
               (size_t)(bytes - first < piece ? bytes - first : piece));
}

/* The residual is copied to y and summed to there: asked to add a third tensor, oneDNN falls back to kernels
 * that are up to 6 % slower, which is more than the copy costs. */
void convolution_forward_cpu(struct backend *backend, const struct convolution *geometry,
                             const struct tensor *x, struct parameter *weight, const struct tensor *bias,
                             const struct tensor *residual, struct tensor *y)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    struct primitive_key key =
        convolution_key(CONVOLUTION_FORWARD, geometry, x, weight->value.dim, bias, residual);
    struct primitive *product = primitive_find(cpu, &key);
    if (!product) {
        struct shapes shapes = shapes_of(geometry, x, weight->value.dim, x->dtype, y);
        product = primitive_keep(cpu, &key, forward_descriptor(cpu, &shapes, bias, residual), 1);
    }
    void *packed = packed_weight(cpu, weight, PACKED_FORWARD, x->dtype, &product->weights);
    if (residual && !cpu->plan) copy(y, residual);
    primitive_execute(cpu, product, 4,
                      (struct operand[]){{DNNL_ARG_SRC, x->data},
                                         {DNNL_ARG_WEIGHTS, packed},
                                         {DNNL_ARG_BIAS, bias ? bias->data : NULL},
                                         {DNNL_ARG_DST, y->data}});
}

static dnnl_primitive_desc_t input_descriptor(const struct cpu_backend *cpu, const struct shapes *shapes)
{
    dnnl_primitive_desc_t forward = forward_descriptor(cpu, shapes, false, false);
    dnnl_convolution_desc_t operation;
    DNNL_CHECK(dnnl_convolution_backward_data_desc_init(&operation, dnnl_convolution_direct, &shapes->x,
                                                        &shapes->weight, &shapes->y, shapes->strides,
                                                        shapes->pads_before, shapes->pads_after));
    dnnl_primitive_desc_t descriptor = primitive_descriptor(cpu, &operation, NULL, forward);
    DNNL_CHECK(dnnl_primitive_desc_destroy(forward));
    return descriptor;
}

void convolution_backward_input_cpu(struct backend *backend, const struct convolution *geometry,
                                    const struct tensor *dy, struct parameter *weight, struct tensor *dx)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    struct primitive_key key =
        convolution_key(CONVOLUTION_BACKWARD_INPUT, geometry, dx, weight->value.dim, false, false);
    struct primitive *product = primitive_find(cpu, &key);
    if (!product) {
        struct shapes shapes = shapes_of(geometry, dx, weight->value.dim, dx->dtype, dy);
        product = primitive_keep(cpu, &key, input_descriptor(cpu, &shapes), 1);
    }
    void *packed = packed_weight(cpu, weight, PACKED_BACKWARD, dy->dtype, &product->weights);
    primitive_execute(cpu, product, 3,
                      (struct operand[]){{DNNL_ARG_DIFF_DST, dy->data},
                                         {DNNL_ARG_WEIGHTS, packed},
                                         {DNNL_ARG_DIFF_SRC, dx->data}});
}

static dnnl_primitive_desc_t weight_descriptor(const struct cpu_backend *cpu, const struct shapes *shapes,
                                               const dnnl_memory_desc_t *dweight)
{
    dnnl_primitive_desc_t forward = forward_descriptor(cpu, shapes, false, false);
    dnnl_convolution_desc_t operation;
    DNNL_CHECK(dnnl_convolution_backward_weights_desc_init(&operation, dnnl_convolution_direct, &shapes->x,
                                                           dweight, NULL, &shapes->y, shapes->strides,
                                                           shapes->pads_before, shapes->pads_after));
    dnnl_primitive_desc_t descriptor = primitive_descriptor(cpu, &operation, NULL, forward);
    DNNL_CHECK(dnnl_primitive_desc_destroy(forward));
    return descriptor;
}

/* Adds a gradient in oneDNN's layout to one in PyTorch's. */
static struct primitive *add_primitive(struct cpu_backend *cpu, struct primitive_key key,
                                       const struct primitive *product, const struct tensor *dweight)
{
    const int64_t *dim = dweight->dim;
    key.kind = CONVOLUTION_ADD_GRADIENT;
    struct primitive *kept = primitive_find(cpu, &key);
    if (kept) return kept;
    dnnl_memory_desc_t plain =
        layout(DTYPE_F32, 4, dim, (int64_t[]){dim[1] * dim[2] * dim[3], dim[2] * dim[3], dim[3], 1});
    return primitive_keep(cpu, &key, primitive_reorder(cpu, &product->weights, &plain, true), 1);
}

void convolution_backward_weight_cpu(struct backend *backend, const struct convolution *geometry,
                                     const struct tensor *x, const struct tensor *dy, struct tensor *dweight,
                                     struct tensor *dbias)
{
    struct cpu_backend *cpu = cpu_backend(backend);
    struct primitive_key key =
        convolution_key(CONVOLUTION_BACKWARD_WEIGHT, geometry, x, dweight->dim, false, false);
    struct primitive *product = primitive_find(cpu, &key);
    if (!product) {
        struct shapes shapes = shapes_of(geometry, x, dweight->dim, x->dtype, dy);
        dnnl_memory_desc_t any = layout(DTYPE_F32, 4, dweight->dim, NULL);
        product = primitive_keep(cpu, &key, weight_descriptor(cpu, &shapes, &any), 1);
    }
    struct primitive *add = add_primitive(cpu, key, product, dweight);
    struct arena_block *gradient =
        arena_allocate(backend->scratch, dnnl_memory_desc_get_size(&product->weights));
    primitive_execute(cpu, product, 3,
                      (struct operand[]){{DNNL_ARG_SRC, x->data},
                                         {DNNL_ARG_DIFF_DST, dy->data},
                                         {DNNL_ARG_DIFF_WEIGHTS, arena_address(gradient)}});
    primitive_execute(
        cpu, add, 2,
        (struct operand[]){{DNNL_ARG_FROM, arena_address(gradient)}, {DNNL_ARG_TO, dweight->data}});
    arena_free(backend->scratch, gradient);
    if (dbias) column_sums(cpu, dy, dbias);
}
