#include "tensor/parameter.h"

#include "base/check.h"
#include "tensor/backend.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void parameter_set_init(struct parameter_set *set, struct backend *backend)
{
    *set = (struct parameter_set){.backend = backend};
}

/* Gives a tensor's memory back; the shape stays. */
static void release(struct backend *backend, struct tensor *tensor)
{
    if (tensor->data) backend->ops->memory_free(backend, tensor->data, tensor_bytes(tensor));
    tensor->data = NULL;
}

void parameter_set_clear(struct parameter_set *set)
{
    for (int i = 0; i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        for (int form = 0; form < PACKED_FORMS; form++)
            if (parameter->packed[form])
                set->backend->ops->packed_free(set->backend, parameter->packed[form]);
        release(set->backend, &parameter->value);
        release(set->backend, &parameter->gradient);
        free(parameter);
    }
    free(set->items);
    *set = (struct parameter_set){0};
}

static struct parameter *append(struct parameter_set *set)
{
    if (set->count == set->capacity) {
        set->capacity = set->capacity ? 2 * set->capacity : 64;
        set->items = check_realloc(set->items, (size_t)set->capacity * sizeof *set->items);
    }
    struct parameter *parameter = check_calloc(1, sizeof *parameter);
    parameter->place = set->count;
    set->items[set->count++] = parameter;
    return parameter;
}

static struct tensor shape_of(int rank, const int64_t *dim)
{
    CHECK(rank >= 1 && rank <= TENSOR_MAX_RANK, "parameter of rank %d, allowed 1 to %d", rank,
          TENSOR_MAX_RANK);
    struct tensor tensor = {.dtype = DTYPE_F32, .rank = rank};
    for (int i = 0; i < TENSOR_MAX_RANK; i++) {
        tensor.dim[i] = i < rank ? dim[i] : 1;
        CHECK(tensor.dim[i] >= 1, "parameter with dimension %d of size %lld", i, (long long)tensor.dim[i]);
    }
    return tensor;
}

struct parameter *parameter_add(struct parameter_set *set, bool product, int rank, const int64_t *dim,
                                const char *name, ...)
{
    struct tensor shape = shape_of(rank, dim);
    struct parameter *parameter = append(set);
    parameter->value = parameter->gradient = shape;
    parameter->file_rank = rank;
    parameter->product = product;
    parameter->part_count = 1;
    parameter->part[0].rows = shape.dim[0];
    va_list arguments;
    va_start(arguments, name);
    int length = vsnprintf(parameter->part[0].name, sizeof parameter->part[0].name, name, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < sizeof parameter->part[0].name,
          "parameter name of %d characters: %s", length, parameter->part[0].name);
    return parameter;
}

struct parameter *parameter_add_stacked(struct parameter_set *set, int64_t out, int64_t in,
                                        const char *prefix, int parts, const char *const *suffix)
{
    CHECK(parts >= 1 && parts <= PARAMETER_MAX_PARTS, "parameter of %d parts, allowed 1 to %d", parts,
          PARAMETER_MAX_PARTS);
    struct parameter *parameter =
        parameter_add(set, true, 2, (int64_t[]){parts * out, in}, "%s%s", prefix, suffix[0]);
    parameter->part_count = parts;
    for (int i = 0; i < parts; i++) {
        struct parameter_part *part = &parameter->part[i];
        int length = snprintf(part->name, sizeof part->name, "%s%s", prefix, suffix[i]);
        CHECK(length >= 0 && (size_t)length < sizeof part->name, "parameter name of %d characters: %s",
              length, part->name);
        part->first_row = i * out;
        part->rows = out;
    }
    return parameter;
}

void parameter_set_allocate(struct parameter_set *set, bool trainable)
{
    struct backend *backend = set->backend;
    for (int i = 0; i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        CHECK(!parameter->value.data, "%s is allocated already", parameter->part[0].name);
        parameter->value.data = backend->ops->memory_new(backend, tensor_bytes(&parameter->value));
        if (trainable)
            parameter->gradient.data = backend->ops->memory_new(backend, tensor_bytes(&parameter->gradient));
        parameter->trainable = parameter->value.needs_grad = trainable;
    }
}

/* Bytes of one row of the first dimension. */
static size_t row_bytes(const struct parameter *parameter)
{
    return tensor_bytes(&parameter->value) / (size_t)parameter->value.dim[0];
}

/* The address of a part in the master, after checks. */
static char *part_address(const struct parameter *parameter, int part)
{
    CHECK(part >= 0 && part < parameter->part_count, "part %d of %s, which has %d", part,
          parameter->part[0].name, parameter->part_count);
    CHECK(parameter->value.data, "%s has no master weights: not allocated, or frozen",
          parameter->part[part].name);
    return (char *)parameter->value.data + (size_t)parameter->part[part].first_row * row_bytes(parameter);
}

void parameter_part_upload(struct parameter_set *set, struct parameter *parameter, int part,
                           const float *values)
{
    char *address = part_address(parameter, part);
    set->backend->ops->upload(set->backend, address, values,
                              (size_t)parameter->part[part].rows * row_bytes(parameter));
    for (int form = 0; form < PACKED_FORMS; form++) parameter->packed_stale[form] = true;
}

void parameter_part_download(const struct parameter_set *set, const struct parameter *parameter, int part,
                             float *values)
{
    const char *address = part_address(parameter, part);
    set->backend->ops->download(set->backend, values, address,
                                (size_t)parameter->part[part].rows * row_bytes(parameter));
}

void parameter_set_freeze(struct parameter_set *set, enum dtype dtype, bool backward)
{
    struct backend *backend = set->backend;
    int forms = backward ? PACKED_FORMS : PACKED_FORWARD + 1;
    for (int i = 0; i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        CHECK(parameter->value.data, "%s is not allocated, or frozen already", parameter->part[0].name);
        release(backend, &parameter->gradient);
        parameter->trainable = parameter->value.needs_grad = false;
        if (!parameter->product) continue;
        for (int form = 0; form < forms; form++) {
            parameter->packed[form] =
                backend->ops->pack(backend, parameter, dtype, (enum packing)form, parameter->packed[form]);
            parameter->packed_stale[form] = false;
        }
        backend->ops->synchronize(backend); // a pack may still be reading the master
        release(backend, &parameter->value);
    }
}

void parameter_set_zero_gradients(struct parameter_set *set)
{
    for (int i = 0; i < set->count; i++) {
        struct tensor *gradient = &set->items[i]->gradient;
        if (gradient->data)
            set->backend->ops->fill_zero(set->backend, gradient->data, tensor_bytes(gradient));
    }
}

int64_t parameter_set_elements(const struct parameter_set *set)
{
    int64_t elements = 0;
    for (int i = 0; i < set->count; i++) elements += tensor_count(&set->items[i]->value);
    return elements;
}

struct parameter *parameter_find(const struct parameter_set *set, const char *name, int *part)
{
    for (int i = 0; i < set->count; i++)
        for (int j = 0; j < set->items[i]->part_count; j++)
            if (strcmp(set->items[i]->part[j].name, name) == 0) {
                *part = j;
                return set->items[i];
            }
    return NULL;
}
