/* diffusers' ResnetBlock2D with its gates (METHOD section 2), or without a time embedding, as in a VAE. */
#ifndef NN_RESNET_BLOCK_H
#define NN_RESNET_BLOCK_H

#include "nn/layers.h"

/* Where a layer's gates lie in a gate tensor [B, entries]. */
struct gate_place {
    int64_t first,
        count;     /* width entries; count = kept entries in a sliced network, where gates are not used */
    int64_t depth; /* the depth entry's place, or -1 */
};

/* The width gate, or the depth gate, of a layer at `place`; none when gates is NULL (or, for depth, has no
 * entry). */
struct gate gate_width(struct tensor *gates, struct gate_place place);
struct gate gate_depth(struct tensor *gates, struct gate_place place);

/* x [B, H, W, Cin] -> [B, H, W, Cout]; inside, Ch = kept groups x group size channels.
 *   h = conv1(silu(norm1(x)));  h = gate . silu(norm2(h + time_emb_proj(silu(temb))));  y = shortcut(x) +
 * conv2(h)
 * Without a time embedding its term is absent. */
struct resnet_block {
    struct group_norm norm1, norm2; /* [Cin], [Ch] */
    struct conv conv1, conv2;       /* 3x3: Cin -> Ch, Ch -> Cout */
    struct linear time_emb_proj;    /* temb -> Ch, where there is one */
    struct conv conv_shortcut;      /* 1x1: Cin -> Cout, where has_shortcut */
    bool has_shortcut;
    struct gate_place place;
    bool dropped; /* depth 0 in a sliced network: no parameters, the output is the input */
};

struct resnet_size {
    int64_t in, out, temb; /* channels; temb 0: no time embedding */
    int64_t groups;        /* norm_num_groups of the unsliced network */
    int64_t kept_groups;   /* of norm2; = groups unless sliced */
    float epsilon;
};

void resnet_block_init(struct resnet_block *block, struct parameter_set *set, struct resnet_size size,
                       const char *name);

/* hidden [B, H, W, C]; skip [B, H, W, Cs] is concatenated behind it, or NULL; temb [B, temb] is silu(time
 * embedding), NULL in a block without one; gates [B, entries] fp32 or NULL. A depth gate of 0 gives back
 * `hidden`. */
struct tensor *resnet_block_forward(struct tape *tape, const struct resnet_block *block,
                                    struct tensor *hidden, struct tensor *skip, struct tensor *temb,
                                    struct tensor *gates);

#endif
