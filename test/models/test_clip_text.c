/* CLIP's text encoder: properties (verify compares it with transformers), and what is refused. */
#include "models/clip_folder.h"

#include "base/check.h"
#include "support/faults.h"
#include "support/files.h"
#include "support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { C = 24 };

struct model {
    struct backend *backend;
    struct parameter_set set;
    struct clip_text *text;
    struct tape *tape;
    int64_t B, T;
    int32_t *ids; /* [B, T] */
};

/* The model and inputs of a fixture. */
static struct model open_model(const char *name, bool trainable)
{
    struct fault fault = {0};
    struct model model = {.backend = backend_open(BACKEND_CPU)};
    char *folder = check_format("test/fixtures/%s", name);
    GOOD((model.text = clip_text_open(&model.set, model.backend, folder, trainable, &fault)));
    free(folder);
    model.tape = tape_new(model.backend, DTYPE_F32);
    struct fixture *fixture = fixture_open(name);
    const int64_t *ids = fixture_integers(fixture, "inputs/input_ids");
    model.B = fixture_length(fixture, "inputs/input_ids", 0);
    model.T = fixture_length(fixture, "inputs/input_ids", 1);
    model.ids = check_malloc((size_t)(model.B * model.T) * sizeof *model.ids);
    for (int64_t i = 0; i < model.B * model.T; i++) model.ids[i] = (int32_t)ids[i];
    fixture_close(fixture);
    return model;
}

static void close_model(struct model *model)
{
    free(model->ids);
    tape_delete(model->tape);
    clip_text_delete(model->text);
    parameter_set_clear(&model->set);
    backend_close(model->backend);
}

/* states [B, T, C] of the first T tokens of each row */
static struct tensor *forward(struct model *model, enum tape_mode mode, int64_t T, float *states)
{
    int32_t *ids = check_malloc((size_t)(model->B * T) * sizeof *ids);
    for (int64_t b = 0; b < model->B; b++)
        for (int64_t t = 0; t < T; t++) ids[b * T + t] = model->ids[b * model->T + t];
    tape_reset(model->tape, mode);
    struct tensor *input = tape_input(model->tape, DTYPE_I32, 2, (int64_t[]){model->B, T}, ids);
    struct tensor *out = clip_text_states(model->tape, model->text, input);
    tape_read(model->tape, out, states);
    free(ids);
    return out;
}

/* A token's state follows from the tokens up to it: texts that are cut shorter have the same states, up to
 * the rounding of products of another size. */
static void tokens_do_not_see_those_behind(void **state)
{
    (void)state;
    struct model model = open_model("clip_text_quick", false);
    int64_t values = model.B * model.T * C;
    float *all = check_malloc((size_t)values * sizeof *all),
          *cut = check_malloc((size_t)values * sizeof *cut);
    forward(&model, TAPE_NO_GRADIENT, model.T, all);
    for (int64_t T = 1; T < model.T; T++) {
        forward(&model, TAPE_NO_GRADIENT, T, cut);
        for (int64_t b = 0; b < model.B; b++)
            for (int64_t i = 0; i < T * C; i++) {
                float expected = all[b * model.T * C + i], found = cut[b * T * C + i];
                if (!(fabsf(found - expected) <= 1e-5f))
                    fail_msg("%d tokens, row %d, value %d: %g, expected %g", (int)T, (int)b, (int)i, found,
                             expected);
            }
    }
    free(cut);
    free(all);
    close_model(&model);
}

