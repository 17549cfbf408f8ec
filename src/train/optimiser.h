/* AdamW over a model's parameters, and a moving average of the weights. */
#ifndef TRAIN_OPTIMISER_H
#define TRAIN_OPTIMISER_H

#include "tensor/backend.h"

struct optimiser_config {
    double learning_rate;
    int64_t warmup_steps; /* linear from 0 */
    double beta1, beta2, epsilon, weight_decay;
    double clip_norm; /* largest norm of the whole gradient, 0 = no clipping */
    double ema_decay; /* 0 = no average; ramped as (1 + step) / (10 + step) at the start */
};

/* State of a training run: one pair of moments (and an average) a parameter, in the backend's memory. */
struct optimiser {
    struct optimiser_config config;
    struct parameter_set *parameters;   /* borrowed, trainable */
    float **first, **second, **average; /* [parameters][elements]; average NULL without EMA */
    struct trained_array *arrays;       /* [parameters] owned, for the backend's slots */
    int64_t step;                       /* updates made */
    int64_t skipped;                    /* steps whose gradient was not finite */
};

/* Allocates zeroed moments, and averages that start as the weights; free with optimiser_clear. */
void optimiser_init(struct optimiser *optimiser, const struct optimiser_config *config,
                    struct parameter_set *parameters);
void optimiser_clear(struct optimiser *optimiser);

/* Learning rate of the next update. */
double optimiser_learning_rate(const struct optimiser *optimiser);

/* Makes one update with the gradients of the parameters, which are the sums over ranks already
 * (train/gradient_buckets.h). A gradient or a `loss` that is not finite changes nothing but the count of
 * skipped steps. Returns the norm of the gradient, NaN for such a loss. Local: ranks with the same gradients
 * and loss stay the same. */
double optimiser_update(struct optimiser *optimiser, double loss);

/* Exchanges weights and averages, so that the network computes with the averages; a second call exchanges
 * them back. Nothing without EMA. */
void optimiser_swap_average(struct optimiser *optimiser);

#endif
