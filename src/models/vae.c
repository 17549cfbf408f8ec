#include "models/vae.h"

#include "base/check.h"
#include "io/json.h"
#include "models/config_keys.h"
#include "models/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PICTURE_MAX = 1 << 14 };

static const float EPSILON = 1e-6F; // of every norm; not in config.json
static const float LOG_VARIANCE_LEAST = -30, LOG_VARIANCE_MOST = 20;

// ---- configuration

static const struct config_key vae_keys[] = {
    {"in_channels", CONFIG_READ, NULL},
    {"out_channels", CONFIG_READ, NULL},
    {"latent_channels", CONFIG_READ, NULL},
    {"block_out_channels", CONFIG_READ, NULL},
    {"down_block_types", CONFIG_READ, NULL},
    {"up_block_types", CONFIG_READ, NULL},
    {"layers_per_block", CONFIG_READ, NULL},
    {"norm_num_groups", CONFIG_READ, NULL},
    {"sample_size", CONFIG_READ, NULL},
    {"scaling_factor", CONFIG_READ, NULL},
    {"act_fn", CONFIG_TEXT, "silu"},
    {"use_quant_conv", CONFIG_TRUE, NULL},
    {"use_post_quant_conv", CONFIG_TRUE, NULL},
    {"mid_block_add_attention", CONFIG_TRUE, NULL},
    {"shift_factor", CONFIG_EMPTY, NULL},
    {"latents_mean", CONFIG_EMPTY, NULL},
    {"latents_std", CONFIG_EMPTY, NULL},
    {"force_upcast", CONFIG_IGNORED, NULL}, // how diffusers' pipelines run it in fp16
};

static bool read_channels(struct json root, struct vae_config *config, struct fault *fault)
{
    struct json value;
    size_t levels;
    if (!json_member(root, "block_out_channels", &value)) return true;
    if (!json_get_int64s(value, 1, 1 << 14, VAE_MAX_LEVELS, config->channels, &levels, fault)) return false;
    config->levels = (int)levels;
    return levels > 0 || json_fault(value, fault, "at least one level is needed");
}

/* One block a level, all of the one type there is; where the key is missing, one. */
static bool check_block_types(struct json root, const char *key, const char *type, int levels,
                              struct fault *fault)
{
    struct json value;
    const char *types[VAE_MAX_LEVELS] = {type};
    size_t count = 1;
    if (!json_member(root, key, &value))
        value = root;
    else if (!json_get_strings(value, VAE_MAX_LEVELS, types, &count, fault))
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(types[i], type) != 0)
            return json_fault(value, fault, "block type %.50s is not supported, only %s", types[i], type);
    return count == (size_t)levels ||
           json_fault(value, fault, "%zu entries of %s for a VAE of %d levels", count, key, levels);
}

static bool read_config(struct vae_config *config, struct json root, struct fault *fault)
{
    *config = (struct vae_config){.in_channels = 3,
                                  .out_channels = 3,
                                  .latent_channels = 4,
                                  .levels = 1,
                                  .channels = {64},
                                  .groups = 32,
                                  .sample_size = 32,
                                  .scaling_factor = 0.18215};
    struct json value;
    int64_t layers = 1;
    if (!config_keys_check(root, vae_keys, sizeof vae_keys / sizeof *vae_keys, fault) ||
        !config_read_size(root, "in_channels", 1 << 6, &config->in_channels, fault) ||
        !config_read_size(root, "out_channels", 1 << 6, &config->out_channels, fault) ||
        !config_read_size(root, "latent_channels", 1 << 10, &config->latent_channels, fault) ||
        !config_read_size(root, "layers_per_block", VAE_MAX_LAYERS - 1, &layers, fault) ||
        !config_read_size(root, "norm_num_groups", 1 << 14, &config->groups, fault) ||
        !config_read_size(root, "sample_size", PICTURE_MAX, &config->sample_size, fault) ||
        !read_channels(root, config, fault) ||
        !check_block_types(root, "down_block_types", "DownEncoderBlock2D", config->levels, fault) ||
        !check_block_types(root, "up_block_types", "UpDecoderBlock2D", config->levels, fault))
        return false;
    config->layers = (int)layers;
    if (json_member(root, "scaling_factor", &value) &&
        !json_get_double(value, 1e-6, 1e6, &config->scaling_factor, fault))
        return false;
    for (int i = 0; i < config->levels; i++)
        if (config->channels[i] % config->groups != 0)
            return json_fault(root, fault,
                              "block_out_channels[%d] = %lld is not divided by norm_num_groups = %lld", i,
                              (long long)config->channels[i], (long long)config->groups);
    return true;
}

