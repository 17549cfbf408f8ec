#include "tensor/backend.h"

#include "base/check.h"
#include "tensor/cpu/cpu_backend.h"
#ifdef APTP_CUDA
#include "cuda_backend.h"
#endif

#include <string.h>

/* Every slot of the table, by name. */
#define SLOT(name)                                                                                           \
    {                                                                                                        \
#name, offsetof(struct backend_ops, name)                                                            \
    }
static const struct {
    const char *name;
    size_t offset;
} slots[] = {
    SLOT(name),
    SLOT(close),
    SLOT(supports),
    SLOT(memory_new),
    SLOT(memory_free),
    SLOT(arena_range),
    SLOT(upload),
    SLOT(download),
    SLOT(synchronize),
    SLOT(fill_zero),
    SLOT(staging_new),
    SLOT(staging_free),
    SLOT(staging_upload),
    SLOT(staging_download),
    SLOT(event_new),
    SLOT(event_free),
    SLOT(event_record),
    SLOT(event_wait),
    SLOT(pack),
    SLOT(packed_free),
    SLOT(linear_forward),
    SLOT(linear_backward_input),
    SLOT(linear_backward_weight),
    SLOT(convolution_forward),
    SLOT(convolution_backward_input),
    SLOT(convolution_backward_weight),
    SLOT(group_norm_forward),
    SLOT(group_norm_backward),
    SLOT(layer_norm_forward),
    SLOT(layer_norm_backward),
    SLOT(attention_forward),
    SLOT(attention_backward),
    SLOT(geglu_forward),
    SLOT(geglu_backward),
    SLOT(activation_forward),
    SLOT(activation_backward),
    SLOT(add),
    SLOT(depth_mix_forward),
    SLOT(depth_mix_backward),
    SLOT(cast),
    SLOT(scale),
    SLOT(concat_forward),
    SLOT(concat_backward),
    SLOT(upsample_forward),
    SLOT(upsample_backward),
    SLOT(pool),
    SLOT(timestep_embedding),
    SLOT(embedding_forward),
    SLOT(embedding_backward),
    SLOT(masked_mean_forward),
    SLOT(masked_mean_backward),
    SLOT(squared_error_forward),
    SLOT(squared_error_backward),
    SLOT(adamw),
    SLOT(average),
    SLOT(sum_of_squares),
    SLOT(bucket_pack),
    SLOT(bucket_unpack),
    SLOT(roof),
};

_Static_assert(sizeof slots / sizeof slots[0] == sizeof(struct backend_ops) / sizeof(void *),
               "slots[] names every member of struct backend_ops");

static void check_slots(const struct backend_ops *ops)
{
    void (*const empty)(void) = NULL;
    for (size_t i = 0; i < sizeof slots / sizeof slots[0]; i++)
        CHECK(memcmp((const char *)ops + slots[i].offset, &empty, sizeof empty) != 0,
              "backend %s has no slot %s", ops->name, slots[i].name);
}

bool backend_available(enum backend_kind kind)
{
#ifdef APTP_CUDA
    if (kind == BACKEND_CUDA) return cuda_backend_available();
#endif
    return kind != BACKEND_CUDA;
}

static struct backend *open_kind(enum backend_kind kind)
{
    switch (kind) {
    case BACKEND_CPU:
        return cpu_backend_open(false);
    case BACKEND_PLAN:
        return cpu_backend_open(true);
    case BACKEND_CUDA:
#ifdef APTP_CUDA
        return cuda_backend_open();
#endif
        break;
    }
    CHECK(false, "no backend of kind %d in this program", (int)kind);
}

struct backend *backend_open(enum backend_kind kind)
{
    struct backend *backend = open_kind(kind);
    check_slots(backend->ops);
    backend->scratch = arena_new(backend->ops->arena_range(backend));
    return backend;
}

void backend_close(struct backend *backend)
{
    if (!backend) return;
    ASSERT(backend->bytes == 0);
    arena_delete(backend->scratch);
    backend->ops->close(backend);
}

size_t backend_bytes(const struct backend *backend)
{
    return backend->bytes_peak + arena_peak(backend->scratch);
}

size_t backend_bytes_held(const struct backend *backend)
{
    return backend->bytes;
}

void backend_count(struct backend *backend, ptrdiff_t bytes)
{
    backend->bytes += (size_t)bytes;
    if (backend->bytes > backend->bytes_peak) backend->bytes_peak = backend->bytes;
}
