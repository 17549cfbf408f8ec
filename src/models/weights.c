#include "models/weights.h"

#include "base/check.h"
#include "io/hdf5_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "io/sha256.h"
#include "tensor/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 256, SHAPE_SIZE = 192, NAMES_SHOWN = 4 };

// ---- parts as files know them

int weights_file_shape(const struct parameter *parameter, int part, int64_t shape[TENSOR_MAX_RANK])
{
    for (int i = 0; i < TENSOR_MAX_RANK; i++)
        shape[i] = i < parameter->value.rank ? parameter->value.dim[i] : 1;
    shape[0] = parameter->part[part].rows;
    return parameter->file_rank;
}

static int64_t row_elements(const struct parameter *parameter)
{
    return tensor_count(&parameter->value) / parameter->value.dim[0];
}

static int64_t part_elements(const struct parameter *parameter, int part)
{
    return parameter->part[part].rows * row_elements(parameter);
}

/* Where a part lies in the memory of its whole parameter. */
static float *part_place(const struct parameter *parameter, int part, float *values)
{
    return values + parameter->part[part].first_row * row_elements(parameter);
}

/* Host memory for the largest parameter. The caller frees it. */
static float *parameter_buffer(const struct parameter_set *set)
{
    int64_t most = 0;
    for (int i = 0; i < set->count; i++)
        if (tensor_count(&set->items[i]->value) > most) most = tensor_count(&set->items[i]->value);
    return check_malloc((size_t)most * sizeof(float));
}

bool weights_check_finite(const char *path, const char *name, int64_t count, const float *values,
                          struct fault *fault)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s: element %lld is not finite", path, name,
                               (long long)i);
    return true;
}

// ---- a file, whatever its format

/* Named arrays: a safetensors file, or the datasets of a group in an HDF5 file. */
struct weight_file {
    const char *path;
    const struct safetensors *safetensors; // borrowed; or NULL and
    struct h5_reader *reader;              // borrowed,
    const char *group;
    int count;
    const char *const *stored; // [count] names in the file
    char *const *name;         // [count] the network's names of them
};

static int weight_find(const struct weight_file *file, const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->name[i], name) == 0) return i;
    return -1;
}

static bool dataset_path(char path[NAME_SIZE], const char *group, const char *name)
{
    int length = snprintf(path, NAME_SIZE, "%s/%s", group, name);
    return length >= 0 && length < NAME_SIZE;
}

static bool weight_shape(const struct weight_file *file, int index, int *rank,
                         int64_t shape[SAFETENSORS_MAX_RANK], struct fault *fault)
{
    const char *name = file->stored[index];
    if (file->safetensors) {
        const struct safetensors_info *info = safetensors_find(file->safetensors, name);
        *rank = info->rank;
        memcpy(shape, info->shape, (size_t)info->rank * sizeof shape[0]);
        return true;
    }
    char path[NAME_SIZE];
    struct h5_info info;
    if (!dataset_path(path, file->group, name))
        return fault_raise(fault, EXIT_CODE_INPUT, "%s: %s/%s: the name is too long", file->path, file->group,
                           name);
    if (!h5_describe(file->reader, path, &info, fault)) return false;
    *rank = info.rank;
    memcpy(shape, info.shape, (size_t)info.rank * sizeof shape[0]);
    return true;
}

/* A part that check_file has found there with its shape. */
static bool weight_read(const struct weight_file *file, const struct parameter *parameter, int part,
                        float *out, struct fault *fault)
{
    const char *name = file->stored[weight_find(file, parameter->part[part].name)];
    if (file->safetensors) {
        const struct safetensors_info *info = safetensors_find(file->safetensors, name);
        if (!safetensors_read(file->safetensors, name, info->rank, info->shape, out, fault)) return false;
    } else {
        char path[NAME_SIZE];
        CHECK(dataset_path(path, file->group, name), "%s/%s: the name is too long", file->group, name);
        if (!h5_read_float(file->reader, path, 0, parameter->part[part].rows, out, fault)) return false;
    }
    return weights_check_finite(file->path, name, part_elements(parameter, part), out, fault);
}

// ---- does a file fit a network

/* Weights that do not fit in one way: the first few by name, and their number. */
struct findings {
    int count;
    char names[1024];
};

static void findings_add(struct findings *findings, const char *name)
{
    size_t used = strlen(findings->names);
    if (findings->count++ < NAMES_SHOWN)
        snprintf(findings->names + used, sizeof findings->names - used, "%s%s", used ? ", " : "", name);
}

