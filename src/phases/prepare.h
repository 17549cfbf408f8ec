/* Phase prepare: pictures and captions into data.h5. */
#ifndef PHASES_PREPARE_H
#define PHASES_PREPARE_H

#include "phases/phase.h"

bool phase_prepare(struct run *run, const struct prepare_cfg *cfg, struct fault *fault);

#endif
