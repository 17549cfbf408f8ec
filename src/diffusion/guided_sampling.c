#include "diffusion/guided_sampling.h"

#include "base/check.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 2 * GUIDED_IMAGES }; // of a call: the unconditional half, then the conditional one

struct guided_sampler {
    struct guided_sampling sampling;
    int calls;            // of the UNet, for one piece
    struct tape *forever; // not reset: holds `time`
    struct tape *piece;   // reset for each piece: holds `text_keys`
    struct tape *step;    // reset for each call
    struct tensor **time; // [calls] of [ROWS, 4 C0]
    struct tensor **text_keys, *text_mask;
};

/* GUIDED_IMAGES images on their way. */
struct piece {
    int64_t count, size; // of those that are wanted; elements of one image
    float *latents;      // [GUIDED_IMAGES, H, W, C]
    float *doubled;      // [ROWS, H, W, C]
    float *prediction;   // the same
};

static void embed_timesteps(struct guided_sampler *guided)
{
    const struct guided_sampling *sampling = &guided->sampling;
    struct sampler sampler;
    sampler_init(&sampler, sampling->sampler, sampling->schedule, sampling->steps, 1);
    guided->calls = sampler.calls;
    guided->time = check_malloc((size_t)guided->calls * sizeof *guided->time);
    tape_reset(guided->forever, TAPE_NO_GRADIENT);
    for (int call = 0; call < guided->calls; call++) {
        float timesteps[ROWS];
        for (int i = 0; i < ROWS; i++) timesteps[i] = (float)sampler_timestep(&sampler, call);
        struct tensor *input = tape_input(guided->forever, DTYPE_F32, 1, (int64_t[]){ROWS}, timesteps);
        guided->time[call] = unet_time_embedding(guided->forever, sampling->unet, input);
    }
    sampler_clear(&sampler);
}

struct guided_sampler *guided_sampler_new(const struct guided_sampling *sampling, enum dtype dtype)
{
    const struct unet_config *config = &sampling->unet->config;
    struct backend *backend = sampling->unet->parameters.backend;
    CHECK(config->in_channels == config->out_channels,
          "a UNet of %lld in and %lld out channels cannot be sampled", (long long)config->in_channels,
          (long long)config->out_channels);
    struct guided_sampler *guided = check_calloc(1, sizeof *guided);
    guided->sampling = *sampling;
    guided->forever = tape_new(backend, dtype);
    guided->piece = tape_new(backend, dtype);
    guided->step = tape_new(backend, dtype);
    guided->text_keys =
        check_calloc((size_t)unet_cross_attentions(sampling->unet), sizeof *guided->text_keys);
    embed_timesteps(guided);
    return guided;
}

void guided_sampler_delete(struct guided_sampler *guided)
{
    if (!guided) return;
    tape_delete(guided->forever);
    tape_delete(guided->piece);
    tape_delete(guided->step);
    free(guided->time);
    free(guided->text_keys);
    free(guided);
}

int64_t guided_sampler_calls(const struct guided_sampler *guided, int64_t count)
{
    return (count + GUIDED_IMAGES - 1) / GUIDED_IMAGES * guided->calls;
}

size_t guided_sampler_peak(const struct guided_sampler *guided)
{
    return arena_peak(tape_arena(guided->forever)) + arena_peak(tape_arena(guided->piece)) +
           arena_peak(tape_arena(guided->step));
}

/* Rows of `size` elements of images [first, first + count), the last one again and again where the piece is
 * larger; of both halves, the second of which begins after `half` images (0: it is the first one again). */
static void gather_rows(const float *values, int64_t half, int64_t first, int64_t count, int64_t size,
                        float *rows)
{
    for (int64_t i = 0; i < ROWS; i++) {
        int64_t image = i % GUIDED_IMAGES < count ? i % GUIDED_IMAGES : count - 1;
        memcpy(rows + i * size, values + (i / GUIDED_IMAGES * half + first + image) * size,
               (size_t)size * sizeof *rows);
    }
}

