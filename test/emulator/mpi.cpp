/* An MPI that takes pointers to device memory, made of one that does not, through MPI's profiling interface.
 * APTP_EMULATOR_CUDA_AWARE: 0 (if not set), 1, or "wrong": it claims to be one and sums nothing. */
#include "machine.h"

#define OMPI_SKIP_MPICXX 1 // the C interface alone
#include <mpi.h>
#include <stdlib.h>

static const char *awareness(void)
{
    const char *value = getenv("APTP_EMULATOR_CUDA_AWARE");
    return value && *value ? value : "0";
}

extern "C" int MPIX_Query_cuda_support(void)
{
    return strcmp(awareness(), "0") != 0;
}

extern "C" int MPI_Allreduce(const void *given, void *result, int count, MPI_Datatype type, MPI_Op operation,
                             MPI_Comm comm)
{
    if (!emulator_is_device(result) && !emulator_is_device(given))
        return PMPI_Allreduce(given, result, count, type, operation, comm);
    if (!MPIX_Query_cuda_support())
        emulator_fail("MPI_Allreduce of device memory: this MPI is not CUDA-aware");
    if (given != MPI_IN_PLACE) emulator_fail("MPI_Allreduce of device memory that is not MPI_IN_PLACE");
    int size, status = MPI_SUCCESS;
    MPI_Type_size(type, &size);
    use_at_once(result, (size_t)size * (size_t)count, "MPI_Allreduce", [&] {
        if (strcmp(awareness(), "wrong") != 0)
            status = PMPI_Allreduce(given, result, count, type, operation, comm);
    });
    return status;
}
