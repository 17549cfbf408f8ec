/* Every op of the op table on every backend: one table of cases, each run in fp32 and bf16.
 *
 * A case checks
 * - the output against the plain fp64 loops of support/plain_ops.h on the same (rounded) values;
 * - each gradient against central differences of the plain loops: single elements, and one direction through
 * all elements (for a linear op that is the adjoint identity <dy, F v> = <F'dy, v>);
 * - that outputs are written whole, that gradients which add do so, and that a gradient which nobody wants
 * may be NULL without changing the others by one bit;
 * - that a second run gives the same bits, and that the first sample's bits do not depend on the other
 * samples.
 *
 * An op is put in by five things: its inputs and output (declare), the plain loops, the two slots, and lines
 * in cases[]. */
#include "base/check.h"
#include "base/random.h"
#include "support/plain_ops.h"
#include "tensor/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- what a case is made of */

/* Sizes of a case; an op reads those that it has. */
struct sizes {
    int64_t B, T, C, O;              /* samples, tokens, channels in and out */
    int64_t H, W, y_height, y_width; /* feature maps */
    int64_t kernel_height, kernel_width;
    struct convolution geometry;
    int64_t groups, gates;     /* gates 0: none */
    int64_t heads, key_tokens; /* key_tokens 0: self-attention */
    int64_t entries;           /* of an embedding table */
    double offset;             /* of x: a large mean */
    float number;              /* op_scale's factor, the timestep embedding's shift */
    enum activation kind;
    bool silu, shift, bias, residual, key_mask, causal, flip, mean, exact, fp32_only;
    double zero_scale; /* size of the gradients that cancel to zero (one channel a group), else 0 */
    double tolerance;  /* in units of the usual one; 0 means 1 */
};

struct op;

struct op_case {
    const struct op *op;
    const char *label;
    struct sizes sizes;
};

enum role {
    ABSENT,
    ACTIVATION, /* compute dtype; the gradient is written */
    TARGET,     /* compute dtype, no gradient */
    EXACT,      /* fp32 whatever the compute dtype, no gradient */
    PARAMETER,  /* fp32; the gradient adds */
    PRODUCT,    /* fp32, a product's weight: values that the compute dtype holds; the gradient adds */
    GATES,      /* fp32, some of them 0; the gradient adds */
    MASK,       /* fp32, 0 or 1, the first of a sample 1; no gradient */
    TIMESTEPS,  /* fp32, whole numbers below 1000; no gradient */
    IDS,        /* int32 below sizes.entries; no gradient */
};

struct variable {
    const char *name;
    enum role role;
    struct tensor tensor, gradient; /* gradient.data NULL: has none */
    double *value;                  /* what the tensor holds */
    bool wanted;                    /* its gradient */
};

enum { MAX_INPUTS = 6 };

/* A case on a backend. */
struct run {
    struct backend *backend;
    enum dtype dtype;
    struct sizes sizes;
    struct variable in[MAX_INPUTS];
    struct tensor y, dy, saved;
    double *dy_value;
    struct parameter weight; /* of a product: in[1] */
};

struct op {
    const char *name;
    void (*declare)(struct run *run);
    void (*plain)(const struct run *run, double *y); /* from in[].value */
    void (*forward)(struct run *run);
    void (*backward)(struct run *run); /* NULL: has none */
};

/* ---- tensors in the backend's memory */

static struct tensor tensor_make(struct run *run, enum dtype dtype, int rank, const int64_t *dim)
{
    struct tensor tensor = {.dtype = dtype, .rank = rank, .dim = {1, 1, 1, 1}};
    for (int i = 0; i < rank; i++) tensor.dim[i] = dim[i];
    tensor.data = run->backend->ops->memory_new(run->backend, tensor_bytes(&tensor));
    return tensor;
}

static void tensor_free(struct run *run, struct tensor *tensor)
{
    if (tensor->data) run->backend->ops->memory_free(run->backend, tensor->data, tensor_bytes(tensor));
    tensor->data = NULL;
}

/* Rounds the values to the tensor's dtype and puts them into it. */
static void tensor_write(struct run *run, struct tensor *tensor, double *value)
{
    int64_t count = tensor_count(tensor);
    void *host = check_malloc(tensor_bytes(tensor));
    for (int64_t i = 0; i < count; i++) switch (tensor->dtype) {
        case DTYPE_F32:
            value[i] = ((float *)host)[i] = (float)value[i];
            break;
        case DTYPE_BF16:
            ((uint16_t *)host)[i] = bf16_from_float((float)value[i]);
            value[i] = float_from_bf16(((uint16_t *)host)[i]);
            break;
        case DTYPE_I32:
            value[i] = ((int32_t *)host)[i] = (int32_t)value[i];
            break;
        }
    run->backend->ops->upload(run->backend, tensor->data, host, tensor_bytes(tensor));
    free(host);
}

static void *tensor_bits(struct run *run, const struct tensor *tensor)
{
    void *host = check_malloc(tensor_bytes(tensor));
    run->backend->ops->download(run->backend, host, tensor->data, tensor_bytes(tensor));
    return host;
}

static double *tensor_read(struct run *run, const struct tensor *tensor)
{
    int64_t count = tensor_count(tensor);
    double *value = check_malloc((size_t)count * sizeof *value);
    void *host = tensor_bits(run, tensor);
    for (int64_t i = 0; i < count; i++)
        value[i] = tensor->dtype == DTYPE_F32 ? ((float *)host)[i] : float_from_bf16(((uint16_t *)host)[i]);
    free(host);
    return value;
}

/* Fills with NaN: what an op does not write shows. */
static void tensor_spoil(struct run *run, struct tensor *tensor)
{
    void *host = check_malloc(tensor_bytes(tensor));
    memset(host, 0xff, tensor_bytes(tensor));
    run->backend->ops->upload(run->backend, tensor->data, host, tensor_bytes(tensor));
    free(host);
}

/* ---- declaring inputs and outputs */

static bool role_has_gradient(enum role role)
{
    return role == ACTIVATION || role == PARAMETER || role == PRODUCT || role == GATES;
}

/* Of all samples: has no sample dimension. */
static bool is_shared(const struct variable *variable)
{
    return variable->role == PARAMETER || variable->role == PRODUCT;
}

/* Gates lie at [1, 1 + count) of a longer row, so that a wrong offset shows. */
enum { GATE_FIRST = 1, GATE_MORE = 3 };

static void input(struct run *run, int index, const char *name, enum role role, int rank, const int64_t *dim)
{
    struct variable *variable = &run->in[index];
    *variable = (struct variable){.name = name, .role = role};
    if (role == ABSENT) return;
    enum dtype dtype = role == ACTIVATION || role == TARGET ? run->dtype
                       : role == IDS                        ? DTYPE_I32
                                                            : DTYPE_F32;
    variable->tensor = tensor_make(run, dtype, rank, dim);
    variable->value = check_calloc((size_t)tensor_count(&variable->tensor), sizeof *variable->value);
    variable->wanted = role_has_gradient(role);
    if (variable->wanted) variable->gradient = tensor_make(run, dtype, rank, dim);
}

static void output(struct run *run, enum dtype dtype, int rank, const int64_t *dim)
{
    run->y = tensor_make(run, dtype, rank, dim);
    run->dy = tensor_make(run, dtype, rank, dim);
    run->dy_value = check_calloc((size_t)tensor_count(&run->y), sizeof *run->dy_value);
}

static void kept(struct run *run, int rank, const int64_t *dim)
{
    run->saved = tensor_make(run, DTYPE_F32, rank, dim);
}

#define SHAPE(...)                                                                                           \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[])                                   \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static struct tensor *tensor_of(struct run *run, int index)
{
    return run->in[index].role == ABSENT ? NULL : &run->in[index].tensor;
}

static struct tensor *gradient_of(struct run *run, int index)
{
    return run->in[index].wanted ? &run->in[index].gradient : NULL;
}

static struct gate gate_of(struct run *run, int index)
{
    if (run->in[index].role == ABSENT) return (struct gate){0};
    return (struct gate){&run->in[index].tensor, GATE_FIRST, run->sizes.gates};
}

static struct plain_gate plain_gate_of(const struct run *run, int index)
{
    return (struct plain_gate){run->in[index].value, run->sizes.gates + GATE_MORE, GATE_FIRST,
                               run->sizes.gates};
}

static void input_gates(struct run *run, int index)
{
    input(run, index, "gates", run->sizes.gates ? GATES : ABSENT,
          SHAPE(run->sizes.B, run->sizes.gates + GATE_MORE));
}

/* ---- the ops. Inputs are numbered by an enum in each */

/* linear: x [B, T, C], weight [O, C] */
enum { LINEAR_X, LINEAR_WEIGHT, LINEAR_BIAS, LINEAR_RESIDUAL };

static void linear_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, LINEAR_X, "x", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, LINEAR_WEIGHT, "weight", PRODUCT, SHAPE(s.O, s.C));
    input(run, LINEAR_BIAS, "bias", s.bias ? PARAMETER : ABSENT, SHAPE(s.O));
    input(run, LINEAR_RESIDUAL, "residual", s.residual ? TARGET : ABSENT, SHAPE(s.B, s.T, s.O));
    output(run, run->dtype, SHAPE(s.B, s.T, s.O));
}

