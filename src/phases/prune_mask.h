/* The methods of prune.method that learn nothing: one mask, chosen from the unit table, the MACs and the
 * teacher's weights (router/baseline.h). */
#ifndef PHASES_PRUNE_MASK_H
#define PHASES_PRUNE_MASK_H

#include "phases/phase.h"
#include "phases/router_file.h"

/* Whether the method learns codes, and so needs the loop. */
bool prune_learns(enum prune_method method);

/* K: router.experts, but 1 for all methods except aptp. */
int64_t prune_codes(const struct prune_cfg *cfg);

/* Puts the method's mask into the stored draw of routing->router (K = 1), as gates that are 0 or 1. Predictor
 * and codes are zero there: no prompt has another expert to go to. routing->unet has its masters in memory,
 * except under --check, when magnitude pruning ranks entries of equal worth. A budget that cannot be met
 * within 1 %, counted on the sliced network, is refused. Local; all ranks choose the same. */
bool prune_choose_mask(const struct run *run, const struct prune_cfg *cfg, struct routing *routing,
                       struct fault *fault);

#endif
