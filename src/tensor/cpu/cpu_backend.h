/* The CPU backend (oneDNN, OpenMP): its context and the functions behind the slots of tensor/backend.h, each
 * named slot + _cpu. Inside src/tensor/ only.
 *
 * The plan backend is the same context with `plan` set: the products, convolutions and attention then make
 * descriptors and take scratch and packed memory as they would, but touch none of it. */
#ifndef TENSOR_CPU_BACKEND_H
#define TENSOR_CPU_BACKEND_H

#include "tensor/backend.h"

struct dnnl_primitives;

struct cpu_backend {
    struct backend base;                /* first member: a struct backend * is a struct cpu_backend * */
    struct dnnl_primitives *primitives; /* owned: oneDNN's engine, stream and the cache of primitives */
    bool plan;                          /* count memory, compute nothing */
};

static inline struct cpu_backend *cpu_backend(struct backend *backend)
{
    return (struct cpu_backend *)backend;
}

/* Whether this processor has instructions for the products of `dtype`. */
bool supports_cpu(const struct backend *backend, enum dtype dtype);

/* Opens the backend, or the plan of it; closed by its slot. */
struct backend *cpu_backend_open(bool plan);
void close_cpu(struct backend *backend);

/* Events of a backend whose ops are done when they return. */
struct backend_event *event_new_cpu(struct backend *backend);
void event_free_cpu(struct backend *backend, struct backend_event *event);
void event_record_cpu(struct backend *backend, struct backend_event *event);
void event_wait_cpu(struct backend *backend, struct backend_event *event);

struct dnnl_primitives *dnnl_primitives_new(void);
void dnnl_primitives_delete(struct dnnl_primitives *primitives);

/* ---- pack.c */
void *pack_cpu(struct backend *backend, const struct parameter *weight, enum dtype dtype, enum packing form,
               void *packed);
void packed_free_cpu(struct backend *backend, void *packed);

/* ---- linear.c */
void linear_forward_cpu(struct backend *backend, const struct tensor *x, struct parameter *weight,
                        const struct tensor *bias, const struct tensor *residual, struct tensor *y);
void linear_backward_input_cpu(struct backend *backend, const struct tensor *dy, struct parameter *weight,
                               struct tensor *dx);
void linear_backward_weight_cpu(struct backend *backend, const struct tensor *x, const struct tensor *dy,
                                struct tensor *dweight, struct tensor *dbias);

/* ---- convolution.c */
void convolution_forward_cpu(struct backend *backend, const struct convolution *geometry,
                             const struct tensor *x, struct parameter *weight, const struct tensor *bias,
                             const struct tensor *residual, struct tensor *y);
void convolution_backward_input_cpu(struct backend *backend, const struct convolution *geometry,
                                    const struct tensor *dy, struct parameter *weight, struct tensor *dx);
void convolution_backward_weight_cpu(struct backend *backend, const struct convolution *geometry,
                                     const struct tensor *x, const struct tensor *dy, struct tensor *dweight,
                                     struct tensor *dbias);

/* ---- attention.c */
void attention_forward_cpu(struct backend *backend, const struct attention *attention, const struct tensor *q,
                           const struct tensor *kv, const struct tensor *key_mask, struct gate gate,
                           struct tensor *y, struct tensor *log_sum);
void attention_backward_cpu(struct backend *backend, const struct attention *attention,
                            const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                            struct gate gate, const struct tensor *y, const struct tensor *log_sum,
                            const struct tensor *dy, struct tensor *dq, struct tensor *dkv,
                            struct tensor *dgates);

/* ---- roof.c */
double roof_cpu(struct backend *backend, enum roof kind, enum dtype dtype, double seconds);

#endif
