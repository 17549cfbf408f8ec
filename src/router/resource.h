/* The budget: its loss, its target, and the terms that spread the experts' sizes (METHOD sections 3a and 4).
 * All are functions of the ratios [B] of the global batch (unit_table_ratio), each > 0. `gradient` [B], if
 * not NULL, is overwritten with d loss / d ratio. Local. */
#ifndef ROUTER_RESOURCE_H
#define ROUTER_RESOURCE_H

#include "models/unit_table.h"

enum resource_form { RESOURCE_LOG, RESOURCE_MAE, RESOURCE_MSE };

/* L_res for R = mean(ratio): |log(R/target)|, |R - target| or (R - target)^2. target > 0 is that of the
 * prunable part. At R = target the gradient is 0. */
double resource_loss(int64_t B, const double *ratio, double target, enum resource_form form,
                     double *gradient);

/* p' of the prunable part from the deck's p of all MACs: 1 - (1 - p) total / prunable. At most 0 when even
 * dropping everything prunable would not reach p. */
double resource_target(const struct unit_macs *macs, double p);

/* 1 - max(ratio): rewards one large expert. Ratios that share the maximum share its gradient evenly, so that
 * it does not depend on the order of the batch. */
double spread_max(int64_t B, const double *ratio, double *gradient);

/* -std(ratio), with B - 1: rewards unequal experts. 0, with gradient 0, when all ratios are equal or B is 1.
 */
double spread_std(int64_t B, const double *ratio, double *gradient);

#endif