static void linear_plain(const struct run *run, double *y)
{
    struct sizes s = run->sizes;
    plain_linear(s.B * s.T, s.C, s.O, run->in[LINEAR_X].value, run->in[LINEAR_WEIGHT].value,
                 run->in[LINEAR_BIAS].value, run->in[LINEAR_RESIDUAL].value, y);
}

static void linear_forward(struct run *run)
{
    run->backend->ops->linear_forward(run->backend, tensor_of(run, LINEAR_X), &run->weight,
                                      tensor_of(run, LINEAR_BIAS), tensor_of(run, LINEAR_RESIDUAL), &run->y);
}

static void linear_backward(struct run *run)
{
    const struct backend_ops *ops = run->backend->ops;
    if (gradient_of(run, LINEAR_X))
        ops->linear_backward_input(run->backend, &run->dy, &run->weight, gradient_of(run, LINEAR_X));
    if (gradient_of(run, LINEAR_WEIGHT))
        ops->linear_backward_weight(run->backend, tensor_of(run, LINEAR_X), &run->dy,
                                    gradient_of(run, LINEAR_WEIGHT), gradient_of(run, LINEAR_BIAS));
}

/* convolution: x [B, H, W, C], weight [O, C, kernel_height, kernel_width] */
static struct plain_convolution plain_convolution_of(const struct run *run)
{
    struct sizes s = run->sizes;
    return (struct plain_convolution){.geometry = s.geometry,
                                      .samples = s.B,
                                      .height = s.H,
                                      .width = s.W,
                                      .in = s.C,
                                      .out = s.O,
                                      .kernel_height = s.kernel_height,
                                      .kernel_width = s.kernel_width};
}

static void convolution_declare(struct run *run)
{
    struct sizes s = run->sizes;
    struct plain_convolution plain = plain_convolution_of(run);
    int64_t height = plain_convolution_height(&plain), width = plain_convolution_width(&plain);
    input(run, LINEAR_X, "x", ACTIVATION, SHAPE(s.B, s.H, s.W, s.C));
    input(run, LINEAR_WEIGHT, "weight", PRODUCT, SHAPE(s.O, s.C, s.kernel_height, s.kernel_width));
    input(run, LINEAR_BIAS, "bias", s.bias ? PARAMETER : ABSENT, SHAPE(s.O));
    input(run, LINEAR_RESIDUAL, "residual", s.residual ? TARGET : ABSENT, SHAPE(s.B, height, width, s.O));
    output(run, run->dtype, SHAPE(s.B, height, width, s.O));
}

static void convolution_plain(const struct run *run, double *y)
{
    struct plain_convolution plain = plain_convolution_of(run);
    plain_convolution(&plain, run->in[LINEAR_X].value, run->in[LINEAR_WEIGHT].value,
                      run->in[LINEAR_BIAS].value, run->in[LINEAR_RESIDUAL].value, y);
}

static void convolution_forward(struct run *run)
{
    run->backend->ops->convolution_forward(run->backend, &run->sizes.geometry, tensor_of(run, LINEAR_X),
                                           &run->weight, tensor_of(run, LINEAR_BIAS),
                                           tensor_of(run, LINEAR_RESIDUAL), &run->y);
}

static void convolution_backward(struct run *run)
{
    const struct backend_ops *ops = run->backend->ops;
    if (gradient_of(run, LINEAR_X))
        ops->convolution_backward_input(run->backend, &run->sizes.geometry, &run->dy, &run->weight,
                                        gradient_of(run, LINEAR_X));
    if (gradient_of(run, LINEAR_WEIGHT))
        ops->convolution_backward_weight(run->backend, &run->sizes.geometry, tensor_of(run, LINEAR_X),
                                         &run->dy, gradient_of(run, LINEAR_WEIGHT),
                                         gradient_of(run, LINEAR_BIAS));
}

/* group_norm: x [B, T, C], shift [B, C] */
enum { NORM_X, NORM_SHIFT, NORM_WEIGHT, NORM_BIAS, NORM_GATES };

#define EPSILON 1e-5f

static void group_norm_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, NORM_X, "x", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, NORM_SHIFT, "shift", s.shift ? ACTIVATION : ABSENT, SHAPE(s.B, s.C));
    input(run, NORM_WEIGHT, "weight", PARAMETER, SHAPE(s.C));
    input(run, NORM_BIAS, "bias", PARAMETER, SHAPE(s.C));
    input_gates(run, NORM_GATES);
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
    kept(run, SHAPE(s.B, s.groups, 2));
}

static void group_norm_plain(const struct run *run, double *y)
{
    struct sizes s = run->sizes;
    plain_group_norm(s.B, s.T, s.C, s.groups, EPSILON, s.silu, plain_gate_of(run, NORM_GATES),
                     run->in[NORM_X].value, run->in[NORM_SHIFT].value, run->in[NORM_WEIGHT].value,
                     run->in[NORM_BIAS].value, y);
}

static void group_norm_forward(struct run *run)
{
    run->backend->ops->group_norm_forward(run->backend, tensor_of(run, NORM_X), tensor_of(run, NORM_SHIFT),
                                          tensor_of(run, NORM_WEIGHT), tensor_of(run, NORM_BIAS),
                                          run->sizes.groups, EPSILON, run->sizes.silu,
                                          gate_of(run, NORM_GATES), &run->y, &run->saved);
}

static void group_norm_backward(struct run *run)
{
    run->backend->ops->group_norm_backward(
        run->backend, tensor_of(run, NORM_X), tensor_of(run, NORM_SHIFT), tensor_of(run, NORM_WEIGHT),
        tensor_of(run, NORM_BIAS), run->sizes.groups, run->sizes.silu, gate_of(run, NORM_GATES), &run->saved,
        &run->dy, gradient_of(run, NORM_X), gradient_of(run, NORM_SHIFT), gradient_of(run, NORM_WEIGHT),
        gradient_of(run, NORM_BIAS), gradient_of(run, NORM_GATES));
}

/* layer_norm: x [B, T, C] */
static void layer_norm_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, NORM_X, "x", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, NORM_WEIGHT, "weight", PARAMETER, SHAPE(s.C));
    input(run, NORM_BIAS, "bias", PARAMETER, SHAPE(s.C));
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
    kept(run, SHAPE(s.B * s.T, 2));
}

static void layer_norm_plain(const struct run *run, double *y)
{
    struct sizes s = run->sizes;
    plain_layer_norm(s.B * s.T, s.C, EPSILON, run->in[NORM_X].value, run->in[NORM_WEIGHT].value,
                     run->in[NORM_BIAS].value, y);
}

static void layer_norm_forward(struct run *run)
{
    run->backend->ops->layer_norm_forward(run->backend, tensor_of(run, NORM_X), tensor_of(run, NORM_WEIGHT),
                                          tensor_of(run, NORM_BIAS), EPSILON, &run->y, &run->saved);
}

static void layer_norm_backward(struct run *run)
{
    run->backend->ops->layer_norm_backward(run->backend, tensor_of(run, NORM_X), tensor_of(run, NORM_WEIGHT),
                                           &run->saved, &run->dy, gradient_of(run, NORM_X),
                                           gradient_of(run, NORM_WEIGHT), gradient_of(run, NORM_BIAS));
}

/* attention: self, q = kv [B, T, 3 C]; cross, q [B, T, C] and kv [B, key_tokens, 2 C]; C = heads x head size
 */
enum { ATTENTION_Q, ATTENTION_KV, ATTENTION_MASK, ATTENTION_GATES };

static struct attention attention_of(const struct run *run)
{
    struct sizes s = run->sizes;
    bool self = s.key_tokens == 0;
    return (struct attention){.heads = s.heads,
                              .head_size = s.C / s.heads,
                              .k_column = self ? s.C : 0,
                              .v_column = self ? 2 * s.C : s.C,
                              .scale = 1 / sqrtf((float)(s.C / s.heads)),
                              .causal = s.causal};
}

static int kv_input(const struct run *run)
{
    return run->sizes.key_tokens ? ATTENTION_KV : ATTENTION_Q;
}

static void attention_declare(struct run *run)
{
    struct sizes s = run->sizes;
    int64_t key_tokens = s.key_tokens ? s.key_tokens : s.T;
    input(run, ATTENTION_Q, "q", ACTIVATION, SHAPE(s.B, s.T, s.key_tokens ? s.C : 3 * s.C));
    input(run, ATTENTION_KV, "kv", s.key_tokens ? ACTIVATION : ABSENT, SHAPE(s.B, s.key_tokens, 2 * s.C));
    input(run, ATTENTION_MASK, "key mask", s.key_mask ? MASK : ABSENT, SHAPE(s.B, key_tokens));
    input_gates(run, ATTENTION_GATES);
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
    kept(run, SHAPE(s.B, s.heads, s.T));
}

static void attention_plain(const struct run *run, double *y)
{
    struct sizes s = run->sizes;
    struct attention attention = attention_of(run);
    plain_attention(&attention, s.B, s.T, s.key_tokens ? s.C : 3 * s.C, s.key_tokens ? s.key_tokens : s.T,
                    (s.key_tokens ? 2 : 3) * s.C, plain_gate_of(run, ATTENTION_GATES),
                    run->in[ATTENTION_Q].value, run->in[kv_input(run)].value, run->in[ATTENTION_MASK].value,
                    y);
}

