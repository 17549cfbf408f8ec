/* The gated network learning from the full one: forward passes of both, losses, and the gradient for the
 * gates (METHOD section 4, points 1 to 3). */
#ifndef TRAIN_STUDENT_H
#define TRAIN_STUDENT_H

#include "train/noised_batch.h"

/* Weights of the losses in the total. */
struct student_weights {
    double ddpm;          /* min-SNR-weighted mean squared error to the target */
    double distill_out;   /* mean squared error of the outputs, student to teacher */
    double distill_block; /* mean over blocks of that of the hidden states */
};

/* What one rank's samples give; arrays of the caller, host memory. */
struct student_result {
    double *ddpm, *distill_out,
        *distill_block;   /* [count] unweighted losses; ddpm has the sample's min-SNR weight in it */
    float *gate_gradient; /* [count, entries] of the weighted losses' mean over the global batch */
};

struct student {
    const struct unet *unet; /* frozen or not: no weight gets a gradient from here if it is */
    const struct dataset_info *info;
    struct student_weights weights;
    int64_t micro_batch;  /* samples at a time: part of the result's rounding, so fixed for a run */
    int64_t global_batch; /* what means are taken over */
    bool recompute;       /* activations of blocks are computed again in the backward pass */
};

/* Runs the samples of `noised` with gates[count, entries] (host memory). count must be a multiple of
 * micro_batch, so that every pass has the same shapes. Local. */
void student_run(struct tape *tape, const struct student *student, const struct noised_batch *noised,
                 const float *gates, struct student_result *result);

#endif
