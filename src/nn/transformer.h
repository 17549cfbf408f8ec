/* diffusers' Transformer2DModel: a stack of BasicTransformerBlock between two projections, with gates (METHOD
 * section 2). */
#ifndef NN_TRANSFORMER_H
#define NN_TRANSFORMER_H

#include "nn/resnet_block.h"

/* x + self-attention, + cross-attention to the text, + GEGLU feed-forward, each behind a LayerNorm. In a
 * sliced network the heads and the inner width are those kept. */
struct transformer_layer {
    struct layer_norm norm1, norm2, norm3; /* [C] */
    struct linear to_qkv;                  /* C -> 3 heads x head_size (to_q, to_k, to_v) */
    struct linear self_out;                /* heads x head_size -> C */
    struct linear to_q, to_kv;             /* C -> heads x head_size; D -> 2 heads x head_size (to_k, to_v) */
    struct linear cross_out;
    struct linear ff_in, ff_out; /* C -> 2 F, F -> C */
    int64_t self_heads, cross_heads, head_size;
    struct gate_place self_place, cross_place, ff_place; /* depth -1: the transformer has it */
};

struct transformer {
    struct group_norm norm;
    struct linear proj_in_linear,
        proj_out_linear; /* C -> C; files hold a 1x1 convolution where !use_linear_projection */
    struct conv proj_in_conv, proj_out_conv;
    bool linear_projection;
    struct transformer_layer *layer; /* [layers], owned */
    int layers;
    struct gate_place place; /* depth alone */
    bool dropped;            /* depth 0 in a sliced network: no parameters, the output is the input */
};

/* What one transformer layer keeps. */
struct transformer_layer_size {
    int64_t self_heads, cross_heads, ff_inner;
};

struct transformer_size {
    int64_t channels, head_size, text; /* C, head size, D */
    int64_t groups;
    bool linear_projection;
    int layers;
    const struct transformer_layer_size *layer; /* [layers] */
};

/* Adds the parameters; free the layers with transformer_clear. Gate places of the layers are set by the
 * caller. */
void transformer_init(struct transformer *transformer, struct parameter_set *set,
                      const struct transformer_size *size, const char *name);
void transformer_clear(struct transformer *transformer);

/* x [B, H, W, C], text [B, T, D], text_mask [B, T] fp32 or NULL, gates [B, entries] or NULL -> [B, H, W, C]
 */
struct tensor *transformer_forward(struct tape *tape, const struct transformer *transformer, struct tensor *x,
                                   struct tensor *text, struct tensor *text_mask, struct tensor *gates);

/* What the cross-attentions make of the text alone: keys and values [B, T, 2 heads d] of each layer, kv
 * [transformer_cross_attentions]. */
int transformer_cross_attentions(const struct transformer *transformer);
void transformer_text_keys(struct tape *tape, const struct transformer *transformer, struct tensor *text,
                           struct tensor **kv);

/* transformer_forward with these in place of the text; the same numbers, without gradients. */
struct tensor *transformer_forward_keys(struct tape *tape, const struct transformer *transformer,
                                        struct tensor *x, struct tensor *const *kv, struct tensor *text_mask,
                                        struct tensor *gates);

#endif
