/* Phase prune: learns the prompt router and the architecture codes (METHOD sections 3 and 4). Reads data.h5
 * and teacher.h5, writes router.h5, and beside it in run.folder a checkpoint and prune.csv. */
#ifndef PHASES_PRUNE_H
#define PHASES_PRUNE_H

#include "phases/phase.h"

bool phase_prune(struct run *run, const struct prune_cfg *cfg, struct fault *fault);

#endif
