#include "tensor/tape.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

enum { POOL_CHUNK = 256 };

/* A trainable parameter and the node whose op uses it, or whose block has an op that does. */
struct use {
    struct parameter *parameter; /* borrowed */
    int node;
};

struct tape {
    struct backend *backend;
    enum dtype dtype;
    enum tape_mode mode;
    int block_depth; // > 0 inside a block whose call alone is recorded
    struct arena *arena;

    struct tensor **pool; // tensor records of the step, in chunks that keep their addresses
    int chunks, tensors;

    struct node *node;
    int nodes, node_capacity;
    struct use *use; // of the nodes on the tape, in their order
    int uses, use_capacity;

    gradient_callback on_gradient; // of the step, or NULL
    void *on_gradient_context;

    void *staging; // host memory for conversions
    size_t staging_size;
};

struct tape *tape_new(struct backend *backend, enum dtype dtype)
{
    struct tape *tape = check_calloc(1, sizeof *tape);
    tape->backend = backend;
    tape->dtype = dtype;
    tape->arena = arena_new(backend->ops->arena_range(backend));
    return tape;
}

void tape_delete(struct tape *tape)
{
    if (!tape) return;
    arena_delete(tape->arena);
    for (int i = 0; i < tape->chunks; i++) free(tape->pool[i]);
    free(tape->pool);
    free(tape->node);
    free(tape->use);
    free(tape->staging);
    free(tape);
}

void tape_reset(struct tape *tape, enum tape_mode mode)
{
    arena_reset(tape->arena);
    tape->tensors = 0;
    tape->nodes = 0;
    tape->uses = 0;
    tape->on_gradient = NULL;
    tape->mode = mode;
}

void tape_set_mode(struct tape *tape, enum tape_mode mode)
{
    tape->mode = mode;
}

struct backend *tape_backend(const struct tape *tape)
{
    return tape->backend;
}

enum dtype tape_dtype(const struct tape *tape)
{
    return tape->dtype;
}

const struct arena *tape_arena(const struct tape *tape)
{
    return tape->arena;
}

static struct tensor *pool_tensor(const struct tape *tape, int index)
{
    return &tape->pool[index / POOL_CHUNK][index % POOL_CHUNK];
}

struct tensor *tape_tensor(struct tape *tape, enum dtype dtype, int rank, const int64_t *dim)
{
    if (tape->tensors == tape->chunks * POOL_CHUNK) {
        tape->pool = check_realloc(tape->pool, (size_t)(tape->chunks + 1) * sizeof *tape->pool);
        tape->pool[tape->chunks++] = check_malloc(POOL_CHUNK * sizeof **tape->pool);
    }
    struct tensor *tensor = pool_tensor(tape, tape->tensors++);
    *tensor = (struct tensor){.dtype = dtype, .rank = rank, .dim = {1, 1, 1, 1}};
    for (int i = 0; i < rank; i++) tensor->dim[i] = dim[i];
    tensor->block = arena_allocate(tape->arena, tensor_bytes(tensor));
    tensor->data = arena_address(tensor->block);
    return tensor;
}

/* Gives a tensor's memory back to the arena; its record stays until the reset. */
static void release(struct tape *tape, struct tensor *tensor)
{
    if (!tensor || !tensor->block || tensor->kept) return;
    arena_free(tape->arena, tensor->block);
    tensor->block = NULL;
    tensor->data = NULL;
}

void tape_drop(struct tape *tape, struct tensor *tensor)
{
    if (tape->mode == TAPE_NO_GRADIENT) release(tape, tensor);
}

static void *staging(struct tape *tape, size_t bytes)
{
    if (bytes > tape->staging_size) {
        free(tape->staging);
        tape->staging = check_malloc(bytes);
        tape->staging_size = bytes;
    }
    return tape->staging;
}

struct tensor *tape_input(struct tape *tape, enum dtype dtype, int rank, const int64_t *dim,
                          const void *values)
{
    struct tensor *tensor = tape_tensor(tape, dtype, rank, dim);
    const void *source = values;
    if (dtype == DTYPE_BF16) {
        uint16_t *half = staging(tape, tensor_bytes(tensor));
        for (int64_t i = 0; i < tensor_count(tensor); i++)
            half[i] = bf16_from_float(((const float *)values)[i]);
        source = half;
    }
    tape->backend->ops->upload(tape->backend, tensor->data, source, tensor_bytes(tensor));
    return tensor;
}

