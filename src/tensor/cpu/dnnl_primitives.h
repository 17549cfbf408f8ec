/* oneDNN behind the CPU backend: primitives made once, kept under a key, and executed on the backend's
 * memory. Inside src/tensor/cpu/ (and its tests) only.
 *
 * A primitive is a product of fixed shapes: its descriptor decides the implementation and the layout it wants
 * its weights in. Its memory objects are reused by giving them the addresses of each call; its scratch comes
 * from the backend's scratch arena. So a step whose shapes were seen before allocates nothing. */
#ifndef TENSOR_CPU_DNNL_PRIMITIVES_H
#define TENSOR_CPU_DNNL_PRIMITIVES_H

#include "base/check.h"
#include "tensor/cpu/cpu_backend.h"

#include <dnnl.h>
#include <dnnl_debug.h>

#define DNNL_CHECK(call)                                                                                     \
    do {                                                                                                     \
        dnnl_status_t dnnl_check_status = (call);                                                            \
        CHECK(dnnl_check_status == dnnl_success, "oneDNN, %s: %s", #call,                                    \
              dnnl_status2str(dnnl_check_status));                                                           \
    } while (0)

enum primitive_kind {
    LINEAR_FORWARD,
    LINEAR_BACKWARD_INPUT,
    LINEAR_BACKWARD_WEIGHT,
    CONVOLUTION_FORWARD,
    CONVOLUTION_BACKWARD_INPUT,
    CONVOLUTION_BACKWARD_WEIGHT,
    CONVOLUTION_ADD_GRADIENT,
    ATTENTION_PRODUCT,
};

/* What a primitive is kept under: whatever its descriptor is made from. Zero what is not used. */
struct primitive_key {
    int32_t kind, dtype;
    int64_t number[16];
};

/* An operand: DNNL_ARG_... and where it lies. */
struct operand {
    int argument;
    void *data;
};

enum { PRIMITIVE_MAX_OPERANDS = 6 };

struct primitive {
    dnnl_primitive_t handle;    /* NULL on the plan backend */
    char *implementation;       /* oneDNN's name of it */
    size_t scratch_bytes;       /* that an execution needs */
    dnnl_memory_desc_t weights; /* layout of DNNL_ARG_WEIGHTS or DNNL_ARG_DIFF_WEIGHTS, if there is one */
    int operand_count, threads; /* threads that may execute it at the same time */
    int argument[PRIMITIVE_MAX_OPERANDS]; /* the last one is the scratchpad */
    dnnl_memory_t *memory;                /* [threads][operand_count] */
    struct primitive_key key;
    struct primitive *next; /* in the cache */
};

/* Engine and number of threads of the backend. */
dnnl_engine_t primitives_engine(const struct cpu_backend *cpu);
int primitives_threads(const struct cpu_backend *cpu);

/* The kept primitive, or NULL. */
struct primitive *primitive_find(const struct cpu_backend *cpu, const struct primitive_key *key);

/* Makes a primitive and keeps it; takes over the descriptor. `threads` as in the struct. */
struct primitive *primitive_keep(struct cpu_backend *cpu, const struct primitive_key *key,
                                 dnnl_primitive_desc_t descriptor, int threads);

/* The same without keeping it: to be freed with primitive_delete. */
struct primitive *primitive_new(struct cpu_backend *cpu, dnnl_primitive_desc_t descriptor, int threads);
void primitive_delete(struct primitive *primitive);

/* A descriptor of an operation; `attributes` (or NULL) is freed, `hint` (a forward descriptor, or NULL)
 * stays. */
dnnl_primitive_desc_t primitive_descriptor(const struct cpu_backend *cpu, const_dnnl_op_desc_t operation,
                                           dnnl_primitive_attr_t attributes,
                                           const_dnnl_primitive_desc_t hint);

/* A descriptor that copies between layouts and dtypes; with `add` it adds to what is there. */
dnnl_primitive_desc_t primitive_reorder(const struct cpu_backend *cpu, const dnnl_memory_desc_t *from,
                                        const dnnl_memory_desc_t *to, bool add);

/* Attributes with scratch memory of the caller; `post_ops` (or NULL) is freed. */
dnnl_primitive_attr_t primitive_attributes(dnnl_post_ops_t post_ops);

/* Computes on all threads. On the plan backend: takes the scratch and gives it back. */
void primitive_execute(struct cpu_backend *cpu, const struct primitive *primitive, int operand_count,
                       const struct operand *operands);

/* The same on the calling thread alone, inside a parallel region: `thread` < primitive->threads is its
 * number, `scratch` has primitive->scratch_bytes. The descriptor must have been made by
 * one_thread_descriptor. */
void primitive_execute_one(const struct cpu_backend *cpu, const struct primitive *primitive, int thread,
                           int operand_count, const struct operand *operands, void *scratch);

dnnl_primitive_desc_t one_thread_descriptor(const struct cpu_backend *cpu, const_dnnl_op_desc_t operation,
                                            dnnl_primitive_attr_t attributes,
                                            const_dnnl_primitive_desc_t hint);

/* Layouts: a matrix (or a stack of them, rank 3), or any that the implementation likes (strides NULL). */
dnnl_memory_desc_t layout(enum dtype dtype, int rank, const int64_t *dim, const int64_t *strides);
bool layout_equal(const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b);
dnnl_data_type_t dnnl_dtype(enum dtype dtype);

/* ---- pack.c: the weight in `wanted` layout and dtype, packed again if it is stale or lies in another
 * layout. The caller must not keep the address beyond the op. */
void *packed_weight(struct cpu_backend *cpu, struct parameter *weight, enum packing form, enum dtype dtype,
                    const dnnl_memory_desc_t *wanted);

/* ---- linear.c: sum [channels] += the column sums of dy [.., channels]; sum fp32, any order of threads gives
 * the same result */
void column_sums(const struct cpu_backend *cpu, const struct tensor *dy, struct tensor *sum);

/* Calls visit for every kept primitive. */
void primitives_visit(const struct cpu_backend *cpu,
                      void (*visit)(const struct primitive *primitive, void *context), void *context);

#endif
