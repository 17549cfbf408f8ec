/* The autoencoder: ways to the same values, memory, and what is refused (verify compares values with
 * diffusers). */
#include "models/vae.h"

#include "base/check.h"
#include "support/faults.h"
#include "support/files.h"
#include "support/fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* fp32 sums over a dozen layers: PyTorch's own fp32 is 6e-7 of the largest value off, we are as much. */
static const double TOLERANCE = 5e-6;

#define FOUR(type) "[\"" type "\", \"" type "\", \"" type "\", \"" type "\"]"
/* The published one of Stable Diffusion 2.1. */
static const char PUBLISHED[] =
    "{\"_class_name\": \"AutoencoderKL\", \"_diffusers_version\": \"0.8.0\", \"act_fn\": \"silu\", "
    "\"block_out_channels\": [128, 256, 512, 512], \"down_block_types\": " FOUR(
        "DownEncoderBlock2D") ", \"in_channels\": 3, \"latent_channels\": 4, \"layers_per_block\": 2, "
                              "\"norm_num_groups\": 32, \"out_channels\": 3, \"sample_size\": 768, "
                              "\"up_block_types\": " FOUR("UpDecoderBlock2D") "}";

/* The network of test/fixtures/vae_odd, and the latents of its reference. */
enum { SAMPLES = 2, HEIGHT = 5, WIDTH = 7, LATENTS = 4, FACTOR = 4 };
enum { LATENT_COUNT = HEIGHT * WIDTH * LATENTS, PIXEL_COUNT = FACTOR * HEIGHT * FACTOR * WIDTH * 3 };

struct model {
    struct backend *backend;
    struct vae *vae;
    struct tape *tape;
    float latents[SAMPLES * LATENT_COUNT];
};

/* [B, C, n] -> [B, n, C] */
static void to_channels_last(const double *planes, int samples, int channels, int n, float *out)
{
    for (int b = 0; b < samples; b++)
        for (int c = 0; c < channels; c++)
            for (int p = 0; p < n; p++)
                out[(b * n + p) * channels + c] = (float)planes[(b * channels + c) * n + p];
}

static struct model open_model(void)
{
    struct fault fault = {0};
    struct model model = {.backend = backend_open(BACKEND_CPU)};
    GOOD(vae_open(model.backend, "test/fixtures/vae_odd", &model.vae, &fault));
    model.tape = tape_new(model.backend, DTYPE_F32);
    struct fixture *fixture = fixture_open("vae_odd");
    to_channels_last(fixture_doubles(fixture, "inputs/latent"), SAMPLES, LATENTS, HEIGHT * WIDTH,
                     model.latents);
    fixture_close(fixture);
    return model;
}

static void close_model(struct model *model)
{
    tape_delete(model->tape);
    vae_delete(model->vae);
    backend_close(model->backend);
}

static void packed_weights_give_the_same(void **state)
{
    (void)state;
    struct model model = open_model();
    struct fixture *fixture = fixture_open("vae_odd");
    float expected[SAMPLES * PIXEL_COUNT], found[SAMPLES * PIXEL_COUNT];
    to_channels_last(fixture_doubles(fixture, "outputs/decoded"), SAMPLES, 3, PIXEL_COUNT / 3, expected);
    for (int frozen = 0; frozen < 2; frozen++) {
        if (frozen) parameter_set_freeze(&model.vae->parameters, DTYPE_F32, false);
        vae_decode(model.tape, model.vae, (struct vae_tiling){0}, SAMPLES, HEIGHT, WIDTH, model.latents,
                   found);
        double error = 0, largest = 0;
        for (int i = 0; i < SAMPLES * PIXEL_COUNT; i++) {
            error = fmax(error, fabs((double)found[i] - (double)expected[i]));
            largest = fmax(largest, fabs((double)expected[i]));
        }
        if (!(error <= TOLERANCE * largest)) fail_msg("frozen %d: off by %g of %g", frozen, error, largest);
    }
    fixture_close(fixture);
    close_model(&model);
}

/* One tile that holds the picture is the whole; a sample does not depend on the others; bit for bit. */
static void one_tile_is_the_whole(void **state)
{
    (void)state;
    struct model model = open_model();
    static float whole[SAMPLES * PIXEL_COUNT], other[SAMPLES * PIXEL_COUNT];
    struct vae_tiling never = {0}, enough = {WIDTH, WIDTH - 1}, small = {WIDTH - 1, 1};
    vae_decode(model.tape, model.vae, never, SAMPLES, HEIGHT, WIDTH, model.latents, whole);
    vae_decode(model.tape, model.vae, enough, SAMPLES, HEIGHT, WIDTH, model.latents, other);
    assert_memory_equal(other, whole, sizeof whole);
    vae_decode(model.tape, model.vae, small, SAMPLES, HEIGHT, WIDTH, model.latents, other);
    assert_memory_not_equal(other, whole, sizeof whole);
    vae_decode(model.tape, model.vae, never, 1, HEIGHT, WIDTH, model.latents + LATENT_COUNT, other);
    assert_memory_equal(other, whole + PIXEL_COUNT, PIXEL_COUNT * sizeof *whole);
    close_model(&model);
}

