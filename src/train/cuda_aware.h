/* Whether MPI sums what lies in the GPUs' memory. */
#ifndef TRAIN_CUDA_AWARE_H
#define TRAIN_CUDA_AWARE_H

#include "comm/comm.h"
#include "tensor/backend.h"

enum cuda_aware { CUDA_AWARE_AUTO, CUDA_AWARE_ON, CUDA_AWARE_OFF };

/* Finds out, on backends whose memory is a device's, else *aware is false. Auto: where MPI claims on every
 * rank that it takes such pointers, the very call that trainings make is tried and its sum checked, since the
 * claim alone has been wrong. On: the call is tried whatever MPI claims, and a wrong sum is a fault of
 * EXIT_CODE_DECK; an MPI that follows such pointers on the host crashes in it. Collective. */
bool cuda_aware_find(const struct comm *comm, struct backend *backend, enum cuda_aware wish, bool *aware,
                     struct fault *fault);

#endif
