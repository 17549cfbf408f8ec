/* Reader of safetensors files (https://huggingface.co/docs/safetensors): published weights.
 *
 * Untrusted input: the header is at most 100,000,000 bytes of JSON without duplicate names; each tensor's
 * size must be that of its shape and type, and together they must cover the data without hole or overlap, to
 * the last byte of the file. Faults are EXIT_CODE_INPUT. */
#ifndef IO_SAFETENSORS_H
#define IO_SAFETENSORS_H

#include "base/fault.h"

#include <stdbool.h>
#include <stdint.h>

enum { SAFETENSORS_MAX_RANK = 8 };

struct safetensors;

struct safetensors_info {
    const char *name; /* owned by the file */
    const char *type; /* "F32", "F16", "BF16", "I64", ... */
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    int64_t elements;
};

/* Opens a file and checks its header; data are read when asked for. Close with safetensors_close. */
bool safetensors_open(const char *path, struct safetensors **file, struct fault *fault);

/* The weights of a published folder as one file, the first of these that is there:
 *     STEM.safetensors
 *     STEM.safetensors.index.json, whose `weight_map` names the part in the folder that has each tensor
 *     STEM.fp16.safetensors, STEM.safetensors.index.fp16.json (variant fp16)
 * STEM: "model" (transformers), "diffusion_pytorch_model" (diffusers). An index and its parts must hold the
 * same tensors; a part is a plain name, of a file in the folder itself. */
bool safetensors_open_folder(const char *folder, const char *stem, struct safetensors **file,
                             struct fault *fault);
void safetensors_close(struct safetensors *file);             /* NULL allowed */
const char *safetensors_path(const struct safetensors *file); /* of the index, where there is one */
int safetensors_parts(const struct safetensors *file);        /* 1, or as many as an index names */

/* Tensors in the order of their names (strcmp). */
int safetensors_count(const struct safetensors *file);
const struct safetensors_info *safetensors_info(const struct safetensors *file, int index);
/* NULL if there is none of that name. */
const struct safetensors_info *safetensors_find(const struct safetensors *file, const char *name);

/* Reads a tensor of type F32, F16 or BF16 as float; a fault if it is missing, of another type, or not of this
 * shape (-1 allows any length; `rank` must be equal). out has the product of the shape. */
bool safetensors_read(const struct safetensors *file, const char *name, int rank, const int64_t *shape,
                      float *out, struct fault *fault);

#endif