/* Where tiles do not overlap, each is a picture of its own. */
static void tiles_side_by_side(void **state)
{
    (void)state;
    struct model model = open_model();
    enum { TILE = 4, REST = WIDTH - TILE, PIXELS = FACTOR * FACTOR * 3 * REST };
    static float tiled[PIXEL_COUNT], part[HEIGHT * REST * LATENTS], alone[TILE * PIXELS];
    vae_decode(model.tape, model.vae, (struct vae_tiling){TILE, 0}, 1, HEIGHT, WIDTH, model.latents, tiled);
    for (int row = 0; row < TILE; row++) // the tile at the right of the first
        memcpy(part + row * REST * LATENTS, model.latents + (row * WIDTH + TILE) * LATENTS,
               REST * LATENTS * sizeof *part);
    vae_decode(model.tape, model.vae, (struct vae_tiling){0}, 1, TILE, REST, part, alone);
    for (int row = 0; row < TILE * FACTOR; row++)
        assert_memory_equal(tiled + (row * WIDTH + TILE) * FACTOR * 3, alone + row * REST * FACTOR * 3,
                            REST * FACTOR * 3 * sizeof *alone);
    close_model(&model);
}

static struct vae *published(struct backend *backend)
{
    struct fault fault = {0};
    struct vae_config config;
    GOOD(vae_config_parse(&config, PUBLISHED, "config", &fault));
    return vae_new(backend, &config);
}

static void published_sizes(void **state)
{
    (void)state;
    int part;
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct vae *vae = published(backend);
    assert_int_equal(parameter_set_elements(&vae->parameters), 83653863); // of diffusers' AutoencoderKL
    assert_int_equal(vae_factor(&vae->config), 8);
    assert_true(fabs(vae->config.scaling_factor - 0.18215) < 1e-12);
    struct vae_tiling tiling = vae_tiling_usual(&vae->config);
    assert_true(tiling.tile == 96 && tiling.overlap == 24);
    assert_non_null(
        parameter_find(&vae->parameters, "decoder.up_blocks.2.resnets.0.conv_shortcut.bias", &part));
    assert_non_null(parameter_find(&vae->parameters, "encoder.mid_block.attentions.0.to_out.0.bias", &part));
    assert_null(parameter_find(&vae->parameters, "encoder.down_blocks.3.downsamplers.0.conv.bias", &part));
    assert_null(parameter_find(&vae->parameters, "decoder.mid_block.resnets.0.time_emb_proj.bias", &part));
    vae_delete(vae);
    backend_close(backend);
}

/* Bytes that the activations of one call take, as planned. */
static size_t memory_of(bool encode, struct vae_tiling tiling, int64_t height, int64_t width)
{
    struct backend *backend = backend_open(BACKEND_PLAN);
    struct vae *vae = published(backend);
    parameter_set_allocate(&vae->parameters, false);
    parameter_set_freeze(&vae->parameters, DTYPE_F32, false);
    struct tape *tape = tape_new(backend, DTYPE_F32);
    size_t weights = backend_bytes_held(backend);
    float *pixels = check_calloc((size_t)(height * width * 64 * 3), sizeof *pixels);
    float *latents = check_calloc((size_t)(2 * height * width * 4), sizeof *latents);
    if (encode)
        vae_encode(tape, vae, tiling, 1, height, width, pixels, latents, latents + height * width * 4);
    else
        vae_decode(tape, vae, tiling, 1, height, width, latents, pixels);
    size_t bytes = arena_peak(tape_arena(tape)) + backend_bytes(backend) - weights;
    free(pixels);
    free(latents);
    tape_delete(tape);
    vae_delete(vae);
    backend_close(backend);
    return bytes;
}

/* The header's figures. */
static void memory_is_that_of_a_tile(void **state)
{
    (void)state;
    struct vae_tiling never = {0}, tiles = {64, 16};
    for (int encode = 0; encode < 2; encode++) {
        size_t tile = memory_of(encode, never, 64, 64), whole = memory_of(encode, never, 96, 128);
        print_message("%s: 64 x 64 latents %.3f GB, 96 x 128 %.3f GB\n", encode ? "encoder" : "decoder",
                      (double)tile / 1e9, (double)whole / 1e9);
        assert_true((double)tile < (encode ? 0.5e9 : 0.8e9));
        assert_true(whole > 2 * tile);
        assert_int_equal(memory_of(encode, tiles, 96, 128), tile);
    }
}

