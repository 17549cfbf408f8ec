#include "models/mpnet.h"

/* Both are constants in transformers, whatever pad_token_id and relative_attention_num_buckets say. */
enum { PADDING = 1, BUCKETS = 32 };

static const char *const unused[] = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias",
                                     NULL};

static const struct token_encoder_names names = {
    .self_attention = "attention.attn",
    .query = "q",
    .key = "k",
    .value = "v",
    .attention_output = "attention.attn.o",
    .attention_norm = "attention.LayerNorm",
    .unused = unused,
};

bool mpnet_config_read(struct token_encoder_config *config, struct json root, struct fault *fault)
{
    static const struct config_key keys[] = {
        {"model_type", CONFIG_TEXT, "mpnet"},
        {"relative_attention_num_buckets", CONFIG_READ, NULL},
    };
    struct json value;
    *config = (struct token_encoder_config){.model = "mpnet", .names = &names, .padding = PADDING};
    if (!token_encoder_config_read(config, root, keys, sizeof keys / sizeof *keys, fault)) return false;
    config->buckets = BUCKETS;
    if (json_member(root, "relative_attention_num_buckets", &value) &&
        !json_get_int64(value, BUCKETS, BUCKETS, &config->buckets, fault))
        return false;
    // room for a token, after the positions that are nobody's and the padding's
    return json_require(root, "max_position_embeddings", &value, fault) &&
           json_get_int64(value, PADDING + 2, 1 << 16, &config->positions, fault);
}
