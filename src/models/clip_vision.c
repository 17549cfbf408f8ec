#include "models/clip_vision.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct weight_names clip_vision_names = {
    .ignored = (const char *const[]){"vision_model.embeddings.position_ids", NULL}};

// ---- configuration

static const struct config_key vision_keys[] = {
    {"hidden_size", CONFIG_READ, NULL},
    {"intermediate_size", CONFIG_READ, NULL},
    {"projection_dim", CONFIG_READ, NULL},
    {"num_hidden_layers", CONFIG_READ, NULL},
    {"num_attention_heads", CONFIG_READ, NULL},
    {"num_channels", CONFIG_READ, NULL},
    {"image_size", CONFIG_READ, NULL},
    {"patch_size", CONFIG_READ, NULL},
    {"hidden_act", CONFIG_READ, NULL},
    {"layer_norm_eps", CONFIG_READ, NULL},
    {"model_type", CONFIG_TEXT, "clip_vision_model"},
};

static bool read_size(struct json root, const char *key, int64_t most, int64_t *out, struct fault *fault)
{
    struct json value;
    return !json_member(root, key, &value) || json_get_int64(value, 1, most, out, fault);
}

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

bool clip_vision_config_read(struct clip_vision_config *config, struct json root, struct fault *fault)
{
    *config = (struct clip_vision_config){.image_size = 224,
                                          .patch_size = 32,
                                          .image_channels = 3,
                                          .channels = 768,
                                          .inner = 3072,
                                          .layers = 12,
                                          .heads = 12,
                                          .projection = 512,
                                          .activation = ACTIVATION_GELU_QUICK,
                                          .epsilon = 1e-5};
    struct json value;
    if (!config_keys_check_model(root, vision_keys, sizeof vision_keys / sizeof *vision_keys, fault) ||
        !read_size(root, "image_size", 1 << 12, &config->image_size, fault) ||
        !read_size(root, "patch_size", 1 << 12, &config->patch_size, fault) ||
        !read_size(root, "num_channels", 1 << 6, &config->image_channels, fault) ||
        !read_size(root, "hidden_size", 1 << 14, &config->channels, fault) ||
        !read_size(root, "intermediate_size", 1 << 16, &config->inner, fault) ||
        !read_size(root, "num_hidden_layers", 256, &config->layers, fault) ||
        !read_size(root, "num_attention_heads", 1 << 10, &config->heads, fault) ||
        !read_size(root, "projection_dim", 1 << 14, &config->projection, fault) ||
        !read_activation(root, &config->activation, fault))
        return false;
    if (json_member(root, "layer_norm_eps", &value) && !json_get_double(value, 0, 1, &config->epsilon, fault))
        return false;
    if (config->patch_size > config->image_size)
        return json_fault(root, fault, "patch_size = %lld is larger than image_size = %lld",
                          (long long)config->patch_size, (long long)config->image_size);
    return config->channels % config->heads == 0 ||
           json_fault(root, fault, "hidden_size = %lld is not divided by num_attention_heads = %lld",
                      (long long)config->channels, (long long)config->heads);
}

bool clip_vision_config_parse(struct clip_vision_config *config, const char *text, const char *name,
                              struct fault *fault)
{
    struct json_document *document;
    if (!json_parse(text, strlen(text), name, &document, fault)) return false;
    bool ok = clip_vision_config_read(config, json_root(document), fault);
    json_free(document);
    return ok;
}

// ---- building

static void layer_init(struct clip_vision_layer *layer, struct parameter_set *set,
                       const struct clip_vision_config *config, int index)
{
    int64_t channels = config->channels;
    float epsilon = (float)config->epsilon;
    struct module_path path = module_path("vision_model.encoder.layers.%d", index);
    layer->heads = config->heads;
    layer->head_size = channels / config->heads;
    layer->activation = config->activation;
    layer_norm_init(&layer->norm1, set, channels, epsilon, module_path("%s.layer_norm1", path.text).text);
    linear_init_stacked_bias(&layer->query_key_value, set, channels, channels,
                             module_path("%s.self_attn", path.text).text, 3,
                             (const char *[]){"q_proj", "k_proj", "v_proj"});
    linear_init(&layer->attention_output, set, channels, channels, true,
                module_path("%s.self_attn.out_proj", path.text).text);
    layer_norm_init(&layer->norm2, set, channels, epsilon, module_path("%s.layer_norm2", path.text).text);
    linear_init(&layer->fc1, set, channels, config->inner, true, module_path("%s.mlp.fc1", path.text).text);
    linear_init(&layer->fc2, set, config->inner, channels, true, module_path("%s.mlp.fc2", path.text).text);
}

