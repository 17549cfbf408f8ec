#include "diffusion/latent_codec.h"

#include "base/check.h"

#include <math.h>
#include <stdlib.h>

enum { COLOURS = 3 };

struct latent_codec latent_codec_plain(const struct latent_form *form)
{
    CHECK(form->kind != LATENT_VAE, "latents of a VAE need its folder");
    return (struct latent_codec){.form = *form};
}

static bool check_vae(const struct vae_config *config, const char *folder, struct fault *fault)
{
    int64_t channels = latent_channels(LATENT_VAE), patch = latent_patch(LATENT_VAE);
    return (config->in_channels == COLOURS && config->out_channels == COLOURS &&
            config->latent_channels == channels && vae_factor(config) == patch) ||
           fault_raise(
               fault, EXIT_CODE_INPUT,
               "%s/config.json: in_channels %lld, out_channels %lld, latent_channels %lld, %d levels: "
               "allowed are %d, %d, %lld and 4, latents of %lld values for %lld x %lld pixels",
               folder, (long long)config->in_channels, (long long)config->out_channels,
               (long long)config->latent_channels, config->levels, COLOURS, COLOURS, (long long)channels,
               (long long)channels, (long long)patch, (long long)patch);
}

bool latent_codec_open_vae(struct latent_codec *codec, struct backend *backend, const char *folder,
                           enum dtype dtype, bool tiled, struct fault *fault)
{
    *codec = (struct latent_codec){.form.kind = LATENT_VAE};
    if (!vae_open(backend, folder, &codec->vae, fault)) return false;
    const struct vae_config *config = &codec->vae->config;
    if (!check_vae(config, folder, fault)) {
        latent_codec_close(codec);
        return false;
    }
    for (int c = 0; c < latent_channels(LATENT_VAE); c++) codec->form.scale[c] = config->scaling_factor;
    if (tiled) codec->tiling = vae_tiling_usual(config);
    parameter_set_freeze(&codec->vae->parameters, dtype, false);
    codec->tape = tape_new(backend, dtype);
    return true;
}

void latent_codec_close(struct latent_codec *codec)
{
    if (codec->tape) tape_delete(codec->tape);
    vae_delete(codec->vae);
    *codec = (struct latent_codec){0};
}

/* Of -1..1, as latent_decode does it. */
static uint8_t colour(float value)
{
    float level = rintf((value + 1) * 127.5F);
    if (!(level > 0)) return 0; // what is not a number too
    return (uint8_t)(level > 255 ? 255 : level);
}

void latent_codec_paint(const struct latent_codec *codec, int height, int width, const float *latent,
                        float *pixels)
{
    CHECK(codec->vae, "latents without a VAE are decoded to 8 bits alone");
    size_t channels = (size_t)latent_channels(LATENT_VAE), count = (size_t)height * (size_t)width * channels;
    float *unscaled = check_malloc(count * sizeof *unscaled);
    for (size_t i = 0; i < count; i++) unscaled[i] = latent[i] / (float)codec->form.scale[i % channels];
    vae_decode(codec->tape, codec->vae, codec->tiling, 1, height, width, unscaled, pixels);
    free(unscaled);
}

void latent_codec_decode(const struct latent_codec *codec, int height, int width, const float *latent,
                         uint8_t *rgb)
{
    if (!codec->vae) {
        latent_decode(&codec->form, height, width, latent, rgb);
        return;
    }
    int patch = latent_patch(LATENT_VAE);
    size_t values = (size_t)(height * patch) * (size_t)(width * patch) * COLOURS;
    float *pixels = check_malloc(values * sizeof *pixels);
    latent_codec_paint(codec, height, width, latent, pixels);
    for (size_t i = 0; i < values; i++) rgb[i] = colour(pixels[i]);
    free(pixels);
}

void latent_codec_distribution(const struct latent_codec *codec, int height, int width, const uint8_t *rgb,
                               float *mean, float *deviation)
{
    CHECK(codec->vae, "latents without a VAE have no distribution");
    int patch = latent_patch(LATENT_VAE), channels = latent_channels(LATENT_VAE);
    size_t count = (size_t)height * (size_t)width * (size_t)channels,
           values = (size_t)(height * patch) * (size_t)(width * patch) * COLOURS;
    float *pixels = check_malloc(values * sizeof *pixels);
    for (size_t i = 0; i < values; i++) pixels[i] = (float)rgb[i] / 127.5F - 1;
    vae_encode(codec->tape, codec->vae, codec->tiling, 1, height, width, pixels, mean, deviation);
    for (size_t i = 0; i < count; i++) {
        float scale = (float)codec->form.scale[i % (size_t)channels];
        mean[i] *= scale;
        deviation[i] = expf(deviation[i] / 2) * scale; // of its log-variance
    }
    free(pixels);
}
