#include "tensor/op.h"

#include "base/check.h"

/* The tape, after the op has named itself: a GPU whose memory is full can then tell whom for. */
#define NAMED(tape) (tape_backend(tape)->op = __func__, (tape))
#define OPS(tape) (tape_backend(NAMED(tape))->ops)

/* Fails with the op's name and both shapes. */
#define CHECK_SHAPES(condition, op, a, b)                                                                    \
    CHECK(condition, op ": %s with %s", tensor_text(a, (char[TENSOR_TEXT_SIZE]){0}),                         \
          tensor_text(b, (char[TENSOR_TEXT_SIZE]){0}))

/* A tensor like x whose last dimension is `channels`. */
static struct tensor *like(struct tape *tape, const struct tensor *x, int64_t channels)
{
    int64_t dim[TENSOR_MAX_RANK];
    for (int i = 0; i < x->rank; i++) dim[i] = x->dim[i];
    dim[x->rank - 1] = channels;
    return tape_tensor(tape, x->dtype, x->rank, dim);
}

/* Statistics and the like: kept in fp32. */
static struct tensor *kept(struct tape *tape, int rank, int64_t d0, int64_t d1, int64_t d2)
{
    return tape_tensor(tape, DTYPE_F32, rank, (int64_t[]){d0, d1, d2});
}

static const struct tensor *value_of(const struct parameter *parameter)
{
    return parameter ? &parameter->value : NULL;
}

/* Where a parameter's gradient is summed, or NULL. */
static struct tensor *gradient_of(struct parameter *parameter)
{
    return parameter && parameter->trainable ? &parameter->gradient : NULL;
}

static void check_gate(const struct tensor *x, struct gate gate, int64_t divides)
{
    if (!gate.gates) return;
    CHECK(gate.gates->rank == 2 && gate.gates->dtype == DTYPE_F32 && gate.gates->dim[0] == x->dim[0] &&
              gate.first >= 0 && gate.count >= 1 && gate.first + gate.count <= gate.gates->dim[1] &&
              divides % gate.count == 0,
          "gate entries %lld + %lld of %s do not fit %lld channels of %s", (long long)gate.first,
          (long long)gate.count, tensor_text(gate.gates, (char[TENSOR_TEXT_SIZE]){0}), (long long)divides,
          tensor_text(x, (char[TENSOR_TEXT_SIZE]){0}));
}

// ---- linear

/* in: x, residual */
static void linear_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dy = node->out[0]->grad;
    struct tensor *dx = tape_gradient(tape, x);
    if (dx) OPS(tape)->linear_backward_input(tape_backend(tape), dy, node->weight, dx);
    tape_gradient_done(tape, x, dx);
    if (gradient_of(node->weight))
        OPS(tape)->linear_backward_weight(tape_backend(tape), x, dy, gradient_of(node->weight),
                                          gradient_of(node->bias));
    tape_gradient_pass(tape, node->out[0], node->in[1]);
}

struct tensor *op_linear(struct tape *tape, struct tensor *x, struct parameter *weight,
                         struct parameter *bias, struct tensor *residual)
{
    CHECK_SHAPES(weight->value.rank == 2 && weight->value.dim[1] == tensor_channels(x), "linear", x,
                 &weight->value);
    struct tensor *y = like(NAMED(tape), x, weight->value.dim[0]);
    if (bias)
        CHECK_SHAPES(tensor_count(&bias->value) == weight->value.dim[0], "linear bias", y, &bias->value);
    if (residual) CHECK_SHAPES(tensor_same_shape(residual, y), "linear residual", y, residual);
    OPS(tape)->linear_forward(tape_backend(tape), x, weight, value_of(bias), residual, y);
    tape_record(
        tape,
        &(struct node){
            .backward = linear_backward, .in = {x, residual}, .out = {y}, .weight = weight, .bias = bias});
    return y;
}

// ---- convolution

/* in: x, residual */
static void convolution_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dy = node->out[0]->grad;
    const struct convolution *geometry = &node->args.convolution;
    struct tensor *dx = tape_gradient(tape, x);
    if (dx) OPS(tape)->convolution_backward_input(tape_backend(tape), geometry, dy, node->weight, dx);
    tape_gradient_done(tape, x, dx);
    if (gradient_of(node->weight))
        OPS(tape)->convolution_backward_weight(tape_backend(tape), geometry, x, dy, gradient_of(node->weight),
                                               gradient_of(node->bias));
    tape_gradient_pass(tape, node->out[0], node->in[1]);
}

