#include "train/optimiser.h"

#include "base/check.h"
#include "tensor/backend.h"

#include <math.h>
#include <stdlib.h>

static float **new_arrays(struct parameter_set *set)
{
    float **array = check_calloc((size_t)set->count, sizeof *array);
    for (int i = 0; i < set->count; i++)
        array[i] = set->backend->ops->memory_new(set->backend, tensor_bytes(&set->items[i]->value));
    return array;
}

static void free_arrays(struct parameter_set *set, float **array)
{
    if (!array) return;
    for (int i = 0; i < set->count; i++)
        set->backend->ops->memory_free(set->backend, array[i], tensor_bytes(&set->items[i]->value));
    free(array);
}

/* The arrays of all parameters as they are now: weights and averages may have been exchanged. */
static const struct trained_array *arrays_now(struct optimiser *optimiser)
{
    for (int i = 0; i < optimiser->parameters->count; i++) {
        const struct parameter *parameter = optimiser->parameters->items[i];
        optimiser->arrays[i] =
            (struct trained_array){.value = parameter->value.data,
                                   .gradient = parameter->gradient.data,
                                   .first_moment = optimiser->first[i],
                                   .second_moment = optimiser->second[i],
                                   .average = optimiser->average ? optimiser->average[i] : NULL,
                                   .count = tensor_count(&parameter->value)};
    }
    return optimiser->arrays;
}

void optimiser_init(struct optimiser *optimiser, const struct optimiser_config *config,
                    struct parameter_set *parameters)
{
    *optimiser = (struct optimiser){.config = *config, .parameters = parameters};
    optimiser->first = new_arrays(parameters);
    optimiser->second = new_arrays(parameters);
    optimiser->arrays = check_malloc((size_t)parameters->count * sizeof *optimiser->arrays);
    if (config->ema_decay == 0) return;
    optimiser->average = new_arrays(parameters);
    parameters->backend->ops->average(parameters->backend, 0, parameters->count, arrays_now(optimiser));
}

void optimiser_clear(struct optimiser *optimiser)
{
    free_arrays(optimiser->parameters, optimiser->first);
    free_arrays(optimiser->parameters, optimiser->second);
    free_arrays(optimiser->parameters, optimiser->average);
    free(optimiser->arrays);
    *optimiser = (struct optimiser){0};
}

double optimiser_learning_rate(const struct optimiser *optimiser)
{
    const struct optimiser_config *config = &optimiser->config;
    if (optimiser->step + 1 >= config->warmup_steps) return config->learning_rate;
    return config->learning_rate * (double)(optimiser->step + 1) / (double)config->warmup_steps;
}

/* The packed forms are those of other weights from now on. */
static void mark_stale(struct parameter_set *set)
{
    for (int i = 0; i < set->count; i++)
        for (int form = 0; form < PACKED_FORMS; form++) set->items[i]->packed_stale[form] = true;
}

double optimiser_update(struct optimiser *optimiser, double loss)
{
    struct parameter_set *set = optimiser->parameters;
    struct backend *backend = set->backend;
    const struct optimiser_config *config = &optimiser->config;
    const struct trained_array *arrays = arrays_now(optimiser);
    double squares = backend->ops->sum_of_squares(backend, set->count, arrays);
    double norm = isfinite(loss) ? sqrt(squares) : NAN;
    if (!isfinite(norm)) {
        optimiser->skipped++;
        return norm;
    }
    struct adamw adamw = {.learning_rate = (float)optimiser_learning_rate(optimiser),
                          .beta1 = (float)config->beta1,
                          .beta2 = (float)config->beta2,
                          .epsilon = (float)config->epsilon,
                          .weight_decay = (float)config->weight_decay,
                          .step = ++optimiser->step,
                          .gradient_scale = config->clip_norm > 0 && norm > config->clip_norm
                                                ? (float)(config->clip_norm / norm)
                                                : 1};
    double ramp = (1.0 + (double)optimiser->step) / (10.0 + (double)optimiser->step);
    float decay = (float)fmin(config->ema_decay, ramp);
    backend->ops->adamw(backend, &adamw, set->count, arrays);
    if (optimiser->average) backend->ops->average(backend, decay, set->count, arrays);
    mark_stale(set);
    return norm;
}

void optimiser_swap_average(struct optimiser *optimiser)
{
    struct parameter_set *set = optimiser->parameters;
    for (int i = 0; optimiser->average && i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        float *average = optimiser->average[i];
        optimiser->average[i] = parameter->value.data;
        parameter->value.data = average;
    }
    if (optimiser->average) mark_stale(set);
}
