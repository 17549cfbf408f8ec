/* The plan backend's table. Slots that take scratch or packed memory are the CPU's own: they take it here
 * too, and touch nothing (cpu_backend.plan). The others do nothing: NOTHING(slot, parameters) is such a
 * function. */
#include "tensor/plan/plan_backend.h"

#include "tensor/cpu/kernels.h"

#include <string.h>

/* An address that is not NULL and must not be used. */
static void *memory_new_plan(struct backend *backend, size_t bytes)
{
    backend_count(backend, (ptrdiff_t)bytes);
    return arena_range_none().base;
}

static void memory_free_plan(struct backend *backend, void *memory, size_t bytes)
{
    (void)memory;
    backend_count(backend, -(ptrdiff_t)bytes);
}

static struct arena_range arena_range_plan(struct backend *backend)
{
    (void)backend;
    return arena_range_none();
}

static void download_plan(struct backend *backend, void *to_host, const void *from, size_t bytes)
{
    (void)backend, (void)from;
    memset(to_host, 0, bytes);
}

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define NOTHING(slot, ...)                                                                                   \
    static void slot(struct backend *backend, __VA_ARGS__) {}

static void synchronize_plan(struct backend *backend) {}

static double roof_plan(struct backend *backend, enum roof kind, enum dtype dtype, double seconds)
{
    return 0;
}

static void *staging_new_plan(struct backend *backend, size_t bytes)
{
    (void)backend, (void)bytes;
    return arena_range_none().base;
}

NOTHING(staging_free_plan, void *staging)
NOTHING(staging_download_plan, void *to_staging, const void *from, size_t bytes, struct backend_event *done)
NOTHING(upload_plan, void *to, const void *from_host, size_t bytes)
NOTHING(fill_zero_plan, void *memory, size_t bytes)
NOTHING(layer_norm_forward_plan, const struct tensor *x, const struct tensor *weight,
        const struct tensor *bias, float epsilon, struct tensor *y, struct tensor *statistics)
NOTHING(activation_forward_plan, enum activation kind, const struct tensor *x, struct tensor *y)
NOTHING(activation_backward_plan, enum activation kind, const struct tensor *x, const struct tensor *dy,
        struct tensor *dx)
NOTHING(add_plan, const struct tensor *a, const struct tensor *b, struct tensor *y)
NOTHING(depth_mix_forward_plan, const struct tensor *x, const struct tensor *f, struct gate gate,
        struct tensor *y)
NOTHING(cast_plan, const struct tensor *x, struct tensor *y)
NOTHING(scale_plan, const struct tensor *x, float factor, struct tensor *y)
NOTHING(concat_forward_plan, const struct tensor *a, const struct tensor *b, struct tensor *y)
NOTHING(concat_backward_plan, const struct tensor *dy, struct tensor *da, struct tensor *db)
NOTHING(upsample_forward_plan, const struct tensor *x, struct tensor *y)
NOTHING(upsample_backward_plan, const struct tensor *dy, struct tensor *dx)
NOTHING(pool_plan, const struct pooling *pooling, const struct tensor *x, struct tensor *y)
NOTHING(timestep_embedding_plan, const struct tensor *timesteps, bool flip_sin_to_cos, float shift,
        struct tensor *y)
NOTHING(embedding_forward_plan, const struct tensor *ids, const struct tensor *table, struct tensor *y)
NOTHING(embedding_backward_plan, const struct tensor *ids, const struct tensor *dy, struct tensor *dtable)
NOTHING(masked_mean_forward_plan, const struct tensor *x, const struct tensor *mask, struct tensor *y)
NOTHING(masked_mean_backward_plan, const struct tensor *mask, const struct tensor *dy, struct tensor *dx)
NOTHING(squared_error_backward_plan, const struct tensor *a, const struct tensor *b,
        const struct tensor *seed, struct tensor *da)
NOTHING(adamw_plan, const struct adamw *adamw, int count, const struct trained_array *arrays)
NOTHING(average_plan, float decay, int count, const struct trained_array *arrays)
NOTHING(bucket_pack_plan, int count, const struct trained_array *arrays, float *packed)
NOTHING(bucket_unpack_plan, const float *packed, int count, const struct trained_array *arrays)

const struct backend_ops plan_ops = {
    .name = "plan",
    .close = close_cpu,
    .supports = supports_cpu,
    .memory_new = memory_new_plan,
    .memory_free = memory_free_plan,
    .arena_range = arena_range_plan,
    .upload = upload_plan,
    .download = download_plan,
    .synchronize = synchronize_plan,
    .fill_zero = fill_zero_plan,
    .staging_new = staging_new_plan,
    .staging_free = staging_free_plan,
    .staging_upload = upload_plan,
    .staging_download = staging_download_plan,
    .event_new = event_new_cpu,
    .event_free = event_free_cpu,
    .event_record = event_record_cpu,
    .event_wait = event_wait_cpu,
    .pack = pack_cpu,
    .packed_free = packed_free_cpu,
    .linear_forward = linear_forward_cpu,
    .linear_backward_input = linear_backward_input_cpu,
    .linear_backward_weight = linear_backward_weight_cpu,
    .convolution_forward = convolution_forward_cpu,
    .convolution_backward_input = convolution_backward_input_cpu,
    .convolution_backward_weight = convolution_backward_weight_cpu,
    .group_norm_forward = group_norm_forward_cpu,
    .group_norm_backward = group_norm_backward_cpu,
    .layer_norm_forward = layer_norm_forward_plan,
    .layer_norm_backward = layer_norm_backward_cpu,
    .attention_forward = attention_forward_cpu,
    .attention_backward = attention_backward_cpu,
    .geglu_forward = geglu_forward_cpu,
    .geglu_backward = geglu_backward_cpu,
    .activation_forward = activation_forward_plan,
    .activation_backward = activation_backward_plan,
    .add = add_plan,
    .depth_mix_forward = depth_mix_forward_plan,
    .depth_mix_backward = depth_mix_backward_cpu,
    .cast = cast_plan,
    .scale = scale_plan,
    .concat_forward = concat_forward_plan,
    .concat_backward = concat_backward_plan,
    .upsample_forward = upsample_forward_plan,
    .upsample_backward = upsample_backward_plan,
    .pool = pool_plan,
    .timestep_embedding = timestep_embedding_plan,
    .embedding_forward = embedding_forward_plan,
    .embedding_backward = embedding_backward_plan,
    .masked_mean_forward = masked_mean_forward_plan,
    .masked_mean_backward = masked_mean_backward_plan,
    .squared_error_forward = squared_error_forward_cpu,
    .squared_error_backward = squared_error_backward_plan,
    .adamw = adamw_plan,
    .average = average_plan,
    .sum_of_squares = sum_of_squares_cpu,
    .bucket_pack = bucket_pack_plan,
    .bucket_unpack = bucket_unpack_plan,
    .roof = roof_plan,
};
