/* What a prompt becomes: z, by which the router chooses (METHOD section 3), and the token states that the
 * UNet's cross-attention reads. z is the sentence encoder's; the states are those of the text encoder of a
 * published pipeline, or where there is none, those of the sentence encoder too. Local to the calling rank.
 */
#ifndef MODELS_PROMPT_ENCODER_H
#define MODELS_PROMPT_ENCODER_H

#include "models/sentence_encoder.h"
#include "models/text_encoder.h"

struct prompt_encoder_options {
    const char *sentence_encoder; /* folder; "": none, which a pipeline allows: there is no z then */
    const char *pipeline;         /* folder of a diffusers model: its text_encoder and tokenizer; "": none */
    int batch;                    /* prompts a forward pass of the sentence encoder */
    int tokens;       /* most that the sentence encoder reads of a prompt; 0: what its folder allows */
    bool normalize;   /* sentence_encoder_options */
    enum dtype dtype; /* of the computation */
};

struct prompt_encoder {
    struct sentence_encoder sentence; /* owned; zero where there is none */
    struct text_encoder text;         /* owned; zero where there is no pipeline */
    bool has_text, has_sentence;
    int tokens, text_width; /* T, D of the token states */
    int embedding_width;    /* of z; 0: there is none */
};

/* Close with prompt_encoder_close. Faults are EXIT_CODE_INPUT. */
bool prompt_encoder_open(struct prompt_encoder *encoder, struct backend *backend,
                         struct prompt_encoder_options options, struct fault *fault);
void prompt_encoder_close(struct prompt_encoder *encoder); /* nothing, if zero or not opened */

/* The most bytes of activations that were ever in use. */
size_t prompt_encoder_peak(const struct prompt_encoder *encoder);

/* What the states depend on, and what z does ("": there is none): files that are made of them keep the ids.
 */
const char *prompt_encoder_states_id(const struct prompt_encoder *encoder);
const char *prompt_encoder_embedding_id(const struct prompt_encoder *encoder);

/* Encodes `count` prompts (UTF-8):
 *   length[count]: tokens that attention sees, from the first; a published text encoder's are all T;
 *   states[count, T, D], zero beyond the length; or NULL;
 *   embedding[count, embedding_width]: z; or NULL, as it must be where there is none.
 * A prompt's result does not depend on the others. */
void prompt_encoder_encode(struct prompt_encoder *encoder, int count, const char *const *text,
                           int32_t *length, float *states, float *embedding);

#endif