static void attention_forward(struct run *run)
{
    struct attention attention = attention_of(run);
    run->backend->ops->attention_forward(run->backend, &attention, tensor_of(run, ATTENTION_Q),
                                         tensor_of(run, kv_input(run)), tensor_of(run, ATTENTION_MASK),
                                         gate_of(run, ATTENTION_GATES), &run->y, &run->saved);
}

static void attention_backward(struct run *run)
{
    struct attention attention = attention_of(run);
    run->backend->ops->attention_backward(
        run->backend, &attention, tensor_of(run, ATTENTION_Q), tensor_of(run, kv_input(run)),
        tensor_of(run, ATTENTION_MASK), gate_of(run, ATTENTION_GATES), &run->y, &run->saved, &run->dy,
        gradient_of(run, ATTENTION_Q), gradient_of(run, kv_input(run)), gradient_of(run, ATTENTION_GATES));
}

/* geglu: x [B, T, 2 C] */
enum { GEGLU_X, GEGLU_GATES };

static void geglu_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, GEGLU_X, "x", ACTIVATION, SHAPE(s.B, s.T, 2 * s.C));
    input_gates(run, GEGLU_GATES);
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
}

static void geglu_plain(const struct run *run, double *y)
{
    plain_geglu(run->sizes.B, run->sizes.T, run->sizes.C, plain_gate_of(run, GEGLU_GATES),
                run->in[GEGLU_X].value, y);
}

static void geglu_forward(struct run *run)
{
    run->backend->ops->geglu_forward(run->backend, tensor_of(run, GEGLU_X), gate_of(run, GEGLU_GATES),
                                     &run->y);
}

static void geglu_backward(struct run *run)
{
    run->backend->ops->geglu_backward(run->backend, tensor_of(run, GEGLU_X), gate_of(run, GEGLU_GATES),
                                      &run->dy, gradient_of(run, GEGLU_X), gradient_of(run, GEGLU_GATES));
}

/* activation, scale, cast: x [B, T, C] */
static void unary_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, 0, "x", ACTIVATION, SHAPE(s.B, s.T, s.C));
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
}

static void activation_plain(const struct run *run, double *y)
{
    for (int64_t i = 0; i < tensor_count(&run->y); i++)
        y[i] = plain_activation(run->sizes.kind, run->in[0].value[i]);
}

static void activation_forward(struct run *run)
{
    run->backend->ops->activation_forward(run->backend, run->sizes.kind, tensor_of(run, 0), &run->y);
}

static void activation_backward(struct run *run)
{
    run->backend->ops->activation_backward(run->backend, run->sizes.kind, tensor_of(run, 0), &run->dy,
                                           gradient_of(run, 0));
}

static void scale_plain(const struct run *run, double *y)
{
    for (int64_t i = 0; i < tensor_count(&run->y); i++) y[i] = run->sizes.number * run->in[0].value[i];
}

static void scale_forward(struct run *run)
{
    run->backend->ops->scale(run->backend, tensor_of(run, 0), run->sizes.number, &run->y);
}

/* cast to the other dtype, or with `flip` a copy */
static void cast_declare(struct run *run)
{
    struct sizes s = run->sizes;
    enum dtype other = run->dtype == DTYPE_F32 ? DTYPE_BF16 : DTYPE_F32;
    input(run, 0, "x", TARGET, SHAPE(s.B, s.T, s.C));
    output(run, s.flip ? run->dtype : other, SHAPE(s.B, s.T, s.C));
}

static void cast_plain(const struct run *run, double *y)
{
    memcpy(y, run->in[0].value, (size_t)tensor_count(&run->y) * sizeof *y);
}

static void cast_forward(struct run *run)
{
    run->backend->ops->cast(run->backend, tensor_of(run, 0), &run->y);
}

/* add, depth_mix: a, b [B, T, C] */
enum { BINARY_A, BINARY_B, BINARY_GATES };

static void add_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, BINARY_A, "a", TARGET, SHAPE(s.B, s.T, s.C));
    input(run, BINARY_B, "b", TARGET, SHAPE(s.B, s.T, s.C));
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
}

static void add_plain(const struct run *run, double *y)
{
    for (int64_t i = 0; i < tensor_count(&run->y); i++)
        y[i] = run->in[BINARY_A].value[i] + run->in[BINARY_B].value[i];
}

static void add_forward(struct run *run)
{
    run->backend->ops->add(run->backend, tensor_of(run, BINARY_A), tensor_of(run, BINARY_B), &run->y);
}

static void depth_mix_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, BINARY_A, "x", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, BINARY_B, "f", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input_gates(run, BINARY_GATES);
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
}

static void depth_mix_plain(const struct run *run, double *y)
{
    plain_depth_mix(run->sizes.B, run->sizes.T * run->sizes.C, plain_gate_of(run, BINARY_GATES),
                    run->in[BINARY_A].value, run->in[BINARY_B].value, y);
}

static void depth_mix_forward(struct run *run)
{
    run->backend->ops->depth_mix_forward(run->backend, tensor_of(run, BINARY_A), tensor_of(run, BINARY_B),
                                         gate_of(run, BINARY_GATES), &run->y);
}

static void depth_mix_backward(struct run *run)
{
    run->backend->ops->depth_mix_backward(run->backend, tensor_of(run, BINARY_A), tensor_of(run, BINARY_B),
                                          gate_of(run, BINARY_GATES), &run->dy, gradient_of(run, BINARY_A),
                                          gradient_of(run, BINARY_B), gradient_of(run, BINARY_GATES));
}

/* concat: a [B, T, C], b [B, T, O] */
static void concat_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, BINARY_A, "a", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, BINARY_B, "b", ACTIVATION, SHAPE(s.B, s.T, s.O));
    output(run, run->dtype, SHAPE(s.B, s.T, s.C + s.O));
}

static void concat_plain(const struct run *run, double *y)
{
    plain_concat(run->sizes.B * run->sizes.T, run->sizes.C, run->sizes.O, run->in[BINARY_A].value,
                 run->in[BINARY_B].value, y);
}

static void concat_forward(struct run *run)
{
    run->backend->ops->concat_forward(run->backend, tensor_of(run, BINARY_A), tensor_of(run, BINARY_B),
                                      &run->y);
}

static void concat_backward(struct run *run)
{
    run->backend->ops->concat_backward(run->backend, &run->dy, gradient_of(run, BINARY_A),
                                       gradient_of(run, BINARY_B));
}

/* upsample: x [B, H, W, C] */
static void upsample_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, 0, "x", ACTIVATION, SHAPE(s.B, s.H, s.W, s.C));
    output(run, run->dtype, SHAPE(s.B, s.y_height, s.y_width, s.C));
}

static void upsample_plain(const struct run *run, double *y)
{
    struct sizes s = run->sizes;
    plain_upsample(s.B, s.H, s.W, s.C, s.y_height, s.y_width, run->in[0].value, y);
}

static void upsample_forward(struct run *run)
{
    run->backend->ops->upsample_forward(run->backend, tensor_of(run, 0), &run->y);
}

static void upsample_backward(struct run *run)
{
    run->backend->ops->upsample_backward(run->backend, &run->dy, gradient_of(run, 0));
}

/* pool: x [B, H, W, C] */
static struct pooling pooling_of(const struct run *run)
{
    struct sizes s = run->sizes;
    return (struct pooling){s.mean, s.kernel_height, s.kernel_width, s.geometry};
}

static void pool_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, 0, "x", TARGET, SHAPE(s.B, s.H, s.W, s.C));
    output(run, run->dtype, SHAPE(s.B, s.y_height, s.y_width, s.C));
}

static void pool_plain(const struct run *run, double *y)
{
    struct sizes s = run->sizes;
    struct pooling pooling = pooling_of(run);
    plain_pool(&pooling, s.B, s.H, s.W, s.C, s.y_height, s.y_width, run->in[0].value, y);
}

static void pool_forward(struct run *run)
{
    struct pooling pooling = pooling_of(run);
    run->backend->ops->pool(run->backend, &pooling, tensor_of(run, 0), &run->y);
}

/* timestep_embedding: timesteps [B] */
static void timestep_declare(struct run *run)
{
    input(run, 0, "timesteps", TIMESTEPS, SHAPE(run->sizes.B));
    output(run, run->dtype, SHAPE(run->sizes.B, run->sizes.C));
}

static void timestep_plain(const struct run *run, double *y)
{
    plain_timestep_embedding(run->sizes.B, run->sizes.C, run->sizes.flip, run->sizes.number, run->in[0].value,
                             y);
}

static void timestep_forward(struct run *run)
{
    run->backend->ops->timestep_embedding(run->backend, tensor_of(run, 0), run->sizes.flip, run->sizes.number,
                                          &run->y);
}

/* embedding: ids [B, T], table [entries, C] */
enum { EMBEDDING_IDS, EMBEDDING_TABLE };

