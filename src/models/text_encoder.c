#include "models/text_encoder.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

/* The hash of everything that makes the states what they are. */
static void identify(struct text_encoder *encoder)
{
    const struct clip_encoder_config *config = &encoder->model->config.encoder;
    char *text =
        check_format("clip_text heads %lld layers %lld activation %s epsilon %.17g", (long long)config->heads,
                     (long long)config->layers,
                     config->activation == ACTIVATION_GELU_QUICK ? "quick_gelu" : "gelu", config->epsilon);
    struct sha256 *hash = sha256_new();
    sha256_add(hash, text, strlen(text) + 1);
    weights_identify(&encoder->parameters, hash);
    clip_bpe_identify(encoder->tokenizer, hash);
    sha256_finish(hash, encoder->id);
    free(text);
}

static bool open_encoder(struct text_encoder *encoder, struct backend *backend, const char *model_folder,
                         const char *tokenizer_folder, enum dtype dtype, struct fault *fault)
{
    if (!clip_bpe_read(tokenizer_folder, &encoder->tokenizer, fault)) return false;
    encoder->model = clip_text_open(&encoder->parameters, backend, model_folder, false, fault);
    if (!encoder->model) return false;
    const struct clip_text_config *config = &encoder->model->config;
    encoder->tokens = clip_bpe_length(encoder->tokenizer);
    encoder->channels = (int)config->encoder.channels;
    encoder->vocabulary = config->vocabulary;
    if (clip_bpe_count(encoder->tokenizer) > config->vocabulary || encoder->tokens > config->positions)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: %d tokens, %d a text, but vocab_size of %s is %lld and "
                           "max_position_embeddings %lld",
                           tokenizer_folder, (int)clip_bpe_count(encoder->tokenizer), encoder->tokens,
                           model_folder, (long long)config->vocabulary, (long long)config->positions);
    identify(encoder);
    parameter_set_freeze(&encoder->parameters, dtype, false);
    encoder->tape = tape_new(backend, dtype);
    return true;
}

bool text_encoder_open(struct text_encoder *encoder, struct backend *backend, const char *model_folder,
                       const char *tokenizer_folder, struct text_encoder_options options, struct fault *fault)
{
    CHECK(options.batch >= 1, "a batch of %d texts", options.batch);
    *encoder = (struct text_encoder){.batch = options.batch};
    if (open_encoder(encoder, backend, model_folder, tokenizer_folder, options.dtype, fault)) return true;
    text_encoder_close(encoder);
    return false;
}

bool text_encoder_open_pipeline(struct text_encoder *encoder, struct backend *backend, const char *pipeline,
                                struct text_encoder_options options, struct fault *fault)
{
    char *model = check_format("%s/text_encoder", pipeline),
         *tokenizer = check_format("%s/tokenizer", pipeline);
    bool ok = text_encoder_open(encoder, backend, model, tokenizer, options, fault);
    free(model);
    free(tokenizer);
    return ok;
}

bool text_encoder_identify(const char *pipeline, char id[SHA256_HEX_SIZE], struct fault *fault)
{
    struct text_encoder encoder;
    struct text_encoder_options options = {.batch = 1, .dtype = DTYPE_F32};
    struct backend *backend = backend_open(BACKEND_CPU);
    bool ok = text_encoder_open_pipeline(&encoder, backend, pipeline, options, fault);
    if (ok) memcpy(id, encoder.id, SHA256_HEX_SIZE);
    text_encoder_close(&encoder);
    backend_close(backend);
    return ok;
}

void text_encoder_close(struct text_encoder *encoder)
{
    if (encoder->tape) tape_delete(encoder->tape);
    clip_text_delete(encoder->model);
    parameter_set_clear(&encoder->parameters);
    clip_bpe_free(encoder->tokenizer);
    *encoder = (struct text_encoder){0};
}

/* One forward pass: ids [filled, T] -> states [filled, T, D]; the batch's other rows repeat the last one. */
static void encode_batch(struct text_encoder *encoder, int64_t filled, const int32_t *ids, float *states)
{
    int64_t batch = encoder->batch, tokens = encoder->tokens, channels = encoder->channels,
            values = tokens * channels;
    int32_t *batch_ids = check_malloc((size_t)(batch * tokens) * sizeof *batch_ids);     // [B, T]
    float *batch_states = check_malloc((size_t)(batch * values) * sizeof *batch_states); // [B, T, D]
    for (int64_t b = 0; b < batch; b++)
        memcpy(batch_ids + b * tokens, ids + (b < filled ? b : filled - 1) * tokens,
               (size_t)tokens * sizeof *ids);
    tape_reset(encoder->tape, TAPE_NO_GRADIENT);
    struct tensor *input = tape_input(encoder->tape, DTYPE_I32, 2, (int64_t[]){batch, tokens}, batch_ids);
    tape_read(encoder->tape, clip_text_states(encoder->tape, encoder->model, input), batch_states);
    memcpy(states, batch_states, (size_t)(filled * values) * sizeof *states);
    free(batch_states);
    free(batch_ids);
}

void text_encoder_tokenize(const struct text_encoder *encoder, int64_t count, const char *const *text,
                           int32_t *ids, int64_t *cut)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t lost = clip_bpe_encode(encoder->tokenizer, text[i], strlen(text[i]), encoder->tokens,
                                       ids + i * encoder->tokens, NULL);
        if (cut) cut[i] = lost;
    }
}

void text_encoder_states(struct text_encoder *encoder, int64_t count, const int32_t *ids, float *states)
{
    int64_t tokens = encoder->tokens, channels = encoder->channels;
    for (int64_t first = 0; first < count; first += encoder->batch) {
        int64_t filled = count - first < encoder->batch ? count - first : encoder->batch;
        encode_batch(encoder, filled, ids + first * tokens, states + first * tokens * channels);
    }
}

void text_encoder_encode(struct text_encoder *encoder, int64_t count, const char *const *text, int32_t *ids,
                         float *states, int64_t *cut)
{
    text_encoder_tokenize(encoder, count, text, ids, cut);
    text_encoder_states(encoder, count, ids, states);
}