/* Appends "2 missing (a, b)" to a message. */
static void findings_print(const struct findings *findings, const char *what, char text[FAULT_TEXT_SIZE])
{
    size_t used = strlen(text);
    if (findings->count)
        snprintf(text + used, FAULT_TEXT_SIZE - used, "%s%d %s (%s%s)", used ? "; " : "", findings->count,
                 what, findings->names, findings->count > NAMES_SHOWN ? ", ..." : "");
}

static const char *shape_text(int rank, const int64_t *shape, char text[SHAPE_SIZE])
{
    int length = snprintf(text, SHAPE_SIZE, "[");
    for (int i = 0; i < rank; i++)
        length += snprintf(text + length, SHAPE_SIZE - (size_t)length, "%s%lld", i ? ", " : "",
                           (long long)shape[i]);
    snprintf(text + length, SHAPE_SIZE - (size_t)length, "]");
    return text;
}

/* Whether one of a list is the name, or ends with a dot and begins it. */
static bool is_listed(const char *name, const char *const *list)
{
    for (; list && *list; list++) {
        size_t length = strlen(*list);
        bool prefix = length > 0 && (*list)[length - 1] == '.';
        if (prefix ? strncmp(name, *list, length) == 0 : strcmp(name, *list) == 0) return true;
    }
    return false;
}

/* A matrix [out, in] may be stored as a 1x1 convolution [out, in, 1, 1], and the other way round: versions of
 * one model differ in it, and the numbers lie the same. */
static bool same_shape(const struct parameter *parameter, int allowed_rank,
                       const int64_t allowed[TENSOR_MAX_RANK], int rank, const int64_t *shape)
{
    bool matrix = rank == 2 || (rank == 4 && shape[2] == 1 && shape[3] == 1);
    if (matrix && parameter->value.rank == 2) rank = allowed_rank = 2;
    return rank == allowed_rank && memcmp(shape, allowed, (size_t)rank * sizeof *shape) == 0;
}

static bool check_part(const struct weight_file *file, const struct parameter *parameter, int part,
                       struct findings *missing, struct findings *reshaped, struct fault *fault)
{
    const char *name = parameter->part[part].name;
    int index = weight_find(file, name);
    if (index < 0) {
        findings_add(missing, name);
        return true;
    }
    int64_t allowed[TENSOR_MAX_RANK], found[SAFETENSORS_MAX_RANK];
    int allowed_rank = weights_file_shape(parameter, part, allowed), found_rank = 0;
    if (!weight_shape(file, index, &found_rank, found, fault)) return false;
    if (same_shape(parameter, allowed_rank, allowed, found_rank, found)) return true;
    char text[NAME_SIZE + 2 * SHAPE_SIZE], found_text[SHAPE_SIZE], allowed_text[SHAPE_SIZE];
    snprintf(text, sizeof text, "%s is %s, allowed %s", name, shape_text(found_rank, found, found_text),
             shape_text(allowed_rank, allowed, allowed_text));
    findings_add(reshaped, text);
    return true;
}

/* To be called before anything of the file is read. */
static bool check_file(const struct weight_file *file, const struct parameter_set *set,
                       const char *const *ignored, struct fault *fault)
{
    struct findings missing = {0}, reshaped = {0}, unknown = {0}, repeated = {0};
    for (int i = 0; i < set->count; i++)
        for (int part = 0; part < set->items[i]->part_count; part++)
            if (!check_part(file, set->items[i], part, &missing, &reshaped, fault)) return false;
    for (int i = 0, part; i < file->count; i++) {
        if (weight_find(file, file->name[i]) != i) findings_add(&repeated, file->stored[i]);
        if (!parameter_find(set, file->name[i], &part) && !is_listed(file->name[i], ignored))
            findings_add(&unknown, file->stored[i]);
    }
    char text[FAULT_TEXT_SIZE] = "";
    findings_print(&missing, "missing", text);
    findings_print(&reshaped, "of another shape", text);
    findings_print(&unknown, "that the network does not have", text);
    findings_print(&repeated, "there under another name too", text);
    if (!*text) return true;
    return fault_raise(fault, EXIT_CODE_INPUT, "%s: weights do not fit the network: %s", file->path, text);
}

// ---- reading

/* A file that fits, into the masters, or into `values` when not NULL. */
static bool read_all(const struct weight_file *file, struct parameter_set *set, float *const *values,
                     struct fault *fault)
{
    float *host = parameter_buffer(set);
    bool ok = true;
    for (int i = 0; ok && i < set->count; i++) {
        struct parameter *parameter = set->items[i];
        for (int part = 0; ok && part < parameter->part_count; part++) {
            ok = weight_read(file, parameter, part, host, fault);
            if (ok && values)
                set->backend->ops->upload(set->backend, part_place(parameter, part, values[i]), host,
                                          (size_t)part_elements(parameter, part) * sizeof *host);
            else if (ok)
                parameter_part_upload(set, parameter, part, host);
        }
    }
    free(host);
    return ok;
}

