/* The normal form in which architectures are compared (METHOD section 3a, "Normal form of a vector").
 *
 * A gate vector [n] becomes a vector of length 1, so that the cosine of two architectures is a plain product.
 * Where the form takes hard values, the gradient goes straight through. All functions are local. */
#ifndef ROUTER_NORMAL_FORM_H
#define ROUTER_NORMAL_FORM_H

#include "models/unit_table.h"

/* Which values are hard. v: a width entry, d: the depth entry it falls under. */
enum normal_form {
    NORMAL_FORM_MIXED, /* hard(v) without a depth gate, v d with one; hard(d) */
    NORMAL_FORM_HARD,  /* hard(v) hard(d); hard(d) */
    NORMAL_FORM_SOFT,  /* v d; d */
};

const char *normal_form_name(enum normal_form kind); /* "mixed" */

/* scale [n]: what multiplies each entry: 1/sqrt(width) of a width entry's unit, 1 of a depth entry. With macs
 * (router.mac_weights; else NULL) also times the share of the prunable MACs: of the unit, and of a depth
 * entry all that goes when it is dropped. */
void normal_form_scale(const struct unit_table *table, const struct unit_macs *macs, double *scale);

/* gates [rows, n] -> form [rows, n] of unit length; length [rows] is the length before, which the backward
 * function wants. A vector of zeros (form hard, everything under dropped depth gates) stays one. */
void normal_form_forward(const struct unit_table *table, enum normal_form kind, const double *scale,
                         int64_t rows, const double *gates, double *form, double *length);

/* Overwrites gate_gradient [rows, n] from form_gradient [rows, n] = d loss / d form. */
void normal_form_backward(const struct unit_table *table, enum normal_form kind, const double *scale,
                          int64_t rows, const double *gates, const double *form, const double *length,
                          const double *form_gradient, double *gate_gradient);

#endif
