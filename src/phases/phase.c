#include "phases/phase.h"

#include "base/check.h"

bool run_open_backend(const struct run *run, const struct run_cfg *cfg, struct backend **backend,
                      enum dtype *dtype, struct fault *fault)
{
    struct backend *opened = backend_open(run->check_only ? BACKEND_PLAN : BACKEND_CPU);
    bool has_bf16 = opened->ops->supports(opened, DTYPE_BF16);
    if (cfg->precision == PRECISION_BF16 && !has_bf16) {
        backend_close(opened);
        return fault_raise(fault, EXIT_CODE_DECK,
                           "run.precision is \"bf16\", which this machine's CPU does not compute natively "
                           "(AVX-512 BF16 is needed); allowed here: fp32, auto");
    }
    CHECK(cfg->precision != PRECISION_AUTO, "precision auto was not settled by main");
    *dtype = cfg->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
    *backend = opened;
    return true;
}