static void packed_weights_give_the_same(void **state)
{
    (void)state;
    struct model model = open_model("clip_text_quick", false);
    int64_t values = model.B * model.T * C;
    struct fixture *fixture = fixture_open("clip_text_quick");
    const double *expected = fixture_doubles(fixture, "outputs/last_hidden_state");
    float *found = check_malloc((size_t)values * sizeof *found);
    for (int frozen = 0; frozen < 2; frozen++) {
        if (frozen) parameter_set_freeze(&model.set, DTYPE_F32, false);
        forward(&model, TAPE_NO_GRADIENT, model.T, found);
        double error = 0, largest = 0;
        for (int64_t i = 0; i < values; i++) {
            error = fmax(error, fabs(found[i] - expected[i]));
            largest = fmax(largest, fabs(expected[i]));
        }
        // PyTorch's own fp32 is 3e-7 of the largest value away from the fp64 reference.
        if (!(error <= 3e-6 * largest)) fail_msg("frozen %d: off by %g of %g", frozen, error, largest);
    }
    free(found);
    fixture_close(fixture);
    close_model(&model);
}

/* Activations that are computed again are the same, and so are the gradients, bit for bit. */
static void recomputing_changes_nothing(void **state)
{
    (void)state;
    struct model model = open_model("clip_text_quick", true);
    int64_t elements = parameter_set_elements(&model.set);
    float *states = check_malloc((size_t)(model.B * model.T * C) * sizeof *states), *gradient[2];
    for (int again = 0; again < 2; again++) {
        parameter_set_zero_gradients(&model.set);
        struct tensor *out = forward(&model, again ? TAPE_RECOMPUTE : TAPE_RECORD, model.T, states);
        tape_backward(model.tape, 1, &out, (const float *const[]){states});
        float *at = gradient[again] = check_malloc((size_t)elements * sizeof *at);
        for (int i = 0; i < model.set.count; i++) {
            struct tensor *of = &model.set.items[i]->gradient;
            model.backend->ops->download(model.backend, at, of->data, tensor_bytes(of));
            at += tensor_count(of);
        }
    }
    assert_memory_equal(gradient[0], gradient[1], (size_t)elements * sizeof(float));
    free(gradient[0]);
    free(gradient[1]);
    free(states);
    close_model(&model);
}

static void the_end_token_stands_for_the_text(void **state)
{
    (void)state;
    const int32_t ids[4][5] = {{9, 3, 7, 7, 7}, {9, 7, 9, 7, 1}, {1, 2, 3, 4, 5}, {8, 7, 0, 0, 0}};
    const int64_t first[] = {2, 1, 0, 1}, highest[] = {0, 0, 4, 0};
    int64_t end[4];
    clip_text_end_tokens(&(struct clip_text_config){.end_token = 7}, 4, 5, ids[0], end);
    assert_memory_equal(end, first, sizeof end);
    clip_text_end_tokens(&(struct clip_text_config){.end_token = 2}, 4, 5, ids[0], end);
    assert_memory_equal(end, highest, sizeof end);
}

// ---- configuration

static bool parse(struct clip_text_config *config, const char *text, struct fault *fault)
{
    struct json_document *document;
    if (!json_parse(text, strlen(text), "config", &document, fault)) return false;
    bool ok = clip_text_config_read(config, json_root(document), fault);
    json_free(document);
    return ok;
}

