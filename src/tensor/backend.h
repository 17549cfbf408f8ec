/* The op table: everything that a model computes, as typed function pointers, one struct a backend.
 *
 * Argument checks sit once, in tensor/op.c; a backend may rely on them. Conventions of every slot:
 * - activations share one compute dtype (fp32 or bf16), sums are taken in fp32; statistics, losses, gates,
 * timesteps and masks are fp32; biases, norm weights and their gradients are fp32;
 * - outputs are written whole unless the comment says "adds"; an output never aliases an input unless it says
 * so;
 * - a pointer that may be NULL says so: NULL input = the term is absent, NULL gradient = nobody wants it;
 * - results are a function of the shapes, the values and the number of threads (no atomics, fixed reduction
 * orders), and a sample's result does not depend on the other samples of the batch. */
#ifndef TENSOR_BACKEND_H
#define TENSOR_BACKEND_H

#include "base/arena.h"
#include "tensor/parameter.h"
#include "tensor/tensor.h"

struct backend;
struct backend_event;

/* Zero padding and stride of a convolution. The four pads differ in diffusers' downsamplers of a VAE (0, 1,
 * 0, 1). */
struct convolution {
    int64_t stride;
    int64_t pad_top, pad_bottom, pad_left, pad_right;
};

/* Entries [first, first + count) of a gate tensor [B, E] fp32: one unit's width gate, or (count 1) a depth
 * gate. gates NULL: no gate, all ones. Channels are shared out evenly: entry e scales channels [e C/count,
 * (e+1) C/count). */
struct gate {
    struct tensor *gates;
    int64_t first, count;
};

/* A window that slides over a map: what it shows becomes one cell, the largest value or the mean. Cells of
 * the padding count for neither; each pad is smaller than the kernel. */
struct pooling {
    bool mean; /* else the largest */
    int64_t kernel_height, kernel_width;
    struct convolution geometry;
};

enum activation {
    ACTIVATION_SILU,
    ACTIVATION_GELU_ERF,
    ACTIVATION_GELU_TANH,
    ACTIVATION_GELU_QUICK,
    ACTIVATION_RELU,
};

/* Operands of attention: q, k, v are column ranges of wider matrices, so that one product can make all three.
 * q [B, Tq, heads x head_size] starts at column q_column of its tensor; k and v lie at k_column, v_column of
 * `kv`. */
struct attention {
    int64_t heads, head_size;
    int64_t q_column, k_column, v_column;
    float scale; /* of q k', usually 1/sqrt(head_size) */
    bool causal; /* token i sees tokens 0..i */
    /* added to the scaled scores: fp32 [heads, Tq, Tk], or [1, Tq, Tk] for all heads alike; or NULL. Forward
     * only: there is no backward pass through attention with a bias, to the bias or to anything else */
    const struct tensor *bias;
};

/* What the best speed of a machine is told for: the library's matrix products and 3x3 convolutions, and
 * copies inside the memory. */
enum roof { ROOF_MATMUL, ROOF_CONVOLUTION, ROOF_COPY };

/* A parameter in training: fp32 arrays of `count` elements in the backend's memory. Each slot says which it
 * uses; the others may be NULL. */
struct trained_array {
    float *value, *gradient, *first_moment, *second_moment, *average;
    int64_t count;
};

/* An AdamW step (decoupled weight decay, as torch.optim.AdamW). */
struct adamw {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    int64_t step;         /* 1 for the first update: bias correction */
    float gradient_scale; /* gradients are multiplied by it first (clipping, averaging) */
};

struct backend_ops {
    const char *name;                       /* "cpu", "plan", "cuda" */
    void (*close)(struct backend *backend); /* frees the backend, whose memory has been given back */
    bool (*supports)(const struct backend *backend, enum dtype dtype); /* computes natively in it */

    /* ---- memory: of the program's life (zeroed), and the range of a step arena */
    void *(*memory_new)(struct backend *backend, size_t bytes);
    void (*memory_free)(struct backend *backend, void *memory, size_t bytes);
    struct arena_range (*arena_range)(struct backend *backend);
    /* from_host may be changed at once */
    void (*upload)(struct backend *backend, void *to, const void *from_host, size_t bytes);
    void (*download)(struct backend *backend, void *to_host, const void *from,
                     size_t bytes); /* waits for it */
    void (*synchronize)(struct backend *backend);
    void (*fill_zero)(struct backend *backend, void *memory, size_t bytes);

