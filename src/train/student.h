/* A student learning from the teacher: forward passes of both, losses, and gradients. In pruning the student
 * is the teacher itself under gates, which get the gradients (METHOD section 4, points 1 to 3); in
 * fine-tuning it is an expert, whose weights get them (METHOD section 6). */
#ifndef TRAIN_STUDENT_H
#define TRAIN_STUDENT_H

#include "train/gradient_buckets.h"
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
    float *gate_gradient; /* [count, entries] of the weighted losses' mean over the global batch; not written
                           * without gates */
};

struct student {
    const struct unet *teacher; /* frozen; NULL: nothing is distilled, its losses are 0 */
    const struct unet *unet;    /* frozen, or trainable: then gradients are added to its weights' */
    const struct dataset_info *info;
    struct student_weights weights;
    int64_t micro_batch;  /* samples at a time: part of the result's rounding, so fixed for a run */
    int64_t global_batch; /* what means are taken over */
    bool recompute;       /* activations of blocks are computed again in the backward pass */
    struct gradient_buckets
        *buckets; /* watch the last pass, which completes the weights' gradients; or NULL */
};

/* Runs the samples of `noised` with gates[count, entries] (host memory; NULL: no gates), micro_batch at a
 * time; if that does not divide count, the last pass is a smaller one. Local. */
void student_run(struct tape *tape, const struct student *student, const struct noised_batch *noised,
                 const float *gates, struct student_result *result);

#endif
