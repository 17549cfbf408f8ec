/* The encoder that BERT (Devlin et al. 2019) and MPNet (Song et al. 2020) have in common, as transformers'
 * BertModel and MPNetModel without their poolers: post-norm transformer layers over the norm of the sum of
 * word, position and, in BERT, type embeddings; in MPNet the attention of all layers shares a bias that
 * depends on how far apart two tokens are. What tells the two apart are the configuration and the names of
 * the weights (models/bert.h, models/mpnet.h). Inference only. */
#ifndef MODELS_TOKEN_ENCODER_H
#define MODELS_TOKEN_ENCODER_H

#include "models/config_keys.h"
#include "nn/layers.h"

/* What published files call the parts of a layer, and what they may hold beside the parameters. */
struct token_encoder_names {
    const char *self_attention;      /* the module of the next three, in "encoder.layer.N." */
    const char *query, *key, *value; /* C -> C each */
    const char *attention_output;    /* C -> C */
    const char *attention_norm;      /* [C] */
    const char *const *unused;       /* names of weights that are not used; ends with NULL */
};

/* What config.json says, checked. */
struct token_encoder_config {
    const char *model; /* model_type: "bert" or "mpnet" */
    const struct token_encoder_names *names;
    int64_t vocabulary; /* vocab_size */
    int64_t channels;   /* hidden_size, C */
    int64_t layers;     /* num_hidden_layers */
    int64_t heads;      /* num_attention_heads; they divide C */
    int64_t inner;      /* intermediate_size, F */
    int64_t positions;  /* max_position_embeddings: rows of the table */
    int64_t types;      /* type_vocab_size, 0: none; all tokens are of type 0 here */
    int64_t buckets;    /* of distances between tokens, 32; 0: no attention bias */
    int32_t padding; /* a token of this id keeps its position, the others count from padding + 1; -1: none */
    double epsilon;  /* layer_norm_eps */
};

/* Fills in what both have, of the root of a config.json; `keys` are those of one of them. What transformers
 * knows and this does not (another activation, a decoder) is refused by name; so are unknown keys. */
bool token_encoder_config_read(struct token_encoder_config *config, struct json root,
                               const struct config_key *keys, size_t count, struct fault *fault);

/* Most tokens of a sentence: there are positions for them. */
int64_t token_encoder_most_tokens(const struct token_encoder_config *config);

/* x = norm(x + attention(x));  x = norm(x + output(gelu(intermediate(x)))) */
struct token_encoder_layer {
    struct linear query_key_value;  /* C -> 3C, with bias */
    struct linear attention_output; /* C -> C */
    struct layer_norm attention_norm;
    struct linear intermediate, output; /* C -> F, F -> C */
    struct layer_norm output_norm;
    int64_t heads, head_size;
};

struct token_encoder {
    struct token_encoder_config config;
    struct parameter_set parameters;
    struct parameter *word, *position, *type; /* tables [vocabulary, C], [positions, C], [types, C] or NULL */
    struct parameter *distance;               /* table [buckets, heads] or NULL */
    struct layer_norm embedding_norm;
    struct token_encoder_layer *layer; /* [layers], owned */
};

/* Builds the layers and their parameters (without memory: parameter_set_allocate). Free with
 * token_encoder_delete. */
struct token_encoder *token_encoder_new(struct backend *backend, const struct token_encoder_config *config);
void token_encoder_delete(struct token_encoder *encoder); /* NULL allowed */

/* ids [B, T] in host memory, each below `vocabulary`, T <= token_encoder_most_tokens; mask [B, T] fp32, 0 =
 * padding, each sample with at least one token -> last hidden state [B, T, C] */
struct tensor *token_encoder_forward(struct tape *tape, const struct token_encoder *encoder,
                                     const int32_t *ids, struct tensor *mask);

/* The bucket of a key that lies `distance` tokens behind its query (before it: negative), as T5 (Raffel et
 * al. 2020) shares them out among 32: 16 for either direction, of which 8 are of one distance each and 8
 * widen, up to 128 tokens and all beyond. In 0..31. */
int64_t token_encoder_bucket(int64_t distance);

#endif
