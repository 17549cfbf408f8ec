#include "models/prompt_encoder.h"

#include "base/check.h"

#include <stdlib.h>

bool prompt_encoder_open(struct prompt_encoder *encoder, struct backend *backend,
                         struct prompt_encoder_options options, struct fault *fault)
{
    struct sentence_encoder_options sentence = {.batch = options.batch,
                                                .tokens = options.tokens,
                                                .normalize = options.normalize,
                                                .dtype = options.dtype};
    *encoder = (struct prompt_encoder){0};
    if (!sentence_encoder_open(&encoder->sentence, backend, options.sentence_encoder, sentence, fault))
        return false;
    encoder->embedding_width = encoder->text_width = encoder->sentence.channels;
    encoder->tokens = encoder->sentence.tokens;
    if (!*options.pipeline) return true;
    struct text_encoder_options text = {.batch = TEXT_ENCODER_BATCH, .dtype = options.dtype};
    encoder->has_text = text_encoder_open_pipeline(&encoder->text, backend, options.pipeline, text, fault);
    if (!encoder->has_text) {
        prompt_encoder_close(encoder);
        return false;
    }
    encoder->text_width = encoder->text.channels;
    encoder->tokens = encoder->text.tokens;
    return true;
}

void prompt_encoder_close(struct prompt_encoder *encoder)
{
    sentence_encoder_close(&encoder->sentence);
    if (encoder->has_text) text_encoder_close(&encoder->text);
    *encoder = (struct prompt_encoder){0};
}

const char *prompt_encoder_states_id(const struct prompt_encoder *encoder)
{
    return encoder->has_text ? encoder->text.id : encoder->sentence.states_id;
}

const char *prompt_encoder_embedding_id(const struct prompt_encoder *encoder)
{
    return encoder->sentence.id;
}

void prompt_encoder_encode(struct prompt_encoder *encoder, int count, const char *const *text,
                           int32_t *length, float *states, float *embedding)
{
    sentence_encoder_encode(&encoder->sentence, count, text, length, encoder->has_text ? NULL : states,
                            embedding);
    if (!encoder->has_text) return;
    for (int i = 0; i < count; i++) length[i] = encoder->tokens;
    if (!states) return;
    int32_t *ids = check_malloc((size_t)count * (size_t)encoder->tokens * sizeof *ids);
    text_encoder_encode(&encoder->text, count, text, ids, states, NULL);
    free(ids);
}
