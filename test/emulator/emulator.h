/* The emulator's services for the library stand-ins (cublaslt.cpp, cudnn.cpp), whose calls, as on a device,
 * come back at once and do their work later, in the order of a stream. */
#ifndef EMULATOR_H
#define EMULATOR_H

#include <cuda_runtime.h>

#include <functional>

/* Has `work` run in the order of `stream`, once something waits for it. `what` names it in messages: a
 * literal. */
void emulator_enqueue(cudaStream_t stream, const char *what, std::function<void()> work);

/* For `work` while it runs: says that it reads (writes) `bytes` at `device`. They must lie in one allocation
 * or one block of an arena; what is read must have been written before. `what` names the operand. The memory
 * itself may then be touched until `work` returns. */
void emulator_read(const void *device, size_t bytes, const char *what);
void emulator_write(const void *device, size_t bytes, const char *what);

/* Whether the address is device memory, of a live allocation or not. */
bool emulator_is_device(const void *address);

/* A defect of the backend: prints "emulator: " and the message, what is running and the seed, and exits with
 * EMULATOR_DEFECT. */
enum { EMULATOR_DEFECT = 70 };
[[noreturn]] void emulator_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
