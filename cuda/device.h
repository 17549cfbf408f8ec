/* The backend's context and the slots behind its table, for the sources of this folder alone. Each slot is
 * named slot + _cuda and does what tensor/backend.h says. */
#ifndef CUDA_DEVICE_H
#define CUDA_DEVICE_H

#include "cuda_backend.h"

extern "C" {
#include "base/check.h"
}

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>

/* Fails with the call, its error and the place. Out of memory is told by those who ask for it
 * (cuda_backend.cu). */
#define CUDA_CHECK(call)                                                                                     \
    do {                                                                                                     \
        cudaError_t cuda_status = (call);                                                                    \
        CHECK(cuda_status == cudaSuccess, "%s: %s", #call, cudaGetErrorString(cuda_status));                 \
    } while (0)
#define CUBLAS_CHECK(call)                                                                                   \
    do {                                                                                                     \
        cublasStatus_t cublas_status = (call);                                                               \
        CHECK(cublas_status == CUBLAS_STATUS_SUCCESS, "%s: %s", #call,                                       \
              cublasLtGetStatusString(cublas_status));                                                       \
    } while (0)
#define CUDNN_CHECK(call)                                                                                    \
    do {                                                                                                     \
        cudnnStatus_t cudnn_status = (call);                                                                 \
        CHECK(cudnn_status == CUDNN_STATUS_SUCCESS, "%s: %s", #call, cudnnGetErrorString(cudnn_status));     \
    } while (0)

#include "launch.h"

struct product_cache;     /* products.cu: cuBLASLt's algorithms, one a shape */
struct convolution_cache; /* convolution.cu: cuDNN's descriptors and algorithms, one a shape */

struct cuda_backend {
    struct backend base; /* first member: a struct backend * is a struct cuda_backend * */
    int device;
    int processors;       /* of the device: streaming multiprocessors */
    cudaStream_t compute; /* all ops */
    cudaStream_t copy;    /* staging_download */
    cudaEvent_t asked;    /* orders `copy` behind `compute` */
    cublasLtHandle_t cublas;
    cudnnHandle_t cudnn;                    /* on `compute` */
    struct product_cache *products;         /* owned */
    struct convolution_cache *convolutions; /* owned */
    bool has_bf16;                          /* tensor cores for it: from sm_80 */
    char *ring;                             /* pinned, of upload, owned */
    size_t ring_next;                       /* bytes that have gone through it */
    cudaEvent_t ring_done[2];               /* the copies from each half have been made */
    char *received;                         /* pinned, of download, owned */
};

static inline struct cuda_backend *cuda_backend(struct backend *backend)
{
    return reinterpret_cast<struct cuda_backend *>(backend);
}

/* Memory inside one op: taken from the scratch arena, given back by its end. Libraries want their workspaces
 * aligned more than the arena's blocks are. */
enum { WORKSPACE_ALIGNMENT = 256 };
struct scratch {
    struct arena *arena;
    struct arena_block *block;
    size_t alignment;
    scratch(struct backend *backend, size_t bytes, size_t alignment = ARENA_ALIGNMENT)
        : arena(backend->scratch),
          block(arena_allocate(backend->scratch, bytes + alignment - ARENA_ALIGNMENT)), alignment(alignment)
    {
    }
    ~scratch()
    {
        arena_free(arena, block);
    }
    scratch(const scratch &) = delete;
    scratch &operator=(const scratch &) = delete;
    template <class T> T *of() const
    {
        uintptr_t address = reinterpret_cast<uintptr_t>(arena_address(block));
        return reinterpret_cast<T *>((address + alignment - 1) / alignment * alignment);
    }
};

/* a / b rounded up, of numbers that are not negative. */
inline __host__ __device__ int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

inline __host__ __device__ int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Ends the program with what was asked for, what is in use, and the deck's keys that make it less. */
[[noreturn]] void device_memory_full(struct cuda_backend *cuda, const char *what, size_t bytes,
                                     size_t in_step);

/* Blocks of `threads` for `count` items, at most as many as keep the device busy: kernels go on in strides of
 * the grid. At least 1. */
int grid_for(const struct cuda_backend *cuda, int64_t count, int threads);

/* ---- products.cu: what linear.cu, convolution.cu (1x1) and attention.cu multiply with. */

/* A stack of row-major matrices [rows, columns] in memory: row r of matrix i begins at
 * data + i stack + r stride elements. */
struct matrices {
    const void *data;
    enum dtype dtype;
    int64_t rows, columns, stride, stack;
};

/* c [m, n] = alpha op(a) op(b) + beta c (+ bias [n] fp32), for each of `count` matrices of the stacks (0
 * allowed, as m and n may be 0; k may not); op is the transpose where said: then a is given as [k, m], b as
 * [n, k]. dtypes: a and b alike; c theirs or fp32. fp32 accumulation, one rounding at the end; beside a bf16
 * c, bias is rounded to bf16 first. `from`: what takes the place of c on the right-hand side where beta is
 * not 0; NULL: c itself; same shape, stride and dtype as c. bias only with count 1. c must not overlap a or
 * b. Matrices of a stack of c may lie between each other's rows. */
void multiply(struct cuda_backend *cuda, int64_t count, float alpha, struct matrices a, bool transpose_a,
              struct matrices b, bool transpose_b, float beta, const void *from, const float *bias,
              struct matrices c);

struct product_cache *product_cache_new(void);
void product_cache_delete(struct product_cache *cache);
struct convolution_cache *convolution_cache_new(void);
void convolution_cache_delete(struct convolution_cache *cache);

/* A packed weight (pack.cu): linear [O, I], convolution [O, kH, kW, I] (cuDNN's NHWC filter), in the compute
 * dtype. One serves both packings. */
struct packed_weight {
    enum dtype dtype;
    void *data; /* device memory, owned */
    size_t bytes;
    int references; /* PACKED_FORWARD and PACKED_BACKWARD share it */
};

/* The weight's values in `dtype` for a product or convolution: packs anew what is stale; the master itself,
 * if there is one and it has the dtype and the layout. Device memory, valid until the weight changes. */
const void *packed_values(struct backend *backend, struct parameter *weight, enum dtype dtype,
                          enum packing form);

/* Adds a gradient in a packed weight's layout to one in PyTorch's, fp32. */
void add_packed_gradient(struct cuda_backend *cuda, const void *packed, enum dtype dtype,
                         struct tensor *gradient);

/* Column sums of x [rows, columns] (fp32 or bf16) added to sums [columns] fp32, in a fixed order. */
void add_column_sums(struct cuda_backend *cuda, const void *x, enum dtype dtype, int64_t rows,
                     int64_t columns, float *sums);

/* ---- cuda_backend.cu */
void close_cuda(struct backend *backend);
bool supports_cuda(const struct backend *backend, enum dtype dtype);
void *memory_new_cuda(struct backend *backend, size_t bytes);
void memory_free_cuda(struct backend *backend, void *memory, size_t bytes);
void upload_cuda(struct backend *backend, void *to, const void *from_host, size_t bytes);
void download_cuda(struct backend *backend, void *to_host, const void *from, size_t bytes);
void synchronize_cuda(struct backend *backend);
void fill_zero_cuda(struct backend *backend, void *memory, size_t bytes);
void *staging_new_cuda(struct backend *backend, size_t bytes);
void staging_free_cuda(struct backend *backend, void *staging);
void staging_upload_cuda(struct backend *backend, void *to, const void *from_staging, size_t bytes);
void staging_download_cuda(struct backend *backend, void *to_staging, const void *from, size_t bytes,
                           struct backend_event *done);
struct backend_event *event_new_cuda(struct backend *backend);
void event_free_cuda(struct backend *backend, struct backend_event *event);
void event_record_cuda(struct backend *backend, struct backend_event *event);
void event_wait_cuda(struct backend *backend, struct backend_event *event);

/* ---- device_arena.cu */
struct arena_range arena_range_cuda(struct backend *backend);

/* ---- pack.cu */
void *pack_cuda(struct backend *backend, const struct parameter *weight, enum dtype dtype, enum packing form,
                void *packed);
void packed_free_cuda(struct backend *backend, void *packed);

/* ---- linear.cu */
void linear_forward_cuda(struct backend *backend, const struct tensor *x, struct parameter *weight,
                         const struct tensor *bias, const struct tensor *residual, struct tensor *y);
void linear_backward_input_cuda(struct backend *backend, const struct tensor *dy, struct parameter *weight,
                                struct tensor *dx);
void linear_backward_weight_cuda(struct backend *backend, const struct tensor *x, const struct tensor *dy,
                                 struct tensor *dweight, struct tensor *dbias);

/* ---- convolution.cu */
void convolution_forward_cuda(struct backend *backend, const struct convolution *geometry,
                              const struct tensor *x, struct parameter *weight, const struct tensor *bias,
                              const struct tensor *residual, struct tensor *y);
void convolution_backward_input_cuda(struct backend *backend, const struct convolution *geometry,
                                     const struct tensor *dy, struct parameter *weight, struct tensor *dx);
void convolution_backward_weight_cuda(struct backend *backend, const struct convolution *geometry,
                                      const struct tensor *x, const struct tensor *dy, struct tensor *dweight,
                                      struct tensor *dbias);

/* ---- norm.cu */
void group_norm_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                             const struct tensor *weight, const struct tensor *bias, int64_t groups,
                             float epsilon, bool silu, struct gate gate, struct tensor *y,
                             struct tensor *statistics);
void group_norm_backward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                              const struct tensor *weight, const struct tensor *bias, int64_t groups,
                              bool silu, struct gate gate, const struct tensor *statistics,
                              const struct tensor *dy, struct tensor *dx, struct tensor *dshift,
                              struct tensor *dweight, struct tensor *dbias, struct tensor *dgates);
