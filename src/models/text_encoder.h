/* The text encoder of a published Stable Diffusion, tokenizer and model: text -> the token states that the
 * UNet's cross-attention reads (METHOD section 2), as diffusers' pipelines make them. */
#ifndef MODELS_TEXT_ENCODER_H
#define MODELS_TEXT_ENCODER_H

#include "io/sha256.h"
#include "models/clip_bpe.h"
#include "models/clip_folder.h"

/* Texts a forward pass wherever states of data.h5's captions are made. Results depend on the shapes of the
 * computation in their last bits: with one batch the states that prepare stores and those that a training
 * phase computes are the same. */
enum { TEXT_ENCODER_BATCH = 8 };

struct text_encoder_options {
    int batch;        /* texts a forward pass, at least 1 */
    enum dtype dtype; /* of the computation */
};

struct text_encoder {
    struct clip_bpe *tokenizer; /* owned, as are the next three */
    struct parameter_set parameters;
    struct clip_text *model;
    struct tape *tape;
    int batch;
    int tokens;               /* T: the tokenizer's model_max_length, 77 */
    int channels;             /* D */
    int64_t vocabulary;       /* ids are below it */
    char id[SHA256_HEX_SIZE]; /* SHA-256 of all that the states depend on, but for the precision: weights,
                                 vocabulary, merges, special tokens, ... whatever files they were read from */
};

/* Reads the folders `text_encoder` (CLIPTextModel; a projection is not used) and `tokenizer` of a diffusers
 * model and readies the encoder for inference. Close with text_encoder_close. Faults are EXIT_CODE_INPUT; so
 * is a tokenizer with more tokens, or for longer texts, than the model. Local to the calling rank. */
bool text_encoder_open(struct text_encoder *encoder, struct backend *backend, const char *model_folder,
                       const char *tokenizer_folder, struct text_encoder_options options,
                       struct fault *fault);
/* The same of the folders text_encoder and tokenizer in that of a whole published model. */
bool text_encoder_open_pipeline(struct text_encoder *encoder, struct backend *backend, const char *pipeline,
                                struct text_encoder_options options, struct fault *fault);
/* The id alone. One that is opened on the plan backend, which holds no weights, does not have its own. */
bool text_encoder_identify(const char *pipeline, char id[SHA256_HEX_SIZE], struct fault *fault);
void text_encoder_close(struct text_encoder *encoder); /* nothing, if zero or not opened */

/* Encodes `count` texts (UTF-8):
 *   ids[count, T]: their tokens, padded;
 *   states[count, T, D]: the last hidden states of all T tokens: the padding's belong to it, no key is
 * masked; cut[count]: tokens of each that did not fit and were cut off; or NULL. A text's result does not
 * depend on the others: batches have a fixed size. */
void text_encoder_encode(struct text_encoder *encoder, int64_t count, const char *const *text, int32_t *ids,
                         float *states, int64_t *cut);

/* Its two halves: texts to ids and cut (NULL allowed), and ids, each in [0, vocabulary), to states. */
void text_encoder_tokenize(const struct text_encoder *encoder, int64_t count, const char *const *text,
                           int32_t *ids, int64_t *cut);
void text_encoder_states(struct text_encoder *encoder, int64_t count, const int32_t *ids, float *states);

#endif
