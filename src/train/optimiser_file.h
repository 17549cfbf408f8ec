/* The state of a training run's weights in its checkpoint, and the weights that it ends with. */
#ifndef TRAIN_OPTIMISER_FILE_H
#define TRAIN_OPTIMISER_FILE_H

#include "base/fault.h"
#include "train/optimiser.h"

struct h5_reader;
struct h5_writer;

/* weights/, ema/ (with an average), optimizer/first_moment/, optimizer/second_moment/ and optimizer/step.
 * Local. */
bool optimiser_write_h5(const struct optimiser *optimiser, struct h5_writer *writer, struct fault *fault);

/* Reads the same back, and training/skipped. Local. */
bool optimiser_read_h5(struct optimiser *optimiser, struct h5_reader *reader, struct fault *fault);

/* weights/ alone: the average where there is one. `half`: as IEEE half. Local. */
bool optimiser_write_result_h5(const struct optimiser *optimiser, bool half, struct h5_writer *writer,
                               struct fault *fault);

#endif
