#include "models/unet.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- building: one walk makes layers, parameters and the unit table

struct builder {
    struct unet *unet;
    struct unet_shape shape;
};

static int kept_entries(const uint8_t *mask, int first, int count)
{
    if (!mask) return count;
    int kept = 0;
    for (int i = 0; i < count; i++) kept += mask[first + i] != 0;
    return kept;
}

/* Adds a unit of `width` entries at the end of the table; returns how many of them the shape keeps. */
static int add_unit(struct builder *builder, enum unit_kind kind, int width, int depth,
                    struct gate_place *place, const char *path)
{
    struct unit_table *table = &builder->unet->table;
    table->unit = check_realloc(table->unit, (size_t)(table->units + 1) * sizeof *table->unit);
    struct unit *unit = &table->unit[table->units++];
    *unit = (struct unit){.kind = kind, .first = table->width_entries, .width = width, .depth = depth};
    CHECK(snprintf(unit->path, sizeof unit->path, "%s", path) < (int)sizeof unit->path,
          "unit path %s is too long", path);
    table->width_entries += width;
    int kept = kept_entries(builder->shape.width, unit->first, width);
    *place = (struct gate_place){.first = unit->first, .count = width, .depth = -1};
    return kept;
}

/* Says that the last unit slices this weight of module `path`. */
static void add_slice(struct builder *builder, int axis, int repeats, const char *path, const char *suffix)
{
    struct unit_table *table = &builder->unet->table;
    table->slice = check_realloc(table->slice, (size_t)(table->slices + 1) * sizeof *table->slice);
    struct unit_slice *slice = &table->slice[table->slices++];
    *slice = (struct unit_slice){.unit = table->units - 1, .axis = axis, .repeats = repeats};
    memcpy(slice->name, module_path("%s%s", path, suffix).text, sizeof slice->name);
}

/* Adds a depth entry; returns its index, and whether the shape drops it. */
static int add_depth(struct builder *builder, bool up, int level, const char *path, bool *dropped)
{
    struct unit_table *table = &builder->unet->table;
    table->depth = check_realloc(table->depth, (size_t)(table->depth_entries + 1) * sizeof *table->depth);
    struct depth_unit *unit = &table->depth[table->depth_entries];
    *unit = (struct depth_unit){.up = up, .level = level};
    snprintf(unit->path, sizeof unit->path, "%s", path);
    *dropped = builder->shape.depth && !builder->shape.depth[table->depth_entries];
    return table->depth_entries++;
}

static void build_resnet(struct builder *builder, struct resnet_block *block, int64_t in, int64_t out,
                         int depth, bool dropped, const char *path)
{
    const struct unet_config *config = &builder->unet->config;
    struct gate_place place;
    int kept = add_unit(builder, UNIT_RESNET, (int)config->groups, depth, &place, path);
    add_slice(builder, 0, 1, path, ".conv1.weight");
    add_slice(builder, 0, 1, path, ".conv1.bias");
    add_slice(builder, 0, 1, path, ".time_emb_proj.weight");
    add_slice(builder, 0, 1, path, ".time_emb_proj.bias");
    add_slice(builder, 0, 1, path, ".norm2.weight");
    add_slice(builder, 0, 1, path, ".norm2.bias");
    add_slice(builder, 1, 1, path, ".conv2.weight");
    block->place = place;
    block->place.depth = depth;
    block->dropped = dropped;
    if (dropped) return;
    struct resnet_size size = {.in = in,
                               .out = out,
                               .temb = 4 * config->channels[0],
                               .groups = config->groups,
                               .kept_groups = kept,
                               .epsilon = (float)config->epsilon};
    resnet_block_init(block, &builder->unet->parameters, size, path);
}

