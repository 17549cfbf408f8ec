/* The CUDA backend: its context, and what tensor/backend.c opens. cuBLASLt computes matrix products, cuDNN
 * convolutions, and the kernels of this folder the rest.
 *
 * All ops of a backend go to one compute stream, in the order in which they are asked for; so memory that an
 * op gives back to an arena may be taken by the next op at once. A second stream copies gradients to the host
 * beside them. Nothing waits but download, synchronize, event_wait and sum_of_squares. */
#ifndef CUDA_BACKEND_H
#define CUDA_BACKEND_H

#ifdef __cplusplus
extern "C" {
#endif

#include "tensor/backend.h"

/* Whether this process may use a CUDA device. Local. */
bool cuda_backend_available(void);

/* Opens a backend on the process's current device; backend_close closes it. */
struct backend *cuda_backend_open(void);

/* ---- the machine's devices, for main */

/* Devices that this process may use (CUDA_VISIBLE_DEVICES counts), 0 if none or no driver. Local. */
int cuda_device_count(void);

/* Makes `device` in [0, cuda_device_count()) the process's current one. Local. */
void cuda_device_choose(int device);
int cuda_device_chosen(void);

/* "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.1 GiB", of a device; the caller frees it. */
char *cuda_device_text(int device);

/* Its place on the PCI bus, "0000:41:00.0", one of the machine's; the caller frees it. */
char *cuda_device_bus(int device);

/* Whether its tensor cores have bf16: compute capability 8.0 and above. */
bool cuda_device_has_bf16(int device);

/* Versions of driver, runtime, cuBLAS and cuDNN, one line; the caller frees it. */
char *cuda_libraries_text(void);

#ifdef __cplusplus
}
#endif
#endif
