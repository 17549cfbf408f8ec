/* References of tokenizers and sentence encoders. */
#include "base/check.h"
#include "models/sentence_encoder.h"
#include "models/weights.h"
#include "phases/verify_models.h"

#include <stdlib.h>
#include <string.h>

enum {
    CONFIG_MAX_BYTES = 1 << 20,
    TEXT_MAX_BYTES = 1 << 28, // of all texts together
    MAX_TEXTS = 1 << 20,
    BATCH = 32, // sentences a forward pass
};

// ---- bert

/* inputs of BERT; owned */
struct token_batch {
    int64_t B, T;
    int32_t *ids; /* [B, T] */
    float *mask;  /* [B, T], 0 = padding */
};

/* Ids below `vocabulary`, at least one token a sample. */
static bool read_tokens(struct verification *verification, const struct bert_config *config,
                        struct token_batch *batch, struct fault *fault)
{
    int64_t shape[2] = {-1, -1}, *ids = NULL, *mask = NULL;
    bool ok = verify_load_integers(verification, "inputs/input_ids", 2, shape, 0, config->vocabulary - 1,
                                   &ids, shape, fault) &&
              verify_load_integers(verification, "inputs/attention_mask", 2, shape, 0, 1, &mask, NULL, fault);
    int64_t B = batch->B = shape[0], T = batch->T = shape[1];
    if (ok && T > config->positions)
        ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %lld tokens, the model has %lld positions",
                         h5_path(verification->reference), (long long)T, (long long)config->positions);
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

/* folder/config.json and its weights */
static bool open_bert(struct verification *verification, struct bert **bert, struct fault *fault)
{
    struct bert_config config;
    struct json_document *document = NULL;
    char *path = check_format("%s/config.json", verification->folder);
    bool ok = json_read(path, CONFIG_MAX_BYTES, &document, fault) &&
              bert_config_read(&config, json_root(document), fault);
    json_free(document);
    free(path);
    if (!ok) return false;
    *bert = bert_new(verification->backend, &config);
    struct parameter_set *set = &(*bert)->parameters;
    if (!weights_load_folder(set, verification->folder, "model", &bert_names, false, fault)) return false;
    parameter_set_freeze(set, verification->dtype, false);
    return true;
}

static bool run_bert(struct verification *verification, const struct bert *bert,
                     const struct token_batch *batch, struct fault *fault)
{
    struct tape *tape = tape_new(verification->backend, verification->dtype);
    int64_t shape[3] = {batch->B, batch->T, bert->config.channels};
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct tensor *ids = tape_input(tape, DTYPE_I32, 2, shape, batch->ids);
    struct tensor *mask = tape_input(tape, DTYPE_F32, 2, shape, batch->mask);
    struct tensor *hidden = bert_forward(tape, bert, ids, mask);   // [B, T, C]
    struct tensor *embedding = op_masked_mean(tape, hidden, mask); // [B, C]
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

bool verify_bert(struct verification *verification, struct fault *fault)
{
    struct bert *bert = NULL;
    struct token_batch batch = {0};
    bool ok = open_bert(verification, &bert, fault) &&
              read_tokens(verification, &bert->config, &batch, fault) &&
              run_bert(verification, bert, &batch, fault);
    free(batch.mask);
    free(batch.ids);
    bert_delete(bert);
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

/* outputs/input_ids [N, T], padded to T, and outputs/length [N] where there is one. */
static bool compare_ids(struct verification *verification, const struct sentence_encoder *encoder,
                        const struct h5_strings *texts, struct fault *fault)
{
    int64_t N = texts->count, any[2] = {N, -1};
    struct h5_info info;
    if (!h5_expect(verification->reference, "outputs/input_ids", 2, any, &info, fault)) return false;
    int64_t T = info.shape[1];
    if (T < 2 || T > encoder->tokens)
        return fault_raise(fault, EXIT_CODE_INPUT,
                           "%s: outputs/input_ids has %lld tokens a text, 2 to %d allowed by its folder",
                           h5_path(verification->reference), (long long)T, encoder->tokens);
    int32_t *row = check_malloc((size_t)T * sizeof *row);
    int64_t *ids = check_malloc((size_t)(N * T) * sizeof *ids),
            *length = check_malloc((size_t)N * sizeof *length);
    for (int64_t i = 0; i < N; i++) {
        const char *text = texts->item[i];
        length[i] = wordpiece_encode(encoder->tokenizer, text, strlen(text), (int)T, row);
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
              compare_ids(verification, &encoder, &texts, fault) &&
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