static void embedding_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, EMBEDDING_IDS, "ids", IDS, SHAPE(s.B, s.T));
    input(run, EMBEDDING_TABLE, "table", PARAMETER, SHAPE(s.entries, s.C));
    output(run, run->dtype, SHAPE(s.B, s.T, s.C));
}

static void embedding_plain(const struct run *run, double *y)
{
    plain_embedding(run->sizes.B * run->sizes.T, run->sizes.C, run->in[EMBEDDING_IDS].value,
                    run->in[EMBEDDING_TABLE].value, y);
}

static void embedding_forward(struct run *run)
{
    run->backend->ops->embedding_forward(run->backend, tensor_of(run, EMBEDDING_IDS),
                                         tensor_of(run, EMBEDDING_TABLE), &run->y);
}

static void embedding_backward(struct run *run)
{
    run->backend->ops->embedding_backward(run->backend, tensor_of(run, EMBEDDING_IDS), &run->dy,
                                          gradient_of(run, EMBEDDING_TABLE));
}

/* masked_mean: x [B, T, C], mask [B, T] */
enum { MEAN_X, MEAN_MASK };

static void masked_mean_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, MEAN_X, "x", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, MEAN_MASK, "mask", MASK, SHAPE(s.B, s.T));
    output(run, DTYPE_F32, SHAPE(s.B, s.C));
}

static void masked_mean_plain(const struct run *run, double *y)
{
    plain_masked_mean(run->sizes.B, run->sizes.T, run->sizes.C, run->in[MEAN_X].value,
                      run->in[MEAN_MASK].value, y);
}

static void masked_mean_forward(struct run *run)
{
    run->backend->ops->masked_mean_forward(run->backend, tensor_of(run, MEAN_X), tensor_of(run, MEAN_MASK),
                                           &run->y);
}

static void masked_mean_backward(struct run *run)
{
    run->backend->ops->masked_mean_backward(run->backend, tensor_of(run, MEAN_MASK), &run->dy,
                                            gradient_of(run, MEAN_X));
}

/* squared_error: a, b [B, T, C] */
static void squared_error_declare(struct run *run)
{
    struct sizes s = run->sizes;
    input(run, BINARY_A, "a", ACTIVATION, SHAPE(s.B, s.T, s.C));
    input(run, BINARY_B, "b", s.exact ? EXACT : TARGET, SHAPE(s.B, s.T, s.C));
    output(run, DTYPE_F32, SHAPE(s.B));
}

static void squared_error_plain(const struct run *run, double *y)
{
    plain_squared_error(run->sizes.B, run->sizes.T * run->sizes.C, run->in[BINARY_A].value,
                        run->in[BINARY_B].value, y);
}

static void squared_error_forward(struct run *run)
{
    run->backend->ops->squared_error_forward(run->backend, tensor_of(run, BINARY_A), tensor_of(run, BINARY_B),
                                             &run->y);
}

static void squared_error_backward(struct run *run)
{
    run->backend->ops->squared_error_backward(run->backend, tensor_of(run, BINARY_A),
                                              tensor_of(run, BINARY_B), &run->dy, gradient_of(run, BINARY_A));
}

static const struct op linear = {"linear", linear_declare, linear_plain, linear_forward, linear_backward};
static const struct op convolution = {"convolution", convolution_declare, convolution_plain,
                                      convolution_forward, convolution_backward};
static const struct op group_norm = {"group_norm", group_norm_declare, group_norm_plain, group_norm_forward,
                                     group_norm_backward};
static const struct op layer_norm = {"layer_norm", layer_norm_declare, layer_norm_plain, layer_norm_forward,
                                     layer_norm_backward};
static const struct op attention = {"attention", attention_declare, attention_plain, attention_forward,
                                    attention_backward};
static const struct op geglu = {"geglu", geglu_declare, geglu_plain, geglu_forward, geglu_backward};
static const struct op activation = {"activation", unary_declare, activation_plain, activation_forward,
                                     activation_backward};
static const struct op scale = {"scale", unary_declare, scale_plain, scale_forward, NULL};
static const struct op cast = {"cast", cast_declare, cast_plain, cast_forward, NULL};
static const struct op add = {"add", add_declare, add_plain, add_forward, NULL};
static const struct op depth_mix = {"depth_mix", depth_mix_declare, depth_mix_plain, depth_mix_forward,
                                    depth_mix_backward};
static const struct op concat = {"concat", concat_declare, concat_plain, concat_forward, concat_backward};
static const struct op upsample = {"upsample", upsample_declare, upsample_plain, upsample_forward,
                                   upsample_backward};
static const struct op pool = {"pool", pool_declare, pool_plain, pool_forward, NULL};
static const struct op timestep_embedding = {"timestep_embedding", timestep_declare, timestep_plain,
                                             timestep_forward, NULL};
static const struct op embedding = {"embedding", embedding_declare, embedding_plain, embedding_forward,
                                    embedding_backward};
static const struct op masked_mean = {"masked_mean", masked_mean_declare, masked_mean_plain,
                                      masked_mean_forward, masked_mean_backward};
static const struct op squared_error = {"squared_error", squared_error_declare, squared_error_plain,
                                        squared_error_forward, squared_error_backward};

/* ---- the cases. Sizes above 512 channels are more than one tile of the CPU's kernels, more than 256 tokens
 * more than one size of chunk, more than 16384 elements are shared out among threads. A GPU's kernels take
 * rows of multiples of 8 channels in vectors, and sum more than 4096 elements of a sample or 32 tokens in
 * parts. */
