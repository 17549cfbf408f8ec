/* Phase verify: compares this program with a reference that PyTorch made (DESIGN section 9). Rank 0 alone
 * works. A quantity over its limit is a fault of EXIT_CODE_VERIFY, a broken reference one of EXIT_CODE_INPUT.
 */
#ifndef PHASES_VERIFY_H
#define PHASES_VERIFY_H

#include "phases/phase.h"

bool phase_verify(struct run *run, const struct verify_cfg *cfg, struct fault *fault);

#endif