struct clip_vision *clip_vision_new(struct parameter_set *set, const struct clip_vision_config *config)
{
    struct clip_vision *vision = check_calloc(1, sizeof *vision);
    int64_t channels = config->channels, patch = config->patch_size, side = config->image_size / patch;
    float epsilon = (float)config->epsilon;
    vision->config = *config;
    vision->class_embedding =
        parameter_add(set, false, 1, &channels, "vision_model.embeddings.class_embedding");
    vision->patch_embedding =
        parameter_add(set, true, 4, (int64_t[]){channels, config->image_channels, patch, patch},
                      "vision_model.embeddings.patch_embedding.weight");
    vision->position_embedding = parameter_add(set, false, 2, (int64_t[]){1 + side * side, channels},
                                               "vision_model.embeddings.position_embedding.weight");
    layer_norm_init(&vision->pre_norm, set, channels, epsilon, "vision_model.pre_layrnorm"); // their spelling
    vision->layer = check_calloc((size_t)config->layers, sizeof *vision->layer);
    for (int i = 0; i < config->layers; i++) layer_init(&vision->layer[i], set, config, i);
    layer_norm_init(&vision->post_norm, set, channels, epsilon, "vision_model.post_layernorm");
    linear_init(&vision->projection, set, channels, config->projection, false, "visual_projection");
    return vision;
}

void clip_vision_delete(struct clip_vision *vision)
{
    if (!vision) return;
    free(vision->layer);
    free(vision);
}

// ---- forward

/* in: x [B, T, C] */
static void layer_forward(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct clip_vision_layer *layer = data;
    int64_t width = layer->heads * layer->head_size;
    struct attention attention = {.heads = layer->heads,
                                  .head_size = layer->head_size,
                                  .k_column = width,
                                  .v_column = 2 * width,
                                  .scale = 1 / sqrtf((float)layer->head_size)};
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

/* The entries 0..count-1 of a table for each sample: [B, count, C]. */
static struct tensor *table_entries(struct tape *tape, struct parameter *table, int64_t samples,
                                    int64_t count)
{
    int32_t *ids = check_malloc((size_t)(samples * count) * sizeof *ids);
    for (int64_t i = 0; i < samples * count; i++) ids[i] = (int32_t)(i % count);
    struct tensor *id_tensor = tape_input(tape, DTYPE_I32, 2, (int64_t[]){samples, count}, ids);
    free(ids);
    return op_embedding(tape, id_tensor, table);
}

/* x [B, T, C] -> its first token, [B, C] fp32: the mean over that one. */
static struct tensor *first_token(struct tape *tape, struct tensor *x)
{
    float *mask = check_calloc((size_t)(x->dim[0] * x->dim[1]), sizeof *mask);
    for (int64_t b = 0; b < x->dim[0]; b++) mask[b * x->dim[1]] = 1;
    struct tensor *mask_tensor = tape_input(tape, DTYPE_F32, 2, x->dim, mask);
    free(mask);
    return op_masked_mean(tape, x, mask_tensor);
}

struct tensor *clip_vision_forward(struct tape *tape, const struct clip_vision *vision, struct tensor *pixels)
{
    const struct clip_vision_config *config = &vision->config;
    CHECK(pixels->rank == 4 && pixels->dim[1] == config->image_size && pixels->dim[2] == config->image_size,
          "pixels %s for pictures of %lld a side", tensor_text(pixels, (char[TENSOR_TEXT_SIZE]){0}),
          (long long)config->image_size);
    int64_t samples = pixels->dim[0], tokens = vision->position_embedding->value.dim[0];
    struct convolution geometry = {.stride = config->patch_size};
    struct tensor *patches = op_convolution(tape, geometry, pixels, vision->patch_embedding, NULL, NULL);
    struct tensor *class = table_entries(tape, vision->class_embedding, samples, 1); // [B, 1, C]
    struct tensor *position = table_entries(tape, vision->position_embedding, samples, tokens);
    struct tensor *x = op_add(tape, op_concat_tokens(tape, class, patches), position); // [B, T, C]
    x = layer_norm_forward(tape, &vision->pre_norm, x);
    for (int i = 0; i < config->layers; i++)
        tape_block(tape, layer_forward, &vision->layer[i], 1, (struct tensor *[]){x}, 1, &x);
    x = op_cast(tape, first_token(tape, x), tape_dtype(tape)); // [B, C]
    x = layer_norm_forward(tape, &vision->post_norm, x);       // [B, C]
    return linear_forward(tape, &vision->projection, x, NULL); // [B, P]
}