/* Places of a sliding window in a map; 0: the map is smaller than the window. */
static void windows(const struct convolution *geometry, const struct tensor *x, int64_t kernel_height,
                    int64_t kernel_width, int64_t *height, int64_t *width)
{
    int64_t down = x->dim[1] + geometry->pad_top + geometry->pad_bottom - kernel_height;
    int64_t right = x->dim[2] + geometry->pad_left + geometry->pad_right - kernel_width;
    *height = down < 0 ? 0 : down / geometry->stride + 1;
    *width = right < 0 ? 0 : right / geometry->stride + 1;
}

struct tensor *op_convolution(struct tape *tape, struct convolution geometry, struct tensor *x,
                              struct parameter *weight, struct parameter *bias, struct tensor *residual)
{
    const int64_t *kernel = weight->value.dim; // [O, I, kH, kW]
    CHECK_SHAPES(x->rank == 4 && weight->value.rank == 4 && kernel[1] == x->dim[3], "convolution", x,
                 &weight->value);
    int64_t height, width;
    windows(&geometry, x, kernel[2], kernel[3], &height, &width);
    CHECK_SHAPES(height > 0 && width > 0, "convolution of a map smaller than its kernel", x, &weight->value);
    struct tensor *y =
        tape_tensor(NAMED(tape), x->dtype, 4, (int64_t[]){x->dim[0], height, width, kernel[0]});
    if (bias) CHECK_SHAPES(tensor_count(&bias->value) == kernel[0], "convolution bias", y, &bias->value);
    if (residual) CHECK_SHAPES(tensor_same_shape(residual, y), "convolution residual", y, residual);
    OPS(tape)->convolution_forward(tape_backend(tape), &geometry, x, weight, value_of(bias), residual, y);
    tape_record(tape, &(struct node){.backward = convolution_backward,
                                     .in = {x, residual},
                                     .out = {y},
                                     .weight = weight,
                                     .bias = bias,
                                     .args.convolution = geometry});
    return y;
}

// ---- norms

/* in: x, shift */
static void group_norm_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *shift = node->in[1];
    struct tensor *dx = tape_gradient(tape, x), *dshift = tape_gradient(tape, shift);
    OPS(tape)->group_norm_backward(tape_backend(tape), x, shift, value_of(node->weight), value_of(node->bias),
                                   node->args.norm.groups, node->args.norm.silu, node->gate, node->saved,
                                   node->out[0]->grad, dx, dshift, gradient_of(node->weight),
                                   gradient_of(node->bias), tape_gradient_sum(tape, node->gate.gates));
    tape_gradient_done(tape, x, dx);
    tape_gradient_done(tape, shift, dshift);
}

struct tensor *op_group_norm(struct tape *tape, struct tensor *x, struct tensor *shift,
                             struct parameter *weight, struct parameter *bias, int64_t groups, float epsilon,
                             bool silu, struct gate gate)
{
    int64_t channels = tensor_channels(x);
    CHECK_SHAPES(tensor_count(&weight->value) == channels && groups > 0 && channels % groups == 0,
                 "group norm", x, &weight->value);
    if (shift)
        CHECK_SHAPES(shift->rank == 2 && shift->dim[0] == x->dim[0] && shift->dim[1] == channels &&
                         shift->dtype == x->dtype,
                     "group norm shift", x, shift);
    check_gate(x, gate, channels);
    struct tensor *y = like(NAMED(tape), x, channels);
    struct tensor *statistics = kept(NAMED(tape), 3, x->dim[0], groups, 2);
    OPS(tape)->group_norm_forward(tape_backend(tape), x, shift, &weight->value, &bias->value, groups, epsilon,
                                  silu, gate, y, statistics);
    tape_record(tape, &(struct node){.backward = group_norm_backward,
                                     .in = {x, shift},
                                     .out = {y},
                                     .saved = statistics,
                                     .weight = weight,
                                     .bias = bias,
                                     .gate = gate,
                                     .args.norm = {groups, silu}});
    return y;
}

