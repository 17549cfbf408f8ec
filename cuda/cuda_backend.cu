/* The CUDA backend's context and table, its memory, copies and events. */
#include "device.h"

#include <string.h>

/* Half of the ring that uploads go through; downloads go through one such piece. */
static constexpr size_t STAGING = 8 << 20;

struct backend_event {
    cudaEvent_t cuda;
};

void device_memory_full(struct cuda_backend *cuda, const char *what, size_t bytes, size_t in_step)
{
    size_t available = 0, total = 0;
    cudaGetLastError(); // the failure that brought us here
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    const double mib = 1 << 20;
    check_failed(
        __FILE__, __LINE__, "memory",
        "the GPU's memory is full: %.1f MiB asked for by %s; weights and optimiser hold %.1f MiB, "
        "this arena of a step's tensors %.1f MiB; free %.1f of %.1f MiB. Less is used with a smaller "
        "micro_batch, with recompute = true, with run.precision = \"bf16\", and (trainings) with more "
        "ranks for the same batch; --check tells what a step needs",
        (double)bytes / mib, what ? what : "the program", (double)cuda->base.bytes / mib,
        (double)in_step / mib, (double)available / mib, (double)total / mib);
}

/* ---- memory */

bool supports_cuda(const struct backend *backend, enum dtype dtype)
{
    return dtype != DTYPE_BF16 || reinterpret_cast<const struct cuda_backend *>(backend)->has_bf16;
}

void *memory_new_cuda(struct backend *backend, size_t bytes)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    void *memory;
    cudaError_t status = cudaMalloc(&memory, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) device_memory_full(cuda, "weights or optimiser", bytes, 0);
    CUDA_CHECK(status);
    CUDA_CHECK(cudaMemsetAsync(memory, 0, bytes ? bytes : 1, cuda->compute));
    backend_count(backend, (ptrdiff_t)bytes);
    return memory;
}

/* cudaFree waits for the ops that may use the memory. */
void memory_free_cuda(struct backend *backend, void *memory, size_t bytes)
{
    CUDA_CHECK(cudaFree(memory));
    backend_count(backend, -(ptrdiff_t)bytes);
}

void synchronize_cuda(struct backend *backend)
{
    CUDA_CHECK(cudaStreamSynchronize(cuda_backend(backend)->compute));
}

void fill_zero_cuda(struct backend *backend, void *memory, size_t bytes)
{
    if (bytes > 0) CUDA_CHECK(cudaMemsetAsync(memory, 0, bytes, cuda_backend(backend)->compute));
}

/* ---- copies. What the host gives may change at once, so it goes through pinned memory: a ring of two
 * halves, of which one is filled while the other's copies are made. */

/* Takes up to `bytes` of the ring that are free now; *size says how many. */
static char *ring_take(struct cuda_backend *cuda, size_t bytes, size_t *size)
{
    if (cuda->ring_next % STAGING == 0) {
        int half = (int)(cuda->ring_next / STAGING % 2);
        if (cuda->ring_next > 0) CUDA_CHECK(cudaEventRecord(cuda->ring_done[1 - half], cuda->compute));
        if (cuda->ring_next >= 2 * STAGING) CUDA_CHECK(cudaEventSynchronize(cuda->ring_done[half]));
    }
    size_t place = cuda->ring_next % (2 * STAGING), rest = STAGING - place % STAGING;
    *size = bytes < rest ? bytes : rest;
    cuda->ring_next += *size;
    return cuda->ring + place;
}

void upload_cuda(struct backend *backend, void *to, const void *from_host, size_t bytes)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    for (size_t first = 0, size; first < bytes; first += size) {
        char *piece = ring_take(cuda, bytes - first, &size);
        memcpy(piece, static_cast<const char *>(from_host) + first, size);
        CUDA_CHECK(cudaMemcpyAsync(static_cast<char *>(to) + first, piece, size, cudaMemcpyHostToDevice,
                                   cuda->compute));
    }
}