bool vae_config_parse(struct vae_config *config, const char *text, const char *name, struct fault *fault)
{
    struct json_document *document;
    if (!json_parse(text, strlen(text), name, &document, fault)) return false;
    bool ok = read_config(config, json_root(document), fault);
    json_free(document);
    return ok;
}

int64_t vae_factor(const struct vae_config *config)
{
    return (int64_t)1 << (config->levels - 1);
}

bool vae_check_picture(const struct vae_config *config, int64_t height, int64_t width, struct fault *fault)
{
    int64_t factor = vae_factor(config);
    if (height >= 1 && height <= PICTURE_MAX && height % factor == 0 && width >= 1 && width <= PICTURE_MAX &&
        width % factor == 0)
        return true;
    return fault_raise(fault, EXIT_CODE_INPUT,
                       "a picture of %lld x %lld for a VAE of %d levels: multiples of %lld up to %d allowed",
                       (long long)height, (long long)width, config->levels, (long long)factor, PICTURE_MAX);
}

// ---- layers

static void init_resnet(struct resnet_block *resnet, struct vae *vae, int64_t in, int64_t out,
                        struct module_path name)
{
    int64_t groups = vae->config.groups;
    resnet_block_init(resnet, &vae->parameters,
                      (struct resnet_size){
                          .in = in, .out = out, .groups = groups, .kept_groups = groups, .epsilon = EPSILON},
                      name.text);
}

static void init_block(struct vae_block *block, struct vae *vae, int64_t in, int64_t out, int resnets,
                       struct module_path name)
{
    block->resnets = resnets;
    block->resnet = check_calloc((size_t)resnets, sizeof *block->resnet);
    for (int i = 0; i < resnets; i++)
        init_resnet(&block->resnet[i], vae, i ? out : in, out, module_path("%s.resnets.%d", name.text, i));
}

static void init_middle(struct vae_middle *middle, struct vae *vae, const char *half)
{
    static const char *const modules[] = {"to_q", "to_k", "to_v"};
    struct parameter_set *set = &vae->parameters;
    int64_t channels = vae->config.channels[vae->config.levels - 1];
    struct module_path attention = module_path("%s.mid_block.attentions.0", half);
    for (int i = 0; i < 2; i++)
        init_resnet(&middle->resnet[i], vae, channels, channels,
                    module_path("%s.mid_block.resnets.%d", half, i));
    group_norm_init(&middle->norm, set, channels, vae->config.groups, EPSILON,
                    module_path("%s.group_norm", attention.text).text);
    linear_init_stacked_bias(&middle->query_key_value, set, channels, channels, attention.text, 3, modules);
    linear_init(&middle->attention_output, set, channels, channels, true,
                module_path("%s.to_out.0", attention.text).text);
}

/* What lies around the blocks: `in` -> `first` channels by conv_in, the middle, `last` -> `out` by conv_out.
 */
static void init_ends(struct vae_half *half, struct vae *vae, int64_t in, int64_t first, int64_t last,
                      int64_t out, const char *name)
{
    struct parameter_set *set = &vae->parameters;
    conv_init(&half->conv_in, set, in, first, 3, 1, 1, module_path("%s.conv_in", name).text);
    init_middle(&half->middle, vae, name);
    group_norm_init(&half->conv_norm_out, set, last, vae->config.groups, EPSILON,
                    module_path("%s.conv_norm_out", name).text);
    conv_init(&half->conv_out, set, last, out, 3, 1, 1, module_path("%s.conv_out", name).text);
}