/* in: x */
static void layer_norm_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    OPS(tape)->layer_norm_backward(tape_backend(tape), x, value_of(node->weight), node->saved,
                                   node->out[0]->grad, dx, gradient_of(node->weight),
                                   gradient_of(node->bias));
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_layer_norm(struct tape *tape, struct tensor *x, struct parameter *weight,
                             struct parameter *bias, float epsilon)
{
    CHECK_SHAPES(tensor_count(&weight->value) == tensor_channels(x), "layer norm", x, &weight->value);
    struct tensor *y = like(NAMED(tape), x, tensor_channels(x));
    struct tensor *statistics = kept(NAMED(tape), 2, tensor_rows(x), 2, 0);
    OPS(tape)->layer_norm_forward(tape_backend(tape), x, &weight->value, &bias->value, epsilon, y,
                                  statistics);
    tape_record(tape, &(struct node){.backward = layer_norm_backward,
                                     .in = {x},
                                     .out = {y},
                                     .saved = statistics,
                                     .weight = weight,
                                     .bias = bias});
    return y;
}

// ---- attention

/* A gradient of which an op writes some columns alone: zero elsewhere. */
static struct tensor *gradient_of_columns(struct tape *tape, struct tensor *x, bool all_written)
{
    struct tensor *dx = tape_gradient(tape, x);
    if (dx && !all_written) OPS(tape)->fill_zero(tape_backend(tape), dx->data, tensor_bytes(dx));
    return dx;
}

/* in: q, kv, key_mask */
static void attention_backward(struct tape *tape, struct node *node)
{
    struct tensor *q = node->in[0], *kv = node->in[1];
    const struct attention *attention = &node->args.attention;
    int64_t width = attention->heads * attention->head_size;
    int64_t own = q == kv ? 3 : 2;
    struct tensor *dkv = gradient_of_columns(tape, kv, tensor_channels(kv) == own * width);
    struct tensor *dq = q == kv ? dkv : gradient_of_columns(tape, q, tensor_channels(q) == width);
    OPS(tape)->attention_backward(tape_backend(tape), attention, q, kv, node->in[2], node->gate, node->out[0],
                                  node->saved, node->out[0]->grad, dq, dkv,
                                  tape_gradient_sum(tape, node->gate.gates));
    tape_gradient_done(tape, kv, dkv);
    if (q != kv) tape_gradient_done(tape, q, dq);
}

struct tensor *op_attention(struct tape *tape, struct attention attention, struct tensor *q,
                            struct tensor *kv, struct tensor *key_mask, struct gate gate)
{
    int64_t width = attention.heads * attention.head_size;
    CHECK_SHAPES(q->dim[0] == kv->dim[0] && q->dtype == kv->dtype && attention.q_column >= 0 &&
                     attention.q_column + width <= tensor_channels(q) && attention.k_column >= 0 &&
                     attention.k_column + width <= tensor_channels(kv) && attention.v_column >= 0 &&
                     attention.v_column + width <= tensor_channels(kv),
                 "attention", q, kv);
    if (key_mask)
        CHECK_SHAPES(key_mask->rank == 2 && key_mask->dtype == DTYPE_F32 && key_mask->dim[0] == kv->dim[0] &&
                         key_mask->dim[1] == tensor_tokens(kv),
                     "attention mask", kv, key_mask);
    const struct tensor *bias = attention.bias;
    if (bias)
        CHECK_SHAPES(bias->rank == 3 && bias->dtype == DTYPE_F32 &&
                         (bias->dim[0] == 1 || bias->dim[0] == attention.heads) &&
                         bias->dim[1] == tensor_tokens(q) && bias->dim[2] == tensor_tokens(kv),
                     "attention bias", q, bias);
    if (gate.gates)
        CHECK(gate.count == attention.heads, "attention: a gate of %lld entries for %lld heads",
              (long long)gate.count, (long long)attention.heads);
    check_gate(q, gate, width);
    struct tensor *y = like(NAMED(tape), q, width);
    struct tensor *log_sum = kept(NAMED(tape), 3, q->dim[0], attention.heads, tensor_tokens(q));
    OPS(tape)->attention_forward(tape_backend(tape), &attention, q, kv, key_mask, gate, y, log_sum);
    bool recorded = tape_record(tape, &(struct node){.backward = attention_backward,
                                                     .in = {q, kv, key_mask},
                                                     .out = {y},
                                                     .saved = log_sum,
                                                     .gate = gate,
                                                     .args.attention = attention});
    CHECK(!recorded || !bias, "attention with a bias has no gradient, but one is wanted");
    return y;
}

// ---- gated linear unit and element-wise ops

