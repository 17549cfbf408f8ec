/* Starting values of predictor and codes (METHOD sections 3 and 4). Functions of the key alone. Local. */
#ifndef ROUTER_INITIALISE_H
#define ROUTER_INITIALISE_H

#include "base/random.h"

/* A random orthogonal matrix [rows, columns] as torch.nn.init.orthogonal_ makes it, from our own normal
 * numbers: orthonormal rows when rows <= columns, else orthonormal columns; uniform over all such matrices.
 */
void initialise_orthogonal(int64_t rows, int64_t columns, struct random_key key, double *out);

/* K centres [K, n] of the points [rows, n], rows >= K >= 1, by k-means: seeded by k-means++, then rounds of
 * assignment and averaging until nothing changes, 100 at most. A centre that loses all points moves to the
 * point that is farthest from its own. */
void initialise_kmeans(int64_t rows, int64_t n, const double *points, int64_t K, struct random_key key,
                       double *centres);

#endif
