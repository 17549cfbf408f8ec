#include "phases/phase.h"

#include "base/check.h"

enum backend_kind run_backend_kind(const struct run *run, const struct run_cfg *cfg)
{
    CHECK(cfg->backend != RUN_BACKEND_AUTO, "backend auto was not settled by main");
    if (run->check_only) return BACKEND_PLAN;
    return cfg->backend == RUN_BACKEND_CUDA ? BACKEND_CUDA : BACKEND_CPU;
}

bool run_open_backend(const struct run *run, const struct run_cfg *cfg, struct backend **backend,
                      enum dtype *dtype, struct fault *fault)
{
    bool gpu = cfg->backend == RUN_BACKEND_CUDA;
    struct backend *opened = backend_open(run_backend_kind(run, cfg));
    bool has_bf16 = (gpu && run->check_only) || opened->ops->supports(opened, DTYPE_BF16);
    if (cfg->precision == PRECISION_BF16 && !has_bf16) {
        backend_close(opened);
        return fault_raise(fault, EXIT_CODE_DECK,
                           "run.precision is \"bf16\", which this machine's %s does not compute natively "
                           "(%s is needed); allowed here: fp32, auto",
                           gpu ? "GPU" : "CPU", gpu ? "compute capability 8.0" : "AVX-512 BF16");
    }
    CHECK(cfg->precision != PRECISION_AUTO, "precision auto was not settled by main");
    opened->tf32 = cfg->tf32;
    *dtype = cfg->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
    *backend = opened;
    return true;
}
