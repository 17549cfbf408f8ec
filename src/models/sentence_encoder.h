/* A frozen sentence encoder, as sentence-transformers publishes them: text -> z (METHOD section 3).
 *
 * Read are modules.json, the Transformer module (config.json, model.safetensors, sentence_bert_config.json,
 * tokenizer_config.json, and tokenizer.json or vocab.txt), the Pooling module's config.json and, without
 * files, Normalize; in the forms of the first sentence-transformers up to 6. What is implemented: BERT and
 * MPNet with a WordPiece vocabulary, mean pooling. Anything else is refused by name. */
#ifndef MODELS_SENTENCE_ENCODER_H
#define MODELS_SENTENCE_ENCODER_H

#include "io/sha256.h"
#include "models/token_encoder.h"
#include "models/wordpiece.h"

struct sentence_encoder_options {
    int batch;        /* sentences a forward pass, at least 1 */
    int tokens;       /* most tokens a sentence, the first and last included; 0: what the folder allows */
    bool normalize;   /* apply the folder's Normalize module, where it has one (METHOD 3a: off) */
    enum dtype dtype; /* of the computation */
};

struct sentence_encoder {
    struct wordpiece *tokenizer; /* owned, as are the next two */
    struct token_encoder *model;
    struct tape *tape;
    int batch;
    int tokens;                      /* T: a longer sentence is cut */
    int channels;                    /* D */
    bool normalize;                  /* z is made of length 1 */
    char id[SHA256_HEX_SIZE];        /* SHA-256 of the weights, the vocabulary and what else z depends on but
                                        `tokens` */
    char states_id[SHA256_HEX_SIZE]; /* the same of the token states, which normalising z does not change */
};

/* Reads a folder and readies the encoder for inference. Close with sentence_encoder_close. Faults are
 * EXIT_CODE_INPUT; `tokens` beyond what the folder allows is one. Local to the calling rank. */
bool sentence_encoder_open(struct sentence_encoder *encoder, struct backend *backend, const char *folder,
                           struct sentence_encoder_options options, struct fault *fault);
void sentence_encoder_close(struct sentence_encoder *encoder); /* nothing, if zero or not opened */

/* Encodes `count` texts (UTF-8):
 *   length[count]: tokens of each, 2..T;
 *   states[count, T, D]: the last hidden states, zero beyond a sentence's length; or NULL;
 *   embedding[count, D]: z, their mean over the sentence's tokens.
 * A sentence's result does not depend on the others: batches have a fixed size, and a width that follows from
 * the sentence's own length. */
void sentence_encoder_encode(struct sentence_encoder *encoder, int count, const char *const *text,
                             int32_t *length, float *states, float *embedding);

#endif
