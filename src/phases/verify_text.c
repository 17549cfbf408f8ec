/* References of tokenizers, sentence encoders and Stable Diffusion's text encoder. */
#include "base/check.h"
#include "models/sentence_encoder.h"
#include "models/text_encoder.h"
#include "models/token_encoder_folder.h"
#include "models/weights.h"
#include "phases/verify_models.h"

#include <stdlib.h>
#include <string.h>

enum {
    TEXT_MAX_BYTES = 1 << 28, // of all texts together
    MAX_TEXTS = 1 << 20,
    BATCH = 32, // sentences a forward pass
};

// ---- BERT, MPNet

/* inputs of the model; owned */
struct token_batch {
    int64_t B, T;
    int32_t *ids; /* [B, T] */
    float *mask;  /* [B, T], 0 = padding */
};

/* Ids below `vocabulary`, at least one token a sample. */
static bool read_tokens(struct verification *verification, const struct token_encoder_config *config,
                        struct token_batch *batch, struct fault *fault)
{
    int64_t shape[2] = {-1, -1}, *ids = NULL, *mask = NULL;
    bool ok = verify_load_integers(verification, "inputs/input_ids", 2, shape, 0, config->vocabulary - 1,
                                   &ids, shape, fault) &&
              verify_load_integers(verification, "inputs/attention_mask", 2, shape, 0, 1, &mask, NULL, fault);
    int64_t B = batch->B = shape[0], T = batch->T = shape[1];
    int64_t most = token_encoder_most_tokens(config);
    if (ok && T > most)
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld tokens, the model has positions for %lld",
                         h5_path(verification->reference), (long long)T, (long long)most);
    if (ok) {
        batch->ids = check_malloc((size_t)(B * T) * sizeof *batch->ids);
        batch->mask = check_malloc((size_t)(B * T) * sizeof *batch->mask);
    }
    for (int64_t b = 0; ok && b < B; b++) {
        int64_t tokens = 0;
        for (int64_t i = b * T; i < (b + 1) * T; i++) {
            batch->ids[i] = (int32_t)ids[i];
            batch->mask[i] = (float)mask[i];
            tokens += mask[i];
        }
        if (tokens == 0)
            ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: inputs/attention_mask hides all tokens of row %lld",
                             h5_path(verification->reference), (long long)b);
    }
    free(mask);
    free(ids);
    return ok;
}

static bool run_model(struct verification *verification, const struct token_encoder *encoder,
                      const struct token_batch *batch, struct fault *fault)
{
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    int64_t shape[3] = {batch->B, batch->T, encoder->config.channels};
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct tensor *mask = tape_input(tape, DTYPE_F32, 2, shape, batch->mask);
    struct tensor *hidden = token_encoder_forward(tape, encoder, batch->ids, mask); // [B, T, C]
    struct tensor *embedding = op_masked_mean(tape, hidden, mask);                  // [B, C]
    float *values = check_malloc((size_t)tensor_count(hidden) * sizeof *values);
    tape_read(tape, hidden, values);
    bool ok =
        verify_floats(verification, QUANTITY_OUTPUT, "outputs/last_hidden_state", 3, shape, values, fault);
    tape_read(tape, embedding, values);
    ok = ok &&
         verify_floats(verification, QUANTITY_OUTPUT, "outputs/embedding", 2, embedding->dim, values, fault);
    if (ok) verify_report_memory(verification, tape);
    free(values);
    tape_delete(tape);
    return ok;
}

bool verify_token_encoder(struct verification *verification, struct fault *fault)
{
    struct token_encoder_config config;
    struct token_encoder *encoder = NULL;
    struct token_batch batch = {0};
    bool ok = token_encoder_folder_config(verification->folder, &config, fault) &&
              token_encoder_folder_open(verification->backend, verification->folder, &config,
                                        verification->dtype, &encoder, fault) &&
              read_tokens(verification, &config, &batch, fault) &&
              run_model(verification, encoder, &batch, fault);
    free(batch.mask);
    free(batch.ids);
    token_encoder_delete(encoder);
    return ok;
}

// ---- tokenizer and whole encoder

static bool read_texts(struct verification *verification, struct h5_strings *texts, struct fault *fault)
{
    struct h5_info info;
    int64_t any = -1;
    if (!h5_expect(verification->reference, "inputs/text", 1, &any, &info, fault)) return false;
    if (info.shape[0] < 1 || info.shape[0] > MAX_TEXTS)
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: inputs/text has %lld texts, 1 to %d allowed",
                           h5_path(verification->reference), (long long)info.shape[0], MAX_TEXTS);
    return h5_read_strings(verification->reference, "inputs/text", 0, info.shape[0], TEXT_MAX_BYTES, texts,
                           fault);
}

/* ids[capacity] of a text, padded; returns how many are not padding. */
typedef int encode_text(const void *tokenizer, const char *text, int capacity, int32_t *ids);

static int encode_wordpiece(const void *tokenizer, const char *text, int capacity, int32_t *ids)
{
    return wordpiece_encode(tokenizer, text, strlen(text), capacity, ids);
}

static int encode_clip_bpe(const void *tokenizer, const char *text, int capacity, int32_t *ids)
{
    int length;
    clip_bpe_encode(tokenizer, text, strlen(text), capacity, ids, &length);
    return length;
}

