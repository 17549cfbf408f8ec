/* What the precision "auto" is settled by on a CPU. */
#ifndef TENSOR_ROOF_H
#define TENSOR_ROOF_H

#include <stdbool.h>

/* Whether matrix products are clearly faster in bf16 than in fp32 on this machine's CPU. Having the
 * instructions does not say so: without AMX a core may do half as many bf16 operations a second as fp32 ones.
 * Measured on one thread, in some 50 ms; false where bf16 is not native. A GPU that has bf16 computes it
 * faster: ask its backend. Local. */
bool roof_prefers_bf16(void);

#endif