void tape_read(struct tape *tape, const struct tensor *tensor, float *values)
{
    CHECK(tensor->data, "a tensor is read after its memory was given back");
    CHECK(tensor->dtype != DTYPE_I32, "an int32 tensor is read as fp32");
    size_t bytes = tensor_bytes(tensor);
    void *target = tensor->dtype == DTYPE_BF16 ? staging(tape, bytes) : values;
    tape->backend->ops->download(tape->backend, target, tensor->data, bytes);
    if (tensor->dtype != DTYPE_BF16) return;
    const uint16_t *half = target;
    for (int64_t i = 0; i < tensor_count(tensor); i++) values[i] = float_from_bf16(half[i]);
}

// ---- recording

static bool wants_gradient(const struct node *node)
{
    for (int i = 0; i < NODE_MAX_INPUTS; i++)
        if (node->in[i] && node->in[i]->needs_grad) return true;
    return (node->gate.gates && node->gate.gates->needs_grad) || (node->weight && node->weight->trainable) ||
           (node->bias && node->bias->trainable);
}

static void push(struct tape *tape, const struct node *node)
{
    if (tape->nodes == tape->node_capacity) {
        tape->node_capacity = tape->node_capacity ? 2 * tape->node_capacity : 1024;
        tape->node = check_realloc(tape->node, (size_t)tape->node_capacity * sizeof *tape->node);
    }
    tape->node[tape->nodes++] = *node;
}

/* Notes that the next node, which is the op's own or that of the block around it, uses a parameter. */
static void note_use(struct tape *tape, struct parameter *parameter)
{
    if (!parameter || !parameter->trainable) return;
    if (tape->uses == tape->use_capacity) {
        tape->use_capacity = tape->use_capacity ? 2 * tape->use_capacity : 1024;
        tape->use = check_realloc(tape->use, (size_t)tape->use_capacity * sizeof *tape->use);
    }
    tape->use[tape->uses++] = (struct use){parameter, tape->nodes};
}

bool tape_record(struct tape *tape, const struct node *node)
{
    bool wanted = tape->mode != TAPE_NO_GRADIENT && wants_gradient(node);
    if (wanted) {
        note_use(tape, node->weight);
        note_use(tape, node->bias);
    }
    for (int i = 0; i < BLOCK_MAX_OUTPUTS; i++)
        if (node->out[i]) node->out[i]->needs_grad = wanted;
    bool recorded = wanted && tape->block_depth == 0;
    if (recorded)
        push(tape, node);
    else
        release(tape, node->saved);
    return recorded;
}

// ---- gradients

struct tensor *tape_gradient(struct tape *tape, struct tensor *x)
{
    if (!x || !x->needs_grad) return NULL;
    struct tensor *contribution = tape_tensor(tape, x->dtype, x->rank, x->dim);
    if (!x->grad) x->grad = contribution;
    return contribution;
}

void tape_gradient_done(struct tape *tape, struct tensor *x, struct tensor *contribution)
{
    if (!contribution || contribution == x->grad) return;
    tape->backend->ops->add(tape->backend, x->grad, contribution, x->grad);
    release(tape, contribution);
}

void tape_gradient_pass(struct tape *tape, struct tensor *from, struct tensor *x)
{
    if (!x || !x->needs_grad) return;
    if (x->grad) {
        tape->backend->ops->add(tape->backend, x->grad, from->grad, x->grad);
    } else {
        x->grad = from->grad;
        from->grad = NULL;
    }
}

struct tensor *tape_gradient_sum(struct tape *tape, struct tensor *x)
{
    if (!x || !x->needs_grad) return NULL;
    if (!x->grad) {
        x->grad = tape_tensor(tape, DTYPE_F32, x->rank, x->dim);
        tape->backend->ops->fill_zero(tape->backend, x->grad->data, tensor_bytes(x->grad));
    }
    return x->grad;
}

static bool is_used(const struct tape *tape, const struct parameter *parameter)
{
    for (int i = 0; i < tape->uses; i++)
        if (tape->use[i].parameter == parameter) return true;
    return false;
}

/* After the backward pass of the last node, which has left the tape: forgets its uses and tells of the
 * parameters that have none left.
 *
 * Why that is right: `use` holds, at any time, every use by an op on the tape or by an op of a block on the
 * tape, as forward passes note them (for an op of a block, at the node that the block's call becomes), a
 * backward pass removes those of its node here, and a block that is to be recorded anew gives its own up for
 * those that the recording notes. Only ops that are still on the tape can add to a gradient. So a parameter
 * is complete when its last use leaves, and not before; and since forward passes are over, it leaves once.
 *
 * is_used costs a pass over the list for every parameter: some 10^5 comparisons a step for a large UNet. */
