/* AdamW in fp64 on the host, for the router's own parameters (METHOD section 4). Local. */
#ifndef ROUTER_ADAMW_H
#define ROUTER_ADAMW_H

#include <stdbool.h>
#include <stdint.h>

struct adamw_settings {
    double beta1, beta2; /* METHOD: 0.9, 0.999 */
    double epsilon;      /* METHOD: 1e-8 */
    double decay;        /* decoupled weight decay; METHOD: 0 */
};

/* Moments of one array. Its own step count: codes start to learn after the warm-up, and their moments are
 * young then. All of it belongs into a checkpoint. */
struct adamw_moments {
    int64_t count;  /* elements */
    int64_t steps;  /* steps taken */
    double *first;  /* [count] running mean of the gradient; owned */
    double *second; /* [count] running mean of its square; owned */
};

/* Zero moments. Free with adamw_moments_free. */
struct adamw_moments adamw_moments_new(int64_t count);
void adamw_moments_free(struct adamw_moments *moments);

/* One step on values [count], as torch.optim.AdamW takes it. lr >= 0 is this step's. */
void adamw_step(struct adamw_moments *moments, struct adamw_settings settings, double lr,
                const double *gradient, double *values);

/* Whether all elements are finite. */
bool all_finite(int64_t count, const double *values);

#endif