static bool read_group(struct parameter_set *set, float *const *values, struct h5_reader *reader,
                       const char *group, struct fault *fault)
{
    struct h5_strings names;
    if (!h5_list(reader, group, false, &names, fault)) return false;
    struct weight_file file = {.path = h5_path(reader),
                               .reader = reader,
                               .group = group,
                               .count = (int)names.count,
                               .stored = (const char *const *)names.item,
                               .name = names.item};
    bool ok = check_file(&file, set, NULL, fault) && read_all(&file, set, values, fault);
    h5_strings_free(&names);
    return ok;
}

bool weights_read_h5(struct parameter_set *set, struct h5_reader *reader, const char *group,
                     struct fault *fault)
{
    return read_group(set, NULL, reader, group, fault);
}

bool weights_read_values_h5(const struct parameter_set *set, float *const *values, struct h5_reader *reader,
                            const char *group, struct fault *fault)
{
    struct parameter_set borrowed = *set; // the same parameters; nothing of them is changed
    return read_group(&borrowed, values, reader, group, fault);
}

// ---- published folders

static bool is_known(const struct parameter_set *set, const struct weight_names *names, const char *name)
{
    int part;
    return parameter_find(set, name, &part) || is_listed(name, names->ignored);
}

/* The network's name of a stored one; the caller frees it. */
static char *network_name(const struct parameter_set *set, const struct weight_names *names,
                          const char *stored)
{
    char *name = check_strdup(stored);
    for (const char *const(*pair)[2] = names->renamed; pair && (*pair)[0]; pair++) {
        char *found = strstr(name, (*pair)[0]);
        if (!found) continue;
        char *renamed =
            check_format("%.*s%s%s", (int)(found - name), name, (*pair)[1], found + strlen((*pair)[0]));
        free(name);
        name = renamed;
    }
    if (!names->optional_prefix || is_known(set, names, name)) return name;
    char *prefixed = check_format("%s%s", names->optional_prefix, name);
    bool known = is_known(set, names, prefixed);
    free(known ? name : prefixed);
    return known ? prefixed : name;
}

static const struct weight_names same_names = {0};

/* Free with forget_published. */
static struct weight_file published(const struct parameter_set *set, const struct safetensors *safetensors,
                                    const struct weight_names *names)
{
    int count = safetensors_count(safetensors);
    const char **stored = check_calloc((size_t)count + 1, sizeof *stored);
    char **name = check_calloc((size_t)count + 1, sizeof *name);
    for (int i = 0; i < count; i++) {
        stored[i] = safetensors_info(safetensors, i)->name;
        name[i] = network_name(set, names, stored[i]);
    }
    return (struct weight_file){.path = safetensors_path(safetensors),
                                .safetensors = safetensors,
                                .count = count,
                                .stored = stored,
                                .name = name};
}

static void forget_published(struct weight_file *file)
{
    for (int i = 0; i < file->count; i++) free(file->name[i]);
    free((void *)file->name);
    free((void *)file->stored);
}

static bool load(struct parameter_set *set, const struct safetensors *safetensors,
                 const struct weight_names *names, bool trainable, struct fault *fault)
{
    struct weight_file file = published(set, safetensors, names);
    bool ok = check_file(&file, set, names->ignored, fault);
    if (ok) {
        parameter_set_allocate(set, trainable);
        ok = read_all(&file, set, NULL, fault);
    }
    forget_published(&file);
    return ok;
}

bool weights_load_folder(struct parameter_set *set, const char *folder, const char *stem,
                         const struct weight_names *names, bool trainable, struct fault *fault)
{
    struct safetensors *file;
    if (!safetensors_open_folder(folder, stem, &file, fault)) return false;
    bool ok = load(set, file, names ? names : &same_names, trainable, fault);
    safetensors_close(file);
    return ok;
}

bool weights_check_safetensors(const struct parameter_set *set, const struct safetensors *safetensors,
                               const struct weight_names *names, struct fault *fault)
{
    if (!names) names = &same_names;
    struct weight_file file = published(set, safetensors, names);
    bool ok = check_file(&file, set, names->ignored, fault);
    forget_published(&file);
    return ok;
}

// ---- writing