static void build_transformer(struct builder *builder, struct transformer *transformer, int level, int depth,
                              bool dropped, const char *path)
{
    const struct unet_config *config = &builder->unet->config;
    int64_t channels = config->channels[level], heads = config->heads[level];
    struct transformer_layer_size kept[UNET_MAX_LAYERS];
    struct gate_place place[UNET_MAX_LAYERS][3];
    for (int i = 0; i < config->transformer_layers[level]; i++) {
        struct module_path layer = module_path("%s.transformer_blocks.%d", path, i);
        struct module_path attn1 = module_path("%s.attn1", layer.text),
                           attn2 = module_path("%s.attn2", layer.text), ff = module_path("%s.ff", layer.text);
        kept[i].self_heads =
            add_unit(builder, UNIT_SELF_ATTENTION, (int)heads, depth, &place[i][0], attn1.text);
        add_slice(builder, 0, 1, attn1.text, ".to_q.weight");
        add_slice(builder, 0, 1, attn1.text, ".to_k.weight");
        add_slice(builder, 0, 1, attn1.text, ".to_v.weight");
        add_slice(builder, 1, 1, attn1.text, ".to_out.0.weight");
        kept[i].cross_heads =
            add_unit(builder, UNIT_CROSS_ATTENTION, (int)heads, depth, &place[i][1], attn2.text);
        add_slice(builder, 0, 1, attn2.text, ".to_q.weight");
        add_slice(builder, 0, 1, attn2.text, ".to_k.weight");
        add_slice(builder, 0, 1, attn2.text, ".to_v.weight");
        add_slice(builder, 1, 1, attn2.text, ".to_out.0.weight");
        int entries = add_unit(builder, UNIT_FEED_FORWARD, config->ff_entries, depth, &place[i][2], ff.text);
        kept[i].ff_inner = 4 * channels * entries / config->ff_entries; // they divide it, or all are kept
        add_slice(builder, 0, 2, ff.text, ".net.0.proj.weight");
        add_slice(builder, 0, 2, ff.text, ".net.0.proj.bias");
        add_slice(builder, 1, 1, ff.text, ".net.2.weight");
    }
    transformer->place.depth = depth;
    transformer->dropped = dropped;
    if (dropped) return;
    struct transformer_size size = {.channels = channels,
                                    .head_size = channels / heads,
                                    .text = config->text_width,
                                    .groups = config->groups,
                                    .linear_projection = config->linear_projection,
                                    .layers = config->transformer_layers[level],
                                    .layer = kept};
    transformer_init(transformer, &builder->unet->parameters, &size, path);
    for (int i = 0; i < transformer->layers; i++) {
        transformer->layer[i].self_place = place[i][0];
        transformer->layer[i].cross_place = place[i][1];
        transformer->layer[i].ff_place = place[i][2];
    }
}

/* A down or up block of `resnets` ResNets at `level`; in[i] channels enter ResNet i. The last ResNet and the
 * last transformer have depth gates. The table's order is all ResNets first, then all transformers (METHOD
 * section 2). */
static void build_block(struct builder *builder, struct unet_block *block, bool up, int level, int resnets,
                        const int64_t *in, bool attention, const char *path)
{
    struct unet *unet = builder->unet;
    const struct unet_config *config = &unet->config;
    int64_t channels = config->channels[level];
    block->up = up;
    block->resnets = resnets;
    block->resnet = check_calloc((size_t)resnets, sizeof *block->resnet);
    for (int i = 0; i < resnets; i++) {
        struct module_path name = module_path("%s.resnets.%d", path, i);
        int depth = -1;
        bool dropped = false;
        if (config->depth_gates && i == resnets - 1) {
            depth = add_depth(builder, up, level, name.text, &dropped);
            if (!up && in[i] != channels && !unet->undroppable[0])
                snprintf(unet->undroppable, sizeof unet->undroppable, "%s", name.text);
        }
        build_resnet(builder, &block->resnet[i], in[i], channels, depth, dropped, name.text);
    }
    if (!attention) return;
    block->transformers = resnets;
    block->transformer = check_calloc((size_t)resnets, sizeof *block->transformer);
    for (int i = 0; i < resnets; i++) {
        struct module_path name = module_path("%s.attentions.%d", path, i);
        int depth = -1;
        bool dropped = false;
        if (config->depth_gates && i == resnets - 1)
            depth = add_depth(builder, up, level, name.text, &dropped);
        build_transformer(builder, &block->transformer[i], level, depth, dropped, name.text);
    }
}

static void build_down(struct builder *builder, int level, struct unet_block *block)
{
    struct unet *unet = builder->unet;
    const struct unet_config *config = &unet->config;
    int64_t channels = config->channels[level], in[UNET_MAX_LAYERS] = {0};
    for (int i = 0; i < config->layers[level]; i++)
        in[i] = i ? channels : config->channels[level ? level - 1 : 0];
    build_block(builder, block, false, level, config->layers[level], in, config->down_attention[level],
                module_path("down_blocks.%d", level).text);
    block->has_resample = level < config->levels - 1;
    if (block->has_resample)
        conv_init(&block->resample, &unet->parameters, channels, channels, 3, 2, config->downsample_padding,
                  module_path("down_blocks.%d.downsamplers.0.conv", level).text);
}

