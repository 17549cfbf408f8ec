/* Slicing: from the weights of the whole UNet to those that a hard mask keeps. */
#include "models/unet.h"

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

bool unet_slice_weight(const struct unit_table *table, struct unet_shape shape, const char *name, int rank,
                       const int64_t *dim, const float *full, float *out, int64_t *out_dim)
{
    for (int i = 0; shape.depth && i < table->depth_entries; i++)
        if (!shape.depth[i] && is_inside(name, table->depth[i].path)) return false;

    memcpy(out_dim, dim, (size_t)rank * sizeof *dim);
    const struct unit_slice *slice = shape.width ? find_slice(table, name) : NULL;
    int axis = slice ? slice->axis : 0;
    int64_t outer = 1, inner = 1; // elements before and behind the axis
    for (int i = 0; i < axis; i++) outer *= dim[i];
    for (int i = axis + 1; i < rank; i++) inner *= dim[i];
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
