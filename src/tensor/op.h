/* The ops that networks are made of: each checks its arguments, makes its output on the tape, computes it on
 * the backend and records how its gradient is found. What is computed is said at the slots of
 * tensor/backend.h.
 *
 * Inputs are tensors of the same tape, or, in a step without gradients, of another tape that lives longer;
 * the result belongs to the tape. A parameter or tensor that may be NULL says so. Arguments that do not fit
 * are defects of the program: a CHECK tells the shapes. */
#ifndef TENSOR_OP_H
#define TENSOR_OP_H

#include "tensor/tape.h"

/* No gate. */
#define GATE_NONE ((struct gate){0})

/* [.., I] -> [.., O]; weight [O, I], bias [O] or NULL, residual [.., O] or NULL */
struct tensor *op_linear(struct tape *tape, struct tensor *x, struct parameter *weight,
                         struct parameter *bias, struct tensor *residual);

/* [B, H, W, I] -> [B, Ho, Wo, O]; weight [O, I, kH, kW], bias [O] or NULL, residual [B, Ho, Wo, O] or NULL */
struct tensor *op_convolution(struct tape *tape, struct convolution geometry, struct tensor *x,
                              struct parameter *weight, struct parameter *bias, struct tensor *residual);

/* [B, H, W, C] or [B, T, C]; shift [B, C] or NULL is added before the norm; the gate's count divides C */
struct tensor *op_group_norm(struct tape *tape, struct tensor *x, struct tensor *shift,
                             struct parameter *weight, struct parameter *bias, int64_t groups, float epsilon,
                             bool silu, struct gate gate);

struct tensor *op_layer_norm(struct tape *tape, struct tensor *x, struct parameter *weight,
                             struct parameter *bias, float epsilon);

/* q [B, Tq, ..] (or a feature map), kv [B, Tk, ..], key_mask [B, Tk] fp32 or NULL -> q's shape with heads x
 * head_size channels. With a bias it has no gradient: nothing in a step that records may want one */
struct tensor *op_attention(struct tape *tape, struct attention attention, struct tensor *q,
                            struct tensor *kv, struct tensor *key_mask, struct gate gate);

/* [.., 2F] -> [.., F] */
struct tensor *op_geglu(struct tape *tape, struct tensor *x, struct gate gate);

struct tensor *op_activation(struct tape *tape, enum activation kind, struct tensor *x);
struct tensor *op_add(struct tape *tape, struct tensor *a, struct tensor *b);
struct tensor *op_cast(struct tape *tape, struct tensor *x, enum dtype dtype);
struct tensor *op_scale(struct tape *tape, struct tensor *x, float factor);

/* (1 - d) x + d f, d one gate entry a sample; returns f itself when there is no gate */
struct tensor *op_depth_mix(struct tape *tape, struct tensor *x, struct tensor *f, struct gate gate);

/* Along the last dimension. */
struct tensor *op_concat(struct tape *tape, struct tensor *a, struct tensor *b);

/* Along the tokens: a [B, Ta, C], b [B, Tb, C] (or feature maps) -> [B, Ta + Tb, C] */
struct tensor *op_concat_tokens(struct tape *tape, struct tensor *a, struct tensor *b);

/* [B, H, W, C] -> [B, height, width, C], nearest neighbour */
struct tensor *op_upsample(struct tape *tape, struct tensor *x, int64_t height, int64_t width);

/* [B, H, W, C] -> [B, Ho, Wo, C], the largest or the mean of each window; no gradient: x must not need one */
struct tensor *op_pool(struct tape *tape, struct pooling pooling, struct tensor *x);

/* timesteps [B] fp32 -> [B, channels] in the tape's dtype; no gradient */
struct tensor *op_timestep_embedding(struct tape *tape, struct tensor *timesteps, int64_t channels,
                                     bool flip_sin_to_cos, float shift);

/* ids [..] int32 -> [.., C]; table [V, C], or [C]: the one entry 0. ids are checked where they enter the
 * program */
struct tensor *op_embedding(struct tape *tape, struct tensor *ids, struct parameter *table);

/* x [B, T, C], mask [B, T] fp32 -> [B, C] fp32 */
struct tensor *op_masked_mean(struct tape *tape, struct tensor *x, struct tensor *mask);

/* a, b of one shape, b in a's dtype or fp32 -> [B] fp32, the mean over each sample's elements; gradient to a
 * alone */
struct tensor *op_squared_error(struct tape *tape, struct tensor *a, struct tensor *b);

#endif