/* in: x */
static void geglu_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    OPS(tape)->geglu_backward(tape_backend(tape), x, node->gate, node->out[0]->grad, dx,
                              tape_gradient_sum(tape, node->gate.gates));
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_geglu(struct tape *tape, struct tensor *x, struct gate gate)
{
    int64_t channels = tensor_channels(x);
    CHECK_SHAPES(channels % 2 == 0, "geglu", x, x);
    check_gate(x, gate, channels / 2);
    struct tensor *y = like(NAMED(tape), x, channels / 2);
    OPS(tape)->geglu_forward(tape_backend(tape), x, gate, y);
    tape_record(tape, &(struct node){.backward = geglu_backward, .in = {x}, .out = {y}, .gate = gate});
    return y;
}

/* in: x */
static void activation_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    if (dx)
        OPS(tape)->activation_backward(tape_backend(tape), node->args.activation, x, node->out[0]->grad, dx);
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_activation(struct tape *tape, enum activation kind, struct tensor *x)
{
    struct tensor *y = like(NAMED(tape), x, tensor_channels(x));
    OPS(tape)->activation_forward(tape_backend(tape), kind, x, y);
    tape_record(tape, &(struct node){
                          .backward = activation_backward, .in = {x}, .out = {y}, .args.activation = kind});
    return y;
}

/* in: a, b */
static void add_backward(struct tape *tape, struct node *node)
{
    struct tensor *a = node->in[0], *da = tape_gradient(tape, a);
    if (da) OPS(tape)->cast(tape_backend(tape), node->out[0]->grad, da);
    tape_gradient_done(tape, a, da);
    tape_gradient_pass(tape, node->out[0], node->in[1]);
}

struct tensor *op_add(struct tape *tape, struct tensor *a, struct tensor *b)
{
    CHECK_SHAPES(tensor_same_shape(a, b) && a->dtype == b->dtype, "add", a, b);
    struct tensor *y = like(NAMED(tape), a, tensor_channels(a));
    OPS(tape)->add(tape_backend(tape), a, b, y);
    tape_record(tape, &(struct node){.backward = add_backward, .in = {a, b}, .out = {y}});
    return y;
}

/* in: x */
static void cast_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    if (dx) OPS(tape)->cast(tape_backend(tape), node->out[0]->grad, dx);
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_cast(struct tape *tape, struct tensor *x, enum dtype dtype)
{
    if (x->dtype == dtype) return x;
    struct tensor *y = tape_tensor(NAMED(tape), dtype, x->rank, x->dim);
    OPS(tape)->cast(tape_backend(tape), x, y);
    tape_record(tape, &(struct node){.backward = cast_backward, .in = {x}, .out = {y}});
    return y;
}

/* in: x */
static void scale_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    if (dx) OPS(tape)->scale(tape_backend(tape), node->out[0]->grad, node->args.factor, dx);
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_scale(struct tape *tape, struct tensor *x, float factor)
{
    struct tensor *y = like(NAMED(tape), x, tensor_channels(x));
    OPS(tape)->scale(tape_backend(tape), x, factor, y);
    tape_record(tape,
                &(struct node){.backward = scale_backward, .in = {x}, .out = {y}, .args.factor = factor});
    return y;
}

/* in: x, f */
static void depth_mix_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *f = node->in[1];
    struct tensor *dx = tape_gradient(tape, x), *df = tape_gradient(tape, f);
    OPS(tape)->depth_mix_backward(tape_backend(tape), x, f, node->gate, node->out[0]->grad, dx, df,
                                  tape_gradient_sum(tape, node->gate.gates));
    tape_gradient_done(tape, x, dx);
    tape_gradient_done(tape, f, df);
}

struct tensor *op_depth_mix(struct tape *tape, struct tensor *x, struct tensor *f, struct gate gate)
{
    if (!gate.gates) return f;
    CHECK_SHAPES(tensor_same_shape(x, f) && x->dtype == f->dtype, "depth mix", x, f);
    CHECK(gate.count == 1, "depth mix: a gate of %lld entries, 1 allowed", (long long)gate.count);
    check_gate(x, gate, 1);
    struct tensor *y = like(NAMED(tape), x, tensor_channels(x));
    OPS(tape)->depth_mix_forward(tape_backend(tape), x, f, gate, y);
    tape_record(tape, &(struct node){.backward = depth_mix_backward, .in = {x, f}, .out = {y}, .gate = gate});
    return y;
}

// ---- movement

/* in: a, b */
static void concat_backward(struct tape *tape, struct node *node)
{
    struct tensor *a = node->in[0], *b = node->in[1];
    struct tensor *da = tape_gradient(tape, a), *db = tape_gradient(tape, b);
    OPS(tape)->concat_backward(tape_backend(tape), node->out[0]->grad, da, db);
    tape_gradient_done(tape, a, da);
    tape_gradient_done(tape, b, db);
}

