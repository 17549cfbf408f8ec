/* CLIP's image encoder (Radford et al. 2021), as transformers' CLIPVisionModelWithProjection: a pre-norm
 * transformer over the patches of a picture and a class token, whose last state is projected. Inference and
 * training. */
#ifndef MODELS_CLIP_VISION_H
#define MODELS_CLIP_VISION_H

#include "models/clip_encoder.h"
#include "models/weights.h"

/* What config.json says, checked. */
struct clip_vision_config {
    int64_t image_size;     /* pixels a side */
    int64_t patch_size;     /* at most image_size; what is left over at the right and below is not seen */
    int64_t image_channels; /* num_channels */
    int64_t projection;     /* projection_dim, P: width of the features */
    struct clip_encoder_config encoder;
};

/* Reads the root of a config.json; what is missing has transformers' default. Unknown keys, and other values
 * of those that are not implemented, are refused by name (EXIT_CODE_INPUT). */
bool clip_vision_config_read(struct clip_vision_config *config, struct json root, struct fault *fault);
/* The same from the text of such a file; `name` is for messages. */
bool clip_vision_config_parse(struct clip_vision_config *config, const char *text, const char *name,
                              struct fault *fault);

struct clip_vision {
    struct clip_vision_config config;
    struct parameter *class_embedding;    /* [C] */
    struct parameter *patch_embedding;    /* [C, image_channels, patch, patch] */
    struct parameter *position_embedding; /* [1 + patches, C] */
    struct layer_norm pre_norm, post_norm;
    struct clip_encoder encoder;
    struct linear projection; /* C -> P, no bias */
};

/* Builds the layers and adds their parameters to `set` (which the caller owns and allocates) under PyTorch's
 * names, "vision_model...." and "visual_projection.weight". Free with clip_vision_delete. */
struct clip_vision *clip_vision_new(struct parameter_set *set, const struct clip_vision_config *config);
void clip_vision_delete(struct clip_vision *vision); /* NULL allowed */

/* pixels [B, image_size, image_size, image_channels], normalised -> image_embeds [B, P] in the tape's dtype,
 * of any length */
struct tensor *clip_vision_forward(struct tape *tape, const struct clip_vision *vision,
                                   struct tensor *pixels);

#endif