static const struct op_case cases[] = {
    {&linear, "one row", {.B = 1, .T = 1, .C = 5, .O = 3}},
    {&linear, "bias", {.B = 2, .T = 13, .C = 7, .O = 9, .bias = true}},
    {&linear, "bias and residual", {.B = 3, .T = 77, .C = 64, .O = 40, .bias = true, .residual = true}},
    {&linear, "many rows", {.B = 1, .T = 66000, .C = 1, .O = 3, .bias = true}},
    {&linear, "residual", {.B = 1, .T = 13, .C = 33, .O = 1, .residual = true}},

    {&convolution,
     "3x3",
     {.B = 2,
      .H = 5,
      .W = 7,
      .C = 3,
      .O = 4,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {1, 1, 1, 1, 1},
      .bias = true}},
    {&convolution,
     "3x3, stride 2, residual",
     {.B = 1,
      .H = 7,
      .W = 5,
      .C = 16,
      .O = 32,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {2, 1, 1, 1, 1},
      .bias = true,
      .residual = true}},
    {&convolution,
     "3x3, stride 2, pads 0 1 0 1",
     {.B = 2,
      .H = 6,
      .W = 9,
      .C = 5,
      .O = 3,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {2, 0, 1, 0, 1}}},
    {&convolution,
     "1x1",
     {.B = 3,
      .H = 3,
      .W = 5,
      .C = 17,
      .O = 6,
      .kernel_height = 1,
      .kernel_width = 1,
      .geometry = {.stride = 1},
      .bias = true}},
    {&convolution,
     "3x2, four pads",
     {.B = 1,
      .H = 4,
      .W = 3,
      .C = 2,
      .O = 5,
      .kernel_height = 3,
      .kernel_width = 2,
      .geometry = {1, 2, 0, 1, 0}}},

    {&group_norm, "small", {.B = 2, .T = 13, .C = 6, .groups = 3}},
    {&group_norm, "SiLU", {.B = 1, .T = 77, .C = 12, .groups = 2, .silu = true}},
    {&group_norm, "one group, gate an entry a channel", {.B = 3, .T = 5, .C = 4, .groups = 1, .gates = 4}},
    {&group_norm,
     "one channel a group",
     {.B = 2, .T = 13, .C = 5, .groups = 5, .shift = true, .silu = true, .gates = 1, .zero_scale = 10}},
    {&group_norm,
     "everything",
     {.B = 3, .T = 77, .C = 24, .groups = 4, .shift = true, .silu = true, .gates = 8}},
    {&group_norm,
     "gate entries across groups",
     {.B = 2, .T = 9, .C = 24, .groups = 6, .shift = true, .silu = false, .gates = 8}},
    {&group_norm,
     "long and wide",
     {.B = 2, .T = 300, .C = 1030, .groups = 10, .shift = true, .silu = true, .gates = 10, .tolerance = 2}},
    {&group_norm, // several tiles and chunks on a GPU
     "vectors",
     {.B = 2, .T = 300, .C = 160, .groups = 4, .shift = true, .silu = true, .gates = 10}},
    {&group_norm, // the mean itself is known to 3e-5 in fp32
     "large mean",
     {.B = 1, .T = 300, .C = 8, .groups = 2, .offset = 1000, .fp32_only = true, .tolerance = 10}},

    {&layer_norm, "one row", {.B = 1, .T = 1, .C = 7}},
    {&layer_norm, "small", {.B = 2, .T = 13, .C = 5}},
    {&layer_norm, "wide", {.B = 2, .T = 77, .C = 1030}},
    {&layer_norm, "long", {.B = 3, .T = 300, .C = 20}},
    {&layer_norm, "vectors", {.B = 2, .T = 77, .C = 320}},
    {&layer_norm, "a block of a GPU a row", {.B = 1, .T = 9, .C = 2504}},
    {&layer_norm,
     "large mean",
     {.B = 1, .T = 13, .C = 640, .offset = 1000, .fp32_only = true, .tolerance = 20}},

    {&attention, "self", {.B = 2, .T = 13, .C = 16, .heads = 2}},
    {&attention, "one token", {.B = 1, .T = 1, .C = 5, .heads = 1}},
    {&attention, "self, causal", {.B = 2, .T = 77, .C = 24, .heads = 3, .causal = true}},
    {&attention, "self, masked, gated", {.B = 3, .T = 13, .C = 40, .heads = 1, .key_mask = true, .gates = 1}},
    {&attention, "cross, gated", {.B = 2, .T = 25, .C = 32, .heads = 4, .key_tokens = 77, .gates = 4}},
    {&attention,
     "cross, masked, gated",
     {.B = 3, .T = 35, .C = 128, .heads = 2, .key_tokens = 13, .key_mask = true, .gates = 2}},
    {&attention, "many keys", {.B = 2, .T = 3, .C = 8, .heads = 1, .key_tokens = 2100, .gates = 1}},
    {&attention, "long", {.B = 1, .T = 300, .C = 16, .heads = 2, .gates = 2}},

    {&geglu, "no gate", {.B = 2, .T = 13, .C = 6}},
    {&geglu, "one sample", {.B = 1, .T = 77, .C = 9, .gates = 3}},
    {&geglu, "wide", {.B = 2, .T = 300, .C = 1030, .gates = 10}},
    {&geglu, "vectors across gate entries", {.B = 3, .T = 77, .C = 120, .gates = 10}},

    {&activation, "SiLU", {.B = 2, .T = 13, .C = 7, .kind = ACTIVATION_SILU}},
    {&activation, "GELU by erf", {.B = 2, .T = 13, .C = 7, .kind = ACTIVATION_GELU_ERF}},
    {&activation, "GELU by tanh", {.B = 2, .T = 13, .C = 7, .kind = ACTIVATION_GELU_TANH}},
    {&activation, "quick GELU", {.B = 2, .T = 13, .C = 7, .kind = ACTIVATION_GELU_QUICK}},
    {&activation, "ReLU", {.B = 2, .T = 13, .C = 7, .kind = ACTIVATION_RELU}},
    {&activation, "long", {.B = 3, .T = 77, .C = 111, .kind = ACTIVATION_SILU}},

    {&add, "small", {.B = 1, .T = 13, .C = 7}},
    {&add, "long", {.B = 3, .T = 77, .C = 111}},
    {&scale, "small", {.B = 1, .T = 13, .C = 7, .number = -1.5f}},
    {&scale, "long", {.B = 3, .T = 77, .C = 111, .number = 0.18215f}},
    {&cast, "other dtype", {.B = 3, .T = 77, .C = 111}},
    {&cast, "copy", {.B = 3, .T = 77, .C = 111, .flip = true}},
    {&depth_mix, "one sample", {.B = 1, .T = 13, .C = 7, .gates = 1}},
    {&depth_mix, "no gate", {.B = 2, .T = 3, .C = 7}},
    {&depth_mix, "long", {.B = 3, .T = 77, .C = 111, .gates = 1}},
    {&depth_mix, "long, vectors", {.B = 3, .T = 77, .C = 112, .gates = 1}},

    {&concat, "small", {.B = 1, .T = 1, .C = 3, .O = 5}},
    {&concat, "long", {.B = 2, .T = 77, .C = 111, .O = 40}},
    {&concat, "vectors", {.B = 2, .T = 77, .C = 24, .O = 40}},
    {&upsample, "twice", {.B = 2, .H = 3, .W = 5, .C = 7, .y_height = 6, .y_width = 10}},
    {&upsample, "odd", {.B = 1, .H = 3, .W = 4, .C = 5, .y_height = 7, .y_width = 9}},
    {&upsample, "smaller and larger", {.B = 2, .H = 7, .W = 3, .C = 3, .y_height = 4, .y_width = 11}},
    {&upsample, "long", {.B = 2, .H = 5, .W = 4, .C = 600, .y_height = 10, .y_width = 8}},

    {&pool,
     "largest, stride 2",
     {.B = 2,
      .H = 7,
      .W = 8,
      .C = 5,
      .y_height = 3,
      .y_width = 3,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {2, 0, 0, 0, 0}}},
    {&pool,
     "largest, padded, all below zero",
     {.B = 2,
      .H = 4,
      .W = 5,
      .C = 17,
      .y_height = 4,
      .y_width = 5,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {1, 1, 1, 1, 1},
      .offset = -9}},
    {&pool,
     "largest, vectors",
     {.B = 2,
      .H = 6,
      .W = 5,
      .C = 16,
      .y_height = 3,
      .y_width = 3,
      .kernel_height = 3,
      .kernel_width = 2,
      .geometry = {2, 1, 0, 0, 1}}},
    {&pool,
     "mean, padded",
     {.B = 2,
      .H = 4,
      .W = 5,
      .C = 7,
      .y_height = 4,
      .y_width = 5,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {1, 1, 1, 1, 1},
      .mean = true}},
    {&pool,
     "mean, padded, map smaller than the window",
     {.B = 1,
      .H = 1,
      .W = 2,
      .C = 3,
      .y_height = 1,
      .y_width = 2,
      .kernel_height = 3,
      .kernel_width = 3,
      .geometry = {1, 1, 1, 1, 1},
      .mean = true}},
    {&pool,
     "mean, four pads",
     {.B = 1,
      .H = 5,
      .W = 4,
      .C = 3,
      .y_height = 3,
      .y_width = 2,
      .kernel_height = 3,
      .kernel_width = 2,
      .geometry = {2, 2, 1, 1, 0},
      .mean = true}},
    {&pool,
     "mean of the map",
     {.B = 3,
      .H = 8,
      .W = 7,
      .C = 600,
      .y_height = 1,
      .y_width = 1,
      .kernel_height = 8,
      .kernel_width = 7,
      .geometry = {1, 0, 0, 0, 0},
      .mean = true}},

    // phases up to 999 rad, known to 999 x 2^-24 in fp32
    {&timestep_embedding, "sine first", {.B = 3, .C = 32, .number = 1, .tolerance = 30}},
    {&timestep_embedding, "cosine first", {.B = 5, .C = 1280, .flip = true, .tolerance = 30}},
    {&timestep_embedding, "odd", {.B = 1, .C = 7, .flip = true, .tolerance = 30}},
    {&embedding, "small", {.B = 1, .T = 1, .C = 3, .entries = 2}},
    {&embedding, "repeated ids", {.B = 3, .T = 77, .C = 130, .entries = 11}},
    {&embedding, "vectors, few ids repeated", {.B = 2, .T = 35, .C = 264, .entries = 150}},
    {&masked_mean, "small", {.B = 1, .T = 13, .C = 3}},
    {&masked_mean, "long", {.B = 3, .T = 77, .C = 600}},
    {&squared_error, "small", {.B = 1, .T = 1, .C = 3}},
    {&squared_error, "long", {.B = 3, .T = 77, .C = 111}},
    {&squared_error, "long, vectors", {.B = 3, .T = 77, .C = 112}},
    {&squared_error, "long, to fp32", {.B = 3, .T = 77, .C = 111, .exact = true}},
    {&squared_error, "long, vectors, to fp32", {.B = 3, .T = 77, .C = 112, .exact = true}},
};

/* ---- running a case */

static struct random_key key_of(const struct run *run, uint64_t sample)
{
    (void)run;
    return (struct random_key){.seed = 3, .stream = RANDOM_TEST, .step = 0, .sample = sample};
}

/* Values of an input by its role; `variant` chooses other ones. */
static void variable_fill(struct run *run, struct variable *variable, uint64_t variant)
{
    int64_t count = tensor_count(&variable->tensor), row = tensor_channels(&variable->tensor);
    struct random_key key = key_of(run, 100 * variant + (uint64_t)(variable - run->in));
    float *normal = check_malloc((size_t)count * sizeof *normal);
    random_normal(key, (uint64_t)count, normal);
    for (int64_t i = 0; i < count; i++) switch (variable->role) {
        case ACTIVATION:
        case TARGET:
        case EXACT:
            variable->value[i] = normal[i] + (variable == run->in ? run->sizes.offset : 0);
            break;
        case PARAMETER:
            variable->value[i] = normal[i];
            break;
        case PRODUCT:
            variable->value[i] =
                run->dtype == DTYPE_BF16 ? float_from_bf16(bf16_from_float(normal[i])) : normal[i];
            break;
        case GATES:
            variable->value[i] = i % 3 == 2 ? 0 : 1.2 * random_uniform(key, (uint64_t)i);
            break;
        case MASK:
            variable->value[i] = i % row == 0 || normal[i] > 0;
            break;
        case TIMESTEPS:
            variable->value[i] = i == 0 ? 999 : (double)random_below(key, (uint64_t)i, 1000);
            break;
        case IDS:
            variable->value[i] = (double)random_below(key, (uint64_t)i, (uint64_t)run->sizes.entries);
            break;
        case ABSENT:
            break;
        }
    free(normal);
    tensor_write(run, &variable->tensor, variable->value);
}

