#include "tensor/backend.h"

#include "base/check.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/kernels.h"
#include "tensor/plan/plan_backend.h"

#include <stdlib.h>
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
    SLOT(supports),
    SLOT(memory_new),
    SLOT(memory_free),
    SLOT(arena_range),
    SLOT(upload),
    SLOT(download),
    SLOT(synchronize),
    SLOT(fill_zero),
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

struct backend *backend_open(enum backend_kind kind)
{
    struct cpu_backend *cpu = check_calloc(1, sizeof *cpu);
    switch (kind) {
    case BACKEND_CPU:
        cpu->base.ops = &cpu_ops;
        break;
    case BACKEND_PLAN:
        cpu->base.ops = &plan_ops;
        cpu->plan = true;
        break;
    }
    CHECK(cpu->base.ops, "no backend of kind %d", (int)kind);
    check_slots(cpu->base.ops);
    cpu->primitives = dnnl_primitives_new();
    cpu->base.scratch = arena_new(cpu->base.ops->arena_range(&cpu->base));
    return &cpu->base;
}

void backend_close(struct backend *backend)
{
    if (!backend) return;
    struct cpu_backend *cpu = cpu_backend(backend);
    ASSERT(cpu->bytes == 0);
    arena_delete(backend->scratch);
    dnnl_primitives_delete(cpu->primitives);
    free(cpu);
}

size_t backend_bytes(const struct backend *backend)
{
    return ((const struct cpu_backend *)backend)->bytes_peak + arena_peak(backend->scratch);
}

size_t backend_bytes_held(const struct backend *backend)
{
    return ((const struct cpu_backend *)backend)->bytes;
}