static bool write_part(const struct parameter *parameter, int part, const float *values,
                       struct h5_writer *writer, const char *group, bool half, struct fault *fault)
{
    const char *name = parameter->part[part].name;
    char path[NAME_SIZE];
    CHECK(dataset_path(path, group, name), "%s/%s: the name is too long", group, name);
    int64_t shape[TENSOR_MAX_RANK];
    int rank = weights_file_shape(parameter, part, shape);
    return half ? h5_write_half(writer, path, rank, shape, values, fault)
                : h5_write_float(writer, path, rank, shape, values, fault);
}

static void identify_part(const struct parameter *parameter, int part, const float *values,
                          struct sha256 *hash)
{
    const char *name = parameter->part[part].name;
    int64_t shape[TENSOR_MAX_RANK];
    int rank = weights_file_shape(parameter, part, shape);
    sha256_add(hash, name, strlen(name) + 1);
    sha256_add(hash, shape, (size_t)rank * sizeof *shape);
    sha256_add(hash, values, (size_t)part_elements(parameter, part) * sizeof *values);
}

static bool copy_all(const struct weight_file *file, const struct parameter_set *set,
                     struct h5_writer *writer, const char *group, bool half, struct sha256 *hash,
                     struct fault *fault)
{
    float *host = parameter_buffer(set);
    bool ok = true;
    for (int i = 0; ok && i < set->count; i++)
        for (int part = 0; ok && part < set->items[i]->part_count; part++) {
            ok = weight_read(file, set->items[i], part, host, fault) &&
                 write_part(set->items[i], part, host, writer, group, half, fault);
            if (ok) identify_part(set->items[i], part, host, hash);
        }
    free(host);
    return ok;
}

bool weights_copy_safetensors(const struct parameter_set *set, const struct safetensors *safetensors,
                              const struct weight_names *names, struct h5_writer *writer, const char *group,
                              bool half, struct sha256 *hash, struct fault *fault)
{
    if (!names) names = &same_names;
    struct weight_file file = published(set, safetensors, names);
    bool ok = check_file(&file, set, names->ignored, fault) &&
              copy_all(&file, set, writer, group, half, hash, fault);
    forget_published(&file);
    return ok;
}

void weights_identify(const struct parameter_set *set, struct sha256 *hash)
{
    float *host = parameter_buffer(set);
    for (int i = 0; i < set->count; i++)
        for (int part = 0; part < set->items[i]->part_count; part++) {
            parameter_part_download(set, set->items[i], part, host);
            identify_part(set->items[i], part, host, hash);
        }
    free(host);
}

bool weights_write_h5(const struct parameter_set *set, float *const *values, struct h5_writer *writer,
                      const char *group, bool half, struct fault *fault)
{
    float *host = parameter_buffer(set);
    bool ok = true;
    for (int i = 0; ok && i < set->count; i++) {
        const struct parameter *parameter = set->items[i];
        for (int part = 0; ok && part < parameter->part_count; part++) {
            if (values)
                set->backend->ops->download(set->backend, host, part_place(parameter, part, values[i]),
                                            (size_t)part_elements(parameter, part) * sizeof *host);
            else
                parameter_part_download(set, parameter, part, host);
            ok = write_part(parameter, part, host, writer, group, half, fault);
        }
    }
    free(host);
    return ok;
}

static int count_parts(const struct parameter_set *set)
{
    int parts = 0;
    for (int i = 0; i < set->count; i++) parts += set->items[i]->part_count;
    return parts;
}

/* All parts one after the other. */
static bool append_parts(const struct parameter_set *set, struct safetensors_writer *writer,
                         struct fault *fault)
{
    float *host = parameter_buffer(set);
    bool ok = true;
    for (int i = 0; ok && i < set->count; i++)
        for (int part = 0; ok && part < set->items[i]->part_count; part++) {
            parameter_part_download(set, set->items[i], part, host);
            ok = safetensors_append_float(writer, host, fault);
        }
    free(host);
    return ok;
}

bool weights_write_safetensors(const struct parameter_set *set, const char *path, bool half,
                               struct fault *fault)
{
    int parts = 0;
    struct safetensors_plan *plan = check_calloc((size_t)count_parts(set), sizeof *plan);
    for (int i = 0; i < set->count; i++)
        for (int part = 0; part < set->items[i]->part_count; part++, parts++) {
            plan[parts].name = set->items[i]->part[part].name;
            plan[parts].rank = weights_file_shape(set->items[i], part, plan[parts].shape);
        }
    struct safetensors_writer *writer;
    bool ok = safetensors_create(path, half ? SAFETENSORS_F16 : SAFETENSORS_F32, parts, plan, &writer, fault);
    free(plan);
    if (!ok) return false;
    if (append_parts(set, writer, fault)) return safetensors_finish(writer, fault);
    safetensors_abandon(writer);
    return false;
}