static void run_open(struct run *run, struct backend *backend, const struct op_case *test, enum dtype dtype)
{
    *run = (struct run){.backend = backend, .dtype = dtype, .sizes = test->sizes};
    test->op->declare(run);
    for (int i = 0; i < MAX_INPUTS; i++)
        if (run->in[i].role != ABSENT) variable_fill(run, &run->in[i], 0);
    int64_t count = tensor_count(&run->y);
    float *normal = check_malloc((size_t)count * sizeof *normal);
    random_normal(key_of(run, 99), (uint64_t)count, normal);
    for (int64_t i = 0; i < count; i++) run->dy_value[i] = normal[i];
    free(normal);
    tensor_write(run, &run->dy, run->dy_value);
    if (run->in[1].role == PRODUCT) {
        run->weight.value = run->in[1].tensor;
        run->weight.product = true;
    }
}

static void run_close(struct run *run)
{
    for (int i = 0; i < MAX_INPUTS; i++) {
        tensor_free(run, &run->in[i].tensor);
        tensor_free(run, &run->in[i].gradient);
        free(run->in[i].value);
    }
    for (int form = 0; form < PACKED_FORMS; form++)
        if (run->weight.packed[form]) run->backend->ops->packed_free(run->backend, run->weight.packed[form]);
    tensor_free(run, &run->y);
    tensor_free(run, &run->dy);
    tensor_free(run, &run->saved);
    free(run->dy_value);
}

/* What gradients that add are added to. */
#define BEFORE 0.25

/* Forward and backward pass into spoilt memory. */
static void run_compute(struct run *run, const struct op *op)
{
    tensor_spoil(run, &run->y);
    if (run->saved.data) tensor_spoil(run, &run->saved);
    for (int i = 0; i < MAX_INPUTS; i++) {
        struct variable *variable = &run->in[i];
        if (!variable->gradient.data) continue;
        tensor_spoil(run, &variable->gradient);
        if (variable->role == ACTIVATION) continue;
        int64_t count = tensor_count(&variable->gradient);
        double *before = check_malloc((size_t)count * sizeof *before);
        for (int64_t j = 0; j < count; j++) before[j] = BEFORE;
        tensor_write(run, &variable->gradient, before);
        free(before);
    }
    op->forward(run);
    if (op->backward) op->backward(run);
    run->backend->ops->synchronize(run->backend);
}

/* ---- comparing */

/* Largest error allowed, in units of the largest value: a few roundings of fp32 in sums of up to some
 * thousand terms; one rounding (2^-8) of a bf16 result, or two: in gradients, and where rounds_twice. */
static double tolerance_of(const struct run *run, enum dtype dtype, bool twice)
{
    double factor = run->sizes.tolerance > 0 ? run->sizes.tolerance : 1;
    double fp32 = (twice ? 4e-6 : 2e-6) * factor;
    double bf16 = twice ? 8e-3 : 4e-3;
    return dtype == DTYPE_F32 ? fp32 : fmax(fp32, bf16);
}

/* On a device, what bias and residual are added to is a convolution's result in bf16, and the probabilities
 * of attention are. */
static bool rounds_twice(const struct run *run, const struct op *op)
{
    return run->backend->device && run->dtype == DTYPE_BF16 &&
           (op->forward == convolution_forward || op->forward == attention_forward);
}

static void check_output(struct run *run, const struct op *op)
{
    int64_t count = tensor_count(&run->y);
    double *expected = check_malloc((size_t)count * sizeof *expected), *found = tensor_read(run, &run->y);
    op->plain(run, expected);
    double largest = 0, limit = tolerance_of(run, run->y.dtype, rounds_twice(run, op));
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(found[i] - expected[i]) <= limit * largest))
            fail_msg("output element %lld is %.9g, expected %.9g +- %.3g", (long long)i, found[i],
                     expected[i], limit * largest);
    free(found);
    free(expected);
}

/* d/dh of sum(dy y) at h = 0, where `value` is value + h direction. */
static double derivative(const struct run *run, const struct op *op, double *value, const double *direction,
                         int64_t count)
{
    const double h = 1e-4;
    int64_t y_count = tensor_count(&run->y);
    double *y = check_malloc((size_t)(2 * y_count) * sizeof *y),
           *before = check_malloc((size_t)count * sizeof *y);
    memcpy(before, value, (size_t)count * sizeof *value);
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < count; i++) value[i] = before[i] + (side ? -h : h) * direction[i];
        op->plain(run, y + side * y_count);
    }
    memcpy(value, before, (size_t)count * sizeof *value);
    double sum = 0;
    for (int64_t i = 0; i < y_count; i++) sum += run->dy_value[i] * (y[i] - y[y_count + i]) / (2 * h);
    free(before);
    free(y);
    return sum;
}

enum { ELEMENTS_COMPARED = 16, ELEMENTS_COMPARED_LARGE = 4, LARGE = 10000 };

static void check_gradient(struct run *run, const struct op *op, struct variable *variable)
{
    int64_t count = tensor_count(&variable->gradient);
    int64_t most = tensor_count(&run->y) < LARGE ? ELEMENTS_COMPARED : ELEMENTS_COMPARED_LARGE;
    int64_t compared = count < most ? count : most;
    double *found = tensor_read(run, &variable->gradient),
           *direction = check_calloc((size_t)count, sizeof(double));
    double expected[ELEMENTS_COMPARED],
        largest = variable->role == ACTIVATION ? run->sizes.zero_scale : BEFORE;
    int64_t element[ELEMENTS_COMPARED];
    for (int64_t i = 0; variable->role != ACTIVATION && i < count; i++) found[i] -= BEFORE;

    for (int64_t i = 0; i < compared; i++) {
        element[i] =
            compared == count ? i : (int64_t)random_below(key_of(run, 98), (uint64_t)i, (uint64_t)count);
        direction[element[i]] = 1;
        expected[i] = derivative(run, op, variable->value, direction, count);
        direction[element[i]] = 0;
        largest = fmax(largest, fabs(expected[i]));
    }
    double limit =
        tolerance_of(run, variable->gradient.dtype == run->dtype ? run->dtype : run->dy.dtype, true);
    for (int64_t i = 0; i < compared; i++)
        if (!(fabs(found[element[i]] - expected[i]) <= limit * largest))
            fail_msg("gradient of %s, element %lld is %.9g, expected %.9g +- %.3g", variable->name,
                     (long long)element[i], found[element[i]], expected[i], limit * largest);

    double along = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        direction[i] = random_uniform(key_of(run, 97), (uint64_t)i) < 0.5 ? -1 : 1;
        along += found[i] * direction[i];
        size += fmax(fabs(found[i]), run->sizes.zero_scale);
    }
    double slope = derivative(run, op, variable->value, direction, count);
    if (!(fabs(along - slope) <= limit * fmax(size, largest)))
        fail_msg("gradient of %s along a direction is %.9g, expected %.9g +- %.3g", variable->name, along,
                 slope, limit * size);
    free(direction);
    free(found);
}

/* ---- bits */

/* Bits of the output ([0]) and the gradients; NULL where there is none. */
struct bits {
    unsigned char *tensor[1 + MAX_INPUTS];
};

static struct bits bits_take(struct run *run)
{
    struct bits bits = {{tensor_bits(run, &run->y)}};
    for (int i = 0; i < MAX_INPUTS; i++)
        if (run->in[i].wanted) bits.tensor[1 + i] = tensor_bits(run, &run->in[i].gradient);
    return bits;
}

static void bits_free(struct bits *bits)
{
    for (int i = 0; i < 1 + MAX_INPUTS; i++) free(bits->tensor[i]);
}

/* The bits now must be the same as `before`: of all samples, or of the first one. */
static void check_bits(struct run *run, const struct bits *before, bool first_sample, const char *when)
{
    struct bits now = bits_take(run);
    for (int i = 0; i < 1 + MAX_INPUTS; i++) {
        const struct variable *variable = i ? &run->in[i - 1] : NULL;
        const struct tensor *tensor = i ? &variable->gradient : &run->y;
        if (!now.tensor[i] || (first_sample && variable && is_shared(variable))) continue;
        size_t bytes = tensor_bytes(tensor) / (size_t)(first_sample ? tensor->dim[0] : 1);
        if (memcmp(now.tensor[i], before->tensor[i], bytes) != 0)
            fail_msg("%s%s differs in bits %s", i ? "gradient of " : "output", i ? variable->name : "", when);
    }
    bits_free(&now);
}

/* Each gradient must have the same bits when it is the only one wanted. */
static void check_single_gradients(struct run *run, const struct op *op, const struct bits *all)
{
    for (int i = 0; i < MAX_INPUTS; i++) {
        if (!run->in[i].gradient.data) continue;
        if (op->backward == linear_backward || op->backward == convolution_backward)
            continue; // slots of their own
        for (int j = 0; j < MAX_INPUTS; j++) run->in[j].wanted = j == i;
        run_compute(run, op);
        check_bits(run, all, false, "when no other gradient is wanted");
    }
    for (int i = 0; i < MAX_INPUTS; i++) run->in[i].wanted = run->in[i].gradient.data;
}

