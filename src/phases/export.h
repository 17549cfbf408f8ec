/* Phase export: experts and router in the forms that PyTorch users read. */
#ifndef PHASES_EXPORT_H
#define PHASES_EXPORT_H

#include "phases/phase.h"

bool phase_export(struct run *run, const struct export_cfg *cfg, struct fault *fault);

#endif