/* outputs/input_ids [N, T], padded to T <= `most`, and outputs/length [N] where there is one. */
static bool compare_ids(struct verification *verification, encode_text *encode, const void *tokenizer,
                        int most, const struct h5_strings *texts, struct fault *fault)
{
    int64_t N = texts->count, any[2] = {N, -1};
    struct h5_info info;
    if (!h5_expect(verification->reference, "outputs/input_ids", 2, any, &info, fault)) return false;
    int64_t T = info.shape[1];
    if (T < 2 || T > most)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: outputs/input_ids has %lld tokens a text, 2 to %d allowed by its folder",
                           h5_path(verification->reference), (long long)T, most);
    int32_t *row = check_malloc((size_t)T * sizeof *row);
    int64_t *ids = check_malloc((size_t)(N * T) * sizeof *ids),
            *length = check_malloc((size_t)N * sizeof *length);
    for (int64_t i = 0; i < N; i++) {
        length[i] = encode(tokenizer, texts->item[i], (int)T, row);
        for (int64_t t = 0; t < T; t++) ids[i * T + t] = row[t];
    }
    bool ok = verify_integers(verification, "outputs/input_ids", 2, info.shape, ids, fault) &&
              (!h5_exists(verification->reference, "outputs/length") ||
               verify_integers(verification, "outputs/length", 1, &N, length, fault));
    free(length);
    free(ids);
    free(row);
    return ok;
}

static bool compare_embeddings(struct verification *verification, struct sentence_encoder *encoder,
                               const struct h5_strings *texts, struct fault *fault)
{
    int64_t shape[2] = {texts->count, encoder->channels};
    int32_t *length = check_malloc((size_t)shape[0] * sizeof *length);
    float *embedding = check_malloc((size_t)(shape[0] * shape[1]) * sizeof *embedding);
    sentence_encoder_encode(encoder, (int)shape[0], (const char *const *)texts->item, length, NULL,
                            embedding);
    bool ok = verify_floats(verification, QUANTITY_OUTPUT, "outputs/embedding", 2, shape, embedding, fault);
    if (ok) verify_report_memory(verification, encoder->tape);
    free(embedding);
    free(length);
    return ok;
}

static bool verify_encoder(struct verification *verification, bool embeddings, struct fault *fault)
{
    struct sentence_encoder encoder = {0};
    struct sentence_encoder_options options = {
        .batch = BATCH, .normalize = true, .dtype = verification->dtype};
    struct h5_strings texts = {0};
    bool ok = read_texts(verification, &texts, fault) &&
              sentence_encoder_open(&encoder, verification->backend, verification->folder, options, fault) &&
              compare_ids(verification, encode_wordpiece, encoder.tokenizer, encoder.tokens, &texts, fault) &&
              (!embeddings || compare_embeddings(verification, &encoder, &texts, fault));
    sentence_encoder_close(&encoder);
    h5_strings_free(&texts);
    return ok;
}

bool verify_wordpiece(struct verification *verification, struct fault *fault)
{
    return verify_encoder(verification, false, fault);
}

bool verify_sentence_encoder(struct verification *verification, struct fault *fault)
{
    return verify_encoder(verification, true, fault);
}

// ---- Stable Diffusion's

bool verify_clip_bpe(struct verification *verification, struct fault *fault)
{
    struct clip_bpe *tokenizer = NULL;
    struct h5_strings texts = {0};
    bool ok =
        read_texts(verification, &texts, fault) && clip_bpe_read(verification->folder, &tokenizer, fault) &&
        compare_ids(verification, encode_clip_bpe, tokenizer, clip_bpe_length(tokenizer), &texts, fault);
    clip_bpe_free(tokenizer);
    h5_strings_free(&texts);
    return ok;
}

static bool compare_states(struct verification *verification, struct text_encoder *encoder,
                           const struct h5_strings *texts, struct fault *fault)
{
    int64_t shape[3] = {texts->count, encoder->tokens, encoder->channels};
    size_t tokens = (size_t)(shape[0] * shape[1]);
    int32_t *ids = check_malloc(tokens * sizeof *ids);
    float *states = check_malloc(tokens * (size_t)shape[2] * sizeof *states);
    text_encoder_encode(encoder, texts->count, (const char *const *)texts->item, ids, states, NULL);
    bool ok =
        verify_floats(verification, QUANTITY_OUTPUT, "outputs/last_hidden_state", 3, shape, states, fault);
    if (ok) verify_report_memory(verification, encoder->tape);
    free(states);
    free(ids);
    return ok;
}

/* Both folders, text_encoder and tokenizer, lie in the reference's. */
bool verify_text_encoder(struct verification *verification, struct fault *fault)
{
    struct text_encoder encoder = {0};
    struct text_encoder_options options = {.batch = BATCH, .dtype = verification->dtype};
    struct h5_strings texts = {0};
    char *model = check_format("%s/text_encoder", verification->folder),
         *tokenizer = check_format("%s/tokenizer", verification->folder);
    bool ok = read_texts(verification, &texts, fault) &&
              text_encoder_open(&encoder, verification->backend, model, tokenizer, options, fault) &&
              compare_ids(verification, encode_clip_bpe, encoder.tokenizer, encoder.tokens, &texts, fault) &&
              compare_states(verification, &encoder, &texts, fault);
    text_encoder_close(&encoder);
    h5_strings_free(&texts);
    free(tokenizer);
    free(model);
    return ok;
}
