/* Writer of safetensors files (https://huggingface.co/docs/safetensors).
 *
 * The header comes first, so all tensors are told before the values of one: these are then given one by one,
 * in the same order, and never lie in memory together. The file appears whole or not at all
 * (io/atomic_file.h). Faults are EXIT_CODE_OUTPUT. */
#ifndef IO_SAFETENSORS_WRITER_H
#define IO_SAFETENSORS_WRITER_H

#include "base/fault.h"
#include "io/safetensors.h"

enum safetensors_type { SAFETENSORS_F16, SAFETENSORS_F32, SAFETENSORS_F64 };

/* A tensor to come. */
struct safetensors_plan {
    const char *name; /* UTF-8, unique; borrowed during safetensors_create */
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
};

struct safetensors_writer;

/* Starts a file of `count` tensors, all of one type. Ends with safetensors_finish or safetensors_abandon. */
bool safetensors_create(const char *path, enum safetensors_type type, int count,
                        const struct safetensors_plan *plan, struct safetensors_writer **writer,
                        struct fault *fault);

/* The values of the next tensor, as many as its shape has. float serves F16 and F32; a value that a half
 * cannot hold (not finite, or beyond 65504) is a fault that names the tensor. double serves F64. */
bool safetensors_append_float(struct safetensors_writer *writer, const float *values, struct fault *fault);
bool safetensors_append_double(struct safetensors_writer *writer, const double *values, struct fault *fault);

/* After the last tensor; frees the writer in any case. */
bool safetensors_finish(struct safetensors_writer *writer, struct fault *fault);
void safetensors_abandon(struct safetensors_writer *writer); /* nothing is left; NULL allowed */

#endif