struct tensor *op_concat(struct tape *tape, struct tensor *a, struct tensor *b)
{
    CHECK_SHAPES(a->rank == b->rank && tensor_rows(a) == tensor_rows(b) && a->dtype == b->dtype, "concat", a,
                 b);
    struct tensor *y = like(NAMED(tape), a, tensor_channels(a) + tensor_channels(b));
    OPS(tape)->concat_forward(tape_backend(tape), a, b, y);
    tape_record(tape, &(struct node){.backward = concat_backward, .in = {a, b}, .out = {y}});
    return y;
}

/* The same values as one row a sample, [B, T C]: in rows, tokens lie side by side like channels. */
static struct tensor sample_rows(const struct tensor *x)
{
    struct tensor rows = *x;
    rows.rank = 2;
    rows.dim[1] = tensor_count(x) / x->dim[0];
    rows.dim[2] = rows.dim[3] = 1;
    return rows;
}

/* in: a, b */
static void concat_tokens_backward(struct tape *tape, struct node *node)
{
    struct tensor *a = node->in[0], *b = node->in[1];
    struct tensor *da = tape_gradient(tape, a), *db = tape_gradient(tape, b);
    struct tensor dy = sample_rows(node->out[0]->grad), a_rows = {0}, b_rows = {0};
    if (da) a_rows = sample_rows(da);
    if (db) b_rows = sample_rows(db);
    OPS(tape)->concat_backward(tape_backend(tape), &dy, da ? &a_rows : NULL, db ? &b_rows : NULL);
    tape_gradient_done(tape, a, da);
    tape_gradient_done(tape, b, db);
}

struct tensor *op_concat_tokens(struct tape *tape, struct tensor *a, struct tensor *b)
{
    CHECK_SHAPES(a->rank >= 3 && b->rank >= 3 && a->dim[0] == b->dim[0] &&
                     tensor_channels(a) == tensor_channels(b) && a->dtype == b->dtype,
                 "concat of tokens", a, b);
    int64_t dim[] = {a->dim[0], tensor_tokens(a) + tensor_tokens(b), tensor_channels(a)};
    struct tensor *y = tape_tensor(NAMED(tape), a->dtype, 3, dim);
    struct tensor a_rows = sample_rows(a), b_rows = sample_rows(b), y_rows = sample_rows(y);
    OPS(tape)->concat_forward(tape_backend(tape), &a_rows, &b_rows, &y_rows);
    tape_record(tape, &(struct node){.backward = concat_tokens_backward, .in = {a, b}, .out = {y}});
    return y;
}

/* in: x */
static void upsample_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    if (dx) OPS(tape)->upsample_backward(tape_backend(tape), node->out[0]->grad, dx);
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_upsample(struct tape *tape, struct tensor *x, int64_t height, int64_t width)
{
    CHECK(x->rank == 4 && height >= x->dim[1] && width >= x->dim[2], "upsample: %s to %lld x %lld",
          tensor_text(x, (char[TENSOR_TEXT_SIZE]){0}), (long long)height, (long long)width);
    struct tensor *y =
        tape_tensor(NAMED(tape), x->dtype, 4, (int64_t[]){x->dim[0], height, width, x->dim[3]});
    OPS(tape)->upsample_forward(tape_backend(tape), x, y);
    tape_record(tape, &(struct node){.backward = upsample_backward, .in = {x}, .out = {y}});
    return y;
}

struct tensor *op_pool(struct tape *tape, struct pooling pooling, struct tensor *x)
{
    const struct convolution *geometry = &pooling.geometry;
    int64_t height, width;
    CHECK(x->rank == 4 && !x->needs_grad, "pooling of %s%s", tensor_text(x, (char[TENSOR_TEXT_SIZE]){0}),
          x->needs_grad ? ", which needs a gradient: there is none" : "");
    CHECK(geometry->pad_top < pooling.kernel_height && geometry->pad_bottom < pooling.kernel_height &&
              geometry->pad_left < pooling.kernel_width && geometry->pad_right < pooling.kernel_width,
          "pooling: a pad as large as the kernel of %lld x %lld", (long long)pooling.kernel_height,
          (long long)pooling.kernel_width);
    windows(geometry, x, pooling.kernel_height, pooling.kernel_width, &height, &width);
    CHECK(height > 0 && width > 0, "pooling of %s by a larger window, %lld x %lld",
          tensor_text(x, (char[TENSOR_TEXT_SIZE]){0}), (long long)pooling.kernel_height,
          (long long)pooling.kernel_width);
    struct tensor *y =
        tape_tensor(NAMED(tape), x->dtype, 4, (int64_t[]){x->dim[0], height, width, x->dim[3]});
    OPS(tape)->pool(tape_backend(tape), &pooling, x, y);
    return y;
}

