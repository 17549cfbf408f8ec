/* Tensors. Dimension letters, used everywhere: B samples, H height, W width, C channels, T tokens, D text
 * width.
 *
 * A feature map is [B, H, W, C] (NHWC), a token sequence [B, T, C]: an op that works on tokens takes either,
 * because the one is the other with T = H W. The last dimension is contiguous, no strides. */
#ifndef TENSOR_TENSOR_H
#define TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_I32 };

enum { TENSOR_MAX_RANK = 4 };

struct arena_block;

struct tensor {
    enum dtype dtype;
    int rank;                     /* number of dimensions, 0..4 */
    int64_t dim[TENSOR_MAX_RANK]; /* outermost first; beyond `rank` 1 */
    void *data;                   /* in the backend's memory */
    bool needs_grad;              /* a gradient is wanted for it or through it */
    struct tensor
        *grad; /* same shape (fp32 for parameters and gates, else the same dtype) or NULL; of the tape */
    bool kept; /* its memory stays until the tape is reset */
    struct arena_block *block; /* the step arena's block that holds data, or NULL: memory of longer life */
};

size_t dtype_size(enum dtype dtype);      /* bytes an element */
const char *dtype_name(enum dtype dtype); /* "fp32", "bf16", "int32" */

/* Elements; elements without the last dimension (rows of a matrix product); bytes. */
int64_t tensor_count(const struct tensor *tensor);
int64_t tensor_rows(const struct tensor *tensor);
size_t tensor_bytes(const struct tensor *tensor);

/* The last dimension (channels); the product of all but the first and the last (tokens a sample: H W or T).
 */
int64_t tensor_channels(const struct tensor *tensor);
int64_t tensor_tokens(const struct tensor *tensor);

bool tensor_same_shape(const struct tensor *a, const struct tensor *b);

/* "[2, 32, 32, 320] bf16" into a buffer of the caller; returns it. For messages. */
enum { TENSOR_TEXT_SIZE = 112 };
const char *tensor_text(const struct tensor *tensor, char text[TENSOR_TEXT_SIZE]);

/* bf16 is the upper half of an fp32: rounding to nearest even, NaN stays NaN. */
uint16_t bf16_from_float(float value);
float float_from_bf16(uint16_t value);

#endif