static void init_encoder(struct vae *vae)
{
    const struct vae_config *config = &vae->config;
    init_ends(&vae->encoder, vae, config->in_channels, config->channels[0],
              config->channels[config->levels - 1], 2 * config->latent_channels, "encoder");
    for (int i = 0; i < config->levels; i++) {
        struct vae_block *block = &vae->encoder.block[i];
        int64_t in = config->channels[i ? i - 1 : 0], out = config->channels[i];
        init_block(block, vae, in, out, config->layers, module_path("encoder.down_blocks.%d", i));
        block->has_resample = i < config->levels - 1;
        if (!block->has_resample) continue;
        conv_init(&block->resample, &vae->parameters, out, out, 3, 2, 0,
                  module_path("encoder.down_blocks.%d.downsamplers.0.conv", i).text);
        block->resample.geometry.pad_bottom = block->resample.geometry.pad_right = 1;
    }
}

static void init_decoder(struct vae *vae)
{
    const struct vae_config *config = &vae->config;
    init_ends(&vae->decoder, vae, config->latent_channels, config->channels[config->levels - 1],
              config->channels[0], config->out_channels, "decoder");
    for (int i = 0; i < config->levels; i++) {
        struct vae_block *block = &vae->decoder.block[i];
        int level = config->levels - 1 - i;
        int64_t in = config->channels[i ? level + 1 : level], out = config->channels[level];
        init_block(block, vae, in, out, config->layers + 1, module_path("decoder.up_blocks.%d", i));
        block->has_resample = level > 0;
        if (block->has_resample)
            conv_init(&block->resample, &vae->parameters, out, out, 3, 1, 1,
                      module_path("decoder.up_blocks.%d.upsamplers.0.conv", i).text);
    }
}

struct vae *vae_new(struct backend *backend, const struct vae_config *config)
{
    struct vae *vae = check_calloc(1, sizeof *vae);
    int64_t latents = config->latent_channels;
    vae->config = *config;
    parameter_set_init(&vae->parameters, backend);
    init_encoder(vae);
    init_decoder(vae);
    conv_init(&vae->quant_conv, &vae->parameters, 2 * latents, 2 * latents, 1, 1, 0, "quant_conv");
    conv_init(&vae->post_quant_conv, &vae->parameters, latents, latents, 1, 1, 0, "post_quant_conv");
    return vae;
}

void vae_delete(struct vae *vae)
{
    if (!vae) return;
    for (int i = 0; i < vae->config.levels; i++) {
        free(vae->encoder.block[i].resnet);
        free(vae->decoder.block[i].resnet);
    }
    parameter_set_clear(&vae->parameters);
    free(vae);
}

// ---- published folders

/* What diffusers wrote before its attention was one class for all models. */
static const char *const renamed[][2] = {{".query.", ".to_q."},
                                         {".key.", ".to_k."},
                                         {".value.", ".to_v."},
                                         {".proj_attn.", ".to_out.0."},
                                         {NULL, NULL}};

/* The weights say it all but how their channels are grouped. */
static void identify(struct vae *vae)
{
    char *text = check_format("vae groups %lld", (long long)vae->config.groups);
    struct sha256 *hash = sha256_new();
    sha256_add(hash, text, strlen(text) + 1);
    weights_identify(&vae->parameters, hash);
    sha256_finish(hash, vae->id);
    free(text);
}

static bool open_config(const char *folder, struct vae_config *config, struct fault *fault)
{
    struct json_document *document;
    if (!config_open(folder, "config.json", &document, fault)) return false;
    bool ok = read_config(config, json_root(document), fault);
    json_free(document);
    return ok;
}

bool vae_open(struct backend *backend, const char *folder, struct vae **vae, struct fault *fault)
{
    struct vae_config config;
    const struct weight_names names = {.renamed = renamed};
    *vae = NULL;
    if (!open_config(folder, &config, fault)) return false;
    struct vae *opened = vae_new(backend, &config);
    if (!weights_load_folder(&opened->parameters, folder, "diffusion_pytorch_model", &names, false, fault)) {
        vae_delete(opened);
        return false;
    }
    identify(opened);
    *vae = opened;
    return true;
}

