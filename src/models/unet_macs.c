/* MACs of a UNet, layer by layer, in the order of the forward pass (METHOD section 2). */
#include "models/unet.h"

#include "base/check.h"

#include <stdlib.h>

/* The place in the network that is being counted. */
struct counter {
    struct unit_macs macs;
    int64_t height, width, tokens;
    int unit;            /* the next unit of the table */
    double paper_linear; /* linear with one text token */
};

static double linear_macs(const struct linear *layer, double rows)
{
    return rows * (double)tensor_count(&layer->weight->value);
}

static double conv_macs(const struct conv *layer, double pixels)
{
    return pixels * (double)tensor_count(&layer->weight->value);
}

/* Convolutions and linear layers that do not depend on the text. Returns its argument. */
static double count_linear(struct counter *counter, double macs)
{
    counter->macs.linear += macs;
    counter->paper_linear += macs;
    return macs;
}

static void count_resnet(struct counter *counter, const struct unet *unet, const struct resnet_block *block)
{
    int unit = counter->unit++;
    if (block->dropped) return;
    double pixels = (double)(counter->height * counter->width);
    counter->macs.unit[unit] +=
        count_linear(counter, conv_macs(&block->conv1, pixels) + conv_macs(&block->conv2, pixels) +
                                  linear_macs(&block->time_emb_proj, 1));
    double shortcut =
        block->has_shortcut ? count_linear(counter, conv_macs(&block->conv_shortcut, pixels)) : 0;
    if (block->place.depth >= 0)
        counter->macs.depth[block->place.depth - unet->table.width_entries] += shortcut;
}

/* The two products of attention, q k' and p v. */
static double products(int64_t heads, int64_t head_size, double queries, double keys)
{
    return 2 * queries * keys * (double)(heads * head_size);
}

static void count_transformer(struct counter *counter, const struct unet *unet,
                              const struct transformer *transformer, int layers)
{
    int unit = counter->unit;
    counter->unit += 3 * layers;
    if (transformer->dropped) return;
    struct unit_macs *macs = &counter->macs;
    double pixels = (double)(counter->height * counter->width), tokens = (double)counter->tokens;
    double projections =
        transformer->linear_projection
            ? linear_macs(&transformer->proj_in_linear, pixels) +
                  linear_macs(&transformer->proj_out_linear, pixels)
            : conv_macs(&transformer->proj_in_conv, pixels) + conv_macs(&transformer->proj_out_conv, pixels);
    count_linear(counter, projections);
    if (transformer->place.depth >= 0)
        macs->depth[transformer->place.depth - unet->table.width_entries] += projections;

    for (int i = 0; i < layers; i++) {
        const struct transformer_layer *layer = &transformer->layer[i];
        double self = products(layer->self_heads, layer->head_size, pixels, pixels);
        macs->self_attention += self;
        macs->unit[unit++] += self + count_linear(counter, linear_macs(&layer->to_qkv, pixels) +
                                                               linear_macs(&layer->self_out, pixels));

        double cross = products(layer->cross_heads, layer->head_size, pixels, tokens);
        double text = linear_macs(&layer->to_kv, tokens);
        macs->cross_attention += cross;
        macs->linear += text;
        counter->paper_linear += linear_macs(&layer->to_kv, 1);
        macs->unit[unit++] +=
            cross + text +
            count_linear(counter, linear_macs(&layer->to_q, pixels) + linear_macs(&layer->cross_out, pixels));

        macs->unit[unit++] +=
            count_linear(counter, linear_macs(&layer->ff_in, pixels) + linear_macs(&layer->ff_out, pixels));
    }
}

/* Size of a map after the 3x3 convolution of stride 2 that ends a down block. */
static int64_t halved(int64_t size, int64_t padding)
{
    return (size + 2 * padding - 3) / 2 + 1;
}

struct unit_macs unet_macs(const struct unet *unet, int64_t height, int64_t width, int64_t tokens)
{
    const struct unet_config *config = &unet->config;
    struct counter counter = {.height = height, .width = width, .tokens = tokens};
    counter.macs.unit = check_calloc((size_t)unet->table.units, sizeof(double));
    counter.macs.depth = check_calloc((size_t)unet->table.depth_entries, sizeof(double));
    int64_t size[UNET_MAX_LEVELS][2]; // of the maps of each level

    count_linear(&counter, linear_macs(&unet->time_linear_1, 1) + linear_macs(&unet->time_linear_2, 1));
    count_linear(&counter, conv_macs(&unet->conv_in, (double)(height * width)));
    for (int b = 0; b < unet->blocks; b++) {
        const struct unet_block *block = &unet->block[b];
        int level = b < config->levels ? b : block->up ? 2 * config->levels - b : config->levels - 1;
        if (b < config->levels) {
            size[level][0] = counter.height;
            size[level][1] = counter.width;
        }
        for (int i = 0; i < block->resnets; i++) count_resnet(&counter, unet, &block->resnet[i]);
        for (int i = 0; i < block->transformers; i++)
            count_transformer(&counter, unet, &block->transformer[i], config->transformer_layers[level]);
        if (!block->has_resample) continue;
        counter.height = block->up ? size[level - 1][0] : halved(counter.height, config->downsample_padding);
        counter.width = block->up ? size[level - 1][1] : halved(counter.width, config->downsample_padding);
        count_linear(&counter, conv_macs(&block->resample, (double)(counter.height * counter.width)));
    }
    count_linear(&counter, conv_macs(&unet->conv_out, (double)(height * width)));

    struct unit_macs macs = counter.macs;
    macs.total = macs.linear + macs.self_attention + macs.cross_attention;
    macs.paper = counter.paper_linear + 2 * macs.self_attention;
    for (int i = 0; i < unet->table.units; i++) macs.prunable += macs.unit[i];
    for (int i = 0; i < unet->table.depth_entries; i++) macs.prunable += macs.depth[i];
    return macs;
}
