/* BERT's encoder against transformers' BertModel, and its configuration's refusals. */
#include "models/bert.h"

#include "io/hdf5_file.h"
#include "models/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char FOLDER[] = "test/fixtures/bert_small", FIXTURE[] = "test/fixtures/bert_small.h5";

/* fp32 sums over two layers: PyTorch's own fp32 is 3e-7 of the largest value away from the fp64 reference. */
static const double TOLERANCE = 2e-6;

struct model {
    struct backend *backend;
    struct bert *bert;
    struct tape *tape;
};

static struct model open_model(void)
{
    struct fault fault = {0};
    struct json_document *document = NULL;
    struct bert_config config;
    struct model model = {.backend = backend_open(BACKEND_CPU)};
    char path[256];
    snprintf(path, sizeof path, "%s/config.json", FOLDER);
    if (!json_read(path, 1 << 16, &document, &fault) ||
        !bert_config_read(&config, json_root(document), &fault))
        fail_msg("%s", fault.text);
    json_free(document);
    model.bert = bert_new(model.backend, &config);
    if (!weights_load_folder(&model.bert->parameters, FOLDER, "model", &bert_names, false, &fault))
        fail_msg("%s", fault.text);
    model.tape = tape_new(model.backend, DTYPE_F32);
    return model;
}

static void close_model(struct model *model)
{
    tape_delete(model->tape);
    bert_delete(model->bert);
    backend_close(model->backend);
}

/* hidden [B, T, C], embedding [B, C] */
static void forward(struct model *model, int64_t samples, int64_t tokens, const int32_t *ids,
                    const float *mask, float *hidden, float *embedding)
{
    int64_t shape[] = {samples, tokens};
    tape_reset(model->tape, TAPE_NO_GRADIENT);
    struct tensor *id_tensor = tape_input(model->tape, DTYPE_I32, 2, shape, ids);
    struct tensor *mask_tensor = tape_input(model->tape, DTYPE_F32, 2, shape, mask);
    struct tensor *state = bert_forward(model->tape, model->bert, id_tensor, mask_tensor);
    tape_read(model->tape, state, hidden);
    tape_read(model->tape, op_masked_mean(model->tape, state, mask_tensor), embedding);
}

static void expect_close(const char *what, const float *found, const float *expected, int64_t count)
{
    double error = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        assert_true(isfinite(found[i]));
        error = fmax(error, fabs((double)found[i] - expected[i]));
        largest = fmax(largest, fabs(expected[i]));
    }
    if (!(error <= TOLERANCE * largest)) fail_msg("%s: off by %g of %g", what, error, largest);
}

/* The fixture's inputs, as the model takes them. */
struct batch {
    int64_t samples, tokens;
    int32_t *ids;
    float *mask, *hidden, *embedding; /* the latter two as transformers has them */
};

static struct batch read_batch(void)
{
    struct fault fault = {0};
    struct h5_reader *reader = NULL;
    struct h5_info info;
    struct batch batch = {0};
    int64_t *ids = NULL, *mask = NULL;
    const int64_t any[] = {-1, -1, -1};
    const int64_t most = 1 << 20;
    if (!h5_open(FIXTURE, FILE_REFERENCE, &reader, &fault) ||
        !h5_load_int64(reader, "inputs/input_ids", 2, any, most, &ids, &info, &fault) ||
        !h5_load_int64(reader, "inputs/attention_mask", 2, info.shape, most, &mask, NULL, &fault) ||
        !h5_load_float(reader, "outputs/last_hidden_state", 3, any, most, &batch.hidden, NULL, &fault) ||
        !h5_load_float(reader, "outputs/embedding", 2, any, most, &batch.embedding, NULL, &fault))
        fail_msg("%s", fault.text);
    h5_close(reader);
    batch.samples = info.shape[0];
    batch.tokens = info.shape[1];
    batch.ids = malloc((size_t)info.elements * sizeof *batch.ids);
    batch.mask = malloc((size_t)info.elements * sizeof *batch.mask);
    for (int64_t i = 0; i < info.elements; i++) {
        batch.ids[i] = (int32_t)ids[i];
        batch.mask[i] = (float)mask[i];
    }
    free(ids);
    free(mask);
    return batch;
}

static void free_batch(struct batch *batch)
{
    free(batch->ids);
    free(batch->mask);
    free(batch->hidden);
    free(batch->embedding);
}