/* config.json of Stable Diffusion 1.5 and 2.1, of what they differ in and a few more members. */
static void published_configurations(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_text_config config;
    GOOD(parse(
        &config,
        "{\"_name_or_path\": \"openai/clip-vit-large-patch14\", \"architectures\": [\"CLIPTextModel\"], "
        "\"attention_dropout\": 0.0, \"bos_token_id\": 0, \"dropout\": 0.0, \"eos_token_id\": 2, "
        "\"hidden_act\": \"quick_gelu\", \"hidden_size\": 768, \"initializer_factor\": 1.0, "
        "\"initializer_range\": 0.02, \"intermediate_size\": 3072, \"layer_norm_eps\": 1e-05, "
        "\"max_position_embeddings\": 77, \"model_type\": \"clip_text_model\", "
        "\"num_attention_heads\": 12, \"num_hidden_layers\": 12, \"pad_token_id\": 1, "
        "\"projection_dim\": 768, \"torch_dtype\": \"float32\", "
        "\"transformers_version\": \"4.22.0.dev0\", \"vocab_size\": 49408}",
        &fault));
    assert_int_equal(config.encoder.layers, 12);
    assert_int_equal(config.encoder.channels, 768);
    assert_int_equal(config.encoder.activation, ACTIVATION_GELU_QUICK);
    assert_int_equal(config.end_token, 2);
    assert_int_equal(config.projection, 0);
    GOOD(parse(&config,
               "{\"architectures\": [\"CLIPTextModel\"], \"hidden_act\": \"gelu\", \"hidden_size\": 1024, "
               "\"intermediate_size\": 4096, \"num_attention_heads\": 16, \"num_hidden_layers\": 23, "
               "\"projection_dim\": 512, \"eos_token_id\": 2}",
               &fault));
    assert_int_equal(config.encoder.layers, 23);
    assert_int_equal(config.encoder.activation, ACTIVATION_GELU_ERF);
    assert_int_equal(config.vocabulary, 49408);
    assert_int_equal(config.positions, 77);
    GOOD(parse(&config, "{\"architectures\": [\"CLIPTextModelWithProjection\"], \"projection_dim\": 1280}",
               &fault));
    assert_int_equal(config.projection, 1280);
    assert_int_equal(config.end_token, 49407);
}

static void configurations_are_refused_by_name(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_text_config config;
    const char *const cases[][2] = {
        {"{\"hidden_act\": \"relu\"}", "hidden_act: activation relu is not supported"},
        {"{\"model_type\": \"clip\"}", "model_type: this value is not supported, only \"clip_text_model\""},
        {"{\"architectures\": [\"CLIPModel\"]}", "architectures: CLIPModel is not supported"},
        {"{\"architectures\": [\"CLIPTextModel\", \"CLIPTextModel\"]}", "architectures"},
        {"{\"image_size\": 224}", "image_size: unknown key"},
        {"{\"hidden_size\": 100, \"num_attention_heads\": 3}", "not divided by num_attention_heads = 3"},
        {"{\"vocab_size\": 0}", "vocab_size"},
        {"{\"vocab_size\": 100000000000}", "vocab_size"},
        {"{\"eos_token_id\": [2]}", "eos_token_id"},
        {"{\"max_position_embeddings\": -1}", "max_position_embeddings"},
        {"{\"is_decoder\": true}", "is_decoder"},
        {"[]", "allowed an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(parse(&config, cases[i][0], &fault), EXIT_CODE_INPUT, cases[i][1]);
}

/* Weights of another network, and none. */
static void weights_must_fit(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct backend *backend = backend_open(BACKEND_CPU);
    struct parameter_set set;
    char *folder = scratch_make(), *config = scratch_path(folder, "config.json"),
         *weights = scratch_path(folder, "model.safetensors");
    size_t size;
    char *text = file_bytes("test/fixtures/clip_text_projection/config.json", &size);
    FAILS(clip_text_open(&set, backend, folder, false, &fault), EXIT_CODE_INPUT, "config.json");
    file_write(config, text, size);
    FAILS(clip_text_open(&set, backend, folder, false, &fault), EXIT_CODE_INPUT, folder);
    free(text);
    text = file_bytes("test/fixtures/clip_text_quick/model.safetensors", &size);
    file_write(weights, text, size);
    FAILS(clip_text_open(&set, backend, folder, false, &fault), EXIT_CODE_INPUT,
          "1 missing (text_projection.weight)");
    file_write(weights, text, size / 2);
    FAILS(clip_text_open(&set, backend, folder, false, &fault), EXIT_CODE_INPUT, "model.safetensors");
    free(text);
    free(weights);
    free(config);
    scratch_remove(folder);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_do_not_see_those_behind),
        cmocka_unit_test(packed_weights_give_the_same),
        cmocka_unit_test(recomputing_changes_nothing),
        cmocka_unit_test(the_end_token_stands_for_the_text),
        cmocka_unit_test(published_configurations),
        cmocka_unit_test(configurations_are_refused_by_name),
        cmocka_unit_test(weights_must_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