void layer_norm_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                             const struct tensor *bias, float epsilon, struct tensor *y,
                             struct tensor *statistics);
void layer_norm_backward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                              const struct tensor *statistics, const struct tensor *dy, struct tensor *dx,
                              struct tensor *dweight, struct tensor *dbias);

/* ---- attention.cu */
void attention_forward_cuda(struct backend *backend, const struct attention *attention,
                            const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                            struct gate gate, struct tensor *y, struct tensor *log_sum);
void attention_backward_cuda(struct backend *backend, const struct attention *attention,
                             const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                             struct gate gate, const struct tensor *y, const struct tensor *log_sum,
                             const struct tensor *dy, struct tensor *dq, struct tensor *dkv,
                             struct tensor *dgates);

/* ---- elementwise.cu */
void geglu_forward_cuda(struct backend *backend, const struct tensor *x, struct gate gate, struct tensor *y);
void geglu_backward_cuda(struct backend *backend, const struct tensor *x, struct gate gate,
                         const struct tensor *dy, struct tensor *dx, struct tensor *dgates);
void activation_forward_cuda(struct backend *backend, enum activation kind, const struct tensor *x,
                             struct tensor *y);
void activation_backward_cuda(struct backend *backend, enum activation kind, const struct tensor *x,
                              const struct tensor *dy, struct tensor *dx);
