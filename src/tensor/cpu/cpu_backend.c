/* The CPU backend's table, and its memory: the host's. */
#define _POSIX_C_SOURCE 200112L // posix_memalign
#include "base/check.h"
#include "tensor/cpu/kernels.h"
#include "tensor/plan/plan_backend.h"

#include <stdlib.h>
#include <string.h>

static void *memory_new_cpu(struct backend *backend, size_t bytes)
{
    void *memory;
    CHECK(posix_memalign(&memory, ARENA_ALIGNMENT, bytes ? bytes : 1) == 0,
          "no memory for %zu bytes, %zu in use", bytes, backend->bytes);
    memset(memory, 0, bytes);
    backend_count(backend, (ptrdiff_t)bytes);
    return memory;
}

static void memory_free_cpu(struct backend *backend, void *memory, size_t bytes)
{
    backend_count(backend, -(ptrdiff_t)bytes);
    free(memory);
}

static struct arena_range arena_range_cpu(struct backend *backend)
{
    (void)backend;
    return arena_range_host();
}

static void upload_cpu(struct backend *backend, void *to, const void *from_host, size_t bytes)
{
    (void)backend;
    memcpy(to, from_host, bytes);
}

static void download_cpu(struct backend *backend, void *to_host, const void *from, size_t bytes)
{
    (void)backend;
    memcpy(to_host, from, bytes);
}

static void synchronize_cpu(struct backend *backend)
{
    (void)backend;
}

static void fill_zero_cpu(struct backend *backend, void *memory, size_t bytes)
{
    (void)backend;
    memset(memory, 0, bytes);
}

static void *staging_new_cpu(struct backend *backend, size_t bytes)
{
    (void)backend;
    return check_malloc(bytes);
}

static void staging_free_cpu(struct backend *backend, void *staging)
{
    (void)backend;
    free(staging);
}

static void staging_download_cpu(struct backend *backend, void *to_staging, const void *from, size_t bytes,
                                 struct backend_event *done)
{
    (void)backend, (void)done;
    memcpy(to_staging, from, bytes);
}

/* Ops are done when they return: there is nothing to wait for. */
struct backend_event *event_new_cpu(struct backend *backend)
{
    (void)backend;
    return NULL;
}

void event_free_cpu(struct backend *backend, struct backend_event *event)
{
    (void)backend, (void)event;
}

void event_record_cpu(struct backend *backend, struct backend_event *event)
{
    (void)backend, (void)event;
}

void event_wait_cpu(struct backend *backend, struct backend_event *event)
{
    (void)backend, (void)event;
}

void close_cpu(struct backend *backend)
{
    dnnl_primitives_delete(cpu_backend(backend)->primitives);
    free(backend);
}

const struct backend_ops cpu_ops = {
    .name = "cpu",
    .close = close_cpu,
    .supports = supports_cpu,
    .memory_new = memory_new_cpu,
    .memory_free = memory_free_cpu,
    .arena_range = arena_range_cpu,
    .upload = upload_cpu,
    .download = download_cpu,
    .synchronize = synchronize_cpu,
    .fill_zero = fill_zero_cpu,
    .staging_new = staging_new_cpu,
    .staging_free = staging_free_cpu,
    .staging_upload = upload_cpu,
    .staging_download = staging_download_cpu,
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
    .layer_norm_forward = layer_norm_forward_cpu,
    .layer_norm_backward = layer_norm_backward_cpu,
    .attention_forward = attention_forward_cpu,
    .attention_backward = attention_backward_cpu,
    .geglu_forward = geglu_forward_cpu,
    .geglu_backward = geglu_backward_cpu,
    .activation_forward = activation_forward_cpu,
    .activation_backward = activation_backward_cpu,
    .add = add_cpu,
    .depth_mix_forward = depth_mix_forward_cpu,
    .depth_mix_backward = depth_mix_backward_cpu,
    .cast = cast_cpu,
    .scale = scale_cpu,
    .concat_forward = concat_forward_cpu,
    .concat_backward = concat_backward_cpu,
    .upsample_forward = upsample_forward_cpu,
    .upsample_backward = upsample_backward_cpu,
    .pool = pool_cpu,
    .timestep_embedding = timestep_embedding_cpu,
    .embedding_forward = embedding_forward_cpu,
    .embedding_backward = embedding_backward_cpu,
    .masked_mean_forward = masked_mean_forward_cpu,
    .masked_mean_backward = masked_mean_backward_cpu,
    .squared_error_forward = squared_error_forward_cpu,
    .squared_error_backward = squared_error_backward_cpu,
    .adamw = adamw_cpu,
    .average = average_cpu,
    .sum_of_squares = sum_of_squares_cpu,
    .bucket_pack = bucket_pack_cpu,
    .bucket_unpack = bucket_unpack_cpu,
    .roof = roof_cpu,
};

struct backend *cpu_backend_open(bool plan)
{
    struct cpu_backend *cpu = check_calloc(1, sizeof *cpu);
    cpu->base.ops = plan ? &plan_ops : &cpu_ops;
    cpu->plan = plan;
    cpu->primitives = dnnl_primitives_new();
    return &cpu->base;
}
