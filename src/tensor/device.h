/* The GPUs of the machines: which there are, and which rank computes on which. Where the program was built
 * without a GPU backend there are none. */
#ifndef TENSOR_DEVICE_H
#define TENSOR_DEVICE_H

#include "comm/comm.h"

/* Whether this program was built with a GPU backend. */
bool device_built(void);

/* GPUs that this process may use. Local. */
int device_count(void);

/* Whether the first of them, one that must be there, computes in bf16. Local. */
bool device_has_bf16(void);

/* Libraries of the GPU backend with their versions, and of the driver; NULL in a program without it. The
 * caller frees it. */
char *device_libraries(void);

/* "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.1 GiB", this process's GPU, which must be there. The
 * caller frees it. Local. */
char *device_text(void);

/* Gives each rank a GPU of its machine by its place there, among those that CUDA_VISIBLE_DEVICES leaves it. A
 * rank without a GPU, and more than `ranks_per_gpu` ranks on one, are faults of EXIT_CODE_DECK, the same on
 * every rank. `texts` [ranks], or NULL: of each rank "node7, GPU 1 (0000:41:00.0): NVIDIA H100 80GB HBM3,
 * compute capability 9.0, 79.1 GiB", to be freed one by one. Collective. */
bool device_choose(const struct comm *comm, int ranks_per_gpu, char **texts, struct fault *fault);

#endif
