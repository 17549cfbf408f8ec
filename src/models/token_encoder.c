#include "models/token_encoder.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- configuration

int64_t token_encoder_most_tokens(const struct token_encoder_config *config)
{
    return config->positions - (config->padding + 1);
}

static const struct config_key common_keys[] = {
    {"vocab_size", CONFIG_READ, NULL},
    {"hidden_size", CONFIG_READ, NULL},
    {"num_hidden_layers", CONFIG_READ, NULL},
    {"num_attention_heads", CONFIG_READ, NULL},
    {"intermediate_size", CONFIG_READ, NULL},
    {"max_position_embeddings", CONFIG_READ, NULL},
    {"layer_norm_eps", CONFIG_READ, NULL},
    {"hidden_act", CONFIG_TEXT, "gelu"},
    // training and classification
    {"attention_probs_dropout_prob", CONFIG_IGNORED, NULL},
    {"classifier_dropout", CONFIG_IGNORED, NULL},
    {"gradient_checkpointing", CONFIG_IGNORED, NULL},
    {"hidden_dropout_prob", CONFIG_IGNORED, NULL},
    {"output_past", CONFIG_IGNORED, NULL},
};

static bool read_size(struct json root, const char *key, int64_t most, int64_t *out, struct fault *fault)
{
    struct json value;
    return json_require(root, key, &value, fault) && json_get_int64(value, 1, most, out, fault);
}

bool token_encoder_config_read(struct token_encoder_config *config, struct json root,
                               const struct config_key *keys, size_t count, struct fault *fault)
{
    const struct config_table tables[] = {
        {keys, count}, {common_keys, sizeof common_keys / sizeof *common_keys}, config_model_keys};
    struct json value;
    if (!config_tables_check(root, tables, sizeof tables / sizeof *tables, fault) ||
        !read_size(root, "vocab_size", 1 << 20, &config->vocabulary, fault) ||
        !read_size(root, "hidden_size", 1 << 14, &config->channels, fault) ||
        !read_size(root, "num_hidden_layers", 256, &config->layers, fault) ||
        !read_size(root, "num_attention_heads", 1 << 10, &config->heads, fault) ||
        !read_size(root, "intermediate_size", 1 << 16, &config->inner, fault) ||
        !read_size(root, "max_position_embeddings", 1 << 16, &config->positions, fault))
        return false;
    config->epsilon = 1e-12; // the default of both
    if (json_member(root, "layer_norm_eps", &value) && !json_get_double(value, 0, 1, &config->epsilon, fault))
        return false;
    return config->channels % config->heads == 0 ||
           json_fault(root, fault, "hidden_size = %lld is not divided by num_attention_heads = %lld",
                      (long long)config->channels, (long long)config->heads);
}

// ---- building

static void layer_init(struct token_encoder_layer *layer, struct parameter_set *set,
                       const struct token_encoder_config *config, int index)
{
    const struct token_encoder_names *names = config->names;
    int64_t channels = config->channels;
    float epsilon = (float)config->epsilon;
    struct module_path path = module_path("encoder.layer.%d", index);
    layer->heads = config->heads;
    layer->head_size = channels / config->heads;
    linear_init_stacked_bias(&layer->query_key_value, set, channels, channels,
                             module_path("%s.%s", path.text, names->self_attention).text, 3,
                             (const char *[]){names->query, names->key, names->value});
    linear_init(&layer->attention_output, set, channels, channels, true,
                module_path("%s.%s", path.text, names->attention_output).text);
    layer_norm_init(&layer->attention_norm, set, channels, epsilon,
                    module_path("%s.%s", path.text, names->attention_norm).text);
    linear_init(&layer->intermediate, set, channels, config->inner, true,
                module_path("%s.intermediate.dense", path.text).text);
    linear_init(&layer->output, set, config->inner, channels, true,
                module_path("%s.output.dense", path.text).text);
    layer_norm_init(&layer->output_norm, set, channels, epsilon,
                    module_path("%s.output.LayerNorm", path.text).text);
}

static struct parameter *table_add(struct parameter_set *set, int64_t entries, int64_t width,
                                   const char *name)
{
    return parameter_add(set, false, 2, (int64_t[]){entries, width}, "%s.weight", name);
}

struct token_encoder *token_encoder_new(struct backend *backend, const struct token_encoder_config *config)
{
    struct token_encoder *encoder = check_calloc(1, sizeof *encoder);
    struct parameter_set *set = &encoder->parameters;
    int64_t channels = config->channels;
    encoder->config = *config;
    parameter_set_init(set, backend);
    encoder->word = table_add(set, config->vocabulary, channels, "embeddings.word_embeddings");
    encoder->position = table_add(set, config->positions, channels, "embeddings.position_embeddings");
    if (config->types)
        encoder->type = table_add(set, config->types, channels, "embeddings.token_type_embeddings");
    layer_norm_init(&encoder->embedding_norm, set, channels, (float)config->epsilon, "embeddings.LayerNorm");
    if (config->buckets)
        encoder->distance = table_add(set, config->buckets, config->heads, "encoder.relative_attention_bias");
    encoder->layer = check_calloc((size_t)config->layers, sizeof *encoder->layer);
    for (int i = 0; i < config->layers; i++) layer_init(&encoder->layer[i], set, config, i);
    return encoder;
}

