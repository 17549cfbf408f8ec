/* Which expert each prompt of the global batch goes to (METHOD section 3, "Routing in training"; Eq. 5).
 * Nothing here has a gradient: none flows through the choice. All functions are local. */
#ifndef ROUTER_TRANSPORT_H
#define ROUTER_TRANSPORT_H

#include <stdint.h>

/* Optimal transport by Sinkhorn-Knopp (METHOD section 3a, "Transport"): similarity [B, K] of prompts and
 * codes
 * -> plan [B, K], whose rows sum to 1 and whose columns all sum to about B/K. eps > 0 (METHOD: 0.05), rounds
 * >= 0 (METHOD: 3). */
void transport_plan(int64_t B, int64_t K, const double *similarity, double eps, int rounds, double *plan);

/* expert [B]: the column of each row's largest value in scores [B, K] (a plan, or similarities); of equal
 * ones the first. */
void transport_experts(int64_t B, int64_t K, const double *scores, int *expert);

/* use [K]: the share of the B prompts that each code got. Returns the entropy of the shares, in nats: log K
 * when all codes are used alike, 0 when one takes everything. */
double transport_use(int64_t B, int64_t K, const int *expert, double *use);

#endif