void download_cuda(struct backend *backend, void *to_host, const void *from, size_t bytes)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    for (size_t first = 0, size; first < bytes; first += size) {
        size = bytes - first < STAGING ? bytes - first : STAGING;
        CUDA_CHECK(cudaMemcpyAsync(cuda->received, static_cast<const char *>(from) + first, size,
                                   cudaMemcpyDeviceToHost, cuda->compute));
        CUDA_CHECK(cudaStreamSynchronize(cuda->compute));
        memcpy(static_cast<char *>(to_host) + first, cuda->received, size);
    }
}

void *staging_new_cuda(struct backend *backend, size_t bytes)
{
    (void)backend;
    void *staging;
    CUDA_CHECK(cudaMallocHost(&staging, bytes ? bytes : 1));
    return staging;
}

void staging_free_cuda(struct backend *backend, void *staging)
{
    (void)backend;
    CUDA_CHECK(cudaFreeHost(staging));
}

void staging_upload_cuda(struct backend *backend, void *to, const void *from_staging, size_t bytes)
{
    CUDA_CHECK(
        cudaMemcpyAsync(to, from_staging, bytes, cudaMemcpyHostToDevice, cuda_backend(backend)->compute));
}

void staging_download_cuda(struct backend *backend, void *to_staging, const void *from, size_t bytes,
                           struct backend_event *done)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    CUDA_CHECK(cudaEventRecord(cuda->asked, cuda->compute));
    CUDA_CHECK(cudaStreamWaitEvent(cuda->copy, cuda->asked, 0));
    CUDA_CHECK(cudaMemcpyAsync(to_staging, from, bytes, cudaMemcpyDeviceToHost, cuda->copy));
    CUDA_CHECK(cudaEventRecord(done->cuda, cuda->copy));
}

/* ---- events */

static cudaEvent_t event_open(void)
{
    cudaEvent_t event;
    CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
}

struct backend_event *event_new_cuda(struct backend *backend)
{
    (void)backend;
    struct backend_event *event = static_cast<struct backend_event *>(check_malloc(sizeof *event));
    event->cuda = event_open();
    return event;
}

void event_free_cuda(struct backend *backend, struct backend_event *event)
{
    (void)backend;
    CUDA_CHECK(cudaEventDestroy(event->cuda));
    free(event);
}

void event_record_cuda(struct backend *backend, struct backend_event *event)
{
    CUDA_CHECK(cudaEventRecord(event->cuda, cuda_backend(backend)->compute));
}

void event_wait_cuda(struct backend *backend, struct backend_event *event)
{
    (void)backend;
    CUDA_CHECK(cudaEventSynchronize(event->cuda));
}

/* ---- context */

int grid_for(const struct cuda_backend *cuda, int64_t count, int threads)
{
    const int64_t waves = 8; // blocks a processor: enough to fill it however small they are
    int64_t blocks = smaller(divide_up(count, threads), waves * cuda->processors);
    return (int)(blocks < 1 ? 1 : blocks);
}

