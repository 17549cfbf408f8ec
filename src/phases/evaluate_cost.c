/* Phase evaluate: how long a picture takes. */
#include "phases/evaluate_parts.h"

#include "base/check.h"
#include "base/random.h"
#include "diffusion/guided_sampling.h"

#include <math.h>
#include <stdlib.h>

/* Token states of the empty prompt for `count` pictures, then of as many prompts of the split. */
static bool read_texts(const struct evaluating *evaluating, int64_t count, struct batch *batch,
                       struct fault *fault)
{
    int64_t *item = check_malloc(2 * (size_t)count * sizeof *item);
    int *flip = check_calloc(2 * (size_t)count, sizeof *flip);
    bool *drop = check_malloc(2 * (size_t)count * sizeof *drop);
    for (int64_t i = 0; i < 2 * count; i++) {
        item[i] = i % count % evaluating->info->items;
        drop[i] = i < count;
    }
    dataset_ask(evaluating->dataset, 2 * count, item, flip, drop);
    free(item);
    free(flip);
    free(drop);
    return dataset_take(evaluating->dataset, batch, fault);
}

/* Seconds to sample the batch from noise to latents. */
static double sample(struct guided_sampler *sampler, const struct guided_batch *batch, int64_t elements)
{
    random_normal((struct random_key){1, RANDOM_BENCH, 0, 0}, (uint64_t)elements, batch->latents);
    double began = timer_now();
    guided_sampler_run(sampler, batch, NULL, NULL);
    return timer_now() - began;
}

static double measure(const struct evaluating *evaluating, const struct unet *unet,
                      const struct noise_schedule *schedule, struct fault *fault)
{
    const struct dataset_info *info = evaluating->info;
    int64_t count = evaluating->cfg->timing_batch,
            elements = count * info->height * info->width * info->channels;
    struct batch texts;
    if (!read_texts(evaluating, count, &texts, fault)) return NAN;
    struct guided_sampling sampling = {.unet = unet,
                                       .schedule = schedule,
                                       .sampler = evaluating->sampling.sampler,
                                       .steps = (int)evaluating->sampling.steps,
                                       .guidance = evaluating->sampling.guidance};
    struct guided_batch batch = {.count = count,
                                 .height = info->height,
                                 .width = info->width,
                                 .tokens = info->tokens,
                                 .latents = check_malloc((size_t)elements * sizeof(float)),
                                 .text_states = texts.text_states,
                                 .text_mask = texts.text_mask};
    struct guided_sampler *sampler = guided_sampler_new(&sampling, evaluating->dtype);
    sample(sampler, &batch, elements); // makes primitives and memory
    double seconds = sample(sampler, &batch, elements) / (double)count;
    guided_sampler_delete(sampler);
    free(batch.latents);
    return seconds;
}

double evaluate_time(struct evaluating *evaluating, const struct unet *unet,
                     const struct noise_schedule *schedule, struct fault *fault)
{
    const struct run *run = evaluating->run;
    double seconds = NAN;
    if (evaluating->cfg->timing_batch == 0 || run->check_only) return seconds;
    timer_start(run->timers, "timing");
    // The others sleep: times of ranks that share a machine would be each other's noise.
    if (comm_rank(run->comm) == 0) seconds = measure(evaluating, unet, schedule, fault);
    comm_meet(run->comm, INFINITY);
    comm_broadcast(run->comm, 0, &seconds, sizeof seconds);
    timer_stop(run->timers, "timing");
    return seconds;
}
