#include "models/clip_text.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <stdlib.h>
#include <string.h>

enum { LEGACY_END_TOKEN = 2 };

// ---- configuration

static const struct config_key text_keys[] = {
    {"vocab_size", CONFIG_READ, NULL},          {"max_position_embeddings", CONFIG_READ, NULL},
    {"eos_token_id", CONFIG_READ, NULL},        {"projection_dim", CONFIG_READ, NULL},
    {"architectures", CONFIG_READ, NULL},       {"hidden_size", CONFIG_READ, NULL},
    {"intermediate_size", CONFIG_READ, NULL},   {"num_hidden_layers", CONFIG_READ, NULL},
    {"num_attention_heads", CONFIG_READ, NULL}, {"hidden_act", CONFIG_READ, NULL},
    {"layer_norm_eps", CONFIG_READ, NULL},      {"model_type", CONFIG_TEXT, "clip_text_model"},
};

/* Whether the model has a projection: the class that was saved says so. */
static bool read_architecture(struct json root, bool *projected, struct fault *fault)
{
    struct json value;
    const char *name;
    size_t count;
    *projected = false;
    if (!json_member(root, "architectures", &value) || json_kind(value) == JSON_KIND_NULL) return true;
    if (!json_get_strings(value, 1, &name, &count, fault)) return false;
    *projected = count == 1 && strcmp(name, "CLIPTextModelWithProjection") == 0;
    return *projected || count == 0 || strcmp(name, "CLIPTextModel") == 0 ||
           json_fault(value, fault,
                      "%.80s is not supported, only CLIPTextModel and CLIPTextModelWithProjection", name);
}

bool clip_text_config_read(struct clip_text_config *config, struct json root, struct fault *fault)
{
    *config = (struct clip_text_config){
        .vocabulary = 49408,
        .positions = 77,
        .end_token = 49407,
        .projection = 512,
        .encoder = {.channels = 512,
                    .inner = 2048,
                    .layers = 12,
                    .heads = 8,
                    .activation = ACTIVATION_GELU_QUICK,
                    .epsilon = 1e-5},
    };
    struct json value;
    bool projected;
    const struct config_table tables[] = {{text_keys, sizeof text_keys / sizeof *text_keys},
                                          config_model_keys};
    if (!config_tables_check(root, tables, sizeof tables / sizeof *tables, fault) ||
        !config_read_size(root, "vocab_size", 1 << 20, &config->vocabulary, fault) ||
        !config_read_size(root, "max_position_embeddings", 1 << 16, &config->positions, fault) ||
        !config_read_size(root, "projection_dim", 1 << 14, &config->projection, fault) ||
        !clip_encoder_config_read(&config->encoder, root, fault) ||
        !read_architecture(root, &projected, fault))
        return false;
    if (!projected) config->projection = 0;
    return !json_member(root, "eos_token_id", &value) ||
           json_get_int64(value, 0, INT32_MAX, &config->end_token, fault);
}

// ---- building

struct clip_text *clip_text_new(struct parameter_set *set, const struct clip_text_config *config)
{
    struct clip_text *text = check_calloc(1, sizeof *text);
    int64_t channels = config->encoder.channels;
    text->config = *config;
    text->token_embedding = parameter_add(set, false, 2, (int64_t[]){config->vocabulary, channels},
                                          "text_model.embeddings.token_embedding.weight");
    text->position_embedding = parameter_add(set, false, 2, (int64_t[]){config->positions, channels},
                                             "text_model.embeddings.position_embedding.weight");
    clip_encoder_init(&text->encoder, set, &config->encoder, true, "text_model.encoder");
    layer_norm_init(&text->final_norm, set, channels, (float)config->encoder.epsilon,
                    "text_model.final_layer_norm");
    if (config->projection)
        linear_init(&text->projection, set, channels, config->projection, false, "text_projection");
    return text;
}

void clip_text_delete(struct clip_text *text)
{
    if (!text) return;
    clip_encoder_clear(&text->encoder);
    free(text);
}

// ---- forward

struct tensor *clip_text_states(struct tape *tape, const struct clip_text *text, struct tensor *ids)
{
    CHECK(ids->rank == 2 && ids->dim[1] <= text->config.positions, "ids %s for %lld positions",
          tensor_text(ids, (char[TENSOR_TEXT_SIZE]){0}), (long long)text->config.positions);
    struct tensor *token = op_embedding(tape, ids, text->token_embedding); // [B, T, C]
    struct tensor *position = clip_table_entries(tape, text->position_embedding, ids->dim[0], ids->dim[1]);
    struct tensor *x = op_add(tape, token, position); // [B, T, C]
    x = clip_encoder_forward(tape, &text->encoder, x);
    return layer_norm_forward(tape, &text->final_norm, x);
}

void clip_text_end_tokens(const struct clip_text_config *config, int64_t samples, int64_t tokens,
                          const int32_t *ids, int64_t *end)
{
    for (int64_t b = 0; b < samples; b++, ids += tokens) {
        int64_t best = 0;
        if (config->end_token == LEGACY_END_TOKEN) {
            for (int64_t t = 1; t < tokens; t++)
                if (ids[t] > ids[best]) best = t;
        } else {
            while (best < tokens && ids[best] != config->end_token) best++;
            if (best == tokens) best = 0;
        }
        end[b] = best;
    }
}

struct tensor *clip_text_project(struct tape *tape, const struct clip_text *text, struct tensor *states,
                                 const int64_t *end)
{
    CHECK(text->config.projection, "a text encoder without projection");
    return linear_forward(tape, &text->projection, clip_pick_token(tape, states, end), NULL);
}
