#include "models/clip_vision.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <stdlib.h>
#include <string.h>

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

bool clip_vision_config_read(struct clip_vision_config *config, struct json root, struct fault *fault)
{
    *config = (struct clip_vision_config){
        .image_size = 224,
        .patch_size = 32,
        .image_channels = 3,
        .projection = 512,
        .encoder = {.channels = 768,
                    .inner = 3072,
                    .layers = 12,
                    .heads = 12,
                    .activation = ACTIVATION_GELU_QUICK,
                    .epsilon = 1e-5},
    };
    const struct config_table tables[] = {{vision_keys, sizeof vision_keys / sizeof *vision_keys},
                                          config_model_keys};
    if (!config_tables_check(root, tables, sizeof tables / sizeof *tables, fault) ||
        !config_read_size(root, "image_size", 1 << 12, &config->image_size, fault) ||
        !config_read_size(root, "patch_size", 1 << 12, &config->patch_size, fault) ||
        !config_read_size(root, "num_channels", 1 << 6, &config->image_channels, fault) ||
        !config_read_size(root, "projection_dim", 1 << 14, &config->projection, fault) ||
        !clip_encoder_config_read(&config->encoder, root, fault))
        return false;
    return config->patch_size <= config->image_size ||
           json_fault(root, fault, "patch_size = %lld is larger than image_size = %lld",
                      (long long)config->patch_size, (long long)config->image_size);
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

struct clip_vision *clip_vision_new(struct parameter_set *set, const struct clip_vision_config *config)
{
    struct clip_vision *vision = check_calloc(1, sizeof *vision);
    int64_t channels = config->encoder.channels, patch = config->patch_size,
            side = config->image_size / patch;
    float epsilon = (float)config->encoder.epsilon;
    vision->config = *config;
    vision->class_embedding =
        parameter_add(set, false, 1, &channels, "vision_model.embeddings.class_embedding");
    vision->patch_embedding =
        parameter_add(set, true, 4, (int64_t[]){channels, config->image_channels, patch, patch},
                      "vision_model.embeddings.patch_embedding.weight");
    vision->position_embedding = parameter_add(set, false, 2, (int64_t[]){1 + side * side, channels},
                                               "vision_model.embeddings.position_embedding.weight");
    layer_norm_init(&vision->pre_norm, set, channels, epsilon, "vision_model.pre_layrnorm"); // their spelling
    clip_encoder_init(&vision->encoder, set, &config->encoder, false, "vision_model.encoder");
    layer_norm_init(&vision->post_norm, set, channels, epsilon, "vision_model.post_layernorm");
    linear_init(&vision->projection, set, channels, config->projection, false, "visual_projection");
    return vision;
}

void clip_vision_delete(struct clip_vision *vision)
{
    if (!vision) return;
    clip_encoder_clear(&vision->encoder);
    free(vision);
}

// ---- forward

struct tensor *clip_vision_forward(struct tape *tape, const struct clip_vision *vision, struct tensor *pixels)
{
    const struct clip_vision_config *config = &vision->config;
    CHECK(pixels->rank == 4 && pixels->dim[1] == config->image_size && pixels->dim[2] == config->image_size,
          "pixels %s for pictures of %lld a side", tensor_text(pixels, (char[TENSOR_TEXT_SIZE]){0}),
          (long long)config->image_size);
    int64_t samples = pixels->dim[0], tokens = vision->position_embedding->value.dim[0];
    struct convolution geometry = {.stride = config->patch_size};
    struct tensor *patches = op_convolution(tape, geometry, pixels, vision->patch_embedding, NULL, NULL);
    struct tensor *class = clip_table_entries(tape, vision->class_embedding, samples, 1); // [B, 1, C]
    struct tensor *position = clip_table_entries(tape, vision->position_embedding, samples, tokens);
    struct tensor *x = op_add(tape, op_concat_tokens(tape, class, patches), position); // [B, T, C]
    x = layer_norm_forward(tape, &vision->pre_norm, x);
    x = clip_encoder_forward(tape, &vision->encoder, x);
    int64_t *first = check_calloc((size_t)samples, sizeof *first);
    x = clip_pick_token(tape, x, first); // [B, C]
    free(first);
    x = layer_norm_forward(tape, &vision->post_norm, x);       // [B, C]
    return linear_forward(tape, &vision->projection, x, NULL); // [B, P]
}
