/* BERT's encoder (Devlin et al. 2019), as transformers' BertModel without its pooler: post-norm transformer
 * layers over the sum of word, position and type embeddings. Inference only. */
#ifndef MODELS_BERT_H
#define MODELS_BERT_H

#include "base/fault.h"
#include "io/json.h"
#include "models/weights.h"
#include "nn/layers.h"

/* What config.json says, checked. */
struct bert_config {
    int64_t vocabulary; /* vocab_size */
    int64_t channels;   /* hidden_size, C */
    int64_t layers;     /* num_hidden_layers */
    int64_t heads;      /* num_attention_heads; they divide C */
    int64_t inner;      /* intermediate_size, F */
    int64_t positions;  /* max_position_embeddings: most tokens */
    int64_t types;      /* type_vocab_size; all tokens are of type 0 here */
    double epsilon;     /* layer_norm_eps */
};

/* Reads the root of a config.json. What BertModel knows and this does not (another activation, relative
 * positions, a decoder) is refused by name; so are unknown keys. */
bool bert_config_read(struct bert_config *config, struct json root, struct fault *fault);

/* x = norm(x + attention(x));  x = norm(x + output(gelu(intermediate(x)))) */
struct bert_layer {
    struct linear query_key_value;  /* C -> 3C, with bias */
    struct linear attention_output; /* C -> C */
    struct layer_norm attention_norm;
    struct linear intermediate, output; /* C -> F, F -> C */
    struct layer_norm output_norm;
    int64_t heads, head_size;
};

struct bert {
    struct bert_config config;
    struct parameter_set parameters;
    struct parameter *word, *position, *type; /* tables [vocabulary, C], [positions, C], [types, C] */
    struct layer_norm embedding_norm;
    struct bert_layer *layer; /* [layers], owned */
};

/* Builds the layers and their parameters (without memory: parameter_set_allocate). Free with bert_delete. */
struct bert *bert_new(struct backend *backend, const struct bert_config *config);
void bert_delete(struct bert *bert); /* NULL allowed */

/* Names in a published file: beside the parameters the pooler, which sentence encoders do not use, and
 * buffers. */
extern const struct weight_names bert_names;

/* ids [B, T] int32 below `vocabulary`, T <= positions; mask [B, T] fp32, 0 = padding, each sample with at
 * least one token -> last hidden state [B, T, C] */
struct tensor *bert_forward(struct tape *tape, const struct bert *bert, struct tensor *ids,
                            struct tensor *mask);

#endif
