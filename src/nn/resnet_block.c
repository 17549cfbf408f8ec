#include "nn/resnet_block.h"

struct gate gate_width(struct tensor *gates, struct gate_place place)
{
    return gates ? (struct gate){gates, place.first, place.count} : GATE_NONE;
}

struct gate gate_depth(struct tensor *gates, struct gate_place place)
{
    return gates && place.depth >= 0 ? (struct gate){gates, place.depth, 1} : GATE_NONE;
}

void resnet_block_init(struct resnet_block *block, struct parameter_set *set, struct resnet_size size,
                       const char *name)
{
    int64_t inner = size.out / size.groups * size.kept_groups;
    group_norm_init(&block->norm1, set, size.in, size.groups, size.epsilon,
                    module_path("%s.norm1", name).text);
    conv_init(&block->conv1, set, size.in, inner, 3, 1, 1, module_path("%s.conv1", name).text);
    if (size.temb)
        linear_init(&block->time_emb_proj, set, size.temb, inner, true,
                    module_path("%s.time_emb_proj", name).text);
    group_norm_init(&block->norm2, set, inner, size.kept_groups, size.epsilon,
                    module_path("%s.norm2", name).text);
    conv_init(&block->conv2, set, inner, size.out, 3, 1, 1, module_path("%s.conv2", name).text);
    block->has_shortcut = size.in != size.out;
    if (block->has_shortcut)
        conv_init(&block->conv_shortcut, set, size.in, size.out, 1, 1, 0,
                  module_path("%s.conv_shortcut", name).text);
}

/* in: hidden, skip, temb, gates */
static void run(struct tape *tape, const void *layer, struct tensor *const *in, struct tensor **out)
{
    const struct resnet_block *block = layer;
    struct tensor *hidden = in[0], *skip = in[1], *temb = in[2], *gates = in[3];

    struct tensor *x = skip ? op_concat(tape, hidden, skip) : hidden;         // [B, H, W, Cin]
    struct tensor *normed = group_norm_forward(tape, &block->norm1, x, true); // [B, H, W, Cin]
    struct tensor *inner = conv_forward(tape, &block->conv1, normed, NULL);   // [B, H, W, Ch]
    tape_drop(tape, normed);
    struct tensor *shift = temb ? linear_forward(tape, &block->time_emb_proj, temb, NULL) : NULL; // [B, Ch]
    struct tensor *h =
        op_group_norm(tape, inner, shift, block->norm2.weight, block->norm2.bias, block->norm2.groups,
                      block->norm2.epsilon, true, gate_width(gates, block->place)); // [B, H, W, Ch]
    tape_drop(tape, inner);
    struct tensor *residual = block->has_shortcut ? conv_forward(tape, &block->conv_shortcut, x, NULL) : x;
    struct tensor *y = conv_forward(tape, &block->conv2, h, residual); // [B, H, W, Cout]
    out[0] = op_depth_mix(tape, hidden, y, gate_depth(gates, block->place));
}

struct tensor *resnet_block_forward(struct tape *tape, const struct resnet_block *block,
                                    struct tensor *hidden, struct tensor *skip, struct tensor *temb,
                                    struct tensor *gates)
{
    if (block->dropped) return hidden;
    struct tensor *y;
    tape_block(tape, run, block, 4, (struct tensor *[]){hidden, skip, temb, gates}, 1, &y);
    return y;
}
