/* Latents of a published VAE are the VAE's own, scaled, and pictures its own, rounded; other kinds are
 * latent.h's. */
#include "base/check.h"
#include "base/random.h"
#include "diffusion/latent_codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/faults.h"

#define VAE_FOLDER "test/fixtures/pipeline_small/vae"

enum { HEIGHT = 3, WIDTH = 2, COUNT = HEIGHT * WIDTH * 4, PIXELS = 64 * HEIGHT * WIDTH * 3 };

static struct fault fault;

static void fill(uint64_t stream, int count, float *values)
{
    random_normal((struct random_key){.seed = 5, .stream = stream}, (uint64_t)count, values);
}

static void a_vae_gives_its_distribution(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct latent_codec codec;
    GOOD(latent_codec_open_vae(&codec, backend, VAE_FOLDER, DTYPE_F32, false, &fault));
    for (int c = 0; c < 4; c++) assert_true(codec.form.scale[c] == 0.18215);
    uint8_t rgb[PIXELS];
    float noise[PIXELS], pixels[PIXELS], mean[COUNT], deviation[COUNT], raw_mean[COUNT], log_variance[COUNT];
    fill(1, PIXELS, noise);
    for (int i = 0; i < PIXELS; i++) rgb[i] = (uint8_t)(128 + 50 * noise[i]);
    for (int i = 0; i < PIXELS; i++) pixels[i] = 2.0F * (float)rgb[i] / 255.0F - 1.0F;
    latent_codec_distribution(&codec, HEIGHT, WIDTH, rgb, mean, deviation);
    vae_encode(codec.tape, codec.vae, (struct vae_tiling){0}, 1, HEIGHT, WIDTH, pixels, raw_mean,
               log_variance);
    for (int i = 0; i < COUNT; i++) {
        // the pixels are the same but for a rounding, which a network of this size makes ten times larger
        float raw_deviation = sqrtf(expf(log_variance[i]));
        assert_true(fabsf(mean[i] - 0.18215F * raw_mean[i]) <= 1e-5F * (1 + fabsf(mean[i])));
        assert_true(fabsf(deviation[i] - 0.18215F * raw_deviation) <= 1e-4F * (deviation[i] + 1e-6F));
    }
    latent_codec_close(&codec);
    backend_close(backend);
}

static void a_vae_gives_its_picture(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct latent_codec codec;
    GOOD(latent_codec_open_vae(&codec, backend, VAE_FOLDER, DTYPE_F32, false, &fault));
    float latent[COUNT], raw[COUNT], pixels[PIXELS];
    uint8_t rgb[PIXELS];
    fill(2, COUNT, latent);
    for (int i = 0; i < COUNT; i++) raw[i] = latent[i] / 0.18215F;
    latent_codec_decode(&codec, HEIGHT, WIDTH, latent, rgb);
    vae_decode(codec.tape, codec.vae, (struct vae_tiling){0}, 1, HEIGHT, WIDTH, raw, pixels);
    int clipped = 0;
    for (int i = 0; i < PIXELS; i++) {
        float level = (pixels[i] / 2 + 0.5F) * 255;
        level = fminf(fmaxf(level, 0), 255);
        clipped += level == 0 || level == 255;
        assert_true(fabsf((float)rgb[i] - level) <= 0.5F + 1e-3F); // to the nearest
    }
    assert_true(clipped > 0 && clipped < PIXELS / 2);
    latent[0] = NAN;
    latent_codec_decode(&codec, HEIGHT, WIDTH, latent, rgb);
    assert_int_equal(rgb[0], 0);
    latent_codec_close(&codec);
    backend_close(backend);
}

static void tiles_are_asked_for(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct latent_codec whole, tiled;
    enum { SIDE = 12 }; // of latents: 96 pixels, the VAE's sample_size is 64
    GOOD(latent_codec_open_vae(&whole, backend, VAE_FOLDER, DTYPE_F32, false, &fault));
    GOOD(latent_codec_open_vae(&tiled, backend, VAE_FOLDER, DTYPE_F32, true, &fault));
    float *latent = check_calloc(SIDE * SIDE * 4, sizeof *latent);
    uint8_t *rgb[2];
    fill(3, SIDE * SIDE * 4, latent);
    for (int i = 0; i < 2; i++) {
        rgb[i] = check_calloc(64 * SIDE * SIDE * 3, 1);
        latent_codec_decode(i ? &tiled : &whole, SIDE, SIDE, latent, rgb[i]);
    }
    assert_true(memcmp(rgb[0], rgb[1], 64 * SIDE * SIDE * 3) != 0);
    for (int i = 0; i < 2; i++) free(rgb[i]);
    free(latent);
    latent_codec_close(&whole);
    latent_codec_close(&tiled);
    backend_close(backend);
}

static void other_kinds_need_no_network(void **state)
{
    (void)state;
    struct latent_form form = {.kind = LATENT_HAAR};
    for (int c = 0; c < latent_channels(LATENT_HAAR); c++) form.scale[c] = 1 + 0.1 * c;
    struct latent_codec codec = latent_codec_plain(&form);
    float latent[HEIGHT * WIDTH * 12];
    uint8_t rgb[4 * HEIGHT * WIDTH * 3], expected[4 * HEIGHT * WIDTH * 3];
    fill(4, HEIGHT * WIDTH * 12, latent);
    latent_codec_decode(&codec, HEIGHT, WIDTH, latent, rgb);
    latent_decode(&form, HEIGHT, WIDTH, latent, expected);
    assert_memory_equal(rgb, expected, sizeof rgb);
    latent_codec_close(&codec);
}

static void other_vaes_are_refused(void **state)
{
    (void)state;
    struct backend *backend = backend_open(BACKEND_CPU);
    struct latent_codec codec;
    FAILS(latent_codec_open_vae(&codec, backend, "test/fixtures/vae_odd", DTYPE_F32, false, &fault),
          EXIT_CODE_INPUT,
          "test/fixtures/vae_odd/config.json: in_channels 3, out_channels 3, latent_channels");
    FAILS(latent_codec_open_vae(&codec, backend, "test/fixtures/nothing", DTYPE_F32, false, &fault),
          EXIT_CODE_INPUT, "test/fixtures/nothing/config.json");
    backend_close(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vae_gives_its_distribution), cmocka_unit_test(a_vae_gives_its_picture),
        cmocka_unit_test(tiles_are_asked_for),          cmocka_unit_test(other_kinds_need_no_network),
        cmocka_unit_test(other_vaes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
