/* CLIP's image encoder (Radford et al. 2021), as transformers' CLIPVisionModelWithProjection: a pre-norm
 * transformer over the patches of a picture and a class token, whose last state is projected. Inference and
 * training. */
#ifndef MODELS_CLIP_VISION_H
#define MODELS_CLIP_VISION_H

#include "base/fault.h"
#include "io/json.h"
#include "models/weights.h"
#include "nn/layers.h"

/* What config.json says, checked. */
struct clip_vision_config {
    int64_t image_size;         /* pixels a side */
    int64_t patch_size;         /* at most image_size; what is left over at the right and below is not seen */
    int64_t image_channels;     /* num_channels */
    int64_t channels;           /* hidden_size, C */
    int64_t inner;              /* intermediate_size, F */
    int64_t layers;             /* num_hidden_layers */
    int64_t heads;              /* num_attention_heads; they divide C */
    int64_t projection;         /* projection_dim, P: width of the features */
    enum activation activation; /* hidden_act: quick_gelu or gelu */
    double epsilon;             /* layer_norm_eps */
};

/* Reads the root of a config.json; what is missing has transformers' default. Unknown keys, and other values
 * of those that are not implemented, are refused by name (EXIT_CODE_INPUT). */
bool clip_vision_config_read(struct clip_vision_config *config, struct json root, struct fault *fault);
/* The same from the text of such a file; `name` is for messages. */
bool clip_vision_config_parse(struct clip_vision_config *config, const char *text, const char *name,
                              struct fault *fault);

/* x += attention(norm1(x));  x += fc2(activation(fc1(norm2(x)))) */
struct clip_vision_layer {
    struct layer_norm norm1, norm2;
    struct linear query_key_value;  /* C -> 3C, with bias */
    struct linear attention_output; /* C -> C */
    struct linear fc1, fc2;         /* C -> F, F -> C */
    int64_t heads, head_size;
    enum activation activation;
};

struct clip_vision {
    struct clip_vision_config config;
    struct parameter *class_embedding;    /* [C] */
    struct parameter *patch_embedding;    /* [C, image_channels, patch, patch] */
    struct parameter *position_embedding; /* [1 + patches, C] */
    struct layer_norm pre_norm, post_norm;
    struct clip_vision_layer *layer; /* [layers], owned */
    struct linear projection;        /* C -> P, no bias */
};

/* Builds the layers and adds their parameters to `set` (which the caller owns and allocates) under PyTorch's
 * names, "vision_model...." and "visual_projection.weight". Free with clip_vision_delete. */
struct clip_vision *clip_vision_new(struct parameter_set *set, const struct clip_vision_config *config);
void clip_vision_delete(struct clip_vision *vision); /* NULL allowed */

/* Names in a published file: a buffer beside the parameters. */
extern const struct weight_names clip_vision_names;

/* pixels [B, image_size, image_size, image_channels], normalised -> image_embeds [B, P] in the tape's dtype,
 * of any length */
struct tensor *clip_vision_forward(struct tape *tape, const struct clip_vision *vision,
                                   struct tensor *pixels);

#endif
