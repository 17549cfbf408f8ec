#include "models/bert.h"

static const char *const unused[] = {"embeddings.position_ids", "embeddings.token_type_ids",
                                     "pooler.dense.weight", "pooler.dense.bias", NULL};

static const struct token_encoder_names names = {
    .self_attention = "attention.self",
    .query = "query",
    .key = "key",
    .value = "value",
    .attention_output = "attention.output.dense",
    .attention_norm = "attention.output.LayerNorm",
    .unused = unused,
};

bool bert_config_read(struct token_encoder_config *config, struct json root, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"model_type", CONFIG_TEXT, "bert"},
        {"position_embedding_type", CONFIG_TEXT, "absolute"},
        {"type_vocab_size", CONFIG_READ, NULL},
    };
    struct json value;
    *config = (struct token_encoder_config){.model = "bert", .names = &names, .types = 2, .padding = -1};
    return token_encoder_config_read(config, root, keys, sizeof keys / sizeof *keys, fault) &&
           (!json_member(root, "type_vocab_size", &value) ||
            json_get_int64(value, 1, 1 << 10, &config->types, fault));
}