static void build_middle(struct builder *builder, struct unet_block *block)
{
    int level = builder->unet->config.levels - 1;
    int64_t channels = builder->unet->config.channels[level];
    block->resnets = 2;
    block->resnet = check_calloc(2, sizeof *block->resnet);
    for (int i = 0; i < 2; i++)
        build_resnet(builder, &block->resnet[i], channels, channels, -1, false,
                     module_path("mid_block.resnets.%d", i).text);
    block->transformers = 1;
    block->transformer = check_calloc(1, sizeof *block->transformer);
    build_transformer(builder, block->transformer, level, -1, false, "mid_block.attentions.0");
}

static void build_up(struct builder *builder, int index, struct unet_block *block)
{
    struct unet *unet = builder->unet;
    const struct unet_config *config = &unet->config;
    int level = config->levels - 1 - index; // the innermost up block comes first
    int64_t channels = config->channels[level];
    int64_t below =
        config->channels[level + 1 < config->levels ? level + 1 : level]; // what the block before hands on
    int64_t outer = config->channels[level ? level - 1 : 0];              // width of the outermost skip
    int resnets = config->layers[level] + 1;
    int64_t in[UNET_MAX_LAYERS] = {0};
    for (int i = 0; i < resnets; i++) in[i] = (i ? channels : below) + (i == resnets - 1 ? outer : channels);
    build_block(builder, block, true, level, resnets, in, config->up_attention[level],
                module_path("up_blocks.%d", index).text);
    block->has_resample = level > 0;
    if (block->has_resample)
        conv_init(&block->resample, &unet->parameters, channels, channels, 3, 1, 1,
                  module_path("up_blocks.%d.upsamplers.0.conv", index).text);
}

/* Depth entries lie behind all width entries: known only when the walk is over. */
static void place_depth_entries(struct unet *unet)
{
    for (int b = 0; b < unet->blocks; b++) {
        struct unet_block *block = &unet->block[b];
        for (int i = 0; i < block->resnets; i++)
            if (block->resnet[i].place.depth >= 0) block->resnet[i].place.depth += unet->table.width_entries;
        for (int i = 0; i < block->transformers; i++)
            if (block->transformer[i].place.depth >= 0)
                block->transformer[i].place.depth += unet->table.width_entries;
    }
    unet->table.entries = unet->table.width_entries + unet->table.depth_entries;
}

struct unet *unet_new(struct backend *backend, const struct unet_config *config, struct unet_shape shape)
{
    struct unet *unet = check_calloc(1, sizeof *unet);
    unet->config = *config;
    struct parameter_set *set = &unet->parameters;
    parameter_set_init(set, backend);
    struct builder builder = {unet, shape};
    int64_t first = config->channels[0], temb = 4 * first;

    conv_init(&unet->conv_in, set, config->in_channels, first, 3, 1, 1, "conv_in");
    linear_init(&unet->time_linear_1, set, first, temb, true, "time_embedding.linear_1");
    linear_init(&unet->time_linear_2, set, temb, temb, true, "time_embedding.linear_2");
    for (int i = 0; i < config->levels; i++) build_down(&builder, i, &unet->block[unet->blocks++]);
    build_middle(&builder, &unet->block[unet->blocks++]);
    for (int i = 0; i < config->levels; i++) build_up(&builder, i, &unet->block[unet->blocks++]);
    group_norm_init(&unet->conv_norm_out, set, first, config->groups, (float)config->epsilon,
                    "conv_norm_out");
    conv_init(&unet->conv_out, set, first, config->out_channels, 3, 1, 1, "conv_out");

    place_depth_entries(unet);
    unit_table_order_depth(&unet->table);
    return unet;
}

void unet_delete(struct unet *unet)
{
    if (!unet) return;
    for (int b = 0; b < unet->blocks; b++) {
        for (int i = 0; i < unet->block[b].transformers; i++)
            transformer_clear(&unet->block[b].transformer[i]);
        free(unet->block[b].transformer);
        free(unet->block[b].resnet);
    }
    unit_table_free(&unet->table);
    parameter_set_clear(&unet->parameters);
    free(unet);
}

bool unet_check_prunable(const struct unet *unet, struct fault *fault)
{
    const struct unet_config *config = &unet->config;
    for (int i = 0; i < config->levels; i++) {
        bool attention = config->down_attention[i] || config->up_attention[i] || i == config->levels - 1;
        long long inner = 4 * config->channels[i];
        if (attention && inner % config->ff_entries != 0)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "the feed-forward of block_out_channels[%d] is %lld wide, which its %d gate "
                               "entries (router.ff_entries) do not divide",
                               i, inner, config->ff_entries);
    }
    if (!unet->undroppable[0]) return true;
    return fault_raise(
        fault, EXIT_CODE_INPUT,
        "%s changes the number of channels, so it cannot have a depth gate (METHOD section 2): a UNet to be "
        "pruned needs layers_per_block >= 2 in such blocks, or router.depth_gates = false",
        unet->undroppable);
}

