/* The CPU backend's table, and the functions of its own kernels: norms, element-wise ops, movement,
 * embeddings, losses, AdamW. Each is named slot + _cpu and does what tensor/backend.h says at the slot.
 * Inside src/tensor/ only.
 *
 * Kernels that take scratch memory do so on the plan backend also, and then return. */
#ifndef TENSOR_CPU_KERNELS_H
#define TENSOR_CPU_KERNELS_H

#include "tensor/cpu/cpu_backend.h"

extern const struct backend_ops cpu_ops;

/* ---- norm.c */
void group_norm_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                            const struct tensor *weight, const struct tensor *bias, int64_t groups,
                            float epsilon, bool silu, struct gate gate, struct tensor *y,
                            struct tensor *statistics);
void group_norm_backward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                             const struct tensor *weight, const struct tensor *bias, int64_t groups,
                             bool silu, struct gate gate, const struct tensor *statistics,
                             const struct tensor *dy, struct tensor *dx, struct tensor *dshift,
                             struct tensor *dweight, struct tensor *dbias, struct tensor *dgates);
void layer_norm_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                            const struct tensor *bias, float epsilon, struct tensor *y,
                            struct tensor *statistics);
void layer_norm_backward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                             const struct tensor *statistics, const struct tensor *dy, struct tensor *dx,
                             struct tensor *dweight, struct tensor *dbias);

/* ---- elementwise.c */
void geglu_forward_cpu(struct backend *backend, const struct tensor *x, struct gate gate, struct tensor *y);
void geglu_backward_cpu(struct backend *backend, const struct tensor *x, struct gate gate,
                        const struct tensor *dy, struct tensor *dx, struct tensor *dgates);
void activation_forward_cpu(struct backend *backend, enum activation kind, const struct tensor *x,
                            struct tensor *y);
void activation_backward_cpu(struct backend *backend, enum activation kind, const struct tensor *x,
                             const struct tensor *dy, struct tensor *dx);
void add_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b, struct tensor *y);
void depth_mix_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *f,
                           struct gate gate, struct tensor *y);
void depth_mix_backward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *f,
                            struct gate gate, const struct tensor *dy, struct tensor *dx, struct tensor *df,
                            struct tensor *dgates);
void cast_cpu(struct backend *backend, const struct tensor *x, struct tensor *y);
void scale_cpu(struct backend *backend, const struct tensor *x, float factor, struct tensor *y);

/* ---- movement.c */
void concat_forward_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b,
                        struct tensor *y);
void concat_backward_cpu(struct backend *backend, const struct tensor *dy, struct tensor *da,
                         struct tensor *db);
void upsample_forward_cpu(struct backend *backend, const struct tensor *x, struct tensor *y);
void upsample_backward_cpu(struct backend *backend, const struct tensor *dy, struct tensor *dx);
void pool_cpu(struct backend *backend, const struct pooling *pooling, const struct tensor *x,
              struct tensor *y);

/* ---- embedding.c */
void timestep_embedding_cpu(struct backend *backend, const struct tensor *timesteps, bool flip_sin_to_cos,
                            float shift, struct tensor *y);
void embedding_forward_cpu(struct backend *backend, const struct tensor *ids, const struct tensor *table,
                           struct tensor *y);
void embedding_backward_cpu(struct backend *backend, const struct tensor *ids, const struct tensor *dy,
                            struct tensor *dtable);
void masked_mean_forward_cpu(struct backend *backend, const struct tensor *x, const struct tensor *mask,
                             struct tensor *y);
void masked_mean_backward_cpu(struct backend *backend, const struct tensor *mask, const struct tensor *dy,
                              struct tensor *dx);

/* ---- loss.c */
void squared_error_forward_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b,
                               struct tensor *loss);
void squared_error_backward_cpu(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                const struct tensor *seed, struct tensor *da);

/* ---- optimiser.c */
void adamw_cpu(struct backend *backend, const struct adamw *adamw, int count,
               const struct trained_array *arrays);
void average_cpu(struct backend *backend, float decay, int count, const struct trained_array *arrays);
double sum_of_squares_cpu(struct backend *backend, int count, const struct trained_array *arrays);
void bucket_pack_cpu(struct backend *backend, int count, const struct trained_array *arrays, float *packed);
void bucket_unpack_cpu(struct backend *backend, const float *packed, int count,
                       const struct trained_array *arrays);

#endif
