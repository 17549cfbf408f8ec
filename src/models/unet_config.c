/* Reading a UNet2DConditionModel's config.json. */
#include "models/unet.h"

#include "io/json.h"

#include <stdio.h>
#include <string.h>

/* Keys whose one supported value is diffusers' default. */
struct fixed_key {
    const char *key;
    enum json_kind kind;
    double number;
    const char *text;
};

static const struct fixed_key fixed_keys[] = {
    {"act_fn", JSON_KIND_STRING, 0, "silu"},
    {"addition_embed_type", JSON_KIND_NULL, 0, NULL},
    {"addition_embed_type_num_heads", JSON_KIND_INTEGER, 64, NULL},
    {"addition_time_embed_dim", JSON_KIND_NULL, 0, NULL},
    {"attention_type", JSON_KIND_STRING, 0, "default"},
    {"center_input_sample", JSON_KIND_BOOL, 0, NULL},
    {"class_embed_type", JSON_KIND_NULL, 0, NULL},
    {"class_embeddings_concat", JSON_KIND_BOOL, 0, NULL},
    {"conv_in_kernel", JSON_KIND_INTEGER, 3, NULL},
    {"conv_out_kernel", JSON_KIND_INTEGER, 3, NULL},
    {"cross_attention_norm", JSON_KIND_NULL, 0, NULL},
    {"dropout", JSON_KIND_REAL, 0, NULL},
    {"dual_cross_attention", JSON_KIND_BOOL, 0, NULL},
    {"encoder_hid_dim", JSON_KIND_NULL, 0, NULL},
    {"encoder_hid_dim_type", JSON_KIND_NULL, 0, NULL},
    {"mid_block_only_cross_attention", JSON_KIND_NULL, 0, NULL},
    {"mid_block_scale_factor", JSON_KIND_REAL, 1, NULL},
    {"mid_block_type", JSON_KIND_STRING, 0, "UNetMidBlock2DCrossAttn"},
    {"num_attention_heads", JSON_KIND_NULL, 0, NULL},
    {"num_class_embeds", JSON_KIND_NULL, 0, NULL},
    {"only_cross_attention", JSON_KIND_BOOL, 0, NULL},
    {"projection_class_embeddings_input_dim", JSON_KIND_NULL, 0, NULL},
    {"resnet_out_scale_factor", JSON_KIND_REAL, 1, NULL},
    {"resnet_skip_time_act", JSON_KIND_BOOL, 0, NULL},
    {"resnet_time_scale_shift", JSON_KIND_STRING, 0, "default"},
    {"reverse_transformer_layers_per_block", JSON_KIND_NULL, 0, NULL},
    {"time_cond_proj_dim", JSON_KIND_NULL, 0, NULL},
    {"time_embedding_act_fn", JSON_KIND_NULL, 0, NULL},
    {"time_embedding_dim", JSON_KIND_NULL, 0, NULL},
    {"time_embedding_type", JSON_KIND_STRING, 0, "positional"},
    {"timestep_post_act", JSON_KIND_NULL, 0, NULL},
};

static bool check_fixed(struct json value, const struct fixed_key *key, struct fault *fault)
{
    struct fault ignored = {0}; // a value of another type is refused below, with the key's own message
    const char *text = NULL;
    double number = 0;
    bool flag = true, same = false;
    char allowed[64];
    switch (key->kind) {
    case JSON_KIND_STRING:
        same = json_get_string(value, &text, &ignored) && strcmp(text, key->text) == 0;
        snprintf(allowed, sizeof allowed, "\"%s\"", key->text);
        break;
    case JSON_KIND_BOOL:
        same = json_get_bool(value, &flag, &ignored) && !flag;
        snprintf(allowed, sizeof allowed, "false");
        break;
    case JSON_KIND_INTEGER:
    case JSON_KIND_REAL:
        same = json_get_double(value, -1e300, 1e300, &number, &ignored) && number == key->number;
        snprintf(allowed, sizeof allowed, "%g", key->number);
        break;
    default:
        same = json_kind(value) == JSON_KIND_NULL;
        snprintf(allowed, sizeof allowed, "null");
    }
    return same || json_fault(value, fault, "this value is not supported, only %s", allowed);
}