static void configurations(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct vae_config config;
    GOOD(vae_config_parse(&config, "{\"scaling_factor\": 0.5, \"sample_size\": 4}", "config", &fault));
    assert_true(config.levels == 1 && config.channels[0] == 64 && config.layers == 1 && config.groups == 32 &&
                config.latent_channels == 4 && config.scaling_factor == 0.5);
    assert_true(vae_tiling_usual(&config).tile == 4 && vae_tiling_usual(&config).overlap == 1);
    const char *const cases[][2] = {
        {"{\"act_fn\": \"relu\"}", "act_fn: this value is not supported, only \"silu\""},
        {"{\"use_quant_conv\": false}", "use_quant_conv"},
        {"{\"use_post_quant_conv\": false}", "use_post_quant_conv"},
        {"{\"mid_block_add_attention\": false}", "mid_block_add_attention"},
        {"{\"shift_factor\": 0.1}", "shift_factor"},
        {"{\"latents_mean\": [0.1, 0, 0, 0]}", "latents_mean"},
        {"{\"layers\": 2}", "layers: unknown key"},
        {"{\"block_out_channels\": [64, 65], \"down_block_types\": [\"DownEncoderBlock2D\", "
         "\"DownEncoderBlock2D\"], \"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}",
         "block_out_channels[1] = 65 is not divided by norm_num_groups = 32"},
        {"{\"block_out_channels\": [64, 64]}", "1 entries of down_block_types for a VAE of 2 levels"},
        {"{\"block_out_channels\": []}", "at least one level"},
        {"{\"block_out_channels\": [32, 32, 32, 32, 32, 32, 32, 32, 32]}", "block_out_channels"},
        {"{\"up_block_types\": [\"AttnUpDecoderBlock2D\"]}",
         "block type AttnUpDecoderBlock2D is not supported, only UpDecoderBlock2D"},
        {"{\"layers_per_block\": 0}", "layers_per_block"},
        {"{\"layers_per_block\": 16}", "layers_per_block"},
        {"{\"latent_channels\": 1e9}", "latent_channels"},
        {"{\"norm_num_groups\": 0}", "norm_num_groups"},
        {"{\"scaling_factor\": 0}", "scaling_factor"},
        {"{\"sample_size\": [64, 64]}", "sample_size"},
        {"[]", "allowed an object"},
        {"", "config"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(vae_config_parse(&config, cases[i][0], "config", &fault), EXIT_CODE_INPUT, cases[i][1]);
}

static void pictures_are_whole_latents(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct vae_config config;
    GOOD(vae_config_parse(&config, PUBLISHED, "config", &fault));
    GOOD(vae_check_picture(&config, 8, 16384, &fault));
    const int64_t sizes[][2] = {{0, 8}, {8, 0}, {12, 8}, {8, 15}, {16392, 8}, {8, 1 << 30}, {-8, 8}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        FAILS(vae_check_picture(&config, sizes[i][0], sizes[i][1], &fault), EXIT_CODE_INPUT,
              "VAE of 4 levels: multiples of 8 up to 16384 allowed");
}

/* folder/name becomes a copy of a fixture's file. */
static void copy_into(const char *folder, const char *fixture, const char *name)
{
    size_t size;
    char *from = check_format("test/fixtures/%s/%s", fixture, name), *to = scratch_path(folder, name);
    void *bytes = file_bytes(from, &size);
    file_write(to, bytes, size);
    free(bytes);
    free(to);
    free(from);
}

static void folders_that_do_not_fit(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct vae *vae;
    struct backend *backend = backend_open(BACKEND_CPU);
    char *folder = scratch_make();
    FAILS(vae_open(backend, folder, &vae, &fault), EXIT_CODE_INPUT, "config.json");
    assert_null(vae);
    copy_into(folder, "vae_odd", "config.json");
    FAILS(vae_open(backend, folder, &vae, &fault), EXIT_CODE_INPUT, "diffusion_pytorch_model.safetensors");
    copy_into(folder, "vae_old", "diffusion_pytorch_model.safetensors");
    FAILS(vae_open(backend, folder, &vae, &fault), EXIT_CODE_INPUT, "weights do not fit the network");
    assert_null(vae);
    assert_int_equal(backend_bytes_held(backend), 0); // nothing was allocated
    copy_into(folder, "vae_old", "config.json");
    GOOD(vae_open(backend, folder, &vae, &fault)); // the names of older versions
    vae_delete(vae);
    scratch_remove(folder);
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_weights_give_the_same), cmocka_unit_test(one_tile_is_the_whole),
        cmocka_unit_test(tiles_side_by_side),           cmocka_unit_test(published_sizes),
        cmocka_unit_test(memory_is_that_of_a_tile),     cmocka_unit_test(configurations),
        cmocka_unit_test(pictures_are_whole_latents),   cmocka_unit_test(folders_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
