/* Phase import: a published diffusers model into teacher.h5. */
#ifndef PHASES_IMPORT_H
#define PHASES_IMPORT_H

#include "phases/phase.h"

bool phase_import(struct run *run, const struct import_cfg *cfg, struct fault *fault);

#endif