    /* ---- copies beside the ops. Staging memory is the host's, of the kind that copies are fastest with */
    void *(*staging_new)(struct backend *backend, size_t bytes);
    void (*staging_free)(struct backend *backend, void *staging);
    /* in order with the ops; from_staging may be changed after a synchronize */
    void (*staging_upload)(struct backend *backend, void *to, const void *from_staging, size_t bytes);
    /* goes on beside later ops, which may not change `from` before `done` has been waited for */
    void (*staging_download)(struct backend *backend, void *to_staging, const void *from, size_t bytes,
                             struct backend_event *done);
    /* A mark behind all ops asked for so far, for the host to wait for. NULL is an event where nothing runs
     * behind the program */
    struct backend_event *(*event_new)(struct backend *backend);
    void (*event_free)(struct backend *backend, struct backend_event *event);
    void (*event_record)(struct backend *backend, struct backend_event *event);
    void (*event_wait)(struct backend *backend, struct backend_event *event);

    /* ---- packed weights: a form for `dtype` computation; reused in place when `packed` is not NULL */
    void *(*pack)(struct backend *backend, const struct parameter *weight, enum dtype dtype,
                  enum packing form, void *packed);
    void (*packed_free)(struct backend *backend, void *packed);

    /* ---- y [.., O] = x [.., I] W' (+ bias [O]) (+ residual, shape of y). bias, residual may be NULL */
    void (*linear_forward)(struct backend *backend, const struct tensor *x, struct parameter *weight,
                           const struct tensor *bias, const struct tensor *residual, struct tensor *y);
    /* dx = dy W */
    void (*linear_backward_input)(struct backend *backend, const struct tensor *dy, struct parameter *weight,
                                  struct tensor *dx);
    /* adds dy' x to dweight [O, I] and the column sums of dy to dbias [O] (may be NULL), both fp32 */
    void (*linear_backward_weight)(struct backend *backend, const struct tensor *x, const struct tensor *dy,
                                   struct tensor *dweight, struct tensor *dbias);

    /* ---- y [B, Ho, Wo, O] = x [B, H, W, I] * W [O, I, kH, kW] (+ bias [O]) (+ residual, shape of y) */
    void (*convolution_forward)(struct backend *backend, const struct convolution *geometry,
                                const struct tensor *x, struct parameter *weight, const struct tensor *bias,
                                const struct tensor *residual, struct tensor *y);
    void (*convolution_backward_input)(struct backend *backend, const struct convolution *geometry,
                                       const struct tensor *dy, struct parameter *weight, struct tensor *dx);
    /* adds to dweight [O, I, kH, kW] and dbias [O] (may be NULL), both fp32 */
    void (*convolution_backward_weight)(struct backend *backend, const struct convolution *geometry,
                                        const struct tensor *x, const struct tensor *dy,
                                        struct tensor *dweight, struct tensor *dbias);

    /* ---- y = gate . [silu](GroupNorm(x + shift)), x, y [B, H, W, C] or [B, T, C]; shift [B, C] (the time
     * embedding; compute dtype) may be NULL; weight, bias [C]; statistics [B, groups, 2] (mean, 1/deviation),
     * kept for the backward pass */
    void (*group_norm_forward)(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                               const struct tensor *weight, const struct tensor *bias, int64_t groups,
                               float epsilon, bool silu, struct gate gate, struct tensor *y,
                               struct tensor *statistics);
    /* dshift [B, C], dgates [B, E] (adds to the gate's entries), dweight, dbias [C] (add) may be NULL; so may
     * dx */
    void (*group_norm_backward)(struct backend *backend, const struct tensor *x, const struct tensor *shift,
                                const struct tensor *weight, const struct tensor *bias, int64_t groups,
                                bool silu, struct gate gate, const struct tensor *statistics,
                                const struct tensor *dy, struct tensor *dx, struct tensor *dshift,
                                struct tensor *dweight, struct tensor *dbias, struct tensor *dgates);

    /* ---- LayerNorm over the last dimension; statistics [rows, 2] */
    void (*layer_norm_forward)(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                               const struct tensor *bias, float epsilon, struct tensor *y,
                               struct tensor *statistics);
    /* dweight, dbias (add) may be NULL; so may dx */
    void (*layer_norm_backward)(struct backend *backend, const struct tensor *x, const struct tensor *weight,
                                const struct tensor *statistics, const struct tensor *dy, struct tensor *dx,
                                struct tensor *dweight, struct tensor *dbias);