static const struct backend_ops cuda_ops = {
    .name = "cuda",
    .close = close_cuda,
    .supports = supports_cuda,
    .memory_new = memory_new_cuda,
    .memory_free = memory_free_cuda,
    .arena_range = arena_range_cuda,
    .upload = upload_cuda,
    .download = download_cuda,
    .synchronize = synchronize_cuda,
    .fill_zero = fill_zero_cuda,
    .staging_new = staging_new_cuda,
    .staging_free = staging_free_cuda,
    .staging_upload = staging_upload_cuda,
    .staging_download = staging_download_cuda,
    .event_new = event_new_cuda,
    .event_free = event_free_cuda,
    .event_record = event_record_cuda,
    .event_wait = event_wait_cuda,
    .pack = pack_cuda,
    .packed_free = packed_free_cuda,
    .linear_forward = linear_forward_cuda,
    .linear_backward_input = linear_backward_input_cuda,
    .linear_backward_weight = linear_backward_weight_cuda,
    .convolution_forward = convolution_forward_cuda,
    .convolution_backward_input = convolution_backward_input_cuda,
    .convolution_backward_weight = convolution_backward_weight_cuda,
    .group_norm_forward = group_norm_forward_cuda,
    .group_norm_backward = group_norm_backward_cuda,
    .layer_norm_forward = layer_norm_forward_cuda,
    .layer_norm_backward = layer_norm_backward_cuda,
    .attention_forward = attention_forward_cuda,
    .attention_backward = attention_backward_cuda,
    .geglu_forward = geglu_forward_cuda,
    .geglu_backward = geglu_backward_cuda,
    .activation_forward = activation_forward_cuda,
    .activation_backward = activation_backward_cuda,
    .add = add_cuda,
    .depth_mix_forward = depth_mix_forward_cuda,
    .depth_mix_backward = depth_mix_backward_cuda,
    .cast = cast_cuda,
    .scale = scale_cuda,
    .concat_forward = concat_forward_cuda,
    .concat_backward = concat_backward_cuda,
    .upsample_forward = upsample_forward_cuda,
    .upsample_backward = upsample_backward_cuda,
    .pool = pool_cuda,
    .timestep_embedding = timestep_embedding_cuda,
    .embedding_forward = embedding_forward_cuda,
    .embedding_backward = embedding_backward_cuda,
    .masked_mean_forward = masked_mean_forward_cuda,
    .masked_mean_backward = masked_mean_backward_cuda,
    .squared_error_forward = squared_error_forward_cuda,
    .squared_error_backward = squared_error_backward_cuda,
    .adamw = adamw_cuda,
    .average = average_cuda,
    .sum_of_squares = sum_of_squares_cuda,
    .bucket_pack = bucket_pack_cuda,
    .bucket_unpack = bucket_unpack_cuda,
    .roof = roof_cuda,
};

struct backend *cuda_backend_open(void)
{
    struct cuda_backend *cuda = static_cast<struct cuda_backend *>(check_calloc(1, sizeof *cuda));
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDevice(&cuda->device));
    CUDA_CHECK(cudaGetDeviceProperties(&properties, cuda->device));
    cuda->base.ops = &cuda_ops;
    cuda->base.device = true;
    cuda->processors = properties.multiProcessorCount;
    cuda->has_bf16 = cuda_device_has_bf16(cuda->device);
    CUDA_CHECK(cudaStreamCreateWithFlags(&cuda->compute, cudaStreamNonBlocking));
    CUDA_CHECK(cudaStreamCreateWithFlags(&cuda->copy, cudaStreamNonBlocking));
    cuda->asked = event_open();
    for (int half = 0; half < 2; half++) cuda->ring_done[half] = event_open();
    CUDA_CHECK(cudaMallocHost(&cuda->ring, 2 * STAGING));
    CUDA_CHECK(cudaMallocHost(&cuda->received, STAGING));
    CUBLAS_CHECK(cublasLtCreate(&cuda->cublas));
    CUDNN_CHECK(cudnnCreate(&cuda->cudnn));
    CUDNN_CHECK(cudnnSetStream(cuda->cudnn, cuda->compute));
    cuda->products = product_cache_new();
    cuda->convolutions = convolution_cache_new();
    return &cuda->base;
}

void close_cuda(struct backend *backend)
{
    struct cuda_backend *cuda = cuda_backend(backend);
    CUDA_CHECK(cudaStreamSynchronize(cuda->compute));
    CUDA_CHECK(cudaStreamSynchronize(cuda->copy));
    convolution_cache_delete(cuda->convolutions);
    product_cache_delete(cuda->products);
    CUDNN_CHECK(cudnnDestroy(cuda->cudnn));
    CUBLAS_CHECK(cublasLtDestroy(cuda->cublas));
    CUDA_CHECK(cudaFreeHost(cuda->received));
    CUDA_CHECK(cudaFreeHost(cuda->ring));
    for (int half = 0; half < 2; half++) CUDA_CHECK(cudaEventDestroy(cuda->ring_done[half]));
    CUDA_CHECK(cudaEventDestroy(cuda->asked));
    CUDA_CHECK(cudaStreamDestroy(cuda->copy));
    CUDA_CHECK(cudaStreamDestroy(cuda->compute));
    free(cuda);
}
