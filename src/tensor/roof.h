/* The machine's own roof, for `bench`: the best speed that the backend's library reaches in large products,
 * with nothing around them and every layout its own choice. A network's speed is told as a share of it. */
#ifndef TENSOR_ROOF_H
#define TENSOR_ROOF_H

#include "tensor/backend.h"

/* GFLOP/s (a multiplication and an addition are two) of the fastest of a few matrix products, or 3x3
 * convolutions, of the sizes of the SD 2.1 UNet's large layers; each is run for about `seconds`, the fastest
 * run counts. `dtype` must be supported by the backend. Works on BACKEND_CPU. */
double roof_matmul(struct backend *backend, enum dtype dtype, double seconds);
double roof_convolution(struct backend *backend, enum dtype dtype, double seconds);

/* Whether matrix products are clearly faster in bf16 than in fp32 on this machine's CPU. Having the
 * instructions does not say so: without AMX a core may do half as many bf16 operations a second as fp32 ones.
 * Measured on one thread, in some 50 ms; false where bf16 is not native. A GPU that has bf16 computes it
 * faster: ask its backend. Local. */
bool roof_prefers_bf16(void);

#endif
