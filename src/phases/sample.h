/* Phase sample: pictures of prompts, by the expert that each is routed to, by the teacher, or by one expert
 * (METHOD section 7). Collective. */
#ifndef PHASES_SAMPLE_H
#define PHASES_SAMPLE_H

#include "phases/phase.h"

bool phase_sample(struct run *run, const struct sample_cfg *cfg, struct fault *fault);

#endif