bool vae_identify(const char *folder, char id[SHA256_HEX_SIZE], struct fault *fault)
{
    struct vae *vae;
    struct backend *backend = backend_open(BACKEND_CPU);
    bool ok = vae_open(backend, folder, &vae, fault);
    if (ok) memcpy(id, vae->id, SHA256_HEX_SIZE);
    vae_delete(vae);
    backend_close(backend);
    return ok;
}

// ---- forward pass

/* Goes on with y, the only thing that is made of x: x is not needed any more. */
static struct tensor *instead_of(struct tape *tape, struct tensor *x, struct tensor *y)
{
    tape_drop(tape, x);
    return y;
}

static struct tensor *resnet_forward(struct tape *tape, const struct resnet_block *resnet, struct tensor *h)
{
    return instead_of(tape, h, resnet_block_forward(tape, resnet, h, NULL, NULL, NULL));
}

/* h + out(attention(norm(h))) over all positions of the map, one head of all C channels */
static struct tensor *attention_forward(struct tape *tape, const struct vae_middle *middle, struct tensor *h)
{
    int64_t channels = tensor_channels(h);
    struct attention attention = {.heads = 1,
                                  .head_size = channels,
                                  .k_column = channels,
                                  .v_column = 2 * channels,
                                  .scale = 1 / sqrtf((float)channels)};
    struct tensor *x = group_norm_forward(tape, &middle->norm, h, false);             // [B, h, w, C]
    x = instead_of(tape, x, linear_forward(tape, &middle->query_key_value, x, NULL)); // [.., 3 C]
    x = instead_of(tape, x, op_attention(tape, attention, x, x, NULL, GATE_NONE));    // [.., C]
    x = instead_of(tape, x, linear_forward(tape, &middle->attention_output, x, h));   // [.., C]
    return instead_of(tape, h, x);
}

static struct tensor *middle_forward(struct tape *tape, const struct vae_middle *middle, struct tensor *h)
{
    h = resnet_forward(tape, &middle->resnet[0], h);
    h = attention_forward(tape, middle, h);
    return resnet_forward(tape, &middle->resnet[1], h);
}

static struct tensor *block_forward(struct tape *tape, const struct vae_block *block, bool up,
                                    struct tensor *h)
{
    for (int i = 0; i < block->resnets; i++) h = resnet_forward(tape, &block->resnet[i], h);
    if (!block->has_resample) return h;
    if (up) h = instead_of(tape, h, op_upsample(tape, h, 2 * h->dim[1], 2 * h->dim[2]));
    return instead_of(tape, h, conv_forward(tape, &block->resample, h, NULL));
}

static struct tensor *out_forward(struct tape *tape, const struct vae_half *half, struct tensor *h)
{
    h = instead_of(tape, h, group_norm_forward(tape, &half->conv_norm_out, h, true));
    return instead_of(tape, h, conv_forward(tape, &half->conv_out, h, NULL));
}

static struct tensor *to_fp32(struct tape *tape, struct tensor *h)
{
    return h->dtype == DTYPE_F32 ? h : instead_of(tape, h, op_cast(tape, h, DTYPE_F32));
}

struct tensor *vae_encode_forward(struct tape *tape, const struct vae *vae, struct tensor *pixels)
{
    const struct vae_half *encoder = &vae->encoder;
    struct tensor *h = conv_forward(tape, &encoder->conv_in, pixels, NULL); // [B, H, W, C0]
    for (int i = 0; i < vae->config.levels; i++) h = block_forward(tape, &encoder->block[i], false, h);
    h = middle_forward(tape, &encoder->middle, h); // [B, H / factor, W / factor, C]
    h = out_forward(tape, encoder, h);             // [.., 2 L]
    return to_fp32(tape, instead_of(tape, h, conv_forward(tape, &vae->quant_conv, h, NULL)));
}

