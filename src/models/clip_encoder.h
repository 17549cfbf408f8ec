/* The transformer that both of CLIP's encoders are made of (Radford et al. 2021), as transformers'
 * CLIPEncoder: pre-norm layers, over all tokens or over those before. Inference and training. */
#ifndef MODELS_CLIP_ENCODER_H
#define MODELS_CLIP_ENCODER_H

#include "base/fault.h"
#include "io/json.h"
#include "nn/layers.h"

/* What config.json says of the layers, checked. */
struct clip_encoder_config {
    int64_t channels;           /* hidden_size, C */
    int64_t inner;              /* intermediate_size, F */
    int64_t layers;             /* num_hidden_layers */
    int64_t heads;              /* num_attention_heads; they divide C */
    enum activation activation; /* hidden_act: quick_gelu or gelu */
    double epsilon;             /* layer_norm_eps */
};

/* Reads the members of a config.json named above; what is missing stays what it is, which must be sound.
 * Other members are not looked at. Faults are EXIT_CODE_INPUT. */
bool clip_encoder_config_read(struct clip_encoder_config *config, struct json root, struct fault *fault);

/* x += attention(norm1(x));  x += fc2(activation(fc1(norm2(x)))) */
struct clip_layer {
    struct layer_norm norm1, norm2;
    struct linear query_key_value;  /* C -> 3C, with bias */
    struct linear attention_output; /* C -> C */
    struct linear fc1, fc2;         /* C -> F, F -> C */
    int64_t heads, head_size;
    enum activation activation;
    bool causal; /* token i sees tokens 0..i */
};

struct clip_encoder {
    struct clip_layer *layer; /* [layers], owned */
    int64_t layers;
};

/* Adds the layers' parameters to `set` under PyTorch's names, "`path`.layers.0.layer_norm1.weight", ... Free
 * with clip_encoder_clear. */
void clip_encoder_init(struct clip_encoder *encoder, struct parameter_set *set,
                       const struct clip_encoder_config *config, bool causal, const char *path);
void clip_encoder_clear(struct clip_encoder *encoder);

/* x [B, T, C] -> [B, T, C] in the tape's dtype */
struct tensor *clip_encoder_forward(struct tape *tape, const struct clip_encoder *encoder, struct tensor *x);

/* The entries 0..count-1 of a table [.., C] for each of `samples` samples: [samples, count, C] */
struct tensor *clip_table_entries(struct tape *tape, struct parameter *table, int64_t samples, int64_t count);

/* x [B, T, C] -> token token[b] of each sample, [B, C] in the tape's dtype; token [B], below T */
struct tensor *clip_pick_token(struct tape *tape, struct tensor *x, const int64_t *token);

#endif