/* Other values in all samples but the first. */
static void check_first_sample(struct run *run, const struct op *op, const struct bits *before)
{
    for (int i = 0; i < MAX_INPUTS; i++) {
        struct variable *variable = &run->in[i];
        if (variable->role == ABSENT || is_shared(variable)) continue;
        int64_t count = tensor_count(&variable->tensor), sample = count / variable->tensor.dim[0];
        double *first = check_malloc((size_t)sample * sizeof *first);
        memcpy(first, variable->value, (size_t)sample * sizeof *first);
        variable_fill(run, variable, 1);
        memcpy(variable->value, first, (size_t)sample * sizeof *first);
        tensor_write(run, &variable->tensor, variable->value);
        free(first);
    }
    run_compute(run, op);
    check_bits(run, before, true, "when the other samples are different");
}

static const enum backend_kind backend_kinds[] = {BACKEND_CPU, BACKEND_CUDA};

/* `test` closes what it is given. */
static void on_every_backend(void (*test)(struct backend *backend))
{
    for (size_t kind = 0; kind < sizeof backend_kinds / sizeof backend_kinds[0]; kind++)
        if (backend_available(backend_kinds[kind])) test(backend_open(backend_kinds[kind]));
}

static void test_case(enum dtype dtype, const struct op_case *test)
{
    if (test->sizes.fp32_only && dtype != DTYPE_F32) return;
    for (size_t kind = 0; kind < sizeof backend_kinds / sizeof backend_kinds[0]; kind++) {
        if (!backend_available(backend_kinds[kind])) continue;
        struct backend *backend = backend_open(backend_kinds[kind]);
        if (!backend->ops->supports(backend, dtype)) {
            print_message("%s does not compute in %s: not tested\n", backend->ops->name, dtype_name(dtype));
            backend_close(backend);
            continue;
        }
        struct run run;
        run_open(&run, backend, test, dtype);
        run_compute(&run, test->op);
        check_output(&run, test->op);
        for (int i = 0; test->op->backward && i < MAX_INPUTS; i++)
            if (run.in[i].wanted) check_gradient(&run, test->op, &run.in[i]);
        struct bits bits = bits_take(&run);
        run_compute(&run, test->op);
        check_bits(&run, &bits, false, "in a second run");
        if (test->op->backward) check_single_gradients(&run, test->op, &bits);
        check_first_sample(&run, test->op, &bits);
        bits_free(&bits);
        run_close(&run);
        assert_int_equal(arena_in_use(backend->scratch), 0);
        backend_close(backend);
    }
}

static void test_fp32(void **state)
{
    test_case(DTYPE_F32, *state);
}

static void test_bf16(void **state)
{
    test_case(DTYPE_BF16, *state);
}

/* ---- what the table has no room for */

/* y may be one of the inputs */
static void in_place_on(struct backend *backend)
{
    const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        struct op_case tests[] = {{&add, "", {.B = 3, .T = 77, .C = 111}},
                                  {&scale, "", {.B = 3, .T = 77, .C = 111, .number = 0.3f}}};
        for (int j = 0; j < 2; j++) {
            struct run run;
            run_open(&run, backend, &tests[j], dtypes[i]);
            tests[j].op->forward(&run);
            void *apart = tensor_bits(&run, &run.y);
            struct tensor y = run.y;
            run.y.data = run.in[0].tensor.data;
            tests[j].op->forward(&run);
            void *in_place = tensor_bits(&run, &run.y);
            assert_memory_equal(apart, in_place, tensor_bytes(&run.y));
            run.y = y;
            free(apart);
            free(in_place);
            run_close(&run);
        }
    }
    backend_close(backend);
}

/* Statistics of values that are large against their deviation: the mean to its last digit (half of which is
 * 3e-5 near 1000). One channel a group, so a row of GroupNorm's statistics is that of one column of x. */
static void statistics_on(struct backend *backend)
{
    struct op_case tests[] = {{&group_norm, "", {.B = 1, .T = 300, .C = 64, .groups = 64, .offset = 1000}},
                              {&layer_norm, "", {.B = 1, .T = 64, .C = 3000, .offset = 1000}}};
    for (int i = 0; i < 2; i++) {
        struct run run;
        run_open(&run, backend, &tests[i], DTYPE_F32);
        tests[i].op->forward(&run);
        double *found = tensor_read(&run, &run.saved);
        const double *x = run.in[NORM_X].value;
        int64_t count = i == 0 ? run.sizes.T : run.sizes.C, stride = i == 0 ? run.sizes.C : 1;
        for (int64_t row = 0; row < 64; row++) {
            const double *first = x + (i == 0 ? row : row * run.sizes.C);
            double mean = 0, variance = 0;
            for (int64_t j = 0; j < count; j++) mean += first[j * stride] / (double)count;
            for (int64_t j = 0; j < count; j++) variance += pow(first[j * stride] - mean, 2) / (double)count;
            assert_true(fabs(found[2 * row] - mean) <= 3.1e-5);
            assert_true(fabs(found[2 * row + 1] * sqrt(variance + EPSILON) - 1) <= 1e-6);
        }
        free(found);
        run_close(&run);
    }
    backend_close(backend);
}

/* A sample without any visible token has the mean 0 and no gradient. */
static void masked_mean_of_nothing_on(struct backend *backend)
{
    struct op_case test = {&masked_mean, "", {.B = 2, .T = 5, .C = 3}};
    struct run run;
    run_open(&run, backend, &test, DTYPE_F32);
    for (int t = 0; t < 5; t++) run.in[MEAN_MASK].value[t] = 0;
    tensor_write(&run, &run.in[MEAN_MASK].tensor, run.in[MEAN_MASK].value);
    run_compute(&run, test.op);
    check_output(&run, test.op);
    double *y = tensor_read(&run, &run.y), *dx = tensor_read(&run, &run.in[MEAN_X].gradient);
    for (int i = 0; i < 3; i++) assert_true(y[i] == 0);
    for (int i = 0; i < 15; i++) assert_true(dx[i] == 0);
    free(y);
    free(dx);
    run_close(&run);
    backend_close(backend);
}

/* A value that is not finite must come out as one. */
static void not_finite_on(struct backend *backend)
{
    const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16};
    struct op_case tests[] = {
        {&group_norm, "", {.B = 1, .T = 20, .C = 40, .groups = 4, .silu = true}},
        {&layer_norm, "", {.B = 1, .T = 1, .C = 40}},
        {&geglu, "", {.B = 1, .T = 1, .C = 20}},
        {&activation, "", {.B = 1, .T = 1, .C = 40, .kind = ACTIVATION_SILU}},
        {&activation, "", {.B = 1, .T = 1, .C = 40, .kind = ACTIVATION_GELU_TANH}},
        {&activation, "", {.B = 1, .T = 1, .C = 40, .kind = ACTIVATION_RELU}},
        {&pool,
         "",
         {.B = 1,
          .H = 2,
          .W = 2,
          .C = 20,
          .y_height = 1,
          .y_width = 1,
          .kernel_height = 2,
          .kernel_width = 2,
          .geometry = {1, 0, 0, 0, 0}}},
        {&pool,
         "",
         {.B = 1,
          .H = 2,
          .W = 2,
          .C = 20,
          .y_height = 1,
          .y_width = 1,
          .kernel_height = 2,
          .kernel_width = 2,
          .geometry = {1, 0, 0, 0, 0},
          .mean = true}},
        {&squared_error, "", {.B = 1, .T = 1, .C = 40}},
    };
    for (size_t i = 0; i < 2 * sizeof tests / sizeof tests[0]; i++) {
        struct run run;
        run_open(&run, backend, &tests[i / 2], dtypes[i % 2]);
        run.in[0].value[3] = run.in[0].value[30] = NAN;
        tensor_write(&run, &run.in[0].tensor, run.in[0].value);
        tests[i / 2].op->forward(&run);
        double *y = tensor_read(&run, &run.y);
        int64_t found = 0;
        for (int64_t j = 0; j < tensor_count(&run.y); j++) found += isnan(y[j]) != 0;
        assert_true(found > 0);
        free(y);
        run_close(&run);
    }
    backend_close(backend);
}

/* What a slot takes, on the host and on the backend: a large array and small ones, more than a GPU's kernels
 * take in a launch. */
enum {
    TRAINED = 40001,
    SMALL = 5,
    TRAINED_ARRAYS = 90,
    TRAINED_ALL = TRAINED + (TRAINED_ARRAYS - 1) * SMALL
};

struct trained {
    struct backend *backend;
    struct trained_array arrays[TRAINED_ARRAYS]; /* in the backend's memory */
};

/* The members of struct trained_array, for loops over them. */
static float **member_of(struct trained_array *array, int member)
{
    float **members[] = {&array->value, &array->gradient, &array->first_moment, &array->second_moment,
                         &array->average};
    return members[member];
}

enum { MEMBERS = 5 };

static void trained_open(struct trained *trained, struct backend *backend)
{
    *trained = (struct trained){.backend = backend};
    for (int i = 0; i < TRAINED_ARRAYS; i++) trained->arrays[i].count = i == 0 ? TRAINED : SMALL;
    for (int i = 0; i < TRAINED_ARRAYS; i++)
        for (int member = 0; member < MEMBERS; member++)
            *member_of(&trained->arrays[i], member) =
                backend->ops->memory_new(backend, (size_t)trained->arrays[i].count * sizeof(float));
}

