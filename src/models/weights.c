#include "models/weights.h"

#include "base/check.h"
#include "io/hdf5_file.h"
#include "io/safetensors.h"
#include "tensor/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 256 };

int weights_file_shape(const struct parameter *parameter, int part, int64_t shape[TENSOR_MAX_RANK])
{
    for (int i = 0; i < TENSOR_MAX_RANK; i++)
        shape[i] = i < parameter->value.rank ? parameter->value.dim[i] : 1;
    shape[0] = parameter->part[part].rows;
    return parameter->file_rank;
}

static int64_t part_elements(const struct parameter *parameter, int part)
{
    return tensor_count(&parameter->value) / parameter->value.dim[0] * parameter->part[part].rows;
}

/* Elements before a part in its parameter. */
static int64_t part_offset(const struct parameter *parameter, int part)
{
    return tensor_count(&parameter->value) / parameter->value.dim[0] * parameter->part[part].first_row;
}

static bool read_part_h5(struct h5_reader *reader, const char *group, const struct parameter *parameter,
                         int part, float *values, struct fault *fault)
{
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s/%s", group, parameter->part[part].name);
    int64_t shape[TENSOR_MAX_RANK];
    int rank = weights_file_shape(parameter, part, shape);
    return h5_expect(reader, name, rank, shape, NULL, fault) &&
           h5_read_float(reader, name, 0, shape[0], values, fault);
}

/* The group may hold the parts of the set and nothing else. */
static bool check_nothing_else(const struct parameter_set *set, struct h5_reader *reader, const char *group,
                               struct fault *fault)
{
    struct h5_strings names;
    if (!h5_list(reader, group, false, &names, fault)) return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < names.count; i++) {
        int part;
        if (!parameter_find(set, names.item[i], &part))
            ok = fault_raise(fault, EXIT_CODE_INPUT, "%s: %s/%s is no weight of this network",
                             h5_path(reader), group, names.item[i]);
    }
    h5_strings_free(&names);
    return ok;
}

bool weights_read_h5(struct parameter_set *set, struct h5_reader *reader, const char *group,
                     struct fault *fault)
{
    for (int i = 0; i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        for (int part = 0; part < parameter->part_count; part++) {
            float *values = check_malloc((size_t)part_elements(parameter, part) * sizeof *values);
            bool ok = read_part_h5(reader, group, parameter, part, values, fault);
            if (ok) parameter_part_upload(set, parameter, part, values);
            free(values);
            if (!ok) return false;
        }
    }
    return check_nothing_else(set, reader, group, fault);
}

bool weights_read_values_h5(const struct parameter_set *set, float *const *values, struct h5_reader *reader,
                            const char *group, struct fault *fault)
{
    for (int i = 0; i < set->count; i++) {
        const struct parameter *parameter = set->items[i];
        for (int part = 0; part < parameter->part_count; part++) {
            size_t bytes = (size_t)part_elements(parameter, part) * sizeof(float);
            float *host = check_malloc(bytes);
            bool ok = read_part_h5(reader, group, parameter, part, host, fault);
            if (ok)
                set->backend->ops->upload(set->backend, values[i] + part_offset(parameter, part), host,
                                          bytes);
            free(host);
            if (!ok) return false;
        }
    }
    return check_nothing_else(set, reader, group, fault);
}

bool weights_write_h5(const struct parameter_set *set, float *const *values, struct h5_writer *writer,
                      const char *group, bool half, struct fault *fault)
{
    for (int i = 0; i < set->count; i++) {
        const struct parameter *parameter = set->items[i];
        for (int part = 0; part < parameter->part_count; part++) {
            size_t bytes = (size_t)part_elements(parameter, part) * sizeof(float);
            float *host = check_malloc(bytes);
            if (values)
                set->backend->ops->download(set->backend, host, values[i] + part_offset(parameter, part),
                                            bytes);
            else
                parameter_part_download(set, parameter, part, host);
            char name[NAME_SIZE];
            snprintf(name, sizeof name, "%s/%s", group, parameter->part[part].name);
            int64_t shape[TENSOR_MAX_RANK];
            int rank = weights_file_shape(parameter, part, shape);
            bool ok = half ? h5_write_half(writer, name, rank, shape, host, fault)
                           : h5_write_float(writer, name, rank, shape, host, fault);
            free(host);
            if (!ok) return false;
        }
    }
    return true;
}

static bool is_listed(const char *name, const char *const *list)
{
    for (; list && *list; list++)
        if (strcmp(name, *list) == 0) return true;
    return false;
}

bool weights_read_safetensors(struct parameter_set *set, const struct safetensors *file,
                              const char *const *ignored, struct fault *fault)
{
    for (int i = 0; i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        for (int part = 0; part < parameter->part_count; part++) {
            int64_t shape[TENSOR_MAX_RANK];
            int rank = weights_file_shape(parameter, part, shape);
            float *values = check_malloc((size_t)part_elements(parameter, part) * sizeof *values);
            bool ok = safetensors_read(file, parameter->part[part].name, rank, shape, values, fault);
            if (ok) parameter_part_upload(set, parameter, part, values);
            free(values);
            if (!ok) return false;
        }
    }
    for (int i = 0; i < safetensors_count(file); i++) {
        const char *name = safetensors_info(file, i)->name;
        int part;
        if (!parameter_find(set, name, &part) && !is_listed(name, ignored))
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s is no weight of this network",
                               safetensors_path(file), name);
    }
    return true;
}
