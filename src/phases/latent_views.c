#include "phases/latent_views.h"

#include "base/check.h"

#include <stdlib.h>

static void mirror(int side, uint8_t *rgb)
{
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side / 2; x++)
            for (int c = 0; c < 3; c++) {
                uint8_t *a = rgb + (y * side + x) * 3 + c, *b = rgb + (y * side + side - 1 - x) * 3 + c;
                uint8_t kept = *a;
                *a = *b;
                *b = kept;
            }
}

/* [positions, channels] -> [channels, positions] */
static void to_planes(int64_t positions, int64_t channels, const float *nhwc, float *planes)
{
    for (int64_t p = 0; p < positions; p++)
        for (int64_t c = 0; c < channels; c++) planes[c * positions + p] = nhwc[p * channels + c];
}

void latent_views_encode(const struct latent_codec *codec, int side, int crops, int flips, uint8_t *rgb,
                         float *latents, float *deviations)
{
    int channels = latent_channels(codec->form.kind), high = side / latent_patch(codec->form.kind);
    int64_t positions = (int64_t)high * high, size = positions * channels, picture = (int64_t)side * side * 3;
    float *latent = check_malloc((size_t)size * sizeof *latent),
          *deviation = codec->vae ? check_malloc((size_t)size * sizeof *deviation) : NULL;
    for (int view = 0; view < crops * flips; view++) {
        uint8_t *crop = rgb + view / flips * picture;
        if (codec->vae) {
            latent_codec_distribution(codec, high, high, crop, latent, deviation);
            to_planes(positions, channels, deviation, deviations + view * size);
        } else {
            latent_encode(&codec->form, side, side, crop, latent);
        }
        to_planes(positions, channels, latent, latents + view * size);
        mirror(side, crop);
    }
    free(latent);
    free(deviation);
}