static void tell_complete(struct tape *tape)
{
    bool told = false;
    while (tape->uses > 0 && tape->use[tape->uses - 1].node >= tape->nodes) {
        struct parameter *parameter = tape->use[--tape->uses].parameter;
        if (!tape->on_gradient || is_used(tape, parameter)) continue;
        tape->on_gradient(tape->on_gradient_context, parameter);
        told = true;
    }
    if (tape->on_gradient && !told) tape->on_gradient(tape->on_gradient_context, NULL);
}

/* Runs the tape backwards down to its first `base` nodes. */
static void run_backward(struct tape *tape, int base)
{
    while (tape->nodes > base) {
        struct node node = tape->node[--tape->nodes]; // a copy: a block's backward pass records anew
        bool reached = false;
        for (int i = 0; i < BLOCK_MAX_OUTPUTS; i++) reached |= node.out[i] && node.out[i]->grad;
        if (reached) node.backward(tape, &node);
        for (int i = 0; i < BLOCK_MAX_OUTPUTS; i++) {
            if (!node.out[i]) continue;
            release(tape, node.out[i]->grad);
            node.out[i]->grad = NULL;
            release(tape, node.out[i]);
        }
        release(tape, node.saved);
        tell_complete(tape);
    }
}

void tape_on_gradient(struct tape *tape, gradient_callback callback, void *context)
{
    tape->on_gradient = callback;
    tape->on_gradient_context = context;
}

void tape_backward(struct tape *tape, int count, struct tensor *const *loss, const float *const *seed)
{
    for (int i = 0; i < count; i++)
        loss[i]->kept = true; // read after the backward pass, so that it need not wait for them
    for (int i = 0; i < count; i++)
        if (loss[i]->needs_grad)
            loss[i]->grad = tape_input(tape, loss[i]->dtype, loss[i]->rank, loss[i]->dim, seed[i]);
    run_backward(tape, 0);
}

// ---- blocks

static bool is_among(const struct tensor *tensor, int count, struct tensor *const *list)
{
    for (int i = 0; i < count; i++)
        if (list[i] == tensor) return true;
    return false;
}

/* Runs the block again, now recorded, and its part of the tape backwards. */
static void block_backward(struct tape *tape, struct node *node)
{
    enum tape_mode mode = tape->mode;
    tape->mode = TAPE_RECORD;
    int base = tape->nodes, first = tape->tensors;
    while (tape->uses > 0 && tape->use[tape->uses - 1].node >= base) tape->uses--; // noted again now
    struct tensor *again[BLOCK_MAX_OUTPUTS] = {0};
    node->args.block.function(tape, node->args.block.layer, node->in, again);
    int last = tape->tensors;
    for (int i = 0; i < BLOCK_MAX_OUTPUTS; i++) {
        if (!node->out[i]) continue;
        again[i]->grad = node->out[i]->grad;
        node->out[i]->grad = NULL;
    }
    run_backward(tape, base);
    for (int i = first; i < last; i++) release(tape, pool_tensor(tape, i)); // what no gradient flowed through
    tape->mode = mode;
}

void tape_block(struct tape *tape, block_function function, const void *layer, int in_count,
                struct tensor *const *in, int out_count, struct tensor **out)
{
    CHECK(in_count <= BLOCK_MAX_INPUTS && out_count <= BLOCK_MAX_OUTPUTS, "block of %d inputs, %d outputs",
          in_count, out_count);
    if (tape->mode == TAPE_RECORD) {
        function(tape, layer, in, out);
        return;
    }
    int first = tape->tensors;
    tape->block_depth++;
    function(tape, layer, in, out);
    tape->block_depth--;
    for (int i = first; i < tape->tensors; i++)
        if (!is_among(pool_tensor(tape, i), out_count, out)) release(tape, pool_tensor(tape, i));

    if (tape->mode == TAPE_NO_GRADIENT || tape->block_depth > 0) return;
    struct node node = {.backward = block_backward, .args.block = {.function = function, .layer = layer}};
    bool wanted = false;
    for (int i = 0; i < in_count; i++) node.in[i] = in[i];
    for (int i = 0; i < out_count; i++) {
        if (is_among(out[i], in_count, in)) continue; // handed through: not the block's own
        node.out[i] = out[i];
        wanted |= out[i]->needs_grad;
    }
    if (wanted) push(tape, &node);
}
