#include "train/cuda_aware.h"

#include "base/check.h"

#include <stdlib.h>

enum { TRIED = 1 << 18 }; /* elements: long enough for the algorithm that MPI takes for buckets */

/* What rank `rank` adds at place i: whole numbers, so that sums are exact in any order. */
static float part(int rank, int i)
{
    return (float)((rank % 64 + 1) * (i % 97 + 1));
}

/* Whether a sum over ranks in the device's memory comes out right here. Collective. */
static bool try_sum(const struct comm *comm, struct backend *backend)
{
    size_t bytes = TRIED * sizeof(float);
    float *host = check_malloc(bytes), *device = backend->ops->memory_new(backend, bytes);
    for (int i = 0; i < TRIED; i++) host[i] = part(comm_rank(comm), i);
    backend->ops->upload(backend, device, host, bytes);
    backend->ops->synchronize(backend);
    comm_sum_device(comm, device, TRIED);
    backend->ops->download(backend, host, device, bytes);
    bool right = true;
    for (int i = 0; i < TRIED && right; i++) {
        double expected = 0;
        for (int rank = 0; rank < comm_size(comm); rank++) expected += part(rank, i);
        right = host[i] == (float)expected;
    }
    backend->ops->memory_free(backend, device, bytes);
    free(host);
    return right;
}

bool cuda_aware_find(const struct comm *comm, struct backend *backend, enum cuda_aware wish, bool *aware,
                     struct fault *fault)
{
    *aware = false;
    if (!backend->device || wish == CUDA_AWARE_OFF || comm_size(comm) == 1) return true;
    if (wish == CUDA_AWARE_AUTO && comm_any(comm, !comm_claims_cuda())) return true;
    *aware = !comm_any(comm, !try_sum(comm, backend));
    if (wish == CUDA_AWARE_ON && !*aware)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "comm.cuda_aware is \"on\", but this MPI sums the memory of GPUs wrongly; allowed "
                           "here: off, auto");
    return true;
}
