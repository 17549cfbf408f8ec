/* The contrastive loss (METHOD section 4, L_cont, and 3a): like prompts shall get like architectures. Local.
 */
#ifndef ROUTER_CONTRASTIVE_H
#define ROUTER_CONTRASTIVE_H

#include <stdint.h>

/* L_cont over the global batch of B prompts. z [B, D]: prompt embeddings of any length. form [B, n]:
 * architectures in normal form (rows of length 1). tau > 0 (METHOD: 0.03). If form_gradient [B, n] is not
 * NULL it receives d loss / d form. One prompt has no other to be compared with: loss and gradient 0. */
double contrastive_loss(int64_t B, int64_t D, const double *z, int64_t n, const double *form, double tau,
                        double *form_gradient);

#endif
