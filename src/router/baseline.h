/* Masks that are chosen, not learned: what prompt-tailored experts are compared with (METHOD section 8,
 * "Baselines at the same MACs").
 *
 * Each method ranks the width entries; they are removed in that order until the sliced network has `budget`
 * of the whole one's MACs (p, of all MACs, not of the prunable ones), within a thousandth of it. An entry
 * that would take it below is passed over, and so is the last one of a unit: none becomes empty. Depth
 * entries are all kept, but by baseline_block.
 *
 * mask [entries] is overwritten, 1 = kept. Each function returns the ratio of all MACs that is reached: what
 * is too far from the budget (too small a budget, too coarse a network) is the caller's to refuse. Functions
 * of their arguments alone; local. */
#ifndef ROUTER_BASELINE_H
#define ROUTER_BASELINE_H

#include "models/unit_table.h"

/* The same share of every unit, to within one entry; of each unit the first entries stay. The rounding is
 * spread evenly over the units. */
double baseline_uniform(const struct unit_table *table, const struct unit_macs *macs, double budget,
                        uint8_t *mask);

/* Entries in random order. */
double baseline_random(const struct unit_table *table, const struct unit_macs *macs, double budget,
                       uint64_t seed, uint8_t *mask);

/* Entries by score [width_entries], least first: one ranking over all units. */
double baseline_ranked(const struct unit_table *table, const struct unit_macs *macs, double budget,
                       const double *score, uint8_t *mask);

/* The score of magnitude pruning (METHOD sections 8 and 9), from the L2 norms [width_entries] of what the
 * entries remove (unet_slice_norms): each over the mean of its unit's. So units whose slices are larger, or
 * whose weights are on another scale, can be ranked together, as the released baseline does. */
void baseline_magnitude_score(const struct unit_table *table, const double *norm, double *score);

/* BK-SDM's block removal (Kim et al. 2023, section 3.1) with the units that have depth gates: step by step,
 *  1. the ResNet and the transformer at the end of each down and up block, as a pair. BK-SDM drops the second
 *     pair of a down block too; of an up block its middle pair, where only the last has depth gates here. It
 *     drops all pairs at once; a budget that needs fewer starts with the innermost ones, because it finds the
 *     outer stages to matter most: METHOD 3a's keep order, backwards.
 *  2. the middle block
 *  3. the stages that are left, from the innermost outwards
 * A step that would go below the budget is not dropped: it, and what comes after, is trimmed in width, evenly
 * over its units. So are the steps 2 and 3, which have no depth gates: down to one entry a unit. Needs depth
 * entries. */
double baseline_block(const struct unit_table *table, const struct unit_macs *macs, double budget,
                      uint8_t *mask);

#endif
