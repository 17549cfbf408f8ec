/* CLIP's text encoder (Radford et al. 2021), as transformers' CLIPTextModel and CLIPTextModelWithProjection:
 * a pre-norm transformer in which a token sees those before it. Stable Diffusion's text states are its last
 * hidden state (SD 1: ViT-L/14's; SD 2: OpenCLIP-H's, of which the last layer is left out). Inference and
 * training. */
#ifndef MODELS_CLIP_TEXT_H
#define MODELS_CLIP_TEXT_H

#include "models/clip_encoder.h"
#include "models/weights.h"

/* What config.json says, checked. */
struct clip_text_config {
    int64_t vocabulary; /* vocab_size */
    int64_t positions;  /* max_position_embeddings: most tokens */
    int64_t end_token;  /* eos_token_id; 2: what older versions wrote whatever the vocabulary */
    int64_t projection; /* projection_dim, P, where `architectures` has CLIPTextModelWithProjection; else 0 */
    struct clip_encoder_config encoder;
};

/* Reads the root of a config.json; what is missing has transformers' default. Unknown keys, and other values
 * of those that are not implemented, are refused by name (EXIT_CODE_INPUT). */
bool clip_text_config_read(struct clip_text_config *config, struct json root, struct fault *fault);

struct clip_text {
    struct clip_text_config config;
    struct parameter *token_embedding;    /* [vocabulary, C] */
    struct parameter *position_embedding; /* [positions, C] */
    struct clip_encoder encoder;
    struct layer_norm final_norm;
    struct linear projection; /* C -> P, no bias; nothing if P is 0 */
};

/* Builds the layers and adds their parameters to `set` (which the caller owns and allocates) under PyTorch's
 * names, "text_model...." and "text_projection.weight". Free with clip_text_delete. */
struct clip_text *clip_text_new(struct parameter_set *set, const struct clip_text_config *config);
void clip_text_delete(struct clip_text *text); /* NULL allowed */

/* ids [B, T] int32 below `vocabulary`, T <= positions -> last hidden state, behind the final norm [B, T, C]
 * in the tape's dtype */
struct tensor *clip_text_states(struct tape *tape, const struct clip_text *text, struct tensor *ids);

/* The token that stands for the whole text, for each row of ids [B, T]: the first that is `end_token`, token
 * 0 where there is none; with end_token 2 the first of the highest id. */
void clip_text_end_tokens(const struct clip_text_config *config, int64_t samples, int64_t tokens,
                          const int32_t *ids, int64_t *end);

/* states [B, T, C], end [B] as above -> text_embeds [B, P] in the tape's dtype, of any length. P is not 0. */
struct tensor *clip_text_project(struct tape *tape, const struct clip_text *text, struct tensor *states,
                                 const int64_t *end);

#endif
