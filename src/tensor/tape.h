/* The tape: the ops of one step, in order, and the memory of their tensors.
 *
 * Life of a step: tape_reset; inputs (tape_input, tape_tensor); ops (tensor/op.h); tape_backward. Tensors
 * belong to the tape and are never freed singly by the caller. Memory is given back early where that is safe:
 * - without gradients, at the end of a block (tape_block) everything but the block's outputs, and what
 * tape_drop names;
 * - in the backward pass, an op's output, its gradient and what the op kept, as soon as the op is done: all
 * users of the output came later on the tape, so they are done already. */
#ifndef TENSOR_TAPE_H
#define TENSOR_TAPE_H

#include "tensor/backend.h"

enum tape_mode {
    TAPE_NO_GRADIENT, /* ops are computed only */
    TAPE_RECORD,      /* ops that a gradient can flow through are recorded */
    TAPE_RECOMPUTE, /* the same, but of a block only the call is recorded: the backward pass runs it again */
};

struct tape;

/* A tape with a step arena of `backend`, computing in `dtype` (fp32 or bf16). */
struct tape *tape_new(struct backend *backend, enum dtype dtype);
void tape_delete(struct tape *tape);

/* Forgets all tensors and ops of the step and sets the mode of the next one (it may change in between). */
void tape_reset(struct tape *tape, enum tape_mode mode);
void tape_set_mode(struct tape *tape, enum tape_mode mode);

struct backend *tape_backend(const struct tape *tape);
enum dtype tape_dtype(const struct tape *tape);
const struct arena *tape_arena(const struct tape *tape); /* for its peak and growths */

/* A tensor of the step, contents undefined. */
struct tensor *tape_tensor(struct tape *tape, enum dtype dtype, int rank, const int64_t *dim);

/* A tensor with values from host memory (4-byte elements: fp32 or int32), converted to `dtype`. */
struct tensor *tape_input(struct tape *tape, enum dtype dtype, int rank, const int64_t *dim,
                          const void *values);

/* Copies a tensor of any floating type to host memory as fp32; waits for the ops before it. */
void tape_read(struct tape *tape, const struct tensor *tensor, float *values);

/* Seeds the gradient of `count` tensors of any shape with host values, seed[i] as many as loss[i] has, and
 * runs the tape backwards: for a loss [B] what one sample's loss counts in the total; for features that host
 * code computes a loss from, its gradient for them. None of them is made from another. Afterwards inputs with
 * needs_grad and trainable parameters have their gradients; the losses are kept; all other tensors made by
 * recorded ops are gone. Losses that do not need a gradient are passed over. */
void tape_backward(struct tape *tape, int count, struct tensor *const *loss, const float *const *seed);

/* Tells of gradients while the step's backward pass goes on. `callback` is called after every op of the
 * backward pass: once for each trainable parameter whose gradient that op has completed, or once with NULL if
 * there is none (so that it can drive communication on). A gradient is complete when no op before that one
 * uses the parameter: nothing is added to it any more in this pass. Every trainable parameter that an op of
 * the step uses is told of exactly once, also where no gradient flowed through the op, and whether blocks are
 * computed again or not; others never.
 *
 * To be called between tape_reset, which forgets it, and tape_backward. Of gradients that are summed over
 * several passes only the last one's are complete: call it for that one. */
typedef void (*gradient_callback)(void *context, struct parameter *complete);
void tape_on_gradient(struct tape *tape, gradient_callback callback, void *context);

/* Says that no later op of the step uses a tensor of this tape, and that nobody reads it: without gradients
 * its memory is given back at once; in the other modes nothing happens. */
void tape_drop(struct tape *tape, struct tensor *tensor);

/* A part of a network: makes out[] from in[] (an input may be NULL). It may use leaves (parameters, gates)
 * beside in[], but no other tensors of the step. */
typedef void (*block_function)(struct tape *tape, const void *layer, struct tensor *const *in,
                               struct tensor **out);

enum { BLOCK_MAX_INPUTS = 6, BLOCK_MAX_OUTPUTS = 2 };

/* Runs a block so that its inner tensors do not outlive it where that is possible (see above). `layer` must
 * live as long as the step. */
void tape_block(struct tape *tape, block_function function, const void *layer, int in_count,
                struct tensor *const *in, int out_count, struct tensor **out);

/* ---- for tensor/op.c and blocks of ops: recording */

enum { NODE_MAX_INPUTS = 6 };

/* One recorded op. */
struct node {
    void (*backward)(struct tape *tape, struct node *node);
    struct tensor *in[NODE_MAX_INPUTS]; /* as the op's comment says; NULL where absent */
    struct tensor *out[BLOCK_MAX_OUTPUTS];
    struct tensor *saved;            /* kept from the forward pass for the backward pass, or NULL */
    struct parameter *weight, *bias; /* or NULL */
    struct gate gate;
    union {
        struct convolution convolution;
        struct attention attention;
        struct {
            int64_t groups;
            bool silu;
        } norm;
        enum activation activation;
        float factor;
        struct {
            block_function function;
            const void *layer;
        } block;
    } args;
};

/* Records a node if the mode asks for it and a gradient can flow (an input, the gates or a parameter want
 * one), and sets needs_grad of the outputs. Returns whether it was recorded; if not, `saved` is freed. */
bool tape_record(struct tape *tape, const struct node *node);

/* Where an op's backward pass writes a contribution to the gradient of x: NULL if none is wanted.
 * tape_gradient_done adds it to what is there already. */
struct tensor *tape_gradient(struct tape *tape, struct tensor *x);
void tape_gradient_done(struct tape *tape, struct tensor *x, struct tensor *contribution);

/* Hands the gradient of an op's output on to an input x that it equals (a residual): moved where x has none
 * yet, else added. To be the last use of the output's gradient. */
void tape_gradient_pass(struct tape *tape, struct tensor *from, struct tensor *x);

/* The same for ops that add to the gradient themselves (gates): zeroed on first use; NULL if none is wanted.
 */
struct tensor *tape_gradient_sum(struct tape *tape, struct tensor *x);

#endif