static void trained_close(struct trained *trained)
{
    struct backend *backend = trained->backend;
    for (int i = 0; i < TRAINED_ARRAYS; i++)
        for (int member = 0; member < MEMBERS; member++)
            backend->ops->memory_free(backend, *member_of(&trained->arrays[i], member),
                                      (size_t)trained->arrays[i].count * sizeof(float));
    backend_close(backend);
}

enum member { VALUE, GRADIENT, FIRST, SECOND, AVERAGE };

/* Copies [TRAINED_ALL] values into a member of the arrays, one after the other, or out of it. */
static void trained_write(struct trained *trained, enum member member, const float *values)
{
    for (int i = 0; i < TRAINED_ARRAYS; values += trained->arrays[i++].count)
        trained->backend->ops->upload(trained->backend, *member_of(&trained->arrays[i], (int)member), values,
                                      (size_t)trained->arrays[i].count * sizeof *values);
}

static void trained_read(struct trained *trained, enum member member, float *values)
{
    for (int i = 0; i < TRAINED_ARRAYS; values += trained->arrays[i++].count)
        trained->backend->ops->download(trained->backend, values,
                                        *member_of(&trained->arrays[i], (int)member),
                                        (size_t)trained->arrays[i].count * sizeof *values);
}

static float *normal_values(uint64_t stream)
{
    float *values = check_malloc(TRAINED_ALL * sizeof *values);
    random_normal((struct random_key){3, RANDOM_TEST, stream, 0}, TRAINED_ALL, values);
    return values;
}

static void expect_near(const char *what, const float *found, const double *expected, double tolerance)
{
    for (int i = 0; i < TRAINED_ALL; i++)
        if (!(fabs(found[i] - expected[i]) <= tolerance))
            fail_msg("%s %d is %.9g, expected %.9g", what, i, found[i], expected[i]);
}

/* AdamW against the formulas of torch.optim.AdamW in fp64, three steps */
static void adamw_on(struct backend *backend)
{
    struct trained trained;
    trained_open(&trained, backend);
    float *value = normal_values(0);
    double *expected = check_malloc(TRAINED_ALL * sizeof(double));
    double *m = check_calloc(TRAINED_ALL, sizeof(double)), *v = check_calloc(TRAINED_ALL, sizeof(double));
    for (int i = 0; i < TRAINED_ALL; i++) expected[i] = value[i];
    trained_write(&trained, VALUE, value);
    struct adamw adamw = {.learning_rate = 0.01f,
                          .beta1 = 0.9f,
                          .beta2 = 0.999f,
                          .epsilon = 1e-8f,
                          .weight_decay = 0.1f,
                          .gradient_scale = 0.5f};
    for (adamw.step = 1; adamw.step <= 3; adamw.step++) {
        float *gradient = normal_values((uint64_t)adamw.step);
        trained_write(&trained, GRADIENT, gradient);
        backend->ops->adamw(backend, &adamw, TRAINED_ARRAYS, trained.arrays);
        for (int i = 0; i < TRAINED_ALL; i++) {
            double g = 0.5 * gradient[i], beta1 = adamw.beta1, beta2 = adamw.beta2;
            m[i] = beta1 * m[i] + (1 - beta1) * g;
            v[i] = beta2 * v[i] + (1 - beta2) * g * g;
            double m_hat = m[i] / (1 - pow(beta1, (double)adamw.step));
            double v_hat = v[i] / (1 - pow(beta2, (double)adamw.step));
            expected[i] *= 1 - (double)adamw.learning_rate * adamw.weight_decay;
            expected[i] -= adamw.learning_rate * m_hat / (sqrt(v_hat) + adamw.epsilon);
        }
        free(gradient);
    }
    trained_read(&trained, VALUE, value);
    expect_near("value", value, expected, 1e-6); // three roundings of values up to 4
    free(value), free(expected), free(m), free(v);
    trained_close(&trained);
}

static void average_on(struct backend *backend)
{
    struct trained trained;
    trained_open(&trained, backend);
    float *value = normal_values(0), *average = check_malloc(TRAINED_ALL * sizeof(float));
    double *expected = check_malloc(TRAINED_ALL * sizeof(double));
    for (int i = 0; i < TRAINED_ALL; i++) {
        average[i] = 2 * value[i] + 1;
        expected[i] = 0.75 * (2.0 * value[i] + 1) + 0.25 * value[i];
    }
    trained_write(&trained, VALUE, value);
    trained_write(&trained, AVERAGE, average);
    backend->ops->average(backend, 0.75f, TRAINED_ARRAYS, trained.arrays);
    trained_read(&trained, AVERAGE, average);
    expect_near("average", average, expected, 2e-6);
    free(value), free(average), free(expected);
    trained_close(&trained);
}

static void sum_of_squares_on(struct backend *backend)
{
    struct trained trained;
    trained_open(&trained, backend);
    float *gradient = normal_values(0);
    trained_write(&trained, GRADIENT, gradient);
    double expected = 0;
    for (int i = 0; i < TRAINED_ALL; i++) expected += (double)gradient[i] * gradient[i];
    double found = backend->ops->sum_of_squares(backend, TRAINED_ARRAYS, trained.arrays);
    assert_true(fabs(found - expected) <= 1e-12 * expected); // fp64, another order
    assert_true(backend->ops->sum_of_squares(backend, TRAINED_ARRAYS, trained.arrays) == found);
    assert_true(backend->ops->sum_of_squares(backend, 0, trained.arrays) == 0);
    const float wrong[] = {INFINITY, NAN};
    for (int i = 0; i < 2; i++) {
        gradient[TRAINED - 2] = wrong[i];
        trained_write(&trained, GRADIENT, gradient);
        assert_false(isfinite(backend->ops->sum_of_squares(backend, TRAINED_ARRAYS, trained.arrays)));
    }
    free(gradient);
    trained_close(&trained);
}

/* Gradients to one row and back, and through staging memory, as they go to other ranks. */
static void bucket_on(struct backend *backend)
{
    struct trained trained;
    trained_open(&trained, backend);
    size_t bytes = TRAINED_ALL * sizeof(float);
    float *gradient = normal_values(0), *found = check_malloc(bytes);
    float *packed = backend->ops->memory_new(backend, bytes);
    float *staging = backend->ops->staging_new(backend, bytes);
    struct backend_event *event = backend->ops->event_new(backend);
    trained_write(&trained, GRADIENT, gradient);
    backend->ops->bucket_pack(backend, TRAINED_ARRAYS, trained.arrays, packed);
    backend->ops->staging_download(backend, staging, packed, bytes, event);
    backend->ops->event_wait(backend, event);
    assert_memory_equal(staging, gradient, bytes);

    for (int i = 0; i < TRAINED_ALL; i++) staging[i] = gradient[i] = -2 * gradient[i];
    backend->ops->staging_upload(backend, packed, staging, bytes);
    backend->ops->bucket_unpack(backend, packed, TRAINED_ARRAYS, trained.arrays);
    backend->ops->event_record(backend, event);
    backend->ops->event_wait(backend, event);
    trained_read(&trained, GRADIENT, found);
    assert_memory_equal(found, gradient, bytes);

    backend->ops->event_free(backend, event);
    backend->ops->staging_free(backend, staging);
    backend->ops->memory_free(backend, packed, bytes);
    free(gradient), free(found);
    trained_close(&trained);
}

static void test_in_place(void **state)
{
    (void)state;
    on_every_backend(in_place_on);
}

static void test_statistics(void **state)
{
    (void)state;
    on_every_backend(statistics_on);
}

static void test_masked_mean_of_nothing(void **state)
{
    (void)state;
    on_every_backend(masked_mean_of_nothing_on);
}

static void test_not_finite(void **state)
{
    (void)state;
    on_every_backend(not_finite_on);
}

static void test_adamw(void **state)
{
    (void)state;
    on_every_backend(adamw_on);
}

static void test_average(void **state)
{
    (void)state;
    on_every_backend(average_on);
}

static void test_sum_of_squares(void **state)
{
    (void)state;
    on_every_backend(sum_of_squares_on);
}

static void test_bucket(void **state)
{
    (void)state;
    on_every_backend(bucket_on);
}

int main(void)
{
    enum { CASES = sizeof cases / sizeof cases[0] };
    static struct CMUnitTest tests[2 * CASES + 8];
    static char names[2 * CASES][96];
    size_t count = 0;
    for (size_t i = 0; i < CASES; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            snprintf(names[count], sizeof names[count], "%s: %s, %s", cases[i].op->name, cases[i].label,
                     bf16 ? "bf16" : "fp32");
            tests[count] = (struct CMUnitTest){names[count], bf16 ? test_bf16 : test_fp32, NULL, NULL,
                                               (void *)&cases[i]};
            count++;
        }
    const struct CMUnitTest more[] = {
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_masked_mean_of_nothing),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_average),
        cmocka_unit_test(test_sum_of_squares),
        cmocka_unit_test(test_bucket),
    };
    memcpy(tests + count, more, sizeof more);
    return _cmocka_run_group_tests("ops", tests, count + sizeof more / sizeof more[0], NULL, NULL);
}