void add_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b, struct tensor *y);
void depth_mix_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *f,
                            struct gate gate, struct tensor *y);
void depth_mix_backward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *f,
                             struct gate gate, const struct tensor *dy, struct tensor *dx, struct tensor *df,
                             struct tensor *dgates);
void cast_cuda(struct backend *backend, const struct tensor *x, struct tensor *y);
void scale_cuda(struct backend *backend, const struct tensor *x, float factor, struct tensor *y);

/* ---- movement.cu */
void concat_forward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                         struct tensor *y);
void concat_backward_cuda(struct backend *backend, const struct tensor *dy, struct tensor *da,
                          struct tensor *db);
void upsample_forward_cuda(struct backend *backend, const struct tensor *x, struct tensor *y);
void upsample_backward_cuda(struct backend *backend, const struct tensor *dy, struct tensor *dx);
void pool_cuda(struct backend *backend, const struct pooling *pooling, const struct tensor *x,
               struct tensor *y);

/* ---- embedding.cu */
void timestep_embedding_cuda(struct backend *backend, const struct tensor *timesteps, bool flip_sin_to_cos,
                             float shift, struct tensor *y);
void embedding_forward_cuda(struct backend *backend, const struct tensor *ids, const struct tensor *table,
                            struct tensor *y);
void embedding_backward_cuda(struct backend *backend, const struct tensor *ids, const struct tensor *dy,
                             struct tensor *dtable);
void masked_mean_forward_cuda(struct backend *backend, const struct tensor *x, const struct tensor *mask,
                              struct tensor *y);
void masked_mean_backward_cuda(struct backend *backend, const struct tensor *mask, const struct tensor *dy,
                               struct tensor *dx);

/* ---- loss.cu */
void squared_error_forward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                struct tensor *loss);
void squared_error_backward_cuda(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                 const struct tensor *seed, struct tensor *da);

/* ---- optimiser.cu */
void adamw_cuda(struct backend *backend, const struct adamw *adamw, int count,
                const struct trained_array *arrays);
void average_cuda(struct backend *backend, float decay, int count, const struct trained_array *arrays);
double sum_of_squares_cuda(struct backend *backend, int count, const struct trained_array *arrays);
void bucket_pack_cuda(struct backend *backend, int count, const struct trained_array *arrays, float *packed);
void bucket_unpack_cuda(struct backend *backend, const float *packed, int count,
                        const struct trained_array *arrays);

/* ---- roof.cu */
double roof_cuda(struct backend *backend, enum roof kind, enum dtype dtype, double seconds);

#endif
