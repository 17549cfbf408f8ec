#include "nn/transformer.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>

static const float GROUP_NORM_EPSILON = 1e-6f; // of the transformer's own norm, whatever norm_eps is
static const float LAYER_NORM_EPSILON = 1e-5f;

static void layer_init(struct transformer_layer *layer, struct parameter_set *set,
                       const struct transformer_size *size, const struct transformer_layer_size *kept,
                       const char *name)
{
    int64_t channels = size->channels;
    int64_t self_width = kept->self_heads * size->head_size,
            cross_width = kept->cross_heads * size->head_size;
    layer->self_heads = kept->self_heads;
    layer->cross_heads = kept->cross_heads;
    layer->head_size = size->head_size;
    layer_norm_init(&layer->norm1, set, channels, LAYER_NORM_EPSILON, module_path("%s.norm1", name).text);
    linear_init_stacked(&layer->to_qkv, set, channels, self_width, module_path("%s.attn1", name).text, 3,
                        (const char *[]){".to_q.weight", ".to_k.weight", ".to_v.weight"});
    linear_init(&layer->self_out, set, self_width, channels, true,
                module_path("%s.attn1.to_out.0", name).text);
    layer_norm_init(&layer->norm2, set, channels, LAYER_NORM_EPSILON, module_path("%s.norm2", name).text);
    linear_init(&layer->to_q, set, channels, cross_width, false, module_path("%s.attn2.to_q", name).text);
    linear_init_stacked(&layer->to_kv, set, size->text, cross_width, module_path("%s.attn2", name).text, 2,
                        (const char *[]){".to_k.weight", ".to_v.weight"});
    linear_init(&layer->cross_out, set, cross_width, channels, true,
                module_path("%s.attn2.to_out.0", name).text);
    layer_norm_init(&layer->norm3, set, channels, LAYER_NORM_EPSILON, module_path("%s.norm3", name).text);
    linear_init(&layer->ff_in, set, channels, 2 * kept->ff_inner, true,
                module_path("%s.ff.net.0.proj", name).text);
    linear_init(&layer->ff_out, set, kept->ff_inner, channels, true, module_path("%s.ff.net.2", name).text);
}

void transformer_init(struct transformer *transformer, struct parameter_set *set,
                      const struct transformer_size *size, const char *name)
{
    int64_t channels = size->channels;
    group_norm_init(&transformer->norm, set, channels, size->groups, GROUP_NORM_EPSILON,
                    module_path("%s.norm", name).text);
    transformer->linear_projection = size->linear_projection;
    if (size->linear_projection)
        linear_init(&transformer->proj_in_linear, set, channels, channels, true,
                    module_path("%s.proj_in", name).text);
    else
        conv_init(&transformer->proj_in_conv, set, channels, channels, 1, 1, 0,
                  module_path("%s.proj_in", name).text);

    transformer->layers = size->layers;
    transformer->layer = check_calloc((size_t)size->layers, sizeof *transformer->layer);
    for (int i = 0; i < size->layers; i++) {
        layer_init(&transformer->layer[i], set, size, &size->layer[i],
                   module_path("%s.transformer_blocks.%d", name, i).text);
    }
    if (size->linear_projection)
        linear_init(&transformer->proj_out_linear, set, channels, channels, true,
                    module_path("%s.proj_out", name).text);
    else
        conv_init(&transformer->proj_out_conv, set, channels, channels, 1, 1, 0,
                  module_path("%s.proj_out", name).text);
}

void transformer_clear(struct transformer *transformer)
{
    free(transformer->layer);
    transformer->layer = NULL;
}

/* in: x, gates */
static void self_attention(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct transformer_layer *layer = data;
    int64_t width = layer->self_heads * layer->head_size;
    struct tensor *h = layer_norm_forward(tape, &layer->norm1, in[0]);  // [B, H, W, C]
    struct tensor *qkv = linear_forward(tape, &layer->to_qkv, h, NULL); // [B, H, W, 3 heads d]
    struct attention attention = {.heads = layer->self_heads,
                                  .head_size = layer->head_size,
                                  .k_column = width,
                                  .v_column = 2 * width,
                                  .scale = 1 / sqrtf((float)layer->head_size)};
    h = op_attention(tape, attention, qkv, qkv, NULL,
                     gate_width(in[1], layer->self_place));    // [B, H, W, heads d]
    out[0] = linear_forward(tape, &layer->self_out, h, in[0]); // [B, H, W, C]
}