static void test_against_transformers(void **state)
{
    (void)state;
    struct model model = open_model();
    struct batch batch = read_batch();
    int64_t channels = model.bert->config.channels, rows = batch.samples * batch.tokens;
    float *hidden = malloc((size_t)(rows * channels) * sizeof *hidden);
    float *embedding = malloc((size_t)(batch.samples * channels) * sizeof *embedding);
    forward(&model, batch.samples, batch.tokens, batch.ids, batch.mask, hidden, embedding);
    expect_close("last_hidden_state", hidden, batch.hidden, rows * channels);
    expect_close("embedding", embedding, batch.embedding, batch.samples * channels);

    // Weights that are packed give the same.
    parameter_set_freeze(&model.bert->parameters, DTYPE_F32, false);
    forward(&model, batch.samples, batch.tokens, batch.ids, batch.mask, hidden, embedding);
    expect_close("frozen: last_hidden_state", hidden, batch.hidden, rows * channels);
    free(hidden);
    free(embedding);
    free_batch(&batch);
    close_model(&model);
}

/* What stands in the padding, and the number of padding tokens, do not reach the sentence. */
static void test_padding_is_not_seen(void **state)
{
    (void)state;
    struct model model = open_model();
    struct batch batch = read_batch();
    int64_t channels = model.bert->config.channels, wide = batch.tokens + 7;
    size_t tokens = (size_t)(batch.samples * wide);
    int32_t *ids = malloc(tokens * sizeof *ids);
    float *mask = calloc(tokens, sizeof *mask);
    float *hidden = malloc(tokens * (size_t)channels * sizeof *hidden);
    float *embedding = malloc((size_t)(batch.samples * channels) * sizeof *embedding);
    for (size_t i = 0; i < tokens; i++) ids[i] = (int32_t)(7 + i % 5);
    for (int64_t b = 0; b < batch.samples; b++)
        for (int64_t t = 0; t < batch.tokens; t++)
            if (batch.mask[b * batch.tokens + t] != 0) {
                ids[b * wide + t] = batch.ids[b * batch.tokens + t];
                mask[b * wide + t] = 1;
            }
    forward(&model, batch.samples, wide, ids, mask, hidden, embedding);
    expect_close("embedding", embedding, batch.embedding, batch.samples * channels);
    free(ids);
    free(mask);
    free(hidden);
    free(embedding);
    free_batch(&batch);
    close_model(&model);
}

#define SIZES                                                                                                \
    "\"vocab_size\": 30, \"hidden_size\": 12, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "        \
    "\"intermediate_size\": 20, \"max_position_embeddings\": 9"

static void expect_refusal(const char *json, const char *message)
{
    struct fault fault = {0};
    struct json_document *document = NULL;
    struct bert_config config;
    if (!json_parse(json, strlen(json), "config.json", &document, &fault)) fail_msg("%s", fault.text);
    assert_false(bert_config_read(&config, json_root(document), &fault));
    assert_int_equal(fault.code, EXIT_CODE_INPUT);
    if (!strstr(fault.text, message)) fail_msg("\"%s\" does not say \"%s\"", fault.text, message);
    json_free(document);
}

static void test_configuration(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct json_document *document = NULL;
    struct bert_config config;
    const char *json = "{" SIZES ", \"layer_norm_eps\": 1e-5, \"_name_or_path\": \"x\", \"use_cache\": true}";
    assert_true(json_parse(json, strlen(json), "config.json", &document, &fault));
    if (!bert_config_read(&config, json_root(document), &fault)) fail_msg("%s", fault.text);
    json_free(document);
    assert_int_equal(config.vocabulary, 30);
    assert_int_equal(config.channels, 12);
    assert_int_equal(config.layers, 2);
    assert_int_equal(config.heads, 4);
    assert_int_equal(config.inner, 20);
    assert_int_equal(config.positions, 9);
    assert_int_equal(config.types, 2); // BertConfig's default
    assert_true(config.epsilon == 1e-5);

    expect_refusal("{" SIZES ", \"hidden_act\": \"relu\"}",
                   "hidden_act: this value is not supported, only \"gelu\"");
    expect_refusal("{" SIZES ", \"position_embedding_type\": \"relative_key\"}", "only \"absolute\"");
    expect_refusal("{" SIZES ", \"is_decoder\": true}",
                   "is_decoder: this value is not supported, only false");
    expect_refusal("{" SIZES ", \"hidden_akt\": \"gelu\"}", "hidden_akt: unknown key");
    expect_refusal("{" SIZES ", \"model_type\": \"mpnet\"}", "only \"bert\"");
    expect_refusal("{" SIZES ", \"layer_norm_eps\": \"small\"}", "layer_norm_eps");
    expect_refusal("{\"vocab_size\": 30}", "hidden_size");
    expect_refusal("{\"vocab_size\": 0}", "vocab_size");
    expect_refusal("[]", "an object");
    expect_refusal(
        "{\"vocab_size\": 30, \"hidden_size\": 14, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
        "\"intermediate_size\": 20, \"max_position_embeddings\": 9}",
        "hidden_size = 14 is not divided by num_attention_heads = 4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_transformers),
        cmocka_unit_test(test_padding_is_not_seen),
        cmocka_unit_test(test_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