// ---- embeddings

struct tensor *op_timestep_embedding(struct tape *tape, struct tensor *timesteps, int64_t channels,
                                     bool flip_sin_to_cos, float shift)
{
    CHECK(timesteps->rank == 1 && timesteps->dtype == DTYPE_F32 && channels % 2 == 0,
          "timestep embedding: %s to %lld channels", tensor_text(timesteps, (char[TENSOR_TEXT_SIZE]){0}),
          (long long)channels);
    struct tensor *y =
        tape_tensor(NAMED(tape), tape_dtype(tape), 2, (int64_t[]){timesteps->dim[0], channels});
    OPS(tape)->timestep_embedding(tape_backend(tape), timesteps, flip_sin_to_cos, shift, y);
    return y;
}

/* in: ids; weight: table */
static void embedding_backward(struct tape *tape, struct node *node)
{
    OPS(tape)->embedding_backward(tape_backend(tape), node->in[0], node->out[0]->grad,
                                  gradient_of(node->weight));
}

struct tensor *op_embedding(struct tape *tape, struct tensor *ids, struct parameter *table)
{
    CHECK_SHAPES(ids->dtype == DTYPE_I32 && ids->rank < TENSOR_MAX_RANK && table->value.rank <= 2,
                 "embedding", ids, &table->value);
    int64_t dim[TENSOR_MAX_RANK];
    for (int i = 0; i < ids->rank; i++) dim[i] = ids->dim[i];
    dim[ids->rank] = tensor_channels(&table->value);
    struct tensor *y = tape_tensor(NAMED(tape), tape_dtype(tape), ids->rank + 1, dim);
    OPS(tape)->embedding_forward(tape_backend(tape), ids, &table->value, y);
    tape_record(tape,
                &(struct node){.backward = embedding_backward, .in = {ids}, .out = {y}, .weight = table});
    return y;
}

/* in: x, mask */
static void masked_mean_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *dx = tape_gradient(tape, x);
    if (dx) OPS(tape)->masked_mean_backward(tape_backend(tape), node->in[1], node->out[0]->grad, dx);
    tape_gradient_done(tape, x, dx);
}

struct tensor *op_masked_mean(struct tape *tape, struct tensor *x, struct tensor *mask)
{
    CHECK_SHAPES(x->rank == 3 && mask->rank == 2 && mask->dtype == DTYPE_F32 && x->dim[0] == mask->dim[0] &&
                     x->dim[1] == mask->dim[1],
                 "masked mean", x, mask);
    struct tensor *y = tape_tensor(NAMED(tape), DTYPE_F32, 2, (int64_t[]){x->dim[0], x->dim[2]});
    OPS(tape)->masked_mean_forward(tape_backend(tape), x, mask, y);
    tape_record(tape, &(struct node){.backward = masked_mean_backward, .in = {x, mask}, .out = {y}});
    return y;
}

// ---- loss

/* in: a, b */
static void squared_error_backward(struct tape *tape, struct node *node)
{
    struct tensor *a = node->in[0], *da = tape_gradient(tape, a);
    if (da) OPS(tape)->squared_error_backward(tape_backend(tape), a, node->in[1], node->out[0]->grad, da);
    tape_gradient_done(tape, a, da);
}

struct tensor *op_squared_error(struct tape *tape, struct tensor *a, struct tensor *b)
{
    CHECK_SHAPES(tensor_same_shape(a, b) && (b->dtype == a->dtype || b->dtype == DTYPE_F32), "squared error",
                 a, b);
    CHECK_SHAPES(!b->needs_grad, "squared error: the gradient to the second argument is not defined here", a,
                 b);
    struct tensor *loss = kept(NAMED(tape), 1, a->dim[0], 0, 0);
    OPS(tape)->squared_error_forward(tape_backend(tape), a, b, loss);
    tape_record(tape, &(struct node){.backward = squared_error_backward, .in = {a, b}, .out = {loss}});
    return loss;
}