/* An integer for all levels, or a list of one a level. */
static bool get_levels(struct json value, int64_t least, int64_t most, int levels, int64_t *out,
                       struct fault *fault)
{
    if (json_kind(value) != JSON_KIND_ARRAY) {
        if (!json_get_int64(value, least, most, &out[0], fault)) return false;
        for (int i = 1; i < levels; i++) out[i] = out[0];
        return true;
    }
    size_t count;
    if (!json_get_int64s(value, least, most, UNET_MAX_LEVELS, out, &count, fault)) return false;
    if (count == (size_t)levels) return true;
    return json_fault(value, fault, "%zu entries for a UNet of %d levels", count, levels);
}

static bool get_level_ints(struct json value, int64_t least, int64_t most, int levels, int *out,
                           struct fault *fault)
{
    int64_t wide[UNET_MAX_LEVELS];
    if (!get_levels(value, least, most, levels, wide, fault)) return false;
    for (int i = 0; i < levels; i++) out[i] = (int)wide[i];
    return true;
}

/* Block types by level, outside first: with cross-attention or without. */
static bool get_block_types(struct json value, int levels, const char *plain, const char *attention,
                            bool inside_first, bool *out, struct fault *fault)
{
    const char *types[UNET_MAX_LEVELS];
    size_t count;
    if (!json_get_strings(value, UNET_MAX_LEVELS, types, &count, fault)) return false;
    if (count != (size_t)levels)
        return json_fault(value, fault, "%zu entries for a UNet of %d levels", count, levels);
    for (int i = 0; i < levels; i++) {
        bool with = strcmp(types[i], attention) == 0;
        if (!with && strcmp(types[i], plain) != 0)
            return json_fault(value, fault, "block type %s is not supported, only %s and %s", types[i],
                              attention, plain);
        out[inside_first ? levels - 1 - i : i] = with;
    }
    return true;
}

/* sample_size: an integer, null, or a pair of equal integers. */
static bool get_sample_size(struct json value, int64_t *out, struct fault *fault)
{
    if (json_kind(value) == JSON_KIND_NULL) return true;
    if (json_kind(value) != JSON_KIND_ARRAY) return json_get_int64(value, 1, 1 << 14, out, fault);
    int64_t pair[2];
    size_t count;
    if (!json_get_int64s(value, 1, 1 << 14, 2, pair, &count, fault)) return false;
    *out = pair[0];
    return (count == 2 && pair[0] == pair[1]) || json_fault(value, fault, "a square size is expected");
}

static bool read_key(struct unet_config *config, const char *key, struct json value, struct fault *fault)
{
    int levels = config->levels;
    bool unused;
    if (key[0] == '_' || strcmp(key, "block_out_channels") == 0) return true;
    if (strcmp(key, "in_channels") == 0) return json_get_int64(value, 1, 4096, &config->in_channels, fault);
    if (strcmp(key, "out_channels") == 0) return json_get_int64(value, 1, 4096, &config->out_channels, fault);
    if (strcmp(key, "sample_size") == 0) return get_sample_size(value, &config->sample_size, fault);
    if (strcmp(key, "flip_sin_to_cos") == 0) return json_get_bool(value, &config->flip_sin_to_cos, fault);
    if (strcmp(key, "freq_shift") == 0) return json_get_double(value, 0, 1, &config->freq_shift, fault);
    if (strcmp(key, "norm_num_groups") == 0) return json_get_int64(value, 1, 1 << 16, &config->groups, fault);
    if (strcmp(key, "norm_eps") == 0) return json_get_double(value, 0, 1, &config->epsilon, fault);
    if (strcmp(key, "downsample_padding") == 0)
        return json_get_int64(value, 1, 1, &config->downsample_padding, fault);
    if (strcmp(key, "use_linear_projection") == 0)
        return json_get_bool(value, &config->linear_projection, fault);
    if (strcmp(key, "upcast_attention") == 0)
        return json_get_bool(value, &unused, fault); // sums are fp32 in either case
    if (strcmp(key, "layers_per_block") == 0)
        return get_level_ints(value, 1, UNET_MAX_LAYERS - 1, levels, config->layers, fault);
    if (strcmp(key, "transformer_layers_per_block") == 0)
        return get_level_ints(value, 1, UNET_MAX_LAYERS, levels, config->transformer_layers, fault);
    if (strcmp(key, "attention_head_dim") == 0) // a count of heads, in spite of its name
        return get_levels(value, 1, 1 << 12, levels, config->heads, fault);
    if (strcmp(key, "cross_attention_dim") == 0)
        return json_get_int64(value, 1, 1 << 16, &config->text_width, fault);
    if (strcmp(key, "down_block_types") == 0)
        return get_block_types(value, levels, "DownBlock2D", "CrossAttnDownBlock2D", false,
                               config->down_attention, fault);
    if (strcmp(key, "up_block_types") == 0)
        return get_block_types(value, levels, "UpBlock2D", "CrossAttnUpBlock2D", true, config->up_attention,
                               fault);
    for (size_t i = 0; i < sizeof fixed_keys / sizeof *fixed_keys; i++)
        if (strcmp(key, fixed_keys[i].key) == 0) return check_fixed(value, &fixed_keys[i], fault);
    return json_fault(value, fault, "unknown key");
}