struct tensor *vae_decode_forward(struct tape *tape, const struct vae *vae, struct tensor *latents)
{
    const struct vae_half *decoder = &vae->decoder;
    struct tensor *h = conv_forward(tape, &vae->post_quant_conv, latents, NULL); // [B, h, w, L]
    h = instead_of(tape, h, conv_forward(tape, &decoder->conv_in, h, NULL));     // [.., C]
    h = middle_forward(tape, &decoder->middle, h);                               // [.., C]
    for (int i = 0; i < vae->config.levels; i++) h = block_forward(tape, &decoder->block[i], true, h);
    return to_fp32(tape, out_forward(tape, decoder, h)); // [B, h factor, w factor, out]
}

// ---- in tiles, in host memory

/* A map [B, H, W, C]. */
struct map {
    int64_t samples, height, width, channels;
    float *values;
};

static struct map map_new(int64_t samples, int64_t height, int64_t width, int64_t channels)
{
    struct map map = {samples, height, width, channels, NULL};
    map.values = check_calloc((size_t)(samples * height * width * channels), sizeof *map.values);
    return map;
}

/* The channels of one position. */
static float *map_at(struct map map, int64_t sample, int64_t row, int64_t column)
{
    return map.values + ((sample * map.height + row) * map.width + column) * map.channels;
}

