/* CLIP's image encoder: ways to the same values (verify compares them with transformers), and its
 * configuration's refusals. */
#include "models/clip_vision.h"

#include "base/check.h"
#include "models/weights.h"
#include "support/faults.h"
#include "support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const char CONFIG[] = "{\"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 2, "
                             "\"num_attention_heads\": 3, \"image_size\": 14, \"patch_size\": 4, "
                             "\"projection_dim\": 10}";
enum { SIZE = 14, P = 10 };

/* fp32 sums over two layers: PyTorch's own fp32 is 2e-7 of the largest value away from the fp64 reference. */
static const double TOLERANCE = 2e-6;

struct model {
    struct backend *backend;
    struct parameter_set set;
    struct clip_vision *vision;
    struct tape *tape;
    int64_t samples;
    float *pixels; /* [B, S, S, 3] */
};

static struct model open_model(bool trainable)
{
    struct fault fault = {0};
    struct clip_vision_config config;
    struct model model = {.backend = backend_open(BACKEND_CPU)};
    GOOD(clip_vision_config_parse(&config, CONFIG, "config", &fault));
    parameter_set_init(&model.set, model.backend);
    model.vision = clip_vision_new(&model.set, &config);
    GOOD(
        weights_load_folder(&model.set, "test/fixtures/clip_vision_quick", "model", NULL, trainable, &fault));
    model.tape = tape_new(model.backend, DTYPE_F32);

    struct fixture *fixture = fixture_open("clip_vision_quick");
    const double *planes = fixture_doubles(fixture, "inputs/pixel_values"); // [B, 3, S, S]
    model.samples = fixture_length(fixture, "inputs/pixel_values", 0);
    model.pixels = check_malloc((size_t)(model.samples * SIZE * SIZE * 3) * sizeof(float));
    for (int64_t b = 0; b < model.samples; b++)
        for (int p = 0; p < SIZE * SIZE; p++)
            for (int c = 0; c < 3; c++)
                model.pixels[(b * SIZE * SIZE + p) * 3 + c] = (float)planes[(b * 3 + c) * SIZE * SIZE + p];
    fixture_close(fixture);
    return model;
}

static void close_model(struct model *model)
{
    free(model->pixels);
    tape_delete(model->tape);
    clip_vision_delete(model->vision);
    parameter_set_clear(&model->set);
    backend_close(model->backend);
}

/* embeds [samples, P] */
static struct tensor *forward(struct model *model, enum tape_mode mode, int64_t samples, float *embeds)
{
    tape_reset(model->tape, mode);
    struct tensor *pixels =
        tape_input(model->tape, DTYPE_F32, 4, (int64_t[]){samples, SIZE, SIZE, 3}, model->pixels);
    struct tensor *out = clip_vision_forward(model->tape, model->vision, pixels);
    tape_read(model->tape, out, embeds);
    return out;
}

static void packed_weights_give_the_same(void **state)
{
    (void)state;
    struct model model = open_model(false);
    struct fixture *fixture = fixture_open("clip_vision_quick");
    const double *expected = fixture_doubles(fixture, "outputs/image_embeds");
    int64_t count = model.samples * P;
    float *found = check_malloc((size_t)count * sizeof *found);
    for (int frozen = 0; frozen < 2; frozen++) {
        if (frozen) parameter_set_freeze(&model.set, DTYPE_F32, false);
        forward(&model, TAPE_NO_GRADIENT, model.samples, found);
        double error = 0, largest = 0;
        for (int64_t i = 0; i < count; i++) {
            error = fmax(error, fabs(found[i] - expected[i]));
            largest = fmax(largest, fabs(expected[i]));
        }
        if (!(error <= TOLERANCE * largest)) fail_msg("frozen %d: off by %g of %g", frozen, error, largest);
    }
    free(found);
    fixture_close(fixture);
    close_model(&model);
}

/* Activations that are computed again are the same, and so are the gradients, bit for bit. */
static void recomputing_changes_nothing(void **state)
{
    (void)state;
    struct model model = open_model(true);
    int64_t count = model.samples * P, elements = parameter_set_elements(&model.set);
    float *embeds = check_malloc((size_t)count * sizeof *embeds);
    float *gradient[2];
    for (int again = 0; again < 2; again++) {
        parameter_set_zero_gradients(&model.set);
        struct tensor *out = forward(&model, again ? TAPE_RECOMPUTE : TAPE_RECORD, model.samples, embeds);
        tape_backward(model.tape, 1, &out, (const float *const[]){embeds});
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
    free(embeds);
    close_model(&model);
}

static void configurations_are_refused_by_name(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_vision_config config;
    const char *const cases[][2] = {
        {"{\"hidden_act\": \"gelu_new\"}", "hidden_act: activation gelu_new is not supported"},
        {"{\"model_type\": \"clip\"}", "model_type: this value is not supported, only \"clip_vision_model\""},
        {"{\"hidden_sizes\": 8}", "hidden_sizes: unknown key"},
        {"{\"hidden_size\": 100, \"num_attention_heads\": 3}", "not divided by num_attention_heads = 3"},
        {"{\"patch_size\": 225}", "patch_size = 225 is larger than image_size = 224"},
        {"{\"num_hidden_layers\": 0}", "num_hidden_layers"},
        {"{\"image_size\": 1e9}", "image_size"},
        {"{\"layer_norm_eps\": -1}", "layer_norm_eps"},
        {"[]", "allowed an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(clip_vision_config_parse(&config, cases[i][0], "config", &fault), EXIT_CODE_INPUT, cases[i][1]);
}

/* The published ViT-L/14-336's vision_config: sizes, and the names that a file of it has. */
static void published_sizes(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct clip_vision_config config;
    const char text[] =
        "{\"attention_dropout\": 0.0, \"dropout\": 0.0, \"hidden_act\": \"quick_gelu\", \"hidden_size\": "
        "1024, "
        "\"image_size\": 336, \"initializer_factor\": 1.0, \"initializer_range\": 0.02, "
        "\"intermediate_size\": 4096, \"layer_norm_eps\": 1e-05, \"model_type\": \"clip_vision_model\", "
        "\"num_attention_heads\": 16, \"num_channels\": 3, \"num_hidden_layers\": 24, \"patch_size\": 14, "
        "\"projection_dim\": 768}";
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct parameter_set set;
    int part;
    GOOD(clip_vision_config_parse(&config, text, "config", &fault));
    parameter_set_init(&set, backend);
    struct clip_vision *vision = clip_vision_new(&set, &config);
    assert_int_equal(parameter_set_elements(&set), 304293888); // of CLIPVisionModelWithProjection
    assert_int_equal(vision->position_embedding->value.dim[0], 577);
    assert_non_null(parameter_find(&set, "vision_model.encoder.layers.23.self_attn.v_proj.bias", &part));
    assert_non_null(parameter_find(&set, "vision_model.embeddings.class_embedding", &part));
    clip_vision_delete(vision);
    parameter_set_clear(&set);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_weights_give_the_same),
        cmocka_unit_test(recomputing_changes_nothing),
        cmocka_unit_test(configurations_are_refused_by_name),
        cmocka_unit_test(published_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