bool unet_check_latents(const struct unet_config *config, int64_t height, int64_t width, struct fault *fault)
{
    int64_t least = (int64_t)1 << (config->levels - 1);
    if (height >= least && width >= least && height <= 1 << 14 && width <= 1 << 14) return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "latents of %lld x %lld for a UNet of %d levels: %lld to 16384 allowed",
                       (long long)height, (long long)width, config->levels, (long long)least);
}

// ---- forward pass

struct tensor *unet_time_embedding(struct tape *tape, const struct unet *unet, struct tensor *timesteps)
{
    const struct unet_config *config = &unet->config;
    struct tensor *t = op_timestep_embedding(tape, timesteps, config->channels[0], config->flip_sin_to_cos,
                                             (float)config->freq_shift); // [B, C0]
    t = linear_forward(tape, &unet->time_linear_1, t, NULL);             // [B, 4 C0]
    t = op_activation(tape, ACTIVATION_SILU, t);
    t = linear_forward(tape, &unet->time_linear_2, t, NULL); // [B, 4 C0]
    return op_activation(tape, ACTIVATION_SILU, t);          // every user takes silu(temb)
}

int unet_cross_attentions(const struct unet *unet)
{
    int count = 0;
    for (int b = 0; b < unet->blocks; b++)
        for (int i = 0; i < unet->block[b].transformers; i++)
            count += transformer_cross_attentions(&unet->block[b].transformer[i]);
    return count;
}

void unet_text_keys(struct tape *tape, const struct unet *unet, struct tensor *text, struct tensor **kv)
{
    for (int b = 0; b < unet->blocks; b++)
        for (int i = 0; i < unet->block[b].transformers; i++) {
            const struct transformer *transformer = &unet->block[b].transformer[i];
            transformer_text_keys(tape, transformer, text, kv);
            kv += transformer_cross_attentions(transformer);
        }
}

/* Moves input->text_keys on to those of the next transformer. */
static struct tensor *run_transformer(struct tape *tape, const struct unet_block *block, int i,
                                      struct tensor *h, struct unet_input *input)
{
    if (i >= block->transformers) return h;
    const struct transformer *transformer = &block->transformer[i];
    if (!input->text_keys)
        return transformer_forward(tape, transformer, h, input->text, input->text_mask, input->gates);
    struct tensor *const *kv = input->text_keys;
    input->text_keys += transformer_cross_attentions(transformer);
    return transformer_forward_keys(tape, transformer, h, kv, input->text_mask, input->gates);
}

void unet_forward(struct tape *tape, const struct unet *unet, struct unet_input input,
                  struct unet_output *output)
{
    struct tensor *skip[UNET_MAX_LEVELS * (UNET_MAX_LAYERS + 1) + 1]; // what the down path hands across
    int skips = 0;
    struct tensor *temb =
        input.time ? input.time : unet_time_embedding(tape, unet, input.timesteps); // [B, 4 C0]
    struct tensor *h = conv_forward(tape, &unet->conv_in, input.latents, NULL);     // [B, H, W, C0]
    skip[skips++] = h;

    for (int b = 0; b < unet->blocks; b++) {
        const struct unet_block *block = &unet->block[b];
        bool down = b < unet->config.levels, up = block->up;
        for (int i = 0; i < block->resnets; i++) {
            h = resnet_block_forward(tape, &block->resnet[i], h, up ? skip[--skips] : NULL, temb,
                                     input.gates);
            h = run_transformer(tape, block, i, h, &input);
            if (down) skip[skips++] = h;
        }
        if (block->has_resample) {
            // An up block grows to the size of the skip that comes next: that of twice the size, or one less.
            if (up) h = op_upsample(tape, h, skip[skips - 1]->dim[1], skip[skips - 1]->dim[2]);
            h = conv_forward(tape, &block->resample, h, NULL);
            if (down) skip[skips++] = h;
        }
        output->hidden[b] = h;
    }
    h = group_norm_forward(tape, &unet->conv_norm_out, h, true); // [B, H, W, C0]
    h = conv_forward(tape, &unet->conv_out, h, NULL);            // [B, H, W, out]
    output->sample = op_cast(tape, h, DTYPE_F32);
}