/* A part of height x width positions, from (row, column) of one map to another place in another. */
static void map_copy(struct map from, int64_t from_row, int64_t from_column, struct map to, int64_t to_row,
                     int64_t to_column, int64_t height, int64_t width)
{
    for (int64_t b = 0; b < from.samples; b++)
        for (int64_t row = 0; row < height; row++)
            memcpy(map_at(to, b, to_row + row, to_column), map_at(from, b, from_row + row, from_column),
                   (size_t)(width * from.channels) * sizeof(float));
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Position i of the overlap becomes (1 - i / overlap) of the last rows (or columns) of the tile before and
 * i / overlap of the first ones of this. */
static void blend(struct map before, struct map tile, bool rows, int64_t overlap)
{
    overlap = rows ? least(overlap, least(before.height, tile.height))
                   : least(overlap, least(before.width, tile.width));
    int64_t height = rows ? overlap : tile.height, width = rows ? tile.width : overlap;
    int64_t row_shift = rows ? before.height - overlap : 0, column_shift = rows ? 0 : before.width - overlap;
    for (int64_t b = 0; b < tile.samples; b++)
        for (int64_t row = 0; row < height; row++)
            for (int64_t column = 0; column < width; column++) {
                float share = (float)(rows ? row : column) / (float)overlap;
                const float *from = map_at(before, b, row + row_shift, column + column_shift);
                float *to = map_at(tile, b, row, column);
                for (int64_t c = 0; c < tile.channels; c++) to[c] = from[c] * (1 - share) + to[c] * share;
            }
}

/* One direction of the autoencoder. */
struct direction {
    struct tensor *(*forward)(struct tape *tape, const struct vae *vae, struct tensor *x);
    int64_t in_scale, out_scale; // positions of its maps a latent, along height and width
};

/* The tile of `height` x `width` latents at (row, column). The caller frees it. */
static struct map compute_tile(struct tape *tape, const struct vae *vae, const struct direction *direction,
                               struct map in, int64_t row, int64_t column, int64_t height, int64_t width,
                               int64_t out_channels)
{
    int64_t scale = direction->in_scale;
    struct map part = map_new(in.samples, height * scale, width * scale, in.channels);
    map_copy(in, row * scale, column * scale, part, 0, 0, part.height, part.width);
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct tensor *x =
        tape_input(tape, tape_dtype(tape), 4,
                   (int64_t[]){part.samples, part.height, part.width, part.channels}, part.values);
    free(part.values);
    struct tensor *y = direction->forward(tape, vae, x);
    struct map tile =
        map_new(in.samples, height * direction->out_scale, width * direction->out_scale, out_channels);
    CHECK(tensor_count(y) == tile.samples * tile.height * tile.width * tile.channels,
          "a tile of %lld x %lld latents became %s", (long long)height, (long long)width,
          tensor_text(y, (char[TENSOR_TEXT_SIZE]){0}));
    tape_read(tape, y, tile.values);
    return tile;
}

/* Maps of height x width latents. A tile is blended with the one above, then with the one at its left, both
 * of them as blended themselves, and gives what the next tiles do not cover. */
static void run_tiles(struct tape *tape, const struct vae *vae, const struct direction *direction,
                      struct vae_tiling tiling, int64_t height, int64_t width, struct map in, struct map out)
{
    bool whole = tiling.tile == 0 || (height <= tiling.tile && width <= tiling.tile);
    if (whole) tiling = (struct vae_tiling){height > width ? height : width, 0};
    CHECK(tiling.tile > 0 && tiling.overlap >= 0 && tiling.overlap < tiling.tile,
          "tiles of %lld that overlap by %lld", (long long)tiling.tile, (long long)tiling.overlap);
    int64_t step = tiling.tile - tiling.overlap, overlap = tiling.overlap * direction->out_scale;
    int64_t out_step = step * direction->out_scale;
    // tiles[i]: that of column i, in this row, or in the row above as long as this row has not come so far
    struct map *tiles = check_calloc((size_t)((width + step - 1) / step), sizeof *tiles);
    for (int64_t i = 0; i * step < height; i++)
        for (int64_t j = 0; j * step < width; j++) {
            struct map tile = compute_tile(tape, vae, direction, in, i * step, j * step,
                                           least(tiling.tile, height - i * step),
                                           least(tiling.tile, width - j * step), out.channels);
            if (i > 0) blend(tiles[j], tile, true, overlap);
            if (j > 0) blend(tiles[j - 1], tile, false, overlap);
            map_copy(tile, 0, 0, out, i * out_step, j * out_step, least(out_step, tile.height),
                     least(out_step, tile.width));
            free(tiles[j].values);
            tiles[j] = tile;
        }
    for (int64_t j = 0; j * step < width; j++) free(tiles[j].values);
    free(tiles);
}

struct vae_tiling vae_tiling_usual(const struct vae_config *config)
{
    int64_t tile = config->sample_size / vae_factor(config);
    if (tile < 1) tile = 1;
    return (struct vae_tiling){tile, tile / 4};
}

/* As torch.clamp: NaN stays. */
static float bounded(float log_variance)
{
    if (log_variance < LOG_VARIANCE_LEAST) return LOG_VARIANCE_LEAST;
    return log_variance > LOG_VARIANCE_MOST ? LOG_VARIANCE_MOST : log_variance;
}

void vae_encode(struct tape *tape, const struct vae *vae, struct vae_tiling tiling, int64_t samples,
                int64_t height, int64_t width, const float *pixels, float *mean, float *log_variance)
{
    const struct vae_config *config = &vae->config;
    int64_t factor = vae_factor(config), channels = config->latent_channels;
    struct map in = {samples, height * factor, width * factor, config->in_channels, (float *)pixels};
    struct map moments = map_new(samples, height, width, 2 * channels);
    run_tiles(tape, vae, &(struct direction){vae_encode_forward, factor, 1}, tiling, height, width, in,
              moments);
    for (int64_t i = 0; i < samples * height * width; i++)
        for (int64_t c = 0; c < channels; c++) {
            const float *position = moments.values + 2 * channels * i;
            mean[channels * i + c] = position[c];
            log_variance[channels * i + c] = bounded(position[channels + c]);
        }
    free(moments.values);
}

void vae_decode(struct tape *tape, const struct vae *vae, struct vae_tiling tiling, int64_t samples,
                int64_t height, int64_t width, const float *latents, float *pixels)
{
    const struct vae_config *config = &vae->config;
    int64_t factor = vae_factor(config);
    struct map in = {samples, height, width, config->latent_channels, (float *)latents};
    struct map out = {samples, height * factor, width * factor, config->out_channels, pixels};
    run_tiles(tape, vae, &(struct direction){vae_decode_forward, 1, factor}, tiling, height, width, in, out);
}
