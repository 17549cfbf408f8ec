/* Gates from logits: the Gumbel-sigmoid (METHOD sections 3 and 3a; Eq. 9 of the paper).
 *
 * Each row of logits [rows, n] is an architecture embedding e (a prompt's or a code's), in the order of the
 * unit table. Noise is standard Gumbel of the same shape, or NULL for the noise-free value, the median of the
 * Gumbel distribution at every entry. All functions are local. Arrays are the caller's and do not overlap. */
#ifndef ROUTER_GUMBEL_H
#define ROUTER_GUMBEL_H

#include "models/unit_table.h"

/* -log(log 2), the median of the Gumbel distribution: a noise-free gate is 1 where a drawn one is 1 half of
 * the time. */
#define GUMBEL_MEDIAN 0.36651292058166432701

struct gumbel {
    double temperature; /* gamma, > 0; METHOD: 0.4 */
    double offset;      /* b, so that training starts near the full model; METHOD: 3 */
};

/* One width unit: gates[i] = sigmoid((logits[i] + noise[i] + b) / gamma), i in [0, width). If all are below
 * 0.5 the first gets +0.5: no unit may become empty. */
void gumbel_width(struct gumbel gumbel, int width, const double *logits, const double *noise, double *gates);
void gumbel_width_backward(struct gumbel gumbel, int width, const double *logits, const double *noise,
                           const double *gate_gradient, double *logit_gradient);

/* All depth entries: gates[order[i]] falls off with i, because logits share a softmax whose reversed
 * cumulative sum takes the place of the logits. order: a permutation of 0..entries-1, safest first. */
void gumbel_depth(struct gumbel gumbel, int entries, const int *order, const double *logits,
                  const double *noise, double *gates);
void gumbel_depth_backward(struct gumbel gumbel, int entries, const int *order, const double *logits,
                           const double *noise, const double *gate_gradient, double *logit_gradient);

/* Whole vectors: gates [rows, n] in (0, 1) from logits [rows, n] and noise [rows, n]. The backward function
 * takes d loss / d gates and overwrites logit_gradient [rows, n] with d loss / d logits. */
void gumbel_gates(const struct unit_table *table, struct gumbel gumbel, int64_t rows, const double *logits,
                  const double *noise, double *gates);
void gumbel_gates_backward(const struct unit_table *table, struct gumbel gumbel, int64_t rows,
                           const double *logits, const double *noise, const double *gate_gradient,
                           double *logit_gradient);

/* Hard value of a gate: 1 where the soft value is at least 0.5, else 0 (METHOD section 3, "Hard mask"). Its
 * straight-through gradient is the identity: a caller uses the hard value forward, and hands a gradient on as
 * it is. */
double gate_hard(double soft);

#endif
