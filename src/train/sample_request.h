/* A training step's samples asked for: items in the run's order, random views, some prompts dropped. */
#ifndef TRAIN_SAMPLE_REQUEST_H
#define TRAIN_SAMPLE_REQUEST_H

#include "train/dataset.h"
#include "train/sample_order.h"

struct sample_request {
    uint64_t seed;
    int64_t step, batch;   /* number of the step; samples of a global batch */
    int64_t first, count;  /* this rank's part of it */
    double prompt_dropout; /* chance of the empty prompt in the place of the sample's own */
    const int64_t *item;   /* items of the data set that the order runs over; NULL: all of them */
};

/* Everything drawn is a function of (seed, step, place in the global batch). Local. */
void sample_request_ask(const struct sample_request *request, struct sample_order *order,
                        struct dataset *dataset);

#endif
