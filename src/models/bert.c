#include "models/bert.h"

#include "base/check.h"
#include "models/config_keys.h"

#include <math.h>
#include <stdlib.h>

const struct weight_names bert_names = {
    .ignored = (const char *const[]){"embeddings.position_ids", "embeddings.token_type_ids",
                                     "pooler.dense.weight", "pooler.dense.bias", NULL}};

// ---- configuration

static const struct config_key bert_keys[] = {
    {"vocab_size", CONFIG_READ, NULL},
    {"hidden_size", CONFIG_READ, NULL},
    {"num_hidden_layers", CONFIG_READ, NULL},
    {"num_attention_heads", CONFIG_READ, NULL},
    {"intermediate_size", CONFIG_READ, NULL},
    {"max_position_embeddings", CONFIG_READ, NULL},
    {"type_vocab_size", CONFIG_READ, NULL},
    {"layer_norm_eps", CONFIG_READ, NULL},
    {"model_type", CONFIG_TEXT, "bert"},
    {"hidden_act", CONFIG_TEXT, "gelu"},
    {"position_embedding_type", CONFIG_TEXT, "absolute"},
    {"add_cross_attention", CONFIG_FALSE, NULL},
    {"is_decoder", CONFIG_FALSE, NULL},
    {"is_encoder_decoder", CONFIG_FALSE, NULL},
    {"pruned_heads", CONFIG_EMPTY, NULL},
    // training, text generation, classification, and how transformers runs the model
    {"architectures", CONFIG_IGNORED, NULL},
    {"attention_probs_dropout_prob", CONFIG_IGNORED, NULL},
    {"bos_token_id", CONFIG_IGNORED, NULL},
    {"chunk_size_feed_forward", CONFIG_IGNORED, NULL},
    {"classifier_dropout", CONFIG_IGNORED, NULL},
    {"dtype", CONFIG_IGNORED, NULL},
    {"eos_token_id", CONFIG_IGNORED, NULL},
    {"gradient_checkpointing", CONFIG_IGNORED, NULL},
    {"hidden_dropout_prob", CONFIG_IGNORED, NULL},
    {"id2label", CONFIG_IGNORED, NULL},
    {"initializer_range", CONFIG_IGNORED, NULL},
    {"label2id", CONFIG_IGNORED, NULL},
    {"output_attentions", CONFIG_IGNORED, NULL},
    {"output_hidden_states", CONFIG_IGNORED, NULL},
    {"output_past", CONFIG_IGNORED, NULL},
    {"pad_token_id", CONFIG_IGNORED, NULL},
    {"problem_type", CONFIG_IGNORED, NULL},
    {"return_dict", CONFIG_IGNORED, NULL},
    {"tie_word_embeddings", CONFIG_IGNORED, NULL},
    {"torch_dtype", CONFIG_IGNORED, NULL},
    {"torchscript", CONFIG_IGNORED, NULL},
    {"transformers_version", CONFIG_IGNORED, NULL},
    {"use_cache", CONFIG_IGNORED, NULL},
};

static bool read_size(struct json root, const char *key, int64_t most, int64_t *out, struct fault *fault)
{
    struct json value;
    return json_require(root, key, &value, fault) && json_get_int64(value, 1, most, out, fault);
}

bool bert_config_read(struct bert_config *config, struct json root, struct fault *fault)
{
    *config = (struct bert_config){.types = 2, .epsilon = 1e-12};
    if (!config_keys_check(root, bert_keys, sizeof bert_keys / sizeof bert_keys[0], fault) ||
        !read_size(root, "vocab_size", 1 << 20, &config->vocabulary, fault) ||
        !read_size(root, "hidden_size", 1 << 14, &config->channels, fault) ||
        !read_size(root, "num_hidden_layers", 256, &config->layers, fault) ||
        !read_size(root, "num_attention_heads", 1 << 10, &config->heads, fault) ||
        !read_size(root, "intermediate_size", 1 << 16, &config->inner, fault) ||
        !read_size(root, "max_position_embeddings", 1 << 16, &config->positions, fault))
        return false;
    struct json value;
    if (json_member(root, "type_vocab_size", &value) &&
        !json_get_int64(value, 1, 1 << 10, &config->types, fault))
        return false;
    if (json_member(root, "layer_norm_eps", &value) && !json_get_double(value, 0, 1, &config->epsilon, fault))
        return false;
    return config->channels % config->heads == 0 ||
           json_fault(root, fault, "hidden_size = %lld is not divided by num_attention_heads = %lld",
                      (long long)config->channels, (long long)config->heads);
}

// ---- building

