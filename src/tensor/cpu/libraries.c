#include "tensor/cpu/libraries.h"

#include "base/check.h"

#include <cblas.h>
#include <dnnl.h>
#include <string.h>

static const char *instruction_set(void)
{
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_avx512_core:
        return "AVX-512";
    case dnnl_cpu_isa_avx512_core_vnni:
        return "AVX-512 VNNI";
    case dnnl_cpu_isa_avx512_core_bf16:
        return "AVX-512 BF16";
    case dnnl_cpu_isa_avx512_core_amx:
        return "AMX";
    case dnnl_cpu_isa_avx2:
    case dnnl_cpu_isa_avx2_vnni:
        return "AVX2";
    default:
        return "below AVX2";
    }
}

char *cpu_libraries(void)
{
    const dnnl_version_t *dnnl = dnnl_version();
    const char *blas = openblas_get_config(); // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..."
    const char *number = strchr(blas, ' ');
    size_t length = number ? strcspn(number + 1, " ") + (size_t)(number + 1 - blas) : strlen(blas);
    return check_format("oneDNN %d.%d.%d (%s), %.*s", dnnl->major, dnnl->minor, dnnl->patch,
                        instruction_set(), (int)length, blas);
}

void cpu_set_blas_threads(int threads)
{
    openblas_set_num_threads(threads);
}
