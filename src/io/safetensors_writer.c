#include "io/safetensors_writer.h"

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/half.h"
#include "io/json_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 8 }; // of the data in the file: the header ends with blanks

static const struct {
    const char *name;
    int64_t bytes; // of one element
} types[] = {[SAFETENSORS_F16] = {"F16", 2}, [SAFETENSORS_F32] = {"F32", 4}, [SAFETENSORS_F64] = {"F64", 8}};

struct safetensors_writer {
    struct atomic_file *file; // owned
    enum safetensors_type type;
    int count, next;   // tensors, and the one whose values come next
    int64_t *elements; // [count] owned
    char **name;       // [count] owned, as is each of them
};

static int64_t elements_of(const struct safetensors_plan *plan)
{
    int64_t elements = 1;
    for (int d = 0; d < plan->rank; d++) elements *= plan->shape[d];
    return elements;
}

/* The caller frees it. */
static char *header_text(enum safetensors_type type, int count, const struct safetensors_plan *plan)
{
    struct json_object *header = json_object_new(), *metadata = json_object_new();
    json_set_object(header, "__metadata__", metadata);
    json_set_text(metadata, "format", "pt"); // what PyTorch's readers ask for
    int64_t offsets[2] = {0, 0};
    for (int i = 0; i < count; i++) {
        struct json_object *tensor = json_object_new();
        json_set_object(header, plan[i].name, tensor);
        offsets[0] = offsets[1];
        offsets[1] += elements_of(&plan[i]) * types[type].bytes;
        json_set_text(tensor, "dtype", types[type].name);
        json_set_int64s(tensor, "shape", plan[i].rank, plan[i].shape);
        json_set_int64s(tensor, "data_offsets", 2, offsets);
    }
    char *text = json_object_text(header, false);
    json_object_free(header);
    return text;
}

static bool append(struct safetensors_writer *writer, const void *bytes, int64_t count, struct fault *fault)
{
    return write_all(atomic_file_descriptor(writer->file), bytes, (size_t)count) ||
           fault_raise(fault, EXIT_CODE_OUTPUT, "%s: cannot write: %s", atomic_file_path(writer->file),
                       strerror(errno));
}

/* The length of the header, little-endian as memory is, and the header. */
static bool write_header(struct safetensors_writer *writer, const char *text, struct fault *fault)
{
    uint64_t length = (strlen(text) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *padded = check_format("%-*s", (int)length, text);
    bool ok = append(writer, &length, sizeof length, fault) && append(writer, padded, (int64_t)length, fault);
    free(padded);
    return ok;
}

static void writer_free(struct safetensors_writer *writer)
{
    for (int i = 0; i < writer->count; i++) free(writer->name[i]);
    free(writer->name);
    free(writer->elements);
    free(writer);
}

bool safetensors_create(const char *path, enum safetensors_type type, int count,
                        const struct safetensors_plan *plan, struct safetensors_writer **writer,
                        struct fault *fault)
{
    *writer = NULL;
    struct atomic_file *file;
    if (!atomic_file_create(path, &file, fault)) return false;
    struct safetensors_writer *made = check_malloc(sizeof *made);
    *made = (struct safetensors_writer){.file = file, .type = type, .count = count};
    made->elements = check_calloc((size_t)count, sizeof *made->elements);
    made->name = check_calloc((size_t)count, sizeof *made->name);
    for (int i = 0; i < count; i++) {
        made->elements[i] = elements_of(&plan[i]);
        made->name[i] = check_strdup(plan[i].name);
    }
    char *header = header_text(type, count, plan);
    bool ok = write_header(made, header, fault);
    free(header);
    if (ok)
        *writer = made;
    else
        safetensors_abandon(made);
    return ok;
}

bool safetensors_append_float(struct safetensors_writer *writer, const float *values, struct fault *fault)
{
    CHECK(writer->next < writer->count && writer->type != SAFETENSORS_F64, "tensor %d of %d", writer->next,
          writer->count);
    int64_t elements = writer->elements[writer->next];
    const char *name = writer->name[writer->next++];
    if (writer->type == SAFETENSORS_F32)
        return append(writer, values, elements * (int64_t)sizeof *values, fault);
    uint16_t *half = check_malloc((size_t)elements * sizeof *half);
    int64_t bad = half_from_float(values, elements, half);
    bool ok =
        bad < 0 ? append(writer, half, elements * (int64_t)sizeof *half, fault)
                : fault_raise(fault, EXIT_CODE_OUTPUT, "%s: %s: element %lld is %g, which a half cannot hold",
                              atomic_file_path(writer->file), name, (long long)bad, values[bad]);
    free(half);
    return ok;
}

bool safetensors_append_double(struct safetensors_writer *writer, const double *values, struct fault *fault)
{
    CHECK(writer->next < writer->count && writer->type == SAFETENSORS_F64, "tensor %d of %d", writer->next,
          writer->count);
    return append(writer, values, writer->elements[writer->next++] * (int64_t)sizeof *values, fault);
}

bool safetensors_finish(struct safetensors_writer *writer, struct fault *fault)
{
    CHECK(writer->next == writer->count, "%d of %d tensors are written", writer->next, writer->count);
    bool ok = atomic_file_commit(writer->file, fault);
    writer_free(writer);
    return ok;
}

void safetensors_abandon(struct safetensors_writer *writer)
{
    if (!writer) return;
    atomic_file_abandon(writer->file);
    writer_free(writer);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "safetensors files are little-endian, as memory is");
