#include "diffusion/guided_sampling.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

/* The UNet's predictions for both halves of the batch, [2 count, H, W, C], unconditional half first. */
static void predict(struct tape *tape, const struct guided_sampling *sampling,
                    const struct guided_batch *batch, int timestep, const float *latents, float *timesteps,
                    float *prediction)
{
    const struct unet_config *config = &sampling->unet->config;
    int64_t both = 2 * batch->count;
    for (int64_t i = 0; i < both; i++) timesteps[i] = (float)timestep;
    enum dtype dtype = tape_dtype(tape);
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = {
        .latents = tape_input(tape, dtype, 4,
                              (int64_t[]){both, batch->height, batch->width, config->in_channels}, latents),
        .timesteps = tape_input(tape, DTYPE_F32, 1, &both, timesteps),
        .text = tape_input(tape, dtype, 3, (int64_t[]){both, batch->tokens, config->text_width},
                           batch->text_states),
        .text_mask = tape_input(tape, DTYPE_F32, 2, (int64_t[]){both, batch->tokens}, batch->text_mask),
    };
    struct unet_output output;
    unet_forward(tape, sampling->unet, input, &output);
    tape_read(tape, output.sample, prediction);
}

void guided_sample(struct tape *tape, const struct guided_sampling *sampling,
                   const struct guided_batch *batch)
{
    const struct unet_config *config = &sampling->unet->config;
    CHECK(config->in_channels == config->out_channels,
          "a UNet of %lld in and %lld out channels cannot be sampled", (long long)config->in_channels,
          (long long)config->out_channels);
    int64_t count = batch->count * batch->height * batch->width * config->in_channels;
    float *doubled = check_malloc(2 * (size_t)count * sizeof *doubled);
    float *prediction = check_malloc(2 * (size_t)count * sizeof *prediction);
    float *timesteps = check_malloc(2 * (size_t)batch->count * sizeof *timesteps);
    struct sampler sampler;
    sampler_init(&sampler, sampling->sampler, sampling->schedule, sampling->steps, count);
    for (int call = 0; call < sampler.calls; call++) {
        memcpy(doubled, batch->latents, (size_t)count * sizeof *doubled);
        memcpy(doubled + count, batch->latents, (size_t)count * sizeof *doubled);
        predict(tape, sampling, batch, sampler_timestep(&sampler, call), doubled, timesteps, prediction);
        float guidance = (float)sampling->guidance;
        for (int64_t i = 0; i < count; i++)
            prediction[i] += guidance * (prediction[count + i] - prediction[i]);
        sampler_step(&sampler, prediction, batch->latents);
    }
    sampler_clear(&sampler);
    free(doubled);
    free(prediction);
    free(timesteps);
}