/* What the keys must be to each other. */
static bool check_sizes(const struct unet_config *config, const char *name, struct fault *fault)
{
    for (int i = 0; i < config->levels; i++) {
        bool attention = config->down_attention[i] || config->up_attention[i] || i == config->levels - 1;
        long long channels = config->channels[i];
        if (channels % config->groups != 0)
            return fault_raise(fault, EXIT_CODE_INPUT,
                               "%s: block_out_channels[%d] = %lld is not divided by norm_num_groups = %lld",
                               name, i, channels, (long long)config->groups);
        if (attention && channels % config->heads[i] != 0)
            return fault_raise(
                fault, EXIT_CODE_INPUT,
                "%s: block_out_channels[%d] = %lld is not divided by attention_head_dim = %lld heads", name,
                i, channels, (long long)config->heads[i]);
    }
    if (config->channels[0] % 2 != 0)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: block_out_channels[0] = %lld, even allowed", name,
                           (long long)config->channels[0]);
    return true;
}

static bool read_keys(struct unet_config *config, struct json root, const char *name, struct fault *fault)
{
    if (json_kind(root) != JSON_KIND_OBJECT)
        return json_fault(root, fault, "a UNet's configuration is an object");
    struct json channels;
    size_t levels = 4;
    if (json_member(root, "block_out_channels", &channels)) {
        if (!json_get_int64s(channels, 1, 1 << 16, UNET_MAX_LEVELS, config->channels, &levels, fault))
            return false;
        if (levels == 0) return json_fault(channels, fault, "at least one level is needed");
    }
    config->levels = (int)levels;
    for (int i = 0; i < config->levels; i++) {
        config->layers[i] = 2;
        config->transformer_layers[i] = 1;
        config->heads[i] = 8;
        config->down_attention[i] = config->up_attention[i] = i < 3;
    }
    void *iterator = NULL;
    const char *key;
    struct json value;
    while (json_next(root, &iterator, &key, &value))
        if (!read_key(config, key, value, fault)) return false;
    return check_sizes(config, name, fault);
}

bool unet_config_parse(struct unet_config *config, const char *json, const char *name, int ff_entries,
                       struct fault *fault)
{
    *config = (struct unet_config){.in_channels = 4,
                                   .out_channels = 4,
                                   .channels = {320, 640, 1280, 1280},
                                   .text_width = 1280,
                                   .groups = 32,
                                   .epsilon = 1e-5,
                                   .flip_sin_to_cos = true,
                                   .downsample_padding = 1,
                                   .ff_entries = ff_entries,
                                   .depth_gates = true};
    struct json_document *document;
    if (!json_parse(json, strlen(json), name, &document, fault)) return false;
    bool ok = read_keys(config, json_root(document), name, fault);
    json_free(document);
    return ok;
}
