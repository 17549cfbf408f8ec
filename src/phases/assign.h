/* Phase assign: the expert of every prompt (METHOD section 5). Reads data.h5 and router.h5, writes
 * assignment.h5. */
#ifndef PHASES_ASSIGN_H
#define PHASES_ASSIGN_H

#include "phases/phase.h"

bool phase_assign(struct run *run, const struct assign_cfg *cfg, struct fault *fault);

#endif