/* Finds the keys and values of the text of a piece. */
static void read_text(struct guided_sampler *guided, const struct guided_batch *batch, int64_t first,
                      int64_t count)
{
    int64_t width = guided->sampling.unet->config.text_width, tokens = batch->tokens;
    float *states = check_malloc((size_t)(ROWS * tokens * width) * sizeof *states);
    float *mask = check_malloc((size_t)(ROWS * tokens) * sizeof *mask);
    gather_rows(batch->text_states, batch->count, first, count, tokens * width, states);
    gather_rows(batch->text_mask, batch->count, first, count, tokens, mask);
    struct tape *tape = guided->piece;
    tape_reset(tape, TAPE_NO_GRADIENT);
    guided->text_mask = tape_input(tape, DTYPE_F32, 2, (int64_t[]){ROWS, tokens}, mask);
    struct tensor *text = tape_input(tape, tape_dtype(tape), 3, (int64_t[]){ROWS, tokens, width}, states);
    unet_text_keys(tape, guided->sampling.unet, text, guided->text_keys);
    free(states);
    free(mask);
}

/* The UNet's predictions for both halves, [ROWS, H, W, C]. */
static void predict(struct guided_sampler *guided, const struct guided_batch *batch, int call,
                    struct piece *piece)
{
    const struct unet *unet = guided->sampling.unet;
    struct tape *tape = guided->step;
    int64_t count = GUIDED_IMAGES * piece->size;
    memcpy(piece->doubled, piece->latents, (size_t)count * sizeof *piece->latents);
    memcpy(piece->doubled + count, piece->latents, (size_t)count * sizeof *piece->latents);
    int64_t shape[] = {ROWS, batch->height, batch->width, unet->config.in_channels};
    tape_reset(tape, TAPE_NO_GRADIENT);
    struct unet_input input = {.latents = tape_input(tape, tape_dtype(tape), 4, shape, piece->doubled),
                               .text_mask = guided->text_mask,
                               .time = guided->time[call],
                               .text_keys = guided->text_keys};
    struct unet_output output;
    unet_forward(tape, unet, input, &output);
    tape_read(tape, output.sample, piece->prediction);
}

static void sample_piece(struct guided_sampler *guided, const struct guided_batch *batch, struct piece *piece,
                         void (*called)(void *context), void *context)
{
    const struct guided_sampling *sampling = &guided->sampling;
    int64_t count = GUIDED_IMAGES * piece->size;
    float guidance = (float)sampling->guidance;
    struct sampler sampler;
    sampler_init(&sampler, sampling->sampler, sampling->schedule, sampling->steps, count);
    for (int call = 0; call < sampler.calls; call++) {
        float *prediction = piece->prediction;
        predict(guided, batch, call, piece);
        for (int64_t i = 0; i < count; i++)
            prediction[i] += guidance * (prediction[count + i] - prediction[i]);
        sampler_step(&sampler, prediction, piece->latents);
        if (called) called(context);
    }
    sampler_clear(&sampler);
}

void guided_sampler_run(struct guided_sampler *guided, const struct guided_batch *batch,
                        void (*called)(void *context), void *context)
{
    int64_t size = batch->height * batch->width * guided->sampling.unet->config.in_channels;
    size_t bytes = (size_t)(ROWS * size) * sizeof(float);
    struct piece piece = {.size = size,
                          .latents = check_malloc(bytes / 2),
                          .doubled = check_malloc(bytes),
                          .prediction = check_malloc(bytes)};
    for (int64_t first = 0; first < batch->count; first += GUIDED_IMAGES) {
        piece.count = batch->count - first < GUIDED_IMAGES ? batch->count - first : GUIDED_IMAGES;
        read_text(guided, batch, first, piece.count);
        gather_rows(batch->latents, 0, first, piece.count, size, piece.doubled);
        memcpy(piece.latents, piece.doubled, bytes / 2);
        sample_piece(guided, batch, &piece, called, context);
        memcpy(batch->latents + first * size, piece.latents, (size_t)(piece.count * size) * sizeof(float));
    }
    free(piece.latents);
    free(piece.doubled);
    free(piece.prediction);
}
