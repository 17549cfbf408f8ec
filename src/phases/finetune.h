/* Phase finetune: trains each expert, sliced out of the teacher, on the prompts assigned to it. */
#ifndef PHASES_FINETUNE_H
#define PHASES_FINETUNE_H

#include "phases/phase.h"

/* See phases/phase.h. */
bool phase_finetune(struct run *run, const struct finetune_cfg *cfg, struct fault *fault);

#endif
