/* Packed weights: one copy a direction, in the compute dtype and in the blocked layout that the product's
 * implementation asked for.
 *
 * The best layout of a convolution's weight may change with the shape of its activations (measured: blocks of
 * 32 or 64 output channels). So the copy follows the latest use: when another layout is wanted, it is made
 * from the master or, when that is gone, from the copy itself. Copies between blocked layouts run at memory
 * speed. */
#include "tensor/cpu/dnnl_primitives.h"

#include <stdlib.h>
#include <string.h>

struct packed_weight {
    dnnl_memory_desc_t layout;
    void *data; /* owned, layout's size */
    enum dtype dtype;
    struct primitive *repack; /* from the master; NULL for a layout that was not packed from it twice */
};

/* PyTorch's layout seen as the product's operand: of a linear layer [in, out] forward and [out, in] backward,
 * because y = x W' and dx = dy W; of a convolution [out, in, height, width]. */
static dnnl_memory_desc_t plain_layout(const struct parameter *weight, enum packing form, enum dtype dtype)
{
    const int64_t *dim = weight->value.dim;
    if (weight->value.rank == 4) {
        int64_t strides[4] = {dim[1] * dim[2] * dim[3], dim[2] * dim[3], dim[3], 1};
        return layout(dtype, 4, dim, strides);
    }
    CHECK(weight->value.rank == 2, "weight %s of rank %d, products have 2 or 4", weight->part[0].name,
          weight->value.rank);
    if (form == PACKED_BACKWARD) return layout(dtype, 2, dim, (int64_t[]){dim[1], 1});
    return layout(dtype, 2, (int64_t[]){dim[1], dim[0]}, (int64_t[]){1, dim[1]});
}

static struct packed_weight *packed_new(struct backend *backend, const dnnl_memory_desc_t *wanted,
                                        enum dtype dtype)
{
    struct packed_weight *packed = check_calloc(1, sizeof *packed);
    packed->layout = *wanted;
    packed->dtype = dtype;
    packed->data = backend->ops->memory_new(backend, dnnl_memory_desc_get_size(wanted));
    return packed;
}

void packed_free_cpu(struct backend *backend, void *memory)
{
    struct packed_weight *packed = memory;
    if (!packed) return;
    backend->ops->memory_free(backend, packed->data, dnnl_memory_desc_get_size(&packed->layout));
    if (packed->repack) primitive_delete(packed->repack);
    free(packed);
}

static void pack_from_master(struct cpu_backend *cpu, const struct parameter *weight, enum packing form,
                             struct packed_weight *packed)
{
    CHECK(weight->value.data, "weight %s was frozen without its %s form", weight->part[0].name,
          form == PACKED_FORWARD ? "forward" : "backward");
    if (!packed->repack) {
        dnnl_memory_desc_t plain = plain_layout(weight, form, DTYPE_F32);
        packed->repack = primitive_new(cpu, primitive_reorder(cpu, &plain, &packed->layout, false), 1);
    }
    primitive_execute(cpu, packed->repack, 2,
                      (struct operand[]){{DNNL_ARG_FROM, weight->value.data}, {DNNL_ARG_TO, packed->data}});
}

static void pack_from_packed(struct cpu_backend *cpu, const struct packed_weight *from,
                             struct packed_weight *to)
{
    struct primitive *reorder =
        primitive_new(cpu, primitive_reorder(cpu, &from->layout, &to->layout, false), 1);
    primitive_execute(cpu, reorder, 2,
                      (struct operand[]){{DNNL_ARG_FROM, from->data}, {DNNL_ARG_TO, to->data}});
    primitive_delete(reorder);
}

/* A new form is in PyTorch's layout until its first use says which one is wanted; an old one keeps its own.
 */
void *pack_cpu(struct backend *backend, const struct parameter *weight, enum dtype dtype, enum packing form,
               void *old)
{
    struct packed_weight *packed = old;
    if (packed && packed->dtype != dtype) {
        packed_free_cpu(backend, packed);
        packed = NULL;
    }
    if (!packed) {
        dnnl_memory_desc_t plain = plain_layout(weight, form, dtype);
        packed = packed_new(backend, &plain, dtype);
    }
    pack_from_master(cpu_backend(backend), weight, form, packed);
    return packed;
}

void *packed_weight(struct cpu_backend *cpu, struct parameter *weight, enum packing form, enum dtype dtype,
                    const dnnl_memory_desc_t *wanted)
{
    struct packed_weight *packed = weight->packed[form];
    if (!packed || !layout_equal(&packed->layout, wanted)) {
        CHECK(weight->value.data || (packed && packed->dtype == dtype),
              "weight %s was frozen for %s, used in %s", weight->part[0].name,
              packed ? dtype_name(packed->dtype) : "another direction", dtype_name(dtype));
        struct packed_weight *next = packed_new(&cpu->base, wanted, dtype);
        if (weight->value.data)
            pack_from_master(cpu, weight, form, next);
        else
            pack_from_packed(cpu, packed, next);
        packed_free_cpu(&cpu->base, packed);
        weight->packed[form] = packed = next;
    } else if (weight->packed_stale[form]) {
        pack_from_master(cpu, weight, form, packed);
    }
    weight->packed_stale[form] = false;
    return packed->data;
}
