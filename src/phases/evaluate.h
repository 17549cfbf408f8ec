/* Phase evaluate: how good the experts' pictures and predictions are, and what they cost (METHOD section 8).
 * Reads data.h5, router.h5, assignment.h5, the experts (or slices them out of teacher.h5), samples.h5 and
 * clip.h5; writes metrics.h5, and beside it what a next run need not compute again. */
#ifndef PHASES_EVALUATE_H
#define PHASES_EVALUATE_H

#include "phases/phase.h"

bool phase_evaluate(struct run *run, const struct evaluate_cfg *cfg, struct fault *fault);

#endif
