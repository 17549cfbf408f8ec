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

/* `dweight` is the gradient's layout; one thread or all. */
static dnnl_primitive_desc_t weight_descriptor(const struct cpu_backend *cpu, const struct shapes *shapes,
                                               const dnnl_memory_desc_t *dweight, bool one_thread)
{
    dnnl_primitive_desc_t forward = forward_descriptor(cpu, shapes, false, false);
    dnnl_convolution_desc_t operation;
    DNNL_CHECK(dnnl_convolution_backward_weights_desc_init(&operation, dnnl_convolution_direct, &shapes->x,
                                                           dweight, NULL, &shapes->y, shapes->strides,
                                                           shapes->pads_before, shapes->pads_after));
    dnnl_primitive_desc_t descriptor = one_thread ? one_thread_descriptor(cpu, &operation, NULL, forward)
                                                  : primitive_descriptor(cpu, &operation, NULL, forward);
    DNNL_CHECK(dnnl_primitive_desc_destroy(forward));
    return descriptor;
}

/* How the samples are shared out. oneDNN's threads wait for each other inside this product, sample by sample,
 * in a spinning loop: where another program wants a core too, a call of a millisecond was seen to take a
 * second. So each thread does samples of its own, into a gradient of its own, as long as these are small. */
struct shares {
    int64_t parts;         /* 1: all threads share the whole */
    int64_t samples, last; /* of a part; of the last one, at most as many */
    size_t bytes;          /* of a part's gradient, in the product's layout */
    struct primitive *product, *last_product;
};

enum { GRADIENTS_MAX_BYTES = 1 << 26 };

static struct primitive *gradient_primitive(struct cpu_backend *cpu, const struct convolution *geometry,
                                            struct tensor x, struct tensor dy, const struct tensor *dweight,
                                            int64_t samples, bool one_thread,
                                            const dnnl_memory_desc_t *wanted)
{
    x.dim[0] = dy.dim[0] = samples;
    struct primitive_key key =
        convolution_key(CONVOLUTION_BACKWARD_WEIGHT, geometry, &x, dweight->dim, one_thread, false);
    struct primitive *kept = primitive_find(cpu, &key);
    if (kept) return kept;
    struct shapes shapes = shapes_of(geometry, &x, dweight->dim, x.dtype, &dy);
    dnnl_memory_desc_t any = layout(DTYPE_F32, 4, dweight->dim, NULL);
    return primitive_keep(cpu, &key, weight_descriptor(cpu, &shapes, wanted ? wanted : &any, one_thread),
                          one_thread ? primitives_threads(cpu) : 1);
}

static struct shares shares_of(struct cpu_backend *cpu, const struct convolution *geometry,
                               const struct tensor *x, const struct tensor *dy, const struct tensor *dweight)
{
    int64_t threads = primitives_threads(cpu), samples = x->dim[0], share = (samples + threads - 1) / threads;
    struct shares shares = {.parts = (samples + share - 1) / share, .samples = share};
    if (shares.parts < threads || (size_t)threads * tensor_bytes(dweight) > GRADIENTS_MAX_BYTES)
        shares = (struct shares){.parts = 1, .samples = samples};
    shares.last = samples - (shares.parts - 1) * shares.samples;
    bool one_thread = shares.parts > 1;
    shares.product = gradient_primitive(cpu, geometry, *x, *dy, dweight, shares.samples, one_thread, NULL);
    shares.last_product = gradient_primitive(cpu, geometry, *x, *dy, dweight, shares.last, one_thread,
                                             &shares.product->weights);
    CHECK(layout_equal(&shares.product->weights, &shares.last_product->weights), "gradients in two layouts");
    shares.bytes = dnnl_memory_desc_get_size(&shares.product->weights);
    return shares;
}

/* Each thread its part, then gradients[0] = the sum of all, in their order. */
static void gradients_of_parts(struct cpu_backend *cpu, const struct shares *shares, const struct tensor *x,
                               const struct tensor *dy, char *gradients, size_t stride)
{
    size_t scratch_bytes = shares->product->scratch_bytes > shares->last_product->scratch_bytes
                               ? shares->product->scratch_bytes
                               : shares->last_product->scratch_bytes;
    scratch_bytes = (scratch_bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    struct arena_block *scratch = arena_allocate(cpu->base.scratch, (size_t)shares->parts * scratch_bytes);
    size_t x_bytes = tensor_bytes(x) / (size_t)x->dim[0], dy_bytes = tensor_bytes(dy) / (size_t)x->dim[0];
    int64_t count = (int64_t)(shares->bytes / sizeof(float));
    if (!cpu->plan) {
#pragma omp parallel for schedule(static) num_threads((int)shares->parts)
        for (int64_t part = 0; part < shares->parts; part++) {
            size_t first = (size_t)(part * shares->samples);
            struct operand operands[] = {{DNNL_ARG_SRC, (char *)x->data + first * x_bytes},
                                         {DNNL_ARG_DIFF_DST, (char *)dy->data + first * dy_bytes},
                                         {DNNL_ARG_DIFF_WEIGHTS, gradients + (size_t)part * stride}};
            primitive_execute_one(cpu, part == shares->parts - 1 ? shares->last_product : shares->product,
                                  (int)part, 3, operands,
                                  (char *)arena_address(scratch) + (size_t)part * scratch_bytes);
        }
#pragma omp parallel for simd schedule(static)
        for (int64_t i = 0; i < count; i++)
            for (int64_t part = 1; part < shares->parts; part++)
                ((float *)gradients)[i] += ((float *)(gradients + (size_t)part * stride))[i];
    }
    arena_free(cpu->base.scratch, scratch);
}

/* Adds a gradient in oneDNN's layout to one in PyTorch's. */
static struct primitive *add_primitive(struct cpu_backend *cpu, const struct primitive *product,
                                       const struct tensor *dweight)
{
    const int64_t *dim = dweight->dim;
    struct primitive_key key = product->key;
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
    struct shares shares = shares_of(cpu, geometry, x, dy, dweight);
    struct primitive *add = add_primitive(cpu, shares.product, dweight);
    size_t stride = (shares.bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    struct arena_block *block = arena_allocate(backend->scratch, (size_t)shares.parts * stride);
    char *gradients = arena_address(block);
    if (shares.parts == 1)
        primitive_execute(cpu, shares.product, 3,
                          (struct operand[]){{DNNL_ARG_SRC, x->data},
                                             {DNNL_ARG_DIFF_DST, dy->data},
                                             {DNNL_ARG_DIFF_WEIGHTS, gradients}});
    else
        gradients_of_parts(cpu, &shares, x, dy, gradients, stride);
    primitive_execute(cpu, add, 2,
                      (struct operand[]){{DNNL_ARG_FROM, gradients}, {DNNL_ARG_TO, dweight->data}});
    arena_free(backend->scratch, block);
    if (dbias) column_sums(cpu, dy, dbias);
}
