/* What the trainings of phase pretrain share: the loop over steps with its log, checkpoints and early stop,
 * and the files. What is trained, and how a step goes, says the caller's task. */
#ifndef PHASES_TRAINING_H
#define PHASES_TRAINING_H

#include "io/hdf5_file.h"
#include "phases/phase.h"
#include "train/history.h"
#include "train/optimiser.h"

/* A training's own part. `task` is the caller's. */
struct training_task {
    /* One step, which raises training->step; values of the history's columns. Collective, with a shared
     * verdict. */
    bool (*run_step)(void *task, double *values, struct fault *fault);
    /* Now and then (look_every): how well the network does. Collective, with a shared verdict. */
    bool (*look)(void *task, struct fault *fault);
    /* What a file has beside weights, optimiser, training/ and history/. Rank 0. */
    bool (*write)(void *task, struct h5_writer *writer, bool finished, struct fault *fault);
    /* Whether a checkpoint's network is this one: before anything is read. Local. */
    bool (*check)(void *task, struct h5_reader *reader, struct fault *fault);
};

/* All pointers are borrowed. */
struct training {
    struct run *run;
    const struct pretrain_cfg *cfg; /* steps, checkpoint_every, half, data_file, ... */
    const struct training_task *functions;
    void *task;
    enum file_kind kind; /* of the finished file and of the checkpoint */
    struct backend *backend;
    enum dtype dtype;
    struct optimiser *optimiser;
    struct history *history;        /* its columns: */
    int loss, gradient_norm, rate;  /* where in them the progress line finds its numbers */
    const struct h5_parent *parent; /* [parents]; the first is data.h5 */
    int parents;
    int64_t look_every; /* steps, 0: never */
    int64_t step;       /* done */
    char *checkpoint;   /* paths */
    char *csv;
};

/* Goes on from the checkpoint, if there is one that belongs to the same deck, data and network; opens the
 * CSV. Collective. */
bool training_resume(struct training *training, struct fault *fault);

/* The steps that are left; then, or when the run is asked to stop (a fault of EXIT_CODE_STOPPED), the
 * checkpoint. Gradients that are not finite in too many steps in a row are a fault. Collective. */
bool training_run(struct training *training, struct fault *fault);

/* The finished file, with the averaged weights. Collective. */
bool training_finish(struct training *training, const char *path, struct fault *fault);

#endif