/* in: x, kv [B, T, 2 heads d], text_mask, gates */
static void cross_attention_keys(struct tape *tape, const void *data, struct tensor *const *in,
                                 struct tensor **out)
{
    const struct transformer_layer *layer = data;
    struct tensor *h = layer_norm_forward(tape, &layer->norm2, in[0]); // [B, H, W, C]
    struct tensor *q = linear_forward(tape, &layer->to_q, h, NULL);    // [B, H, W, heads d]
    struct attention attention = {.heads = layer->cross_heads,
                                  .head_size = layer->head_size,
                                  .v_column = layer->cross_heads * layer->head_size,
                                  .scale = 1 / sqrtf((float)layer->head_size)};
    h = op_attention(tape, attention, q, in[1], in[2],
                     gate_width(in[3], layer->cross_place));    // [B, H, W, heads d]
    out[0] = linear_forward(tape, &layer->cross_out, h, in[0]); // [B, H, W, C]
}

/* in: x, text, text_mask, gates */
static void cross_attention(struct tape *tape, const void *data, struct tensor *const *in,
                            struct tensor **out)
{
    const struct transformer_layer *layer = data;
    struct tensor *kv = linear_forward(tape, &layer->to_kv, in[1], NULL); // [B, T, 2 heads d]
    cross_attention_keys(tape, layer, (struct tensor *[]){in[0], kv, in[2], in[3]}, out);
}

/* in: x, gates */
static void feed_forward(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct transformer_layer *layer = data;
    struct tensor *h = layer_norm_forward(tape, &layer->norm3, in[0]); // [B, H, W, C]
    h = linear_forward(tape, &layer->ff_in, h, NULL);                  // [B, H, W, 2 F]
    h = op_geglu(tape, h, gate_width(in[1], layer->ff_place));         // [B, H, W, F]
    out[0] = linear_forward(tape, &layer->ff_out, h, in[0]);           // [B, H, W, C]
}

/* in: x, text, text_mask, gates; `kv` [layers] in place of text, or NULL */
static void run_layers(struct tape *tape, const struct transformer *transformer, struct tensor *const *in,
                       struct tensor *const *kv, struct tensor **out)
{
    struct tensor *x = in[0], *text = in[1], *text_mask = in[2], *gates = in[3];

    struct tensor *h = group_norm_forward(tape, &transformer->norm, x, false); // [B, H, W, C]
    h = transformer->linear_projection ? linear_forward(tape, &transformer->proj_in_linear, h, NULL)
                                       : conv_forward(tape, &transformer->proj_in_conv, h, NULL);
    for (int i = 0; i < transformer->layers; i++) {
        const struct transformer_layer *layer = &transformer->layer[i];
        tape_block(tape, self_attention, layer, 2, (struct tensor *[]){h, gates}, 1, &h);
        tape_block(tape, kv ? cross_attention_keys : cross_attention, layer, 4,
                   (struct tensor *[]){h, kv ? kv[i] : text, text_mask, gates}, 1, &h);
        tape_block(tape, feed_forward, layer, 2, (struct tensor *[]){h, gates}, 1, &h);
    }
    struct tensor *y = transformer->linear_projection
                           ? linear_forward(tape, &transformer->proj_out_linear, h, x)
                           : conv_forward(tape, &transformer->proj_out_conv, h, x);
    out[0] = op_depth_mix(tape, x, y, gate_depth(gates, transformer->place));
}

/* in: x, text, text_mask, gates */
static void run(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    run_layers(tape, data, in, NULL, out);
}

struct tensor *transformer_forward(struct tape *tape, const struct transformer *transformer, struct tensor *x,
                                   struct tensor *text, struct tensor *text_mask, struct tensor *gates)
{
    if (transformer->dropped) return x;
    struct tensor *y;
    tape_block(tape, run, transformer, 4, (struct tensor *[]){x, text, text_mask, gates}, 1, &y);
    return y;
}

int transformer_cross_attentions(const struct transformer *transformer)
{
    return transformer->dropped ? 0 : transformer->layers;
}

void transformer_text_keys(struct tape *tape, const struct transformer *transformer, struct tensor *text,
                           struct tensor **kv)
{
    for (int i = 0; i < transformer_cross_attentions(transformer); i++)
        kv[i] = linear_forward(tape, &transformer->layer[i].to_kv, text, NULL); // [B, T, 2 heads d]
}

/* A transformer with its keys and values, which are too many to be a block's inputs. */
struct with_keys {
    const struct transformer *transformer;
    struct tensor *const *kv;
};

/* in: x, nothing, text_mask, gates */
static void run_keys(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct with_keys *with_keys = data;
    run_layers(tape, with_keys->transformer, in, with_keys->kv, out);
}

struct tensor *transformer_forward_keys(struct tape *tape, const struct transformer *transformer,
                                        struct tensor *x, struct tensor *const *kv, struct tensor *text_mask,
                                        struct tensor *gates)
{
    if (transformer->dropped) return x;
    struct with_keys with_keys = {transformer, kv}; // not recorded, so it need not live longer
    struct tensor *y;
    tape_block(tape, run_keys, &with_keys, 4, (struct tensor *[]){x, NULL, text_mask, gates}, 1, &y);
    return y;
}
