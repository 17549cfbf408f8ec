#include "models/clip_encoder.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- configuration

static bool read_activation(struct json root, enum activation *out, struct fault *fault)
{
    struct json value;
    const char *name;
    if (!json_member(root, "hidden_act", &value)) return true;
    if (!json_get_string(value, &name, fault)) return false;
    if (strcmp(name, "quick_gelu") == 0)
        *out = ACTIVATION_GELU_QUICK;
    else if (strcmp(name, "gelu") == 0)
        *out = ACTIVATION_GELU_ERF;
    else
        return json_fault(value, fault, "activation %.50s is not supported, only \"quick_gelu\" and \"gelu\"",
                          name);
    return true;
}

bool clip_encoder_config_read(struct clip_encoder_config *config, struct json root, struct fault *fault)
{
    struct json value;
    if (!config_read_size(root, "hidden_size", 1 << 14, &config->channels, fault) ||
        !config_read_size(root, "intermediate_size", 1 << 16, &config->inner, fault) ||
        !config_read_size(root, "num_hidden_layers", 256, &config->layers, fault) ||
        !config_read_size(root, "num_attention_heads", 1 << 10, &config->heads, fault) ||
        !read_activation(root, &config->activation, fault))
        return false;
    if (json_member(root, "layer_norm_eps", &value) && !json_get_double(value, 0, 1, &config->epsilon, fault))
        return false;
    return config->channels % config->heads == 0 ||
           json_fault(root, fault, "hidden_size = %lld is not divided by num_attention_heads = %lld",
                      (long long)config->channels, (long long)config->heads);
}

// ---- building

static void layer_init(struct clip_layer *layer, struct parameter_set *set,
                       const struct clip_encoder_config *config, bool causal, const char *path)
{
    int64_t channels = config->channels;
    float epsilon = (float)config->epsilon;
    layer->heads = config->heads;
    layer->head_size = channels / config->heads;
    layer->activation = config->activation;
    layer->causal = causal;
    layer_norm_init(&layer->norm1, set, channels, epsilon, module_path("%s.layer_norm1", path).text);
    linear_init_stacked_bias(&layer->query_key_value, set, channels, channels,
                             module_path("%s.self_attn", path).text, 3,
                             (const char *[]){"q_proj", "k_proj", "v_proj"});
    linear_init(&layer->attention_output, set, channels, channels, true,
                module_path("%s.self_attn.out_proj", path).text);
    layer_norm_init(&layer->norm2, set, channels, epsilon, module_path("%s.layer_norm2", path).text);
    linear_init(&layer->fc1, set, channels, config->inner, true, module_path("%s.mlp.fc1", path).text);
    linear_init(&layer->fc2, set, config->inner, channels, true, module_path("%s.mlp.fc2", path).text);
}

void clip_encoder_init(struct clip_encoder *encoder, struct parameter_set *set,
                       const struct clip_encoder_config *config, bool causal, const char *path)
{
    encoder->layers = config->layers;
    encoder->layer = check_calloc((size_t)config->layers, sizeof *encoder->layer);
    for (int i = 0; i < config->layers; i++)
        layer_init(&encoder->layer[i], set, config, causal, module_path("%s.layers.%d", path, i).text);
}

void clip_encoder_clear(struct clip_encoder *encoder)
{
    free(encoder->layer);
    *encoder = (struct clip_encoder){0};
}

// ---- forward

/* in: x [B, T, C] */
static void layer_forward(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct clip_layer *layer = data;
    int64_t width = layer->heads * layer->head_size;
    struct attention attention = {.heads = layer->heads,
                                  .head_size = layer->head_size,
                                  .k_column = width,
                                  .v_column = 2 * width,
                                  .scale = 1 / sqrtf((float)layer->head_size),
                                  .causal = layer->causal};
    struct tensor *x = in[0], *h;
    h = layer_norm_forward(tape, &layer->norm1, x);             // [B, T, C]
    h = linear_forward(tape, &layer->query_key_value, h, NULL); // [B, T, 3C]
    h = op_attention(tape, attention, h, h, NULL, GATE_NONE);   // [B, T, C]
    x = linear_forward(tape, &layer->attention_output, h, x);   // [B, T, C]
    h = layer_norm_forward(tape, &layer->norm2, x);             // [B, T, C]
    h = linear_forward(tape, &layer->fc1, h, NULL);             // [B, T, F]
    h = op_activation(tape, layer->activation, h);              // [B, T, F]
    out[0] = linear_forward(tape, &layer->fc2, h, x);           // [B, T, C]
}

struct tensor *clip_encoder_forward(struct tape *tape, const struct clip_encoder *encoder, struct tensor *x)
{
    for (int i = 0; i < encoder->layers; i++)
        tape_block(tape, layer_forward, &encoder->layer[i], 1, (struct tensor *[]){x}, 1, &x);
    return x;
}

struct tensor *clip_table_entries(struct tape *tape, struct parameter *table, int64_t samples, int64_t count)
{
    int32_t *ids = check_malloc((size_t)(samples * count) * sizeof *ids);
    for (int64_t i = 0; i < samples * count; i++) ids[i] = (int32_t)(i % count);
    struct tensor *id_tensor = tape_input(tape, DTYPE_I32, 2, (int64_t[]){samples, count}, ids);
    free(ids);
    return op_embedding(tape, id_tensor, table);
}

/* The mean over the one token. */
struct tensor *clip_pick_token(struct tape *tape, struct tensor *x, const int64_t *token)
{
    float *mask = check_calloc((size_t)(x->dim[0] * x->dim[1]), sizeof *mask);
    for (int64_t b = 0; b < x->dim[0]; b++) mask[b * x->dim[1] + token[b]] = 1;
    struct tensor *mask_tensor = tape_input(tape, DTYPE_F32, 2, x->dim, mask);
    free(mask);
    return op_cast(tape, op_masked_mean(tape, x, mask_tensor), tape_dtype(tape));
}
