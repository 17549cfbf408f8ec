#include "models/prompt_encoder.h"

#include "base/check.h"

#include <stdlib.h>

static bool open_text(struct prompt_encoder *encoder, struct backend *backend,
                      const struct prompt_encoder_options *options, struct fault *fault)
{
    struct text_encoder_options text = {.batch = TEXT_ENCODER_BATCH, .dtype = options->dtype};
    encoder->has_text = text_encoder_open_pipeline(&encoder->text, backend, options->pipeline, text, fault);
    return encoder->has_text;
}

static bool open_sentence(struct prompt_encoder *encoder, struct backend *backend,
                          const struct prompt_encoder_options *options, struct fault *fault)
{
    struct sentence_encoder_options sentence = {.batch = options->batch,
                                                .tokens = options->tokens,
                                                .normalize = options->normalize,
                                                .dtype = options->dtype};
    encoder->has_sentence =
        sentence_encoder_open(&encoder->sentence, backend, options->sentence_encoder, sentence, fault);
    return encoder->has_sentence;
}

bool prompt_encoder_open(struct prompt_encoder *encoder, struct backend *backend,
                         struct prompt_encoder_options options, struct fault *fault)
{
    bool text = *options.pipeline, sentence = *options.sentence_encoder || !text;
    *encoder = (struct prompt_encoder){0};
    if ((sentence && !open_sentence(encoder, backend, &options, fault)) ||
        (text && !open_text(encoder, backend, &options, fault))) {
        prompt_encoder_close(encoder);
        return false;
    }
    encoder->embedding_width = sentence ? encoder->sentence.channels : 0;
    encoder->text_width = text ? encoder->text.channels : encoder->sentence.channels;
    encoder->tokens = text ? encoder->text.tokens : encoder->sentence.tokens;
    return true;
}

void prompt_encoder_close(struct prompt_encoder *encoder)
{
    if (encoder->has_sentence) sentence_encoder_close(&encoder->sentence);
    if (encoder->has_text) text_encoder_close(&encoder->text);
    *encoder = (struct prompt_encoder){0};
}

size_t prompt_encoder_peak(const struct prompt_encoder *encoder)
{
    return (encoder->has_sentence ? arena_peak(tape_arena(encoder->sentence.tape)) : 0) +
           (encoder->has_text ? arena_peak(tape_arena(encoder->text.tape)) : 0);
}

const char *prompt_encoder_states_id(const struct prompt_encoder *encoder)
{
    return encoder->has_text ? encoder->text.id : encoder->sentence.states_id;
}

const char *prompt_encoder_embedding_id(const struct prompt_encoder *encoder)
{
    return encoder->has_sentence ? encoder->sentence.id : "";
}

/* The states of all T tokens. */
static void encode_text(struct prompt_encoder *encoder, int count, const char *const *text, float *states)
{
    int32_t *ids = check_malloc((size_t)count * (size_t)encoder->tokens * sizeof *ids);
    text_encoder_encode(&encoder->text, count, text, ids, states, NULL);
    free(ids);
}

void prompt_encoder_encode(struct prompt_encoder *encoder, int count, const char *const *text,
                           int32_t *length, float *states, float *embedding)
{
    CHECK(encoder->has_sentence || !embedding, "z of prompts is asked for without a sentence encoder");
    if (!encoder->has_text || embedding) {
        size_t values = (size_t)count * (size_t)encoder->embedding_width;
        float *z = embedding ? embedding : check_malloc(values * sizeof *z);
        sentence_encoder_encode(&encoder->sentence, count, text, length, encoder->has_text ? NULL : states,
                                z);
        if (!embedding) free(z);
    }
    if (!encoder->has_text) return;
    for (int i = 0; i < count; i++) length[i] = encoder->tokens;
    if (states) encode_text(encoder, count, text, states);
}
