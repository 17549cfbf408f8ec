/* Slicing: from the weights of the whole UNet to those that a hard mask keeps. */
#include "models/unet.h"

#include "base/check.h"
#include "models/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Whether `name` lies in module `path`. */
static bool is_inside(const char *name, const char *path)
{
    size_t length = strlen(path);
    return strncmp(name, path, length) == 0 && name[length] == '.';
}

static const struct unit_slice *find_slice(const struct unit_table *table, const char *name)
{
    for (int i = 0; i < table->slices; i++)
        if (strcmp(table->slice[i].name, name) == 0) return &table->slice[i];
    return NULL;
}

/* Elements before and behind an axis. */
static void around_axis(int rank, const int64_t *dim, int axis, int64_t *outer, int64_t *inner)
{
    *outer = *inner = 1;
    for (int i = 0; i < axis; i++) *outer *= dim[i];
    for (int i = axis + 1; i < rank; i++) *inner *= dim[i];
}

bool unet_slice_weight(const struct unit_table *table, struct unet_shape shape, const char *name, int rank,
                       const int64_t *dim, const float *full, float *out, int64_t *out_dim)
{
    for (int i = 0; shape.depth && i < table->depth_entries; i++)
        if (!shape.depth[i] && is_inside(name, table->depth[i].path)) return false;

    memcpy(out_dim, dim, (size_t)rank * sizeof *dim);
    const struct unit_slice *slice = shape.width ? find_slice(table, name) : NULL;
    int axis = slice ? slice->axis : 0;
    int64_t outer, inner;
    around_axis(rank, dim, axis, &outer, &inner);
    if (!slice) {
        memcpy(out, full, (size_t)(outer * dim[axis] * inner) * sizeof *out);
        return true;
    }
    const struct unit *unit = &table->unit[slice->unit];
    const uint8_t *mask = shape.width + unit->first;
    int64_t range = dim[axis] / (slice->repeats * unit->width) * inner; // elements that one entry stands for
    float *to = out;
    for (int64_t o = 0; o < outer * slice->repeats; o++)
        for (int entry = 0; entry < unit->width; entry++, full += range)
            if (mask[entry]) {
                memcpy(to, full, (size_t)range * sizeof *to);
                to += range;
            }
    int64_t kept = 0;
    for (int entry = 0; entry < unit->width; entry++) kept += mask[entry];
    out_dim[axis] = dim[axis] / unit->width * kept;
    return true;
}

/* One part of a parameter of the whole network, sliced into the same part of `sliced`. `values` and `kept`
 * have room for all of it. */
static void slice_part(const struct unet *full, struct unet_shape shape, const struct parameter *from,
                       int part, struct unet *sliced, float *values, float *kept)
{
    const char *name = from->part[part].name;
    int64_t dim[TENSOR_MAX_RANK], kept_dim[TENSOR_MAX_RANK], place_dim[TENSOR_MAX_RANK];
    int rank = weights_file_shape(from, part, dim);
    parameter_part_download(&full->parameters, from, part, values);
    if (!unet_slice_weight(&full->table, shape, name, rank, dim, values, kept, kept_dim)) return;
    int place_part = 0;
    struct parameter *place = parameter_find(&sliced->parameters, name, &place_part);
    CHECK(place, "%s is kept, but not part of the sliced network", name);
    int place_rank = weights_file_shape(place, place_part, place_dim);
    CHECK(place_rank == rank && memcmp(place_dim, kept_dim, (size_t)rank * sizeof *dim) == 0,
          "%s has another shape in the sliced network", name);
    parameter_part_upload(&sliced->parameters, place, place_part, kept);
}

void unet_slice(const struct unet *full, struct unet_shape shape, struct unet *sliced)
{
    for (int i = 0; i < full->parameters.count; i++) {
        const struct parameter *from = full->parameters.items[i];
        size_t bytes = tensor_bytes(&from->value);
        float *values = check_malloc(bytes), *kept = check_malloc(bytes);
        for (int part = 0; part < from->part_count; part++)
            slice_part(full, shape, from, part, sliced, values, kept);
        free(kept);
        free(values);
    }
}

/* Adds the squares of one part of a parameter to the entries of the unit that slices it. */
static void add_squares(const struct unet *full, const struct parameter *parameter, int part, float *values,
                        double *square)
{
    int64_t dim[TENSOR_MAX_RANK], outer, inner;
    int rank = weights_file_shape(parameter, part, dim);
    const struct unit_slice *slice = find_slice(&full->table, parameter->part[part].name);
    if (!slice || rank < 2) return;
    around_axis(rank, dim, slice->axis, &outer, &inner);
    const struct unit *unit = &full->table.unit[slice->unit];
    int64_t range = dim[slice->axis] / (slice->repeats * unit->width) * inner; // elements of one entry
    parameter_part_download(&full->parameters, parameter, part, values);
    for (int64_t o = 0; o < outer * slice->repeats; o++)
        for (int entry = 0; entry < unit->width; entry++)
            for (int64_t i = 0; i < range; i++, values++)
                square[unit->first + entry] += (double)*values * *values;
}

void unet_slice_norms(const struct unet *full, double *norm)
{
    for (int i = 0; i < full->table.width_entries; i++) norm[i] = 0;
    for (int i = 0; i < full->parameters.count; i++) {
        const struct parameter *parameter = full->parameters.items[i];
        float *values = check_malloc(tensor_bytes(&parameter->value));
        for (int part = 0; part < parameter->part_count; part++)
            add_squares(full, parameter, part, values, norm);
        free(values);
    }
    for (int i = 0; i < full->table.width_entries; i++) norm[i] = sqrt(norm[i]);
}

bool unet_check_shape(const struct unit_table *table, struct unet_shape shape, struct fault *fault)
{
    for (int i = 0; shape.width && i < table->units; i++) {
        const struct unit *unit = &table->unit[i];
        if (unit->depth >= 0 && shape.depth && !shape.depth[unit->depth]) continue;
        int kept = 0;
        for (int entry = 0; entry < unit->width; entry++) kept += shape.width[unit->first + entry] != 0;
        if (kept == 0)
            return fault_raise(
                fault, EXIT_CODE_INPUT,
                "%s keeps none of its %d entries: a unit that is not dropped keeps at least one", unit->path,
                unit->width);
    }
    return true;
}