static void layer_init(struct bert_layer *layer, struct parameter_set *set, const struct bert_config *config,
                       int index)
{
    int64_t channels = config->channels;
    float epsilon = (float)config->epsilon;
    struct module_path path = module_path("encoder.layer.%d", index),
                       attention = module_path("%s.attention", path.text);
    layer->heads = config->heads;
    layer->head_size = channels / config->heads;
    linear_init_stacked_bias(&layer->query_key_value, set, channels, channels,
                             module_path("%s.self", attention.text).text, 3,
                             (const char *[]){"query", "key", "value"});
    linear_init(&layer->attention_output, set, channels, channels, true,
                module_path("%s.output.dense", attention.text).text);
    layer_norm_init(&layer->attention_norm, set, channels, epsilon,
                    module_path("%s.output.LayerNorm", attention.text).text);
    linear_init(&layer->intermediate, set, channels, config->inner, true,
                module_path("%s.intermediate.dense", path.text).text);
    linear_init(&layer->output, set, config->inner, channels, true,
                module_path("%s.output.dense", path.text).text);
    layer_norm_init(&layer->output_norm, set, channels, epsilon,
                    module_path("%s.output.LayerNorm", path.text).text);
}

static struct parameter *table_add(struct parameter_set *set, int64_t entries, int64_t channels,
                                   const char *name)
{
    return parameter_add(set, false, 2, (int64_t[]){entries, channels}, "embeddings.%s.weight", name);
}

struct bert *bert_new(struct backend *backend, const struct bert_config *config)
{
    struct bert *bert = check_calloc(1, sizeof *bert);
    struct parameter_set *set = &bert->parameters;
    bert->config = *config;
    parameter_set_init(set, backend);
    bert->word = table_add(set, config->vocabulary, config->channels, "word_embeddings");
    bert->position = table_add(set, config->positions, config->channels, "position_embeddings");
    bert->type = table_add(set, config->types, config->channels, "token_type_embeddings");
    layer_norm_init(&bert->embedding_norm, set, config->channels, (float)config->epsilon,
                    "embeddings.LayerNorm");
    bert->layer = check_calloc((size_t)config->layers, sizeof *bert->layer);
    for (int i = 0; i < config->layers; i++) layer_init(&bert->layer[i], set, config, i);
    return bert;
}

void bert_delete(struct bert *bert)
{
    if (!bert) return;
    parameter_set_clear(&bert->parameters);
    free(bert->layer);
    free(bert);
}

// ---- forward

/* in: x [B, T, C], mask [B, T] */
static void layer_forward(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct bert_layer *layer = data;
    int64_t width = layer->heads * layer->head_size;
    struct attention attention = {.heads = layer->heads,
                                  .head_size = layer->head_size,
                                  .k_column = width,
                                  .v_column = 2 * width,
                                  .scale = 1 / sqrtf((float)layer->head_size)};
    struct tensor *x = in[0], *mask = in[1], *h;
    h = linear_forward(tape, &layer->query_key_value, x, NULL); // [B, T, 3C]
    h = op_attention(tape, attention, h, h, mask, GATE_NONE);   // [B, T, C]
    h = linear_forward(tape, &layer->attention_output, h, x);   // [B, T, C]
    x = layer_norm_forward(tape, &layer->attention_norm, h);    // [B, T, C]
    h = linear_forward(tape, &layer->intermediate, x, NULL);    // [B, T, F]
    h = op_activation(tape, ACTIVATION_GELU_ERF, h);            // [B, T, F]
    h = linear_forward(tape, &layer->output, h, x);             // [B, T, C]
    out[0] = layer_norm_forward(tape, &layer->output_norm, h);  // [B, T, C]
}

/* The numbers 0..T-1 times `step` for each of B samples: positions (1), or types, all of them 0 (0). */
static struct tensor *count_tokens(struct tape *tape, const struct tensor *ids, int32_t step)
{
    int64_t tokens = ids->dim[1], count = tensor_count(ids);
    int32_t *values = check_malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = step * (int32_t)(i % tokens);
    struct tensor *tensor = tape_input(tape, DTYPE_I32, 2, ids->dim, values);
    free(values);
    return tensor;
}

struct tensor *bert_forward(struct tape *tape, const struct bert *bert, struct tensor *ids,
                            struct tensor *mask)
{
    CHECK(ids->rank == 2 && ids->dim[1] <= bert->config.positions, "ids %s for %lld positions",
          tensor_text(ids, (char[TENSOR_TEXT_SIZE]){0}), (long long)bert->config.positions);
    struct tensor *word = op_embedding(tape, ids, bert->word);                                // [B, T, C]
    struct tensor *position = op_embedding(tape, count_tokens(tape, ids, 1), bert->position); // [B, T, C]
    struct tensor *type = op_embedding(tape, count_tokens(tape, ids, 0), bert->type);         // [B, T, C]
    struct tensor *x = op_add(tape, op_add(tape, word, type), position);
    x = layer_norm_forward(tape, &bert->embedding_norm, x); // [B, T, C]
    for (int i = 0; i < bert->config.layers; i++)
        tape_block(tape, layer_forward, &bert->layer[i], 2, (struct tensor *[]){x, mask}, 1, &x);
    return x;
}
