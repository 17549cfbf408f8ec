// Configurations of published models: the first byte says of which. What is accepted must make a network, and
// that network a forward pass, both planned only.

// words: src/models/unet_config.c src/models/token_encoder.c src/models/mpnet.c src/models/clip_vision.c
// words: src/models/config_keys.c
#include "base/check.h"
#include "fuzz/harness.h"
#include "io/json.h"
#include "models/bert.h"
#include "models/clip_vision.h"
#include "models/mpnet.h"
#include "models/unet.h"
#include "tensor/backend.h"
#include "tensor/tape.h"

#include <stdlib.h>
#include <string.h>

// Larger networks are accepted (their weights must fit, which only a large file does), but slow to plan.
enum { MOST_PARAMETERS = 2000, MOST_PIXELS = 1 << 20 };

// Zeros as an input of a planned pass.
static struct tensor *input(struct tape *tape, enum dtype dtype, int rank, const int64_t *dim)
{
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= dim[i];
    void *zeros = check_calloc((size_t)count, 4);
    struct tensor *tensor = tape_input(tape, dtype, rank, dim, zeros);
    free(zeros);
    return tensor;
}

static void plan_unet(struct tape *tape, const struct unet *unet)
{
    int64_t side = 1 << (unet->config.levels - 1); // the smallest latents
    struct fault fault = {0};
    CHECK(unet_check_latents(&unet->config, side, side, &fault), "%s", fault.text);
    struct unit_macs macs = unet_macs(unet, side, side, 3);
    unit_macs_free(&macs);
    struct unet_input in = {
        .latents = input(tape, DTYPE_F32, 4, (int64_t[]){1, side, side, unet->config.in_channels}),
        .timesteps = input(tape, DTYPE_F32, 1, (int64_t[]){1}),
        .text = input(tape, DTYPE_F32, 3, (int64_t[]){1, 3, unet->config.text_width}),
    };
    struct unet_output out;
    unet_forward(tape, unet, in, &out);
}

static bool unet(const char *text, struct backend *backend, struct tape *tape, struct fault *fault)
{
    struct unet_config config;
    if (!unet_config_parse(&config, text, "unet", 32, fault)) return false;
    struct unet *unet = unet_new(backend, &config, (struct unet_shape){0});
    struct fault why = {0};
    harness_verdict(unet_check_prunable(unet, &why), &why, EXIT_CODE_INPUT);
    if (unet->parameters.count <= MOST_PARAMETERS) {
        parameter_set_allocate(&unet->parameters, false);
        plan_unet(tape, unet);
    }
    unet_delete(unet);
    return true;
}

static bool token_encoder(const char *text, struct backend *backend, struct tape *tape,
                          bool (*read)(struct token_encoder_config *config, struct json root,
                                       struct fault *fault),
                          struct fault *fault)
{
    struct token_encoder_config config;
    struct json_document *document;
    if (!json_parse(text, strlen(text), "token encoder", &document, fault)) return false;
    bool done = read(&config, json_root(document), fault);
    json_free(document);
    if (!done) return false;
    CHECK(token_encoder_most_tokens(&config) >= 1, "no room for a token");
    struct token_encoder *encoder = token_encoder_new(backend, &config);
    if (encoder->parameters.count <= MOST_PARAMETERS) {
        parameter_set_allocate(&encoder->parameters, false);
        token_encoder_forward(tape, encoder, (int32_t[]){0}, input(tape, DTYPE_F32, 2, (int64_t[]){1, 1}));
    }
    token_encoder_delete(encoder);
    return true;
}

static bool bert(const char *text, struct backend *backend, struct tape *tape, struct fault *fault)
{
    return token_encoder(text, backend, tape, bert_config_read, fault);
}

static bool mpnet(const char *text, struct backend *backend, struct tape *tape, struct fault *fault)
{
    return token_encoder(text, backend, tape, mpnet_config_read, fault);
}

static bool clip_vision(const char *text, struct backend *backend, struct tape *tape, struct fault *fault)
{
    struct clip_vision_config config;
    if (!clip_vision_config_parse(&config, text, "clip_vision", fault)) return false;
    struct parameter_set set;
    parameter_set_init(&set, backend);
    struct clip_vision *vision = clip_vision_new(&set, &config);
    int64_t pixels = config.image_size * config.image_size * config.image_channels;
    if (set.count <= MOST_PARAMETERS && pixels <= MOST_PIXELS) {
        parameter_set_allocate(&set, false);
        int64_t shape[] = {1, config.image_size, config.image_size, config.image_channels};
        clip_vision_forward(tape, vision, input(tape, DTYPE_F32, 4, shape));
    }
    clip_vision_delete(vision);
    parameter_set_clear(&set);
    return true;
}

static const struct {
    char letter;
    bool (*read)(const char *text, struct backend *backend, struct tape *tape, struct fault *fault);
} models[] = {{'u', unet}, {'b', bert}, {'m', mpnet}, {'v', clip_vision}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < sizeof models / sizeof models[0] && size > 0; i++) {
        if (models[i].letter != (char)data[0]) continue;
        char *text = harness_text(data + 1, size - 1);
        struct backend *backend = backend_open(BACKEND_PLAN);
        struct tape *tape = tape_new(backend, DTYPE_F32);
        tape_reset(tape, TAPE_NO_GRADIENT);
        struct fault fault = {0};
        harness_verdict(models[i].read(text, backend, tape, &fault), &fault, EXIT_CODE_INPUT);
        tape_delete(tape);
        backend_close(backend);
        free(text);
    }
    return 0;
}
