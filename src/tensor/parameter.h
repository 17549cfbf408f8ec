/* Parameters: the weights of a model, their gradients and the forms that a backend wants them in. */
#ifndef TENSOR_PARAMETER_H
#define TENSOR_PARAMETER_H

#include "tensor/tensor.h"

struct backend;

/* Which products a packed form serves. */
enum packing { PACKED_FORWARD, PACKED_BACKWARD, PACKED_FORMS };

/* A part of a parameter as files know it: rows [first_row, first_row + rows) of the first dimension. One part
 * named like the layer's weight usually; three when q, k and v are one matrix. */
struct parameter_part {
    char name[160]; /* PyTorch name, for instance "down_blocks.0.resnets.0.conv1.weight" */
    int64_t first_row, rows;
};

enum { PARAMETER_MAX_PARTS = 3 };

/* A weight in PyTorch's layout: linear [out, in], convolution [out, in, kernel height, kernel width], bias or
 * norm [C], embedding table [entries, C]. Life: the program's; owned by its parameter_set. */
struct parameter {
    struct tensor value;    /* fp32 master; data NULL once frozen and packed (parameter_set_freeze) */
    struct tensor gradient; /* fp32, summed over the step's backward passes; data NULL when frozen */
    struct parameter_part part[PARAMETER_MAX_PARTS];
    int part_count;
    int file_rank; /* rank in files: value.rank, but 4 for a matrix that files hold as a 1x1 convolution [out,
                      in, 1, 1] */
    bool product;  /* used in a matrix product or convolution: backends pack it */
    bool trainable;
    int place;                  /* in its set */
    void *packed[PACKED_FORMS]; /* the backend's own forms, made by the backend on first use or at freezing */
    bool packed_stale[PACKED_FORMS]; /* the master has changed since */
};

/* The parameters of a model in the order they were added (that of the walk that builds the model). */
struct parameter_set {
    struct backend *backend; /* borrowed */
    struct parameter **items;
    int count, capacity;
};

/* Zero-initialised set on a backend; free with parameter_set_clear. */
void parameter_set_init(struct parameter_set *set, struct backend *backend);
void parameter_set_clear(struct parameter_set *set);

/* Adds a parameter of the given shape (rank 1..4); memory comes with parameter_set_allocate. `name` is
 * printf-like; the result belongs to the set and keeps its address. */
__attribute__((format(printf, 5, 6))) struct parameter *
parameter_add(struct parameter_set *set, bool product, int rank, const int64_t *dim, const char *name, ...);

/* The same for a matrix of `parts` stacked ones, [parts x out, in], named prefix + suffix[i]. */
struct parameter *parameter_add_stacked(struct parameter_set *set, int64_t out, int64_t in,
                                        const char *prefix, int parts, const char *const *suffix);

/* Allocates the masters (undefined contents) and, where `trainable`, zeroed gradients. */
void parameter_set_allocate(struct parameter_set *set, bool trainable);

/* Copies between a part and host memory (fp32, PyTorch layout, contiguous); marks packed forms stale on
 * upload. */
void parameter_part_upload(struct parameter_set *set, struct parameter *parameter, int part,
                           const float *values);
void parameter_part_download(const struct parameter_set *set, const struct parameter *parameter, int part,
                             float *values);

/* Packs every product weight for `dtype` computation (also the backward form when gradients flow through the
 * model) and gives their masters back. Such a set can no longer be trained, saved or changed. */
void parameter_set_freeze(struct parameter_set *set, enum dtype dtype, bool backward);

/* Sets all gradients to zero; elements in all parameters. */
void parameter_set_zero_gradients(struct parameter_set *set);
int64_t parameter_set_elements(const struct parameter_set *set);

/* Finds a part by its file name, or returns NULL. */
struct parameter *parameter_find(const struct parameter_set *set, const char *name, int *part);

#endif
