#include "diffusion/latent.h"

#include "base/check.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    int channels, patch;
} kinds[LATENT_KINDS] = {
    [LATENT_PIXEL] = {"pixel", 3, 1}, [LATENT_HAAR] = {"haar", 12, 2}, [LATENT_VAE] = {"vae", 4, 8}};

const char *latent_kind_name(enum latent_kind kind)
{
    return kinds[kind].name;
}

bool latent_kind_find(const char *name, enum latent_kind *kind)
{
    for (int i = 0; i < LATENT_KINDS; i++) {
        if (strcmp(kinds[i].name, name)) continue;
        *kind = i;
        return true;
    }
    return false;
}

int latent_channels(enum latent_kind kind)
{
    return kinds[kind].channels;
}

int latent_patch(enum latent_kind kind)
{
    return kinds[kind].patch;
}

/* Twice the Haar bands of one 2x2 block of 8-bit pixels: integers. `rgb` is its first pixel, `row` the bytes
 * of a picture's row; out[12]. */
static void block_bands(const uint8_t *rgb, int row, int out[LATENT_MAX_CHANNELS])
{
    for (int colour = 0; colour < 3; colour++) {
        int a = rgb[colour], b = rgb[3 + colour], c = rgb[row + colour], d = rgb[row + 3 + colour];
        out[colour] = a + b + c + d;
        out[3 + colour] = a - b + c - d;
        out[6 + colour] = a + b - c - d;
        out[9 + colour] = a - b - c + d;
    }
}

/* What latent_encode computes, in whole numbers: the latent without its factor is
 * unit x integer + offset, with the unit and offset of the channel. */
static void position_integers(enum latent_kind kind, int width, const uint8_t *rgb, int y, int x,
                              int out[LATENT_MAX_CHANNELS])
{
    CHECK(kind != LATENT_VAE, "latents of a VAE are made by a network");
    int patch = latent_patch(kind), row = 3 * width;
    const uint8_t *first = rgb + (size_t)y * patch * row + (size_t)x * patch * 3;
    if (kind == LATENT_HAAR)
        block_bands(first, row, out);
    else
        for (int colour = 0; colour < 3; colour++) out[colour] = first[colour];
}

static double channel_unit(enum latent_kind kind)
{
    return kind == LATENT_HAAR ? 1.0 / 255 : 2.0 / 255;
}

/* The -1 of 2 p / 255 - 1: four of them, halved, in Haar's band 0; they cancel in the others. */
static double channel_offset(enum latent_kind kind, int channel)
{
    return kind == LATENT_PIXEL ? -1 : channel < 3 ? -2 : 0;
}

void latent_encode(const struct latent_form *form, int height, int width, const uint8_t *rgb, float *latent)
{
    int patch = latent_patch(form->kind), channels = latent_channels(form->kind);
    CHECK(height % patch == 0 && width % patch == 0, "a picture of %d x %d, sides are multiples of %d",
          height, width, patch);
    double unit = channel_unit(form->kind);
    int integer[LATENT_MAX_CHANNELS];
    for (int y = 0; y < height / patch; y++)
        for (int x = 0; x < width / patch; x++, latent += channels) {
            position_integers(form->kind, width, rgb, y, x, integer);
            for (int c = 0; c < channels; c++)
                latent[c] = (float)((unit * integer[c] + channel_offset(form->kind, c)) * form->scale[c]);
        }
}

static uint8_t to_8_bit(double value)
{
    double level = (value + 1) * 127.5;
    return level >= 255 ? 255 : level > 0 ? (uint8_t)(level + 0.5) : 0; // a NaN is not > 0
}

void latent_decode(const struct latent_form *form, int height, int width, const float *latent, uint8_t *rgb)
{
    int patch = latent_patch(form->kind), channels = latent_channels(form->kind), row = 3 * patch * width;
    CHECK(form->kind != LATENT_VAE, "latents of a VAE are decoded by a network");
    double value[LATENT_MAX_CHANNELS];
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, latent += channels) {
            for (int c = 0; c < channels; c++) value[c] = latent[c] / form->scale[c];
            uint8_t *pixel = rgb + (size_t)y * patch * row + (size_t)x * patch * 3;
            for (int colour = 0; colour < 3; colour++) {
                const double *band = value + colour;
                if (form->kind == LATENT_PIXEL) {
                    pixel[colour] = to_8_bit(band[0]);
                    continue;
                }
                pixel[colour] = to_8_bit((band[0] + band[3] + band[6] + band[9]) / 2);
                pixel[3 + colour] = to_8_bit((band[0] - band[3] + band[6] - band[9]) / 2);
                pixel[row + colour] = to_8_bit((band[0] + band[3] - band[6] - band[9]) / 2);
                pixel[row + 3 + colour] = to_8_bit((band[0] - band[3] - band[6] + band[9]) / 2);
            }
        }
}

void latent_moments_add(struct latent_moments *moments, enum latent_kind kind, int height, int width,
                        const uint8_t *rgb)
{
    int patch = latent_patch(kind), channels = latent_channels(kind);
    int integer[LATENT_MAX_CHANNELS];
    for (int y = 0; y < height / patch; y++)
        for (int x = 0; x < width / patch; x++) {
            position_integers(kind, width, rgb, y, x, integer);
            for (int c = 0; c < channels; c++) {
                moments->sum[c] += integer[c];
                moments->square[c] += (int64_t)integer[c] * integer[c];
            }
        }
    moments->count += (int64_t)(height / patch) * (width / patch);
}

void latent_moments_merge(struct latent_moments *moments, const struct latent_moments *other)
{
    moments->count += other->count;
    for (int c = 0; c < LATENT_MAX_CHANNELS; c++) {
        moments->sum[c] += other->sum[c];
        moments->square[c] += other->square[c];
    }
}

struct latent_form latent_form_from_moments(enum latent_kind kind, const struct latent_moments *moments)
{
    struct latent_form form = {.kind = kind};
    for (int c = 0; c < latent_channels(kind); c++) {
        form.scale[c] = 1;
        if (kind == LATENT_PIXEL || moments->count == 0) continue;
        double mean = (double)moments->sum[c] / (double)moments->count;
        double variance = (double)moments->square[c] / (double)moments->count - mean * mean;
        if (variance > 0) form.scale[c] = 1 / (channel_unit(kind) * sqrt(variance));
    }
    return form;
}