    /* ---- y [B, Tq, heads x head_size] = gate . softmax(scale q k' + bias + masks) v, per head; key_mask [B,
     * Tk] fp32, 0 = hidden key, may be NULL (each sample has at least one visible key); gate count = heads;
     * log_sum [B, heads, Tq] fp32, the logarithm of the softmax's denominator, kept for the backward pass.
     * `q` and `kv` may be the same tensor. The full score matrix is never stored for long sequences. */
    void (*attention_forward)(struct backend *backend, const struct attention *attention,
                              const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                              struct gate gate, struct tensor *y, struct tensor *log_sum);
    /* without a bias. dq, dkv: shapes of q and kv; only the columns of q (of k and v) are written; the same
     * tensor when q and kv are. Either may be NULL. dgates [B, E] (adds) may be NULL */
    void (*attention_backward)(struct backend *backend, const struct attention *attention,
                               const struct tensor *q, const struct tensor *kv, const struct tensor *key_mask,
                               struct gate gate, const struct tensor *y, const struct tensor *log_sum,
                               const struct tensor *dy, struct tensor *dq, struct tensor *dkv,
                               struct tensor *dgates);

    /* ---- y [.., F] = gate . x[.., 0:F] gelu_erf(x[.., F:2F]) */
    void (*geglu_forward)(struct backend *backend, const struct tensor *x, struct gate gate,
                          struct tensor *y);
    /* dx, dgates (adds) may be NULL */
    void (*geglu_backward)(struct backend *backend, const struct tensor *x, struct gate gate,
                           const struct tensor *dy, struct tensor *dx, struct tensor *dgates);

    /* ---- element-wise */
    void (*activation_forward)(struct backend *backend, enum activation kind, const struct tensor *x,
                               struct tensor *y);
    void (*activation_backward)(struct backend *backend, enum activation kind, const struct tensor *x,
                                const struct tensor *dy, struct tensor *dx);
    void (*add)(struct backend *backend, const struct tensor *a, const struct tensor *b,
                struct tensor *y); /* y may be a or b */
    /* y = (1 - d) x + d f with d = the gate's one entry, per sample */
    void (*depth_mix_forward)(struct backend *backend, const struct tensor *x, const struct tensor *f,
                              struct gate gate, struct tensor *y);
    /* dx, df may be NULL; dgates (adds) may be NULL */
    void (*depth_mix_backward)(struct backend *backend, const struct tensor *x, const struct tensor *f,
                               struct gate gate, const struct tensor *dy, struct tensor *dx,
                               struct tensor *df, struct tensor *dgates);
    void (*cast)(struct backend *backend, const struct tensor *x,
                 struct tensor *y); /* between fp32 and bf16, or a copy */
    void (*scale)(struct backend *backend, const struct tensor *x, float factor,
                  struct tensor *y); /* y may be x */

    /* ---- movement */
    /* y [.., Ca + Cb] = (a, b) along the last dimension; the backward splits, da or db may be NULL */
    void (*concat_forward)(struct backend *backend, const struct tensor *a, const struct tensor *b,
                           struct tensor *y);
    void (*concat_backward)(struct backend *backend, const struct tensor *dy, struct tensor *da,
                            struct tensor *db);
    /* y [B, Ho, Wo, C] of x [B, H, W, C], nearest neighbour as torch.nn.functional.interpolate (floor(i H /
     * Ho)) */
    void (*upsample_forward)(struct backend *backend, const struct tensor *x, struct tensor *y);
    void (*upsample_backward)(struct backend *backend, const struct tensor *dy, struct tensor *dx);

    /* y [B, Ho, Wo, C] of x [B, H, W, C], channel by channel. No gradient: networks with it are frozen */
    void (*pool)(struct backend *backend, const struct pooling *pooling, const struct tensor *x,
                 struct tensor *y);

