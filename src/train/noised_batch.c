#include "train/noised_batch.h"

#include "base/check.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>

static int64_t latent_size(const struct dataset_info *info)
{
    return info->height * info->width * info->channels;
}

static void reserve(struct noised_batch *noised, const struct dataset_info *info, int64_t count)
{
    noised->count = count;
    if (count <= noised->capacity) return;
    size_t samples = (size_t)count * sizeof(float), size = (size_t)latent_size(info);
    noised->noisy = check_realloc(noised->noisy, samples * size);
    noised->target = check_realloc(noised->target, samples * size);
    noised->latent = check_realloc(noised->latent, size * sizeof *noised->latent);
    noised->timesteps = check_realloc(noised->timesteps, samples);
    noised->weight = check_realloc(noised->weight, samples);
    noised->text_states =
        check_realloc(noised->text_states, samples * (size_t)(info->tokens * info->text_width));
    noised->text_mask = check_realloc(noised->text_mask, samples * (size_t)info->tokens);
    noised->capacity = count;
}

void noised_batch_clear(struct noised_batch *noised)
{
    free(noised->noisy);
    free(noised->target);
    free(noised->latent);
    free(noised->timesteps);
    free(noised->weight);
    free(noised->text_states);
    free(noised->text_mask);
    *noised = (struct noised_batch){0};
}

static void copy_texts(struct noised_batch *noised, const struct dataset_info *info,
                       const struct batch *batch)
{
    if (batch->count == 0) return; // a rank without samples may have no arrays
    size_t samples = (size_t)batch->count * sizeof(float);
    memcpy(noised->text_states, batch->text_states, samples * (size_t)(info->tokens * info->text_width));
    memcpy(noised->text_mask, batch->text_mask, samples * (size_t)info->tokens);
}

/* The latent of sample i [H, W, C]: as it is, or drawn with the numbers of `key`. */
static const float *latent_of(const struct noised_batch *noised, const struct batch *batch, int64_t i,
                              int64_t size, struct random_key key)
{
    const float *mean = batch->latents + i * size, *deviation = batch->deviations;
    if (!deviation) return mean;
    random_normal(key, (uint64_t)size, noised->latent);
    for (int64_t j = 0; j < size; j++)
        noised->latent[j] = mean[j] + deviation[i * size + j] * noised->latent[j];
    return noised->latent;
}

void noised_batch_make(struct noised_batch *noised, const struct noise_schedule *schedule,
                       const struct dataset_info *info, const struct batch *batch, uint64_t seed,
                       uint64_t step, uint64_t first_sample, double gamma)
{
    reserve(noised, info, batch->count);
    int64_t size = latent_size(info);
    for (int64_t i = 0; i < batch->count; i++) {
        uint64_t sample = first_sample + (uint64_t)i;
        const float *latent =
            latent_of(noised, batch, i, size, (struct random_key){seed, RANDOM_LATENT, step, sample});
        int timestep = noise_schedule_draw(schedule, seed, step, sample, size, latent,
                                           noised->noisy + i * size, noised->target + i * size);
        noised->timesteps[i] = (float)timestep;
        noised->weight[i] = (float)noise_schedule_min_snr(schedule, timestep, gamma);
    }
    copy_texts(noised, info, batch);
}

void noised_batch_make_fixed(struct noised_batch *noised, const struct noise_schedule *schedule,
                             const struct dataset_info *info, const struct batch *batch, uint64_t seed,
                             int timestep, const int64_t *item)
{
    reserve(noised, info, batch->count);
    int64_t size = latent_size(info);
    for (int64_t i = 0; i < batch->count; i++) {
        float *noisy = noised->noisy + i * size; // holds the noise first
        const float *latent =
            latent_of(noised, batch, i, size,
                      (struct random_key){seed, RANDOM_EVALUATION_LATENT, 0, (uint64_t)item[i]});
        random_normal((struct random_key){seed, RANDOM_EVALUATION, (uint64_t)timestep, (uint64_t)item[i]},
                      (uint64_t)size, noisy);
        noise_schedule_add_noise(schedule, timestep, size, latent, noisy, noisy, noised->target + i * size);
        noised->timesteps[i] = (float)timestep;
        noised->weight[i] = 1;
    }
    copy_texts(noised, info, batch);
}

void noised_batch_blank(struct noised_batch *noised, const struct noise_schedule *schedule,
                        const struct dataset_info *info, int64_t count)
{
    struct batch batch = {.count = count,
                          .latents = check_calloc((size_t)(count * latent_size(info)), sizeof(float)),
                          .text_states =
                              check_calloc((size_t)(count * info->tokens * info->text_width), sizeof(float)),
                          .text_mask = check_calloc((size_t)(count * info->tokens), sizeof(float))};
    noised_batch_make(noised, schedule, info, &batch, 0, 0, 0, 0);
    free(batch.latents);
    free(batch.text_states);
    free(batch.text_mask);
}

struct unet_input noised_batch_input(struct tape *tape, const struct noised_batch *noised,
                                     const struct dataset_info *info, int64_t first, int64_t count)
{
    enum dtype dtype = tape_dtype(tape);
    int64_t latents[] = {count, info->height, info->width, info->channels};
    int64_t states[] = {count, info->tokens, info->text_width};
    return (struct unet_input){
        .latents = tape_input(tape, dtype, 4, latents, noised->noisy + first * latent_size(info)),
        .timesteps = tape_input(tape, DTYPE_F32, 1, &count, noised->timesteps + first),
        .text =
            tape_input(tape, dtype, 3, states, noised->text_states + first * info->tokens * info->text_width),
        .text_mask = tape_input(tape, DTYPE_F32, 2, states, noised->text_mask + first * info->tokens),
    };
}

struct tensor *noised_batch_target(struct tape *tape, const struct noised_batch *noised,
                                   const struct dataset_info *info, int64_t first, int64_t count)
{
    int64_t dim[] = {count, info->height, info->width, info->channels};
    return tape_input(tape, DTYPE_F32, 4, dim, noised->target + first * latent_size(info));
}