void token_encoder_delete(struct token_encoder *encoder)
{
    if (!encoder) return;
    parameter_set_clear(&encoder->parameters);
    free(encoder->layer);
    free(encoder);
}

// ---- attention bias

/* transformers takes logarithms, 8 + floor(8 log(n / 8) / log(128 / 8)); the same in integers: bucket 8 + k
 * begins at n^2 = 64 2^k. */
int64_t token_encoder_bucket(int64_t distance)
{
    int64_t n = llabs(distance), bucket = n;
    if (n >= 8)
        for (bucket = 8; bucket < 15 && n * n >= (int64_t)128 << (bucket - 8);) bucket++;
    return distance > 0 ? 16 + bucket : bucket;
}

/* [heads, T, T], or NULL. The table is small: it is taken to the host, and each head's biases by distance,
 * -(T - 1) to T - 1, of which every query's row is a part. */
static struct tensor *distance_bias(struct tape *tape, const struct token_encoder *encoder, int64_t tokens)
{
    if (!encoder->distance) return NULL;
    int64_t heads = encoder->config.heads, farthest = tokens - 1;
    float *table = check_malloc((size_t)(encoder->config.buckets * heads) * sizeof *table);
    float *by_distance = check_malloc((size_t)(2 * farthest + 1) * sizeof *by_distance);
    float *bias = check_malloc((size_t)(heads * tokens * tokens) * sizeof *bias);
    parameter_part_download(&encoder->parameters, encoder->distance, 0, table);
    for (int64_t head = 0; head < heads; head++) {
        for (int64_t distance = -farthest; distance <= farthest; distance++)
            by_distance[distance + farthest] = table[token_encoder_bucket(distance) * heads + head];
        for (int64_t query = 0; query < tokens; query++)
            memcpy(bias + (head * tokens + query) * tokens, by_distance + farthest - query,
                   (size_t)tokens * sizeof *bias);
    }
    struct tensor *tensor = tape_input(tape, DTYPE_F32, 3, (int64_t[]){heads, tokens, tokens}, bias);
    free(bias);
    free(by_distance);
    free(table);
    return tensor;
}

// ---- forward

/* in: x [B, T, C], mask [B, T], attention bias [heads, T, T] or NULL */
static void layer_forward(struct tape *tape, const void *data, struct tensor *const *in, struct tensor **out)
{
    const struct token_encoder_layer *layer = data;
    int64_t width = layer->heads * layer->head_size;
    struct attention attention = {.heads = layer->heads,
                                  .head_size = layer->head_size,
                                  .k_column = width,
                                  .v_column = 2 * width,
                                  .scale = 1 / sqrtf((float)layer->head_size),
                                  .bias = in[2]};
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

static struct tensor *look_up(struct tape *tape, struct parameter *table, const int32_t *ids,
                              const int64_t shape[2])
{
    return op_embedding(tape, tape_input(tape, DTYPE_I32, 2, shape, ids), table); // [B, T, C]
}

/* Positions of the tokens ids[B, T]. */
static void count_positions(const int32_t *ids, const int64_t shape[2], int32_t padding, int32_t *positions)
{
    for (int64_t b = 0; b < shape[0]; b++) {
        int32_t last = padding;
        for (int64_t i = b * shape[1]; i < (b + 1) * shape[1]; i++)
            positions[i] = ids[i] == padding ? padding : ++last;
    }
}

/* The norm of the sum of each token's embeddings: [B, T, C] */
static struct tensor *embed(struct tape *tape, const struct token_encoder *encoder, const int32_t *ids,
                            const int64_t shape[2])
{
    int32_t *numbers = check_calloc((size_t)(shape[0] * shape[1]), sizeof *numbers); // types: all 0
    struct tensor *x = look_up(tape, encoder->word, ids, shape);
    if (encoder->type) x = op_add(tape, x, look_up(tape, encoder->type, numbers, shape));
    count_positions(ids, shape, encoder->config.padding, numbers);
    x = op_add(tape, x, look_up(tape, encoder->position, numbers, shape));
    free(numbers);
    return layer_norm_forward(tape, &encoder->embedding_norm, x);
}

struct tensor *token_encoder_forward(struct tape *tape, const struct token_encoder *encoder,
                                     const int32_t *ids, struct tensor *mask)
{
    CHECK(mask->rank == 2 && mask->dim[1] <= token_encoder_most_tokens(&encoder->config),
          "mask %s, at most %lld tokens allowed", tensor_text(mask, (char[TENSOR_TEXT_SIZE]){0}),
          (long long)token_encoder_most_tokens(&encoder->config));
    struct tensor *x = embed(tape, encoder, ids, mask->dim);          // [B, T, C]
    struct tensor *bias = distance_bias(tape, encoder, mask->dim[1]); // [heads, T, T]
    for (int i = 0; i < encoder->config.layers; i++)
        tape_block(tape, layer_forward, &encoder->layer[i], 3, (struct tensor *[]){x, mask, bias}, 1, &x);
    return x;
}