    /* ---- embeddings */
    /* y [B, C] of timesteps [B] fp32: diffusers' sinusoids, y = (cos, sin) halves when flip_sin_to_cos else
     * (sin, cos), frequencies exp(-log(10000) i / (C/2 - shift)) */
    void (*timestep_embedding)(struct backend *backend, const struct tensor *timesteps, bool flip_sin_to_cos,
                               float shift, struct tensor *y);
    /* y [.., C] = table [V, C] (fp32) at ids [..] int32, each in [0, V); the backward adds to dtable (fp32)
     */
    void (*embedding_forward)(struct backend *backend, const struct tensor *ids, const struct tensor *table,
                              struct tensor *y);
    void (*embedding_backward)(struct backend *backend, const struct tensor *ids, const struct tensor *dy,
                               struct tensor *dtable);
    /* y [B, C] fp32 = mean over the tokens t with mask[b, t] != 0 of x [B, T, C]; zero where there is none */
    void (*masked_mean_forward)(struct backend *backend, const struct tensor *x, const struct tensor *mask,
                                struct tensor *y);
    void (*masked_mean_backward)(struct backend *backend, const struct tensor *mask, const struct tensor *dy,
                                 struct tensor *dx);

    /* ---- loss [B] fp32 = mean over a sample's elements of (a - b)^2; b may be fp32 beside an a in bf16;
     * seed [B] fp32 is the gradient of each sample's loss */
    void (*squared_error_forward)(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                  struct tensor *loss);
    void (*squared_error_backward)(struct backend *backend, const struct tensor *a, const struct tensor *b,
                                   const struct tensor *seed, struct tensor *da);

    /* ---- training, of `count` trained arrays at once (a GPU takes them in few launches) */
    /* one AdamW step of each */
    void (*adamw)(struct backend *backend, const struct adamw *adamw, int count,
                  const struct trained_array *arrays);
    /* average = decay average + (1 - decay) value, of each */
    void (*average)(struct backend *backend, float decay, int count, const struct trained_array *arrays);
    /* sum of the gradients' squares in fp64, in a fixed order; not finite if an element is not. Waits for it
     */
    double (*sum_of_squares)(struct backend *backend, int count, const struct trained_array *arrays);

    /* ---- gradients on their way to other ranks: `count` arrays to one after the other in `packed`, memory
     * of the backend, and back */
    void (*bucket_pack)(struct backend *backend, int count, const struct trained_array *arrays,
                        float *packed);
    void (*bucket_unpack)(struct backend *backend, const float *packed, int count,
                          const struct trained_array *arrays);

    /* ---- the machine's own roof, of which a network's speed is told as a share: what the library reaches
     * with nothing around it and every layout its own choice. The best of a few large products or
     * convolutions in `dtype`, GFLOP/s (a multiplication and an addition are two); or of a copy of more than
     * the caches hold, GB/s read and written, the same for each dtype. Each is run for about `seconds`, once
     * at least. 0 where nothing is computed */
    double (*roof)(struct backend *backend, enum roof kind, enum dtype dtype, double seconds);
};

/* A backend in use. Each kind embeds this as its first member. Opened by backend_open, handed to every op. */
struct backend {
    const struct backend_ops *ops;
    struct arena *scratch; /* memory inside one op (and, on `plan`, its counting): a step arena of its own */
    /* its memory is a device's: the host must not touch it, and ops run behind the program, in order */
    bool device;
    const char *op; /* of tensor/op.c: the last that took memory or computed, or NULL */
    bool tf32; /* fp32 products may round their operands to 10 bits of mantissa, on hardware that does so */
    size_t bytes,
        bytes_peak; /* of the program's life (memory_new, packed weights): held, largest ever held */
};

enum backend_kind { BACKEND_CPU, BACKEND_PLAN, BACKEND_CUDA };

/* Whether this program was built with a backend, and the machine has what it needs. */
bool backend_available(enum backend_kind kind);

/* Opens a backend: every slot of its table must be set, else a CHECK names it. Close with backend_close.
 * BACKEND_PLAN allocates nothing and computes nothing: the same step code run on it tells the memory of a
 * step. BACKEND_CUDA, which must be available, is the process's current CUDA device. */
struct backend *backend_open(enum backend_kind kind);
void backend_close(struct backend *backend);

/* Bytes of the program's life that are held, the largest ever held, scratch included (what --check prints
 * with arena_peak). */
size_t backend_bytes(const struct backend *backend);
/* Bytes of the program's life that are held now: weights in all their forms. */
size_t backend_bytes_held(const struct backend *backend);

/* For the backends: counts bytes of the program's life, fewer where negative. */
void backend_count(struct backend *backend, ptrdiff_t bytes);

#endif
